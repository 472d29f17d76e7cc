"""What an experiment can find, before it starts: power, duration and calendar of the actual plan.

Past units are split at random into the experiment's arms and compared by the experiment's own
estimator; its variance per unit, base rate and accrual then drive the plan: boundaries at the
expected information of each look, power and expected end under no, half and the full effect, and
the power of the whole decision rule with its guardrails. Nothing here depends on an effect.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.experiment import CapQuantile, CapValue, GroupSequential
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import STEP_DAYS, Experiment
from experiments_dagster.frames.history import History
from experiments_dagster.looks.contrasts import MetricRows, compare_arm
from experiments_dagster.looks.sequential import equal_fractions, information_for
from experiments_dagster.stats.design.duration import Duration, duration_days
from experiments_dagster.stats.design.rule_power import (
    RulePower,
    StoppingLaw,
    power_per_test,
    rule_power,
    stopping_law,
    stopping_profile,
)
from experiments_dagster.stats.design.start_dates import (
    StartProposal,
    YearlyPeriod,
    periods_met,
    propose_starts,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import upper_tail
from experiments_dagster.stats.methods.units.cross_fitted import fold_numbers
from experiments_dagster.stats.sequential.boundaries import (
    Boundaries,
    LookBoundary,
    next_boundary,
)
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    tuning_information,
)
from experiments_dagster.stats.sequential.spending import Sides, Spending, cumulative_alpha

SPLITS = 1000
SPLIT_SEED = 8
CLOSE_LOOKS = 1e-3  # looks closer in information than this are planned as one
LARGEST_INFLATION = 50.0  # the sequence needs 2 to 4 times the information of a fixed test
SIMULATIONS = 50_000
MAX_RUNTIME = 56
MDE_WEEKS = (2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricHistory:
    """What the past says about one metric under the plan's estimator.

    Args:
        metric: Its name.
        baseline: Mean, ratio or quantile over all past units.
        sd: Standard deviation per unit that gives the estimator's variance.
        sd_unadjusted: The same without adjustment.
        variance_reduction: 1 - (sd / sd_unadjusted) squared.
        n_units: Past units with a closed window.
    """

    metric: str
    baseline: float
    sd: float
    sd_unadjusted: float
    variance_reduction: float
    n_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLook:
    """One look of the calendar with what is expected to be there."""

    date: dt.date
    units: float
    information_fraction: float
    critical_value: float | None
    detectable: float
    stop_under_null: float
    stop_under_effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """The answer of `experiments plan`.

    `mde` and `reachable` are relative. `reachable` is what the window as configured detects with
    the plan's power; `detectable_by_week` pairs weeks of enrolment with the same.
    """

    experiment: str
    primary: MetricHistory
    others: tuple[MetricHistory, ...]
    not_estimable: dict[str, str]
    mde: float
    alpha: float
    power: float
    n_needed: float
    n_expected: float
    duration: Duration
    reachable: float
    detectable_by_week: tuple[tuple[int, float], ...]
    looks: tuple[PlannedLook, ...]
    profile: tuple[StoppingLaw, ...]
    expected_days: tuple[float, ...]
    rule: RulePower | None
    power_per_test: float
    history_days: int
    history_first_day: dt.date
    truncated_days: int
    run_days: int
    starts: tuple[StartProposal, ...]
    periods_met: tuple[str, ...]


def plan_report(
    experiment: Experiment, history: History, avoided: Sequence[YearlyPeriod] = ()
) -> PlanReport:
    """Plan an experiment over events from its history.

    Args:
        experiment: The plan as configured.
        history: What its metrics were in the past.
        avoided: Periods of every year in which no experiment should run.

    Raises:
        EstimationError: The primary metric cannot be estimated from the history.
    """
    labelled = _split(experiment, history)
    primary = _describe(experiment, experiment.primary, labelled)
    others: list[MetricHistory] = []
    refused: dict[str, str] = {}
    for metric in experiment.metrics[1:]:
        try:
            others.append(_describe(experiment, metric, labelled))
        except EstimationError as error:
            refused[metric.name] = error.code
    effect = experiment.plan.mde * abs(experiment.plan.baseline or primary.baseline)
    unit_information = _information_per_unit(experiment, primary.sd)
    inflation = _inflation(experiment, effect)
    n_needed = inflation * information_for(experiment, effect) / unit_information
    days = experiment.enrolment_days
    n_expected = units_by(history.accrual, days)
    looks = _calendar(experiment, history, n_needed)
    plan = _boundaries(experiment, [look for _, _, look in looks], inflation)
    drift = math.sqrt(inflation * information_for(experiment, effect)) * effect
    profile = stopping_profile(plan, drift=drift)
    start = experiment.starts_at.astimezone(ZoneInfo(experiment.timezone)).date()
    run_days = days + experiment.primary.maturity_days
    end = start + dt.timedelta(days=run_days)
    look_days = [float((date - start).days) for date, _, _ in looks]

    def detectable(n: float) -> float:
        return experiment.plan.mde * math.sqrt(n_needed / n) if n > 0 else math.inf

    by_week = [(week, units_by(history.accrual, 7 * week)) for week in MDE_WEEKS]
    return PlanReport(
        experiment=experiment.slug,
        primary=primary,
        others=tuple(others),
        not_estimable=refused,
        mde=experiment.plan.mde,
        alpha=experiment.alpha_per_hypothesis,
        power=experiment.plan.power,
        n_needed=n_needed,
        n_expected=n_expected,
        duration=duration_days(
            [float(n) for n in history.accrual],
            n_needed,
            experiment.primary.maturity_days,
            buffer=1.0,
            max_runtime=max(MAX_RUNTIME, days + experiment.primary.maturity_days),
            mde_of=detectable,
        ),
        reachable=detectable(n_expected),
        detectable_by_week=tuple((week, detectable(n)) for week, n in by_week if n > 0),
        looks=tuple(
            PlannedLook(
                date=date,
                units=units,
                information_fraction=fraction,
                critical_value=critical,
                detectable=detectable(units),
                stop_under_null=null,
                stop_under_effect=full,
            )
            for (date, units, fraction), critical, null, full in zip(
                looks,
                plan.critical_values,
                profile[0].stop_probabilities,
                profile[-1].stop_probabilities,
                strict=True,
            )
        ),
        profile=profile,
        expected_days=tuple(law.expected_days(look_days) for law in profile),
        rule=_whole_rule(experiment, plan, drift, others, labelled, n_needed),
        power_per_test=power_per_test(experiment.plan.power, guardrails=len(experiment.guardrails)),
        history_days=history.days,
        history_first_day=history.first_day,
        truncated_days=history.truncated_days,
        run_days=run_days,
        starts=propose_starts(start, run_days, avoided),
        periods_met=tuple(period.reason for period in periods_met(start, end, avoided)),
    )


def units_by(accrual: Sequence[int], days: float) -> float:
    """Distinct units after some days; beyond the history at the rate of its last week."""
    known = np.concatenate(([0.0], np.asarray(accrual, dtype=np.float64)))
    last = len(known) - 1
    if days <= last:
        return float(np.interp(max(days, 0.0), np.arange(last + 1), known))
    week = min(7, last)
    return float(known[-1] + (days - last) * (known[-1] - known[-1 - week]) / week)


def _split(experiment: Experiment, history: History) -> History:
    """Give every past unit an arm at random, in the experiment's shares."""
    units = history.rows["unit"].to_numpy().astype(np.str_)
    place = fold_numbers(units, folds=SPLITS, seed=SPLIT_SEED) / SPLITS
    limits = np.cumsum(list(experiment.variants.values()))[:-1]
    names = np.array(list(experiment.variants))[np.searchsorted(limits, place, side="right")]
    rows = history.rows.with_columns(pl.Series("arm", names))
    events = history.events
    if events is not None:
        events = events.drop("arm").join(rows.select("unit", "arm"), on="unit", how="inner")
    return replace(history, rows=rows, events=events)


