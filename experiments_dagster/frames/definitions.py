"""The one definition of unit_days, exposures, unit frames and daily series.

Written once as narwhals lazy expressions; runs on DuckDB relations and Polars LazyFrames alike.
Nothing here reads files or knows an engine; nothing here estimates anything.

Times are naive UTC microseconds. A landed event carries its local day and that day's limits
(`day_start`, `day_end`), so no expression depends on a session time zone.

A unit's total over a window [low, high) is the sum of

    unit_days   days that lie in the window as a whole
    unit_events single events of the days that `low` or `high` cut

which is exact to the microsecond and touches single events only near the cuts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import narwhals as nw

from experiments_dagster.config.metrics import Measure, Metric

Frame = nw.LazyFrame[Any]
ANY_EVENT = "n_events"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTotal:
    """One column of a unit frame: a measure's total over days relative to first exposure.

    An open window ends at `until` where that comes before its last day.
    """

    name: str
    measure: str
    start_day: int
    end_day: int
    until: dt.datetime | None = None

    @property
    def low(self) -> str:
        """The column that holds the window's start."""
        return _limit(self.start_day)

    @property
    def high(self) -> str:
        """The column that holds the window's end."""
        return _limit(self.end_day) + ("" if self.until is None else "_open")


def with_text_columns(frame: Frame, names: Iterable[str]) -> Frame:
    """The frame with a null text column for each name it lacks: a property not mapped back then."""
    present = frame.collect_schema().names()
    missing = [name for name in sorted(set(names)) if name not in present]
    if not missing:
        return frame
    return frame.with_columns(*(nw.lit(None, dtype=nw.String).alias(name) for name in missing))


def measured_events(events: Frame, measures: Sequence[Measure]) -> Frame:
    """One row per landed event that some measure counts, with one column per measure.

    Columns: unit, occurred_at, event_day, day_start, day_end, n_events (1), one per measure key.
    """
    wanted = sorted({event for measure in measures for event in measure.events})
    events = with_text_columns(events, (name for measure in measures for name in measure.where))
    return events.filter(nw.col("event").is_in(wanted)).select(
        "unit",
        "occurred_at",
        "event_day",
        "day_start",
        "day_end",
        nw.lit(1, dtype=nw.Int64).alias(ANY_EVENT),
        *(_contribution(measure).alias(measure.key) for measure in measures),
    )


def _contribution(measure: Measure) -> nw.Expr:
    counts = nw.col("event").is_in(list(measure.events))
    for name, values in measure.where.items():
        counts = counts & nw.col(name).is_in(list(values))
    amount = nw.col("value") if measure.aggregate == "sum" else nw.lit(1, dtype=nw.Int64)
    return nw.when(counts).then(amount)


def unit_days(unit_events: Frame, measures: Sequence[Measure]) -> Frame:
    """Measures added up per unit and local day. Sums stay exact where values are decimals."""
    counts = [ANY_EVENT, *(m.key for m in measures if m.aggregate == "count")]
    sums = [m.key for m in measures if m.aggregate == "sum"]
    return unit_events.group_by("unit", "event_day").agg(
        nw.col("day_start").min(),
        nw.col("day_end").max(),
        # Engines widen integer sums differently; the files of all batches must agree.
        *(nw.col(column).sum().cast(nw.Int64) for column in counts),
        *(nw.col(column).sum() for column in sums),
    )


def first_exposures(
    exposures: Frame,
    *,
    experiment: str,
    starts_at: dt.datetime,
    ends_at: dt.datetime,
    segments: Sequence[str],
) -> Frame:
    """One row per unit exposed in [starts_at, ends_at): first arm, time and segments.

    Columns: unit, arm, exposed_at, n_exposures, n_arms, then the segments at first exposure.
    """
    rows = with_text_columns(exposures, segments).filter(
        nw.col("experiment") == experiment,
        nw.col("occurred_at") >= starts_at,
        nw.col("occurred_at") < ends_at,
    )
    first = rows.unique(["unit"], keep="first", order_by=["occurred_at", "event_id"]).select(
        "unit",
        nw.col("variant").alias("arm"),
        nw.col("occurred_at").alias("exposed_at"),
        *(nw.col(segment).alias(f"segment_{segment}") for segment in segments),
    )
    by_arm = rows.group_by("unit", "variant").agg(nw.len().alias("n_exposures"))
    counts = by_arm.group_by("unit").agg(
        nw.col("n_exposures").sum().cast(nw.Int64), nw.len().alias("n_arms")
    )
    return first.join(counts, on="unit", how="inner")


