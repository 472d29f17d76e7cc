"""Non-binding futility by β-spending: when success has become unlikely (METHODS 8.6).

With the upper boundaries c_k of the plan, solved as if futility did not exist, and the drift η that
the plan is powered for, the lower bounds l_k solve

    P_η(continue to k−1, Z_k < l_k) = β*(t_k) − β*(t_{k−1})

and η is the drift at which l_K = c_K: all of β is then spent, and the power is 1 − β with every
futility stop obeyed. Because c_k ignore futility, going on past l_k costs no type I error.

Scores point in the desired direction. In a two-sided plan futility is one-sided on that side: the
experiment also stops below −c_k, which counts as a missed effect, so that l_k exists only where it
lies above −c_k. Not here: binding bounds and the inner wedge |Z_k| < l_k.

References:
    Pampallona & Tsiatis 1994; Pampallona, Tsiatis & Kim 2001; Jennison & Turnbull 2000, ch. 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.sequential.boundaries import (
    LARGEST_Z,
    UNRESOLVED_INCREMENT,
    NoStop,
    solve_boundaries,
)
from experiments_dagster.stats.sequential.power import expected_fraction, fixed_drift
from experiments_dagster.stats.sequential.recursion import (
    Region,
    Walk,
    continuation,
    exit_probabilities,
    walk_within,
)
from experiments_dagster.stats.sequential.spending import (
    Sides,
    Spending,
    check_sides,
    spent_per_tail,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FutilityBound:
    """Futility bound of one look.

    Args:
        lower: l_k on the z scale of the desired direction; None where the look has none.
        beta_spent: Type II error spent up to and including this look.
        reason: Why there is no bound.
    """

    lower: float | None
    beta_spent: float
    reason: NoStop | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedInformation:
    """Expected information at stopping over that of a fixed test, under three drifts."""

    under_null: float
    under_half: float
    under_planned: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FutilityDesign:
    """A plan with efficacy and futility bounds, one entry per look.

    Args:
        fractions: Information fractions t_k.
        upper: c_k, solved without regard to futility; None where the look cannot stop.
        lower: l_k, the last one equal to c_K; None where the look cannot stop.
        cumulative_beta: Type II error spent up to each look.
        drift: η at t = 1 that the plan detects with its power.
        inflation: η² over that of the fixed test.
        expected_with_futility: Every futility stop obeyed.
        expected_without_futility: Every futility stop ignored.
        sides: Sides of the efficacy plan.
    """

    fractions: tuple[float, ...]
    upper: tuple[float | None, ...]
    lower: tuple[float | None, ...]
    cumulative_beta: tuple[float, ...]
    drift: float
    inflation: float
    expected_with_futility: ExpectedInformation
    expected_without_futility: ExpectedInformation
    sides: Sides


def futility_design(
    fractions: Sequence[float],
    *,
    alpha: float,
    power: float,
    sides: Sides = 1,
    spending: Spending = "obrien_fleming",
    parameter: float | None = None,
    beta_spending: Spending = "obrien_fleming",
    beta_parameter: float | None = None,
) -> FutilityDesign:
    """Return the plan whose futility stops leave it with exactly this power.

    Args:
        fractions: Increasing information fractions, the last one 1.
        alpha: Overall level.
        power: 1 − β, above the one-sided size of the plan.
        sides: Sides of the efficacy plan; futility looks at the desired side in both.
        spending: Spending function of α.
        parameter: ρ or γ of it.
        beta_spending: Spending function of β.
        beta_parameter: ρ or γ of it.

    Raises:
        ValueError: A field is outside its range.

    Examples:
        >>> design = futility_design([1 / 3, 2 / 3, 1.0], alpha=0.025, power=0.8)
        >>> [round(bound, 3) for bound in design.lower], round(design.inflation, 3)
        ([-0.236, 1.17, 1.993], 1.104)
    """
    check_alpha(alpha)
    check_sides(sides)
    if not alpha / sides < power < 1:
        msg = f"power is {power}, need more than the one-sided size of the plan and less than 1"
        raise ValueError(msg)
    if not fractions or fractions[-1] != 1:
        msg = f"information fractions {list(fractions)} must end at 1, where all of beta is spent"
        raise ValueError(msg)
    plan = solve_boundaries(
        fractions, alpha=alpha, sides=sides, spending=spending, parameter=parameter
    )
    betas = [
        spent_per_tail(beta_spending, t, 1 - power, parameter=beta_parameter) for t in fractions
    ]
    drift = _solve_drift(fractions, plan.critical_values, betas, sides)
    bounds = _futility_bounds(fractions, plan.critical_values, betas, sides, drift)
    lower = (*(bound.lower for bound in bounds[:-1]), plan.critical_values[-1])
    inflation = (drift / fixed_drift(alpha=alpha, sides=sides, power=power)) ** 2
    efficacy = [continuation(critical, sides) for critical in plan.critical_values]
    both = [_region(up, low, sides) for up, low in zip(plan.critical_values, lower, strict=True)]
    return FutilityDesign(
        fractions=tuple(fractions),
        upper=plan.critical_values,
        lower=lower,
        cumulative_beta=tuple(bound.beta_spent for bound in bounds),
        drift=drift,
        inflation=inflation,
        expected_with_futility=_expected(fractions, both, drift, inflation),
        expected_without_futility=_expected(fractions, efficacy, drift, inflation),
        sides=sides,
    )


def next_futility_bound(
    previous: Sequence[tuple[float, float | None, float | None]],
    *,
    t: float,
    upper: float | None,
    drift: float,
    cumulative_beta_now: float,
    beta_spent: float,
    sides: Sides = 1,
) -> FutilityBound:
    """Return the futility bound of the next look at its actual fraction, given the stored ones.

    Args:
        previous: Stored (t_j, c_j, l_j) of earlier looks in order; None where a look had none.
        t: Information fraction of this look, at most 1.
        upper: c_k of this look; the futility bound is never above it.
        drift: η of the plan at t = 1.
        cumulative_beta_now: Type II error that may be spent up to this look.
        beta_spent: Spent by the earlier looks.
        sides: Sides of the efficacy plan.

    Raises:
        ValueError: Stored fractions do not increase, or `t` is outside (0, 1].

    Examples:
        >>> bound = next_futility_bound(
        ...     [(1 / 3, 3.710303, -0.236145)], t=2 / 3, upper=2.511427, drift=2.944110,
        ...     cumulative_beta_now=0.116526, beta_spent=0.026434,
        ... )
        >>> round(bound.lower, 3)
        1.17
    """
    check_sides(sides)
    fractions = [fraction for fraction, _, _ in previous]
    if not 0 < t <= 1 or any(b <= a for a, b in pairwise(fractions)):
        msg = f"fractions {fractions} then {t}: stored ones must increase, t be in (0, 1]"
        raise ValueError(msg)
    if fractions and t <= fractions[-1]:
        return FutilityBound(lower=None, beta_spent=beta_spent, reason="INFORMATION_DECREASED")
    regions = [_region(up, low, sides) for _, up, low in previous]
    walk = walk_within([*fractions, t], regions, drift=drift)
    return _solve_lower(walk, t, upper, allowed=cumulative_beta_now, spent=beta_spent, sides=sides)


def _solve_drift(
    fractions: Sequence[float],
    uppers: Sequence[float | None],
    betas: Sequence[float],
    sides: Sides,
) -> float:
    """Drift at which exactly β ends below: the last bound then meets the upper one."""
    from scipy.optimize import brentq

    def excess(drift: float) -> float:
        bounds = _futility_bounds(fractions, uppers, betas, sides, drift)
        before = bounds[-2].beta_spent if len(bounds) > 1 else 0.0
        regions = [
            _region(up, bound.lower, sides)
            for up, bound in zip(uppers[:-1], bounds[:-1], strict=True)
        ]
        walk = walk_within(fractions, regions, drift=drift)
        last = LARGEST_Z if uppers[-1] is None else uppers[-1]
        return before + walk.lower_tail(fractions[-1], last) - betas[-1]

    high = 4.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-11))


def _futility_bounds(
    fractions: Sequence[float],
    uppers: Sequence[float | None],
    betas: Sequence[float],
    sides: Sides,
    drift: float,
) -> list[FutilityBound]:
    walk = Walk.start(drift)
    bounds: list[FutilityBound] = []
    for index, (t, upper, allowed) in enumerate(zip(fractions, uppers, betas, strict=True)):
        spent = bounds[-1].beta_spent if bounds else 0.0
        bounds.append(_solve_lower(walk, t, upper, allowed=allowed, spent=spent, sides=sides))
        if index + 1 < len(fractions):
            low, high = _region(upper, bounds[-1].lower, sides)
            walk = walk.advance(t, low, high, next_step=fractions[index + 1] - t)
    return bounds


def _solve_lower(
    walk: Walk, t: float, upper: float | None, *, allowed: float, spent: float, sides: Sides
) -> FutilityBound:
    """Solve the bound that uses what is allowed and not yet spent, between −c_k and c_k."""
    from scipy.optimize import brentq

    undesired, _ = continuation(upper, sides)
    ceiling = LARGEST_Z if upper is None else upper
    lost_anyway = walk.lower_tail(t, undesired)
    increment = allowed - spent
    if increment < UNRESOLVED_INCREMENT or lost_anyway >= increment:
        return FutilityBound(
            lower=None, beta_spent=spent + lost_anyway, reason="NO_STOP_AT_THIS_LOOK"
        )
    below_ceiling = walk.lower_tail(t, ceiling)
    if below_ceiling <= increment:
        return FutilityBound(lower=ceiling, beta_spent=spent + below_ceiling, reason=None)

    def excess(bound: float) -> float:
        return walk.lower_tail(t, bound) - increment

    lower = float(brentq(excess, max(undesired, -LARGEST_Z), ceiling, xtol=1e-13))
    return FutilityBound(lower=lower, beta_spent=allowed, reason=None)


def _region(upper: float | None, lower: float | None, sides: Sides) -> Region:
    """z-values between which the experiment goes on, every bound obeyed."""
    undesired, high = continuation(upper, sides)
    return (undesired if lower is None else max(lower, undesired)), high


def _expected(
    fractions: Sequence[float], regions: Sequence[Region], drift: float, inflation: float
) -> ExpectedInformation:
    def at(share: float) -> float:
        crossing = exit_probabilities(fractions, regions, drift=share * drift)
        return inflation * expected_fraction(fractions, crossing)

    return ExpectedInformation(under_null=at(0.0), under_half=at(0.5), under_planned=at(1.0))
