"""The study of a published frame: result tables, document, report; and which studies are due.

results/causal_effect/<slug>/current.json           the newest document
results/causal_effect/<slug>/<version>.json         every document there was
results/causal_estimates/<slug>/<version>.parquet   a row per estimate
results/causal_refutations/<slug>/<version>.parquet a row per refutation
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments_dagster import __version__
from experiments_dagster.config.intervention import PanelSpec, TimeSeriesSpec, UnitSpec
from experiments_dagster.config.project import Intervention, Project
from experiments_dagster.frames.series import read_daily_series
from experiments_dagster.frames.study_frames import StudyFrame, not_ready, read_study_frame
from experiments_dagster.frames.study_tables import describe_left_out
from experiments_dagster.interventions.claim_tables import (
    file_hashes,
    has_changed,
    refuse_older_frame,
    version_of,
    write_claim_tables,
)
from experiments_dagster.interventions.designs import study_of_panel, study_of_units
from experiments_dagster.interventions.estimate import estimate_intervention, read_summary
from experiments_dagster.interventions.report import publish_intervention_report
from experiments_dagster.interventions.study import Study, study_document
from experiments_dagster.interventions.study_data import panel_of, units_of
from experiments_dagster.reporting.study_report import StudyRecord, render_study_report
from experiments_dagster.storage.atomic import (
    canonical_json,
    write_bytes,
)
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

NAME = "causal_effect"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """A study with the intervention and the frame behind it."""

    intervention: Intervention
    frame: StudyFrame
    study: Study

    @property
    def config_hash(self) -> str:
        """Hash of the file in configs/interventions."""
        return self.intervention.config_hash

    @property
    def version(self) -> str:
        """Names these numbers."""
        info = self.frame.info
        return version_of(info.cutoff, info.sha256, self.intervention)


def run_study(intervention: Intervention, frame: StudyFrame) -> StudyResult:
    """Apply the design to its frame.

    Raises:
        TypeError: A time series, which has a frame of its own.
        ValueError: The configuration was edited since the frame was built.
    """
    spec, info = intervention.spec, frame.info
    refuse_older_frame(intervention, info.config_hash)
    if isinstance(spec, PanelSpec):
        panel = panel_of(frame.rows, has_units=info.has_units, outcome_name=info.outcome)
        study = study_of_panel(panel, spec.design)
    elif isinstance(spec, UnitSpec):
        units = units_of(frame.rows, outcome_name=info.outcome, n_left_out=info.left_out)
        study = study_of_units(units, spec.design)
    else:
        msg = f"{intervention.slug}: a time series has no study frame"
        raise TypeError(msg)
    return StudyResult(intervention=intervention, frame=frame, study=study)


def write_study(layout: Layout, result: StudyResult) -> dict[str, Any]:
    """Write tables and document, and return the document."""
    slug, version, study = result.intervention.slug, result.version, result.study
    head: dict[str, Any] = {
        "intervention": slug,
        "cutoff": result.frame.info.cutoff,
        "version": version,
        "code_version": __version__,
        "config_hash": result.config_hash,
        "frame": result.frame.info.sha256,
        "inputs": result.frame.info.inputs,
    }
    document = head | study_document(study)
    document["warnings"] += describe_left_out(result.frame.info.left_out)
    write_claim_tables(layout, slug, document, cutoff=head["cutoff"], version=version)
    folder = layout.results(NAME, slug)
    write_bytes(folder / f"{version}.json", canonical_json(document))
    write_bytes(folder / "current.json", canonical_json(document))
    return document


def publish_study_report(layout: Layout, result: StudyResult) -> Path:
    """Write the HTML report."""
    intervention, info = result.intervention, result.frame.info
    metric = intervention.metric
    record = StudyRecord(
        slug=intervention.slug,
        description=intervention.spec.description,
        owner=intervention.spec.owner,
        study=result.study,
        cutoff=info.cutoff if not intervention.files else None,
        code_version=__version__,
        config_hash=result.config_hash,
        inputs=info.inputs,
        reproduce=f"experiments report {intervention.slug}",
        display_unit=metric.display_unit if metric else None,
        tables_at=f"results/{NAME}/{intervention.slug}",
    )
    path = layout.reports(intervention.slug) / "report.html"
    write_bytes(path, render_study_report(record).encode())
    return path


def report_again(layout: Layout, intervention: Intervention) -> Path | None:
    """Write the report anew from the published frame, or None where there is no frame yet."""
    slug = intervention.slug
    try:
        if isinstance(intervention.spec, TimeSeriesSpec):
            series = read_daily_series(layout, slug)
            return publish_intervention_report(layout, estimate_intervention(intervention, series))
        return publish_study_report(layout, run_study(intervention, read_study_frame(layout, slug)))
    except FileNotFoundError:
        return None


def read_study(layout: Layout, slug: str) -> dict[str, Any] | None:
    """The newest document of a study, or None."""
    path = layout.results(NAME, slug) / "current.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def due_interventions(project: Project, manifest: Manifest) -> list[str]:
    """Interventions whose data, table or file has changed since, and that can be made.

    A time series is estimated as data arrive; a study waits for the last day that it reads. A
    table that is gone is the configuration's mistake, and named when it is loaded.
    """
    due = []
    for slug, intervention in project.interventions.items():
        is_series = isinstance(intervention.spec, TimeSeriesSpec)
        done = (read_summary if is_series else read_study)(manifest.layout, slug)
        if done is not None and not has_changed(intervention, manifest.head, done):
            continue
        if intervention.files:
            can_be_made = file_hashes(intervention) is not None
        else:
            can_be_made = bool(manifest.head) and (
                is_series or not_ready(project, manifest, intervention) is None
            )
        if can_be_made:
            due.append(slug)
    return due
