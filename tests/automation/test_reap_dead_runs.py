"""A run whose process was killed is marked failed; all others are left alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from experiments_dagster.alerts.file import FileChannel
from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.automation import reap_dead_runs as module
from experiments_dagster.automation.on_check_failure import process_finished_runs
from experiments_dagster.automation.reap_dead_runs import (
    HOST_TAG,
    OWNED_RUN_TAG,
    PID_STARTED_TAG,
    PID_TAG,
    RunOwner,
    build_reap_dead_runs_sensor,
    dead_runs,
    is_owner_alive,
    process_started,
    reap_dead_runs,
    tag_run_owner,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster.*")

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
STARTED = dg.DagsterRunStatus.STARTED


def make_record(run_id="r1", *, status=STARTED, tags=None, hours=1.0):
    begun = NOW - timedelta(hours=hours)
    return dg.RunRecord(
        storage_id=1,
        dagster_run=dg.DagsterRun(
            job_name="nightly", run_id=run_id, status=status, tags=tags or {}
        ),
        create_timestamp=begun,
        update_timestamp=begun,
        start_time=begun.timestamp(),
    )


def owner_tags(host="here", pid="42", **more):
    return {HOST_TAG: host, PID_TAG: pid, PID_STARTED_TAG: "7@boot", **more}


def judge(record, *, alive=False):
    found = dead_runs([record], NOW, host="here", max_age_hours=24, is_alive=lambda owner: alive)
    return [dead.run_id for dead in found]


@pytest.mark.parametrize(
    ("record", "alive", "is_dead"),
    [
        (make_record(tags=owner_tags()), False, True),
        (make_record(tags=owner_tags(), status=dg.DagsterRunStatus.STARTING), False, True),
        (make_record(tags=owner_tags(), status=dg.DagsterRunStatus.CANCELING), False, True),
        (make_record(tags=owner_tags()), True, False),
        (make_record(tags=owner_tags(), hours=1000), True, False),
        (make_record(tags=owner_tags(host="there"), hours=1000), False, False),
        (make_record(tags=owner_tags(), status=dg.DagsterRunStatus.SUCCESS), False, False),
        (make_record(tags=owner_tags(), status=dg.DagsterRunStatus.NOT_STARTED), False, False),
        (make_record(hours=23.9), False, False),
        (make_record(hours=24.1), False, True),
        (make_record(tags=owner_tags(pid="not a number"), hours=1), False, False),
        (make_record(tags=owner_tags(pid="0"), hours=1), False, False),
        # Inherited by re-execution from the run that died.
        (make_record(tags=owner_tags(**{OWNED_RUN_TAG: "parent"})), False, False),
        (make_record(tags=owner_tags(**{OWNED_RUN_TAG: "r1"})), False, True),
    ],
)
def test_who_is_dead(record, alive, is_dead):
    assert judge(record, alive=alive) == (["r1"] if is_dead else [])


def test_this_process_is_alive_and_a_later_one_with_its_id_is_not():
    started = process_started(os.getpid())
    owner = RunOwner(host="here", pid=os.getpid(), started=started)
    assert started
    assert is_owner_alive(owner)
    ticks, _, boot = started.partition("@")
    for other in (f"{int(ticks) + 1}@{boot}", f"{ticks}@another-boot"):
        assert not is_owner_alive(RunOwner(host="here", pid=os.getpid(), started=other))


def test_zombie_is_gone():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = RunOwner(host="here", pid=child.pid, started=process_started(child.pid))
        assert is_owner_alive(owner)
        child.kill()
        deadline = time.monotonic() + 10
        while is_owner_alive(owner) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert Path(f"/proc/{child.pid}").exists()
        assert not is_owner_alive(owner)


def test_without_a_start_time_the_process_id_decides():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = RunOwner(host="here", pid=child.pid, started="")
        assert is_owner_alive(owner)
    assert not is_owner_alive(owner)


CHILD = textwrap.dedent(
    """
    import sys, time
    import dagster as dg
    from experiments_dagster.automation.reap_dead_runs import tag_run_owner

    @dg.op
    def work(context):
        tag_run_owner(context.instance, context.run_id)
        print(context.run_id, flush=True)
        sys.stdin.readline()

    @dg.job(executor_def=dg.in_process_executor)
    def nightly():
        work()

    nightly.execute_in_process(instance=dg.DagsterInstance.from_config(sys.argv[1]))
    """
)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


@pytest.fixture
def start_run(home):
    children = []

    def start():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        children.append(child)
        return child, child.stdout.readline().strip()

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def status_of(instance, run_id):
    return instance.get_run_by_id(run_id).status


def test_killed_run_is_reaped_and_told_once(home, start_run, tmp_path):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        child, run_id = start_run()
        other, other_id = start_run()
        assert instance.get_run_by_id(run_id).tags[HOST_TAG] == socket.gethostname()
        assert reap_dead_runs(instance) == ()

        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert status_of(instance, run_id) is STARTED
        reaped = reap_dead_runs(instance)
        assert [dead.run_id for dead in reaped] == [run_id]
        assert status_of(instance, run_id) is dg.DagsterRunStatus.FAILURE
        assert status_of(instance, other_id) is STARTED
        assert reap_dead_runs(instance) == ()

        outbox = Outbox(tmp_path / "outbox")
        channel = FileChannel(kind="file", name="file", path=tmp_path / "alerts.jsonl")
        for _ in range(2):
            process_finished_runs(instance, outbox, [channel])
        (record,) = [json.loads(line) for line in channel.path.read_text().splitlines()]
        assert record["run_id"] == run_id
        assert f"process {child.pid}" in record["text"]

        other.communicate("\n", timeout=60)
        assert status_of(instance, other_id) is dg.DagsterRunStatus.SUCCESS
        assert reap_dead_runs(instance) == ()


def test_run_that_ended_meanwhile_is_left_alone(monkeypatch):
    with dg.DagsterInstance.local_temp() as instance:

        @dg.op
        def work(context):
            tag_run_owner(context.instance, context.run_id)

        @dg.job(executor_def=dg.in_process_executor)
        def nightly():
            work()

        run_id = nightly.execute_in_process(instance=instance).run_id
        (record,) = instance.get_run_records()
        stale = make_record(run_id, tags=record.dagster_run.tags)
        monkeypatch.setattr(instance, "get_run_records", lambda filters: [stale])
        monkeypatch.setattr(module, "is_owner_alive", lambda owner: False)
        assert reap_dead_runs(instance) == ()
        assert status_of(instance, run_id) is dg.DagsterRunStatus.SUCCESS


def test_run_without_an_owner_is_reaped_by_age():
    with dg.DagsterInstance.local_temp() as instance:
        instance.add_run(dg.DagsterRun(job_name="nightly", run_id=dg_run_id(), status=STARTED))
        assert reap_dead_runs(instance) == ()
        later = datetime.now(UTC) + timedelta(hours=25)
        (dead,) = reap_dead_runs(instance, now=later)
        assert status_of(instance, dead.run_id) is dg.DagsterRunStatus.FAILURE


def dg_run_id():
    from dagster._core.utils import make_new_run_id

    return make_new_run_id()


def test_sensor_reports_how_many():
    sensor = build_reap_dead_runs_sensor()
    with dg.DagsterInstance.local_temp() as instance:
        skip = sensor(dg.build_sensor_context(instance=instance))
    assert skip.skip_message == "reaped=0"
    assert dg.Definitions(sensors=[sensor]).resolve_sensor_def("reap_dead_runs") is sensor
