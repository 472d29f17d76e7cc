"""A project of experiments that share units: command, asset and page, from landed files on."""

import json
import shutil

import dagster as dg
import numpy as np
import pytest
import typer
from factories import make_project, manifest_of
from portfolio_project import LOOKED_AT, N_DELTA, N_UNITS, arms_of, shared_project, spend_of
from typer.testing import CliRunner

from experiments_dagster.assets.portfolio import portfolio as portfolio_asset
from experiments_dagster.cli import portfolio as command
from experiments_dagster.config.project import load_project
from experiments_dagster.definitions import build_definitions
from experiments_dagster.portfolio.decided import read_decided
from experiments_dagster.portfolio.overlap import DEPENDENT, read_overlaps
from experiments_dagster.portfolio.report import render_portfolio
from experiments_dagster.portfolio.summary import portfolio_document, read_portfolio
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.stats.interaction import interaction_of_means
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.storage.layout import Layout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return shared_project(tmp_path_factory.mktemp("portfolio"))


@pytest.fixture(scope="module")
def document(project):
    return portfolio_document(read_portfolio(project, manifest_of(project)))


@pytest.fixture
def copied(project, tmp_path):
    """A project of one's own to break."""
    folder = tmp_path / "copy"
    shutil.copytree(project.folder, folder)
    return load_project(folder)


def pair_of(document, *names):
    (row,) = [row for row in document["overlaps"] if set(row["experiments"]) == set(names)]
    return row


def test_of(document, experiment, other):
    rows = document["interactions"]
    (row,) = [r for r in rows if (r["experiment"], r["other"]) == (experiment, other)]
    return row


test_of.__test__ = False


def run(folder, *arguments, code=0):
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    result = CliRunner().invoke(app, ["portfolio", "--config-dir", str(folder), *arguments])
    assert result.exit_code == code, result.output
    return result


def test_decided_arms_with_raw_and_shrunk_effects(document):
    rows = {row["experiment"]: row for row in document["experiments"]}
    assert set(rows) == set(LOOKED_AT)
    verdicts = {slug: rows[slug]["verdict"] for slug in LOOKED_AT}
    assert verdicts == {"alpha": "SHIP", "beta": "DO_NOT_SHIP", "gamma": "SHIP"}
    arms = arms_of()
    y = spend_of(arms)
    alpha = rows["alpha"]
    lift = y[arms["alpha"]].mean() / y[~arms["alpha"]].mean() - 1
    assert alpha["raw"]["estimate"] == pytest.approx(lift, rel=1e-9)
    weight = 0.04 / (0.04 + alpha["raw"]["std_error"] ** 2)
    assert alpha["shrunk"]["estimate"] == pytest.approx(weight * lift, rel=1e-9)
    assert alpha["prior"]["name"] == "declared"
    (metric,) = document["metrics"]
    assert metric["n_experiments"] == 3
    assert metric["shipped"]["n_effects"] == 2
    assert metric["pooled"]["prediction_low"] < metric["pooled"]["ci_low"]


def test_open_experiments_are_left_out_with_the_reason(document):
    assert [row["experiment"] for row in document["left_out"]] == ["delta", "far"]
    assert document["left_out"][0]["reason"] == "no look has been recorded yet"


def test_common_units_by_arm(document):
    arms = arms_of()
    pair = pair_of(document, "alpha", "beta")
    counts = np.array(
        [[((arms["alpha"] == i) & (arms["beta"] == j)).sum() for j in (0, 1)] for i in (0, 1)]
    )
    assert pair["counts"] == counts.tolist()
    assert pair["n_units"] == N_UNITS
    assert pair_of(document, "alpha", "delta")["n_units"] == N_DELTA
    # `far` was a year earlier and has no frames.
    assert all("far" not in row["experiments"] for row in document["overlaps"])


def test_arms_by_one_hash_are_found_out_and_their_effects_not_read(document):
    assert pair_of(document, "alpha", "gamma")["dependence"]["is_dependent"]
    assert not pair_of(document, "alpha", "beta")["dependence"]["is_dependent"]
    row = test_of(document, "alpha", "gamma")
    assert (row["status"], row["reason"], row["estimate"]) == ("not_tested", DEPENDENT, None)


def test_effects_of_an_arm_that_is_still_open_are_not_read(project):
    manifest = manifest_of(project)
    _, _, looks = read_decided(project, manifest)
    look = looks["alpha"]
    waiting = [item.model_copy(update={"verdict": "PENDING"}) for item in look.decisions]
    opened = looks | {"alpha": look.model_copy(update={"decisions": tuple(waiting)})}
    closed, found = (
        {
            test.experiment
            for test in read_overlaps(manifest.layout, project.experiments, seen).tests
        }
        for seen in (looks, opened)
    )
    assert closed - found == {"alpha"}


def test_an_interaction_does_not_say_how_the_other_experiments_arms_compare(document):
    """Means of alpha's control within each arm of beta are beta's effect."""
    row = test_of(document, "alpha", "beta")
    for name in ("effect_in_control", "effect_in_treatment"):
        assert row[name]["estimate"] is not None
        assert not [key for key in row[name] if key.endswith("_mean")]


def test_interactions_are_those_of_the_regression(document):
    arms = arms_of()
    expected = interaction_of_means(spend_of(arms), arms["alpha"], arms["beta"])
    row = test_of(document, "alpha", "beta")
    assert row["estimate"] == pytest.approx(expected.estimate, rel=1e-9)
    assert row["std_error"] == pytest.approx(expected.std_error, rel=1e-9)
    assert row["estimate"] == pytest.approx(-15, abs=3 * row["std_error"])
    assert row["effect_in_control"]["estimate"] == pytest.approx(
        expected.in_control.estimate, rel=1e-9
    )


