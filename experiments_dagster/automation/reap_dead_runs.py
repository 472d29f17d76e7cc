"""The sensor `reap_dead_runs`: a run whose process is gone is marked failed.

After `kill -9` nobody ends the run, and Dagster shows it as started for ever. Our runs carry their
owner in tags: the host, the process id, and when that process started (with the machine's boot,
since process ids come round again). A run of this host whose owner is gone is dead. A run without
an owner is dead after `max_age_hours`. Runs of other hosts are theirs to judge.

The alert follows from the failed run by the ordinary path (`on_check_failure`).
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

logger = logging.getLogger(__name__)

HOST_TAG = "experiments/host"
PID_TAG = "experiments/pid"
PID_STARTED_TAG = "experiments/pid_started"
# Re-executed runs inherit tags; an owner tagged for another run says nothing about this one.
OWNED_RUN_TAG = "experiments/owned_run"
REAPED_TAG = "experiments/reaped"

HOST_VARIABLE = "EXPERIMENTS_HOST"

UNFINISHED = (
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOwner:
    """The process that executes a run.

    Args:
        host: Host name.
        pid: Process id on it.
        started: When that process started (`process_started`); empty where the system cannot tell.
    """

    host: str
    pid: int
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRun:
    """A run to be marked failed, and why in one sentence."""

    run_id: str
    reason: str


def tag_run_owner(instance: dg.DagsterInstance, run_id: str) -> RunOwner:
    """Tag `run_id` as executed by this very process; the first thing a run does.

    Raises:
        DagsterRunNotFoundError: There is no such run.
    """
    owner = RunOwner(host=this_host(), pid=os.getpid(), started=process_started(os.getpid()))
    tags = {
        HOST_TAG: owner.host,
        PID_TAG: str(owner.pid),
        PID_STARTED_TAG: owner.started,
        OWNED_RUN_TAG: run_id,
    }
    instance.add_run_tags(run_id, tags)
    return owner


def this_host() -> str:
    """Return the name of this host; `EXPERIMENTS_HOST` where containers change theirs."""
    return os.environ.get(HOST_VARIABLE) or socket.gethostname()


def process_started(pid: int) -> str:
    """Return what tells this process from a later one with the same id.

    Clock ticks since boot (field 22 of /proc/<pid>/stat) with the boot's id; empty when the process
    is gone, is a zombie, or the system has no /proc.
    """
    with contextlib.suppress(OSError):
        # The command in field 2 may hold blanks and brackets; what follows the last one is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, ticks = fields[0], fields[19]
        if state not in {"Z", "X"}:
            return f"{ticks}@{_boot_id()}"
    return ""


def is_owner_alive(owner: RunOwner) -> bool:
    """Tell whether the process of `owner` (on this host) still exists and is the same one."""
    if Path("/proc/self/stat").exists() and owner.started:
        return process_started(owner.pid) == owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def dead_runs(
    records: Sequence[dg.RunRecord],
    now: datetime,
    *,
    host: str,
    max_age_hours: float,
    is_alive: Callable[[RunOwner], bool],
) -> tuple[DeadRun, ...]:
    """Return the dead among `records`.

    Args:
        records: Runs of any status; finished and queued ones are left alone.
        now: The time, aware.
        host: This host.
        max_age_hours: Age at which a run without an owner is dead.
        is_alive: Whether an owner on this host still runs.
    """
    dead = []
    for record in records:
        run = record.dagster_run
        if run.status not in UNFINISHED:
            continue
        owner = owner_of(run)
        if owner is None:
            age = now - _began_at(record)
            if age > timedelta(hours=max_age_hours):
                reason = f"no owner is known and it began more than {max_age_hours:g} hours ago"
                dead.append(DeadRun(run_id=run.run_id, reason=reason))
        elif owner.host == host and not is_alive(owner):
            reason = f"process {owner.pid} on {owner.host}, which executed it, is gone"
            dead.append(DeadRun(run_id=run.run_id, reason=reason))
    return tuple(dead)


def owner_of(run: dg.DagsterRun) -> RunOwner | None:
    """Return the owner in the tags of `run`; None when there is none or it is another run's."""
    host, pid = run.tags.get(HOST_TAG), run.tags.get(PID_TAG, "")
    if host is None or not pid.isdecimal() or int(pid) <= 0:
        return None
    if run.tags.get(OWNED_RUN_TAG, run.run_id) != run.run_id:
        return None
    return RunOwner(host=host, pid=int(pid), started=run.tags.get(PID_STARTED_TAG, ""))


def reap_dead_runs(
    instance: dg.DagsterInstance,
    *,
    now: datetime | None = None,
    max_age_hours: float = 24.0,
) -> tuple[DeadRun, ...]:
    """Mark dead runs failed.

    Args:
        instance: Dagster instance.
        now: The time, aware; the clock when left out.
        max_age_hours: Age at which a run without an owner is dead.

    Returns:
        The runs marked.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    dead = dead_runs(
        records,
        now or datetime.now(UTC),
        host=this_host(),
        max_age_hours=max_age_hours,
        is_alive=is_owner_alive,
    )
    return tuple(each for each in dead if _mark_failed(instance, each))


def build_reap_dead_runs_sensor(
    *,
    max_age_hours: float = 24.0,
    minimum_interval_seconds: int = 60,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """Build the sensor that marks dead runs failed.

    Args:
        max_age_hours: Age at which a run without an owner is dead.
        minimum_interval_seconds: Least pause between ticks.
        default_status: Whether it runs without being switched on.
    """

    @dg.sensor(
        name="reap_dead_runs",
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Marks runs failed whose process is gone.",
    )
    def reap_dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reaped = reap_dead_runs(context.instance, max_age_hours=max_age_hours)
        return dg.SkipReason(f"reaped={len(reaped)}")

    return reap_dead_runs_sensor


def _mark_failed(instance: dg.DagsterInstance, dead: DeadRun) -> bool:
    # Read again: it may have ended properly between the listing and the end of its process.
    run = instance.get_run_by_id(dead.run_id)
    if run is None or run.status not in UNFINISHED:
        return False
    # The tag first, so that whoever sees the failed run sees the reason too.
    instance.add_run_tags(dead.run_id, {REAPED_TAG: dead.reason})
    instance.report_run_failed(run, f"Marked failed by reap_dead_runs: {dead.reason}.")
    logger.warning("run reaped run_id=%s reason=%s", dead.run_id, dead.reason)
    return True


def _began_at(record: dg.RunRecord) -> datetime:
    if record.start_time is None:
        return record.create_timestamp
    return datetime.fromtimestamp(record.start_time, tz=UTC)


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"
