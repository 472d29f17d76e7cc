"""Standardised effects, shown on request and never used in decisions (METHODS 2.12).

    Cohen d = Δ̂/s_pooled,   s_pooled² = [(n_T−1)s_T² + (n_C−1)s_C²]/(n_T + n_C − 2)
    Hedges g = d·(1 − 3/(4(n_T + n_C) − 9)),   Glass Δ = Δ̂/s_C
    Cohen h = 2(asin√p_T − asin√p_C)

They have no standard error here: an effect is judged in its own units.

References:
    Cohen 1988; Hedges 1981; Glass 1976.
"""

from __future__ import annotations

import math

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import ArmMoments, check_arms


def cohen_d(control: ArmMoments, treatment: ArmMoments, *, column: str = "y") -> float:
    """Return the difference of means in pooled standard deviations.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, or ZERO_VARIANCE where both arms are constant.

    References:
        Cohen 1988; METHODS 2.12.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[1.0, 2.0, 3.0])
        >>> cohen_d(control, ArmMoments.from_arrays(y=[3.0, 4.0, 5.0]))
        2.0
    """
    check_arms(control, treatment)
    weight = (control.n - 1) / (control.n + treatment.n - 2)
    pooled = weight * control.variance(column) + (1 - weight) * treatment.variance(column)
    return _difference_in_sds(control, treatment, column, pooled)


def hedges_g(control: ArmMoments, treatment: ArmMoments, *, column: str = "y") -> float:
    """Return Cohen's d with Hedges' correction of its small-sample bias.

    Raises:
        EstimationError: As `cohen_d`.

    References:
        Hedges 1981; METHODS 2.12.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[1.0, 2.0, 3.0])
        >>> hedges_g(control, ArmMoments.from_arrays(y=[3.0, 4.0, 5.0]))
        1.6
    """
    return cohen_d(control, treatment, column=column) * (
        1 - 3 / (4 * (control.n + treatment.n) - 9)
    )


def glass_delta(control: ArmMoments, treatment: ArmMoments, *, column: str = "y") -> float:
    """Return the difference of means in standard deviations of the control arm.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, or ZERO_VARIANCE where control is constant.

    References:
        Glass 1976; METHODS 2.12.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[1.0, 2.0, 3.0])
        >>> glass_delta(control, ArmMoments.from_arrays(y=[3.0, 6.0]))
        2.5
    """
    check_arms(control, treatment)
    return _difference_in_sds(control, treatment, column, control.variance(column))


def cohen_h(p_control: float, p_treatment: float) -> float:
    """Return the difference of two proportions on the arcsine scale.

    Args:
        p_control: Proportion in control, 0..1.
        p_treatment: Proportion in treatment, 0..1.

    Raises:
        ValueError: A proportion outside 0..1.

    References:
        Cohen 1988; METHODS 2.12.

    Examples:
        >>> round(cohen_h(0.25, 0.5), 6)
        0.523599
    """
    for arm, p in (("control", p_control), ("treatment", p_treatment)):
        if not 0 <= p <= 1:
            msg = f"cohen_h: proportion in {arm} is {p}, need 0..1"
            raise ValueError(msg)
    return 2 * (math.asin(math.sqrt(p_treatment)) - math.asin(math.sqrt(p_control)))


def _difference_in_sds(
    control: ArmMoments, treatment: ArmMoments, column: str, variance: float
) -> float:
    if variance == 0:
        raise EstimationError("ZERO_VARIANCE", column, "no spread to measure the effect in")
    return (treatment.mean(column) - control.mean(column)) / math.sqrt(variance)
