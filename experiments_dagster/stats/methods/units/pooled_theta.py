"""CUPED by one pooled coefficient, and its neighbours (METHODS 3.1, options by name).

    cuped_pooled_theta   θ = Cov(X, Y)/Var(X) over all rows, Welch on Y − θ(X − X̄)
    theta_within         the same from deviations within each arm
    ancova_hc1           Y on (1, T, X), HC1 variance; no interaction

The default is `lin.compare_adjusted`: with one coefficient per arm it is never less precise than no
adjustment, whatever the split. The estimand is μ_T − μ_C throughout.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.interacted import Vector, arm_mask, unit_column
from experiments_dagster.stats.methods.units.lin import adjusted_contrast, first_correlation
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Estimate


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
    """
    outcome, x = unit_column(y, "y"), unit_column(covariate, name)
    mask = arm_mask(is_treated, len(outcome))
    theta = theta_pooled(outcome, x)
    adjusted = outcome - (theta or 0.0) * (x - x.mean())
    welch = compare_means(
        ArmMoments.from_arrays(y=adjusted[~mask]), ArmMoments.from_arrays(y=adjusted[mask])
    ).difference
    return adjusted_contrast(
        difference=welch.estimate,
        scores=_mean_scores(adjusted, mask),
        is_treated=mask,
        control_deviations=outcome[~mask] - outcome[~mask].mean(),
        unadjusted=compare_means(
            ArmMoments.from_arrays(y=outcome[~mask]),
            ArmMoments.from_arrays(y=outcome[mask]),
            alpha=alpha,
        ),
        alpha=alpha,
        method="cuped_pooled_theta",
        variance_formula="welch",
        correlation=first_correlation(outcome, x[:, None]),
        dropped=(name,) if theta is None else (),
        has_covariates=theta is not None,
        df=welch.degrees_of_freedom,
    )


def ancova(
    y: ArrayLike, is_treated: ArrayLike, covariate: ArrayLike, *, alpha: float = 0.05
) -> Estimate:
    """Regress Y on treatment and one covariate without interaction, HC1 variance.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        covariate: Pre-exposure value, shape (n,).
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, SINGULAR_DESIGN where X is
            constant in both arms, ZERO_VARIANCE.

    References:
        MacKinnon & White 1985.
    """
    outcome, x = unit_column(y, "y"), unit_column(covariate, "covariate")
    mask = arm_mask(is_treated, len(outcome))
    theta = theta_within(outcome, mask, x)
    if theta is None:
        raise EstimationError("SINGULAR_DESIGN", "ancova", "the covariate is constant in both arms")
    difference, influence = 0.0, np.empty(len(outcome))
    means, x_within = {}, np.empty(len(outcome))
    for sign, rows in ((-1, ~mask), (1, mask)):
        means[sign] = float(outcome[rows].mean())
        difference += sign * (means[sign] - theta * float(x[rows].mean()))
        x_within[rows] = x[rows] - x[rows].mean()
        influence[rows] = sign / rows.sum()
    gap = float(x[mask].mean() - x[~mask].mean())
    # Row of (X'X)⁻¹X' that gives the treatment coefficient, by partialling out 1 and X.
    influence -= gap * x_within / float(x_within @ x_within)
    residuals = outcome - np.where(mask, means[1], means[-1]) - theta * x_within
    n, n_coefficients = len(outcome), 3
    correction = n / (n - n_coefficients) if n > n_coefficients else math.inf
    return difference_estimate(
        difference,
        math.sqrt(correction * float(np.square(influence * residuals).sum())),
        arms=ArmSummary(
            control_mean=means[-1],
            treatment_mean=means[1],
            n_control=int((~mask).sum()),
            n_treatment=int(mask.sum()),
        ),
        alpha=alpha,
        method="ancova",
        variance_formula="ancova_hc1",
    )


def _mean_scores(values: Vector, is_treated: NDArray[np.bool_]) -> Vector:
    """Influence scores of a difference of means whose squares sum to Welch's variance."""
    scores = np.empty(len(values))
    for sign, rows in ((-1, ~is_treated), (1, is_treated)):
        n = int(rows.sum())
        scores[rows] = sign * (values[rows] - values[rows].mean()) / math.sqrt(n * (n - 1))
    return scores
