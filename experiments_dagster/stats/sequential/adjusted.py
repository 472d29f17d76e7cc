"""Inference that stays honest over the looks and after stopping (METHODS 8.7).

    repeated interval   Δ̂_k ± c_k SE_k, valid at every look whether or not one stops
    repeated p          smallest level whose boundaries, all solved again, reach z_k
    stagewise p(η)      P_η(stopped above at an earlier look) + P_η(reach k, Z_k ≥ z_k)
    limits, median      p(η) = a, p(η) = 1 − a, p(η) = ½;   effect = η/√I_max, I_max = I_k/t_k

The naive estimate of a stopped experiment is too large on average; the median-unbiased one is not
beyond it half of the time.

References:
    Tsiatis, Rosner & Mehta 1984; Jennison & Turnbull 2000, ch. 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.sequential.boundaries import LARGEST_Z, solve_boundaries
from experiments_dagster.stats.sequential.recursion import (
    Walk,
    check_fractions,
    continuation,
)
from experiments_dagster.stats.sequential.spending import Sides, Spending, check_sides

SMALLEST_LEVEL = 1e-12  # a repeated p-value below it is reported as this


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedAnalysis:
    """An effect after stopping, corrected for the chances to stop before.

    Args:
        naive_estimate: The estimate at the stop, uncorrected.
        median_unbiased_estimate: Effect at which p is one half.
        ci_low: Lower stagewise limit.
        ci_high: Upper stagewise limit.
        p_value: Stagewise p-value, one- or two-sided as the plan.
        confidence_level: 1 − α (two-sided plan) or 1 − 2α (one-sided plan).
    """

    naive_estimate: float
    median_unbiased_estimate: float
    ci_low: float
    ci_high: float
    p_value: float
    confidence_level: float


def repeated_interval(
    estimate: float, std_error: float, critical_value: float
) -> tuple[float, float]:
    """Return the repeated confidence interval of one look.

    Examples:
        >>> repeated_interval(1.0, 0.5, 2.5)
        (-0.25, 2.25)
    """
    return estimate - critical_value * std_error, estimate + critical_value * std_error


def repeated_p_value(
    fractions: Sequence[float],
    z: float,
    *,
    sides: Sides = 2,
    spending: Spending = "obrien_fleming",
    parameter: float | None = None,
) -> float:
    """Return the repeated p-value of the last of the looks at `fractions`.

    Args:
        fractions: Information fractions of the looks so far.
        z: Score of the last of them.
        sides: 2 takes |z|, 1 takes z.
        spending: Spending function of the plan.
        parameter: ρ or γ of the function.

    Examples:
        >>> round(repeated_p_value([1.0], 1.959964), 6)
        0.05
    """
    from scipy.optimize import brentq

    check_sides(sides)
    statistic = abs(z) if sides == 2 else z  # noqa: PLR2004

    def excess(log_level: float) -> float:
        plan = solve_boundaries(
            fractions,
            alpha=math.exp(log_level),
            sides=sides,
            spending=spending,
            parameter=parameter,
        )
        critical = plan.critical_values[-1]
        return (LARGEST_Z if critical is None else critical) - statistic

    low, high = math.log(SMALLEST_LEVEL), math.log1p(-SMALLEST_LEVEL)
    if excess(high) >= 0:
        return 1.0
    if excess(low) <= 0:
        return SMALLEST_LEVEL
    return math.exp(float(brentq(excess, low, high, xtol=1e-12)))


def stagewise_p_value(
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    z: float,
    *,
    sides: Sides = 2,
    drift: float = 0.0,
) -> float:
    """Return the probability, under a drift, of a path at least as far up as the observed one.

    Args:
        fractions: Fractions of the looks up to the stop.
        critical_values: Boundaries of the looks before the stop; one more is ignored.
        z: Score at the stop.
        sides: Sides of the plan that absorb.
        drift: η; 0 gives the one-sided p-value.

    Examples:
        >>> round(stagewise_p_value([0.5], [2.9626], 3.0), 6)
        0.00135
    """
    check_fractions(fractions)
    check_sides(sides)
    walk = Walk.start(drift)
    stopped_above = 0.0
    for index, t in enumerate(fractions[:-1]):
        lower, upper = continuation(critical_values[index], sides)
        stopped_above += walk.upper_tail(t, upper)
        walk = walk.advance(t, lower, upper, next_step=fractions[index + 1] - t)
    return min(1.0, stopped_above + walk.upper_tail(fractions[-1], z))


def analyse_stopped(
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    *,
    estimate: float,
    std_error: float,
    alpha: float,
    sides: Sides = 2,
) -> StoppedAnalysis:
    """Return the stagewise p-value, interval and median-unbiased estimate after stopping.

    Args:
        fractions: Fractions of the looks up to the stop.
        critical_values: Stored boundaries of these looks.
        estimate: Effect at the stop.
        std_error: Its standard error.
        alpha: Overall level of the plan.
        sides: Sides of the plan.

    Examples:
        >>> result = analyse_stopped([1.0], [1.96], estimate=2.5, std_error=1.0, alpha=0.05)
        >>> round(result.ci_low, 4), round(result.median_unbiased_estimate, 4)
        (0.54, 2.5)
    """
    check_alpha(alpha)
    level = alpha / sides
    z = estimate / std_error
    # The two-sided plan is symmetric: the smaller tail is the one on the side of z.
    tail = stagewise_p_value(fractions, critical_values, z if sides == 1 else abs(z), sides=sides)
    effect_per_drift = std_error * math.sqrt(fractions[-1])

    def effect_at(probability: float) -> float:
        return effect_per_drift * _solve_drift(fractions, critical_values, z, sides, probability)

    return StoppedAnalysis(
        naive_estimate=estimate,
        median_unbiased_estimate=effect_at(0.5),
        ci_low=effect_at(level),
        ci_high=effect_at(1 - level),
        p_value=min(1.0, sides * tail),
        confidence_level=1 - 2 * level,
    )


def _solve_drift(
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    z: float,
    sides: Sides,
    probability: float,
) -> float:
    """Drift at which the stagewise p-value, which grows with it, is `probability`."""
    from scipy.optimize import brentq

    def excess(drift: float) -> float:
        p = stagewise_p_value(fractions, critical_values, z, sides=sides, drift=drift)
        return p - probability

    naive = z / math.sqrt(fractions[-1])
    low, high, reach = naive, naive, 1.0
    while excess(low) > 0:
        low, reach = low - reach, 2 * reach
    reach = 1.0
    while excess(high) < 0:
        high, reach = high + reach, 2 * reach
    return float(brentq(excess, low, high, xtol=1e-10)) if low < high else naive
