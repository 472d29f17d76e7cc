"""The sections of an experiment report that hold effects: primary, sequential, guardrails, others."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Boundary, Effect, Look
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Cell,
    Facts,
    Heading,
    Paragraph,
    Section,
    Table,
    exact,
    exact_interval,
    figure,
    phrase,
)
from experiments_dagster.reporting.charts import boundary_chart, look_trajectory
from experiments_dagster.reporting.numbers import (
    DASH,
    Format,
    alpha,
    count,
    declared,
    level,
    lift,
    missing,
    number,
    p_value,
    points,
    share,
    signed,
)
from experiments_dagster.reporting.numbers import day
from experiments_dagster.reporting.sentences import boundary_note, sequential_limits, truth_sentence
from experiments_dagster.reporting.trajectory import (
    LookPoint,
    anytime_of,
    deciding_effect,
    first_crossing,
    look_points,
    planned_count,
)

NAIVE = "naive: valid only if this were the only look"


def effect_sections(
    looks: Sequence[Look], experiment: Experiment, *, hidden_because: str
) -> list[Section]:
    """All sections with effects, folded away under a reason where there is one."""
    parts = [
        ("primary", "Primary result", _primary(looks[-1], experiment)),
        ("sequential", "Looks and alpha ledger", _sequential(looks, experiment)),
        ("guardrails", "Guardrails", _guardrails(looks, experiment)),
        ("secondary", "Secondary metrics", _secondary(looks[-1], experiment)),
    ]
    return [
        Section(name=name, title=title, blocks=tuple(blocks), hidden_because=hidden_because)
        for name, title, blocks in parts
        if blocks
    ]


def _primary(look: Look, experiment: Experiment) -> list[Block]:
    blocks: list[Block] = []
    for arm in experiment.treatments:
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{arm} against {experiment.control}"))
        blocks += [_primary_table(look, experiment, arm), *_primary_notes(look, experiment, arm)]
    return blocks


def _primary_table(look: Look, experiment: Experiment, arm: str) -> Table:
    metric = experiment.primary
    name, limits = sequential_limits(look, experiment, arm)
    effect = deciding_effect(look, experiment, metric.name, arm, "relative_difference")
    kind = "adjusted" if experiment.adjusts else "unadjusted"
    reason = effect.reason if effect else "IMMATURE"
    lift_cell = exact(effect.estimate if effect else None, lift, reason)
    rows: list[tuple[Cell, ...]] = [
        (f"Lift, {kind}", lift_cell, phrase("{}, {}", limits, name), DASH, "decides")
    ]
    sequence = anytime_of(look, arm)
    if sequence is not None and not name.endswith("sequence"):
        rows.append(
            (
                f"Lift, {kind}",
                lift_cell,
                phrase(
                    "{}, {} confidence sequence",
                    exact_interval(sequence.relative_low, sequence.relative_high, lift),
                    level(1 - experiment.alpha_per_arm),
                ),
                exact(sequence.p_value, p_value),
                "valid at any time",
            )
        )
    for estimand, label in (("relative_difference", "Lift"), ("difference", "Difference")):
        for adjusted in (True, False) if experiment.adjusts else (False,):
            found = look.effect(metric.name, arm, estimand, adjusted=adjusted)
            if found is not None:
                shown = lift if label == "Lift" else _difference(metric)
                rows.append(_naive_row(found, label, shown))
    unit = f" Differences in {metric.display_unit}." if metric.display_unit else ""
    return Table(
        header=(metric.name, "estimate", "interval", "p", "how to read it"),
        rows=tuple(rows),
        align="lrrrl",
        strong=frozenset({0}),
        caption=f"{_means(effect, metric)}{unit}",
    )


def _naive_row(effect: Effect, label: str, shown: Format) -> tuple[Cell, ...]:
    kind = "adjusted" if effect.is_adjusted else "unadjusted"
    limits = exact_interval(effect.ci_low, effect.ci_high, shown, effect.reason)
    if effect.confidence_level is not None and effect.ci_low is not None:
        limits = phrase("{}, {}", limits, level(effect.confidence_level))
    return (
        f"{label}, {kind}",
        exact(effect.estimate, shown, effect.reason),
        limits if effect.status == "ok" else DASH,
        exact(effect.p_value, p_value),
        NAIVE,
    )


def _means(effect: Effect | None, metric: Metric) -> str:
    if effect is None or effect.control_mean is None or effect.treatment_mean is None:
        return ""
    shown = _level(metric)
    words = (
        f"Observed {'ratio' if metric.is_ratio else 'mean'}: {effect.control} "
        f"{shown(effect.control_mean)}, {effect.arm} {shown(effect.treatment_mean)}."
    )
    if effect.n_control is None or effect.n_treatment is None:
        return words
    return f"{words} Units: {count(effect.n_control)} and {count(effect.n_treatment)}."


def _primary_notes(look: Look, experiment: Experiment, arm: str) -> list[Block]:
    words: list[Cell] = []
    for row in look.adjustments:
        if (row.metric, row.arm) == (experiment.primary.name, arm):
            words.append(
                phrase(
                    "CUPED with {} days before exposure {} the variance by {}; the correlation "
                    "with the pre-period is {}.",
                    experiment.plan.estimator.covariate_days,
                    "reduced" if row.variance_reduction >= 0 else "raised",
                    exact(abs(row.variance_reduction), share),
                    exact(row.correlation, number, "the pre-period has no variance"),
                )
            )
            if row.dropped_covariates:
                words.append(phrase("Dropped covariates: {}.", ", ".join(row.dropped_covariates)))
    truth = truth_sentence(look, experiment, arm)
    if truth is not None:
        words.append(truth)
    blocks: list[Block] = [Paragraph(words=tuple(words))] if words else []
    boundary = look.boundary(experiment.primary.name, arm)
    note = boundary_note(boundary) if boundary else None
    if note:
        blocks.append(Paragraph(words=(note,), tone="note"))
    sequence = anytime_of(look, arm)
    if sequence is not None and sequence.flag:
        suspect = "The confidence sequences of the looks do not overlap: the effect or the data "
        blocks.append(Paragraph(words=(suspect + "changed over time.",), tone="warning"))
    return blocks


def _sequential(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    blocks: list[Block] = []
    for arm in experiment.treatments:
        caption = (
            f"{experiment.primary.name}, {arm}: lift at each look. Cut intervals carry an arrow."
        )
        blocks.append(
            figure(
                look_trajectory(looks, experiment, arm, width=WIDE),
                look_trajectory(looks, experiment, arm, width=PHONE),
                caption,
            )
        )
        if experiment.is_group_sequential:
            caption = (
                f"{arm}: test statistic on the clock of information; positive is the desired "
                "direction. Below it the alpha spent so far."
            )
            blocks.append(
                figure(
                    boundary_chart(looks, experiment, arm, width=WIDE),
                    boundary_chart(looks, experiment, arm, width=PHONE),
                    caption,
                )
            )
        blocks.append(_ledger(looks, experiment, arm))
    return blocks


def _ledger(looks: Sequence[Look], experiment: Experiment, arm: str) -> Block:
    rows = tuple(_ledger_row(point) for point in look_points(looks, experiment, arm))
    if not experiment.is_group_sequential:
        words = "The plan spends no alpha by look: the confidence sequence holds at all times."
        return Paragraph(words=(words,), tone="muted")
    spent = [row for look in looks if (row := look.boundary(experiment.primary.name, arm))]
    caption: Cell = f"Alpha ledger of {arm}: nothing is spent yet."
    if spent:
        caption = phrase(
            "Alpha ledger of {}: {} of {} spent, {} left.",
            arm,
            exact(spent[-1].alpha_spent, alpha),
            exact(spent[-1].alpha, alpha),
            alpha(max(spent[-1].alpha - spent[-1].alpha_spent, 0.0)),
        )
    header = ("look", "date", "information", "z", "critical value", "alpha spent", "crossed")
    return Table(header=header, rows=rows, align="llrrrrl", caption=caption)


def _ledger_row(point: LookPoint) -> tuple[Cell, ...]:
    row, start = point.boundary, (point.name, day(point.date))
    if row is None:
        peek = "a peek spends nothing" if point.name == "peek" else point.reason
        return (*start, DASH, DASH, missing(peek), DASH, DASH)
    return (
        *start,
        exact(row.information_fraction, share),
        exact(row.statistic, signed),
        exact(row.critical_value, number, row.no_stop_reason),
        exact(row.alpha_spent, alpha),
        {"desired": "yes, better", "undesired": "yes, worse", "none": "no"}[row.crossed],
    )


def _guardrails(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    if not experiment.guardrails:
        return []
    rows = [
        _guardrail_row(looks, experiment, arm, place)
        for arm in experiment.treatments
        for place in range(len(experiment.guardrails))
    ]
    caption = (
        f"One-sided tests against the margin at alpha {alpha(experiment.plan.alpha)} each, spent "
        "over the looks; the interval is the repeated one of this look."
    )
    header = ("guardrail", "arm", "worst allowed", "change", "repeated interval", "z", "state")
    return [Table(header=header, rows=tuple(rows), align="llrrrrl", caption=caption)]


def _guardrail_row(
    looks: Sequence[Look], experiment: Experiment, arm: str, place: int
) -> tuple[Cell, ...]:
    guardrail, metric = experiment.guardrails[place]
    shown = _difference(metric) if guardrail.absolute else lift
    sign = -1 if metric.direction == "increase" else 1
    worst = sign * guardrail.margin
    estimand = "difference" if guardrail.absolute else "relative_difference"
    effect = deciding_effect(looks[-1], experiment, metric.name, arm, estimand)  # type: ignore[arg-type]
    row = looks[-1].boundary(metric.name, arm)
    limits: Cell = missing("not estimable")
    statistic: Cell = DASH
    if row is not None:
        limits = exact_interval(row.limit_low, row.limit_high, shown, row.no_stop_reason)
        critical = f" (needs {number(row.critical_value)})" if row.critical_value else ""
        statistic = phrase("{}{}", exact(row.statistic, signed), critical)
    return (
        metric.name,
        arm,
        shown(worst) if guardrail.absolute else declared(worst),
        exact(effect.estimate if effect else None, shown, effect.reason if effect else "IMMATURE"),
        limits,
        statistic,
        _guardrail_state(looks, metric.name, arm, row),
    )


def _guardrail_state(looks: Sequence[Look], metric: str, arm: str, row: Boundary | None) -> str:
    safe = first_crossing(looks, metric, arm, "desired")
    if safe is not None:
        return f"within its margin (shown at look {safe.look})"
    worse = first_crossing(looks, metric, arm, "undesired")
    if worse is not None:
        return f"worse than its margin (shown at look {worse.look})"
    return "open" if row is not None else "not estimable"


def _secondary(look: Look, experiment: Experiment) -> list[Block]:
    rows: list[tuple[Cell, ...]] = []
    for metric in experiment.secondary:
        for arm in experiment.treatments:
            effect = deciding_effect(look, experiment, metric.name, arm, "relative_difference")
            if effect is None:
                rows.append((metric.name, arm, DASH, DASH, missing("IMMATURE"), DASH, DASH))
                continue
            shown = _level(metric)
            rows.append(
                (
                    metric.name,
                    arm,
                    exact(effect.control_mean, shown),
                    exact(effect.treatment_mean, shown),
                    exact(effect.estimate, lift, effect.reason),
                    exact_interval(effect.ci_low, effect.ci_high, lift, effect.reason)
                    if effect.status == "ok"
                    else DASH,
                    exact(effect.p_value, p_value),
                )
            )
    if not rows:
        return []
    words = (
        "For information only: fixed-horizon, unadjusted for multiplicity. No decision rests on "
        "these rows."
    )
    header = ("metric", "arm", "control", "treatment", "lift", "naive interval", "naive p")
    naive = f"Intervals at {level(1 - experiment.plan.alpha)}; {NAIVE}."
    return [
        Paragraph(words=(words,), tone="muted"),
        Table(header=header, rows=tuple(rows), align="llrrrrr", caption=naive),
    ]


def information_facts(look: Look, experiment: Experiment) -> Facts:
    """What the plan aimed at and how much of it is there, for section power."""
    rows: list[tuple[str, Cell]] = [
        ("Planned effect (MDE)", f"{declared(experiment.plan.mde)} relative"),
        ("Power at that effect", share(experiment.plan.power)),
        ("Alpha", f"{alpha(experiment.plan.alpha)}, {alpha(experiment.alpha_per_arm)} per arm"),
    ]
    if look.frozen is None:
        rows.append(("Planned information", missing("IMMATURE")))
    else:
        baseline = exact(look.frozen.baseline, number)
        rows.append(("Baseline, frozen at the first estimable look", baseline))
        if look.frozen.cap is not None:
            rows.append(("Cap per unit, frozen", exact(look.frozen.cap, number)))
        for arm, planned in look.frozen.planned_information.items():
            row = look.boundary(experiment.primary.name, arm)
            observed = exact(row.information, number) if row else missing("no boundary here")
            reached = exact(row.information_fraction, share) if row else DASH
            value = phrase("{} of {} planned: {}", observed, exact(planned, number), reached)
            rows.append((f"Information (1 / variance), {arm}", value))
    planned_looks = planned_count(experiment)
    if planned_looks is not None:
        rows.append(("Looks", f"{look.planned_index} of {planned_looks} planned"))
    return Facts(rows=tuple(rows))


def _level(metric: Metric) -> Format:
    return share if metric.is_indicator else number


def _difference(metric: Metric) -> Format:
    return points if metric.is_indicator else signed
