"""Looks through Dagster: the asset graph for one experiment, one op for many."""

import datetime as dt
import json

import dagster as dg
import polars as pl
import pytest
from shop_factory import LAST_DAY, land_all, shop_project

from experiments_dagster.automation.looks_run import Trouble
from experiments_dagster.automation.partitions import ARRIVAL_DAYS
from experiments_dagster.automation.schedules import daily_looks, due_experiments
from experiments_dagster.automation.sensors import (
    on_config_change,
    on_information,
    on_new_files,
    reached_experiments,
)
from experiments_dagster.cli.runs import Runner
from experiments_dagster.config.project import load_project
from experiments_dagster.frames import unit_frames
from experiments_dagster.looks.publish import report_path
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import open_ledger, take_look
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

AFTER = dt.datetime(2026, 4, 7, 12, tzinfo=dt.UTC)


def looks_of(project, slug="trial"):
    manifest = Manifest(Layout(project.storage)).refresh()
    return recorded_looks(open_ledger(manifest, project.experiments[slug]))


def events(instance, job=None):
    """Materializations and check evaluations of all runs, oldest run first."""
    found = []
    for record in reversed(instance.get_run_records()):
        if job in (None, record.dagster_run.job_name):
            for entry in instance.all_logs(record.dagster_run.run_id):
                event = entry.dagster_event
                if event is not None and event.event_type_value in (
                    "ASSET_MATERIALIZATION",
                    "ASSET_CHECK_EVALUATION",
                ):
                    found.append(event)
    return found


def checks(instance):
    """(asset, partition, check) to passed, the last evaluation."""
    data = [e.event_specific_data for e in events(instance)]
    evaluations = [d for d in data if isinstance(d, dg.AssetCheckEvaluation)]
    return {
        (e.asset_key.to_user_string(), e.partition, e.check_name): e.passed for e in evaluations
    }


def materialized(instance, key):
    return {
        e.partition
        for e in events(instance)
        if e.event_type_value == "ASSET_MATERIALIZATION" and e.asset_key == dg.AssetKey(key)
    }


def run_look(runner, slug, as_of=LAST_DAY):
    config = {"ops": {"unit_frames": {"config": {"as_of": str(as_of)}}}}
    return runner.definitions.resolve_job_def("run_look").execute_in_process(
        instance=runner.instance, partition_key=slug, run_config=config, raise_on_error=False
    )


def test_many_looks_take_two_events_each_and_leave_tables_reports_and_a_catalog(tmp_path):
    project = shop_project(tmp_path, effects={"trial": 0.3, "null": 0.0, "other": 0.3})
    runner = Runner(project)
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    logged = events(runner.instance, "nightly_looks")
    landing = [e for e in logged if "raw" in str(e.event_specific_data)[:400]]
    assert len(logged) - len(landing) == 2 * len(project.experiments)
    assert materialized(runner.instance, ["decisions", "verdict"]) == set(project.experiments)
    assert looks_of(project)[0].verdict == "SHIP"
    assert looks_of(project, "null")[0].verdict != "SHIP"
    layout = Layout(project.storage)
    for slug in project.experiments:
        assert report_path(layout, slug).read_text().startswith("<!doctype html>")
        night = pl.read_parquet(
            layout.root / "results" / "nights" / "*" / "effect_estimates.parquet"
        )
        table = night.filter(pl.col("experiment") == slug)
        assert set(table["status"]) == {"ok"}
        assert table["ledger_head"].n_unique() == 1
    assert layout.catalog.exists()
    assert oct(layout.catalog.stat().st_mode)[-3:] == "444"


