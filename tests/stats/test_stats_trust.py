import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.trust import (
    arrival_delay_outcome,
    combine_periods,
    false_positive_risk,
    false_positive_risk_band,
    is_inconclusive,
    population_effect,
    two_sample_ks,
    twyman_outcome,
    twyman_ratio,
)

effects = st.floats(-100, 100)
errors = st.floats(1e-3, 100)


def test_twyman_flags_above_four_only():
    assert twyman_ratio(-0.4, 0.06, 0.08) == pytest.approx(4.0, rel=1e-12)
    assert twyman_outcome(0.39, 0.06, 0.08).passed
    outcome = twyman_outcome(-0.41, 0.06, 0.08)
    assert (outcome.passed, outcome.severity, outcome.threshold) == (False, "WARN", 4.0)
    assert "-41.0%" in outcome.message
    assert "4.1 times" in outcome.message


def test_a_bound_on_the_lift_holds_a_result_by_itself():
    assert not twyman_outcome(0.31, 0.2, 0.1, max_lift=0.3).passed
    assert "beyond the bound of 30.0%" in twyman_outcome(0.31, 0.2, 0.1, max_lift=0.3).message
    assert twyman_outcome(0.29, 0.2, 0.1, max_lift=0.3).passed


@given(effects, errors, errors, st.floats(1e-3, 1e3))
def test_twyman_is_free_of_sign_and_scale(estimate, std_error, tau, scale):
    base = twyman_ratio(estimate, std_error, tau)
    assert twyman_ratio(-estimate, std_error, tau) == base
    scaled = twyman_ratio(scale * estimate, scale * std_error, scale * tau)
    assert scaled == pytest.approx(base, rel=1e-12)
    assert base <= abs(estimate) / std_error


# Kohavi, Deng & Vermeer 2022, table 2: success rate and false-positive risk in %, printed to one
# digit, at α = 0.05 two-sided and power 80 %. Its 33 % stands for a third.
@pytest.mark.parametrize(
    ("success_rate", "risk"),
    [(0.08, 26.4), (0.10, 22.0), (0.12, 18.6), (0.15, 15.0), (1 / 3, 5.9)],
)
def test_published_false_positive_risk(success_rate, risk):
    assert round(100 * false_positive_risk(0.05, 0.8, success_rate), 1) == risk
    two_tailed = 100 * false_positive_risk(0.05, 0.8, success_rate, sides=1)
    assert two_tailed > risk + 4


def test_false_positive_risk_by_simulation(monte_carlo_band):
    rng = np.random.default_rng(5)
    runs, prior, effect = 400_000, 0.2, 2.8
    is_true = rng.random(runs) < prior
    wins = effect * is_true + rng.normal(size=runs) > 1.959964
    expected = false_positive_risk(0.05, float(stats.norm.sf(1.959964 - effect)), prior)
    low, high = monte_carlo_band(expected, wins.sum())
    assert low < 1 - is_true[wins].mean() < high


def test_false_positive_risk_falls_with_power_and_prior_and_sides():
    base = false_positive_risk(0.05, 0.8, 0.2)
    assert false_positive_risk(0.05, 0.9, 0.2) < base
    assert false_positive_risk(0.05, 0.8, 0.3) < base
    assert false_positive_risk(0.025, 0.8, 0.2, sides=1) == base
    low, high = false_positive_risk_band(0.05, 0.8)
    assert low == false_positive_risk(0.05, 0.8, 0.5)
    assert high == false_positive_risk(0.05, 0.8, 0.1)


@given(effects, errors)
def test_everyone_triggered_is_the_triggered_effect(estimate, std_error):
    result = population_effect(estimate, std_error, trigger_rate=1.0, n=1000)
    assert (result.estimate, result.std_error) == (estimate, std_error)


def test_population_effect_spreads_as_its_formula_says():
    rng = np.random.default_rng(8)
    runs, n, rate, effect, std_error = 200_000, 50, 0.3, 2.0, 0.2
    # Both parts drawn independently: the triggered effect and the share that triggers.
    drawn = (effect + std_error * rng.normal(size=runs)) * rng.binomial(n, rate, runs) / n
    result = population_effect(effect, std_error, trigger_rate=rate, n=n)
    assert result.estimate == pytest.approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(runs))
    # The product of the two errors, V·r(1−r)/n, is left out: 0.8 % of the variance here.
    assert result.std_error == pytest.approx(drawn.std(), rel=0.01)
    without_rate = rate * std_error
    assert result.std_error > 2 * without_rate


@given(effects, errors, st.floats(0.01, 1), st.sampled_from([0.01, 0.05, 0.2]))
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(
    estimate, std_error, rate, alpha
):
    result = population_effect(estimate, std_error, trigger_rate=rate, n=100, alpha=alpha)
    assume(abs(result.p_value - alpha) > 1e-9)
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_periods_undo_a_ramp_that_reverses_the_sign():
    """Units better by 10 after the ramp; the effect is +1 in each period."""
    means = {"control": (10.0, 20.0), "treatment": (11.0, 21.0)}
    units = {"control": (900, 500), "treatment": (100, 500)}
    pooled = {arm: np.average(means[arm], weights=units[arm]) for arm in means}
    assert pooled["treatment"] - pooled["control"] > 5
    totals = [1000, 1000]
    result = combine_periods([1.0, 1.0], [0.01, 0.04], totals)
    assert result.estimate == pytest.approx(1.0)
    assert result.std_error == pytest.approx(math.sqrt(0.05 / 4))


