"""After a look: tables, verdicts, report. What a look saw stands in the ledger already."""

from __future__ import annotations

from pathlib import Path

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.tables import table_file, write_results, write_verdicts
from experiments_dagster.looks.take import recorded_looks
from experiments_dagster.reporting.experiment_report import render_experiment_report
from experiments_dagster.storage.atomic import canonical_json, write_bytes
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger


def publish_results(ledger: Ledger, look: Look) -> None:
    """Write the result tables of all recorded looks, and keep a peek beside them.

    Earlier looks are written only where a run that died after recording left them out.
    """
    if look.look is None:
        path = ledger.layout.results("peeks", look.experiment) / "current.json"
        write_bytes(path, canonical_json(look.model_dump(mode="json")))
    ledger.write_twin()
    for recorded, head in zip(recorded_looks(ledger), ledger.heads, strict=True):
        if not table_file(ledger.layout, "effect_estimates", recorded).exists():
            write_results(ledger.layout, recorded, head)


def publish_verdict(ledger: Ledger) -> None:
    """Publish the verdicts of all recorded looks unless a failed check forbids it."""
    for recorded, head in zip(recorded_looks(ledger), ledger.heads, strict=True):
        write_verdicts(ledger.layout, recorded, head)


def publish_report(layout: Layout, experiment: Experiment, ledger: Ledger) -> Path | None:
    """Write the HTML report of all recorded looks; None before the first."""
    looks = recorded_looks(ledger)
    if not looks:
        return None
    path = report_path(layout, experiment.slug)
    write_bytes(path, render_experiment_report(experiment, looks).encode())
    return path


def report_path(layout: Layout, slug: str) -> Path:
    """Where the newest report of an experiment or intervention lies."""
    return layout.reports(slug) / "report.html"


def last_peek(layout: Layout, experiment: Experiment) -> Look | None:
    """The newest unplanned peek of the present phase, if there was one."""
    path = layout.results("peeks", experiment.slug) / "current.json"
    peek = Look.model_validate_json(path.read_bytes()) if path.exists() else None
    return peek if peek is not None and peek.phase == experiment.phase else None
