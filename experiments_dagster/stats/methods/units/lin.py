"""Covariate-adjusted difference of means: Lin's fully interacted regression, HC2 variance.

    Δ̂ = (m_T − β_T'(X̄_T − X̄)) − (m_C − β_C'(X̄_C − X̄)),   V = Σψ²   (see `interacted`)

The estimand is μ_T − μ_C, unchanged by adjustment (METHODS 3.1). `hc3` divides by 1 − h where HC2
divides by its root. `lin_superpop` adds the sampling of X̄: ψ_i + (β_T − β_C)'(X_i − X̄)/n. With
several arms X̄ is the mean over all arms of the contrast set, passed as `centre`.

The lift is the adjusted difference over the raw control mean, with ψ_ρ = ψ/m_C − (Δ̂/m_C²)φ_C
(METHODS 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.interacted import (
    Vector,
    arm_mask,
    fit_arm,
    rows_of,
    unit_column,
    usable_covariates,
    with_missing_indicator,
    without_level,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import AdjustedContrast, Contrast
from experiments_dagster.stats.relative import contrast_of

__all__ = ["adjusted_contrast", "compare_adjusted", "with_missing_indicator"]

VarianceFormula = Literal["lin_hc2", "lin_superpop", "hc3"]

NO_VARIANCE = 1e-12  # adjusted over unadjusted standard error when covariates explain everything


def compare_adjusted(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariates: ArrayLike,
    *,
    names: Sequence[str],
    alpha: float = 0.05,
    variance_formula: VarianceFormula = "lin_hc2",
    centre: ArrayLike | None = None,
) -> AdjustedContrast:
    """Compare means adjusted by pre-exposure covariates: estimand μ_T − μ_C.

    Covariates must be fixed before each unit's own first exposure; missing values are handled by
    the caller (`with_missing_indicator`). Without a usable covariate the result is Welch's.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        covariates: Shape (n, p).
        names: One name per covariate, reported where a column is dropped.
        alpha: Two-sided level, normal quantiles.
        variance_formula: `lin_hc2`, `hc3`, or `lin_superpop` for the sampling of X̄ as well.
        centre: X̄ over all arms of the contrast set, shape (p,); default over these two.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE.
        ValueError: A `centre` with `lin_superpop`: the units behind X̄ are not all here.

    References:
        Lin 2013; MacKinnon & White 1985; Deng, Xu, Kohavi & Walker 2013.

    Examples:
        >>> x = np.arange(8.0)
        >>> y = 2 * x + [0, 1, 0, 2, 1, 1, 0, 3]
        >>> result = compare_adjusted(y, [0, 1] * 4, x[:, None], names=["x"])
        >>> round(result.adjusted.difference.estimate, 6), round(result.variance_reduction, 3)
        (1.35, 0.985)
    """
    if centre is not None and variance_formula == "lin_superpop":
        msg = "centre is given: lin_superpop needs every unit behind it, choose lin_hc2 or hc3"
        raise ValueError(msg)
    outcome = unit_column(y, "y")
    mask = arm_mask(is_treated, len(outcome))
    usable = usable_covariates(covariates, mask, names, centre=centre)
    centred, _ = without_level(outcome)
    control = fit_arm(centred[~mask], rows_of(usable.matrix, ~mask))
    treatment = fit_arm(centred[mask], rows_of(usable.matrix, mask))
    scores = np.empty(len(outcome))
    scores[mask] = treatment.weighted_residuals
    scores[~mask] = -control.weighted_residuals
    if variance_formula == "hc3":
        scores[mask] /= np.sqrt(1 - treatment.leverage)
        scores[~mask] /= np.sqrt(1 - control.leverage)
    if variance_formula == "lin_superpop":
        scores += usable.matrix @ (treatment.slopes - control.slopes) / len(outcome)
    return adjusted_contrast(
        difference=treatment.intercept - control.intercept,
        scores=scores,
        is_treated=mask,
        control_deviations=centred[~mask] - centred[~mask].mean(),
        unadjusted=compare_means(
            ArmMoments.from_arrays(y=outcome[~mask]),
            ArmMoments.from_arrays(y=outcome[mask]),
            alpha=alpha,
        ),
        alpha=alpha,
        method="lin",
        variance_formula=variance_formula,
        correlation=first_correlation(outcome, covariates),
        dropped=usable.dropped,
        has_covariates=usable.matrix.shape[1] > 0,
    )


def adjusted_contrast(
    *,
    difference: float,
    scores: Vector,
    is_treated: NDArray[np.bool_],
    control_deviations: Vector,
    unadjusted: Contrast,
    alpha: float,
    method: str,
    variance_formula: str,
    correlation: float | None,
    dropped: tuple[str, ...],
    has_covariates: bool,
    df: float | None = None,
) -> AdjustedContrast:
    """Assemble the record of an adjusted effect from its influence scores.

    Args:
        difference: Adjusted effect.
        scores: ψ with Σψ² its variance, shape (n,).
        is_treated: Shape (n,).
        control_deviations: Raw outcome of the control units minus its mean, shape (n_C,).
        unadjusted: Contrast of the same rows without covariates.
        alpha: Two-sided level.
        method: Name of the estimator.
        variance_formula: Name of the variance.
        correlation: Of the outcome and the first covariate.
        dropped: Names of the covariates left out.
        has_covariates: False where all were dropped: the unadjusted contrast stands.
        df: Degrees of freedom; None for normal quantiles.

    Raises:
        EstimationError: ZERO_VARIANCE where the covariates explain the outcome fully.
    """
    adjusted = unadjusted
    raw = unadjusted.difference
    if has_covariates:
        variance_control = float(np.square(scores[~is_treated]).sum())
        variance_treatment = float(np.square(scores[is_treated]).sum())
        std_error = math.sqrt(variance_control + variance_treatment)
        if std_error <= NO_VARIANCE * raw.std_error:
            raise EstimationError("ZERO_VARIANCE", method, "covariates explain the outcome fully")
        n = raw.n_control
        # Influence of the raw control mean, with the n/(n−1) of the sample variance.
        influence = control_deviations / n * math.sqrt(n / (n - 1))
        adjusted = contrast_of(
            difference_estimate(
                difference,
                std_error,
                arms=ArmSummary(
                    control_mean=raw.control_mean,
                    treatment_mean=raw.treatment_mean,
                    n_control=raw.n_control,
                    n_treatment=raw.n_treatment,
                ),
                alpha=alpha,
                method=method,
                variance_formula=variance_formula,
                df=df,
            ),
            variance_control=variance_control,
            variance_treatment=variance_treatment,
            alpha=alpha,
            variance_control_mean=float(np.square(influence).sum()),
            covariance=float(scores[~is_treated] @ influence),
        )
    scores.setflags(write=False)
    return AdjustedContrast(
        adjusted=adjusted,
        unadjusted=unadjusted,
        variance_reduction=1 - (adjusted.difference.std_error / raw.std_error) ** 2,
        correlation=correlation,
        dropped_covariates=dropped,
        scores=scores,
    )


def first_correlation(outcome: Vector, covariates: ArrayLike) -> float | None:
    """Return the correlation of the outcome and the first covariate; None where undefined."""
    matrix = np.asarray(covariates, dtype=np.float64)
    if matrix.shape[1] == 0:
        return None
    pair = ArmMoments.from_arrays(y=outcome, x=matrix[:, 0])
    spread_y, spread_x = math.sqrt(pair.variance("y")), math.sqrt(pair.variance("x"))
    if spread_y == 0 or spread_x == 0:
        return None
    return min(1.0, max(-1.0, pair.covariance("y", "x") / spread_y / spread_x))
