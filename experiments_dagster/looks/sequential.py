"""Boundaries, spending and the confidence sequence of a look, from stored looks and new contrasts.

Spending follows the information fraction of the primary contrast against *planned* information,
which the first estimable look fixes without regard to the effect. The joint law of the looks
depends only on ratios of observed information, so each hypothesis is walked on its own observed
information, whatever was planned (Lan & DeMets 1989). Stored boundaries are never recomputed.

Guardrails have their own one-sided boundary at full alpha, spent by the primary's fraction:
intersection-union frees them from a split across guardrails, not from a correction over looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.config.experiment import GroupSequential, Guardrail, LookDesign
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.estimates import Estimates, MetricResult
from experiments_dagster.looks.records import (
    AnytimeInterval,
    Boundary,
    Frozen,
    Look,
    is_finished,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.records import Contrast
from experiments_dagster.stats.sequential.boundaries import next_boundary
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    running_intersection,
    running_p_value,
    tuning_information,
)
from experiments_dagster.stats.sequential.power import planned_information
from experiments_dagster.stats.sequential.spending import Sides, cumulative_alpha

# The asymptotic sequence starts when the contrast's own skewness is small: the rule of thumb
# n >= 355 skew**2 for one mean says the same of the mean's skewness (1 / sqrt(355)).
MIN_UNITS_PER_ARM = 100
MAX_SKEWNESS = 355**-0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spending:
    """What a hypothesis may have spent, in total and before this look."""

    alpha: float
    fraction: float
    is_last: bool


def freeze(experiment: Experiment, *, baseline: float, cap: float | None) -> Frozen:
    """Planned information per arm for the plan's relative MDE at a baseline.

    For a confidence sequence it only tunes where the sequence is narrowest.
    """
    design = experiment.plan.looks.design
    planned = design.planned if isinstance(design, GroupSequential) else 1
    spending = design.spending if isinstance(design, GroupSequential) else "obrien_fleming"
    information = planned_information(
        experiment.plan.mde * (experiment.plan.baseline or baseline),
        alpha=experiment.alpha_per_arm,
        power=experiment.plan.power,
        fractions=[(k + 1) / planned for k in range(planned)],
        spending=spending,
    )
    return Frozen(
        baseline=experiment.plan.baseline or baseline,
        planned_information=dict.fromkeys(experiment.treatments, information),
        cap=cap,
    )


def information_fraction(result: MetricResult, frozen: Frozen) -> float:
    """Observed over planned information of the primary contrast."""
    information = 1 / result.deciding.difference.std_error**2
    return information / frozen.planned_information[result.arm]


def boundaries(
    experiment: Experiment,
    estimates: Estimates,
    frozen: Frozen,
    earlier: Sequence[Look],
    *,
    is_planned_end: bool,
) -> list[Boundary]:
    """The success and guardrail hypotheses of every arm at this look."""
    design = experiment.plan.looks.design
    rows = []
    for arm in experiment.treatments:
        primary = estimates.results.get((experiment.primary.name, arm))
        if primary is None or is_finished(earlier, arm):
            continue
        fraction = information_fraction(primary, frozen)
        spending = _Spending(
            alpha=experiment.alpha_per_arm, fraction=fraction, is_last=is_planned_end
        )
        if isinstance(design, GroupSequential):
            rows.append(_success(experiment, primary, spending, design, earlier))
        for guardrail, metric in experiment.guardrails:
            result = estimates.results.get((metric.name, arm))
            if result is None:
                continue
            spending = _Spending(
                alpha=experiment.plan.alpha, fraction=fraction, is_last=is_planned_end
            )
            row = _guardrail(guardrail, result, spending, design, earlier)
            if row is not None:
                rows.append(row)
    return rows


def _success(
    experiment: Experiment,
    result: MetricResult,
    spending: _Spending,
    design: GroupSequential,
    earlier: Sequence[Look],
) -> Boundary:
    contrast = result.deciding
    sign = _sign(experiment.primary)
    statistic = sign * contrast.difference.estimate / contrast.difference.std_error
    row = _boundary(result, "success", contrast, statistic, spending, design, earlier, sides=2)
    shown = contrast.relative or contrast.difference
    return row.model_copy(
        update={
            "is_relative": contrast.relative is not None,
            **_repeated(shown.estimate, shown.std_error, row.critical_value),
        }
    )


def _guardrail(
    guardrail: Guardrail,
    result: MetricResult,
    spending: _Spending,
    design: LookDesign,
    earlier: Sequence[Look],
) -> Boundary | None:
    contrast = result.deciding
    try:
        test = non_inferiority(
            contrast,
            margin=guardrail.margin,
            higher_is_better=result.metric.direction == "increase",
            relative=not guardrail.absolute,
            alpha=spending.alpha,
        )
    except EstimationError:
        return None
    if isinstance(design, GroupSequential):
        row = _boundary(
            result, "guardrail", contrast, test.statistic, spending, design, earlier, sides=1
        )
    else:
        row = _anytime_guardrail(result, contrast, test.statistic, spending, earlier)
    shown = contrast.difference if guardrail.absolute else contrast.relative
    limits = _repeated(shown.estimate, shown.std_error, row.critical_value) if shown else {}
    return row.model_copy(
        update={"is_relative": not guardrail.absolute, "margin": guardrail.margin, **limits}
    )


def _boundary(
    result: MetricResult,
    kind: str,
    contrast: Contrast,
    statistic: float,
    spending: _Spending,
    design: GroupSequential,
    earlier: Sequence[Look],
    *,
    sides: Sides,
) -> Boundary:
    """The hypothesis' next boundary given its stored ones, and whether it is crossed."""
    stored = [
        row
        for look in earlier
        for row in look.boundaries
        if (row.metric, row.arm, row.kind) == (result.metric.name, result.arm, kind)
        and row.no_stop_reason != "INFORMATION_DECREASED"
    ]
    information = 1 / contrast.difference.std_error**2
    allowed = spending.alpha
    if spending.fraction < 1 and not spending.is_last:
        allowed = cumulative_alpha(
            design.spending,
            spending.fraction,
            alpha=spending.alpha,
            sides=sides,
        )
    spent = stored[-1].alpha_spent if stored else 0.0
    boundary = next_boundary(
        # On the clock of observed information, scaled so that now is 1.
        [(row.information / information, row.critical_value) for row in stored],
        t=1.0,
        cumulative_alpha_now=max(allowed, spent),
        alpha_spent=spent,
        sides=sides,
    )
    critical = boundary.critical_value
    crossed = "none"
    if critical is not None and abs(statistic) >= critical:
        crossed = "desired" if statistic > 0 else "undesired"
    return Boundary(
        metric=result.metric.name,
        arm=result.arm,
        kind=kind,
        information=information,
        information_fraction=spending.fraction,
        alpha=spending.alpha,
        alpha_spent_before=spent,
        alpha_spent=boundary.alpha_spent,
        critical_value=critical,
        nominal_level=boundary.nominal_level,
        no_stop_reason=boundary.reason,
        statistic=statistic,
        crossed=crossed,
        is_relative=False,
        limit_low=None,
        limit_high=None,
    )


