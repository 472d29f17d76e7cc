"""Effects of every metric and arm from a unit frame: plain and adjusted, absolute and relative.

Arrays go to the estimators, records come back. A metric that cannot be estimated becomes rows
with status `not_estimable` and a reason; it stops no other metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.experiment import CapQuantile, CapValue
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.records import Adjustment, Effect, Role
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Contrast

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """The contrasts of one metric and arm; `deciding` is the one the plan names."""

    metric: Metric
    arm: str
    plain: Contrast
    adjusted: AdjustedContrast | None

    @property
    def deciding(self) -> Contrast:
        """Adjusted where the plan adjusts, else plain."""
        return self.plain if self.adjusted is None else self.adjusted.adjusted


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
        *((metric, "secondary") for metric in experiment.secondary),
        *((metric, "guardrail") for _, metric in experiment.guardrails),
    ]


def estimate_metrics(experiment: Experiment, frames: Frames, *, cap: float | None) -> Estimates:
    """Estimate every metric of every treatment arm against the control.

    Args:
        experiment: Metrics, arms, estimator and alpha.
        frames: The unit frames as of the look.
        cap: Largest value of the primary metric that counts; None for no cap.
    """
    effects: list[Effect] = []
    adjustments: list[Adjustment] = []
    results: dict[tuple[str, str], MetricResult] = {}
    n_mature: dict[str, int] = {}
    for metric, role in roles(experiment):
        mature = frames.of(metric).filter(pl.col(metric.columns[0][0]).is_not_null())
        n_mature[metric.name] = mature.height
        limit = cap if role == "primary" else None
        for arm in experiment.treatments:
            try:
                result = _compare(experiment, metric, arm, mature, cap=limit)
            except EstimationError as error:
                effects += _not_estimable(experiment, metric, role, arm, error)
                continue
            results[metric.name, arm] = result
            effects += _rows(experiment, role, result)
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
        effects=tuple(effects),
        adjustments=tuple(adjustments),
        results=results,
        n_mature=n_mature,
    )


def cap_of(experiment: Experiment, frames: Frames) -> float | None:
    """The cap that the plan gives, computed from pooled pre-period totals where it says so."""
    cap = experiment.plan.cap
    if isinstance(cap, CapValue):
        return cap.value
    if isinstance(cap, CapQuantile):
        basis = frames.user[f"cap_basis_{experiment.primary.name}"]
        value = basis.quantile(cap.quantile, interpolation="linear")
        if value is None or value <= 0:
            detail = "the pre-period quantile is not above zero. Hint: give `cap: {value: ...}`"
            raise EstimationError("NOT_IDENTIFIED", f"cap of {experiment.primary.name}", detail)
        return value
    return None


def pooled_baseline(
    experiment: Experiment, frames: Frames, *, cap: float | None, min_units: int
) -> float:
    """Mean (or ratio of totals) of the primary metric over all arms together.

    Raises:
        EstimationError: IMMATURE without `min_units` mature units (one is enough where the plan
            gives the baseline), ZERO_DENOMINATOR when it is zero.
    """
    metric = experiment.primary
    columns = [name for name, _ in metric.columns]
    mature = frames.of(metric).filter(pl.col(columns[0]).is_not_null())
    if mature.height < (1 if experiment.plan.baseline else min_units):
        raise EstimationError("IMMATURE", metric.name, f"{mature.height} units, need {min_units}")
    totals = [float(np.sum(_capped(_vector(mature, name), cap))) for name in columns]
    divisor = totals[1] if metric.is_ratio else float(mature.height)
    if divisor == 0 or totals[0] == 0:
        raise EstimationError("ZERO_DENOMINATOR", metric.name, "the pooled baseline is zero")
    return abs(totals[0] / divisor)


def _compare(
    experiment: Experiment, metric: Metric, arm: str, mature: pl.DataFrame, *, cap: float | None
) -> MetricResult:
    pair = mature.filter(pl.col("arm").is_in([experiment.control, arm]))
    if pair.is_empty():
        raise EstimationError("IMMATURE", metric.name)
    is_treated = (pair["arm"] == arm).to_numpy()
    columns = [name for name, _ in metric.columns]
    outcomes = [_capped(_vector(pair, name), cap) for name in columns]
    plain = _plain(metric, outcomes, is_treated, alpha=experiment.plan.alpha)
    if not experiment.adjusts:
        return MetricResult(metric=metric, arm=arm, plain=plain, adjusted=None)
    scaled = None
    if cap is not None:
        scaled = cap * experiment.plan.estimator.covariate_days / metric.window_days
    before = [_capped(_vector(pair, f"pre_{name}"), scaled) for name in columns]
    missing = pair["is_pre_missing"].to_numpy().astype(np.float64)
    covariates = np.column_stack([*before, missing])
    names = [*(f"pre_{name}" for name in columns), "is_pre_missing"]
    alpha = experiment.plan.alpha
    if metric.is_ratio:
        numerator, denominator = outcomes
        adjusted = compare_ratios_adjusted(
            numerator, denominator, is_treated, covariates, names=names, alpha=alpha
        )
    else:
        adjusted = compare_adjusted(outcomes[0], is_treated, covariates, names=names, alpha=alpha)
    return MetricResult(metric=metric, arm=arm, plain=plain, adjusted=adjusted)


def _plain(
    metric: Metric, outcomes: list[Vector], is_treated: NDArray[np.bool_], *, alpha: float
) -> Contrast:
    arms = []
    for of_arm in (~is_treated, is_treated):
        values = [outcome[of_arm] for outcome in outcomes]
        if metric.is_ratio:
            arms.append(ArmMoments.from_arrays(numerator=values[0], denominator=values[1]))
        else:
            arms.append(ArmMoments.from_arrays(y=values[0]))
    compare = compare_ratios if metric.is_ratio else compare_means
    return compare(arms[0], arms[1], alpha=alpha)


def _vector(frame: pl.DataFrame, column: str) -> Vector:
    return frame[column].to_numpy().astype(np.float64)


def _capped(values: Vector, cap: float | None) -> Vector:
    return values if cap is None else np.minimum(values, cap)


def _rows(experiment: Experiment, role: Role, result: MetricResult) -> list[Effect]:
    contrasts = [(result.plain, False)]
    if result.adjusted is not None:
        contrasts.append((result.adjusted.adjusted, True))
    rows = []
    for contrast, is_adjusted in contrasts:
        for estimand, estimate in (
            ("difference", contrast.difference),
            ("relative_difference", contrast.relative),
        ):
            shared = {
                "metric": result.metric.name,
                "role": role,
                "arm": result.arm,
                "control": experiment.control,
                "estimand": estimand,
                "is_adjusted": is_adjusted,
            }
            if estimate is None:
                rows.append(
                    Effect(
                        **shared,
                        method=contrast.difference.method,
                        status="not_estimable",
                        reason=contrast.relative_reason,
                    )
                )
                continue
            rows.append(
                Effect(
                    **shared,
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
                )
            )
    return rows


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
