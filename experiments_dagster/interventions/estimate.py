"""Impact of one intervention: daily series to counterfactual, placebos and result tables.

The controls enter as a covariate. Nothing here is randomised: the difference is called an
effect only by a reader who accepts the assumptions that the report states.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster import __version__
from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.causal.series.records import EffectInterval, ImpactResult, PlaceboResult
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.frames.series import DailySeries
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.storage.atomic import canonical_json, staged, write_bytes
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

MIN_PRE_POINTS = {"daily": 30, "weekly": 20}
SEASON = {"daily": 7, "weekly": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionResult:
    """Everything estimated for one intervention.

    `starts` are the first days of the periods, pre and post. `impact` is None with `reason` (a
    code of `stats.errors.REASONS`) where it is not estimable, such as before the post period;
    `placebo` is None with `placebo_reason` where too few positions fit.
    """

    intervention: Intervention
    cutoff: int
    n_treated: int
    inputs: dict[str, str]
    starts: tuple[dt.date, ...]
    observed: tuple[float, ...]
    impact: ImpactResult | None
    reason: str | None
    placebo: PlaceboResult | None
    placebo_reason: str | None


def estimate_intervention(intervention: Intervention, series: DailySeries) -> InterventionResult:
    """Estimate what the treated series would have been, with the others as covariate."""
    spec = intervention.spec
    periods = series.periods(intervention)
    is_pre = periods["period_start"] <= spec.pre.end
    n_pre = int(is_pre.sum())
    observed = periods["treated"].to_numpy()
    covariates = periods["others"].to_numpy()[:, np.newaxis]
    frequency = spec.series.frequency
    impact, reason, placebo, placebo_reason = None, None, None, None
    try:
        impact = estimate_impact(
            observed,
            covariates,
            n_pre,
            season=SEASON[frequency],
            min_pre_points=MIN_PRE_POINTS[frequency],
            n_draws=spec.design.draws,
            seed=spec.design.seed,
            alpha=spec.design.alpha,
        )
    except EstimationError as error:
        reason, placebo_reason = error.code, str(error)
    if impact is not None and spec.design.placebos:
        try:
            placebo = placebo_in_time(
                observed,
                covariates,
                n_pre,
                season=SEASON[frequency],
                min_pre_points=MIN_PRE_POINTS[frequency],
                n_placebos=spec.design.placebos,
                min_placebos=1,
            )
        except EstimationError as error:
            placebo_reason = str(error)
    return InterventionResult(
        intervention=intervention,
        cutoff=series.info.cutoff,
        n_treated=series.info.n_treated,
        inputs=series.info.inputs,
        starts=tuple(periods["period_start"].to_list()),
        observed=tuple(float(value) for value in observed),
        impact=impact,
        reason=reason,
        placebo=placebo,
        placebo_reason=placebo_reason,
    )


def due_interventions(project: Project, manifest: Manifest) -> list[str]:
    """Interventions that were not estimated yet on all that has landed."""
    due = []
    for slug in project.interventions:
        done = read_summary(manifest.layout, slug)
        if manifest.head and (done is None or done["cutoff"] != manifest.head):
            due.append(slug)
    return due


def impact_series(result: InterventionResult, impact: ImpactResult) -> pl.DataFrame:
    """One row per period: date, y, y_hat, effect and cumulative effect with their limits.

    Cumulative limits are quantiles of summed paths, not sums of pointwise quantiles.
    """
    post = pl.DataFrame(
        {
            "step": impact.effect_steps,
            "effect": impact.effect,
            "effect_lower": impact.effect_low,
            "effect_upper": impact.effect_high,
            "cum_effect": impact.cumulative,
            "cum_lower": impact.cumulative_low,
            "cum_upper": impact.cumulative_high,
        }
    ).with_columns(pl.col("step").cast(pl.Int64))
    rows = pl.DataFrame(
        {
            "intervention": result.intervention.slug,
            "step": np.arange(len(result.starts), dtype=np.int64),
            "date": list(result.starts),
            "y": list(result.observed),
            "y_hat": impact.counterfactual,
            "y_hat_lower": impact.counterfactual_low,
            "y_hat_upper": impact.counterfactual_high,
        }
    )
    return rows.join(post, on="step", how="left").sort("step").drop("step")


def summary(result: InterventionResult) -> dict[str, Any]:
    """The numbers of the result as plain data, ready for JSON."""
    impact, placebo = result.impact, result.placebo
    document: dict[str, Any] = {
        "intervention": result.intervention.slug,
        "method": "structural_time_series",
        "status": "not_estimable" if impact is None else "ok",
        "reason": result.reason,
        "cutoff": result.cutoff,
        "code_version": __version__,
        "n_treated": result.n_treated,
        "placebo_p_value": placebo.p_value if placebo else None,
        "n_placebos": len(placebo.effects) if placebo else 0,
        "placebos_lean_one_way": placebo.is_one_sided if placebo else None,
        "placebo_reason": result.placebo_reason,
    }
    if impact is None:
        return document | {"total": None, "average": None, "p_value": None, "warnings": []}
    return document | {
        "noise_model": impact.noise_model,
        "n_pre": impact.n_pre,
        "n_post": impact.n_post,
        "confidence_level": impact.confidence_level,
        "total": _interval(impact.total),
        "average": _interval(impact.average),
        "relative": _interval(impact.relative) if impact.relative else None,
        "relative_reason": impact.relative_reason,
        "p_value": impact.p_value,
        "mape_pre": impact.diagnostics.mape_pre,
        "max_abs_acf": impact.diagnostics.max_abs_acf,
        "warnings": list(impact.warnings) + list(placebo.warnings if placebo else ()),
    }


def write_impact(layout: Layout, result: InterventionResult) -> dict[str, Any]:
    """Write the result tables and return the summary."""
    slug, document = result.intervention.slug, summary(result)
    if result.impact is not None:
        target = layout.results("impact_series", slug) / f"{result.cutoff:06d}.parquet"
        series = impact_series(result, result.impact)
        with staged(target, layout.staging) as temporary:
            series.with_columns(pl.lit(result.cutoff).alias("cutoff")).write_parquet(
                temporary, compression="zstd"
            )
    write_bytes(layout.results("impact", slug) / "current.json", canonical_json(document))
    return document


def read_summary(layout: Layout, slug: str) -> dict[str, Any] | None:
    """The newest summary of an intervention, or None."""
    path = layout.results("impact", slug) / "current.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _interval(interval: EffectInterval) -> dict[str, float]:
    return {
        "estimate": interval.estimate,
        "std_error": interval.std_error,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
    }
