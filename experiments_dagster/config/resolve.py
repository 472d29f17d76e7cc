"""From specs to the frozen configuration that the analysis reads, and its hash.

Pure: nothing merges in place, nothing is read from the environment.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any
from zoneinfo import ZoneInfo

from experiments_dagster.config.base import Spec
from experiments_dagster.config.experiment import (
    ConfidenceSequence,
    CupedEstimator,
    ExperimentSpec,
    GroupSequential,
    Guardrail,
    Plan,
)
from experiments_dagster.config.metrics import Metric

STEP_DAYS = {"daily": 1, "weekly": 7}
MIN_NOVELTY_DAYS = 7  # fewer points say nothing about a trend (METHODS section 7)


class Experiment(Spec):
    """One experiment with everything filled in.

    `variants` keeps the order of the file; `starts_at` and `ends_at` are aware instants.
    """

    slug: str
    owner: str
    phase: int
    unit: str
    variants: dict[str, float]
    control: str
    salt: str
    exposure_source: str
    exposure_name: str
    starts_at: dt.datetime
    ends_at: dt.datetime
    timezone: str
    primary: Metric
    minimum_effect: float | None
    success: tuple[Metric, ...] = ()
    secondary: tuple[Metric, ...]
    guardrails: tuple[tuple[Guardrail, Metric], ...]
    segments: tuple[str, ...]
    stratify_by: tuple[str, ...] = ()
    plan: Plan
    decision_rule: str
    spec: ExperimentSpec

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that are compared with the control, in file order."""
        return tuple(arm for arm in self.variants if arm != self.control)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics: primary, further success metrics, secondary, guardrails."""
        guardrails = (metric for _, metric in self.guardrails)
        return (*self.success_metrics, *self.secondary, *guardrails)

    @property
    def success_metrics(self) -> tuple[Metric, ...]:
        """The metrics of which any one may ship a treatment; the primary first."""
        return (self.primary, *self.success)

    @property
    def is_summary(self) -> bool:
        """Whether the input is moments per look instead of events and exposures."""
        return self.primary.is_summary

    @property
    def exposure_properties(self) -> tuple[str, ...]:
        """Properties of the first exposure that the analysis reads, each once."""
        estimator = self.plan.estimator
        categories = estimator.categories if isinstance(estimator, CupedEstimator) else ()
        strata = self.stratify_by if estimator.kind == "post_stratified" else ()
        cluster = () if self.plan.cluster is None else (self.plan.cluster,)
        return tuple(dict.fromkeys((*self.segments, *categories, *strata, *cluster)))

    @property
    def adjusts(self) -> bool:
        """Whether the deciding estimate is adjusted, by covariates or by strata."""
        return self.plan.estimator.kind != "unadjusted"

    @property
    def is_additive(self) -> bool:
        """Whether sums over units give every effect of the plan, so that units can stay put.

        Means, proportions and ratios of closed windows, plain or adjusted by pre-period totals.
        """
        estimator = self.plan.estimator
        is_simple = estimator.kind == "unadjusted"
        if isinstance(estimator, CupedEstimator):
            more = estimator.categories or estimator.predict
            is_simple = not more and estimator.variance == "lin_hc2"
        return (
            is_simple
            and self.plan.cluster is None
            and not self.plan.sensitivity
            and all(metric.is_additive for metric in self.metrics)
        )

    @property
    def alpha_per_hypothesis(self) -> float:
        """The share of alpha of each success metric and arm (Bonferroni, METHODS section 4)."""
        return self.plan.alpha / (len(self.treatments) * len(self.success_metrics))

    def planned_looks(self) -> tuple[dt.date, ...]:
        """The calendar of planned looks, in the experiment's time zone.

        Empty where looks come from information or the number of looks is not planned in advance
        (a confidence sequence then looks daily or weekly without end).
        """
        looks = self.plan.looks
        if looks.schedule == "information" or not isinstance(looks.design, GroupSequential):
            return ()
        first, step = self.first_look(), dt.timedelta(days=STEP_DAYS[looks.schedule])
        return tuple(first + k * step for k in range(looks.design.planned))

    def first_look(self) -> dt.date:
        """The date of the first look.

        As planned; else so that the last planned look finds every unit's primary window closed,
        or, without a planned number of looks, one step after the first window can be closed.
        """
        looks, zone = self.plan.looks, ZoneInfo(self.timezone)
        if looks.first is not None:
            return looks.first
        step = dt.timedelta(days=STEP_DAYS.get(looks.schedule, 1))
        window = dt.timedelta(days=self.primary.maturity_days)
        start = self.starts_at.astimezone(zone).date()
        if not isinstance(looks.design, GroupSequential) or looks.schedule == "information":
            return start + window + step
        last = self.ends_at.astimezone(zone).date() + window
        # Windows are whole 24 hours: where clocks went forward they close after midnight.
        if dt.datetime.combine(last, dt.time(), zone).astimezone(dt.UTC) < self.ends_at + window:
            last += dt.timedelta(days=1)
        return max(last - (looks.design.planned - 1) * step, start + step)

    @property
    def enrolment_days(self) -> int:
        """Local days on which units enter; clock changes do not matter."""
        return (self.spec.window.end - self.spec.window.start).days

    def last_look(self) -> dt.date:
        """The date of the planned end: the last planned look, or the first day all windows end."""
        planned = self.planned_looks()
        if planned:
            return planned[-1]
        end = self.ends_at.astimezone(ZoneInfo(self.timezone)).date()
        return end + dt.timedelta(days=self.primary.maturity_days)

    def shows_novelty(self, as_of: dt.datetime) -> bool:
        """Whether a look estimates the effect by day since exposure: at the planned end only.

        The primary metric must add up over at least `MIN_NOVELTY_DAYS` days.
        """
        adds_up = self.primary.kind in ("mean", "count") and not self.primary.is_open_ended
        adds_up = adds_up and self.plan.cluster is None
        is_long = self.primary.window_days >= MIN_NOVELTY_DAYS
        day = as_of.astimezone(ZoneInfo(self.timezone)).date()
        return adds_up and is_long and day >= self.last_look()

    def needs_extra(self, as_of: dt.datetime) -> bool:
        """Whether a look needs single events or days beside the unit frames."""
        return self.shows_novelty(as_of) or any(metric.of_events for metric in self.metrics)

    @property
    def predicts(self) -> bool:
        """Whether the covariates include a prediction trained on the pre-period."""
        estimator = self.plan.estimator
        return isinstance(estimator, CupedEstimator) and estimator.predict

    @property
    def is_group_sequential(self) -> bool:
        """Whether alpha is spent over planned looks."""
        return not isinstance(self.plan.looks.design, ConfidenceSequence)

    @property
    def plan_document(self) -> dict[str, Any]:
        """Everything that the plan freezes, as canonical plain data.

        Owner, hypothesis, business and description are left out: editing them changes no number.
        """
        document = self.model_dump(mode="json", exclude={"owner", "spec"}, by_alias=True)
        # Arms share out the buckets in this order, so that swapping two moves units.
        document["arms"] = list(self.variants)
        for metric in (
            document["primary"],
            *document["success"],
            *document["secondary"],
            *(metric for _, metric in document["guardrails"]),
        ):
            del metric["display_unit"]  # for people; it changes no number
        document["salt"] = hashlib.sha256(self.salt.encode()).hexdigest()[:16]
        return document

    @property
    def plan_hash(self) -> str:
        """First 12 hex digits of SHA-256 over the canonical JSON of the plan."""
        return canonical_hash(self.plan_document)


def canonical_hash(document: Any) -> str:
    """A hash that key order, white space and file names do not change."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def resolve_experiment(
    slug: str,
    spec: ExperimentSpec,
    metrics: dict[str, Metric],
    *,
    exposure_source: str,
    timezone: str,
) -> Experiment:
    """Fill defaults and look up metrics; every name was checked before (`project.load`)."""
    zone_name = spec.window.timezone or timezone
    zone = ZoneInfo(zone_name)
    return Experiment(
        slug=slug,
        owner=spec.owner,
        phase=spec.phase,
        unit=spec.unit,
        variants=spec.variants,
        control=spec.control or next(iter(spec.variants)),
        salt=spec.salt,
        exposure_source=exposure_source,
        exposure_name=spec.exposure.experiment or slug,
        starts_at=dt.datetime.combine(spec.window.start, dt.time(), zone).astimezone(dt.UTC),
        ends_at=dt.datetime.combine(spec.window.end, dt.time(), zone).astimezone(dt.UTC),
        timezone=zone_name,
        primary=metrics[spec.metrics.primary.metric],
        minimum_effect=spec.metrics.primary.minimum_effect,
        success=tuple(metrics[name] for name in spec.metrics.success),
        secondary=tuple(metrics[name] for name in spec.metrics.secondary),
        guardrails=tuple((g, metrics[g.metric]) for g in spec.metrics.guardrails),
        segments=spec.segments,
        stratify_by=spec.stratify_by,
        plan=spec.plan,
        decision_rule=spec.decision.rule,
        spec=spec,
    )
