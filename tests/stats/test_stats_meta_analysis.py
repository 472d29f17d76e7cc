import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.meta_analysis import combine_effects

from experiments_dagster.stats.between_variance import ESTIMATORS, cochran_q
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.meta_analysis import FLAGS, MODELS, pool_studies

studies = st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 4)), min_size=3, max_size=15)
VARIED = studies.filter(lambda rows: len({round(y, 6) for y, _ in rows}) > 1)
RANDOM = [(method, interval) for method in ESTIMATORS for interval in ("normal", "hartung_knapp")]


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def simulate(rng, k, *, tau, mean=0.0):
    """Studies with unequal errors and true effects that differ.

    The variance between studies is the larger part: where sampling errors are larger and very
    unequal, Hartung-Knapp is known to cover some .94 (IntHout et al. 2014).
    """
    v = rng.uniform(0.02, 0.1, k)
    return mean + tau * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k), v


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=12), st.floats(0.05, 2))
def test_closed_forms_of_equal_variances(y, v):
    y = np.array(y)
    k, s2 = len(y), np.var(y, ddof=1)
    for method, excess in (("dl", s2 - v), ("pm", s2 - v), ("reml", s2 - v), ("ml", y.var() - v)):
        found = pool_studies(y, [v] * k, method=method, interval="normal")
        assert found.tau2 == pytest.approx(max(0.0, excess), rel=1e-9, abs=1e-11)
        assert found.estimate == pytest.approx(y.mean(), abs=1e-12)
        assert found.std_error**2 == pytest.approx((v + found.tau2) / k, rel=1e-9)
    # With equal weights the Hartung-Knapp error is that of a plain mean, whatever τ² is.
    if s2 > 1e-6:
        knapp = pool_studies(y, [v] * k)
        assert knapp.std_error == pytest.approx(math.sqrt(s2 / k), rel=1e-9)
        assert knapp.p_value == pytest.approx(stats.ttest_1samp(y, 0).pvalue, rel=1e-7)


@given(VARIED)
def test_live_against_statsmodels(rows):
    y, v = columns(rows)
    # It does not cut τ² off at 0, where it divides by zero.
    assume(cochran_q(y, v) > len(y) - 1 + 1e-6)
    other = combine_effects(y, v, method_re="chi2", use_t=False)
    found = pool_studies(y, v, method="dl", interval="normal")
    assert found.tau2 == pytest.approx(other.tau2, rel=1e-7, abs=1e-12)
    assert found.estimate == pytest.approx(other.mean_effect_re, rel=1e-7, abs=1e-9)
    assert found.std_error == pytest.approx(other.sd_eff_w_re, rel=1e-7)
    assert found.q == pytest.approx(other.q, rel=1e-9)
    knapp = pool_studies(y, v, method="dl", interval="hartung_knapp")
    assert knapp.std_error == pytest.approx(math.sqrt(other.var_hksj_re), rel=1e-7)
    fixed = pool_studies(y, v, method="fixed")
    assert fixed.estimate == pytest.approx(other.mean_effect_fe, rel=1e-9, abs=1e-12)
    assert fixed.std_error == pytest.approx(other.sd_eff_w_fe, rel=1e-9)


@given(VARIED)
def test_likelihoods_are_at_their_top(rows):
    y, v = columns(rows)

    def height(tau2, method):
        w = 1 / (v + tau2)
        penalty = math.log(w.sum()) if method == "reml" else 0.0
        return 0.5 * (np.log(w).sum() - penalty - cochran_q(y, v, tau2))

    for method in ("ml", "reml"):
        tau2 = pool_studies(y, v, method=method, interval="normal").tau2
        live = optimize.minimize_scalar(
            lambda t, method=method: -height(t, method), bounds=(0, 40), method="bounded"
        ).x
        assert height(tau2, method) >= height(live, method) - 1e-10
        assert height(tau2, method) >= height(0.0, method) - 1e-10


@given(VARIED)
def test_paule_mandel_is_the_root(rows):
    y, v = columns(rows)
    tau2 = pool_studies(y, v, method="pm", interval="normal").tau2
    if tau2 > 0:
        assert cochran_q(y, v, tau2) == pytest.approx(len(y) - 1, rel=1e-9)
    else:
        assert cochran_q(y, v) <= len(y) - 1 + 1e-9


