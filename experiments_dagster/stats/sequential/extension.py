"""Honest extension: more data than planned without more error than planned (METHODS 8.13).

At fraction t with score z, b = √t z, the conditional rejection probability of the remaining plan is

    one final bound c    φ = Φ̄((c − b)/√(1 − t)) + Φ((−c − b)/√(1 − t))
    several looks        the chance under no effect of leaving the remaining regions, by recursion

By independent increments, any test of the *new* data alone at level φ may replace what remains of
the plan; each side keeps its own share of φ. Once the planned end has passed φ is 0 or 1 and there
is nothing to extend with, except a level ε that the plan reserved by running at α − ε: new data
are then tested at ε/(1 − α + ε), because the plan itself rejects with probability α − ε already.
To go on and test everything again is not an extension but a second look without a boundary.

References:
    Müller & Schäfer 2001; Koning & van Meer 2026.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, upper_quantile
from experiments_dagster.stats.sequential.recursion import (
    CrossingProbabilities,
    continuation,
    exit_probabilities,
)
from experiments_dagster.stats.sequential.spending import Sides, check_sides

SUBJECT = "extension"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionPlan:
    """How new data may be tested: on their own, by the score of `new_data_score`.

    Args:
        level: φ, for all sides together; several looks at the new data share it.
        level_up: Part of φ for an effect above 0.
        level_down: Part of φ for an effect below 0; 0 in a one-sided plan.
        upper: Reject above this score of the new data.
        lower: Reject below it; None where `level_down` is 0.
    """

    level: float
    level_up: float
    level_down: float
    upper: float
    lower: float | None


def conditional_rejection_probability(
    t: float,
    z: float,
    *,
    remaining: Sequence[tuple[float, float | None]],
    sides: Sides = 2,
    drift: float = 0.0,
) -> CrossingProbabilities:
    """Return the probability to reject at each remaining look, given the score now.

    Args:
        t: Information fraction now.
        z: Score now.
        remaining: (t_j, c_j) of the looks that the plan still has, c_j None where one cannot stop.
        sides: Sides of the plan.
        drift: η at t = 1; 0 gives φ as its `total`, other values the conditional power.

    Raises:
        EstimationError: OUTSIDE_PLAN where no look remains.
        ValueError: Fractions do not increase from `t` to at most 1.

    Examples:
        >>> ahead = conditional_rejection_probability(0.5, 1.5, remaining=[(1.0, 1.9686)])
        >>> round(ahead.total, 4)
        0.0996
    """
    check_sides(sides)
    if not remaining:
        raise EstimationError("OUTSIDE_PLAN", SUBJECT, "no planned look remains; phi is 0 or 1")
    times = [fraction for fraction, _ in remaining]
    if not t > 0 or times[-1] > 1 or any(b <= a for a, b in pairwise([t, *times])):
        msg = f"fractions {t} then {times} must increase within (0, 1]"
        raise ValueError(msg)
    path = math.sqrt(t) * z
    regions = []
    for fraction, critical in remaining:
        low, high = continuation(critical, sides)
        root, step = math.sqrt(fraction), math.sqrt(fraction - t)
        regions.append(((low * root - path) / step, (high * root - path) / step))
    # From here on the walk starts anew at 0: time counts from t, boundaries from the path so far.
    return exit_probabilities([fraction - t for fraction in times], regions, drift=drift)


def extension_plan(
    t: float,
    z: float,
    *,
    remaining: Sequence[tuple[float, float | None]],
    sides: Sides = 2,
) -> ExtensionPlan:
    """Return the test of new data that may replace the remaining looks of the plan.

    Args:
        t: Information fraction of the last look taken.
        z: Its score; it crossed no boundary.
        remaining: (t_j, c_j) of the looks that the plan still has.
        sides: Sides of the plan.

    Raises:
        EstimationError: OUTSIDE_PLAN where no look remains, or nothing is left to reject with.
        ValueError: Fractions do not increase from `t` to at most 1.

    Examples:
        >>> plan = extension_plan(0.5, 1.5, remaining=[(1.0, 1.9686)])
        >>> round(plan.level, 4), round(plan.upper, 4)
        (0.0996, 1.284)
    """
    ahead = conditional_rejection_probability(t, z, remaining=remaining, sides=sides)
    return _plan(math.fsum(ahead.upper), math.fsum(ahead.lower))


def reserved_extension_plan(
    *, alpha: float, reserve_alpha: float, sides: Sides = 2
) -> ExtensionPlan:
    """Return the test of new data after the planned end, from the level that the plan reserved.

    Args:
        alpha: Overall level, of which the looks of the plan spend alpha − reserve_alpha.
        reserve_alpha: ε, fixed in the plan before the first look.
        sides: Sides of the plan; two sides share the level equally.

    Raises:
        EstimationError: OUTSIDE_PLAN where nothing was reserved.
        ValueError: A level outside its range.

    Examples:
        >>> round(reserved_extension_plan(alpha=0.05, reserve_alpha=0.01).level, 6)
        0.010417
    """
    check_alpha(alpha)
    check_sides(sides)
    if not 0 <= reserve_alpha <= alpha:
        msg = f"reserve_alpha is {reserve_alpha}, need 0..{alpha}"
        raise ValueError(msg)
    if reserve_alpha == 0:
        raise EstimationError(
            "OUTSIDE_PLAN", SUBJECT, "after the planned end and no alpha was reserved"
        )
    level = reserve_alpha / (1 - alpha + reserve_alpha)
    return _plan(level / sides, level / 2 if sides == 2 else 0.0)  # noqa: PLR2004


def new_data_score(information: float, z: float, information_now: float, z_now: float) -> float:
    """Return the score of the data since a look: independent of it where there is no effect.

    (√I₂ z₂ − √I₁ z₁)/√(I₂ − I₁), valid for metrics with independent increments.

    Args:
        information: 1/SE² at the look that the extension started from.
        z: Its score.
        information_now: 1/SE² of all data together.
        z_now: Its score.

    Raises:
        EstimationError: NOT_IDENTIFIED where information has not grown.

    Examples:
        >>> round(new_data_score(100.0, 1.5, 200.0, 2.0), 4)
        1.3284
    """
    if not information_now > information > 0:
        raise EstimationError(
            "NOT_IDENTIFIED", SUBJECT, f"information {information:g} then {information_now:g}"
        )
    gain = math.sqrt(information_now) * z_now - math.sqrt(information) * z
    return gain / math.sqrt(information_now - information)


def _plan(level_up: float, level_down: float) -> ExtensionPlan:
    level = level_up + level_down
    if not 0 < level < 1:
        raise EstimationError("OUTSIDE_PLAN", SUBJECT, f"phi is {level:g}: already decided")
    return ExtensionPlan(
        level=level,
        level_up=level_up,
        level_down=level_down,
        upper=upper_quantile(level_up),
        lower=-upper_quantile(level_down) if level_down > 0 else None,
    )
