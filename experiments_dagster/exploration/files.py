"""The summaries of a file: shape, types, missing, duplicates, distributions, correlation, balance.

A grouping column splits only the columns named as from before the experiment (`pre`), or called
so: `pre_x` or `x_pre`. Everything else is described over all rows together, and columns that tell
the arm, such as a 0/1 of the treatment, are left out: correlated with an outcome they would compare
the arms. Without a grouping column any column of two values may be that, so none is correlated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster.exploration.facts import (
    Fact,
    Vector,
    balance_facts,
    column_facts,
    correlation_facts,
    number_fact,
)
from experiments_dagster.exploration.record import (
    Exploration,
    level_balance,
    level_facts,
    ratio_facts,
)

MAX_LEVELS = 20
MAX_CORRELATED = 60
ARM_NAMES = (
    *("group", "variant", "variation", "arm", "bucket", "treatment", "treated", "cohort"),
    *("ab_group", "grp", "is_treated", "is_treatment"),
)
UNIT_NAMES = ("user_id", "unit", "unit_id", "uid", "customer_id", "client_id", "id")
SUFFIXES = (".parquet", ".pq", ".csv")
# Ratios that readers of the AI product's tables know; minutes become hours.
DERIVED: dict[str, tuple[str, str, float]] = {
    "ai_calls_per_hour": ("ai_calls", "time_on_platform", 60.0),
    "tasks_per_hour": ("tasks_completed", "time_on_platform", 60.0),
    "revenue_per_task": ("revenue", "tasks_completed", 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest:
    """What to read and how.

    Args:
        path: A .parquet or .csv file.
        unit: Column of the unit's id, which is counted and never shown; one of `UNIT_NAMES` when
            left out.
        group: Column of the arm.
        control: The control's value in it; the first in the alphabet when left out.
        pre: Columns from before the experiment, beside those called so.
        ratios: Numerator and denominator by name.
    """

    path: Path
    unit: str | None = None
    group: str | None = None
    control: str | None = None
    pre: tuple[str, ...] = ()
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def explore_file(request: FileRequest) -> Exploration:
    """Summarise a file.

    Raises:
        ValueError: The file cannot be read or has no rows, or a column is missing.
    """
    table = _read(request.path)
    if table.is_empty():
        msg = f"{request.path}: has no rows"
        raise ValueError(msg)
    if request.unit is None:
        called = (name for name in table.columns if name.lower() in UNIT_NAMES)
        request = replace(request, unit=next(called, None))
    named = [request.unit, request.group, *request.pre]
    named += [column for pair in request.ratios.values() for column in pair]
    for column in named:
        if column is not None and column not in table.columns:
            known = ", ".join(table.columns)
            msg = f"{request.path}: column {column!r} is missing; it has {known}"
            raise ValueError(msg)
    telling = _tells_the_arm(table, request)
    aside = {request.unit, request.group, *telling}
    numbers = {
        name: _numbers(table[name])
        for name, dtype in table.schema.items()
        if (dtype.is_numeric() or dtype == pl.Boolean) and name not in aside
    }
    facts = list(_quality(table, request.unit))
    for name, values in numbers.items():
        facts += column_facts("metrics", name, values)
    facts += _derived(table, numbers, request)
    facts += _levels(table, aside)
    order, notes = _arms(table, request), list[str]()
    if telling:
        notes.append(f"left out because they tell the arm: {', '.join(telling)}")
    if order:
        for arm in order:
            n = int((table[request.group or ""].cast(pl.String) == arm).sum())
            facts.append(number_fact("units", "rows", "n", n, level=arm))
        facts += _balance(table, numbers, request, order)
    correlated, left_out = _correlated(numbers, request)
    facts += correlation_facts(correlated)
    notes += left_out
    return Exploration(
        subject=request.path.name,
        unit="row",
        facts=tuple(facts),
        origin={"path": str(request.path), "rows": table.height, "columns": table.width},
        notes=tuple(notes),
        arms=order,
    )


def is_pre_period(name: str) -> bool:
    """Whether a column is called one from before the experiment."""
    return name.startswith("pre_") or name.endswith("_pre")


def _tells_the_arm(table: pl.DataFrame, request: FileRequest) -> list[str]:
    """Columns that are called an arm, are a function of the arm or have it as one.

    A column that is the same everywhere tells nothing; one with a value per row is no function of
    anything.
    """
    names = [name for name in table.columns if name not in (request.unit, request.group)]
    chosen = [name for name in names if name.lower() in ARM_NAMES]
    if request.group is None:
        return chosen
    arms = table[request.group].cast(pl.String).alias("_arm")
    for name in names:
        if name in chosen or name in request.pre:
            continue
        pairs = table.select(pl.col(name).alias("_value")).with_columns(arms).drop_nulls()
        n_values, n_arms = pairs["_value"].n_unique(), pairs["_arm"].n_unique()
        n_pairs = pairs.n_unique()
        follows = 1 < n_values <= n_pairs == n_arms
        leads = 1 < n_pairs == n_values and 2 * n_values < pairs.height and n_arms > 1
        if follows or leads:
            chosen.append(name)
    return chosen


def _correlated(
    numbers: Mapping[str, Vector], request: FileRequest
) -> tuple[dict[str, Vector], list[str]]:
    """The columns whose correlations may be shown, and why others are not."""
    chosen, notes = dict(numbers), []
    if request.group is None:
        binary = [name for name, values in numbers.items() if _is_binary(values)]
        chosen = {name: values for name, values in numbers.items() if name not in binary}
        if binary:
            notes.append(
                f"not correlated: {', '.join(binary)}. A column of two values may tell the arm and "
                "would then compare the arms; name the arm by --group-col"
            )
    if len(chosen) > MAX_CORRELATED:
        notes.append(
            f"{len(chosen)} numeric columns: correlations of more than {MAX_CORRELATED} are left "
            "out"
        )
        chosen = {}
    return chosen, notes


def _is_binary(values: Vector) -> bool:
    """Whether there are exactly two values beside missing ones."""
    return len(np.unique(values[~np.isnan(values)])) == 2  # noqa: PLR2004


def _read(path: Path) -> pl.DataFrame:
    if path.suffix not in SUFFIXES:
        msg = f"{path}: unknown file type {path.suffix!r}; use .parquet or .csv"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema_length=None)
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        # The library's message may quote rows.
        msg = f"{path}: cannot be read as {path.suffix} ({type(error).__name__})"
        raise ValueError(msg) from None


def _quality(table: pl.DataFrame, unit: str | None) -> Iterator[Fact]:
    yield number_fact("quality", "file", "rows", table.height)
    yield number_fact("quality", "file", "columns", table.width)
    yield number_fact("quality", "file", "duplicate_rows", table.height - table.n_unique())
    if unit is not None:
        ids = table[unit].drop_nulls()
        yield number_fact("quality", "file", "duplicate_units", len(ids) - ids.n_unique())
    for name, dtype in table.schema.items():
        text = str(dtype)
        yield Fact(section="quality", subject="file", statistic="dtype", level=name, text=text)
        yield number_fact("quality", "file", "n_missing", _missing(table[name]), level=name)
        yield number_fact("quality", "file", "n_unique", table[name].n_unique(), level=name)


def _missing(column: pl.Series) -> int:
    if column.dtype.is_float():
        column = column.fill_nan(None)
    return column.null_count()


def _derived(
    table: pl.DataFrame, numbers: Mapping[str, Vector], request: FileRequest
) -> Iterator[Fact]:
    wanted: dict[str, tuple[str, str, float]] = {
        name: (top, bottom, 1.0) for name, (top, bottom) in request.ratios.items()
    }
    for name, parts in DERIVED.items():
        if name not in table.columns and {parts[0], parts[1]} <= set(numbers):
            wanted.setdefault(name, parts)
    for name, (top, bottom, factor) in wanted.items():
        for column in (top, bottom):
            if column not in numbers:
                msg = f"--ratio {name}: column {column!r} must be numbers"
                raise ValueError(msg)
        known = ~(np.isnan(numbers[top]) | np.isnan(numbers[bottom]))
        yield from ratio_facts(
            "derived", name, factor * numbers[top][known], numbers[bottom][known]
        )


def _levels(table: pl.DataFrame, aside: set[str | None]) -> Iterator[Fact]:
    """Text columns with few values; one with many may be an id, and is only counted."""
    for name, dtype in table.schema.items():
        is_text = dtype in (pl.String, pl.Categorical, pl.Enum)
        if is_text and name not in aside and table[name].n_unique() <= MAX_LEVELS:
            yield from level_facts("segments", name, table[name])


def _arms(table: pl.DataFrame, request: FileRequest) -> tuple[str, ...]:
    """The arms, the control first."""
    if request.group is None:
        return ()
    arms = sorted(table[request.group].cast(pl.String).drop_nulls().unique().to_list())
    if len(arms) > MAX_LEVELS:
        msg = f"--group-col {request.group}: {len(arms)} values, need at most {MAX_LEVELS}"
        raise ValueError(msg)
    control = request.control
    if control is None:
        control = "control" if "control" in arms else next(iter(arms), None)
    if control not in arms:
        msg = f"--control {control}: {request.path} has no row of it; it has {', '.join(arms)}"
        raise ValueError(msg)
    return (control, *(arm for arm in arms if arm != control))


def _balance(
    table: pl.DataFrame,
    numbers: Mapping[str, Vector],
    request: FileRequest,
    order: tuple[str, ...],
) -> Iterator[Fact]:
    arms: Any = table[request.group or ""].cast(pl.String).fill_null("").to_numpy()
    arms = arms.astype(np.str_)
    chosen = [name for name in table.columns if name in request.pre or is_pre_period(name)]
    for name in chosen:
        if name in numbers:
            yield from balance_facts(name, numbers[name], arms, order)
        elif table[name].n_unique() <= MAX_LEVELS:
            yield from level_balance(name, table[name], arms, order)
        else:
            msg = f"--pre {name}: {table[name].n_unique()} values, need numbers or few levels"
            raise ValueError(msg)


def _numbers(column: pl.Series) -> Vector:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
