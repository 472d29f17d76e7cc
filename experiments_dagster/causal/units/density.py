"""Density of the running variable at a cutoff: do units choose their side?

With F̂ the empirical distribution function of one side, a local polynomial of order 3 of
(n_side/n)·F̂ on x has the density at the cutoff as its slope (triangular kernel, a_i the weights of
the slope, ê_i its residuals):

    f̂ = Σ a_i F̂(x_i),   V = Σ_j (ψ_j − ψ̄)²,   ψ_j = Σ_{i: x_i ≥ x_j} a_i/n + a_j ê_j
    T = (f̂_right − f̂_left)/√(V_right + V_left),  normal

ψ is the projection of the estimator on one observation, and V what the jackknife gives. The
bandwidth of each side minimises the mean squared error of the estimate of order 2, so that the
order 3 used for T removes the leading bias: inference is robust, no histogram bins are chosen.
Tied values enter once, with F̂ at the tie.

What does not belong here: the jump of an outcome (`discontinuity`).

References:
    Cattaneo, Jansson & Ma 2020, JASA 115; McCrary 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from experiments_dagster.causal.units.local_polynomial import Side, linear_weights
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import unit_column

Vector = NDArray[np.float64]

ORDER = 2  # the bandwidth is optimal for this order, inference uses one more
FEWEST_VALUES = 20  # distinct values beyond the coefficients within each bandwidth
PILOT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DensityTest:
    """Continuity of the density of the running variable at the cutoff.

    Args:
        statistic: T, normal where the density is continuous.
        p_value: Two-sided.
        density_left: Estimated density just below the cutoff, per unit of x.
        density_right: Just above it.
        std_error: Of their difference.
        bandwidth_left: In units of x.
        bandwidth_right: In units of x.
        n_left: Rows within the bandwidth below.
        n_right: Rows within it from the cutoff on.
    """

    statistic: float
    p_value: float
    density_left: float
    density_right: float
    std_error: float
    bandwidth_left: float
    bandwidth_right: float
    n_left: int
    n_right: int


def density_jump(
    x: ArrayLike, cutoff: float, *, bandwidths: tuple[float, float] | None = None
) -> DensityTest:
    """Test that the density of the running variable is continuous at the cutoff.

    Not rejecting does not prove that nobody chose a side; rejecting does not say who did.

    Args:
        x: Running variable, shape (n,).
        cutoff: Values from here on are on the right side.
        bandwidths: Left and right, in units of x; default optimal for each side.

    Raises:
        EstimationError: NON_FINITE_INPUT; N_TOO_SMALL below 24 distinct values on a side or within
            a given bandwidth; ZERO_VARIANCE.

    References:
        Cattaneo, Jansson & Ma 2020; METHODS 11.7.

    Examples:
        >>> x = ndtri((np.arange(2000) + 0.5) / 2000)  # a normal sample without noise
        >>> honest = density_jump(x, 0.0)
        >>> every_second = np.arange(2000) % 2 == 0
        >>> moved = density_jump(np.where((-0.3 < x) & (x < 0) & every_second, -x, x), 0.0)
        >>> honest.p_value > 0.9, moved.p_value < 0.001
        (True, True)
    """
    values = np.sort(unit_column(x, "running variable")) - cutoff
    n = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    share_below = (np.cumsum(counts) - 1) / max(n - 1, 1)
    is_left = distinct < 0
    given = bandwidths or (None, None)
    fits = []
    for name, kept, width in (("left", is_left, given[0]), ("right", ~is_left, given[1])):
        if width is not None and not (math.isfinite(width) and width > 0):
            msg = f"bandwidth {name} is {width}, need a positive number"
            raise ValueError(msg)
        side = Side(name=name, x=distinct[kept], y=share_below[kept])
        _refuse_thin(side, width)
        fits.append(_slope(side, values, ORDER + 1, width or _bandwidth(side, values)))
    left, right = fits
    scores = right.scores - left.scores
    std_error = _sd_of_sum(scores)
    if not std_error > 0:
        raise EstimationError("ZERO_VARIANCE", "density", "the distribution has no spread")
    statistic = (right.slope - left.slope) / std_error
    is_right = values >= 0
    return DensityTest(
        statistic=statistic,
        p_value=two_sided_p_value(statistic),
        density_left=left.slope,
        density_right=right.slope,
        std_error=std_error,
        bandwidth_left=left.bandwidth,
        bandwidth_right=right.bandwidth,
        n_left=int((~is_right & (-values < left.bandwidth)).sum()),
        n_right=int((is_right & (values < right.bandwidth)).sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slope:
    """One side: a coefficient of F̂, its score per row and the slope's leading bias factor."""

    slope: float
    scores: Vector
    bias_factor: float
    bandwidth: float


def _slope(
    side: Side, values: Vector, order: int, bandwidth: float, *, coefficient: int = 1
) -> _Slope:
    """Fit F̂ on one side; scores have one value per row of all `values`, sorted."""
    near = side.within(bandwidth)
    all_weights = linear_weights(near, bandwidth, order)
    weights = all_weights[coefficient]
    fitted = np.vander(near.x, order + 1, increasing=True) @ (all_weights @ near.y)
    above = np.concatenate([np.cumsum(weights[::-1])[::-1], [0.0]])
    scores = above[np.searchsorted(near.x, values, side="left")] / len(values)
    # Weights sum to zero: rows on the near side of the window move F̂ by a constant only.
    scores[values < near.x[0]] = 0.0
    first = np.searchsorted(values, near.x, side="left")
    scores[first] += weights * (near.y - fitted)
    return _Slope(
        slope=float(weights @ near.y),
        scores=scores,
        bias_factor=float(weights @ near.x ** (order + 1)),
        bandwidth=bandwidth,
    )


def _bandwidth(side: Side, values: Vector) -> float:
    """Width that minimises the mean squared error of the density of order 2 on one side."""
    n, sorted_reach = len(values), np.sort(np.abs(side.x))
    quartiles = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std()), float(np.diff(quartiles)[0]) / float(2 * ndtri(0.75)))
    floor = float(sorted_reach[FEWEST_VALUES + ORDER + 1]) * (1 + 1e-8)
    ceiling = max(float(sorted_reach[-1]) * (1 + 1e-8), floor)
    # Rate of the third derivative of F̂; a wide pilot, as curvature is hard to see.
    pilot = min(max(PILOT * spread * float(n) ** (-1 / 7), floor), ceiling)
    density = _slope(side, values, ORDER, pilot)
    curvature = _slope(side, values, ORDER + 1, pilot, coefficient=ORDER + 1)
    variance = _sd_of_sum(density.scores) ** 2 * pilot
    constant = density.bias_factor / pilot**ORDER
    noise = _sd_of_sum(curvature.scores) ** 2
    bias = constant**2 * (curvature.slope**2 + noise)  # its variance keeps the width finite
    optimal = (variance / (2 * ORDER * bias)) ** (1 / (2 * ORDER + 1)) if bias > 0 else ceiling
    return float(min(max(optimal, floor), ceiling))


def _sd_of_sum(scores: Vector) -> float:
    return float(np.sqrt(np.square(scores).sum() - scores.sum() ** 2 / len(scores)))


def _refuse_thin(side: Side, bandwidth: float | None) -> None:
    n = len(side.x if bandwidth is None else side.within(bandwidth).x)
    needed = FEWEST_VALUES + ORDER + 2
    if n < needed:
        detail = f"{n} distinct values of the running variable, need {needed}"
        raise EstimationError("N_TOO_SMALL", f"density, side {side.name}", detail)
