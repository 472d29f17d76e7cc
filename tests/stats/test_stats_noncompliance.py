import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.sandbox.regression.gmm import IV2SLS

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.noncompliance import (
    ASSUMPTIONS,
    PerProtocolError,
    anderson_rubin_set,
    complier_effect,
    per_protocol,
)

EFFECT = 2.0


def trial(n, seed, *, compliers=0.5, always=0.1, effect=EFFECT):
    """Compliers gain `effect`; always-takers are better off anyway, so who received is selected."""
    rng = np.random.default_rng(seed)
    z = rng.random(n) < 0.5
    kind = rng.choice(3, size=n, p=[compliers, always, 1 - compliers - always])
    d = (kind == 1) | ((kind == 0) & z)
    y = 1.0 + effect * d + 1.5 * (kind == 1) - 0.5 * (kind == 2) + rng.normal(size=n)
    return y, z, d


def test_closed_form():
    """Half of the treatment arm receives, nobody in the control arm: twice the intent to treat."""
    z = np.repeat([0, 1], 200)
    d = np.concatenate([np.zeros(200), np.tile([0, 1], 100)])
    y = 3.0 * d + np.tile([0.0, 1.0, 2.0, 3.0], 100)
    found = complier_effect(y, z, d)
    assert found.estimate == pytest.approx(2 * found.itt.estimate, rel=1e-12)
    assert (found.received_control, found.received_treatment) == (0.0, 0.5)
    assert found.assumptions == ASSUMPTIONS
    assert [text.split(":")[0] for text in ASSUMPTIONS] == [
        "randomised",
        "exclusion",
        "monotonicity",
    ]


def test_live_against_two_stage_least_squares():
    y, z, d = trial(4000, 1)
    found = complier_effect(y, z, d)
    endog, instruments = sm.add_constant(d.astype(float)), sm.add_constant(z.astype(float))
    live = IV2SLS(y, endog, instruments).fit()
    assert found.estimate == pytest.approx(live.params[1], rel=1e-9)
    # Robust variance of the same estimator by hand, HC2 by arm: the delta method.
    residual = y - found.estimate * d
    parts = [residual[z == arm].var(ddof=1) / (z == arm).sum() for arm in (0, 1)]
    expected = math.sqrt(sum(parts)) / found.first_stage.estimate
    assert found.std_error == pytest.approx(expected, rel=1e-9)
    assert found.first_stage_f == pytest.approx(
        (found.first_stage.estimate / found.first_stage.std_error) ** 2
    )


def test_perfect_compliance_is_the_intent_to_treat():
    y, z, _ = trial(500, 2)
    found = complier_effect(y, z, z)
    assert found.estimate == pytest.approx(found.itt.estimate, rel=1e-12)
    assert found.std_error == pytest.approx(found.itt.std_error, rel=1e-12)
    assert (found.first_stage_f, found.interval) == (None, "delta")
    assert found.anderson_rubin.low == pytest.approx(found.ci_low, rel=1e-9)


def test_strong_first_stage_takes_delta_and_a_weak_one_anderson_rubin():
    strong = complier_effect(*trial(4000, 3))
    assert strong.first_stage_f > 100
    assert strong.interval == "delta"
    # Far from 0 both are nearly the same.
    assert strong.anderson_rubin.shape == "bounded"
    assert strong.anderson_rubin.low == pytest.approx(strong.ci_low, abs=0.02)
    weak = complier_effect(*trial(400, 5, compliers=0.09))
    assert 1 < weak.first_stage_f < 10
    assert weak.interval == "anderson_rubin"
    z = weak.itt.estimate / weak.itt.std_error
    assert weak.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


@given(
    st.floats(-5, 5),
    st.floats(-2, 2).filter(lambda d: abs(d) > 1e-3),
    st.floats(0.01, 2),
    st.floats(0.01, 2),
    st.floats(-0.95, 0.95),
)
def test_the_set_holds_exactly_what_the_test_accepts(y, d, s_y, s_d, correlation):
    covariance = correlation * s_y * s_d
    found = anderson_rubin_set(y, d, variances=(s_y**2, s_d**2), covariance=covariance)

    def accepts(value):
        variance = s_y**2 - 2 * value * covariance + value**2 * s_d**2
        return (y - value * d) ** 2 <= 3.841458820694124 * variance

    def contains(value):
        if found.shape == "bounded":
            return found.low <= value <= found.high
        return found.shape == "everything" or value <= found.low or value >= found.high

    assert contains(y / d)
    edges = [] if found.low is None else [found.low, found.high]
    for value in [*np.linspace(-20, 20, 81), 1e6, -1e6]:
        if all(abs(value - edge) > 1e-6 * (1 + abs(edge)) for edge in edges):
            assert contains(value) == accepts(value)