def test_a_second_run_on_the_same_data_spends_nothing_and_changes_nothing(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    runner.take_looks(as_of=LAST_DAY, land=True)
    before = {path: path.read_bytes() for path in (project.storage / "ledger").rglob("*.json")}
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    after = {path: path.read_bytes() for path in (project.storage / "ledger").rglob("*.json")}
    assert before == after
    assert len(looks_of(project)) == 1


def test_the_asset_graph_gives_the_same_look_as_the_op(tmp_path):
    one, two = (shop_project(tmp_path / name) for name in ("graph", "op"))
    for project in (one, two):
        land_all(project)
    assert looks_of(one) == []
    graph = Runner(one)
    assert run_look(graph, "trial").success
    Runner(two).take_looks(as_of=LAST_DAY)
    seen, again = looks_of(one)[0], looks_of(two)[0]
    ignored = {"inputs", "frames"}
    assert seen.model_dump(exclude=ignored) == again.model_dump(exclude=ignored)
    assert materialized(graph.instance, ["reports", "experiment_report"]) == {"trial"}
    assert checks(graph.instance)["results/sequential", "trial", "look_health"] is True


def test_a_failed_health_check_blocks_the_verdict_in_the_graph(tmp_path):
    project = shop_project(tmp_path, real_shares={"trial": {"control": 0.6, "treatment": 0.4}})
    runner = Runner(project)
    land_all(project)
    result = run_look(runner, "trial")
    assert not result.success
    assert materialized(runner.instance, ["results", "sequential"]) == {"trial"}
    assert materialized(runner.instance, ["decisions", "verdict"]) == set()
    assert checks(runner.instance)["results/sequential", "trial", "look_health"] is False
    assert looks_of(project)[0].verdict == "INVALID"
    assert not (Layout(project.storage).root / "results" / "verdicts").exists()


def test_a_healthy_experiment_beside_an_invalid_one_keeps_its_verdict(tmp_path):
    project = shop_project(
        tmp_path,
        effects={"fair": 0.3, "unfair": 0.3},
        real_shares={"unfair": {"control": 0.6, "treatment": 0.4}},
    )
    runner = Runner(project)
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    assert materialized(runner.instance, ["decisions", "verdict"]) == {"fair"}
    found = checks(runner.instance)
    assert found["results/sequential", "unfair", "look_health"] is False
    assert found["results/sequential", "fair", "look_health"] is True
    assert "60/40: configuration?" in looks_of(project, "unfair")[0].reason


def test_an_unknown_arm_is_named_and_promotes_nothing(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    land_all(project)
    stranger = pl.DataFrame(
        {
            "unit": ["u-canary-77"],
            "exposed_at": [dt.datetime(2026, 3, 5, tzinfo=dt.UTC)],
            "experiment": ["trial"],
            "variant": ["unheard_of"],
        }
    )
    stranger.write_parquet(tmp_path / "incoming" / "exposures" / "stranger.parquet")
    land_all(project)
    result = run_look(runner, "trial")
    assert not result.success
    assert (
        "'unheard_of' is not configured"
        in result.failure_data_for_node("unit_frames").error.cause.message
    )
    assert materialized(runner.instance, ["frames", "user_frame"]) == set()
    assert not (Layout(project.storage).frame("user_frame", "trial") / "current.json").exists()
    failures = runner.take_looks(as_of=LAST_DAY)
    assert [failure.code for failure in failures] == [3]
    error = result.failure_data_for_node("unit_frames").error
    assert "'unheard_of' is not configured" in str(error.cause or error)
    log = "".join(str(event) for event in events(runner.instance))
    assert "u-canary-77" not in log


def test_a_broken_contract_promotes_nothing_and_stops_what_is_downstream(tmp_path, monkeypatch):
    project = shop_project(tmp_path)
    runner = Runner(project)
    land_all(project)

    def broken(frame, experiment, **_):
        raise ContractError(f"ratio_frame of {experiment.slug}", {"order_value is_finite": 3})

    for name in ("validate_unit_frames", "validate_ratio_frame"):
        monkeypatch.setattr(unit_frames, name, broken)
    assert not run_look(runner, "trial").success
    found = checks(runner.instance)
    assert found["frames/ratio_frame", "trial", "ratio_frame_contract"] is False
    assert found["frames/user_frame", "trial", "user_frame_contract"] is True
    assert materialized(runner.instance, ["frames", "user_frame"]) == set()
    assert not (Layout(project.storage).frame("user_frame", "trial") / "current.json").exists()
    assert looks_of(project) == []


def test_a_changed_plan_is_refused_with_old_and_new_and_stops_no_other(tmp_path):
    project = shop_project(tmp_path, effects={"trial": 0.3, "other": 0.3})
    runner = Runner(project)
    runner.take_looks(as_of=dt.date(2026, 3, 23), land=True)
    path = tmp_path / "configs" / "experiments" / "trial.yaml"
    path.write_text(path.read_text().replace("mde: 0.12", "mde: 0.05"))
    changed = Runner(load_project(tmp_path))
    failures = changed.take_looks(as_of=LAST_DAY)
    assert [failure.subject for failure in failures] == ["trial"]
    assert "plan.mde: 0.12 -> 0.05" in failures[0].message
    assert len(looks_of(project, "other")) == 2
    assert len(looks_of(project)) == 1


def test_one_crash_stops_no_other_and_is_named_without_its_message(tmp_path, monkeypatch):
    project = shop_project(tmp_path, effects={"alpha": 0.3, "beta": 0.3})
    runner = Runner(project)
    from experiments_dagster.automation import looks_run

    real = looks_run.take_look

    def crash(project, manifest, experiment, **more):
        if experiment.slug == "alpha":
            raise ZeroDivisionError("unit u-secret-1")
        return real(project, manifest, experiment, **more)

    monkeypatch.setattr(looks_run, "take_look", crash)
    failures = runner.take_looks(as_of=LAST_DAY, land=True)
    assert failures == [Trouble(subject="alpha", code=1, message="crashed with ZeroDivisionError")]
    assert len(looks_of(project, "beta")) == 1


@pytest.fixture
def landed(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    land_all(project)
    return project, runner


def test_configuration_becomes_partitions(tmp_path):
    project = shop_project(tmp_path)
    resource = ExperimentsProject(folder=str(tmp_path))
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"experiments": resource})
        assert "trial" in on_config_change(context).skip_message
        assert instance.get_dynamic_partitions("experiment") == ["trial"]
        assert on_config_change(context).skip_message == "nothing new"
        text = (tmp_path / "configs" / "experiments" / "trial.yaml").read_text()
        (tmp_path / "configs" / "experiments" / "second.yaml").write_text(
            text.replace("salt-of-trial", "salt-of-second")
        )
        assert "second" in on_config_change(context).skip_message
    assert project.experiments.keys() == {"trial"}


def test_new_files_request_one_landing_and_no_files_none(tmp_path):
    project = shop_project(tmp_path)
    resource = ExperimentsProject(folder=str(tmp_path))
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"experiments": resource})
        assert on_new_files(context).partition_key
        runner = Runner(project)
        job = runner.definitions.resolve_job_def("ingest_day")
        assert job.execute_in_process(instance=instance, partition_key="2026-04-07").success
        assert on_new_files(context).skip_message == "no new files"
        assert checks(instance)["raw/events", "2026-04-07", "landing_health"] is True


