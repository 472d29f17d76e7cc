"""Statistics of columns against scipy, numpy and hand-made cases; reasons where there is none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.exploration.facts import (
    balance_facts,
    column_facts,
    correlation,
    correlation_facts,
    standardized_difference,
)

NUMBERS = st.lists(st.integers(-50, 50).map(float), min_size=5, max_size=40)


def described(values):
    return {
        fact.statistic: fact for fact in column_facts("metrics", "y", np.asarray(values, float))
    }


def test_distribution_agrees_with_scipy_and_numpy():
    rng = np.random.default_rng(3)
    y = np.round(rng.lognormal(1, 1, 5000) * (rng.random(5000) < 0.7), 2)
    found = {name: fact.value for name, fact in described(y).items()}
    # Two summation orders of the same formulas.
    assert found["skewness"] == pytest.approx(stats.skew(y), rel=1e-10)
    assert found["mean"] == pytest.approx(y.mean(), rel=1e-12)
    assert found["std_dev"] == pytest.approx(np.std(y, ddof=1), rel=1e-12)
    assert found["zero_share"] == (y == 0).mean()
    for name, q in (("p01", 1), ("p25", 25), ("p50", 50), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(y, q), rel=1e-12)
    assert found["top_1pct_share"] == pytest.approx(np.sort(y)[-50:].sum() / y.sum(), rel=1e-12)
    assert (found["min"], found["max"], found["n"]) == (y.min(), y.max(), 5000)


def test_missing_values_are_counted_and_left_out():
    found = described([1.0, math.nan, 3.0, math.nan])
    assert found["n"].value == 2
    assert found["n_missing"].value == 2
    assert found["missing_share"].value == 0.5
    assert found["mean"].value == 2.0


@pytest.mark.parametrize(
    ("values", "statistic", "reason"),
    [
        ([], "mean", "N_TOO_SMALL"),
        ([math.nan], "zero_share", "N_TOO_SMALL"),
        ([1.0], "std_dev", "N_TOO_SMALL"),
        ([0.1] * 200, "skewness", "ZERO_VARIANCE"),
        ([1.0, math.inf], "mean", "NON_FINITE_INPUT"),
        ([1.0] * 50, "top_1pct_share", "N_TOO_SMALL"),
        ([0.0] * 200, "top_1pct_share", "ZERO_DENOMINATOR"),
        ([-1.0] * 200, "top_1pct_share", "NOT_IDENTIFIED"),
    ],
)
def test_what_cannot_be_said_has_a_reason(values, statistic, reason):
    fact = described(values)[statistic]
    assert fact.value is None
    assert fact.reason == reason


@given(values=NUMBERS, scale=st.sampled_from([0.01, 3.0, 1000.0]))
def test_scaling_moves_what_has_a_unit_and_nothing_else(values, scale):
    before, after = described(values), described([scale * v for v in values])
    for name, fact in before.items():
        if fact.value is None:
            assert after[name].reason == fact.reason
            continue
        has_unit = name in ("mean", "std_dev", "min", "max") or name.startswith("p")
        factor = scale if has_unit else 1.0
        assert after[name].value == pytest.approx(factor * fact.value, rel=1e-9, abs=1e-9 * scale)


@given(values=NUMBERS, seed=st.integers(0, 5))
def test_the_order_of_rows_is_irrelevant(values, seed):
    shuffled = np.random.default_rng(seed).permutation(values)
    after = described(shuffled)
    for name, fact in described(values).items():
        assert after[name].reason == fact.reason
        if fact.value is not None:
            assert after[name].value == pytest.approx(fact.value, rel=1e-9, abs=1e-9)


def test_correlation_agrees_with_numpy_over_the_pairs_that_are_there():
    rng = np.random.default_rng(1)
    x = rng.normal(size=500)
    y = 0.4 * x + rng.normal(size=500)
    x[::7], y[::11] = math.nan, math.nan
    both = ~(np.isnan(x) | np.isnan(y))
    assert correlation(x, y) == pytest.approx(np.corrcoef(x[both], y[both])[0, 1], rel=1e-10)
    assert correlation(x, x) == 1.0
    facts = list(correlation_facts({"a": x, "b": y, "c": -y}))
    assert [(fact.subject, fact.level) for fact in facts] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert facts[2].value == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        ([0.1, 0.1, 0.1, 0.1], "ZERO_VARIANCE"),
        ([1.0, math.nan, math.nan, 2.0], "N_TOO_SMALL"),
        ([1.0, math.inf, 2.0, 3.0], "NON_FINITE_INPUT"),
    ],
)
def test_a_correlation_that_is_none_says_why(y, reason):
    assert correlation(np.array([1.0, 2.0, 3.0, 5.0]), np.array(y)) == reason


def test_standardized_difference_by_hand_and_sign():
    # Means 2 and 4, variances 1 and 4: 2 / sqrt(2.5).
    control, treated = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])
    assert standardized_difference(control, treated) == pytest.approx(2 / math.sqrt(2.5))
    assert standardized_difference(treated, control) == pytest.approx(-2 / math.sqrt(2.5))


def test_standardized_difference_does_not_grow_with_the_number_of_units():
    rng = np.random.default_rng(2)
    one, other = rng.normal(0.0, 1, 500), rng.normal(0.3, 1, 500)
    once = standardized_difference(one, other)
    assert standardized_difference(np.tile(one, 50), np.tile(other, 50)) == pytest.approx(
        once, rel=2e-3
    )
    assert abs(once - 0.3) < 4.5 * math.sqrt(2 / 500)


def test_balance_names_arms_and_leaves_out_what_is_missing():
    arms = np.array(["a", "a", "b", "b", "b"])
    values = np.array([1.0, 3.0, 2.0, 4.0, math.nan])
    facts = {
        (fact.level, fact.statistic): fact.value
        for fact in balance_facts("pre_y", values, arms, ("a", "b"))
    }
    assert facts["a", "n"] == facts["b", "n"] == 2
    assert facts["b", "mean"] == 3.0
    assert ("a", "standardized_difference") not in facts
    assert facts["b", "standardized_difference"] == pytest.approx(1 / math.sqrt(2))
    empty = list(balance_facts("pre_y", values, arms, ("a", "c")))
    assert {fact.reason for fact in empty if fact.level == "c" and fact.value is None} == {
        "EMPTY_ARM"
    }
