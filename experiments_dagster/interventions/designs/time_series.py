"""Impact on one series: a structural time series, and everything that tries to refute it.

The covariates enter the counterfactual; the fit sees the pre period only. METHODS 11.1, 11.12.

References:
    Brodersen et al. 2015; Abadie, Diamond & Hainmueller 2015 (placebo in time, leave-one-out).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.series.economics import estimate_economics
from experiments_dagster.causal.series.impact import estimate_impact, fit_prepared
from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.causal.series.prepare import prepare_series
from experiments_dagster.causal.series.records import (
    EffectInterval,
    ImpactResult,
    PlaceboResult,
    Prior,
)
from experiments_dagster.causal.series.series_checks import (
    check_bias_alarm,
    check_covariate_breaks,
    check_drop_last_pre,
    check_leave_one_covariate_out,
    check_placebo_in_time,
    check_post_length,
    check_post_period_leak,
    check_pre_fit,
)
from experiments_dagster.causal.series.series_sensitivity import (
    CovariateBreak,
    SeriesSensitivity,
    covariate_breaks,
    drop_last_pre,
    leave_one_covariate_out,
)
from experiments_dagster.config.intervention import EconomicsSpec, TimeSeriesSpec
from experiments_dagster.interventions.designs.time_series_tables import (
    break_table,
    fit_table,
    impact_points,
    placebo_table,
    sensitivity_table,
    series_table,
)
from experiments_dagster.interventions.series_data import FloatArray, SeriesData
from experiments_dagster.interventions.study import Picture, Refutations, Study, StudyEstimate
from experiments_dagster.reporting import numbers
from experiments_dagster.reporting.impact_charts import impact_chart
from experiments_dagster.reporting.numbers import count, day, plural
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

NOISE: dict[Prior, str] = {
    "weak": "local level and AR(1) errors averaged",
    "published": "nearly fixed level as in Brodersen et al. 2015",
}
METHOD = (
    "structural time series ({}, covariates, season) fitted to the pre period only; intervals from "
    "posterior predictive paths"
)
PUBLISHED_IS_NARROW = (
    "the published prior nearly fixes the level: where the level moves or errors are correlated "
    "its intervals are too short"
)
ASSUMPTIONS = (
    (
        "The intervention was not randomised: whoever chose the treated, or the date, may have "
        "had reasons that also move the series"
    ),
    "The covariates are not touched by the intervention (no spill-over)",
    "What ties the series to the covariates before the intervention stays as it was",
    "Nothing else that moves the treated only began at the same time",
)
NO_COVARIATE = (
    ASSUMPTIONS[0],
    "Level and season before the intervention would have gone on as they were",
    "Nothing else that moves the series began at the same time",
)
MIN_PRE_POINTS = {"daily": 30, "weekly": 20}
SEASON = {"daily": 7, "weekly": None}
DROPPED_STEPS = {"daily": (7, 14, 21), "weekly": (1, 2, 3)}
DAYS = {"daily": 1, "weekly": 7}
STEP = {"daily": "day", "weekly": "week"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSeriesFit:
    """All estimates of one series. Without `impact` there is an `error` and nothing else.

    `calibrated` is the impact under the default prior where the design asks for another.
    `placebo` is None with `placebo_reason` where too few positions fit or none were wanted;
    `without_covariates` and `breaks` are empty where there is no covariate.
    """

    impact: ImpactResult | None = None
    calibrated: ImpactResult | None = None
    error: EstimationError | None = None
    placebo: PlaceboResult | None = None
    placebo_reason: str | None = None
    without_covariates: SeriesSensitivity | None = None
    without_last: SeriesSensitivity | None = None
    breaks: tuple[CovariateBreak, ...] = ()


def time_series_study(series: SeriesData, spec: TimeSeriesSpec) -> Study:
    """The impact on a series with its refutations, tables and picture."""
    return study_of_fit(series, spec, fit_time_series(series, spec))


def fit_time_series(series: SeriesData, spec: TimeSeriesSpec) -> TimeSeriesFit:
    """Estimate the impact, the placebos and the refits."""
    design, frequency = spec.design, spec.series.frequency
    observed, covariates, n_pre = series.observed, series.covariates, series.n_pre
    season, min_pre_points = SEASON[frequency], MIN_PRE_POINTS[frequency]
    estimate = partial(
        estimate_impact,
        observed,
        covariates,
        n_pre,
        season=season,
        min_pre_points=min_pre_points,
        n_draws=design.draws,
        seed=design.seed,
        alpha=design.alpha,
    )
    try:
        impact = estimate(prior=design.prior)
        calibrated = None if design.prior == "weak" else estimate(prior="weak")
    except EstimationError as error:
        return TimeSeriesFit(error=error, placebo_reason=str(error))
    placebo, placebo_reason = _placebo(series, spec)

    def total_effect(outcome: FloatArray, others: FloatArray) -> float:
        if outcome is observed and others is covariates:
            return impact.total.estimate
        expected = _forecast(outcome, others, n_pre, spec)
        return float(np.nansum(outcome[n_pre:] - expected))

    names = series.covariate_names
    return TimeSeriesFit(
        impact=impact,
        calibrated=calibrated,
        placebo=placebo,
        placebo_reason=placebo_reason,
        without_covariates=(
            leave_one_covariate_out(total_effect, observed, covariates, names=names)
            if names
            else None
        ),
        without_last=drop_last_pre(
            total_effect, observed, covariates, n_pre, n_dropped=DROPPED_STEPS[frequency]
        ),
        breaks=covariate_breaks(
            covariates,
            n_pre,
            names=names,
            season=season,
            min_pre_points=min_pre_points,
            seed=design.seed,
            alpha=design.alpha,
        ),
    )


def study_of_fit(series: SeriesData, spec: TimeSeriesSpec, fit: TimeSeriesFit) -> Study:
    """What was estimated, in the form that every design shares."""
    step = STEP[spec.series.frequency]
    estimand = (
        f"sum over the {step}s from {day(spec.post.start)} on of {series.name} as observed less "
        "what it would have been without the intervention, for the treated only"
    )
    assumptions = ASSUMPTIONS if series.covariate_names else NO_COVARIATE
    method = METHOD.format(NOISE[spec.design.prior])
    facts = _facts(series, spec)
    impact = fit.impact
    if impact is None:
        assert fit.error is not None
        return Study(
            design="time_series",
            method=method,
            estimand=estimand,
            facts=facts,
            assumptions=assumptions,
            reason=fit.error.code,
            reason_detail=str(fit.error),
        )
    found = _refutations(series, spec, fit, impact)
    warnings = [*impact.warnings, *(fit.placebo.warnings if fit.placebo else ())]
    if spec.design.prior == "published":
        warnings.append(PUBLISHED_IS_NARROW)
    if impact.relative is None:
        warnings.append("no relative effect: the expected total is not surely above 0")
    tables = [
        series_table(series, impact),
        fit_table(impact),
        placebo_table(series, fit.placebo),
        sensitivity_table(fit.without_covariates, fit.without_last),
        break_table(fit.breaks),
    ]
    return Study(
        design="time_series",
        method=method,
        estimand=estimand,
        facts=(*facts, *_model_facts(series, impact)),
        assumptions=assumptions,
        estimates=(*_estimates(impact, step), *_money(impact, spec.economics)),
        refutations=tuple(found.ran),
        skipped=tuple(found.skipped),
        tables=tuple(table for table in tables if table.rows),
        pictures=(_picture(series, spec, impact),),
        warnings=tuple(warnings),
    )


def _forecast(
    observed: FloatArray, covariates: FloatArray, n_pre: int, spec: TimeSeriesSpec
) -> FloatArray:
    """The counterfactual of `estimate_impact` after the intervention, without drawing its paths."""
    frequency = spec.series.frequency
    prepared = prepare_series(
        observed,
        covariates,
        n_pre,
        n_post=None,
        season=SEASON[frequency],
        min_pre_points=MIN_PRE_POINTS[frequency],
    )
    posterior = fit_prepared(prepared, spec.design.prior)
    return prepared.restore(posterior.forecast_mean(prepared.design_post))


def _placebo(series: SeriesData, spec: TimeSeriesSpec) -> tuple[PlaceboResult | None, str | None]:
    if not spec.design.placebos:
        return None, "design.placebos is 0"
    frequency = spec.series.frequency
    try:
        placebo = placebo_in_time(
            series.observed,
            series.covariates,
            series.n_pre,
            season=SEASON[frequency],
            min_pre_points=MIN_PRE_POINTS[frequency],
            n_placebos=spec.design.placebos,
            min_placebos=1,
            prior=spec.design.prior,
        )
    except EstimationError as error:
        return None, str(error)
    return placebo, None


def _refutations(
    series: SeriesData, spec: TimeSeriesSpec, fit: TimeSeriesFit, impact: ImpactResult
) -> Refutations:
    found, n_pre = Refutations(), series.n_pre
    placebo, without_covariates, without_last = (
        fit.placebo,
        fit.without_covariates,
        fit.without_last,
    )
    if placebo is None:
        found.skip("placebo_in_time", fit.placebo_reason or "no placebo was run")
        found.skip("bias_alarm", "it reads the placebos in time, and there are none")
    else:
        alpha = spec.design.alpha
        found.run("placebo_in_time", lambda: check_placebo_in_time(placebo, alpha=alpha))
        found.run("bias_alarm", lambda: check_bias_alarm(placebo))
    found.run(
        "post_period_leak",
        lambda: check_post_period_leak(
            lambda outcome: _forecast(outcome, series.covariates, n_pre, spec),
            series.observed,
            n_pre,
        ),
    )
    found.run("pre_fit", lambda: check_pre_fit(impact))
    if without_covariates is None:
        why = "the counterfactual has no covariate"
        found.skip("leave_one_covariate_out", why, needed=False)
        found.skip("covariate_breaks", why, needed=False)
    else:
        found.run(
            "leave_one_covariate_out", lambda: check_leave_one_covariate_out(without_covariates)
        )
        found.run("covariate_breaks", lambda: check_covariate_breaks(fit.breaks))
    if without_last is not None:
        found.run("drop_last_pre", lambda: check_drop_last_pre(without_last))
    if fit.calibrated is not None:
        found.ran.append(_check_calibrated_prior(impact, fit.calibrated))
    found.run("post_length", lambda: check_post_length(n_pre, impact.n_post))
    return found


def _check_calibrated_prior(impact: ImpactResult, calibrated: ImpactResult) -> CheckOutcome:
    """Warn where only the narrow prior excludes 0, in the direction of the estimate."""
    total = calibrated.total
    nearest = total.ci_low if impact.total.estimate > 0 else -total.ci_high
    shown = f"{total.estimate:.4g} [{total.ci_low:.4g}, {total.ci_high:.4g}]"
    return judged(
        "calibrated_prior",
        passed=nearest > 0,
        severity="WARN",
        value=nearest,
        threshold=0.0,
        shown=f"total {shown} under the calibrated prior",
        against="the finding hangs on the published prior, whose intervals are too short",
    )


def _estimates(impact: ImpactResult, step: str) -> tuple[StudyEstimate, ...]:
    """Total, average, relative: their intervals exclude 0 together, so they share the p-value."""

    def estimate(name: str, found: EffectInterval, unit: str | None = None) -> StudyEstimate:
        return StudyEstimate(
            name=name,
            method="structural time series, predictive paths",
            estimate=found.estimate,
            std_error=found.std_error,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            confidence_level=impact.confidence_level,
            p_value=impact.p_value,
            unit=unit,
        )

    rows = [
        estimate("total effect", impact.total),
        estimate(f"average effect per {step}", impact.average),
    ]
    if impact.relative is not None:
        unit = "relative to the counterfactual"
        rows.append(estimate("relative effect", impact.relative, unit))
    return tuple(rows)


def _money(impact: ImpactResult, economics: EconomicsSpec | None) -> Iterator[StudyEstimate]:
    """Profit and return from the same draws as the total, which is then revenue."""
    if economics is None:
        return
    found = estimate_economics(
        impact.total.estimate,
        impact.total_draws,
        alpha=1 - impact.confidence_level,
        margin_rate=economics.margin_rate,
        campaign_spend=economics.campaign_spend,
        incremental_cost=economics.incremental_cost,
    )
    margin, costs = economics.margin_rate, found.total_costs
    amounts = (
        ("gross profit", f"{margin:g} of the total", found.profit_gross, None),
        ("net profit", f"gross profit less costs of {costs:,.2f}", found.profit_net, None),
        ("return on investment", f"net profit over costs of {costs:,.2f}", found.roi_net, "ratio"),
    )
    for name, method, amount, unit in amounts:
        if amount is None:  # without costs there is no return on them
            continue
        yield StudyEstimate(
            name=name,
            method=method,
            estimate=amount.estimate,
            ci_low=amount.ci_low,
            ci_high=amount.ci_high,
            confidence_level=impact.confidence_level,
            unit=unit,
        )


def _facts(series: SeriesData, spec: TimeSeriesSpec) -> tuple[tuple[str, str], ...]:
    frequency = spec.series.frequency
    step, length = STEP[frequency], DAYS[frequency]
    n_post, wanted = len(series.dates) - series.n_pre, _n_days(spec) // length
    seen = plural(n_post, step) if n_post == wanted else f"{n_post} of {plural(wanted, step)}"
    before, after = spec.pre, spec.post
    rows = [
        ("Treated", series.treated),
        ("Counterfactual from", series.controls),
        ("Series", f"{series.name}, {frequency}"),
        ("Before", f"{day(before.start)} to {day(before.end)}, {plural(series.n_pre, step)}"),
        ("After", f"{day(after.start)} to {day(after.end)}, {seen}"),
    ]
    n_missing = int(np.isnan(series.observed).sum())
    if n_missing:
        rows.append(("Missing values", count(n_missing)))
    return (*rows, ("Alpha", numbers.alpha(spec.design.alpha)))


def _n_days(spec: TimeSeriesSpec) -> int:
    return (spec.post.end - spec.post.start).days + 1


def _model_facts(series: SeriesData, impact: ImpactResult) -> tuple[tuple[str, str], ...]:
    dropped = [series.covariate_names[k] for k in impact.dropped_covariates]
    rows = [("Season", "modelled" if impact.is_seasonal else "none")]
    if dropped:
        rows.append(("Left out, constant before", ", ".join(dropped)))
    return (*rows, ("Draws", count(impact.n_draws)))


def _picture(series: SeriesData, spec: TimeSeriesSpec, impact: ImpactResult) -> Picture:
    points = impact_points(series, impact)

    def draw(width: int) -> str:
        return impact_chart(
            points,
            spec.post.start,
            title=f"{series.name}: observed against counterfactual",
            unit=series.display_unit,
            confidence_level=impact.confidence_level,
            width=width,
        )

    caption = (
        "The dashed line marks the first day after. Before it the counterfactual is a prediction "
        "one step ahead, after it a forecast that has not seen the series."
    )
    return Picture(name="impact", caption=caption, draw=draw)
