"""Local polynomials at a cutoff: weights, nearest-neighbour variance, MSE-optimal bandwidths.

On one side of the cutoff, with x measured from it, K(u) = (1 − |u|)⁺, W = diag K(x_i/h) and rows
R_i = (1, x_i, .., x_i^o), every coefficient is linear in the outcome: β̂_j = Σ l_ji y_i with
l = (R'WR)⁻¹R'W. Hence

    variance        V(β̂_j) = Σ l_ji² ê_i²
    leading bias    β_{o+1} Σ l_ji x_i^{o+1}
    ê_i             √(J/(J + 1)) (y_i − mean of the J nearest neighbours in x), J ≥ 3 with ties

The bandwidth that minimises the mean squared error of the jump in β_ν, with pilot values for
variance (bandwidth h_V) and bias (order o + 1, bandwidth h_B),

    h = [(2ν + 1)h_V^{2ν+1}(V_r + V_l) / ((B_r − B_l)² + R_r + R_l)]^{1/(2o+3)}
    B = √(2(o + 1 − ν)) c β̂_{o+1},   R = 6(o + 1 − ν) c² V(β̂_{o+1})
    c = h_V^{ν−o−1} Σ l_νi x_i^{o+1}

in three steps: bandwidth of the curvature of the bias (o = ν = 3), bias bandwidth b (o = ν = 2),
h (o = 1, ν = 0). R keeps h finite where the estimated curvature is near zero.

What does not belong here: inference on the jump (`discontinuity`), densities (`density`).

References:
    Calonico, Cattaneo & Titiunik 2014, Econometrica 82(6), section 4; Imbens & Kalyanaraman 2012;
    Abadie & Imbens 2006 for the neighbour variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

NEIGHBOURS = 3
ORDER = 1  # of the estimate; its bias is estimated with ORDER + 1
# Rule-of-thumb constant of the triangular kernel for the pilot bandwidth.
PILOT = 2.576
QUARTILES_OF_SD = 1.349
MASS_SHARE = 0.8  # distinct over all values below which mass points change the pilot
FLOOR_VALUES = 10  # distinct values that each bandwidth then holds on a side
SINGULAR = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Rows of one side, sorted by `x`, the running variable less the cutoff; shape (n,)."""

    name: str
    x: Vector
    y: Vector

    @property
    def reach(self) -> float:
        """Distance of the farthest row."""
        return float(np.abs(self.x).max())

    @property
    def n_distinct(self) -> int:
        """Number of distinct values of x."""
        return len(np.unique(self.x))

    def within(self, bandwidth: float) -> Side:
        """Return the rows with a positive kernel weight."""
        kept = np.abs(self.x) < bandwidth
        return Side(name=self.name, x=self.x[kept], y=self.y[kept])


def linear_weights(side: Side, bandwidth: float, order: int) -> Matrix:
    """Return l, shape (order + 1, n): coefficients of x^j as sums over the outcome.

    Raises:
        EstimationError: N_TOO_SMALL below order + 1 distinct values within the bandwidth.
    """
    u = side.x / bandwidth
    root = np.sqrt(np.maximum(1 - np.abs(u), 0.0))
    powers = np.vander(u, order + 1, increasing=True)
    basis, triangle = np.linalg.qr(powers * root[:, None])
    diagonal = np.abs(np.diag(triangle))
    if len(diagonal) <= order or diagonal.min() <= SINGULAR * diagonal.max():
        n = len(np.unique(u[root > 0]))
        detail = f"{n} distinct values within {bandwidth:.6g} of the cutoff, need {order + 1}"
        raise EstimationError("N_TOO_SMALL", f"side {side.name}", detail)
    scaled = np.linalg.solve(triangle, (basis * root[:, None]).T)
    return np.asarray(scaled / bandwidth ** np.arange(order + 1)[:, None], dtype=np.float64)


