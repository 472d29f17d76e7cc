"""configs/experiments/<slug>.yaml: one experiment, one file; the file name is the slug.

`ExperimentSpec` is what the file says. `Experiment` (see `resolve`) is what the analysis reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from experiments_dagster.config.base import (
    Count,
    Day,
    Days,
    Flag,
    Fraction,
    Name,
    Number,
    Positive,
    Slug,
    Spec,
    Text,
)
from experiments_dagster.config.platform import TimeZoneName

SHARE_TOLERANCE = 1e-9
LARGEST_PARAMETER = 50.0  # of a spending function: beyond it nothing is spent before the end


class Hypothesis(Spec):
    """In words, for the report."""

    primary: Text
    secondary: tuple[Text, ...] = ()


class ExposureSpec(Spec):
    """Where exposures come from. The first exposure of a unit counts.

    `experiment` is what the source calls the experiment; the file's slug when left out.
    """

    source: Slug | None = None
    experiment: Text | None = None
    first: Literal[True] = True


class Window(Spec):
    """Exposures from `start` 00:00 up to `end` 00:00 belong to the experiment."""

    start: Day
    end: Day
    timezone: TimeZoneName | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.end <= self.start:
            msg = f"end {self.end} must be after start {self.start}"
            raise ValueError(msg)
        return self


class PrimaryMetric(Spec):
    """The metric that decides, with the effect that would matter in practice (relative)."""

    metric: Slug
    minimum_effect: Positive | None = None


class Guardrail(Spec):
    """A metric that must not get worse than `margin` (relative unless `absolute: true`)."""

    metric: Slug
    margin: Positive
    absolute: Flag = False


class ExperimentMetrics(Spec):
    """Which metrics play which role.

    Any of primary and `success` may ship the treatment, so they share alpha; all guardrails must
    hold, each at full alpha. `secondary` metrics are exploratory.
    """

    primary: PrimaryMetric
    success: tuple[Slug, ...] = ()
    secondary: tuple[Slug, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> ExperimentMetrics:
        names = [self.primary.metric, *self.success, *self.secondary]
        names += [guardrail.metric for guardrail in self.guardrails]
        for name in names:
            if names.count(name) > 1:
                msg = f"metric {name!r} is listed {names.count(name)} times; each has one role"
                raise ValueError(msg)
        return self


class CupedEstimator(Spec):
    """Lin regression on the same metric in the `covariate_days` before first exposure.

    `categories` are properties of the first exposure that join the covariates as dummies.
    `predict: true` adds out-of-fold predictions that are trained on the pre-period alone: from all
    metrics of one `covariate_days` window to the metric in the next.
    """

    kind: Literal["cuped"]
    covariate_days: Days = 28
    categories: tuple[Name, ...] = ()
    predict: Flag = False
    variance: Literal["lin_hc2", "hc3", "lin_superpop"] = "lin_hc2"


class PooledThetaEstimator(Spec):
    """CUPED with one coefficient over both arms, for comparison with other tools."""

    kind: Literal["pooled_theta"]
    covariate_days: Days = 28


class PostStratifiedEstimator(Spec):
    """Differences within the strata of `stratify_by`, weighted by their shares."""

    kind: Literal["post_stratified"]
    covariate_days: Days = 28


class UnadjustedEstimator(Spec):
    """Difference of means (or of ratios) without covariates."""

    kind: Literal["unadjusted"]
    covariate_days: Days = 28


EstimatorSpec = Annotated[
    CupedEstimator | PooledThetaEstimator | PostStratifiedEstimator | UnadjustedEstimator,
    Field(discriminator="kind"),
]
SpendingName = Literal["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"]


class _Spending(Spec):
    spending: SpendingName = "obrien_fleming"
    parameter: Number | None = None

    @model_validator(mode="after")
    def _parameter_fits(self) -> _Spending:
        if self.parameter is None:
            return self
        if self.spending in ("obrien_fleming", "pocock"):
            msg = f"parameter: spending {self.spending} takes none"
            raise ValueError(msg)
        if self.spending == "kim_demets" and not 0 < self.parameter <= LARGEST_PARAMETER:
            msg = f"parameter: rho of kim_demets is {self.parameter:g}, need 0 < rho <= 50"
            raise ValueError(msg)
        if abs(self.parameter) > LARGEST_PARAMETER:
            msg = f"parameter: gamma is {self.parameter:g}, need -50 to 50"
            raise ValueError(msg)
        return self


class Futility(_Spending):
    """Stop when success has become unlikely: spends 1 - power, never binding."""


class GroupSequential(_Spending):
    """Planned looks that spend alpha by information (Lan-DeMets).

    The theory needs increments that are independent of earlier looks. Open-ended summaries do not
    have them: they are refused unless `assume_independent_increments: true` says that it is known.
    """

    kind: Literal["group_sequential"]
    planned: Annotated[int, Field(strict=True, ge=1, le=200)]
    futility: Futility | None = None
    assume_independent_increments: Flag = False


class ConfidenceSequence(Spec):
    """Any number of looks; the interval covers at all times at once."""

    kind: Literal["confidence_sequence"]


LookDesign = Annotated[GroupSequential | ConfidenceSequence, Field(discriminator="kind")]


class Looks(Spec):
    """When looks are taken: by the calendar, or when planned information is reached.

    With `schedule: information` look k of K is due at information fraction k / K.
    """

    schedule: Literal["daily", "weekly", "information"] = "weekly"
    first: Day | None = None
    design: LookDesign

    @model_validator(mode="after")
    def _schedule_fits(self) -> Looks:
        if self.schedule != "information":
            return self
        if self.first is not None:
            msg = f"first is {self.first}, but schedule `information` waits for no date"
            raise ValueError(msg)
        if isinstance(self.design, ConfidenceSequence):
            msg = "schedule `information` needs planned looks; a confidence_sequence has none"
            raise ValueError(msg)  # noqa: TRY004  pydantic reports it with its place
        return self


class CapValue(Spec):
    """Values per unit above `value` count as `value`, outcome and covariate alike."""

    value: Positive


class CapQuantile(Spec):
    """The cap is a quantile of pooled pre-period unit totals, frozen at the first look."""

    quantile: Fraction
    from_: Literal["pre_period"] = Field(alias="from")


Sensitivity = Literal["log1p", "trimmed", "mann_whitney", "bootstrap", "permutation"]


class EffectPrior(Spec):
    """What is believed before the data: for shrunk estimates and the false-positive risk.

    `lift_sd` is the spread of true lifts; `share_true` the share of ideas that work, without which
    the risk is shown for 10 % to 50 %.
    """

    lift_sd: Positive = 0.05
    share_true: Fraction | None = None


class Plan(Spec):
    """What is fixed before the first unit is exposed.

    `mde` is relative. `baseline` is the control mean it refers to; without it the pooled mean at
    the first look is taken and frozen (it does not depend on the effect's sign or significance).
    `sensitivity` lists other methods to show for the primary metric, each with its own estimand;
    they decide nothing. `cluster` is the exposure property that was randomised as a whole.
    """

    alpha: Fraction = 0.05
    power: Fraction = 0.8
    mde: Positive
    baseline: Positive | None = None
    estimator: EstimatorSpec = CupedEstimator(kind="cuped")
    looks: Looks
    cap: CapValue | CapQuantile | None = None
    cluster: Name | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    prior: EffectPrior | None = None


class DecisionSpec(Spec):
    """Which rule turns a look into a verdict."""

    rule: Literal["default"] = "default"


class Business(Spec):
    """Declared economics, shown in the report; no number is derived from them silently."""

    value_per_unit: Positive | None = None
    cost: Positive | None = None
    eligible_units_per_year: Count | None = None


class ExperimentSpec(Spec):
    """The whole file."""

    schema_version: Literal[1]
    owner: Text
    hypothesis: Hypothesis
    unit: Name = "user"
    phase: Count = 1
    variants: dict[Text, Positive] = Field(min_length=2)
    control: Text | None = None
    salt: Annotated[str, Field(min_length=8, max_length=128)]
    layer: None = None
    exposure: ExposureSpec = ExposureSpec()
    window: Window
    stratify_by: tuple[Name, ...] = ()
    metrics: ExperimentMetrics
    segments: tuple[Name, ...] = ()
    plan: Plan
    decision: DecisionSpec = DecisionSpec()
    business: Business | None = None
    truth: dict[Text, Number] | None = Field(
        default=None, description="Known relative effect per arm, where a simulator made the data."
    )

    @field_validator("layer", mode="before")
    @classmethod
    def _no_layers(cls, value: Any) -> None:
        """Refuse what would be ignored: experiments of one layer would share their units."""
        if value is not None:
            msg = (
                f"layer is {value!r}, but layers are not there yet: nothing keeps the experiments "
                "of a layer apart. Give each its own units before exposure and leave this out"
            )
            raise ValueError(msg)

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentSpec:
        total = sum(self.variants.values())
        if abs(total - 1) > SHARE_TOLERANCE:
            msg = f"variants: shares sum to {total:g}, need 1"
            raise ValueError(msg)
        if self.control is not None and self.control not in self.variants:
            msg = f"control {self.control!r} is not one of {', '.join(self.variants)}"
            raise ValueError(msg)
        for arm in self.truth or {}:
            if arm not in self.variants:
                msg = f"truth: arm {arm!r} is not one of {', '.join(self.variants)}"
                raise ValueError(msg)
        return self
