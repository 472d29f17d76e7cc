"""Everything that a look needs of its units, as sums: one record, whatever engine adds up.

    first pass    moments of outcomes and covariates by arm, and by level of every segment for the
                  primary metric; counts of exposed units
    second pass   sums over residuals (`regression.ResidualSums`) of every contrast

A plan whose effects are means, proportions and ratios of closed windows, plain or adjusted by
pre-period totals, needs nothing else (`Experiment.is_additive`). Sums of disjoint units add up, so
units may come in chunks, and only sums leave the engine.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.heterogeneity import MIN_UNITS
from experiments_dagster.stats.methods.moments.regression import (
    MAX_LEVERAGE,
    ContrastLines,
    ResidualSums,
    contrast_lines,
)
from experiments_dagster.stats.moments import ArmMoments

MISSING = "is_pre_missing"
MAX_LEVELS = 50  # levels of one segment that are shown; a finer split is not a segment


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Some of the units: all of them, one level of a segment, or all others (`inside` False)."""

    segment: str | None = None
    level: str | None = None
    inside: bool = True


EVERYBODY = Part()


@dataclass(frozen=True, slots=True)
class Task:
    """One contrast: a metric, a treatment arm, and the units that count."""

    metric: str
    arm: str
    part: Part = EVERYBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Exposed units of one arm, mature or not, by arm unless said otherwise.

    Args:
        by_day: By local day of first exposure.
        by_level: By segment, then level.
        missing: Those with nothing in the covariate window.
        history: Moments of the primary metric's first pre-period total, uncapped.
    """

    by_day: dict[dt.date, dict[str, int]] = field(default_factory=dict)
    by_level: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    history: dict[str, ArmMoments] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What both passes found.

    Args:
        counts: Of all exposed units of one arm.
        moments: Of mature units by metric, part and arm. Columns: y, or numerator and denominator,
            then `covariate_names`.
        lines: The regressions of every contrast that has units in both arms.
        residuals: Sums over the control's and the treatment's residuals of the same contrasts.
    """

    counts: Counts
    moments: dict[tuple[str, Part], dict[str, ArmMoments]]
    lines: dict[Task, ContrastLines]
    residuals: dict[Task, tuple[ResidualSums, ResidualSums]]

    def level_sizes(self, experiment: Experiment, segment: str) -> dict[str, int]:
        """Mature units of the primary metric by level of a segment."""
        return {
            part.level: _size(arms)
            for (name, part), arms in self.moments.items()
            if name == experiment.primary.name
            and part.segment == segment
            and part.inside
            and part.level is not None
        }


class Engine(Protocol):
    """Where the units are. Each call is one pass over them."""

    def first_pass(self) -> tuple[Counts, dict[tuple[str, Part], dict[str, ArmMoments]]]:
        """Counts, and the moments of everybody and of every level."""

    def second_pass(
        self, wanted: Mapping[Task, ContrastLines]
    ) -> dict[Task, tuple[ResidualSums, ResidualSums]]:
        """Residual sums of control and treatment of every contrast."""


def collect_sums(experiment: Experiment, engine: Engine, *, only_needed: bool = False) -> Sums:
    """Both passes of an additive plan.

    Args:
        experiment: Metrics, arms, estimator and segments.
        engine: Adds up over units.
        only_needed: Leave out the second pass where it would only give the skewness of plain
            contrasts.
    """
    counts, moments = engine.first_pass()
    moments = moments | _rest_of_levels(experiment, moments)
    lines: dict[Task, ContrastLines] = {}
    metrics = {metric.name: metric for metric in experiment.metrics}
    for (name, part), arms in moments.items():
        for arm in experiment.treatments:
            found = _lines(experiment, metrics[name], arms, arm)
            if found is not None:
                lines[Task(name, arm, part)] = found
    if only_needed and not experiment.adjusts:
        return Sums(counts=counts, moments=moments, lines=lines, residuals={})
    residuals = engine.second_pass(lines)
    while isolated := {task for task, sums in residuals.items() if _is_isolated(lines[task], sums)}:
        fewer = {task: _without_last(experiment, task, lines[task], moments) for task in isolated}
        lines |= fewer
        residuals |= engine.second_pass(fewer)
    return Sums(counts=counts, moments=moments, lines=lines, residuals=residuals)


