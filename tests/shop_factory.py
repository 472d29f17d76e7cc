"""A small simulated experiment on disk, ready to land: for tests of assets, jobs and commands."""

import datetime as dt
import textwrap

import polars as pl

from experiments_dagster.config.project import load_project
from experiments_dagster.simulate.incoming import write_incoming
from experiments_dagster.simulate.shop import Shop
from experiments_dagster.storage.landing import land

PLATFORM = """
schema_version: 1
storage: store
timezone: UTC
threads: 2
sources:
  shop_events:
    kind: events
    path: incoming/shop_events/*.parquet
    columns:
      {unit: user_id, timestamp: occurred_at, event: event, event_id: event_id, value: amount}
    value_decimals: 2
  exposures:
    kind: exposures
    path: incoming/exposures/*.parquet
    columns: {unit: unit, timestamp: exposed_at, experiment: experiment, variant: variant}
alerts:
  channels:
    - {kind: file, name: alerts_file, path: alerts.jsonl}
"""
METRICS = """
schema_version: 1
metrics:
  orders: {kind: count, event: order, window_days: 7}
  converted: {kind: proportion, event: order, window_days: 7}
  order_value:
    kind: ratio
    numerator: {event: order}
    denominator: {event: order, aggregate: count}
    window_days: 7
"""
EXPERIMENT = """
schema_version: 1
owner: team:growth
hypothesis: {{primary: "More orders"}}
variants: {{control: 0.5, treatment: 0.5}}
salt: salt-of-{slug}-0123456789
window: {{start: 2026-03-02, end: 2026-03-30}}
metrics:
  primary: {{metric: orders, minimum_effect: 0.02}}
  secondary: [order_value]
  guardrails: [{{metric: converted, margin: 0.2}}]
plan:
  mde: 0.12
  estimator: {{kind: cuped, covariate_days: 14}}
  looks: {looks}
truth: {{treatment: {effect}}}
"""
WEEKLY = "{schedule: weekly, design: {kind: group_sequential, planned: 4}}"
LAST_DAY = dt.date(2026, 4, 6)
ASSIGNED = {"control": 0.5, "treatment": 0.5}


def shop_project(
    folder, *, effects=None, n_users=3000, looks=WEEKLY, real_shares=None, platform=PLATFORM
):
    """A project whose experiments (slug to effect) have all their files in incoming/.

    Args:
        folder: The project folder.
        effects: True relative effect by experiment; one called `trial` of +30 % by default.
        n_users: Users per experiment.
        looks: The `looks:` line of every experiment.
        real_shares: By experiment, how units were really split, where not as configured.
        platform: platform.yaml.
    """
    effects = effects or {"trial": 0.3}
    configs = folder / "configs"
    (configs / "experiments").mkdir(parents=True)
    (configs / "platform.yaml").write_text(textwrap.dedent(platform))
    (configs / "metrics.yaml").write_text(textwrap.dedent(METRICS))
    for slug, effect in effects.items():
        text = EXPERIMENT.format(slug=slug, looks=looks, effect=effect)
        (configs / "experiments" / f"{slug}.yaml").write_text(text)
    project = load_project(folder)
    for seed, (slug, effect) in enumerate(effects.items(), start=11):
        write_shop(project, slug, effect, n_users, seed, (real_shares or {}).get(slug, ASSIGNED))
    return project


def land_all(project):
    """Land all that is in incoming/ and take no look."""
    land(project, arrival_day=dt.date(2026, 4, 7), now=dt.datetime(2026, 4, 7, tzinfo=dt.UTC))


def write_shop(project, slug, effect, n_users, seed, shares):
    """Write one experiment's events and exposures as one incoming file each."""
    experiment = project.experiments[slug].model_copy(update={"variants": shares})
    shop = Shop(
        experiment=experiment,
        effects={"treatment": effect},
        n_users=n_users,
        orders_per_day=0.15,
        history_days=14,
        follow_up_days=7,
        seed=seed,
    )
    prefix = pl.format("{}-{}", pl.lit(slug), "user_id")
    events = shop.events.drop("day").with_columns(
        user_id=prefix, event_id=pl.format("{}-{}", pl.lit(slug), "event_id")
    )
    exposures = shop.exposures.drop("day").with_columns(
        unit=pl.format("{}-{}", pl.lit(slug), "unit")
    )
    tables = {"shop_events": events, "exposures": exposures}
    write_incoming(project.folder / "incoming", slug, tables)
