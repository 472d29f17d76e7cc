"""`impact` and `causal-impact` from file to outcome.

`impact` writes its keys of old flat into results.json and its tables beside it;
`causal-impact` is a bundle like that of the other commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments_dagster.causal.series.economics import (
    Amount,
    Economics,
    campaign_spend,
    estimate_economics,
)
from experiments_dagster.causal.series.records import EffectInterval
from experiments_dagster.causal.series.series_effect import SeriesEffect
from experiments_dagster.cli.impact import plots
from experiments_dagster.cli.impact.methods import SeriesTask, estimate
from experiments_dagster.cli.impact.refutation import (
    DROPPED_COLUMNS,
    LEFT_OUT_COLUMNS,
    Placebos,
    Sensitivity,
    claim,
    gate_warnings,
    run_placebos,
    run_sensitivity,
)
from experiments_dagster.cli.impact.request import ImpactRequest
from experiments_dagster.cli.impact.series_file import RegularSeries, read_series
from experiments_dagster.cli.output import Sheet
from experiments_dagster.cli.user_level.audit import make_audit
from experiments_dagster.cli.user_level.bundle import Document, Outcome, Table
from experiments_dagster.reporting.numbers import interval, lift, optional, p_value, signed

EFFECT_COLUMNS = (
    *("date", "y", "y_hat", "effect", "y_hat_lower", "y_hat_upper", "effect_lower"),
    *("effect_upper", "cum_effect", "cum_lower", "cum_upper"),
)
BUNDLE_COLUMNS = ("date", "y", "y_cf", "point_effect", "cum_effect", "is_post")
PLACEBO_COLUMNS = ("placebo_date", "cum_effect")
SCHEMA = "timeseries_causal_impact"

RIDGE_NOTES = {
    "causal_impact_like": (
        "not used: columns are standardised before the intervention and their coefficients "
        "averaged over ridge penalties by their evidence"
    ),
    "synthetic_control": "not used: donor weights are not below 0 and sum to 1",
    "did": "not used: one scaled control by least squares",
}
METHOD_NOTES = {
    "causal_impact_like": "structural time series with its predictive interval, not a ridge "
    "regression with a bootstrap of its own residuals",
    "synthetic_control": "donor weights of its own, not the regression of causal_impact_like; "
    "the columns of --x are the donors",
    "did": "the control is the mean of the standardised columns, scaled to the outcome; it was "
    "the first column as it is",
}
CUM_NOTE = "quantiles of summed paths; the last row is cum_ci. They were sums of daily quantiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactOutcome(Outcome):
    """The outcome of `impact`: results.json has its keys of old at the top."""

    results: Document = field(default_factory=dict)

    def document(self, artifacts: Document) -> Document:
        """The content of results.json."""
        return {
            "command": self.command,
            **self.results,
            "warnings": list(self.warnings),
            "diagnostics": self.diagnostics,
            "inputs": self.inputs,
            "artifacts": artifacts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Analysis:
    """Everything that was estimated for a request."""

    request: ImpactRequest
    series: RegularSeries
    effect: SeriesEffect
    placebo: Placebos | None
    sensitivity: Sensitivity | None
    claim: Document
    warnings: Sequence[str]


def analyse_impact(request: ImpactRequest) -> Outcome:
    """Estimate the request of `impact`.

    Raises:
        ValueError: A flag or the file makes no sense.
        EstimationError: The data cannot give an effect.
    """
    request.check()
    series, _ = read_series(request)
    if request.has_money and request.aggregation == "mean" and series.is_aggregated:
        msg = "--aggregation mean: money needs totals of each period; use --aggregation sum"
        raise ValueError(msg)
    analysis = _analyse(request, series)
    money = _money(analysis) if request.has_money else None
    notes = _impact_notes(request)
    sheets = [_sheet(analysis)]
    texts = {"effect_series.csv": effect_table(series, analysis.effect).csv()}
    if analysis.placebo is not None:
        table = Table(columns=PLACEBO_COLUMNS, rows=analysis.placebo.rows)
        texts["placebo_results.csv"] = table.csv()
    if money is not None:
        texts["economics.json"] = json.dumps(money, indent=2, allow_nan=False) + "\n"
        sheets.append(_money_sheet(money))
    if analysis.sensitivity is not None:
        found = analysis.sensitivity
        for name, columns, rows in (
            ("sensitivity_leave_one_out.csv", LEFT_OUT_COLUMNS, found.left_out),
            ("sensitivity_drop_last_pre.csv", DROPPED_COLUMNS, found.dropped_last),
        ):
            texts[name] = Table(columns=columns, rows=rows).csv()
    return ImpactOutcome(
        command="impact",
        inputs=_inputs(request),
        estimates={"compat_note": notes},
        results={
            "method": request.method,
            "intervention_date": request.intervention.isoformat(),
            **_numbers(analysis.effect),
            "claim": analysis.claim,
            "economics": money,
            "placebo": analysis.placebo.document() if analysis.placebo else None,
            "sensitivity": analysis.sensitivity.document() if analysis.sensitivity else None,
            "compat_note": notes,
        },
        diagnostics=_diagnostics(analysis),
        warnings=analysis.warnings,
        plots=plots.drawings(series, analysis.effect, request),
        texts=texts,
        sheets=sheets,
    )


def analyse_causal_impact(request: ImpactRequest, *, has_audit: bool) -> Outcome:
    """Estimate the request of `causal-impact`.

    Raises:
        ValueError: A flag or the file makes no sense.
        EstimationError: The data cannot give an effect.
    """
    request.check()
    series, table = read_series(request)
    analysis = _analyse(request, series)
    notes = {
        "method": METHOD_NOTES[request.method],
        "bootstrap_iters": _paths_note(request),
        "cum_ci": "quantiles of summed paths of the posterior predictive distribution",
    }
    tables = {"effect_series": bundle_table(series, analysis.effect)}
    placebo = None
    if analysis.placebo is not None:
        placebo = analysis.placebo.document()
        tables["placebo_results"] = Table(columns=PLACEBO_COLUMNS, rows=analysis.placebo.rows)
    audit = make_audit(table, SCHEMA, "causal-impact") if has_audit else None
    return Outcome(
        command="causal-impact",
        inputs=_inputs(request),
        estimates={
            "intervention_date": request.intervention.isoformat(),
            **_numbers(analysis.effect),
            "claim": analysis.claim,
            "placebo": placebo,
            "compat_note": notes,
        },
        diagnostics=_diagnostics(analysis),
        warnings=analysis.warnings,
        tables=tables,
        plots=plots.drawings(series, analysis.effect, request),
        sheets=[_sheet(analysis)],
        audit=audit,
    )


def effect_table(series: RegularSeries, effect: SeriesEffect) -> Table:
    """A row per period; effects are empty before the intervention."""
    n_pre = effect.n_pre
    rows: list[Document] = []
    after = zip(
        *(effect.effect.tolist(), effect.effect_low.tolist(), effect.effect_high.tolist()),
        effect.cumulative.tolist(),
        *(effect.cumulative_low.tolist(), effect.cumulative_high.tolist()),
        strict=True,
    )
    names = ("effect", "effect_lower", "effect_upper", "cum_effect", "cum_lower", "cum_upper")
    empty: Document = dict.fromkeys(names)
    blocks = [empty] * n_pre + [dict(zip(names, values, strict=True)) for values in after]
    for k, block in enumerate(blocks):
        rows.append(
            {
                "date": series.dates[k].isoformat(),
                "y": float(series.y[k]),
                "y_hat": float(effect.expected[k]),
                "y_hat_lower": float(effect.expected_low[k]),
                "y_hat_upper": float(effect.expected_high[k]),
                **block,
            }
        )
    return Table(columns=EFFECT_COLUMNS, rows=rows)


def bundle_table(series: RegularSeries, effect: SeriesEffect) -> Table:
    """The same under the names of `causal-impact`."""
    rows = [
        {
            "date": row["date"],
            "y": row["y"],
            "y_cf": row["y_hat"],
            "point_effect": row["effect"],
            "cum_effect": row["cum_effect"],
            "is_post": k >= effect.n_pre,
        }
        for k, row in enumerate(effect_table(series, effect).rows)
    ]
    return Table(columns=BUNDLE_COLUMNS, rows=rows)


def _analyse(request: ImpactRequest, series: RegularSeries) -> _Analysis:
    task = SeriesTask.of(request, series)
    effect = estimate(task)
    placebo = run_placebos(task, series) if request.n_placebos else None
    sensitivity = run_sensitivity(task, effect) if request.run_sensitivity else None
    gates = gate_warnings(
        r2_pre=effect.fit.r2, max_abs_acf=float(np.abs(np.array(effect.fit.acf)).max())
    )
    judged = claim(
        effect, gates=gates, placebo=placebo, sensitivity=sensitivity, alpha=request.alpha
    )
    warnings = [*series.warnings, *effect.warnings, *gates]
    if request.spend_col in request.x:
        warnings.append(
            f"--x {request.spend_col}: the campaign moves this column; what it explains is "
            "missing from the effect"
        )
    if placebo is not None:
        warnings += placebo.result.warnings if placebo.result else [str(placebo.reason)]
        if placebo.has_alarm:
            warnings.append("bias alarm: all placebo effects have one sign; no claim is made")
    if sensitivity is not None:
        warnings += [f"sensitivity: {what}" for what in sensitivity.large_changes]
    return _Analysis(
        request=request,
        series=series,
        effect=effect,
        placebo=placebo,
        sensitivity=sensitivity,
        claim=judged,
        warnings=warnings,
    )


def _numbers(effect: SeriesEffect) -> Document:
    def both(found: EffectInterval) -> list[float]:
        return [found.ci_low, found.ci_high]

    relative = effect.relative
    return {
        "point_effect": effect.average.estimate,
        "point_ci": both(effect.average),
        "cum_effect": effect.total.estimate,
        "cum_ci": both(effect.total),
        "rel_effect": relative.estimate if relative else None,
        "rel_ci": both(relative) if relative else None,
        "rel_reason": effect.relative_reason,
        "p_value": effect.p_value,
    }


def _diagnostics(analysis: _Analysis) -> Document:
    effect, series = analysis.effect, analysis.series
    fit = effect.fit
    return {
        "r2_pre": fit.r2,
        "rmse_pre": fit.rmse,
        **{f"acf_lag{k}": value for k, value in enumerate(fit.acf, start=1)},
        "max_abs_acf_1_to_7": max(abs(value) for value in fit.acf),
        "interval": effect.interval,
        "confidence_level": 1 - analysis.request.alpha,
        "n_paths": len(effect.total_draws),
        "n_pre": series.n_pre,
        "n_post": series.n_post,
        "first_date": series.dates[0].isoformat(),
        "last_date": series.dates[-1].isoformat(),
        "n_filled": series.n_filled,
        **effect.extra,
    }


def _inputs(request: ImpactRequest) -> Document:
    return {
        "input": str(request.path),
        "date_col": request.date_col,
        "y": request.y,
        "x": list(request.x),
        "intervention": request.intervention.isoformat(),
        "method": request.method,
        "freq": request.freq,
        "missing_policy": request.missing_policy,
        "aggregation": request.aggregation,
        "alpha": request.alpha,
        "seed": request.seed,
        "pre_period_min_points": request.floor,
    }


def _impact_notes(request: ImpactRequest) -> Document:
    notes = {
        "method": METHOD_NOTES[request.method],
        "ridge_alpha": RIDGE_NOTES[request.method],
        "bootstrap": _paths_note(request),
        "block_size": "not used: nothing is resampled, serial correlation is in the model",
        "cum_lower, cum_upper": CUM_NOTE,
    }
    if request.n_placebos:
        notes["placebo.p_value"] = "(1 + k) / (1 + n), never 0; it was k / n"
    if request.spend_col is not None and request.spend_basis == "incremental":
        notes["economics.campaign_spend"] = (
            "spend after the intervention less that of as many average periods before it; "
            "--spend-basis total is the number of old"
        )
    return notes


def _paths_note(request: ImpactRequest) -> str:
    return (
        f"{request.n_paths} paths are drawn, and never fewer than 2000; residuals of the fit are "
        "not resampled"
    )


def _money(analysis: _Analysis) -> Document:
    request, series, effect = analysis.request, analysis.series, analysis.effect
    spent: dict[str, float | None] = {"incremental": None, "total": None}
    if series.spend is not None:
        spent = {
            "incremental": campaign_spend(series.spend, series.n_pre, "incremental"),
            "total": campaign_spend(series.spend, series.n_pre, "total"),
        }
    found = estimate_economics(
        effect.total.estimate,
        effect.total_draws,
        alpha=request.alpha,
        margin_rate=request.margin_rate,
        campaign_spend=spent[request.spend_basis] or 0.0,
        incremental_cost=request.incremental_cost or 0.0,
    )
    document = _economics_document(found)
    return document | {
        "spend_basis": request.spend_basis,
        "campaign_spend_incremental": spent["incremental"],
        "campaign_spend_total": spent["total"],
    }


def _economics_document(found: Economics) -> Document:
    def pair(name: str, amount: Amount | None) -> Document:
        limits = None if amount is None else [amount.ci_low, amount.ci_high]
        return {name: amount.estimate if amount else None, f"{name}_ci": limits}

    return {
        **pair("incremental_revenue", found.revenue),
        "margin_rate": found.margin_rate,
        **pair("incremental_profit_gross", found.profit_gross),
        "campaign_spend": found.campaign_spend,
        "incremental_cost": found.incremental_cost,
        "total_costs": found.total_costs,
        **pair("incremental_profit_net", found.profit_net),
        "profit_reason": found.profit_reason,
        **pair("roi_net", found.roi_net),
        "roi_reason": found.roi_reason,
    }


def _sheet(analysis: _Analysis) -> Sheet:
    request, effect, series = analysis.request, analysis.effect, analysis.series
    relative = effect.relative
    rows = [
        (
            "per period",
            signed(effect.average.estimate),
            interval(effect.average.ci_low, effect.average.ci_high, signed) or "–",
            p_value(effect.p_value),
        ),
        (
            f"sum of {series.n_post} periods",
            signed(effect.total.estimate),
            interval(effect.total.ci_low, effect.total.ci_high, signed) or "–",
            p_value(effect.p_value),
        ),
        (
            "relative",
            optional(relative.estimate if relative else None, lift, effect.relative_reason),
            (interval(relative.ci_low, relative.ci_high, lift) if relative else None) or "–",
            p_value(effect.p_value),
        ),
    ]
    notes = [f"{effect.interval}; {series.n_pre} periods before"]
    placebo = analysis.placebo.result if analysis.placebo else None
    if placebo is not None:
        notes.append(f"placebo in time: p {placebo.p_value:.3g} of {len(placebo.effects)}")
    reasons = analysis.claim["reasons"]
    because = f": {'; '.join(reasons)}" if reasons else ""
    notes.append(f"claim {analysis.claim['status']}{because}")
    return Sheet(
        title=f"{request.y} from {request.intervention} on, {request.method}",
        columns=("difference", "estimate", f"{100 * (1 - request.alpha):g} %", "p"),
        rows=rows,
        align="lrrr",
        notes=notes,
    )


def _money_sheet(money: Mapping[str, Any]) -> Sheet:
    names = ("incremental_revenue", "incremental_profit_gross", "incremental_profit_net", "roi_net")
    rows = []
    for name in names:
        reason = money["roi_reason"] if name == "roi_net" else money["profit_reason"]
        low, high = money[f"{name}_ci"] or (None, None)
        shown = optional(money[name], signed, reason)
        rows.append((name, shown, interval(low, high, signed) or "–"))
    return Sheet(
        title="money",
        columns=("", "estimate", "interval"),
        rows=rows,
        align="lrr",
        notes=[f"costs {money['total_costs']:,.2f}, spend basis {money['spend_basis']}"],
    )
