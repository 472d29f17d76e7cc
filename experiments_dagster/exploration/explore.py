"""The summaries of an experiment's frames: outcomes over all arms together, never by arm.

Nothing here is a look: no outcome is told apart by arm, by day of exposure or by segment, so no
alpha is spent and nothing of the ledger is read. Arms are compared on the pre-period alone, which
the treatment cannot have touched.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.exploration.facts import (
    Fact,
    Vector,
    balance_facts,
    column_facts,
    correlation,
    correlation_facts,
    number_fact,
)
from experiments_dagster.exploration.record import (
    Exploration,
    level_balance,
    level_facts,
    ratio_facts,
)
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.stats.moments import ArmMoments

SEGMENT = "segment_"
MOMENTS_ONLY = "moments arrive aggregated: no units, so no quantiles, covariates or days"
SUMS_ONLY = "the units stay in the engine that holds them: their number is all that is known here"


def explore(experiment: Experiment, inputs: Frames | Summaries) -> Exploration:
    """Summarise the published frames of an experiment.

    Args:
        experiment: Metrics, segments, arms.
        inputs: What the next look would read.
    """
    info = inputs.info
    facts, notes = list(_unit_facts(info)), list[str]()
    if isinstance(inputs, Summaries):
        facts += _moment_facts(experiment, inputs)
        notes.append(MOMENTS_ONLY)
    elif has_units(info):
        facts += _frame_facts(experiment, inputs)
    else:
        notes.append(SUMS_ONLY)
    return Exploration(
        subject=experiment.slug,
        unit=experiment.unit,
        facts=tuple(facts),
        origin={
            "as_of": info.as_of,
            "horizon": info.horizon,
            "cutoff": info.cutoff,
            "plan_hash": info.plan_hash,
        },
        notes=tuple(notes),
        arms=(experiment.control, *experiment.treatments),
    )


def has_units(info: FrameInfo) -> bool:
    """Whether rows of units were published, as files or as views over kept rows."""
    return info.user_frame is not None or info.unit_rows is not None


def _unit_facts(info: FrameInfo) -> Iterator[Fact]:
    """Numbers of units; the split into arms is the sample ratio, which is no outcome."""
    yield number_fact("units", "exposed", "n", sum(info.n_exposed.values()))
    for arm, n in info.n_exposed.items():
        yield number_fact("units", "exposed", "n", n, level=arm)
    yield number_fact("units", "in two arms", "n", sum(info.n_multi_arm.values()))


def _moment_facts(experiment: Experiment, summaries: Summaries) -> Iterator[Fact]:
    for metric in experiment.metrics:
        pooled: ArmMoments | None = None
        for arm in experiment.variants:
            own = summaries.moments[metric.name, arm]
            pooled = own if pooled is None else pooled + own
        assert pooled is not None
        yield number_fact("metrics", metric.name, "n", pooled.n)
        for place, column in enumerate(pooled.columns):
            name = metric.name if column == "y" else f"{metric.name}_{column}"
            if not pooled.n:
                yield number_fact("metrics", name, "mean", "N_TOO_SMALL")
                continue
            yield number_fact("metrics", name, "mean", float(pooled.means[place]))
            square = float(pooled.cross[place, place])
            spread = (square / (pooled.n - 1)) ** 0.5 if pooled.n > 1 else "N_TOO_SMALL"
            yield number_fact("metrics", name, "std_dev", spread)


def _frame_facts(experiment: Experiment, frames: Frames) -> Iterator[Fact]:
    parts = {"user_frame": frames.user, "ratio_frame": frames.ratio}
    for name, frame in parts.items():
        yield from _quality(name, frame)
    columns: dict[str, Vector] = {}
    for metric in experiment.metrics:
        frame = frames.of(metric)
        for name, _ in metric.columns:
            columns |= {column: _numbers(frame, column) for column in (name, f"pre_{name}")}
        yield from _metric_facts(metric, columns)
    yield from _exposures(experiment, frames.user)
    yield from _segments(experiment, frames.user)
    yield from _balance(experiment, frames.user, columns)
    yield from correlation_facts(columns)


def _quality(name: str, frame: pl.DataFrame) -> Iterator[Fact]:
    """Shape, duplicates, types and what is missing, column by column."""
    yield number_fact("quality", name, "rows", frame.height)
    yield number_fact("quality", name, "columns", frame.width)
    if "unit" in frame.columns:
        twice = frame.height - frame["unit"].n_unique()
        yield number_fact("quality", name, "duplicate_units", twice)
    for column in frame.columns:
        missing = frame[column].null_count()
        yield Fact(
            section="quality",
            subject=name,
            statistic="dtype",
            level=column,
            text=str(frame.schema[column]),
        )
        yield number_fact("quality", name, "n_missing", missing, level=column)


def _metric_facts(metric: Metric, columns: dict[str, Vector]) -> Iterator[Fact]:
    """Each column of a metric; of a ratio also the ratio of totals."""
    for name, _ in metric.columns:
        values, history = columns[name], columns[f"pre_{name}"]
        yield from column_facts("metrics", name, values)
        yield number_fact("metrics", name, "pre_correlation", correlation(values, history))
    if metric.is_ratio:
        (numerator, _), (denominator, _) = metric.columns
        top, bottom = columns[numerator], columns[denominator]
        known = ~(np.isnan(top) | np.isnan(bottom))
        yield from ratio_facts("metrics", metric.name, top[known], bottom[known])


def _exposures(experiment: Experiment, frame: pl.DataFrame) -> Iterator[Fact]:
    """First exposures by local day, all arms together; days without any are zeros."""
    zone = str(ZoneInfo(experiment.timezone))
    days = frame.select(pl.col("exposed_at").dt.convert_time_zone(zone).dt.date().alias("day"))
    if days.is_empty():
        return
    counts: dict[dt.date, int] = dict(days.group_by("day").len().iter_rows())
    first, last = min(counts), max(counts)
    for k in range((last - first).days + 1):
        day = first + dt.timedelta(days=k)
        yield number_fact("exposures", "units", "n", counts.get(day, 0), level=day.isoformat())


def _segments(experiment: Experiment, frame: pl.DataFrame) -> Iterator[Fact]:
    for name in experiment.exposure_properties:
        yield from level_facts("segments", name, frame[f"{SEGMENT}{name}"])


def _balance(
    experiment: Experiment, frame: pl.DataFrame, columns: dict[str, Vector]
) -> Iterator[Fact]:
    """Pre-period and segments at exposure by arm."""
    order = (experiment.control, *experiment.treatments)
    arms = frame["arm"].to_numpy().astype(np.str_)
    # By metric, not by how a column is called: an outcome may be named pre_something.
    histories = [f"pre_{name}" for metric in experiment.metrics for name, _ in metric.columns]
    for history in dict.fromkeys(histories):
        yield from balance_facts(history, columns[history], arms, order)
    missing = frame["is_pre_missing"].cast(pl.Float64).to_numpy()
    yield from balance_facts("is_pre_missing", missing, arms, order)
    for name in experiment.exposure_properties:
        yield from level_balance(name, frame[f"{SEGMENT}{name}"], arms, order)


def _numbers(frame: pl.DataFrame, column: str) -> Vector:
    return frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
