"""Boundaries, spending and the confidence sequence of a look, from stored looks and new contrasts.

Spending follows the information fraction of the primary contrast against *planned* information,
which the first estimable look fixes without regard to the effect. The joint law of the looks
depends only on ratios of observed information, so each hypothesis is walked on its own observed
information, whatever was planned (Lan & DeMets 1989). Stored boundaries are never recomputed.

The increments of an open-ended metric are not independent: its looks are linked by the scores that
each of them kept. Each success metric and arm has its share of alpha. Guardrails have their own
one-sided boundary at full alpha, spent by the primary's fraction: intersection-union frees them
from a split across guardrails, not from a correction over looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from experiments_dagster.config.experiment import (
    GroupSequential,
    Guardrail,
    LookDesign,
)
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.contrasts import MetricResult, is_nearly_normal
from experiments_dagster.looks.estimates import Estimates
from experiments_dagster.looks.records import (
    Boundary,
    Frozen,
    Look,
    is_finished,
)
from experiments_dagster.looks.scores import ScoreBook, looks_with, present_scores
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import upper_quantile
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.records import Contrast, Estimate
from experiments_dagster.stats.sequential.boundaries import LookBoundary, next_boundary
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    tuning_information,
)
from experiments_dagster.stats.sequential.e_values import normal_equivalent
from experiments_dagster.stats.sequential.futility import futility_design, next_futility_bound
from experiments_dagster.stats.sequential.longitudinal import (
    LongitudinalBoundary,
    longitudinal_boundary,
    score_products,
    spending_fraction,
)
from experiments_dagster.stats.sequential.power import planned_information
from experiments_dagster.stats.sequential.spending import (
    Sides,
    cumulative_alpha,
    spent_per_tail,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a hypothesis may have spent, in total and before this look.

    `scheduled` is the planned share of the looks so far, where information does not grow.
    """

    alpha: float
    fraction: float
    is_last: bool
    scheduled: float = 1.0


def freeze(experiment: Experiment, *, baseline: float, cap: float | None) -> Frozen:
    """Planned information per arm for the plan's relative MDE at a baseline.

    For a confidence sequence it only tunes where the sequence is narrowest.
    """
    baseline = experiment.plan.baseline or baseline
    information = information_for(experiment, experiment.plan.mde * baseline)
    return Frozen(
        baseline=baseline,
        planned_information=dict.fromkeys(experiment.treatments, information),
        cap=cap,
    )


def information_for(experiment: Experiment, effect: float) -> float:
    """Information at the planned end with which the plan detects an absolute effect."""
    design = experiment.plan.looks.design
    alpha, power = experiment.alpha_per_hypothesis, experiment.plan.power
    if not isinstance(design, GroupSequential):
        return planned_information(effect, alpha=alpha, power=power, fractions=[1.0])
    if design.futility is not None:
        return (planned_drift(experiment) / effect) ** 2
    return planned_information(
        effect,
        alpha=alpha,
        power=power,
        fractions=equal_fractions(design.planned),
        spending=design.spending,
        parameter=design.parameter,
    )


@lru_cache(maxsize=64)
def _futility_drift(alpha: float, power: float, design: GroupSequential) -> float:
    assert design.futility is not None
    return futility_design(
        equal_fractions(design.planned),
        alpha=alpha,
        power=power,
        sides=2,
        spending=design.spending,
        parameter=design.parameter,
        beta_spending=design.futility.spending,
        beta_parameter=design.futility.parameter,
    ).drift


def planned_drift(experiment: Experiment) -> float:
    """The drift at the planned end that a plan with futility is powered for."""
    design = experiment.plan.looks.design
    assert isinstance(design, GroupSequential)
    return _futility_drift(experiment.alpha_per_hypothesis, experiment.plan.power, design)


def equal_fractions(planned: int) -> list[float]:
    """Equally spaced information fractions of a number of looks."""
    return [(k + 1) / planned for k in range(planned)]


def information_fraction(result: MetricResult, frozen: Frozen) -> float:
    """Observed over planned information of the primary contrast."""
    information = 1 / result.deciding.difference.std_error**2
    return information / frozen.planned_information[result.arm]


