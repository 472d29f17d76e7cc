"""Tables of the project folder as study frames: checked, named alike, treatment made explicit.

    panel   unit, period, label, outcome, first_treated, x.<covariate>
    units   unit, outcome, treated, running, x.<covariate>, placebo.<outcome>

A row that lacks a value which is needed is left out and counted, never filled.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import polars as pl

from experiments_dagster.config.study_data import PanelFile, UnitsFile
from experiments_dagster.storage.table_file import MISSING_TEXT, read_table

MOST_LEVELS = 50
Moment = int | dt.date


def read_panel_file(
    path: Path, panel: PanelFile, predictors: Sequence[str] = ()
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A panel as a frame with one row per unit and period.

    Args:
        path: CSV or Parquet.
        panel: Its columns.
        predictors: Further columns to keep as covariates; the outcome need not be among them.

    Returns:
        unit (text), period (index from 0), label, outcome, first_treated (index, null where
        never), x.<covariate> (null where missing); and how many rows were left out, by reason.

    Raises:
        ValueError: A column is missing or has the wrong type, a named unit is not there, or
            nobody is treated inside the panel.
    """
    who = panel.group or panel.is_treated or panel.first_treated
    kept = [
        name for name in dict.fromkeys([*panel.covariates, *predictors]) if name != panel.outcome
    ]
    columns = [panel.time, panel.outcome, *kept]
    columns += [column for column in (panel.unit, who) if column is not None]
    table = read_table(path, columns, missing=MISSING_TEXT, text=(panel.unit,))
    width = len(str(table.height))
    unit = (
        pl.int_range(pl.len()).cast(pl.String).str.zfill(width)
        if panel.unit is None
        else _names(table, panel.unit)
    )
    rows = table.select(
        unit.alias("unit"),
        moments(path, table, panel.time).alias("time"),
        numbers(path, table, panel.outcome).alias("outcome"),
        *([_who(path, table, panel, who).alias("who")] if who else []),
        *(numbers(path, table, column).alias(f"x.{column}") for column in kept),
    )
    placed = rows.drop_nulls(["unit", "time"])
    left_out = {"no unit or time": rows.height - placed.height}
    placed = _inside(path, placed, panel)
    rows = placed.drop_nulls("outcome")
    left_out[f"{panel.outcome} is missing"] = placed.height - rows.height
    if rows.is_empty():
        _refuse(path, panel.outcome, "has no value in the panel")
    n_repeated = rows.height - rows.select("unit", "time").n_unique()
    if n_repeated:
        _refuse(path, panel.time, f"{n_repeated} rows repeat a unit and period, need one row each")
    times = rows["time"].unique().sort()
    # Who is treated from when stands in rows without an outcome as well.
    first = _first_treated(path, placed, panel, times).join(
        rows.select("unit"), on="unit", how="semi"
    )
    if first["first_treated"].null_count() == first.height:
        _refuse(path, str(panel.unit or panel.group), "nobody is treated inside the panel")
    index = pl.DataFrame({"time": times, "period": range(len(times))})
    frame = (
        rows.join(index, on="time", how="left")
        .join(first, on="unit", how="left")
        .with_columns(pl.col("time").cast(pl.String).alias("label"))
        .select(
            *("unit", "period", "label", "outcome", "first_treated"),
            *(f"x.{column}" for column in kept),
        )
        .sort("unit", "period")
    )
    return frame, {reason: n for reason, n in left_out.items() if n}


