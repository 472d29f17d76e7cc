"""Difference of trimmed means: Yuen's test (METHODS 3.6, an option only).

With g = ⌊trim·n_a⌋ values cut off at each end, h = n_a − 2g kept, and s_w² the variance after the
cut values are set to the nearest kept one:

    d_a = (n_a − 1)s_w²/[h(h − 1)],   t = (m_tT − m_tC)/√(d_T + d_C)
    ν = (d_T + d_C)²/[d_T²/(h_T − 1) + d_C²/(h_C − 1)]

The estimand is the difference of trimmed means: for money it leaves out those who pay most, so it
never stands for the difference of means. Without trimming it is Welch's t.

References:
    Yuen 1974, Biometrika 61.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import welch_df
from experiments_dagster.stats.methods.units.interacted import (
    Vector,
    arm_mask,
    finite_column,
    without_level,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Estimate


def compare_trimmed(
    y: ArrayLike, is_treated: ArrayLike, *, trim: float = 0.2, alpha: float = 0.05
) -> Estimate:
    """Compare trimmed means: estimand "trimmed_mean_difference".

    `control_mean` and `treatment_mean` of the record are the trimmed means; the sizes count all
    units.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        trim: Share cut off at each end of each arm, 0 <= trim < ½.
        alpha: Two-sided level, t quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL where fewer than two values are
            kept in an arm, ZERO_VARIANCE where what is kept is constant in both.
        ValueError: A share outside [0, ½).

    References:
        Yuen 1974; METHODS 3.6.

    Examples:
        >>> y = [1.0, 2.0, 3.0, 4.0, 900.0, 2.0, 3.0, 5.0, 6.0, 7.0]
        >>> result = compare_trimmed(y, [0] * 5 + [1] * 5)
        >>> round(result.estimate, 6), round(result.std_error, 6)
        (1.666667, 1.48324)
    """
    if not 0 <= trim < 0.5:  # noqa: PLR2004
        msg = f"trim is {trim}, need 0 <= trim < 0.5"
        raise ValueError(msg)
    outcome = finite_column(y, "y")
    mask = arm_mask(is_treated, len(outcome))
    outcome, level = without_level(outcome)
    mean_control, variance_control, kept_control = _trim(outcome[~mask], trim, "control")
    mean_treatment, variance_treatment, kept_treatment = _trim(outcome[mask], trim, "treatment")
    total = variance_control + variance_treatment
    if total == 0:
        raise EstimationError("ZERO_VARIANCE", "trimmed means", "the kept values are constant")
    difference = difference_estimate(
        mean_treatment - mean_control,
        math.sqrt(total),
        arms=ArmSummary(
            control_mean=level + mean_control,
            treatment_mean=level + mean_treatment,
            n_control=int(np.count_nonzero(~mask)),
            n_treatment=int(np.count_nonzero(mask)),
        ),
        alpha=alpha,
        method="yuen",
        variance_formula="winsorised",
        df=welch_df(variance_control, variance_treatment, kept_control, kept_treatment),
    )
    return replace(difference, estimand="trimmed_mean_difference")


def _trim(values: Vector, trim: float, arm: str) -> tuple[float, float, int]:
    """Trimmed mean, its variance d and the number of values kept."""
    n = len(values)
    cut = int(trim * n)
    kept = n - 2 * cut
    if kept < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", f"arm {arm}", f"{kept} of {n} values kept, need 2")
    ordered = np.sort(values)
    middle = ordered[cut : n - cut]
    winsorised = ArmMoments.from_arrays(y=np.clip(ordered, middle[0], middle[-1]))
    variance = winsorised.variance("y") * (n - 1) / (kept * (kept - 1))
    return ArmMoments.from_arrays(y=middle).mean("y"), variance, kept
