"""Whether the groups look alike before and after adjustment: the love plot's numbers.

    SMD = (x̄_T − x̄_C)/s,   weighted means after adjustment, s always from before it
    s     ATT: sd of the treated;   ATE: √((s_T² + s_C²)/2);   0/1 columns: √(p(1 − p))
    |SMD| after adjustment > 0.1: WEAK,   > 0.25: REFUSED     (METHODS 11.8)

Where the treated do not vary in a column, s falls back to the pooled sd. The variance ratio is
weighted, and absent for 0/1 columns, whose variance is their mean's.

References:
    Rosenbaum & Rubin 1985; Austin 2009; Stuart 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import BoolArray, checked_names, covariate_matrix
from experiments_dagster.causal.units.weighting import Target, effective_sample_size
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

Status = Literal["SUPPORTED", "WEAK", "REFUSED"]

WEAK_ABOVE, REFUSED_ABOVE = 0.1, 0.25
# Differences of a column that varies nowhere, against its magnitude.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceRow:
    """One covariate: standardised differences and variance ratios, treated over control."""

    name: str
    smd_before: float
    smd_after: float
    variance_ratio_before: float | None
    variance_ratio_after: float | None
    scale: float

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceTable:
    """All covariates, in input order, and what they allow to be claimed.

    `max_weight_share` is the largest share of its arm's weight on one unit.
    """

    rows: tuple[BalanceRow, ...]
    target: Target
    status: Status
    worst: str
    worst_smd: float
    ess_control: float
    ess_treatment: float
    max_weight_share: float


def balance_table(
    covariates: ArrayLike,
    is_treated: ArrayLike,
    weights: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    target: Target = "att",
) -> BalanceTable:
    """Compare covariates between the groups before and after weighting or matching.

    Args:
        covariates: Shape (n, p), with every level of a category as a column of its own.
        is_treated: 0 or 1, shape (n,).
        weights: Of the adjustment, not negative, shape (n,): inverse propensities, or 1 for
            matched units and 0 for the others.
        names: One per column.
        target: Whose standard deviation is the unit.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL; ZERO_DENOMINATOR where an arm
            has no weight; ZERO_VARIANCE for a column that is constant in all units.
        ValueError: Shapes differ or a weight is negative.

    Examples:
        >>> table = balance_table([[0.0], [1.0], [1.0], [2.0]], [0, 0, 1, 1], [0, 1, 1, 0])
        >>> round(table.rows[0].smd_before, 6), table.rows[0].smd_after, table.status
        (1.414214, 0.0, 'SUPPORTED')
    """
    given = unit_column(weights, "weights")
    mask = arm_mask(is_treated, len(given))
    matrix = covariate_matrix(covariates, len(given))
    if (given < 0).any() or not matrix.shape[1]:
        msg = f"{int((given < 0).sum())} negative weights, {matrix.shape[1]} columns; need 0, >= 1"
        raise ValueError(msg)
    if not (given[mask].sum() > 0 and given[~mask].sum() > 0):
        raise EstimationError("ZERO_DENOMINATOR", "weights", "an arm has no weight")
    rows = tuple(
        _row(name, matrix[:, position], mask, given, target)
        for position, name in enumerate(checked_names(names, matrix.shape[1]))
    )
    worst = max(rows, key=lambda row: abs(row.smd_after))
    return BalanceTable(
        rows=rows,
        target=target,
        status=status_of(worst.smd_after),
        worst=worst.name,
        worst_smd=worst.smd_after,
        ess_control=effective_sample_size(given[~mask]),
        ess_treatment=effective_sample_size(given[mask]),
        max_weight_share=max(float(given[arm].max() / given[arm].sum()) for arm in (mask, ~mask)),
    )


def status_of(smd: float) -> Status:
    """Return what a standardised difference after adjustment allows to be claimed.

    Examples:
        >>> [status_of(smd) for smd in (0.1, -0.2, 0.3)]
        ['SUPPORTED', 'WEAK', 'REFUSED']
    """
    if abs(smd) > REFUSED_ABOVE:
        return "REFUSED"
    return "WEAK" if abs(smd) > WEAK_ABOVE else "SUPPORTED"


def _row(
    name: str, x: FloatArray, mask: BoolArray, weights: FloatArray, target: Target
) -> BalanceRow:
    is_binary = bool(np.isin(x, (0.0, 1.0)).all())
    scale = _scale(x, mask, target, is_binary=is_binary)
    if scale <= ROUNDING * float(np.abs(x).max()):
        raise EstimationError("ZERO_VARIANCE", f"covariate {name}", "constant in all units")
    even = np.ones(len(x))
    return BalanceRow(
        name=name,
        smd_before=_difference(x, mask, even) / scale,
        smd_after=_difference(x, mask, weights) / scale,
        variance_ratio_before=None if is_binary else _variance_ratio(x, mask, even),
        variance_ratio_after=None if is_binary else _variance_ratio(x, mask, weights),
        scale=scale,
    )


def _scale(x: FloatArray, mask: BoolArray, target: Target, *, is_binary: bool) -> float:
    """The standard deviation that differences are measured in."""
    variances = [
        float(x[arm].mean() * (1 - x[arm].mean())) if is_binary else float(x[arm].var(ddof=1))
        for arm in (mask, ~mask)
    ]
    smallest = (ROUNDING * float(np.abs(x).max())) ** 2
    if target == "att" and variances[0] > smallest:
        return float(np.sqrt(variances[0]))
    pooled = float(np.sqrt(sum(variances) / 2))
    # Constant in both arms at different values: only the whole sample varies.
    return pooled if sum(variances) / 2 > smallest else float(x.std())


def _difference(x: FloatArray, mask: BoolArray, weights: FloatArray) -> float:
    treated, control = (np.average(x[arm], weights=weights[arm]) for arm in (mask, ~mask))
    return float(treated - control)


def _variance_ratio(x: FloatArray, mask: BoolArray, weights: FloatArray) -> float | None:
    """Weighted variance of the treated over that of the controls; None where one is zero."""
    treated, control = (_weighted_variance(x[arm], weights[arm]) for arm in (mask, ~mask))
    return treated / control if treated > 0 and control > 0 else None


def _weighted_variance(x: FloatArray, weights: FloatArray) -> float:
    """Unbiased for reliability weights; zero where one unit carries all weight."""
    total = weights.sum()
    free = total - weights @ weights / total
    mean = np.average(x, weights=weights)
    return float(weights @ np.square(x - mean) / free) if free > ROUNDING * total else 0.0