def test_the_daily_schedule_asks_for_due_looks_once(landed):
    project, runner = landed
    resource = ExperimentsProject(folder=str(project.folder))
    context = dg.build_schedule_context(
        instance=runner.instance,
        scheduled_execution_time=AFTER,
        resources={"experiments": resource},
    )
    request = daily_looks(context)
    assert request.run_key == "looks:2026-04-07"
    assert request.run_config["ops"]["take_looks"]["config"]["experiments"] == ["trial"]
    runner.take_looks(["trial"], as_of=AFTER.date())
    assert daily_looks(context).skip_message == "no look is due today"


def test_three_missed_ticks_are_one_look_on_the_latest_data(landed):
    project, runner = landed
    manifest = Manifest(Layout(project.storage)).refresh()
    for hours in (0, 24, 48):
        now = AFTER + dt.timedelta(hours=hours)
        for slug in due_experiments(project, manifest, now):
            runner.take_looks([slug], as_of=now.date())
    assert [look.planned_index for look in looks_of(project)] == [4]


def test_information_triggers_a_look_only_when_it_is_reached(tmp_path):
    looks = "{schedule: information, design: {kind: group_sequential, planned: 2}}"
    project = shop_project(tmp_path, looks=looks, effects={"trial": 0.3})
    runner = Runner(project)
    land_all(project)
    manifest = Manifest(Layout(project.storage)).refresh()
    early = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
    assert reached_experiments(project, manifest, early) == []
    late = dt.datetime(2026, 4, 3, 12, tzinfo=dt.UTC)
    assert reached_experiments(project, manifest, late) == [("trial", 2)]
    resource = ExperimentsProject(folder=str(tmp_path))
    context = dg.build_sensor_context(instance=runner.instance, resources={"experiments": resource})
    result = on_information(context)
    keys = [request.run_key for request in result.run_requests]
    assert keys == [f"information:trial:1:2:{result.cursor}"]
    again = dg.build_sensor_context(
        instance=runner.instance, resources={"experiments": resource}, cursor=result.cursor
    )
    assert "nothing has landed" in on_information(again).skip_message


