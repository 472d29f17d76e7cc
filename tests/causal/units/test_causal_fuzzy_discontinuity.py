"""Fuzzy discontinuity: an independent engine, the sharp design inside it, coverage, refusals."""

import numpy as np
import pytest

from experiments_dagster.causal.units.discontinuity import estimate_discontinuity
from experiments_dagster.causal.units.fuzzy_discontinuity import estimate_fuzzy_discontinuity
from experiments_dagster.stats.calibration import rejection_band
from experiments_dagster.stats.errors import EstimationError

ALGEBRA = 1e-10
ROWS = ("conventional", "bias_corrected", "robust")


def make_units(n=4000, *, effect=2.0, compliers=0.5, seed=0):
    """Never-takers, compliers and always-takers differ, so the naive contrast is biased."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=n)
    u = rng.random(n)
    always, complier = u < 0.15, (u >= 0.15) & (u < 0.15 + compliers)
    d = (always | (complier & (x >= 0))).astype(float)
    y = x + 2 * x**2 + effect * d + 2 * always + 0.5 * rng.normal(size=n)
    return y, d, x


def take_up_wave():
    """3,000 units without random numbers: 20 % take it below the cutoff, 70 % above."""
    i = np.arange(3000)
    x = np.sin(1.7 * i + 0.3 * np.sin(i))
    share = (0.5 * np.sin(3.1 * i) ** 2 + 0.5 * np.cos(0.7 * i * i) ** 2) % 1
    d = (share < 0.2 + 0.5 * (x >= 0)).astype(float)
    return 0.8 * x + x**2 + 1.5 * d + np.sin(0.37 * i * i), d, x


def test_an_independent_engine():
    # rdrobust 2.1.1 (fuzzy, mass points off) at given bandwidths: the same algebra.
    data = take_up_wave()
    found = estimate_fuzzy_discontinuity(*data, 0.0, bandwidth=0.3, bias_bandwidth=0.5)
    assert found.conventional.estimate == pytest.approx(1.49282449717649, rel=ALGEBRA)
    assert found.robust.estimate == pytest.approx(1.548883489300828, rel=ALGEBRA)
    assert found.conventional.std_error == pytest.approx(0.20319661880449333, rel=ALGEBRA)
    assert found.robust.std_error == pytest.approx(0.23752291883836274, rel=ALGEBRA)
    assert (found.robust.n_control, found.robust.n_treatment) == (293, 286)
    assert found.take_up.jump == pytest.approx(0.655714, abs=1e-6)
    assert found.take_up.std_error == pytest.approx(0.078653, abs=1e-6)
    # At the bandwidth of the sharp design (sharpbw), which its pilots reach to 1e-8.
    found = estimate_fuzzy_discontinuity(*data, 0.0)
    assert found.outcome.bandwidth == pytest.approx(0.32428287459488725, rel=1e-7)
    assert found.robust.estimate == pytest.approx(1.5295597421504894, rel=1e-7)
    assert found.robust.std_error == pytest.approx(0.22942334313860008, rel=1e-7)


def test_full_compliance_is_the_sharp_design():
    y, _, x = make_units()
    d = (x >= 0).astype(float)
    fuzzy, sharp = estimate_fuzzy_discontinuity(y, d, x, 0.0), estimate_discontinuity(y, x, 0.0)
    for row in ROWS:
        ours, reference = getattr(fuzzy, row), getattr(sharp, row)
        for field in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
            assert getattr(ours, field) == pytest.approx(getattr(reference, field), rel=1e-9)
    assert fuzzy.outcome == sharp
    assert fuzzy.take_up.jump == pytest.approx(1, abs=1e-9)
    assert (fuzzy.take_up.std_error, fuzzy.first_stage_f) == (0.0, None)
    assert fuzzy.anderson_rubin.low == pytest.approx(sharp.robust.ci_low, rel=1e-9)


def test_it_is_the_ratio_of_jumps_with_the_delta_error():
    y, d, x = make_units()
    h, b = 0.4, 0.6
    found = estimate_fuzzy_discontinuity(y, d, x, 0.0, bandwidth=h, bias_bandwidth=b)
    jumps = {
        name: estimate_discontinuity(values, x, 0.0, bandwidth=h, bias_bandwidth=b)
        for name, values in (("y", y), ("d", d), ("sum", y + d))
    }
    of = {name: jump.conventional for name, jump in jumps.items()}
    ratio = of["y"].estimate / of["d"].estimate
    assert found.conventional.estimate == pytest.approx(ratio, rel=1e-9)
    variances = {name: jump.std_error**2 for name, jump in of.items()}
    covariance = (variances["sum"] - variances["y"] - variances["d"]) / 2
    delta = variances["y"] - 2 * ratio * covariance + ratio**2 * variances["d"]
    expected = np.sqrt(delta) / of["d"].estimate
    assert found.conventional.std_error == pytest.approx(expected, rel=1e-7)
    # The bias of the ratio to first order.
    bias = {n: jumps[n].conventional.estimate - jumps[n].robust.estimate for n in ("y", "d")}
    corrected = ratio - (bias["y"] - ratio * bias["d"]) / of["d"].estimate
    assert found.robust.estimate == pytest.approx(corrected, rel=1e-9)
    assert found.take_up.jump == pytest.approx(jumps["d"].robust.estimate, rel=1e-9)
    assert found.first_stage_f == pytest.approx(
        (jumps["d"].robust.estimate / jumps["d"].robust.std_error) ** 2, rel=1e-9
    )
    # Errors that forget how numerator and denominator move together would be others.
    assert np.sqrt(variances["y"]) / of["d"].estimate != pytest.approx(expected, rel=0.01)


def test_scale_and_shift():
    y, d, x = make_units()
    base = estimate_fuzzy_discontinuity(y, d, x, 0.0)
    moved = estimate_fuzzy_discontinuity(100 * y + 7, d, 3 * x + 2, 2.0)
    assert moved.robust.estimate == pytest.approx(100 * base.robust.estimate, rel=1e-8)
    assert moved.robust.std_error == pytest.approx(100 * base.robust.std_error, rel=1e-8)
    assert moved.anderson_rubin.low == pytest.approx(100 * base.anderson_rubin.low, rel=1e-6)
    refused = estimate_fuzzy_discontinuity(y, 1 - d, x, 0.0)
    assert refused.robust.estimate == pytest.approx(-base.robust.estimate, rel=1e-8)


def test_strong_take_up_makes_both_intervals_alike():
    found = estimate_fuzzy_discontinuity(*make_units(20_000), 0.0)
    assert found.first_stage_f > 100
    assert found.anderson_rubin.shape == "bounded"
    half = (found.robust.ci_high - found.robust.ci_low) / 2
    assert found.anderson_rubin.low == pytest.approx(found.robust.ci_low, abs=0.2 * half)
    assert found.anderson_rubin.high == pytest.approx(found.robust.ci_high, abs=0.2 * half)


def test_the_robust_interval_covers_and_treated_against_untreated_does_not():
    runs, truth = 300, 2.0
    covers, rubin, naive = 0, 0, 0
    for seed in range(runs):
        y, d, x = make_units(2000, seed=seed)
        found = estimate_fuzzy_discontinuity(y, d, x, 0.0)
        covers += found.robust.ci_low <= truth <= found.robust.ci_high
        rubin += found.anderson_rubin.low <= truth <= found.anderson_rubin.high
        # The broken twin: the sharp jump, which forgets that half do not follow the rule.
        naive += found.outcome.robust.ci_low <= truth <= found.outcome.robust.ci_high
    low, high = rejection_band(0.05, runs)
    assert low <= 1 - covers / runs <= high
    assert low <= 1 - rubin / runs <= high
    assert naive / runs < 0.5


def test_weak_take_up_has_a_set_that_says_so():
    y, d, x = make_units(3000, compliers=0.01, seed=4)
    found = estimate_fuzzy_discontinuity(y, d, x, 0.0)
    assert found.first_stage_f < 10
    assert found.anderson_rubin.shape != "bounded"


def test_refusals():
    y, d, x = make_units()
    with pytest.raises(EstimationError) as caught:
        estimate_fuzzy_discontinuity(y, np.ones_like(d), x, 0.0)
    assert caught.value.code == "ZERO_DENOMINATOR"
    with pytest.raises(EstimationError) as caught:
        estimate_fuzzy_discontinuity(y, d, x, 0.0, bandwidth=0.001)
    assert caught.value.code == "N_TOO_SMALL"
    with pytest.raises(ValueError, match="same shape"):
        estimate_fuzzy_discontinuity(y, d[:-1], x, 0.0)
