import pytest
from scipy import stats

from experiments_dagster.stats.intervals import (
    ArmSummary,
    critical_value,
    difference_estimate,
    two_sided_p_value,
    upper_quantile,
    upper_tail,
)

# Two implementations of the same special function.
SPECIAL = 1e-9


@pytest.mark.parametrize("df", [1.0, 2.5, 30.7, 1234.5, 9e4, 1e8])
@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.05, 0.5])
def test_t_quantiles_and_tails_are_those_of_scipy(df, alpha):
    t = critical_value(alpha, df)
    assert t == pytest.approx(stats.t.isf(alpha / 2, df), rel=SPECIAL)
    assert two_sided_p_value(t, df) == pytest.approx(alpha, rel=SPECIAL)


def test_far_tails_keep_their_digits():
    assert two_sided_p_value(16.0, 20000.0) == pytest.approx(2 * stats.t.sf(16.0, 20000), rel=1e-9)
    assert two_sided_p_value(30.0) == pytest.approx(2 * stats.norm.sf(30.0), rel=SPECIAL)
    assert upper_tail(10.0) == pytest.approx(stats.norm.sf(10.0), rel=SPECIAL)
    assert upper_quantile(1e-12) == pytest.approx(stats.norm.isf(1e-12), rel=SPECIAL)


def test_p_value_of_no_effect_is_one():
    assert two_sided_p_value(0.0) == 1.0
    assert two_sided_p_value(0.0, 3.0) == 1.0


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_level_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        critical_value(alpha)


def test_difference_of_zero_variance_is_not_estimable():
    arms = ArmSummary(control_mean=1.0, treatment_mean=1.0, n_control=3, n_treatment=3)
    with pytest.raises(ValueError, match="ZERO_VARIANCE"):
        difference_estimate(
            0.0, 0.0, arms=arms, alpha=0.05, method="welch", variance_formula="welch"
        )
