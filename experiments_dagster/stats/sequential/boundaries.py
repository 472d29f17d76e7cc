"""Group-sequential boundaries: Lan-DeMets spending and the classic designs.

Spending: c_k solves P(continue to k−1, |Z_k| ≥ c_k) = α*(t_k) − α*(t_{k−1}) (METHODS 8.3). An
increment below 1e-14 cannot be resolved: the look has no boundary (None) and the increment is
carried to the next look. Stored boundaries are never computed again.

Classic (METHODS 8.4): c_k = c·s_k with c solved so that the total crossing probability is α.

    pocock s = 1     obrien_fleming s = t^{−1/2}     wang_tsiatis s = t^{Δ−1/2}
    haybittle_peto: c_k = 3 before the last look, the last one solved

References:
    Lan & DeMets 1983; Pocock 1977; O'Brien & Fleming 1979; Wang & Tsiatis 1987; Haybittle 1971;
    Jennison & Turnbull 2000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.intervals import check_alpha, upper_tail
from experiments_dagster.stats.sequential.recursion import (
    Walk,
    check_fractions,
    continuation,
    crossing_probabilities,
    walk_to_last,
)
from experiments_dagster.stats.sequential.spending import (
    Sides,
    Spending,
    check_sides,
    cumulative_alpha,
)

Design = Literal[
    "lan_demets_obrien_fleming",
    "lan_demets_pocock",
    "obrien_fleming",
    "pocock",
    "hwang_shih_decani",
    "kim_demets",
    "wang_tsiatis",
    "haybittle_peto",
]
NoStop = Literal["NO_STOP_AT_THIS_LOOK", "INFORMATION_DECREASED"]

UNRESOLVED_INCREMENT = 1e-14
LARGEST_Z = 38.0  # beyond it the normal tail underflows
SPENDING_OF_DESIGN: dict[Design, Spending] = {
    "lan_demets_obrien_fleming": "obrien_fleming",
    "lan_demets_pocock": "pocock",
    "hwang_shih_decani": "hwang_shih_decani",
    "kim_demets": "kim_demets",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """Boundaries of a plan, one entry per look.

    Args:
        fractions: Information fractions t_k.
        critical_values: c_k on the z scale; None where the look cannot stop.
        cumulative_alpha: Level spent up to each look, over all sides.
        nominal_levels: One-sided Φ̄(c_k); None where the look cannot stop.
        sides: 1 or 2.
    """

    fractions: tuple[float, ...]
    critical_values: tuple[float | None, ...]
    cumulative_alpha: tuple[float, ...]
    nominal_levels: tuple[float | None, ...]
    sides: Sides


@dataclass(frozen=True, slots=True, kw_only=True)
class LookBoundary:
    """Boundary of one look.

    Args:
        critical_value: c_k on the z scale; None where the look cannot stop.
        nominal_level: One-sided Φ̄(c_k).
        alpha_spent: Level spent up to and including this look, over all sides.
        reason: Why there is no boundary.
    """

    critical_value: float | None
    nominal_level: float | None
    alpha_spent: float
    reason: NoStop | None


def solve_boundaries(
    fractions: Sequence[float],
    *,
    alpha: float,
    sides: Sides = 2,
    spending: Spending = "obrien_fleming",
    parameter: float | None = None,
) -> Boundaries:
    """Return the boundaries of a spending plan.

    Args:
        fractions: Increasing information fractions in (0, 1].
        alpha: Overall level.
        sides: 2 stops on either side, 1 above only.
        spending: Spending function.
        parameter: ρ or γ of the function.

    Raises:
        ValueError: A field is outside its range.

    Examples:
        >>> plan = solve_boundaries([0.2, 0.4, 0.6, 0.8, 1.0], alpha=0.05)
        >>> [round(c, 3) for c in plan.critical_values]
        [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    check_alpha(alpha)
    check_sides(sides)
    check_fractions(fractions)
    walk = Walk.start()
    looks: list[LookBoundary] = []
    for index, t in enumerate(fractions):
        allowed = cumulative_alpha(spending, t, alpha=alpha, sides=sides, parameter=parameter)
        spent = looks[-1].alpha_spent if looks else 0.0
        looks.append(_solve_look(walk, t, allowed=allowed, spent=spent, sides=sides))
        if index + 1 < len(fractions):
            lower, upper = continuation(looks[-1].critical_value, sides)
            walk = walk.advance(t, lower, upper, next_step=fractions[index + 1] - t)
    return Boundaries(
        fractions=tuple(fractions),
        critical_values=tuple(look.critical_value for look in looks),
        cumulative_alpha=tuple(look.alpha_spent for look in looks),
        nominal_levels=tuple(look.nominal_level for look in looks),
        sides=sides,
    )


def next_boundary(
    previous: Sequence[tuple[float, float | None]],
    *,
    t: float,
    cumulative_alpha_now: float,
    alpha_spent: float,
    sides: Sides = 2,
) -> LookBoundary:
    """Return the boundary of the next look, given the stored ones.

    The caller decides what may be spent: the spending function at `t`, or all of α at an overrun
    (then `t` = 1) and at the declared last look. Without new information nothing is spent.

    Args:
        previous: Stored (t_j, c_j) of earlier looks in order, c_j None where a look had none.
        t: Information fraction of this look, at most 1.
        cumulative_alpha_now: Level that may be spent up to this look, over all sides.
        alpha_spent: Level spent by the earlier looks.
        sides: 2 stops on either side, 1 above only.

    Raises:
        ValueError: Stored fractions do not increase, or `t` is outside (0, 1].

    Examples:
        >>> look = next_boundary(
        ...     [(0.2, 4.876885)], t=0.4, cumulative_alpha_now=0.000788304, alpha_spent=1.0777e-06
        ... )
        >>> round(look.critical_value, 3)
        3.357
    """
    check_sides(sides)
    fractions = [fraction for fraction, _ in previous]
    if not 0 < t <= 1 or any(b <= a for a, b in pairwise(fractions)):
        msg = f"fractions {fractions} then {t}: stored ones must increase, t be in (0, 1]"
        raise ValueError(msg)
    if fractions and t <= fractions[-1]:
        return _no_stop(alpha_spent, "INFORMATION_DECREASED")
    walk = walk_to_last([*fractions, t], [critical for _, critical in previous], sides=sides)
    return _solve_look(walk, t, allowed=cumulative_alpha_now, spent=alpha_spent, sides=sides)


def first_crossings(
    scores: ArrayLike, critical_values: Sequence[float | None], *, sides: Sides = 2
) -> NDArray[np.int64]:
    """Return the look at which each of many experiments first crosses, −1 where none does.

    Args:
        scores: z of every experiment and look, shape (experiments, looks).
        critical_values: Boundaries of the looks, common to all; None where a look cannot stop.
        sides: 2 stops on either side, 1 above only.

    Returns:
        Index of the look from 0, shape (experiments,).

    Raises:
        ValueError: Shapes do not fit, or a score is NaN.

    Examples:
        >>> first_crossings([[1.0, 2.5], [-4.0, 0.0], [0.0, 1.0]], [2.9626, 1.9686]).tolist()
        [1, 0, -1]
    """
    check_sides(sides)
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] != len(critical_values) or np.isnan(z).any():  # noqa: PLR2004
        msg = f"scores of shape {z.shape} for {len(critical_values)} looks; need a z for each look"
        raise ValueError(msg)
    bounds = np.array([np.inf if c is None else c for c in critical_values])
    crossed = (np.abs(z) if sides == 2 else z) >= bounds  # noqa: PLR2004
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1), -1)


