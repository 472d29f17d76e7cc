"""Window totals of one experiment in one pass over its events, without partial aggregates.

Written once as narwhals lazy expressions, as `definitions` is, and equal to it: the columns are
those of `window_totals`, so `unit_frame` goes on top. Looks that repeat every day read partials;
this is for one analysis of a large table, and for engines that hold the events themselves.

    scan        only the events that some total counts
    join        first exposures, with the limits of all windows once per unit
    aggregate   one row per unit; units without events get 0
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import narwhals as nw

from experiments_dagster.config.metrics import Measure
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import (
    Frame,
    WindowTotal,
    instant,
    unit_frame,
    with_text_columns,
)
from experiments_dagster.frames.row_plan import totals_of

MISSING = "is_pre_missing"


AddUp = Callable[[Frame, str], Frame]
"""Adds the `source_totals` of a source to a frame of units, one Float64 column each."""


def experiment_units(
    experiment: Experiment,
    exposures: Frame,
    events: Mapping[str, Frame],
    horizons: Mapping[str, dt.datetime],
    *,
    deduplicate: bool = False,
    with_history: bool = True,
) -> Frame:
    """All exposed units with outcomes and covariates of every metric, as of a look.

    Args:
        experiment: Metrics of closed windows, and the covariate window.
        exposures: `first_exposures` of the experiment.
        events: By source, as `one_pass_totals` takes them.
        horizons: Up to when each source speaks, naive UTC. A source without one has no events:
            its windows are open and nothing is known of their history.
        deduplicate: As in `one_pass_totals`.
        with_history: Without it nothing before exposure is read: every pre-period is missing.

    Returns:
        The columns of `exposures`, outcomes, pre_* and is_pre_missing.
    """

    def add_up(units: Frame, source: str) -> Frame:
        measures = source_measures(experiment, source)
        totals = source_totals(experiment, source, with_history=with_history)
        return one_pass_totals(units, events[source], measures, totals, deduplicate=deduplicate)

    return with_outcomes(experiment, exposures, horizons, add_up, with_history=with_history)


def source_measures(experiment: Experiment, source: str) -> list[Measure]:
    """What metrics measure in the events of a source."""
    return [part for metric in experiment.metrics for part in metric.parts if part.source == source]


def source_totals(
    experiment: Experiment, source: str, *, with_history: bool = True
) -> list[WindowTotal]:
    """The totals of a source by name, those of the time before exposure only if wanted."""
    totals = {total.name: total for total in totals_of(experiment, source)}.values()
    return [total for total in totals if with_history or total.start_day >= 0]


def with_outcomes(
    experiment: Experiment,
    exposures: Frame,
    horizons: Mapping[str, dt.datetime],
    add_up: AddUp,
    *,
    with_history: bool = True,
) -> Frame:
    """`experiment_units`, whoever adds up the totals."""
    frame = exposures.with_columns(nw.lit(value=True).alias(MISSING))
    metrics = {metric.name: metric for metric in experiment.metrics}.values()
    for source in sorted({metric.parts[0].source for metric in metrics}):
        own = [metric for metric in metrics if metric.parts[0].source == source]
        totals = source_totals(experiment, source)
        if source not in horizons:
            frame = frame.with_columns(*_nothing_known(total.name for total in totals))
            continue
        frame = add_up(frame.rename({MISSING: "_missing_elsewhere"}), source)
        if not with_history:
            past = [total.name for total in totals if total.start_day < 0]
            frame = frame.with_columns(*(nw.lit(0.0).alias(name) for name in past))
        frame = (
            unit_frame(frame, own, horizons[source])
            .with_columns(nw.col(MISSING) & nw.col("_missing_elsewhere"))
            .drop("_missing_elsewhere")
        )
    return frame


def _nothing_known(totals: Iterable[str]) -> list[nw.Expr]:
    """Open outcomes and empty histories."""
    is_history = {name: name.startswith(("pre_", "lag_", "cap_basis_")) for name in totals}
    return [
        nw.lit(0.0 if history else None, dtype=nw.Float64).alias(name)
        for name, history in is_history.items()
    ]


def one_pass_totals(
    exposures: Frame,
    events: Frame,
    measures: Iterable[Measure],
    totals: Sequence[WindowTotal],
    *,
    deduplicate: bool = False,
) -> Frame:
    """Per exposed unit, one Float64 column per window total; units without events get 0.

    Args:
        exposures: Columns unit, exposed_at; one row per unit.
        events: Columns unit, occurred_at (naive UTC), event, value, then properties; event_id too
            where `deduplicate`. Landed files, or a warehouse's table under these names.
        measures: Among them what the totals add up.
        totals: What to add up over which days; at least one.
        deduplicate: Count rows of a unit with one event_id once. Such rows must be equal, as
            repeated deliveries are: which of them counts is not defined.

    Returns:
        The columns of `exposures`, then one per total.
    """
    by_key = {measure.key: measure for measure in measures}
    used = {total.measure: by_key[total.measure] for total in totals}
    # Metrics may share a total, such as a count and the proportion of units above zero.
    once = {replace(total, name=""): total for total in reversed(totals)}
    low, high = reach(totals)
    units = with_limits(exposures, [*totals, low, high])
    counted = in_reach(wanted(events, used.values()), units, low, high)
    inside = {total.name: inside_of(total, low, high) for total in once.values()}
    if deduplicate:
        counted = _distinct(counted, used.values(), list(once.values()), inside)
    summed = counted.group_by("unit").agg(
        *(_total(total, used[total.measure], inside[total.name]) for total in once.values())
    )
    same = {total.name: once[replace(total, name="")].name for total in totals}
    return exposures.join(summed, on="unit", how="left").select(
        *exposures.collect_schema().names(),
        *(nw.col(first).fill_null(0.0).alias(name) for name, first in same.items()),
    )


def in_reach(events: Frame, units: Frame, low: WindowTotal, high: WindowTotal) -> Frame:
    """The events of the units between the first start and the last end of their windows."""
    at = nw.col("occurred_at")
    joined = events.join(units, on="unit", how="inner")
    return joined.filter(at >= nw.col(low.low), at < nw.col(high.high))


def reach(totals: Sequence[WindowTotal]) -> tuple[WindowTotal, WindowTotal]:
    """Totals with the first start and the last end: outside of them nothing counts.

    Where some windows are cut by `until` and others not, the cut does not hold for all.
    """
    first = min(totals, key=lambda total: total.start_day)
    last = max(totals, key=lambda total: total.end_day)
    if len({total.until for total in totals}) > 1:
        last = replace(last, until=None)
    return first, last


def with_limits(exposures: Frame, totals: Iterable[WindowTotal], *, key: str = "unit") -> Frame:
    """The units with all window limits: interval arithmetic per event costs more than the join.

    Args:
        exposures: unit, exposed_at, and `key`.
        totals: Whose limits.
        key: What the joined events are known by; the unit itself or a column that stands for it.
    """
    limits: dict[str, nw.Expr] = {}
    for total in totals:
        limits[total.low] = instant(total.start_day, None)
        limits[total.high] = instant(total.end_day, total.until)
    columns = dict.fromkeys(("unit", key))
    return exposures.select(*columns, *(limits[name].alias(name) for name in sorted(limits)))


def wanted(events: Frame, measures: Iterable[Measure]) -> Frame:
    """The events that some measure counts.

    A chain of conditions: `is_in` becomes a search in a list per row on DuckDB.
    """
    used = list(measures)
    is_wanted = nw.lit(value=False)
    for event in sorted({event for measure in used for event in measure.events}):
        is_wanted = nw.when(nw.col("event") == event).then(nw.lit(value=True)).otherwise(is_wanted)
    properties = [name for measure in used for name in measure.where]
    return with_text_columns(events, properties).filter(is_wanted)


def inside_of(total: WindowTotal, low: WindowTotal, high: WindowTotal) -> list[nw.Expr]:
    """What an event must meet besides the reach of all windows, `low` to `high`."""
    at = nw.col("occurred_at")
    conditions = [] if total.low == low.low else [at >= nw.col(total.low)]
    return conditions if total.high == high.high else [*conditions, at < nw.col(total.high)]


def _distinct(
    counted: Frame,
    measures: Iterable[Measure],
    totals: Sequence[WindowTotal],
    inside: dict[str, list[nw.Expr]],
) -> Frame:
    """One row per unit and event id, with the columns that the totals read."""
    columns = {"event", "value"} | {name for measure in measures for name in measure.where}
    if any(inside.values()):
        columns |= {"occurred_at"} | {name for total in totals for name in (total.low, total.high)}
    return counted.group_by("unit", "event_id").agg(nw.col(*sorted(columns)).any_value())


def _total(total: WindowTotal, measure: Measure, inside: Sequence[nw.Expr]) -> nw.Expr:
    counts = is_one_of("event", measure.events)
    for name, values in measure.where.items():
        counts = counts & is_one_of(name, values)
    for condition in inside:
        counts = counts & condition
    if measure.aggregate == "sum":
        amount = nw.when(counts).then(nw.col("value")).sum()
    else:  # a count, since sums of integers become wider integers or decimals on some engines
        amount = nw.when(counts).then(nw.lit(1, dtype=nw.Int64)).count()
    return amount.cast(nw.Float64).alias(total.name)


def is_one_of(column: str, values: Sequence[str]) -> nw.Expr:
    """Comparisons: `is_in` becomes a search in a list per row on DuckDB."""
    first, *others = (nw.col(column) == value for value in values)
    for other in others:
        first = first | other
    return first
