"""What a file of each kind must look like: columns, types, and rules over the rows.

    b2c_user_level              group, revenue, revenue_pre
    b2c_ratio                   group, revenue, sessions, revenue_pre, sessions_pre
    timeseries_causal_impact    date, y; optional sessions, active_users, marketing_spend,
                                external_index, segment

A rule that fails says how many rows break it and where the first one is, never what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from experiments_dagster.cli.output import USAGE, Sheet
from experiments_dagster.cli.user_level.bundle import Outcome, Table
from experiments_dagster.cli.user_level.rows import read_file

Dtype = Literal["text", "number", "date"]
Violation = dict[str, Any]

DEFAULT_GROUPS = ("control", "test")
MANY_LABELS = 5
VIOLATION_COLUMNS = ("rule", "column", "n_rows", "first_row", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The columns of a kind of file and the rules over its rows.

    Args:
        required: Type by column.
        optional: Type by column, checked where the column is there.
        groups: Column with the arms, where there is one.
        date: Column that is unique and sorted, where there is one.
        not_negative: Columns that count something.
    """

    required: dict[str, Dtype]
    optional: dict[str, Dtype]
    groups: str | None = None
    date: str | None = None
    not_negative: tuple[str, ...] = ()


SCHEMAS: dict[str, Schema] = {
    "b2c_user_level": Schema(
        required={"group": "text", "revenue": "number", "revenue_pre": "number"},
        optional={},
        groups="group",
    ),
    "b2c_ratio": Schema(
        required={
            "group": "text",
            "revenue": "number",
            "sessions": "number",
            "revenue_pre": "number",
            "sessions_pre": "number",
        },
        optional={},
        groups="group",
        not_negative=("sessions", "sessions_pre"),
    ),
    "timeseries_causal_impact": Schema(
        required={"date": "date", "y": "number"},
        optional={
            "sessions": "number",
            "active_users": "number",
            "marketing_spend": "number",
            "external_index": "number",
            "segment": "text",
        },
        date="date",
    ),
}


def validate_file(
    path: Path, schema_name: str, groups: tuple[str, ...] = DEFAULT_GROUPS
) -> Outcome:
    """Check a file against a schema.

    A schema that is not known is a warning: only its shape is reported then.

    Raises:
        ValueError: The file cannot be read.
    """
    table = read_file(path)
    schema = SCHEMAS.get(schema_name)
    known = ", ".join(SCHEMAS)
    warnings = (
        [] if schema else [f"unknown schema {schema_name!r}; known: {known}. Nothing checked"]
    )
    missing = [name for name in schema.required if name not in table.columns] if schema else []
    violations = check_rows(table, schema, groups) if schema else []
    is_ok = not missing and not violations
    expected = (
        [
            {"column": name, "dtype": dtype, "required": name in schema.required}
            for name, dtype in (schema.required | schema.optional).items()
        ]
        if schema
        else []
    )
    return Outcome(
        command="validate",
        inputs={"input": str(path), "schema": schema_name},
        estimates={"ok": is_ok},
        diagnostics={
            "n_rows": table.height,
            "n_cols": table.width,
            "missing_required": missing,
            "violations": violations,
        },
        warnings=warnings,
        tables={
            "schema_expected": Table(columns=("column", "dtype", "required"), rows=expected),
            "schema_missing": Table(
                columns=("column",), rows=[{"column": name} for name in missing]
            ),
            "schema_violations": Table(columns=VIOLATION_COLUMNS, rows=violations),
        },
        sheets=[_sheet(path, schema_name, missing, violations)],
        exit_code=0 if is_ok else USAGE,
    )


