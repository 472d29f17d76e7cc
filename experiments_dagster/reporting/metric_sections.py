"""The sections of an experiment report about other metrics than the primary, and power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Boundary, Look
from experiments_dagster.reporting.blocks import (
    Block,
    Cell,
    Facts,
    Paragraph,
    Table,
    exact,
    exact_interval,
    phrase,
)
from experiments_dagster.reporting.numbers import (
    CORRECTIONS,
    DASH,
    Format,
    alpha,
    declared,
    level,
    lift,
    missing,
    number,
    p_value,
    plural,
    points,
    share,
    signed,
)
from experiments_dagster.reporting.trajectory import (
    Estimand,
    deciding_effect,
    first_crossing,
    fraction_of,
    harm_shown,
    last_boundary,
    planned_count,
    success_crossing,
)

NAIVE = "Naive: valid only if this were the only look"


def guardrails(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    """Every guardrail and arm against its margin, with the state over all looks."""
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
    shown = difference_format(metric) if guardrail.absolute else lift
    sign = -1 if metric.direction == "increase" else 1
    worst = sign * guardrail.margin
    estimand: Estimand = "difference" if guardrail.absolute else "relative_difference"
    effect = deciding_effect(looks[-1], experiment, metric.name, arm, estimand)
    row = looks[-1].boundary(metric.name, arm)
    limits: Cell = missing("no boundary at this look")
    statistic: Cell = DASH
    if row is not None:
        limits = exact_interval(row.limit_low, row.limit_high, shown, row.no_stop_reason)
        statistic = _against(row)
    return (
        metric.name,
        arm,
        shown(worst) if guardrail.absolute else declared(worst),
        exact(effect.estimate if effect else None, shown, effect.reason if effect else "IMMATURE"),
        limits,
        statistic,
        _guardrail_state(looks, metric.name, arm),
    )


def _against(row: Boundary) -> Cell:
    """The statistic beside the value that it must reach."""
    statistic = exact(row.statistic, signed)
    if row.critical_value is None:
        return statistic
    return phrase("{} (needs {})", statistic, exact(row.critical_value, number))


def _guardrail_state(looks: Sequence[Look], metric: str, arm: str) -> str:
    safe = first_crossing(looks, metric, arm, "desired")
    if safe is not None:
        return f"within its margin (shown at look {safe.look})"
    worse = first_crossing(looks, metric, arm, "undesired")
    if worse is not None:
        return f"worse than its margin (shown at look {worse.look})"
    return "open" if last_boundary(looks, metric, arm) is not None else "not estimable"


def successes(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    """All success metrics with their shares of alpha; one alone needs no such table."""
    if not experiment.success:
        return []
    several_arms = len(experiment.treatments) > 1
    rows = [
        _success_row(looks, experiment, metric, arm)
        for metric in experiment.success_metrics
        for arm in experiment.treatments
    ]
    sequential = "repeated" if experiment.is_group_sequential else "confidence sequence"
    statistic = "z" if experiment.is_group_sequential else "p at any time"
    header = ("metric", "arm", "share of alpha", "lift", f"{sequential} interval", statistic, "state")
    number_of = len(experiment.success_metrics) * len(experiment.treatments)
    caption = (
        f"Any one of these metrics may ship the treatment, so alpha {alpha(experiment.plan.alpha)} "
        f"is split equally over {number_of} hypotheses (metrics times arms, Bonferroni); intervals "
        f"at {level(1 - experiment.alpha_per_hypothesis)}. The first one is the primary metric."
    )
    shown = _without_arm(header, "llrrrrl", rows, keep=several_arms)
    return [Table(**shown, caption=caption, strong=frozenset(range(len(experiment.treatments))))]


def _success_row(
    looks: Sequence[Look], experiment: Experiment, metric: Metric, arm: str
) -> tuple[Cell, ...]:
    look = looks[-1]
    row, sequence = look.boundary(metric.name, arm), look.anytime_of(arm, metric.name)
    estimand: Estimand = "relative_difference"
    if row is not None and not row.is_relative:
        estimand = "difference"
    shown = lift if estimand == "relative_difference" else difference_format(metric)
    effect = deciding_effect(look, experiment, metric.name, arm, estimand)
    reason = effect.reason if effect else "IMMATURE"
    limits: Cell = missing(reason or "no boundary at this look")
    statistic: Cell = DASH
    if row is not None:
        limits = exact_interval(row.limit_low, row.limit_high, shown, row.no_stop_reason)
        statistic = _against(row)
    elif sequence is not None and not experiment.is_group_sequential:
        limits = exact_interval(sequence.relative_low, sequence.relative_high, lift, reason)
        statistic = exact(sequence.p_value, p_value)
    return (
        metric.name,
        arm,
        exact(experiment.alpha_per_hypothesis, alpha),
        exact(effect.estimate if effect else None, shown, reason),
        limits,
        statistic,
        _success_state(looks, experiment, metric, arm),
    )


def _success_state(
    looks: Sequence[Look], experiment: Experiment, metric: Metric, arm: str
) -> str:
    worse = success_crossing(looks, experiment, metric, arm, "undesired")
    if worse is not None:
        return f"worse (shown at {_when(worse)})"
    better = success_crossing(looks, experiment, metric, arm, "desired")
    if better is not None:
        return f"improved (shown at {_when(better)})"
    is_known = any(
        look.boundary(metric.name, arm) or look.anytime_of(arm, metric.name) for look in looks
    )
    return "open" if is_known else "not estimable"


def _when(look: Look) -> str:
    return "this peek" if look.look is None else f"look {look.look}"


def safety(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    """The monitor of deterioration: every success metric and guardrail against plain harm."""
    if not any(look.deterioration for look in looks):
        return []
    metrics = (*experiment.success_metrics, *(metric for _, metric in experiment.guardrails))
    rows = [
        _safety_row(looks, metric, arm) for metric in metrics for arm in experiment.treatments
    ]
    total = sum(row.alpha for row in looks[-1].deterioration)
    caption = (
        "One-sided confidence sequences against any harm, valid at every look and every peek. "
        "They have a level of their own"
        f"{f', {alpha(total)} in total' if len(looks[-1].deterioration) == len(rows) else ''}, "
        "and take nothing from the alpha of success. The statistic points towards harm; harm is "
        "shown where it reaches the critical value."
    )
    header = ("metric", "arm", "alpha", "statistic", "critical value", "state")
    shown = _without_arm(header, "llrrrl", rows, keep=len(experiment.treatments) > 1)
    harmed = frozenset(k for k, row in enumerate(rows) if str(row[-1]).startswith("harm"))
    return [Table(**shown, caption=caption, strong=harmed)]


def _safety_row(looks: Sequence[Look], metric: Metric, arm: str) -> tuple[Cell, ...]:
    row = next(
        (r for r in looks[-1].deterioration if (r.metric, r.arm) == (metric.name, arm)), None
    )
    harmful = harm_shown(looks, metric.name, arm)
    state = "not watched yet: too few units" if row is None else "no harm shown"
    if harmful is not None:
        state = f"harm shown at {_when(harmful)}"
    if row is None:
        return (metric.name, arm, DASH, DASH, DASH, state)
    return (
        metric.name,
        arm,
        exact(row.alpha, alpha),
        exact(row.statistic, signed),
        exact(row.critical_value, number),
        state,
    )


def _without_arm(
    header: tuple[str, ...], align: str, rows: Sequence[tuple[Cell, ...]], *, keep: bool
) -> dict[str, Any]:
    """The parts of a table, without its column of arms (the second) where there is one arm."""
    if keep:
        return {"header": header, "align": align, "rows": tuple(rows)}
    return {
        "header": (header[0], *header[2:]),
        "align": align[0] + align[2:],
        "rows": tuple((row[0], *row[2:]) for row in rows),
    }


def exploratory(look: Look, experiment: Experiment) -> list[Block]:
    """Secondary metrics, labelled as what they are: for information."""
    rows = [
        _exploratory_row(look, experiment, metric, arm)
        for metric in experiment.secondary
        for arm in experiment.treatments
    ]
    if not rows:
        return []
    methods = {row.correction for row in look.effects if row.role == "secondary"} - {None}
    words, note = "fixed-horizon, unadjusted for multiplicity", ""
    if methods:
        names = ", ".join(CORRECTIONS.get(name or "", name or "") for name in sorted(map(str, methods)))
        words = f"fixed-horizon, p corrected together ({names})"
        note = (
            f" p is that of the difference; corrected by {names} over {plural(len(rows), 'planned hypothesis', 'planned hypotheses')}."
        )
    kind = "adjusted" if experiment.adjusts else "unadjusted"
    header = ("metric", "arm", "control", "treatment", f"lift, {kind}", "naive interval", "naive p", "corrected p")
    align = "llrrrrrr"
    if not methods:
        header, align, rows = header[:-1], align[:-1], [row[:-1] for row in rows]
    shown = _without_arm(header, align, rows, keep=len(experiment.treatments) > 1)
    naive = f"Intervals at {level(1 - experiment.plan.alpha)}. {NAIVE}.{note}"
    return [
        Paragraph(words=(f"For information only: {words}. No decision rests on these rows.",), tone="muted"),
        Table(**shown, caption=naive),
    ]


def _exploratory_row(
    look: Look, experiment: Experiment, metric: Metric, arm: str
) -> tuple[Cell, ...]:
    effect = deciding_effect(look, experiment, metric.name, arm, "relative_difference")
    tested = deciding_effect(look, experiment, metric.name, arm, "difference")
    if effect is None:
        return (metric.name, arm, DASH, DASH, missing("IMMATURE"), DASH, DASH, DASH)
    shown = level_format(metric)
    limits = exact_interval(effect.ci_low, effect.ci_high, lift, effect.reason)
    means = tested or effect
    return (
        metric.name,
        arm,
        exact(means.control_mean, shown),
        exact(means.treatment_mean, shown),
        exact(effect.estimate, lift, effect.reason),
        limits if effect.status == "ok" else DASH,
        exact(means.p_value, p_value),
        exact(means.p_adjusted, p_value),
    )


def information_facts(look: Look, experiment: Experiment) -> Facts:
    """What the plan aimed at and how much of it is there, for section power."""
    rows: list[tuple[str, Cell]] = [
        ("Planned effect (MDE)", f"{declared(experiment.plan.mde)} relative"),
        ("Power at that effect", share(experiment.plan.power)),
        ("Alpha", f"{alpha(experiment.plan.alpha)}, {alpha(experiment.alpha_per_hypothesis)} per hypothesis"),
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
            reached = exact(fraction_of(look, experiment.primary.name, arm), share, "IMMATURE")
            value = phrase("{} of {} planned", reached, exact(planned, number))
        XX = phrase("{}: {}", value, exact(row.information, number))
            rows.append((f"Information (1 / variance), {arm}", value))
    planned_looks = planned_count(experiment)
    if planned_looks is not None:
        rows.append(("Looks", f"{look.planned_index} of {planned_looks} planned"))
    return Facts(rows=tuple(rows))


def level_format(metric: Metric) -> Format:
    """How a mean of the metric is written."""
    return share if metric.is_indicator else number


def difference_format(metric: Metric) -> Format:
    """How a difference of two means of the metric is written."""
    return points if metric.is_indicator else signed