def outcome_names(metric: Metric) -> tuple[str, ...]:
    """What moments call the outcome of a metric."""
    return ("numerator", "denominator") if metric.is_ratio else ("y",)


def covariate_names(experiment: Experiment, metric: Metric) -> tuple[str, ...]:
    """What moments call the covariates of a metric; none where the plan does not adjust."""
    if not experiment.adjusts:
        return ()
    return (*(f"pre_{name}" for name, _ in metric.columns), MISSING)


def covariate_cap(experiment: Experiment, metric: Metric, cap: float | None) -> float | None:
    """The cap of a pre-period total: that of the outcome, for as many days."""
    if cap is None:
        return None
    return cap * experiment.plan.estimator.covariate_days / metric.window_days


def _lines(
    experiment: Experiment, metric: Metric, arms: Mapping[str, ArmMoments], arm: str
) -> ContrastLines | None:
    control, treatment = arms[experiment.control], arms[arm]
    centre = None
    if len(experiment.treatments) > 1 and not metric.is_ratio:
        centre = _merged(arms.values())
    try:
        return contrast_lines(
            control,
            treatment,
            outcome=outcome_names(metric),
            covariates=covariate_names(experiment, metric),
            centre=centre,
        )
    except EstimationError:
        return None  # the plain comparison says why


def _is_isolated(lines: ContrastLines, sums: tuple[ResidualSums, ResidualSums]) -> bool:
    return bool(lines.control.covariates) and max(part.max_leverage for part in sums) > MAX_LEVERAGE


def _without_last(
    experiment: Experiment,
    task: Task,
    lines: ContrastLines,
    moments: Mapping[tuple[str, Part], Mapping[str, ArmMoments]],
) -> ContrastLines:
    """The same contrast without its last covariate, which leaves a unit to itself."""
    metric = next(metric for metric in experiment.metrics if metric.name == task.metric)
    arms = moments[task.metric, task.part]
    used = lines.control.covariates[:-1]
    centre = None
    if len(experiment.treatments) > 1 and not metric.is_ratio:
        centre = _merged(arms.values())
    fewer = contrast_lines(
        arms[experiment.control],
        arms[task.arm],
        outcome=outcome_names(metric),
        covariates=used,
        centre=centre,
    )
    every = covariate_names(experiment, metric)
    kept = fewer.control.covariates
    return replace(fewer, dropped=tuple(name for name in every if name not in kept))


def _rest_of_levels(
    experiment: Experiment, moments: Mapping[tuple[str, Part], Mapping[str, ArmMoments]]
) -> dict[tuple[str, Part], dict[str, ArmMoments]]:
    """Moments of all other units for each level that is large enough to be tested."""
    rest = {}
    primary = experiment.primary.name
    for segment in experiment.segments:
        levels = {
            part.level: arms
            for (name, part), arms in moments.items()
            if name == primary and part.segment == segment
        }
        shown = set(shown_levels({level: _size(arms) for level, arms in levels.items() if level}))
        for level, arms in levels.items():
            if level not in shown or not _is_testable(experiment, arms):
                continue
            others = [other for name, other in levels.items() if name != level]
            rest[primary, Part(segment, level, inside=False)] = {
                arm: _merged([empty_like(arms[arm]), *(other[arm] for other in others)])
                for arm in arms
            }
    return rest


def _is_testable(experiment: Experiment, arms: Mapping[str, ArmMoments]) -> bool:
    largest = max(arms[arm].n for arm in experiment.treatments)
    return min(largest, arms[experiment.control].n) >= MIN_UNITS


def shown_levels(sizes: Mapping[str, int]) -> list[str]:
    """The largest levels of a segment, in order of their names."""
    by_size = sorted(sizes, key=lambda level: (-sizes[level], level))
    return sorted(by_size[:MAX_LEVELS])


def _size(arms: Mapping[str, ArmMoments]) -> int:
    return sum(moment.n for moment in arms.values())


def empty_like(moments: ArmMoments) -> ArmMoments:
    """No units, of the same columns."""
    return ArmMoments.empty(moments.columns)


def _merged(parts: Iterable[ArmMoments]) -> ArmMoments:
    first, *others = parts
    for other in others:
        first = first + other
    return first
