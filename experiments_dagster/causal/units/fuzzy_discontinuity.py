"""Regression discontinuity, fuzzy: the rule moves the chance of treatment, not all units.

With τ_Y and τ_D the jumps of outcome and take-up at the cutoff, fitted at the same bandwidths,

    conventional     τ̂ = τ̂_Y/τ̂_D
    bias-corrected   τ̂ + jump_bc(r),   r = (y − τ̂ d)/τ̂_D
    robust           the same, with the robust variance of the jump of r
    weak take-up     {τ: (τ_Y,bc − τ τ_D,bc)² ≤ z² V(τ_Y,bc − τ τ_D,bc)}, valid for any τ_D
    first stage      F = τ_D,bc²/V(τ_D,bc)

r is the ratio linearised at its estimate: its conventional jump is 0, its bias is that of the ratio
to first order, and its variance is the delta method's. With full take-up on one side only and none
on the other the numbers are those of the sharp design. The bandwidths are those of the outcome's
jump (of the sharp design) unless given.

It is the effect at the cutoff on units that take the treatment because the rule offers it, if the
offer acts through the treatment alone and makes nobody take less.

References:
    Hahn, Todd & van der Klaauw 2001; Calonico, Cattaneo & Titiunik 2014, section 3.1; Feir, Lemieux
    & Marmer 2016 (weak take-up); Anderson & Rubin 1949.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.units.discontinuity import (
    Discontinuity,
    chosen_bandwidths,
    cut_sides,
    estimate_discontinuity,
    fit_side,
)
from experiments_dagster.causal.units.local_polynomial import Bandwidths
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import unit_column
from experiments_dagster.stats.noncompliance import ConfidenceSet, anderson_rubin_set
from experiments_dagster.stats.records import Estimate

Vector = NDArray[np.float64]

# A jump of the take-up below this is rounding.
ROUNDING = 1e-12
ASSUMPTIONS = (
    "continuity: without the rule nothing would jump at the cutoff",
    "exclusion: the rule acts on the outcome only through the treatment",
    "monotonicity: the rule makes nobody take less",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeUp:
    """The jump of the share treated at the cutoff, bias-corrected with its robust error.

    `below` and `above` are the fitted limits. `std_error` is 0 where everybody follows the rule.
    """

    jump: float
    std_error: float
    below: float
    above: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzyDiscontinuity:
    """The effect at the cutoff on those whom the rule moves.

    Means of the estimates are the limits of the outcome, below as control and above as treatment;
    their difference is the jump of the outcome, which is the effect times the take-up.

    Args:
        robust: The row that inference uses.
        bias_corrected: The same estimate with the conventional error: its interval is too short.
        conventional: The ratio of the conventional jumps.
        anderson_rubin: The set that needs no strong take-up, from the bias-corrected jumps.
        outcome: The jump of the outcome at the same bandwidths: the effect of the rule.
        take_up: The jump of the share treated.
        first_stage_f: Squared t of that jump; None where everybody follows the rule.
        assumptions: What it rests on besides the data.
    """

    robust: Estimate
    bias_corrected: Estimate
    conventional: Estimate
    anderson_rubin: ConfidenceSet
    outcome: Discontinuity
    take_up: TakeUp
    first_stage_f: float | None
    assumptions: tuple[str, ...] = ASSUMPTIONS


def estimate_fuzzy_discontinuity(
    y: ArrayLike,
    is_received: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    bandwidth: float | None = None,
    bias_bandwidth: float | None = None,
    alpha: float = 0.05,
) -> FuzzyDiscontinuity:
    """Estimate the effect of a treatment whose chance jumps at the cutoff.

    Args:
        y: Outcome, shape (n,).
        is_received: Whether, or how much of, the treatment was received, shape (n,).
        x: Running variable, shape (n,); the rule offers treatment where x ≥ cutoff.
        cutoff: Where the rule starts.
        bandwidth: h in units of x, of both jumps; default MSE-optimal for the outcome's.
        bias_bandwidth: b; default MSE-optimal, or h where h is given.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: As `estimate_discontinuity`; ZERO_DENOMINATOR where the take-up does not
            jump.
        ValueError: Shapes, cutoff or bandwidths that make no sense.

    References:
        Calonico, Cattaneo & Titiunik 2014, theorem 3; Feir, Lemieux & Marmer 2016.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> x, u = rng.uniform(-1, 1, size=(2, 6000))
        >>> d = (u < 0.6 * (x >= 0) - 0.2).astype(float)
        >>> y = x + 3 * d + 0.5 * u + rng.normal(size=6000)
        >>> found = estimate_fuzzy_discontinuity(y, d, x, 0.0)
        >>> found.robust.ci_low < 3 < found.robust.ci_high, round(found.take_up.jump, 1)
        (True, 0.3)
    """
    outcome, received = unit_column(y, "y"), unit_column(is_received, "is_received")
    running = unit_column(x, "running variable")
    widths = chosen_bandwidths(*cut_sides(outcome, running, cutoff), bandwidth, bias_bandwidth)

    def sharp(values: Vector) -> Discontinuity:
        return estimate_discontinuity(
            values, running, cutoff, bandwidth=widths.h, bias_bandwidth=widths.b, alpha=alpha
        )

    intent = sharp(outcome)
    taken = _jump(received, running, cutoff, widths)
    if abs(taken.conventional) <= ROUNDING * max(1.0, float(np.abs(received).max())):
        detail = "the share treated is the same on both sides of the cutoff"
        raise EstimationError("ZERO_DENOMINATOR", "take-up", detail)
    ratio = intent.conventional.estimate / taken.conventional
    linearised = sharp((outcome - ratio * received) / taken.conventional)
    return FuzzyDiscontinuity(
        robust=_moved(linearised.robust, ratio, intent.robust, alpha),
        bias_corrected=_moved(linearised.bias_corrected, ratio, intent.bias_corrected, alpha),
        conventional=_moved(linearised.conventional, ratio, intent.conventional, alpha),
        anderson_rubin=anderson_rubin_set(
            intent.robust.estimate,
            taken.corrected,
            variances=(intent.robust.std_error**2, taken.variance),
            covariance=_covariance(outcome, received, running, cutoff, widths),
            alpha=alpha,
        ),
        outcome=intent,
        take_up=TakeUp(
            jump=taken.corrected,
            std_error=math.sqrt(taken.variance),
            below=taken.below,
            above=taken.above,
        ),
        first_stage_f=taken.corrected**2 / taken.variance if taken.variance > 0 else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jump:
    """A jump, plain and bias-corrected, with the robust variance of the latter."""

    conventional: float
    corrected: float
    variance: float
    below: float
    above: float


def _jump(values: Vector, x: Vector, cutoff: float, widths: Bandwidths) -> _Jump:
    left, right = (fit_side(side, widths) for side in cut_sides(values, x, cutoff))
    variance = left.robust_variance + right.robust_variance
    # Neighbours of equal value leave rounding errors for residuals.
    smallest = (ROUNDING * float(np.abs(values).max())) ** 2
    return _Jump(
        conventional=right.limit - left.limit,
        corrected=right.corrected - left.corrected,
        variance=variance if variance > smallest else 0.0,
        below=left.corrected,
        above=right.corrected,
    )


def _covariance(y: Vector, received: Vector, x: Vector, cutoff: float, widths: Bandwidths) -> float:
    """Robust covariance of both jumps, from the variances of their sum and difference."""
    scales = [float(values.std()) or 1.0 for values in (y, received)]
    first, second = y / scales[0], received / scales[1]
    plus, minus = (_jump(both, x, cutoff, widths) for both in (first + second, first - second))
    return scales[0] * scales[1] * (plus.variance - minus.variance) / 4


def _moved(linear: Estimate, ratio: float, jump: Estimate, alpha: float) -> Estimate:
    """The ratio plus the jump of its linearisation."""
    estimate = ratio + linear.estimate
    half_width = critical_value(alpha) * linear.std_error
    return replace(
        linear,
        method=linear.method.replace("local_linear", "fuzzy_local_linear"),
        variance_formula="nearest_neighbour_delta",
        estimate=estimate,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        p_value=two_sided_p_value(estimate / linear.std_error),
        control_mean=jump.control_mean,
        treatment_mean=jump.treatment_mean,
    )
