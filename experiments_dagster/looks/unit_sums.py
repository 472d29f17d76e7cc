"""The sums of a look from unit frames in this process, chunk by chunk in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.sums import (
    EVERYBODY,
    MISSING,
    Counts,
    Part,
    Sums,
    Task,
    collect_sums,
    covariate_cap,
    covariate_names,
    outcome_names,
)
from experiments_dagster.stats.methods.moments.regression import ContrastLines, ResidualSums
from experiments_dagster.stats.moments import ArmMoments

Vector = NDArray[np.float64]
Rows = NDArray[np.intp]
NO_LEVEL = "missing"  # as `units.covariates.text_labels`


def sums_of(experiment: Experiment, frames: Frames, *, cap: float | None) -> Sums:
    """The sums of an additive plan, computed once per set of frames."""
    key = ("sums", experiment.plan_hash, cap)
    if key not in frames.memo:
        engine = UnitEngine(experiment, frames, cap=cap)
        frames.memo[key] = collect_sums(experiment, engine)
    found: Sums = frames.memo[key]
    return found


def counts_of(experiment: Experiment, frames: Frames) -> Counts:
    """The counts alone."""
    counts = Counts()
    history = f"pre_{experiment.primary.columns[0][0]}"
    columns = ["arm", "exposed_at", MISSING, history]
    columns += [f"segment_{segment}" for segment in experiment.segments]
    for frame in frames.chunks(columns):
        _count(experiment, _Chunk(frame, tuple(experiment.variants)), counts)
    return counts


class UnitEngine:
    """Adds up over the chunks of unit frames.

    Args:
        experiment: An additive plan.
        frames: Its frames as of the look.
        cap: Largest value of the primary metric that counts; None for no cap.
    """

    def __init__(self, experiment: Experiment, frames: Frames, *, cap: float | None) -> None:
        self.experiment = experiment
        self.frames = frames
        self.cap = cap
        self.metrics = {metric.name: metric for metric in experiment.metrics}

    def first_pass(self) -> tuple[Counts, dict[tuple[str, Part], dict[str, ArmMoments]]]:
        """Counts, and the moments of everybody and of every level."""
        counts, moments = Counts(), dict[tuple[str, Part], dict[str, ArmMoments]]()
        for chunk in self._chunks():
            _count(self.experiment, chunk, counts)
            for metric in self.metrics.values():
                self._add(moments, (metric.name, EVERYBODY), chunk, metric)
            for segment in self.experiment.segments:
                for level in chunk.levels(segment):
                    part = Part(segment, level)
                    primary = self.experiment.primary
                    self._add(moments, (primary.name, part), chunk, primary)
        for metric in self.metrics.values():
            moments.setdefault((metric.name, EVERYBODY), self._nobody(metric))
        return counts, moments

    def second_pass(
        self, wanted: Mapping[Task, ContrastLines]
    ) -> dict[Task, tuple[ResidualSums, ResidualSums]]:
        """Residual sums of control and treatment of every contrast."""
        found = {task: (ResidualSums(), ResidualSums()) for task in wanted}
        for chunk in self._chunks():
            for task, lines in wanted.items():
                metric, arms = self.metrics[task.metric], (self.experiment.control, task.arm)
                sides = zip(arms, (lines.control, lines.treatment), found[task], strict=True)
                control, treatment = (
                    known + line.sums(*self._arrays(chunk, metric, task.part, arm, line.covariates))
                    for arm, line, known in sides
                )
                found[task] = control, treatment
        return found

    def _chunks(self) -> Iterator[_Chunk]:
        names = [name for metric in self.metrics.values() for name, _ in metric.columns]
        columns = ["arm", "exposed_at", MISSING]
        columns += [f"segment_{segment}" for segment in self.experiment.segments]
        columns += [*names, *(f"pre_{name}" for name in names)]
        for frame in self.frames.chunks(columns):
            yield _Chunk(frame, tuple(self.experiment.variants))

    def _arrays(
        self, chunk: _Chunk, metric: Metric, part: Part, arm: str, covariates: Sequence[str]
    ) -> tuple[list[Vector], list[Vector]]:
        """Outcome columns and covariates of the mature units of one arm and part."""
        rows = chunk.rows(arm, part, metric)
        cap = self.cap if metric.name == self.experiment.primary.name else None
        of_history = covariate_cap(self.experiment, metric, cap)
        outcomes = [_capped(chunk.values(name)[rows], cap) for name, _ in metric.columns]
        used = [
            _capped(chunk.values(name)[rows], None if name == MISSING else of_history)
            for name in covariates
        ]
        return outcomes, used

    def _add(
        self,
        moments: dict[tuple[str, Part], dict[str, ArmMoments]],
        key: tuple[str, Part],
        chunk: _Chunk,
        metric: Metric,
    ) -> None:
        names = covariate_names(self.experiment, metric)
        known = moments.setdefault(key, self._nobody(metric))
        for arm in self.experiment.variants:
            outcomes, covariates = self._arrays(chunk, metric, key[1], arm, names)
            columns = (*outcome_names(metric), *names)
            values = dict(zip(columns, (*outcomes, *covariates), strict=True))
            known[arm] = known[arm] + ArmMoments.from_arrays(**values)

    def _nobody(self, metric: Metric) -> dict[str, ArmMoments]:
        columns = (*outcome_names(metric), *covariate_names(self.experiment, metric))
        return {arm: ArmMoments.empty(columns) for arm in self.experiment.variants}


@dataclass(slots=True)
class _Chunk:
    """Some units, with their columns as arrays and the rows of every part, found once."""

    frame: pl.DataFrame
    arms: tuple[str, ...]
    _found: dict[Any, Any] = field(default_factory=dict)

    def values(self, name: str) -> Vector:
        """A column as doubles, NaN where it is null."""
        if name not in self._found:
            self._found[name] = self.frame[name].cast(pl.Float64).to_numpy()
        return self._found[name]  # type: ignore[no-any-return]

    def of_arm(self, arm: str) -> Rows:
        """Rows of one arm."""
        return self._rows(("arm", arm), (self.frame["arm"] == arm).to_numpy)

    def levels(self, segment: str) -> list[str]:
        """The levels of a segment, sorted."""
        return sorted(self._labels(segment).unique().to_list())

    def rows(self, arm: str, part: Part, metric: Metric) -> Rows:
        """Rows of one arm and part whose window is closed."""
        key = ("rows", arm, part, metric.maturity_days, metric.parts[0].source)
        return self._rows(key, lambda: self._selected(arm, part, metric))

    def _rows(self, key: tuple[Any, ...], select: Any) -> Rows:
        if key not in self._found:
            self._found[key] = np.flatnonzero(select())
        return self._found[key]  # type: ignore[no-any-return]

    def _selected(self, arm: str, part: Part, metric: Metric) -> NDArray[np.bool_]:
        keep = (self.frame["arm"] == arm) & self.frame[metric.columns[0][0]].is_not_null()
        if part.segment is not None:
            is_level = self._labels(part.segment) == part.level
            keep &= is_level if part.inside else ~is_level
        return keep.to_numpy()

    def _labels(self, segment: str) -> pl.Series:
        return self.frame[f"segment_{segment}"].fill_null(NO_LEVEL)


def _count(experiment: Experiment, chunk: _Chunk, counts: Counts) -> None:
    zone = ZoneInfo(experiment.timezone)
    day = pl.col("exposed_at").dt.convert_time_zone(zone.key).dt.date()
    for at, arm, n in chunk.frame.group_by(day, "arm").len().iter_rows():
        _add_count(counts.by_day.setdefault(at, {}), arm, n)
    for segment in experiment.segments:
        levels = counts.by_level.setdefault(segment, {})
        column = pl.col(f"segment_{segment}").fill_null(NO_LEVEL)
        for level, arm, n in chunk.frame.group_by(column, "arm").len().iter_rows():
            _add_count(levels.setdefault(level, {}), arm, n)
    history = f"pre_{experiment.primary.columns[0][0]}"
    for arm in experiment.variants:
        rows = chunk.of_arm(arm)
        _add_count(counts.missing, arm, int(chunk.values(MISSING)[rows].sum()))
        own = ArmMoments.from_arrays(**{history: chunk.values(history)[rows]})
        counts.history[arm] = counts.history[arm] + own if arm in counts.history else own


def _capped(values: Vector, cap: float | None) -> Vector:
    return values if cap is None else np.minimum(values, cap)


def _add_count(counts: dict[str, int], key: str, n: int) -> None:
    counts[key] = counts.get(key, 0) + n
