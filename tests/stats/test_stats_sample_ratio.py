import math
from decimal import Decimal, localcontext

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.design.sample_ratio import (
    anytime_p_value,
    chi_square,
    sample_ratio_outcome,
    sequential_log_e_value,
)
from experiments_dagster.stats.errors import EstimationError

HALVES = {"control": 0.5, "treatment": 0.5}


def judge(control, treatment, *, at_planned_end=True, shares=HALVES, **options):
    return sample_ratio_outcome(
        {"control": control, "treatment": treatment},
        shares,
        at_planned_end=at_planned_end,
        **options,
    )


@pytest.mark.parametrize(
    "case", ["cookie_cats", "nsw_experimental", "hillstrom_half_mens", "hillstrom_half_womens"]
)
def test_reference_srm(reference, case):
    expected = reference("fixed", case)
    numbers = expected.expected["srm_50_50"]
    result = chi_square(numbers["n"], [0.5, 0.5])
    expected.check(result.statistic, numbers["chi2"])
    expected.check(result.p_value, numbers["p"])


def test_reference_srm_of_three_arms(reference):
    expected = reference("fixed", "hillstrom_half_multiarm")
    numbers = expected.expected["srm"]
    result = chi_square(list(numbers["n"].values()), [1 / 3] * 3)
    expected.check(result.statistic, numbers["chi2"])
    expected.check(result.p_value, numbers["p"])
    assert result.degrees_of_freedom == 2


@pytest.mark.parametrize("key", ["srm_pageviews", "srm_clicks"])
def test_reference_udacity(reference, key):
    expected = reference("sequential", "udacity_free_trial")
    numbers = expected.expected[key]
    result = chi_square(numbers["n"], [0.5, 0.5])
    expected.check(result.statistic, numbers["chi2"])
    expected.check(result.p_value, numbers["p"])


def test_reference_sequential(reference):
    expected = reference("anytime", "srm_seq")
    for row in expected.expected:
        log_e = sequential_log_e_value(row["counts"], row["theta0"], concentrations=[row["k"]])
        expected.check(log_e, row["log_bayes_factor"])
        expected.check(anytime_p_value(log_e), row["p"])
        expected.check(chi_square(row["counts"], row["theta0"]).p_value, row["chi2_p"])


def test_nsw_fires_against_half_and_not_against_its_own_shares():
    assert judge(260, 185).severity == "ERROR"
    own = {"control": 260 / 445, "treatment": 185 / 445}
    assert judge(260, 185, shares=own).passed


def test_cookie_cats_warns_and_does_not_block():
    outcome = judge(44700, 45489)
    assert (outcome.passed, outcome.severity, outcome.threshold) == (False, "WARN", 0.01)
    assert outcome.value == pytest.approx(0.008608, abs=1e-6)
    for text in ("44700", "45489", "expected 0.5000", "p = 0.00861", "e-value"):
        assert text in outcome.message


def test_reference_asos(reference, dataset):
    expected = reference("sequential", "asos_digital_experiments")
    frame = dataset("sequential/asos_half.parquet")
    last = (
        frame.drop_nulls()
        .filter((pl.col("variance_c") > 0) & (pl.col("variance_t") > 0))
        .sort("time_since_start")
        .group_by("experiment_id", "variant_id", maintain_order=True)
        .last()
    )
    blocked = sum(
        chi_square([row["count_c"], row["count_t"]], [0.5, 0.5]).p_value < 0.001
        for row in last.iter_rows(named=True)
    )
    assert last.height == expected.expected["experiments_variants"]
    assert blocked == expected.expected["srm_p_below_001"]


