"""Law of a test statistic that is looked at several times, by recursive integration.

On the Brownian scale B_k = √t_k Z_k has independent increments N(η δ_k, δ_k), δ_k = t_k − t_{k−1}
(METHODS 8.1). The density on the continuation region follows look by look (8.3):

    f_k(b) = ∫ f_{k−1}(u) φ((b − u − ηδ_k)/√δ_k)/√δ_k du   over the region of look k−1
    P(continue to k−1, B_k ≥ c) = ∫ f_{k−1}(u) Φ̄((c − u − ηδ_k)/√δ_k) du

Gauss-Legendre nodes are laid out once the next increment is known: their spacing must resolve both
the kernel that made the density and the kernel that is applied to it.

References:
    Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, ch. 19.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, roots_legendre

from experiments_dagster.stats.sequential.spending import Sides, check_sides

Vector = NDArray[np.float64]
Region = tuple[float, float]  # z-values between which a look goes on

TAIL_SDS = 9.0  # beyond it a normal density holds 2e-19
NODES_PER_SD = 2.25  # Gauss-Legendre spacing of 0.7 kernel sd at the centre: error below 1e-15
NODE_BLOCK = 32  # node counts are multiples of it, so that the rules are found in the cache
MIN_BLOCKS, MAX_BLOCKS = 2, 128
CLOSEST_LOOKS = 2e-4  # smallest increment, relative to t, that the largest rule resolves


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossingProbabilities:
    """Probability of stopping at each look, above and below."""

    upper: tuple[float, ...]
    lower: tuple[float, ...]

    @property
    def total(self) -> float:
        """Probability of crossing any boundary at any look."""
        return math.fsum(self.upper) + math.fsum(self.lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A Brownian walk that has not stopped: point masses on nodes at fraction `t`."""

    t: float
    drift: float
    nodes: Vector
    masses: Vector

    @classmethod
    def start(cls, drift: float = 0.0) -> Walk:
        """Return the walk before the first look."""
        return cls(t=0.0, drift=drift, nodes=np.zeros(1), masses=np.ones(1))

    def upper_tail(self, t: float, critical: float) -> float:
        """Return P(not stopped, Z ≥ critical at fraction t)."""
        return float(self.masses @ ndtr(-self._standardise(t, critical)))

    def lower_tail(self, t: float, critical: float) -> float:
        """Return P(not stopped, Z ≤ critical at fraction t)."""
        return float(self.masses @ ndtr(self._standardise(t, critical)))

    def advance(self, t: float, lower: float, upper: float, *, next_step: float) -> Walk:
        """Return the walk that goes on at `t` with Z between `lower` and `upper`.

        Args:
            t: Fraction of this look.
            lower: Lower boundary on the z scale; -inf without one.
            upper: Upper boundary on the z scale; inf without one.
            next_step: Increment to the look after, which sets the spacing of the nodes.
        """
        step, root = t - self.t, math.sqrt(t)
        reach = TAIL_SDS * root
        low = max(lower * root, self.drift * t - reach)
        high = min(upper * root, self.drift * t + reach)
        width = max(high - low, 0.0)
        resolution = math.sqrt(1 / (1 / step + 1 / next_step))
        blocks = math.ceil(NODES_PER_SD * width / resolution / NODE_BLOCK)
        points, weights = _gauss_legendre(NODE_BLOCK * min(max(blocks, MIN_BLOCKS), MAX_BLOCKS))
        nodes = low + width * (points + 1) / 2
        scaled = (nodes[:, None] - self.nodes - self.drift * step) / math.sqrt(step)
        density = np.exp(-0.5 * scaled * scaled) @ self.masses / math.sqrt(2 * math.pi * step)
        return Walk(t=t, drift=self.drift, nodes=nodes, masses=width / 2 * weights * density)

    def _standardise(self, t: float, critical: float) -> Vector:
        step = t - self.t
        shifted = critical * math.sqrt(t) - self.nodes - self.drift * step
        standardised: Vector = shifted / math.sqrt(step)
        return standardised


def walk_to_last(
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    *,
    sides: Sides,
    drift: float = 0.0,
) -> Walk:
    """Return the walk that crossed no boundary before the last of `fractions`.

    Args:
        fractions: Increasing information fractions t_1..t_K.
        critical_values: Boundaries c_1..c_{K−1}; None where a look cannot stop.
        sides: 1: only the upper boundary absorbs.
        drift: η, the expectation of B at t = 1.
    """
    regions = [continuation(critical, sides) for critical in critical_values]
    return walk_within(fractions, regions, drift=drift)


