"""configs/interventions/<slug>.yaml: something happened at a date, without randomisation."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments_dagster.config.base import Count, Day, Fraction, Name, Slug, Spec, Text


class Group(Spec):
    """The units that an exposure source lists for one experiment (and variants, if given)."""

    source: Slug
    experiment: Slug
    variants: tuple[Name, ...] = ()


class Series(Spec):
    """Which numbers form the series: a metric's first measure, per period and unit."""

    metric: Slug
    frequency: Literal["daily", "weekly"] = "weekly"
    treated: Group
    controls: Literal["other_units"] = "other_units"


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


class TimeSeriesDesign(Spec):
    """Structural time series with the controls as covariates."""

    kind: Literal["time_series"]
    alpha: Fraction = 0.05
    draws: Annotated[int, Field(strict=True, ge=1000, le=100_000)] = 2000
    placebos: Annotated[int, Field(strict=True, ge=0, le=200)] = 20
    seed: Count = 1


class InterventionSpec(Spec):
    """The whole file."""

    schema_version: Literal[1]
    owner: Text
    description: Text
    series: Series
    pre: Period
    post: Period
    design: TimeSeriesDesign

    @model_validator(mode="after")
    def _consistent(self) -> InterventionSpec:
        if self.post.start != self.pre.end + dt.timedelta(days=1):
            msg = f"post.start {self.post.start} must be the day after pre.end {self.pre.end}"
            raise ValueError(msg)
        for name, period in (("pre", self.pre), ("post", self.post)):
            days = (period.end - period.start).days + 1
            if self.series.frequency == "weekly" and days % 7:
                msg = f"{name} has {days} days; a weekly series needs whole weeks"
                raise ValueError(msg)
        return self