@given(VARIED, st.sampled_from(RANDOM), st.sampled_from([1e-9, 0.3, 1e8]), st.floats(-50, 50))
def test_scale_shift_and_order(rows, how, scale, shift):
    y, v = columns(rows)
    method, interval = how

    def pool(y, v):
        return pool_studies(y, v, method=method, interval=interval)

    base = pool(y, v)
    size = max(1.0, base.tau2)
    scaled = pool(scale * y, scale**2 * v)
    assert scaled.estimate == pytest.approx(scale * base.estimate, rel=1e-6, abs=1e-8 * scale)
    assert scaled.std_error == pytest.approx(scale * base.std_error, rel=1e-6)
    assert scaled.tau2 == pytest.approx(scale**2 * base.tau2, rel=1e-6, abs=1e-8 * scale**2 * size)
    assert scaled.i2 == pytest.approx(base.i2, abs=1e-5)
    assert scaled.p_value == pytest.approx(base.p_value, rel=1e-5, abs=1e-9)
    moved = pool(y + shift, v)
    assert moved.estimate - shift == pytest.approx(base.estimate, abs=1e-6)
    assert moved.tau2 == pytest.approx(base.tau2, rel=1e-6, abs=1e-8 * size)
    mirrored = pool(-y, v)
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx(
        (-base.ci_high, -base.ci_low), rel=1e-6, abs=1e-8
    )
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = pool(y[order], v[order])
    assert shuffled.estimate == pytest.approx(base.estimate, rel=1e-7, abs=1e-9)
    assert shuffled.tau2 == pytest.approx(base.tau2, rel=1e-7, abs=1e-9 * size)
    assert shuffled.prediction_high == pytest.approx(base.prediction_high, rel=1e-6, abs=1e-8)


@given(VARIED)
def test_two_halves_merge_into_one_fixed_effect(rows):
    """Pooling is associative: parts pooled by inverse variance give the whole."""
    y, v = columns(rows)
    whole = pool_studies(y, v, method="fixed")
    parts = [pool_studies(y[half], v[half], method="fixed") for half in (slice(2), slice(2, None))]
    again = pool_studies(
        [part.estimate for part in parts], [part.std_error**2 for part in parts], method="fixed"
    )
    assert again.estimate == pytest.approx(whole.estimate, rel=1e-9, abs=1e-12)
    assert again.std_error == pytest.approx(whole.std_error, rel=1e-9)


@given(VARIED, st.sampled_from(RANDOM), st.sampled_from([0.01, 0.05, 0.2]))
def test_p_and_interval_invert_one_test(rows, how, alpha):
    y, v = columns(rows)
    found = pool_studies(y, v, method=how[0], interval=how[1], alpha=alpha)
    excludes_zero = not found.ci_low <= 0 <= found.ci_high
    if abs(found.p_value - alpha) > 1e-9:
        assert excludes_zero == (found.p_value < alpha)
    assert found.prediction_low <= found.estimate <= found.prediction_high
    assert 0 <= found.i2 <= 100


def test_few_studies():
    one = pool_studies([0.3], [0.04])
    assert (one.method, one.estimate, one.std_error) == ("study", pytest.approx(0.3), 0.2)
    assert (one.tau2, one.q, one.i2, one.prediction_low) == (None, None, None, None)
    assert one.flag == "ONE_STUDY"
    two = pool_studies([0.3, 0.1], [0.04, 0.01])
    assert (two.method, two.flag, two.tau2, two.prediction_low) == (
        "fixed",
        "TWO_STUDIES",
        None,
        None,
    )
    assert two.estimate == pytest.approx((0.3 / 0.04 + 0.1 / 0.01) / (1 / 0.04 + 1 / 0.01))
    # A fixed effect that was asked for assumes that there is no spread.
    asked = pool_studies([0.3, 0.1], [0.04, 0.01], method="fixed")
    assert (asked.flag, asked.tau2) == (None, 0.0)
    assert asked.estimate == two.estimate
    assert set(FLAGS) == {"ONE_STUDY", "TWO_STUDIES", "NARROWER_THAN_NORMAL"}


def test_studies_that_agree_too_well_are_flagged():
    found = pool_studies([0.10, 0.11, 0.12, 0.10], [0.04] * 4)
    assert found.tau2 == 0
    assert found.flag == "NARROWER_THAN_NORMAL"
    assert pool_studies([0.0, 0.5, 1.0, -0.5], [0.04] * 4).flag is None


