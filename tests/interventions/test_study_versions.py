"""What is published of studies: versions, what is current, what is due, what is refused."""

import json

import polars as pl
import pytest

from experiments_dagster.cli.status import reason_lines, status_document
from experiments_dagster.config.project import load_project, read_project
from experiments_dagster.frames.study_frames import build_study_frame, read_study_frame
from experiments_dagster.interventions.publish import due_interventions, run_study, write_study
from experiments_dagster.storage.catalog import export
from experiments_dagster.storage.csv_export import export_csv
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

STUDY = """
schema_version: 1
owner: team:x
description: A law
panel: {file: panel.csv, unit: state, time: year, outcome: y, group: law, starts: 2010}
design: {kind: difference_in_differences}
"""


def write_panel(folder, lift):
    rows = [
        (
            f"s{unit:02d}",
            year,
            unit % 2,
            unit + 0.3 * ((unit * 7 + year * 3) % 5) + lift * (year >= 2010) * (unit % 2),
        )
        for unit in range(30)
        for year in range(2005, 2014)
    ]
    table = pl.DataFrame(rows, schema=["state", "year", "law", "y"], orient="row")
    table.with_columns(z=pl.col("y") * 2).write_csv(folder / "panel.csv")


@pytest.fixture
def folder(tmp_path):
    configs = tmp_path / "configs"
    (configs / "interventions").mkdir(parents=True)
    (configs / "platform.yaml").write_text("schema_version: 1\nsources: {}\n")
    (configs / "metrics.yaml").write_text("schema_version: 1\nmetrics: {}\n")
    (configs / "interventions" / "law.yaml").write_text(STUDY)
    write_panel(tmp_path, lift=1.0)
    return tmp_path


def manifest_of(project):
    return Manifest(Layout(project.storage)).refresh()


def publish(project):
    manifest = manifest_of(project)
    frame = build_study_frame(project, manifest, project.interventions["law"], cutoff=0)
    return write_study(manifest.layout, run_study(project.interventions["law"], frame))


def due(project):
    return due_interventions(project, manifest_of(project))


def test_the_same_inputs_give_the_same_version_and_nothing_is_due(folder):
    project = load_project(folder)
    assert due(project) == ["law"]
    first = publish(project)
    assert due(project) == []
    assert publish(project) == first
    results = Layout(project.storage).results("causal_effect", "law")
    names = {path.name for path in results.iterdir()}
    assert names == {"current.json", f"{first['version']}.json"}


def test_an_edited_table_is_due_and_a_version_of_its_own(folder):
    project = load_project(folder)
    first = publish(project)
    write_panel(folder, lift=2.0)
    assert due(project) == ["law"]
    second = publish(project)
    assert second["version"] != first["version"]
    assert second["estimates"][0]["estimate"] == pytest.approx(
        first["estimates"][0]["estimate"] + 1
    )
    layout = Layout(project.storage)
    # Both frames are kept: each result names the one that it was made from.
    assert len(list(layout.frame("study_frame", "law").glob("*.parquet"))) == 2
    old = json.loads(
        (layout.results("causal_effect", "law") / f"{first['version']}.json").read_text()
    )
    assert old == first


def test_a_frame_is_not_read_under_another_configuration(folder):
    publish(load_project(folder))
    path = folder / "configs" / "interventions" / "law.yaml"
    path.write_text(STUDY.replace("outcome: y", "outcome: z"))
    project = load_project(folder)
    assert due(project) == ["law"]
    frame = read_study_frame(Layout(project.storage), "law")
    with pytest.raises(ValueError, match="law: edited since its frame was built"):
        run_study(project.interventions["law"], frame)
    assert due(project) == ["law"]


def test_status_says_what_is_older_than_its_data(folder):
    project = load_project(folder)
    manifest = manifest_of(project)
    assert reason_lines(status_document(project, manifest)) == [
        "law (not randomised): waiting: it was not estimated yet"
    ]
    publish(project)
    assert "older" not in reason_lines(status_document(project, manifest))[0]
    write_panel(folder, lift=2.0)
    document = status_document(project, manifest)
    assert document["interventions"][0]["is_current"] is False
    assert reason_lines(document)[0].endswith("older than its data or configuration")


def test_exports_tell_the_newest_version(folder, tmp_path_factory):
    project = load_project(folder)
    publish(project)
    write_panel(folder, lift=2.0)
    newest = publish(project)["version"]
    layout = Layout(project.storage)
    target = tmp_path_factory.mktemp("csv")
    export_csv(layout, target, [])
    for name in ("causal_estimates", "causal_refutations"):
        rows = pl.read_csv(target / f"{name}.csv")
        assert rows["version"].n_unique() == 2
        assert rows.filter(pl.col("is_current"))["version"].unique().to_list() == [newest]
    assert export(layout, target / "all.duckdb").exists()


def test_a_table_that_is_gone_stops_no_other_study(folder):
    other = folder / "configs" / "interventions" / "other.yaml"
    (folder / "second.csv").write_bytes((folder / "panel.csv").read_bytes())
    other.write_text(STUDY.replace("panel.csv", "second.csv"))
    project = load_project(folder)
    (folder / "panel.csv").unlink()
    assert due(project) == ["other"]


def test_a_slug_is_an_experiment_or_an_intervention(tmp_path):
    from factories import make_project

    make_project(tmp_path)
    (tmp_path / "configs" / "interventions").mkdir()
    (tmp_path / "configs" / "interventions" / "trial.yaml").write_text(STUDY)
    write_panel(tmp_path, lift=0.0)
    project, issues = read_project(tmp_path)
    assert project.interventions == {}
    assert list(project.experiments) == ["trial"]
    assert any("'trial' is an experiment too" in str(issue) for issue in issues)
