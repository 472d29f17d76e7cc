"""The one pass over events on DuckDB, added up in this process: `one_pass` at half the cost.

A GROUP BY over text ids keeps a hash table of all units per thread. But the units are known before
the first event is read: they are numbered, DuckDB joins the number to the events that count and
hands these over as they come, and a total is an array with a place per unit.

    number      exposures into a temporary table; a unit's number is its row there
    scan, join  as in `one_pass`; what lies outside the windows of all units is not read at all
    add up      batch by batch, while DuckDB reads on

Threads hand events over in any order, so sums of doubles may differ in their last digits from run
to run. Looks that are recorded, and reproduced to the digit, go another way (`unit_rows`).
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.metrics import Measure
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame, WindowTotal
from experiments_dagster.frames.one_pass import (
    in_reach,
    inside_of,
    is_one_of,
    reach,
    source_measures,
    source_totals,
    wanted,
    with_limits,
    with_outcomes,
)
from experiments_dagster.storage.errors import ContractError

CHUNK_UNITS = 262_144
BATCH_EVENTS = 40_960
NEARLY_ALL = 0.95
DAY = dt.timedelta(days=1)
Vector = NDArray[np.float64]
NUMBER, KIND, AMOUNT = "_number", "_kind", "_amount"
_tables = itertools.count()


class DenseUnits:
    """The units of one arm as `one_pass.experiment_units` has them, made a chunk at a time.

    What is kept is an array per total and what was known of the units. There is no column unit:
    every row is a unit of its own.
    """

    def __init__(
        self,
        experiment: Experiment,
        rows: pl.DataFrame,
        totals: Mapping[str, Mapping[str, Vector]],
        horizons: Mapping[str, dt.datetime],
        *,
        with_history: bool,
    ) -> None:
        self.experiment = experiment
        self.rows = rows
        self.totals = totals
        self.horizons = horizons
        self.with_history = with_history
        self.memo: dict[Any, Any] = {}
        self.only_needed = True  # nobody here asks for counts, or the skewness of plain contrasts

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns, `CHUNK_UNITS` rows at a time."""
        for start in range(0, self.rows.height, CHUNK_UNITS):
            yield self._chunk(start).select(columns)

    def _chunk(self, start: int) -> pl.DataFrame:
        rows = slice(start, start + CHUNK_UNITS)

        def add_up(units: Frame, source: str) -> Frame:
            sums = [pl.Series(name, all_[rows]) for name, all_ in self.totals[source].items()]
            both: Frame = nw.from_native(units.to_native().with_columns(sums))
            return both

        units: Frame = nw.from_native(self.rows[rows].lazy())
        found = with_outcomes(
            self.experiment, units, self.horizons, add_up, with_history=self.with_history
        )
        frame: pl.DataFrame = found.to_native().collect()
        return frame.with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC"))


def dense_units(
    experiment: Experiment,
    connection: duckdb.DuckDBPyConnection,
    exposures: Frame,
    events: Mapping[str, Frame],
    horizons: Mapping[str, dt.datetime],
    *,
    deduplicate: bool = False,
    with_history: bool = True,
) -> DenseUnits:
    """One pass over the events of every source.

    Args:
        experiment: Metrics of closed windows, and the covariate window.
        connection: The frames are relations of it; its settings can be changed.
        exposures: `first_exposures` of the experiment.
        events: By source.
        horizons: Up to when each source speaks, naive UTC.
        deduplicate: As in `one_pass_totals`.
        with_history: Whether to read what lies before exposure.

    Raises:
        ContractError: A unit is missing, or stands in two rows of the exposures.
    """
    sources = {metric.parts[0].source for metric in experiment.metrics} & horizons.keys()
    with numbered_units(connection, exposures) as units:
        totals = {
            source: units.totals(
                events[source],
                source_measures(experiment, source),
                source_totals(experiment, source, with_history=with_history),
                deduplicate=deduplicate,
            )
            for source in sorted(sources)
        }
        # Only now: before the pass, the memory that this takes would come on top of the pass's.
        units.refuse_repeated()
        rows = units.read()
    return DenseUnits(experiment, rows, totals, horizons, with_history=with_history)


