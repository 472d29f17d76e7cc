"""Impact of one intervention on its series: from the published series to study and result tables.

Nothing here is randomised: the difference is called an effect only where its refutations allow it
(`interventions.study`).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from experiments_dagster import __version__
from experiments_dagster.causal.series.records import EffectInterval, ImpactResult, PlaceboResult
from experiments_dagster.config.project import Intervention
from experiments_dagster.config.study_data import SeriesFile
from experiments_dagster.frames.series import DailySeries, time_series_spec
from experiments_dagster.interventions.claim_tables import (
    refuse_older_frame,
    version_of,
    write_claim_tables,
)
from experiments_dagster.interventions.designs.time_series import fit_time_series, study_of_fit
from experiments_dagster.interventions.series_data import FloatArray, SeriesData
from experiments_dagster.interventions.study import Study, study_document
from experiments_dagster.reporting.numbers import plural
from experiments_dagster.storage.atomic import (
    canonical_json,
    staged,
    write_bytes,
)
from experiments_dagster.storage.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionResult:
    """Everything estimated for one intervention.

    `starts` are the first days of the periods, pre and post; `observed` is NaN where missing.
    `impact` is None with `reason` (a code of `stats.errors.REASONS`) where it is not estimable,
    such as before the post period; `placebo` is None with `placebo_reason` where there is none.
    `study` says the same as every design does, with its refutations and the claim.
    """

    intervention: Intervention
    cutoff: int
    version: str
    n_treated: int | None
    inputs: dict[str, str]
    starts: tuple[dt.date, ...]
    observed: tuple[float, ...]
    impact: ImpactResult | None
    reason: str | None
    placebo: PlaceboResult | None
    placebo_reason: str | None
    study: Study


class _Named(Protocol):
    @property
    def slug(self) -> str: ...


class SeriesRows(Protocol):
    """What the result table reads besides the estimate."""

    @property
    def intervention(self) -> _Named:
        """What happened."""

    @property
    def starts(self) -> Sequence[dt.date]:
        """First day of each period."""

    @property
    def observed(self) -> Sequence[float]:
        """The outcome of each period."""


def estimate_intervention(intervention: Intervention, series: DailySeries) -> InterventionResult:
    """Estimate what the treated series would have been, and try to refute the difference.

    Raises:
        TypeError: The intervention has another design than a time series.
        ValueError: The configuration was edited since the series was built.
    """
    spec, info = time_series_spec(intervention), series.info
    refuse_older_frame(intervention, info.config_hash)
    data = series_data(intervention, series)
    fit = fit_time_series(data, spec)
    return InterventionResult(
        intervention=intervention,
        cutoff=info.cutoff,
        version=version_of(info.cutoff, info.sha256, intervention),
        n_treated=info.n_treated,
        inputs=info.inputs,
        starts=data.dates,
        observed=tuple(float(value) for value in data.observed),
        impact=fit.impact,
        reason=fit.error.code if fit.error else None,
        placebo=fit.placebo,
        placebo_reason=fit.placebo_reason,
        study=study_of_fit(data, spec, fit),
    )


def series_data(intervention: Intervention, series: DailySeries) -> SeriesData:
    """The periods of a published series as arrays; every other column is a covariate."""
    spec = time_series_spec(intervention)
    periods = series.periods(intervention)
    names = series.covariates
    source = spec.series
    if isinstance(source, SeriesFile):
        name, treated = source.outcome, f"{source.outcome} in {source.file}"
        controls = ", ".join(names) or "no covariate: its own level and season"
    else:
        group = source.treated
        named = f" ({', '.join(group.variants)})" if group.variants else ""
        name = source.metric
        treated = (
            f"{plural(series.info.n_treated or 0, 'unit')} listed as {group.experiment}{named}"
        )
        controls = "the total of all other units"
    metric = intervention.metric
    return SeriesData(
        name=name,
        dates=tuple(periods["period_start"].to_list()),
        observed=_floats(periods, ("treated",))[:, 0],
        covariates=_floats(periods, names),
        covariate_names=names,
        n_pre=int((periods["period_start"] <= spec.pre.end).sum()),
        treated=treated,
        controls=controls,
        display_unit=metric.display_unit if metric else None,
    )


def impact_series(result: SeriesRows, impact: ImpactResult) -> pl.DataFrame:
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
    ).with_columns(pl.col("y").fill_nan(None))
    return rows.join(post, on="step", how="left").sort("step").drop("step")


def summary(result: InterventionResult) -> dict[str, Any]:
    """The numbers of the result as plain data, ready for JSON."""
    impact, placebo, claim = result.impact, result.placebo, result.study.claim
    document: dict[str, Any] = {
        "intervention": result.intervention.slug,
        "method": "structural_time_series",
        "status": "not_estimable" if impact is None else "ok",
        "reason": result.reason,
        "claim": {"status": claim.status, "clauses": list(claim.clauses)},
        "refutations": _refutations(result.study),
        "cutoff": result.cutoff,
        "version": result.version,
        "inputs": result.inputs,
        "config_hash": result.intervention.config_hash,
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
        "warnings": list(result.study.warnings),
    }


def write_impact(layout: Layout, result: InterventionResult) -> dict[str, Any]:
    """Write the result tables and return the summary."""
    slug, document = result.intervention.slug, summary(result)
    version = result.version
    if result.impact is not None:
        target = layout.results("impact_series", slug) / f"{version}.parquet"
        series = impact_series(result, result.impact).with_columns(
            pl.lit(result.cutoff).alias("cutoff"), pl.lit(version).alias("version")
        )
        with staged(target, layout.staging) as temporary:
            series.write_parquet(temporary, compression="zstd")
    study = study_document(result.study)
    write_claim_tables(layout, slug, study, cutoff=result.cutoff, version=version)
    folder = layout.results("impact", slug)
    write_bytes(folder / f"{version}.json", canonical_json(document))
    write_bytes(folder / "current.json", canonical_json(document))
    return document


def read_summary(layout: Layout, slug: str) -> dict[str, Any] | None:
    """The newest summary of an intervention, or None."""
    path = layout.results("impact", slug) / "current.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _refutations(study: Study) -> list[dict[str, Any]]:
    """One entry per refutation; `passed` is None where it could not be run."""
    ran = [
        {
            "name": check.name,
            "passed": check.passed,
            "severity": check.severity,
            "value": check.value,
            "threshold": check.threshold,
            "message": check.message,
        }
        for check in study.refutations
    ]
    absent = [
        {
            "name": item.name,
            "passed": None,
            "severity": "WARN" if item.needed else None,
            "value": None,
            "threshold": None,
            "message": f"not run: {item.reason}",
        }
        for item in study.skipped
    ]
    return ran + absent


def _interval(interval: EffectInterval) -> dict[str, float]:
    return {
        "estimate": interval.estimate,
        "std_error": interval.std_error,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
    }


def _floats(periods: pl.DataFrame, names: tuple[str, ...]) -> FloatArray:
    """Columns side by side, shape (n, p); what is missing is NaN."""
    columns = [periods[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names]
    return np.column_stack(columns) if columns else np.empty((periods.height, 0))
