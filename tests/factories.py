"""Small factories that several test folders share: a project on disk, its inputs, one landing."""

import datetime as dt
import textwrap
from pathlib import Path

import polars as pl

from experiments_dagster.config.project import load_project
from experiments_dagster.storage.landing import land
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

REPOSITORY = Path(__file__).parents[1]

PLATFORM = """
    schema_version: 1
    storage: store
    timezone: Europe/Berlin
    memory_limit: 1GB
    threads: 1
    sources:
      events:
        kind: events
        path: incoming/events/*
        columns: {unit: user, timestamp: at, event: event, event_id: id, value: amount}
        value_decimals: 2
      exposures:
        kind: exposures
        path: incoming/exposures/*
        columns: {unit: user, timestamp: at, experiment: experiment, variant: variant}
"""

METRICS = """
    schema_version: 1
    metrics:
      spend: {kind: mean, event: order, window_days: 7}
      orders: {kind: count, event: order, window_days: 7}
      bought: {kind: proportion, event: order, window_days: 7}
      back: {kind: retention, event: visit, start_day: 3, window_days: 4}
      basket:
        kind: ratio
        numerator: {event: order}
        denominator: {event: order, aggregate: count}
        window_days: 7
"""

EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {primary: "More spend"}
    variants: {control: 0.5, treatment: 0.5}
    salt: a-salt-of-its-own
    window: {start: 2026-03-02, end: 2026-03-30}
    metrics:
      primary: {metric: spend, minimum_effect: 0.02}
      secondary: [orders, bought, back]
      guardrails: [{metric: basket, margin: 0.2}]
    plan:
      mde: 0.1
      estimator: {kind: cuped, covariate_days: 14}
      looks: {schedule: weekly, design: {kind: group_sequential, planned: 4}}
"""


def utc(*parts):
    """An aware UTC instant from year, month, day, hour, ..."""
    return dt.datetime(*parts, tzinfo=dt.UTC)


def write_configs(folder, *, platform=PLATFORM, metrics=METRICS, **experiments):
    """Write configs/ of a project; experiments by slug, one called `trial` unless given."""
    configs = folder / "configs"
    (configs / "experiments").mkdir(parents=True, exist_ok=True)
    (configs / "platform.yaml").write_text(textwrap.dedent(platform))
    (configs / "metrics.yaml").write_text(textwrap.dedent(metrics))
    for slug, text in (experiments or {"trial": EXPERIMENT}).items():
        (configs / "experiments" / f"{slug}.yaml").write_text(textwrap.dedent(text))
    return folder


def make_project(folder, **configs):
    """A loaded project with minimal configuration and empty incoming folders."""
    for source in ("events", "exposures"):
        (folder / "incoming" / source).mkdir(parents=True, exist_ok=True)
    return load_project(write_configs(folder, **configs))


def events_table(rows):
    """Rows (user, at, event, id, amount) as the project's event source has them."""
    schema = {
        "user": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "event": pl.String,
        "id": pl.String,
        "amount": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def exposures_table(rows, experiment="trial"):
    """Rows (user, at, variant) as the project's exposure source has them."""
    schema = {"user": pl.String, "at": pl.Datetime("us", "UTC"), "variant": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(experiment=pl.lit(experiment))


def incoming(project, source, name, table):
    """Write one Parquet file to a source's incoming folder."""
    path = project.folder / "incoming" / source / f"{name}.parquet"
    table.write_parquet(path)
    return path


AFTER = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


def land_now(project, *, now=AFTER):
    """Land whatever is new; the default is later than every event of the tests."""
    return land(project, arrival_day=now.date(), now=now)


def manifest_of(project):
    """The verified manifest."""
    return Manifest(Layout(project.storage)).refresh()
