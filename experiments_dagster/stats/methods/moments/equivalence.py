"""Whether an effect is practically zero: two one-sided tests (METHODS 2.10).

    H0: effect ≤ −δ   and   H0: effect ≥ δ,   each at level α;   p = max(p_lower, p_upper)

Both are margin tests of `non_inferiority`, so a relative margin is tested on m_T − (1 ∓ δ)m_C and
never on a ratio. Equivalent at level α exactly where the two-sided (1 − 2α) interval lies within
(−δ, δ); on the relative scale that interval is Fieller's. A difference that is not significant is
no evidence of equivalence.

References:
    Schuirmann 1987.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.records import Contrast

LARGEST_ALPHA = 0.5  # of a one-sided level whose (1 − 2α) interval exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Two one-sided tests of one effect against a margin on both sides.

    Args:
        statistic_lower: z against an effect of −margin, large where the effect is above it.
        p_value_lower: One-sided.
        statistic_upper: z against an effect of +margin, large where the effect is below it.
        p_value_upper: One-sided.
        p_value: The larger of the two.
        ci_low: Lower limit at confidence 1 − 2·alpha; None where not identified.
        ci_high: Upper limit.
        margin: Half-width of the equivalence region, above 0.
        is_relative: The margin and the limits are shares of the control mean.
        alpha: Level of each one-sided test, and of the conclusion.
    """

    statistic_lower: float
    p_value_lower: float
    statistic_upper: float
    p_value_upper: float
    p_value: float
    ci_low: float | None
    ci_high: float | None
    margin: float
    is_relative: bool
    alpha: float

    @property
    def is_equivalent(self) -> bool:
        """Whether the effect is within the margin on both sides at level alpha."""
        return self.p_value < self.alpha


def equivalence(
    contrast: Contrast, *, margin: float, relative: bool = True, alpha: float = 0.05
) -> Equivalence:
    """Test whether the effect lies within a margin on either side of zero.

    Args:
        contrast: The contrast of the metric.
        margin: Largest effect that does not matter, above 0: a share of the control mean (below
            1), or in units of the metric.
        relative: Whether the margin is a share of the control mean.
        alpha: One-sided level of each test, below ½.

    Raises:
        EstimationError: ZERO_DENOMINATOR or NOT_IDENTIFIED for a relative margin where the control
            mean is zero or negative (give an absolute margin), ZERO_VARIANCE.
        ValueError: A margin of 0 or below, a relative one of 1 or more, or a level outside (0, ½).

    References:
        Schuirmann 1987; METHODS 2.10.

    Examples:
        >>> from experiments_dagster.stats.methods.moments.mean import compare_means
        >>> from experiments_dagster.stats.moments import ArmMoments
        >>> arm = ArmMoments.from_arrays(y=[9.0, 10.0, 11.0, 10.0] * 25)
        >>> test = equivalence(compare_means(arm, arm), margin=0.02)
        >>> test.is_equivalent, round(test.p_value, 4), round(test.ci_high, 4)
        (True, 0.0244, 0.0167)
    """
    if not margin > 0:
        msg = f"equivalence: margin is {margin}, need more than 0"
        raise ValueError(msg)
    if not 0 < alpha < LARGEST_ALPHA:
        msg = f"equivalence: alpha is {alpha}, need 0 < alpha < {LARGEST_ALPHA}"
        raise ValueError(msg)
    lower, upper = (
        non_inferiority(
            contrast, margin=margin, higher_is_better=is_lower, relative=relative, alpha=alpha
        )
        for is_lower in (True, False)
    )
    return Equivalence(
        statistic_lower=lower.statistic,
        p_value_lower=lower.p_value,
        statistic_upper=upper.statistic,
        p_value_upper=upper.p_value,
        p_value=max(lower.p_value, upper.p_value),
        ci_low=lower.bound,
        ci_high=upper.bound,
        margin=margin,
        is_relative=relative,
        alpha=alpha,
    )
