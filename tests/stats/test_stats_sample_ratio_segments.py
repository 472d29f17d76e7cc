import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.design.sample_ratio import sequential_log_e_value
from experiments_dagster.stats.design.sample_ratio_segments import (
    mismatch_onset,
    sample_ratio_by_level,
    sample_ratio_levels_outcome,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.multiplicity import adjusted_p_values

HALVES = {"control": 0.5, "treatment": 0.5}


def levels_of(pairs):
    return {
        f"level {index}": {"control": control, "treatment": treatment}
        for index, (control, treatment) in enumerate(pairs)
    }


def judge(pairs, *, at_planned_end=True, **options):
    ratios = sample_ratio_by_level(levels_of(pairs), HALVES, **options)
    return sample_ratio_levels_outcome("country", ratios, at_planned_end=at_planned_end)


@given(st.lists(st.tuples(st.integers(5, 5000), st.integers(5, 5000)), min_size=1, max_size=12))
def test_levels_agree_with_scipy(pairs):
    ratios = sample_ratio_by_level(levels_of(pairs), HALVES).tested
    raw = stats.chisquare(np.array(pairs), axis=1).pvalue
    holm = adjusted_p_values(raw, "holm")
    # χ² tails of scipy and of the special functions agree to rounding of the statistic.
    assert [r.fixed_p_value for r in ratios] == pytest.approx(holm, rel=1e-7, abs=1e-300)
    for ratio, pair in zip(ratios, pairs, strict=True):
        log_e = max(0.0, sequential_log_e_value(pair, [0.5, 0.5]))
        assert ratio.log_e_value == log_e
        assert ratio.anytime_p_value == pytest.approx(min(1.0, len(pairs) * math.exp(-log_e)))
        assert ratio.n == sum(pair)
        assert ratio.deviation == pytest.approx(abs(pair[0] / sum(pair) - 0.5), abs=1e-12)


def test_reference_cookie_cats_as_the_only_level(reference):
    expected = reference("fixed", "cookie_cats")
    numbers = expected.expected["srm_50_50"]
    (ratio,) = sample_ratio_by_level(levels_of([numbers["n"]]), HALVES).tested
    expected.check(ratio.fixed_p_value, numbers["p"])


def test_levels_with_fewer_than_five_expected_are_listed_and_count():
    shares = {"control": 0.9, "treatment": 0.1}
    counts = {
        "ok": {"control": 400, "treatment": 100},
        "edge": {"control": 45, "treatment": 5},
        "small": {"control": 44, "treatment": 5},
        "empty": {},
    }
    ratios = sample_ratio_by_level(counts, shares)
    assert ratios.untested == ("small", "empty")
    assert [ratio.level for ratio in ratios.tested] == ["ok", "edge"]
    alone = sample_ratio_by_level({"ok": counts["ok"]}, shares).tested[0]
    assert ratios.tested[0].fixed_p_value == pytest.approx(4 * alone.fixed_p_value)
    assert ratios.tested[0].anytime_p_value == pytest.approx(4 * alone.anytime_p_value)
    outcome = sample_ratio_levels_outcome("os", ratios, at_planned_end=True)
    assert "2 levels tested, 2 too small" in outcome.message


def test_levels_that_may_still_come_count_and_earlier_evidence_stays():
    counts = levels_of([(600, 400), (500, 500)])
    few = sample_ratio_by_level(counts, HALVES).tested
    many = sample_ratio_by_level(counts, HALVES, n_levels=20).tested
    assert many[0].anytime_p_value == pytest.approx(10 * few[0].anytime_p_value)
    assert many[0].fixed_p_value == pytest.approx(10 * few[0].fixed_p_value)
    later = sample_ratio_by_level(counts, HALVES, largest_earlier_log_e={"level 1": 30.0}).tested
    assert later[1].log_e_value == 30.0
    assert later[0] == few[0]


@pytest.mark.parametrize(
    ("pairs", "at_planned_end", "passed", "severity", "threshold"),
    [
        ([(5000, 5000), (3000, 3010)], True, True, "WARN", 0.01),
        ([(5000, 5000), (3000, 3010)], False, True, "WARN", 0.05),
        ([(5000, 5000), (3500, 3000)], True, False, "ERROR", 0.001),
        ([(5000, 5000), (3500, 3000)], False, False, "ERROR", 0.01),
        ([(5000, 5000), (3000, 3250)], True, False, "WARN", 0.01),
        # 0.05 percentage points in 50 million units: significant, and too small to block.
        ([(25_025_000, 24_975_000), (5000, 5000)], True, False, "WARN", 0.01),
        ([(25_025_000, 24_975_000), (5000, 5000)], False, False, "WARN", 0.05),
    ],
)
def test_verdicts(pairs, at_planned_end, passed, severity, threshold):
    outcome = judge(pairs, at_planned_end=at_planned_end)
    assert (outcome.passed, outcome.severity, outcome.threshold) == (passed, severity, threshold)


def test_a_level_that_blocks_is_named_though_another_is_more_significant():
    pairs = [(25_100_000, 25_050_000), (3500, 3000), (5000, 5000)]
    outcome = judge(pairs)
    assert outcome.severity == "ERROR"
    assert outcome.message.startswith("country level 1: 6500 units, 3.85 percentage points off")


def test_a_mismatch_in_one_level_can_cancel_overall():
    pairs = [(5500, 4500), (4500, 5500)]
    assert judge([tuple(map(sum, zip(*pairs, strict=True)))]).passed
    assert judge(pairs).severity == "ERROR"


def test_many_levels_do_not_alarm_by_number():
    """A plain 1 % test of 500 clean levels would warn on about five."""
    rng = np.random.default_rng(3)
    control = rng.binomial(1000, 0.5, 500)
    pairs = [(int(c), 1000 - int(c)) for c in control]
    raw = stats.chisquare(np.array(pairs), axis=1).pvalue
    assert (raw < 0.01).sum() >= 2
    assert judge(pairs).passed
    assert judge(pairs, at_planned_end=False).passed


def test_at_most_a_thousand_levels():
    pairs = [(50, 50)] * 1001
    assert len(sample_ratio_by_level(levels_of(pairs[:1000]), HALVES).tested) == 1000
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED") as error:
        sample_ratio_by_level(levels_of(pairs), HALVES)
    assert "1001 levels, at most 1000" in str(error.value)


def daily(seed, onset, days=21, per_day=2000, shares=(0.5, 0.5), later=(0.53, 0.47)):
    rng = np.random.default_rng(seed)
    return np.array(
        [rng.multinomial(per_day, later if day >= onset else shares) for day in range(days)]
    )


@pytest.mark.parametrize("onset", [0, 1, 9, 17])
def test_onset_is_found(onset):
    # A day of this mismatch carries 20 ± 6 nats: about one day in a thousand is mistaken.
    found = [mismatch_onset(daily(s, onset, later=(0.57, 0.43)), [0.5, 0.5]) for s in range(100)]
    assert sum(one.day == onset for one in found) >= 97


def test_onset_ratio_is_the_g_statistic_of_the_days_from_it_on():
    counts = daily(4, 9)
    found = mismatch_onset(counts, [0.5, 0.5])
    later = counts[found.day :].sum(axis=0)
    assert found.shares == pytest.approx(later / later.sum())
    g = stats.power_divergence(later, lambda_="log-likelihood").statistic
    assert 2 * found.log_likelihood_ratio == pytest.approx(g, rel=1e-9)


@given(st.integers(0, 10_000), st.integers(0, 9))
def test_onset_maximises_the_ratio_over_all_days(seed, onset):
    counts = daily(seed, onset, days=10, per_day=50, shares=(0.2, 0.3, 0.5), later=(0.3, 0.3, 0.4))
    theta = np.array([0.2, 0.3, 0.5])
    ratios = [
        stats.multinomial.logpmf(rest, rest.sum(), rest / rest.sum())
        - stats.multinomial.logpmf(rest, rest.sum(), theta)
        for rest in (counts[day:].sum(axis=0) for day in range(10))
    ]
    found = mismatch_onset(counts, theta)
    assert found.log_likelihood_ratio == pytest.approx(max(ratios), rel=1e-9, abs=1e-9)
    assert ratios[found.day] == pytest.approx(max(ratios), rel=1e-9, abs=1e-9)
    order = [2, 0, 1]
    assert mismatch_onset(counts[:, order], theta[order]).day == found.day


def test_days_without_units_are_never_the_onset():
    counts = [[0, 0], [100, 100], [0, 0], [0, 0], [60, 140], [50, 150], [0, 0]]
    assert mismatch_onset(counts, [0.5, 0.5]).day == 4
    assert mismatch_onset([[0, 0], [30, 5]], [0.5, 0.5]).day == 1


def test_an_arm_that_stops_getting_units_is_dated():
    found = mismatch_onset([[100, 100]] * 5 + [[100, 0]] * 2, [0.5, 0.5])
    assert (found.day, found.shares) == (5, (1.0, 0.0))


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: judge([(2, 2)]), "N_TOO_SMALL"),
        (lambda: judge([]), "N_TOO_SMALL"),
        (lambda: mismatch_onset([[0, 0]], [0.5, 0.5]), "EMPTY_ARM"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sample_ratio_by_level({"a": {"other": 5}}, HALVES), "without a share: other"),
        (lambda: sample_ratio_by_level({}, {"control": 1.0}), "two or more"),
        (lambda: sample_ratio_by_level({}, {"a": 0.5, "b": 0.4}), "sum to 1"),
        (lambda: sample_ratio_by_level({}, {"a": 1.0, "b": 0.0}), "above 0"),
        (lambda: judge([(50, 50), (50, 50)], n_levels=1), "n_levels is 1"),
        (lambda: mismatch_onset([1, 2], [0.5, 0.5]), "need"),
        (lambda: mismatch_onset([[1, 2]], [0.5, 0.3, 0.2]), "need"),
        (lambda: mismatch_onset([[1, -2]], [0.5, 0.5]), "negative"),
        (lambda: mismatch_onset([[1, math.nan]], [0.5, 0.5]), "finite"),
        (lambda: mismatch_onset([[1, 2]], [0.5, 0.4]), "sum to 1"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
