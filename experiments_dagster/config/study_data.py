"""What a study without randomisation reads: landed events, or a table of the project folder.

series   one outcome over time, with columns that the intervention does not touch
panel    units by periods, some of them treated from some period on
units    a row per unit
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from experiments_dagster.config.base import Day, Name, Number, Slug, Spec, Text

Column = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _plain_moment(value: Any) -> Any:
    """A whole number such as a year, or a date; nothing that pydantic would have to convert."""
    if type(value) is int or type(value) is dt.date:
        return value
    if isinstance(value, str):
        return dt.date.fromisoformat(value)
    msg = f"need a whole number such as a year, or a date such as 2026-01-31, got {value!r}"
    raise ValueError(msg)


def refuse_two_roles(columns: Sequence[str]) -> None:
    """A column has one role.

    Raises:
        ValueError: Naming those that stand twice.
    """
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        msg = f"columns with two roles: {', '.join(twice)}"
        raise ValueError(msg)


Moment = Annotated[int | dt.date, BeforeValidator(_plain_moment)]
Label = Annotated[str | int, Field(union_mode="left_to_right")]


class Group(Spec):
    """The units that an exposure source lists for one experiment (and variants, if given)."""

    source: Slug
    experiment: Slug
    variants: tuple[Name, ...] = ()


class Period(Spec):
    """From `start` up to and including `end`."""

    start: Day
    end: Day

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.end <= self.start:
            msg = f"end {self.end} must be after start {self.start}"
            raise ValueError(msg)
        return self


class Series(Spec):
    """Which numbers form the series: a metric's first measure, per period and unit."""

    metric: Slug
    frequency: Literal["daily", "weekly"] = "weekly"
    treated: Group
    controls: Literal["other_units"] = "other_units"


class SeriesFile(Spec):
    """A row per day or week in a file of the project folder; covariates are untouched columns."""

    file: Text
    date: Column
    outcome: Column
    covariates: tuple[Column, ...] = ()
    frequency: Literal["daily", "weekly"] = "daily"

    @model_validator(mode="after")
    def _one_role_each(self) -> SeriesFile:
        refuse_two_roles((self.date, self.outcome, *self.covariates))
        taken = sorted({"treated", "event_day", "period_start"} & set(self.covariates))
        if taken:
            msg = f"a covariate cannot be called {', '.join(taken)}; rename the column"
            raise ValueError(msg)
        return self


class PanelFile(Spec):
    """A row per unit and period in a file of the project folder.

    Exactly one of four ways says who is treated from when: `treated_units` or the 0/1 column
    `group`, both from `starts` on; the 0/1 column `is_treated`, 1 from a unit's first treated
    period on; the column `first_treated`, empty or 0 for units that never are. Without a `unit`
    column every row is a unit of its own (repeated cross-sections).
    """

    file: Text
    unit: Column | None = None
    time: Column
    outcome: Column
    treated_units: tuple[Label, ...] = ()
    group: Column | None = None
    is_treated: Column | None = None
    first_treated: Column | None = None
    starts: Moment | None = None
    exclude_units: tuple[Label, ...] = ()
    first: Moment | None = None
    last: Moment | None = None
    covariates: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _says_once_who_is_treated(self) -> PanelFile:
        ways = {
            "treated_units": bool(self.treated_units),
            "group": self.group is not None,
            "is_treated": self.is_treated is not None,
            "first_treated": self.first_treated is not None,
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) != 1:
            shown = ", ".join(given) or "none"
            msg = f"exactly one of {', '.join(ways)} says who is treated, got {shown}"
            raise ValueError(msg)
        needs_start = given[0] in {"treated_units", "group"}
        if needs_start != (self.starts is not None):
            word = "needs" if needs_start else "has its own start for each unit, without"
            msg = f"{given[0]} {word} `starts`"
            raise ValueError(msg)
        if self.unit is None and given[0] != "group":
            msg = f"{given[0]} needs a `unit` column"
            raise ValueError(msg)
        who = (self.unit, self.group, self.is_treated, self.first_treated)
        refuse_two_roles((self.time, self.outcome, *filter(None, who), *self.covariates))
        return self


