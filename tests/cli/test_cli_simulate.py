"""`experiments simulate` and `experiments explore` as people type them."""

import datetime as dt
import hashlib
import json
import subprocess
import sys

import polars as pl
import pytest
import typer
from shop_factory import LAST_DAY, land_all, shop_project
from typer.testing import CliRunner

from experiments_dagster.cli import explore, simulate
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.take import build_frames
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

USER_COLUMNS = [
    *("user_id", "group", "timestamp", "sessions_pre", "revenue_pre", "conversions_pre"),
    *("sessions", "revenue", "conversions", "converted"),
]


def run(*arguments, code=0):
    app = typer.Typer()
    for commands in (simulate, explore):
        commands.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def make(kind, out, *flags):
    return load(run("simulate", kind, "--out", out, *flags, "--json").stdout)


@pytest.mark.parametrize("kind", ["none", "activity", "monetization", "mixed"])
def test_users_are_written_as_the_suffix_says_and_alike(kind, tmp_path):
    documents = [
        make(
            kind, tmp_path / f"data{suffix}", "--users", 300, "--seed", 7, "--heavy-tail", "--drift"
        )
        for suffix in (".csv", ".parquet")
    ]
    text = pl.read_csv(tmp_path / "data.csv", try_parse_dates=True)
    binary = pl.read_parquet(tmp_path / "data.parquet")
    assert text.columns == binary.columns == USER_COLUMNS
    assert text.drop("timestamp").equals(binary.drop("timestamp"))
    assert text["timestamp"].dt.replace_time_zone("UTC").equals(binary["timestamp"])
    stored = load((tmp_path / "data.truth.json").read_text())
    assert stored["effects"] == documents[0]["effects"] == documents[1]["effects"]
    assert stored["seed"] == 7
    assert stored["parameters"]["heavy_tail"] is True
    assert stored["parameters"]["drift"] == 0.5
    assert set(stored["derivations"]) == {"analytic", "potential_outcomes"}
    assert stored["files"][f"scenario_{kind}"]["columns"] == USER_COLUMNS


def test_a_folder_gets_the_names_of_the_tables(tmp_path):
    make("activity", tmp_path / "synthetic", "--users", 100, "--format", "csv")
    make("ab-ml", tmp_path / "log", "--users", 50, "--batches", 3)
    make("saas", tmp_path / "saas", "--users", 100, "--days", 2)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "synthetic/scenario_activity.csv",
        "synthetic/activity.truth.json",
        *(f"log/events_00{k}.parquet" for k in (1, 2, 3)),
        "log/ab_ml.truth.json",
        *(f"saas/{name}.parquet" for name in ("users", "daily", "potential_outcomes")),
        "saas/saas.truth.json",
    }
    assert not list(tmp_path.rglob(".staging"))


def test_several_tables_for_one_file_name_stand_beside_each_other(tmp_path):
    document = make("saas", tmp_path / "x.csv", "--users", 100, "--days", 2, "--confounding", 1)
    names = [item["file"] for item in document["files"].values()]
    assert names == ["x_users.csv", "x_daily.csv", "x_potential_outcomes.csv"]
    assert pl.read_csv(tmp_path / "x_daily.csv").height == 200
    assert document["truth"] == "x.truth.json"
    assert not document["is_randomised"]


def test_all_batches_fit_in_one_file(tmp_path):
    make("ab-ml", tmp_path / "log.parquet", "--users", 50, "--batches", 3)
    assert pl.read_parquet(tmp_path / "log.parquet").height == 450


def test_a_second_run_replaces_its_own_files_and_no_others(tmp_path):
    own, foreign = tmp_path / "own.csv", tmp_path / "foreign.csv"
    make("activity", own, "--users", 100)
    make("activity", own, "--users", 200)
    assert pl.read_csv(own).height == 200
    foreign.write_text("precious\n1\n")
    error = run("simulate", "activity", "--out", foreign, code=2).stderr
    assert "was not simulated here" in error
    assert foreign.read_text() == "precious\n1\n"
    (tmp_path / "other.truth.json").write_text("[1]")
    assert "is no truth" in run("simulate", "none", "--out", tmp_path / "other.csv", code=2).stderr
    assert not (tmp_path / "other.csv").exists()