def check_rows(
    table: pl.DataFrame, schema: Schema, groups: tuple[str, ...] = DEFAULT_GROUPS
) -> list[Violation]:
    """Every rule that the columns which are there break."""
    found: list[Violation] = []
    for name, dtype in (schema.required | schema.optional).items():
        if name not in table.columns:
            continue
        series = table[name]
        if name in schema.required:
            is_missing = series.is_null()
            if series.dtype.is_float():
                is_missing |= series.is_nan().fill_null(value=False)
            _add(found, "no_missing_required", name, is_missing, "has no value")
        _check_dtype(found, name, series, dtype)
    for name in schema.not_negative:
        if name in table.columns and table[name].dtype.is_numeric():
            _add(found, "not_negative", name, table[name] < 0, "is below 0")
    if schema.groups in table.columns:
        _check_groups(found, str(schema.groups), table[str(schema.groups)], groups)
    if schema.date in table.columns:
        _check_dates(found, str(schema.date), table[str(schema.date)])
    return found


def _check_dtype(found: list[Violation], name: str, series: pl.Series, dtype: Dtype) -> None:
    if dtype == "number":
        if series.dtype.is_numeric() or series.dtype == pl.Null:
            is_infinite = series.cast(pl.Float64).is_infinite()
            _add(found, "dtype", name, is_infinite, "is infinite, not a number")
            return
        numbers = series.cast(pl.String).cast(pl.Float64, strict=False)
        _add(found, "dtype", name, numbers.is_null() & series.is_not_null(), "is not a number")
    elif dtype == "date":
        is_bad = _dates(series).is_null() & series.is_not_null()
        _add(found, "dtype", name, is_bad, "is not a date such as 2026-01-31")
    elif series.dtype.is_float():
        _add(found, "dtype", name, series.is_not_null(), "is a fraction, not a label")


def _check_groups(
    found: list[Violation], name: str, series: pl.Series, groups: tuple[str, ...]
) -> None:
    labels = series.cast(pl.String)
    is_other = ~labels.is_in(list(groups)) & labels.is_not_null()
    others = ", ".join(sorted(labels.filter(is_other).unique())[:MANY_LABELS])
    allowed = " or ".join(groups)
    _add(found, "allowed_groups", name, is_other, f"is not {allowed} but one of: {others}")
    for group in groups:
        if not (labels == group).any():
            text = f"no row is in arm {group!r}"
            found.append(_violation("allowed_groups", name, 0, None, text))


def _check_dates(found: list[Violation], name: str, series: pl.Series) -> None:
    dates = _dates(series)
    is_repeated = ~dates.is_first_distinct() & dates.is_not_null()
    _add(found, "date_unique", name, is_repeated, "repeats the date of an earlier row")
    is_back = dates.forward_fill().diff().dt.total_microseconds() < 0
    _add(found, "sorted_by_date", name, is_back, "lies before the row above it")


def _dates(series: pl.Series) -> pl.Series:
    if series.dtype.is_temporal():
        return series.cast(pl.Datetime("us"))
    text = series.cast(pl.String)
    days = text.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    exact = text.str.replace("T", " ", literal=True)
    times = exact.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")
    return days.fill_null(times)


def _add(found: list[Violation], rule: str, name: str, is_broken: pl.Series, text: str) -> None:
    is_broken = is_broken.fill_null(value=False)
    n = int(is_broken.sum())
    if n:
        first = int(is_broken.arg_max() or 0) + 1
        found.append(_violation(rule, name, n, first, text))


def _violation(rule: str, column: str, n: int, first: int | None, text: str) -> Violation:
    return dict(zip(VIOLATION_COLUMNS, (rule, column, n, first, text), strict=True))


def _sheet(path: Path, schema: str, missing: list[str], violations: list[Violation]) -> Sheet:
    rows = [("missing_required", name, "-", "the column is not there") for name in missing]
    rows += [
        (
            str(row["rule"]),
            str(row["column"]),
            str(row["n_rows"] or "-"),
            str(row["detail"])
            + (f"; first in data row {row['first_row']}" if row["first_row"] else ""),
        )
        for row in violations
    ]
    verdict = "INVALID" if rows else "OK" if schema in SCHEMAS else "NOT CHECKED"
    if not rows:
        rows = [("all", "-", "-", "every rule holds" if schema in SCHEMAS else "unknown schema")]
    return Sheet(
        title=f"{verdict}: {path} against {schema}",
        columns=("rule", "column", "rows", "what"),
        rows=rows,
        align="llrl",
    )
