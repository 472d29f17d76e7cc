"""CUPED by one pooled coefficient, and its neighbours (METHODS 3.1, options by name).

    cuped_pooled_theta   θ = Cov(X, Y)/Var(X) over all rows, Welch on Y − θ(X − X̄)
    cuped_within_theta   the same with θ from the deviations within each arm
    ancova_hc1           Y on (1, T, X), HC1 variance; no interaction: the estimate of
                         cuped_within_theta with the variance of the regression

    ψ_i of the first two: ±(Y'_i − m'_a)/√(n_a(n_a − 1));   of the last: √(n/(n − 3)) a_i e_i with
    a the row of (X'X)⁻¹X' that belongs to T and e the residuals

The default is `lin.compare_adjusted`: with one coefficient per arm it is never less precise than no
adjustment, whatever the split. The estimand is μ_T − μ_C throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.interacted import (
    Vector,
    arm_mask,
    unit_column,
    without_level,
)
from experiments_dagster.stats.methods.units.lin import adjusted_contrast, first_correlation
from experiments_dagster.stats.methods.units.scores import mean_scores
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Estimate

ANCOVA_COEFFICIENTS = 3  # 1, T, X


def theta_pooled(y: ArrayLike, covariate: ArrayLike) -> float | None:
    """Return Cov(X, Y)/Var(X) over all rows; None for a constant covariate.

    Examples:
        >>> theta_pooled([1.0, 3.0, 5.0], [0.0, 1.0, 2.0])
        2.0
    """
    pair = ArmMoments.from_arrays(y=y, x=covariate)
    variance = pair.variance("x")
    return None if variance == 0 else pair.covariance("x", "y") / variance


def theta_within(y: ArrayLike, is_treated: ArrayLike, covariate: ArrayLike) -> float | None:
    """Return θ from the deviations within each arm; None where X is constant in both.

    Examples:
        >>> theta_within([1.0, 3.0, 10.0, 12.0], [0, 0, 1, 1], [0.0, 1.0, 0.0, 1.0])
        2.0
    """
    outcome, x = unit_column(y, "y"), unit_column(covariate, "covariate")
    mask = arm_mask(is_treated, len(outcome))
    arms = [ArmMoments.from_arrays(y=outcome[rows], x=x[rows]) for rows in (~mask, mask)]
    spread = sum(float(arm.cross[1, 1]) for arm in arms)
    return None if spread == 0 else sum(float(arm.cross[0, 1]) for arm in arms) / spread


def cuped_pooled_theta(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariate: ArrayLike,
    *,
    name: str = "covariate",
    alpha: float = 0.05,
) -> AdjustedContrast:
    """Compare means by Welch's t on Y − θ(X − X̄) with one θ over both arms.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        covariate: Pre-exposure value, shape (n,).
        name: Name of the covariate where it is dropped.
        alpha: Two-sided level, t quantiles.

    Returns:
        The adjusted contrast; without variance in X the unadjusted one, with X dropped.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE.

    References:
        Deng, Xu, Kohavi & Walker 2013.

    Examples:
        >>> x = [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0]
        >>> y = [1.0, 3.0, 5.0, 8.0, 2.0, 4.0, 7.0, 9.0]
        >>> result = cuped_pooled_theta(y, [0] * 4 + [1] * 4, x)
        >>> result.adjusted.difference.estimate, round(result.variance_reduction, 2)
        (1.25, 0.99)
    """
    units = _units(y, is_treated, covariate, name)
    return _welch_with_theta(
        units, theta_pooled(units.y, units.x), method="cuped_pooled_theta", alpha=alpha
    )


def cuped_within_theta(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariate: ArrayLike,
    *,
    name: str = "covariate",
    alpha: float = 0.05,
) -> AdjustedContrast:
    """Compare means by Welch's t on Y − θ(X − X̄), θ from the deviations within the arms.

    Unlike the pooled θ, this one does not absorb a part of the effect where X̄ differs by chance.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        covariate: Pre-exposure value, shape (n,).
        name: Name of the covariate where it is dropped.
        alpha: Two-sided level, t quantiles.

    Returns:
        The adjusted contrast; where X is constant in both arms the unadjusted one, X dropped.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE.

    References:
        Deng, Xu, Kohavi & Walker 2013.
    """
    units = _units(y, is_treated, covariate, name)
    theta = theta_within(units.y, units.is_treated, units.x)
    return _welch_with_theta(units, theta, method="cuped_within_theta", alpha=alpha)


def ancova_hc1(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariate: ArrayLike,
    *,
    name: str = "covariate",
    alpha: float = 0.05,
) -> AdjustedContrast:
    """Regress Y on treatment and one covariate without interaction, HC1 variance.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        covariate: Pre-exposure value, shape (n,).
        name: Name of the covariate where it is dropped.
        alpha: Two-sided level, normal quantiles.

    Returns:
        The adjusted contrast; where X is constant in both arms the unadjusted one, X dropped.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE.

    References:
        MacKinnon & White 1985.
    """
    units = _units(y, is_treated, covariate, name)
    theta = theta_within(units.y, units.is_treated, units.x)
    difference, scores = _ancova_scores(units, theta)
    return _contrast(
        units, theta, difference, scores, method="ancova", formula="ancova_hc1", alpha=alpha
    )


def ancova(
    y: ArrayLike, is_treated: ArrayLike, covariate: ArrayLike, *, alpha: float = 0.05
) -> Estimate:
    """Return the adjusted difference of `ancova_hc1`, refusing a covariate without variance.

    Raises:
        EstimationError: As `ancova_hc1`; SINGULAR_DESIGN where X is constant in both arms.
    """
    result = ancova_hc1(y, is_treated, covariate, alpha=alpha)
    if result.dropped_covariates:
        raise EstimationError("SINGULAR_DESIGN", "ancova", "the covariate is constant in both arms")
    return result.adjusted.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """Checked columns: outcome, raw and without its level, covariate with its name, arm."""

    y: Vector
    centred: Vector
    x: Vector
    is_treated: NDArray[np.bool_]
    name: str


def _units(y: ArrayLike, is_treated: ArrayLike, covariate: ArrayLike, name: str) -> _Units:
    outcome, x = unit_column(y, "y"), unit_column(covariate, name)
    mask = arm_mask(is_treated, len(outcome))
    return _Units(
        y=outcome,
        centred=without_level(outcome)[0],
        x=without_level(x)[0],
        is_treated=mask,
        name=name,
    )


def _welch_with_theta(
    units: _Units, theta: float | None, *, method: str, alpha: float
) -> AdjustedContrast:
    """Welch on Y − θ(X − X̄); the unadjusted contrast without θ."""
    mask = units.is_treated
    values = units.centred - (theta or 0.0) * (units.x - units.x.mean())
    welch = compare_means(
        ArmMoments.from_arrays(y=values[~mask]), ArmMoments.from_arrays(y=values[mask])
    ).difference
    return _contrast(
        units,
        theta,
        welch.estimate,
        mean_scores(values, mask),
        method=method,
        formula="welch",
        alpha=alpha,
        df=welch.degrees_of_freedom,
    )


def _contrast(
    units: _Units,
    theta: float | None,
    difference: float,
    scores: Vector,
    *,
    method: str,
    formula: str,
    alpha: float,
    df: float | None = None,
) -> AdjustedContrast:
    mask = units.is_treated
    control, deviations = units.y[~mask], units.centred[~mask]
    return adjusted_contrast(
        difference=difference,
        scores=scores if theta is not None else mean_scores(units.centred, mask),
        is_treated=mask,
        control_deviations=deviations - deviations.mean(),
        unadjusted=compare_means(
            ArmMoments.from_arrays(y=control), ArmMoments.from_arrays(y=units.y[mask]), alpha=alpha
        ),
        alpha=alpha,
        method=method,
        variance_formula=formula,
        correlation=first_correlation(units.y, units.x[:, None]),
        dropped=(units.name,) if theta is None else (),
        has_covariates=theta is not None,
        df=df,
    )


def _ancova_scores(units: _Units, theta: float | None) -> tuple[float, Vector]:
    """Treatment coefficient of Y on (1, T, X) and its HC1 scores."""
    y, x, mask = units.centred, units.x, units.is_treated
    x_within, y_within, weights = np.empty(len(y)), np.empty(len(y)), np.empty(len(y))
    for sign, rows in ((-1, ~mask), (1, mask)):
        x_within[rows] = x[rows] - x[rows].mean()
        y_within[rows] = y[rows] - y[rows].mean()
        weights[rows] = sign / rows.sum()
    gap = float(x[mask].mean() - x[~mask].mean())
    if theta is not None:
        # Row of (X'X)⁻¹X' that gives the treatment coefficient, by partialling out 1 and X.
        weights -= gap * x_within / float(x_within @ x_within)
    correction = len(y) / (len(y) - ANCOVA_COEFFICIENTS)
    slope = theta or 0.0
    difference = float(y[mask].mean() - y[~mask].mean()) - slope * gap
    return difference, math.sqrt(correction) * weights * (y_within - slope * x_within)
