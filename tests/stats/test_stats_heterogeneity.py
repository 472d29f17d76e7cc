import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.heterogeneity import (
    SegmentEffect,
    omnibus_test,
    segment_effects_of_means,
    segment_heterogeneity,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.multiplicity import adjusted_p_values


def arms_of(rng, n, lift=0.0, spread=1.0):
    return tuple(ArmMoments.from_arrays(y=rng.normal(mean, spread, n)) for mean in (0.0, lift))


def segments(lifts, n=300, seed=1):
    rng = np.random.default_rng(seed)
    return {name: arms_of(rng, n, lift) for name, lift in lifts.items()}


def test_segment_against_rest_is_by_units():
    rng = np.random.default_rng(2)
    segment = rng.integers(0, 4, 4000)
    is_treated = rng.random(4000) < 0.5
    y = rng.normal(size=4000) + is_treated * np.array([0.0, 0.0, 0.5, 0.1])[segment]
    arms = {
        str(s): tuple(
            ArmMoments.from_arrays(y=y[(segment == s) & (is_treated == t)]) for t in (False, True)
        )
        for s in range(4)
    }
    found = segment_heterogeneity(segment_effects_of_means(arms))
    p_values = []
    for s, test in enumerate(found.tests):
        parts = [
            y[mask & (is_treated == t)]
            for mask in (segment == s, segment != s)
            for t in (True, False)
        ]
        means, errors = zip(*[(p.mean(), p.var(ddof=1) / len(p)) for p in parts], strict=True)
        difference = (means[0] - means[1]) - (means[2] - means[3])
        assert test.difference == pytest.approx(difference, rel=1e-9, abs=1e-12)
        assert test.std_error == pytest.approx(math.sqrt(sum(errors)), rel=1e-9)
        assert test.p_value == pytest.approx(
            2 * stats.norm.sf(abs(difference) / math.sqrt(sum(errors))), rel=1e-7
        )
        p_values.append(test.p_value)
    assert [t.adjusted_p_value for t in found.tests] == list(adjusted_p_values(p_values, "bh"))
    assert found.correction == "bh"
    assert found.tests[2].adjusted_p_value < 1e-4


def test_omnibus_agrees_with_statsmodels():
    effects = segment_effects_of_means(segments({"a": 0.0, "b": 0.2, "c": -0.1, "d": 0.4}))
    inside = [effect.inside for effect in effects]
    live = combine_effects(
        np.array([e.estimate for e in inside]), np.array([e.std_error**2 for e in inside])
    )
    found = segment_heterogeneity(effects).omnibus
    assert found.statistic == pytest.approx(live.q, rel=1e-9)
    assert found.degrees_of_freedom == 3
    assert found.p_value == pytest.approx(stats.chi2.sf(live.q, 3), rel=1e-9)
    assert omnibus_test(inside) == found


def test_two_segments_are_one_comparison():
    found = segment_heterogeneity(segment_effects_of_means(segments({"a": 0.0, "b": 0.2})))
    first, second = found.tests
    assert second.difference == -first.difference
    assert second.p_value == first.p_value == pytest.approx(first.adjusted_p_value)
    assert found.omnibus.statistic == pytest.approx(first.statistic**2, rel=1e-9)


def test_small_segments_are_listed_and_count():
    arms = segments({"a": 0.0, "b": 0.3, "c": 0.0})
    rng = np.random.default_rng(9)
    arms["small"] = arms_of(rng, 99)
    arms["empty"] = (ArmMoments.empty(["y"]), arms_of(rng, 200)[1])
    arms["edge"] = arms_of(rng, 100)
    found = segment_heterogeneity(segment_effects_of_means(arms))
    by_name = {test.segment: test for test in found.tests}
    assert list(by_name) == list(arms)
    for name in ("small", "empty"):
        assert by_name[name].reason == "N_TOO_SMALL"
        assert by_name[name].p_value is None
        assert by_name[name].adjusted_p_value is None
        assert by_name[name].difference is None
    assert by_name["edge"].reason is None
    tested = [t.p_value for t in found.tests if t.reason is None]
    expected = adjusted_p_values(tested, "bh", planned=6)
    assert [t.adjusted_p_value for t in found.tests if t.reason is None] == list(expected)
    assert found.omnibus.degrees_of_freedom == 3


def test_constant_segment_is_listed():
    arms = segments({"a": 0.0, "b": 0.3})
    constant = ArmMoments.from_arrays(y=np.full(200, 3.0))
    arms["flat"] = (constant, constant)
    found = segment_heterogeneity(segment_effects_of_means(arms))
    assert [test.reason for test in found.tests] == [None, None, "ZERO_VARIANCE"]


def test_a_rest_that_is_too_small_is_not_tested_against():
    rng = np.random.default_rng(3)
    arms = {"big": arms_of(rng, 5000), "small": arms_of(rng, 50)}
    found = segment_heterogeneity(segment_effects_of_means(arms))
    assert [test.reason for test in found.tests] == ["N_TOO_SMALL", "N_TOO_SMALL"]
    assert found.omnibus is None


def test_overlapping_segments_take_by_and_no_omnibus():
    effects = segment_effects_of_means(segments({"a": 0.0, "b": 0.3, "c": 0.1}))
    found = segment_heterogeneity(effects, is_overlapping=True)
    p_values = [test.p_value for test in found.tests]
    assert (found.correction, found.omnibus) == ("by", None)
    assert [t.adjusted_p_value for t in found.tests] == list(adjusted_p_values(p_values, "by"))


@given(st.integers(0, 500), st.floats(0.01, 100), st.floats(-100, 100))
def test_swap_scale_shift_and_order(seed, scale, shift):
    rng = np.random.default_rng(seed)
    raw = {name: (rng.normal(size=120), rng.normal(0.1, 2, 150)) for name in "abc"}

    def test(transform, *, is_swapped=False, order=1):
        arms = {}
        for name in list(raw)[::order]:
            pair = tuple(ArmMoments.from_arrays(y=transform(y)) for y in raw[name])
            arms[name] = pair[::-1] if is_swapped else pair
        found = segment_heterogeneity(segment_effects_of_means(arms))
        return {t.segment: t for t in found.tests}, found.omnibus

    base, q = test(lambda y: y)
    swapped, q_swapped = test(lambda y: y, is_swapped=True)
    changed, q_changed = test(lambda y: scale * y + shift)
    moved, q_moved = test(lambda y: y, order=-1)
    for name, one in base.items():
        assert swapped[name].difference == pytest.approx(-one.difference, rel=1e-9, abs=1e-12)
        assert changed[name].difference == pytest.approx(scale * one.difference, rel=1e-7, abs=1e-9)
        for other in (swapped, changed, moved):
            assert other[name].p_value == pytest.approx(one.p_value, rel=1e-6)
            assert other[name].adjusted_p_value == pytest.approx(one.adjusted_p_value, rel=1e-6)
    for other in (q_swapped, q_changed, q_moved):
        assert other.statistic == pytest.approx(q.statistic, rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_equal_effects_are_found_different_at_the_level(monte_carlo_band):
    rng = np.random.default_rng(12)
    runs, omnibus, any_flagged = 2000, 0, 0
    for _ in range(runs):
        arms = {s: arms_of(rng, 150, 0.5, spread=1 + i) for i, s in enumerate("abcd")}
        found = segment_heterogeneity(segment_effects_of_means(arms))
        omnibus += found.omnibus.p_value < 0.05
        any_flagged += any(test.adjusted_p_value < 0.05 for test in found.tests)
    low, high = monte_carlo_band(0.05, runs)
    assert low < omnibus / runs < high
    assert any_flagged / runs < high


def test_refusals():
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        segment_effects_of_means(segments({"only": 0.0}))
    effects = segment_effects_of_means(segments({"a": 0.0, "b": 0.3}))
    with pytest.raises(ValueError, match="one twice"):
        segment_heterogeneity([effects[0], effects[0]])
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        omnibus_test([effects[0].inside])
    flat = dataclasses.replace(effects[0].inside, std_error=0.0)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        omnibus_test([flat, effects[1].inside])
    of_flat = SegmentEffect(segment="flat", inside=flat, rest=effects[1].inside)
    assert segment_heterogeneity([of_flat]).tests[0].reason == "ZERO_VARIANCE"
    unknown = SegmentEffect(segment="none", inside=None, rest=None)
    assert segment_heterogeneity([unknown]).tests[0].reason == "N_TOO_SMALL"
    assert segment_heterogeneity([]).tests == ()
