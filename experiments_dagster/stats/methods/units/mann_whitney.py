"""Mann-Whitney test: which arm has the larger values, not by how much (METHODS 2.8).

    θ = P(Y_T > Y_C) + ½P(Y_T = Y_C) − ½ = U_T/(n_T n_C) − ½,   U_T = R_T − n_T(n_T + 1)/2
    σ² = n_T n_C/12·[(N + 1) − Σ(t³ − t)/(N(N − 1))]             under H0, t sizes of ties
    z = (|U_T − n_T n_C/2| − ½)/σ,   interval θ̂ ± (z_α σ + ½)/(n_T n_C) within [−½, ½]

R_T is the sum of mid-ranks. The interval inverts the same test, with the variance of no difference
throughout: it says what the test says, and is too wide or too narrow far from zero. Never the test
of a money metric: a larger mean can go with smaller ranks.

References:
    Mann & Whitney 1947; Lehmann 1975, sections 1.3 and 1.4.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column
from experiments_dagster.stats.records import Estimate

CONTINUITY = 0.5


def compare_ranks(y: ArrayLike, is_treated: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """Compare ranks: estimand P(Y_T > Y_C) + ½P(Y_T = Y_C) − ½, zero without an effect.

    `control_mean` and `treatment_mean` are the raw means of the arms; `std_error` is that of the
    estimate where the arms do not differ.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, or ZERO_VARIANCE where all values
            are equal.

    References:
        Mann & Whitney 1947; METHODS 2.8.

    Examples:
        >>> result = compare_ranks([1, 4, 2, 5, 9, 8, 7, 6], [0, 0, 0, 0, 1, 1, 1, 1])
        >>> result.estimate, round(result.p_value, 6)
        (0.5, 0.030383)
    """
    values = unit_column(y, "y")
    mask = arm_mask(is_treated, len(values))
    n_treatment = int(np.count_nonzero(mask))
    n_control = len(values) - n_treatment
    u, sigma = _rank_statistics(values, mask)
    if sigma == 0:
        raise EstimationError("ZERO_VARIANCE", "mann_whitney", "all values are equal")
    pairs = n_control * n_treatment
    shift = u - pairs / 2
    half_width = critical_value(alpha) * sigma + CONTINUITY
    return Estimate(
        estimand="probability_of_superiority",
        inference="fixed_horizon",
        method="mann_whitney",
        variance_formula="null_tie_corrected",
        estimate=shift / pairs,
        std_error=sigma / pairs,
        ci_low=max((shift - half_width) / pairs, -0.5),
        ci_high=min((shift + half_width) / pairs, 0.5),
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(max(abs(shift) - CONTINUITY, 0.0) / sigma),
        degrees_of_freedom=None,
        control_mean=float(values[~mask].mean()),
        treatment_mean=float(values[mask].mean()),
        n_control=n_control,
        n_treatment=n_treatment,
    )


def u_statistic(y: ArrayLike, is_treated: ArrayLike) -> float:
    """Return U_T: pairs in which the treated value is larger, ties counting one half.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL.

    Examples:
        >>> u_statistic([1, 2, 2, 3], [0, 0, 1, 1])
        3.5
    """
    values = unit_column(y, "y")
    return _rank_statistics(values, arm_mask(is_treated, len(values)))[0]


def _rank_statistics(
    values: NDArray[np.float64], is_treated: NDArray[np.bool_]
) -> tuple[float, float]:
    """U of the treatment and its standard deviation without an effect."""
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ties = np.diff(starts, append=len(values)).astype(np.float64)
    treated = np.add.reduceat(is_treated[order].astype(np.float64), starts)
    controls = ties - treated
    # Controls below the group, and half of those in it.
    u = float(treated @ (np.cumsum(controls) - controls / 2))
    n, n_treatment = float(len(values)), float(treated.sum())
    tie_sum = float(np.sum(ties**3 - ties))
    spread = (n + 1) - tie_sum / (n * (n - 1))
    if len(ties) == 1:
        return u, 0.0
    return u, math.sqrt(n_treatment * (n - n_treatment) / 12 * spread)
