"""What is in a file before anybody compares anything: columns, ids, balance, sample ratio, looks.

Examples of id columns are masked: letters become x and digits 0. Nothing else of a row is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from experiments_dagster.cli.output import Sheet
from experiments_dagster.cli.user_level.bundle import Audit, Document, Outcome, Table
from experiments_dagster.cli.user_level.looks import stream_order
from experiments_dagster.cli.user_level.rows import (
    ArmColumns,
    read_file,
    sample_ratio,
    unit_column,
)
from experiments_dagster.cli.user_level.schemas import SCHEMAS

GROUP_COLUMNS = ("group", "variant", "arm", "bucket", "treatment", "ab_group", "grp")
DENOMINATOR_WORDS = ("session", "den", "denom", "impression", "click", "visit")
# Words of column names whose values point at people.
PERSONAL = re.compile(
    r"(^|_)(id|ids|uid|uuid|guid|key|email|e_?mail|phone|name|ip|device_?id|cookie)($|_)"
)
KNOWN_SCHEMAS = (*SCHEMAS, "sequential_mean", "sequential_ratio")
LARGEST_SIZE_RATIO = 3.0
FEW_ROWS = 20  # below it a column of text may be all different by chance
QUANTILES = {"1%": 0.01, "50%": 0.5, "99%": 0.99}
SUMMARY_COLUMNS = ("column", "count", "mean", "std", "min", *QUANTILES, "max")
PROFILE_COLUMNS = (
    *("column", "dtype", "n_rows", "n_missing", "missing_share", "n_unique", "example"),
)
SCHEDULE_COLUMNS = ("look_n", "n_control_prefix", "n_test_prefix", "min_n_per_group", "ok_min_n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The looks of a sequential analysis: cumulative rows of the file as it is ordered there."""

    looks: Sequence[int]
    arms: ArmColumns
    min_n_per_group: int
    timestamp: str | None = None


def audit_file(
    path: Path,
    schema: str,
    *,
    shares: Mapping[str, float] | None = None,
    group: str | None = None,
    unit: str | None = None,
    schedule: Schedule | None = None,
) -> Outcome:
    """Audit a file by itself: the command `audit`.

    Raises:
        ValueError: The file cannot be read, or a named column is not there.
    """
    table = read_file(path)
    timestamp = None if schedule is None else schedule.timestamp
    named = {"--group-col": group, "--unit-col": unit, "--timestamp-col": timestamp}
    for flag, column in named.items():
        if column is not None and column not in table.columns:
            msg = f"{flag} {column}: {path} has no such column; it has {', '.join(table.columns)}"
            raise ValueError(msg)
    audit = make_audit(
        table, schema, "audit", shares=shares, group=group, unit=unit, schedule=schedule
    )
    document = audit.document
    return Outcome(
        command="audit",
        inputs={"input": str(path), "schema": schema},
        estimates={},
        diagnostics={
            "shape": document["shape"],
            "detected": document["detected"],
            "checks": document["checks"],
        },
        warnings=[*document["errors"], *document["warnings"]],
        sheets=[_profile_sheet(path, audit)],
        audit=audit,
    )


def make_audit(
    table: pl.DataFrame,
    schema: str,
    parent: str,
    *,
    shares: Mapping[str, float] | None = None,
    group: str | None = None,
    unit: str | None = None,
    schedule: Schedule | None = None,
) -> Audit:
    """Audit a table.

    Args:
        table: All rows and columns of the file.
        schema: Its kind; an unknown one is a warning.
        parent: The command that asked.
        shares: Configured shares of the arms; equal where not given.
        group: Column of the arm; guessed from its name where not given.
        unit: Column of the unit id; guessed where not given.
        schedule: Looks to check, of a sequential analysis.
    """
    report = _Report()
    if schema not in KNOWN_SCHEMAS:
        report.warnings.append(f"unknown schema {schema!r}: the general audit only")
    group = group or next((name for name in GROUP_COLUMNS if name in table.columns), None)
    unit = unit or unit_column(table)
    denominators = _denominators(table)
    tables = {"audit_column_profile": Table(columns=PROFILE_COLUMNS, rows=_profile(table, unit))}
    numeric = _numeric_summary(table, unit)
    if numeric:
        tables["audit_numeric_summary"] = Table(columns=SUMMARY_COLUMNS, rows=numeric)
    else:
        report.warnings.append("no column of numbers")
    _check_units(report, table, unit)
    _check_groups(report, table, group, shares, tables)
    _check_denominators(report, table, denominators)
    resolved = None
    if schedule is not None:
        resolved = _check_schedule(report, table, schedule, tables)
    document: Document = {
        "command": "audit",
        "parent_command": parent,
        "inputs": {"schema": schema, "context": {}},
        "shape": {"n_rows": table.height, "n_cols": table.width},
        "detected": {
            "group_col": group,
            "user_id_col": unit,
            "denominator_like_cols": denominators,
            "resolved_looks": resolved,
        },
        "checks": report.checks,
        "warnings": report.warnings,
        "errors": report.errors,
    }
    return Audit(document=document, text=_text(document, tables), tables=tables)


