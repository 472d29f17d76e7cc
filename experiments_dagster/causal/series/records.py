"""Records of the time-series estimators: frozen, slotted, keyword-only, finite throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
NoiseModel = Literal["local_level", "ar1"]
Prior = Literal["weak", "published"]


def refuse_non_finite(record: object) -> None:
    """Raise ValueError when a float or a float array of a dataclass is NaN or infinite."""
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            msg = f"{type(record).__name__}.{field.name} is {value}; need a finite number or None"
            raise ValueError(msg)
        if isinstance(value, np.ndarray):
            if not np.isfinite(value).all():
                msg = f"{type(record).__name__}.{field.name} holds NaN or infinity"
                raise ValueError(msg)
            value.flags.writeable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectInterval:
    """An effect with its posterior sd and the limits of its predictive interval."""

    estimate: float
    std_error: float
    ci_low: float
    ci_high: float

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if self.ci_low > self.ci_high:
            msg = f"interval [{self.ci_low}, {self.ci_high}] is inverted"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """Forecast of the last pre points by a model fitted on the points before them.

    `coverage` is the share inside their pointwise intervals; `covers_total` says whether their
    sum is inside its own interval.
    """

    n_points: int
    coverage: float
    covers_total: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactDiagnostics:
    """How well the model predicts the pre period one step ahead.

    `acf` holds the autocorrelations 1..7 of the standardised one-step residuals.
    `mape_pre` is a share, None where a pre value is zero. `backtest` is None where the points
    before the held-out ones do not allow a fit.
    """

    r2_pre: float
    rmse_pre: float
    mape_pre: float | None
    acf: tuple[float, ...]
    max_abs_acf: float
    ljung_box_p: float
    normality_p: float
    backtest: Backtest | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactResult:
    """The effect of one intervention on one series, observed minus counterfactual.

    `counterfactual*` has one value for each of the n_pre + n_post steps: one step ahead before
    the intervention, the forecast without intervention after it. `effect*` and `cumulative*`
    stand at `effect_steps`, the positions of the observed post values in the input. `total`,
    `average` and `relative` concern those steps. `relative` is None, with `relative_reason`, when
    some predicted total is not positive. `total_draws` are the posterior draws of the total
    effect, so that money amounts derived from it share its uncertainty. `p_value` is two-sided;
    it is below 1 - confidence_level exactly when the interval of `total` excludes 0.
    `posterior_prob` is the probability that the effect has the sign of most draws.
    `noise_model` names the heavier of the two averaged models, `local_level_weight` the balance.
    `dropped_covariates` are columns without variation before the intervention.
    """

    counterfactual: FloatArray
    counterfactual_low: FloatArray
    counterfactual_high: FloatArray
    effect_steps: NDArray[np.int64]
    effect: FloatArray
    effect_low: FloatArray
    effect_high: FloatArray
    cumulative: FloatArray
    cumulative_low: FloatArray
    cumulative_high: FloatArray
    total: EffectInterval
    average: EffectInterval
    relative: EffectInterval | None
    relative_reason: str | None
    total_draws: FloatArray
    p_value: float
    posterior_prob: float
    confidence_level: float
    noise_model: NoiseModel
    local_level_weight: float
    prior: Prior
    is_seasonal: bool
    n_pre: int
    n_post: int
    n_draws: int
    dropped_covariates: tuple[int, ...]
    diagnostics: ImpactDiagnostics
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceboResult:
    """The real effect among effects of interventions that never happened.

    `positions` are the moved intervention steps and `effects` the average effect after each.
    `n_disjoint` of the windows share no step: `p_value` is a fair p only where this is near
    their number. `sign_p_value` tests on the disjoint windows' number that the placebo effects
    centre on 0; `is_one_sided` (all of one sign) is the alarm for a biased model.
    """

    effect: float
    positions: NDArray[np.int64]
    effects: FloatArray
    p_value: float
    sign_p_value: float
    is_one_sided: bool
    n_disjoint: int
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        refuse_non_finite(self)