def test_offset_and_size_cost_no_digits():
    y, v = np.array([0.1, 0.4, -0.2, 0.3]), np.array([0.01, 0.02, 0.03, 0.02])
    base = pool_studies(y, v)
    far = pool_studies(y + 2.0**30, v)
    assert far.tau2 == pytest.approx(base.tau2, rel=1e-6)
    huge = pool_studies(y * 1e140, v * 1e280)
    assert huge.i2 == pytest.approx(base.i2, rel=1e-9)
    assert huge.estimate == pytest.approx(base.estimate * 1e140, rel=1e-9)


def test_a_likelihood_with_two_peaks_gives_the_higher_one():
    """Precise studies that agree beside rough ones that do not: a local search stays at 0."""
    y = np.array([0.0, 0.001, -0.001, 0.0005, 12.0, -12.0, 11.0, -11.5])
    v = np.array([1e-6] * 4 + [1.0] * 4)
    found = pool_studies(y, v, method="ml", interval="normal").tau2

    def height(tau2):
        w = 1 / (v + tau2)
        return 0.5 * (np.log(w).sum() - cochran_q(y, v, tau2))

    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1e4, 20_000)])
    assert height(found) >= max(map(height, grid)) - 1e-9


@pytest.mark.parametrize("k", [4, 8])
def test_hartung_knapp_covers_heterogeneous_studies_and_the_normal_interval_does_not(
    k, monte_carlo_band
):
    rng = np.random.default_rng(20 + k)
    runs, truth = 3000, 0.4
    covered = {"hartung_knapp": 0, "normal": 0}
    predicted = 0
    for _ in range(runs):
        y, v = simulate(rng, k, tau=0.5, mean=truth)
        for interval, method in (("hartung_knapp", "reml"), ("normal", "dl")):
            found = pool_studies(y, v, method=method, interval=interval)
            covered[interval] += found.ci_low <= truth <= found.ci_high
            if interval == "hartung_knapp":
                target = truth + 0.5 * rng.normal()
                predicted += found.prediction_low <= target <= found.prediction_high
    low, high = monte_carlo_band(0.95, runs)
    assert low <= covered["hartung_knapp"] / runs <= high
    # The broken twin: too narrow for few studies.
    assert covered["normal"] / runs < low
    # Few studies tell τ² badly: prediction intervals cover too little (Partlett & Riley 2017).
    assert predicted / runs > (0.87 if k == 4 else 0.91)


def test_size_of_q_under_one_common_effect(monte_carlo_band):
    rng = np.random.default_rng(3)
    runs = 3000
    rejected = sum(
        pool_studies(*simulate(rng, 6, tau=0.0), method="fixed").q_p_value < 0.05
        for _ in range(runs)
    )
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected / runs <= high


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: pool_studies([], []), "N_TOO_SMALL"),
        (lambda: pool_studies([1.0, math.nan, 2.0], [1.0] * 3), "NON_FINITE_INPUT"),
        (lambda: pool_studies([1.0, 3.0, 2.0], [1.0, math.inf, 1.0]), "NON_FINITE_INPUT"),
        (lambda: pool_studies([1.0, 3.0, 2.0], [1.0, 0.0, 1.0]), "ZERO_VARIANCE"),
        (lambda: pool_studies([1.0, 3.0, 2.0], [1.0, -1.0, 1.0]), "ZERO_VARIANCE"),
        (lambda: pool_studies([1.0, 1.0, 1.0], [1.0, 2.0, 1.0]), "ZERO_VARIANCE"),
        (lambda: pool_studies([1.0, 2.0, 3.0], [1.0, 1e-220, 1.0]), "ZERO_VARIANCE"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pool_studies([1.0], [1.0, 2.0]), "need"),
        (lambda: pool_studies([1.0], [1.0], method="hk"), "method is 'hk'"),
        (lambda: pool_studies([1.0], [1.0], interval="wald"), "interval is 'wald'"),
        (
            lambda: pool_studies([1.0], [1.0], method="fixed", interval="hartung_knapp"),
            "not 'fixed'",
        ),
        (lambda: pool_studies([1.0], [1.0], alpha=1.5), "alpha is 1.5"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_every_model_runs():
    for method in MODELS:
        assert pool_studies([0.1, 0.3, 0.6], [0.02, 0.03, 0.01], method=method).method == method