class PanelEvents(Spec):
    """A metric's first measure per unit and period, summed from landed events.

    Units are those with an event before `pre.end`; the group is treated from `post.start` on.
    """

    metric: Slug
    frequency: Literal["daily", "weekly", "whole"] = "weekly"
    treated: Group
    pre: Period
    post: Period

    @model_validator(mode="after")
    def _adjoin(self) -> PanelEvents:
        if self.post.start != self.pre.end + dt.timedelta(days=1):
            msg = f"post.start {self.post.start} must be the day after pre.end {self.pre.end}"
            raise ValueError(msg)
        for name, period in (("pre", self.pre), ("post", self.post)):
            days = (period.end - period.start).days + 1
            if self.frequency == "weekly" and days % 7:
                msg = f"{name} has {days} days; a weekly panel needs whole weeks"
                raise ValueError(msg)
        return self


class UnitsFile(Spec):
    """A row per unit in a file of the project folder.

    `treated` holds 0 and 1; or, with `treatment` and `control`, the values of two arms, and rows
    of other arms are left out. `running` is the variable that a cutoff is about. Text columns
    among `covariates` become one 0/1 column per value but the most frequent; of those in `log`
    log(1 + value) is taken. `placebo_outcomes` are columns that the treatment cannot have changed.
    """

    file: Text
    unit: Column | None = None
    outcome: Column
    treated: Column | None = None
    treatment: Label | None = None
    control: Label | None = None
    running: Column | None = None
    covariates: tuple[Column, ...] = ()
    log: tuple[Column, ...] = ()
    placebo_outcomes: tuple[Column, ...] = ()
    minimum: Number | None = None
    maximum: Number | None = None

    @model_validator(mode="after")
    def _consistent(self) -> UnitsFile:
        if (self.treatment is None) != (self.control is None):
            msg = "treatment and control stand together or not at all"
            raise ValueError(msg)
        if self.treatment is not None and str(self.treatment) == str(self.control):
            msg = f"treatment and control are both {self.treatment!r}, need two arms"
            raise ValueError(msg)
        if self.treatment is not None and self.treated is None:
            msg = "treatment and control are values of the column `treated`, which is missing"
            raise ValueError(msg)
        if self.treated is None and self.running is None:
            msg = "needs a column `treated`, or `running` for a cutoff"
            raise ValueError(msg)
        strange = sorted(set(self.log) - set(self.covariates))
        if strange:
            msg = f"log names columns that are no covariates: {', '.join(strange)}"
            raise ValueError(msg)
        who = filter(None, (self.unit, self.treated, self.running))
        logs = [f"log {column}" for column in self.log]
        known = [column for column in self.covariates if column not in self.log]
        refuse_two_roles((self.outcome, *who, *known, *self.log, *self.placebo_outcomes))
        refuse_two_roles((*known, *logs))
        return self


class MetricWindow(Spec):
    """A metric's first measure of each unit, summed over some days.

    `scale: log` takes log(1 + total), for covariates whose few large values would rule the fit.
    """

    metric: Slug
    start: Day
    end: Day
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> MetricWindow:
        if self.end < self.start:
            msg = f"end {self.end} must not be before start {self.start}"
            raise ValueError(msg)
        return self


class UnitsEvents(Spec):
    """A row per unit from landed events: outcome after, covariates before.

    Units are those with an event in a covariate's window. Covariates and placebo outcomes end
    before the outcome begins, so that nothing after the intervention leaks into them.
    """

    outcome: MetricWindow
    treated: Group
    covariates: dict[Name, MetricWindow] = Field(min_length=1)
    placebo_outcomes: dict[Name, MetricWindow] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _nothing_leaks(self) -> UnitsEvents:
        for name, window in {"outcome": self.outcome, **self.placebo_outcomes}.items():
            if window.scale != "linear":
                msg = f"{name} has scale {window.scale}: only covariates have another than linear"
                raise ValueError(msg)
        for name, window in {**self.covariates, **self.placebo_outcomes}.items():
            if window.end >= self.outcome.start:
                msg = (
                    f"{name} ends on {window.end}, the outcome begins on {self.outcome.start}: "
                    "what is read before must end before"
                )
                raise ValueError(msg)
        for name, window in self.placebo_outcomes.items():
            for covariate, read in self.covariates.items():
                if read.end >= window.start:
                    msg = (
                        f"placebo outcome {name} begins on {window.start}, covariate {covariate} "
                        f"ends on {read.end}: a placebo outcome lies after what is adjusted for"
                    )
                    raise ValueError(msg)
        return self


def names_file(value: Any) -> bool:
    """Whether data are described as a file."""
    return "file" in value if isinstance(value, dict) else hasattr(value, "file")
