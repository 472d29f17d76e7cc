"""Contracts of the frames: each rule named with its count, and never a unit's id."""

from collections import Counter

import polars as pl
import pytest
from factories import utc
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.contracts.frames import (
    validate_daily_series,
    validate_ratio_frame,
    validate_user_frame,
)
from experiments_dagster.contracts.validation import (
    is_unique,
    make_contract,
    not_null,
    row_rule,
    validate,
)
from experiments_dagster.storage.errors import ContractError

CANARY = "canary-7f3a"
NAMES = ("spend", "orders", "bought", "back")


def frame(columns):
    n = 4
    identity = {
        "unit": [f"{CANARY}-{k}" for k in range(n)],
        "arm": ["control", "treatment"] * 2,
        "exposed_at": pl.Series([utc(2026, 3, 10)] * n, dtype=pl.Datetime("us", "UTC")),
        "is_pre_missing": [False] * n,
    }
    return pl.DataFrame(
        identity
        | {name: [1.0, 0.0, 1.0, None] for name in columns}
        | {f"pre_{name}": [0.5] * n for name in columns}
    )


USER = frame(NAMES)
RATIO = frame(("basket_numerator", "basket_denominator"))


def refusal(validate, table, project):
    with pytest.raises(ContractError) as caught:
        validate(table, project.experiments["trial"])
    assert CANARY not in str(caught.value)
    return caught.value.cases


def test_a_frame_that_keeps_its_contract_passes_in_silence(project):
    validate_user_frame(USER, project.experiments["trial"])
    validate_ratio_frame(RATIO, project.experiments["trial"])


def put(table, column, value, rows=1):
    index = pl.int_range(pl.len())
    changed = pl.when(index < rows).then(pl.lit(value)).otherwise(pl.col(column))
    return table.with_columns(changed.cast(table.schema[column]).alias(column))


@pytest.mark.parametrize(
    ("column", "value", "rows", "rule"),
    [
        ("arm", "tretment", 2, "arm known_arm"),
        ("spend", float("nan"), 1, "spend is_finite"),
        ("spend", float("inf"), 3, "spend is_finite"),
        ("bought", 2.0, 1, "bought is_0_or_1"),
        ("back", 0.5, 2, "back is_0_or_1"),
        ("pre_spend", float("-inf"), 1, "pre_spend is_finite"),
    ],
)
def test_each_rule_of_the_user_frame(project, column, value, rows, rule):
    cases = refusal(validate_user_frame, put(USER, column, value, rows), project)
    assert cases == {rule: rows}


@pytest.mark.parametrize("column", ["unit", "arm", "exposed_at", "is_pre_missing", "pre_orders"])
def test_a_null_where_none_may_be(project, column):
    (rule,) = refusal(validate_user_frame, put(USER, column, None), project)
    assert rule.startswith(f"{column} ")


def test_a_unit_that_stands_twice(project):
    (rule,) = refusal(validate_user_frame, put(USER, "unit", f"{CANARY}-3"), project)
    assert rule.startswith("unit ")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop("pre_spend"),
        lambda t: t.with_columns(extra=pl.lit(1)),
        lambda t: t.with_columns(pl.col("spend").cast(pl.Int64)),
        lambda t: t.with_columns(pl.col("exposed_at").dt.replace_time_zone(None)),
        lambda t: t.rename({"unit": "user"}),
    ],
)
def test_missing_extra_and_mistyped_columns(project, change):
    assert refusal(validate_user_frame, change(USER), project)


def test_every_broken_rule_is_listed_at_once(project):
    bad = put(put(USER, "arm", "x"), "spend", float("nan"), 2)
    cases = refusal(validate_user_frame, bad, project)
    assert cases == {"arm known_arm": 1, "spend is_finite": 2}


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("basket_denominator", -1.0, "basket_denominator denominator_not_negative"),
        ("basket_numerator", float("nan"), "basket_numerator is_finite"),
        ("basket_denominator", float("inf"), "basket_denominator is_finite"),
        ("pre_basket_denominator", float("nan"), "pre_basket_denominator is_finite"),
    ],
)
def test_each_rule_of_the_ratio_frame(project, column, value, rule):
    assert refusal(validate_ratio_frame, put(RATIO, column, value), project)[rule] == 1


