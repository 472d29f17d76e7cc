"""Many looks in one run: one op, and each experiment keeps its own events.

Dagster has no way to run partitioned assets of many keys in one run and to block each alone.
So one op takes the looks and logs, per experiment, at most two events: a materialization of
decisions/verdict and an evaluation of `look_health`, both with the experiment as partition. What
blocks is decided here: a look that fails its checks has no verdict. One experiment that cannot
be looked at stops no other; the op fails at the end and names them all.
"""

import datetime as dt
import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from experiments_dagster.assets.clock import LookConfig, as_of_instant
from experiments_dagster.assets.decisions import verdict_metadata
from experiments_dagster.assets.raw import LANDING_HEALTH, landing_health
from experiments_dagster.checks.specs import (
    LOOK_HEALTH,
    RAW_EVENTS,
    SEQUENTIAL,
    VERDICT,
    look_health,
)
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.unit_rows import Shard, advanced_shards
from experiments_dagster.looks.plan import PlanChangedError
from experiments_dagster.looks.publish import NightPublication, publish_report
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.take import LookAttempt, take_look
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.errors import ContractError, StorageError
from experiments_dagster.storage.landing import land
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Batch, Manifest

TROUBLES = "troubles"
# Exit codes of the command line for what stopped an experiment.
CRASH_CODE, CONFIG_CODE, CONTRACT_CODE, DAMAGED_CODE = 1, 2, 3, 4


class LooksConfig(LookConfig):
    """Which experiments (all when empty), as of when, and how much to draw.

    `land` lands new files first. `batches` are landed batches to report as materializations;
    `draw` renders pictures and reports, which a replay needs only for its last look.
    """

    experiments: list[str] = []
    land: bool = False
    batches: list[int] = []
    draw: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What could not be done, for whoever started the run.

    `code` is the command line's exit code for it, 0 for a mere warning. `is_alerted` tells
    that a failed check evaluation of this run says the same, so that the run need not fail for it.
    """

    subject: str
    code: int
    message: str
    is_alerted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """The events of one experiment, logged when its tables are there; holds no ledger."""

    experiment: Experiment
    look: Look | None
    verdict: dict[str, Any] | None


@dg.op(out=dg.Out(dg.Nothing))
def take_looks(
    context: dg.OpExecutionContext, experiments: ExperimentsProject, config: LooksConfig
) -> dg.Output[None]:
    """Land new files if asked to, then take the look that is due for each experiment.

    Troubles stand in the output's metadata.

    Raises:
        dg.Failure: At the end, if there is a trouble that no failed check tells of.
    """
    project = experiments.load()
    batches = set(config.batches)
    troubles: list[Trouble] = []
    if config.land:
        try:
            landed, troubles = _land(context, project)
            batches |= landed
        except StorageError as error:
            troubles.append(_storage_trouble("landing", error))
    manifest = experiments.manifest(project)
    _report_batches(context, manifest.batches, batches)
    troubles += _report_damage(context, manifest)
    wanted: list[Experiment] = []
    for slug in config.experiments or list(project.experiments):
        experiment = project.experiments.get(slug)
        if experiment is None:
            message = f"configs/experiments/{slug}.yaml is gone or broken"
            troubles.append(Trouble(subject=slug, code=CONFIG_CODE, message=message))
        else:
            wanted.append(experiment)
    night = _Night(context, project, manifest, config)
    troubles += night.take(wanted)
    troubles += night.publish()
    publish_catalog(manifest.layout)
    metadata = {TROUBLES: json.dumps([asdict(trouble) for trouble in troubles])}
    untold = [trouble for trouble in troubles if not trouble.is_alerted]
    if untold:
        text = "; ".join(f"{trouble.subject}: {trouble.message}" for trouble in untold)
        raise dg.Failure(text, metadata=metadata, allow_retries=False)
    return dg.Output(None, metadata=metadata)


class _Night:
    """The looks of one run: taken shard by shard, published together, then told."""

    def __init__(
        self,
        context: dg.OpExecutionContext,
        project: Project,
        manifest: Manifest,
        config: LooksConfig,
    ) -> None:
        self.context = context
        self.project = project
        self.manifest = manifest
        self.config = config
        self.publication = NightPublication(manifest.layout)
        self.told: list[_Told] = []

    def take(self, experiments: Sequence[Experiment]) -> list[Trouble]:
        """Take what is due; new events are added up once for all experiments of a shard."""
        troubles = []
        latest = max((as_of_instant(e, self.config) for e in experiments), default=None)
        if latest is None:
            return []
        gc.freeze()  # what is loaded by now stays; the collector need not walk it per look
        for shard, members in advanced_shards(
            self.project, self.manifest, experiments, as_of=latest
        ):
            for experiment in members:
                trouble = self._try(experiment, shard)
                if trouble is not None:
                    troubles.append(trouble)
        gc.unfreeze()
        return troubles

    def publish(self) -> list[Trouble]:
        """Write the tables of all looks, then log the events of those that are there."""
        broken = self.publication.write()
        for item in self.told:
            _tell(self.context, item, is_published=item.experiment.slug not in broken)
        return [_storage_trouble(slug, error) for slug, error in broken.items()]

    def _try(self, experiment: Experiment, shard: Shard | None) -> Trouble | None:
        slug = experiment.slug
        try:
            self._take_one(experiment, shard)
        except PlanChangedError as error:
            _log_check(
                self.context,
                SEQUENTIAL,
                slug,
                check_name=LOOK_HEALTH,
                passed=False,
                severity=dg.AssetCheckSeverity.ERROR,
                description=str(error),
            )
            return Trouble(subject=slug, code=CONFIG_CODE, message=str(error), is_alerted=True)
        except StorageError as error:
            return _storage_trouble(slug, error)
        except Exception as error:
            self.context.log.exception(f"{slug} crashed")
            # Only the kind: the message of an unforeseen error may hold raw values.
            message = f"crashed with {type(error).__name__}"
            return Trouble(subject=slug, code=CRASH_CODE, message=message)
        return None

    def _take_one(self, experiment: Experiment, shard: Shard | None) -> None:
        """One experiment's look; its events wait for its tables."""
        as_of = as_of_instant(experiment, self.config)
        attempt = take_look(self.project, self.manifest, experiment, as_of=as_of, shard=shard)
        if not attempt.is_new:
            look = attempt.look
            self.context.log.info(f"look={look.look_id} is_new=False verdict={look.verdict}")
        self.publication.add(attempt.ledger, attempt.look)
        self.told.append(_to_tell(experiment, attempt, draw=self.config.draw))
        if self.config.draw:
            publish_report(self.manifest.layout, experiment, attempt.ledger)


