"""Landing: every row is accounted for, every fault is named, nothing lands twice."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal

import duckdb
import polars as pl
import pytest
from factories import (
    PLATFORM,
    events_table,
    exposures_table,
    incoming,
    land_now,
    make_project,
    manifest_of,
    utc,
    write_configs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments_dagster.config.project import load_project
from experiments_dagster.storage.errors import BusyError, DataDamagedError
from experiments_dagster.storage.incoming import has_new_files
from experiments_dagster.storage.landing import open_lander
from experiments_dagster.storage.layout import Layout

T = utc(2026, 3, 2, 10)
CANARY = "canary-7f3a"


def order(user="u1", at=T, event_id="e1", amount=1.0, event="order"):
    return (user, at, event, event_id, amount)


def landed(project, source="events"):
    """All landed rows of a source, batch after batch."""
    manifest = manifest_of(project)
    tables = manifest.tables(source, up_to=manifest.head)
    return pl.concat([pl.read_parquet(manifest.verified(table)) for _, table in tables])


def files(report, source="events"):
    return report.batch.sources[source].files


def land_rows(project, name, *rows):
    incoming(project, "events", name, events_table(list(rows)))
    return land_now(project)


def write_csv(project, name, text, source="events"):
    path = project.folder / "incoming" / source / f"{name}.csv"
    path.write_text(text)
    return path


def csv_project(tmp_path, timezone=None):
    zone = f"        timezone: {timezone}\n" if timezone else ""
    platform = PLATFORM.replace("        value_decimals: 2\n", zone)
    return make_project(tmp_path, platform=platform)


def ids(project):
    return sorted(landed(project)["event_id"])


# duplicates


def test_clean_files_land_whole(project):
    report = land_rows(project, "a", order(), order("u2", event_id="e2"))
    (file,) = files(report)
    assert (file.rows_in, file.kept, file.deduplicated, file.quarantined) == (2, 2, 0, 0)
    assert (file.reasons, file.error, report.problems) == ({}, None, ())


@pytest.mark.parametrize("places", ["one file", "two files", "two batches"])
def test_the_first_of_identical_rows_stays(project, places):
    if places == "one file":
        report = land_rows(project, "a", order(), order())
        assert (files(report)[0].kept, files(report)[0].deduplicated) == (1, 1)
    else:
        if places == "two batches":
            land_rows(project, "a", order())
        else:
            incoming(project, "events", "a", events_table([order()]))
        last = files(land_rows(project, "b", order(), order("u2", event_id="e2")))[-1]
        assert (last.kept, last.deduplicated) == (1, 1)
    assert landed(project)["event_id"].n_unique() == landed(project).height


@pytest.mark.parametrize("places", ["one file", "two files", "two batches"])
def test_the_same_id_with_another_payload_is_quarantined_and_the_first_stays(project, places):
    if places == "one file":
        report = land_rows(project, "a", order(amount=2.0), order(amount=1.0))
    else:
        incoming(project, "events", "a", events_table([order(amount=2.0)]))
        if places == "two batches":
            land_now(project)
        report = land_rows(project, "b", order(amount=1.0))
    last = files(report)[-1]
    assert (last.quarantined, last.reasons) == (1, {"conflicting_duplicate": 1})
    assert landed(project)["value"].to_list() == [Decimal("2.00")]
    layout = Layout(project.storage)
    bad = pl.read_parquet(layout.quarantined("events", report.batch.sequence))
    assert bad["reason"].to_list() == ["conflicting_duplicate"]


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_copy_of_a_file_adds_nothing(tmp_path, has_ids, together):
    platform = PLATFORM if has_ids else PLATFORM.replace(", event_id: id", "")
    project = make_project(tmp_path, platform=platform)
    table = events_table([order(), order("u2", event_id="e2")])
    incoming(project, "events", "a", table)
    if not together:
        land_now(project)
    incoming(project, "events", "copy", table)
    copy = files(land_now(project))[-1]
    assert (copy.rows_in, copy.deduplicated, copy.reasons) == (2, 2, {"same_file": 2})
    assert landed(project).height == 2


def test_landing_again_without_new_files_makes_no_batch(project):
    land_rows(project, "a", order())
    assert not has_new_files(project, manifest_of(project))
    assert land_now(project).batch is None


def test_replayed_and_shuffled_deliveries_give_the_clean_result(tmp_path):
    rows = [order(f"u{k % 7}", T + dt.timedelta(hours=k), f"e{k}", k / 4) for k in range(40)]
    clean, faulty = (make_project(tmp_path / name) for name in ("clean", "faulty"))
    land_rows(clean, "all", *rows)
    for k, part in enumerate((rows[25:], rows[:30][::-1], rows[10:20] + rows[35:])):
        land_rows(faulty, f"part{k}", *part)
    key = ["event_id"]
    assert landed(faulty).sort(key).equals(landed(clean).sort(key))


# damaged, changed and drifted files


@pytest.mark.parametrize("cut", ["0", "8", "half", "last byte"])
def test_a_cut_file_is_named_and_stops_nothing_else(project, cut):
    good = incoming(project, "events", "good", events_table([order()]))
    bad = incoming(project, "events", "bad", events_table([order("u2", event_id="e2")] * 50))
    size = bad.stat().st_size
    length = {"0": 0, "8": 8, "half": size // 2, "last byte": size - 1}[cut]
    bad.write_bytes(bad.read_bytes()[:length])
    report = land_now(project)
    (problem,) = report.problems
    assert str(bad) in problem
    assert "cannot be read" in problem
    errors = {file.path: file.error is not None for file in files(report)}
    assert errors == {f"incoming/events/{good.name}": False, f"incoming/events/{bad.name}": True}
    assert ids(project) == ["e1"]


def test_flipped_bytes_before_landing_never_stop_the_other_files(project):
    good = incoming(project, "events", "good", events_table([order()]))
    rows = [order(f"u{k}", event_id=f"x{k}", amount=float(k)) for k in range(200)]
    content = incoming(project, "events", "flip", events_table(rows)).read_bytes()
    (good.parent / "flip.parquet").unlink()
    for k in range(20):
        place = len(content) * k // 20
        flipped = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        (good.parent / f"flip{k:02d}.parquet").write_bytes(flipped)
    report = land_now(project)
    assert "e1" in ids(project)
    for file in files(report):
        assert file.error or file.rows_in == file.kept + file.deduplicated + file.quarantined
    assert any(file.error for file in files(report))


def test_a_file_that_is_still_broken_makes_no_new_batch_and_a_mended_one_lands(project):
    bad = incoming(project, "events", "bad", events_table([order()]))
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-1])
    assert land_now(project).batch is not None
    again = land_now(project)
    assert again.batch is None
    assert len(again.problems) == 1
    assert not has_new_files(project, manifest_of(project))
    bad.write_bytes(whole)
    assert has_new_files(project, manifest_of(project))
    assert land_now(project).problems == ()
    assert ids(project) == ["e1"]


def test_a_mistake_in_the_mapping_can_be_mended_without_touching_the_files(tmp_path):
    wrong = make_project(tmp_path, platform=PLATFORM.replace("value: amount", "value: price"))
    incoming(wrong, "events", "a", events_table([order()]))
    (problem,) = land_now(wrong).problems
    assert "column 'price' (value) is missing" in problem
    mended = make_project(tmp_path)
    assert land_now(mended).problems == ()
    assert ids(mended) == ["e1"]


def test_a_landed_file_that_changed_is_refused_and_named(project):
    path = incoming(project, "events", "a", events_table([order()]))
    land_now(project)
    incoming(project, "events", "a", events_table([order(amount=9.0)]))
    report = land_now(project)
    assert report.batch is None
    (problem,) = report.problems
    assert str(path) in problem
    assert "content changed after landing" in problem
    assert landed(project)["value"].to_list() == [Decimal("1.00")]
    assert not has_new_files(project, manifest_of(project))


def test_a_new_modification_time_alone_is_silent(project):
    path = incoming(project, "events", "a", events_table([order()]))
    land_now(project)
    os.utime(path, (1, 1))
    assert not has_new_files(project, manifest_of(project))
    report = land_now(project)
    assert (report.batch, report.problems) == (None, ())


@pytest.mark.parametrize("together", [True, False])
def test_a_drifted_type_is_refused_before_any_cast(project, together):
    table = events_table([order()])
    incoming(project, "events", "a", table.with_columns(pl.col("amount").cast(pl.Int64)))
    if not together:
        assert land_now(project).problems == ()
    bad = incoming(project, "events", "b", events_table([order(event_id="e2", amount=1.5)]))
    (problem,) = land_now(project).problems
    assert str(bad) in problem
    assert "column 'amount' (value) is DOUBLE, earlier files have BIGINT" in problem
    assert ids(project) == ["e1"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.drop("amount"), "column 'amount' (value) is missing"),
        (lambda t: t.rename({"user": "User_"}), "column 'user' (unit) is missing"),
        (lambda t: t.with_columns(pl.lit("5").alias("amount")), "is VARCHAR, need a number type"),
        (lambda t: t.with_columns(pl.lit(1.0).alias("user")), "is DOUBLE, need text or integers"),
        (lambda t: t.with_columns(pl.lit(1).alias("at")), "need a TIMESTAMP or DATE type"),
        (lambda t: t.with_columns(pl.col("at").dt.replace_time_zone(None)), "declare `timezone`"),
    ],
)
def test_a_file_with_the_wrong_schema_is_refused(project, change, rule):
    path = incoming(project, "events", "a", change(events_table([order()])))
    (problem,) = land_now(project).problems
    assert str(path) in problem
    assert rule in problem


def test_extra_and_reordered_columns_change_nothing(tmp_path):
    table = events_table([order(), order("u2", event_id="e2", amount=3.0)])
    results = []
    for name, change in {
        "as it is": table,
        "extra": table.with_columns(extra=pl.lit(1)),
        "reordered": table.select(*reversed(table.columns)),
    }.items():
        project = make_project(tmp_path / name)
        incoming(project, "events", "a", change)
        assert land_now(project).problems == ()
        results.append(landed(project))
    assert all(result.equals(results[0]) for result in results)


def test_an_empty_valid_file_lands_with_no_rows(project):
    report = land_rows(project, "a")
    assert (files(report)[0].rows_in, report.problems) == (0, ())
    assert manifest_of(project).tables("events", up_to=1) == []


# bad rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (order(user=None), "missing_unit"),
        (order(user=""), "missing_unit"),
        (order(at=None), "missing_time"),
        (order(event=None), "missing_event"),
        (order(event_id=None), "missing_event_id"),
        (order(amount=float("nan")), "non_finite_value"),
        (order(amount=float("inf")), "non_finite_value"),
        (order(amount=1e17), "non_finite_value"),
        (order(amount=-0.01), "negative_value"),
        (order(at=utc(2026, 5, 3)), "time_out_of_range"),
        (order(at=utc(1999, 12, 31)), "time_out_of_range"),
        # seconds since 1970 read as milliseconds
        (order(at=utc(1970, 1, 21, 12)), "time_out_of_range"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason(project, row, reason):
    report = land_rows(project, "a", row, order("ok", event_id="ok"))
    (file,) = files(report)
    assert (file.kept, file.quarantined, file.reasons) == (1, 1, {reason: 1})


def test_milliseconds_read_as_seconds_are_quarantined(project):
    table = events_table([order()])
    raw = pl.Series("at", [T.timestamp() * 1000]).cast(pl.Int64) * 1_000_000
    incoming(project, "events", "a", table.with_columns(raw.cast(pl.Datetime("us", "UTC"))))
    assert files(land_now(project))[0].reasons == {"time_out_of_range": 1}


@pytest.mark.parametrize(
    "row",
    [order(amount=None), order(amount=0.0), order(at=utc(2026, 5, 1, 12)), order(amount=9e13)],
)
def test_a_legal_row_is_kept(project, row):
    assert files(land_rows(project, "a", row))[0].kept == 1


def test_refunds_land_where_they_are_allowed(tmp_path):
    text = PLATFORM.replace("value_decimals: 2", "value_decimals: 2\n        allow_negative: true")
    project = make_project(tmp_path, platform=text)
    assert files(land_rows(project, "a", order(amount=-5.0)))[0].kept == 1


def test_ids_are_compared_bytewise(project):
    users = ["01", "1", " 1", "a", "a ", "\u0430", "\u00e9", "e\u0301", "a\u200b"]
    land_rows(project, "a", *(order(user, event_id=user) for user in users))
    assert sorted(landed(project)["unit"]) == sorted(users)


def test_integer_ids_become_text(project):
    table = events_table([order("1")]).with_columns(pl.col("user").cast(pl.Int32))
    incoming(project, "events", "a", table)
    land_now(project)
    assert landed(project)["unit"].to_list() == ["1"]


def test_money_is_added_up_exactly(project):
    rows = [order(event_id=f"e{k}", amount=0.1) for k in range(1000)]
    land_rows(project, "a", *rows)
    assert landed(project)["value"].sum() == Decimal("100.00")


def test_the_unit_of_a_bad_row_stays_out_of_messages_and_manifest(project, caplog):
    rows = [
        order(CANARY, event_id=f"{CANARY}-1", amount=-1.0),
        order(CANARY, at=None, event_id=f"{CANARY}-2"),
        order(CANARY, event_id=f"{CANARY}-3"),
        order(CANARY, event_id=f"{CANARY}-3", amount=7.0),
    ]
    incoming(project, "events", "a", events_table(rows))
    write_csv(project, "b", f"user,at,event,id,amount\n{CANARY},never,order,1,2\n")
    write_csv(project, "c", f"user,at,event,id,amount\n{CANARY},x\n{CANARY},1,2,3,4,5,6,7\n")
    report = land_now(project)
    written = b"".join(p.read_bytes() for p in manifest_of(project).layout.manifest.iterdir())
    assert CANARY not in str(report) + caplog.text
    assert CANARY.encode() not in written
    quarantined = Layout(project.storage).quarantined("events", 1)
    assert CANARY in str(pl.read_parquet(quarantined)["unit"].to_list())


# CSV

HEADER = "user,at,event,id,amount\n"


def test_a_csv_lands_like_parquet(tmp_path):
    project = csv_project(tmp_path, "Europe/Berlin")
    write_csv(
        project, "a", HEADER + "01,2026-04-02 12:00:00,order,e1,1e-3\nu2,2026-01-02,order,e2,\n"
    )
    assert land_now(project).problems == ()
    rows = landed(project).sort("event_id").select("unit", "occurred_at", "value").rows()
    assert rows == [
        ("01", dt.datetime(2026, 4, 2, 10), 0.001),
        ("u2", dt.datetime(2026, 1, 1, 23), None),
    ]


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-03-02T10:00:00Z", (2026, 3, 2, 10)),
        ("2026-03-02T10:00:00+02:00", (2026, 3, 2, 8)),
        ("2026-03-02 10:00:00.5-0530", (2026, 3, 2, 15, 30, 0, 500_000)),
        ("2026-03-02 10:00:00+02", (2026, 3, 2, 8)),
        ("2026-03-02 10:00:00 UTC", (2026, 3, 2, 10)),
        ("2026-03-02T10:00Z", (2026, 3, 2, 10)),
        ("2026-03-02 10:00:00", (2026, 3, 2, 9)),
        ("2026-03-02", (2026, 3, 1, 23)),
        ("2026-04-02 10:00", (2026, 4, 2, 8)),
    ],
)
def test_text_with_an_offset_is_an_instant_and_naive_text_is_local(tmp_path, written, instant):
    project = csv_project(tmp_path, "Europe/Berlin")
    write_csv(project, "a", HEADER + f"u,{written},order,e1,1\n")
    assert land_now(project).problems == ()
    assert landed(project)["occurred_at"].to_list() == [dt.datetime(*instant)]


def test_without_a_declared_zone_only_instants_are_read(tmp_path):
    project = csv_project(tmp_path)
    write_csv(project, "good", HEADER + "u,2026-03-02T10:00:00+02:00,order,e1,1\n")
    write_csv(
        project,
        "bad",
        HEADER + "u,2026-03-02T10:00:00Z,order,e2,1\nu,2026-03-02 10:00:00,order,e3,1\n",
    )
    (problem,) = land_now(project).problems
    assert "bad.csv: line 3: column 'at' has no time zone; declare `timezone`" in problem
    assert landed(project)["occurred_at"].to_list() == [dt.datetime(2026, 3, 2, 8)]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (f"{CANARY},2026-03-02,order,e9,abc", "line 30002: column 'amount' is not a DOUBLE"),
        (f"{CANARY},yesterday,order,e9,1", "line 30002: column 'at' is not a TIMESTAMP"),
        (f"{CANARY},2026-03-02,order", "line 30002: the line does not fit the header"),
        (f"{CANARY},2026-03-02,order,e9,1,2", "line 30002: the line does not fit the header"),
    ],
)
def test_a_bad_csv_line_is_named_without_its_content(tmp_path, line, rule):
    project = csv_project(tmp_path, "UTC")
    good = "".join(f"u{k},2026-03-02,order,g{k},1\n" for k in range(30_000))
    write_csv(project, "bad", HEADER + good + line + "\n" + "u,2026-03-02,order,z,1\n")
    write_csv(project, "fine", HEADER + "u,2026-03-02,order,e1,1\n")
    (problem,) = land_now(project).problems
    assert problem.endswith(f"bad.csv: {rule}")
    assert CANARY not in problem
    assert ids(project) == ["e1"]


@pytest.mark.parametrize("value", ["1e400", "NaN", "-inf"])
def test_a_number_in_csv_that_is_none_is_quarantined(tmp_path, value):
    project = csv_project(tmp_path, "UTC")
    write_csv(project, "a", HEADER + f"u,2026-03-02,order,e1,{value}\nu,2026-03-02,order,e2,1\n")
    report = land_now(project)
    assert files(report)[0].reasons == {"non_finite_value": 1}


def test_an_unknown_file_type_is_named(project):
    (project.folder / "incoming/events/notes.txt").write_text("x")
    (problem,) = land_now(project).problems
    assert "unknown file type '.txt'" in problem


# days and zones


@pytest.mark.parametrize(
    ("zone", "at", "day", "start", "end"),
    [
        (
            "Europe/Berlin",
            utc(2026, 3, 29, 12),
            (2026, 3, 29),
            (2026, 3, 28, 23),
            (2026, 3, 29, 22),
        ),
        (
            "Europe/Berlin",
            utc(2026, 10, 25, 22, 59),
            (2026, 10, 25),
            (2026, 10, 24, 22),
            (2026, 10, 25, 23),
        ),
        ("Africa/Cairo", utc(2025, 4, 24, 22), (2025, 4, 25), (2025, 4, 24, 22), (2025, 4, 25, 21)),
        # Midnight comes twice; the day begins with the first.
        (
            "America/Havana",
            utc(2025, 11, 2, 4, 15),
            (2025, 11, 2),
            (2025, 11, 2, 4),
            (2025, 11, 3, 5),
        ),
        (
            "America/Havana",
            utc(2025, 11, 2, 3, 59),
            (2025, 11, 1),
            (2025, 11, 1, 4),
            (2025, 11, 2, 4),
        ),
        ("UTC", utc(2026, 3, 29), (2026, 3, 29), (2026, 3, 29), (2026, 3, 30)),
    ],
)
def test_an_event_knows_its_local_day_and_the_limits_of_it(tmp_path, zone, at, day, start, end):
    project = make_project(tmp_path, platform=PLATFORM.replace("Europe/Berlin", zone))
    incoming(project, "events", "a", events_table([order(at=at)]))
    land_now(project, now=utc(2026, 12, 1))
    (row,) = landed(project).select("event_day", "day_start", "day_end").rows()
    assert row == (dt.date(*day), dt.datetime(*start), dt.datetime(*end))


# table sources

TABLE = PLATFORM.replace(
    "path: incoming/events/*", "database: shop.duckdb\n        table: log.events"
)


def insert(project, *rows):
    with duckdb.connect(str(project.folder / "shop.duckdb")) as database:
        database.execute("CREATE SCHEMA IF NOT EXISTS log")
        database.execute(
            "CREATE TABLE IF NOT EXISTS log.events "
            '("user" VARCHAR, "at" TIMESTAMPTZ, event VARCHAR, id VARCHAR, amount DOUBLE)'
        )
        database.executemany("INSERT INTO log.events VALUES (?, ?, ?, ?, ?)", [*map(list, rows)])


def test_a_table_lands_only_its_new_rows_the_second_time(tmp_path):
    project = make_project(tmp_path, platform=TABLE)
    insert(project, order(), order("u2", event_id="e2"))
    assert files(land_now(project))[0].kept == 2
    assert land_now(project).batch is None
    insert(project, order("u3", event_id="e3"))
    assert has_new_files(project, manifest_of(project))
    (file,) = files(land_now(project))
    assert (file.rows_in, file.kept, file.deduplicated) == (3, 1, 2)
    assert ids(project) == ["e1", "e2", "e3"]


@pytest.mark.parametrize("fault", ["damaged", "no table"])
def test_a_database_that_cannot_be_read_stops_no_other_source(tmp_path, fault):
    project = make_project(tmp_path, platform=TABLE)
    if fault == "damaged":
        (tmp_path / "shop.duckdb").write_bytes(b"not a database" * 100)
    else:
        duckdb.connect(str(tmp_path / "shop.duckdb")).close()
    incoming(project, "exposures", "a", exposures_table([("u1", T, "control")]))
    report = land_now(project)
    (problem,) = report.problems
    assert "table 'log.events' cannot be read" in problem
    assert files(report, "exposures")[0].kept == 1


# conservation

ROWS = st.lists(
    st.builds(
        order,
        user=st.sampled_from(["a", "b", None, ""]),
        at=st.sampled_from([T, T + dt.timedelta(hours=1), None, utc(1970, 1, 1), utc(2030, 1, 1)]),
        event_id=st.sampled_from(["1", "2", "3", "4", None]),
        amount=st.sampled_from([1.0, 2.0, -1.0, None, float("nan"), float("inf")]),
        event=st.sampled_from(["order", "visit", None]),
    ),
    max_size=8,
)


@settings(max_examples=20)
@given(batches=st.lists(st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_every_row_is_kept_deduplicated_or_quarantined(tmp_path_factory, batches):
    repeated, remembered = (make_project(tmp_path_factory.mktemp("p")) for _ in range(2))
    now = utc(2026, 5, 1)
    with open_lander(remembered, remember_ids=True) as lander:
        for number, parts in enumerate(batches):
            for project in (repeated, remembered):
                for part, rows in enumerate(parts):
                    incoming(project, "events", f"{number}-{part}", events_table(rows))
            report = land_now(repeated, now=now)
            for file in files(report):
                assert file.rows_in == file.kept + file.deduplicated + file.quarantined
                assert (
                    sum(v for k, v in file.reasons.items() if k != "same_file") == file.quarantined
                )
            lander.land(arrival_day=now.date(), now=now)
    sent = [row for parts in batches for rows in parts for row in rows]
    fine = {
        row[3]
        for row in sent
        if row[0]
        and row[1] in (T, T + dt.timedelta(hours=1))
        and row[2]
        and row[3]
        and (row[4] is None or 0 <= row[4] < 1e9)
    }
    a, b = manifest_of(repeated), manifest_of(remembered)
    kept = [t.rows for _, t in a.tables("events", up_to=a.head)]
    assert sum(kept) == len(fine)
    assert [t.sha256 for _, t in a.tables("events", up_to=a.head)] == [
        t.sha256 for _, t in b.tables("events", up_to=b.head)
    ]


# two writers, and one that dies


def test_the_second_of_two_landings_is_told_who_is_busy(project):
    incoming(project, "events", "a", events_table([order()]))
    with open_lander(project), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        land_now(project)
    assert land_now(project).batch is not None


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from experiments_dagster.config.project import load_project
from factories import land_now
project = load_project(Path({folder!r}))
print("ready", flush=True)
sys.stdin.readline()
land_now(project)
"""


