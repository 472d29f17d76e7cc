"""Past units as if the experiment had run on them: what planning knows of base rate and variance.

A unit's first event in a past enrolment period stands for its first exposure; outcomes, windows and
covariates then come from the same definition as those of the experiment itself. The period ends
one window before the history does (or before the experiment starts), so that every window is
closed, and is as long as the experiment where the history allows. How fast distinct units come is
read from the newest days, which need no closed window.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import accumulate
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.frames.outcomes import (
    Tables,
    extra_frames,
    open_partials,
    outcome_rows,
)
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.manifest import Manifest

MIN_ENROLMENT_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Past units with closed windows.

    Args:
        rows: One row per unit with the columns of the unit frames; arm is null.
        events: Single events, where a metric is a quantile of events.
        first_day: First day of the enrolment period.
        days: Its length.
        accrual: Distinct units by the end of each of the newest days of the history, as many as
            the experiment has, where there are so many.
        truncated_days: Days by which the covariate window of the first unit reaches back beyond
            the history; its gain is then understated.
    """

    rows: pl.DataFrame
    events: pl.DataFrame | None
    first_day: dt.date
    days: int
    accrual: tuple[int, ...]
    truncated_days: int


def read_history(project: Project, manifest: Manifest, experiment: Experiment) -> History:
    """Build the unit rows of a past enrolment period.

    Raises:
        ContractError: Nothing has landed of the primary metric's source, or the history is too
            short for one window and `MIN_ENROLMENT_DAYS`.
        DataDamagedError: A landed file that is needed is damaged.
    """
    zone = ZoneInfo(experiment.timezone)
    source = experiment.primary.parts[0].source
    tables = manifest.tables(source, up_to=manifest.head)
    times = [(table.first_at, table.last_at) for _, table in tables]
    first = min((low for low, _ in times if low is not None), default=None)
    last = max((high for _, high in times if high is not None), default=None)
    if first is None or last is None:
        raise ContractError(f"raw/{source}", {"no events have landed": 0})
    until = min(last, experiment.starts_at) if first < experiment.starts_at else last
    window = max(metric.end_day for metric in experiment.metrics)
    end = until.astimezone(zone).date() - dt.timedelta(days=window)
    oldest = first.astimezone(zone).date()
    wanted = experiment.enrolment_days
    covered = oldest + dt.timedelta(days=experiment.plan.estimator.covariate_days)
    latest = end - dt.timedelta(days=MIN_ENROLMENT_DAYS)
    start = max(end - dt.timedelta(days=wanted), min(covered, latest), oldest)
    if start > latest:
        needed = window + MIN_ENROLMENT_DAYS
        found = (until.astimezone(zone).date() - oldest).days
        rule = f"{needed} days of history are needed for a window and a week, {found} are there"
        raise ContractError(f"raw/{source}", {rule: 1})
    files = [manifest.verified(table) for _, table in tables]
    partials = open_partials(project, manifest, experiment, cutoff=manifest.head)
    horizons = dict.fromkeys(partials, until.astimezone(dt.UTC) + dt.timedelta(days=1))
    with connect(project.platform, manifest.layout) as duck:
        events = nw.from_native(duck.parquet(files))
        entered = _first_events(events, start, end, zone).with_columns(
            nw.lit(None, dtype=nw.String).alias("arm"),
            nw.lit(1).alias("n_arms"),
            *(
                nw.lit(None, dtype=nw.String).alias(f"segment_{name}")
                for name in experiment.exposure_properties
            ),
        )
        newest = until.astimezone(zone).date()
        opening = max(newest - dt.timedelta(days=wanted), oldest)
        came: pl.DataFrame = _first_events(events, opening, newest, zone).to_native().pl()
        made = Tables(partials=partials, horizons=horizons)
        rows = outcome_rows(duck, experiment, entered, made)
        extra = extra_frames(duck, experiment, entered, made, experiment.starts_at)
    return History(
        rows=rows,
        events=extra.get("event_frame"),
        first_day=start,
        days=(end - start).days,
        accrual=_accrual(came, opening, newest, experiment.timezone),
        truncated_days=max((covered - start).days, 0) if experiment.adjusts else 0,
    )


def _first_events(events: Frame, start: dt.date, end: dt.date, zone: ZoneInfo) -> Frame:
    """The first event of every unit from one local day up to another: unit, exposed_at."""
    low, high = (
        dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC).replace(tzinfo=None)
        for day in (start, end)
    )
    return (
        events.filter(nw.col("occurred_at") >= low, nw.col("occurred_at") < high)
        .group_by("unit")
        .agg(nw.col("occurred_at").min().alias("exposed_at"))
    )


def _accrual(came: pl.DataFrame, start: dt.date, end: dt.date, timezone: str) -> tuple[int, ...]:
    """Distinct units by the end of each day of a period."""
    local = pl.col("exposed_at").dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    per_day = dict(came.group_by(local.dt.date().alias("day")).len().iter_rows())
    counts = [per_day.get(start + dt.timedelta(days=k), 0) for k in range((end - start).days)]
    return tuple(accumulate(counts))