def _storage_trouble(subject: str, error: StorageError) -> Trouble:
    code = CONTRACT_CODE if isinstance(error, ContractError) else DAMAGED_CODE
    return Trouble(subject=subject, code=code, message=str(error))


def _report_damage(context: dg.OpExecutionContext, manifest: Manifest) -> list[Trouble]:
    """Name landed files that are damaged; looks that need none of them go on."""
    troubles = []
    for batch, error in manifest.damaged():
        _log_check(
            context,
            RAW_EVENTS,
            str(batch.arrival_day),
            check_name=LANDING_HEALTH,
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=str(error),
        )
        troubles.append(
            Trouble(subject="landed data", code=DAMAGED_CODE, message=str(error), is_alerted=True)
        )
    return troubles


def _land(context: dg.OpExecutionContext, project: Project) -> tuple[set[int], list[Trouble]]:
    """Land what is new; the batch it made and what was set aside."""
    day = dt.datetime.now(ZoneInfo(project.platform.timezone)).date()
    is_first = not Manifest(Layout(project.storage)).refresh().head
    report = land(
        project,
        arrival_day=day,
        now=dt.datetime.now(dt.UTC),
        # Nobody knows when files that lay there before the first landing arrived.
        kind="history" if is_first else "data",
    )
    if report.batch is None and not report.problems:
        return set(), []
    health = landing_health(report)
    _log_check(
        context,
        RAW_EVENTS,
        str(day),
        check_name=LANDING_HEALTH,
        passed=health.passed,
        severity=health.severity,
        description=health.description,
    )
    troubles = []
    if not health.passed:
        is_error = health.severity is dg.AssetCheckSeverity.ERROR
        troubles.append(
            Trouble(
                subject="landing",
                code=DAMAGED_CODE if is_error else 0,
                message=health.description or "",
                is_alerted=True,
            )
        )
    return {report.batch.sequence} if report.batch else set(), troubles


def _to_tell(experiment: Experiment, attempt: LookAttempt, *, draw: bool) -> _Told:
    look, metadata = attempt.look, None
    if attempt.is_new and not look.is_blocked:
        metadata = verdict_metadata(experiment, recorded_looks(attempt.ledger), draw=draw)
    is_checked = attempt.is_new or attempt.is_peek
    return _Told(experiment=experiment, look=look if is_checked else None, verdict=metadata)


def _tell(context: dg.OpExecutionContext, item: _Told, *, is_published: bool) -> None:
    slug = item.experiment.slug
    if item.look is not None:
        _log_check(context, SEQUENTIAL, slug, **look_health(item.look))
    if item.verdict is not None and is_published:
        context.log_event(dg.AssetMaterialization(VERDICT, partition=slug, metadata=item.verdict))


def _log_check(
    context: dg.OpExecutionContext, asset: list[str], partition: str, **result: Any
) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset), partition=partition, **result
    )
    context.log_event(evaluation)  # type: ignore[arg-type]  # the hint lags behind


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