def boundaries(
    experiment: Experiment,
    estimates: Estimates,
    frozen: Frozen,
    earlier: Sequence[Look],
    *,
    is_planned_end: bool,
    planned_index: int = 1,
    scores: ScoreBook | None = None,
) -> list[Boundary]:
    """The success and guardrail hypotheses of every arm at this look.

    Args:
        experiment: The plan.
        estimates: The contrasts of this look.
        frozen: Planned information.
        earlier: The looks recorded before.
        is_planned_end: Whether all that is left of alpha may be spent.
        planned_index: Number of this look in the plan.
        scores: The scores of earlier looks, for open-ended metrics.
    """
    design = experiment.plan.looks.design
    scores = scores or ScoreBook()
    planned = design.planned if isinstance(design, GroupSequential) else planned_index
    rows = []
    for arm in experiment.treatments:
        primary = estimates.results.get((experiment.primary.name, arm))
        if primary is None or is_finished(earlier, arm):
            continue
        fraction = information_fraction(primary, frozen)
        scheduled = min(planned_index / planned, 1.0)
        if experiment.primary.is_open_ended and not is_planned_end:
            # Half-open windows vary little: much information about less than was asked.
            fraction = min(fraction, scheduled)
        spending = Spending(
            alpha=experiment.alpha_per_hypothesis,
            fraction=fraction,
            is_last=is_planned_end,
            scheduled=scheduled,
        )
        if isinstance(design, GroupSequential):
            rows += _successes(experiment, arm, estimates, spending, design, earlier, scores)
        for guardrail, metric in experiment.guardrails:
            result = estimates.results.get((metric.name, arm))
            if result is None:
                continue
            full = replace(spending, alpha=experiment.plan.alpha)
            limit = _guardrail(guardrail, result, full, design, earlier, scores)
            if limit is not None:
                rows.append(limit)
    return rows


def _successes(
    experiment: Experiment,
    arm: str,
    estimates: Estimates,
    spending: Spending,
    design: GroupSequential,
    earlier: Sequence[Look],
    scores: ScoreBook,
) -> list[Boundary]:
    """The boundary of every success metric of an arm, the primary's with its futility bound."""
    rows = []
    for metric in experiment.success_metrics:
        result = estimates.results.get((metric.name, arm))
        if result is None:
            continue
        row = _success(result, spending, design, earlier, scores)
        is_over = spending.is_last or spending.fraction >= 1
        if metric.name == experiment.primary.name and design.futility and not is_over:
            row = _with_futility(experiment, row, design, earlier)
        rows.append(row)
    return rows


def _with_futility(
    experiment: Experiment, row: Boundary, design: GroupSequential, earlier: Sequence[Look]
) -> Boundary:
    """Add the futility bound at the planned clock, where beta is spent."""
    assert design.futility is not None
    stored = [
        old
        for look in earlier
        for old in look.boundaries
        if (old.metric, old.arm, old.kind) == (row.metric, row.arm, "success")
        and old.no_stop_reason != "INFORMATION_DECREASED"
    ]
    t = min(row.information_fraction, 1.0)
    beta = 1 - experiment.plan.power
    spent = stored[-1].beta_spent or 0.0 if stored else 0.0
    bound = next_futility_bound(
        [(old.information_fraction, old.critical_value, old.futility_bound) for old in stored],
        t=t,
        upper=row.critical_value,
        drift=planned_drift(experiment),
        cumulative_beta_now=max(
            spent_per_tail(design.futility.spending, t, beta, parameter=design.futility.parameter),
            spent,
        ),
        beta_spent=spent,
        sides=2,
    )
    is_futile = bound.lower is not None and row.statistic < bound.lower
    return row.model_copy(
        update={
            "futility_bound": bound.lower,
            "beta_spent": bound.beta_spent,
            "is_futile": is_futile,
        }
    )


def normal_score(estimate: Estimate) -> float:
    """The estimate's evidence on the normal scale: that of its own t or randomisation test."""
    score = estimate.estimate / estimate.std_error
    if estimate.inference == "randomization" and estimate.p_value is not None:
        if estimate.p_value >= 1:
            return 0.0
        return math.copysign(upper_quantile(estimate.p_value / 2), score)
    df = estimate.degrees_of_freedom
    return score if df is None else normal_equivalent(score, df)


