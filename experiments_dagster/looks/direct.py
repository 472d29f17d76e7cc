"""One analysis of event and exposure tables as they are: nothing is landed, kept or recorded.

    definitions in one pass  ->  contracts, chunk by chunk  ->  sums  ->  effects

For a table of events that is deduplicated already, or is to be in the pass. Nothing stands between
two such analyses: looks that follow each other belong in a ledger (`take`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import narwhals as nw
import polars as pl

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.frames.one_pass import experiment_units
from experiments_dagster.frames.unit_frames import CHUNK_UNITS, frame_columns, validate_frames
from experiments_dagster.looks.estimates import Estimates, estimate_metrics
from experiments_dagster.looks.unit_sums import columns_of


class Chunks:
    """Unit frames in this process, in chunks; what `unit_sums` adds up over."""

    def __init__(self, parts: Sequence[pl.DataFrame]) -> None:
        self.parts = parts
        self.memo: dict[Any, Any] = {}
        self.only_needed = True  # nothing here asks for the skewness of plain contrasts

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of every chunk."""
        return (part.select(columns) for part in self.parts)


def direct_estimates(
    experiment: Experiment,
    exposures: Frame,
    events: Mapping[str, Frame],
    horizons: Mapping[str, dt.datetime],
    *,
    deduplicate: bool = False,
    with_history: bool = True,
    validate: bool = True,
) -> Estimates:
    """Effects of an additive plan from its events.

    Args:
        experiment: Metrics, arms, estimator and alpha.
        exposures: `definitions.first_exposures`, on DuckDB or Polars.
        events: By source: unit, occurred_at (naive UTC), event, value, then properties; event_id
            too where `deduplicate`.
        horizons: Up to when each source speaks, naive UTC.
        deduplicate: Count an event id once.
        with_history: Whether to read what lies before exposure; a plan that adjusts needs it.
        validate: Whether to check the contracts of the frames.

    Raises:
        ContractError: The frames break their contracts.
        ValueError: The plan needs more than sums, or history that is not to be read.
    """
    if not experiment.is_additive or (experiment.adjusts and not with_history):
        msg = f"{experiment.slug}: the plan needs units or history; take a look at it instead"
        raise ValueError(msg)
    units = experiment_units(
        experiment, exposures, events, horizons, deduplicate=deduplicate, with_history=with_history
    )
    names = list(
        dict.fromkeys(name for kind in frame_columns(experiment).values() for name in kind)
    )
    single = units.filter(nw.col("n_arms") == 1).select(names)
    used = columns_of(experiment)
    kept = []
    for part in _collected(single.to_native()):
        chunk = part.with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC"))
        if validate:
            validate_frames(experiment, chunk)
        kept.append(chunk.select(used))
    return estimate_metrics(experiment, Chunks(kept), cap=None)


def _collected(native: Any) -> Iterator[pl.DataFrame]:
    """The rows of a DuckDB relation or a Polars LazyFrame, a chunk at a time."""
    if isinstance(native, pl.LazyFrame):
        yield from native.collect().iter_slices(CHUNK_UNITS)
        return
    for batch in native.to_arrow_reader(CHUNK_UNITS):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame
