import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority


def make_contrast(summary_arm, mean_control=10.0, mean_treatment=9.9, n=1000):
    control, treatment = summary_arm(n, mean_control, 4.0), summary_arm(n, mean_treatment, 5.0)
    return compare_means(control, treatment, distribution="normal")


def test_relative_margin_is_the_test_against_the_scaled_control(arm):
    rng = np.random.default_rng(4)
    control, treatment = rng.normal(10, 2, 300), rng.normal(9.8, 2, 300)
    shifted = compare_means(arm(0.95 * control), arm(treatment), distribution="normal").difference
    result = non_inferiority(
        compare_means(arm(control), arm(treatment)), margin=0.05, higher_is_better=True
    )
    assert result.statistic == pytest.approx(shifted.estimate / shifted.std_error, rel=1e-10)


def test_absolute_margin_is_the_shifted_welch_test(summary_arm):
    contrast = make_contrast(summary_arm)
    difference = contrast.difference
    higher = non_inferiority(contrast, margin=0.3, higher_is_better=True, relative=False)
    lower = non_inferiority(contrast, margin=0.3, higher_is_better=False, relative=False)
    assert higher.statistic == pytest.approx((difference.estimate + 0.3) / difference.std_error)
    assert lower.statistic == pytest.approx((0.3 - difference.estimate) / difference.std_error)
    assert higher.bound == pytest.approx(difference.estimate - 1.644854 * difference.std_error)


def test_smaller_is_better_mirrors(summary_arm):
    contrast = make_contrast(summary_arm, 10.0, 10.1)
    result = non_inferiority(contrast, margin=0.05, higher_is_better=False)
    variance = contrast.variance_treatment + 1.05**2 * contrast.variance_control
    assert result.statistic == pytest.approx((-0.1 + 0.5) / math.sqrt(variance))


@given(st.floats(8, 12), st.floats(0, 0.5), st.booleans(), st.booleans())
def test_bound_inverts_the_test(summary_arm, mean_treatment, margin, higher_is_better, relative):
    contrast = make_contrast(summary_arm, mean_treatment=mean_treatment)
    result = non_inferiority(
        contrast, margin=margin, higher_is_better=higher_is_better, relative=relative
    )
    assume(abs(result.p_value - 0.05) > 1e-9)
    within = result.bound > -margin if higher_is_better else result.bound < margin
    assert result.is_non_inferior == within


def test_opposite_test_is_the_deterioration_test(summary_arm):
    worse = make_contrast(summary_arm, mean_treatment=9.0)
    result = non_inferiority(worse, margin=0.0, higher_is_better=True)
    assert result.is_inferior
    assert not result.is_non_inferior
    assert result.p_value + result.p_value_inferior == pytest.approx(1.0)
    same = non_inferiority(
        make_contrast(summary_arm, mean_treatment=10.0), margin=0.0, higher_is_better=True
    )
    assert not same.is_inferior


@pytest.mark.parametrize(("mean", "code"), [(0.0, "ZERO_DENOMINATOR"), (-1.0, "NOT_IDENTIFIED")])
def test_relative_margin_needs_a_positive_control_mean(summary_arm, mean, code):
    contrast = make_contrast(summary_arm, mean, 1.0)
    with pytest.raises(EstimationError, match="absolute margin") as error:
        non_inferiority(contrast, margin=0.02, higher_is_better=True)
    assert error.value.code == code
    assert non_inferiority(contrast, margin=0.02, higher_is_better=True, relative=False).bound


def test_bound_of_a_control_mean_near_zero_is_absent(summary_arm):
    contrast = make_contrast(summary_arm, 0.05, 0.1)
    assert non_inferiority(contrast, margin=0.02, higher_is_better=True).bound is None


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_margin_outside_its_range(summary_arm, margin):
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(make_contrast(summary_arm), margin=margin, higher_is_better=True)
