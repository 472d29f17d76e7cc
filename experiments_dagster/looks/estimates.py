"""Effects of every metric and arm: plain and adjusted, absolute and relative.

A metric that cannot be estimated becomes rows with status `not_estimable` and a reason; it stops
no other metric. Secondary metrics are exploratory: their p-values are corrected together (BH).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster.config.experiment import CapQuantile, CapValue
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.contrasts import (
    Inputs,
    MetricResult,
    capped,
    compare_arm,
    compare_summaries,
    compare_sums,
    metric_rows,
    vector,
)
from experiments_dagster.looks.records import Adjustment, Effect, Role
from experiments_dagster.looks.sums import EVERYBODY, Sums
from experiments_dagster.looks.unit_sums import UnitChunks, sums_of
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.multiplicity import FAMILIES, adjusted_p_values
from experiments_dagster.stats.records import Contrast, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """All rows of a look and the contrasts behind them, by (metric name, arm)."""

    effects: tuple[Effect, ...]
    adjustments: tuple[Adjustment, ...]
    results: dict[tuple[str, str], MetricResult]
    n_mature: dict[str, int]


def roles(experiment: Experiment) -> list[tuple[Metric, Role]]:
    """Every metric with its role."""
    return [
        (experiment.primary, "primary"),
        *((metric, "success") for metric in experiment.success),
        *((metric, "secondary") for metric in experiment.secondary),
        *((metric, "guardrail") for _, metric in experiment.guardrails),
    ]


def estimate_metrics(
    experiment: Experiment, inputs: Inputs | UnitChunks, *, cap: float | None
) -> Estimates:
    """Estimate every metric of every treatment arm against the control.

    Args:
        experiment: Metrics, arms, estimator and alpha.
        inputs: The unit frames, or the moments, as of the look. Chunks of units do where the plan
            is additive.
        cap: Largest value of the primary metric that counts; None for no cap.
    """
    effects: list[Effect] = []
    adjustments: list[Adjustment] = []
    results: dict[tuple[str, str], MetricResult] = {}
    n_mature: dict[str, int] = {}
    for metric, role in roles(experiment):
        found = _results(
            experiment, inputs, metric, cap=cap if role == "primary" else None, plan_cap=cap
        )
        n_mature[metric.name] = found.n_mature
        for arm, result in found.by_arm.items():
            if isinstance(result, EstimationError):
                effects += _not_estimable(experiment, metric, role, arm, result)
                continue
            effects += _rows(experiment, role, result)
            if result.deciding.difference.p_value is None:
                continue  # an interval without a test (a quantile at a mass point) decides nothing
            results[metric.name, arm] = result
            if result.adjusted is not None:
                adjustments.append(
                    Adjustment(
                        metric=metric.name,
                        arm=arm,
                        correlation=result.adjusted.correlation,
                        variance_reduction=result.adjusted.variance_reduction,
                        dropped_covariates=result.adjusted.dropped_covariates,
                    )
                )
    return Estimates(
        effects=tuple(_with_correction(experiment, effects)),
        adjustments=tuple(adjustments),
        results=results,
        n_mature=n_mature,
    )


def cap_of(experiment: Experiment, inputs: Inputs) -> float | None:
    """The cap that the plan gives, computed from pooled pre-period totals where it says so."""
    cap = experiment.plan.cap
    if isinstance(cap, CapValue):
        return cap.value
    if isinstance(cap, CapQuantile):
        assert isinstance(inputs, Frames)
        basis = inputs.user[f"cap_basis_{experiment.primary.name}"]
        value = basis.quantile(cap.quantile, interpolation="linear")
        if value is None or value <= 0:
            detail = "the pre-period quantile is not above zero. Hint: give `cap: {value: ...}`"
            raise EstimationError("NOT_IDENTIFIED", f"cap of {experiment.primary.name}", detail)
        return value
    return None


def pooled_baseline(
    experiment: Experiment, inputs: Inputs, *, cap: float | None, min_units: int
) -> float:
    """Mean (or ratio of totals, or quantile) of the primary metric over all arms together.

    Raises:
        EstimationError: IMMATURE without `min_units` mature units (one is enough where the plan
            gives the baseline), ZERO_DENOMINATOR when it is zero.
    """
    metric = experiment.primary
    if isinstance(inputs, Summaries):
        n, baseline = _pooled_moments(experiment, inputs, metric)
    else:
        if experiment.is_additive:
            n, baseline = _pooled_sums(experiment, sums_of(experiment, inputs, cap=cap), metric)
            return _checked_baseline(experiment, n, baseline, min_units=min_units)
        rows = metric_rows(metric, inputs, cap=cap)
        n = rows.frame.height
        baseline = _pooled_value(rows.outcomes(), metric, rows.events, cap)
    return _checked_baseline(experiment, n, baseline, min_units=min_units)


def _checked_baseline(experiment: Experiment, n: int, baseline: float, *, min_units: int) -> float:
    metric = experiment.primary
    if n < (1 if experiment.plan.baseline else min_units):
        raise EstimationError("IMMATURE", metric.name, f"{n} units, need {min_units}")
    if baseline == 0:
        raise EstimationError("ZERO_DENOMINATOR", metric.name, "the pooled baseline is zero")
    return abs(baseline)


def _pooled_sums(experiment: Experiment, sums: Sums, metric: Metric) -> tuple[int, float]:
    """Units and mean (or ratio) over all arms."""
    found = sums.moments[metric.name, EVERYBODY]
    arms = [found[arm] for arm in experiment.variants]
    return _pooled_arms(arms, is_ratio=metric.is_ratio)


def _pooled_moments(
    experiment: Experiment, summaries: Summaries, metric: Metric
) -> tuple[int, float]:
    """Units and mean (or ratio) over all arms."""
    arms = [summaries.moments[metric.name, arm] for arm in experiment.variants]
    return _pooled_arms(arms, is_ratio=metric.summary_ratio)


def _pooled_arms(arms: Sequence[ArmMoments], *, is_ratio: bool) -> tuple[int, float]:
    n = sum(arm.n for arm in arms)
    if n == 0:
        return 0, 0.0
    if not is_ratio:
        return n, sum(arm.n * arm.mean("y") for arm in arms if arm.n) / n
    totals = [
        sum(arm.n * arm.mean(part) for arm in arms if arm.n)
        for part in ("numerator", "denominator")
    ]
    return n, totals[0] / totals[1] if totals[1] else 0.0


def _pooled_value(
    outcomes: Sequence[Any], metric: Metric, events: pl.DataFrame | None, cap: float | None
) -> float:
    if len(outcomes[0]) == 0:
        return 0.0
    if metric.quantile is not None:
        values = outcomes[0] if events is None else capped(vector(events, "value"), cap)
        return float(np.quantile(values, metric.quantile)) if len(values) else 0.0
    total = float(np.sum(outcomes[0]))
    divisor = float(np.sum(outcomes[1])) if metric.is_ratio else float(len(outcomes[0]))
    return total / divisor if divisor else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    n_mature: int
    by_arm: dict[str, MetricResult | EstimationError]


def _results(
    experiment: Experiment,
    inputs: Inputs | UnitChunks,
    metric: Metric,
    *,
    cap: float | None,
    plan_cap: float | None,
) -> _Found:
    """The result of one metric for each treatment arm, or why there is none."""
    by_arm: dict[str, MetricResult | EstimationError] = {}
    if isinstance(inputs, Summaries):
        n = sum(inputs.moments[metric.name, arm].n for arm in experiment.variants)
        for arm in experiment.treatments:
            try:
                by_arm[arm] = compare_summaries(experiment, inputs, metric, arm)
            except EstimationError as error:
                by_arm[arm] = error
        return _Found(n_mature=n, by_arm=by_arm)
    if experiment.is_additive:
        return _from_sums(experiment, sums_of(experiment, inputs, cap=plan_cap), metric)
    assert isinstance(inputs, Frames)
    try:
        rows = metric_rows(metric, inputs, cap=cap)
    except EstimationError as error:
        return _Found(n_mature=0, by_arm=dict.fromkeys(experiment.treatments, error))
    for arm in experiment.treatments:
        try:
            by_arm[arm] = compare_arm(experiment, rows, arm)
        except EstimationError as error:
            by_arm[arm] = error
    return _Found(n_mature=rows.frame.height, by_arm=by_arm)


def _from_sums(experiment: Experiment, sums: Sums, metric: Metric) -> _Found:
    by_arm: dict[str, MetricResult | EstimationError] = {}
    for arm in experiment.treatments:
        try:
            by_arm[arm] = compare_sums(experiment, sums, metric, arm)
        except EstimationError as error:
            by_arm[arm] = error
    n = sum(moments.n for moments in sums.moments[metric.name, EVERYBODY].values())
    return _Found(n_mature=n, by_arm=by_arm)


def _rows(experiment: Experiment, role: Role, result: MetricResult) -> list[Effect]:
    shared = {
        "metric": result.metric.name,
        "role": role,
        "arm": result.arm,
        "control": experiment.control,
    }
    rows = contrast_rows(result.plain, **shared, is_adjusted=False)
    if result.adjusted is not None:
        rows += contrast_rows(result.adjusted.adjusted, **shared, is_adjusted=True)
    return rows


def contrast_rows(contrast: Contrast, **shared: Any) -> list[Effect]:
    """The absolute and the relative effect of a contrast, each ok or not estimable."""
    difference = contrast.difference
    rows = [estimate_row(difference, **shared)]
    if contrast.relative is not None:
        return [*rows, estimate_row(contrast.relative, **shared)]
    estimand = "relative_difference"
    if difference.estimand == "quantile_difference":
        estimand = "relative_quantile_difference"
    missing = Effect(
        **shared,
        estimand=estimand,
        method=difference.method,
        status="not_estimable",
        reason=contrast.relative_reason,
    )
    return [*rows, missing]


def estimate_row(estimate: Estimate, **shared: Any) -> Effect:
    """One estimate with its identity."""
    return Effect(
        **shared,
        estimand=estimate.estimand,
        inference=estimate.inference,
        method=estimate.method,
        variance_formula=estimate.variance_formula,
        estimate=estimate.estimate,
        std_error=estimate.std_error,
        ci_low=estimate.ci_low,
        ci_high=estimate.ci_high,
        confidence_level=estimate.confidence_level,
        p_value=estimate.p_value,
        control_mean=estimate.control_mean,
        treatment_mean=estimate.treatment_mean,
        n_control=estimate.n_control,
        n_treatment=estimate.n_treatment,
        interval=estimate.interval,
    )


def _not_estimable(
    experiment: Experiment, metric: Metric, role: Role, arm: str, error: EstimationError
) -> list[Effect]:
    return [
        Effect(
            metric=metric.name,
            role=role,
            arm=arm,
            control=experiment.control,
            estimand=estimand,
            is_adjusted=is_adjusted,
            method=experiment.plan.estimator.kind if is_adjusted else "plain",
            status="not_estimable",
            reason=error.code,
        )
        for is_adjusted in ([False, True] if experiment.adjusts else [False])
        for estimand in ("difference", "relative_difference")
    ]


def _with_correction(experiment: Experiment, effects: list[Effect]) -> list[Effect]:
    """Put the corrected p-value beside that of each exploratory metric's deciding effect."""
    planned = len(experiment.secondary) * len(experiment.treatments)
    deciding = [
        index
        for index, row in enumerate(effects)
        if row.role == "secondary"
        and not row.is_relative
        and row.is_adjusted == experiment.adjusts
        and row.p_value is not None
    ]
    return corrected(effects, deciding, planned=planned, alpha=experiment.plan.alpha)


def corrected(
    effects: list[Effect],
    members: Iterable[int],
    *,
    planned: int,
    alpha: float,
    correction: str | None = None,
) -> list[Effect]:
    """Correct the p-values of some rows as one exploratory family.

    Args:
        effects: All rows.
        members: Positions of the family's rows; each has a p-value.
        planned: Hypotheses in the family, those that could not be estimated included.
        alpha: False discovery rate at which a result counts as selected.
        correction: Method of `adjusted_p_values`; by default that of exploratory metrics.
    """
    method: Any = correction or FAMILIES["exploratory"].correction
    positions = list(members)
    if not positions:
        return effects
    p_values = [effects[index].p_value or 0.0 for index in positions]
    adjusted = adjusted_p_values(p_values, method, planned=planned)
    out = list(effects)
    for index, p in zip(positions, adjusted, strict=True):
        row = out[index]
        update: dict[str, Any] = {"p_adjusted": p, "correction": method}
        if p <= alpha and row.estimate is not None and row.std_error is not None:
            level = sum(p <= alpha for p in adjusted) * alpha / planned
            half = critical_value(level) * row.std_error
            update |= {"selected_low": row.estimate - half, "selected_high": row.estimate + half}
        out[index] = row.model_copy(update=update)
    return out
