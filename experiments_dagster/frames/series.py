"""daily_series of one intervention as of a cut-off: build, validate, promote."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.contracts.frames import validate_daily_series
from experiments_dagster.frames.definitions import daily_series
from experiments_dagster.frames.partials import build_partials
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

DAYS_PER_PERIOD = {"daily": 1, "weekly": 7}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesInfo:
    """A published daily series and what it was made from."""

    intervention: str
    cutoff: int
    daily_series: str
    sha256: str
    rows: int
    n_treated: int
    inputs: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DailySeries:
    """Totals per local day: columns event_day, treated, others."""

    info: SeriesInfo
    days: pl.DataFrame

    def periods(self, intervention: Intervention) -> pl.DataFrame:
        """Totals per period from pre.start to post.end: period_start, treated, others.

        A period whose last day has not landed yet is left out: its total would be too small.
        """
        spec = intervention.spec
        length = DAYS_PER_PERIOD[spec.series.frequency]
        inside = self.days.filter(pl.col("event_day").is_between(spec.pre.start, spec.post.end))
        inside = inside.head(inside.height // length * length)
        offset = (pl.col("event_day") - spec.pre.start).dt.total_days() // length
        return (
            inside.with_columns(
                (pl.lit(spec.pre.start) + pl.duration(days=offset * length)).alias("period_start")
            )
            .group_by("period_start")
            .agg(pl.col("treated").sum(), pl.col("others").sum())
            .sort("period_start")
        )


def build_daily_series(
    project: Project, manifest: Manifest, intervention: Intervention, *, cutoff: int
) -> DailySeries:
    """Build the series from batches 1..cutoff and publish it when its contract holds.

    Days without any event count as 0: from the first day of the pre period to the last of the
    post period, as far as data have landed.

    Raises:
        ContractError: No treated unit has landed, or the series breaks its contract.
        DataDamagedError: A landed file that is needed is damaged.
    """
    layout, spec = manifest.layout, intervention.spec
    measure = intervention.metric.parts[0]
    partials = build_partials(project, manifest, measure.source, up_to=cutoff)
    tables = manifest.tables(spec.series.treated.source, up_to=cutoff)
    files = [manifest.verified(table) for _, table in tables]
    if not files or not partials.days:
        raise ContractError(f"daily_series of {intervention.slug}", {"no data have landed": 0})
    with connect(project.platform, layout) as duck:
        group = nw.from_native(duck.parquet(files)).filter(
            nw.col("experiment") == spec.series.treated.experiment
        )
        if spec.series.treated.variants:
            group = group.filter(nw.col("variant").is_in(list(spec.series.treated.variants)))
        group = group.select("unit").unique(["unit"])
        n_treated = group.to_native().pl().height
        days = nw.from_native(duck.parquet(partials.days))
        totals = daily_series(days, group, measure.key).to_native().pl()
    if not n_treated:
        raise ContractError(f"daily_series of {intervention.slug}", {"no treated unit": 0})
    frame = _wide(
        totals,
        spec.pre.start,
        min(spec.post.end, _last_whole_day(project, manifest, totals, cutoff)),
    )
    validate_daily_series(frame, intervention.slug)
    target = layout.frame("daily_series", intervention.slug) / f"{cutoff:06d}.parquet"
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
        inputs=partials.inputs | {table.path: table.sha256 for _, table in tables},
    )
    pointer = layout.frame("daily_series", intervention.slug) / "current.json"
    write_bytes(pointer, canonical_json(asdict(info)))
    return DailySeries(info=info, days=frame)


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
