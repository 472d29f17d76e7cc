import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_ind

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.equivalence import equivalence
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.moments import ArmMoments


def contrast_of(control, treatment):
    return compare_means(
        ArmMoments.from_arrays(y=control),
        ArmMoments.from_arrays(y=treatment),
        distribution="normal",
    )


def samples(seed, *, n=4000, effect=0.0, mean=10.0):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 2, n), rng.normal(mean + effect, 3, n + 50)


@pytest.mark.parametrize("effect", [0.0, 0.05, -0.12, 0.4])
def test_agrees_with_statsmodels(effect):
    control, treatment = samples(1, n=200_000, effect=effect)
    result = equivalence(contrast_of(control, treatment), margin=0.1, relative=False)
    p_value, lower, upper = ttost_ind(treatment, control, -0.1, 0.1, usevar="unequal")
    assert result.statistic_lower == pytest.approx(lower[0], rel=1e-9)
    assert result.statistic_upper == pytest.approx(-upper[0], rel=1e-9)
    # They take t with 3e5 degrees of freedom, ours is normal: ln p differs by z⁴/(4 df).
    if p_value > 1e-8:
        assert result.p_value == pytest.approx(p_value, rel=5e-3)


@given(
    st.integers(0, 10_000),
    st.floats(-0.5, 0.5),
    st.floats(0.01, 0.2),
    st.booleans(),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_equivalent_exactly_when_the_interval_lies_within_the_margin(
    seed, effect, margin, relative, alpha
):
    contrast = contrast_of(*samples(seed, n=300, effect=effect))
    size = margin if relative else 10 * margin
    result = equivalence(contrast, margin=size, relative=relative, alpha=alpha)
    assume(abs(result.p_value - alpha) > 1e-9)
    assert result.is_equivalent == (-size < result.ci_low and result.ci_high < size)
    assert result.p_value == max(result.p_value_lower, result.p_value_upper)


def test_absolute_interval_is_the_one_minus_two_alpha_interval():
    control, treatment = samples(3)
    result = equivalence(contrast_of(control, treatment), margin=1.0, relative=False, alpha=0.05)
    ninety = compare_means(
        ArmMoments.from_arrays(y=control),
        ArmMoments.from_arrays(y=treatment),
        alpha=0.1,
        distribution="normal",
    ).difference
    assert result.ci_low == pytest.approx(ninety.ci_low, rel=1e-12)
    assert result.ci_high == pytest.approx(ninety.ci_high, rel=1e-12)


def test_relative_test_is_the_shifted_welch_test():
    """H0 m_T = (1 ∓ δ)m_C is Welch's z on the treatment and the rescaled control values."""
    control, treatment = samples(4)
    result = equivalence(contrast_of(control, treatment), margin=0.02)
    for statistic, factor, sign in (
        (result.statistic_lower, 0.98, 1),
        (result.statistic_upper, 1.02, -1),
    ):
        shifted = contrast_of(factor * control, treatment).difference
        assert statistic == pytest.approx(sign * shifted.estimate / shifted.std_error, rel=1e-10)


def test_swap_of_arms_mirrors_the_absolute_test():
    control, treatment = samples(5, effect=0.1)
    base = equivalence(contrast_of(control, treatment), margin=0.2, relative=False)
    swapped = equivalence(contrast_of(treatment, control), margin=0.2, relative=False)
    assert swapped.p_value_lower == pytest.approx(base.p_value_upper, rel=1e-9)
    assert swapped.ci_low == pytest.approx(-base.ci_high, rel=1e-12)


def test_scale_of_the_metric_does_not_matter():
    control, treatment = samples(6)
    base = equivalence(contrast_of(control, treatment), margin=0.01)
    cents = equivalence(contrast_of(100 * control, 100 * treatment), margin=0.01)
    assert cents.p_value == pytest.approx(base.p_value, rel=1e-9)


def test_not_significant_is_not_equivalent():
    """The wrong reading, p > 0.05 of the difference, would call these noisy arms equal."""
    control, treatment = samples(7, n=20)
    contrast = contrast_of(control, treatment)
    assert contrast.difference.p_value > 0.05
    assert not equivalence(contrast, margin=0.01).is_equivalent


def test_type_one_error_at_the_margin(monte_carlo_band):
    rng = np.random.default_rng(8)
    runs, n = 4000, 100
    control, treatment = rng.normal(10, 1, (runs, n)), rng.normal(10.7, 1, (runs, n))
    rejected = sum(
        equivalence(contrast_of(c, t), margin=0.7, relative=False).is_equivalent
        for c, t in zip(control, treatment, strict=True)
    )
    # z for t with 198 degrees of freedom: 0.0508 instead of 0.05, well inside the band.
    low, high = monte_carlo_band(0.05, runs)
    assert low < rejected / runs < high


def test_unidentified_lift_has_no_limits():
    contrast = contrast_of([1.0, -0.9, 0.1], [0.2, 0.3, 0.1])
    result = equivalence(contrast, margin=0.5)
    assert (result.ci_low, result.ci_high) == (None, None)
    assert not result.is_equivalent


@pytest.mark.parametrize(
    ("control", "code"),
    [([-1.0, 1.0], "ZERO_DENOMINATOR"), ([-3.0, -1.0], "NOT_IDENTIFIED")],
)
def test_relative_margin_needs_a_positive_control_mean(control, code):
    contrast = contrast_of(control, [1.0, 2.0])
    with pytest.raises(EstimationError) as error:
        equivalence(contrast, margin=0.1)
    assert error.value.code == code
    assert equivalence(contrast, margin=0.1, relative=False).p_value > 0


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 0.0},
        {"margin": -0.1},
        {"margin": float("nan")},
        {"margin": 1.0},
        {"margin": 0.1, "alpha": 0.5},
        {"margin": 0.1, "alpha": 0.0},
    ],
)
def test_misuse(options):
    with pytest.raises(ValueError, match=r"margin|alpha"):
        equivalence(contrast_of([1.0, 2.0], [1.0, 3.0]), **options)


def test_statistics_are_those_of_the_margin_tests():
    contrast = contrast_of(*samples(9))
    result = equivalence(contrast, margin=0.03)
    lower = non_inferiority(contrast, margin=0.03, higher_is_better=True)
    upper = non_inferiority(contrast, margin=0.03, higher_is_better=False)
    assert (result.p_value_lower, result.p_value_upper) == (lower.p_value, upper.p_value)
    assert (result.ci_low, result.ci_high) == (lower.bound, upper.bound)
