"""Contracts of the frames. A broken contract names rules and counts, never rows or ids.

Every rule but uniqueness is about single rows: a frame may be checked a part of its rows at a
time, and the counts of the parts add up to those of the whole. That no unit stands in two parts
is then the promise of whoever cut them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments_dagster.config.experiment import CapQuantile
from experiments_dagster.contracts.validation import (
    Contract,
    Rule,
    is_unique,
    make_contract,
    not_null,
    row_rule,
    validate,
)

if TYPE_CHECKING:
    import polars as pl

    from experiments_dagster.config.resolve import Experiment

# Experiments of one project have few different sets of arms, segments and metrics.
KEPT_CONTRACTS = 256


class _Value(NamedTuple):
    """A column of numbers: always finite where it is not null."""

    name: str
    range: Literal["is_0_or_1", "denominator_not_negative"] | None = None
    nullable: bool = True


def validate_unit_frames(
    frame: pl.DataFrame, experiment: Experiment, *, has_units: bool = True
) -> None:
    """What both unit frames promise, in one check over the columns of both.

    Args:
        frame: All rows, or some of them (see the module).
        experiment: Which arms, segments and metrics.
        has_units: As in `validate_user_frame`.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    values = [*_user_values(experiment), *_ratio_values(experiment)]
    contract = _unit_contract(experiment, values, has_units=has_units)
    validate("unit frames", experiment.slug, frame, contract)


def validate_user_frame(
    frame: pl.DataFrame, experiment: Experiment, *, has_units: bool = True
) -> None:
    """One row per unit, known arms, finite values, 0/1 for indicators.

    Args:
        frame: All rows, or some of them (see the module).
        experiment: Which arms, segments and metrics.
        has_units: Whether the frame has its column unit; without it the caller knows that every
            row is a unit of its own.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    contract = _unit_contract(experiment, _user_values(experiment), has_units=has_units)
    validate("user_frame", experiment.slug, frame, contract)


def validate_ratio_frame(
    frame: pl.DataFrame, experiment: Experiment, *, has_units: bool = True
) -> None:
    """One row per unit, known arms, finite parts, no negative denominator.

    Args:
        frame: All rows, or some of them (see the module).
        experiment: Which arms, segments and metrics.
        has_units: As in `validate_user_frame`.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    contract = _unit_contract(experiment, _ratio_values(experiment), has_units=has_units)
    validate("ratio_frame", experiment.slug, frame, contract)


def _user_values(experiment: Experiment) -> list[_Value]:
    values: list[_Value] = []
    for metric in experiment.metrics:
        if not metric.is_ratio:
            values.append(_Value(metric.name, "is_0_or_1" if metric.is_indicator else None))
            values += _history(metric.name, experiment)
    if isinstance(experiment.plan.cap, CapQuantile):
        values.append(_Value(f"cap_basis_{experiment.primary.name}"))
    return values


def _ratio_values(experiment: Experiment) -> list[_Value]:
    values: list[_Value] = []
    for metric in experiment.metrics:
        if metric.is_ratio:
            (numerator, _), (denominator, _) = metric.columns
            values += [_Value(numerator), *_history(numerator, experiment)]
            values += [_Value(denominator, "denominator_not_negative")]
            values += _history(denominator, experiment)
    return values


def _history(name: str, experiment: Experiment) -> list[_Value]:
    """The pre-period of an outcome column, and what predictions are trained on."""
    prefixes = ("pre_", "lag_") if experiment.predicts else ("pre_",)
    return [_Value(f"{prefix}{name}", nullable=False) for prefix in prefixes]


def _unit_contract(experiment: Experiment, values: list[_Value], *, has_units: bool) -> Contract:
    segments = tuple(f"segment_{name}" for name in experiment.exposure_properties)
    return _make_unit_contract(tuple(experiment.variants), segments, tuple(values), has_units)


@lru_cache(KEPT_CONTRACTS)
def _make_unit_contract(
    arms: tuple[str, ...],
    segments: tuple[str, ...],
    values: tuple[_Value, ...],
    has_units: bool,  # noqa: FBT001 - a part of the key
) -> Contract:
    import polars as pl

    types: dict[str, Any] = {"unit": pl.String} if has_units else {}
    types |= {
        "arm": pl.String,
        "exposed_at": pl.Datetime("us", "UTC"),
        "is_pre_missing": pl.Boolean,
    }
    rules = {f"{name} not_null": not_null(name) for name in types}
    if has_units:
        rules["unit is_unique"] = is_unique("unit")
    rules["arm known_arm"] = row_rule(pl.col("arm").is_in(arms))
    types |= dict.fromkeys(segments, pl.String)
    types |= dict.fromkeys((value.name for value in values), pl.Float64)
    for value in values:
        rules |= _value_rules(value)
    return make_contract(types, rules)


def _value_rules(value: _Value) -> dict[str, Rule]:
    import polars as pl

    column = pl.col(value.name)
    rules = {f"{value.name} is_finite": row_rule(column.is_finite())}
    if not value.nullable:
        rules[f"{value.name} not_null"] = not_null(value.name)
    if value.range is not None:
        is_in_range = column.is_in([0.0, 1.0]) if value.range == "is_0_or_1" else column >= 0.0
        rules[f"{value.name} {value.range}"] = row_rule(is_in_range)
    return rules


def validate_daily_series(frame: pl.DataFrame, slug: str, *, step_days: int = 1) -> None:
    """One row per day (or per `step_days`) without gaps, finite values.

    Args:
        frame: event_day, treated, and a column per covariate.
        slug: Of the intervention.
        step_days: Days from one row to the next.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    contract = _daily_contract(tuple(frame.columns[1:]), step_days)
    validate("daily_series", slug, frame, contract)


@lru_cache(KEPT_CONTRACTS)
def _daily_contract(columns: tuple[str, ...], step_days: int) -> Contract:
    import polars as pl

    day, values = "event_day", [_Value(name, nullable=False) for name in columns]
    types: dict[str, Any] = {day: pl.Date, **dict.fromkeys(columns, pl.Float64)}
    rules = {
        f"{day} not_null": not_null(day),
        f"{day} is_unique": is_unique(day),
        "no_gap": row_rule(pl.col(day).diff().dt.total_days() == step_days),
    }
    for value in values:
        rules |= _value_rules(value)
    return make_contract(types, rules)