def _anytime_guardrail(
    result: MetricResult,
    contrast: Contrast,
    statistic: float,
    spending: _Spending,
    earlier: Sequence[Look],
) -> Boundary:
    """A guardrail without planned looks: the bound of its one-sided confidence sequence.

    Its tuning aims at the information that it will have when the primary has what was planned;
    the first look fixes it.
    """
    stored = [
        row
        for look in earlier
        for row in look.boundaries
        if (row.metric, row.arm, row.kind) == (result.metric.name, result.arm, "guardrail")
    ]
    information = 1 / contrast.difference.std_error**2
    g = stored[0].tuning if stored else None
    if g is None:
        g = tuning_information(information / spending.fraction, spending.alpha, sides=1)
    # In units of its own standard error, so that the half-width is the critical value.
    point = confidence_sequence(statistic, 1.0, g=g / information, alpha=spending.alpha, sides=1)
    crossed = "none"
    if abs(statistic) >= point.half_width:
        crossed = "desired" if statistic > 0 else "undesired"
    return Boundary(
        metric=result.metric.name,
        arm=result.arm,
        kind="guardrail",
        information=information,
        information_fraction=spending.fraction,
        alpha=spending.alpha,
        alpha_spent_before=0.0,
        alpha_spent=0.0,
        critical_value=point.half_width,
        nominal_level=None,
        no_stop_reason=None,
        statistic=statistic,
        crossed=crossed,
        is_relative=False,
        limit_low=None,
        limit_high=None,
        tuning=g,
    )


def _repeated(estimate: float, std_error: float, critical: float | None) -> dict[str, float | None]:
    if critical is None:
        return {"limit_low": None, "limit_high": None}
    half = critical * std_error
    return {"limit_low": estimate - half, "limit_high": estimate + half}


def anytime_intervals(
    experiment: Experiment, estimates: Estimates, frozen: Frozen, earlier: Sequence[Look]
) -> list[AnytimeInterval]:
    """The confidence sequence of the primary effect of every arm; absent while n is too small."""
    rows = []
    for arm in experiment.treatments:
        result = estimates.results.get((experiment.primary.name, arm))
        if result is None or not _is_nearly_normal(result):
            continue
        difference, relative = result.deciding.difference, result.deciding.relative
        alpha = experiment.alpha_per_arm
        g = tuning_information(frozen.planned_information[arm], alpha)
        point = confidence_sequence(difference.estimate, difference.std_error, g=g, alpha=alpha)
        assert point.high is not None
        before = [row for look in earlier for row in look.anytime if row.arm == arm]
        running = running_intersection(
            [*((row.low, row.high) for row in before), (point.low, point.high)]
        )
        multiplier = point.half_width / difference.std_error
        half = multiplier * relative.std_error if relative else 0.0
        rows.append(
            AnytimeInterval(
                metric=experiment.primary.name,
                arm=arm,
                g=g,
                low=point.low,
                high=point.high,
                relative_low=relative.estimate - half if relative else None,
                relative_high=relative.estimate + half if relative else None,
                log_e_value=point.log_e_value,
                p_value=running_p_value([*(row.log_e_value for row in before), point.log_e_value]),
                running_low=running.low,
                running_high=running.high,
                flag=running.flag,
            )
        )
    return rows


def _is_nearly_normal(result: MetricResult) -> bool:
    difference = result.deciding.difference
    if min(difference.n_control, difference.n_treatment) < MIN_UNITS_PER_ARM:
        return False
    if result.adjusted is None:
        return True
    scores = result.adjusted.scores
    skewness = float((scores**3).sum()) / difference.std_error**3
    return abs(skewness) <= MAX_SKEWNESS


def _sign(metric: Metric) -> int:
    return 1 if metric.direction == "increase" else -1
