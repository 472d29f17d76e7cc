"""Lift: an effect relative to the control mean, by the delta method or Fieller (METHODS 2.3).

With ρ̂ = Δ̂/|m_C|, V = Var(Δ̂), V_C = Var(m_C), C = Cov(Δ̂, m_C), variances divided by m_C²
(C = −V_C for independent arms, else from the influence scores):

    delta     Var(ρ̂) = V − 2ρ̂C + ρ̂²V_C
    Fieller   {ρ: (Δ̂ − ρ m_C)² ≤ z²(V − 2ρC + ρ²V_C)}
              centre (ρ̂ − z²C)/(1 − g), half-width z√[Var(ρ̂) − z²(V·V_C − C²)]/(1 − g), g = z²V_C

Fieller replaces delta once the control mean is noisier than 1 % (V_C > 0.0001), where both still
agree. At 10 %, the point of METHODS 2.3, a switch that depends on the data takes the more liberal
test in both tails: its size at 5 % was .064 to .069. Fieller's test of ρ = 0 is the test of Δ = 0.
Both take normal quantiles: they are large-sample results. The limits of the lift are never those of
the difference divided by the control mean.

References:
    Fieller 1954; Deng, Knoblich & Lu 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments_dagster.stats.intervals import critical_value, two_sided_p_value
from experiments_dagster.stats.records import Contrast, Estimate

NOISY_CONTROL_MEAN = 1e-4  # V_C/m_C² above which delta gives way to Fieller


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledMoments:
    """Lift with the variances of its parts, in units of the control mean."""

    lift: float
    variance: float
    variance_control_mean: float
    covariance: float

    @property
    def lift_variance(self) -> float:
        """Delta-method variance of the lift."""
        rho = self.lift
        total = self.variance - 2 * rho * self.covariance + rho * rho * self.variance_control_mean
        return max(total, 0.0)

    def fieller_limits(self, z: float) -> tuple[float, float] | None:
        """Return the Fieller limits, or None where the set is unbounded (g ≥ 1).

        References:
            Fieller 1954; METHODS 2.3.
        """
        g = z * z * self.variance_control_mean
        if g >= 1:
            return None
        determinant = self.variance * self.variance_control_mean - self.covariance**2
        inside = self.lift_variance - z * z * max(determinant, 0.0)
        centre = (self.lift - z * z * self.covariance) / (1 - g)
        half_width = z * math.sqrt(max(inside, 0.0)) / (1 - g)
        # The point lies in the set; rounding alone can put it a last digit outside.
        return min(centre - half_width, self.lift), max(centre + half_width, self.lift)


def scale_by_control(
    difference: float,
    variance: float,
    *,
    control_mean: float,
    variance_control_mean: float,
    covariance: float,
) -> ScaledMoments:
    """Divide a difference and its variances by |control mean|, which is not zero."""
    scale = abs(control_mean)
    return ScaledMoments(
        lift=difference / scale,
        variance=variance / scale / scale,
        variance_control_mean=variance_control_mean / scale / scale,
        covariance=math.copysign(1.0, control_mean) * covariance / scale / scale,
    )


def relative_estimate(
    difference: Estimate,
    *,
    variance_control_mean: float,
    covariance: float,
    alpha: float,
    variance: float | None = None,
) -> tuple[Estimate | None, str | None]:
    """Return the lift over the raw control mean, or None with the reason.

    A negative control mean divides by its size, so that the sign of the lift is the sign of the
    difference; `variance_formula` then ends in `_negative_control`.

    Args:
        difference: The absolute effect; carries the control mean.
        variance_control_mean: Variance of the raw control mean.
        covariance: Covariance of the difference with the raw control mean.
        alpha: Two-sided level.
        variance: Variance of the difference where it is not `difference.std_error ** 2`.

    Returns:
        The estimate and None, or None and one of ZERO_DENOMINATOR (control mean 0),
        NOT_IDENTIFIED (unbounded Fieller set) and ZERO_VARIANCE.

    References:
        Fieller 1954; Deng, Knoblich & Lu 2018; METHODS 2.3.
    """
    control_mean = difference.control_mean
    if control_mean == 0:
        return None, "ZERO_DENOMINATOR"
    moments = scale_by_control(
        difference.estimate,
        difference.std_error**2 if variance is None else variance,
        control_mean=control_mean,
        variance_control_mean=variance_control_mean,
        covariance=covariance,
    )
    std_error = math.sqrt(moments.lift_variance)
    z = critical_value(alpha)
    fieller = moments.fieller_limits(z)
    if fieller is None or not math.isfinite(std_error):
        return None, "NOT_IDENTIFIED"
    if std_error == 0:
        return None, "ZERO_VARIANCE"
    if moments.variance_control_mean > NOISY_CONTROL_MEAN:
        formula, (low, high) = "fieller", fieller
        statistic = moments.lift / math.sqrt(moments.variance)
    else:
        formula, statistic = "delta", moments.lift / std_error
        low, high = moments.lift - z * std_error, moments.lift + z * std_error
    return Estimate(
        estimand="relative_difference",
        inference=difference.inference,
        method=difference.method,
        variance_formula=formula + ("_negative_control" if control_mean < 0 else ""),
        estimate=moments.lift,
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(statistic),
        degrees_of_freedom=None,
        control_mean=control_mean,
        treatment_mean=difference.treatment_mean,
        n_control=difference.n_control,
        n_treatment=difference.n_treatment,
    ), None


def contrast_of(
    difference: Estimate,
    *,
    variance_control: float,
    variance_treatment: float,
    alpha: float,
    variance_control_mean: float | None = None,
    covariance: float | None = None,
) -> Contrast:
    """Return a difference with its lift and the variance that each arm contributes.

    Args:
        difference: The absolute effect.
        variance_control: Part of its variance from the control arm.
        variance_treatment: Part of its variance from the treatment arm.
        alpha: Two-sided level of the lift.
        variance_control_mean: Variance of the raw control mean; default `variance_control`.
        covariance: Of the difference with the raw control mean; default `-variance_control`.
    """
    relative, reason = relative_estimate(
        difference,
        variance_control_mean=(
            variance_control if variance_control_mean is None else variance_control_mean
        ),
        covariance=-variance_control if covariance is None else covariance,
        alpha=alpha,
        variance=variance_control + variance_treatment,
    )
    return Contrast(
        difference=difference,
        relative=relative,
        relative_reason=reason,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
    )