def test_a_backfill_of_old_days_takes_no_look(landed):
    project, runner = landed
    job = runner.definitions.resolve_job_def("ingest_day")
    for day in ("2026-03-05", "2026-03-06"):
        assert job.execute_in_process(instance=runner.instance, partition_key=day).success
    assert looks_of(project) == []
    runner.take_looks(as_of=LAST_DAY)
    assert len(looks_of(project)) == 1


def test_the_ledger_twin_is_strict_json(landed):
    project, runner = landed
    runner.take_looks(as_of=LAST_DAY)
    twins = list((project.storage / "results" / "looks").rglob("*.json"))
    assert len(twins) == 1

    def refuse(name):
        raise AssertionError(name)

    json.loads(twins[0].read_text(), parse_constant=refuse)


def test_the_landing_sensor_names_a_partition_that_exists(tmp_path):
    project = shop_project(tmp_path, n_users=10)
    definitions = Runner(project).definitions
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(
            instance=instance,
            repository_def=definitions.get_repository_def(),
            resources={"experiments": ExperimentsProject(folder=str(tmp_path))},
        )
        data = on_new_files.evaluate_tick(context)
    assert len(data.run_requests) == 1
    assert ARRIVAL_DAYS.has_partition_key(data.run_requests[0].partition_key)


def test_a_look_in_the_future_is_refused(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    land_all(project)
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2)
    troubles = runner.take_looks(as_of=tomorrow)
    assert [trouble.code for trouble in troubles] == [1]
    assert looks_of(project) == []


def test_the_last_look_waits_for_data_that_lag_behind(tmp_path):
    project = shop_project(tmp_path)
    path = tmp_path / "incoming" / "shop_events" / "trial.parquet"
    events = pl.read_parquet(path)
    split = dt.datetime(2026, 3, 20, tzinfo=dt.UTC)
    events.filter(pl.col("occurred_at") < split).write_parquet(path)
    runner = Runner(project)
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    assert [look.is_planned_end for look in looks_of(project)] == []
    events.filter(pl.col("occurred_at") >= split).write_parquet(path.with_name("late.parquet"))
    assert runner.take_looks(as_of=LAST_DAY, land=True) == []
    assert [look.is_planned_end for look in looks_of(project)] == [True]


def test_an_experiment_whose_file_is_gone_stops_no_other(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    troubles = runner.take_looks(["gone", "trial"], as_of=LAST_DAY, land=True)
    assert [trouble.subject for trouble in troubles] == ["gone"]
    assert len(looks_of(project)) == 1


def test_tables_of_a_run_that_died_after_recording_are_written_later(tmp_path):
    project = shop_project(tmp_path)
    land_all(project)
    manifest = Manifest(Layout(project.storage)).refresh()
    trial = project.experiments["trial"]
    at = dt.datetime(2026, 3, 23, tzinfo=dt.UTC)
    take_look(project, manifest, trial, as_of=at)
    Runner(project).take_looks(as_of=LAST_DAY)
    nights = project.storage / "results" / "nights"
    found = pl.read_parquet(nights / "*" / "looks.parquet")
    assert sorted(found["look"]) == [1, 2]
