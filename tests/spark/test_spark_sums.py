"""Spark gives the sums that DuckDB and arrays give, from the same landed files."""

import dataclasses

import pytest
from factories import manifest_of
from rich_factory import rich_project
from sums_factory import ADDITIVE, TWO_ARMS, assert_equal_sums, by_polars

from experiments_dagster.frames import spark
from experiments_dagster.frames.unit_frames import build_unit_frames
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.portable_sums import PolarsStore
from experiments_dagster.looks.remote import answer, request_sums, spark_sums
from experiments_dagster.looks.sums import collect_sums
from experiments_dagster.looks.take import read_current_inputs, take_look
from experiments_dagster.looks.unit_sums import UnitEngine

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(spark.missing() is not None, reason=spark.missing() or ""),
    # Where PySpark is installed, pandera imports its pandas layer, which asks for an older pandas.
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]


@pytest.fixture(scope="module")
def session():
    with spark.session(settings={"spark.sql.shuffle.partitions": "2"}) as found:
        yield found


@pytest.mark.parametrize("cap", [None, 40.0])
def test_sums_on_spark_equal_those_of_unit_frames(session, tmp_path, cap):
    project = rich_project(tmp_path, text=ADDITIVE, n_users=1500)
    trial = project.experiments["trial"]
    as_of = start_of_day(trial, trial.planned_looks()[2])
    manifest = manifest_of(project)
    frames = build_unit_frames(project, manifest, trial, cutoff=manifest.head, as_of=as_of)
    expected = collect_sums(trial, UnitEngine(trial, frames, cap=cap))
    request = request_sums(manifest, trial, cutoff=manifest.head, as_of=as_of, cap=cap)
    found = answer(request, session.scan, session)
    assert_equal_sums(found.sums, expected)
    for name in ("n_exposed", "n_multi_arm", "n_rows", "n_immature"):
        assert getattr(found, name) == getattr(frames.info, name)


def test_a_platform_gives_the_session_of_spark_sums(session, tmp_path):
    project = rich_project(tmp_path, text=TWO_ARMS, n_users=300)
    trial = project.experiments["trial"]
    manifest = manifest_of(project)
    at = {
        "cutoff": manifest.head,
        "as_of": start_of_day(trial, trial.planned_looks()[3]),
        "cap": None,
    }
    expected = answer(request_sums(manifest, trial, **at), by_polars, PolarsStore())
    before = session.native.sparkContext._jsc.getPersistentRDDs().size()
    found = spark_sums(project, manifest, trial, **at)
    assert_equal_sums(found.sums, expected.sums)
    # A session that was there before is still there, without what was kept in it.
    assert session.native.range(3).count() == 3
    assert session.native.sparkContext._jsc.getPersistentRDDs().size() == before


def test_a_look_on_spark_is_the_look_on_duckdb(session, tmp_path):
    looks = []
    for engine in ("duckdb", "spark"):
        project = rich_project(tmp_path / engine, text=TWO_ARMS, n_users=600)
        platform = project.platform.model_copy(update={"engine": engine})
        project = dataclasses.replace(project, platform=platform)
        trial = project.experiments["trial"]
        manifest = manifest_of(project)
        as_of = start_of_day(trial, trial.planned_looks()[2])
        attempt = take_look(project, manifest, trial, as_of=as_of)
        assert attempt.is_new
        looks.append(attempt.look)
        again = read_current_inputs(manifest.layout, trial)
        assert again.info.cutoff == manifest.head
    here, there = (look.model_dump(exclude={"frames", "inputs"}) for look in looks)
    assert_alike(here, there)
    assert there["effects"]
    assert not (manifest.layout.root / "frames" / "unit_rows").exists()


def assert_alike(one, other):
    """The same but for the order in which doubles were added up."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12)
    else:
        assert one == other