@given(
    st.lists(st.integers(0, 10_000), min_size=2, max_size=5).filter(any), st.permutations(range(5))
)
def test_order_of_arms_does_not_matter_and_mixture_is_a_mean(counts, order):
    k = len(counts)
    shares = np.arange(1, k + 1) / sum(range(1, k + 1))
    order = [index for index in order if index < k]
    log_e = sequential_log_e_value(counts, shares)
    moved = sequential_log_e_value([counts[i] for i in order], shares[order])
    assert moved == pytest.approx(log_e, rel=1e-9, abs=1e-8)
    parts = [
        sequential_log_e_value(counts, shares, concentrations=[c]) for c in (1e2, 1e3, 1e4, 1e5)
    ]
    assert min(parts) - 1e-9 <= log_e <= max(parts) + 1e-9


def test_log_e_value_is_that_of_the_predictive_product():
    """ln E as the product of predictive over null probabilities, unit by unit."""
    rng = np.random.default_rng(2)
    theta, c = np.array([0.2, 0.3, 0.5]), 50.0
    seen, log_e = np.zeros(3), 0.0
    for arm in rng.choice(3, size=200, p=theta):
        log_e += math.log((c * theta[arm] + seen[arm]) / (c + seen.sum()) / theta[arm])
        seen[arm] += 1
    assert sequential_log_e_value(seen, theta, concentrations=[c]) == pytest.approx(log_e, abs=1e-9)