def start_landing(project):
    code = CHILD.format(tests=os.path.dirname(__file__) + "/..", folder=str(project.folder))  # noqa: PTH120
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def test_two_processes_land_everything_once(project):
    rows = [order(f"u{k}", event_id=f"e{k}") for k in range(2000)]
    for k in range(4):
        incoming(project, "events", f"f{k}", events_table(rows[k * 500 : k * 500 + 600]))
    children = [start_landing(project) for _ in range(2)]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outcomes = [(child.communicate()[1], child.returncode) for child in children]
    assert any(code == 0 for _, code in outcomes)
    assert all(code == 0 or "BusyError" in error for error, code in outcomes)
    assert landed(project).height == 2000


def test_a_killed_landing_leaves_no_part_and_the_next_lands_everything_once(project):
    rows = [order(f"u{k}", event_id=f"e{k}", amount=k / 4) for k in range(20_000)]
    for k in range(4):
        incoming(project, "events", f"f{k}", events_table(rows[k * 5000 : (k + 1) * 5000]))
    child = start_landing(project)
    begun = time.monotonic()
    child.stdin.write("\n")
    child.stdin.flush()
    child.communicate()
    whole = time.monotonic() - begun
    expected = landed(project)
    for k in range(4):
        other = make_project(project.folder / f"kill{k}")
        for source in (project.folder / "incoming/events").iterdir():
            (other.folder / "incoming/events" / source.name).write_bytes(source.read_bytes())
        child = start_landing(other)
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(whole * (k + 0.5) / 4)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        manifest = manifest_of(other)
        for _, table in manifest.tables("events", up_to=manifest.head):
            manifest.verified(table)
        land_now(other)
        assert landed(other).equals(expected)


