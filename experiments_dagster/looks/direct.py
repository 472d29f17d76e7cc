"""One analysis of event and exposure tables as they are: nothing is landed, kept or recorded.

    one pass over events  ->  contracts  ->  sums  ->  effects

For a table of events that is deduplicated already, or is to be in the pass. Nothing stands between
two such analyses: looks that follow each other belong in a ledger (`take`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import narwhals as nw
import polars as pl

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.frames.dense_pass import DenseUnits, dense_units
from experiments_dagster.frames.one_pass import experiment_units
from experiments_dagster.frames.unit_frames import CHUNK_UNITS, frame_columns, validate_frames
from experiments_dagster.looks.estimates import Estimates, estimate_metrics
from experiments_dagster.looks.unit_sums import UnitChunks


class Chunks:
    """A unit frame in this process; what `unit_sums` adds up over."""

    def __init__(self, units: pl.DataFrame) -> None:
        self.units = units
        self.memo: dict[Any, Any] = {}
        self.only_needed = True  # nobody here asks for counts, or the skewness of plain contrasts

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns, `CHUNK_UNITS` rows at a time."""
        return self.units.select(columns).iter_slices(CHUNK_UNITS)


def direct_units(
    experiment: Experiment,
    exposures: Frame,
    events: Mapping[str, Frame],
    horizons: Mapping[str, dt.datetime],
    *,
    connection: duckdb.DuckDBPyConnection | None = None,
    deduplicate: bool = False,
    with_history: bool = True,
) -> UnitChunks:
    """The one pass over events. What it returns needs the tables, and a connection, no longer.

    Args:
        experiment: Metrics, arms and estimator of an additive plan.
        exposures: `definitions.first_exposures`, on DuckDB or Polars.
        events: By source: unit, occurred_at (naive UTC), event, value, then properties; event_id
            too where `deduplicate`.
        horizons: Up to when each source speaks, naive UTC.
        connection: Where tables on DuckDB live; its settings can be changed.
        deduplicate: Count an event id once.
        with_history: Whether to read what lies before exposure; a plan that adjusts needs it.

    Raises:
        ContractError: A unit is missing, or stands in two rows of the exposures.
        ValueError: The plan needs more than sums, or history that is not to be read.
    """
    if not experiment.is_additive or (experiment.adjusts and not with_history):
        msg = f"{experiment.slug}: the plan needs units or history; take a look at it instead"
        raise ValueError(msg)
    options = {"deduplicate": deduplicate, "with_history": with_history}
    if connection is not None:
        return dense_units(experiment, connection, exposures, events, horizons, **options)
    frame = experiment_units(experiment, exposures, events, horizons, **options)
    single = frame.filter(nw.col("n_arms") == 1).collect("polars").to_native()
    return Chunks(single.with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC")))


def direct_estimates(
    experiment: Experiment, units: UnitChunks, *, validate: bool = True
) -> Estimates:
    """Effects of an additive plan on the units of `direct_units`.

    Args:
        experiment: Metrics, arms, estimator and alpha.
        units: What the pass found.
        validate: Whether to check the contracts of the frames.

    Raises:
        ContractError: The frames break their contracts.
    """
    return estimate_metrics(experiment, Checked(experiment, units) if validate else units, cap=None)


class Checked:
    """Chunks of units that have kept the contracts of the frames before anyone sees them."""

    def __init__(self, experiment: Experiment, units: UnitChunks) -> None:
        self.experiment = experiment
        self.units = units
        self.memo = units.memo
        self.only_needed = units.only_needed
        self.has_units = not isinstance(units, DenseUnits)
        self.n_checked = 0

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns; the first time that a chunk comes by, all of its columns are checked.

        Raises:
            ContractError: The chunk breaks its contracts.
        """
        kinds = frame_columns(self.experiment).values()
        every = dict.fromkeys(name for names in kinds for name in names)
        listed = [name for name in every if self.has_units or name != "unit"]
        for number, chunk in enumerate(self.units.chunks(listed)):
            if number >= self.n_checked:
                validate_frames(self.experiment, chunk, has_units=self.has_units)
                self.n_checked = number + 1
            yield chunk.select(columns)
