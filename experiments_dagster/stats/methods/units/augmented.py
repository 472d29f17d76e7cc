"""Covariate adjustment of any contrast from its influence scores (METHODS 3.2, 3.4).

    Δ̂* = Δ̂ − θ'Δ̂_X,   θ = Var(Δ̂_X)⁻¹Cov(Δ̂_X, Δ̂) with both covariances from ψ,   V* = Σψ*²

Taken arm by arm: L_i = ±ψ_i √(n_a(n_a − 1)) is the linearised outcome of the unit, regressed on
X − X̄ in its arm; θ'Δ̂_X = β_T'(X̄_T − X̄) − β_C'(X̄_C − X̄), and ψ* are the HC2 residual scores of
`interacted`. For means L is Y − m_a and the result is Lin's, for ratios that of `ratio_adjusted`,
number for number; quantiles and others come by the same line.

The scores must be those of an unadjusted two-arm contrast: −ψ of the control units is then the
influence of the control value that the lift divides by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import (
    arm_mask,
    fit_arm,
    rows_of,
    unit_column,
    usable_covariates,
)
from experiments_dagster.stats.methods.units.lin import adjusted_contrast, first_correlation
from experiments_dagster.stats.records import AdjustedContrast, Contrast, ScoredContrast


def augment(
    scored: ScoredContrast,
    is_treated: ArrayLike,
    covariates: ArrayLike,
    *,
    names: Sequence[str],
    alpha: float = 0.05,
) -> AdjustedContrast:
    """Adjust a contrast by pre-exposure covariates: the estimand stays that of the contrast.

    Args:
        scored: Unadjusted contrast with scores of shape (n,).
        is_treated: True for treatment, shape (n,), in the order of the scores.
        covariates: Fixed before exposure, shape (n, p), without missing values.
        names: One name per covariate, reported where a column is dropped.
        alpha: Two-sided level, normal quantiles.

    Returns:
        The adjusted beside the given contrast; without a usable covariate the two are one.
        `correlation` is that of the linearised outcome with the first covariate.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE; NOT_IDENTIFIED
            where the contrast has no p-value, such as a quantile at a mass point.
        ValueError: The scores are fewer or more than the units.

    References:
        Deng, Xu, Kohavi & Walker 2013; Deng et al. 2023; Lin 2013.

    Examples:
        >>> from experiments_dagster.stats.methods.moments.mean import compare_means
        >>> from experiments_dagster.stats.moments import ArmMoments
        >>> x, y = np.arange(8.0), 2 * np.arange(8.0) + [0, 1, 0, 2, 1, 1, 0, 3]
        >>> contrast = compare_means(
        ...     ArmMoments.from_arrays(y=y[::2]), ArmMoments.from_arrays(y=y[1::2])
        ... )
        >>> deviations = y - np.where(np.arange(8) % 2, y[1::2].mean(), y[::2].mean())
        >>> scores = np.array([-1, 1] * 4) * deviations / np.sqrt(12)
        >>> scored = ScoredContrast(contrast=contrast, scores=scores)
        >>> result = augment(scored, [0, 1] * 4, x[:, None], names=["x"])
        >>> round(result.adjusted.difference.estimate, 6), round(result.variance_reduction, 3)
        (1.35, 0.985)
    """
    raw = scored.contrast.difference
    if raw.p_value is None:
        detail = "the contrast has an interval but no test, its scores give none"
        raise EstimationError("NOT_IDENTIFIED", raw.method, detail)
    psi = unit_column(scored.scores, "scores")
    mask = arm_mask(is_treated, len(psi))
    usable = usable_covariates(covariates, mask, names)
    difference, scores, linearised = raw.estimate, np.empty(len(psi)), np.empty(len(psi))
    for sign, rows in ((-1, ~mask), (1, mask)):
        n = int(rows.sum())
        linearised[rows] = sign * math.sqrt(n * (n - 1)) * psi[rows]
        fit = fit_arm(linearised[rows], rows_of(usable.matrix, rows))
        # Quantile scores do not sum to exactly zero in an arm; that rest is no adjustment.
        difference += sign * (fit.intercept - float(linearised[rows].mean()))
        scores[rows] = sign * fit.weighted_residuals
    result = adjusted_contrast(
        difference=difference,
        scores=scores if usable.matrix.shape[1] else psi.copy(),
        is_treated=mask,
        control_deviations=linearised[~mask],
        unadjusted=scored.contrast,
        alpha=alpha,
        method=f"{raw.method}_adjusted",
        variance_formula=f"{raw.variance_formula}_hc2",
        correlation=first_correlation(linearised, covariates),
        dropped=usable.dropped,
        has_covariates=usable.matrix.shape[1] > 0,
    )
    return replace(result, adjusted=_labelled(result.adjusted, scored.contrast))


def _labelled(adjusted: Contrast, raw: Contrast) -> Contrast:
    """The adjusted contrast under the estimands of the given one."""
    difference = replace(
        adjusted.difference,
        estimand=raw.difference.estimand,
        inference=raw.difference.inference,
    )
    if raw.relative is None or adjusted.relative is None:
        return replace(
            adjusted,
            difference=difference,
            relative=None,
            relative_reason=raw.relative_reason or adjusted.relative_reason,
        )
    relative = replace(
        adjusted.relative, estimand=raw.relative.estimand, inference=raw.relative.inference
    )
    return replace(adjusted, difference=difference, relative=relative)