@contextmanager
def numbered_units(
    connection: duckdb.DuckDBPyConnection, exposures: Frame
) -> Iterator[NumberedUnits]:
    """The units of one arm in a temporary table, for as long as the pass lasts."""
    units = NumberedUnits(connection, f"numbered_units_{next(_tables)}")
    single = exposures.filter(nw.col("n_arms") == 1).drop("n_arms", "n_exposures").to_native()
    single.query("given", f"CREATE TEMP TABLE {units.table} AS SELECT * FROM given")
    try:
        yield units
    finally:
        connection.execute(f"DROP TABLE {units.table}")


@contextmanager
def _settings(connection: duckdb.DuckDBPyConnection, **settings: Any) -> Iterator[None]:
    """Settings of a connection for a while."""

    def current(name: str) -> Any:
        ((value,),) = connection.sql(f"SELECT current_setting('{name}')").fetchall()
        return value

    before = {name: current(name) for name in settings}
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = $1", [value])
        yield
    finally:
        for name, value in before.items():
            connection.execute(f"SET {name} = $1", [value])


@dataclass(frozen=True, slots=True)
class NumberedUnits:
    """Units in a table of DuckDB, numbered by their rows."""

    connection: duckdb.DuckDBPyConnection
    table: str

    def refuse_repeated(self) -> None:
        """Every row has a unit, and no two rows the same."""
        rows, filled, distinct = self._row("count(*), count(unit), count(DISTINCT unit)")
        broken = {"unit not_null": rows - filled, "unit is_unique": filled - distinct}
        if any(broken.values()):
            raise ContractError("first exposures", {rule: n for rule, n in broken.items() if n})

    def read(self) -> pl.DataFrame:
        """All but the unit, by number."""
        with _settings(self.connection, preserve_insertion_order=True):
            query = f"SELECT * EXCLUDE (unit) FROM {self.table}"
            frame = pl.from_arrow(self.connection.sql(query).to_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def totals(
        self,
        events: Frame,
        measures: Sequence[Measure],
        totals: Sequence[WindowTotal],
        *,
        deduplicate: bool,
    ) -> dict[str, Vector]:
        """An array per total, with a place per unit."""
        n, first, last = self._row("count(*), min(exposed_at), max(exposed_at)")
        by_key = {measure.key: measure for measure in measures}
        # Metrics may share a total, such as a count and the proportion of units above zero.
        once = {replace(total, name=""): total.name for total in reversed(totals)}
        sums = {name: np.zeros(n) for name in once.values()}
        if n:
            low, high = reach(totals)
            used = [by_key[total.measure] for total in totals]
            counted = self._in_reach(wanted(events, used), [*totals, low, high], (first, last))
            counting = _Counting.of(
                {name: (total, by_key[total.measure]) for total, name in once.items()}, low, high
            )
            # Units are the small side of the join. With a bound on time the optimizer takes the
            # events for fewer than they are, and would build its hash table of them.
            with _settings(
                self.connection, disabled_optimizers="join_order", preserve_insertion_order=False
            ):
                for batch in counting.selected(counted, deduplicate=deduplicate):
                    counting.add(batch, sums)
        return {total.name: sums[once[replace(total, name="")]] for total in totals}

    def _in_reach(
        self, events: Frame, totals: Sequence[WindowTotal], exposed: tuple[dt.datetime, dt.datetime]
    ) -> Frame:
        """Number and limits of the unit beside every event that its windows reach.

        What is in no window of any unit is not read: whole files may lie outside. After the
        windows of nearly all units only the others are asked for, which is quick.
        """
        low, high = totals[-2:]
        (most,) = self._row(f"quantile_disc(exposed_at, {NEARLY_ALL})")
        start, end = exposed[0] + low.start_day * DAY, exposed[1] + high.end_day * DAY
        between = most + high.end_day * DAY
        at = nw.col("occurred_at")
        query = f"SELECT rowid AS {NUMBER}, unit, exposed_at FROM {self.table}"
        units = nw.from_native(self.connection.sql(query))
        late = units.filter(nw.col("exposed_at") > most)
        parts = ((units, start, between), (late, between, end))
        reached = [
            in_reach(
                events.filter(at >= since, at < until),
                with_limits(some, totals, key=NUMBER),
                low,
                high,
            )
            for some, since, until in parts
            if since < until
        ]
        both: Frame = nw.concat(reached) if len(reached) > 1 else reached[0]
        return both

    def _row(self, columns: str) -> tuple[Any, ...]:
        (row,) = self.connection.sql(f"SELECT {columns} FROM {self.table}").fetchall()
        return tuple(row)


@dataclass(frozen=True, slots=True)
class _Counting:
    """Which events count for which totals.

    Args:
        kinds: Number of every event name.
        conditions: Further conditions of some totals by the name of their column.
        totals: By their kinds and conditions: names of the totals that count these events, and
            of those that add up their values.
    """

    kinds: dict[str, int]
    conditions: dict[str, nw.Expr]
    totals: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[list[str], list[str]]]

    @classmethod
    def of(
        cls,
        totals: Mapping[str, tuple[WindowTotal, Measure]],
        low: WindowTotal,
        high: WindowTotal,
    ) -> _Counting:
        events = sorted({event for _, measure in totals.values() for event in measure.events})
        names: dict[Any, str] = {}
        conditions: dict[str, nw.Expr] = {}
        grouped: dict[Any, tuple[list[str], list[str]]] = {}
        for name, (total, measure) in totals.items():
            own: dict[Any, list[nw.Expr]] = {
                ("limits", total.low, total.high): inside_of(total, low, high)
            }
            own |= {item: [is_one_of(*item)] for item in measure.where.items()}
            used = []
            for key, parts in own.items():
                if parts:
                    column = names.setdefault(key, f"_condition_{len(names)}")
                    conditions[column] = nw.all_horizontal(*parts, ignore_nulls=False)
                    used.append(column)
            counted, added = grouped.setdefault((measure.events, tuple(used)), ([], []))
            (added if measure.aggregate == "sum" else counted).append(name)
        return cls({event: number for number, event in enumerate(events)}, conditions, grouped)

    def selected(self, counted: Frame, *, deduplicate: bool) -> Iterator[Any]:
        """Number, kind, amount and conditions of the events, in record batches of Arrow."""
        kind = nw.lit(0)
        for event, number in self.kinds.items():
            kind = nw.when(nw.col("event") == event).then(nw.lit(number)).otherwise(kind)
        columns = [kind.cast(nw.UInt16).alias(KIND)]
        if any(added for _, added in self.totals.values()):
            columns.append(nw.col("value").cast(nw.Float64).fill_null(0.0).alias(AMOUNT))
        columns += [
            condition.fill_null(value=False).alias(name)
            for name, condition in self.conditions.items()
        ]
        rows = counted.select(NUMBER, *columns)
        if deduplicate:
            found = rows.collect_schema().names()[1:]
            rows = (
                counted.select(NUMBER, "event_id", *columns)
                .group_by(NUMBER, "event_id")
                .agg(nw.col(*found).any_value())
                .drop("event_id")
            )
        yield from rows.to_native().to_arrow_reader(BATCH_EVENTS)

    def add(self, batch: Any, sums: dict[str, NDArray[np.float64]]) -> None:
        """Add the events of a batch to the totals."""
        column = {
            name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names
        }
        for (events, conditions), (counted, added) in self.totals.items():
            is_counted = np.zeros(len(self.kinds), bool)
            is_counted[[self.kinds[event] for event in events]] = True
            picked = is_counted[column[KIND]]
            for name in conditions:
                picked &= column[name]
            rows = np.flatnonzero(picked)
            units = column[NUMBER][rows]
            for name in counted:
                np.add.at(sums[name], units, 1.0)
            for name in added:
                np.add.at(sums[name], units, column[AMOUNT][rows])
