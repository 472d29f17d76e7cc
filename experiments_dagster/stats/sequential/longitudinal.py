"""Boundaries for open-ended metrics, whose increments are not independent (METHODS 8.12).

A unit's open-ended value changes between looks, so that the covariance of the looks is not that of
a Brownian walk. It is estimated from the influence scores ψ of every unit and look (absent: 0):

    S_jk = Σ_i ψ_ij ψ_ik,   R = D^{−½} S D^{−½}
    P(|Z_1| < c_1, …, |Z_{k−1}| < c_{k−1}, |Z_k| ≥ c_k; corr R) = α*(t_k) − α*(t_{k−1})

Only c_k is solved, stored c_j stay. The probability is integrated by randomised quasi-Monte Carlo
with separation of variables in the order k, k − 1, …, 1: Z_k is drawn from the tail that holds c_k
whatever the other looks do, Φ̄(c_k) ≤ what all looks may spend, so that small increments take no
more points than large ones; then every earlier look is drawn within its boundaries. One pass gives
the probability for all c_k at once.

References:
    Ankargren, Frånberg & Schultzberg 2023; Jennison & Turnbull 2000, ch. 11; Genz 1992.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import upper_tail
from experiments_dagster.stats.sequential.boundaries import UNRESOLVED_INCREMENT, NoStop
from experiments_dagster.stats.sequential.spending import Sides, check_sides

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

POINTS = 2**18
REPLICATES = 8  # random shifts of one net; their spread is the Monte Carlo error
SEED = 20231
TAIL_MARGIN = 1.25  # the tail drawn from, over the level that may be spent
NUGGET = 1e-9  # on the diagonal of R: looks that repeat each other keep a Cholesky factor
NET_COLUMNS = 32  # nets are made for multiples of it, so that the next look finds them made
BLOCK_ROWS = 2**15
SMALLEST = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class LongitudinalBoundary:
    """Boundary of one look at an open-ended metric.

    Args:
        critical_value: c_k on the z scale; None where the look cannot stop.
        nominal_level: One-sided Φ̄(c_k).
        alpha_spent: Level spent up to and including this look, over all sides.
        reason: Why there is no boundary.
        monte_carlo_error: Standard error of c_k from the integration alone.
    """

    critical_value: float | None
    nominal_level: float | None
    alpha_spent: float
    reason: NoStop | None
    monte_carlo_error: float | None


def score_products(
    looks: Sequence[tuple[ArrayLike, ArrayLike] | None], *, subject: str = "open-ended metric"
) -> Matrix:
    """Return S, shape (looks, looks), from the scores stored at each look.

    Args:
        looks: (unit keys, scores ψ) per look in order, shapes (n,); None where a look stored none.
        subject: Name of the metric for the refusal.

    Raises:
        EstimationError: NOT_IDENTIFIED where a look has no scores; NON_FINITE_INPUT.
        ValueError: No looks, lengths differ, or a unit appears twice at one look.

    Examples:
        >>> score_products([(["a", "b"], [1.0, -1.0]), (["b", "c"], [0.5, -0.5])]).tolist()
        [[2.0, -0.5], [-0.5, 0.5]]
    """
    columns = []
    for number, look in enumerate(looks, start=1):
        if look is None:
            raise EstimationError(
                "NOT_IDENTIFIED",
                subject,
                f"look {number} stored no scores; use complete cohorts or the fixed end",
            )
        keys, scores = np.asarray(look[0]), np.asarray(look[1], dtype=np.float64)
        if scores.shape != keys.shape or scores.ndim != 1:
            msg = f"look {number}: keys of shape {keys.shape}, scores of shape {scores.shape}"
            raise ValueError(msg)
        if not np.isfinite(scores).all():
            raise EstimationError("NON_FINITE_INPUT", subject, f"scores of look {number}")
        columns.append((keys, scores))
    if not columns:
        msg = "no looks"
        raise ValueError(msg)
    units, rows = np.unique(np.concatenate([keys for keys, _ in columns]), return_inverse=True)
    psi = np.zeros((len(units), len(columns)))
    start = 0
    for column, (keys, scores) in enumerate(columns):
        own = rows[start : start + len(keys)]
        if len(np.unique(own)) < len(own):
            msg = f"look {column + 1}: {len(own)} rows of {len(np.unique(own))} units"
            raise ValueError(msg)
        psi[own, column] = scores
        start += len(keys)
    products: Matrix = psi.T @ psi
    return products


def spending_fraction(
    information: Sequence[float],
    *,
    planned_information: float,
    scheduled: float,
    previous: float = 0.0,
) -> float:
    """Return the t_k that the spending function takes at the last of these looks.

    I_k/I_max while information grows from look to look; the planned fraction of the schedule once
    it did not. It never falls behind an earlier one and is at most 1.

    Args:
        information: 1/SE² of the looks so far, in order.
        planned_information: I_max, frozen in the plan.
        scheduled: Planned fraction of this look, such as k/K.
        previous: Fraction that the look before used.

    Raises:
        ValueError: No looks, or a planned quantity is not above 0.

    Examples:
        >>> spending_fraction([10.0, 25.0], planned_information=100.0, scheduled=0.4)
        0.25
        >>> spending_fraction([10.0, 9.0], planned_information=100.0, scheduled=0.4)
        0.4
    """
    if not information or not (planned_information > 0 and scheduled > 0):
        msg = (
            f"{len(information)} looks, planned information {planned_information}, "
            f"scheduled {scheduled}; need a look and values > 0"
        )
        raise ValueError(msg)
    is_growing = all(b > a for a, b in pairwise(information))
    fraction = information[-1] / planned_information if is_growing else scheduled
    return min(1.0, max(fraction, previous))


def longitudinal_boundary(
    products: ArrayLike,
    previous: Sequence[float | None],
    *,
    cumulative_alpha_now: float,
    alpha_spent: float,
    sides: Sides = 2,
    points: int = POINTS,
    seed: int = SEED,
) -> LongitudinalBoundary:
    """Return the boundary of the last look, given the stored ones and the scores of all looks.

    Args:
        products: S of `score_products`, shape (k, k), this look last.
        previous: Stored c_1..c_{k−1}, None where a look had none.
        cumulative_alpha_now: Level that may be spent up to this look, over all sides.
        alpha_spent: Level spent by the earlier looks.
        sides: 2 stops on either side, 1 above only.
        points: Points of the integration, a power of two of at least 8. Simulations may take 1024,
            with an error of c_k of about 0.003.
        seed: Of the random shifts.

    Raises:
        EstimationError: ZERO_VARIANCE where a look has no variance; NON_FINITE_INPUT.
        ValueError: Shapes or points do not fit, or a level is outside (0, 1).

    Examples:
        >>> walk = [[5.0, 2.5], [2.5, 2.5]]  # 1/I on and above the diagonal: independent increments
        >>> look = longitudinal_boundary(
        ...     walk, [2.962588], cumulative_alpha_now=0.05, alpha_spent=0.003051
        ... )
        >>> round(look.critical_value, 3)
        1.969
    """
    check_sides(sides)
    correlation = _correlation(products, len(previous) + 1)
    if not 0 <= alpha_spent < 1 or not 0 < cumulative_alpha_now < 1:
        msg = f"spent {alpha_spent} of {cumulative_alpha_now}: levels are in (0, 1)"
        raise ValueError(msg)
    if points < REPLICATES or points & (points - 1):
        msg = f"points is {points}, need a power of two of at least {REPLICATES}"
        raise ValueError(msg)
    increment = (cumulative_alpha_now - alpha_spent) / sides
    if increment < UNRESOLVED_INCREMENT:
        return LongitudinalBoundary(
            critical_value=None,
            nominal_level=None,
            alpha_spent=alpha_spent,
            reason="NO_STOP_AT_THIS_LOOK",
            monte_carlo_error=None,
        )
    z, weights = _draw(
        _law(correlation, previous, sides),
        increment,
        tail=TAIL_MARGIN * cumulative_alpha_now / sides,
        points=points,
        seed=seed,
    )
    critical = _quantile(z.ravel(), weights.ravel(), increment)
    replicates = [_quantile(*pair, increment) for pair in zip(z, weights, strict=True)]
    return LongitudinalBoundary(
        critical_value=critical,
        nominal_level=upper_tail(critical),
        alpha_spent=cumulative_alpha_now,
        reason=None,
        monte_carlo_error=float(np.std(replicates, ddof=1)) / math.sqrt(REPLICATES),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Law:
    """Cholesky factor of the looks that matter, the last look first, and the others' bounds."""

    factor: Matrix
    bounds: Vector
    sides: Sides