def walk_within(
    fractions: Sequence[float], regions: Sequence[Region], *, drift: float = 0.0
) -> Walk:
    """Return the walk that stayed within its regions before the last of `fractions`.

    A look that cannot stop is passed over, since its increments simply add up. So is one too close
    to the next to be resolved: counting what it already stopped as still running can only raise a
    later boundary.

    Args:
        fractions: Increasing information fractions t_1..t_K.
        regions: z-values (low, high) between which looks 1..K−1 went on.
        drift: η, the expectation of B at t = 1.
    """
    walk = Walk.start(drift)
    kept: list[tuple[float, Region]] = [(fractions[-1], (-math.inf, math.inf))]
    for t, region in zip(reversed(fractions[:-1]), reversed(regions), strict=True):
        is_resolved = kept[-1][0] - t >= CLOSEST_LOOKS * kept[-1][0]
        if is_resolved and region != (-math.inf, math.inf):
            kept.append((t, region))
    kept.reverse()
    for (t, (lower, upper)), (next_t, _) in pairwise(kept):
        walk = walk.advance(t, lower, upper, next_step=next_t - t)
    return walk


def continuation(critical: float | None, sides: Sides) -> Region:
    """Return the z-values between which the experiment goes on."""
    upper = math.inf if critical is None else critical
    return (-upper if sides == 2 else -math.inf), upper  # noqa: PLR2004


def crossing_probabilities(
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    *,
    drift: float = 0.0,
    sides: Sides = 2,
) -> CrossingProbabilities:
    """Return the probability of crossing each boundary first, under a drift.

    Args:
        fractions: Increasing information fractions.
        critical_values: One boundary per look; None where a look cannot stop.
        drift: η = θ√I_max, the expectation of the last score at t = 1.
        sides: 1: only the upper boundary stops, `lower` is 0.

    Raises:
        ValueError: Fractions do not increase, lengths differ, or sides is not 1 or 2.

    Examples:
        >>> twice = crossing_probabilities([0.5, 1.0], [1.959964, 1.959964])
        >>> round(twice.total, 4)
        0.0831
    """
    check_sides(sides)
    if len(fractions) != len(critical_values):
        msg = f"{len(fractions)} fractions but {len(critical_values)} critical values"
        raise ValueError(msg)
    regions = [continuation(critical, sides) for critical in critical_values]
    return exit_probabilities(fractions, regions, drift=drift)


def exit_probabilities(
    fractions: Sequence[float], regions: Sequence[Region], *, drift: float = 0.0
) -> CrossingProbabilities:
    """Return the probability of leaving the regions first at each look, above and below.

    Args:
        fractions: Increasing information fractions.
        regions: z-values (low, high) between which each look goes on; infinite without a bound.
        drift: η = θ√I_max, the expectation of the last score at t = 1.

    Raises:
        ValueError: Fractions do not increase, or lengths differ.

    Examples:
        >>> wedge = exit_probabilities([0.5, 1.0], [(0.0, 2.9626), (1.9686, 1.9686)])
        >>> round(wedge.lower[0], 4), round(wedge.total, 4)
        (0.5, 1.0)
    """
    check_fractions(fractions)
    upper, lower = [], []
    walk = Walk.start(drift)
    for index, (t, (low, high)) in enumerate(zip(fractions, regions, strict=True)):
        upper.append(walk.upper_tail(t, high))
        lower.append(walk.lower_tail(t, low))
        if index + 1 < len(fractions):
            walk = walk.advance(t, low, high, next_step=fractions[index + 1] - t)
    return CrossingProbabilities(upper=tuple(upper), lower=tuple(lower))


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse information fractions that do not increase from above 0 to at most 1."""
    if not fractions:
        msg = "no information fractions"
        raise ValueError(msg)
    for before, t in pairwise((0.0, *fractions)):
        if not t - before >= CLOSEST_LOOKS * t > 0 or t > 1:
            msg = (
                f"information fractions {list(fractions)} must increase within (0, 1], "
                f"each by at least {CLOSEST_LOOKS:.2%} of itself"
            )
            raise ValueError(msg)


@lru_cache(maxsize=64)
def _gauss_legendre(count: int) -> tuple[Vector, Vector]:
    points, weights = roots_legendre(count)
    return points, weights
