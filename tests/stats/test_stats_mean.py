import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means

samples = st.integers(2, 30).flatmap(
    lambda n: arrays(np.float64, n, elements=st.integers(-1000, 1000).map(float))
)


@pytest.mark.parametrize(
    ("case", "columns"),
    [
        ("cookie_cats", ["retention_1", "retention_7", "sum_gamerounds"]),
        ("nsw_experimental", ["re78"]),
        ("hillstrom_half_mens", ["visit", "conversion", "spend"]),
        ("hillstrom_half_womens", ["visit", "conversion", "spend"]),
    ],
)
def test_reference_welch(reference, two_arms, arm, case, columns):
    expected = reference("fixed", case)
    control, treatment = two_arms(case)
    for column in columns:
        result = compare_means(arm(control, column), arm(treatment, column)).difference
        numbers = expected.expected[f"welch_{column}"]
        for name, value in {
            "n_control": result.n_control,
            "n_treat": result.n_treatment,
            "mean_control": result.control_mean,
            "mean_treat": result.treatment_mean,
            "diff": result.estimate,
            "se": result.std_error,
            "t": result.estimate / result.std_error,
            "df": result.degrees_of_freedom,
            "p": result.p_value,
            "ci_low": result.ci_low,
            "ci_high": result.ci_high,
        }.items():
            expected.check(value, numbers[name])


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy, one constant arm
@given(samples, samples)
def test_agrees_with_scipy(control, treatment):
    assume(control.var() + treatment.var() > 0)
    result = compare_of(control, treatment)
    live = stats.ttest_ind(treatment, control, equal_var=False)
    interval = live.confidence_interval(0.95)
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-8, abs=1e-14)
    # The limits cancel near zero: absolute to the scale of the data.
    assert (result.ci_low, result.ci_high) == pytest.approx(tuple(interval), rel=1e-8, abs=1e-8)


def compare_of(control, treatment, **options):
    from experiments_dagster.stats.moments import ArmMoments

    return compare_means(
        ArmMoments.from_arrays(y=control), ArmMoments.from_arrays(y=treatment), **options
    ).difference


@given(samples, samples, st.floats(0.01, 100), st.integers(-1000, 1000))
def test_swap_scale_shift_and_order(control, treatment, scale, shift):
    assume(control.var() + treatment.var() > 0)
    base = compare_of(control, treatment)
    swapped = compare_of(treatment, control)
    assert swapped.estimate == -base.estimate
    assert swapped.p_value == pytest.approx(base.p_value, rel=1e-9)
    assert swapped.ci_low == pytest.approx(-base.ci_high, rel=1e-9, abs=1e-9)
    scaled = compare_of(scale * control, scale * treatment)
    assert scaled.estimate == pytest.approx(scale * base.estimate, rel=1e-9, abs=1e-9)
    assert scaled.std_error == pytest.approx(scale * base.std_error, rel=1e-9)
    shifted = compare_of(control + shift, treatment + shift)
    assert shifted.estimate == pytest.approx(base.estimate, abs=1e-8)
    assert shifted.p_value == pytest.approx(base.p_value, rel=1e-6, abs=1e-12)
    reordered = compare_of(control[::-1], treatment[::-1])
    assert reordered.p_value == pytest.approx(base.p_value, rel=1e-9, abs=1e-12)


@given(samples, samples, st.sampled_from(["t", "normal"]), st.sampled_from([0.01, 0.05, 0.3]))
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(
    control, treatment, distribution, alpha
):
    assume(control.var() + treatment.var() > 0)
    result = compare_of(control, treatment, distribution=distribution, alpha=alpha)
    assume(abs(result.p_value - alpha) > 1e-9)
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_reference_asos_series_and_what_peeking_does_to_them(reference, dataset, summary_arm):
    expected = reference("sequential", "asos_digital_experiments").expected
    frame = dataset("sequential/asos_half.parquet").drop_nulls()
    frame = frame.filter((pl.col("variance_c") > 0) & (pl.col("variance_t") > 0))
    p_values = {}
    for row in frame.sort("time_since_start").iter_rows(named=True):
        result = compare_means(
            summary_arm(int(row["count_c"]), row["mean_c"], row["variance_c"]),
            summary_arm(int(row["count_t"]), row["mean_t"], row["variance_t"]),
            distribution="normal",
        ).difference
        key = (row["experiment_id"], row["variant_id"], row["metric_id"])
        p_values.setdefault(key, []).append(result.p_value)
    assert sum(map(len, p_values.values())) == expected["rows"]
    assert len(p_values) == expected["series"]
    assert sum(series[-1] < 0.05 for series in p_values.values()) == expected["final_sig_05"]
    assert (
        sum(min(series) < 0.05 for series in p_values.values()) == expected["ever_sig_05_peeking"]
    )


def test_variance_parts_add_up(arm):
    contrast = compare_means(arm([1.0, 2.0, 4.0]), arm([2.0, 9.0]), inference="group_sequential")
    total = contrast.variance_control + contrast.variance_treatment
    assert contrast.difference.std_error**2 == pytest.approx(total, rel=1e-12)
    assert contrast.difference.inference == "group_sequential"


def test_normal_quantiles_carry_no_degrees_of_freedom(arm):
    result = compare_means(arm([1.0, 2.0, 4.0]), arm([2.0, 9.0]), distribution="normal").difference
    assert result.degrees_of_freedom is None
    half_width = (result.ci_high - result.ci_low) / 2
    assert half_width / result.std_error == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize(
    ("control", "treatment", "code"),
    [
        ([], [1.0, 2.0], "EMPTY_ARM"),
        ([1.0, 2.0], [], "EMPTY_ARM"),
        ([1.0], [1.0, 2.0], "N_TOO_SMALL"),
        ([3.0] * 4, [3.0] * 4, "ZERO_VARIANCE"),
        ([0.1] * 7, [0.3] * 7, "ZERO_VARIANCE"),
    ],
)
def test_not_estimable(arm, control, treatment, code):
    with pytest.raises(EstimationError) as error:
        compare_means(arm(control), arm(treatment))
    assert error.value.code == code


def test_one_constant_arm_is_fine(arm):
    result = compare_means(arm([3.0] * 4), arm([3.0, 4.0, 5.0])).difference
    assert result.degrees_of_freedom == pytest.approx(2.0)


def test_tiny_variance_gives_numbers(arm):
    assert compare_means(arm([1.0, 1.0 + 1e-9]), arm([1.0, 1.0])).difference.p_value > 0