def _correlation(products: ArrayLike, looks: int) -> Matrix:
    S = np.asarray(products, dtype=np.float64)
    if S.shape != (looks, looks):
        msg = f"products have shape {S.shape}, need ({looks}, {looks}): stored looks and this one"
        raise ValueError(msg)
    if not np.isfinite(S).all():
        raise EstimationError("NON_FINITE_INPUT", "score products")
    variance = np.diag(S)
    if (variance <= 0).any():
        raise EstimationError("ZERO_VARIANCE", "score products", "a look has no variance")
    scale = 1 / np.sqrt(variance)
    correlation: Matrix = S * scale[:, None] * scale
    return correlation


def _law(correlation: Matrix, previous: Sequence[float | None], sides: Sides) -> _Law:
    # Looks without a boundary restrict nothing. The nearest look, which restricts most, comes next.
    bounds = [(j, critical) for j, critical in enumerate(previous) if critical is not None][::-1]
    order = [len(previous), *(j for j, _ in bounds)]
    reordered = correlation[np.ix_(order, order)] + NUGGET * np.eye(len(order))
    factor = np.linalg.cholesky(reordered / (1 + NUGGET)).astype(np.float64)
    return _Law(
        factor=factor,
        bounds=np.array([critical for _, critical in bounds], dtype=np.float64),
        sides=sides,
    )