def test_corrected_by_by_over_all_pairs(document):
    rows = document["interactions"]
    tested = [row for row in rows if row["status"] == "ok"]
    blocked = [row for row in rows if row["reason"] == DEPENDENT]
    assert (len(tested), len(blocked)) == (4, 2)
    # Dependent arms leave a hypothesis open; cells that are too small never made one.
    adjusted = adjusted_p_values([row["p_value"] for row in tested], "by", planned=6)
    assert [row["p_adjusted"] for row in tested] == pytest.approx(adjusted)


def test_effects_of_an_open_experiment_are_not_read(document):
    assert {row["experiment"] for row in document["interactions"]} == set(LOOKED_AT)


def test_small_cells_are_not_tested_but_their_arms_are(document):
    row = test_of(document, "alpha", "delta")
    assert (row["status"], row["reason"], row["p_value"]) == ("not_tested", "N_TOO_SMALL", None)
    assert pair_of(document, "alpha", "delta")["dependence"]["p_value"] > 1e-4


def test_the_largest_overlaps_are_tested_first_and_the_others_counted(project, monkeypatch):
    monkeypatch.setattr("experiments_dagster.portfolio.overlap.MAX_PAIRS", 1)
    looks = read_decided(project, manifest_of(project))[2]
    cut = read_overlaps(Layout(project.storage), project.experiments, looks)
    assert (len(cut.pairs), cut.n_pairs_not_tested) == (6, 5)
    assert {(t.experiment, t.other) for t in cut.tests} == {("alpha", "beta"), ("beta", "alpha")}


def test_frames_of_another_plan_give_no_effect(copied):
    path = copied.folder / "configs" / "metrics.yaml"
    path.write_text(path.read_text().replace("spend: {kind", "spend: {direction: decrease, kind"))
    changed = load_project(copied.folder)
    found = portfolio_document(read_portfolio(changed, manifest_of(changed)))
    # The frames are still those that the look decided on.
    assert test_of(found, "alpha", "beta")["status"] == "ok"
    pointer = Layout(changed.storage).frame("user_frame", "alpha") / "current.json"
    pointer.write_text(pointer.read_text().replace('"plan_hash": "', '"plan_hash": "0'))
    found = portfolio_document(read_portfolio(changed, manifest_of(changed)))
    assert test_of(found, "alpha", "beta")["reason"] == "OUTSIDE_PLAN"
    assert test_of(found, "beta", "alpha")["status"] == "ok"


def test_a_damaged_ledger_leaves_out_only_its_experiment(copied):
    ledger = Layout(copied.storage).ledger("alpha", 1)
    record = min(ledger.glob("*recorded*"))
    record.chmod(0o644)
    record.write_bytes(record.read_bytes().replace(b"SHIP", b"SHOP"))
    found = portfolio_document(read_portfolio(copied, manifest_of(copied)))
    assert {row["experiment"] for row in found["experiments"]} == {"beta", "gamma"}
    assert found["left_out"][0]["experiment"] == "alpha"


def test_the_command_prints_what_the_library_says(project, document):
    shown = run(project.folder, "--json")
    assert json.loads(shown.stdout) == json.loads(json.dumps(document, allow_nan=False))
    text = run(project.folder).stdout
    for words in ("3 decided arms, 2 shipped", "alpha x gamma", "DEPENDENT", "BY p", "learned"):
        assert words in text


def test_the_command_writes_files(project, tmp_path):
    out_json, out_md = tmp_path / "p.json", tmp_path / "p.md"
    shown = run(project.folder, "--out-json", str(out_json), "--out-md", str(out_md), "--report")
    assert json.loads(out_json.read_text())["correction"] == "by"
    assert out_md.read_text().startswith("# 3 decided arms")
    page = Layout(project.storage).reports("portfolio.html")
    assert str(page) in shown.stderr.replace("\n", "")
    assert page.read_text().startswith("<!doctype html>")


def test_a_folder_without_configuration_is_a_usage_error(tmp_path):
    assert "configs" in run(tmp_path, code=2).stderr


def test_the_page_warns_of_dependent_arms_and_shows_both_effects(project):
    page = render_portfolio(read_portfolio(project, manifest_of(project)))
    assert "The arms of alpha and gamma are not independent" in page
    assert "2 SHIPPED" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_an_empty_project_says_so(tmp_path):
    empty = make_project(tmp_path)
    found = read_portfolio(empty, manifest_of(empty))
    assert portfolio_document(found)["experiments"] == []
    assert "No experiment has been decided yet" in render_portfolio(found)
    assert "0 decided arms" in run(empty.folder).stdout


def test_the_asset_writes_the_page(project):
    result = dg.materialize(
        [portfolio_asset], resources={"experiments": ExperimentsProject(folder=str(project.folder))}
    )
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["decided_arms"].value == 3
    assert metadata["dependent_pairs"].value == 1
    assert metadata["report"].value.endswith("reports/portfolio.html")


def test_the_asset_depends_on_all_verdicts_and_has_no_partitions(project):
    graph = build_definitions(project.folder).resolve_asset_graph()
    node = graph.get(dg.AssetKey(["reports", "portfolio"]))
    assert node.partitions_def is None
    assert {key.to_user_string() for key in node.parent_keys} == {"decisions/verdict"}
