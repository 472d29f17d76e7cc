"""Difference of two means with unequal variances (Welch).

    Δ̂ = m_T − m_C,   V = s_T²/n_T + s_C²/n_C,   t = Δ̂/√V
    ν = V² / [(s_T²/n_T)²/(n_T−1) + (s_C²/n_C)²/(n_C−1)]

METHODS 2.1 (t) and 2.2 (the same with normal quantiles). Student's pooled variance does not belong
here: it is wrong under unequal sizes and variances.
"""

from __future__ import annotations

import math
from typing import Literal

from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.moments import ArmMoments, check_arms, mean_difference
from experiments_dagster.stats.records import Contrast, Inference
from experiments_dagster.stats.relative import contrast_of


def compare_means(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    column: str = "y",
    alpha: float = 0.05,
    inference: Inference = "fixed_horizon",
    distribution: Literal["t", "normal"] = "t",
) -> Contrast:
    """Compare the means of one column: estimand μ_T − μ_C, and μ_T/μ_C − 1 as the lift.

    Args:
        control: Moments of the control arm.
        treatment: Moments of the treatment arm.
        column: Column to compare.
        alpha: Two-sided level.
        inference: Label of the records.
        distribution: Quantiles of the difference; the lift always takes normal ones.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, or ZERO_VARIANCE where both arms are constant.

    References:
        Welch 1947, Biometrika 34.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[9.0, 10.0, 11.0, 10.0])
        >>> treatment = ArmMoments.from_arrays(y=[11.0, 12.0, 13.0, 12.0])
        >>> contrast = compare_means(control, treatment)
        >>> contrast.difference.estimate, round(contrast.difference.p_value, 4)
        (2.0, 0.0134)
    """
    check_arms(control, treatment)
    variance_control = control.variance(column) / control.n
    variance_treatment = treatment.variance(column) / treatment.n
    total = variance_control + variance_treatment
    is_t = distribution == "t" and total > 0
    difference = difference_estimate(
        mean_difference(control, treatment, column),
        math.sqrt(total),
        arms=ArmSummary(
            control_mean=control.mean(column),
            treatment_mean=treatment.mean(column),
            n_control=control.n,
            n_treatment=treatment.n,
        ),
        alpha=alpha,
        method="welch",
        variance_formula="welch",
        df=welch_df(variance_control, variance_treatment, control.n, treatment.n) if is_t else None,
        inference=inference,
    )
    return contrast_of(
        difference,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
        alpha=alpha,
    )


def welch_df(
    variance_control: float, variance_treatment: float, n_control: int, n_treatment: int
) -> float:
    """Return the Welch-Satterthwaite degrees of freedom from the variances of the two means.

    Examples:
        >>> round(welch_df(0.5, 0.5, 11, 11), 9)
        20.0
    """
    share = variance_control / (variance_control + variance_treatment)
    return 1 / (share**2 / (n_control - 1) + (1 - share) ** 2 / (n_treatment - 1))
