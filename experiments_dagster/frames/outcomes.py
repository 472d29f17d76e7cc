"""Outcomes and covariates of exposed units: the definition of `definitions` over landed batches.

The same code serves an experiment's own exposures and those that `history` pretends.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import narwhals as nw
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import (
    Frame,
    daily_totals,
    metric_totals,
    unit_frame,
    window_events,
    window_totals,
)
from experiments_dagster.frames.partials import Partials, build_partials
from experiments_dagster.frames.row_plan import cap_basis_of, row_total, totals_of
from experiments_dagster.storage.duck import Duck
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.manifest import Manifest

FIRST_DAY = "_first_day"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the frames are made from: files per source and up to when each source speaks."""

    partials: dict[str, Partials]
    horizons: dict[str, dt.datetime]

    def horizon(self, source: str) -> dt.datetime:
        """The horizon of one source as naive UTC."""
        return self.horizons[source].replace(tzinfo=None)


def open_partials(
    project: Project, manifest: Manifest, experiment: Experiment, *, cutoff: int
) -> dict[str, Partials]:
    """The partials of every source that the experiment reads, built where they are missing."""
    measures = {part.key: part for metric in experiment.metrics for part in metric.parts}
    partials = {}
    for source in sorted({part.source for part in measures.values()}):
        needed = [part for part in measures.values() if part.source == source]
        partials[source] = build_partials(project, manifest, source, up_to=cutoff, needed=needed)
    return partials


def outcome_rows(
    duck: Duck, experiment: Experiment, exposures: Frame, tables: Tables
) -> pl.DataFrame:
    """All exposed units with outcomes and covariates of every metric.

    They come by UTC day of first exposure, then by unit, so that sums over them add up in the same
    order however they were made.

    Args:
        duck: The connection that holds `exposures`.
        experiment: Metrics and covariates.
        exposures: One row per unit with `exposed_at`.
        tables: What the outcomes are made from.

    Raises:
        ContractError: Nothing has landed of the primary metric's source.
    """
    frame, silent = exposures, list[Metric]()
    for source, files in tables.partials.items():
        metrics = [m for m in experiment.metrics if m.parts[0].source == source]
        if not files.days:
            if experiment.primary in metrics:
                raise ContractError(f"raw/{source}", {"no events have landed": 0})
            silent += metrics
            continue
        totals = window_totals(
            exposures,
            nw.from_native(duck.parquet(files.days)),
            nw.from_native(duck.parquet(files.events)),
            metric_totals(
                metrics,
                experiment.plan.estimator.covariate_days,
                cap_basis=cap_basis_of(experiment) if experiment.primary in metrics else None,
                with_lags=experiment.predicts,
                horizon=tables.horizon(source),
            ),
        )
        columns = unit_frame(totals, metrics, tables.horizon(source))
        if frame is exposures:
            frame = columns
        else:
            names = [name for metric in metrics for name, _ in metric.columns]
            other = columns.select(
                "unit",
                nw.col("is_pre_missing").alias("_is_pre_missing"),
                *names,
                *(f"pre_{name}" for name in names),
                *(f"lag_{name}" for name in names if experiment.predicts),
                *([f"cap_basis_{names[0]}"] if _has_cap_basis(experiment, metrics) else []),
            )
            frame = (
                frame.join(other, on="unit", how="inner")
                .with_columns(nw.col("is_pre_missing") & nw.col("_is_pre_missing"))
                .drop("_is_pre_missing")
            )
    ordered = frame.with_columns(nw.col("exposed_at").dt.truncate("1d").alias(FIRST_DAY))
    collected: pl.DataFrame = ordered.sort(FIRST_DAY, "unit").drop(FIRST_DAY).to_native().pl()
    for metric in silent:  # nothing is known of them yet: open windows, no history
        for name, _ in metric.columns:
            nothing = pl.lit(None, dtype=pl.Float64).alias(name)
            collected = collected.with_columns(nothing, pl.lit(0.0).alias(f"pre_{name}"))
            if experiment.predicts:
                collected = collected.with_columns(pl.lit(0.0).alias(f"lag_{name}"))
    return collected.with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC"))


def rows_as_of(
    experiment: Experiment, rows: pl.LazyFrame, horizons: dict[str, dt.datetime]
) -> pl.LazyFrame:
    """What of kept unit rows counts at a look, named by the experiment's metrics.

    As `unit_frame` says it, in Polars alone: a night asks a thousand times.

    Args:
        experiment: Metrics and covariates.
        rows: Unit rows of the experiment (`row_plan.RowPlan.columns`).
        horizons: Up to when each source speaks, naive UTC; a source without events is left out.
    """
    sources = sorted({metric.parts[0].source for metric in experiment.metrics})
    columns = {
        total.name: pl.col(row_total(total).name).cast(pl.Float64)
        for source in sources
        for total in totals_of(experiment, source)
    }
    is_missing = []
    for metric in experiment.metrics:
        horizon = horizons.get(metric.parts[0].source)
        for name, _ in metric.columns:
            if horizon is None:  # nothing is known of it yet: open windows, no history
                columns[name] = pl.lit(None, dtype=pl.Float64)
                continue
            closed = pl.col("exposed_at").dt.offset_by(f"{metric.maturity_days}d") <= horizon
            value = columns[name]
            if metric.is_indicator:
                value = (value > 0).cast(pl.Float64)
            columns[name] = pl.when(closed).then(value)
            is_missing.append(columns[f"pre_{name}"] == 0)
    return rows.select(
        *("unit", "arm", pl.col("exposed_at").dt.replace_time_zone("UTC")),
        *("n_exposures", "n_arms"),
        *(f"segment_{name}" for name in experiment.exposure_properties),
        *(value.alias(name) for name, value in columns.items()),
        pl.all_horizontal(is_missing).alias("is_pre_missing"),
    )


def extra_frames(
    duck: Duck,
    experiment: Experiment,
    exposures: Frame,
    tables: Tables,
    as_of: dt.datetime,
) -> dict[str, pl.DataFrame]:
    """event_frame where a metric is a quantile of events, day_frame at the planned end."""
    extra: dict[str, pl.DataFrame] = {}
    quantiles = []
    for metric in experiment.metrics:
        source = metric.parts[0].source
        if metric.of_events and tables.partials[source].events:
            events = nw.from_native(duck.parquet(tables.partials[source].events))
            rows = window_events(exposures, events, metric, tables.horizon(source))
            found: pl.DataFrame = rows.sort("unit", "value").to_native().pl()
            quantiles.append(found.select(pl.lit(metric.name).alias("metric"), pl.all()))
    if quantiles:
        extra["event_frame"] = pl.concat(quantiles)
    metric = experiment.primary
    source = metric.parts[0].source
    if experiment.shows_novelty(as_of) and tables.partials[source].days:
        who = exposures.filter(
            nw.col("n_arms") == 1,
            nw.col("exposed_at").dt.offset_by(f"{metric.end_day}d") <= tables.horizon(source),
        )
        totals = window_totals(
            who,
            nw.from_native(duck.parquet(tables.partials[source].days)),
            nw.from_native(duck.parquet(tables.partials[source].events)),
            daily_totals(metric),
        )
        names = [total.name for total in daily_totals(metric)]
        extra["day_frame"] = totals.select("unit", "arm", *names).sort("unit").to_native().pl()
    return extra


def _has_cap_basis(experiment: Experiment, metrics: list[Metric]) -> bool:
    return cap_basis_of(experiment) is not None and experiment.primary in metrics
