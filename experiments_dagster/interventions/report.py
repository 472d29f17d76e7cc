"""The report of one intervention."""

from __future__ import annotations

from pathlib import Path

from experiments_dagster import __version__
from experiments_dagster.interventions.estimate import InterventionResult
from experiments_dagster.reporting.study_report import StudyRecord, render_study_report
from experiments_dagster.storage.atomic import write_bytes
from experiments_dagster.storage.layout import Layout


def study_record(result: InterventionResult) -> StudyRecord:
    """What the report reads."""
    intervention = result.intervention
    metric = intervention.metric
    slug = intervention.slug
    return StudyRecord(
        slug=slug,
        description=intervention.spec.description,
        owner=intervention.spec.owner,
        study=result.study,
        cutoff=result.cutoff,
        code_version=__version__,
        config_hash=intervention.config_hash,
        inputs=result.inputs,
        reproduce=f"experiments report {slug}",
        display_unit=metric.display_unit if metric else None,
        tables_at=f"results/impact_series/{slug}",
    )


def publish_intervention_report(layout: Layout, result: InterventionResult) -> Path:
    """Write the HTML report."""
    path = layout.reports(result.intervention.slug) / "report.html"
    write_bytes(path, render_study_report(study_record(result)).encode())
    return path
