"""Spending functions: how much of the level may be used by information fraction t.

With per-tail level a (α/2 for two sides, α for one), cumulative and per tail (METHODS 8.2):

    obrien_fleming        2 − 2Φ(z_{1−a/2}/√t)            Lan & DeMets 1983
    pocock                a ln(1 + (e − 1)t)               Lan & DeMets 1983
    kim_demets            a t^ρ                            Kim & DeMets 1987
    hwang_shih_decani     a(1 − e^{−γt})/(1 − e^{−γ})      Hwang, Shih & DeCani 1990; γ = 0: a t

A two-sided plan at α = 0.05 is two one-sided plans at a = 0.025: the O'Brien-Fleming type uses
z_{0.9875} = 2.2414 and spends 2a*(t) in total. Putting z_{0.975} there gives other boundaries.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from scipy.special import ndtr, ndtri

from experiments_dagster.stats.intervals import check_alpha

Spending = Literal["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"]
Sides = Literal[1, 2]

DEFAULT_RHO = 3.0
DEFAULT_GAMMA = -4.0


def spent_per_tail(
    spending: Spending, t: float, level: float, *, parameter: float | None = None
) -> float:
    """Return the level that one tail may have used by information fraction `t`.

    Args:
        spending: Name of the function.
        t: Information fraction; values above 1 count as 1.
        level: Level of this tail.
        parameter: ρ of `kim_demets` (default 3) or γ of `hwang_shih_decani` (default -4).

    Raises:
        ValueError: Unknown name, t not above 0, level outside (0, 1), or ρ not above 0.

    Examples:
        >>> round(spent_per_tail("pocock", 0.5, 0.025), 6)
        0.015503
    """
    check_alpha(level)
    if not t > 0:
        msg = f"information fraction is {t}, need > 0"
        raise ValueError(msg)
    if spending not in get_args(Spending):
        msg = f"unknown spending function {spending!r}; known: {', '.join(get_args(Spending))}"
        raise ValueError(msg)
    if t >= 1:
        return level
    if spending == "obrien_fleming":
        return 2 * float(ndtr(ndtri(level / 2) / math.sqrt(t)))
    if spending == "pocock":
        return level * math.log1p(math.expm1(1) * t)
    if spending == "kim_demets":
        return level * math.pow(t, _positive(DEFAULT_RHO if parameter is None else parameter))
    gamma = DEFAULT_GAMMA if parameter is None else parameter
    return level * (t if gamma == 0 else math.expm1(-gamma * t) / math.expm1(-gamma))


def cumulative_alpha(
    spending: Spending,
    t: float,
    *,
    alpha: float,
    sides: Sides = 2,
    parameter: float | None = None,
) -> float:
    """Return the total level that all tails may have used by information fraction `t`.

    Args:
        spending: Name of the function.
        t: Information fraction; values above 1 count as 1.
        alpha: Overall level.
        sides: 1 or 2.
        parameter: As in `spent_per_tail`.

    Examples:
        >>> f"{cumulative_alpha('obrien_fleming', 0.2, alpha=0.05):.4g}"
        '1.078e-06'
    """
    check_sides(sides)
    return sides * spent_per_tail(spending, t, alpha / sides, parameter=parameter)


def check_sides(sides: int) -> None:
    """Refuse anything but one or two sides."""
    if sides not in (1, 2):
        msg = f"sides is {sides}, need 1 or 2"
        raise ValueError(msg)


def _positive(rho: float) -> float:
    if not rho > 0:
        msg = f"rho is {rho}, need > 0"
        raise ValueError(msg)
    return rho
