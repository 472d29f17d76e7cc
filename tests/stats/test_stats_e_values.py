import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    small_sample_sequence,
)
from experiments_dagster.stats.sequential.e_values import (
    e_benjamini_hochberg,
    log_e_from_p,
    mean_log_e,
    normal_equivalent,
    p_from_log_e,
    product_log_e,
)

log_es = st.lists(st.floats(-700, 700), min_size=1, max_size=12)


def test_the_calibrator_has_expectation_one():
    mean, _ = integrate.quad(lambda p: math.exp(log_e_from_p(p)), 0, 1)
    assert mean == pytest.approx(1, abs=1e-8)
    assert log_e_from_p(1e-300) == pytest.approx(150 * math.log(10) - math.log(2))


@given(st.floats(1e-300, 1))
def test_there_and_back_only_loses(p):
    assert p_from_log_e(log_e_from_p(p)) >= p


def test_e_to_p():
    assert p_from_log_e(math.log(100)) == pytest.approx(0.01)
    assert p_from_log_e(5000.0) == 0
    assert p_from_log_e(-math.inf) == 1


@given(log_es)
def test_mean_lies_between_and_order_does_not_matter(values):
    mean = mean_log_e(values)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    assert mean_log_e(values[::-1]) == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert mean_log_e(values, [1 / len(values)] * len(values)) == pytest.approx(mean, abs=1e-9)


def test_means_and_products_beyond_doubles():
    assert mean_log_e([2000.0, 2000.0]) == pytest.approx(2000)
    assert product_log_e([900.0, 900.0, -10.0]) == pytest.approx(1790)
    # An e-value of 0: a product with it is 0, a mean keeps half of the other.
    assert product_log_e([5.0, -math.inf]) == -math.inf
    assert mean_log_e([5.0, -math.inf]) == pytest.approx(5 - math.log(2))
    assert mean_log_e([5.0, 1.0], [1.0, 0.0]) == pytest.approx(5)


@given(log_es, st.sampled_from([0.01, 0.05, 0.3]))
def test_e_bh_by_its_definition(values, alpha):
    m = len(values)
    rejected = e_benjamini_hochberg(values, alpha=alpha)
    ordered = sorted(values, reverse=True)
    sizes = [k for k in range(1, m + 1) if ordered[k - 1] + math.log(k * alpha / m) >= 0]
    assert sum(rejected) == max(sizes, default=0)
    kept = [v for v, r in zip(values, rejected, strict=True) if not r]
    taken = [v for v, r in zip(values, rejected, strict=True) if r]
    assert not (kept and taken) or min(taken) >= max(kept)


def test_e_bh_holds_its_rate_under_dependence():
    rng = np.random.default_rng(3)
    runs, m = 2000, 20
    common = rng.normal(size=(runs, 1))
    z = np.sqrt(0.7) * common + np.sqrt(0.3) * rng.normal(size=(runs, m))
    z[:, :4] += 4
    log_e = 2.5 * z - 2.5**2 / 2  # likelihood ratio against an effect of 2.5
    shares = []
    for row in log_e:
        rejected = e_benjamini_hochberg(row, alpha=0.1)
        shares.append(sum(rejected[4:]) / max(1, sum(rejected)))
    assert np.mean(shares) <= 0.1


@pytest.mark.parametrize("df", [1, 2.5, 7, 48, 3000])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.96, 5.0, 12.0])
def test_normal_equivalent_has_the_same_tail(df, t):
    z = normal_equivalent(t, df)
    assert stats.norm.sf(z) == pytest.approx(stats.t.sf(t, df), rel=1e-10)
    assert normal_equivalent(-t, df) == -z
    assert abs(z) <= t


def test_normal_equivalent_far_out():
    # scipy's tail is still a normal double here, ours comes from the integral of its logarithm.
    for t, df in ((5e97, 3), (50.0, 700.0), (37.4, 1e6)):
        exact = -float(stats.norm.isf(stats.t.sf(t, df))) if stats.t.sf(t, df) > 0 else None
        assert exact is not None
        assert normal_equivalent(-t, df) == pytest.approx(exact, rel=1e-9)
    # ν = 1: Q = atan(1/t)/π, so that −ln Q = ln(πt) at t = 1e200.
    log_tail = -math.log(math.pi) - 200 * math.log(10)
    z = normal_equivalent(1e200, 1)
    assert stats.norm.logsf(z) == pytest.approx(log_tail, rel=1e-12)
    # A billion degrees of freedom are a normal.
    assert normal_equivalent(60.0, 1e12) == pytest.approx(60.0, rel=1e-7)
    assert normal_equivalent(1e150, 4) > normal_equivalent(1e140, 4)


def test_normal_equivalent_is_smooth_where_the_methods_meet():
    df = 30.0
    around = np.linspace(0.999, 1.001, 9) * stats.t.isf(1e-290, df)
    z = np.array([normal_equivalent(t, df) for t in around])
    assert np.diff(z, n=2) == pytest.approx(np.zeros(7), abs=1e-5)


