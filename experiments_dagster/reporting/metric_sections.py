"""The sections of an experiment report about guardrails, secondary metrics and power."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look
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
    DASH,
    Format,
    alpha,
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
from experiments_dagster.reporting.trajectory import (
    Estimand,
    deciding_effect,
    first_crossing,
    fraction_of,
    last_boundary,
    planned_count,
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
        statistic = exact(row.statistic, signed)
        if row.critical_value is not None:
            statistic = phrase("{} (needs {})", statistic, exact(row.critical_value, number))
    return (
        metric.name,
        arm,
        shown(worst) if guardrail.absolute else declared(worst),
        exact(effect.estimate if effect else None, shown, effect.reason if effect else "IMMATURE"),
        limits,
        statistic,
        _guardrail_state(looks, metric.name, arm),
    )


def _guardrail_state(looks: Sequence[Look], metric: str, arm: str) -> str:
    safe = first_crossing(looks, metric, arm, "desired")
    if safe is not None:
        return f"within its margin (shown at look {safe.look})"
    worse = first_crossing(looks, metric, arm, "undesired")
    if worse is not None:
        return f"worse than its margin (shown at look {worse.look})"
    return "open" if last_boundary(looks, metric, arm) is not None else "not estimable"


def secondary(look: Look, experiment: Experiment) -> list[Block]:
    """Secondary metrics, labelled as what they are: for information."""
    rows: list[tuple[Cell, ...]] = []
    for metric in experiment.secondary:
        for arm in experiment.treatments:
            effect = deciding_effect(look, experiment, metric.name, arm, "relative_difference")
            if effect is None:
                rows.append((metric.name, arm, DASH, DASH, missing("IMMATURE"), DASH, DASH))
                continue
            shown = level_format(metric)
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
    kind = "adjusted" if experiment.adjusts else "unadjusted"
    header = ("metric", "arm", "control", "treatment", f"lift, {kind}", "naive interval", "naive p")
    naive = f"Intervals at {level(1 - experiment.plan.alpha)}. {NAIVE}."
    return [
        Paragraph(words=(words,), tone="muted"),
        Table(header=header, rows=tuple(rows), align="llrrrrr", caption=naive),
    ]


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
            if row is not None:
                value = phrase("{}: {}", value, exact(row.information, number))
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