def design_boundaries(
    name: Design,
    information: Sequence[float],
    *,
    alpha: float = 0.05,
    sides: Sides = 2,
    parameter: float | None = None,
) -> Boundaries:
    """Return the boundaries of a design by the name that the command line uses.

    Args:
        name: One of the names of `Design`.
        information: Increasing information fractions in (0, 1].
        alpha: Overall level.
        sides: 2 stops on either side, 1 above only.
        parameter: γ (hwang_shih_decani, default -4), ρ (kim_demets, 3), Δ (wang_tsiatis, 0.25), or
            the early bound (haybittle_peto, 3).

    Raises:
        ValueError: Unknown name, or a field outside its range.

    Examples:
        >>> design = design_boundaries("obrien_fleming", [0.5, 1.0])
        >>> [round(c, 4) for c in design.critical_values]
        [2.7965, 1.9774]
    """
    if name in SPENDING_OF_DESIGN:
        return solve_boundaries(
            information,
            alpha=alpha,
            sides=sides,
            spending=SPENDING_OF_DESIGN[name],
            parameter=parameter,
        )
    check_alpha(alpha)
    check_fractions(information)
    shape = _classic_shape(name, information, parameter)

    def excess(c: float) -> float:
        return crossing_probabilities(information, shape(c), sides=sides).total - alpha

    critical_values = shape(_root(excess, 0.0, LARGEST_Z))
    crossing = crossing_probabilities(information, critical_values, sides=sides)
    cumulative, spent = [], 0.0
    for up, down in zip(crossing.upper, crossing.lower, strict=True):
        spent += up + down
        cumulative.append(spent)
    return Boundaries(
        fractions=tuple(information),
        critical_values=tuple(critical_values),
        cumulative_alpha=tuple(cumulative),
        nominal_levels=tuple(upper_tail(c) for c in critical_values),
        sides=sides,
    )


def _classic_shape(
    name: Design, information: Sequence[float], parameter: float | None
) -> Callable[[float], list[float]]:
    """Boundaries as a function of their one free constant."""
    if name == "haybittle_peto":
        early = 3.0 if parameter is None else parameter
        return lambda c: [early] * (len(information) - 1) + [c]
    exponents = {
        "pocock": 0.0,
        "obrien_fleming": -0.5,
        "wang_tsiatis": (0.25 if parameter is None else parameter) - 0.5,
    }
    if name not in exponents:
        msg = f"unknown design {name!r}; known: {', '.join(get_args(Design))}"
        raise ValueError(msg)
    factors = [t ** exponents[name] for t in information]
    return lambda c: [c * factor for factor in factors]


def _solve_look(
    walk: Walk, t: float, *, allowed: float, spent: float, sides: Sides
) -> LookBoundary:
    """Solve the boundary that uses what is allowed and not yet spent."""
    increment = allowed - spent
    if increment < UNRESOLVED_INCREMENT:
        return _no_stop(spent, "NO_STOP_AT_THIS_LOOK")

    def excess(c: float) -> float:
        lower, _ = continuation(c, sides)
        return walk.upper_tail(t, c) + walk.lower_tail(t, lower) - increment

    critical = _root(excess, 0.0 if sides == 2 else -LARGEST_Z, LARGEST_Z)  # noqa: PLR2004
    return LookBoundary(
        critical_value=critical,
        nominal_level=upper_tail(critical),
        alpha_spent=allowed,
        reason=None,
    )


def _no_stop(spent: float, reason: NoStop) -> LookBoundary:
    return LookBoundary(critical_value=None, nominal_level=None, alpha_spent=spent, reason=reason)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of a decreasing function, or `low` where it is below zero from the start."""
    from scipy.optimize import brentq

    if function(low) <= 0:
        return low
    if function(high) > 0:
        msg = "the early boundaries alone use more than alpha"
        raise ValueError(msg)
    return float(brentq(function, low, high, xtol=1e-13))
