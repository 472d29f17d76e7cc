"""Thompson allocation: an arm's share is its probability of being best, above a floor.

Drawing once from each posterior and taking the largest draw chooses arm k with probability
P(k is best); a period of decisions shares them out in these proportions (METHODS 9.4). The floor f
leaves each of K arms at least

    max(1 %, f/K)

and what is above the floor is scaled to make the sum 1: without it a period's estimates would rest
on a handful of units of some arm.

A decision is a pure function of unit, bandit, seed and shares (the bucket of `allocation`), so it
can be computed again, and the share is the probability with which it was taken.

References:
    Thompson 1933; Scott 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.bayesian.best_arm import best_arm
from experiments_dagster.stats.bayesian.posteriors import Posterior
from experiments_dagster.stats.design.allocation import assign

MIN_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The shares of the next period, by arm in the order given.

    `shares` sum to 1; a share is the probability with which each decision of the period draws the
    arm. `seed` fixes which unit draws which.
    """

    shares: dict[str, float]
    probabilities_best: dict[str, float]
    expected_losses: dict[str, float]
    floor: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The arm of one unit, and the probability with which it was drawn."""

    unit: str
    arm: str
    probability: float


def next_shares(posteriors: Mapping[str, Posterior], *, floor: float, seed: int) -> Allocation:
    """Return the allocation that the posteriors call for.

    Args:
        posteriors: Per arm, larger is better; 2 to 100 arms.
        floor: Share from 0 to 1 that is given out evenly at least; 1 is uniform allocation.
        seed: Of the decisions.

    Raises:
        EstimationError: As `best_arm`.
        ValueError: A floor outside 0..1, or too many arms for 1 % each.

    Examples:
        >>> from experiments_dagster.stats.bayesian.posteriors import BetaPosterior
        >>> arms = {"a": BetaPosterior(a=21, b=81), "b": BetaPosterior(a=31, b=71)}
        >>> found = next_shares(arms, floor=0.2, seed=1)
        >>> {arm: round(share, 6) for arm, share in found.shares.items()}
        {'a': 0.1, 'b': 0.9}
    """
    found = best_arm(list(posteriors.values()))
    shares = floored_shares(found.probabilities, floor)
    return Allocation(
        shares=dict(zip(posteriors, shares, strict=True)),
        probabilities_best=dict(zip(posteriors, found.probabilities, strict=True)),
        expected_losses=dict(zip(posteriors, found.expected_losses, strict=True)),
        floor=floor,
        seed=seed,
    )


def floored_shares(probabilities: Sequence[float], floor: float) -> tuple[float, ...]:
    """Return shares of at least max(1 %, floor/K) that keep the proportions above it.

    Args:
        probabilities: Summing to 1, shape (K,).
        floor: From 0 to 1.

    Raises:
        ValueError: A floor outside 0..1, more arms than 1 % each allows, or no probabilities.

    Examples:
        >>> [round(share, 9) for share in floored_shares([0.98, 0.02, 0.0], 0.3)]
        [0.8, 0.1, 0.1]
    """
    p = np.asarray(probabilities, dtype=np.float64)
    k = len(p)
    least = max(MIN_SHARE, floor / k)
    if not 0 <= floor <= 1 or k * least > 1 + 1e-12:
        msg = f"floor is {floor} for {k} arms: need 0 <= floor <= 1 and at most 100 arms"
        raise ValueError(msg)
    if (p < 0).any() or abs(p.sum() - 1) > 1e-6:  # noqa: PLR2004  as the quadrature is held to
        msg = f"probabilities {p.tolist()}: need 0 or more, summing to 1"
        raise ValueError(msg)
    is_low, shares = np.zeros(k, dtype=bool), p / p.sum()
    # Scaling the others down may push further arms under the floor: K rounds at the most.
    while ((shares < least) & ~is_low).any():
        is_low |= shares < least
        rest = float(p[~is_low].sum())
        left = 1 - float(is_low.sum()) * least
        shares = np.where(is_low, least, p * (left / rest if rest > 0 else 0.0))
    return tuple(float(share) for share in shares)


def decide(unit: str, *, bandit: str, seed: int, shares: Mapping[str, float]) -> Decision:
    """Return the arm of a unit under the shares of its period.

    The unit's bucket is the same in all periods: it moves only where the shares moved over it.

    Args:
        unit: Its id.
        bandit: Slug.
        seed: Of the bandit.
        shares: Of the period, arms in order.

    Raises:
        ValueError: Shares that do not sum to 1.
    """
    arm = assign(unit, experiment=bandit, salt=str(seed), shares=shares).variant
    return Decision(unit=unit, arm=arm, probability=shares[arm])


def draw_best(
    posteriors: Sequence[Posterior], rng: np.random.Generator, size: int
) -> NDArray[np.intp]:
    """Return the index of the best arm in each of `size` joint draws: Thompson's rule itself.

    The frequencies converge to P(best); `best_arm` gives these without Monte-Carlo error.
    """
    draws = np.stack([posterior.draw(rng, size) for posterior in posteriors])
    return np.asarray(np.argmax(draws, axis=0))
