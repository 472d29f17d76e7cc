"""Asymptotic confidence sequence: an interval that holds at all looks at once.

With information I = 1/SE², tuning g > 0, r = g/I and z = Δ̂/SE (METHODS 8.8):

    half-width = SE·√{(1 + r)·ln[(1 + r)/(r α²)]}
    ln E = ½ ln[r/(1 + r)] + ½ z²/(1 + r),   p = min(1, 1/E)

so that p < α exactly when the interval excludes 0. One-sided (effect above 0), x = z/√(1 + r):

    ln E = ½ ln[4r/(1 + r)] + ½ x² + ln Φ(x),   lower limit at the root of ln E = ln(1/α)

The mixture sequential probability ratio test of two streams is the same thing with g = 1/τ² (8.9).
g is tuned at the planned information, in units that do not change when cents become euros. The
approximation is for large samples: looks with fewer than max(100, 355·skew²) units per arm are not
served, which the caller decides.

Small samples of normal data, σ unknown: with r = g/(g + n), g in units of n, and ν degrees of
freedom, t = Δ̂/SE,

    ln E = ½ ln r + ½(ν + 1)[ln(1 + t²/ν) − ln(1 + r t²/ν)]

References:
    Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021; Waudby-Smith et al. 2024; Johari,
    Koomen, Pekelis & Walsh 2017; Lindon, Ham, Tingley & Bojinov 2022 (t version).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import log_ndtr

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.sequential.spending import Sides, check_sides


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSequencePoint:
    """The confidence sequence at one look.

    Args:
        low: Lower limit.
        high: Upper limit; None for a one-sided sequence.
        half_width: Distance of the limits from the estimate.
        log_e_value: ln E at this look.
        p_value: min(1, 1/E) at this look; valid at all looks by its running minimum.
    """

    low: float
    high: float | None
    half_width: float
    log_e_value: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningIntersection:
    """Intersection of the intervals of all looks; it need not contain the last estimate.

    `low` and `high` are None, and `flag` is MODEL_SUSPECT, where the intersection is empty.
    """

    low: float | None
    high: float | None
    flag: Literal["MODEL_SUSPECT"] | None


def tuning_information(target_information: float, alpha: float, *, sides: Sides = 2) -> float:
    """Return the g that makes the sequence about narrowest at the target information.

    Args:
        target_information: Planned I_max (or half of it), frozen in the plan.
        alpha: Level of the sequence.
        sides: A one-sided sequence is tuned at 2α.

    Examples:
        >>> round(tuning_information(100.0, 0.05), 5)
        12.60056
    """
    check_alpha(alpha)
    check_sides(sides)
    level = -2 * math.log(alpha if sides == 2 else min(2 * alpha, 1.0))  # noqa: PLR2004
    return target_information / (level + math.log1p(level))


def confidence_sequence(
    estimate: float, std_error: float, *, g: float, alpha: float, sides: Sides = 2
) -> ConfidenceSequencePoint:
    """Return the interval, e-value and p-value of one look.

    Args:
        estimate: Running effect.
        std_error: Its standard error at this look.
        g: Tuning information, from `tuning_information`, the same at every look.
        alpha: Level of the sequence.
        sides: 1 bounds the effect from below and tests effect > 0; negate the estimate for the
            other direction.

    Raises:
        EstimationError: ZERO_VARIANCE where the standard error is zero.
        ValueError: g not above 0.

    Examples:
        >>> point = confidence_sequence(0.3, 0.1, g=12.6, alpha=0.05)
        >>> round(point.half_width, 4), round(point.p_value, 4)
        (0.3035, 0.0549)
    """
    check_alpha(alpha)
    check_sides(sides)
    if not g > 0:
        msg = f"g is {g}, need > 0"
        raise ValueError(msg)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "confidence sequence")
    r = g * std_error**2
    x = estimate / std_error / math.sqrt(1 + r)
    if sides == 2:  # noqa: PLR2004
        log_e = -0.5 * math.log1p(1 / r) + 0.5 * x * x
        bound = math.sqrt(math.log1p(1 / r) - 2 * math.log(alpha))
    else:
        log_e = _one_sided_log_e(x, r)
        bound = _one_sided_bound(r, alpha)
    half_width = std_error * math.sqrt(1 + r) * bound
    return ConfidenceSequencePoint(
        low=estimate - half_width,
        high=estimate + half_width if sides == 2 else None,  # noqa: PLR2004
        half_width=half_width,
        log_e_value=log_e,
        p_value=running_p_value([log_e]),
    )


def one_sided_half_width(std_error: float, *, g: float, alpha: float) -> float:
    """Return the closed-form one-sided half-width, slightly wider than the exact one.

    SE·√{2(1 + r)·ln[1 + √((1 + r)/r)/(2α)]}; Waudby-Smith et al. 2024, METHODS 8.8.
    """
    r = g * std_error**2
    return std_error * math.sqrt(2 * (1 + r) * math.log1p(math.sqrt(1 + 1 / r) / (2 * alpha)))


def running_p_value(log_e_values: Iterable[float]) -> float:
    """Return the always-valid p-value after these looks: 1 over the largest e-value, at most 1."""
    return min(1.0, math.exp(-max(0.0, *log_e_values)))


def running_intersection(intervals: Sequence[tuple[float, float]]) -> RunningIntersection:
    """Return what all intervals have in common.

    Examples:
        >>> running_intersection([(0.0, 4.0), (1.0, 5.0)])
        RunningIntersection(low=1.0, high=4.0, flag=None)
        >>> running_intersection([(0.0, 1.0), (2.0, 3.0)]).flag
        'MODEL_SUSPECT'
    """
    low = max(interval[0] for interval in intervals)
    high = min(interval[1] for interval in intervals)
    if low > high:
        return RunningIntersection(low=None, high=None, flag="MODEL_SUSPECT")
    return RunningIntersection(low=low, high=high, flag=None)


def tuning_rho2(target_n: float, alpha: float) -> float:
    """Return the tuning ρ² of the sample form, narrowest at about `target_n` units.

    Examples:
        >>> round(tuning_rho2(5000, 0.05), 8)
        0.00158723
    """
    return 1 / tuning_information(target_n, alpha)


def sample_radius(n: float, variance: float, *, rho2: float, alpha: float) -> float:
    """Return the half-width from n units of a known variance: g = 1/(ρ²σ²), I = n/σ².

    Args:
        n: Units so far.
        variance: σ² of one unit.
        rho2: From `tuning_rho2`.
        alpha: Level of the sequence.

    References:
        Waudby-Smith et al. 2024, theorem 2.2.
    """
    g = 1 / (rho2 * variance)
    return confidence_sequence(0.0, math.sqrt(variance / n), g=g, alpha=alpha).half_width


def small_sample_sequence(
    estimate: float, std_error: float, *, df: float, n: float, g: float, alpha: float
) -> ConfidenceSequencePoint:
    """Return the two-sided t version for a normal outcome or a regression with few units.

    Args:
        estimate: Running effect.
        std_error: Its standard error with the pooled residual variance, at this look.
        df: Residual degrees of freedom ν = n − p.
        n: Units so far, both arms.
        g: Tuning in units, `tuning_information(target_n, alpha)`, the same at every look.
        alpha: Level of the sequence.

    Raises:
        EstimationError: ZERO_VARIANCE; N_TOO_SMALL where even an infinite t could not reach the
            level, so that the interval has no ends.
        ValueError: g, n or df not above 0.

    References:
        Lindon, Ham, Tingley & Bojinov 2022.

    Examples:
        >>> point = small_sample_sequence(0.9, 0.3, df=48, n=50, g=12.6, alpha=0.05)
        >>> round(point.half_width, 4), round(point.p_value, 4)
        (0.973, 0.082)
    """
    check_alpha(alpha)
    if not (g > 0 and n > 0 and df > 0):
        msg = f"g is {g}, n is {n}, df is {df}, need > 0"
        raise ValueError(msg)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "confidence sequence")
    r = g / (g + n)
    t = estimate / std_error
    # (1 + t²/ν)/(1 + r t²/ν) = 1/(1 − (1 − r)·t²/(ν + t²)), which no large t overflows.
    share = (t / math.hypot(t, math.sqrt(df))) ** 2
    log_e = 0.5 * math.log(r) - 0.5 * (df + 1) * math.log1p(-(n / (g + n)) * share)
    # ln E = ln(1/α) at (1 + t²/ν)/(1 + r t²/ν) = e^x.
    x = -(2 * math.log(alpha) + math.log(r)) / (df + 1)
    if x + math.log(r) >= 0:
        raise EstimationError("N_TOO_SMALL", "confidence sequence", f"{n:g} units with g = {g:g}")
    half_width = std_error * math.sqrt(df * math.expm1(x) / -math.expm1(x + math.log(r)))
    return ConfidenceSequencePoint(
        low=estimate - half_width,
        high=estimate + half_width,
        half_width=half_width,
        log_e_value=log_e,
        p_value=running_p_value([log_e]),
    )


def mixture_sprt(
    difference: float, *, n_per_arm: float, variance: float, tau2: float, alpha: float
) -> ConfidenceSequencePoint:
    """Return the mSPRT of two streams of equal size: the sequence with g = 1/τ².

    Args:
        difference: Mean difference so far.
        n_per_arm: Units in each arm.
        variance: σ² of one unit, common to both arms.
        tau2: Variance τ² of the normal mixture.
        alpha: Level.

    References:
        Johari, Koomen, Pekelis & Walsh 2017, eq. 6.
    """
    std_error = math.sqrt(2 * variance / n_per_arm)
    return confidence_sequence(difference, std_error, g=1 / tau2, alpha=alpha)


def _one_sided_log_e(x: float, r: float) -> float:
    return math.log(2) - 0.5 * math.log1p(1 / r) + 0.5 * x * x + float(log_ndtr(x))


def _one_sided_bound(r: float, alpha: float) -> float:
    """Root x of the one-sided ln E = ln(1/α); ln E grows with x and is negative at 0."""
    from scipy.optimize import brentq

    def shortfall(x: float) -> float:
        return _one_sided_log_e(x, r) + math.log(alpha)

    high = 1.0
    while shortfall(high) < 0:
        high *= 2
    return float(brentq(shortfall, 0.0, high, xtol=1e-13))
