"""When is a look due? Pure decisions; the clock is an argument."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from experiments_dagster.config.experiment import GroupSequential
from experiments_dagster.config.resolve import STEP_DAYS, Experiment
from experiments_dagster.looks.records import Look, is_finished


@dataclass(frozen=True, slots=True, kw_only=True)
class DueLook:
    """A planned look that may be taken now. Several missed ones are one look, the latest."""

    planned_index: int
    is_planned_end: bool


def local_day(experiment: Experiment, as_of: dt.datetime) -> dt.date:
    """The day of an instant in the experiment's time zone."""
    return as_of.astimezone(ZoneInfo(experiment.timezone)).date()


def start_of_day(experiment: Experiment, day: dt.date) -> dt.datetime:
    """00:00 of a day in the experiment's time zone, as an aware UTC instant."""
    zone = ZoneInfo(experiment.timezone)
    return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)


def due_look(
    experiment: Experiment,
    recorded: Sequence[Look],
    day: dt.date,
    *,
    information_fraction: float | None = None,
) -> DueLook | None:
    """The planned look that is due on a day, or None.

    Args:
        experiment: The plan.
        recorded: Looks taken so far, in order.
        day: Local date.
        information_fraction: Smallest fraction over the arms at present; needed where the
            schedule is `information`, unknown (None) counts as 0.
    """
    done = recorded[-1].planned_index if recorded else 0
    if is_complete(experiment, recorded):
        return None
    design, schedule = experiment.plan.looks.design, experiment.plan.looks.schedule
    if not isinstance(design, GroupSequential):
        # One last look after all windows are closed; more would see the same data again.
        end = _end_of_windows(experiment) + dt.timedelta(days=1)
        step = STEP_DAYS.get(schedule, 1)
        elapsed = (min(day, end) - experiment.first_look()).days
        index = 1 + elapsed // step + (day >= end and elapsed % step > 0) if elapsed >= 0 else 0
        return DueLook(planned_index=index, is_planned_end=day >= end) if index > done else None
    if schedule == "information":
        at_end = day >= _end_of_windows(experiment)
        reached = int((information_fraction or 0.0) * design.planned + 1e-9)
        index = design.planned if at_end else min(reached, design.planned)
    else:
        index = sum(planned <= day for planned in experiment.planned_looks())
    if index <= done:
        return None
    return DueLook(planned_index=index, is_planned_end=index == design.planned)


def is_complete(experiment: Experiment, recorded: Sequence[Look]) -> bool:
    """Whether the plan allows no further look: its end was reached, or all alpha is spent."""
    if not recorded:
        return False
    if recorded[-1].is_planned_end:
        return True
    return all(is_finished(recorded, arm) for arm in experiment.treatments)


def next_look(experiment: Experiment, recorded: Sequence[Look], day: dt.date) -> str | None:
    """When the next look is planned, in words; None when there is none."""
    if is_complete(experiment, recorded):
        return None
    looks = experiment.plan.looks
    if looks.schedule == "information":
        return "when enough information is there"
    if not isinstance(looks.design, GroupSequential):
        step = STEP_DAYS[looks.schedule]
        first = experiment.first_look()
        periods = max(0, (day - first).days // step + 1)
        return str(first + dt.timedelta(days=periods * step))
    return next((str(planned) for planned in experiment.planned_looks() if planned > day), None)


def _end_of_windows(experiment: Experiment) -> dt.date:
    """When the last unit counts in every metric that decides."""
    deciding = (*experiment.success_metrics, *(metric for _, metric in experiment.guardrails))
    end = experiment.ends_at.astimezone(ZoneInfo(experiment.timezone)).date()
    return end + dt.timedelta(days=max(metric.maturity_days for metric in deciding))
