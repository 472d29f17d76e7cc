"""Regression discontinuity, sharp: the jump of the outcome where a rule starts to apply.

Units with x at or above the cutoff are treated. On each side a line is fitted by local least
squares with the triangular kernel and bandwidth h. With its weights l (see `local_polynomial`),
κ = Σ l_i x_i² and β̂_2 the curvature of a local quadratic of bandwidth b,

    conventional     τ̂ = μ̂_right − μ̂_left,  μ̂ = Σ l_i y_i
    bias-corrected   τ̂_bc = τ̂ − (κ_right β̂_2,right − κ_left β̂_2,left)
    robust           the same estimate, its variance including that of the estimated bias:
                     V = Σ (l_i − κ l_2i)² ê_i², ê from nearest neighbours

Inference uses the robust row: at the h that minimises the mean squared error the bias is of the
order of the error, and the conventional interval ignores it. `parametric_discontinuity` fits one
global polynomial, for cells such as monthly rates; its curvature is assumed, not estimated.

It rests on units not choosing their side (`density`), on nothing else starting at the cutoff, and
speaks of units near it only. Refutations are in `discontinuity_checks`.

References:
    Calonico, Cattaneo & Titiunik 2014; Imbens & Lemieux 2008; Hahn, Todd & van der Klaauw 2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.units.local_polynomial import (
    ORDER,
    Bandwidths,
    Side,
    linear_weights,
    neighbour_residuals,
    optimal_bandwidths,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, check_alpha, difference_estimate
from experiments_dagster.stats.methods.units.interacted import unit_column
from experiments_dagster.stats.records import Estimate

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Variance = Literal["ols", "hc1"]

FEWEST_ROWS = 50  # within h, on each side
FEW_DISTINCT = 0.2  # share of distinct values within h below which neighbours are mostly ties
MOST_POWERS = 2  # of a parametric fit: higher ones follow noise at the cutoff
SINGULAR = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Discontinuity:
    """The jump at the cutoff by local linear regression.

    Means of the estimates are the fitted limits at the cutoff, below as control and above as
    treatment; their counts are the rows within `h`.

    Args:
        robust: The row that inference uses.
        bias_corrected: The same estimate with the conventional error: its interval is too short.
        conventional: Without bias correction: its interval is centred off the truth.
        cutoff: In units of x.
        bandwidth: h, in units of x.
        bias_bandwidth: b, in units of x.
        n_left: Rows below the cutoff.
        n_right: Rows at or above it.
        n_distinct_left: Distinct values of x within h, below.
        n_distinct_right: Likewise above.
        warnings: What a reader must know.
    """

    robust: Estimate
    bias_corrected: Estimate
    conventional: Estimate
    cutoff: float
    bandwidth: float
    bias_bandwidth: float
    n_left: int
    n_right: int
    n_distinct_left: int
    n_distinct_right: int
    warnings: tuple[str, ...]


def estimate_discontinuity(
    y: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    bandwidth: float | None = None,
    bias_bandwidth: float | None = None,
    alpha: float = 0.05,
) -> Discontinuity:
    """Estimate the jump of the outcome at the cutoff, with robust bias-corrected inference.

    Args:
        y: Outcome, shape (n,).
        x: Running variable, shape (n,); treated where x ≥ cutoff.
        cutoff: Where treatment starts.
        bandwidth: h in units of x; default MSE-optimal, the same on both sides.
        bias_bandwidth: b; default MSE-optimal, or h where h is given.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT; N_TOO_SMALL below 50 rows within h or too few distinct
            values on a side; ZERO_VARIANCE.
        ValueError: Shapes, cutoff or bandwidths that make no sense.

    References:
        Calonico, Cattaneo & Titiunik 2014, theorems 1 and 2; METHODS 11.7.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> x = rng.uniform(-1, 1, size=4000)
        >>> y = x + x**2 + 2 * (x >= 0) + rng.normal(size=4000)
        >>> found = estimate_discontinuity(y, x, 0.0)
        >>> found.robust.ci_low < 2 < found.robust.ci_high, found.robust.p_value < 0.001
        (True, True)
    """
    check_alpha(alpha)
    left, right = cut_sides(y, x, cutoff)
    widths = chosen_bandwidths(left, right, bandwidth, bias_bandwidth)
    fits = [fit_side(side, widths) for side in (left, right)]
    rows = {
        "conventional": ([fit.limit for fit in fits], [fit.variance for fit in fits]),
        "bias_corrected": ([fit.corrected for fit in fits], [fit.variance for fit in fits]),
        "robust": ([fit.corrected for fit in fits], [fit.robust_variance for fit in fits]),
    }
    jumps = {
        name: difference_estimate(
            limits[1] - limits[0],
            math.sqrt(sum(variances)),
            arms=ArmSummary(
                control_mean=limits[0],
                treatment_mean=limits[1],
                n_control=fits[0].n,
                n_treatment=fits[1].n,
            ),
            alpha=alpha,
            method=f"local_linear_{name}",
            variance_formula="nearest_neighbour",
        )
        for name, (limits, variances) in rows.items()
    }
    return Discontinuity(
        robust=jumps["robust"],
        bias_corrected=jumps["bias_corrected"],
        conventional=jumps["conventional"],
        cutoff=cutoff,
        bandwidth=widths.h,
        bias_bandwidth=widths.b,
        n_left=len(left.x),
        n_right=len(right.x),
        n_distinct_left=fits[0].n_distinct,
        n_distinct_right=fits[1].n_distinct,
        warnings=_warn(fits, widths),
    )


def parametric_discontinuity(
    y: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    order: int = 1,
    is_interacted: bool = True,
    variance: Variance = "hc1",
    alpha: float = 0.05,
) -> Estimate:
    """Estimate the jump between two global polynomials, for aggregated cells.

    Args:
        y: Outcome per cell, shape (n,).
        x: Running variable, shape (n,); treated where x ≥ cutoff.
        cutoff: Where treatment starts.
        order: Of the polynomial, 1 or 2.
        is_interacted: Own coefficients on each side, else common slopes.
        variance: `hc1`, or `ols` under equal variances.
        alpha: Two-sided level, t quantiles with the residual degrees of freedom.

    Raises:
        EstimationError: NON_FINITE_INPUT; N_TOO_SMALL without a residual degree of freedom;
            SINGULAR_DESIGN; ZERO_VARIANCE.

    References:
        Angrist & Pischke 2015, chapter 4; METHODS 11.7.

    Examples:
        >>> x = np.arange(-6, 6) + 0.5
        >>> y = 3 + x + 2 * (x > 0) + np.tile([0.1, -0.1], 6)
        >>> round(parametric_discontinuity(y, x, 0.0).estimate, 2)
        2.1
    """
    check_alpha(alpha)
    if order not in range(1, MOST_POWERS + 1):
        msg = f"order is {order}, need 1 or 2: higher orders follow noise at the cutoff"
        raise ValueError(msg)
    left, right = cut_sides(y, x, cutoff)
    distance = np.concatenate([left.x, right.x])
    outcome = np.concatenate([left.y, right.y])
    is_right = (distance >= 0).astype(np.float64)
    powers = (distance / np.abs(distance).max())[:, None] ** np.arange(1, order + 1)
    interacted = is_right[:, None] * powers if is_interacted else powers[:, :0]
    design = np.column_stack([is_right, np.ones(len(distance)), powers, interacted])
    n, p = design.shape
    if n <= p:
        raise EstimationError("N_TOO_SMALL", "cells", f"{n} for {p} coefficients")
    basis, triangle = np.linalg.qr(design)
    if np.abs(np.diag(triangle)).min() <= SINGULAR:
        raise EstimationError("SINGULAR_DESIGN", "running variable", "too few distinct values")
    weights = np.linalg.solve(triangle, basis.T)
    level = outcome.mean()
    coefficients = weights @ (outcome - level)
    residuals = outcome - level - design @ coefficients
    if variance == "ols":
        spread = float(weights[0] @ weights[0]) * float(residuals @ residuals) / (n - p)
    else:
        spread = float(np.square(weights[0] * residuals).sum()) * n / (n - p)
    if spread <= (np.finfo(float).eps * float(np.abs(outcome).max())) ** 2:
        raise EstimationError("ZERO_VARIANCE", "cells", "they lie on the polynomial")
    below = float(level + coefficients[1])
    return difference_estimate(
        float(coefficients[0]),
        math.sqrt(spread),
        arms=ArmSummary(
            control_mean=below,
            treatment_mean=below + float(coefficients[0]),
            n_control=len(left.x),
            n_treatment=len(right.x),
        ),
        alpha=alpha,
        method=f"polynomial_{order}{'_interacted' if is_interacted else ''}",
        variance_formula=variance,
        df=n - p,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFit:
    """Limit of the outcome at the cutoff from one side, plain and with its bias taken off.

    `robust_variance` is that of the corrected limit, `variance` that of the plain one.
    """

    name: str
    limit: float
    corrected: float
    variance: float
    robust_variance: float
    n: int
    n_distinct: int


def cut_sides(y: ArrayLike, x: ArrayLike, cutoff: float) -> tuple[Side, Side]:
    """Return the rows below the cutoff and those from it on, sorted by distance.

    Raises:
        EstimationError: NON_FINITE_INPUT; EMPTY_ARM without rows on a side.
        ValueError: Shapes that differ, or a cutoff that is no number.
    """
    outcome, running = unit_column(y, "y"), unit_column(x, "running variable")
    if outcome.shape != running.shape:
        msg = f"y {outcome.shape} and x {running.shape} need the same shape (n,)"
        raise ValueError(msg)
    if not math.isfinite(cutoff):
        msg = f"cutoff is {cutoff}, need a finite number"
        raise ValueError(msg)
    # Ties in an order of their own, so that the order of rows does not move the last digit.
    order = np.lexsort((outcome, running))
    distance, sorted_outcome = running[order] - cutoff, outcome[order]
    n_left = int(np.searchsorted(distance, 0.0, side="left"))
    for name, n in (("left", n_left), ("right", len(distance) - n_left)):
        if n == 0:
            detail = f"no rows {'below' if name == 'left' else 'from'} the cutoff {cutoff:.6g}"
            raise EstimationError("EMPTY_ARM", f"side {name}", detail)
    return (
        Side(name="left", x=distance[:n_left], y=sorted_outcome[:n_left]),
        Side(name="right", x=distance[n_left:], y=sorted_outcome[n_left:]),
    )


def chosen_bandwidths(
    left: Side, right: Side, bandwidth: float | None, bias_bandwidth: float | None
) -> Bandwidths:
    """Return the bandwidths given, or those that minimise the mean squared error.

    Raises:
        EstimationError: As `optimal_bandwidths`; N_TOO_SMALL below 50 rows on a side.
        ValueError: A bandwidth that is no positive number.
    """
    for name, width in (("bandwidth", bandwidth), ("bias_bandwidth", bias_bandwidth)):
        if width is not None and not (math.isfinite(width) and width > 0):
            msg = f"{name} is {width}, need a positive number"
            raise ValueError(msg)
    if bandwidth is not None:
        return Bandwidths(h=bandwidth, b=bias_bandwidth or bandwidth, has_mass_points=False)
    for side in (left, right):
        _refuse_thin(side)
    optimal = optimal_bandwidths(left, right)
    if bias_bandwidth is None:
        return optimal
    return Bandwidths(h=optimal.h, b=bias_bandwidth, has_mass_points=optimal.has_mass_points)


def _refuse_thin(side: Side) -> None:
    if len(side.x) < FEWEST_ROWS:
        detail = f"{len(side.x)} rows near the cutoff, need {FEWEST_ROWS}; hint: for aggregated "
        raise EstimationError(
            "N_TOO_SMALL", f"side {side.name}", f"{detail}cells the parametric fit"
        )


def fit_side(side: Side, widths: Bandwidths) -> SideFit:
    """Fit line and curvature on one side; N_TOO_SMALL below 50 rows within h."""
    near = side.within(widths.h)
    _refuse_thin(near)
    wide = side.within(max(widths.h, widths.b))
    level = float(near.y.mean())
    outcome = wide.y - level
    line = linear_weights(wide, widths.h, ORDER)[0]
    curvature = linear_weights(wide, widths.b, ORDER + 1)[ORDER + 1]
    corrected = line - float(line @ wide.x ** (ORDER + 1)) * curvature
    residuals = neighbour_residuals(wide)
    return SideFit(
        name=side.name,
        limit=level + float(line @ outcome),
        corrected=level + float(corrected @ outcome),
        variance=float(np.square(line * residuals).sum()),
        robust_variance=float(np.square(corrected * residuals).sum()),
        n=len(near.x),
        n_distinct=near.n_distinct,
    )


def _warn(fits: Sequence[SideFit], widths: Bandwidths) -> tuple[str, ...]:
    warnings = [
        f"side {fit.name}: {fit.n_distinct} distinct values in {fit.n} rows within the bandwidth; "
        "the running variable is too coarse for a local fit, see the parametric one"
        for fit in fits
        if fit.n_distinct < FEW_DISTINCT * fit.n
    ]
    if widths.has_mass_points:
        warnings.append("tied values of the running variable set a floor to the bandwidths")
    return tuple(warnings)
