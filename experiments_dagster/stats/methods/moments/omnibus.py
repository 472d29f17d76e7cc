"""Whether any of several arms differs: Welch's analysis of variance, χ² of proportions.

With w_a = n_a/s_a², W = Σw_a, m̃ = Σw_a m_a/W, Λ = Σ(1 − w_a/W)²/(n_a − 1) over k arms:

    F = [Σw_a(m_a − m̃)²/(k − 1)] / [1 + 2(k − 2)Λ/(k² − 1)],   df (k − 1, (k² − 1)/(3Λ))

For two arms F is the square of Welch's t. Shown as information (METHODS 2.11): decisions compare
each treatment with control, and adjust for their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.proportion import contingency_chi_square
from experiments_dagster.stats.moments import ArmMoments, mean_difference
from experiments_dagster.stats.records import ChiSquare


@dataclass(frozen=True, slots=True, kw_only=True)
class WelchAnova:
    """An F statistic of several means with unequal variances, and its upper-tail p-value."""

    statistic: float
    df_between: int
    df_within: float
    p_value: float


def welch_anova(arms: Sequence[ArmMoments], *, column: str = "y") -> WelchAnova:
    """Test the means of two or more arms for equality, variances unequal.

    Args:
        arms: Moments, one per arm.
        column: Column to compare.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, or ZERO_VARIANCE where one arm is constant (its
            weight would be infinite).
        ValueError: Fewer than two arms.

    References:
        Welch 1951, Biometrika 38; METHODS 2.11.

    Examples:
        >>> arms = [ArmMoments.from_arrays(y=y) for y in ([1, 2, 3], [2, 4, 6], [5, 6, 8])]
        >>> test = welch_anova(arms)
        >>> round(test.statistic, 3), test.df_between, round(test.df_within, 3)
        (7.292, 2, 3.698)
    """
    k = _check_number(len(arms))
    n = np.array([arm.n for arm in arms], dtype=np.float64)
    deviations = np.array([mean_difference(arms[0], arm, column) for arm in arms])
    variances = np.array([arm.variance(column) for arm in arms]) / n
    if not variances.all():
        raise EstimationError("ZERO_VARIANCE", column, "an arm is constant")
    # Relative to the most precise arm, so that neither scale nor offset of the metric matters.
    shares = variances.min() / variances
    shares /= shares.sum()
    deviations -= shares @ deviations
    between = float(np.sum(deviations**2 / variances)) / (k - 1)
    imbalance = float(np.sum((1 - shares) ** 2 / (n - 1)))
    statistic = between / (1 + 2 * (k - 2) * imbalance / (k * k - 1))
    df_within = (k * k - 1) / (3 * imbalance)
    return WelchAnova(
        statistic=statistic,
        df_between=k - 1,
        df_within=df_within,
        p_value=float(fdtrc(k - 1, df_within, statistic)),
    )


def proportions_chi_square(successes: ArrayLike, units: ArrayLike) -> ChiSquare:
    """Test the proportions of two or more arms for equality.

    Where `fisher.has_sparse_cells` holds for the table of successes and failures, its p-value is
    the better one.

    Args:
        successes: Units with the outcome, shape (k,).
        units: All units, shape (k,).

    Raises:
        EstimationError: EMPTY_ARM, or ZERO_VARIANCE where all units of all arms are alike.
        ValueError: Fewer than two arms, or successes outside 0..units.

    References:
        Pearson 1900; METHODS 2.9.

    Examples:
        >>> test = proportions_chi_square([25, 50, 40], [100, 100, 100])
        >>> round(test.statistic, 4), test.degrees_of_freedom, round(test.p_value, 6)
        (13.396, 2, 0.001233)
    """
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(units, dtype=np.float64)
    if x.shape != n.shape or x.ndim != 1:
        msg = f"successes {x.shape} and units {n.shape} need one common shape (k,)"
        raise ValueError(msg)
    _check_number(len(x))
    if not ((x >= 0) & (x <= n)).all():
        msg = f"successes {x.tolist()} of units {n.tolist()}, need 0..units"
        raise ValueError(msg)
    if not n.all():
        raise EstimationError("EMPTY_ARM", f"arm {int(np.argmin(n))}", "0 units")
    return contingency_chi_square(np.column_stack([x, n - x]))


def _check_number(k: int) -> int:
    if k < 2:  # noqa: PLR2004
        msg = f"{k} arms, need two or more"
        raise ValueError(msg)
    return k