# what has landed is damaged


def test_a_damaged_landed_file_is_named_when_it_is_read(project):
    land_rows(project, "a", *(order(event_id=f"e{k}") for k in range(50)))
    manifest = manifest_of(project)
    ((_, table),) = manifest.tables("events", up_to=1)
    path = manifest.verified(table)
    content = path.read_bytes()
    for k in range(20):
        place = len(content) * k // 20
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataDamagedError, match="SHA-256") as caught:
            manifest_of(project).verified(table)
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(DataDamagedError, match="landed file is missing"):
        manifest_of(project).verified(table)
    path.write_bytes(content)
    assert manifest_of(project).verified(table) == path


def ids_file(project):
    return Layout(project.storage).root / "landing" / "ids" / "events" / "000001.parquet"


def test_duplicates_are_found_although_the_batch_that_holds_them_is_damaged(project):
    land_rows(project, "a", order(), order(event_id="e2"))
    Layout(project.storage).landed("events", 1).write_bytes(b"")
    again = [order(), order(event_id="e2", amount=7.0), order(event_id="e3")]
    (file,) = files(land_rows(project, "b", *again))
    assert (file.kept, file.deduplicated, file.reasons) == (1, 1, {"conflicting_duplicate": 1})
    ids_file(project).unlink()
    with pytest.raises(DataDamagedError, match="SHA-256"):
        land_rows(project, "c", order(event_id="e4"))
    assert manifest_of(project).head == 2


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_damaged_ids_are_rebuilt_from_the_landed_rows(project, suffix, damage):
    land_rows(project, "a", order(), order(event_id="e2"))
    path = ids_file(project).with_suffix(suffix)
    path.unlink() if damage is None else path.write_bytes(damage)
    (file,) = files(land_rows(project, "b", order(), order(event_id="e3")))
    assert (file.kept, file.deduplicated) == (1, 1)