def neighbour_residuals(side: Side, matches: int = NEIGHBOURS) -> Vector:
    """Return the outcome less the mean of its nearest neighbours in x, scaled to unit variance.

    Rows that share x are neighbours of each other; ties in distance are all taken.

    References:
        Abadie & Imbens 2006; Calonico, Cattaneo & Titiunik 2014, supplement S.2.4.
    """
    n = len(side.x)
    values, block, counts = np.unique(side.x, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    first, last = np.arange(len(values)), np.arange(len(values)) + 1
    padded = np.concatenate([[-np.inf], values, [np.inf]])
    wanted = min(matches, n - 1)
    while True:
        is_short = starts[last] - starts[first] - 1 < wanted
        if not is_short.any():
            break
        below, above = values - padded[first], padded[last + 1] - values
        first = first - (is_short & (below <= above))
        last = last + (is_short & (above <= below))
    centred = side.y - side.y.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    low, high = starts[first][block], starts[last][block]
    n_neighbours = high - low - 1
    others = (sums[high] - sums[low] - centred) / n_neighbours
    residuals = np.sqrt(n_neighbours / (n_neighbours + 1)) * (centred - others)
    return np.asarray(residuals, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pilot:
    """Variance, bias and the regulariser of one side at pilot bandwidths."""

    variance: float
    bias: float
    regulariser: float


def _pilot(side: Side, *, order: int, nu: int, variance_width: float, bias_width: float) -> _Pilot:
    near = side.within(variance_width)
    weights = linear_weights(near, variance_width, order)[nu]
    variance = float(np.square(weights * neighbour_residuals(near)).sum())
    scale = variance_width ** (nu - order - 1)
    constant = scale * float(weights @ near.x ** (order + 1))
    wide = side.within(bias_width)
    curvature_weights = linear_weights(wide, bias_width, order + 1)[order + 1]
    curvature = float(curvature_weights @ (wide.y - side.y.mean()))
    curvature_variance = float(np.square(curvature_weights * neighbour_residuals(wide)).sum())
    factor = 2 * (order + 1 - nu)
    return _Pilot(
        variance=(2 * nu + 1) * variance_width ** (2 * nu + 1) * variance,
        bias=float(np.sqrt(factor)) * constant * curvature,
        regulariser=3 * factor * constant**2 * curvature_variance,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidths:
    """`h` for the estimate, `b` for its bias; `has_mass_points` where ties set a floor."""

    h: float
    b: float
    has_mass_points: bool


def optimal_bandwidths(left: Side, right: Side) -> Bandwidths:
    """Return the MSE-optimal common bandwidth of the local linear jump and that of its bias.

    Raises:
        EstimationError: ZERO_VARIANCE where the running variable or the outcome near the cutoff is
            constant; N_TOO_SMALL with too few distinct values.

    References:
        Calonico, Cattaneo & Titiunik 2014, section 4.2, with their regularisation.
    """
    sides = (left, right)
    x = np.concatenate([left.x, right.x])
    distinct = [side.n_distinct for side in sides]
    has_mass = any(n < MASS_SHARE * len(side.x) for n, side in zip(distinct, sides, strict=True))
    quartiles = np.quantile(x, [0.25, 0.75], method="averaged_inverted_cdf")
    spread = min(float(x.std(ddof=1)), float(np.diff(quartiles)[0]) / QUARTILES_OF_SD)
    if spread <= 0:
        detail = "half of its values or more are equal; hint: the parametric estimate on cells"
        raise EstimationError("ZERO_VARIANCE", "running variable", detail)
    floor = max(_floor(side) for side in sides) if has_mass else 0.0
    farthest = max(side.reach for side in sides)

    def bounded(bandwidth: float) -> float:
        return max(min(bandwidth, farthest), floor)

    # Distinct values, since ties bring no resolution.
    pilot = bounded(PILOT * spread * float(sum(distinct)) ** -0.2)
    everything = tuple(side.reach * (1 + 1e-8) for side in sides)
    curvature = bounded(_width(sides, 3, 3, pilot, everything, is_regularised=False))
    b = bounded(_width(sides, 2, 2, pilot, (curvature, curvature), is_regularised=True))
    h = bounded(_width(sides, 1, 0, pilot, (b, b), is_regularised=True))
    return Bandwidths(h=h, b=b, has_mass_points=has_mass)


def _width(
    sides: tuple[Side, Side],
    order: int,
    nu: int,
    variance_width: float,
    bias_widths: tuple[float, ...],
    *,
    is_regularised: bool,
) -> float:
    left, right = (
        _pilot(side, order=order, nu=nu, variance_width=variance_width, bias_width=width)
        for side, width in zip(sides, bias_widths, strict=True)
    )
    variance = left.variance + right.variance
    bias = (right.bias - left.bias) ** 2
    if is_regularised:
        bias += left.regulariser + right.regulariser
    if not (variance > 0 and bias > 0):
        raise EstimationError("ZERO_VARIANCE", "outcome", "no noise around the pilot polynomial")
    return float((variance / bias) ** (1 / (2 * order + 3)))


def _floor(side: Side) -> float:
    """Distance within which the side has `FLOOR_VALUES` distinct values, or all of them."""
    distances = np.sort(np.unique(np.abs(side.x)))
    return float(distances[min(FLOOR_VALUES, len(distances)) - 1]) * (1 + 1e-8)