def read_units_file(path: Path, units: UnitsFile) -> tuple[pl.DataFrame, dict[str, int]]:
    """A row per unit as a frame.

    Returns:
        unit, outcome, treated (true or false; absent without such a column), running (absent
        without), x.<covariate>, placebo.<outcome>; and how many rows were left out, by reason.

    Raises:
        ValueError: A column is missing or has the wrong type, or an arm is not there.
    """
    named = [units.unit, units.treated, units.running]
    columns = [units.outcome, *units.covariates, *units.placebo_outcomes]
    table = read_table(
        path, [*columns, *filter(None, named)], missing=MISSING_TEXT, text=(units.unit,)
    )
    n_file = table.height
    left_out: dict[str, int] = {}
    if units.treated is not None and units.treatment is not None:
        table = _two_arms(path, table, units)
        left_out["another arm"] = n_file - table.height
    parts = [_unit_names(table, units), numbers(path, table, units.outcome).alias("outcome")]
    if units.treated is not None:
        parts.append(_treated(path, table, units).alias("treated"))
    if units.running is not None:
        parts.append(numbers(path, table, units.running).alias("running"))
    for column in units.covariates:
        if column in units.log:
            parts.append(_logarithm(path, table, column))
        else:
            parts += _encoded(path, table, column)
    for column in units.placebo_outcomes:
        parts.append(numbers(path, table, column).alias(f"placebo.{column}"))
    rows = table.select(parts)
    if units.running is not None:
        rows = _within_limits(path, rows, units, left_out)
    n_repeated = rows["unit"].drop_nulls().len() - rows["unit"].drop_nulls().n_unique()
    if n_repeated:
        _refuse(path, str(units.unit), f"{n_repeated} rows repeat a unit, need one row per unit")
    # At a cutoff covariates and placebo outcomes only refute: a unit without one still counts.
    needed = [name for name in rows.columns if "." not in name or units.running is None]
    whole = rows.drop_nulls(needed)
    left_out["a value is missing"] = rows.height - whole.height
    if whole.is_empty():
        _refuse(path, units.outcome, "no row has all values")
    return whole, {reason: n for reason, n in left_out.items() if n}


def _within_limits(
    path: Path, rows: pl.DataFrame, units: UnitsFile, left_out: dict[str, int]
) -> pl.DataFrame:
    """Rows whose running variable lies inside the limits; those without one are counted later."""
    low = -float("inf") if units.minimum is None else units.minimum
    high = float("inf") if units.maximum is None else units.maximum
    is_inside = pl.col("running").is_between(low, high)
    n_inside = rows.filter(is_inside).height
    if not n_inside:
        _refuse(path, str(units.running), f"has no value from {low:g} to {high:g}")
    n_outside = rows.height - n_inside - rows["running"].null_count()
    left_out[f"{units.running} outside {low:g} to {high:g}"] = n_outside
    return rows.filter(is_inside | pl.col("running").is_null())


def _inside(path: Path, rows: pl.DataFrame, panel: PanelFile) -> pl.DataFrame:
    """The periods and units that the study is about."""
    for name, moment in (("first", panel.first), ("last", panel.last), ("starts", panel.starts)):
        if moment is not None and isinstance(moment, int) != rows["time"].dtype.is_integer():
            kind = "whole numbers" if rows["time"].dtype.is_integer() else "dates"
            _refuse(path, panel.time, f"holds {kind}, but {name} is {moment}")
    if panel.first is not None:
        rows = rows.filter(pl.col("time") >= panel.first)
    if panel.last is not None:
        rows = rows.filter(pl.col("time") <= panel.last)
    known = set(rows["unit"].unique().to_list())
    for unit in (*panel.treated_units, *panel.exclude_units):
        if str(unit) not in known:
            _refuse(path, str(panel.unit), f"has no unit {str(unit)!r}")
    return rows.filter(~pl.col("unit").is_in([str(unit) for unit in panel.exclude_units]))