def _rows_of(experiment: Experiment, metric: Metric, history: History) -> MetricRows:
    cap = experiment.plan.cap
    limit = None
    if metric.name == experiment.primary.name and isinstance(cap, CapValue):
        limit = cap.value
    elif metric.name == experiment.primary.name and isinstance(cap, CapQuantile):
        basis = history.rows[f"cap_basis_{metric.name}"]
        limit = basis.quantile(cap.quantile, interpolation="linear")
    frame = history.rows.filter(pl.col(metric.columns[0][0]).is_not_null())
    events = None
    if metric.of_events and history.events is not None:
        events = history.events.filter(pl.col("metric") == metric.name)
    return MetricRows(metric=metric, frame=frame, events=events, cap=limit)


def _describe(experiment: Experiment, metric: Metric, history: History) -> MetricHistory:
    """Base rate and standard deviation per unit, from the estimator's own variance."""
    rows = _rows_of(experiment, metric, history)
    arm = experiment.treatments[0]
    result = compare_arm(experiment, rows, arm)
    plain, deciding = result.plain.difference, result.deciding.difference
    per_unit = 1 / plain.n_control + 1 / plain.n_treatment
    weights = plain.n_control, plain.n_treatment
    return MetricHistory(
        metric=metric.name,
        baseline=float(np.average([plain.control_mean, plain.treatment_mean], weights=weights)),
        sd=deciding.std_error / math.sqrt(per_unit),
        sd_unadjusted=plain.std_error / math.sqrt(per_unit),
        variance_reduction=1 - (deciding.std_error / plain.std_error) ** 2,
        n_units=rows.frame.height,
    )


