"""Assembles Definitions, nothing else: no asset, no rule and no path is made here.

`build_definitions` takes overrides, so that tests swap the project folder without patching.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from experiments_dagster.alerts.channels import ChannelSettings
from experiments_dagster.assets.decisions import verdict
from experiments_dagster.assets.exploration import exploration
from experiments_dagster.assets.frames import unit_frames
from experiments_dagster.assets.portfolio import portfolio
from experiments_dagster.assets.raw import land_day, unit_days
from experiments_dagster.assets.reports import experiment_report
from experiments_dagster.assets.results.bandit import bandit
from experiments_dagster.assets.results.causal_effect import causal_effect, study_frame
from experiments_dagster.assets.results.causal_impact import causal_impact, daily_series
from experiments_dagster.assets.results.cuped import cuped
from experiments_dagster.assets.results.sequential import sequential
from experiments_dagster.automation.jobs import (
    allocate_bandit,
    estimate_intervention,
    ingest_day,
    run_look,
)
from experiments_dagster.automation.looks_run import nightly_looks
from experiments_dagster.automation.on_check_failure import build_on_check_failure_sensor
from experiments_dagster.automation.reap_dead_runs import build_reap_dead_runs_sensor
from experiments_dagster.automation.schedules import (
    daily_bandits,
    daily_interventions,
    daily_looks,
)
from experiments_dagster.automation.sensors import on_config_change, on_information, on_new_files
from experiments_dagster.config.project import read_project
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.layout import Layout

FOLDER_VARIABLE = "EXPERIMENTS_PROJECT"


def build_definitions(folder: Path | None = None) -> dg.Definitions:
    """Everything the UI and the daemon see of one project folder.

    Args:
        folder: The folder that holds configs/; by default EXPERIMENTS_PROJECT, else the working
            directory.
    """
    folder = (folder or Path(os.environ.get(FOLDER_VARIABLE, "."))).resolve()
    project, _ = read_project(folder)
    storage = project.storage if project else folder / ".experiments"

    def channels() -> tuple[ChannelSettings, ...]:
        present, _ = read_project(folder)
        return present.channels if present else ()

    return dg.Definitions(
        assets=[
            land_day,
            unit_days,
            unit_frames,
            daily_series,
            study_frame,
            cuped,
            sequential,
            causal_impact,
            causal_effect,
            bandit,
            verdict,
            experiment_report,
            exploration,
            portfolio,
        ],
        jobs=[ingest_day, run_look, nightly_looks, estimate_intervention, allocate_bandit],
        schedules=[daily_looks, daily_bandits, daily_interventions],
        sensors=[
            on_config_change,
            on_new_files,
            on_information,
            build_on_check_failure_sensor(Layout(storage).outbox, channels),
            build_reap_dead_runs_sensor(),
        ],
        resources={"experiments": ExperimentsProject(folder=str(folder))},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
