"""The sections of an experiment report about what may ship, and about what watches for harm."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look
from experiments_dagster.reporting.blocks import Block, Cell, exact, exact_interval
from experiments_dagster.reporting.metric_sections import (
    against,
    difference_format,
    table_of_arms,
)
from experiments_dagster.reporting.numbers import (
    DASH,
    alpha,
    level,
    lift,
    missing,
    number,
    p_value,
    signed,
)
from experiments_dagster.reporting.trajectory import (
    Estimand,
    deciding_effect,
    harm_shown,
    success_crossing,
)


def successes(looks: Sequence[Look], experiment: Experiment) -> list[Block]:
    """All success metrics with their shares of alpha; one alone needs no such table."""
    if not experiment.success:
        return []
    rows = [
        _success_row(looks, experiment, metric, arm)
        for metric in experiment.success_metrics
        for arm in experiment.treatments
    ]
    sequential, statistic = "confidence sequence", "p at any time"
    if experiment.is_group_sequential:
        sequential, statistic = "repeated interval", "z"
    header = ("metric", "arm", "share of alpha", "lift", sequential, statistic, "state")
    number_of = len(experiment.success_metrics) * len(experiment.treatments)
    caption = (
        f"Any one of these metrics may ship the treatment, so alpha {alpha(experiment.plan.alpha)} "
        f"is split equally over {number_of} hypotheses (metrics times arms, Bonferroni); intervals "
        f"at {level(1 - experiment.alpha_per_hypothesis)}. The first one is the primary metric."
    )
    return [
        table_of_arms(
            header,
            "llrrrrl",
            rows,
            caption=caption,
            has_arms=len(experiment.treatments) > 1,
            strong=frozenset(range(len(experiment.treatments))),
        )
    ]


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
        statistic = against(row)
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


def _success_state(looks: Sequence[Look], experiment: Experiment, metric: Metric, arm: str) -> str:
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
    rows = [_safety_row(looks, metric, arm) for metric in metrics for arm in experiment.treatments]
    watched = looks[-1].deterioration
    total = ""
    if len(watched) == len(rows):
        total = f", {alpha(sum(row.alpha for row in watched))} in total,"
    caption = (
        "One-sided confidence sequences against any harm, valid at every look and every peek. "
        f"They have a level of their own{total} and take nothing from the alpha of success. Harm "
        "is shown where z reaches the critical value."
    )
    header = ("metric", "arm", "alpha", "z towards harm", "critical value", "state")
    return [
        table_of_arms(
            header,
            "llrrrl",
            rows,
            caption=caption,
            has_arms=len(experiment.treatments) > 1,
            strong=frozenset(k for k, row in enumerate(rows) if str(row[-1]).startswith("harm")),
        )
    ]


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
