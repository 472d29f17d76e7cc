import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.intervals import two_sided_p_value, upper_tail
from experiments_dagster.stats.sequential.adjusted import (
    analyse_stopped,
    repeated_interval,
    repeated_p_value,
    stagewise_p_value,
)
from experiments_dagster.stats.sequential.boundaries import solve_boundaries

SPENDING = {"asOF": "obrien_fleming", "asP": "pocock"}


@pytest.mark.parametrize("case", ["analysis_of4_stop3", "analysis_pocock3_final"])
def test_reference_analysis(reference, case):
    expected = reference("sequential", case)
    spec, numbers = expected.spec, expected.expected
    spending, alpha, sides = SPENDING[spec["design"]], spec["alpha"], spec["sided"]
    plan = solve_boundaries(spec["info"], alpha=alpha, sides=sides, spending=spending)
    expected.check(list(plan.critical_values), numbers["critical"])
    for k, (n, z) in enumerate(zip(spec["n_per_arm_cum"], spec["z"], strict=True)):
        std_error = math.sqrt(2 / n)
        low, high = repeated_interval(z * std_error, std_error, plan.critical_values[k])
        expected.check(low, numbers["repeated_ci_lower"][k])
        expected.check(high, numbers["repeated_ci_upper"][k])
        p = repeated_p_value(spec["info"][: k + 1], z, sides=sides, spending=spending)
        expected.check(p, numbers["repeated_p"][k])
    look = spec["look"]
    result = analyse_stopped(
        spec["info"][:look],
        plan.critical_values[:look],
        estimate=z * std_error,
        std_error=std_error,
        alpha=alpha,
        sides=sides,
    )
    expected.check(result.p_value, numbers["final_stagewise_p"])
    expected.check([result.ci_low, result.ci_high], numbers["final_ci"])
    expected.check(result.median_unbiased_estimate, numbers["median_unbiased"][0])
    assert result.p_value == pytest.approx(numbers["independent_p"], abs=1e-7)
    assert [result.ci_low, result.median_unbiased_estimate, result.ci_high] == pytest.approx(
        numbers["independent_ci_mue"], abs=1e-6
    )
    assert result.confidence_level == pytest.approx(0.95)
    assert result.naive_estimate == pytest.approx(z * std_error)


@given(st.floats(-4, 4), st.sampled_from([1, 2]))
def test_one_look_is_the_fixed_test(z, sides):
    result = analyse_stopped([1.0], [2.0], estimate=2 * z, std_error=2.0, alpha=0.05, sides=sides)
    fixed = two_sided_p_value(z) if sides == 2 else upper_tail(z)
    assert result.p_value == pytest.approx(fixed, rel=1e-9)
    half_width = 2 * (1.959964 if sides == 2 else 1.644854)
    assert result.median_unbiased_estimate == pytest.approx(2 * z, abs=1e-6)
    assert (result.ci_low, result.ci_high) == pytest.approx(
        (2 * z - half_width, 2 * z + half_width), abs=1e-5
    )


def test_stopping_at_the_first_look_has_the_fixed_p_value():
    plan = solve_boundaries([0.5, 1.0], alpha=0.05)
    p = stagewise_p_value([0.5], plan.critical_values[:1], 3.1)
    assert p == pytest.approx(upper_tail(3.1), rel=1e-12)


@given(st.floats(-5, 5))
def test_two_sided_analysis_mirrors(z):
    plan = solve_boundaries([0.4, 0.7, 1.0], alpha=0.05)
    call = {"std_error": 1.0, "alpha": 0.05}
    up = analyse_stopped(plan.fractions, plan.critical_values, estimate=z, **call)
    down = analyse_stopped(plan.fractions, plan.critical_values, estimate=-z, **call)
    assert down.p_value == pytest.approx(up.p_value, rel=1e-9)
    assert down.ci_low == pytest.approx(-up.ci_high, abs=1e-6)
    assert (up.p_value < 0.05) == (up.ci_low > 0 or up.ci_high < 0)


def test_crossing_at_the_last_look_is_p_below_alpha():
    plan = solve_boundaries([0.5, 1.0], alpha=0.05)
    critical = plan.critical_values[-1]
    p = [
        2 * stagewise_p_value(plan.fractions, plan.critical_values, critical + shift)
        for shift in (-0.001, 0.001)
    ]
    assert p[1] < 0.05 < p[0]


def test_median_unbiased_estimate_shrinks_an_early_stop():
    plan = solve_boundaries([0.5, 0.75, 1.0], alpha=0.05, spending="pocock")
    result = analyse_stopped(
        plan.fractions[:2], plan.critical_values[:2], estimate=2.6, std_error=1.0, alpha=0.05
    )
    assert 0 < result.median_unbiased_estimate < result.naive_estimate


def test_repeated_p_value_is_alpha_at_the_boundary():
    fractions = [0.3, 0.6, 1.0]
    for alpha in (0.01, 0.05, 0.3):
        critical = solve_boundaries(fractions, alpha=alpha).critical_values[-1]
        assert repeated_p_value(fractions, critical) == pytest.approx(alpha, rel=1e-6)
        assert repeated_p_value(fractions, -critical) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize(("z", "expected"), [(0.0, 1.0), (30.0, 1e-12)])
def test_repeated_p_value_at_its_ends(z, expected):
    assert repeated_p_value([0.3, 1.0], z) == pytest.approx(expected)


@pytest.mark.slow
def test_stagewise_interval_covers_and_the_median_splits(monte_carlo_band):
    rng = np.random.default_rng(6)
    t = [0.5, 0.75, 1.0]
    plan = solve_boundaries(t, alpha=0.05, spending="pocock")
    drift, runs, covered, above = 2.5, 2000, 0, 0
    for _ in range(runs):
        path = np.cumsum(rng.normal(drift * np.diff(t, prepend=0), np.sqrt(np.diff(t, prepend=0))))
        z = path / np.sqrt(t)
        stops = np.flatnonzero(np.abs(z) >= plan.critical_values)
        k = int(stops[0]) if len(stops) else 2
        std_error = 1 / math.sqrt(t[k])
        result = analyse_stopped(
            t[: k + 1],
            plan.critical_values[: k + 1],
            estimate=z[k] * std_error,
            std_error=std_error,
            alpha=0.05,
        )
        covered += result.ci_low <= drift <= result.ci_high
        above += result.median_unbiased_estimate > drift
    low, high = monte_carlo_band(0.95, runs)
    assert low <= covered / runs <= high
    low, high = monte_carlo_band(0.5, runs)
    assert low <= above / runs <= high
