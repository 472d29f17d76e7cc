"""F-103: failed checks and runs become one alert each, on a real SQLite instance."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from experiments_dagster.alerts.file import FileChannel
from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.alerts.runs import CheckKey, CheckState
from experiments_dagster.automation import deliver as deliver_module
from experiments_dagster.automation import on_check_failure as module
from experiments_dagster.automation.deliver import load_states, read_run_facts, save_states
from experiments_dagster.automation.on_check_failure import (
    build_on_check_failure_sensor,
    enqueue_finished_runs,
    process_finished_runs,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    # Dagster's own SQLite storage, on closing a temporary instance.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster.*"),
]

CANARY = "unit-canary-7731"
EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")


@pytest.fixture
def instance():
    with dg.DagsterInstance.local_temp() as made:
        yield made


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def channel(tmp_path):
    return FileChannel(kind="file", name="file", path=tmp_path / "alerts.jsonl")


def told(channel):
    """Titles of the alerts that arrived, in order."""
    if not channel.path.exists():
        return []
    return [json.loads(line)["title"] for line in channel.path.read_text().splitlines()]


def run_asset(instance, *, passed, severity=dg.AssetCheckSeverity.ERROR, blocking=False):
    """One run of an unpartitioned asset with one check, and an asset downstream of it."""

    @dg.asset(key=["frames", "user_frame"])
    def user_frame():
        return None

    @dg.asset_check(asset=user_frame, blocking=blocking)
    def contract():
        return dg.AssetCheckResult(passed=passed, severity=severity, description="3 rows too many")

    @dg.asset(key=["decisions", "verdict"], deps=[user_frame])
    def verdict():
        return None

    job = dg.Definitions(
        assets=[user_frame, verdict],
        asset_checks=[contract],
        jobs=[dg.define_asset_job("run_look", selection="*")],
        executor=dg.in_process_executor,
    ).resolve_job_def("run_look")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def run_partitioned(instance, partition, *, passed):
    """One run of a check with a partition, through `asset_check(partitions_def=...)`."""

    @dg.asset(key=["frames", "ratio_frame"], partitions_def=EXPERIMENTS)
    def ratio_frame():
        return None

    @dg.asset_check(asset=ratio_frame, partitions_def=EXPERIMENTS)
    def contract():
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN)

    instance.add_dynamic_partitions("experiment", [partition])
    job = dg.Definitions(
        assets=[ratio_frame],
        asset_checks=[contract],
        jobs=[dg.define_asset_job("frames", selection="*")],
        executor=dg.in_process_executor,
    ).resolve_job_def("frames")
    return job.execute_in_process(instance=instance, partition_key=partition)


def run_nightly(instance, outcomes, *, crash=False, tags=None):
    """One op that reports the health of many experiments by `log_event`."""

    @dg.op
    def take_looks(context):
        for partition, passed in outcomes.items():
            context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(["decisions", "verdict"]),
                    check_name="look_health",
                    passed=passed,
                    partition=partition,
                )
            )
        if crash:
            raise ValueError(f"row of {CANARY}")

    @dg.job(executor_def=dg.in_process_executor)
    def nightly():
        take_looks()

    return nightly.execute_in_process(instance=instance, raise_on_error=False, tags=tags)


def test_clean_run_is_silent_and_downstream_is_there(instance, outbox, channel):
    result = run_asset(instance, passed=True, blocking=True)
    process_finished_runs(instance, outbox, [channel])
    assert told(channel) == []
    assert result.asset_materializations_for_node("decisions__verdict")


def test_blocking_check_is_told_once_and_nothing_else(instance, outbox, channel):
    result = run_asset(instance, passed=False, blocking=True)
    assert not result.success
    process_finished_runs(instance, outbox, [channel])
    assert told(channel) == ["Check contract failed on frames/user_frame"]
    record = json.loads(channel.path.read_text())
    assert record["level"] == "error"
    assert record["run_id"] == result.run_id
    assert "3 rows too many" in record["text"]
    assert instance.get_latest_materialization_event(dg.AssetKey(["decisions", "verdict"])) is None


@pytest.mark.parametrize("severity", list(dg.AssetCheckSeverity))
def test_check_that_does_not_block_is_told(instance, outbox, channel, severity):
    result = run_asset(instance, passed=False, severity=severity)
    assert result.success
    process_finished_runs(instance, outbox, [channel])
    levels = [json.loads(line)["level"] for line in channel.path.read_text().splitlines()]
    assert levels == ["error" if severity is dg.AssetCheckSeverity.ERROR else "warning"]


def test_partitioned_asset_check_has_its_experiment(instance, outbox, channel):
    run_partitioned(instance, "checkout_button", passed=False)
    run_partitioned(instance, "search_ranking", passed=True)
    process_finished_runs(instance, outbox, [channel])
    (record,) = [json.loads(line) for line in channel.path.read_text().splitlines()]
    assert record["experiment"] == "checkout_button"
    assert record["title"] == "Check contract failed on frames/ratio_frame [checkout_button]"


def test_logged_evaluations_are_told_by_experiment(instance, outbox, channel):
    run_nightly(instance, {"a": True, "b": False, "c": False})
    process_finished_runs(instance, outbox, [channel])
    assert told(channel) == [
        "Check look_health failed on decisions/verdict [b]",
        "Check look_health failed on decisions/verdict [c]",
    ]


def test_crashed_run_is_told_without_its_message(instance, outbox, channel):
    """F-113: the class of the error leaves the machine, what it says does not."""
    run_nightly(instance, {"b": False}, crash=True, tags={"experiment": "checkout_button"})
    process_finished_runs(instance, outbox, [channel])
    assert told(channel)[-1] == "Run of nightly failed"
    record = json.loads(channel.path.read_text().splitlines()[-1])
    assert "take_looks (ValueError)" in record["text"]
    assert record["experiment"] == "checkout_button"
    assert [p for p in outbox.root.rglob("*.json") if CANARY in p.read_text()] == []
    assert CANARY not in channel.path.read_text()


def test_two_ticks_tell_once(instance, tmp_path, channel):
    sensor = build_on_check_failure_sensor(tmp_path / "outbox", lambda: [channel])
    run_asset(instance, passed=False, blocking=True)
    first = sensor(dg.build_sensor_context(instance=instance))
    second = sensor(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    third = sensor(dg.build_sensor_context(instance=instance))
    assert told(channel) == ["Check contract failed on frames/user_frame"]
    assert "new_alerts=1" in first.skip_reason.skip_message
    assert "runs=0 new_alerts=0" in second.skip_reason.skip_message
    assert "runs=0" in third.skip_reason.skip_message
    assert sensor.minimum_interval_seconds == 30


def test_sensor_loads_in_definitions(tmp_path):
    sensor = build_on_check_failure_sensor(tmp_path / "outbox", list)
    definitions = dg.Definitions(sensors=[sensor])
    assert definitions.resolve_sensor_def("on_check_failure") is sensor


def test_episode_across_runs_and_a_restart(instance, outbox, channel):
    cursor = None
    for passed in (False, False, True, False):
        run_nightly(instance, {"a": passed})
        cursor = process_finished_runs(instance, Outbox(outbox.root), [channel], cursor)
    assert told(channel) == ["Check look_health failed on decisions/verdict [a]"] * 2


def test_lost_cursor_and_changed_tags_tell_nothing_twice(instance, outbox, channel):
    run = run_nightly(instance, {"a": False}, crash=True)
    run_nightly(instance, {"a": True})
    process_finished_runs(instance, outbox, [channel])
    assert len(told(channel)) == 2
    instance.daemon_cursor_storage.set_cursor_values({module.CURSOR_KEY: "{broken"})
    instance.add_run_tags(run.run_id, {"note": "looked at"})
    process_finished_runs(instance, outbox, [channel], "not json either")
    assert len(told(channel)) == 2


def move_end(instance, run_id, ended, *, updated=None):
    """Set when a run ended (and was last touched), as if the clock had been another."""
    moment = (updated or ended).replace(tzinfo=None).isoformat(" ")
    path = Path(instance.root_directory) / "history" / "runs.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE runs SET end_time = ?, update_timestamp = ? WHERE run_id = ?",
            (ended.timestamp(), moment, run_id),
        )
    connection.close()


def test_run_ended_long_ago_with_new_tags_is_left_alone(instance, outbox):
    now = datetime.now(UTC)
    run = run_nightly(instance, {"a": False}, crash=True)
    move_end(instance, run.run_id, now - timedelta(hours=5), updated=now)
    position = module.RunCursor(watermark=now).model_dump_json()
    assert enqueue_finished_runs(instance, outbox, position).runs == 0
    # The same run is read where the cursor has not come to it yet.
    behind = module.RunCursor(watermark=now - timedelta(hours=6)).model_dump_json()
    instance.daemon_cursor_storage.set_cursor_values({module.CURSOR_KEY: behind})
    assert enqueue_finished_runs(instance, outbox, behind).alerts == 2


def test_equal_end_times_lose_nothing(instance, outbox):
    runs = [run_nightly(instance, {name: False}).run_id for name in "abc"]
    same = datetime.now(UTC)
    for run_id in runs:
        move_end(instance, run_id, same)
    cursor, read = None, []
    for _ in range(4):
        done = enqueue_finished_runs(instance, outbox, cursor, max_runs=1)
        cursor = done.cursor
        read.append(done.runs)
    assert read == [1, 1, 1, 0]
    assert {alert.run_id for alert in outbox.alerts()} == set(runs)


def test_backlog_of_hours_is_worked_off_in_the_order_of_the_ends(instance, outbox):
    runs = [run_nightly(instance, {name: False}).run_id for name in "abcde"]
    now = datetime.now(UTC)
    for hours, run_id in enumerate(runs, start=2):
        move_end(instance, run_id, now - timedelta(hours=2 * hours))
    cursor, seen = None, []
    for _ in range(3):
        cursor = enqueue_finished_runs(instance, outbox, cursor, max_runs=2).cursor
        seen.append({alert.run_id for alert in outbox.alerts()})
    assert seen == [set(runs[3:]), set(runs[1:]), set(runs)]


def test_clock_ahead_hides_nothing_that_follows(instance, outbox):
    run_nightly(instance, {"a": False})
    past = datetime.now(UTC) - timedelta(hours=3)
    done = enqueue_finished_runs(instance, outbox, now=past)
    assert module.RunCursor.model_validate_json(done.cursor).watermark <= past
    run_nightly(instance, {"b": False})
    assert enqueue_finished_runs(instance, outbox, done.cursor).alerts == 1


@pytest.mark.parametrize("stage", ["save_states", "_advanced"])
def test_crash_between_the_steps_tells_once(instance, outbox, channel, monkeypatch, stage):
    run_nightly(instance, {"a": False}, crash=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, stage, lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            process_finished_runs(instance, outbox, [channel])
    assert len(outbox.alerts()) == 2
    process_finished_runs(instance, outbox, [channel])
    process_finished_runs(instance, outbox, [channel])
    assert len(told(channel)) == 2


def test_channel_down_leaves_the_run_and_the_cursor_alone(instance, outbox, channel, tmp_path):
    """F-104: what was looked at stands; the alert waits in the outbox."""
    (tmp_path / "alerts.jsonl").mkdir()
    result = run_asset(instance, passed=False)
    cursor = process_finished_runs(instance, outbox, [channel])
    assert result.success
    assert len(outbox.pending("file")) == 1
    (tmp_path / "alerts.jsonl").rmdir()
    process_finished_runs(instance, outbox, [channel], cursor)
    assert len(told(channel)) == 1


def test_busy_processing_changes_nothing(instance, outbox, monkeypatch):
    run_nightly(instance, {"a": False})
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.0)
    with module.exclusive_lock(outbox.root / "process.lock") as held:
        assert held
        done = enqueue_finished_runs(instance, outbox, "kept")
    assert (done.cursor, done.runs) == ("kept", 0)
    assert enqueue_finished_runs(instance, outbox).alerts == 1


def test_unreadable_events_are_told_and_hold_up_nothing(instance, outbox):
    broken = run_nightly(instance, {"a": True})
    run_nightly(instance, {"b": False})
    runs = Path(instance.root_directory) / "history" / "runs"
    with sqlite3.connect(runs / f"{broken.run_id}.db") as connection:
        connection.execute("UPDATE event_logs SET event = '{}'")
    connection.close()
    done = enqueue_finished_runs(instance, outbox)
    assert done.runs == 2
    assert {alert.title for alert in outbox.alerts()} == {
        "Run of nightly failed",
        "Check look_health failed on decisions/verdict [b]",
    }


def test_states_old_and_new_together_are_all_kept(instance):
    """`set_cursor_values` alone loses the new key beside an old one on SQLite."""
    at = datetime.now(UTC)
    keys = [CheckKey(asset="a", check="c", partition=str(i)) for i in range(450)]
    states = {key: CheckState(failing=True, run_id="r1", at=at) for key in keys}
    some = dict(list(states.items())[:100])
    save_states(instance, some, known={})
    save_states(instance, states, known=load_states(instance, keys))
    assert load_states(instance, keys) == states


def test_run_facts_of_a_clean_run(instance):
    result = run_nightly(instance, {"a": True})
    (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[result.run_id]))
    facts = read_run_facts(instance, record)
    assert (facts.status, facts.failed_steps, facts.failure) == ("SUCCESS", (), None)
    assert facts.checks[0].key == CheckKey(
        asset="decisions/verdict", check="look_health", partition="a"
    )
    assert facts.checks[0].step == "take_looks"


def test_evaluations_beyond_one_page_and_one_statement(instance, outbox, monkeypatch):
    monkeypatch.setattr(deliver_module, "_PAGE", 10)
    monkeypatch.setattr(deliver_module, "_KEYS_PER_STATEMENT", 7)
    outcomes = {f"e{number:02d}": number % 3 == 0 for number in range(35)}
    for _ in range(2):
        run_nightly(instance, outcomes)
    failing = {name for name, passed in outcomes.items() if not passed}
    assert enqueue_finished_runs(instance, outbox).alerts == len(failing)
    assert {alert.experiment for alert in outbox.alerts()} == failing
