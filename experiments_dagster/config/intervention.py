"""configs/interventions/<slug>.yaml: something happened, without randomisation.

The `kind` of the design decides what else stands in the file: a `series`, a `panel` or `units`.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from experiments_dagster.config.base import Count, Flag, Fraction, Number, Positive, Spec, Text
from experiments_dagster.config.study_data import (
    Column,
    Label,
    Moment,
    PanelEvents,
    PanelFile,
    Period,
    Series,
    SeriesFile,
    UnitsEvents,
    UnitsFile,
    names_file,
)


class TimeSeriesDesign(Spec):
    """Structural time series with the controls as covariates.

    `prior: published` repeats the assumptions of the published tool (a nearly fixed level), for
    comparison with its results; intervals are too short where the level moves.
    """

    kind: Literal["time_series"]
    prior: Literal["weak", "published"] = "weak"
    alpha: Fraction = 0.05
    draws: Annotated[int, Field(strict=True, ge=1000, le=100_000)] = 2000
    placebos: Annotated[int, Field(strict=True, ge=0, le=200)] = 20
    seed: Count = 1


class PredictorSpec(Spec):
    """What treated and donors should agree in before: the mean of columns' sum over periods.

    With `share_of` the sum is divided by the sum of these columns, all averaged first.
    """

    columns: tuple[Column, ...] = Field(min_length=1)
    first: Moment
    last: Moment
    share_of: tuple[Column, ...] = ()


class SyntheticControlDesign(Spec):
    """A mix of untreated units that tracks the treated one before.

    `classic` weighs donors by predictors; `synthetic_did` weighs donors and periods and takes the
    level out; `augmented` corrects what the classic mix misses before. Donors are all units that
    are never treated, or those listed. Predictors are for `classic`, which otherwise matches the
    outcomes before.
    """

    kind: Literal["synthetic_control"]
    method: Literal["classic", "synthetic_did", "augmented"] = "classic"
    donors: tuple[Label, ...] = ()
    predictors: tuple[PredictorSpec, ...] = ()
    random_starts: Annotated[int, Field(strict=True, ge=0, le=1000)] = 10
    max_fit_ratio: Positive | None = None
    alpha: Fraction = 0.05
    seed: Count = 1

    @model_validator(mode="after")
    def _predictors_are_classic(self) -> SyntheticControlDesign:
        if self.predictors and self.method != "classic":
            msg = f"method {self.method} matches outcomes, it takes no predictors"
            raise ValueError(msg)
        return self


class DidDesign(Spec):
    """The change of the treated less the change of the others."""

    kind: Literal["difference_in_differences"]
    alpha: Fraction = 0.05
    seed: Count = 1


class EventStudyDesign(Spec):
    """Differences per period before and after one common start."""

    kind: Literal["event_study"]
    alpha: Fraction = 0.05
    seed: Count = 1


class StaggeredDesign(Spec):
    """Units treated from different periods on, each cohort against units not treated."""

    kind: Literal["staggered"]
    control: Literal["never_treated", "not_yet_treated"] = "never_treated"
    alpha: Fraction = 0.05
    seed: Count = 1


class DiscontinuityDesign(Spec):
    """The jump of the outcome where a rule starts.

    `polynomial` instead of local lines is meant for tables of few aggregated cells.
    """

    kind: Literal["discontinuity"]
    cutoff: Number
    treated_side: Literal["above", "below"] = "above"
    polynomial: Literal[1, 2] | None = None
    is_fuzzy: Flag = False
    alpha: Fraction = 0.05


class ObservationalDesign(Spec):
    """Treated against untreated units that are alike in what was known before.

    With `trim` only units count whose propensity lies in [0.1, 0.9]: another, named estimand.
    """

    kind: Literal["observational"]
    estimand: Literal["treated", "all"] = "treated"
    trim: Flag = False
    caliper: Positive = 0.2
    folds: Annotated[int, Field(strict=True, ge=2, le=20)] = 5
    alpha: Fraction = 0.05
    seed: Count = 1


class UpliftDesign(Spec):
    """Who responds: effects per unit, judged on units that no fit has seen.

    `treated_share` is the known probability of treatment where it was randomised; without it the
    propensity is estimated. `base` is the model of outcomes and effect: `boosted` finds effects
    that are no line in the covariates and needs the extra [uplift]; the default is `linear`, since
    it must not depend on what is installed.
    """

    kind: Literal["uplift"]
    learner: Literal["s", "t", "x", "r", "dr"] = "dr"
    base: Literal["linear", "ridge", "boosted"] = "linear"
    treated_share: Fraction | None = None
    top_share: Fraction = 0.2
    folds: Annotated[int, Field(strict=True, ge=2, le=20)] = 5
    alpha: Fraction = 0.05
    seed: Count = 1


class StudySpec(Spec):
    """What every file says."""

    schema_version: Literal[1]
    owner: Text
    description: Text


class EconomicsSpec(Spec):
    """Money behind a total that is revenue: what of it is profit, and what it cost."""

    margin_rate: Annotated[float, Field(strict=True, gt=0, le=1)]
    campaign_spend: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    incremental_cost: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0


class TimeSeriesSpec(StudySpec):
    """One series before and after."""

    series: Annotated[
        Annotated[Series, Tag("events")] | Annotated[SeriesFile, Tag("file")],
        Discriminator(lambda value: "file" if names_file(value) else "events"),
    ]
    pre: Period
    post: Period
    design: TimeSeriesDesign
    economics: EconomicsSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TimeSeriesSpec:
        if self.post.start != self.pre.end + dt.timedelta(days=1):
            msg = f"post.start {self.post.start} must be the day after pre.end {self.pre.end}"
            raise ValueError(msg)
        for name, period in (("pre", self.pre), ("post", self.post)):
            days = (period.end - period.start).days + 1
            if self.series.frequency == "weekly" and days % 7:
                msg = f"{name} has {days} days; a weekly series needs whole weeks"
                raise ValueError(msg)
        return self


PanelDesign = Annotated[
    SyntheticControlDesign | DidDesign | EventStudyDesign | StaggeredDesign,
    Field(discriminator="kind"),
]
UnitDesign = Annotated[
    DiscontinuityDesign | ObservationalDesign | UpliftDesign, Field(discriminator="kind")
]


class PanelSpec(StudySpec):
    """Units by periods."""

    panel: Annotated[
        Annotated[PanelEvents, Tag("events")] | Annotated[PanelFile, Tag("file")],
        Discriminator(lambda value: "file" if names_file(value) else "events"),
    ]
    design: PanelDesign

    @property
    def predictor_columns(self) -> tuple[str, ...]:
        """Columns that predictors read."""
        if not isinstance(self.design, SyntheticControlDesign):
            return ()
        parts = self.design.predictors
        return tuple(name for part in parts for name in (*part.columns, *part.share_of))

    @model_validator(mode="after")
    def _fits(self) -> PanelSpec:
        is_donor = isinstance(self.design, SyntheticControlDesign)
        if is_donor and isinstance(self.panel, PanelEvents):
            msg = "synthetic_control reads a panel from a file: units of events are too many donors"
            raise ValueError(msg)
        has_units = isinstance(self.panel, PanelEvents) or self.panel.unit is not None
        if not has_units and not isinstance(self.design, DidDesign):
            msg = f"{self.design.kind} needs a `unit` column in panel"
            raise ValueError(msg)
        return self


class UnitSpec(StudySpec):
    """A row per unit."""

    units: Annotated[
        Annotated[UnitsEvents, Tag("events")] | Annotated[UnitsFile, Tag("file")],
        Discriminator(lambda value: "file" if names_file(value) else "events"),
    ]
    design: UnitDesign

    @model_validator(mode="after")
    def _fits(self) -> UnitSpec:
        problem = _misfit(self.units, self.design)
        if problem:
            raise ValueError(problem)
        return self


def _misfit(
    units: UnitsEvents | UnitsFile, design: DiscontinuityDesign | ObservationalDesign | UpliftDesign
) -> str | None:
    """Why these data do not carry this design."""
    if isinstance(design, DiscontinuityDesign):
        if isinstance(units, UnitsEvents):
            return "discontinuity reads units from a file: events have no running variable"
        if units.running is None:
            return "discontinuity needs the column `running` in units"
        if design.is_fuzzy != (units.treated is not None):
            return "`is_fuzzy` and the column `treated` (who took it) stand together"
        return None
    if isinstance(units, UnitsFile) and (units.treated is None or not units.covariates):
        return f"{design.kind} needs `treated` and `covariates` in units"
    return None


FAMILIES: dict[str, type[TimeSeriesSpec | PanelSpec | UnitSpec]] = {
    "time_series": TimeSeriesSpec,
    "synthetic_control": PanelSpec,
    "difference_in_differences": PanelSpec,
    "event_study": PanelSpec,
    "staggered": PanelSpec,
    "discontinuity": UnitSpec,
    "observational": UnitSpec,
    "uplift": UnitSpec,
}


def design_kind(value: Any) -> str | None:
    """The `kind` of the design, if the file gets that far."""
    if isinstance(value, StudySpec):
        return next(name for name, family in FAMILIES.items() if isinstance(value, family))
    design = value.get("design") if isinstance(value, dict) else None
    kind = design.get("kind") if isinstance(design, dict) else None
    return kind if isinstance(kind, str) else None


InterventionSpec = TimeSeriesSpec | PanelSpec | UnitSpec
