"""Every morning: looks that are due, shares of bandits' next periods, interventions with news."""

import datetime as dt

import dagster as dg

from experiments_dagster.automation.jobs import allocate_bandit, estimate_intervention
from experiments_dagster.automation.looks_run import nightly_looks
from experiments_dagster.bandits.allocate import due_bandits
from experiments_dagster.config.project import Project
from experiments_dagster.looks.calendar import due_look, local_day
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.manifest import Manifest


def due_experiments(project: Project, manifest: Manifest, now: dt.datetime) -> list[str]:
    """Experiments whose calendar has a look that was not taken yet.

    Several missed ticks are one look; an experiment without landed exposures has none.
    """
    due = []
    for slug, experiment in project.experiments.items():
        if not manifest.tables(experiment.exposure_source, up_to=manifest.head):
            continue
        try:
            looks = recorded_looks(open_ledger(manifest, experiment))
        except StorageError:
            due.append(slug)  # the run names the damage and takes the other looks
            continue
        if due_look(experiment, looks, local_day(experiment, now)) is not None:
            due.append(slug)
    return due


@dg.schedule(
    name="daily_looks",
    job=nightly_looks,
    cron_schedule="0 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Takes the looks that are due today, all in one run.",
)
def daily_looks(
    context: dg.ScheduleEvaluationContext, experiments: ExperimentsProject
) -> dg.RunRequest | dg.SkipReason:
    """One run for all looks of a day; its run key is the day, so a tick repeated adds none."""
    now = context.scheduled_execution_time.astimezone(dt.UTC)
    project = experiments.load()
    due = due_experiments(project, experiments.manifest(project), now)
    if not due:
        return dg.SkipReason("no look is due today")
    return dg.RunRequest(
        run_key=f"looks:{now.date()}",
        run_config={"ops": {"take_looks": {"config": {"experiments": due}}}},
        tags={"looks": "daily", "as_of": str(now.date())},
    )


@dg.schedule(
    name="daily_bandits",
    job=allocate_bandit,
    cron_schedule="30 5 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Records the shares of every bandit's next period.",
)
def daily_bandits(
    context: dg.ScheduleEvaluationContext, experiments: ExperimentsProject
) -> list[dg.RunRequest] | dg.SkipReason:
    """One run per bandit that is due; a record is written once, however often a run repeats."""
    project = experiments.load()
    due = due_bandits(project, experiments.manifest(project))
    if not due:
        return dg.SkipReason("every next period has its shares")
    day = context.scheduled_execution_time.astimezone(dt.UTC).date()
    return [
        dg.RunRequest(run_key=f"bandit:{slug}:{day}", partition_key=slug, tags={"bandit": slug})
        for slug in due
    ]


@dg.schedule(
    name="daily_interventions",
    job=estimate_intervention,
    cron_schedule="30 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Estimates every intervention that has new data, another file or configuration.",
)
def daily_interventions(
    context: dg.ScheduleEvaluationContext, experiments: ExperimentsProject
) -> list[dg.RunRequest] | dg.SkipReason:
    """One run per intervention that is due."""
    from experiments_dagster.interventions.publish import due_interventions

    project = experiments.load()
    due = due_interventions(project, experiments.manifest(project))
    if not due:
        return dg.SkipReason("no intervention has news")
    day = context.scheduled_execution_time.astimezone(dt.UTC).date()
    return [
        dg.RunRequest(
            run_key=f"intervention:{slug}:{day}", partition_key=slug, tags={"intervention": slug}
        )
        for slug in due
    ]