class _Report:
    """What the checks found, in the order in which they ran."""

    def __init__(self) -> None:
        self.checks: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.errors: list[str] = []


def masked(value: str) -> str:
    """The shape of a value without the value.

    Examples:
        >>> masked("ann-42@mail.org"), masked("1017")
        ('xxx-00@xxxx.xxx', '0000')
    """
    return "".join("0" if c.isdigit() else "x" if c.isalpha() else c for c in value)


def _profile(table: pl.DataFrame, unit: str | None) -> list[dict[str, Any]]:
    rows = []
    for name in table.columns:
        series = table[name]
        present = series.drop_nulls()
        example = str(present[0]) if present.len() else ""
        if present.len() and _is_personal(name, present, unit):
            example = masked(example)
        rows.append(
            {
                "column": name,
                "dtype": str(series.dtype),
                "n_rows": table.height,
                "n_missing": series.null_count(),
                "missing_share": series.null_count() / table.height,
                "n_unique": present.n_unique(),
                "example": example,
            }
        )
    return rows


def _is_personal(name: str, present: pl.Series, unit: str | None) -> bool:
    """Whether values may point at a person: by name, or as text that never repeats."""
    if name == unit or PERSONAL.search(name.lower()):
        return True
    is_text = present.dtype in (pl.String, pl.Categorical)
    return is_text and present.len() > FEW_ROWS and present.n_unique() == present.len()


def _numeric_summary(table: pl.DataFrame, unit: str | None) -> list[dict[str, Any]]:
    rows = []
    for name in table.columns:
        if not table[name].dtype.is_numeric() or name.startswith("_"):
            continue
        if name == unit or PERSONAL.search(name.lower()):
            continue  # the smallest and largest id are ids
        values = table[name].cast(pl.Float64).drop_nulls()
        values = values.filter(values.is_finite())
        row: dict[str, Any] = {"column": name, "count": values.len()}
        row |= {"mean": values.mean(), "std": values.std(), "min": values.min()}
        row |= {label: values.quantile(q, interpolation="linear") for label, q in QUANTILES.items()}
        rows.append(row | {"max": values.max()})
    return rows


def _denominators(table: pl.DataFrame) -> list[str]:
    return [name for name in table.columns if any(w in name.lower() for w in DENOMINATOR_WORDS)]


def _check_units(report: _Report, table: pl.DataFrame, unit: str | None) -> None:
    if unit is None:
        report.warnings.append("no column named like a unit id: duplicates are not checked")
        return
    units = table[unit]
    n_missing = units.null_count()
    n_repeated = units.len() - n_missing - units.drop_nulls().n_unique()
    report.checks["missing_ids"] = n_missing
    report.checks["duplicate_ids"] = n_repeated
    if n_missing:
        report.warnings.append(f"{unit}: {n_missing} rows have no id")
    if n_repeated:
        report.warnings.append(
            f"{unit}: {n_repeated} rows repeat an id; rows are then not units, and errors of "
            "estimates come out too small"
        )


def _check_groups(
    report: _Report,
    table: pl.DataFrame,
    group: str | None,
    shares: Mapping[str, float] | None,
    tables: dict[str, Table],
) -> None:
    if group is None:
        report.warnings.append("no column named like an arm: balance is not checked")
        return
    labels = table[group].cast(pl.String)
    counted = {
        label: n
        for label, n in labels.alias("arm").value_counts(sort=True, name="n").iter_rows()
        if label
    }
    counts = {label: counted[label] for label in sorted(counted)}
    total = sum(counts.values())
    rows = [{group: label, "n": n, "share": n / total} for label, n in counts.items()]
    tables["audit_group_balance"] = Table(columns=(group, "n", "share"), rows=rows)
    if labels.null_count():
        report.warnings.append(f"{group}: {labels.null_count()} rows have no arm")
    if len(counts) < 2:  # noqa: PLR2004
        report.errors.append(f"{group}: fewer than 2 arms, nothing can be compared")
        return
    ratio = max(counts.values()) / min(counts.values())
    report.checks["group_size_ratio"] = ratio
    if ratio > LARGEST_SIZE_RATIO and shares is None:
        report.warnings.append(
            f"{group}: the largest arm has {ratio:.3g} times the rows of the smallest (more than "
            f"{LARGEST_SIZE_RATIO:g})"
        )
    result, warning = sample_ratio(counts, shares)
    report.checks["srm"] = result
    if warning:
        (report.errors if result["verdict"] == "block" else report.warnings).append(warning)