def _guardrail_score(statistic: float, estimate: Estimate) -> float:
    """A margin test's z on the normal scale; a few clusters have as many degrees of freedom."""
    df = estimate.degrees_of_freedom
    if estimate.inference == "randomization":
        df = estimate.n_control + estimate.n_treatment - 2.0
    return statistic if df is None else normal_equivalent(statistic, df)


def _success(
    result: MetricResult,
    spending: Spending,
    design: GroupSequential,
    earlier: Sequence[Look],
    scores: ScoreBook,
) -> Boundary:
    contrast = result.deciding
    statistic = sign_of(result.metric) * normal_score(contrast.difference)
    clock = _Clock(earlier=earlier, scores=scores)
    row = _boundary(result, "success", contrast, statistic, spending, design, clock, sides=2)
    shown = contrast.relative or contrast.difference
    return row.model_copy(
        update={
            "is_relative": contrast.relative is not None,
            **_repeated(shown.estimate, shown.std_error, row.critical_value),
        }
    )


def _guardrail(
    guardrail: Guardrail,
    result: MetricResult,
    spending: Spending,
    design: LookDesign,
    earlier: Sequence[Look],
    scores: ScoreBook,
) -> Boundary | None:
    contrast = result.deciding
    try:
        test = non_inferiority(
            contrast,
            margin=guardrail.margin,
            higher_is_better=result.metric.direction == "increase",
            relative=not guardrail.absolute,
            alpha=spending.alpha,
        )
    except EstimationError:
        return None
    statistic = _guardrail_score(test.statistic, contrast.difference)
    if isinstance(design, GroupSequential):
        signed = guardrail.margin * sign_of(result.metric)
        clock = _Clock(
            earlier=earlier,
            scores=scores,
            control_weight=1.0 if guardrail.absolute else 1 - signed,
        )
        row = _boundary(result, "guardrail", contrast, statistic, spending, design, clock, sides=1)
    elif is_nearly_normal(result):
        row = _anytime_guardrail(result, contrast, statistic, spending, earlier)
    else:
        return None
    shown = contrast.difference if guardrail.absolute else contrast.relative
    limits = _repeated(shown.estimate, shown.std_error, row.critical_value) if shown else {}
    return row.model_copy(
        update={"is_relative": not guardrail.absolute, "margin": guardrail.margin, **limits}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """The looks behind a hypothesis, and the scores that link them where it is open-ended.

    `control_weight` is the factor of the control units' scores in the hypothesis: 1 for a
    difference, 1 - margin for a relative margin (METHODS 2.10).
    """

    earlier: Sequence[Look]
    scores: ScoreBook
    control_weight: float = 1.0


def _boundary(
    result: MetricResult,
    kind: str,
    contrast: Contrast,
    statistic: float,
    spending: Spending,
    design: GroupSequential,
    clock: _Clock,
    *,
    sides: Sides,
) -> Boundary:
    """The hypothesis' next boundary given its stored ones, and whether it is crossed."""
    is_linked = result.metric.is_open_ended and result.units is not None
    looks = looks_with(clock.earlier, result.metric.name, result.arm, kind)
    stored = [
        row
        for look in looks
        for row in look.boundaries
        if (row.metric, row.arm, row.kind) == (result.metric.name, result.arm, kind)
        and (is_linked or row.no_stop_reason != "INFORMATION_DECREASED")
    ]
    information = 1 / contrast.difference.std_error**2
    allowed = spending.alpha
    if spending.fraction < 1 and not spending.is_last:
        t = spending.fraction
        if is_linked:
            t = spending_fraction(
                [*(row.information for row in stored), information],
                planned_information=information / spending.fraction,
                scheduled=spending.scheduled,
            )
        allowed = cumulative_alpha(
            design.spending, t, alpha=spending.alpha, sides=sides, parameter=design.parameter
        )
    spent = stored[-1].alpha_spent if stored else 0.0
    boundary: LookBoundary | LongitudinalBoundary
    if is_linked:
        name, weight = result.metric.name, clock.control_weight
        linked = [clock.scores.of(look, name, result.arm, control_weight=weight) for look in looks]
        boundary = longitudinal_boundary(
            score_products([*linked, present_scores(result, control_weight=weight)], subject=name),
            [row.critical_value for row in stored],
            cumulative_alpha_now=max(allowed, spent),
            alpha_spent=spent,
            sides=sides,
        )
    else:
        boundary = next_boundary(
            # On the clock of observed information, scaled so that now is 1.
            [(row.information / information, row.critical_value) for row in stored],
            t=1.0,
            cumulative_alpha_now=max(allowed, spent),
            alpha_spent=spent,
            sides=sides,
        )
        is_end = spending.is_last or spending.fraction >= 1
        if is_end and boundary.reason == "INFORMATION_DECREASED" and allowed > spent:
            boundary = _rest_of_alpha(allowed, spent, sides=sides)
    critical = boundary.critical_value
    crossed = "none"
    if critical is not None and abs(statistic) >= critical:
        crossed = "desired" if statistic > 0 else "undesired"
    return Boundary(
        metric=result.metric.name,
        arm=result.arm,
        kind=kind,
        information=information,
        information_fraction=spending.fraction,
        alpha=spending.alpha,
        alpha_spent_before=spent,
        alpha_spent=boundary.alpha_spent,
        critical_value=critical,
        nominal_level=boundary.nominal_level,
        no_stop_reason=boundary.reason,
        statistic=statistic,
        crossed=crossed,
        is_relative=False,
        limit_low=None,
        limit_high=None,
    )


def _rest_of_alpha(allowed: float, spent: float, *, sides: Sides) -> LookBoundary:
    """The last boundary where information fell: what is left of alpha, by the union bound.

    The law of the looks is unknown then; a test of the last score alone at the level that is left
    keeps the whole plan at alpha whatever the correlation.
    """
    nominal = (allowed - spent) / sides
    return LookBoundary(
        critical_value=upper_quantile(nominal),
        nominal_level=nominal,
        alpha_spent=allowed,
        reason=None,
    )


def _anytime_guardrail(
    result: MetricResult,
    contrast: Contrast,
    statistic: float,
    spending: Spending,
    earlier: Sequence[Look],
) -> Boundary:
    """A guardrail without planned looks: the bound of its one-sided confidence sequence.

    Its tuning aims at the information that it will have when the primary has what was planned;
    the first look fixes it.
    """
    stored = [
        row
        for look in earlier
        for row in look.boundaries
        if (row.metric, row.arm, row.kind) == (result.metric.name, result.arm, "guardrail")
    ]
    return one_sided(result, contrast, statistic, spending, stored, kind="guardrail")


def one_sided(
    result: MetricResult,
    contrast: Contrast,
    statistic: float,
    spending: Spending,
    stored: Sequence[Boundary],
    *,
    kind: str,
) -> Boundary:
    """The one-sided confidence sequence of a hypothesis; `desired` is the side it tests."""
    information = 1 / contrast.difference.std_error**2
    g = stored[0].tuning if stored else None
    if g is None:
        g = tuning_information(information / spending.fraction, spending.alpha, sides=1)
    # In units of its own standard error, so that the half-width is the critical value.
    point = confidence_sequence(statistic, 1.0, g=g / information, alpha=spending.alpha, sides=1)
    crossed = "none"
    if abs(statistic) >= point.half_width:
        crossed = "desired" if statistic > 0 else "undesired"
    return Boundary(
        metric=result.metric.name,
        arm=result.arm,
        kind=kind,
        information=information,
        information_fraction=spending.fraction,
        alpha=spending.alpha,
        alpha_spent_before=0.0,
        alpha_spent=0.0,
        critical_value=point.half_width,
        nominal_level=None,
        no_stop_reason=None,
        statistic=statistic,
        crossed=crossed,
        is_relative=False,
        limit_low=None,
        limit_high=None,
        tuning=g,
    )


def _repeated(estimate: float, std_error: float, critical: float | None) -> dict[str, float | None]:
    if critical is None:
        return {"limit_low": None, "limit_high": None}
    half = critical * std_error
    return {"limit_low": estimate - half, "limit_high": estimate + half}


def sign_of(metric: Metric) -> int:
    """1 where more is desired, else -1."""
    return 1 if metric.direction == "increase" else -1
