"""Result tables of a look: everything it found, typed, keyed, and readable as one view."""

import duckdb
import polars as pl
import pytest
from rich_factory import rich_looks

from experiments_dagster.contracts.results import EFFECT_KEY, validate_effect_estimates
from experiments_dagster.looks.tables import (
    TABLES,
    boundary_rows,
    effect_rows,
    novelty_rows,
    segment_test_rows,
    table_file,
    trust_rows,
    write_results,
    write_verdicts,
)
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout

HEAD = "f" * 64
BUILDERS = (effect_rows, boundary_rows, segment_test_rows, trust_rows, novelty_rows)
KEY = ("experiment", "phase", "look", "look_id", "as_of", "horizon", "cutoff", "plan_hash",
       "code_version", "ledger_head")  # fmt: skip


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    return rich_looks(
        tmp_path_factory.mktemp("tables"), numbers=(2, 4), wears_off=0.2, n_users=2000
    )[1]


@pytest.fixture
def effects(looks):
    return effect_rows(looks[-1], HEAD)


def test_effects_hold_every_analysis_once(looks, effects):
    look = looks[-1]
    counts = dict(effects["analysis"].value_counts().iter_rows())
    assert counts == {
        "plan": len(look.effects),
        "segment": len(look.segments),
        "sensitivity": len(look.sensitivity),
    }
    assert effects.select(EFFECT_KEY).is_unique().all()
    validate_effect_estimates(effects, look.look_id)


def test_segment_effects_are_those_of_the_look(looks, effects):
    row = next(row for row in looks[-1].segments if row.level == "phone" and not row.is_relative)
    found = effects.filter(
        pl.col("level") == "phone", pl.col("estimand") == "difference", pl.col("is_adjusted")
    ).row(0, named=True)
    assert found["segment"] == "device"
    assert (found["estimate"], found["p_adjusted"]) == (row.estimate, row.p_adjusted)
    assert found["correction"] == "by"
    assert found["look_id"] == looks[-1].look_id


def test_what_was_asked_before_is_still_answered_by_the_plan_rows(looks, effects):
    plan = effects.filter(pl.col("analysis") == "plan")
    assert plan["segment"].null_count() == plan.height
    assert plan.select("metric", "arm", "estimand", "is_adjusted").is_unique().all()


@pytest.mark.parametrize("build", BUILDERS)
def test_columns_have_their_types_also_where_there_is_nothing(looks, build):
    empty = looks[-1].model_copy(
        update={
            "effects": (), "segments": (), "sensitivity": (), "boundaries": (),
            "deterioration": (), "segment_tests": (), "trust": (), "novelty": (),
        }
    )  # fmt: skip
    full, nothing = build(looks[-1], HEAD), build(empty, HEAD)
    assert nothing.is_empty()
    assert full.schema == nothing.schema
    assert not full.is_empty()
    assert pl.Null not in full.schema.values()
    assert tuple(full.columns[: len(KEY)]) == KEY


def test_the_safety_monitor_stands_among_the_boundaries(looks):
    look = looks[-1]
    table = boundary_rows(look, HEAD)
    assert table.height == len(look.boundaries) + len(look.deterioration)
    harm = table.filter(pl.col("kind") == "deterioration")
    assert harm["statistic"].to_list() == [row.statistic for row in look.deterioration]
    assert table.schema["futility_bound"] == pl.Float64


def test_segment_tests_have_a_row_per_level_with_the_test_over_all(looks):
    table = segment_test_rows(looks[-1], HEAD)
    test = looks[-1].segment_tests[0]
    device = table.filter(pl.col("segment") == "device")
    assert device["level"].to_list() == [level.level for level in test.levels]
    assert device["omnibus_p_value"].unique().to_list() == [test.p_value]
    untested = device.filter(pl.col("level") == "watch").row(0, named=True)
    assert (untested["reason"], untested["p_value"]) == ("N_TOO_SMALL", None)


def test_novelty_has_a_row_per_day(looks):
    table, row = novelty_rows(looks[-1], HEAD), looks[-1].novelty[0]
    assert table["day"].to_list() == list(row.days)
    assert table["effect"].to_list() == list(row.effects)
    assert table["slope_p_value"].unique().to_list() == [row.slope_p_value]
    assert novelty_rows(looks[0], HEAD).is_empty()  # at the planned end only


def test_tables_are_written_once_and_read_as_one_view(looks, tmp_path):
    layout = Layout(tmp_path)
    for look in looks:
        write_results(layout, look, HEAD)
        write_verdicts(layout, look, HEAD)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert {path.parent.parent.name for path in files} == set(TABLES)
    for look in looks:
        write_results(layout, look, "0" * 64)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    pattern = str(tmp_path / "results" / "{}" / "*" / "*.parquet")
    with duckdb.connect() as connection:
        for name in TABLES:
            source = f"read_parquet('{pattern.format(name)}', union_by_name=true)"
            heads = connection.execute(f"SELECT DISTINCT ledger_head FROM {source}").fetchall()
            assert heads == [(HEAD,)], name
        count = connection.execute(
            f"SELECT count(DISTINCT look_id) FROM read_parquet('{pattern.format('trust')}')"
        ).fetchone()
        assert count == (2,)


def test_effects_come_last_so_that_their_file_says_that_all_is_there(looks, tmp_path):
    layout = Layout(tmp_path)
    blocked = table_file(layout, "effect_estimates", looks[-1]).parent.parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("not a folder")
    with pytest.raises(OSError, match="effect_estimates"):
        write_results(layout, looks[-1], HEAD)
    for name in set(TABLES) - {"effect_estimates", "verdicts"}:
        assert table_file(layout, name, looks[-1]).exists()
    blocked.unlink()
    write_results(layout, looks[-1], HEAD)
    assert table_file(layout, "effect_estimates", looks[-1]).exists()


def test_an_older_file_without_the_new_columns_joins_the_view(looks, effects, tmp_path):
    layout = Layout(tmp_path)
    write_results(layout, looks[-1], HEAD)
    old = effects.filter(pl.col("analysis") == "plan").drop(
        "analysis", "segment", "level", "p_adjusted", "correction", "interval"
    )
    folder = table_file(layout, "effect_estimates", looks[-1]).parent
    old.write_parquet(folder / "phase-0-look-000001.parquet")
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT count(*) FROM read_parquet('{folder}/*.parquet', union_by_name=true) "
            "WHERE segment IS NULL AND analysis IS DISTINCT FROM 'sensitivity'"
        ).fetchone()
    assert found == (2 * old.height,)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"level": pl.lit(None, pl.String)}, "level_iff_segment"),
        ({"segment": pl.lit("device"), "level": pl.lit("x")}, "level_iff_segment"),
        ({"p_adjusted": pl.col("p_adjusted") / 2}, "corrected_upwards"),
        ({"correction": pl.lit(None, pl.String)}, "corrected_upwards"),
        ({"p_adjusted": pl.lit(1.5)}, "p_adjusted"),
        ({"analysis": pl.lit("other")}, "analysis"),
        ({"method": pl.lit("same"), "estimand": pl.lit("difference")}, "key_unique"),
    ],
)
def test_the_contract_refuses_effects_that_cannot_be(effects, change, rule):
    with pytest.raises(ContractError, match=rule):
        validate_effect_estimates(effects.with_columns(**change), "trial.1.4")