def _draw(
    law: _Law, increment: float, *, tail: float, points: int, seed: int
) -> tuple[Matrix, Matrix]:
    """Scores of the last look in its upper tail, weighted by the chance of no earlier stop.

    Both have shape (replicates, points per replicate). The tail doubles until every replicate holds
    the increment, which they do from the start unless stored boundaries belong to another law.
    """
    columns = len(law.bounds) + 1
    net = _sobol(NET_COLUMNS * math.ceil(columns / NET_COLUMNS), points // REPLICATES)[:, :columns]
    shifts = np.random.default_rng(seed).random((REPLICATES, 1, columns))
    together = max(1, BLOCK_ROWS // len(net))
    largest = 1 / law.sides
    while True:
        tail = min(tail, largest)
        parts = []
        for start in range(0, REPLICATES, together):
            uniform = (net + shifts[start : start + together]) % 1.0
            parts.append(_separate(law, uniform.reshape(-1, columns), tail))
        z = np.concatenate([scores for scores, _ in parts]).reshape(REPLICATES, -1)
        weights = np.concatenate([weight for _, weight in parts]).reshape(REPLICATES, -1)
        if weights.mean(axis=1).min() > increment or tail == largest:
            return z, weights
        tail *= 2


def _separate(law: _Law, uniform: Matrix, tail: float) -> tuple[Vector, Vector]:
    """Genz' separation of variables, the first of them drawn from the upper tail."""
    drawn = np.empty(uniform.shape)
    drawn[:, 0] = -ndtri(np.clip(tail * uniform[:, 0], SMALLEST, None))
    weights = np.full(len(uniform), tail)
    for j, bound in enumerate(law.bounds, start=1):
        centre, spread = drawn[:, :j] @ law.factor[j, :j], law.factor[j, j]
        low = ndtr((-bound - centre) / spread) if law.sides == 2 else 0.0  # noqa: PLR2004
        inside = ndtr((bound - centre) / spread) - low
        weights *= inside
        p = np.clip(low + uniform[:, j] * inside, SMALLEST, 1 - np.finfo(float).epsneg)
        drawn[:, j] = ndtri(p)
    return drawn[:, 0], weights


def _quantile(z: Vector, weights: Vector, mass_above: float) -> float:
    """Score above which the mean weight is `mass_above`."""
    order = np.argsort(-z)
    weights = weights[order]
    # Half of a point's weight lies above it.
    mass = (np.cumsum(weights) - weights / 2) / len(z)
    return float(np.interp(mass_above, mass, z[order]))


@lru_cache(maxsize=2)
def _sobol(columns: int, points: int) -> Matrix:
    from scipy.stats import qmc

    net: Matrix = qmc.Sobol(columns, rng=np.random.default_rng(SEED)).random(points)
    return net
