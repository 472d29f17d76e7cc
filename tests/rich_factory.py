"""A small project with everything a look can record, and its looks, taken for real.

Two success metrics, two exploratory ones, a guardrail, segments of very unequal size, other methods
for comparison, and an effect that is larger on phones and wears off by day.
"""

import datetime as dt

import numpy as np
import polars as pl
from factories import METRICS, PLATFORM, incoming, land_now, make_project, manifest_of

from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import open_ledger, take_look
from experiments_dagster.stats.design.allocation import assign

RICH_PLATFORM = PLATFORM.replace(
    "variant: variant}", "variant: variant}\n        properties: {device: device, country: country}"
)
RICH_METRICS = METRICS.replace("event: visit", "event: order")
RICH_EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {primary: "A one-step checkout raises spend"}
    variants: {control: 0.5, one_step: 0.5}
    salt: a-salt-of-its-own
    window: {start: 2026-03-02, end: 2026-03-30}
    metrics:
      primary: {metric: spend, minimum_effect: 0.02}
      success: [orders]
      secondary: [bought, back]
      guardrails: [{metric: basket, margin: 0.1}]
    segments: [device, country]
    plan:
      mde: 0.08
      estimator: {kind: cuped, covariate_days: 14}
      looks:
        schedule: weekly
        design: {kind: group_sequential, planned: 4}
      sensitivity: [log1p, trimmed, mann_whitney, bootstrap, permutation]
      prior: {lift_sd: 0.03}
"""
# A futility bound is judged on one success metric alone.
FUTILE_EXPERIMENT = RICH_EXPERIMENT.replace("success: [orders]", "success: []").replace(
    "planned: 4}", "planned: 4, futility: {spending: obrien_fleming}}"
)
DAYS = 8
HISTORY = 14


def rich_project(folder, *, text=RICH_EXPERIMENT, lift=0.2, wears_off=0.0, n_users=4000, seed=5):
    """A project on disk with everything landed.

    Args:
        folder: Where it lies.
        text: The experiment.
        lift: Relative effect of every treatment on the order rate; twice as large on phones.
        wears_off: Rate per day since exposure at which the effect decays.
        n_users: Units.
        seed: Of orders and properties.
    """
    project = make_project(folder, platform=RICH_PLATFORM, metrics=RICH_METRICS, trial=text)
    trial = project.experiments["trial"]
    rng = np.random.default_rng(seed)
    units = [f"s{index:06d}" for index in range(n_users)]
    arms = [
        assign(unit, experiment="trial", salt=trial.salt, shares=trial.variants).variant
        for unit in units
    ]
    seconds = (trial.ends_at - trial.starts_at).total_seconds()
    at = [trial.starts_at + dt.timedelta(seconds=s) for s in rng.uniform(0, seconds, n_users)]
    device = rng.choice(
        ["desktop", "phone", "tablet", "watch"], n_users, p=[0.4, 0.5, 0.095, 0.005]
    )
    country = rng.choice(["de", "fr", "it"], n_users, p=[0.6, 0.3, 0.1])
    exposures = pl.DataFrame(
        {"user": units, "at": at, "variant": arms, "device": device, "country": country}
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")), experiment=pl.lit("trial"))
    incoming(project, "exposures", "all", exposures)
    effect = np.array([0.0 if arm == "control" else lift for arm in arms])
    effect *= np.where(device == "phone", 2.0, 1.0)
    incoming(project, "events", "all", _orders(rng, units, at, effect, wears_off))
    land_now(project)
    return project


def _orders(rng, units, at, effect, wears_off):
    """Poisson orders by day since exposure, at a rate of the unit's own."""
    days = np.arange(-HISTORY, DAYS)
    rate = 0.5 * rng.gamma(2.0, 0.5, len(units))
    decay = np.where(days < 0, 0.0, np.exp(-wears_off * np.maximum(days, 0)))
    counts = rng.poisson(rate[:, None] * (1 + effect[:, None] * decay))
    user, day = np.nonzero(counts)
    repeats = counts[user, day]
    user, day = np.repeat(user, repeats), np.repeat(day, repeats)
    moments = np.array([instant.timestamp() for instant in at])[user]
    moments = moments + (days[day] + rng.uniform(0, 1, len(day))) * 86_400
    return pl.DataFrame(
        {
            "user": np.array(units)[user],
            "at": pl.from_epoch(pl.Series((moments * 1e6).astype("int64")), time_unit="us"),
            "event": "order",
            "id": [str(k) for k in range(len(user))],
            "amount": np.round(rng.lognormal(3.2, 0.6, len(user)), 2),
        }
    ).with_columns(pl.col("at").dt.replace_time_zone("UTC"))


def rich_looks(folder, *, numbers=(1, 2, 3, 4), **options):
    """The project and the recorded looks at the planned dates of these numbers."""
    project = rich_project(folder, **options)
    trial = project.experiments["trial"]
    days = trial.planned_looks()
    for number in numbers:
        at = start_of_day(trial, days[number - 1])
        take_look(project, manifest_of(project), trial, as_of=at)
    return project, recorded_looks(open_ledger(manifest_of(project), trial))