@given(st.lists(st.tuples(effects, errors, st.integers(1, 10_000)), min_size=1, max_size=6))
def test_periods_average_swap_and_order(periods):
    estimates, variances, units = zip(*periods, strict=True)
    base = combine_periods(estimates, variances, units)
    slack = 1e-9
    assert min(estimates) - slack <= base.estimate <= max(estimates) + slack
    swapped = combine_periods([-e for e in estimates], variances, units)
    assert (swapped.estimate, swapped.p_value) == (-base.estimate, base.p_value)
    moved = combine_periods(estimates[::-1], variances[::-1], units[::-1])
    assert moved.estimate == pytest.approx(base.estimate, rel=1e-9, abs=1e-9)
    assert moved.std_error == pytest.approx(base.std_error, rel=1e-9)
    if len(periods) == 1:
        assert base.estimate == estimates[0]


@given(
    st.lists(st.integers(0, 30), min_size=3, max_size=40),
    st.lists(st.integers(0, 30), min_size=3, max_size=40),
)
def test_ks_distance_agrees_with_scipy_with_ties(first, second):
    distance, p = two_sample_ks(first, second)
    live = stats.ks_2samp(first, second, method="asymp")
    assert distance == pytest.approx(live.statistic, abs=1e-12)
    n = len(first) * len(second) / (len(first) + len(second))
    assert p == pytest.approx(stats.kstwobign.sf(math.sqrt(n) * distance), rel=1e-9)


def test_ks_p_value_is_near_the_exact_one_in_large_samples():
    rng = np.random.default_rng(2)
    first, second = rng.exponential(1.0, 4000), rng.exponential(1.06, 5000)
    # The asymptotic p is above the exact one by O(1/√n).
    live = stats.ks_2samp(first, second, method="exact")
    assert two_sample_ks(first, second)[1] == pytest.approx(live.pvalue, rel=0.05)


def test_arrival_delay_grades_and_ignores_the_unit():
    rng = np.random.default_rng(4)
    control = rng.lognormal(3, 1, 5000)
    treatment = rng.lognormal(3, 1, 5000)
    assert arrival_delay_outcome(control, treatment).passed
    late = arrival_delay_outcome(control, 1.2 * treatment)
    assert (late.passed, late.severity, late.threshold) == (False, "ERROR", 0.001)
    warned = arrival_delay_outcome(control, 1.065 * treatment)
    assert 0.001 < warned.value < 0.01
    assert (warned.passed, warned.severity, warned.threshold) == (False, "WARN", 0.01)
    in_seconds = arrival_delay_outcome(60 * control, 60 * 1.2 * treatment)
    logarithms = two_sample_ks(np.log(control), np.log(1.2 * treatment))
    assert in_seconds.value == pytest.approx(late.value, rel=1e-9)
    assert logarithms[1] == pytest.approx(late.value, rel=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "mde", "expected"),
    [
        (-0.01, 0.03, 0.02, True),
        (-0.01, 0.015, 0.02, False),
        (0.001, 0.03, 0.02, False),
        (-0.03, 0.01, 0.02, True),
        (-0.01, 0.02, 0.02, True),
        (None, 0.01, 0.02, True),
        (-0.01, None, 0.02, True),
        (0.01, None, 0.02, False),
    ],
)
def test_inconclusive(low, high, mde, expected):
    assert is_inconclusive(low, high, mde) is expected
    assert is_inconclusive(low, high, -mde) is expected
    swapped = (None if high is None else -high, None if low is None else -low)
    assert is_inconclusive(*swapped, mde) is expected


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: twyman_ratio(math.nan, 1.0, 1.0), "NON_FINITE_INPUT"),
        (lambda: twyman_ratio(1.0, 0.0, 0.0), "ZERO_VARIANCE"),
        (lambda: population_effect(math.inf, 1.0, trigger_rate=0.5, n=9), "NON_FINITE_INPUT"),
        (lambda: population_effect(0.0, 0.0, trigger_rate=0.5, n=9), "ZERO_VARIANCE"),
        (lambda: combine_periods([1.0], [math.nan], [5]), "NON_FINITE_INPUT"),
        (lambda: combine_periods([1.0, 2.0], [1.0, 1.0], [5, 0]), "EMPTY_ARM"),
        (lambda: combine_periods([1.0], [0.0], [5]), "ZERO_VARIANCE"),
        (lambda: arrival_delay_outcome([], [1.0]), "EMPTY_ARM"),
        (lambda: arrival_delay_outcome([1.0], [math.inf]), "NON_FINITE_INPUT"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: twyman_ratio(1.0, -1.0, 1.0), "std_error is -1"),
        (lambda: false_positive_risk(0.0, 0.8, 0.1), "alpha is 0"),
        (lambda: false_positive_risk(0.05, 1.0, 0.1), "power is 1"),
        (lambda: false_positive_risk(0.05, 0.8, 1.5), "prior_true is 1.5"),
        (lambda: false_positive_risk(0.05, 0.8, 0.1, sides=3), "sides is 3"),
        (lambda: population_effect(1.0, 1.0, trigger_rate=0.0, n=9), "trigger_rate is 0"),
        (lambda: population_effect(1.0, 1.0, trigger_rate=0.5, n=0), "0 units"),
        (lambda: combine_periods([], [], []), "need"),
        (lambda: combine_periods([1.0], [1.0, 2.0], [1]), "need"),
        (lambda: combine_periods([1.0], [-1.0], [1]), "negative"),
        (lambda: arrival_delay_outcome([-1.0], [1.0]), "arm control is -1"),
        (lambda: is_inconclusive(-1.0, 1.0, 0.0), "mde is 0"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
