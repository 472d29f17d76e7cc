"""From pre-exposure columns to a covariate matrix (METHODS 3.2, 3.3).

    number     value with missing as 0, and 1{missing} where any value is missing
    category   1{level} for every level but the largest; levels below 1 % of the units are "other",
               a missing category is the level "missing"

Names are `name`, `name_missing` and `name=level`. The variables keep the order in which they are
given, numbers first, and the levels of one variable are sorted: the order of rows never matters.
Levels are found over all rows passed, so build the matrix once for all arms of a contrast set.

What does not belong here: collinear or constant columns, which `compare_adjusted` drops by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from experiments_dagster.stats.methods.moments.fisher import fisher_exact
from experiments_dagster.stats.methods.units.interacted import (
    Matrix,
    arm_mask,
    with_missing_indicator,
)
from experiments_dagster.stats.moments import check_sizes

MISSING = "missing"
OTHER = "other"
MIN_SHARE = 0.01  # METHODS 3.2
SMALL_EXPECTED = 5.0  # expected count below which chi-square gives way to Fisher (METHODS 2.9)


def design_columns(
    numeric: Mapping[str, ArrayLike],
    categories: Mapping[str, ArrayLike],
    *,
    min_share: float = MIN_SHARE,
) -> tuple[Matrix, tuple[str, ...]]:
    """Build the covariate matrix of numbers and categories fixed before exposure.

    Args:
        numeric: Columns of shape (n,) by name, NaN where missing; put the pre-period value of the
            metric first, its correlation with the outcome is the one reported.
        categories: Columns of labels, shape (n,), by name, None where missing. The labels
            "missing" and "other" join the levels of that name.
        min_share: Smallest share of the units that a level of its own needs, 0 <= min_share < 1.

    Returns:
        Matrix of shape (n, p) and p names. The largest level of a category has no column; of
        several equally large ones it is the first in sorted order.

    Raises:
        EstimationError: NON_FINITE_INPUT for an infinite number.
        ValueError: Lengths differ, or no column is given.

    References:
        METHODS 3.2, 3.3.

    Examples:
        >>> matrix, names = design_columns(
        ...     {"spend": [2.0, float("nan"), 1.0]}, {"country": ["SE", "NO", "SE"]}
        ... )
        >>> names
        ('spend', 'spend_missing', 'country=NO')
        >>> matrix.tolist()
        [[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if not 0 <= min_share < 1:
        msg = f"min_share is {min_share}, need 0 <= min_share < 1"
        raise ValueError(msg)
    blocks = [with_missing_indicator(values, name=name) for name, values in numeric.items()]
    blocks += [_dummies(values, name, min_share) for name, values in categories.items()]
    lengths = {len(matrix) for matrix, _ in blocks}
    if len(lengths) != 1:
        msg = f"covariates need one common length, got {sorted(lengths)}"
        raise ValueError(msg)
    matrix = np.hstack([block for block, _ in blocks])
    return matrix, tuple(name for _, names in blocks for name in names)


def text_labels(values: ArrayLike) -> NDArray[np.str_]:
    """Return labels as text, None and NaN as "missing".

    Examples:
        >>> text_labels(["SE", None]).tolist()
        ['SE', 'missing']
    """
    labels = np.asarray(values, dtype=object)
    if labels.ndim != 1:
        msg = f"labels have shape {labels.shape}, need (n,)"
        raise ValueError(msg)
    is_missing = np.equal(labels, np.array(None, dtype=object)) | np.not_equal(
        labels, labels
    )  # NaN differs from itself
    return np.where(is_missing, MISSING, labels).astype(np.str_)


def missing_differs_by_arm(is_missing: ArrayLike, is_treated: ArrayLike) -> float:
    """Return the p-value of equal shares of missing pre-periods in both arms.

    A pre-period property cannot depend on the arm: p < 0.001 blocks the adjustment. Pearson's
    chi-square without continuity correction, Fisher's exact test where an expected count is below
    5. Nothing missing, or everything, differs in no way: 1.

    Args:
        is_missing: Shape (n,).
        is_treated: Shape (n,).

    Raises:
        EstimationError: EMPTY_ARM or N_TOO_SMALL.

    References:
        Pearson 1900; Fisher 1935; METHODS 3.3, 2.9.

    Examples:
        >>> round(missing_differs_by_arm([1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]), 6)
        0.1
    """
    missing = np.asarray(is_missing, dtype=np.bool_)
    mask = arm_mask(is_treated, len(missing))
    both = int((missing & mask).sum())
    return missing_counts_differ(
        (int(missing.sum()) - both, both), (int((~mask).sum()), int(mask.sum()))
    )


def missing_counts_differ(n_missing: tuple[int, int], n_units: tuple[int, int]) -> float:
    """Return the same p-value from counts, each of control and treatment.

    Raises:
        EstimationError: EMPTY_ARM or N_TOO_SMALL.

    Examples:
        >>> round(missing_counts_differ((0, 3), (3, 3)), 6)
        0.1
    """
    check_sizes(*n_units)
    n, n_treatment, both = sum(n_units), n_units[1], n_missing[1]
    n_missing_all = sum(n_missing)
    if n_missing_all in {0, n}:
        return 1.0
    rows = np.array([n_treatment, n - n_treatment])
    columns = np.array([n_missing_all, n - n_missing_all])
    expected = np.outer(rows, columns) / n
    if expected.min() < SMALL_EXPECTED:
        return fisher_exact(n_missing[0], n - n_treatment, both, n_treatment).p_value
    # All four cells lie equally far from what is expected.
    statistic = (both - expected[0, 0]) ** 2 * float((1 / expected).sum())
    return float(chdtrc(1, statistic))


def _dummies(values: ArrayLike, name: str, min_share: float) -> tuple[Matrix, tuple[str, ...]]:
    """One column for each level but the largest."""
    labels = text_labels(values)
    levels, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_rare = (counts < min_share * len(labels)) & (levels != MISSING)
    # The wider type keeps "other" whole where every label is shorter.
    pooled = np.where(is_rare, OTHER, levels)
    levels, level_codes = np.unique(pooled, return_inverse=True)
    codes = level_codes[codes]
    if len(levels) == 0:
        return np.empty((0, 0)), ()
    reference = int(np.argmax(np.bincount(codes)))
    kept = np.flatnonzero(np.arange(len(levels)) != reference)
    matrix = (codes[:, None] == kept).astype(np.float64)
    return matrix, tuple(f"{name}={levels[position]}" for position in kept)
