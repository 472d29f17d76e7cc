"""This project on the events of `generate.py`: one analysis of the files as they are.

    python -m benchmarks.ours plain|cuped|dedup|unchecked FOLDER
    python -m benchmarks.ours metrics-1|metrics-50|segments-20 FOLDER

`unchecked` leaves out the contracts, to say what they cost; the others have so many metrics, or
segments of five levels each.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import duckdb
import narwhals as nw

from benchmarks.clock import THREADS, Estimates, report
from benchmarks.project import experiment_of, wide_experiment
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.looks.direct import direct_estimates, direct_units
from experiments_dagster.looks.estimates import Estimates as Effects

END = dt.datetime(2026, 2, 16)
LEVELS = 5
WIDE = {
    "metrics-1": {"metrics": 1, "segments": 0},
    "metrics-50": {"metrics": 50, "segments": 0},
    "segments-20": {"metrics": 5, "segments": 20},
}


def opened(
    connection: duckdb.DuckDBPyConnection, folder: Path, segments: Sequence[str] = ()
) -> tuple[Frame, Frame]:
    """Exposures and events of a folder under the names that definitions read."""
    rows = connection.read_parquet(str(folder / "exposures.parquet"))
    levels = [f"'level ' || hash(user_id || '{name}') % {LEVELS} AS {name}" for name in segments]
    who = nw.from_native(rows.project(", ".join(["*", *levels]))).select(
        unit="user_id",
        arm="variant",
        exposed_at="ts",
        **{f"segment_{name}": name for name in segments},
    )
    exposures = who.with_columns(
        n_exposures=nw.lit(1, dtype=nw.Int64), n_arms=nw.lit(1, dtype=nw.Int64)
    )
    files = sorted(str(path) for path in (folder / "events").glob("*.parquet"))
    events = nw.from_native(connection.read_parquet(files)).select(
        "event", "event_id", "value", unit="user_id", occurred_at="ts"
    )
    return exposures, events


def analyse(experiment: Experiment, scenario: str, folder: Path) -> Estimates:
    """All effects of one scenario."""
    with duckdb.connect() as connection:
        connection.execute(f"SET threads={THREADS}")
        connection.execute("SET enable_progress_bar=false")
        connection.execute("SET preserve_insertion_order=false")
        exposures, events = opened(connection, folder, experiment.exposure_properties)
        units = direct_units(
            experiment,
            exposures,
            {"events": events},
            {"events": END},
            connection=connection,
            deduplicate=scenario == "dedup",
            with_history=scenario == "cuped",
        )
    effects = direct_estimates(experiment, units, validate=scenario != "unchecked")
    return numbers(effects, is_adjusted=scenario == "cuped")


def numbers(effects: Effects, *, is_adjusted: bool) -> Estimates:
    """Difference and standard error of every arm and metric that can be estimated yet."""
    return {
        f"{row.arm}/{row.metric}": {"difference": row.estimate, "std_error": row.std_error}
        for row in effects.effects
        if not row.is_relative and row.is_adjusted == is_adjusted and row.estimate is not None
    }


def main(words: Sequence[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["plain", "cuped", "dedup", "unchecked", *WIDE])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(words)
    # The clock starts after the imports, also those that are put off until their first use.
    import pandera.polars  # noqa: F401
    from pandera.backends.polars.register import register_polars_backends

    register_polars_backends()
    if given.scenario in WIDE:
        experiment = wide_experiment(**WIDE[given.scenario])
    else:
        experiment = experiment_of("cuped" if given.scenario == "cuped" else "unadjusted")
    report(lambda: analyse(experiment, given.scenario, given.folder))


if __name__ == "__main__":
    main()
