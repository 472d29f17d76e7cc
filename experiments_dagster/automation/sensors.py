"""Sensors: new configuration becomes partitions, new files land, information triggers looks."""

import datetime as dt
from zoneinfo import ZoneInfo

import dagster as dg

from experiments_dagster.automation.jobs import ingest_day
from experiments_dagster.automation.looks_run import nightly_looks
from experiments_dagster.automation.partitions import BANDITS, EXPERIMENTS, INTERVENTIONS
from experiments_dagster.config.project import Project
from experiments_dagster.looks.calendar import due_look, local_day, start_of_day
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import build_inputs, open_ledger, present_fraction
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.incoming import has_new_files
from experiments_dagster.storage.manifest import Manifest

RUNNING = dg.DefaultSensorStatus.RUNNING
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def register_partitions(instance: dg.DagsterInstance, project: Project) -> list[str]:
    """Add a partition for each configured experiment, intervention and bandit without one."""
    added = []
    for partitions, slugs in (
        (EXPERIMENTS, project.experiments),
        (INTERVENTIONS, project.interventions),
        (BANDITS, project.bandits),
    ):
        assert partitions.name is not None
        known = set(instance.get_dynamic_partitions(partitions.name))
        new = [slug for slug in slugs if slug not in known]
        if new:
            instance.add_dynamic_partitions(partitions.name, new)
        added += new
    return added


@dg.sensor(name="on_config_change", minimum_interval_seconds=30, default_status=RUNNING)
def on_config_change(
    context: dg.SensorEvaluationContext, experiments: ExperimentsProject
) -> dg.SkipReason:
    """Adding a YAML file to configs/ makes a partition; nothing has to be reloaded."""
    added = register_partitions(context.instance, experiments.load())
    return dg.SkipReason(f"registered {', '.join(added)}" if added else "nothing new")


@dg.sensor(name="on_new_files", job=ingest_day, minimum_interval_seconds=60, default_status=RUNNING)
def on_new_files(
    context: dg.SensorEvaluationContext, experiments: ExperimentsProject
) -> dg.RunRequest | dg.SkipReason:
    """Land files that no batch has registered, under today's label."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    if not has_new_files(project, manifest):
        return dg.SkipReason("no new files")
    running = context.instance.get_runs_count(
        dg.RunsFilter(job_name="ingest_day", statuses=UNFINISHED)
    )
    if running:
        return dg.SkipReason("a landing is under way")
    day = dt.datetime.now(ZoneInfo(project.platform.timezone)).date()
    return dg.RunRequest(partition_key=str(day), tags={"landing_after_batch": str(manifest.head)})


def reached_experiments(
    project: Project, manifest: Manifest, now: dt.datetime
) -> list[tuple[str, int]]:
    """Experiments that look by information and have reached the next planned fraction.

    Returns:
        Slug and the planned look that is due.
    """
    reached = []
    for slug, experiment in project.experiments.items():
        if experiment.plan.looks.schedule != "information":
            continue
        if not manifest.tables(experiment.exposure_source, up_to=manifest.head):
            continue
        day = local_day(experiment, now)
        try:
            frames = build_inputs(
                project,
                manifest,
                experiment,
                cutoff=manifest.head,
                as_of=start_of_day(experiment, day),
                publish=False,
            )
            looks = recorded_looks(open_ledger(manifest, experiment))
        except StorageError:
            continue  # the daily looks report it; the others are judged all the same
        fraction = present_fraction(experiment, frames, looks)
        due = due_look(experiment, looks, day, information_fraction=fraction)
        if due is not None:
            reached.append((slug, due.planned_index))
    return reached


@dg.sensor(
    name="on_information",
    job=nightly_looks,
    minimum_interval_seconds=120,
    default_status=RUNNING,
)
def on_information(
    context: dg.SensorEvaluationContext, experiments: ExperimentsProject
) -> dg.SensorResult | dg.SkipReason:
    """Request a look when the planned information fraction is reached; asks once per batch and day.

    The cursor is the landed batch and day already judged.
    """
    project = experiments.load()
    manifest = experiments.manifest(project)
    now = dt.datetime.now(dt.UTC)
    cursor = f"{manifest.head}:{now.date()}"
    if context.cursor == cursor:
        return dg.SkipReason("nothing has landed since the last tick")
    reached = reached_experiments(project, manifest, now)
    requests = [
        dg.RunRequest(
            # The ledger guards against a second look; the batch lets a failed one be tried again.
            run_key=f"information:{slug}:{project.experiments[slug].phase}:{index}:{cursor}",
            run_config={"ops": {"take_looks": {"config": {"experiments": [slug]}}}},
            tags={"looks": "information", "experiment": slug},
        )
        for slug, index in reached
    ]
    return dg.SensorResult(run_requests=requests, cursor=cursor)
