"""What the looks say about one arm, in order: the numbers that charts, tables and reports share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from experiments_dagster.config.experiment import GroupSequential
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import AnytimeInterval, Boundary, Effect, Look
from experiments_dagster.reporting.numbers import local_date

Estimand = Literal["difference", "relative_difference"]
Side = Literal["desired", "undesired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookPoint:
    """One look on a time axis: the lift with its three intervals, all relative or absent.

    `position` counts planned looks; a peek stands half a step after the last one.
    """

    position: float
    name: str
    date: dt.date
    estimate: float | None
    reason: str | None
    naive: tuple[float, float] | None
    repeated: tuple[float, float] | None
    anytime: tuple[float, float] | None
    boundary: Boundary | None


def look_points(looks: Sequence[Look], experiment: Experiment, arm: str) -> list[LookPoint]:
    """The primary effect of one arm at every look."""
    return [_look_point(look, experiment, arm) for look in looks]


def _look_point(look: Look, experiment: Experiment, arm: str) -> LookPoint:
    metric = experiment.primary.name
    effect = deciding_effect(look, experiment, metric, arm, "relative_difference")
    row = look.boundary(metric, arm)
    sequence = anytime_of(look, arm)
    is_ok = effect is not None and effect.status == "ok"
    return LookPoint(
        position=look.planned_index + (0.5 if look.look is None else 0),
        name="peek" if look.look is None else str(look.look),
        date=local_date(look.as_of, experiment.timezone),
        estimate=effect.estimate if effect else None,
        reason=effect.reason if effect else "IMMATURE",
        naive=_pair(effect.ci_low, effect.ci_high) if effect and is_ok else None,
        repeated=_pair(row.limit_low, row.limit_high) if row and row.is_relative else None,
        anytime=_pair(sequence.relative_low, sequence.relative_high) if sequence else None,
        boundary=row,
    )


def deciding_effect(
    look: Look, experiment: Experiment, metric: str, arm: str, estimand: Estimand
) -> Effect | None:
    """The row that the verdict rests on: adjusted where the plan says so."""
    return look.effect(metric, arm, estimand, adjusted=experiment.adjusts)


def anytime_of(look: Look, arm: str) -> AnytimeInterval | None:
    """The confidence sequence of one arm's primary effect at a look."""
    return look.anytime_of(arm)


def first_crossing(looks: Sequence[Look], metric: str, arm: str, direction: Side) -> Look | None:
    """The first look whose boundary was crossed in a direction."""
    for look in looks:
        row = look.boundary(metric, arm)
        if row is not None and row.crossed == direction:
            return look
    return None


def success_crossing(
    looks: Sequence[Look], experiment: Experiment, metric: Metric, arm: str, side: Side
) -> Look | None:
    """The first look at which a success metric was rejected on a side.

    By its boundary where looks are planned, else by its confidence sequence.
    """
    for look in looks:
        row, sequence = look.boundary(metric.name, arm), look.anytime_of(arm, metric.name)
        crossed = row.crossed if row is not None else "none"
        if not experiment.is_group_sequential and sequence is not None:
            is_rise = sequence.low > 0
            if is_rise or sequence.high < 0:
                is_desired = is_rise == (metric.direction == "increase")
                crossed = "desired" if is_desired else "undesired"
        if crossed == side:
            return look
    return None


def harm_shown(looks: Sequence[Look], metric: str, arm: str) -> Look | None:
    """The first look at which the safety monitor showed harm."""
    for look in looks:
        for row in look.deterioration:
            if (row.metric, row.arm, row.crossed) == (metric, arm, "undesired"):
                return look
    return None


def last_boundary(looks: Sequence[Look], metric: str, arm: str) -> Boundary | None:
    """The newest boundary of a hypothesis; an arm that had its last look keeps the one of then."""
    rows = (look.boundary(metric, arm) for look in reversed(looks))
    return next((row for row in rows if row is not None), None)


def fraction_of(look: Look, metric: str, arm: str) -> float | None:
    """How much of the planned information the look had for an arm; None while immature."""
    row = look.boundary(metric, arm)
    return row.information_fraction if row else look.information_fractions.get(arm)


def planned_count(experiment: Experiment) -> int | None:
    """How many looks the plan has; None where any number is allowed."""
    design = experiment.plan.looks.design
    return design.planned if isinstance(design, GroupSequential) else None


def desired_sign(experiment: Experiment) -> int:
    """1 where the primary metric should rise, -1 where it should fall."""
    return 1 if experiment.primary.direction == "increase" else -1


def _pair(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
