"""A bandit on disk whose decisions are drawn with the recorded shares, day by day."""

import datetime as dt
import hashlib
import json
import textwrap

import numpy as np
from factories import PLATFORM, events_table, exposures_table, incoming, make_project, manifest_of

from experiments_dagster.bandits.allocate import allocate_next
from experiments_dagster.bandits.history import head_file, period_folder, read_history
from experiments_dagster.config.project import load_project
from experiments_dagster.stats.bandits.thompson import decide
from experiments_dagster.storage.landing import land
from experiments_dagster.storage.layout import Layout

METRICS = """
    schema_version: 1
    metrics:
      spend: {kind: mean, event: order, window_days: 1}
      orders: {kind: count, event: order, window_days: 1}
      bought: {kind: proportion, event: order, window_days: 1}
"""
BANDIT = """
    schema_version: 1
    owner: team:growth
    description: Which headline
    arms: [plain, bold, loud]
    exposure: {source: exposures}
    reward: {kind: bernoulli, metric: bought}
    periods: {every: day, first: 2026-03-02}
    floor: 0.2
    seed: 7
"""
GAUSSIAN = BANDIT.replace(
    "{kind: bernoulli, metric: bought}",
    "{kind: gaussian, metric: spend, prior: {mean: 10.0, sd: 10.0, units: 4}}",
)
FIRST = dt.date(2026, 3, 2)
RATES = {"plain": 0.2, "bold": 0.5, "loud": 0.25}


def write_bandit(folder, text=BANDIT, slug="headline"):
    path = folder / "configs" / "bandits" / f"{slug}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def bandit_project(folder, text=BANDIT, platform=PLATFORM):
    """A project with one bandit called `headline`, the minimal experiment's metrics left out."""
    make_project(folder, metrics=METRICS, platform=platform, trial=NO_EXPERIMENT)
    (folder / "configs" / "experiments" / "trial.yaml").unlink()
    write_bandit(folder, text)
    return load_project(folder)


# `write_configs` writes an experiment; it is taken away before anything loads it strictly.
NO_EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {primary: "More orders"}
    variants: {control: 0.5, treatment: 0.5}
    salt: a-salt-of-its-own
    window: {start: 2026-03-02, end: 2026-03-30}
    metrics:
      primary: {metric: orders, minimum_effect: 0.02}
    plan:
      mde: 0.1
      estimator: {kind: unadjusted}
      looks: {schedule: weekly, design: {kind: group_sequential, planned: 4}}
"""


def at(day, hour=0, minute=0):
    """An aware instant of local (Berlin, winter) time."""
    return dt.datetime.combine(day, dt.time(hour, minute), dt.timezone(dt.timedelta(hours=1)))


def allocate(project, now, slug="headline"):
    return allocate_next(project, manifest_of(project), project.bandits[slug], now)


def history_of(project, slug="headline"):
    return read_history(Layout(project.storage), slug)


def forge_head(project, slug="headline"):
    """Make the head name the records that are there, whatever they hold."""
    layout = Layout(project.storage)
    head_file(layout, slug).unlink()
    records = sorted(period_folder(layout, slug).glob("0*.json"))
    sha256 = hashlib.sha256(records[-1].read_bytes()).hexdigest()
    document = {"format": 1, "n_periods": len(records), "sha256": sha256}
    head_file(layout, slug).write_text(json.dumps(document))


def live_day(project, day, *, units=80, rates=RATES, slug="headline"):
    """One day: its units meet the arms by the shares in force; the files land after midnight."""
    bandit, records = project.bandits[slug], history_of(project, slug).periods
    shares = [r.shares for r in records if r.starts_on <= str(day)][-1]
    rng = np.random.default_rng(day.toordinal())
    exposures, orders = [], []
    for k in range(units):
        unit = f"{day}-{k}"
        arm = decide(unit, bandit=slug, seed=bandit.seed, shares=shares).arm
        exposures.append((unit, at(day, 9), arm))
        if rng.random() < rates[arm]:
            orders.append((unit, at(day, 12), "order", f"o-{unit}", round(5 + rng.random(), 2)))
    # Somebody who is in no bandit: the day has events whatever the arms did.
    orders.append(("visitor", at(day, 23), "order", f"v-{day}", 1.0))
    incoming(project, "exposures", f"{day}", exposures_table(exposures, experiment=slug))
    incoming(project, "events", f"{day}", events_table(orders))
    next_day = day + dt.timedelta(days=1)
    land(project, arrival_day=next_day, now=at(next_day, 1))


def live(project, days, **settings):
    """Some days from the first on; every day at 02:00 the shares of the next one are recorded."""
    allocate(project, at(FIRST) - dt.timedelta(hours=22))
    for offset in range(days):
        day = FIRST + dt.timedelta(days=offset)
        live_day(project, day, **settings)
        allocate(project, at(day + dt.timedelta(days=1), 2))
