"""A project whose experiments share their units, landed and looked at: effects are known.

`alpha` raises spend by half and is shipped; `beta` does nothing on its own, but takes 15 off what
alpha gains; `gamma` gave its arms by alpha's hash; `delta` is still open; `far` was a year before.
"""

import datetime as dt

import numpy as np
import polars as pl
from factories import events_table, incoming, land_now, make_project, manifest_of, utc

from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.take import build_frames, take_look

EXPERIMENT = """
    schema_version: 1
    owner: team:growth
    hypothesis: {{primary: "More spend"}}
    variants: {{control: 0.5, treatment: 0.5}}
    salt: a-salt-of-{slug}
    window: {{start: {start}, end: {end}}}
    metrics:
      primary: {{metric: spend, minimum_effect: 0.02}}
    plan:
      mde: 0.1
      estimator: {{kind: unadjusted}}
      looks: {{schedule: weekly, design: {{kind: group_sequential, planned: {planned}}}}}
      prior: {{lift_sd: {lift_sd}}}
"""
N_UNITS, N_DELTA = 2400, 300
LOOKED_AT = ("alpha", "beta", "gamma")
EXPOSED_AT = utc(2026, 3, 3, 12)


def experiment(slug, *, planned=1, year=2026, lift_sd=0.2):
    dates = {"start": f"{year}-03-02", "end": f"{year}-03-09"}
    return EXPERIMENT.format(slug=slug, planned=planned, lift_sd=lift_sd, **dates)


def arms_of(seed=1):
    """Indicator of treatment by experiment; delta sees only the first units."""
    rng = np.random.default_rng(seed)
    alpha, beta, delta = rng.random((3, N_UNITS)) < 0.5
    return {"alpha": alpha, "beta": beta, "gamma": alpha, "delta": delta}


def spend_of(arms, seed=2):
    """One order per unit."""
    noise = np.random.default_rng(seed).normal(0, 10, N_UNITS)
    gain = 20.0 - 15.0 * arms["beta"]
    return np.round(np.maximum(40 + gain * arms["alpha"] + noise, 0.01), 2)


def shared_project(folder, *, arms=None):
    """Everything landed, looks taken at alpha, beta and gamma, frames built for delta."""
    arms = arms or arms_of()
    texts = {slug: experiment(slug) for slug in LOOKED_AT}
    texts |= {"delta": experiment("delta", planned=4), "far": experiment("far", year=2025)}
    project = make_project(folder, **texts)
    units = [f"u{k:05d}" for k in range(N_UNITS)]
    exposures = [
        pl.DataFrame(
            {
                "user": units,
                "at": [EXPOSED_AT] * N_UNITS,
                "variant": np.where(is_treated, "treatment", "control"),
            }
        )
        .with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")), experiment=pl.lit(slug))
        .head(N_DELTA if slug == "delta" else N_UNITS)
        for slug, is_treated in arms.items()
    ]
    incoming(project, "exposures", "all", pl.concat(exposures))
    at = EXPOSED_AT + dt.timedelta(days=1)
    rows = [
        (unit, at, "order", f"o{unit}", float(amount))
        for unit, amount in zip(units, spend_of(arms), strict=True)
    ]
    closing = ("nobody", utc(2026, 4, 20), "visit", "closing", None)
    incoming(project, "events", "all", events_table([*rows, closing]))
    land_now(project)
    manifest = manifest_of(project)
    for slug in LOOKED_AT:
        plan = project.experiments[slug]
        take_look(project, manifest, plan, as_of=start_of_day(plan, plan.last_look()))
    delta = project.experiments["delta"]
    end = start_of_day(delta, delta.last_look())
    build_frames(project, manifest, delta, as_of=end)
    return project
