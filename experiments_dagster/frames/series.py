"""daily_series of one intervention as of a cut-off: build, validate, promote.

From landed events: the totals per day of the treated units and of all others. From a table of the
project folder: its outcome and covariates, a row per day or week.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.intervention import TimeSeriesSpec
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.config.resolve import canonical_hash
from experiments_dagster.config.study_data import Series, SeriesFile
from experiments_dagster.contracts.frames import validate_daily_series
from experiments_dagster.frames.definitions import daily_series
from experiments_dagster.frames.partials import build_partials
from experiments_dagster.frames.study_tables import moments, numbers
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest
from experiments_dagster.storage.table_file import MISSING_TEXT, read_table

DAYS_PER_PERIOD = {"daily": 1, "weekly": 7}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesInfo:
    """A published daily series and what it was made from; a table has no treated units."""

    intervention: str
    cutoff: int
    daily_series: str
    sha256: str
    rows: int
    n_treated: int | None
    inputs: dict[str, str]
    config_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DailySeries:
    """Columns event_day, treated, and one per covariate (`others`, the total of other units)."""

    info: SeriesInfo
    days: pl.DataFrame

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the columns that the intervention does not touch."""
        return tuple(self.days.columns[2:])

    def periods(self, intervention: Intervention) -> pl.DataFrame:
        """Totals per period from pre.start to post.end: period_start, treated, covariates.

        A period whose last day has not landed yet is left out: its total would be too small.
        """
        spec = time_series_spec(intervention)
        inside = self.days.filter(pl.col("event_day").is_between(spec.pre.start, spec.post.end))
        if isinstance(spec.series, SeriesFile):
            return inside.rename({"event_day": "period_start"})
        length = DAYS_PER_PERIOD[spec.series.frequency]
        inside = inside.head(inside.height // length * length)
        offset = (pl.col("event_day") - spec.pre.start).dt.total_days() // length
        return (
            inside.with_columns(
                (pl.lit(spec.pre.start) + pl.duration(days=offset * length)).alias("period_start")
            )
            .group_by("period_start")
            .agg(pl.col("treated", *self.covariates).sum())
            .sort("period_start")
        )


def time_series_spec(intervention: Intervention) -> TimeSeriesSpec:
    """The specification of an intervention whose design is a time series.

    Raises:
        TypeError: It has another design.
    """
    if not isinstance(intervention.spec, TimeSeriesSpec):
        msg = f"{intervention.slug}: {intervention.spec.design.kind} has no daily series"
        raise TypeError(msg)
    return intervention.spec


def build_daily_series(
    project: Project, manifest: Manifest, intervention: Intervention, *, cutoff: int
) -> DailySeries:
    """Build the series and publish it when its contract holds.

    Of landed events, batches 1..cutoff count; days without any event count as 0, from the first
    day of the pre period to the last of the post period, as far as data have landed.

    Raises:
        ContractError: No treated unit has landed, the table lacks a column, or the series breaks
            its contract.
        DataDamagedError: A landed file that is needed is damaged.
    """
    layout, spec = manifest.layout, time_series_spec(intervention)
    if isinstance(spec.series, SeriesFile):
        frame, inputs = _from_file(intervention, spec, spec.series)
        n_treated, step = None, DAYS_PER_PERIOD[spec.series.frequency]
    else:
        frame, inputs, n_treated = _from_events(project, manifest, intervention, cutoff)
        step = 1
    validate_daily_series(frame, intervention.slug, step_days=step)
    made_from = canonical_hash([inputs, intervention.config_hash])
    target = layout.frame("daily_series", intervention.slug) / f"{cutoff:06d}-{made_from}.parquet"
    with staged(target, layout.staging) as temporary:
        frame.write_parquet(temporary, compression="zstd")
        digest = sha256_file(temporary)
    info = SeriesInfo(
        intervention=intervention.slug,
        cutoff=cutoff,
        daily_series=str(target.relative_to(layout.root)),
        sha256=digest,
        rows=frame.height,
        n_treated=n_treated,
        inputs=inputs,
        config_hash=intervention.config_hash,
    )
    pointer = layout.frame("daily_series", intervention.slug) / "current.json"
    write_bytes(pointer, canonical_json(asdict(info)))
    return DailySeries(info=info, days=frame)


def _from_events(
    project: Project, manifest: Manifest, intervention: Intervention, cutoff: int
) -> tuple[pl.DataFrame, dict[str, str], int]:
    spec, layout, metric = time_series_spec(intervention), manifest.layout, intervention.metric
    assert isinstance(spec.series, Series)
    assert metric is not None
    measure, treated = metric.parts[0], spec.series.treated
    partials = build_partials(project, manifest, measure.source, up_to=cutoff)
    tables = manifest.tables(treated.source, up_to=cutoff)
    files = [manifest.verified(table) for _, table in tables]
    if not files or not partials.days:
        raise ContractError(f"daily_series of {intervention.slug}", {"no data have landed": 0})
    with connect(project.platform, layout) as duck:
        group = nw.from_native(duck.parquet(files)).filter(
            nw.col("experiment") == treated.experiment
        )
        if treated.variants:
            group = group.filter(nw.col("variant").is_in(list(treated.variants)))
        group = group.select("unit").unique(["unit"])
        n_treated: int = group.to_native().pl().height
        days = nw.from_native(duck.parquet(partials.days))
        totals = daily_series(days, group, measure.key).to_native().pl()
    if not n_treated:
        raise ContractError(f"daily_series of {intervention.slug}", {"no treated unit": 0})
    last = min(spec.post.end, _last_whole_day(project, manifest, totals, cutoff))
    inputs = partials.inputs | {table.path: table.sha256 for _, table in tables}
    return _wide(totals, spec.pre.start, last), inputs, n_treated


def _from_file(
    intervention: Intervention, spec: TimeSeriesSpec, series: SeriesFile
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The outcome as `treated` and the covariates under their own names."""
    path = intervention.files[0]
    # Before it is read: an edit meanwhile then counts as news.
    inputs = {path.name: sha256_file(path)}
    columns = [series.date, series.outcome, *series.covariates]
    try:
        table = read_table(path, columns, missing=MISSING_TEXT)
        frame = table.select(
            moments(path, table, series.date).alias("event_day"),
            numbers(path, table, series.outcome).alias("treated"),
            *(numbers(path, table, name).alias(name) for name in series.covariates),
        ).sort("event_day")
    except ValueError as error:
        raise ContractError(f"daily_series of {intervention.slug}", {str(error): 1}) from None
    inside = pl.col("event_day").is_between(spec.pre.start, spec.post.end)
    frame = frame.filter(inside)
    off = 0 if frame.is_empty() else (frame["event_day"][0] - spec.pre.start).days % 7
    if series.frequency == "weekly" and off:
        rule = f"weeks begin {off} days after those of pre.start {spec.pre.start}; must be the same"
        raise ContractError(f"daily_series of {intervention.slug}", {rule: frame.height})
    return frame, inputs


def read_daily_series(layout: Layout, slug: str) -> DailySeries:
    """The published series of an intervention.

    Raises:
        FileNotFoundError: None has been published yet.
    """
    pointer = layout.frame("daily_series", slug) / "current.json"
    info = SeriesInfo(**json.loads(pointer.read_bytes()))
    return DailySeries(info=info, days=pl.read_parquet(layout.root / info.daily_series))


def _last_whole_day(
    project: Project, manifest: Manifest, totals: pl.DataFrame, cutoff: int
) -> dt.date:
    """The newest day with events, or the one before it if it had not ended at the last landing."""
    newest = totals["event_day"].max()
    assert isinstance(newest, dt.date)
    zone = ZoneInfo(project.platform.timezone)
    landed = max(batch.landed_at for batch in manifest.batches[:cutoff]).astimezone(zone).date()
    return newest if landed > newest else newest - dt.timedelta(days=1)


def _wide(totals: pl.DataFrame, first: dt.date, last: dt.date) -> pl.DataFrame:
    calendar = pl.DataFrame({"event_day": pl.date_range(first, last, eager=True)})
    parts = {
        name: totals.filter(pl.col("is_treated") == treated).select("event_day", name="total")
        for name, treated in (("treated", True), ("others", False))
    }
    for name, part in parts.items():
        calendar = calendar.join(part.rename({"name": name}), on="event_day", how="left")
    return calendar.with_columns(pl.col("treated", "others").fill_null(0.0)).sort("event_day")