def window_totals(
    exposures: Frame,
    days: Frame,
    events: Frame,
    totals: Sequence[WindowTotal],
) -> Frame:
    """Per exposed unit, one Float64 column per window total; units without events get 0.

    Args:
        exposures: Columns unit, exposed_at; one row per unit.
        days: `unit_days` of all batches up to the cut-off.
        events: `measured_events` of the same batches.
        totals: What to add up over which days.
    """
    # Limits once per unit, not once per event: interval arithmetic costs more than the join.
    limits = {
        **{total.low: (total.start_day, None) for total in totals},
        **{total.high: (total.end_day, total.until) for total in totals},
    }
    who = exposures.select(
        "unit", *(instant(day, until).alias(name) for name, (day, until) in sorted(limits.items()))
    )
    whole_days = days.join(who, on="unit", how="inner").select(
        "unit", *(_amount(total, _whole_day_inside(total)) for total in totals)
    )
    cut_days = events.join(who, on="unit", how="inner").filter(
        nw.any_horizontal(*(_cut(name) for name in sorted(limits)), ignore_nulls=True)
    )
    single_events = cut_days.select(
        "unit",
        *(_amount(total, _event_inside(total) & ~_whole_day_inside(total)) for total in totals),
    )
    # Exact types stay exact up to the last sum, so that no order of adding up shows.
    sums = [nw.col(total.name).sum() for total in totals]
    parts = [part.group_by("unit").agg(*sums) for part in (whole_days, single_events)]
    summed = (
        nw.concat(parts, how="vertical")
        .group_by("unit")
        .agg(*(column.cast(nw.Float64) for column in sums))
    )
    return exposures.join(summed, on="unit", how="left").with_columns(
        *(nw.col(total.name).fill_null(0.0) for total in totals)
    )


def instant(day: int, until: dt.datetime | None) -> nw.Expr:
    """exposed_at plus some days, but no later than `until`."""
    instant = nw.col("exposed_at").dt.offset_by(f"{day}d")
    if until is None:
        return instant
    return nw.when(instant > until).then(nw.lit(until)).otherwise(instant)


def _limit(day: int) -> str:
    """The column that holds exposed_at plus some days."""
    return f"_limit_{day}" if day >= 0 else f"_limit_minus_{-day}"


def _amount(total: WindowTotal, inside: nw.Expr) -> nw.Expr:
    return nw.when(inside).then(nw.col(total.measure)).alias(total.name)


def _whole_day_inside(total: WindowTotal) -> nw.Expr:
    low, high = nw.col(total.low), nw.col(total.high)
    return (nw.col("day_start") >= low) & (nw.col("day_end") <= high)


def _event_inside(total: WindowTotal) -> nw.Expr:
    low, high = nw.col(total.low), nw.col(total.high)
    return (nw.col("occurred_at") >= low) & (nw.col("occurred_at") < high)


def _cut(name: str) -> nw.Expr:
    """Whether a window limit lies inside the event's local day."""
    limit = nw.col(name)
    return (nw.col("day_start") < limit) & (limit < nw.col("day_end"))


def window_events(exposures: Frame, events: Frame, metric: Metric, horizon: dt.datetime) -> Frame:
    """The single events of a metric in the closed windows of units of one arm.

    Returns:
        unit, arm, value (Float64): one row per event.
    """
    closed = nw.col("exposed_at").dt.offset_by(f"{metric.end_day}d")
    who = exposures.filter(nw.col("n_arms") == 1, closed <= horizon).select(
        "unit",
        "arm",
        nw.col("exposed_at").dt.offset_by(f"{metric.start_day}d").alias("_low"),
        closed.alias("_high"),
    )
    ((_, measure),) = metric.columns
    return (
        events.join(who, on="unit", how="inner")
        .filter(
            nw.col("occurred_at") >= nw.col("_low"),
            nw.col("occurred_at") < nw.col("_high"),
            ~nw.col(measure.key).is_null(),
        )
        .select("unit", "arm", nw.col(measure.key).cast(nw.Float64).alias("value"))
    )


def daily_totals(metric: Metric) -> list[WindowTotal]:
    """One total per day since exposure of a metric that adds up over days: day_000, day_001, ..."""
    ((_, measure),) = metric.columns
    days = range(metric.start_day, metric.end_day)
    return [
        WindowTotal(name=f"day_{day:03d}", measure=measure.key, start_day=day, end_day=day + 1)
        for day in days
    ]


