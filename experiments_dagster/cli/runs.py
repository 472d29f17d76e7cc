"""Runs in this process against the project's own Dagster instance, so that the UI shows them."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.automation.jobs import estimate_intervention
from experiments_dagster.automation.looks_run import (
    CONTRACT_CODE,
    CRASH_CODE,
    TROUBLES,
    Trouble,
)
from experiments_dagster.automation.on_check_failure import process_finished_runs
from experiments_dagster.automation.sensors import register_partitions
from experiments_dagster.config.project import Project
from experiments_dagster.definitions import build_definitions
from experiments_dagster.interventions.publish import due_interventions
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

INSTANCE_YAML = """\
telemetry: {enabled: false}
nux: {enabled: false}
retention:
  schedule: {purge_after_days: 90}
  sensor: {purge_after_days: {skipped: 7, failure: 30, success: -1}}
"""
# Dagster's event log stays in the instance instead of scrolling through the terminal.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def prepare_instance(layout: Layout) -> Path:
    """Make the instance's folder and settings if there are none, and return the folder."""
    home = layout.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(INSTANCE_YAML)
    return home


def open_instance(layout: Layout) -> dg.DagsterInstance:
    """The project's instance."""
    quieten()
    return dg.DagsterInstance.from_config(str(prepare_instance(layout)))


def quieten() -> None:
    """Keep Dagster's event log off the terminal; it stands in the instance."""
    for name in ("dagster", "dagster.builtin", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Runner:
    """Executes jobs of one project in this process and delivers what they alert about."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.layout = Layout(project.storage)
        self.instance = open_instance(self.layout)
        self.definitions = build_definitions(project.folder)
        register_partitions(self.instance, project)

    def take_looks(
        self,
        experiments: list[str] | None = None,
        *,
        as_of: dt.date | None = None,
        land: bool = False,
        batches: list[int] | None = None,
        draw: bool = True,
    ) -> list[Trouble]:
        """Run `nightly_looks`.

        Returns:
            What could not be done.
        """
        config = {
            "experiments": experiments or [],
            "as_of": str(as_of or ""),
            "land": land,
            "batches": batches or [],
            "draw": draw,
        }
        result = self.definitions.resolve_job_def("nightly_looks").execute_in_process(
            instance=self.instance,
            run_config={"ops": {"take_looks": {"config": config}}, **QUIET},
            tags={"as_of": str(as_of or "now")},
            raise_on_error=False,
        )
        return troubles_of(result, "run")

    def due_interventions(self) -> list[str]:
        """Interventions that have new data, or another file, since they were estimated."""
        return due_interventions(self.project, Manifest(self.layout).refresh())

    def estimate(self, intervention: str) -> list[Trouble]:
        """Run `estimate_intervention` for one intervention.

        Returns:
            What could not be done; a frame that broke its contract is one of them.
        """
        result = self.definitions.resolve_job_def(estimate_intervention.name).execute_in_process(
            instance=self.instance,
            partition_key=intervention,
            run_config=QUIET,
            raise_on_error=False,
        )
        return troubles_of(result, intervention) + _broken_contracts(result, intervention)

    def deliver_alerts(self) -> None:
        """Turn finished runs into alerts and try to deliver all that wait."""
        process_finished_runs(self.instance, Outbox(self.layout.outbox), self.project.channels)


def troubles_of(result: dg.ExecuteInProcessResult, subject: str) -> list[Trouble]:
    """What a run says it could not do, and its failure where it says nothing."""
    found: list[Trouble] = []
    for event in result.all_events:
        metadata: Mapping[str, Any] = {}
        if event.is_successful_output:
            metadata = event.step_output_data.metadata
        elif event.is_step_failure and event.step_failure_data.user_failure_data:
            metadata = event.step_failure_data.user_failure_data.metadata
        if TROUBLES in metadata:
            found += [Trouble(**item) for item in json.loads(str(metadata[TROUBLES].value))]
    if not result.success and not found:
        errors = [
            data.error.cause or data.error
            for event in result.all_events
            if event.is_step_failure and (data := event.step_failure_data).error
        ]
        told = [error.message.strip() for error in errors]
        told = told or [event.message or "" for event in result.all_events if event.is_failure]
        found.append(Trouble(subject=subject, code=CRASH_CODE, message="; ".join(told)))
    return found


def _broken_contracts(result: dg.ExecuteInProcessResult, subject: str) -> list[Trouble]:
    """Contracts that do not stop the run: nothing was published, and an alert says so too."""
    return [
        Trouble(
            subject=subject,
            code=CONTRACT_CODE,
            message=f"{check.check_name}: {check.description}",
            is_alerted=True,
        )
        for check in result.get_asset_check_evaluations()
        if check.check_name.endswith("_contract") and not check.passed
    ]


def dagster_home(folder: Path, storage: Path) -> dict[str, str]:
    """Environment for `dagster dev` on this project."""
    home = Layout(storage).dagster_home
    return {"DAGSTER_HOME": str(home), "EXPERIMENTS_PROJECT": str(folder)}
