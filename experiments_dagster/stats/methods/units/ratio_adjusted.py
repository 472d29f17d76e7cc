"""Covariate-adjusted difference of two ratios of totals (METHODS 3.4).

    L_i = (N_i − R̂_a D_i)/D̄_a, regressed on X − X̄ within its arm
    Δ̂* = R̂_T − R̂_C − [β_T'(X̄_T − X̄) − β_C'(X̄_C − X̄)],   V = Σψ²

With D = 1 this is Lin's estimator, number for number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.ratio import check_denominator, compare_ratios
from experiments_dagster.stats.methods.units.interacted import (
    Vector,
    arm_mask,
    fit_arm,
    rows_of,
    unit_column,
    usable_covariates,
)
from experiments_dagster.stats.methods.units.lin import adjusted_contrast, first_correlation
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast


def compare_ratios_adjusted(
    numerator: ArrayLike,
    denominator: ArrayLike,
    is_treated: ArrayLike,
    covariates: ArrayLike,
    *,
    names: Sequence[str],
    alpha: float = 0.05,
) -> AdjustedContrast:
    """Compare ratios of totals adjusted by pre-exposure covariates: estimand R_T − R_C.

    Args:
        numerator: N per randomisation unit, shape (n,).
        denominator: D per randomisation unit, shape (n,), none negative.
        is_treated: True for treatment, shape (n,).
        covariates: Shape (n, p), such as the pre-period numerator and denominator.
        names: One name per covariate.
        alpha: Two-sided level, normal quantiles.

    Returns:
        As `compare_adjusted`; means are the two raw ratios, `correlation` is that of the linearised
        outcome with the first covariate.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_DENOMINATOR,
            NOT_IDENTIFIED for a negative denominator, ZERO_VARIANCE.

    References:
        Deng, Xu, Kohavi & Walker 2013; Deng et al. 2023; METHODS 3.4.

    Examples:
        >>> d = np.array([1, 2, 3, 1, 2, 3, 1, 2])
        >>> n = np.array([1, 1, 2, 1, 2, 2, 0, 2])
        >>> x = np.array([[0.0], [1], [2], [0], [2], [1], [0], [2]])
        >>> result = compare_ratios_adjusted(n, d, [0, 1] * 4, x, names=["x"])
        >>> round(result.unadjusted.difference.estimate, 6)
        0.035714
    """
    top = unit_column(numerator, "numerator")
    bottom = unit_column(denominator, "denominator")
    if top.shape != bottom.shape:
        msg = f"numerator {top.shape} and denominator {bottom.shape} differ in length"
        raise ValueError(msg)
    if (bottom < 0).any():
        raise EstimationError("NOT_IDENTIFIED", "denominator", "negative values")
    mask = arm_mask(is_treated, len(top))
    usable = usable_covariates(covariates, mask, names)
    for rows, arm in ((~mask, "control"), (mask, "treatment")):
        check_denominator(float(bottom[rows].mean()), arm)
    # Around the ratio of all rows an offset of the ratio costs no digits.
    centred = top - float(top.sum()) / float(bottom.sum()) * bottom
    linearised = np.empty(len(top))
    ratio_control, linearised[~mask] = _linearise(centred[~mask], bottom[~mask])
    ratio_treatment, linearised[mask] = _linearise(centred[mask], bottom[mask])
    control = fit_arm(linearised[~mask], rows_of(usable.matrix, ~mask))
    treatment = fit_arm(linearised[mask], rows_of(usable.matrix, mask))
    scores = np.empty(len(top))
    scores[mask] = treatment.weighted_residuals
    scores[~mask] = -control.weighted_residuals
    return adjusted_contrast(
        difference=ratio_treatment + treatment.intercept - ratio_control - control.intercept,
        scores=scores,
        is_treated=mask,
        control_deviations=linearised[~mask],
        unadjusted=compare_ratios(
            ArmMoments.from_arrays(numerator=top[~mask], denominator=bottom[~mask]),
            ArmMoments.from_arrays(numerator=top[mask], denominator=bottom[mask]),
            alpha=alpha,
        ),
        alpha=alpha,
        method="ratio_adjusted",
        variance_formula="delta_hc2",
        correlation=first_correlation(linearised, covariates),
        dropped=usable.dropped,
        has_covariates=usable.matrix.shape[1] > 0,
    )


def _linearise(numerator: Vector, denominator: Vector) -> tuple[float, Vector]:
    mean_denominator = float(denominator.mean())
    ratio = float(numerator.mean()) / mean_denominator
    return ratio, (numerator - ratio * denominator) / mean_denominator
