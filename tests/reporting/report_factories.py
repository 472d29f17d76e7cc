"""Hand-made plans and looks: no data, no storage."""

from __future__ import annotations

import datetime as dt
from html.parser import HTMLParser

from experiments_dagster.config.experiment import ExperimentSpec
from experiments_dagster.config.metrics import MeanMetric, Metric, ProportionMetric, resolve_metric
from experiments_dagster.config.resolve import Experiment, resolve_experiment
from experiments_dagster.looks.records import (
    Adjustment,
    AnytimeInterval,
    ArmDecision,
    Boundary,
    Check,
    Effect,
    Frozen,
    Look,
    Novelty,
    SegmentLevel,
    SegmentTest,
    Trust,
)

SALT = "0123456789abcdef-never-print-me"


def make_experiment(*, hostile: str | None = None, **changes: object) -> Experiment:
    """A weekly plan of four looks; `hostile` replaces every name that people can choose."""
    spec = {
        "schema_version": 1,
        "owner": "team:growth",
        "hypothesis": {"primary": "Bold raises spend", "secondary": ["visits do not fall"]},
        "unit": "user",
        "variants": {"control": 0.5, "bold": 0.5},
        "salt": SALT,
        "window": {"start": dt.date(2026, 1, 5), "end": dt.date(2026, 2, 2)},
        "metrics": {
            "primary": {"metric": "spend", "minimum_effect": 0.05},
            "secondary": ["converted"],
            "guardrails": [{"metric": "visits", "margin": 0.1}],
        },
        "plan": {
            "mde": 0.08,
            "estimator": {"kind": "cuped", "covariate_days": 28},
            "looks": {
                "schedule": "weekly",
                "first": dt.date(2026, 1, 19),
                "design": {"kind": "group_sequential", "planned": 4},
            },
        },
        "truth": {"bold": 0.12},
        **changes,
    }
    mean = MeanMetric(kind="mean", event="purchase", window_days=14, display_unit="USD")
    proportion = ProportionMetric(kind="proportion", event="purchase", window_days=14)
    metrics: dict[str, Metric] = {
        "spend": resolve_metric("spend", mean, "events"),
        "visits": resolve_metric("visits", mean, "events"),
        "converted": resolve_metric("converted", proportion, "events"),
    }
    experiment = resolve_experiment(
        "button",
        ExperimentSpec.model_validate(spec),
        metrics,
        exposure_source="exposures",
        timezone="Europe/Berlin",
    )
    return experiment if hostile is None else _rename(experiment, hostile)


def _rename(experiment: Experiment, hostile: str) -> Experiment:
    """Names that validation would refuse, as a report must survive them all the same."""
    hypothesis = experiment.spec.hypothesis.model_copy(update={"primary": hostile})
    spec = experiment.spec.model_copy(
        update={"hypothesis": hypothesis, "owner": hostile, "truth": {hostile: 0.12}}
    )
    return experiment.model_copy(
        update={
            "slug": hostile,
            "owner": hostile,
            "unit": hostile,
            "variants": {"control": 0.5, hostile: 0.5},
            "primary": experiment.primary.model_copy(
                update={"name": hostile, "display_unit": hostile}
            ),
            "spec": spec,
        }
    )


def make_effects(
    *, metric: str, role: str, arm: str, lift: float, missing: str | None = None
) -> list[Effect]:
    """The four rows of a metric; with `missing` they are not estimable."""
    rows = []
    for adjusted in (False, True):
        for estimand, scale in (("difference", 50.0), ("relative_difference", 1.0)):
            shared = {
                "metric": metric,
                "role": role,
                "arm": arm,
                "control": "control",
                "estimand": estimand,
                "is_adjusted": adjusted,
                "method": "lin" if adjusted else "welch",
            }
            if missing:
                rows.append(Effect(**shared, status="not_estimable", reason=missing))
                continue
            half = (0.05 if adjusted else 0.08) * scale
            estimate = (lift if adjusted else lift * 0.9) * scale
            rows.append(
                Effect(
                    **shared,
                    variance_formula="delta" if scale == 1 else "lin_hc2",
                    estimate=estimate,
                    std_error=half / 1.96,
                    ci_low=estimate - half,
                    ci_high=estimate + half,
                    confidence_level=0.95,
                    p_value=0.0123456,
                    control_mean=50.0 if metric != "converted" else 0.25,
                    treatment_mean=50 * (1 + lift) if metric != "converted" else 0.27,
                    n_control=1234,
                    n_treatment=1250,
                )
            )
    return rows


