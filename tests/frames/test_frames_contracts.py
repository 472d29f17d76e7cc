"""Contracts of the frames: each rule named with its count, and never a unit's id."""

import polars as pl
import pytest
from factories import utc

from experiments_dagster.contracts.frames import validate_ratio_frame, validate_user_frame
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
