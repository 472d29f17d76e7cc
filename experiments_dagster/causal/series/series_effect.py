"""What every method returns: counterfactual, effect and running sum with limits from paths.

Limits and p-value are order statistics of the same paths (`causal.series.impact`), so p < alpha
exactly when the interval of the total excludes 0, and the last running limit is that interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.impact import path_limits, two_sided_p
from experiments_dagster.causal.series.records import EffectInterval, ImpactResult

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreFit:
    """How the counterfactual fits before the intervention; `acf` at lags 1 to 7."""

    r2: float
    rmse: float
    acf: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEffect:
    """The effect of an intervention on one series.

    `expected*` have all n periods, `effect*` and `cumulative*` those from the intervention on.
    `relative` is None, with its reason, where the expected total is not surely positive.
    `interval` names the construction of all intervals, `extra` what only one method knows.
    """

    method: str
    interval: str
    n_pre: int
    expected: Vector
    expected_low: Vector
    expected_high: Vector
    effect: Vector
    effect_low: Vector
    effect_high: Vector
    cumulative: Vector
    cumulative_low: Vector
    cumulative_high: Vector
    total: EffectInterval
    average: EffectInterval
    relative: EffectInterval | None
    relative_reason: str | None
    total_draws: Vector
    p_value: float
    fit: PreFit
    extra: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def effect_of_impact(method: str, result: ImpactResult) -> SeriesEffect:
    """The result of the structural time series in the common form."""
    diagnosed = result.diagnostics
    backtest = diagnosed.backtest
    return SeriesEffect(
        method=method,
        interval="posterior predictive paths, local level and AR(1) averaged",
        n_pre=result.n_pre,
        expected=result.counterfactual,
        expected_low=result.counterfactual_low,
        expected_high=result.counterfactual_high,
        effect=result.effect,
        effect_low=result.effect_low,
        effect_high=result.effect_high,
        cumulative=result.cumulative,
        cumulative_low=result.cumulative_low,
        cumulative_high=result.cumulative_high,
        total=result.total,
        average=result.average,
        relative=result.relative,
        relative_reason=result.relative_reason,
        total_draws=result.total_draws,
        p_value=result.p_value,
        fit=PreFit(r2=diagnosed.r2_pre, rmse=diagnosed.rmse_pre, acf=diagnosed.acf),
        extra={
            "noise_model": result.noise_model,
            "local_level_weight": result.local_level_weight,
            "is_seasonal": result.is_seasonal,
            "mape_pre": diagnosed.mape_pre,
            "ljung_box_p": diagnosed.ljung_box_p,
            "normality_p": diagnosed.normality_p,
            "backtest_n_points": backtest.n_points if backtest else None,
            "backtest_coverage": backtest.coverage if backtest else None,
            "backtest_covers_total": backtest.covers_total if backtest else None,
        },
        warnings=result.warnings,
    )


def effect_of_errors(
    observed: Vector,
    expected: Vector,
    errors: Vector,
    n_pre: int,
    *,
    method: str,
    interval: str,
    fit: PreFit,
    alpha: float,
    extra: Mapping[str, Any],
    warnings: tuple[str, ...],
) -> SeriesEffect:
    """The effect around a point prediction whose error is drawn.

    Args:
        observed: Outcome, shape (n,); none missing from the intervention on.
        expected: Prediction without intervention, shape (n,).
        errors: Drawn outcome without intervention minus prediction, shape (draws, n - n_pre).
        n_pre: Periods before the intervention.
        method: Its name.
        interval: How the errors were drawn.
        fit: Of the prediction before the intervention.
        alpha: 1 - confidence level.
        extra: What only this method knows.
        warnings: Sentences.
    """
    after = expected[n_pre:]
    effect = observed[n_pre:] - after
    paths = effect - errors
    running = paths.cumsum(axis=1)
    totals = running[:, -1].copy()
    low, high = path_limits(after + errors, alpha)
    # Within the fitted period: the spread of a single period's error.
    below, above = (float(limit[0]) for limit in path_limits(errors[:, :1], alpha))
    before = expected[:n_pre]
    effect_low, effect_high = path_limits(paths, alpha)
    cumulative_low, cumulative_high = path_limits(running, alpha)
    actual, predicted = float(observed[n_pre:].sum()), float(after.sum())
    drawn = (after + errors).sum(axis=1)
    is_positive = predicted > 0 and bool((drawn > 0).all())
    total = _interval(float(effect.sum()), totals, alpha)
    return SeriesEffect(
        method=method,
        interval=interval,
        n_pre=n_pre,
        expected=expected,
        expected_low=np.r_[before + below, low],
        expected_high=np.r_[before + above, high],
        effect=effect,
        effect_low=effect_low,
        effect_high=effect_high,
        cumulative=effect.cumsum(),
        cumulative_low=cumulative_low,
        cumulative_high=cumulative_high,
        total=total,
        average=_interval(float(effect.mean()), totals / len(effect), alpha),
        relative=(
            _interval(actual / predicted - 1, actual / drawn - 1, alpha) if is_positive else None
        ),
        relative_reason=None if is_positive else "NOT_IDENTIFIED",
        total_draws=totals,
        p_value=two_sided_p(totals),
        fit=fit,
        extra=extra,
        warnings=warnings,
    )


def _interval(estimate: float, draws: Vector, alpha: float) -> EffectInterval:
    low, high = path_limits(draws, alpha)
    return EffectInterval(
        estimate=estimate,
        std_error=float(draws.std(ddof=1)),
        ci_low=float(low),
        ci_high=float(high),
    )
