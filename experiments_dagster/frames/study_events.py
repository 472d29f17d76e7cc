"""Study frames from landed events: windows of days per unit, the treated from an exposure source.

A frame stands as of a cut-off. It is made only when the last day that it reads has landed as a
whole; until then there is nothing to say about an outcome.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.intervention import PanelSpec, UnitSpec
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.config.study_data import Group, MetricWindow, PanelEvents, UnitsEvents
from experiments_dagster.frames.definitions import DayWindow, unit_windows
from experiments_dagster.frames.partials import Partials, build_partials
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.manifest import Manifest

WEEK = dt.timedelta(days=7)
DAY = dt.timedelta(days=1)


@dataclass(slots=True)
class EventReader:
    """Reads windows of days of one project as of a cut-off, and notes what it has read."""

    project: Project
    manifest: Manifest
    cutoff: int
    inputs: dict[str, str] = field(default_factory=dict)

    def last_whole_day(self, source: str) -> dt.date | None:
        """The newest day of a source that had ended when its last batch landed."""
        partials = self._partials(source)
        if not partials.days:
            return None
        newest = pl.scan_parquet(list(partials.days)).select(pl.col("event_day").max())
        day: dt.date | None = newest.collect().item()
        if day is None:
            return None
        zone = ZoneInfo(self.project.platform.timezone)
        landed = max(batch.landed_at for batch in self.manifest.batches[: self.cutoff])
        return day if landed.astimezone(zone).date() > day else day - DAY

    def group(self, group: Group) -> pl.DataFrame:
        """The units of a group: one column, unit.

        Raises:
            ValueError: None has landed.
        """
        tables = self.manifest.tables(group.source, up_to=self.cutoff)
        files = [self.manifest.verified(table) for _, table in tables]
        self.inputs |= {table.path: table.sha256 for _, table in tables}
        if not files:
            raise ValueError(_nobody(group))
        rows = pl.scan_parquet(files, missing_columns="insert", extra_columns="ignore")
        rows = rows.filter(pl.col("experiment") == group.experiment)
        if group.variants:
            rows = rows.filter(pl.col("variant").is_in(list(group.variants)))
        found = rows.select("unit").unique().collect()
        if found.is_empty():
            raise ValueError(_nobody(group))
        return found

    def windows(
        self, windows: Mapping[str, MetricWindow], metrics: Mapping[str, Metric]
    ) -> pl.DataFrame:
        """Unit and the total of each window; one row per unit with an event in any of them."""
        by_source: dict[str, dict[str, DayWindow]] = {}
        for name, window in windows.items():
            measure = metrics[window.metric].parts[0]
            day_window = DayWindow(measure.key, window.start, window.end)
            by_source.setdefault(measure.source, {})[name] = day_window
        found: pl.DataFrame | None = None
        for source, wanted in by_source.items():
            totals = self._totals(source, wanted)
            found = (
                totals
                if found is None
                else found.join(totals, on="unit", how="full", coalesce=True)
            )
        assert found is not None
        return found.with_columns(pl.col(list(windows)).fill_null(0.0)).select("unit", *windows)

    def _totals(self, source: str, windows: Mapping[str, DayWindow]) -> pl.DataFrame:
        partials = self._partials(source)
        if not partials.days:
            columns = {name: pl.Series([], dtype=pl.Float64) for name in windows}
            return pl.DataFrame({"unit": pl.Series([], dtype=pl.String), **columns})
        with connect(self.project.platform, self.manifest.layout) as duck:
            days = nw.from_native(duck.parquet(partials.days))
            totals: pl.DataFrame = unit_windows(days, windows).to_native().pl()
        return totals

    def _partials(self, source: str) -> Partials:
        partials = build_partials(self.project, self.manifest, source, up_to=self.cutoff)
        self.inputs |= partials.inputs
        return partials


def _nobody(group: Group) -> str:
    named = f" ({', '.join(group.variants)})" if group.variants else ""
    return f"no unit of {group.experiment}{named} has landed in {group.source}"


def missing_days(reader: EventReader, intervention: Intervention) -> str | None:
    """Why a study of events cannot be made yet, or None."""
    spec = intervention.spec
    if isinstance(spec, PanelSpec) and isinstance(spec.panel, PanelEvents):
        last = spec.panel.post.end
    elif isinstance(spec, UnitSpec) and isinstance(spec.units, UnitsEvents):
        last = spec.units.outcome.end
    else:
        return None
    assert intervention.metric is not None
    landed = reader.last_whole_day(intervention.metric.parts[0].source)
    if landed is not None and landed >= last:
        return None
    return f"reads days up to {last}, landed as a whole up to {landed or 'none'}"


def panel_from_events(
    reader: EventReader, panel: PanelEvents, metrics: Mapping[str, Metric]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Units by periods; units are those with an event in the periods before.

    Returns:
        The frame as in `study_tables`, outcomes per week or per day (`daily`, `whole`); and how
        many units of the group have no event before, by reason.
    """
    periods = _periods(panel)
    windows = {
        f"p{k}": MetricWindow(metric=panel.metric, start=first, end=last)
        for k, (first, last) in enumerate(periods)
    }
    before = MetricWindow(metric=panel.metric, start=panel.pre.start, end=panel.pre.end)
    seen = reader.windows({"total": before}, metrics).select("unit")
    group = reader.group(panel.treated)
    totals = reader.windows(windows, metrics).join(seen, on="unit", how="semi")
    n_pre = sum(last <= panel.pre.end for _, last in periods)
    days = [(last - first).days + 1 for first, last in periods]
    scale = days if panel.frequency == "whole" else [1] * len(days)
    labels = pl.DataFrame(
        {
            "name": list(windows),
            "period": range(len(windows)),
            "label": [str(first) for first, _ in periods],
            "scale": scale,
        }
    )
    frame = (
        totals.unpivot(index="unit", variable_name="name", value_name="total")
        .join(labels, on="name", how="left")
        .join(group.with_columns(first_treated=pl.lit(n_pre, pl.Int64)), on="unit", how="left")
        .with_columns((pl.col("total") / pl.col("scale")).alias("outcome"))
        .select("unit", "period", "label", "outcome", "first_treated")
        .sort("unit", "period")
    )
    unseen = group.join(seen, on="unit", how="anti").height
    return frame, {"units of the group without an event before": unseen} if unseen else {}


