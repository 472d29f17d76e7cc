"""The sums of a look from unit frames in this process, chunk by chunk in a fixed order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
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
from experiments_dagster.stats.methods.moments.regression import (
    ArmLine,
    ContrastLines,
    ResidualSums,
)
from experiments_dagster.stats.moments import ArmMoments

Vector = NDArray[np.float64]
EPOCH = dt.date(1970, 1, 1)
NO_LEVEL = "missing"  # as `units.covariates.text_labels`


class UnitChunks(Protocol):
    """Unit frames that can be read in chunks, such as `unit_frames.Frames`."""

    memo: dict[Any, Any]
    only_needed: bool

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns, some rows at a time."""


def sums_of(experiment: Experiment, frames: UnitChunks, *, cap: float | None) -> Sums:
    """The sums of an additive plan, computed once per set of frames."""
    key = ("sums", experiment.plan_hash, cap)
    if key not in frames.memo:
        engine = UnitEngine(experiment, frames, cap=cap, with_counts=not frames.only_needed)
        frames.memo[key] = collect_sums(experiment, engine, only_needed=frames.only_needed)
    found: Sums = frames.memo[key]
    return found


def columns_of(experiment: Experiment) -> list[str]:
    """The columns of unit frames that sums are made of."""
    columns = ["arm", "exposed_at", MISSING, f"pre_{experiment.primary.columns[0][0]}"]
    columns += [f"segment_{segment}" for segment in experiment.segments]
    for metric in experiment.metrics:
        columns += [name for name, _ in metric.columns]
        columns += covariate_names(experiment, metric)
    return list(dict.fromkeys(columns))


def counts_of(experiment: Experiment, frames: UnitChunks) -> Counts:
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
        with_counts: Whether anybody asks for the counts.
    """

    def __init__(
        self,
        experiment: Experiment,
        frames: UnitChunks,
        *,
        cap: float | None,
        with_counts: bool = True,
    ) -> None:
        self.experiment = experiment
        self.with_counts = with_counts
        self.frames = frames
        self.cap = cap
        self.metrics = {metric.name: metric for metric in experiment.metrics}

    def first_pass(self) -> tuple[Counts, dict[tuple[str, Part], dict[str, ArmMoments]]]:
        """Counts, and the moments of everybody and of every level."""
        counts, moments = Counts(), dict[tuple[str, Part], dict[str, ArmMoments]]()
        for chunk in self._chunks():
            if self.with_counts:
                _count(self.experiment, chunk, counts)
            for metric in self.metrics.values():
                self._add(moments, (metric.name, EVERYBODY), chunk, metric)
            for segment in self.experiment.segments:
                for level in chunk.levels(segment):
                    part = Part(segment, level)
                    primary = self.experiment.primary
                    self._add(moments, (primary.name, part), chunk, primary)
            del chunk  # before the next one is read
        for metric in self.metrics.values():
            moments.setdefault((metric.name, EVERYBODY), self._nobody(metric))
        return counts, moments

    def second_pass(
        self, wanted: Mapping[Task, ContrastLines]
    ) -> dict[Task, tuple[ResidualSums, ResidualSums]]:
        """Residual sums of control and treatment of every contrast."""
        sides = {
            task: (
                _Side(task.metric, task.part, self.experiment.control, lines.control),
                _Side(task.metric, task.part, task.arm, lines.treatment),
            )
            for task, lines in wanted.items()
        }
        # The control's line is often the same for every treatment.
        found = {side: ResidualSums() for pair in sides.values() for side in pair}
        for chunk in self._chunks():
            for side in found:
                metric, line = self.metrics[side.metric], side.line
                found[side] += line.sums(
                    *self._arrays(chunk, metric, side.part, side.arm, line.covariates)
                )
            del chunk
        return {task: (found[pair[0]], found[pair[1]]) for task, pair in sides.items()}

    def _chunks(self) -> Iterator[_Chunk]:
        arms = tuple(self.experiment.variants)
        frames = self.frames.chunks(columns_of(self.experiment))
        return map(lambda frame: _Chunk(frame, arms), frames)  # noqa: C417 - holds on to none

    def _arrays(
        self, chunk: _Chunk, metric: Metric, part: Part, arm: str, covariates: Sequence[str]
    ) -> tuple[list[Vector], list[Vector]]:
        """Outcome columns and covariates of the mature units of one arm and part."""
        rows = chunk.rows(arm, part, metric)
        cap = self.cap if metric.name == self.experiment.primary.name else None
        of_history = covariate_cap(self.experiment, metric, cap)
        outcomes = [chunk.picked(name, rows, cap) for name, _ in metric.columns]
        used = [
            chunk.picked(name, rows, None if name == MISSING else of_history) for name in covariates
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


@dataclass(frozen=True, slots=True)
class _Side:
    """One arm of a contrast; two are the same where their lines are, number for number."""

    metric: str
    part: Part
    arm: str
    line: ArmLine

    def __hash__(self) -> int:
        return hash((self.metric, self.part, self.arm, self.line.key))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Side):
            return NotImplemented
        mine = (self.metric, self.part, self.arm, self.line.key)
        return mine == (other.metric, other.part, other.arm, other.line.key)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of one arm and part, known by name."""

    key: tuple[Any, ...]
    at: NDArray[np.intp]