def test_a_negative_numerator_is_allowed(project):
    validate_ratio_frame(put(RATIO, "basket_numerator", -1.0), project.experiments["trial"])


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 3])
def test_the_counts_of_the_parts_add_up_to_those_of_the_whole(project, rows_at_a_time):
    bad = put(put(USER, "arm", "x", 3), "spend", float("nan"), 2)
    bad = put(put(bad, "bought", 2.0), "pre_orders", None)
    whole = refusal(validate_user_frame, bad, project)
    parts: Counter[str] = Counter()
    for part in bad.iter_slices(rows_at_a_time):
        try:
            validate_user_frame(part, project.experiments["trial"])
        except ContractError as error:
            parts.update(error.cases)
    assert parts == whole
    assert len(whole) == 4
    for part in USER.iter_slices(rows_at_a_time):
        validate_user_frame(part, project.experiments["trial"])


def test_a_column_of_the_wrong_type_hides_no_other_fault(project):
    bad = put(USER, "arm", "x", 2).with_columns(pl.col("spend").cast(pl.String))
    cases = refusal(validate_user_frame, bad, project)
    assert cases.pop("arm known_arm") == 2
    (rule,) = cases
    assert rule.startswith("spend dtype") or rule == "spend wrong_datatype"
    cases = refusal(validate_user_frame, put(USER, "arm", "x", 2).drop("spend"), project)
    assert cases.pop("arm known_arm") == 2
    assert len(cases) == 1


def test_an_empty_frame_keeps_its_contract(project):
    validate_user_frame(USER.clear(), project.experiments["trial"])


def test_experiments_with_other_arms_have_contracts_of_their_own(project):
    trial = project.experiments["trial"]
    other = trial.model_copy(update={"variants": {"control": 0.5, "bold": 0.5}})
    validate_user_frame(USER, trial)
    with pytest.raises(ContractError, match="known_arm: 2 rows"):
        validate_user_frame(USER, other)
    validate_user_frame(USER, trial)


DAYS = pl.DataFrame(
    {
        "event_day": pl.date_range(utc(2026, 3, 1), utc(2026, 3, 5), "1d", eager=True),
        "treated": [1.0, 2.0, 3.0, 4.0, 5.0],
        "others": [1.0] * 5,
    }
)


@pytest.mark.parametrize(
    ("change", "cases"),
    [
        (lambda t: t, None),
        (lambda t: t[[0, 1, 3, 4]], {"no_gap": 1}),
        (lambda t: t[[1, 0, 2, 3, 4]], {"no_gap": 2}),
        (lambda t: t[[0, 1, 1, 2, 3]], {"no_gap": 1, "event_day is_unique": 2}),
        (lambda t: put(t, "others", float("inf"), 2), {"others is_finite": 2}),
        (lambda t: put(t, "treated", None, 3), {"treated not_null": 3}),
    ],
)
def test_each_rule_of_the_daily_series(change, cases):
    if cases is None:
        validate_daily_series(change(DAYS), "flood")
        return
    with pytest.raises(ContractError, match="daily_series of flood") as caught:
        validate_daily_series(change(DAYS), "flood")
    assert caught.value.cases == cases


KEYS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3) | st.none()))


@given(KEYS)
def test_a_key_is_unique_where_counting_says_so(rows):
    table = pl.DataFrame(rows, schema={"name": pl.String, "n": pl.Int64}, orient="row")
    contract = make_contract(table.schema, {"key": is_unique("name", "n")})
    repeated = sum(count for count in Counter(rows).values() if count > 1)
    if not repeated:
        validate("t", "s", table, contract)
        return
    with pytest.raises(ContractError) as caught:
        validate("t", "s", table, contract)
    assert caught.value.cases == {"key": repeated}


def test_equal_hashes_of_different_values_are_no_fault(monkeypatch):
    monkeypatch.setattr(pl.Expr, "hash", lambda expr: expr.str.len_chars())
    contract = make_contract({"unit": pl.String}, {"unit is_unique": is_unique("unit")})
    validate("t", "s", pl.DataFrame({"unit": ["a", "b", "cc"]}), contract)
    with pytest.raises(ContractError, match="unit is_unique: 2 rows"):
        validate("t", "s", pl.DataFrame({"unit": ["a", "b", "a"]}), contract)


def test_a_rule_about_a_column_without_a_type_is_refused_at_once():
    with pytest.raises(ValueError, match=r"the rule positive is about .*'y'"):
        make_contract({"x": pl.Int64}, {"positive": row_rule(pl.col("x") > pl.col("y"))})


def test_a_contract_that_is_not_strict_allows_other_columns():
    rules = {"x not_null": not_null("x")}
    table = pl.DataFrame({"x": [1, None], "y": ["a", "b"]})
    with pytest.raises(ContractError) as caught:
        validate("t", "s", table, make_contract({"x": pl.Int64}, rules, strict=False))
    assert caught.value.cases == {"x not_null": 1}
    with pytest.raises(ContractError, match="column_not_in"):
        validate("t", "s", table.drop_nulls(), make_contract({"x": pl.Int64}, rules))