def three_batches(project):
    for k in range(3):
        land_rows(project, f"f{k}", order(event_id=f"e{k}"))
    return sorted(Layout(project.storage).manifest.glob("*.json"))


@pytest.mark.parametrize("fault", ["deleted", "cut", "edited", "empty", "swapped"])
def test_a_broken_manifest_is_refused(project, fault):
    one, two, _ = three_batches(project)
    content = two.read_text()
    if fault == "deleted":
        two.unlink()
    elif fault == "swapped":
        two.write_text(one.read_text())
    else:
        new = {
            "cut": content[:40],
            "edited": content.replace('"kept": 1', '"kept": 2'),
            "empty": "",
        }
        two.write_text(new[fault])
    with pytest.raises(DataDamagedError, match="Hint: restore the file from your backup"):
        manifest_of(project)


def test_an_open_manifest_notices_that_its_last_batch_is_gone(project):
    *_, last = three_batches(project)
    manifest = manifest_of(project)
    last.unlink()
    with pytest.raises(DataDamagedError, match=r"000003\.json: batch is missing"):
        manifest.refresh()


def test_a_cut_off_by_day_ends_before_the_first_batch_of_that_day(project):
    for k, day in enumerate([(2026, 5, 1), (2026, 5, 1), (2026, 5, 3)]):
        incoming(project, "events", f"f{k}", events_table([order(event_id=f"e{k}")]))
        land_now(project, now=utc(*day))
    manifest = manifest_of(project)
    days = [(5, 1), (5, 2), (5, 3), (5, 4)]
    assert [manifest.up_to_day(dt.date(2026, *day)) for day in days] == [0, 2, 2, 3]


def test_a_changed_value_type_is_refused_until_it_is_taken_back(tmp_path):
    project = make_project(tmp_path)
    incoming(project, "events", "a", events_table([("u", utc(2026, 3, 1), "order", "1", 0.01)]))
    assert land_now(project).problems == ()
    finer = PLATFORM.replace("value_decimals: 2", "value_decimals: 4")
    changed = load_project(write_configs(tmp_path, platform=finer))
    incoming(project, "events", "b", events_table([("u", utc(2026, 3, 1), "order", "2", 0.0049)]))
    problem = land_now(changed).problems[0]
    assert "landed values are DECIMAL(18,2), the source now asks for DECIMAL(18,4)" in problem
    back = load_project(write_configs(tmp_path))
    assert land_now(back).problems == ()
    assert manifest_of(back).tables("events", up_to=9)[-1][1].value_type == "DECIMAL(18,2)"
