import numpy as np
import pytest
import scipy.stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.covariates import (
    design_columns,
    missing_differs_by_arm,
    text_labels,
)
from experiments_dagster.stats.methods.units.lin import compare_adjusted


def test_numbers_come_first_in_their_order_and_levels_sorted():
    matrix, names = design_columns(
        {"spend": [1.0, np.nan, 3.0, 4.0], "age": [1.0, 2.0, 3.0, 4.0]},
        {"os": ["b", "a", "b", None], "country": ["SE", "SE", "NO", "DK"]},
    )
    assert names == (
        "spend",
        "spend_missing",
        "age",
        "os=a",
        "os=missing",
        "country=DK",
        "country=NO",
    )
    assert matrix.tolist() == [
        [1, 0, 1, 0, 0, 0, 0],
        [0, 1, 2, 1, 0, 0, 0],
        [3, 0, 3, 0, 0, 0, 1],
        [4, 0, 4, 0, 1, 1, 0],
    ]


def test_levels_below_one_percent_are_pooled_and_missing_keeps_its_own():
    labels = ["SE"] * 600 + ["NO"] * 385 + ["IS"] * 9 + ["FO"] * 4 + [None] * 2
    matrix, names = design_columns({}, {"c": labels})
    assert names == ("c=NO", "c=missing", "c=other")
    assert matrix.sum(axis=0).tolist() == [385, 2, 13]
    exactly_one_percent = ["SE"] * 990 + ["IS"] * 10
    assert design_columns({}, {"c": exactly_one_percent})[1] == ("c=IS",)
    assert design_columns({}, {"c": labels}, min_share=0.0)[1] == (
        "c=FO",
        "c=IS",
        "c=NO",
        "c=missing",
    )


def test_other_keeps_its_name_beside_shorter_levels():
    names = design_columns({}, {"c": ["a"] * 500 + ["b"] * 400 + ["c"] * 2})[1]
    assert names == ("c=b", "c=other")


def test_a_category_of_one_level_has_no_column():
    matrix, names = design_columns({"x": [1.0, 2.0]}, {"c": ["a", "a"]})
    assert names == ("x",)
    assert matrix.shape == (2, 1)


def test_ties_for_the_largest_level_take_the_first_in_sorted_order():
    assert design_columns({}, {"c": ["b", "a", "b", "a"]})[1] == ("c=b",)


def test_rows_may_come_in_any_order():
    rng = np.random.default_rng(3)
    spend = np.where(rng.random(400) < 0.2, np.nan, rng.normal(size=400))
    country = rng.choice(["a", "b", "c", "d"], 400, p=[0.5, 0.3, 0.195, 0.005])
    order = rng.permutation(400)
    matrix, names = design_columns({"x": spend}, {"c": country})
    shuffled, same = design_columns({"x": spend[order]}, {"c": country[order]})
    assert names == same
    np.testing.assert_array_equal(shuffled, matrix[order])


def test_text_labels_of_none_and_nan():
    assert text_labels(np.array(["a", None, float("nan"), 3], dtype=object)).tolist() == [
        "a",
        "missing",
        "missing",
        "3",
    ]


def test_adjusting_by_saturated_dummies_is_that_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(5)
    n = 500
    country = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    t = (rng.random(n) < 0.5).astype(float)
    y = np.select([country == "a", country == "b"], [1.0, 2.0], 4.0) + 0.2 * t + rng.normal(size=n)
    matrix, names = design_columns({}, {"c": country})
    result = compare_adjusted(y, t, matrix, names=names).adjusted.difference
    dummies = np.column_stack([country == "b", country == "c"]).astype(float)
    dummies -= dummies.mean(axis=0)
    design = np.column_stack([np.ones(n), t, dummies, t[:, None] * dummies])
    live = sm.OLS(y, design).fit(cov_type="HC2")
    assert result.estimate == pytest.approx(live.params[1], rel=1e-9)
    assert result.std_error == pytest.approx(live.bse[1], rel=1e-9)


@pytest.mark.parametrize("table", [(300, 700, 260, 740), (30, 4970, 55, 4945), (6, 6, 5, 7)])
def test_missing_shares_are_compared_by_chi_square(table):
    a, b, c, d = table
    is_missing = np.repeat([1, 0, 1, 0], table)
    is_treated = np.repeat([1, 1, 0, 0], table)
    live = scipy.stats.chi2_contingency([[a, b], [c, d]], correction=False)
    assert missing_differs_by_arm(is_missing, is_treated) == pytest.approx(live.pvalue, rel=1e-10)


@pytest.mark.parametrize(
    "table", [(3, 97, 0, 900), (1, 9, 4, 6), (0, 50, 5, 45), (3, 0, 7, 10), (0, 3, 11, 8)]
)
def test_few_missing_are_compared_by_fisher(table):
    a, b, c, d = table
    is_missing = np.repeat([1, 0, 1, 0], table)
    is_treated = np.repeat([1, 1, 0, 0], table)
    live = scipy.stats.fisher_exact([[a, b], [c, d]])
    p_value = missing_differs_by_arm(is_missing, is_treated)
    assert p_value == pytest.approx(live.pvalue, rel=1e-9)
    assert missing_differs_by_arm(is_missing, 1 - is_treated) == pytest.approx(p_value, rel=1e-9)


def test_chi_square_alone_would_block_three_missing_units():
    # The wrong twin: p = 2e-7 by chi-square, 0.001 by the exact test.
    n, treated = 1_000, 100
    is_missing, is_treated = np.arange(n) < 3, np.arange(n) < treated
    wrong = scipy.stats.chi2_contingency([[3, 97], [0, 900]], correction=False).pvalue
    assert wrong < 1e-6
    assert missing_differs_by_arm(is_missing, is_treated) > 5e-4


def test_nothing_or_everything_missing_does_not_differ():
    is_treated = np.arange(10) < 5
    assert missing_differs_by_arm(np.zeros(10), is_treated) == 1.0
    assert missing_differs_by_arm(np.ones(10), is_treated) == 1.0


def test_refusals():
    with pytest.raises(ValueError, match="min_share"):
        design_columns({"x": [1.0]}, {}, min_share=1.0)
    with pytest.raises(ValueError, match="common length"):
        design_columns({"x": [1.0]}, {"c": ["a", "b"]})
    with pytest.raises(ValueError, match="common length"):
        design_columns({}, {})
    with pytest.raises(ValueError, match="labels have shape"):
        design_columns({}, {"c": [["a"]]})
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        design_columns({"x": [np.inf]}, {})
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        missing_differs_by_arm([1, 0], [0, 0])
