"""Whether a result is believable, and what it means for all units (METHODS section 7).

    Twyman              |Δ̂|/√(τ² + s²) > 4: surprising even for a metric that moves this much
    false-positive risk FPR = α'(1−π)/[α'(1−π) + (1−β)π],   α' = α/2 two-sided
    triggered           Δ̂_all = r Δ̂,   V_all = r²V + Δ̂² r(1−r)/n
    periods             Δ̂ = Σ w_p Δ̂_p,   V = Σ w_p² V_p,   w_p the share of units
    arrival delay       D = sup|F_T − F_C|,   p = K(D √(n_T n_C/(n_T + n_C)))
    underpowered        an interval that holds 0 and the MDE is inconclusive, never "no effect"

τ is the spread of true effects of the metric (`shrinkage`). A pooled difference of means over
periods of different allocation can have the wrong sign under a time trend; the weighted sum of the
differences of the periods cannot.

References:
    Kohavi, Deng & Vermeer 2022; Kohavi, Tang & Xu 2020, chapters 3 and 20; Kolmogorov 1933.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kolmogorov

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import unit_column
from experiments_dagster.stats.records import CheckOutcome

TWYMAN_RATIO = 4.0
PRIOR_BAND = (0.1, 0.5)  # share of true effects where a team's history is unknown
DELAY_BLOCK_P, DELAY_WARN_P = 0.001, 0.01

Sides = Literal[1, 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinedEffect:
    """An effect put together from parts, with normal inference."""

    method: str
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    confidence_level: float
    p_value: float


def twyman_ratio(estimate: float, std_error: float, tau: float) -> float:
    """Return |estimate| in units of what the metric's effects and the noise spread.

    Args:
        estimate: Effect, on the scale of `tau` (relative effects for the prior of a metric).
        std_error: Its standard error.
        tau: Standard deviation of true effects of this metric.

    Raises:
        EstimationError: NON_FINITE_INPUT, or ZERO_VARIANCE where nothing spreads.
        ValueError: A negative spread.

    References:
        Kohavi, Deng & Vermeer 2022.

    Examples:
        >>> twyman_ratio(0.5, 0.03, 0.04)
        10.0
    """
    if not all(map(math.isfinite, (estimate, std_error, tau))):
        raise EstimationError("NON_FINITE_INPUT", "Twyman ratio")
    if std_error < 0 or tau < 0:
        msg = f"std_error is {std_error} and tau {tau}, need 0 or more"
        raise ValueError(msg)
    spread = math.hypot(std_error, tau)
    if spread == 0:
        raise EstimationError("ZERO_VARIANCE", "Twyman ratio", "std_error and tau are 0")
    return abs(estimate) / spread


def twyman_outcome(
    estimate: float, std_error: float, tau: float, *, max_lift: float | None = None
) -> CheckOutcome:
    """Hold for review an effect that is too good, or too bad, to be true.

    Args:
        estimate: Relative effect.
        std_error: Its standard error.
        tau: Standard deviation of true relative effects of this metric.
        max_lift: Size of lift above which a result is always held.

    Returns:
        WARN where the ratio is above 4 or the lift above `max_lift`.

    Raises:
        EstimationError: As `twyman_ratio`.

    Examples:
        >>> twyman_outcome(0.5, 0.03, 0.04).message
        'effect +50.0% is 10.0 times its expected spread: look for a fault first'
    """
    ratio = twyman_ratio(estimate, std_error, tau)
    is_beyond = max_lift is not None and abs(estimate) > max_lift
    message = f"effect {estimate:+.1%} is {ratio:.1f} times its expected spread"
    if is_beyond:
        message += f" and beyond the bound of {max_lift:.1%}"
    passed = ratio <= TWYMAN_RATIO and not is_beyond
    return CheckOutcome(
        name="twyman",
        passed=passed,
        severity="WARN",
        value=ratio,
        threshold=TWYMAN_RATIO,
        message=message if passed else message + ": look for a fault first",
    )


def false_positive_risk(
    alpha: float, power: float, prior_true: float, *, sides: Sides = 2
) -> float:
    """Return the chance that a significant win has no effect behind it.

    Args:
        alpha: Level of the test.
        power: 1 − β for the effects worth having.
        prior_true: Share of tested changes that truly work, in (0, 1).
        sides: 2 counts only the half of the level in the winning direction.

    Raises:
        ValueError: A probability outside (0, 1), or other sides.

    References:
        Kohavi, Deng & Vermeer 2022, equation 3.

    Examples:
        >>> round(false_positive_risk(0.05, 0.8, 0.1), 4)
        0.2195
    """
    for name, value in (("alpha", alpha), ("power", power), ("prior_true", prior_true)):
        if not 0 < value < 1:
            msg = f"{name} is {value}, need 0 < {name} < 1"
            raise ValueError(msg)
    if sides not in {1, 2}:
        msg = f"sides is {sides}, need 1 or 2"
        raise ValueError(msg)
    false = alpha / sides * (1 - prior_true)
    return false / (false + power * prior_true)


def false_positive_risk_band(
    alpha: float,
    power: float,
    *,
    priors: tuple[float, float] = PRIOR_BAND,
    sides: Sides = 2,
) -> tuple[float, float]:
    """Return the lowest and highest false-positive risk over a range of priors.

    Args:
        alpha: Level of the test.
        power: 1 − β.
        priors: Ends of the range of the share of true effects.
        sides: 1 or 2.

    Raises:
        ValueError: As `false_positive_risk`.

    Examples:
        >>> low, high = false_positive_risk_band(0.05, 0.8)
        >>> round(low, 4), round(high, 4)
        (0.0303, 0.2195)
    """
    risks = [false_positive_risk(alpha, power, prior, sides=sides) for prior in priors]
    return min(risks), max(risks)


def population_effect(
    estimate: float, std_error: float, *, trigger_rate: float, n: int, alpha: float = 0.05
) -> CombinedEffect:
    """Dilute the effect on triggered units to all units: estimand r·Δ.

    The trigger must be counterfactual: the same units trigger in either arm.

    Args:
        estimate: Effect on the triggered.
        std_error: Its standard error.
        trigger_rate: Share r of the units that trigger, in (0, 1].
        n: Units behind that share.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT or ZERO_VARIANCE.
        ValueError: A trigger rate outside (0, 1] or no units.

    References:
        Kohavi, Tang & Xu 2020, chapter 20; METHODS section 7.

    Examples:
        >>> effect = population_effect(2.0, 0.5, trigger_rate=0.25, n=1200)
        >>> effect.estimate, round(effect.std_error, 6)
        (0.5, 0.127475)
    """
    if not 0 < trigger_rate <= 1 or n < 1:
        msg = f"trigger_rate is {trigger_rate} of {n} units, need a rate in (0, 1] of 1 or more"
        raise ValueError(msg)
    rate_error = estimate * math.sqrt(trigger_rate * (1 - trigger_rate) / n)
    return _combined(
        trigger_rate * estimate,
        math.hypot(trigger_rate * std_error, rate_error),
        alpha=alpha,
        method="triggered_diluted",
    )


def combine_periods(
    estimates: Sequence[float],
    variances: Sequence[float],
    n_units: Sequence[float],
    *,
    alpha: float = 0.05,
) -> CombinedEffect:
    """Combine the effects of periods of different allocation, weighted by their share of units.

    Args:
        estimates: Effect in each period.
        variances: Variance of each.
        n_units: Units first exposed in each period, above 0.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, ZERO_VARIANCE, or EMPTY_ARM for a period without units.
        ValueError: Lengths differ, no period, or a negative variance.

    References:
        Kohavi, Tang & Xu 2020, chapter 3 (Simpson's paradox); METHODS section 7.

    Examples:
        >>> combine_periods([1.0, 3.0], [0.04, 0.04], [300, 100]).estimate
        1.5
    """
    effects, squares, units = (
        np.asarray(values, dtype=np.float64) for values in (estimates, variances, n_units)
    )
    if not effects.shape == squares.shape == units.shape or effects.ndim != 1 or not effects.size:
        msg = f"shapes {effects.shape}, {squares.shape} and {units.shape}, need (periods,) each"
        raise ValueError(msg)
    if not np.isfinite([effects, squares, units]).all():
        raise EstimationError("NON_FINITE_INPUT", "allocation periods")
    if (squares < 0).any():
        msg = f"variances {list(variances)} must not be negative"
        raise ValueError(msg)
    if (units <= 0).any():
        raise EstimationError("EMPTY_ARM", "allocation periods", "a period has no units")
    weights = units / units.sum()
    return _combined(
        float(weights @ effects),
        math.sqrt(float(np.square(weights) @ squares)),
        alpha=alpha,
        method="allocation_periods",
    )


def arrival_delay_outcome(control_delays: ArrayLike, treatment_delays: ArrayLike) -> CheckOutcome:
    """Compare the delays with which events of the arms arrive (Kolmogorov-Smirnov).

    The test of the logarithms: it depends on ranks only, so delays of zero need no special care.

    Args:
        control_delays: Arrival minus event time, 0 or more, shape (n_C,).
        treatment_delays: The same, shape (n_T,).

    Returns:
        WARN at p < 0.01, ERROR at p < 0.001; `value` is p.

    Raises:
        EstimationError: EMPTY_ARM or NON_FINITE_INPUT.
        ValueError: A negative delay.

    Examples:
        >>> arrival_delay_outcome([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]).passed
        True
    """
    control = unit_column(control_delays, "delays of control")
    treatment = unit_column(treatment_delays, "delays of treatment")
    for arm, delays in (("control", control), ("treatment", treatment)):
        if delays.size and delays.min() < 0:
            msg = f"a delay of arm {arm} is {delays.min():g}, need 0 or more"
            raise ValueError(msg)
    distance, p = two_sample_ks(control, treatment)
    is_block = p < DELAY_BLOCK_P
    return CheckOutcome(
        name="arrival_delay",
        passed=p >= DELAY_WARN_P,
        severity="ERROR" if is_block else "WARN",
        value=p,
        threshold=DELAY_BLOCK_P if is_block else DELAY_WARN_P,
        message=(
            f"arrival delays: median control {np.median(control):.4g}, treatment "
            f"{np.median(treatment):.4g}, largest distance {distance:.4f}, p = {p:.3g}"
        ),
    )


def two_sample_ks(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance of two samples and its asymptotic p-value.

    Ties and small samples make the p-value too large, never too small.

    Args:
        first: Shape (n,).
        second: Shape (m,).

    Raises:
        EstimationError: EMPTY_ARM or NON_FINITE_INPUT.

    References:
        Smirnov 1948, Annals of Mathematical Statistics 19.

    Examples:
        >>> two_sample_ks([1, 2, 3, 4], [3, 4, 5, 6])[0]
        0.5
    """
    x, y = np.sort(unit_column(first, "first sample")), np.sort(unit_column(second, "second"))
    if not x.size or not y.size:
        raise EstimationError("EMPTY_ARM", "Kolmogorov-Smirnov", f"{x.size} and {y.size} values")
    both = np.concatenate([x, y])
    shares = (np.searchsorted(sample, both, side="right") / sample.size for sample in (x, y))
    distance = float(np.abs(np.subtract(*shares)).max())
    scale = math.sqrt(x.size * (y.size / (x.size + y.size)))
    return distance, float(kolmogorov(scale * distance))


def is_inconclusive(ci_low: float | None, ci_high: float | None, mde: float) -> bool:
    """Say whether an interval holds both no effect and one as large as the MDE, of either sign.

    Such a result is "inconclusive", never "no effect".

    Args:
        ci_low: Lower limit; None where unbounded.
        ci_high: Upper limit; None where unbounded.
        mde: Effect the experiment was planned to detect, on the scale of the interval; its sign
            does not matter.

    Raises:
        ValueError: An MDE that is 0 or not finite.

    Examples:
        >>> is_inconclusive(-0.01, 0.03, 0.02), is_inconclusive(-0.01, 0.01, 0.02)
        (True, False)
    """
    if mde == 0 or not math.isfinite(mde):
        msg = f"mde is {mde}, need a finite number other than 0"
        raise ValueError(msg)
    low = -math.inf if ci_low is None else ci_low
    high = math.inf if ci_high is None else ci_high
    return low <= 0 <= high and (low <= -abs(mde) or high >= abs(mde))


def _combined(estimate: float, std_error: float, *, alpha: float, method: str) -> CombinedEffect:
    check_alpha(alpha)
    if not (math.isfinite(estimate) and math.isfinite(std_error)):
        raise EstimationError("NON_FINITE_INPUT", method)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", method)
    half_width = critical_value(alpha) * std_error
    return CombinedEffect(
        method=method,
        estimate=estimate,
        std_error=std_error,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(estimate / std_error),
    )
