"""Publishing many looks at once: each look once, whole nights only, and nobody stops another."""

import shutil
import threading

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich_factory import rich_looks

from experiments_dagster.looks.publish import (
    NightPublication,
    last_peek,
    publish_results,
    publish_verdict,
)
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.tables import TABLES, table_file, write_results
from experiments_dagster.storage.catalog import EFFECT_VIEWS, publish_catalog
from experiments_dagster.storage.errors import DataDamagedError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger

SLUGS = ("one", "two", "three")
NUMBER_OF_TABLES = len(TABLES) + 1  # and the keys of the looks


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Two real looks; the second is the planned end and fills every table."""
    looks = rich_looks(
        tmp_path_factory.mktemp("publish"), numbers=(2, 4), wears_off=0.2, n_users=2000
    )[1]
    assert not any(look.is_blocked for look in looks)
    return looks


def record(root, slug, look):
    """One more recorded look of an experiment."""
    with (ledger := Ledger(Layout(root), slug, 1)).hold():
        if ledger.plan is None:
            ledger.freeze_plan({})
        number = ledger.reserve({"cutoff": 1})["look"]
        renamed = look.model_copy(update={"experiment": slug, "look": number})
        ledger.record(renamed.model_dump(mode="json"))
    return ledger


def publish(root, *ledgers):
    publication = NightPublication(Layout(root))
    for ledger in ledgers:
        publication.add(ledger, recorded_looks(ledger)[-1])
    return publication.write()


@pytest.fixture
def ledgers(tmp_path, seen):
    for slug in SLUGS:
        record(tmp_path, slug, seen[0])
    return [record(tmp_path, slug, seen[1]) for slug in SLUGS]


def published(root):
    """Every table as the catalog shows it."""
    path = publish_catalog(Layout(root))
    with duckdb.connect(str(path), read_only=True) as connection:
        names = {name for (name,) in connection.execute("SHOW TABLES").fetchall()}
        return {name: connection.table(name).pl() for name in names}


def looks_of(root, name="effect_estimates"):
    return sorted(published(root)[name]["look_id"].unique(maintain_order=True))


ALL = sorted(f"{slug}.1.{number}" for slug in SLUGS for number in (1, 2))


def nights(root):
    return sorted((root / "results" / "nights").glob("*"))


def test_a_night_shows_the_same_rows_as_files_of_each_look(tmp_path, ledgers):
    assert publish(tmp_path, *ledgers) == {}
    together = published(tmp_path)
    shutil.rmtree(tmp_path / "results" / "nights")
    for ledger in ledgers:
        publish_results(ledger, recorded_looks(ledger)[-1])
        publish_verdict(ledger)
    alone = published(tmp_path)
    assert together.keys() == alone.keys() == {*TABLES, *EFFECT_VIEWS}
    for name, table in together.items():
        order = ["look_id", *table.columns]
        assert_frame_equal(
            table.sort(order, maintain_order=True),
            alone[name].sort(order, maintain_order=True),
            check_exact=True,
        )


def test_a_night_is_one_file_per_table_and_earlier_looks_are_not_in_the_next(
    tmp_path, ledgers, seen
):
    publish(tmp_path, *ledgers)
    (first,) = nights(tmp_path)
    assert len(list(first.iterdir())) == NUMBER_OF_TABLES
    assert publish(tmp_path, *ledgers) == {}
    assert nights(tmp_path) == [first]
    publish(tmp_path, record(tmp_path, "two", seen[1]), *ledgers)
    (second,) = set(nights(tmp_path)) - {first}
    assert pl.read_parquet(second / "looks.parquet")["look_id"].to_list() == ["two.1.3"]
    assert looks_of(tmp_path) == sorted([*ALL, "two.1.3"])


def test_what_stands_in_files_of_its_own_is_in_no_night_and_the_other_way_round(tmp_path, ledgers):
    one, two, three = ledgers
    publish_results(one, recorded_looks(one)[-1])
    publish_verdict(one)
    publish(tmp_path, *ledgers)
    (night,) = nights(tmp_path)
    assert set(pl.read_parquet(night / "looks.parquet")["experiment"]) == {"two", "three"}
    for ledger in (two, three):
        publish_results(ledger, recorded_looks(ledger)[-1])
        publish_verdict(ledger)
        assert not table_file(one.layout, "verdicts", recorded_looks(ledger)[0]).exists()
    for name, table in published(tmp_path).items():
        assert table.is_unique().all(), name
    assert looks_of(tmp_path) == looks_of(tmp_path, "verdicts") == ALL


@pytest.mark.parametrize("step", range(len(TABLES)))
def test_files_that_were_begun_are_finished_where_they_are(tmp_path, ledgers, monkeypatch, step):
    one = ledgers[0]
    crash_after(monkeypatch, step)
    with pytest.raises(OSError, match="killed"):
        publish_results(one, recorded_looks(one)[-1]), publish_verdict(one)
    monkeypatch.undo()
    assert publish(tmp_path, *ledgers) == {}
    for name, table in published(tmp_path).items():
        assert table.is_unique().all(), name
    assert looks_of(tmp_path) == looks_of(tmp_path, "verdicts") == ALL


def crash_after(monkeypatch, n):
    """Die when table n is about to be written."""
    real, written = pl.DataFrame.write_parquet, []

    def write(table, *args, **options):
        if len(written) == n:
            raise OSError("killed")
        written.append(args)
        return real(table, *args, **options)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", write)


@pytest.mark.parametrize("step", range(NUMBER_OF_TABLES))
def test_a_night_that_died_is_not_there_and_the_next_run_writes_it(
    tmp_path, ledgers, monkeypatch, step
):
    crash_after(monkeypatch, step)
    with pytest.raises(OSError, match="killed"):
        publish(tmp_path, *ledgers)
    monkeypatch.undo()
    assert nights(tmp_path) == list(Layout(tmp_path).staging.iterdir()) == []
    assert publish(tmp_path, *ledgers) == {}
    assert looks_of(tmp_path) == ALL


def test_effects_that_cannot_be_are_named_and_the_other_experiments_published(
    tmp_path, ledgers, seen
):
    effect = next(row for row in seen[1].effects if row.ci_low is not None)
    upside_down = effect.model_copy(update={"ci_low": effect.ci_high, "ci_high": effect.ci_low})
    effects = (upside_down, *(row for row in seen[1].effects if row is not effect))
    bad = record(tmp_path, "two", seen[1].model_copy(update={"effects": effects}))
    for _ in range(2):  # and again in every later night
        troubles = publish(tmp_path, ledgers[0], bad, ledgers[2])
        assert set(troubles) == {"two"}
        assert troubles["two"].cases == {"interval_ordered": 1}
        assert "two.1.3" in str(troubles["two"])
    assert looks_of(tmp_path) == [look for look in ALL if not look.startswith("two")]
    assert set(publish(tmp_path, bad)) == {"two"}  # alone, too


def test_a_blocked_look_has_no_verdict_in_its_night(tmp_path, seen):
    checks = tuple(
        check.model_copy(update={"passed": False, "severity": "ERROR"}) for check in seen[1].checks
    )
    blocked = record(tmp_path, "two", seen[1].model_copy(update={"checks": checks}))
    publish(tmp_path, record(tmp_path, "one", seen[1]), blocked)
    assert looks_of(tmp_path) == ["one.1.1", "two.1.1"]
    assert looks_of(tmp_path, "verdicts") == ["one.1.1"]


def test_a_deleted_night_is_made_again_from_the_ledger(tmp_path, ledgers):
    publish(tmp_path, *ledgers)
    before = published(tmp_path)
    shutil.rmtree(nights(tmp_path)[0])
    publish(tmp_path, *ledgers)
    after = published(tmp_path)
    assert before.keys() == after.keys()
    for name, table in before.items():
        assert_frame_equal(table, after[name], check_exact=True)


@pytest.mark.parametrize("fault", ["cut", "deleted"])
def test_a_damaged_night_is_named_with_what_to_do(tmp_path, ledgers, seen, fault):
    publish(tmp_path, *ledgers)
    keys = nights(tmp_path)[0] / "looks.parquet"
    keys.write_bytes(keys.read_bytes()[:-9]) if fault == "cut" else keys.unlink()
    newer = record(tmp_path, "two", seen[1])
    with pytest.raises(DataDamagedError, match=r"looks\.parquet.*delete its folder"):
        publish(tmp_path, newer)
    with pytest.raises(DataDamagedError, match="delete its folder"):
        publish_results(newer, recorded_looks(newer)[-1])


def test_many_who_publish_at_the_same_time_publish_each_look_once(tmp_path, ledgers):
    start, failed = threading.Barrier(4), []

    def together(publication):
        start.wait()
        failed.extend(publication.write())

    def alone(ledger):
        start.wait()
        publish_results(ledger, recorded_looks(ledger)[-1])
        publish_verdict(ledger)

    threads = [threading.Thread(target=alone, args=(ledgers[0],))]
    for _ in range(3):
        publication = NightPublication(Layout(tmp_path))
        for ledger in ledgers:
            publication.add(ledger, recorded_looks(ledger)[-1])
        threads.append(threading.Thread(target=together, args=(publication,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for name, table in published(tmp_path).items():
        assert table.is_unique().all(), name
    assert looks_of(tmp_path) == ALL


def test_a_peek_is_kept_and_spends_no_file(tmp_path, seen):
    peek = seen[1].model_copy(update={"look": None, "experiment": "one"})
    publication = NightPublication(Layout(tmp_path))
    publication.add(Ledger(Layout(tmp_path), "one", 1).refresh(), peek)
    assert publication.write() == {}
    assert nights(tmp_path) == []
    experiment = type("E", (), {"slug": "one", "phase": peek.phase})
    assert last_peek(Layout(tmp_path), experiment) == peek


def test_a_look_that_an_older_version_wrote_is_published_already(tmp_path, ledgers):
    looks = recorded_looks(ledgers[0])
    for look, head in zip(looks, ledgers[0].heads, strict=True):
        write_results(ledgers[0].layout, look, head)
    publish_verdict(ledgers[0])
    files = sorted(tmp_path.rglob("*.parquet"))
    assert publish(tmp_path, ledgers[0]) == {}
    assert sorted(tmp_path.rglob("*.parquet")) == files


def test_recorded_looks_are_checked_once_per_ledger(tmp_path, seen, monkeypatch):
    record(tmp_path, "one", seen[0])
    ledger = Ledger(Layout(tmp_path), "one", 1).refresh()
    first = recorded_looks(ledger)
    record(tmp_path, "one", seen[1])
    assert recorded_looks(ledger) == first
    checked, real = [], Look.model_validate
    monkeypatch.setattr(Look, "model_validate", lambda doc: checked.append(doc) or real(doc))
    looks = recorded_looks(ledger.refresh())
    assert [look.look for look in looks] == [1, 2]
    assert looks[0] is first[0]
    assert len(checked) == 1
    monkeypatch.undo()
    assert recorded_looks(Ledger(Layout(tmp_path), "one", 1).refresh()) == looks


def test_the_two_result_tables_share_the_effects_of_the_plan(tmp_path, ledgers):
    publish(tmp_path, *ledgers)
    tables = published(tmp_path)
    primary, secondary = (tables[name] for name in EFFECT_VIEWS)
    planned = tables["effect_estimates"].filter(analysis="plan")
    assert planned.height < tables["effect_estimates"].height
    assert primary.columns == secondary.columns == planned.columns
    assert set(primary["role"]) == {"primary"}
    # Every other metric of the plan keeps the role that it has there.
    assert set(secondary["role"]) == set(planned["role"]) - {"primary"}
    assert {"guardrail", "secondary"} <= set(secondary["role"])
    both = pl.concat([primary, secondary])
    assert_frame_equal(both, planned, check_row_order=False, check_exact=True)


def test_effects_from_before_there_were_other_analyses_are_those_of_the_plan(tmp_path, ledgers):
    publish(tmp_path, *ledgers)
    (file,) = tmp_path.glob("results/nights/*/effect_estimates.parquet")
    pl.read_parquet(file).filter(analysis="plan").drop("analysis").write_parquet(file)
    tables = published(tmp_path)
    sizes = [tables[name].height for name in EFFECT_VIEWS]
    assert min(sizes) > 0
    assert sum(sizes) == tables["effect_estimates"].height


def test_without_effects_there_are_no_result_tables(tmp_path):
    assert published(tmp_path) == {}
