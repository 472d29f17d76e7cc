"""Many looks in one run: one op, and each experiment keeps its own events.

Dagster has no way to run partitioned assets of many keys in one run and to block each alone.
So one op takes the looks and logs, per experiment, at most two events: a materialization of
decisions/verdict and an evaluation of `look_health`, both with the experiment as partition. What
blocks is decided here: a look that fails its checks has no verdict. One experiment that cannot
be looked at stops no other; the op fails at the end and names them all.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import dagster as dg

from experiments_dagster.assets.clock import LookConfig, as_of_instant
from experiments_dagster.assets.decisions import verdict_metadata
from experiments_dagster.checks.specs import RAW_EVENTS, SEQUENTIAL, VERDICT, look_health
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.plan import PlanChangedError
from experiments_dagster.looks.publish import publish_report, publish_results, publish_verdict
from experiments_dagster.looks.take import LookAttempt, open_ledger, recorded_looks, take_look
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.manifest import Batch, Manifest

class LooksConfig(LookConfig):
    """Which experiments (all when empty), as of when, and how much to draw.

    `batches` are landed batches to report as materializations; `draw` renders pictures and
    reports, which a replay needs only for its last look.
    """

    experiments: list[str] = []
    batches: list[int] = []
    draw: bool = True


@dg.op(out={})
def take_looks(
    context: dg.OpExecutionContext, experiments: ExperimentsProject, config: LooksConfig
) -> None:
    """Take the look that is due for each experiment."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    _report_batches(context, manifest.batches, set(config.batches))
    failures = []
    for slug in config.experiments or list(project.experiments):
        experiment = project.experiments[slug]
        as_of = as_of_instant(experiment, config)
        failure = _take_one(context, project, manifest, experiment, as_of, draw=config.draw)
        if failure:
            failures.append(f"{slug}: {failure}")
    publish_catalog(manifest.layout)
    if failures:
        raise dg.Failure("; ".join(failures), allow_retries=False)


def _take_one(
    context: dg.OpExecutionContext,
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    as_of: dt.datetime,
    *,
    draw: bool,
) -> str | None:
    """One experiment's look and its events; the reason when it could not be taken."""
    try:
        attempt = take_look(project, manifest, experiment, as_of=as_of)
    except PlanChangedError as error:
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(SEQUENTIAL),
                check_name="look_health",
                passed=False,
                severity=dg.AssetCheckSeverity.ERROR,
                description=str(error),
                partition=experiment.slug,
            )
        )
        return str(error)
    except StorageError as error:
        return str(error)
    if not attempt.is_new:
        context.log.info(f"look={attempt.look.look_id} is_new=False verdict={attempt.look.verdict}")
    _publish(context, manifest, experiment, attempt, draw=draw)
    return None


def _publish(
    context: dg.OpExecutionContext,
    manifest: Manifest,
    experiment: Experiment,
    attempt: LookAttempt,
    *,
    draw: bool,
) -> None:
    look, ledger = attempt.look, open_ledger(manifest, experiment)
    publish_results(ledger, look)
    publish_verdict(ledger, look)
    looks = recorded_looks(ledger) or [look]
    if draw:
        publish_report(manifest.layout, experiment, ledger)
    if not attempt.is_new and not attempt.is_peek:
        return
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(SEQUENTIAL), partition=experiment.slug, **look_health(look)
        )
    )
    if attempt.is_new and not look.is_blocked:
        metadata = verdict_metadata(experiment, looks, draw=draw)
        context.log_event(
            dg.AssetMaterialization(VERDICT, partition=experiment.slug, metadata=metadata)
        )


def _report_batches(
    context: dg.OpExecutionContext, batches: Sequence[Batch], wanted: set[int]
) -> None:
    for batch in batches:
        if batch.sequence in wanted:
            rows = sum(part.table.rows for part in batch.sources.values() if part.table)
            context.log_event(
                dg.AssetMaterialization(
                    RAW_EVENTS,
                    partition=str(batch.arrival_day),
                    metadata={"batch": batch.sequence, "kept": rows},
                )
            )


@dg.job(executor_def=dg.in_process_executor, description="Looks of many experiments in one run.")
def nightly_looks() -> None:
    """Take every look that is due."""
    take_looks()
