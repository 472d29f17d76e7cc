import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.mann_whitney import compare_ranks, u_statistic

samples = st.integers(2, 30).flatmap(
    lambda n: arrays(np.float64, n, elements=st.integers(-8, 8).map(float))
)


def stack(control, treatment):
    y = np.concatenate([control, treatment])
    return y, np.arange(len(y)) >= len(control)


@pytest.mark.parametrize(
    ("case", "column"),
    [
        ("cookie_cats", "sum_gamerounds"),
        ("nsw_experimental", "re78"),
        ("hillstrom_half_mens", "spend"),
        ("hillstrom_half_womens", "spend"),
    ],
)
def test_reference_mann_whitney(reference, two_arms, case, column):
    expected = reference("fixed", case)
    control, treatment = two_arms(case)
    y, is_treated = stack(control[column].to_numpy(), treatment[column].to_numpy())
    numbers = expected.expected[f"mw_{column}"]
    expected.check(u_statistic(y, is_treated), numbers["U_treat"])
    expected.check(compare_ranks(y, is_treated).p_value, numbers["p"])


@given(samples, samples)
def test_agrees_with_scipy(control, treatment):
    assume(np.ptp(np.concatenate([control, treatment])) > 0)
    result = compare_ranks(*stack(control, treatment))
    live = stats.mannwhitneyu(treatment, control, use_continuity=True, method="asymptotic")
    assert u_statistic(*stack(control, treatment)) == live.statistic
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-10)


def test_estimate_counts_pairs():
    control, treatment = np.array([1.0, 2.0, 2.0]), np.array([2.0, 3.0, 0.0, 2.0])
    wins = (treatment[:, None] > control).mean() + (treatment[:, None] == control).mean() / 2
    result = compare_ranks(*stack(control, treatment))
    assert result.estimate == pytest.approx(wins - 0.5)
    assert (result.n_control, result.n_treatment) == (3, 4)
    assert result.estimand == "probability_of_superiority"
    assert (result.control_mean, result.treatment_mean) == pytest.approx((5 / 3, 7 / 4))


def test_standard_error_is_that_over_all_assignments():
    # The permutation variance of U, by enumeration: nothing normal about it.
    from itertools import combinations

    y = np.array([0.0, 0, 0, 1, 2, 2, 5, 7])
    masks = [np.isin(np.arange(8), chosen) for chosen in combinations(range(8), 3)]
    spread = np.std([u_statistic(y, mask) for mask in masks])
    assert compare_ranks(y, masks[0]).std_error == pytest.approx(spread / 15, rel=1e-12)


@given(samples, samples, st.sampled_from([0.01, 0.05, 0.3]))
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(control, treatment, alpha):
    assume(np.ptp(np.concatenate([control, treatment])) > 0)
    result = compare_ranks(*stack(control, treatment), alpha=alpha)
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)
    assert -0.5 <= result.ci_low <= result.estimate <= result.ci_high <= 0.5


@given(samples, samples)
def test_swap_order_and_monotone_transforms(control, treatment):
    assume(np.ptp(np.concatenate([control, treatment])) > 0)
    y, is_treated = stack(control, treatment)
    base = compare_ranks(y, is_treated)
    swapped = compare_ranks(y, ~is_treated)
    assert swapped.estimate == -base.estimate
    assert (swapped.ci_low, swapped.p_value) == (-base.ci_high, base.p_value)
    moved = compare_ranks(1e9 + 3 * y[::-1], is_treated[::-1])
    assert (moved.estimate, moved.p_value) == (base.estimate, base.p_value)
    cubed = compare_ranks(y**3, is_treated)
    assert (cubed.estimate, cubed.std_error) == (base.estimate, base.std_error)


def test_ranks_can_contradict_means():
    y, is_treated = stack(np.full(50, 1.0), np.r_[np.full(45, 0.5), np.full(5, 100.0)])
    result = compare_ranks(y, is_treated)
    assert result.treatment_mean > result.control_mean
    assert result.estimate < 0
    assert result.p_value < 0.001


def test_far_tails_keep_their_digits():
    y = np.arange(1400.0)
    assert 0 < compare_ranks(y, y >= 700).p_value < 1e-200


def test_not_estimable():
    is_treated = np.arange(10) % 2 == 0
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        compare_ranks(np.full(10, 3.3), is_treated)
    with pytest.raises(EstimationError, match=r"treatment.*EMPTY_ARM"):
        compare_ranks(np.arange(10), np.zeros(10))
    with pytest.raises(EstimationError, match=r"treatment.*N_TOO_SMALL"):
        compare_ranks(np.arange(10), np.arange(10) == 0)
    for bad in (np.nan, np.inf):
        with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
            compare_ranks(np.r_[np.arange(9.0), bad], is_treated)
    with pytest.raises(ValueError, match="is_treated"):
        compare_ranks(np.arange(10), is_treated[:4])
    with pytest.raises(ValueError, match="alpha"):
        compare_ranks(np.arange(10), is_treated, alpha=1.0)


@pytest.mark.alone
def test_a_million_units_take_well_under_a_second():
    rng = np.random.default_rng(0)
    y, is_treated = rng.poisson(3, size=1_000_000) * 1.0, rng.random(1_000_000) < 0.5
    started = time.perf_counter()
    compare_ranks(y, is_treated)
    assert time.perf_counter() - started < 1.0


def test_size_is_nominal_in_aa_tests(monte_carlo_band):
    rng = np.random.default_rng(4)
    is_treated = np.arange(200) < 60
    p_values = [compare_ranks(rng.lognormal(size=200), is_treated).p_value for _ in range(4000)]
    low, high = monte_carlo_band(0.05, 4000)
    assert low <= np.mean(np.array(p_values) < 0.05) <= high
