"""Does the effect change with the days since exposure? Novelty wears off, primacy grows.

For each day d since exposure the effect δ_d = m_T,d − m_C,d over units observed on every day, with
covariance from the influence scores, Σ = Σ_i ψ_i ψ_i', ψ_i = ±(Y_i − m)/n·√(n/(n−1)):

    slope = (x'Σ⁻¹x)⁻¹ x'Σ⁻¹δ,   SE² = (x'Σ⁻¹x)⁻¹,   x = d − 1'Σ⁻¹d / 1'Σ⁻¹1
    contrast = mean of the last third of the days − mean of the first third

x is centred in the metric of Σ, which is generalised least squares with an intercept: centred at
the plain mean, an effect that never changes would show a slope wherever days differ in variance.
The flag is the slope's, p < 0.01; the contrast describes. METHODS section 7.

References:
    Aitken 1936; Kohavi, Tang & Xu 2020, chapter 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import arm_mask

MIN_DAYS = 7
UNITS_PER_DAY = 20  # the noise of Σ makes z 5 % too large here, and more below
WARN_P = 0.01
SINGULAR = 1e-10  # smallest eigenvalue of the correlation of the days

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyEffects:
    """Effect by day since exposure, shape (days,), with its covariance, shape (days, days)."""

    effects: Vector
    covariance: Matrix
    n_control: int
    n_treatment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyTest:
    """Slope of the effect per day since exposure, and its early against its late level.

    `early` and `late` are the mean effects of the first and last third of the days, `contrast` late
    minus early. `is_flagged` says that the slope's p-value is below 0.01.
    """

    n_days: int
    slope: float
    std_error: float
    statistic: float
    p_value: float
    early: float
    late: float
    contrast: float
    contrast_std_error: float
    contrast_p_value: float
    is_flagged: bool


def daily_effects(values: ArrayLike, is_treated: ArrayLike) -> DailyEffects:
    """Return the effect of each day since exposure with the covariance between the days.

    Args:
        values: Metric by unit and day since exposure, shape (n, days); units mature on all days.
        is_treated: True for treatment, shape (n,).

    Raises:
        EstimationError: NON_FINITE_INPUT (a unit without one of the days), EMPTY_ARM, or
            N_TOO_SMALL below 7 days or 20 units for each day.
        ValueError: Shapes that do not fit.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> is_treated = np.arange(400) % 2 == 1
        >>> y = rng.normal(size=(400, 7)) + is_treated[:, None] * np.linspace(2, 0, 7)
        >>> effect = daily_effects(y, is_treated)
        >>> novelty_test(effect.effects, effect.covariance).is_flagged
        True
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:  # noqa: PLR2004
        msg = f"values have shape {matrix.shape}, need (n, days)"
        raise ValueError(msg)
    if not np.isfinite(matrix).all():
        raise EstimationError("NON_FINITE_INPUT", "effect by day", "units need every day observed")
    mask = arm_mask(is_treated, len(matrix))
    n, days = matrix.shape
    _check_days(days)
    if n < UNITS_PER_DAY * days:
        detail = f"{n} units for {days} days, need {UNITS_PER_DAY * days}"
        raise EstimationError("N_TOO_SMALL", "effect by day", detail)
    effects, covariance = np.zeros(days), np.zeros((days, days))
    for arm, sign in ((matrix[mask], 1.0), (matrix[~mask], -1.0)):
        size = len(arm)
        mean = arm.mean(axis=0)
        scores = (arm - mean) / math.sqrt(size * (size - 1))
        effects += sign * mean
        covariance += scores.T @ scores
    return DailyEffects(
        effects=effects,
        covariance=covariance,
        n_control=n - int(mask.sum()),
        n_treatment=int(mask.sum()),
    )


def novelty_test(effects: ArrayLike, covariance: ArrayLike) -> NoveltyTest:
    """Test whether an effect changes with the days since exposure.

    Args:
        effects: δ, shape (days,), the days in order and one apart.
        covariance: Σ = Σψψ', shape (days, days).

    Raises:
        EstimationError: N_TOO_SMALL below 7 days, NON_FINITE_INPUT, ZERO_VARIANCE for a day, or
            SINGULAR_DESIGN where the days cannot be told apart.
        ValueError: Shapes that do not fit.

    References:
        Aitken 1936; METHODS section 7.

    Examples:
        >>> result = novelty_test([0.9, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2], 0.01 * np.eye(7))
        >>> round(result.slope, 4), round(result.std_error, 4), result.is_flagged
        (-0.1179, 0.0189, True)
    """
    delta, sigma = _checked(effects, covariance)
    days = np.arange(len(delta), dtype=np.float64)
    # Scaled to correlations first, so that days of any variance keep their digits.
    spread = np.sqrt(np.diag(sigma))
    correlation = sigma / np.outer(spread, spread)
    if float(np.linalg.eigvalsh(correlation)[0]) < SINGULAR:
        detail = "effects of some days determine one another"
        raise EstimationError("SINGULAR_DESIGN", "effect by day", detail)
    factor = np.linalg.cholesky(correlation)
    columns = np.column_stack([np.ones_like(days), days, delta]) / spread[:, None]
    one, day, effect = np.linalg.solve(factor, columns).T
    day = day - one * (one @ day) / (one @ one)
    precision = float(day @ day)
    slope, std_error = float(day @ effect) / precision, 1 / math.sqrt(precision)
    third = len(delta) // 3
    weights = np.zeros_like(days)
    weights[:third], weights[-third:] = -1 / third, 1 / third
    contrast = float(weights @ delta)
    contrast_error = math.sqrt(float(weights @ sigma @ weights))
    p_value = two_sided_p_value(slope / std_error)
    return NoveltyTest(
        n_days=len(delta),
        slope=slope,
        std_error=std_error,
        statistic=slope / std_error,
        p_value=p_value,
        early=float(delta[:third].mean()),
        late=float(delta[-third:].mean()),
        contrast=contrast,
        contrast_std_error=contrast_error,
        contrast_p_value=two_sided_p_value(contrast / contrast_error),
        is_flagged=p_value < WARN_P,
    )


def _check_days(days: int) -> None:
    if days < MIN_DAYS:
        raise EstimationError("N_TOO_SMALL", "effect by day", f"{days} days, need {MIN_DAYS}")


def _checked(effects: ArrayLike, covariance: ArrayLike) -> tuple[Vector, Matrix]:
    delta = np.asarray(effects, dtype=np.float64)
    sigma = np.asarray(covariance, dtype=np.float64)
    if delta.ndim != 1 or sigma.shape != (delta.size, delta.size):
        msg = f"effects {delta.shape}, covariance {sigma.shape}: need (days,) and (days, days)"
        raise ValueError(msg)
    _check_days(len(delta))
    if not (np.isfinite(delta).all() and np.isfinite(sigma).all()):
        raise EstimationError("NON_FINITE_INPUT", "effect by day")
    if (np.diag(sigma) <= 0).any():
        raise EstimationError("ZERO_VARIANCE", "effect by day", "a day has no variance")
    return delta, sigma
