"""One analysis of tables as they are, against the frames of the same data after landing."""

import datetime as dt

import duckdb
import narwhals as nw
import polars as pl
import pytest
from factories import (
    EXPERIMENT,
    events_table,
    exposures_table,
    incoming,
    land_now,
    make_project,
    manifest_of,
    utc,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments_dagster.frames.definitions import first_exposures
from experiments_dagster.frames.unit_frames import FramesContractError, build_unit_frames
from experiments_dagster.looks.direct import direct_estimates, direct_units
from experiments_dagster.looks.estimates import estimate_metrics

START = utc(2026, 3, 1, 23)
AS_OF = utc(2026, 4, 30)
HOUR = dt.timedelta(hours=1)


def shop(n=300, seed=3):
    """Exposures and events of some units, with a pre-period."""
    import numpy as np

    rng = np.random.default_rng(seed)
    units = [f"u{k}" for k in range(n)]
    hours, arms = rng.integers(0, 500, n), rng.choice(["control", "treatment"], n)
    exposed = [
        (unit, START + int(hour) * HOUR, str(arm))
        for unit, hour, arm in zip(units, hours, arms, strict=True)
    ]
    at = {unit: when for unit, when, _ in exposed}
    events = []
    for k in range(12 * n):
        unit = units[rng.integers(0, n)]
        when = at[unit] + int(rng.integers(-400, 300)) * HOUR
        kind = str(rng.choice(["order", "visit", "other"]))
        amount = int(rng.integers(1, 9000)) / 100 if kind == "order" else None
        events.append((unit, when, kind, f"e{k}", amount))
    return exposed, events


def landed(folder, exposed, events, **configs):
    project = make_project(folder, **configs)
    closing = ("nobody", AS_OF - HOUR, "visit", "closing", None)
    incoming(project, "events", "a", events_table([*events, closing]))
    incoming(project, "exposures", "a", exposures_table(exposed))
    land_now(project)
    return project


def tables(connection, exposed, events, experiment):
    """The same data under the names that definitions read; without a connection, on Polars."""
    naive = pl.col("at").dt.replace_time_zone(None)
    seen = events_table(events).select(
        naive.alias("occurred_at"), "event", unit="user", event_id="id", value="amount"
    )
    who = exposures_table(exposed).select(
        naive.alias("occurred_at"), "experiment", "variant", unit="user", event_id="user"
    )
    if connection is not None:
        seen, who = (connection.from_arrow(table.to_arrow()) for table in (seen, who))
    else:
        seen, who = seen.lazy(), who.lazy()
    first = first_exposures(
        nw.from_native(who),
        experiment="trial",
        starts_at=experiment.starts_at.replace(tzinfo=None),
        ends_at=experiment.ends_at.replace(tzinfo=None),
        segments=(),
    )
    return first, {"events": nw.from_native(seen)}


def directly(engine, exposed, events, experiment, **more):
    connection = duckdb.connect() if engine == "duckdb" else None
    first, seen = tables(connection, exposed, events, experiment)
    horizons = {"events": AS_OF.replace(tzinfo=None)}
    units = direct_units(experiment, first, seen, horizons, connection=connection, **more)
    if connection is not None:
        connection.close()
    return direct_estimates(experiment, units)


def numbers(estimates):
    return {
        (row.metric, row.arm, row.estimand, row.is_adjusted): (row.estimate, row.std_error)
        for row in estimates.effects
    }


@pytest.mark.parametrize("engine", ["duckdb", "polars"])
def test_direct_estimates_are_those_of_landed_frames(tmp_path, engine):
    exposed, events = shop()
    project = landed(tmp_path, exposed, events)
    (trial,) = project.experiments.values()
    frames = build_unit_frames(
        project, manifest_of(project), trial, cutoff=1, as_of=AS_OF, publish=False
    )
    expected = numbers(estimate_metrics(trial, frames, cap=None))
    found = numbers(directly(engine, exposed, events, trial))
    assert found.keys() == expected.keys()
    for key, pair in expected.items():
        # Engines add up doubles in other orders.
        assert found[key] == pytest.approx(pair, rel=1e-9), key


@settings(max_examples=10, deadline=None)
@given(repeats=st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_repeated_events_count_once_when_asked(tmp_path_factory, repeats):
    exposed, events = shop(n=60)
    project = make_project(tmp_path_factory.mktemp("p"))
    (trial,) = project.experiments.values()
    again = [*events, *(events[k] for k in repeats)]
    once = numbers(directly("duckdb", exposed, again, trial, deduplicate=True))
    expected = numbers(directly("duckdb", exposed, events, trial))
    for key, pair in expected.items():
        assert once[key] == pytest.approx(pair, rel=1e-9), key


def test_without_history_the_outcomes_are_the_same(tmp_path):
    exposed, events = shop()
    text = EXPERIMENT.replace("{kind: cuped, covariate_days: 14}", "{kind: unadjusted}")
    (trial,) = make_project(tmp_path, trial=text).experiments.values()
    plain = numbers(directly("duckdb", exposed, events, trial, with_history=False))
    full = numbers(directly("duckdb", exposed, events, trial))
    for key, pair in full.items():
        assert plain[key] == pytest.approx(pair, rel=1e-9), key


def test_what_sums_cannot_say_is_refused(tmp_path):
    exposed, events = shop(n=20)
    (trial,) = make_project(tmp_path).experiments.values()
    with pytest.raises(ValueError, match="trial: the plan needs units or history"):
        directly("duckdb", exposed, events, trial, with_history=False)


def test_contracts_hold_for_tables_too(tmp_path):
    exposed, events = shop(n=20)
    (trial,) = make_project(tmp_path).experiments.values()
    with pytest.raises(FramesContractError, match="user_frame arm known_arm: 1 rows"):
        directly("duckdb", [*exposed, ("canary-7f", START, "tretment")], events, trial)