def _first_treated(
    path: Path, rows: pl.DataFrame, panel: PanelFile, times: pl.Series
) -> pl.DataFrame:
    """Unit and the index of its first treated period, null where it is never treated here."""
    if panel.starts is not None:
        start = int((times < panel.starts).sum())
        if not 0 < start < len(times):
            rule = f"runs from {times[0]} to {times[-1]}; starts {panel.starts} must lie inside"
            _refuse(path, panel.time, rule)
        if panel.treated_units:
            treated = pl.col("unit").is_in([str(unit) for unit in panel.treated_units]).first()
        else:
            _one_group_per_unit(path, rows, str(panel.group))
            treated = pl.col("who").first() == 1
        first = pl.when(treated).then(pl.lit(start, pl.Int64)).otherwise(None)
        found = rows.group_by("unit").agg(first.alias("first_treated"))
    elif panel.is_treated is not None:
        begin = pl.col("time").filter(pl.col("who") == 1).min()
        # Rows without a 1 after the first 1 of a unit: it is no longer treated.
        found = rows.with_columns(begin.over("unit").alias("begin"))
        stopped = found.filter((pl.col("time") > pl.col("begin")) & (pl.col("who") != 1))
        if stopped.height:
            n = stopped["unit"].n_unique()
            _refuse(path, panel.is_treated, f"{n} units are no longer treated after they were")
        found = found.group_by("unit").agg(pl.col("begin").first())
        found = _indexed(found, times)
    else:
        begin = pl.col("who").drop_nulls()
        varying = rows.group_by("unit").agg(pl.col("who").n_unique().alias("n"))
        n = varying.filter(pl.col("n") > 1).height
        if n:
            _refuse(path, str(panel.first_treated), f"{n} units have several values, need one")
        found = rows.group_by("unit").agg(begin.first().alias("begin"))
        if found["begin"].null_count() < found.height and (
            found["begin"].dtype.is_integer() != times.dtype.is_integer()
        ):
            kind = "whole numbers" if times.dtype.is_integer() else "dates"
            _refuse(path, str(panel.first_treated), f"must be {kind} as {panel.time} is")
        found = _indexed(found, times)
    return found


def _indexed(found: pl.DataFrame, times: pl.Series) -> pl.DataFrame:
    """Moments as the index of the first period at or after them; null after the last one."""
    begins = found["begin"].to_list()
    index = [None if b is None else int((times < b).sum()) for b in begins]
    first = [None if i is None or i >= len(times) else i for i in index]
    return found.select("unit", pl.Series("first_treated", first, pl.Int64))


def _one_group_per_unit(path: Path, rows: pl.DataFrame, column: str) -> None:
    varying = rows.group_by("unit").agg(pl.col("who").n_unique().alias("n"))
    n = varying.filter(pl.col("n") > 1).height
    if n:
        _refuse(path, column, f"{n} units have both values, need one group per unit")


def _who(path: Path, table: pl.DataFrame, panel: PanelFile, column: str) -> pl.Expr:
    """The column that says who is treated: 0 and 1, or moments with null for never."""
    if panel.first_treated is None:
        return _zero_or_one(path, table, column)
    if table[column].dtype.is_numeric():
        # What is not finite stands for never, as 0 does.
        finite = pl.when(pl.col(column).cast(pl.Float64).is_finite()).then(pl.col(column))
        n_broken = table.select((finite % 1 != 0).sum()).item()
        if n_broken:
            _refuse(path, column, f"{n_broken} values are no whole numbers such as years")
        whole = finite.cast(pl.Int64)
        return pl.when(whole != 0).then(whole).otherwise(None)
    return moments(path, table, column)


