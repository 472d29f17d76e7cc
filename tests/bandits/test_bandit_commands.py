"""A bandit through Dagster and the command line: run, show, replay, exit codes."""

import datetime as dt
import json

import dagster as dg
import pytest
from bandit_factory import (
    BANDIT,
    FIRST,
    bandit_project,
    forge_head,
    history_of,
    live,
    live_day,
    write_bandit,
)
from typer.testing import CliRunner

from experiments_dagster.automation.schedules import daily_bandits
from experiments_dagster.bandits.history import period_folder
from experiments_dagster.cli import app
from experiments_dagster.cli.runs import open_instance
from experiments_dagster.definitions import build_definitions
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.layout import Layout

DAY = dt.timedelta(days=1)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments, code=0):
    found = run(*arguments, "--json", code=code).stdout
    return json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    project = bandit_project(tmp_path_factory.mktemp("commands"))
    live(project, 4)
    return project


def bandit(project, *arguments, **named):
    return run("bandit", "headline", "--config-dir", project.folder, *arguments, **named)


def test_shares_and_effects_as_json(lived):
    document = run_json("bandit", "headline", "--config-dir", lived.folder)
    assert document["arms"] == ["plain", "bold", "loud"]
    assert [period["period"] for period in document["periods"]] == [1, 3, 4, 5, 6]
    for period in document["periods"]:
        assert sum(arm["share"] for arm in period["arms"]) == pytest.approx(1)
    assert {row["label"] for row in document["estimates"]} == {"ADAPTIVE"}
    assert {row["method"] for row in document["estimates"]} == {"weighted_ipw", "within_periods"}
    assert document["sample_ratio"]["passed"]
    assert (document["seed"], document["floor"], document["cutoff"]) == (7, 0.2, 4)


def test_people_get_tables_and_the_label(lived, tmp_path):
    text = bandit(lived, "--out-md", tmp_path / "b.md").stdout
    assert "the probability of every decision" in text
    assert "ADAPTIVE: shares followed the outcomes" in text
    assert "units of an arm: these intervals are somewhat too narrow" in text
    assert "| ADAPTIVE | bold | weighted_ipw |" in (tmp_path / "b.md").read_text()


def test_a_replay_recomputes_all_periods(lived):
    document = run_json("bandit", "headline", "--replay", "--config-dir", lived.folder)
    assert document == {"bandit": "headline", "periods": 5, "identical": True, "differing": []}
    assert "5 periods computed again, all the same bytes" in bandit(lived, "--replay").stdout


def test_a_replay_that_differs_exits_as_damaged(tmp_path):
    project = bandit_project(tmp_path)
    live(project, 2)
    last = max(period_folder(Layout(project.storage), "headline").glob("0*.json"))
    document = json.loads(last.read_bytes())
    document["arms"][1]["share"], document["arms"][2]["share"] = 0.4, 0.2
    last.write_text(json.dumps(document))
    assert "not the one that the head names" in bandit(project, "--replay", code=4).stderr
    forge_head(project)
    found = run_json("bandit", "headline", "--replay", "--config-dir", tmp_path, code=4)
    assert not found["identical"]
    (differing,) = found["differing"]
    assert any(line.startswith("arms.1.share") for line in differing["differences"])
    assert "1 differ" in bandit(project, "--replay", code=4).stdout


def test_what_cannot_be_shown(tmp_path):
    project = bandit_project(tmp_path)
    assert "no shares are recorded yet" in bandit(project, code=2).stderr
    unknown = run("bandit", "nobody", "--config-dir", tmp_path, code=2)
    assert "unknown bandit 'nobody'; known: headline" in unknown.stderr