def test_precision_at_a_billion_units():
    def log_gamma(x):
        """Stirling's series in 50 digits, without the ½ln(2π) that cancels below."""
        x = Decimal(x)
        return (x - Decimal("0.5")) * x.ln() - x + 1 / (12 * x) - 1 / (360 * x**3)

    counts, c = [500_020_000, 499_980_000], 10_000
    with localcontext() as context:
        context.prec = 50
        exact = log_gamma(c) - 2 * log_gamma(c // 2) - log_gamma(c + sum(counts))
        exact += sum(log_gamma(c // 2 + n) for n in counts) + sum(counts) * Decimal(2).ln()
    actual = sequential_log_e_value(counts, [0.5, 0.5], concentrations=[c])
    # The terms are of size 2e10, of which a double keeps 4e-6.
    assert actual == pytest.approx(float(exact), abs=2e-5)


class TestFaults:
    def test_f01_loss_of_five_percent_blocks(self):
        rng = np.random.default_rng(1)
        kept = rng.binomial(100_000, 0.95)
        for at_planned_end in (True, False):
            assert judge(100_000, kept, at_planned_end=at_planned_end).severity == "ERROR"
            assert not judge(100_000, kept, at_planned_end=at_planned_end).passed

    def test_f01_clean(self):
        rng = np.random.default_rng(2)
        alarms = 0
        for control in rng.binomial(200_000, 0.5, size=1000):
            outcome = judge(control, 200_000 - control)
            alarms += not outcome.passed and outcome.severity == "ERROR"
        assert alarms <= 6

    def test_f02_loss_is_found_by_day_ten(self):
        rng = np.random.default_rng(3)
        days = []
        for _ in range(50):
            treatment = np.cumsum(rng.binomial(rng.binomial(10_000, 0.5, 28), 0.95))
            control = np.cumsum(rng.binomial(10_000, 0.5, 28))
            found = [
                day + 1
                for day in range(28)
                if judge(control[day], treatment[day], at_planned_end=False).severity == "ERROR"
                and not judge(control[day], treatment[day], at_planned_end=False).passed
            ]
            days.append(found[0])
        assert max(days) <= 10
        assert np.median(days) <= 4

    def test_f03_tiny_deviation_warns_and_a_larger_one_blocks(self):
        n = 20_000_000
        tiny, large = int(n * 0.0005), int(n * 0.002)
        for at_planned_end in (True, False):
            warned = judge(n // 2 + tiny, n // 2 - tiny, at_planned_end=at_planned_end)
            assert (warned.passed, warned.severity) == (False, "WARN")
            blocked = judge(n // 2 + large, n // 2 - large, at_planned_end=at_planned_end)
            assert (blocked.passed, blocked.severity) == (False, "ERROR")
            assert judge(n // 2, n // 2, at_planned_end=at_planned_end).passed

    def test_f04_small_arm_is_named(self):
        shares = {"a": 0.8, "b": 0.1, "c": 0.1}
        counts = {"a": 400_000, "b": 50_000, "c": 45_000}
        outcome = sample_ratio_outcome(counts, shares, at_planned_end=True)
        assert outcome.severity == "ERROR"
        assert "furthest off: c" in outcome.message

    def test_f04_clean(self):
        shares = {"a": 0.8, "b": 0.1, "c": 0.1}
        draws = np.random.default_rng(4).multinomial(500_000, list(shares.values()), size=1000)
        rows = [dict(zip(shares, map(int, draw), strict=True)) for draw in draws]
        outcomes = [sample_ratio_outcome(row, shares, at_planned_end=True) for row in rows]
        assert sum(not o.passed and o.severity == "ERROR" for o in outcomes) <= 6

    def test_f05_wrong_weights_are_guessed(self):
        outcome = judge(60_100, 39_900)
        assert outcome.severity == "ERROR"
        assert "observed ratio is close to 60/40: configuration?" in outcome.message
        clean = judge(60_100, 39_900, shares={"control": 0.6, "treatment": 0.4})
        assert clean.passed
        assert "configuration" not in clean.message

    def test_a_loss_gives_no_configuration_hint(self):
        assert "configuration" not in judge(100_000, 94_000).message

    def test_units_in_an_unknown_arm_block_at_once(self):
        outcome = sample_ratio_outcome(
            {"control": 500, "treatment": 500, "beta": 1}, HALVES, at_planned_end=False
        )
        assert (outcome.passed, outcome.severity, outcome.value) == (False, "ERROR", None)
        assert "beta 1" in outcome.message


def test_evidence_of_an_earlier_look_stays():
    assert judge(5000, 5000, at_planned_end=False).passed
    outcome = judge(5000, 5000, at_planned_end=False, largest_earlier_log_e=math.log(50))
    assert (outcome.passed, outcome.severity) == (False, "WARN")
    assert outcome.value == pytest.approx(0.02)


def test_fixed_test_counts_at_the_planned_end_only():
    assert judge(44700, 45489, at_planned_end=False).passed


def test_missing_arm_counts_as_zero():
    outcome = sample_ratio_outcome({"control": 200}, HALVES, at_planned_end=False)
    assert outcome.severity == "ERROR"


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ([1], [1.0], "two or more"),
        ([1, 2], [0.5, 0.4], "sum to 1"),
        ([1, -2], [0.5, 0.5], "not negative"),
        ([1, float("nan")], [0.5, 0.5], "finite"),
    ],
)
def test_misuse_is_a_bug_not_a_result(counts, shares, message):
    for function in (chi_square, sequential_log_e_value):
        with pytest.raises(ValueError, match=message):
            function(counts, shares)


def test_no_units_at_all():
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        judge(0, 0)
    with pytest.raises(ValueError, match="zero"):
        chi_square([1, 2], [0.0, 1.0])
    with pytest.raises(ValueError, match="share 0"):
        sequential_log_e_value([1, 2], [0.0, 1.0])
    assert sequential_log_e_value([0, 2], [0.0, 1.0]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_f02_clean_experiments_are_rarely_blocked_over_28_looks():
    rng = np.random.default_rng(5)
    paths, alarms, daily = 10_000, 0, 0
    for _ in range(paths):
        control = np.cumsum(rng.binomial(10_000, 0.5, 28))
        total = 10_000 * np.arange(1, 29)
        off = np.abs(control / total - 0.5)
        # Only a look that could block is worth the full test: |z| > 2.5 is far inside E = 100.
        suspects = np.flatnonzero(off * np.sqrt(total) * 2 > 2.5)
        daily += bool((off * np.sqrt(total) * 2 > 2.575829).any())
        for day in suspects:
            outcome = judge(control[day], total[day] - control[day], at_planned_end=False)
            if not outcome.passed and outcome.severity == "ERROR":
                alarms += 1
                break
    assert alarms <= 22
    # The planted fault: a fixed test at 1 % every day.
    assert daily / paths > 0.05
