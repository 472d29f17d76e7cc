"""Power and information of a group-sequential plan (METHODS 8.5).

drift η solves P_η(cross the upper boundary) = 1 − β
inflation R = η²/(z_{1−a} + z_{1−β})²,   I_max = R·I_fixed = (η/effect)²
E[I at stopping]/I_fixed = R·Σ t_k P(stop at k)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from experiments_dagster.stats.intervals import upper_quantile
from experiments_dagster.stats.sequential.boundaries import Boundaries, solve_boundaries
from experiments_dagster.stats.sequential.recursion import (
    CrossingProbabilities,
    crossing_probabilities,
)
from experiments_dagster.stats.sequential.spending import Sides, Spending


def fixed_drift(*, alpha: float, sides: Sides = 2, power: float) -> float:
    """Return z_{1−a} + z_{1−β}: the drift that a single look needs.

    Examples:
        >>> round(fixed_drift(alpha=0.05, power=0.9) ** 2, 4)
        10.5074
    """
    return upper_quantile(alpha / sides) + upper_quantile(1 - power)


def required_drift(boundaries: Boundaries, *, power: float) -> float:
    """Return the drift η with which the upper boundary is crossed with this power.

    Args:
        boundaries: The plan.
        power: Above the one-sided size of the plan and below 1.

    Raises:
        ValueError: No drift gives this power.
    """
    from scipy.optimize import brentq

    def shortfall(drift: float) -> float:
        crossing = crossing_probabilities(
            boundaries.fractions, boundaries.critical_values, drift=drift, sides=boundaries.sides
        )
        return math.fsum(crossing.upper) - power

    if not power < 1 or shortfall(0.0) >= 0:
        msg = f"power is {power}, need more than the size of the plan and less than 1"
        raise ValueError(msg)
    high = 4.0
    while shortfall(high) < 0:
        high *= 2
    return float(brentq(shortfall, 0.0, high, xtol=1e-12))


def inflation_factor(boundaries: Boundaries, *, alpha: float, power: float) -> float:
    """Return how much more information than a fixed test the plan needs at most.

    Examples:
        >>> from experiments_dagster.stats.sequential.boundaries import design_boundaries
        >>> plan = design_boundaries("obrien_fleming", [0.2, 0.4, 0.6, 0.8, 1.0])
        >>> round(inflation_factor(plan, alpha=0.05, power=0.9), 4)
        1.0265
    """
    fixed = fixed_drift(alpha=alpha, sides=boundaries.sides, power=power)
    return (required_drift(boundaries, power=power) / fixed) ** 2


def planned_information(
    effect: float,
    *,
    alpha: float,
    power: float,
    fractions: Sequence[float],
    sides: Sides = 2,
    spending: Spending = "obrien_fleming",
    parameter: float | None = None,
) -> float:
    """Return I_max = 1/Var(Δ̂) at the planned end that detects `effect` with this power.

    Args:
        effect: Absolute effect, not zero, in the units of the metric.
        alpha: Overall level.
        power: 1 − β.
        fractions: Planned information fractions, the last one 1.
        sides: 1 or 2.
        spending: Spending function.
        parameter: ρ or γ of the function.

    Examples:
        >>> round(planned_information(0.1, alpha=0.05, power=0.8, fractions=[1.0]), 1)
        784.9
    """
    if effect == 0 or not math.isfinite(effect):
        msg = f"effect is {effect}, need a finite value other than 0"
        raise ValueError(msg)
    drift = _planned_drift(alpha, power, tuple(fractions), sides, spending, parameter)
    return (drift / effect) ** 2


@lru_cache(maxsize=256)
def _planned_drift(
    alpha: float,
    power: float,
    fractions: tuple[float, ...],
    sides: Sides,
    spending: Spending,
    parameter: float | None,
) -> float:
    """The drift of a plan, which many experiments share."""
    boundaries = solve_boundaries(
        fractions, alpha=alpha, sides=sides, spending=spending, parameter=parameter
    )
    return required_drift(boundaries, power=power)


def expected_information(boundaries: Boundaries, *, drift: float) -> float:
    """Return the expected information at stopping as a share of I_max.

    Args:
        boundaries: The plan.
        drift: η under which to take the expectation.
    """
    crossing = crossing_probabilities(
        boundaries.fractions, boundaries.critical_values, drift=drift, sides=boundaries.sides
    )
    return expected_fraction(boundaries.fractions, crossing)


def expected_fraction(fractions: Sequence[float], crossing: CrossingProbabilities) -> float:
    """Return Σ t_k P(stop at k), the last look taking all that is left."""
    stops = [up + down for up, down in zip(crossing.upper[:-1], crossing.lower[:-1], strict=True)]
    early = math.fsum(t * stop for t, stop in zip(fractions[:-1], stops, strict=True))
    return early + (1 - math.fsum(stops)) * fractions[-1]
