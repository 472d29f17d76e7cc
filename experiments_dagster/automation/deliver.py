"""From the Dagster instance to the outbox and out: read a run, keep check states, deliver.

Check states live in the instance's key-value storage, so they survive restarts and are shared by
the sensor and the command line. Decisions do not belong here (`alerts.runs`).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError, DagsterEventLogInvalidForRun
from dagster._core.events import JobFailureData
from dagster._core.execution.plan.objects import StepFailureData
from dagster_shared.error import SerializableErrorInfo

from experiments_dagster.alerts.channels import ChannelSettings
from experiments_dagster.alerts.delivery import DeliverySummary, deliver_pending
from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.alerts.runs import (
    CheckFact,
    CheckKey,
    CheckState,
    RunFacts,
    RunStatus,
    StepFailure,
)
from experiments_dagster.automation.reap_dead_runs import REAPED_TAG

logger = logging.getLogger(__name__)

T = TypeVar("T")

ChannelsProvider = Callable[[], Sequence[ChannelSettings]]

FINISHED: dict[dg.DagsterRunStatus, RunStatus] = {
    dg.DagsterRunStatus.SUCCESS: "SUCCESS",
    dg.DagsterRunStatus.FAILURE: "FAILURE",
    dg.DagsterRunStatus.CANCELED: "CANCELED",
}
EXPERIMENT_TAGS = ("experiments/experiment", "experiment")
STATE_KEY_PREFIX = "experiments/alerts/check/"

_EVENT_TYPES = {
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
}
_PAGE = 1000
_KEYS_PER_STATEMENT = 200


def deliver(outbox: Outbox, channels: Sequence[ChannelSettings]) -> DeliverySummary:
    """Deliver what is pending and log one line; alerts that wait are no failure of the caller."""
    summary = deliver_pending(outbox, channels)
    logger.info(
        "alerts status=%s delivered=%d pending=%d",
        summary.status,
        summary.delivered,
        summary.pending,
    )
    return summary


def ended_at(record: dg.RunRecord) -> datetime:
    """Return when a finished run ended, aware UTC."""
    if record.end_time is None:  # storage made before that column existed
        return record.update_timestamp
    return datetime.fromtimestamp(record.end_time, tz=UTC)


def read_run_facts(instance: dg.DagsterInstance, record: dg.RunRecord) -> RunFacts:
    """Read what a finished run says about its checks and its failure.

    A run whose events cannot be read any more counts as failed, with that as its reason, so that it
    neither passes unseen nor holds up the runs behind it.
    """
    run = record.dagster_run
    checks: list[CheckFact] = []
    failed_steps: list[StepFailure] = []
    failure = run.tags.get(REAPED_TAG)
    status = FINISHED[run.status]
    try:
        for entry in _events(instance, run.run_id):
            data = entry.dagster_event.event_specific_data if entry.dagster_event else None
            if isinstance(data, dg.AssetCheckEvaluation):
                checks.append(_check_fact(data, entry))
            elif isinstance(data, StepFailureData):
                failed_steps.append(_step_failure(data.error, entry.step_key or "unknown step"))
            elif isinstance(data, JobFailureData) and data.error is not None:
                failure = failure or _error_class(data.error)
    except DagsterEventLogInvalidForRun:
        status, failure = "FAILURE", "its events cannot be read"
    return RunFacts(
        run_id=run.run_id,
        job=run.job_name,
        status=status,
        ended_at=ended_at(record),
        experiment=next((run.tags[tag] for tag in EXPERIMENT_TAGS if tag in run.tags), None),
        checks=tuple(checks),
        failed_steps=tuple(failed_steps),
        failure=failure,
    )


def load_states(
    instance: dg.DagsterInstance, keys: Iterable[CheckKey]
) -> dict[CheckKey, CheckState]:
    """Return the stored states of `keys`; a check never seen is left out."""
    by_storage_key = {_storage_key(key): key for key in keys}
    states = {}
    for chunk in _chunks(sorted(by_storage_key)):
        stored = instance.daemon_cursor_storage.get_cursor_values(set(chunk))
        for storage_key, text in stored.items():
            states[by_storage_key[storage_key]] = _parse_state(text)
    return states


def save_states(
    instance: dg.DagsterInstance,
    states: Mapping[CheckKey, CheckState],
    *,
    known: Mapping[CheckKey, CheckState],
) -> None:
    """Store `states`.

    New keys and `known` ones are written apart: on SQLite `set_cursor_values` inserts all, and on
    one conflict updates all, so that a new key beside an old one would be lost without a word.
    """
    for is_known in (False, True):
        keys = [key for key in states if (key in known) is is_known]
        for chunk in _chunks(keys):
            pairs = {_storage_key(key): _format_state(key, states[key]) for key in chunk}
            instance.daemon_cursor_storage.set_cursor_values(pairs)


def _events(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.EventLogEntry]:
    cursor = None
    while True:
        page = instance.get_records_for_run(
            run_id, cursor=cursor, of_type=_EVENT_TYPES, limit=_PAGE
        )
        for record in page.records:
            yield record.event_log_entry
        if not page.has_more:
            return
        cursor = page.cursor


def _check_fact(evaluation: dg.AssetCheckEvaluation, entry: dg.EventLogEntry) -> CheckFact:
    is_error = evaluation.severity is dg.AssetCheckSeverity.ERROR
    return CheckFact(
        key=CheckKey(
            asset=evaluation.asset_key.to_user_string(),
            check=evaluation.check_name,
            partition=evaluation.partition,
        ),
        passed=evaluation.passed,
        severity="ERROR" if is_error else "WARN",
        blocking=bool(evaluation.blocking),
        description=evaluation.description,
        at=datetime.fromtimestamp(entry.timestamp, tz=UTC),
        step=entry.step_key,
    )


def _step_failure(error: SerializableErrorInfo | None, step: str) -> StepFailure:
    if error is None:
        return StepFailure(step=step, error_class="unknown error")
    return StepFailure(
        step=step,
        error_class=_error_class(error),
        by_blocking_check=error.cls_name == DagsterAssetCheckFailedError.__name__,
    )


def _error_class(error: SerializableErrorInfo) -> str:
    # Dagster wraps what the user's code raised; the message stays behind, it may hold raw rows.
    return (error.cause or error).cls_name or "unknown error"


def _storage_key(key: CheckKey) -> str:
    identity = json.dumps([key.asset, key.check, key.partition])
    return STATE_KEY_PREFIX + hashlib.sha256(identity.encode()).hexdigest()


def _format_state(key: CheckKey, state: CheckState) -> str:
    # The names are for people who look into the table.
    return json.dumps(
        {
            "check": [key.asset, key.check, key.partition],
            "failing": state.failing,
            "run_id": state.run_id,
            "at": state.at.isoformat(),
        }
    )


def _parse_state(text: str) -> CheckState:
    stored = json.loads(text)
    return CheckState(
        failing=stored["failing"],
        run_id=stored["run_id"],
        at=datetime.fromisoformat(stored["at"]),
    )


def _chunks(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        yield keys[start : start + _KEYS_PER_STATEMENT]
