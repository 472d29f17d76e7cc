import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments

Z = 1.959963984540054


def contrast(n, mean_control, var_control, mean_treatment, var_treatment, *, alpha=0.05):
    def arm(mean, variance):
        return ArmMoments(
            n=n, columns=("y",), means=np.array([mean]), cross=np.array([[variance * (n - 1)]])
        )

    return compare_means(
        arm(mean_control, var_control), arm(mean_treatment, var_treatment), alpha=alpha
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
def test_reference_lift(reference, two_arms, arm, case, columns):
    expected = reference("fixed", case)
    control, treatment = two_arms(case)
    for column in columns:
        lift = compare_means(arm(control, column), arm(treatment, column)).relative
        numbers = expected.expected[f"rel_lift_{column}"]
        expected.check(lift.estimate, numbers["rel"])
        expected.check(lift.std_error, numbers["se_delta"])
        assert lift.variance_formula in {"delta", "fieller"}


def test_fieller_limits_are_the_roots_of_its_quadratic():
    # Control mean noisier than 10 %: V_C/m_C² = 4/100/1 = 0.04.
    result = contrast(100, 1.0, 4.0, 1.5, 9.0)
    lift = result.relative
    assert lift.variance_formula == "fieller"
    for limit in (lift.ci_low, lift.ci_high):
        ratio = 1 + limit
        assert (1.5 - ratio) ** 2 == pytest.approx(Z**2 * (0.09 + ratio**2 * 0.04), rel=1e-9)
    g = Z**2 * 0.04
    half = Z * math.sqrt(0.09 + 1.5**2 * 0.04 - g * 0.09) / (1 - g)
    assert lift.ci_low == pytest.approx(1.5 / (1 - g) - half - 1, rel=1e-12)
    assert lift.ci_high == pytest.approx(1.5 / (1 - g) + half - 1, rel=1e-12)


def test_fieller_takes_over_at_one_percent_noise():
    noisy, calm = contrast(100, 10.0, 1.01, 11.0, 1.0), contrast(100, 10.0, 0.99, 11.0, 1.0)
    assert (noisy.relative.variance_formula, calm.relative.variance_formula) == ("fieller", "delta")
    assert noisy.relative.std_error == pytest.approx(calm.relative.std_error, rel=0.01)
    # Where the methods change hands their limits agree to a few hundredths of a standard error,
    # z times the noise of the control mean: the switch hardly moves a decision.
    for limit in ("ci_low", "ci_high"):
        shift = getattr(noisy.relative, limit) - getattr(calm.relative, limit)
        assert abs(shift) < 0.05 * noisy.relative.std_error


def test_unbounded_fieller_set_is_not_identified():
    result = contrast(100, 0.3, 4.0, 1.5, 4.0)  # g = 1.96²·0.04/0.09 = 1.7
    assert (result.relative, result.relative_reason) == (None, "NOT_IDENTIFIED")
    assert result.difference.p_value < 0.05


def test_zero_control_mean_has_no_lift():
    result = contrast(100, 0.0, 1.0, 1.0, 1.0)
    assert (result.relative, result.relative_reason) == (None, "ZERO_DENOMINATOR")


def test_treatment_of_zeros_has_no_lift_interval():
    result = contrast(1000, 1.0, 1.0, 0.0, 0.0)
    assert (result.relative, result.relative_reason) == (None, "ZERO_VARIANCE")


def test_tiny_control_mean_is_not_a_crash():
    result = contrast(100, 1e-200, 1.0, 1.0, 1.0)
    assert (result.relative, result.relative_reason) == (None, "NOT_IDENTIFIED")


def test_negative_control_mean_is_flagged_and_keeps_the_direction():
    lift = contrast(1000, -10.0, 4.0, -9.0, 4.0).relative
    mirrored = contrast(1000, 10.0, 4.0, 9.0, 4.0).relative
    assert lift.estimate == pytest.approx(0.1)
    assert lift.variance_formula == "delta_negative_control"
    assert lift.std_error == pytest.approx(mirrored.std_error, rel=1e-12)
    assert lift.ci_low == pytest.approx(-mirrored.ci_high, rel=1e-12)


@given(
    st.floats(-50, 50),
    st.floats(0.01, 500),
    st.floats(-50, 50),
    st.floats(0.01, 500),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(mc, vc, mt, vt, alpha):
    lift = contrast(50, mc, vc, mt, vt, alpha=alpha).relative
    assume(lift is not None and abs(lift.p_value - alpha) > 1e-9)
    assert (lift.p_value < alpha) == (lift.ci_low > 0 or lift.ci_high < 0)
    assert lift.ci_low <= lift.estimate <= lift.ci_high
