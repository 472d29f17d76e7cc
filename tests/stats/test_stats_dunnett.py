import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.dunnett import (
    Loadings,
    compare_with_control,
    critical_value,
    upper_probability,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value as pairwise

# Dunnett 1964, Biometrics 20, table II: two-sided 5 %, 1 to 9 treatments of the control's size.
TWO_SIDED_05 = {
    5: [2.57, 3.03, 3.29, 3.48, 3.62, 3.73, 3.82, 3.90, 3.97],
    10: [2.23, 2.57, 2.76, 2.89, 2.99, 3.07, 3.14, 3.19, 3.24],
    20: [2.09, 2.38, 2.54, 2.65, 2.73, 2.80, 2.86, 2.90, 2.95],
    60: [2.00, 2.27, 2.41, 2.51, 2.58, 2.64, 2.69, 2.73, 2.77],
}
# The same, table III: two-sided 1 %, 20 degrees of freedom.
TWO_SIDED_01_DF20 = [2.85, 3.13, 3.29, 3.40, 3.48, 3.55, 3.60, 3.65, 3.69]
# Dunnett 1955, JASA 50, table 1: one-sided 5 %, from 2 treatments.
ONE_SIDED_05 = {
    5: [2.44, 2.68, 2.85, 2.98, 3.08, 3.16, 3.24, 3.30],
    10: [2.15, 2.34, 2.47, 2.56, 2.64, 2.70, 2.76, 2.81],
    20: [2.03, 2.19, 2.30, 2.39, 2.46, 2.51, 2.56, 2.60],
    None: [1.92, 2.06, 2.16, 2.23, 2.29, 2.34, 2.38, 2.42],
}
TWO_DIGITS = 0.0101  # printed to two digits in 1955, the last not always rounded right

variances = st.floats(0.05, 20)
degrees = st.sampled_from([None, 4.0, 30.0, 5000.0])


def equal(k):
    return Loadings.of(1.0, [1.0] * k)


@pytest.mark.parametrize("df", TWO_SIDED_05)
def test_published_two_sided_table(df):
    found = [critical_value(equal(k), df=df) for k in range(1, 10)]
    assert [round(d, 2) for d in found] == TWO_SIDED_05[df]


def test_published_two_sided_table_of_one_percent():
    found = [critical_value(equal(k), alpha=0.01, df=20) for k in range(1, 10)]
    assert [round(d, 2) for d in found] == TWO_SIDED_01_DF20


@pytest.mark.parametrize("df", ONE_SIDED_05)
def test_published_one_sided_table(df):
    found = [critical_value(equal(k), sides=1, df=df) for k in range(2, 10)]
    assert found == pytest.approx(ONE_SIDED_05[df], abs=TWO_DIGITS)
    assert sum(round(d, 2) == t for d, t in zip(found, ONE_SIDED_05[df], strict=True)) >= 6


def test_agrees_with_scipy_dunnett():
    rng = np.random.default_rng(3)
    sizes = (30, 12, 50, 25)
    groups = [rng.normal(0.4 * i, 2, n) for i, n in enumerate(sizes)]
    control, *treatments = groups
    df = sum(sizes) - len(sizes)
    pooled = sum(((g - g.mean()) ** 2).sum() for g in groups) / df
    for sides, alternative in ((2, "two-sided"), (1, "greater")):
        live = stats.dunnett(*treatments, control=control, alternative=alternative, rng=1)
        found = compare_with_control(
            [g.mean() - control.mean() for g in treatments],
            variance_control=pooled / len(control),
            variance_treatments=[pooled / len(g) for g in treatments],
            df=df,
            sides=sides,
        )
        assert [c.statistic for c in found.contrasts] == pytest.approx(live.statistic, rel=1e-10)
        # scipy integrates by quasi-Monte Carlo.
        assert [c.p_value for c in found.contrasts] == pytest.approx(live.pvalue, abs=5e-4)


@pytest.mark.parametrize("control", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("d", [0.7, 1.9, 2.8])
def test_agrees_with_multivariate_normal_and_t(control, d):
    own = np.array([0.5, 1.0, 3.0])
    total = control + own
    correlation = control / np.sqrt(np.outer(total, total))
    np.fill_diagonal(correlation, 1.0)
    loadings = Loadings.of(control, own)
    limits = np.full(3, d)
    normal = stats.multivariate_normal(cov=correlation, abseps=1e-7, releps=1e-7, maxpts=10**6)
    t = stats.multivariate_t(shape=correlation, df=9)
    # Both of scipy's are randomised quasi-Monte Carlo integrals.
    live = normal.cdf(limits, lower_limit=-limits)
    assert upper_probability(d, loadings) == pytest.approx(1 - live, abs=2e-6)
    live = t.cdf(limits, lower_limit=-limits, maxpts=400_000, random_state=1)
    assert upper_probability(d, loadings, df=9) == pytest.approx(1 - live, abs=2e-5)
    live = normal.cdf(limits)
    assert upper_probability(d, loadings, sides=1) == pytest.approx(1 - live, abs=2e-6)


@given(st.floats(0, 30), variances, variances, degrees)
@settings(max_examples=40)
def test_one_treatment_is_the_plain_test(d, control, treatment, df):
    loadings = Loadings.of(control, [treatment])
    live = 2 * (stats.norm.sf(d) if df is None else stats.t.sf(d, df))
    # Quadrature over the control score: seven digits even at p = 1e-197.
    assert upper_probability(d, loadings, df=df) == pytest.approx(live, rel=1e-7)
    assert critical_value(loadings, df=df) == pytest.approx(pairwise(0.05, df), rel=1e-12)


@given(st.lists(variances, min_size=2, max_size=4), variances, degrees, st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_between_one_test_and_bonferroni(treatments, control, df, sides):
    loadings = Loadings.of(control, treatments)
    k = len(treatments)
    critical = critical_value(loadings, df=df, sides=sides)
    assert pairwise(0.1 / sides, df) < critical < pairwise(0.1 / sides / k, df)
    assert upper_probability(critical, loadings, df=df, sides=sides) == pytest.approx(
        0.05, rel=1e-9
    )


def test_far_tails_keep_their_digits():
    for k, df in ((3, 28.0), (5, None)):
        for d in (8.0, 12.0, 20.0, 35.0):
            union = k * 2 * (stats.norm.sf(d) if df is None else stats.t.sf(d, df))
            p = upper_probability(d, equal(k), df=df)
            assert 0.8 * union < p <= union * (1 + 1e-9)


def test_independent_and_identical_contrasts_are_the_limits():
    d, single = 2.0, 2 * stats.norm.sf(2.0)
    independent = upper_probability(d, Loadings.of(0.0, [1.0, 2.0]))
    assert independent == pytest.approx(1 - (1 - single) ** 2, rel=1e-12)
    # An arm known exactly keeps a spread of 1e-6, which sets the tolerance.
    identical = upper_probability(d, Loadings.of(1.0, [0.0, 0.0]))
    assert identical == pytest.approx(single, rel=1e-5)


def test_the_correlation_counts():
    """The wrong twin: equal allocation where the control is small would be conservative."""
    right = critical_value(Loadings.of(20.0, [1.0, 1.0, 1.0]))
    assert right < critical_value(equal(3)) - 0.1


@given(
    st.lists(st.floats(-6, 6), min_size=2, max_size=3),
    variances,
    st.sampled_from([0.01, 0.05, 0.3]),
    st.sampled_from([None, 12.0]),
    st.sampled_from([1, 2]),
)
@settings(max_examples=25)
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(
    estimates, control, alpha, df, sides
):
    found = compare_with_control(
        estimates,
        variance_control=control,
        variance_treatments=np.linspace(0.5, 2, len(estimates)),
        alpha=alpha,
        df=df,
        sides=sides,
    )
    for contrast in found.contrasts:
        assume(abs(contrast.p_value - alpha) > 1e-9)
        above = contrast.ci_low > 0
        below = contrast.ci_high is not None and contrast.ci_high < 0
        assert (contrast.p_value < alpha) == (above or below)
        assert contrast.ci_low < contrast.estimate


def test_swap_scale_and_order():
    control, own = 0.7, [0.4, 1.1, 2.0]
    estimates = [1.0, -2.0, 3.0]
    base = compare_with_control(estimates, variance_control=control, variance_treatments=own)
    swapped = compare_with_control(
        [-e for e in estimates], variance_control=control, variance_treatments=own
    )
    scaled = compare_with_control(
        [1e3 * e for e in estimates],
        variance_control=1e6 * control,
        variance_treatments=[1e6 * v for v in own],
    )
    moved = compare_with_control(
        estimates[::-1], variance_control=control, variance_treatments=own[::-1]
    )
    for one, other, big, back in zip(
        base.contrasts, swapped.contrasts, scaled.contrasts, moved.contrasts[::-1], strict=True
    ):
        assert other.p_value == one.p_value
        assert (other.ci_low, other.ci_high) == (-one.ci_high, -one.ci_low)
        assert big.p_value == pytest.approx(one.p_value, rel=1e-9)
        assert big.ci_high == pytest.approx(1e3 * one.ci_high, rel=1e-9)
        assert back.p_value == pytest.approx(one.p_value, rel=1e-9)


def test_control_part_may_differ_by_contrast():
    loadings = Loadings.of([1.0, 1.0], [1.0, 1.0])
    assert critical_value(loadings) == critical_value(Loadings.of(1.0, [1.0, 1.0]))
    assert Loadings.of([1.0, 3.0], [1.0, 1.0]).shared[1] == pytest.approx(math.sqrt(0.75))


@pytest.mark.slow
def test_family_wise_error_is_alpha(monte_carlo_band):
    rng = np.random.default_rng(11)
    runs, own = 40_000, np.array([0.5, 1.0, 2.0])
    control = rng.normal(size=(runs, 1)) * math.sqrt(1.5)
    effects = rng.normal(size=(runs, 3)) * np.sqrt(own) - control
    loadings = Loadings.of(1.5, own)
    rejected = (np.abs(effects / loadings.std_errors) > critical_value(loadings)).any(axis=1)
    low, high = monte_carlo_band(0.05, runs)
    assert low < rejected.mean() < high
    plain = (np.abs(effects / loadings.std_errors) > pairwise(0.05)).any(axis=1)
    assert plain.mean() > high


@pytest.mark.parametrize(
    ("estimates", "control", "own", "code"),
    [
        ([1.0, math.nan], 1.0, [1.0, 1.0], "NON_FINITE_INPUT"),
        ([1.0, 2.0], math.inf, [1.0, 1.0], "NON_FINITE_INPUT"),
        ([1.0, 2.0], 0.0, [1.0, 0.0], "ZERO_VARIANCE"),
    ],
)
def test_not_estimable(estimates, control, own, code):
    with pytest.raises(EstimationError) as error:
        compare_with_control(estimates, variance_control=control, variance_treatments=own)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Loadings.of(1.0, []), "need"),
        (lambda: Loadings.of([1.0], [1.0, 1.0]), "need"),
        (lambda: Loadings.of(1.0, [-0.5, 1.0]), "negative"),
        (lambda: critical_value(equal(2), alpha=0.0), "alpha is 0"),
        (lambda: critical_value(equal(2), sides=3), "sides is 3"),
        (lambda: critical_value(equal(2), df=0.0), "df is 0"),
        (
            lambda: compare_with_control(
                [1.0], variance_control=1.0, variance_treatments=[1.0, 1.0]
            ),
            "1 estimates and 2 variances",
        ),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
