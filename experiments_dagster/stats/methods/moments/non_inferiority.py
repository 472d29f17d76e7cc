"""Whether a guardrail is worse than its margin (METHODS 2.10).

    larger is better, relative margin δ    D̂ = m_T − (1 − δ)m_C = Δ̂ + δ m_C,  V = V_T + (1 − δ)²V_C
    smaller is better, relative margin δ   D̂ = −Δ̂ + δ m_C,                    V = V_T + (1 + δ)²V_C
    absolute margin δ                      D̂ = ±Δ̂ + δ,                        V = V_T + V_C

z = D̂/√V; non-inferior at z > z_{1−α}. Read from the other side, −z > z_{1−α} is evidence that the
margin is exceeded; with margin 0 that is the deterioration test.

The bound inverts the test: margins beyond it are accepted. On the relative scale it is a one-sided
Fieller limit. For an adjusted contrast V_C and V_T are the adjusted parts, exact up to order δ².

References:
    Schuirmann 1987; Schultzberg, Ankargren & Frånberg 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import upper_quantile, upper_tail
from experiments_dagster.stats.records import Contrast
from experiments_dagster.stats.relative import scale_by_control


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """The margin test of one guardrail.

    Args:
        statistic: z, large where the effect is clearly within the margin.
        p_value: One-sided, small where the effect is clearly within the margin.
        p_value_inferior: One-sided, small where the effect is clearly beyond the margin.
        bound: One-sided (1 − α) bound of the effect in the harmful direction; None where the
            relative effect is not identified.
        margin: Size of the tolerated harm, not negative.
        is_relative: The margin and the bound are shares of the control mean.
        higher_is_better: Direction of the metric.
        alpha: One-sided level.
    """

    statistic: float
    p_value: float
    p_value_inferior: float
    bound: float | None
    margin: float
    is_relative: bool
    higher_is_better: bool
    alpha: float

    @property
    def is_non_inferior(self) -> bool:
        """Whether the effect is within the margin at level alpha."""
        return self.p_value < self.alpha

    @property
    def is_inferior(self) -> bool:
        """Whether the effect is beyond the margin at level alpha."""
        return self.p_value_inferior < self.alpha


def non_inferiority(
    contrast: Contrast,
    *,
    margin: float,
    higher_is_better: bool,
    relative: bool = True,
    alpha: float = 0.05,
) -> NonInferiority:
    """Test whether the effect is not worse than a margin.

    Args:
        contrast: The contrast of the guardrail metric.
        margin: Tolerated harm δ ≥ 0: a share of the control mean, or in units of the metric.
        higher_is_better: True where larger values are good.
        relative: Whether the margin is a share of the control mean.
        alpha: One-sided level.

    Raises:
        EstimationError: ZERO_DENOMINATOR or NOT_IDENTIFIED for a relative margin where the control
            mean is zero or negative (give an absolute margin), ZERO_VARIANCE.
        ValueError: A negative margin, or a relative one of 1 or more where larger is better.
    """
    sign = 1.0 if higher_is_better else -1.0
    control_mean = contrast.difference.control_mean
    factor, tolerated = 1.0, margin
    if not margin >= 0 or (relative and higher_is_better and margin >= 1):
        msg = f"margin is {margin}, need 0 or more (below 1 for a relative loss)"
        raise ValueError(msg)
    if relative:
        _check_control_mean(control_mean)
        factor, tolerated = 1 - sign * margin, margin * control_mean
    std_error = math.sqrt(contrast.variance_treatment + factor**2 * contrast.variance_control)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "non-inferiority")
    statistic = (sign * contrast.difference.estimate + tolerated) / std_error
    return NonInferiority(
        statistic=statistic,
        p_value=upper_tail(statistic),
        p_value_inferior=upper_tail(-statistic),
        bound=_bound(contrast, sign=sign, relative=relative, alpha=alpha),
        margin=margin,
        is_relative=relative,
        higher_is_better=higher_is_better,
        alpha=alpha,
    )


def _check_control_mean(control_mean: float) -> None:
    hint = f"control mean {control_mean:.6g}; give an absolute margin"
    if control_mean == 0:
        raise EstimationError("ZERO_DENOMINATOR", "relative margin", hint)
    if control_mean < 0:
        raise EstimationError("NOT_IDENTIFIED", "relative margin", hint)


def _bound(contrast: Contrast, *, sign: float, relative: bool, alpha: float) -> float | None:
    """Limit of the effect towards harm: lower where larger is better, else upper."""
    z = upper_quantile(alpha)
    difference = contrast.difference
    variance = contrast.variance_control + contrast.variance_treatment
    if not relative:
        return difference.estimate - sign * z * math.sqrt(variance)
    limits = scale_by_control(
        difference.estimate,
        variance,
        control_mean=difference.control_mean,
        variance_control_mean=contrast.variance_control,
        covariance=-contrast.variance_control,
    ).fieller_limits(z)
    if limits is None:
        return None
    return limits[0] if sign > 0 else limits[1]