def _zero_or_one(path: Path, table: pl.DataFrame, column: str) -> pl.Expr:
    series = table[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        _refuse(path, column, f"must hold 0 and 1, it has type {series.dtype}")
    wrong = series.cast(pl.Float64).is_in([0.0, 1.0]).not_().sum()
    if wrong or series.null_count():
        _refuse(path, column, f"{wrong + series.null_count()} values are neither 0 nor 1")
    return pl.col(column).cast(pl.Int64)


def moments(path: Path, table: pl.DataFrame, column: str) -> pl.Expr:
    """Whole numbers such as years, or dates."""
    series = table[column]
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return pl.col(column).cast(pl.Date)
    if series.dtype.is_integer():
        if series.cast(pl.Int64, strict=False).null_count() > series.null_count():
            _refuse(path, column, "holds numbers too large for a period")
        return pl.col(column).cast(pl.Int64)
    if series.dtype.is_float():
        if (series.drop_nulls() % 1 != 0).any():
            _refuse(path, column, "must be whole numbers such as years, or dates")
        return pl.col(column).cast(pl.Int64)
    if series.dtype != pl.String:
        _refuse(path, column, f"must be whole numbers or dates, it has type {series.dtype}")
    text = pl.col(column).str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    n_wrong = table.select((text.is_null() & pl.col(column).is_not_null()).sum()).item()
    if n_wrong:
        _refuse(path, column, f"{n_wrong} values are no dates such as 2026-01-31")
    return text


def numbers(path: Path, table: pl.DataFrame, column: str) -> pl.Expr:
    """Finite numbers, null where missing."""
    series = table[column]
    if series.null_count() == len(series):
        return pl.lit(None, pl.Float64)
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        _refuse(path, column, f"must be numbers, it has type {series.dtype}")
    n_infinite = series.cast(pl.Float64).is_infinite().sum()
    if n_infinite:
        _refuse(path, column, f"{n_infinite} values are infinite")
    return pl.col(column).cast(pl.Float64).fill_nan(None)


def _unit_names(table: pl.DataFrame, units: UnitsFile) -> pl.Expr:
    if units.unit is not None:
        return _names(table, units.unit).alias("unit")
    width = len(str(table.height))
    return pl.int_range(pl.len()).cast(pl.String).str.zfill(width).alias("unit")


def _names(table: pl.DataFrame, column: str) -> pl.Expr:
    """Names of units as text; whole numbers that were saved as 17.0 are 17."""
    series = table[column]
    if series.dtype.is_float() and not (series.drop_nulls() % 1 != 0).any():
        return pl.col(column).cast(pl.Int64).cast(pl.String)
    return pl.col(column).cast(pl.String)


def _two_arms(path: Path, table: pl.DataFrame, units: UnitsFile) -> pl.DataFrame:
    column = str(units.treated)
    arms = table[column].cast(pl.String)
    for arm in (units.treatment, units.control):
        if str(arm) not in set(arms):
            known = ", ".join(map(str, arms.drop_nulls().unique().sort().head(10)))
            _refuse(path, column, f"has no value {str(arm)!r}; it has {known}")
    return table.filter(arms.is_in([str(units.treatment), str(units.control)]))


def _treated(path: Path, table: pl.DataFrame, units: UnitsFile) -> pl.Expr:
    column = str(units.treated)
    if units.treatment is not None:
        return pl.col(column).cast(pl.String) == str(units.treatment)
    return _zero_or_one(path, table, column) == 1


def _encoded(path: Path, table: pl.DataFrame, column: str) -> list[pl.Expr]:
    """Numbers as they are; text as one 0/1 column per value but the most frequent."""
    series = table[column]
    is_empty = series.null_count() == len(series)
    if series.dtype.is_numeric() or series.dtype == pl.Boolean or is_empty:
        return [numbers(path, table, column).alias(f"x.{column}")]
    text = series.cast(pl.String).rename("level")
    counts = text.drop_nulls().value_counts(sort=True, name="n")
    # Equal counts are told apart by name, so that the base does not depend on the row order.
    levels = counts.sort(["n", "level"], descending=[True, False])["level"].to_list()
    if len(levels) > MOST_LEVELS:
        _refuse(path, column, f"has {len(levels)} values, at most {MOST_LEVELS} become columns")
    if len(levels) < 2:  # noqa: PLR2004
        _refuse(path, column, "has one value only and tells no units apart")
    is_level = pl.col(column).cast(pl.String)
    return [
        (is_level == level).cast(pl.Float64).alias(f"x.{column}={level}") for level in levels[1:]
    ]


def _logarithm(path: Path, table: pl.DataFrame, column: str) -> pl.Expr:
    values = numbers(path, table, column)
    n_negative = table.select((values < 0).sum()).item()
    if n_negative:
        _refuse(path, column, f"{n_negative} values are negative and have no logarithm")
    return values.log1p().alias(f"x.log {column}")


def _refuse(path: Path, column: str, rule: str) -> NoReturn:
    msg = f"{path}: column {column!r} {rule}"
    raise ValueError(msg)


def describe_left_out(left_out: dict[str, int]) -> Sequence[str]:
    """Sentences on rows that are not in a frame."""
    return [f"{n:,} rows left out: {reason}" for reason, n in left_out.items()]