def _check_denominators(report: _Report, table: pl.DataFrame, names: Sequence[str]) -> None:
    shares: dict[str, dict[str, float]] = {"zero": {}, "negative": {}, "non_numeric": {}}
    for name in names:
        series = table[name]
        values = series.cast(pl.String).cast(pl.Float64, strict=False)
        found = {
            "zero": values == 0,
            "negative": values < 0,
            "non_numeric": values.is_null() & series.is_not_null(),
        }
        for kind, is_found in found.items():
            n = int(is_found.fill_null(value=False).sum())
            if n:
                shares[kind][name] = n / table.height
                words = {"zero": "zero", "negative": "below zero", "non_numeric": "not a number"}
                report.warnings.append(
                    f"{name}: {n} of {table.height} values are {words[kind]}; "
                    "it is named like a denominator"
                )
    for kind, by_column in shares.items():
        report.checks[f"{kind}_denominator_share"] = by_column


def _check_schedule(
    report: _Report, table: pl.DataFrame, schedule: Schedule, tables: dict[str, Table]
) -> list[int] | None:
    if schedule.arms.group not in table.columns:
        report.warnings.append(f"no column {schedule.arms.group!r}: the looks are not checked")
        return None
    labels = table[schedule.arms.group].cast(pl.String)
    labels = labels.gather(stream_order(table, schedule.timestamp))
    beyond = [n for n in schedule.looks if n > table.height]
    if beyond:
        listed = ", ".join(map(str, beyond))
        report.warnings.append(
            f"looks beyond the {table.height} rows of the file wait for more data: {listed}"
        )
    rows = []
    for n in schedule.looks:
        if n > table.height:
            continue
        prefix = labels.head(n)
        counts = [int((prefix == arm).sum()) for arm in (schedule.arms.control, schedule.arms.test)]
        is_enough = min(counts) >= schedule.min_n_per_group
        values = (n, *counts, schedule.min_n_per_group, is_enough)
        rows.append(dict(zip(SCHEDULE_COLUMNS, values, strict=True)))
        if not is_enough:
            report.warnings.append(
                f"look at {n} rows: {counts[0]} control and {counts[1]} test rows, fewer than "
                f"{schedule.min_n_per_group} in an arm"
            )
    tables["audit_schedule_sanity"] = Table(columns=SCHEDULE_COLUMNS, rows=rows)
    return [int(row["look_n"]) for row in rows]


def _profile_sheet(path: Path, audit: Audit) -> Sheet:
    rows = audit.tables["audit_column_profile"].rows
    return Sheet(
        title=f"{path}: {len(rows)} columns",
        columns=("column", "type", "missing", "different", "example"),
        rows=[
            (
                str(row["column"]),
                str(row["dtype"]),
                str(row["n_missing"]),
                str(row["n_unique"]),
                str(row["example"]),
            )
            for row in rows
        ],
        align="llrrl",
    )


def _text(document: Document, tables: Mapping[str, Table]) -> str:
    """The audit as Markdown."""

    def bullets(lines: Sequence[str]) -> str:
        return "\n".join(f"- {' '.join(line.split())}" for line in lines) or "(none)"

    detected, shape = document["detected"], document["shape"]
    checks = [f"{name}: {json.dumps(value)}" for name, value in document["checks"].items()]
    sections = {
        "Inputs": [
            f"schema: {document['inputs']['schema']}",
            f"parent_command: {document['parent_command']}",
        ],
        "Dataset": [
            f"shape: {shape['n_rows']} rows, {shape['n_cols']} columns",
            *(f"detected {name}: {json.dumps(value)}" for name, value in detected.items()),
        ],
        "Checks": checks,
        "Warnings": document["warnings"],
        "Errors": document["errors"],
        "Tables": [f"tables/{name}.csv" for name in tables],
    }
    parts = [f"## {title}\n\n{bullets(lines)}\n" for title, lines in sections.items()]
    return "\n".join(["# experiments audit\n", *parts])
