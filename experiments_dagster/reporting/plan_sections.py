"""The sections of an experiment report about plan, health, method and lineage: no effects."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from experiments_dagster.config.experiment import CapQuantile, CapValue
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment, canonical_hash
from experiments_dagster.looks.records import Check, Look
from experiments_dagster.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Command,
    Facts,
    Paragraph,
    Section,
    Table,
    exact,
    phrase,
)
from experiments_dagster.reporting.numbers import (
    DASH,
    alpha,
    count,
    day,
    declared,
    e_value,
    level,
    moment,
    number,
    plural,
    points,
    share,
)
from experiments_dagster.reporting.sentences import design_words, direction_words
from experiments_dagster.reporting.tables import check_state

METHODS = {
    "welch": "difference of means, Welch",
    "lin": "Lin regression with treatment-covariate interactions (CUPED)",
    "ratio": "difference of ratios, delta method",
    "ratio_adjusted": "difference of ratios, covariate-adjusted",
    "cuped_pooled_theta": "CUPED with one pooled coefficient",
    "post_stratified": "differences within strata, weighted by their shares",
    "quantile": "difference of quantiles",
    "quantile_adjusted": "difference of quantiles, covariate-adjusted",
    "cluster_means": "difference of means, clusters of units",
    "cluster_ols": "regression, clusters of units",
    "cluster_ratio": "difference of ratios, clusters of units",
    "pooled_theta": "CUPED with one pooled coefficient",
    "plain": "difference without covariates",
    "cuped": "covariate-adjusted difference",
}
MAX_HASH = 12


def tested(look: Look, experiment: Experiment) -> list[Block]:
    """Hypothesis, arms, dates, metric and plan."""
    zone = ZoneInfo(experiment.timezone)
    start, end = experiment.starts_at.astimezone(zone), experiment.ends_at.astimezone(zone)
    hypothesis = experiment.spec.hypothesis
    facts: list[tuple[str, Cell]] = [("Hypothesis", hypothesis.primary)]
    facts += [("Secondary hypothesis", words) for words in hypothesis.secondary]
    facts += [
        ("Exposures", (f"from {day(start.date())} to {day(end.date())} (not included), "
                      f"{experiment.timezone}")),
        ("Randomised unit", experiment.unit),
        ("Primary metric", _metric_words(experiment)),
        *_further_facts(experiment),
        ("Looks", design_words(experiment)),
        ("Plan hash", look.plan_hash),
    ]  # fmt: skip
    if experiment.minimum_effect is not None:
        facts.insert(-2, ("Minimum effect that matters", declared(experiment.minimum_effect)))
    rows = tuple(
        (arm, "control" if arm == experiment.control else "treatment", share(planned))
        for arm, planned in experiment.variants.items()
    )
    return [
        Facts(rows=tuple(facts)),
        Table(header=("arm", "role", "planned share"), rows=rows, align="llr"),
    ]


def _further_facts(experiment: Experiment) -> list[tuple[str, Cell]]:
    """What a plan may have beside its primary metric; nothing where it has not."""
    names = {
        "Further success metrics": [metric.name for metric in experiment.success],
        "Exploratory metrics": [metric.name for metric in experiment.secondary],
        "Segments (exploratory)": list(experiment.segments),
        "Randomised together": [experiment.plan.cluster] if experiment.plan.cluster else [],
    }
    return [(label, ", ".join(listed)) for label, listed in names.items() if listed]


def _metric_words(experiment: Experiment) -> str:
    metric = experiment.primary
    if metric.is_summary:
        return f"{metric.name} (moments from the source); {direction_words(experiment)}"
    window = f"days {metric.start_day} to {metric.end_day} after first exposure"
    unit = f", {metric.display_unit}" if metric.display_unit else ""
    return f"{metric.name} ({metric.kind}{unit}), {window}; {direction_words(experiment)}"


def health(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    """Sample ratio, units in two arms, pre-period balance, immature units."""
    look = looks[-1]
    failed = [check for check in look.checks if not check.passed]
    blocking = [check for check in failed if check.blocks]
    if blocking:
        words = f"{plural(len(blocking), 'check')} failed and made the comparison invalid."
        blocks: list[Block] = [Paragraph(words=(words,), tone="warning")]
    elif failed:
        words = f"{plural(len(failed), 'check')} warned; none makes the comparison invalid."
        blocks = [Paragraph(words=(words,), tone="note")]
    else:
        words = f"{plural(len(look.checks), 'check')} passed, none failed."
        if not look.checks:
            words = "No check could run."
        blocks = [Paragraph(words=(words,))]
    blocks.append(_sample_ratio(looks, experiment))
    rows = tuple(_check_row(check) for check in look.checks)
    if rows:
        header = ("check", "result", "what was found")
        blocks.append(Table(header=header, rows=rows, align="nnw"))
    blocks.append(_maturity(look, experiment))
    return blocks


def _check_row(check: Check) -> tuple[Cell, ...]:
    return (
        check.name,
        check_state(check),
        phrase(
            "{}<small>value {}, limit {}</small>",
            check.message,
            exact(check.value, number),
            exact(check.threshold, alpha),
        ),
    )


def _sample_ratio(looks: Sequence[Look], experiment: Experiment) -> Table:
    look = looks[-1]
    total = sum(look.n_exposed.values())
    rows: list[tuple[Cell, ...]] = []
    for arm, planned in experiment.variants.items():
        observed = look.n_exposed.get(arm, 0)
        gap = points(observed / total - planned) if total else DASH
        rows.append((arm, count(observed), number(planned * total), gap))
    largest = max(found.log_e_sample_ratio for found in looks)
    caption = (
        f"Sample ratio. Largest e-value against the planned shares so far: {e_value(largest)}; "
        "100 or more blocks."
    )
    header = ("arm", "observed units", "expected units", "gap in share")
    return Table(header=header, rows=tuple(rows), align="lrrr", caption=caption)


def _maturity(look: Look, experiment: Experiment) -> Facts:
    exposed = sum(look.n_exposed.values())
    rows: list[tuple[str, Cell]] = [
        ("Units seen in two arms", f"{count(sum(look.n_multi_arm.values()))}, left out and counted")
    ]
    alike: dict[int, list[str]] = {}
    for metric in experiment.metrics:
        if metric.name in look.n_mature:
            alike.setdefault(look.n_mature[metric.name], []).append(metric.name)
    for mature, names in alike.items():
        waiting = f"{count(mature)} closed, {count(max(exposed - mature, 0))} still open"
        rows.append(("Windows of units", f"{waiting} ({', '.join(names)})"))
    return Facts(rows=tuple(rows))


def business(experiment: Experiment) -> list[Section]:
    """Declared business numbers, as declared; nothing is derived from them."""
    declared_numbers = experiment.spec.business
    if declared_numbers is None:
        return []
    labels = {
        "value_per_unit": "Value per unit",
        "cost": "Cost",
        "eligible_units_per_year": "Eligible units per year",
    }
    rows = tuple(
        (label, exact(getattr(declared_numbers, name), _plain, "not declared"))
        for name, label in labels.items()
    )
    words = "As declared in the experiment's file; no number is derived from them."
    blocks = (Facts(rows=rows), Paragraph(words=(words,), tone="muted"))
    return [Section(name="business", title="Declared business numbers", blocks=blocks)]


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def method_card(look: Look, experiment: Experiment) -> list[Block]:
    """The methods and variance formulas of the rows, and what they assume."""
    formulas: dict[tuple[str, str], dict[str, str]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for effect in look.effects:
        key = (effect.method, effect.inference)
        if effect.variance_formula:
            label = "lift" if effect.is_relative else "difference"
            formulas.setdefault(key, {})[label] = effect.variance_formula
        names.setdefault(key, set()).add(effect.metric)
    rows = tuple(
        (
            METHODS.get(method, method),
            method,
            ", ".join(f"{label}: {name}" for label, name in formulas.get(key, {}).items()) or DASH,
            inference.replace("_", " "),
            ", ".join(sorted(names[key])),
        )
        for key in sorted(names)
        for method, inference in [key]
    )
    header = ("method", "name in the rows", "variance formula", "inference", "metrics")
    table = Table(header=header, rows=rows, align="lnlnl")
    return [table, Bullets(items=tuple(_assumptions(experiment)))]


def _assumptions(experiment: Experiment) -> list[Cell]:
    metric = experiment.primary
    rows: list[Cell] = [
        (
            f"No interference: the arm of one {experiment.unit} does not change the outcome of "
            "another. The data cannot show this in general; it is assumed."
        ),
        (
            f"The unit of analysis is the unit of randomisation ({experiment.unit}); the first "
            "exposure counts and units seen in two arms are left out."
        ),
        _cohort_words(metric),
    ]
    if experiment.plan.estimator.kind == "post_stratified":
        strata = ", ".join(experiment.stratify_by)
        rows.append(f"The strata ({strata}) are as of the first exposure.")
    elif experiment.adjusts:
        rows.append(
            "The covariates are the same measures in the "
            f"{experiment.plan.estimator.covariate_days} days before exposure, which the arm "
            "cannot have changed."
        )
    if experiment.is_group_sequential:
        rows.append(
            f"Looks follow the plan ({design_words(experiment)}); the error rate over all looks "
            f"is {alpha(experiment.alpha_per_hypothesis)} per {_hypothesis(experiment)}, two-sided."
        )
    rows.append(
        f"The {level(1 - experiment.alpha_per_hypothesis)} confidence sequence is asymptotic and "
        "starts when the arms are large enough."
    )
    split = []
    if len(experiment.treatments) > 1:
        split.append(plural(len(experiment.treatments), "treatment arm"))
    if experiment.success:
        split.append(plural(len(experiment.success_metrics), "success metric"))
    if split:
        shares = " and ".join(split)
        rows.append(f"Alpha {alpha(experiment.plan.alpha)} is split over {shares} (Bonferroni).")
    cap = experiment.plan.cap
    if isinstance(cap, CapValue):
        rows.append(f"Values per unit above {number(cap.value)} count as {number(cap.value)}.")
    if isinstance(cap, CapQuantile):
        quantile = share(cap.quantile)
        rows.append(f"Values per unit are capped at the {quantile} quantile of the pre-period.")
    return rows


def _hypothesis(experiment: Experiment) -> str:
    return "success metric and arm" if experiment.success else "arm"


def _cohort_words(metric: Metric) -> str:
    if metric.is_open_ended:
        return (
            "Open-ended: a unit counts at once and its value may still grow; the joint law of the "
            "looks takes that into account only as far as the plan says."
        )
    if metric.is_summary:
        return "Complete cohorts: the source sends a unit's moments when its value is final."
    return (
        f"Complete cohorts: a unit counts when all {metric.end_day} days of its window are "
        "observed; later ones are still open."
    )


def lineage(look: Look, experiment: Experiment) -> list[Block]:
    """What the numbers were made from, and how to make them again."""
    facts: list[tuple[str, Cell]] = [
        ("Look", look.look_id),
        ("As of", f"{moment(look.as_of, experiment.timezone)} {experiment.timezone}"),
        (
            "Data complete up to",
            f"{moment(look.horizon, experiment.timezone)} {experiment.timezone}",
        ),
        ("Cut-off", f"batch {look.cutoff}"),
        ("Plan hash", look.plan_hash),
        ("Code version", look.code_version),
        ("Input files", f"{count(len(look.inputs))}, hash over all {canonical_hash(look.inputs)}"),
    ]
    facts += [(f"Hash of {name}", digest[:MAX_HASH]) for name, digest in look.frames.items()]
    blocks: list[Block] = [Facts(rows=tuple(facts))]
    if look.look is None:
        words = "A peek is not recorded; it cannot be reproduced by number."
        blocks.append(Paragraph(words=(words,), tone="muted"))
    else:
        blocks.append(Command(words=f"experiments reproduce {look.look_id}"))
    return blocks