def metric_totals(
    metrics: Sequence[Metric],
    covariate_days: int,
    *,
    cap_basis: Metric | None = None,
    with_lags: bool = False,
    horizon: dt.datetime | None = None,
) -> list[WindowTotal]:
    """The window totals that a set of metrics needs: outcomes and pre-period covariates.

    Args:
        metrics: Metrics of one event source.
        covariate_days: Length of the window that ends at first exposure.
        cap_basis: The metric whose cap is a quantile of pre-period totals over a window as long
            as its outcome's; adds the column `cap_basis_<metric>`.
        with_lags: Add `lag_<metric>`, the total of the covariate window's length before it, from
            which predictions are trained.
        horizon: Where open-ended windows end, naive UTC.
    """
    totals = []
    for metric in metrics:
        for name, measure in metric.columns:
            totals.append(
                WindowTotal(
                    name=name,
                    measure=measure.key,
                    start_day=metric.start_day,
                    end_day=metric.end_day,
                    until=horizon if metric.is_open_ended else None,
                )
            )
            totals.append(
                WindowTotal(
                    name=f"pre_{name}", measure=measure.key, start_day=-covariate_days, end_day=0
                )
            )
            if with_lags:
                totals.append(
                    WindowTotal(
                        name=f"lag_{name}",
                        measure=measure.key,
                        start_day=-2 * covariate_days,
                        end_day=-covariate_days,
                    )
                )
    if cap_basis is not None:
        name, measure = cap_basis.columns[0]
        totals.append(
            WindowTotal(
                name=f"cap_basis_{name}",
                measure=measure.key,
                start_day=-cap_basis.window_days,
                end_day=0,
            )
        )
    return totals


def unit_frame(totals: Frame, metrics: Sequence[Metric], horizon: dt.datetime) -> Frame:
    """Outcomes per unit: null until the unit counts, 0/1 for indicators.

    Adds `is_pre_missing` (nothing at all of these metrics in the covariate window: a function of
    the plan alone). Indicator covariates stay counts: how often is a better predictor than whether.
    """
    columns = []
    for metric in metrics:
        mature = nw.col("exposed_at").dt.offset_by(f"{metric.maturity_days}d") <= horizon
        for name, _ in metric.columns:
            value = nw.col(name)
            if metric.is_indicator:
                value = nw.when(value > 0).then(1.0).otherwise(0.0)
            columns.append(nw.when(mature).then(value).alias(name))
    pre_totals = [f"pre_{name}" for metric in metrics for name, _ in metric.columns]
    is_missing = nw.all_horizontal(*(nw.col(name) == 0 for name in pre_totals), ignore_nulls=True)
    return totals.with_columns(*columns, is_missing.alias("is_pre_missing"))


def daily_series(days: Frame, group: Frame, measure: str) -> Frame:
    """Totals per local day of the units in a group and of all other units.

    Args:
        days: `unit_days` of all batches up to the cut-off.
        group: One column, unit: the treated units.
        measure: The measure's column.

    Returns:
        event_day, is_treated, total.
    """
    treated = group.select("unit").unique(["unit"]).with_columns(nw.lit(1).alias("_treated"))
    return (
        days.join(treated, on="unit", how="left")
        .with_columns((nw.col("_treated").fill_null(0) == 1).alias("is_treated"))
        .group_by("event_day", "is_treated")
        .agg(nw.col(measure).cast(nw.Float64).sum().alias("total"))
    )


class DayWindow(NamedTuple):
    """A measure from one local day up to and including another."""

    measure: str
    first: dt.date
    last: dt.date


def unit_windows(days: Frame, windows: Mapping[str, DayWindow]) -> Frame:
    """Totals of units over windows of days, one row per unit with an event in any window.

    Args:
        days: `unit_days` of all batches up to the cut-off, of one source.
        windows: By name; measures are columns of `days`.

    Returns:
        unit, and per window its total (0 without an event).
    """
    inside = {
        name: (nw.col("event_day") >= window.first) & (nw.col("event_day") <= window.last)
        for name, window in windows.items()
    }
    return (
        days.filter(nw.any_horizontal(*inside.values(), ignore_nulls=True))
        .group_by("unit")
        .agg(
            nw.when(inside[name])
            .then(nw.col(window.measure).cast(nw.Float64))
            .otherwise(nw.lit(0.0))
            .sum()
            .alias(name)
            for name, window in windows.items()
        )
    )
