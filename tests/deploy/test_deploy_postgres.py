"""deploy/dagster.yaml on a real Postgres: what Dagster keeps is kept there, and a kill is seen.

The last tests start what docker-compose.yaml starts, by its own command lines, without containers.
"""

import json
import os
import signal
import subprocess
import sys

import dagster as dg
import pytest
from deploy_stack import Stack, wait_for
from shop_factory import LAST_DAY

from experiments_dagster.automation.on_check_failure import CURSOR_KEY
from experiments_dagster.automation.reap_dead_runs import (
    PID_TAG,
    REAPED_TAG,
    process_started,
    reap_dead_runs,
)
from experiments_dagster.cli.runs import Runner, open_instance
from experiments_dagster.storage.layout import Layout

pytestmark = pytest.mark.slow

RUN = "import sys; from experiments_dagster.cli import main; main()"
SELECTOR = {"repositoryLocationName": "experiments_dagster", "repositoryName": "__repository__"}
LAUNCH = """
mutation Launch($selector: JobOrPipelineSelector!, $config: RunConfigData) {
  launchRun(executionParams: {selector: $selector, runConfigData: $config}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError {
    __typename
    ... on RepositoryLocation { repositories { sensors { name } schedules { name } } }
  }
} } } }
"""


def told(project):
    path = project.folder / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def statuses(rows):
    if rows("SELECT to_regclass('runs')") == [(None,)]:  # tables are made by the first process
        return {}
    return dict(rows("SELECT run_id, status FROM runs"))


def owner_of(rows, run_id):
    """Process that executes a run, once it has said so."""
    found = rows("SELECT value FROM run_tags WHERE run_id = %s AND key = %s", run_id, PID_TAG)
    return int(found[0][0]) if found else None


def freeze(rows, run_id):
    """Stop a run's process in the middle of its work; its id."""
    pid = wait_for(lambda: owner_of(rows, run_id), "the run has an owner", pause_s=0.01)
    os.kill(pid, signal.SIGSTOP)
    assert statuses(rows)[run_id] == "STARTED"
    return pid


def test_runs_checks_and_cursors_are_in_postgres_and_nothing_beside_it(deployed, rows):
    runner = Runner(deployed)
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    for _ in range(2):
        runner.deliver_alerts()
    ((run_id, job, status),) = rows("SELECT run_id, pipeline_name, status FROM runs")
    assert (job, status) == ("nightly_looks", "SUCCESS")
    assert owner_of(rows, run_id) == os.getpid()
    checks = rows(
        "SELECT partition, execution_status FROM asset_check_executions"
        " WHERE check_name = 'look_health' AND run_id = %s ORDER BY partition",
        run_id,
    )
    assert checks == [("skewed", "FAILED"), ("trial", "SUCCEEDED")]
    materialized = rows(
        "SELECT partition FROM event_logs WHERE run_id = %s AND asset_key LIKE %s"
        " AND dagster_event_type = 'ASSET_MATERIALIZATION'",
        run_id,
        '%"verdict"%',
    )
    assert materialized == [("trial",)]
    ((cursor,),) = rows("SELECT value FROM kvs WHERE key = %s", CURSOR_KEY)
    assert run_id in json.loads(cursor)["handled"]
    assert sorted(row[0] for row in rows("SELECT partition FROM dynamic_partitions")) == [
        "skewed",
        "trial",
    ]
    (alert,) = told(deployed)
    assert alert["experiment"] == "skewed"
    assert list(deployed.storage.rglob("*.db")) == []


def test_check_states_old_and_new_are_stored_together(deployed, rows):
    """A second night changes the state of one check and adds none; nothing is told again."""
    runner = Runner(deployed)
    for day in (LAST_DAY.replace(month=3, day=23), LAST_DAY):
        runner.take_looks(as_of=day, land=True)
        runner.deliver_alerts()
    states = [
        json.loads(value)
        for (value,) in rows("SELECT value FROM kvs WHERE key LIKE %s", "%/check/%")
    ]
    by_partition = {
        state["check"][2]: state for state in states if state["check"][2] in deployed.experiments
    }
    assert {name: state["failing"] for name, state in by_partition.items()} == {
        "skewed": True,
        "trial": False,
    }
    (last_run,) = rows("SELECT run_id FROM runs ORDER BY id DESC LIMIT 1")
    assert {state["run_id"] for state in by_partition.values()} >= {last_run[0]}
    assert [alert["experiment"] for alert in told(deployed)] == ["skewed"]


