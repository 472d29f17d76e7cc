"""Which arm is best, and what choosing another one costs (METHODS 9.1, 9.3).

With density f_k and distribution function F_k of arm k's mean,

    P(k is best)     = ∫ f_k(x) Π_{j≠k} F_j(x) dx
    expected loss k  = E[max_j θ_j − θ_k] = ∫ [1 − Π_{j≠k} F_j(x)] F_k(x) dx

Both integrands are products of positive terms, taken in logs: a loss of 1e-200 keeps its digits,
which E[max θ] − E[θ_k] loses at 1e-16. Gauss-Legendre on panels made of all arms' grids; panels
whose upper bound (both factors are monotone) cannot matter are left out.

Larger means are better: give negated posteriors where they are not. Losses below the smallest
double come out as 0; their logarithms, good to 1e-3 there, do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from experiments_dagster.stats.bayesian.posteriors import (
    Coordinate,
    NormalPosterior,
    Posterior,
    StudentPosterior,
    log_slope,
)
from experiments_dagster.stats.bayesian.quadrature import log_integrals
from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]

MARGIN = 150.0  # nats below the largest bound from where a panel is left out
UNDERFLOW = -600.0  # ln of tails that are added up in logs
SUM_PRECISION = 1e-6
LOST = 1e-9  # of its place; a smaller step of a grid has lost digits that the integrals need
MIN_ARMS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BestArm:
    """Per arm, in the order given: P(best), expected loss in units of the mean, and its logarithm.

    The probabilities sum to 1.
    """

    probabilities: tuple[float, ...]
    expected_losses: tuple[float, ...]
    log_expected_losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoArms:
    """P(treatment beats control) and the expected loss of choosing either."""

    probability: float
    loss_treatment: float
    loss_control: float
    log_loss_treatment: float
    log_loss_control: float


def best_arm(posteriors: Sequence[Posterior]) -> BestArm:
    """Return P(best) and the expected loss of each arm by quadrature.

    Args:
        posteriors: Independent, of one coordinate (all rates, or all means); two or more.

    Raises:
        EstimationError: NOT_IDENTIFIED where the quadrature fails or its sum is not 1 to 1e-6.
        ValueError: Fewer than two arms, or rates among means.

    References:
        METHODS 9.3; Scott 2010, Applied Stochastic Models in Business and Industry 26.

    Examples:
        >>> from experiments_dagster.stats.bayesian.posteriors import BetaPosterior
        >>> found = best_arm([BetaPosterior(a=21, b=81), BetaPosterior(a=31, b=71)])
        >>> round(found.probabilities[1], 6), round(found.expected_losses[1], 8)
        (0.947603, 0.0013456)
    """
    kinds = {posterior.coordinate for posterior in posteriors}
    if len(posteriors) < MIN_ARMS or len(kinds) != 1:
        msg = f"{len(posteriors)} posteriors over {sorted(kinds)}: need 2 or more of one kind"
        raise ValueError(msg)
    (coordinate,) = kinds
    posteriors = _centred(posteriors)
    low, high = _panels(posteriors, coordinate)
    k = len(posteriors)

    def integrands(y: Vector) -> Vector:
        below, above = _tails(posteriors, y)
        density = np.stack([posterior.log_density(y) for posterior in posteriors])
        best = density + _others_below(below)
        loss = _some_other_above(below, above) + below + log_slope(coordinate, y)
        return np.vstack([best, loss])

    logs = log_integrals(integrands, low, high)
    probabilities = np.exp(logs[:k])
    if abs(probabilities.sum() - 1) > SUM_PRECISION:
        detail = f"the probabilities of being best sum to {probabilities.sum():.9g}"
        raise EstimationError("NOT_IDENTIFIED", "best arm", detail)
    return BestArm(
        probabilities=tuple(float(p) for p in np.minimum(probabilities, 1.0)),
        expected_losses=tuple(float(loss) for loss in np.exp(logs[k:])),
        log_expected_losses=tuple(float(log) for log in logs[k:]),
    )


def compare_arms(control: Posterior, treatment: Posterior) -> TwoArms:
    """Return P(treatment > control) and the expected loss of choosing either arm.

    Raises:
        EstimationError: As `best_arm`.

    Examples:
        >>> from experiments_dagster.stats.bayesian.posteriors import NormalPosterior
        >>> two = compare_arms(NormalPosterior(mean=0, sd=3), NormalPosterior(mean=5, sd=4))
        >>> round(two.probability, 9)
        0.841344746
    """
    found = best_arm([control, treatment])
    return TwoArms(
        probability=found.probabilities[1],
        loss_treatment=found.expected_losses[1],
        loss_control=found.expected_losses[0],
        log_loss_treatment=found.log_expected_losses[1],
        log_loss_control=found.log_expected_losses[0],
    )


def _centred(posteriors: Sequence[Posterior]) -> Sequence[Posterior]:
    """Means counted from that of the narrowest arm, where its own place would swallow its scale."""
    steps = [float(np.diff(posterior.points()).min()) for posterior in posteriors]
    place = posteriors[int(np.argmin(steps))].mean
    means = [p for p in posteriors if isinstance(p, NormalPosterior | StudentPosterior)]
    if len(means) < len(posteriors) or min(steps) > LOST * abs(place):
        return posteriors
    return [replace(posterior, mean=posterior.mean - place) for posterior in means]


def _panels(posteriors: Sequence[Posterior], coordinate: Coordinate) -> tuple[Vector, Vector]:
    """Ends of the panels that can matter to any integral."""
    points = _merged([posterior.points() for posterior in posteriors])
    below, above = _tails(posteriors, points)
    inside = np.minimum(below[:, 1:], above[:, :-1])
    best = inside + _others_below(below)[:, 1:]
    slopes = log_slope(coordinate, points)
    widths = np.log(np.diff(points)) + np.maximum(slopes[1:], slopes[:-1])
    loss = below[:, 1:] + _some_other_above(below, above)[:, :-1] + widths
    bounds = np.vstack([best, loss])
    keep = (bounds > bounds.max(axis=1, keepdims=True) - MARGIN).any(axis=0)
    return points[:-1][keep], points[1:][keep]


def _merged(grids: Sequence[Vector]) -> Vector:
    """All grids in one, increasing; of points closer than half their own step the first is enough.

    Points of a grid may be equal where its scale is below the rounding of its place.
    """
    points = np.concatenate(grids)
    steps = np.concatenate([np.gradient(grid) for grid in grids])
    order = np.argsort(points, kind="stable")
    kept: list[float] = []
    for point, step in zip(points[order].tolist(), steps[order].tolist(), strict=True):
        if not kept or (point > kept[-1] and point - kept[-1] >= step / 2):
            kept.append(point)
    return np.array(kept)


def _tails(posteriors: Sequence[Posterior], y: Vector) -> tuple[Vector, Vector]:
    """Logarithms of F and 1 − F of each arm, shape (k, n) each."""
    pairs = [posterior.log_tails(y) for posterior in posteriors]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def _others_below(below: Vector) -> Vector:
    """Σ_{j≠k} ln F_j, added up without arm k: subtracting it would cancel."""
    return np.stack([np.delete(below, arm, axis=0).sum(axis=0) for arm in range(len(below))])


def _some_other_above(below: Vector, above: Vector) -> Vector:
    """For each arm k, ln P(some other arm is above)."""
    rows = []
    for arm, none_above in enumerate(_others_below(below)):
        others = np.delete(above, arm, axis=0)
        is_tiny = others.max(axis=0) < UNDERFLOW
        # Where 1 − Π F underflows, the tails are so small that their sum is it.
        with np.errstate(divide="ignore"):
            row = np.log(-np.expm1(np.where(is_tiny, -math.inf, none_above)))
        rows.append(np.where(is_tiny, logsumexp(others, axis=0), row))
    return np.stack(rows)