@given(st.integers(0, 300), st.sampled_from([1e-6, 4.0, 1e6]), st.sampled_from([-20.0, 1e3]))
def test_scale_shift_and_order(seed, scale, shift):
    y, z, d = trial(600, seed)
    base = complier_effect(y, z, d)
    scaled = complier_effect(scale * y, z, d)
    assert scaled.estimate == pytest.approx(scale * base.estimate, rel=1e-7, abs=1e-9 * scale)
    assert scaled.std_error == pytest.approx(scale * base.std_error, rel=1e-7)
    assert complier_effect(y + shift, z, d).estimate == pytest.approx(base.estimate, abs=1e-7)
    order = np.random.default_rng(seed).permutation(len(y))
    assert complier_effect(y[order], z[order], d[order]).estimate == pytest.approx(
        base.estimate, rel=1e-9, abs=1e-12
    )
    excludes = not base.ci_low <= 0 <= base.ci_high
    assert excludes == (base.p_value < 0.05)


def per_protocol_coverage(y, d):
    """The refused comparison, done anyway."""
    found = compare_means(ArmMoments.from_arrays(y=y[~d]), ArmMoments.from_arrays(y=y[d]))
    return found.difference.ci_low <= EFFECT <= found.difference.ci_high


def test_coverage_and_the_refused_twin(monte_carlo_band):
    runs, covered, twin = 2000, 0, 0
    for seed in range(runs):
        y, z, d = trial(1200, seed)
        found = complier_effect(y, z, d)
        covered += found.ci_low <= EFFECT <= found.ci_high
        twin += per_protocol_coverage(y, d)
    low, high = monte_carlo_band(0.95, runs)
    assert low <= covered / runs <= high
    assert twin / runs < 0.05


def test_a_weak_first_stage_keeps_its_size_by_anderson_rubin_and_delta_does_not(monte_carlo_band):
    """Few compliers and strong selection, where the ratio is far from normal."""
    runs, inside, delta, n_used = 3000, 0, 0, 0
    rng = np.random.default_rng(9)
    n = 400
    for _ in range(runs):
        z = rng.random(n) < 0.5
        u = rng.normal(size=n)
        d = (u + rng.normal(0, 0.3, n) + 0.15 * z) > 0
        y = EFFECT * d + 3 * u + 0.3 * rng.normal(size=n)
        arms = [ArmMoments.from_arrays(y=y[z == k], d=d[z == k].astype(float)) for k in (0, 1)]
        diff_y, diff_d = (compare_means(*arms, column=name).difference for name in ("y", "d"))
        covariance = sum(arm.covariance("y", "d") / arm.n for arm in arms)
        variances = (diff_y.std_error**2, diff_d.std_error**2)
        found = anderson_rubin_set(
            diff_y.estimate, diff_d.estimate, variances=variances, covariance=covariance
        )
        if found.shape == "bounded":
            inside += found.low <= EFFECT <= found.high
        else:
            is_out = found.shape == "outside"
            inside += not is_out or found.low >= EFFECT or found.high <= EFFECT
        ratio = diff_y.estimate / diff_d.estimate
        variance = variances[0] - 2 * ratio * covariance + ratio**2 * variances[1]
        error = math.sqrt(variance) / abs(diff_d.estimate)
        delta += abs(ratio - EFFECT) <= 1.96 * error
        n_used += 1
    low, high = monte_carlo_band(0.95, n_used)
    assert low <= inside / n_used <= high
    assert not low <= delta / n_used <= high


def test_per_protocol_is_refused():
    with pytest.raises(PerProtocolError, match="chose what they received") as error:
        per_protocol()
    assert isinstance(error.value, EstimationError)
    assert error.value.code == "NOT_IDENTIFIED"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: complier_effect([1.0, 2.0, 3.0, 5.0], [0, 0, 1, 1], [0] * 4), "ZERO_DENOMINATOR"),
        (
            lambda: complier_effect([1.0, 2.0, 3.0, 5.0], [0, 0, 1, 1], [1, 1, 0, 1]),
            "NOT_IDENTIFIED",
        ),
        (
            lambda: complier_effect([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], [0, 0, 1, 1]),
            "ZERO_VARIANCE",
        ),
        (
            lambda: complier_effect([1.0, 2.0, math.nan, 3.0], [0, 0, 1, 1], [0] * 4),
            "NON_FINITE_INPUT",
        ),
        (lambda: complier_effect([1.0, 2.0], [1, 1], [0, 1]), "EMPTY_ARM"),
        (lambda: complier_effect([1.0, 2.0, 3.0], [0, 1, 1], [0, 1, 1]), "N_TOO_SMALL"),
        # What was received explains all of Y: no error is left.
        (
            lambda: complier_effect([0.0, 0.0, 0.0, 1.0], [0, 0, 1, 1], [0, 0, 0, 1]),
            "ZERO_VARIANCE",
        ),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: complier_effect([1.0] * 4, [0, 0, 1, 1], [0, 0, 1, 2]), "is_received"),
        (lambda: complier_effect([1.0] * 4, [0, 0, 1, 1], [0, 1]), "is_received"),
        (lambda: complier_effect([1.0] * 4, [0, 0, 1, 3], [0, 0, 1, 1]), "is_treated"),
        (lambda: complier_effect([1.0] * 4, [0, 0, 1, 1], [0, 0, 1, 1], alpha=2), "alpha is 2"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
