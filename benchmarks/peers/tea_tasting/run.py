"""tea-tasting on an Ibis table of DuckDB: one row per user is an expression, its moments are SQL.

    python -m benchmarks.peers.tea_tasting.run DATA_FOLDER plain|filtered|cuped

`Experiment.analyze` asks the backend for the aggregates of all metrics at once, which is what its
documentation recommends for large data; no user-level table comes to Python. `plain` joins
all events and lets each total pick its own; `filtered` and `cuped` leave out what no metric needs
before they join.

The backend of Ibis is imported before the clock starts: else the first connection would load it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import ibis
import ibis.backends.duckdb.converter
import tea_tasting as tt

from benchmarks.clock import (
    DATA_END,
    EVENTS,
    EXPERIMENT_START,
    METRICS,
    THREADS,
    WINDOW_DAYS,
    Estimates,
    run,
)

COLUMNS = ("revenue", "purchases", "clicks", "views", "carts")
WINDOW = ibis.interval(days=WINDOW_DAYS)


def analyse(folder: Path, scenario: str) -> Estimates:
    """Differences of both treatments from control by tea-tasting."""
    connection = ibis.duckdb.connect(threads=THREADS)
    before = scenario == "cuped"
    exposed, events = exposed_users(connection, folder), all_events(connection, folder)
    if scenario == "plain":
        totals = totals_of_all(exposed, events)
    else:
        totals = totals_of_needed(exposed, events, before=before)
    users = users_table(exposed, totals, before=before)
    results = experiment(before=before).analyze(users, control="control", all_variants=True)
    return {
        f"{arm}/{metric}": {
            "difference": float(result[metric].effect_size),
            "std_error": float(result[metric].effect_size / result[metric].statistic),
        }
        for (_, arm), result in results.items()
        for metric in METRICS
    }


def experiment(*, before: bool) -> tt.Experiment:
    """Five metrics, with the same measure before exposure as covariate if asked for."""

    def mean(column: str) -> tt.Mean:
        return tt.Mean(column, f"{column}_before" if before else None)

    covariates = ("revenue_before", "carts_before") if before else (None, None)
    return tt.Experiment(
        {
            "revenue": mean("revenue"),
            "conversion": mean("conversion"),
            "clicks": mean("clicks"),
            "views": mean("views"),
            "revenue_per_cart": tt.RatioOfMeans("revenue", "carts", *covariates),
        },
        variant="variant",
    )


def exposed_users(connection: ibis.BaseBackend, folder: Path) -> ibis.Table:
    """Users whose window is closed; the exposures have one row per user."""
    end = dt.datetime.fromisoformat(DATA_END) - dt.timedelta(days=WINDOW_DAYS)
    exposures = connection.read_parquet(str(folder / "exposures.parquet"))
    return exposures.filter(exposures.ts <= end).select(
        "user_id", "variant", exposed_at=exposures.ts
    )


def all_events(connection: ibis.BaseBackend, folder: Path) -> ibis.Table:
    """The columns of the events that the metrics need."""
    events = connection.read_parquet(str(folder / "events" / "*.parquet"))
    return events.select("user_id", "ts", "event", "value")


def totals_of_needed(exposed: ibis.Table, events: ibis.Table, *, before: bool) -> ibis.Table:
    """Totals per user with events; other events and other times are left out before the join."""
    start = dt.datetime.fromisoformat(EXPERIMENT_START)
    if before:
        start -= dt.timedelta(days=WINDOW_DAYS)
    events = events.filter(events.event.isin(EVENTS), events.ts >= start)
    joined = events.inner_join(exposed, "user_id")
    first = joined.exposed_at - WINDOW if before else joined.exposed_at
    joined = joined.filter(joined.ts >= first, joined.ts < joined.exposed_at + WINDOW)
    after = joined.ts >= joined.exposed_at
    if not before:
        return joined.group_by("user_id").aggregate(**totals_where(joined, None, ""))
    both = totals_where(joined, after, "") | totals_where(joined, ~after, "_before")
    return joined.group_by("user_id").aggregate(**both)


def totals_of_all(exposed: ibis.Table, events: ibis.Table) -> ibis.Table:
    """Totals per user of everything that the user did, each with its own condition."""
    joined = exposed.left_join(events, "user_id")
    inside = (joined.ts >= joined.exposed_at) & (joined.ts < joined.exposed_at + WINDOW)
    return joined.group_by("user_id").aggregate(**totals_where(joined, inside, ""))


def users_table(exposed: ibis.Table, totals: ibis.Table, *, before: bool) -> ibis.Table:
    """One row per exposed user, with 0 where there are no events."""
    sides = ("", "_before") if before else ("",)
    users = exposed.left_join(totals, "user_id")
    filled = {
        f"{column}{side}": users[f"{column}{side}"].fill_null(0)
        for column in COLUMNS
        for side in sides
    }
    users = users.select("variant", **filled)
    return users.mutate(
        **{f"conversion{side}": (users[f"purchases{side}"] > 0).cast("int") for side in sides}
    )


def totals_where(joined: ibis.Table, where: ibis.Value | None, side: str) -> dict[str, ibis.Value]:
    """Sums and counts of the events that satisfy a condition, or of all."""

    def condition(event: str) -> ibis.Value:
        named = joined.event == event
        return named if where is None else where & named

    return {
        f"revenue{side}": joined.value.sum(where=condition("purchase")),
        **{f"{event}s{side}": joined.count(where=condition(event)) for event in EVENTS},
    }


if __name__ == "__main__":
    run(analyse, "plain", "filtered", "cuped")
