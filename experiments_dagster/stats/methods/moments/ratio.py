"""Difference of two ratios of totals, R_a = ΣN/ΣD per arm, units randomised (delta method).

    L_i = (N_i − R̂_a D_i)/D̄_a with the arm's own ratio and mean denominator
    Var(R̂_a) = s²_L/n_a = [s_N² + R̂²s_D² − 2R̂ s_ND]/(n_a D̄_a²)

METHODS 2.5. Units without denominator stay in. `linearised_t` tests the same null on N − R̂_C·D in
both arms; its effect is in units of the numerator and is never the difference of ratios.
"""

from __future__ import annotations

import math

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments, check_arms
from experiments_dagster.stats.records import Contrast, Estimate, Inference
from experiments_dagster.stats.relative import contrast_of


def compare_ratios(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    numerator: str = "numerator",
    denominator: str = "denominator",
    alpha: float = 0.05,
    inference: Inference = "fixed_horizon",
) -> Contrast:
    """Compare two ratios of totals: estimand R_T − R_C, and R_T/R_C − 1 as the lift.

    `control_mean` and `treatment_mean` of the records are the two ratios.

    Args:
        control: Moments of the control arm, one row per randomisation unit.
        treatment: Moments of the treatment arm.
        numerator: Column of N.
        denominator: Column of D, no negative values.
        alpha: Two-sided level, normal quantiles.
        inference: Label of the records.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, ZERO_DENOMINATOR, NOT_IDENTIFIED for a negative
            total denominator, ZERO_VARIANCE.

    References:
        Deng, Knoblich & Lu 2018; Budylin et al. 2018.

    Examples:
        >>> control = ArmMoments.from_arrays(numerator=[1, 2, 0, 3], denominator=[2, 2, 1, 4])
        >>> treatment = ArmMoments.from_arrays(numerator=[2, 2, 1, 3], denominator=[2, 3, 1, 4])
        >>> round(compare_ratios(control, treatment).difference.estimate, 6)
        0.133333
    """
    check_arms(control, treatment)
    ratio_control, variance_control = _ratio(control, numerator, denominator, "control")
    ratio_treatment, variance_treatment = _ratio(treatment, numerator, denominator, "treatment")
    difference = difference_estimate(
        ratio_treatment - ratio_control,
        math.sqrt(variance_control + variance_treatment),
        arms=ArmSummary(
            control_mean=ratio_control,
            treatment_mean=ratio_treatment,
            n_control=control.n,
            n_treatment=treatment.n,
        ),
        alpha=alpha,
        method="ratio",
        variance_formula="delta",
        inference=inference,
    )
    return contrast_of(
        difference,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
        alpha=alpha,
    )


def linearised_t(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    numerator: str = "numerator",
    denominator: str = "denominator",
    alpha: float = 0.05,
) -> Estimate:
    """Compare N − R̂_C·D between the arms by Welch's t, for comparison with other tools.

    The estimate is in units of the numerator; the default method is `compare_ratios`.

    Raises:
        EstimationError: As `compare_ratios`.

    References:
        Budylin et al. 2018; METHODS 2.5, control-ratio linearisation.
    """
    check_arms(control, treatment)
    ratio_control, _ = _ratio(control, numerator, denominator, "control")
    check_denominator(treatment.mean(denominator), "treatment")
    weights = {numerator: 1.0, denominator: -ratio_control}
    return compare_means(
        control.combine(weights, name="y"), treatment.combine(weights, name="y"), alpha=alpha
    ).difference


def check_denominator(mean_denominator: float, arm: str) -> None:
    """Refuse a total denominator that is zero or negative.

    Raises:
        EstimationError: ZERO_DENOMINATOR, or NOT_IDENTIFIED where it is negative.
    """
    if mean_denominator == 0:
        raise EstimationError("ZERO_DENOMINATOR", f"arm {arm}")
    if mean_denominator < 0:
        raise EstimationError("NOT_IDENTIFIED", f"arm {arm}", "denominators are negative")


def _ratio(arm: ArmMoments, numerator: str, denominator: str, name: str) -> tuple[float, float]:
    mean_denominator = arm.mean(denominator)
    check_denominator(mean_denominator, name)
    ratio = arm.mean(numerator) / mean_denominator
    residual = arm.combine({numerator: 1.0, denominator: -ratio}, name="residual")
    variance = residual.variance("residual") / arm.n / mean_denominator / mean_denominator
    if not math.isfinite(variance):
        raise EstimationError(
            "NON_FINITE_INPUT", f"arm {name}", "the square of the ratio overflows"
        )
    return ratio, variance
