"""The record of an effect on units, and the arrays that every estimator of one reads.

    interval   estimate ± z·SE,   SE² = Σψ² of the influence scores (METHODS section 0)

The p-value and the interval invert the same normal test. Estimands: `ate` over all units, `att`
over the treated, `ate_trimmed` over the units inside declared propensity bounds, `att_matched`
over the treated that found a partner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
UnitEstimand = Literal["ate", "att", "ate_trimmed", "att_trimmed", "att_matched"]

# A standard error below this share of the outcome's magnitude is rounding.
ROUNDING = 1e-13


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEffect:
    """An effect estimated on units that were not randomised, and its normal interval.

    `control_mean` and `treatment_mean` are the two potential-outcome means whose difference is
    the estimate; `n_control` and `n_treatment` count the units that carry weight.
    """

    estimand: UnitEstimand
    method: str
    variance_formula: str
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    confidence_level: float
    p_value: float
    control_mean: float
    treatment_mean: float
    n_control: int
    n_treatment: int

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if not self.ci_low <= self.estimate <= self.ci_high:
            msg = f"{self.method}: [{self.ci_low}, {self.ci_high}] misses {self.estimate}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Outcome (n,), treatment (n,) and covariates (n, p) of the same units, all finite."""

    y: FloatArray
    is_treated: BoolArray
    covariates: FloatArray

    def subset(self, rows: BoolArray) -> Units:
        """Return the units where `rows` is true; EMPTY_ARM or N_TOO_SMALL for too small arms."""
        return Units(
            y=self.y[rows],
            is_treated=arm_mask(self.is_treated[rows], int(rows.sum())),
            covariates=self.covariates[rows],
        )


def checked_units(y: ArrayLike, is_treated: ArrayLike, covariates: ArrayLike) -> Units:
    """Return the three arrays as floats and booleans of one length.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL.
        ValueError: Shapes differ, or the treatment is not 0 or 1.
    """
    outcome = unit_column(y, "outcome")
    return Units(
        y=outcome,
        is_treated=arm_mask(is_treated, len(outcome)),
        covariates=covariate_matrix(covariates, len(outcome)),
    )


def covariate_matrix(covariates: ArrayLike, n: int) -> FloatArray:
    """Return the covariates as a finite matrix of n rows."""
    matrix = np.asarray(covariates, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != n:  # noqa: PLR2004
        msg = f"covariates have shape {matrix.shape}, need ({n}, p)"
        raise ValueError(msg)
    is_bad = ~np.isfinite(matrix)
    if is_bad.any():
        column = int(np.flatnonzero(is_bad.any(axis=0))[0])
        raise EstimationError("NON_FINITE_INPUT", "covariates", f"column {column}")
    return matrix


def checked_names(names: Sequence[str] | None, n: int) -> tuple[str, ...]:
    """Return one name per column; x0, x1, ... where none are given."""
    found = tuple(f"x{position}" for position in range(n)) if names is None else tuple(names)
    if len(found) != n or len(set(found)) != n:
        msg = f"{len(found)} names for {n} columns, {len(set(found))} distinct; need one each"
        raise ValueError(msg)
    return found


def effect_from_scores(
    scores: FloatArray,
    *,
    means: tuple[float, float],
    sizes: tuple[int, int],
    estimand: UnitEstimand,
    method: str,
    variance_formula: str,
    alpha: float,
) -> UnitEffect:
    """Return the effect whose variance is the sum of squares of the influence scores.

    Args:
        scores: Shape (n,), summing to about zero.
        means: Potential-outcome means of control and treatment.
        sizes: Units with weight, of control and treatment.
        estimand: Whose effect it is.
        method: Name of the estimator.
        variance_formula: Name of the variance.
        alpha: Two-sided level.

    Raises:
        EstimationError: ZERO_VARIANCE.
    """
    std_error = float(np.sqrt(scores @ scores))
    if std_error <= ROUNDING * max(abs(means[0]), abs(means[1])) or std_error == 0:
        raise EstimationError("ZERO_VARIANCE", method, "the outcome does not vary")
    estimate = means[1] - means[0]
    half_width = critical_value(alpha) * std_error
    return UnitEffect(
        estimand=estimand,
        method=method,
        variance_formula=variance_formula,
        estimate=estimate,
        std_error=std_error,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(estimate / std_error),
        control_mean=means[0],
        treatment_mean=means[1],
        n_control=sizes[0],
        n_treatment=sizes[1],
    )