def make_boundary(metric: str, arm: str, *, number: int, kind: str = "success") -> Boundary:
    """The boundary of a look out of four."""
    critical = [None, 3.36, 2.68, 2.29][number - 1]
    crossed = "desired" if critical is not None and number >= 3 else "none"
    return Boundary(
        metric=metric,
        arm=arm,
        kind=kind,
        information=4.0 * number,
        information_fraction=number / 4,
        alpha=0.05,
        alpha_spent_before=0.001 * (number - 1),
        alpha_spent=0.001 * number,
        critical_value=critical,
        nominal_level=0.0004,
        no_stop_reason="NO_STOP_AT_THIS_LOOK" if critical is None else None,
        statistic=2.0 + 0.4 * number,
        crossed=crossed,
        is_relative=True,
        limit_low=None if critical is None else 0.0312345,
        limit_high=None if critical is None else 0.2154321,
        margin=0.1 if kind == "guardrail" else None,
    )


def make_look(
    number: int | None = 3,
    *,
    experiment: Experiment | None = None,
    missing: str | None = None,
    invalid: bool = False,
    **changes: object,
) -> Look:
    """A look at `make_experiment`; None makes a peek."""
    experiment = experiment or make_experiment()
    arm, metric = experiment.treatments[0], experiment.primary.name
    step = number or 3
    effects = make_effects(metric=metric, role="primary", arm=arm, lift=0.1234567, missing=missing)
    effects += make_effects(metric="converted", role="secondary", arm=arm, lift=0.0777)
    effects += make_effects(metric="visits", role="guardrail", arm=arm, lift=-0.01)
    boundaries = []
    if number is not None and missing is None:
        boundaries = [
            make_boundary(metric, arm, number=step),
            make_boundary("visits", arm, number=step, kind="guardrail"),
        ]
    anytime = AnytimeInterval(
        metric=metric, arm=arm, g=1.0, low=0.5, high=12.0, relative_low=0.0101,
        relative_high=0.2402, log_e_value=5.0, p_value=0.0067, running_low=0.5,
        running_high=12.0, flag=None,
    )  # fmt: skip
    verdict = "INVALID" if invalid else ("SHIP" if step >= 3 else "PENDING")
    clause = {"INVALID": "2 quality", "SHIP": "5 success", "PENDING": "9 before the end"}[verdict]
    reason = {
        "INVALID": "sample_ratio: observed control 700, bold 500",
        "SHIP": "the primary metric improved (crossed at look 3)",
        "PENDING": "no boundary crossed before the planned end",
    }[verdict]
    ratio = Check(
        name="sample_ratio", passed=not invalid, severity="ERROR" if invalid else "WARN",
        value=0.00042 if invalid else 0.62, threshold=0.01 if invalid else 0.05,
        message="observed control 700, bold 500" if invalid else "observed as planned",
    )  # fmt: skip
    look = Look(
        experiment=experiment.slug,
        phase=1,
        look=number,
        planned_index=step,
        is_planned_end=number == 4,
        as_of=f"2026-{1 if step < 3 else 2:02d}-{[18, 25, 1, 8][step - 1]:02d}T23:00:00+00:00",
        horizon="2026-02-01T23:00:00+00:00",
        cutoff=17,
        plan_hash=experiment.plan_hash,
        code_version="0.1.0",
        inputs={"landing/events/000001.parquet": "ab" * 32},
        frames={"user_frame": "cd" * 32},
        n_exposed={"control": 1300, arm: 1310},
        n_multi_arm={"control": 2, arm: 1},
        n_mature={metric: 2484},
        frozen=Frozen(baseline=50.0, planned_information={arm: 16.0}, cap=None),
        effects=tuple(effects),
        adjustments=(
            Adjustment(
                metric=metric, arm=arm, correlation=0.64, variance_reduction=0.41,
                dropped_covariates=(),
            ),
        ),
        boundaries=tuple(boundaries),
        anytime=() if missing else (anytime,),
        checks=(ratio,),
        log_e_sample_ratio=-1.2,
        decisions=(
            ArmDecision(
                arm=arm, verdict=verdict, clause=clause, reason=reason, missing=(),
                is_harmful=False,
            ),
        ),
        arm=arm,
        verdict=verdict,
        reason=reason,
    )  # fmt: skip
    return look.model_copy(update=changes)


