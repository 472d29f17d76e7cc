"""configs/bandits/<slug>.yaml: arms whose shares follow the rewards, period by period.

The reward of a unit is a metric's value over its window after the unit's first exposure, so a
period learns from the units whose window has closed. What the file fixes is frozen with the first
period: shares that were handed out can only be explained by the rules in force then.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from experiments_dagster.config.base import (
    Count,
    Day,
    Fraction,
    Name,
    Number,
    Positive,
    Slug,
    Spec,
    Text,
)
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.platform import EventSource, Platform
from experiments_dagster.config.resolve import canonical_hash

STEP_DAYS = {"day": 1, "week": 7}
REWARD_METRICS = {"bernoulli": ("proportion", "retention"), "gaussian": ("mean", "count")}
Floor = Annotated[float, Field(strict=True, ge=0, le=1)]


class BanditExposure(Spec):
    """Which exposures are decisions; `experiment` is the slug unless it is named otherwise."""

    source: Slug
    experiment: Slug | None = None


class RatePrior(Spec):
    """Beta(a, b)."""

    a: Positive = 1.0
    b: Positive = 1.0


class RewardPrior(Spec):
    """Guesses of the mean and standard deviation of a reward, worth as many units as `units`."""

    mean: Number
    sd: Positive
    units: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=2)]


class BernoulliReward(Spec):
    """0 or 1 per unit: a proportion or a retention."""

    kind: Literal["bernoulli"]
    metric: Slug
    prior: RatePrior = RatePrior()


class GaussianReward(Spec):
    """A number per unit: a mean or a count. Its scale is the prior's to say."""

    kind: Literal["gaussian"]
    metric: Slug
    prior: RewardPrior


class Periods(Spec):
    """Periods of one length from `first` on, up to and without `end` if there is one."""

    every: Literal["day", "week"]
    first: Day
    end: Day | None = None

    @model_validator(mode="after")
    def _whole(self) -> Periods:
        if self.end is not None:
            days = (self.end - self.first).days
            if days <= 0 or days % STEP_DAYS[self.every]:
                msg = f"end {self.end} must be whole {self.every}s after first {self.first}"
                raise ValueError(msg)
        return self


class BanditSpec(Spec):
    """The whole file. The first arm is the one that effects are measured against."""

    schema_version: Literal[1]
    owner: Text
    description: Text
    arms: tuple[Name, ...] = Field(min_length=2, max_length=50)
    exposure: BanditExposure
    reward: Annotated[BernoulliReward | GaussianReward, Field(discriminator="kind")]
    periods: Periods
    floor: Floor = 0.1
    seed: Count
    alpha: Fraction = 0.05

    @model_validator(mode="after")
    def _arms_differ(self) -> BanditSpec:
        if len(set(self.arms)) < len(self.arms):
            msg = f"arms {', '.join(self.arms)}: each must be named once"
            raise ValueError(msg)
        return self


class Bandit(Spec):
    """One bandit with everything filled in."""

    slug: str
    owner: str
    arms: tuple[str, ...]
    exposure_source: str
    exposure_name: str
    reward: Annotated[BernoulliReward | GaussianReward, Field(discriminator="kind")]
    metric: Metric
    periods: Periods
    timezone: str
    floor: float
    seed: int
    alpha: float

    @property
    def control(self) -> str:
        """The arm that effects are measured against."""
        return self.arms[0]

    def starts_on(self, period: int) -> dt.date:
        """The first local day of a period, counted from 1."""
        return self.periods.first + (period - 1) * dt.timedelta(days=STEP_DAYS[self.periods.every])

    def starts_at(self, period: int) -> dt.datetime:
        """The instant at which a period begins, aware, in UTC."""
        return self.start_of_day(self.starts_on(period))

    def start_of_day(self, day: dt.date) -> dt.datetime:
        """00:00 local time of a day, aware, in UTC."""
        zone = ZoneInfo(self.timezone)
        return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)

    def local_day(self, instant: dt.datetime) -> dt.date:
        """The day of an instant in the bandit's time zone."""
        return instant.astimezone(ZoneInfo(self.timezone)).date()

    @property
    def plan_document(self) -> dict[str, Any]:
        """What the first period freezes, as plain data; editing the owner changes no number."""
        # Effects are reported at any level; no share depends on it.
        document = self.model_dump(mode="json", exclude={"owner", "alpha"})
        del document["metric"]["display_unit"]
        return document

    @property
    def plan_hash(self) -> str:
        """First 12 hex digits of SHA-256 over the canonical JSON of the plan."""
        return canonical_hash(self.plan_document)


def bandit_rules(
    spec: BanditSpec, metrics: dict[str, Metric], platform: Platform
) -> list[tuple[tuple[str, ...], str]]:
    """Rules on how a file fits metrics and sources: the place in it and what is wrong there."""
    rules: list[tuple[tuple[str, ...], str]] = []
    sources = platform.sources_of("exposures")
    if spec.exposure.source not in sources:
        known = ", ".join(sources) or "none"
        rule = f"{spec.exposure.source!r} is not an exposure source; known: {known}"
        rules.append((("exposure", "source"), rule))
    place = ("reward", "metric")
    metric = metrics.get(spec.reward.metric)
    if metric is None:
        known = ", ".join(sorted(metrics)) or "none"
        return [*rules, (place, f"unknown metric {spec.reward.metric!r}; known: {known}")]
    kinds = REWARD_METRICS[spec.reward.kind]
    if metric.kind not in kinds or metric.is_open_ended:
        rule = f"a {spec.reward.kind} reward needs a {' or '.join(kinds)} over complete cohorts"
        rules.append((place, f"{rule}; {metric.name!r} is not"))
        return rules
    if metric.direction != "increase":
        rule = f"a reward is to increase; {metric.name!r} is to decrease"
        rules.append((place, rule))
    measure = metric.parts[0]
    source = platform.sources.get(measure.source)
    is_exact = isinstance(source, EventSource) and source.value_decimals is not None
    if measure.aggregate == "sum" and not is_exact:
        rule = f"past periods are replayed byte by byte: {measure.source!r} needs `value_decimals`"
        rules.append((place, rule))
    return rules


def resolve_bandit(
    slug: str, spec: BanditSpec, metrics: dict[str, Metric], *, timezone: str
) -> Bandit:
    """Fill defaults and look up the metric, whose name was checked before (`bandit_rules`)."""
    return Bandit(
        slug=slug,
        owner=spec.owner,
        arms=spec.arms,
        exposure_source=spec.exposure.source,
        exposure_name=spec.exposure.experiment or slug,
        reward=spec.reward,
        metric=metrics[spec.reward.metric],
        periods=spec.periods,
        timezone=timezone,
        floor=spec.floor,
        seed=spec.seed,
        alpha=spec.alpha,
    )
