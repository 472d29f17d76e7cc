"""A donor design on its panel, in the words and indices of both."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments_dagster.causal.series.augmented_control import (
    AugmentedControlResult,
    augmented_control_effect,
    estimate_augmented_control,
)
from experiments_dagster.causal.series.donor_checks import check_treated_donors
from experiments_dagster.causal.series.donor_panel import DonorPanel, Predictor, build_panel
from experiments_dagster.causal.series.donor_placebo import SpacePlacebo
from experiments_dagster.causal.series.donor_sensitivity import (
    Sensitivity,
)
from experiments_dagster.causal.series.donor_time_placebo import (
    cut_predictors,
)
from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.causal.series.synthetic_control import (
    SyntheticControlResult,
    estimate_synthetic_control,
    synthetic_control_effect,
)
from experiments_dagster.causal.series.synthetic_did import (
    SyntheticDidResult,
    estimate_synthetic_did,
    synthetic_did_effect,
)
from experiments_dagster.config.intervention import PredictorSpec, SyntheticControlDesign
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
)
from experiments_dagster.interventions.study_data import FloatArray, Panel
from experiments_dagster.stats.records import CheckOutcome

METHODS = {
    "classic": "synthetic control, weights of donors that sum to 1",
    "synthetic_did": "synthetic difference-in-differences",
    "augmented": "augmented synthetic control, corrected by ridge regression",
}
ASSUMPTIONS = (
    "No donor is touched by the intervention, not even through the treated unit (no spill-over).",
    "The mix of donors that tracks the treated unit before would have tracked it after.",
    "Nothing else that moves the treated unit only began at the same time.",
    "Nobody acted on the intervention before it began.",
)
WHOLE = re.compile(r"-?\d+")
Result = SyntheticControlResult | SyntheticDidResult | AugmentedControlResult


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorFindings:
    """What refutations found; None where they could not be run."""

    space: SpacePlacebo | None
    time: PlaceboResult | None
    sensitivities: tuple[Sensitivity, ...]


@dataclass(frozen=True)
class DonorTask:
    """A design on its panel, in the words and indices of both."""

    panel: Panel
    design: SyntheticControlDesign

    @cached_property
    def treated(self) -> list[int]:
        """Columns of the units that are treated first."""
        return np.flatnonzero(self.panel.first_treated == self.panel.n_pre).tolist()

    @cached_property
    def donors(self) -> list[int]:
        """Columns of the donors that were asked for and have no gap in their outcome."""
        return [column for column in self.asked if column not in self.gappy]

    @cached_property
    def asked(self) -> list[int]:
        """Columns of the donors that were asked for: those listed, or all never treated."""
        if not self.design.donors:
            return np.flatnonzero(~self.panel.is_treated_unit).tolist()
        place = {name: column for column, name in enumerate(self.panel.units)}
        unknown = [str(name) for name in self.design.donors if str(name) not in place]
        if unknown:
            msg = f"donors {', '.join(unknown)}: the panel has no such units"
            raise ValueError(msg)
        return [place[str(name)] for name in self.design.donors]

    @cached_property
    def gappy(self) -> list[int]:
        """Donors with missing outcomes, left out."""
        with_gap = set(np.flatnonzero(np.isnan(self.panel.wide()).any(axis=0)).tolist())
        return [column for column in self.asked if column in with_gap]

    @cached_property
    def donor_panel(self) -> DonorPanel:
        """The panel of the estimators."""
        return build_panel(
            self.panel.wide(),
            treated=self.treated,
            n_pre=self.panel.n_pre,
            treated_at=self.panel.first_treated,
            donors=self.donors,
        )

    @cached_property
    def predictors(self) -> list[Predictor]:
        """The predictors as windows of values."""
        return [self._predictor(spec) for spec in self.design.predictors]

    def _predictor(self, spec: PredictorSpec) -> Predictor:
        first, stop = self._window(spec)
        values = self._sum(spec.columns)
        if not spec.share_of:
            return Predictor(values=values, first=first, stop=stop)
        means = [
            _window_mean(self._sum(columns), first, stop)
            for columns in (spec.columns, spec.share_of)
        ]
        share = np.broadcast_to(means[0] / means[1], values.shape)
        return Predictor(values=share, first=first, stop=stop)

    def _sum(self, columns: Sequence[str]) -> FloatArray:
        parts = []
        for column in columns:
            if column == self.panel.outcome_name:
                parts.append(self.panel.wide())
            else:
                parts.append(self.panel.wide(self.panel.covariates[column]))
        total: FloatArray = np.sum(parts, axis=0)
        return total

    def _window(self, spec: PredictorSpec) -> tuple[int, int]:
        """First step of a predictor's periods, and the step after the last one."""
        labels = self.panel.labels
        is_whole = all(WHOLE.fullmatch(label) for label in labels)
        kinds = "whole numbers" if is_whole else "dates"
        has = f"the panel has {kinds}, {labels[0]} to {labels[-1]}"
        name = f"predictor {'+'.join(spec.columns)}"
        for given in (spec.first, spec.last):
            if isinstance(given, int) != is_whole:
                kind = "whole number" if isinstance(given, int) else "date"
                msg = f"{name}: period {given} is a {kind}, {has}"
                raise ValueError(msg)
        first, last = _position(spec.first), _position(spec.last)
        if first > last:
            msg = f"{name}: first period {spec.first} is after the last, {spec.last}"
            raise ValueError(msg)
        places = [
            _position(int(label) if is_whole else dt.date.fromisoformat(label)) for label in labels
        ]
        inside = [step for step, place in enumerate(places) if first <= place <= last]
        if not inside:
            msg = f"{name}: no period from {spec.first} to {spec.last}; {has}"
            raise ValueError(msg)
        return inside[0], inside[-1] + 1

    @property
    def names(self) -> str:
        """The treated unit, or how many."""
        names = [self.panel.units[column] for column in self.treated]
        return names[0] if len(names) == 1 else f"{len(names)} treated units"

    @property
    def start(self) -> str:
        """The first treated period."""
        return self.panel.labels[self.panel.n_pre]

    @property
    def estimand(self) -> str:
        """What is estimated, in words."""
        return (
            f"average over the periods from {self.start} to {self.panel.labels[-1]} of "
            f"{self.panel.outcome_name} of {self.names} minus what it would have been without the "
            "intervention"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out."""
        if not self.gappy:
            return ()
        names = ", ".join(self.panel.units[column] for column in self.gappy)
        return (f"left out as donors, outcomes are missing: {names}",)

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was read."""
        labels, n_pre = self.panel.labels, self.panel.n_pre
        others = int(self.panel.is_treated_unit.sum()) - len(self.treated)
        facts = [
            ("treated", self.names),
            ("donors", f"{len(self.donors)} units that are never treated"),
            ("periods before", f"{n_pre}, {labels[0]} to {labels[n_pre - 1]}"),
            ("periods after", f"{len(labels) - n_pre}, {labels[n_pre]} to {labels[-1]}"),
            ("matched on", self._matched_on()),
        ]
        if others:
            facts.append(("treated later", f"{others} units, neither treated nor donors here"))
        return tuple(facts)

    def _matched_on(self) -> str:
        if not self.design.predictors:
            return f"{self.panel.outcome_name} in every period before"
        return "; ".join(map(predictor_name, self.design.predictors))

    def check_donors(self) -> CheckOutcome:
        """No donor may be treated."""
        return check_treated_donors(
            self.panel.first_treated, self.asked, len(self.panel.labels), names=self.panel.units
        )

    def check_leak(self) -> CheckOutcome:
        """No predictor may read a period from the intervention on."""
        late = [
            predictor_name(spec)
            for spec in self.design.predictors
            if self._window(spec)[1] > self.panel.n_pre
        ]
        return CheckOutcome(
            name="post_period_leak",
            passed=not late,
            severity="ERROR",
            value=float(len(late)),
            threshold=0.0,
            message=f"predictors read periods from {self.start} on: {', '.join(late)}"
            if late
            else f"nothing from {self.start} on is read by the fit",
        )

    def estimate(self, panel: DonorPanel) -> Result:
        """The estimate by the method of the design."""
        design = self.design
        if design.method == "synthetic_did":
            return estimate_synthetic_did(panel, alpha=design.alpha)
        if design.method == "augmented":
            return estimate_augmented_control(panel, alpha=design.alpha)
        return estimate_synthetic_control(
            panel, self.predictors, n_random_starts=design.random_starts, seed=design.seed
        )

    def effect_of(self, panel: DonorPanel) -> FloatArray:
        """The whole method on another panel: the gap at all steps."""
        if self.design.method == "synthetic_did":
            return synthetic_did_effect(panel)
        if self.design.method == "augmented":
            return augmented_control_effect(panel)
        return self.effect_given(panel, cut_predictors(self.predictors, panel))

    def effect_given(self, panel: DonorPanel, predictors: Sequence[Predictor]) -> FloatArray:
        """The classic method with other predictors."""
        starts, seed = self.design.random_starts, self.design.seed
        return synthetic_control_effect(panel, predictors, n_random_starts=starts, seed=seed)

    def not_estimable(self, code: str, detail: str, refutations: Refutations) -> Study:
        """A study without an estimate."""
        return Study(
            design=self.design.kind,
            method=METHODS[self.design.method],
            estimand=self.estimand,
            facts=self.facts(),
            assumptions=ASSUMPTIONS,
            refutations=tuple(refutations.ran),
            skipped=tuple(refutations.skipped),
            warnings=self.warnings,
            reason=code,
            reason_detail=detail,
        )


def predictor_name(spec: PredictorSpec) -> str:
    """A predictor in words."""
    name = " + ".join(spec.columns)
    if spec.share_of:
        name = f"share of {name}"
    return f"{name} {spec.first}" if spec.first == spec.last else f"{name} {spec.first}-{spec.last}"


def _window_mean(values: FloatArray, first: int, stop: int) -> FloatArray:
    window = values[first:stop]
    seen = np.isfinite(window)
    total = np.where(seen, window, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(
        total, seen.sum(axis=0), out=np.full(values.shape[1], np.nan), where=seen.any(axis=0)
    )
    return mean


def _position(moment: int | dt.date) -> int:
    """A year (or another whole number) as it is, a date as its day."""
    return moment if isinstance(moment, int) else moment.toordinal()


def weights_of(result: Result) -> FloatArray:
    """The weights of the donors, in the order of the panel's donors."""
    return result.unit_weights if isinstance(result, SyntheticDidResult) else result.weights
