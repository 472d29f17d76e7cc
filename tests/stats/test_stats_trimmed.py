import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.trimmed import compare_trimmed
from experiments_dagster.stats.moments import ArmMoments

samples = st.integers(6, 40).flatmap(
    lambda n: arrays(np.float64, n, elements=st.integers(-1000, 1000).map(float))
)
trims = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.25])


def trimmed_of(control, treatment, **options):
    y = np.concatenate([control, treatment])
    return compare_trimmed(y, np.arange(len(y)) >= len(control), **options)


def has_spread(control, treatment, trim):
    return any(
        np.ptp(np.sort(y)[int(trim * len(y)) : len(y) - int(trim * len(y))]) > 0
        for y in (control, treatment)
    )


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy, one constant arm
@given(samples, samples, trims)
def test_agrees_with_scipy(control, treatment, trim):
    assume(has_spread(control, treatment, trim))
    result = trimmed_of(control, treatment, trim=trim)
    live = stats.ttest_ind(treatment, control, equal_var=False, trim=trim)
    assert result.estimate / result.std_error == pytest.approx(live.statistic, rel=1e-9, abs=1e-12)
    assert result.degrees_of_freedom == pytest.approx(live.df, rel=1e-9)
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-8, abs=1e-14)
    assert result.control_mean == pytest.approx(stats.trim_mean(control, trim), abs=1e-9)
    assert result.estimand == "trimmed_mean_difference"


@pytest.mark.parametrize(("case", "column"), [("nsw_experimental", "re78")])
def test_without_trimming_it_is_welch_of_the_reference(reference, two_arms, case, column):
    expected = reference("fixed", case)
    numbers = expected.expected[f"welch_{column}"]
    control, treatment = two_arms(case)
    result = trimmed_of(control[column].to_numpy(), treatment[column].to_numpy(), trim=0.0)
    for name, value in {
        "diff": result.estimate,
        "se": result.std_error,
        "df": result.degrees_of_freedom,
        "p": result.p_value,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
    }.items():
        expected.check(value, numbers[name])


def test_one_whale_does_not_move_it():
    """Cookie Cats has one user with 49,854 rounds: the mean moves, the trimmed mean does not."""
    rng = np.random.default_rng(1)
    control, treatment = rng.exponential(50, (2, 500))
    whale = control.copy()
    whale[np.argmax(whale)] = 49_854.0
    assert trimmed_of(whale, treatment).estimate == trimmed_of(control, treatment).estimate
    means = [
        compare_means(ArmMoments.from_arrays(y=y), ArmMoments.from_arrays(y=treatment))
        for y in (control, whale)
    ]
    assert abs(means[0].difference.estimate - means[1].difference.estimate) > 90


@given(samples, samples, trims, st.floats(0.01, 100), st.integers(-1000, 1000))
def test_swap_scale_shift_and_order(control, treatment, trim, scale, shift):
    assume(has_spread(control, treatment, trim))
    base = trimmed_of(control, treatment, trim=trim)
    swapped = trimmed_of(treatment, control, trim=trim)
    assert swapped.estimate == -base.estimate
    assert swapped.p_value == pytest.approx(base.p_value, rel=1e-9)
    moved = trimmed_of(scale * (control + shift), scale * (treatment + shift), trim=trim)
    assert moved.estimate == pytest.approx(scale * base.estimate, rel=1e-9, abs=1e-7 * scale)
    assert moved.std_error == pytest.approx(scale * base.std_error, rel=1e-7)
    reordered = trimmed_of(control[::-1], treatment[::-1], trim=trim)
    assert reordered == base


@given(samples, samples, trims, st.sampled_from([0.01, 0.05, 0.3]))
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(
    control, treatment, trim, alpha
):
    assume(has_spread(control, treatment, trim))
    result = trimmed_of(control, treatment, trim=trim, alpha=alpha)
    assume(abs(result.p_value - alpha) > 1e-9)
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_rejection_rate_under_heavy_tails(monte_carlo_band):
    rng = np.random.default_rng(2)
    runs = 2000
    control, treatment = rng.standard_t(2, (runs, 40)), rng.standard_t(2, (runs, 60))
    rejected = sum(trimmed_of(c, t).p_value < 0.05 for c, t in zip(control, treatment, strict=True))
    low, high = monte_carlo_band(0.05, runs)
    assert low < rejected / runs < high


@pytest.mark.parametrize(
    ("control", "treatment", "code"),
    [
        ([], [1.0, 2.0], "EMPTY_ARM"),
        ([1.0], [1.0, 2.0], "N_TOO_SMALL"),
        ([0.0, 1.0, 1.0, 9.0], [5.0, 7.0, 7.0, 8.0], "ZERO_VARIANCE"),
        ([0.1] * 7, [0.3] * 7, "ZERO_VARIANCE"),
        ([1.0, float("nan")], [1.0, 2.0], "NON_FINITE_INPUT"),
        ([1.0, 2.0], [1.0, float("inf")], "NON_FINITE_INPUT"),
    ],
)
def test_not_estimable(control, treatment, code):
    with pytest.raises(EstimationError) as error:
        trimmed_of(control, treatment, trim=0.25)
    assert error.value.code == code


def test_too_few_kept():
    with pytest.raises(EstimationError) as error:
        trimmed_of([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], trim=0.4)
    assert error.value.code == "N_TOO_SMALL"
    assert "1 of 3 values kept" in str(error.value)


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_share_outside_its_range(trim):
    with pytest.raises(ValueError, match="trim"):
        trimmed_of([1.0, 2.0], [2.0, 3.0], trim=trim)