def _information_per_unit(experiment: Experiment, sd: float) -> float:
    """Information of the smallest treatment arm's contrast, per unit in the whole experiment."""
    control = experiment.variants[experiment.control]
    share = min(experiment.variants[arm] for arm in experiment.treatments)
    return 1 / (sd * sd * (1 / control + 1 / share))


def _calendar(
    experiment: Experiment, history: History, n_needed: float
) -> list[tuple[dt.date, float, float]]:
    """Date, mature units and information fraction of each planned look that adds information."""
    zone = ZoneInfo(experiment.timezone)
    start = experiment.starts_at.astimezone(zone).date()
    dates = experiment.planned_looks() or _open_calendar(experiment)
    enrolment = experiment.enrolment_days
    looks: list[tuple[dt.date, float, float]] = []
    for date in dates:
        days = min((date - start).days - experiment.primary.maturity_days, enrolment)
        units = units_by(history.accrual, days)
        fraction = min(units / n_needed, 1.0)
        before = looks[-1][2] if looks else 0.0
        if fraction > before + CLOSE_LOOKS:
            looks.append((date, units, fraction))
    if not looks:
        name = experiment.primary.name
        raise EstimationError("IMMATURE", name, "no unit is mature at any planned look")
    return looks


def _open_calendar(experiment: Experiment) -> list[dt.date]:
    """The dates of looks without a planned number: every step to the end of all windows."""
    step = STEP_DAYS.get(experiment.plan.looks.schedule, 7)
    first, last = experiment.first_look(), experiment.last_look()
    count = max((last - first).days // step, 0) + 1
    return [first + dt.timedelta(days=k * step) for k in range(count)]


def _inflation(experiment: Experiment, effect: float) -> float:
    """Information that a confidence sequence needs over what it is tuned to; 1 for planned looks.

    The sequence pays for any number of looks: it needs more than a fixed test of the same power.
    """
    if experiment.is_group_sequential:
        return 1.0
    from scipy.optimize import brentq

    drift = math.sqrt(information_for(experiment, effect)) * effect
    fractions = equal_fractions(len(_open_calendar(experiment)))

    def shortfall(log_inflation: float) -> float:
        inflation = math.exp(log_inflation)
        plan = _boundaries(experiment, fractions, inflation)
        law = stopping_law(plan, drift=drift * math.sqrt(inflation))
        return law.power - experiment.plan.power

    return math.exp(float(brentq(shortfall, 0.0, math.log(LARGEST_INFLATION), xtol=1e-6)))


def _boundaries(experiment: Experiment, fractions: Sequence[float], inflation: float) -> Boundaries:
    """The success boundaries at the expected fractions, solved look by look as in the run.

    Args:
        experiment: The plan.
        fractions: Of the information that the plan needs.
        inflation: That information over what a confidence sequence is tuned to.
    """
    design, alpha = experiment.plan.looks.design, experiment.alpha_per_hypothesis
    if isinstance(design, GroupSequential):
        return _spend(
            fractions, alpha=alpha, sides=2, spending=design.spending, parameter=design.parameter
        )
    # In units of the information that the sequence is tuned to.
    g = tuning_information(1.0, alpha)
    instants = [t * inflation for t in fractions]
    criticals = [
        confidence_sequence(0.0, 1 / math.sqrt(t), g=g, alpha=alpha).half_width * math.sqrt(t)
        for t in instants
    ]
    return Boundaries(
        fractions=tuple(fractions),
        critical_values=tuple(criticals),
        cumulative_alpha=(alpha,) * len(fractions),
        nominal_levels=tuple(upper_tail(critical) for critical in criticals),
        sides=2,
    )


def _spend(
    fractions: Sequence[float],
    *,
    alpha: float,
    sides: Sides,
    spending: Spending,
    parameter: float | None,
) -> Boundaries:
    """Boundaries at given fractions; the last look spends what is left, also at an underrun."""
    looks: list[LookBoundary] = []
    for index, t in enumerate(fractions):
        is_last = index == len(fractions) - 1
        allowed = cumulative_alpha(spending, t, alpha=alpha, sides=sides, parameter=parameter)
        earlier = zip(fractions[:index], looks, strict=True)
        looks.append(
            next_boundary(
                [(before, look.critical_value) for before, look in earlier],
                t=t,
                cumulative_alpha_now=alpha if is_last else allowed,
                alpha_spent=looks[-1].alpha_spent if looks else 0.0,
                sides=sides,
            )
        )
    return Boundaries(
        fractions=tuple(fractions),
        critical_values=tuple(look.critical_value for look in looks),
        cumulative_alpha=tuple(look.alpha_spent for look in looks),
        nominal_levels=tuple(look.nominal_level for look in looks),
        sides=sides,
    )


def _whole_rule(
    experiment: Experiment,
    plan: Boundaries,
    drift: float,
    histories: Sequence[MetricHistory],
    history: History,
    n_needed: float,
) -> RulePower | None:
    """Power to ship with the guardrails that can be planned; None without any."""
    known = {row.metric: row for row in histories}
    guardrails = [(rule, metric) for rule, metric in experiment.guardrails if metric.name in known]
    design = experiment.plan.looks.design
    if not guardrails or not isinstance(design, GroupSequential):
        return None
    one_sided = _spend(
        plan.fractions,
        alpha=experiment.plan.alpha,
        sides=1,
        spending=design.spending,
        parameter=design.parameter,
    )
    drifts = [drift]
    for rule, metric in guardrails:
        row = known[metric.name]
        margin = rule.margin if rule.absolute else rule.margin * abs(row.baseline)
        information = n_needed * _information_per_unit(experiment, row.sd)
        drifts.append(margin * math.sqrt(information))
    return rule_power(
        plan,
        [one_sided] * len(guardrails),
        drifts=[drifts] * len(experiment.treatments),
        correlations=_correlations(
            [experiment.primary, *(metric for _, metric in guardrails)], history
        ),
        shares=list(experiment.variants.values()),
        simulations=SIMULATIONS,
    )


def _correlations(metrics: Sequence[Metric], history: History) -> NDArray[np.float64]:
    """Correlations between units, signed so that larger is better in each metric."""
    names = [metric.columns[0][0] for metric in metrics]
    rows = history.rows.drop_nulls(names)
    signs = [1.0 if metric.direction == "increase" else -1.0 for metric in metrics]
    values = rows.select(names).to_numpy().astype(np.float64) * signs
    spread = values.std(axis=0) if len(values) > 1 else np.zeros(len(names))
    if not (spread > 0).all():
        return np.eye(len(names))
    return np.asarray(np.corrcoef(values, rowvar=False), dtype=np.float64)
