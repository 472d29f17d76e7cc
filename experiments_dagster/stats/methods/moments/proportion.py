"""Difference of two proportions (METHODS 2.4): pooled z, chi-square, Wilson and Newcombe.

    z = (p̂_T − p̂_C)/√[p̄(1 − p̄)(1/n_T + 1/n_C)],   p̄ = (x_T + x_C)/(n_T + n_C),   χ² = z²

Newcombe's interval is for display beside the estimate and has no p-value. Fisher's exact test for
small cells does not belong here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import (
    ArmSummary,
    critical_value,
    two_sided_p_value,
)
from experiments_dagster.stats.methods.moments.score_interval import score_interval
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import ChiSquare, Contrast, Estimate, Inference
from experiments_dagster.stats.relative import relative_estimate


def compare_proportions(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    column: str = "y",
    alpha: float = 0.05,
    inference: Inference = "fixed_horizon",
) -> Contrast:
    """Compare two proportions by the pooled z test and its score interval: estimand p_T − p_C.

    The standard error and the parts of each arm are those of the pooled test; the lift uses the
    unpooled variances of METHODS 2.3.

    Args:
        control: Moments of the control arm.
        treatment: Moments of the treatment arm.
        column: Column of zeros and ones.
        alpha: Two-sided level.
        inference: Label of the records.

    Raises:
        EstimationError: EMPTY_ARM, or ZERO_VARIANCE where all units of both arms are alike.
        ValueError: The column is not made of zeros and ones.

    References:
        Mee 1984; Miettinen & Nurminen 1985; Farrington & Manning 1990 for p̃.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[0, 0, 0, 1] * 25)
        >>> treatment = ArmMoments.from_arrays(y=[0, 0, 1, 1] * 25)
        >>> difference = compare_proportions(control, treatment).difference
        >>> round(difference.p_value, 6), round(difference.ci_low, 4)
        (0.000261, 0.1171)
    """
    x_control, x_treatment = _successes(control, column), _successes(treatment, column)
    n_control, n_treatment = control.n, treatment.n
    arms = ArmSummary(
        control_mean=x_control / n_control,
        treatment_mean=x_treatment / n_treatment,
        n_control=n_control,
        n_treatment=n_treatment,
    )
    pooled = (x_control + x_treatment) / (n_control + n_treatment)
    variance_control = pooled * (1 - pooled) / n_control
    variance_treatment = pooled * (1 - pooled) / n_treatment
    std_error = math.sqrt(variance_control + variance_treatment)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", column, f"all units are {pooled:.0f}")
    estimate = arms.treatment_mean - arms.control_mean
    low, high = score_interval(x_control, n_control, x_treatment, n_treatment, alpha=alpha)
    difference = Estimate(
        estimand="difference",
        inference=inference,
        method="pooled_z",
        variance_formula="pooled",
        estimate=estimate,
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(estimate / std_error),
        degrees_of_freedom=None,
        control_mean=arms.control_mean,
        treatment_mean=arms.treatment_mean,
        n_control=n_control,
        n_treatment=n_treatment,
    )
    unpooled_control = _binomial_variance(x_control, n_control)
    relative, reason = relative_estimate(
        difference,
        variance_control_mean=unpooled_control,
        covariance=-unpooled_control,
        alpha=alpha,
        variance=unpooled_control + _binomial_variance(x_treatment, n_treatment),
    )
    return Contrast(
        difference=difference,
        relative=relative,
        relative_reason=reason,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
    )


def newcombe_interval(
    x_control: int, n_control: int, x_treatment: int, n_treatment: int, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Return Newcombe's hybrid score interval of p_T − p_C, for display without a p-value.

    References:
        Newcombe 1998, method 10.

    Examples:
        >>> low, high = newcombe_interval(25, 100, 50, 100)
        >>> round(low, 4), round(high, 4)
        (0.1162, 0.3717)
    """
    p_control, p_treatment = x_control / n_control, x_treatment / n_treatment
    low_control, high_control = wilson_interval(x_control, n_control, alpha=alpha)
    low_treatment, high_treatment = wilson_interval(x_treatment, n_treatment, alpha=alpha)
    estimate = p_treatment - p_control
    return (
        estimate - math.hypot(p_treatment - low_treatment, high_control - p_control),
        estimate + math.hypot(high_treatment - p_treatment, p_control - low_control),
    )


def wilson_interval(x: int, n: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Return Wilson's score interval of one proportion.

    Raises:
        EstimationError: EMPTY_ARM where `n` is 0.

    References:
        Wilson 1927.

    Examples:
        >>> [round(limit, 4) for limit in wilson_interval(0, 10)]
        [0.0, 0.2775]
    """
    if n == 0:
        raise EstimationError("EMPTY_ARM", "proportion", "0 units")
    z = critical_value(alpha)
    p = x / n
    centre = p + z * z / (2 * n)
    half_width = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The limits at 0 and n successes are exact; rounding would leave them just off.
    low = 0.0 if x == 0 else (centre - half_width) / scale
    high = 1.0 if x == n else (centre + half_width) / scale
    return low, high


def wald_interval(
    x_control: int, n_control: int, x_treatment: int, n_treatment: int, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the unpooled interval of p_T − p_C; it collapses at 0 or n successes."""
    estimate = x_treatment / n_treatment - x_control / n_control
    half_width = critical_value(alpha) * math.sqrt(
        _binomial_variance(x_control, n_control) + _binomial_variance(x_treatment, n_treatment)
    )
    return estimate - half_width, estimate + half_width


def contingency_chi_square(table: ArrayLike, *, yates: bool = False) -> ChiSquare:
    """Test rows and columns of a table of counts for independence.

    Args:
        table: Counts, shape (rows, columns), such as arms by outcome.
        yates: Subtract ½ from each |O − E| (at most all of it).

    Raises:
        EstimationError: ZERO_VARIANCE where a row or column is empty.

    Examples:
        >>> round(contingency_chi_square([[75, 25], [50, 50]]).statistic, 6)
        13.333333
    """
    counts = np.asarray(table, dtype=np.float64)
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    if not (rows.all() and columns.all()):
        raise EstimationError("ZERO_VARIANCE", "chi-square", "a row or column has no units")
    expected = np.outer(rows, columns) / counts.sum()
    off = np.abs(counts - expected)
    if yates:
        off -= np.minimum(0.5, off)
    statistic = float(np.sum(off**2 / expected))
    df = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return ChiSquare(
        statistic=statistic, degrees_of_freedom=df, p_value=float(chdtrc(df, statistic))
    )


def _successes(arm: ArmMoments, column: str) -> int:
    """Count of ones, after checking that mean and spread are those of zeros and ones."""
    p = arm.mean(column)
    x = round(arm.n * p)
    spread = float(arm.cross[arm.columns.index(column), arm.columns.index(column)])
    if abs(arm.n * p - x) > 1e-6 or abs(spread - x * (1 - x / arm.n)) > 1e-6 * max(spread, 1.0):  # noqa: PLR2004
        msg = f"{column} is not made of zeros and ones"
        raise ValueError(msg)
    return x


def _binomial_variance(x: int, n: int) -> float:
    return x / n * (1 - x / n) / n
