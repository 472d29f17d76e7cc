"""A file as regular series: one value of every column for each day or week.

Rows of one day are put together by `--aggregation`, days without a value are treated by
`--missing-policy`, and only then days become weeks. Weeks are counted from the intervention, so
that no week holds days of both sides; a week at either end with fewer than 7 days is left out.
A file that is weekly already keeps its own days. Money spent is always a sum.

Nothing is filled across the intervention: a value from after it would leak the effect into the
fit, one from before it would count as an outcome of the intervention.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.cli.impact.request import DAYS, ImpactRequest
from experiments_dagster.cli.user_level.rows import read_file

Vector = NDArray[np.float64]
DATE = "date"
WEEK = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularSeries:
    """Equally spaced periods in order; `dates` are their first days.

    Args:
        dates: Shape (n,).
        y: Outcome, shape (n,), none missing.
        x: Covariates, shape (n, p), none missing.
        names: Of the covariates.
        spend: Money spent in each period, shape (n,), or None.
        n_pre: Periods before the intervention.
        is_aggregated: Whether some period stands for several rows.
        n_filled: Values that the missing policy made up.
        warnings: What was changed.
    """

    dates: tuple[dt.date, ...]
    y: Vector
    x: Vector
    names: tuple[str, ...]
    spend: Vector | None
    n_pre: int
    is_aggregated: bool
    n_filled: int
    warnings: tuple[str, ...]

    @property
    def n_post(self) -> int:
        """Periods from the intervention on."""
        return len(self.dates) - self.n_pre


def read_series(request: ImpactRequest) -> tuple[RegularSeries, pl.DataFrame]:
    """The series of a request, and the file's table.

    Raises:
        ValueError: A column is missing or holds no numbers, dates cannot be read, values are
            missing where the policy forbids or cannot fill, or one side of the intervention is
            empty.
    """
    table = read_file(request.path)
    values = _columns(request, table)
    by_day = _by_day(values, request)
    warnings: list[str] = []
    has_repeats = by_day.height < values.height
    if has_repeats:
        warnings.append(
            f"{values.height} rows on {by_day.height} dates: rows of a date are put together "
            f"by their {request.aggregation}"
        )
    step = _step(by_day[DATE], request)
    grid = _grid(by_day, step)
    names = [name for name in grid.columns if name != DATE]
    filled, n_filled = _fill(grid, names, request)
    if n_filled:
        warnings.append(
            f"{n_filled} missing values filled by {request.missing_policy} count as observed: "
            "the intervals are too short by that"
        )
    weekly = request.freq == "W" and step < WEEK
    if weekly:
        filled, left_out = _weeks(filled, names, request)
        if left_out:
            warnings.append(f"{left_out} days at the ends make no whole week and are left out")
    dates = filled[DATE].to_list()
    n_pre = int((filled[DATE] < request.intervention).sum())
    if not 0 < n_pre < len(dates):
        first, last = by_day[DATE][0], by_day[DATE][-1]
        msg = (
            f"--intervention {request.intervention}: the file covers {first} to {last}; need "
            "whole periods before it and from it on"
        )
        raise ValueError(msg)
    is_spent = request.spend_col is not None
    series = RegularSeries(
        dates=tuple(dates),
        y=filled["y"].to_numpy(),
        x=filled.select([f"x{k}" for k in range(len(request.x))]).to_numpy()
        if request.x
        else np.empty((len(dates), 0)),
        names=request.x,
        spend=filled["spend"].to_numpy() if is_spent else None,
        n_pre=n_pre,
        is_aggregated=has_repeats or weekly,
        n_filled=n_filled,
        warnings=tuple(warnings),
    )
    return series, table


def _columns(request: ImpactRequest, table: pl.DataFrame) -> pl.DataFrame:
    """The date and the numbers under fixed names, so that a column may serve twice."""
    wanted = {"y": ("--y", request.y)}
    wanted |= {f"x{k}": ("--x", name) for k, name in enumerate(request.x)}
    if request.spend_col is not None:
        wanted["spend"] = ("--spend-col", request.spend_col)
    for flag, name in [("--date-col", request.date_col), *wanted.values()]:
        if name not in table.columns:
            has = ", ".join(table.columns)
            msg = f"{flag} {name}: {request.path} has no such column; it has {has}"
            raise ValueError(msg)
    columns = [_dates(request, table[request.date_col]).alias(DATE)]
    for key, (flag, name) in wanted.items():
        columns.append(_numbers(flag, name, table[name]).alias(key))
    return pl.DataFrame(columns)


def _dates(request: ImpactRequest, series: pl.Series) -> pl.Series:
    if series.dtype.is_temporal():
        dates = series.cast(pl.Date)
    else:
        text = series.cast(pl.String).str.slice(0, 10)
        dates = text.str.to_date("%Y-%m-%d", strict=False)
    if dates.null_count():
        row = int(dates.is_null().arg_max() or 0) + 1
        msg = f"--date-col {request.date_col}: data row {row} has no date such as 2026-01-31"
        raise ValueError(msg)
    return dates


def _numbers(flag: str, name: str, series: pl.Series) -> pl.Series:
    if not (series.dtype.is_numeric() or series.dtype == pl.Null):
        msg = f"{flag} {name}: holds no numbers but {series.dtype}"
        raise ValueError(msg)
    values = series.cast(pl.Float64).fill_nan(None)
    is_infinite = values.is_infinite().fill_null(value=False)
    if is_infinite.any():
        row = int(is_infinite.arg_max() or 0) + 1
        msg = f"{flag} {name}: data row {row} is infinite"
        raise ValueError(msg)
    return values


def _together(name: str, request: ImpactRequest) -> pl.Expr:
    """One value out of several; null where a sum would lack a part, or nothing is known."""
    column = pl.col(name)
    if request.aggregation == "mean" and name != "spend":
        return column.mean()
    return pl.when(column.null_count() == 0).then(column.sum()).otherwise(None).alias(name)


def _by_day(values: pl.DataFrame, request: ImpactRequest) -> pl.DataFrame:
    names = [name for name in values.columns if name != DATE]
    together = [_together(name, request) for name in names]
    return values.group_by(DATE).agg(together).sort(DATE)


def _step(dates: pl.Series, request: ImpactRequest) -> int:
    """Days between rows: 1, or 7 where the file is weekly."""
    gaps = dates.diff().dt.total_days().drop_nulls()
    closest = int(gaps.min()) if gaps.len() else 1  # type: ignore[arg-type]
    if closest < WEEK:
        return 1
    if request.freq == "D":
        msg = f"--freq D: rows of {request.path} are {closest} or more days apart; use --freq W"
        raise ValueError(msg)
    is_off = gaps % WEEK != 0
    if is_off.any():
        at = dates[int(is_off.arg_max() or 0) + 1]
        msg = f"--freq W: {at} is not a whole number of weeks after the row before it"
        raise ValueError(msg)
    return WEEK


def _grid(by_day: pl.DataFrame, step: int) -> pl.DataFrame:
    """Every date from the first to the last."""
    first, last = by_day[DATE][0], by_day[DATE][-1]
    every = pl.date_range(first, last, f"{step}d", eager=True).alias(DATE)
    return every.to_frame().join(by_day, on=DATE, how="left").sort(DATE)


def _fill(grid: pl.DataFrame, names: list[str], request: ImpactRequest) -> tuple[pl.DataFrame, int]:
    shown = {"y": request.y, "spend": request.spend_col or ""}
    shown |= {f"x{k}": name for k, name in enumerate(request.x)}
    n_missing = sum(grid[name].null_count() for name in names)
    if not n_missing:
        return grid, 0
    if request.missing_policy == "zero":
        return grid.with_columns(pl.col(names).fill_null(0.0)), n_missing
    side = (pl.col(DATE) >= request.intervention).alias("side")
    columns = pl.col(names)
    filled = grid
    if request.missing_policy == "ffill":
        filled = grid.with_columns(columns.forward_fill().over(side))
    elif request.missing_policy == "bfill":
        filled = grid.with_columns(columns.backward_fill().over(side))
    for name in names:
        if filled[name].null_count():
            _refuse_missing(filled.filter(pl.col(name).is_null()), shown[name], request)
    return filled, n_missing


def _refuse_missing(missing: pl.DataFrame, name: str, request: ImpactRequest) -> None:
    first, n = missing[DATE][0], missing.height
    reasons = {
        "raise": "hint: --missing-policy ffill, bfill or zero",
        "ffill": "nothing before it on its side of the intervention can be carried forward",
        "bfill": "nothing after it on its side of the intervention can be carried back",
    }
    more = f" and {n - 1} more dates" if n > 1 else ""
    msg = (
        f"--missing-policy {request.missing_policy}: {name} has no value on {first}{more}; "
        f"{reasons[request.missing_policy]}"
    )
    raise ValueError(msg)


def _weeks(
    days: pl.DataFrame, names: list[str], request: ImpactRequest
) -> tuple[pl.DataFrame, int]:
    """Weeks of 7 days counted from the intervention, and the days that make no whole week."""
    since = (pl.col(DATE) - request.intervention).dt.total_days()
    start = request.intervention + pl.duration(days=since.floordiv(DAYS["W"]) * DAYS["W"])
    weeks = (
        days.with_columns(start.cast(pl.Date).alias("week"))
        .group_by("week")
        .agg(pl.len().alias("n_days"), *[_together(name, request) for name in names])
        .sort("week")
    )
    is_whole = pl.col("n_days") == DAYS["W"]
    left_out = int(weeks.filter(~is_whole)["n_days"].sum())
    return weeks.filter(is_whole).drop("n_days").rename({"week": DATE}), left_out
