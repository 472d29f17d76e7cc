"""Heavy tails: a frozen cap, or logs (METHODS 3.6).

    winsorise    Y' = min(Y, c), c one number for all arms and looks: the 99.9 % quantile (type 7)
                 of the pooled pre-period values, or a value of the plan
    log1p        Y' = ln(1 + Y), estimand E[Y'_T] − E[Y'_C], never turned back into money

A cap per arm biases the effect; a cap found anew at each look breaks sequential validity. The share
of capped units is compared between the arms: a large difference is a result. Trimmed means do not
belong here (`trimmed`).

References:
    Dixon 1960; Hyndman & Fan 1996 for the quantile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.fisher import (
    FISHER_LIMIT,
    fisher_exact,
    has_sparse_cells,
)
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.omnibus import proportions_chi_square
from experiments_dagster.stats.methods.units.interacted import Vector, arm_mask, finite_column
from experiments_dagster.stats.methods.units.scores import mean_scores
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import ScoredContrast

CAP_QUANTILE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class CappedShares:
    """How many units the cap reaches in each arm, and whether the arms differ in that.

    `p_value` is None with `reason` set where no unit, or every unit, is capped.
    """

    capped_control: int
    capped_treatment: int
    n_control: int
    n_treatment: int
    p_value: float | None
    test: Literal["chi_square", "fisher"] | None
    reason: str | None

    @property
    def share_control(self) -> float:
        """Capped share of the control units."""
        return self.capped_control / self.n_control

    @property
    def share_treatment(self) -> float:
        """Capped share of the treatment units."""
        return self.capped_treatment / self.n_treatment


def frozen_cap(values: ArrayLike, quantile: float = CAP_QUANTILE) -> float:
    """Return the cap for the plan: a quantile (type 7) of pooled pre-period values.

    Args:
        values: Pre-period values of all arms together, shape (n,).
        quantile: Share of the values at or below the cap, in (0, 1).

    Raises:
        EstimationError: NON_FINITE_INPUT, N_TOO_SMALL without values, or NOT_IDENTIFIED where the
            quantile is not above 0 (give the cap in the plan).
        ValueError: A quantile outside (0, 1).

    References:
        Hyndman & Fan 1996, type 7; METHODS 3.6.

    Examples:
        >>> frozen_cap([0.0, 1.0, 2.0, 3.0, 100.0], 0.75)
        3.0
    """
    if not 0 < quantile < 1:
        msg = f"quantile is {quantile}, need 0 < quantile < 1"
        raise ValueError(msg)
    column = finite_column(values, "pre-period values")
    if len(column) == 0:
        raise EstimationError("N_TOO_SMALL", "cap", "no pre-period values")
    cap = float(np.quantile(column, quantile, method="linear"))
    if not (cap > 0 and math.isfinite(cap)):
        hint = f"the {quantile} quantile is {cap:.6g}, need more than 0; give the cap in the plan"
        raise EstimationError("NOT_IDENTIFIED", "cap", hint)
    return cap


def winsorise(y: ArrayLike, cap: float) -> Vector:
    """Return min(y, cap) as a new array.

    Args:
        y: Values of all arms, shape (n,).
        cap: The frozen cap, finite and above 0.

    Raises:
        EstimationError: NON_FINITE_INPUT.
        ValueError: A cap that is not finite and above 0.

    Examples:
        >>> winsorise([1.0, 5.0, 900.0], 10.0).tolist()
        [1.0, 5.0, 10.0]
    """
    _check_cap(cap)
    return np.minimum(finite_column(y, "y"), cap)


def compare_capped_shares(y: ArrayLike, is_treated: ArrayLike, cap: float) -> CappedShares:
    """Compare the share of units above the cap between the arms.

    The p-value is that of the two-proportion test without continuity correction, or Fisher's where
    cells are sparse.

    Args:
        y: Values before capping, shape (n,).
        is_treated: True for treatment, shape (n,).
        cap: The frozen cap, finite and above 0.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL.
        ValueError: A cap that is not finite and above 0.

    References:
        METHODS 3.6, 2.4 and 2.9.

    Examples:
        >>> shares = compare_capped_shares([1, 2, 30, 1, 40, 50], [0, 0, 0, 1, 1, 1], 10.0)
        >>> shares.capped_control, shares.capped_treatment, shares.test, round(shares.p_value, 6)
        (1, 2, 'fisher', 1.0)
    """
    _check_cap(cap)
    outcome = finite_column(y, "y")
    mask = arm_mask(is_treated, len(outcome))
    is_capped = outcome > cap
    n = [int(np.count_nonzero(rows)) for rows in (~mask, mask)]
    x = [int(np.count_nonzero(is_capped & rows)) for rows in (~mask, mask)]
    p_value, test, reason = _two_proportions(x, n)
    return CappedShares(
        capped_control=x[0],
        capped_treatment=x[1],
        n_control=n[0],
        n_treatment=n[1],
        p_value=p_value,
        test=test,
        reason=reason,
    )


def log1p_outcome(y: ArrayLike) -> Vector:
    """Return ln(1 + y), precise near 0.

    Args:
        y: Values of 0 or more, shape (n,).

    Raises:
        EstimationError: NON_FINITE_INPUT, or NOT_IDENTIFIED for a negative value.

    Examples:
        >>> log1p_outcome([0.0, 1e-20]).tolist()
        [0.0, 1e-20]
    """
    column = finite_column(y, "y")
    if (column < 0).any():
        raise EstimationError("NOT_IDENTIFIED", "log1p", "negative values have no log")
    return np.log1p(column)


def compare_log_means(
    y: ArrayLike, is_treated: ArrayLike, *, alpha: float = 0.05
) -> ScoredContrast:
    """Compare the means of ln(1 + y) by Welch's t: estimand "log_mean_difference".

    The effect stays on the log scale: there is no lift, and exp of it is not a lift of the mean.

    Args:
        y: Values of 0 or more, shape (n,).
        is_treated: True for treatment, shape (n,).
        alpha: Two-sided level, t quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, NOT_IDENTIFIED for a negative value, EMPTY_ARM,
            N_TOO_SMALL, ZERO_VARIANCE.

    References:
        METHODS 3.6.

    Examples:
        >>> result = compare_log_means([0, 1, 3, 1, 3, 7], [0, 0, 0, 1, 1, 1])
        >>> round(result.contrast.difference.estimate / math.log(2), 6)
        1.0
    """
    logs = log1p_outcome(y)
    mask = arm_mask(is_treated, len(logs))
    contrast = compare_means(
        ArmMoments.from_arrays(y=logs[~mask]), ArmMoments.from_arrays(y=logs[mask]), alpha=alpha
    )
    scores = mean_scores(logs, mask)
    scores.setflags(write=False)
    return ScoredContrast(
        contrast=replace(
            contrast,
            difference=replace(
                contrast.difference, estimand="log_mean_difference", method="welch_log1p"
            ),
            relative=None,
            relative_reason="NOT_IDENTIFIED",
        ),
        scores=scores,
    )


def _check_cap(cap: float) -> None:
    if not (cap > 0 and math.isfinite(cap)):
        msg = f"cap is {cap}, need a finite number above 0"
        raise ValueError(msg)


def _two_proportions(
    x: list[int], n: list[int]
) -> tuple[float | None, Literal["chi_square", "fisher"] | None, str | None]:
    """p-value, its test and the reason for its absence, for successes and sizes of two arms."""
    if sum(x) in {0, sum(n)}:
        return None, None, "ZERO_VARIANCE"
    table = [[x[arm], n[arm] - x[arm]] for arm in (0, 1)]
    if has_sparse_cells(table) and sum(n) <= FISHER_LIMIT:
        return fisher_exact(x[0], n[0], x[1], n[1]).p_value, "fisher", None
    return proportions_chi_square(x, n).p_value, "chi_square", None
