"""The sections of an experiment report about other metrics than the primary, and power."""

from __future__ import annotations

from collections.abc import Sequence

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
        statistic = against(row)
    return (
        metric.name,
        arm,
        shown(worst) if guardrail.absolute else declared(worst),
        exact(effect.estimate if effect else None, shown, effect.reason if effect else "IMMATURE"),
        limits,
        statistic,
        _guardrail_state(looks, metric.name, arm),
    )


def against(row: Boundary) -> Cell:
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


def exploratory(look: Look, experiment: Experiment) -> list[Block]:
    """Secondary metrics, labelled as what they are: for information."""
    rows = [
        _exploratory_row(look, experiment, metric, arm)
        for metric in experiment.secondary
        for arm in experiment.treatments
    ]
    if not rows:
        return []
    used = {row.correction for row in look.effects if row.role == "secondary" and row.correction}
    names = ", ".join(CORRECTIONS.get(name, name) for name in sorted(used))
    how = f"p corrected together ({names})" if used else "unadjusted for multiplicity"
    words = f"For information only: fixed-horizon, {how}. No decision rests on these rows."
    caption = f"Intervals at {level(1 - experiment.plan.alpha)}. {NAIVE}."
    if used:
        family = plural(len(rows), "planned hypothesis", "planned hypotheses")
        caption += f" p is that of the difference, corrected over {family}."
    kind = "adjusted" if experiment.adjusts else "unadjusted"
    header = ("metric", "arm", "control", "treatment", f"lift, {kind}", "naive interval",
              "naive p", "corrected p")  # fmt: skip
    width = len(header) if used else -1
    table = table_of_arms(
        header[:width],
        "llrrrrrr"[:width],
        [row[:width] for row in rows],
        caption=caption,
        has_arms=len(experiment.treatments) > 1,
    )
    return [Paragraph(words=(words,), tone="muted"), table]


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
    own = alpha(experiment.alpha_per_hypothesis)
    rows: list[tuple[str, Cell]] = [
        ("Planned effect (MDE)", f"{declared(experiment.plan.mde)} relative"),
        ("Power at that effect", share(experiment.plan.power)),
        ("Alpha", f"{alpha(experiment.plan.alpha)}, {own} per hypothesis"),
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
            if row is not None and row.beta_spent is not None:
                beta = alpha(1 - experiment.plan.power)
                spent = phrase("{} of {}", exact(row.beta_spent, alpha), beta)
                rows.append((f"Type II error spent on futility, {arm}", spent))
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


def table_of_arms(
    header: tuple[str, ...],
    align: str,
    rows: Sequence[tuple[Cell, ...]],
    *,
    caption: Cell,
    has_arms: bool,
    strong: frozenset[int] = frozenset(),
) -> Table:
    """A table whose second column is the arm; without it where there is one arm only."""
    kept = [k for k in range(len(header)) if has_arms or k != 1]
    return Table(
        header=tuple(header[k] for k in kept),
        align="".join(align[k] for k in kept),
        rows=tuple(tuple(row[k] for k in kept) for row in rows),
        caption=caption,
        strong=strong,
    )