def test_run_records_the_next_period_and_the_asset_says_so(tmp_path):
    project = bandit_project(tmp_path)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST)
    assert [record.period for record in history_of(project).periods] == [1]
    live_day(project, FIRST)
    live_day(project, FIRST + DAY)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST + 2 * DAY)
    second = history_of(project).periods[-1]
    assert (second.period, sum(row.n for row in second.arms)) == (3, 80)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST + 2 * DAY)
    assert len(history_of(project).periods) == 2
    instance = open_instance(Layout(project.storage))
    assert instance.get_dynamic_partitions("bandit") == ["headline"]
    event = instance.get_latest_materialization_event(dg.AssetKey(["results", "bandit"]))
    metadata = event.asset_materialization.metadata
    assert event.asset_materialization.partition == "headline"
    assert metadata["period"].value == 3
    assert "| bold |" in metadata["shares"].value


def test_a_changed_bandit_fails_the_run_with_the_change_named(tmp_path):
    project = bandit_project(tmp_path)
    live(project, 1)
    write_bandit(tmp_path, BANDIT.replace("seed: 7", "seed: 8"))
    result = run("run", "--config-dir", tmp_path, "--as-of", FIRST + 6 * DAY, code=2)
    assert "headline: the bandit changed" in " ".join(result.stderr.split())
    assert "seed: 7 -> 8" in " ".join(result.stderr.split())
    assert "its file says something else" in bandit(project).stderr


def test_damaged_records_exit_as_damaged(tmp_path):
    project = bandit_project(tmp_path)
    live(project, 1)
    plan = period_folder(Layout(project.storage), "headline") / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b"0.2", b"0.3"))
    bandit(project, code=4)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST + 6 * DAY, code=4)


def test_lost_records_stop_everything_and_the_doctor_names_them(tmp_path):
    project = bandit_project(tmp_path)
    live(project, 5)
    whole = run_json("doctor", "--config-dir", tmp_path)["findings"]
    (found,) = [row for row in whole if row["subject"] == "bandit headline"]
    assert (found["ok"], found["message"]) == (True, "6 periods, chain unbroken")
    folder = period_folder(Layout(project.storage), "headline")
    for path in sorted(folder.glob("0*.json"))[-4:]:
        path.unlink()
    assert "6 periods were recorded, 2 are here" in " ".join(
        bandit(project, "--replay", code=4).stderr.split()
    )
    bandit(project, code=4)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST + 9 * DAY, code=4)
    findings = run_json("doctor", "--config-dir", tmp_path, code=4)["findings"]
    (bad,) = [row for row in findings if not row["ok"]]
    assert bad["subject"] == "bandit headline"
    assert "6 periods were recorded, 2 are here" in bad["message"]


def test_shares_of_the_past_are_refused_with_period_and_rule(tmp_path):
    project = bandit_project(tmp_path)
    run("run", "--config-dir", tmp_path, "--as-of", FIRST)
    live_day(project, FIRST)
    live_day(project, FIRST + DAY)
    result = run("run", "--config-dir", tmp_path, "--as-of", FIRST + DAY, code=3)
    assert "period 2 began at" in " ".join(result.stderr.split())
    assert [record.period for record in history_of(project).periods] == [1]


def test_every_morning_asks_for_the_bandits_that_are_due(tmp_path):
    text = BANDIT.replace("first: 2026-03-02", "first: 2036-03-02")
    project = bandit_project(tmp_path, text)
    resources = {"experiments": ExperimentsProject(folder=str(tmp_path))}
    moment = dt.datetime(2026, 3, 2, 5, 30, tzinfo=dt.UTC)

    def tick():
        with dg.build_schedule_context(
            scheduled_execution_time=moment, resources=resources
        ) as context:
            return daily_bandits(context)

    (request,) = tick()
    assert request.partition_key == "headline"
    job = build_definitions(tmp_path).resolve_job_def("allocate_bandit")
    instance = open_instance(Layout(project.storage))
    instance.add_dynamic_partitions("bandit", ["headline"])
    assert job.execute_in_process(instance=instance, partition_key="headline").success
    assert isinstance(tick(), dg.SkipReason)
