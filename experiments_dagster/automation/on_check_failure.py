"""The sensor `on_check_failure`: finished runs become alerts, and the outbox is delivered.

Dagster's run-failure helpers never see a WARN or a non-blocking check, and an event-log cursor over
check evaluations raises on SQLite storage. So finished runs are read, each with its evaluations.

Which runs are new: a cursor holds the end time reached (*watermark*) and the runs handled within
the last hour before it. Each call lists again what changed since an hour before the watermark, so
equal or late timestamps lose nothing. A run that ended before that hour was handled long ago; it is
listed only because somebody changed its tags.

A crash anywhere is repeated safely, because the order is: alerts into the outbox (idempotent by
id), check states into the instance's key-value storage, then the cursor. Which alerts a run
deserves is decided in `alerts.runs`, without Dagster; how a run is read is in `deliver`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from experiments_dagster.alerts.channels import ChannelSettings
from experiments_dagster.alerts.files import exclusive_lock
from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.alerts.runs import alerts_for_run
from experiments_dagster.automation.deliver import (
    FINISHED,
    ChannelsProvider,
    deliver,
    ended_at,
    load_states,
    read_run_facts,
    save_states,
)

logger = logging.getLogger(__name__)

CURSOR_KEY = "experiments/alerts/cursor"
OVERLAP = timedelta(hours=1)
# Without any cursor: the last day, so that the first tick does not tell the whole history.
FIRST_LOOKBACK = timedelta(days=1)
LOCK_WAIT_S = 10.0


class RunCursor(BaseModel):
    """How far finished runs have been handled.

    Args:
        watermark: End time reached; every run that ended before it has been handled.
        handled: Runs handled that ended within the overlap before the watermark, or after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    watermark: AwareDatetime
    handled: dict[str, AwareDatetime] = {}

    @property
    def since(self) -> datetime:
        """Where the overlap begins."""
        return self.watermark - OVERLAP

    def merged(self, other: "RunCursor") -> "RunCursor":
        """Return the later of two cursors, knowing what either handled."""
        return RunCursor(
            watermark=max(self.watermark, other.watermark),
            handled={**self.handled, **other.handled},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedRuns:
    """What one pass over finished runs did: the new cursor, runs read, alerts that are new."""

    cursor: str | None
    runs: int
    alerts: int


def build_on_check_failure_sensor(
    outbox_dir: Path | str,
    channels: ChannelsProvider,
    *,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """Build the sensor that turns failed checks and failed runs into delivered alerts.

    Args:
        outbox_dir: Folder of the outbox.
        channels: Called at each tick, so that edited settings need no reload.
        minimum_interval_seconds: Least pause between ticks.
        default_status: Whether it runs without being switched on.
    """

    @dg.sensor(
        name="on_check_failure",
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Alerts for failed checks and failed runs, delivered once from the outbox.",
    )
    def on_check_failure(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        outbox = Outbox(Path(outbox_dir))
        done = enqueue_finished_runs(context.instance, outbox, context.cursor)
        summary = deliver(outbox, channels())
        told = (
            f"runs={done.runs} new_alerts={done.alerts} delivery={summary.status} "
            f"delivered={summary.delivered} pending={summary.pending}"
        )
        context.log.info(told)
        return dg.SensorResult(skip_reason=told, cursor=done.cursor)

    return on_check_failure


def process_finished_runs(
    instance: dg.DagsterInstance,
    outbox: Outbox,
    channels: Sequence[ChannelSettings],
    cursor: str | None = None,
    *,
    now: datetime | None = None,
) -> str | None:
    """Turn finished runs into alerts and deliver them; the sensor's work without a sensor.

    Sensor and command line share the position through the instance: `cursor` may be left out.

    Args:
        instance: Dagster instance.
        outbox: Where alerts go first.
        channels: Where they go then.
        cursor: What the previous call returned.
        now: The time, aware; the clock when left out.

    Returns:
        The new cursor.
    """
    done = enqueue_finished_runs(instance, outbox, cursor, now=now)
    deliver(outbox, channels)
    return done.cursor


def enqueue_finished_runs(
    instance: dg.DagsterInstance,
    outbox: Outbox,
    cursor: str | None = None,
    *,
    now: datetime | None = None,
    max_runs: int = 200,
) -> ProcessedRuns:
    """Put the alerts of newly finished runs into the outbox, runs in the order of their end.

    Args:
        instance: Dagster instance.
        outbox: Where alerts go.
        cursor: What the previous call returned.
        now: The time, aware; the clock when left out.
        max_runs: Most runs to read in this call; the next call goes on.
    """
    now = now or datetime.now(UTC)
    with exclusive_lock(outbox.root / "process.lock", wait_s=LOCK_WAIT_S) as held:
        if not held:
            logger.info("finished runs are being read by another process")
            return ProcessedRuns(cursor=cursor, runs=0, alerts=0)
        position = _position(instance, cursor, now)
        records = _new_records(instance, position)
        batch, rest = records[:max_runs], records[max_runs:]
        new_alerts = sum(_handle(instance, outbox, record) for record in batch)
        text = _advanced(position, batch, rest, now).model_dump_json()
        instance.daemon_cursor_storage.set_cursor_values({CURSOR_KEY: text})
    return ProcessedRuns(cursor=text, runs=len(batch), alerts=new_alerts)


def _handle(instance: dg.DagsterInstance, outbox: Outbox, record: dg.RunRecord) -> int:
    facts = read_run_facts(instance, record)
    previous = load_states(instance, {fact.key for fact in facts.checks})
    alerts, states = alerts_for_run(facts, previous)
    # Alerts before states: after a crash between them the same ids are enqueued again, in vain.
    added = sum(outbox.enqueue(alert) for alert in alerts)
    save_states(instance, states, known=previous)
    return added


def _position(instance: dg.DagsterInstance, cursor: str | None, now: datetime) -> RunCursor:
    stored = instance.daemon_cursor_storage.get_cursor_values({CURSOR_KEY}).get(CURSOR_KEY)
    found = [parsed for text in (cursor, stored) if (parsed := _parse(text)) is not None]
    if not found:
        return RunCursor(watermark=now - FIRST_LOOKBACK)
    return found[0].merged(found[-1])


def _parse(text: str | None) -> RunCursor | None:
    if not text:
        return None
    try:
        return RunCursor.model_validate_json(text)
    except ValidationError:
        logger.warning("cursor of on_check_failure is not readable and is left out")
        return None


def _new_records(instance: dg.DagsterInstance, position: RunCursor) -> list[dg.RunRecord]:
    listed = instance.get_run_records(
        dg.RunsFilter(updated_after=position.since, statuses=list(FINISHED))
    )
    new = [
        record
        for record in listed
        if record.dagster_run.run_id not in position.handled and ended_at(record) >= position.since
    ]
    return sorted(new, key=lambda record: (ended_at(record), record.storage_id))


def _advanced(
    position: RunCursor,
    batch: Sequence[dg.RunRecord],
    rest: Sequence[dg.RunRecord],
    now: datetime,
) -> RunCursor:
    """Move the watermark to the first run left over, else to the last one handled.

    Never beyond `now`: a run with a clock ahead of ours must not hide those that end after it.
    """
    reached = [ended_at(record) for record in (rest[:1] or batch[-1:])]
    watermark = max(position.watermark, min([*reached, now])) if reached else position.watermark
    handled = {
        **position.handled,
        **{record.dagster_run.run_id: ended_at(record) for record in batch},
    }
    since = watermark - OVERLAP
    return RunCursor(
        watermark=watermark,
        handled={run_id: at for run_id, at in handled.items() if at >= since},
    )