def test_small_sample_e_value_is_the_mixture_of_noncentral_t():
    """∫ f(t; ν, δ√n)/f(t; ν, 0) N(δ; 0, 1/g) dδ by quadrature."""
    t, df, n, g = 2.7, 14, 16, 4.0

    def integrand(delta):
        ratio = stats.nct.pdf(t, df, delta * math.sqrt(n)) / stats.t.pdf(t, df)
        return ratio * stats.norm.pdf(delta, scale=g**-0.5)

    mixture, _ = integrate.quad(integrand, -3, 3, epsabs=1e-10)
    point = small_sample_sequence(t, 1.0, df=df, n=n, g=g, alpha=0.05)
    # scipy's noncentral density has about seven digits.
    assert math.exp(point.log_e_value) == pytest.approx(mixture, rel=1e-5)


def test_small_sample_sequence_becomes_the_large_one():
    n, g = 10**7, 10**6
    large = confidence_sequence(0.003, 0.001, g=g / n * 1e6, alpha=0.05)
    small = small_sample_sequence(0.003, 0.001, df=n - 2, n=n, g=g, alpha=0.05)
    assert small.log_e_value == pytest.approx(large.log_e_value, rel=1e-5)
    assert small.half_width == pytest.approx(large.half_width, rel=1e-5)


@given(st.floats(-8, 8), st.integers(20, 500), st.floats(0.5, 50), st.floats(1e-3, 1e3))
def test_small_sample_duality_and_scale(estimate, n, g, scale):
    point = small_sample_sequence(estimate, 1.0, df=n - 2, n=n, g=g, alpha=0.05)
    if abs(math.log(max(point.p_value, 1e-300) / 0.05)) > 1e-6:
        assert (point.p_value < 0.05) == (point.low > 0 or point.high < 0)
    scaled = small_sample_sequence(scale * estimate, scale, df=n - 2, n=n, g=g, alpha=0.05)
    assert scaled.log_e_value == pytest.approx(point.log_e_value, rel=1e-9, abs=1e-9)
    normal = confidence_sequence(estimate, 1.0, g=g / n, alpha=0.05)
    assert point.half_width > normal.half_width


def test_small_sample_sequence_far_out_stays_finite():
    point = small_sample_sequence(1.0, 1e-200, df=10, n=12, g=3.0, alpha=0.05)
    assert math.isfinite(point.log_e_value)
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        small_sample_sequence(1.0, 1.0, df=2, n=4, g=1.0, alpha=0.001)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        small_sample_sequence(1.0, 0.0, df=10, n=12, g=3.0, alpha=0.05)


@pytest.mark.slow
def test_small_sample_sequence_holds_from_the_third_unit_on():
    rng = np.random.default_rng(5)
    runs, n, g = 4000, 200, 10.0
    x = rng.normal(size=(runs, n))
    units = np.arange(3, n + 1)
    mean = np.cumsum(x, axis=1)[:, 2:] / units
    variance = (np.cumsum(x**2, axis=1)[:, 2:] - units * mean**2) / (units - 1)
    t = mean * np.sqrt(units / variance)
    r, df = g / (g + units), units - 1
    bound = np.empty(len(df))
    for j, (n_now, nu) in enumerate(zip(units, df, strict=True)):
        try:
            point = small_sample_sequence(0.0, 1.0, df=nu, n=n_now, g=g, alpha=0.05)
            bound[j] = point.half_width
        except EstimationError:
            bound[j] = np.inf
    crossed = (np.abs(t) > bound).any(axis=1).mean()
    normal = np.sqrt(1 / (1 - r) * np.log(1 / (r * 0.05**2)))
    naive = (np.abs(t) > normal).any(axis=1).mean()
    assert crossed <= 0.05 + 1.645 * math.sqrt(0.05 * 0.95 / runs)
    # The planted fault: the large-sample sequence from the third unit on.
    assert naive > 0.06


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_e_from_p(0.0), "p-value"),
        (lambda: log_e_from_p(math.nan), "p-value"),
        (lambda: mean_log_e([]), "ln E"),
        (lambda: product_log_e([math.nan]), "ln E"),
        (lambda: product_log_e([math.inf]), "ln E"),
        (lambda: mean_log_e([1.0, 2.0], [0.5, 0.6]), "weights"),
        (lambda: mean_log_e([1.0, 2.0], [1.5, -0.5]), "weights"),
        (lambda: mean_log_e([1.0, 2.0], [1.0]), "weights"),
        (lambda: e_benjamini_hochberg([1.0], alpha=1.0), "alpha"),
        (lambda: normal_equivalent(1.0, 0.0), "degrees"),
        (lambda: normal_equivalent(math.nan, 3.0), "NON_FINITE"),
        (lambda: small_sample_sequence(1.0, 1.0, df=3, n=5, g=0.0, alpha=0.05), "g is"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