def test_a_configuration_file_gives_any_parameter_and_flags_come_before_it(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"users": 77, "sessions_dispersion": 0.5, "seed": 3}))
    document = make("mixed", tmp_path / "a.csv", "--config", config, "--seed", 4)
    assert document["units"]["control"] + document["units"]["test"] == 77
    assert document["parameters"]["sessions_dispersion"] == 0.5
    assert document["seed"] == 4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"users": 5, "users": 6}', "'users' stands there twice"),
        ('{"users": NaN}', "NaN is not a number"),
        ("[]", "must be an object"),
        ("{", "cannot be read as JSON"),
        ('{"typo": 1}', "no parameter 'typo'"),
    ],
)
def test_a_configuration_file_with_a_mistake_writes_nothing(text, rule, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(text)
    out = tmp_path / "a.csv"
    assert rule in run("simulate", "mixed", "--out", out, "--config", config, code=2).stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("mixed", "--out", "a.json"), "unknown file type '.json'"),
        (("mixed", "--out", "folder", "--format", "xls"), "unknown file type '.xls'"),
        (("saas", "--out", "folder", "--drift"), "no parameter 'drift'"),
        (("mixed", "--out", "a.csv", "--batches", "2"), "no parameter 'batches'"),
        (("nonsense", "--out", "a.csv"), "unknown kind 'nonsense'"),
        (("mixed", "--out", "a.csv", "--seed", "-1"), "seed is -1"),
    ],
)
def test_flags_that_do_not_fit_are_named(arguments, rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rule in run("simulate", *arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_people_see_what_was_written_and_the_truth(tmp_path):
    text = run("simulate", "activity", "--out", tmp_path / "a.csv", "--users", 1000).stdout
    assert "1,000 rows" in text
    assert "a.truth.json" in text
    line = next(
        row for row in text.splitlines() if row.startswith("sessions ") and "relative" in row
    )
    assert "+0.07" in line
    assert "analytic" in line


def test_a_simulated_file_is_explored(tmp_path):
    make("saas", tmp_path / "x.parquet", "--users", 2000, "--days", 3, "--confounding", 1)
    flags = (
        "--input",
        tmp_path / "x_users.parquet",
        "--group-col",
        "cohort",
        "--unit-col",
        "user_id",
    )
    pre = ("--pre", "churn_risk, power_user", "--ratio", "per_call=revenue/ai_calls")
    files = ("--out-html", tmp_path / "e.html", "--out-parquet", tmp_path / "e.parquet")
    document = load(run("explore", *flags, *pre, *files, "--json").stdout)
    assert document["is_look"] is False
    assert document["unbalanced"] == ["churn_risk", "power_user"]
    assert {row["subject"] for row in document["sections"]["balance"]} == {
        "churn_risk",
        "power_user",
    }
    assert "per_call" in {row["subject"] for row in document["sections"]["derived"]}
    assert (tmp_path / "e.html").read_text().startswith("<!doctype html>")
    assert pl.read_parquet(tmp_path / "e.parquet").height > 100
    text = run("explore", *flags, *pre).stdout
    assert "spends no alpha" in text
    assert max(map(len, text.splitlines()[:10])) <= 120


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((), "give either an experiment or --input"),
        (("trial", "--input", "x.csv"), "give either an experiment or --input"),
        (("trial", "--group-col", "arm"), "--group-col: goes with --input"),
        (("trial", "--ratio", "a=b/c"), "--ratio: goes with --input"),
        (("--input", "none.csv"), "no such file"),
        (("--input", "none.csv", "--ratio", "a=b"), "must be NAME=NUMERATOR/DENOMINATOR"),
    ],
)
def test_explore_refuses_what_does_not_fit(arguments, rule):
    assert rule in run("explore", *arguments, code=2).stderr


def test_an_experiment_is_explored_without_a_look(tmp_path):
    project = shop_project(tmp_path, n_users=400)
    folder = ("--config-dir", tmp_path)
    assert "unknown experiment 'nope'" in run("explore", "nope", *folder, code=2).stderr
    assert "no frames have been published" in run("explore", "trial", *folder, code=2).stderr
    land_all(project)
    trial = project.experiments["trial"]
    manifest = Manifest(Layout(project.storage)).refresh()
    build_frames(project, manifest, trial, as_of=start_of_day(trial, LAST_DAY))
    document = load(run("explore", "trial", *folder, "--json").stdout)
    assert document["origin"]["plan_hash"] == trial.plan_hash
    assert dt.datetime.fromisoformat(document["origin"]["as_of"]).date() == LAST_DAY
    assert {"units", "quality", "metrics", "exposures", "balance", "correlation"} <= set(
        document["sections"]
    )
    layout = Layout(project.storage)
    assert (layout.reports("trial") / "exploration.html").exists()
    assert not layout.ledger("trial", 1).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    error = run("simulate", "none", "--out", tmp_path / "file" / "a.csv", "--users", 10, code=2)
    assert "file" in error.stderr
    assert "Traceback" not in error.output


def test_the_truth_names_the_bytes_of_the_tables(tmp_path):
    document = make("none", tmp_path / "a.parquet", "--users", 10)
    (item,) = document["files"].values()
    assert item["sha256"] == hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()


def test_the_commands_load_nothing_heavy_before_they_run():
    code = "import sys; import experiments_dagster.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"polars", "numpy", "duckdb", "dagster"} & set(done.stdout.split())