def units_from_events(
    reader: EventReader, units: UnitsEvents, metrics: Mapping[str, Metric]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A row per unit with an event in a covariate's window; a unit without an outcome has 0."""
    covariates = _scaled(reader.windows(units.covariates, metrics), units.covariates)
    later = {"outcome": units.outcome} | {
        f"placebo.{name}": window for name, window in units.placebo_outcomes.items()
    }
    group = reader.group(units.treated)
    columns = {
        name: f"x.log {name}" if window.scale == "log" else f"x.{name}"
        for name, window in units.covariates.items()
    }
    renamed = covariates.rename(columns)
    frame = (
        renamed.join(reader.windows(later, metrics), on="unit", how="left")
        .with_columns(pl.col(list(later)).fill_null(0.0))
        .join(group.with_columns(treated=pl.lit(value=True)), on="unit", how="left")
        .with_columns(pl.col("treated").fill_null(value=False))
        .select(
            *("unit", "outcome", "treated"),
            *columns.values(),
            *(f"placebo.{name}" for name in units.placebo_outcomes),
        )
        .sort("unit")
    )
    unseen = group.join(covariates, on="unit", how="anti").height
    return frame, {"units of the group without an event before": unseen} if unseen else {}


def _scaled(totals: pl.DataFrame, windows: Mapping[str, MetricWindow]) -> pl.DataFrame:
    """Totals on the scale that their window asks for."""
    logs = [name for name, window in windows.items() if window.scale == "log"]
    for name in logs:
        n_negative = int((totals[name] < 0).sum())
        if n_negative:
            msg = f"covariate {name}: {n_negative} units have a negative total, it has no logarithm"
            raise ValueError(msg)
    return totals.with_columns(pl.col(name).log1p() for name in logs)


def _periods(panel: PanelEvents) -> list[tuple[dt.date, dt.date]]:
    """First and last day of each period."""
    if panel.frequency == "whole":
        return [(panel.pre.start, panel.pre.end), (panel.post.start, panel.post.end)]
    step = WEEK if panel.frequency == "weekly" else DAY
    n = ((panel.post.end - panel.pre.start).days + 1) // step.days
    starts = [panel.pre.start + k * step for k in range(n)]
    return [(start, start + step - DAY) for start in starts]
