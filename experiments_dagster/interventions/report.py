"""Picture and report of one intervention."""

from __future__ import annotations

from pathlib import Path

from experiments_dagster import __version__
from experiments_dagster.interventions.estimate import InterventionResult
from experiments_dagster.reporting.charts import impact_chart
from experiments_dagster.reporting.intervention_report import (
    InterventionRecord,
    impact_points,
    render_intervention_report,
)
from experiments_dagster.storage.atomic import write_bytes
from experiments_dagster.storage.layout import Layout


def intervention_record(result: InterventionResult) -> InterventionRecord:
    """What the report reads."""
    spec = result.intervention.spec
    treated = spec.series.treated
    named = f" ({', '.join(treated.variants)})" if treated.variants else ""
    return InterventionRecord(
        slug=result.intervention.slug,
        spec=spec,
        dates=result.starts,
        observed=result.observed,
        result=result.impact,
        reason=result.reason,
        placebo=result.placebo,
        placebo_reason=result.placebo_reason,
        treated=f"{result.n_treated:,} units listed as {treated.experiment}{named}",
        controls="the total of all other units",
        display_unit=result.intervention.metric.display_unit,
        cutoff=result.cutoff,
        code_version=__version__,
        inputs=result.inputs,
    )


def impact_svg(result: InterventionResult) -> str | None:
    """Observed against counterfactual, pointwise and cumulative; None if not estimable."""
    spec = result.intervention.spec
    if result.impact is None:
        return None
    return impact_chart(
        impact_points(intervention_record(result)),
        spec.post.start,
        title=spec.description,
        unit=result.intervention.metric.display_unit,
        confidence_level=result.impact.confidence_level,
    )


def publish_intervention_report(layout: Layout, result: InterventionResult) -> Path:
    """Write the HTML report."""
    path = layout.reports(result.intervention.slug) / "report.html"
    write_bytes(path, render_intervention_report(intervention_record(result)).encode())
    return path
