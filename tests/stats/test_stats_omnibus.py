import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.omnibus import proportions_chi_square, welch_anova
from experiments_dagster.stats.moments import ArmMoments


def anova_of(arms):
    return welch_anova([ArmMoments.from_arrays(y=y) for y in arms])


def draw(seed, k):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(rng.normal(5, 0.3), rng.uniform(0.5, 3), int(rng.integers(5, 80)))
        for _ in range(k)
    ]


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_agrees_with_statsmodels(seed, k):
    arms = draw(seed, k)
    result = anova_of(arms)
    live = anova_oneway(arms, use_var="unequal", welch_correction=True)
    assert result.statistic == pytest.approx(live.statistic, rel=1e-9)
    assert result.df_between == live.df_num
    assert result.df_within == pytest.approx(live.df_denom, rel=1e-9)
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-7)


def test_published_by_r():
    """R ?oneway.test, extra ~ group of the data `sleep`: F = 3.4626, df 1 and 17.776, p 0.07939."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    result = anova_of([first, second])
    # Printed digits.
    assert result.statistic == pytest.approx(3.4626, abs=5e-5)
    assert result.df_within == pytest.approx(17.776, abs=5e-4)
    assert result.p_value == pytest.approx(0.07939, abs=5e-6)


def test_two_arms_are_welch_t(arm, two_arms):
    control, treatment = two_arms("nsw_experimental")
    moments = arm(control, "re78"), arm(treatment, "re78")
    welch = compare_means(*moments).difference
    result = welch_anova(moments)
    assert result.statistic == pytest.approx((welch.estimate / welch.std_error) ** 2, rel=1e-10)
    assert result.df_within == pytest.approx(welch.degrees_of_freedom, rel=1e-10)
    assert result.p_value == pytest.approx(welch.p_value, rel=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.integers(-1000, 1000))
def test_order_scale_and_shift(seed, scale, shift):
    arms = draw(seed, 4)
    base = anova_of(arms)
    assert anova_of(arms[::-1]).p_value == pytest.approx(base.p_value, rel=1e-8)
    assert anova_of([scale * y for y in arms]).statistic == pytest.approx(base.statistic, rel=1e-8)
    # A shift of 1000 sd leaves thirteen digits of the means, whose squared differences are summed.
    assert anova_of([y + shift for y in arms]).statistic == pytest.approx(
        base.statistic, rel=1e-6, abs=1e-9
    )


def test_tiny_variances_do_not_overflow():
    arms = draw(1, 3)
    tiny = anova_of([1e-150 * y for y in arms])
    assert tiny.statistic == pytest.approx(anova_of(arms).statistic, rel=1e-9)


def test_unequal_variances_matter():
    """The classical F, which pools, would be far off: a small arm is the noisy one."""
    rng = np.random.default_rng(4)
    arms = [rng.normal(0, 10, 10), rng.normal(0, 1, 500), rng.normal(0, 1, 500)]
    arms[0] += 3 - arms[0].mean()
    assert stats.f_oneway(*arms).pvalue < 0.01
    assert anova_of(arms).p_value > 0.1


@pytest.mark.parametrize(
    ("arms", "code"),
    [
        ([[1.0, 2.0], []], "EMPTY_ARM"),
        ([[1.0, 2.0], [1.0]], "N_TOO_SMALL"),
        ([[1.0, 2.0], [0.1] * 7, [3.0, 4.0]], "ZERO_VARIANCE"),
        ([[1.0, 2.0], [1.0, float("nan")]], "NON_FINITE_INPUT"),
    ],
)
def test_not_estimable(arms, code):
    with pytest.raises(EstimationError) as error:
        anova_of(arms)
    assert error.value.code == code


def test_one_arm_is_no_comparison():
    with pytest.raises(ValueError, match="two or more"):
        anova_of([[1.0, 2.0]])
    with pytest.raises(ValueError, match="two or more"):
        proportions_chi_square([1], [2])


def test_reference_three_arms(reference, dataset):
    expected = reference("fixed", "hillstrom_half_multiarm")
    groups = dataset("uplift/hillstrom_half.parquet").group_by("segment")
    visits = [frame["visit"].to_numpy() for _, frame in groups]
    result = proportions_chi_square([y.sum() for y in visits], [len(y) for y in visits])
    numbers = expected.expected["chi2_visit"]
    expected.check(result.statistic, numbers["chi2"])
    assert result.degrees_of_freedom == numbers["df"]
    expected.check(result.p_value, numbers["p"])


def test_chi_square_of_proportions_agrees_with_scipy():
    x, n = np.array([12, 30, 25, 40]), np.array([100, 210, 140, 230])
    live = stats.chi2_contingency([x, n - x])
    result = proportions_chi_square(x, n)
    assert result.statistic == pytest.approx(live.statistic, rel=1e-12)
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "n", "code"),
    [([1, 0], [2, 0], "EMPTY_ARM"), ([0, 0], [5, 5], "ZERO_VARIANCE")],
)
def test_proportions_not_estimable(x, n, code):
    with pytest.raises(EstimationError) as error:
        proportions_chi_square(x, n)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("x", "n"), [([3, 1], [2, 2]), ([-1, 1], [2, 2]), ([1, 1, 1], [2, 2]), ([np.nan, 1], [2, 2])]
)
def test_proportions_misuse(x, n):
    with pytest.raises(ValueError, match="units"):
        proportions_chi_square(x, n)