def test_a_killed_run_of_the_command_line_is_reaped_and_told_once(deployed, rows):
    with (deployed.folder / "run.log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, "run", "--config-dir", str(deployed.folder)],
            stdout=log,
            stderr=log,
        )
    try:
        run_id = wait_for(lambda: next(iter(statuses(rows)), None), "a run begins", pause_s=0.01)
        assert freeze(rows, run_id) == child.pid
        with open_instance(Layout(deployed.storage)) as instance:
            assert reap_dead_runs(instance) == ()
            child.kill()
            child.wait()
            assert statuses(rows) == {run_id: "STARTED"}
            (dead,) = reap_dead_runs(instance)
            assert dead.run_id == run_id
            assert reap_dead_runs(instance) == ()
    finally:
        child.kill()
        child.wait()
    assert statuses(rows) == {run_id: "FAILURE"}
    runner = Runner(deployed)
    for _ in range(2):
        runner.deliver_alerts()
    (alert,) = told(deployed)
    assert alert["run_id"] == run_id
    assert f"process {child.pid}" in alert["text"]
    # The next night goes on where the killed one stopped.
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    assert sorted(statuses(rows).values()) == ["FAILURE", "SUCCESS"]


@pytest.fixture
def stack(deployed, tmp_path):
    """All services of compose but Postgres, each as healthy as its own check says."""
    started = Stack(deployed, tmp_path / "stack")
    try:
        started.run("migrate")
        for together in (["code"], ["daemon", "webserver"]):
            for service in together:
                started.start(service)
            for service in together:
                wait_for(lambda name=service: started.is_healthy(name), f"{service} is healthy")
        yield started
    finally:
        started.stop()


def launch(stack, as_of):
    data = stack.post(
        LAUNCH,
        selector=SELECTOR | {"pipelineName": "nightly_looks"},
        config={"ops": {"take_looks": {"config": {"as_of": str(as_of)}}}},
    )["launchRun"]
    assert data["__typename"] == "LaunchRunSuccess", data
    return data["run"]["runId"]


def test_the_services_work_together_and_survive_a_kill(stack, deployed, rows):
    assert rows("SELECT count(*) FROM alembic_version") == [(1,)]
    (location,) = stack.post(LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert location["name"] == "experiments_dagster"
    (repository,) = location["locationOrLoadError"]["repositories"]
    assert {"name": "reap_dead_runs"} in repository["sensors"]
    assert {"name": "daily_looks"} in repository["schedules"]

    # The daemon's sensor finds the incoming files and lands them.
    landed = "SELECT count(*) FROM runs WHERE pipeline_name = 'ingest_day' AND status = 'SUCCESS'"
    wait_for(lambda: rows(landed) == [(1,)], "the sensor lands the files")

    # Queued by the webserver, started by the daemon, executed beside the code server.
    run_id = launch(stack, LAST_DAY.replace(month=3, day=23))
    wait_for(lambda: statuses(rows)[run_id] == "SUCCESS", "the run succeeds")
    # The daemon's sensor tells of the failed check, and keeps its cursor.
    wait_for(lambda: told(deployed), "the alert arrives")
    assert [alert["experiment"] for alert in told(deployed)] == ["skewed"]
    assert rows("SELECT value FROM kvs WHERE key = %s", CURSOR_KEY)
    ticks = rows("SELECT DISTINCT type FROM job_ticks WHERE status = 'SKIPPED'")
    assert ("SENSOR",) in ticks

    # A killed run under a living code server: the code server says so.
    second = launch(stack, LAST_DAY)
    os.kill(freeze(rows, second), signal.SIGKILL)
    wait_for(lambda: statuses(rows)[second] == "FAILURE", "the code server sees its dead run")

    # Killed with its code server, as when a container ends: the sensor of the next one says so.
    third = launch(stack, LAST_DAY)
    pid = freeze(rows, third)
    stack.kill("code")
    wait_for(lambda: not process_started(pid), "the run died with its code server")
    assert statuses(rows)[third] == "STARTED"
    stack.start("code")
    wait_for(lambda: stack.is_healthy("code"), "the code server is back")
    wait_for(lambda: statuses(rows)[third] == "FAILURE", "the reaper marks the run")
    assert rows("SELECT value FROM run_tags WHERE run_id = %s AND key = %s", third, REAPED_TAG)
    wait_for(
        lambda: {second, third} <= {alert["run_id"] for alert in told(deployed)},
        "both killed runs are told",
    )

    last = launch(stack, LAST_DAY)
    wait_for(lambda: statuses(rows)[last] == "SUCCESS", "the looks are taken after all")
    looks = {key.partition for key in latest_checks(deployed)}
    assert looks == {"skewed", "trial"}


def latest_checks(project):
    with open_instance(Layout(project.storage)) as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(["results", "sequential"]), "look_health"), limit=10
        )
        return [record.event.dagster_event.asset_check_evaluation_data for record in records]