@dataclass(slots=True)
class _Chunk:
    """Some units, with columns and the rows of every part as arrays, each made once."""

    frame: pl.DataFrame
    arms: tuple[str, ...]
    _found: dict[Any, Any] = field(default_factory=dict)

    def values(self, name: str) -> Vector:
        """A column as doubles, NaN where it is null."""
        return self._once(("values", name), lambda: _doubles(self.frame[name]))  # type: ignore[no-any-return]

    def picked(self, name: str, rows: _Rows, cap: float | None) -> Vector:
        """A column at some rows, values above the cap counted as the cap."""

        def pick() -> Vector:
            values = self.values(name)[rows.at]
            return values if cap is None else np.minimum(values, cap)

        return self._once(("picked", name, rows.key, cap), pick)  # type: ignore[no-any-return]

    def of_arm(self, arm: str) -> NDArray[np.bool_]:
        """Whether each unit is of an arm."""
        return self.arm_codes() == self.arms.index(arm)  # type: ignore[no-any-return]

    def arm_codes(self) -> NDArray[np.uint8]:
        """The arm of every unit as its place among the arms."""
        return self._once("arms", lambda: _codes(self.frame["arm"], self.arms))  # type: ignore[no-any-return]

    def levels(self, segment: str) -> list[str]:
        """The levels of a segment, sorted."""
        return self._once(("levels", segment), lambda: sorted(self._labels(segment).unique()))  # type: ignore[no-any-return]

    def level_codes(self, segment: str) -> NDArray[np.uint32]:
        """The level of every unit as its place among the chunk's levels."""
        levels = self.levels(segment)
        return self._once(  # type: ignore[no-any-return]
            ("codes", segment), lambda: _codes(self._labels(segment), tuple(levels))
        )

    def rows(self, arm: str, part: Part, metric: Metric) -> _Rows:
        """Rows of one arm and part whose window is closed."""
        key = ("rows", arm, part, metric.maturity_days, metric.parts[0].source)
        return self._once(  # type: ignore[no-any-return]
            key, lambda: _Rows(key, np.flatnonzero(self._selected(arm, part, metric)))
        )

    def _selected(self, arm: str, part: Part, metric: Metric) -> NDArray[np.bool_]:
        keep = self.of_arm(arm)
        outcome = self.frame[metric.columns[0][0]]
        if outcome.null_count():
            keep = keep & outcome.is_not_null().to_numpy()
        if part.segment is not None and part.level is not None:
            levels = self.levels(part.segment)
            place = levels.index(part.level) if part.level in levels else len(levels)
            is_level = self.level_codes(part.segment) == place
            keep = keep & (is_level if part.inside else ~is_level)
        return keep

    def _labels(self, segment: str) -> pl.Series:
        return self.frame[f"segment_{segment}"].fill_null(NO_LEVEL)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]


def _doubles(column: pl.Series) -> Vector:
    return column.cast(pl.Float64).to_numpy()


def _codes(column: pl.Series, names: tuple[str, ...]) -> NDArray[Any]:
    return column.cast(pl.Enum(names)).to_physical().to_numpy()


def _count(experiment: Experiment, chunk: _Chunk, counts: Counts) -> None:
    local = chunk.frame["exposed_at"].dt.convert_time_zone(experiment.timezone)
    days = local.dt.date().to_physical().to_numpy()
    for day, arm, n in _tally(days, chunk.arm_codes(), chunk.arms):
        _add_count(counts.by_day.setdefault(EPOCH + dt.timedelta(days=day), {}), arm, n)
    for segment in experiment.segments:
        by_level = counts.by_level.setdefault(segment, {})
        names = chunk.levels(segment)
        for place, arm, n in _tally(chunk.level_codes(segment), chunk.arm_codes(), chunk.arms):
            _add_count(by_level.setdefault(names[place], {}), arm, n)
    history = f"pre_{experiment.primary.columns[0][0]}"
    is_missing = chunk.frame[MISSING].to_numpy()
    for arm in experiment.variants:
        is_arm = chunk.of_arm(arm)
        _add_count(counts.missing, arm, int(np.count_nonzero(is_missing & is_arm)))
        own = ArmMoments.from_arrays(**{history: chunk.values(history)[is_arm]})
        counts.history[arm] = counts.history[arm] + own if arm in counts.history else own


def _tally(
    keys: NDArray[Any], codes: NDArray[np.uint8], arms: tuple[str, ...]
) -> Iterator[tuple[int, str, int]]:
    """Units per key and arm, where there are any; keys are whole numbers of a small range."""
    if not len(keys):
        return
    lowest = int(keys.min())
    places = (keys.astype(np.int64) - lowest) * len(arms) + codes
    table = np.bincount(places).tolist()
    for place, n in enumerate(table):
        if n:
            key, code = divmod(place, len(arms))
            yield lowest + key, arms[code], n


def _add_count(counts: dict[str, int], key: str, n: int) -> None:
    counts[key] = counts.get(key, 0) + n