def make_segments(
    arm: str = "bold", *, levels: dict[str, float] | None = None
) -> dict[str, object]:
    """Effects and tests of one segment; the last level is too small to be tested."""
    levels = levels or {"desktop": 0.05, "phone": 0.2, "watch": 0.4}
    effects, tested = [], []
    for place, (name, size) in enumerate(levels.items()):
        for row in make_effects(metric="spend", role="primary", arm=arm, lift=size):
            if not row.is_adjusted:
                continue
            change = {"segment": "device", "level": name}
            if not row.is_relative:
                change |= {"p_adjusted": 0.0246912, "correction": "bh"}
            effects.append(row.model_copy(update=change))
        is_last = place == len(levels) - 1
        tested.append(
            SegmentLevel(
                level=name,
                difference=None if is_last else 3.2109,
                std_error=None if is_last else 1.2345,
                p_value=None if is_last else 0.0321,
                p_adjusted=None if is_last else 0.0642,
                reason="N_TOO_SMALL" if is_last else None,
            )
        )
    test = SegmentTest(
        segment="device", metric="spend", arm=arm, q=4.5678, degrees_of_freedom=1,
        p_value=0.0432, levels=tuple(tested),
    )  # fmt: skip
    return {"segments": tuple(effects), "segment_tests": (test,)}


def make_trust(arm: str = "bold", **changes: object) -> Trust:
    """A believable effect under the default prior."""
    values = {
        "metric": "spend", "arm": arm, "prior": "default", "prior_sd": 0.05, "twyman_ratio": 2.21,
        "is_suspicious": False, "false_positive_risk_low": 0.0303, "false_positive_risk_high": 0.22,
        "shrunk_estimate": 0.0987, "shrunk_std_error": 0.0231, "is_underpowered": False,
    }  # fmt: skip
    return Trust(**values | changes)


def make_novelty(arm: str = "bold", *, days: int = 9, is_flagged: bool = False) -> Novelty:
    """An effect that falls by half a unit a day."""
    return Novelty(
        metric="spend", arm=arm, days=tuple(range(days)),
        effects=tuple(5.0 - 0.5 * day for day in range(days)), std_errors=(1.0,) * days,
        slope=-0.5012, slope_std_error=0.1111, slope_p_value=0.0022 if is_flagged else 0.2222,
        early=4.5, late=1.5, contrast_p_value=0.0033, is_flagged=is_flagged,
    )  # fmt: skip


def make_sensitivity(arm: str = "bold") -> tuple[Effect, ...]:
    """Ranks, and a bootstrap that was not possible."""
    shared = {"metric": "spend", "role": "primary", "arm": arm, "control": "control",
              "is_adjusted": False}  # fmt: skip
    ranks = Effect(
        **shared, estimand="probability_of_superiority", method="mann_whitney", estimate=0.0404,
        std_error=0.01, ci_low=0.0208, ci_high=0.0606, confidence_level=0.95, p_value=0.0101,
        n_control=1234, n_treatment=1250,
    )  # fmt: skip
    absent = Effect(
        **shared, estimand="difference", method="bootstrap", status="not_estimable",
        reason="ZERO_VARIANCE",
    )  # fmt: skip
    return (ranks, absent)


def make_deterioration(metric: str, arm: str, *, crossed: str = "none") -> Boundary:
    """The safety monitor of one metric."""
    return make_boundary(metric, arm, number=2, kind="deterioration").model_copy(
        update={
            "alpha": 0.005, "statistic": 4.1234 if crossed != "none" else -1.2345,
            "critical_value": 3.5678, "crossed": crossed, "limit_low": None, "limit_high": None,
        }
    )  # fmt: skip


class Page(HTMLParser):
    """Tags with attributes, text outside of styles, outside of <details>, and by section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.visible = ""
        self.data: list[tuple[float, str]] = []
        self.sections: dict[str, str] = {}
        self._section: str | None = None
        self._open: list[str] = []
        self._value: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag in ("details", "summary", "style", "data"):
            self._open.append(tag)
        if tag == "data":
            self._value = dict(attrs)["value"]

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data
        if "details" not in self._open or "summary" in self._open:
            self.visible += data
        if "data" in self._open and self._value is not None:
            self.data.append((float(self._value), data))
            self._value = None
