"""Kept unit rows against rows made anew: whatever arrives, in whatever order, they are the same."""

import contextlib
import datetime as dt
import json

import duckdb
import polars as pl
import polars.testing
import pytest
from factories import (
    EXPERIMENT,
    METRICS,
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
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from experiments_dagster.config.project import load_project
from experiments_dagster.frames import row_advance
from experiments_dagster.frames.row_plan import row_plan
from experiments_dagster.frames.unit_frames import build_unit_frames, read_current_frames
from experiments_dagster.frames.unit_rows import SHARD_SIZE, advanced_shards, shards_of
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.errors import BusyError

START = utc(2026, 3, 1, 23)  # the experiment's first instant, in Berlin
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
AS_OF = utc(2026, 4, 30)
# Beyond all others, so that no exposure is later than the horizon and kept rows serve.
CLOSING = ("nobody", AS_OF - HOUR, "visit", "closing", None)

UNITS = st.sampled_from("abcd")
EXPOSURE = st.tuples(
    UNITS, st.integers(-48, 700), st.sampled_from(["control", "control", "treatment"])
)
EVENT = st.tuples(
    UNITS, st.integers(-500, 1100), st.sampled_from(["order", "visit"]), st.integers(-500, 900)
)
BATCH = st.tuples(st.lists(EXPOSURE, max_size=4), st.lists(EVENT, max_size=8), st.booleans())


def two_experiments():
    second = salted("second").replace(
        "start: 2026-03-02, end: 2026-03-30", "start: 2026-03-09, end: 2026-03-23"
    )
    return {"trial": EXPERIMENT, "second": second}


def salted(slug):
    return EXPERIMENT.replace("a-salt-of-its-own", f"a-salt-of-{slug}-alone")


def land_rows(project, name, exposures, events, *, decimals=True):
    """One batch; the id of an event is its content, so a repeated row is a duplicate."""
    step = 100 if decimals else 300  # thirds are not exact in binary
    rows = [
        (u, START + h * HOUR, e, f"{u}/{h}/{e}/{cents}", cents / step if e == "order" else None)
        for u, h, e, cents in events
    ]
    incoming(project, "events", name, events_table([*rows, (*CLOSING[:3], name, None)]))
    if exposures:
        tables = [
            exposures_table(
                [(u, START + h * HOUR, arm) for u, h, arm in exposures], experiment=slug
            )
            for slug in project.experiments
        ]
        incoming(project, "exposures", name, pl.concat(tables))
    return land_now(project)


def both(project, slug="trial", *, as_of=AS_OF):
    """The frames from kept rows and those made anew from the partials."""
    manifest = manifest_of(project)
    experiment = project.experiments[slug]
    return [
        build_unit_frames(
            project, manifest, experiment, cutoff=manifest.head, as_of=as_of, publish=publish
        )
        for publish in (True, False)
    ]


def assert_same(kept, anew, *, exact=True):
    assert kept.info.n_exposed == anew.info.n_exposed
    assert kept.info.n_multi_arm == anew.info.n_multi_arm
    assert kept.info.n_rows == anew.info.n_rows
    assert kept.info.n_immature == anew.info.n_immature
    assert kept.info.inputs == anew.info.inputs
    for one, other in ((kept.user, anew.user), (kept.ratio, anew.ratio)):
        if exact:
            pl.testing.assert_frame_equal(one, other, check_exact=True)
        else:
            # Sums of doubles in another order: a few units in the last place of the largest term.
            pl.testing.assert_frame_equal(one, other, rel_tol=1e-12, abs_tol=1e-12)


SOURCES = PLATFORM.replace("value_decimals: 2", "value_decimals: 2\n        allow_negative: true")
DOUBLES = PLATFORM.replace("value_decimals: 2", "allow_negative: true")


@settings(max_examples=12, phases=[Phase.generate], deadline=None)  # each takes many landings
@given(batches=st.lists(BATCH, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_what_a_rebuild_gives(tmp_path_factory, batches, order):
    project = make_project(tmp_path_factory.mktemp("p"), platform=SOURCES, **two_experiments())
    batches = list(batches)
    order.shuffle(batches)
    seen = []
    for number, (exposures, events, repeats) in enumerate(batches):
        again = seen[: len(seen) // 2] if repeats else []
        land_rows(project, f"batch-{number}", exposures, [*events, *again])
        seen += events
        if manifest_of(project).tables("exposures", up_to=99):
            for slug in ("trial", "second"):
                assert_same(*both(project, slug))


@settings(max_examples=5, phases=[Phase.generate], deadline=None)
@given(batches=st.lists(BATCH, min_size=2, max_size=4))
def test_doubles_too_but_for_rounding(tmp_path_factory, batches):
    project = make_project(tmp_path_factory.mktemp("p"), platform=DOUBLES)
    land_rows(project, "first", [("a", 10, "control"), ("b", 12, "treatment")], [], decimals=False)
    assert_same(*both(project))
    for number, (exposures, events, _) in enumerate(batches):
        land_rows(project, f"batch-{number}", exposures, events, decimals=False)
        assert_same(*both(project), exact=False)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def files_of(project, slug="trial"):
    """Day of first exposure to file of the shard that holds an experiment."""
    (shard,) = [
        shard
        for shard in shards_of(manifest_of(project), list(project.experiments.values()))
        if any(member.slug == slug for member in shard.members)
    ]
    state = json.loads((shard.folder / "state.json").read_bytes())
    return {day: cohort["file"] for day, cohort in state["cohorts"].items()}


def test_only_the_days_that_new_data_touch_are_written_again(project):
    land_rows(
        project, "1", [("a", 10, "control"), ("b", 300, "treatment")], [("a", 20, "order", 100)]
    )
    both(project)
    before = files_of(project)
    assert list(before) == ["2026-03-02", "2026-03-14"]
    land_rows(project, "2", [], [("b", 310, "order", 500)])  # falls into b's window alone
    assert_same(*both(project))
    after = files_of(project)
    assert after["2026-03-02"] == before["2026-03-02"]
    assert after["2026-03-14"] != before["2026-03-14"]


def test_nothing_new_writes_nothing(project, monkeypatch):
    land_rows(project, "1", [("a", 10, "control")], [("a", 20, "order", 100)])
    both(project)
    before = files_of(project)
    monkeypatch.setattr(row_advance.Advance, "_find_exposed", None)  # would raise if it were asked
    both(project)
    assert files_of(project) == before


def test_an_earlier_first_exposure_moves_the_unit_with_its_history(project):
    events = [("a", 20, "order", 100), ("a", 140, "order", 700)]
    land_rows(project, "1", [("a", 130, "treatment")], events)
    kept, anew = both(project)
    assert_same(kept, anew)
    assert kept.user["pre_spend"].to_list() == [1.0]
    land_rows(project, "2", [("a", 10, "control")], [])
    kept, anew = both(project)
    assert_same(kept, anew)
    assert kept.user.is_empty()  # two arms
    assert kept.info.n_multi_arm == {"control": 1, "treatment": 0}


def test_a_late_event_reopens_a_closed_window(project):
    land_rows(project, "1", [("a", 10, "control")], [("a", 20, "order", 100)])
    assert both(project)[0].user["spend"].to_list() == [1.0]
    land_rows(project, "2", [], [("a", 30, "order", 250)])
    kept, anew = both(project)
    assert_same(kept, anew)
    assert kept.user["spend"].to_list() == [3.5]


def test_an_edited_metric_keeps_its_rows_apart(project):
    land_rows(
        project, "1", [("a", 10, "control")], [("a", 20, "order", 100), ("a", 250, "order", 900)]
    )
    both(project)
    old = row_plan([project.experiments["trial"]]).key
    longer = METRICS.replace(
        "spend: {kind: mean, event: order, window_days: 7}",
        "spend: {kind: mean, event: order, window_days: 14}",
    )
    write_configs(project.folder, metrics=longer)
    edited = load_project(project.folder)
    assert row_plan([edited.experiments["trial"]]).key != old
    kept, anew = both(edited)
    assert_same(kept, anew)
    assert kept.user["spend"].to_list() == [10.0]


@pytest.mark.parametrize("harm", ["cut", "gone", "state"])
def test_damaged_rows_are_made_again(project, harm):
    land_rows(project, "1", [("a", 10, "control")], [("a", 20, "order", 100)])
    both(project)
    (name,) = files_of(project).values()
    (path,) = manifest_of(project).layout.root.rglob(name)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif harm == "gone":
        path.unlink()
    else:
        (path.parent / "state.json").write_text("{")
    land_rows(project, "2", [], [("a", 30, "order", 250)])
    kept, anew = both(project)
    assert_same(kept, anew)
    assert kept.user["spend"].to_list() == [3.5]


def test_a_changed_window_makes_the_rows_of_that_experiment_anew(tmp_path):
    project = make_project(tmp_path, **two_experiments())
    land_rows(
        project, "1", [("a", 10, "control"), ("b", 300, "control")], [("b", 310, "order", 100)]
    )
    both(project)
    both(project, "second")
    earlier = EXPERIMENT.replace("start: 2026-03-02", "start: 2026-03-04")
    write_configs(project.folder, trial=earlier, second=two_experiments()["second"])
    edited = load_project(project.folder)
    kept, anew = both(edited)
    assert_same(kept, anew)
    assert kept.user["unit"].to_list() == ["b"]
    assert_same(*both(edited, "second"))


def test_rows_that_another_run_holds_are_not_waited_for(project, monkeypatch):
    land_rows(project, "1", [("a", 10, "control")], [("a", 20, "order", 100)])

    def busy(*_args, **_kwargs):
        raise BusyError("held")

    monkeypatch.setattr("experiments_dagster.frames.unit_rows.Shard.advance", busy)
    assert_same(*both(project))


def test_experiments_keep_their_shard(tmp_path):
    many = {f"trial-{n:03d}": salted(f"trial-{n:03d}") for n in range(SHARD_SIZE + 3)}
    project = make_project(tmp_path, **many)
    experiments = list(project.experiments.values())
    manifest = manifest_of(project)
    first = shards_of(manifest, experiments[:2])
    assert [len(shard.members) for shard in first] == [2]
    shards = shards_of(manifest, experiments[::-1])
    assert [len(shard.members) for shard in shards] == [SHARD_SIZE, 3]
    assert {"trial-000", "trial-001"} <= {member.slug for member in shards[0].members}


def test_readers_of_the_catalog_see_the_same_frames(project):
    rows = [("a", 10, "control"), ("b", 300, "treatment"), ("c", 650, "control")]
    events = [("a", 20, "order", 100), ("b", 310, "visit", 0), ("c", 600, "order", 300)]
    land_rows(project, "1", rows, events)
    as_of = START + 740 * HOUR  # the window of the last one is open
    kept, _ = both(project, as_of=as_of)
    assert kept.info.n_immature["spend"] == 1
    layout = manifest_of(project).layout
    with contextlib.closing(duckdb.connect(str(publish_catalog(layout)), read_only=True)) as reader:
        for name, frame in (("user_frame", kept.user), ("ratio_frame", kept.ratio)):
            seen = reader.sql(f"SELECT * FROM {name}_trial ORDER BY unit").pl()
            pl.testing.assert_frame_equal(
                seen.with_columns(pl.col("exposed_at").dt.convert_time_zone("UTC")),
                frame.sort("unit"),
                check_exact=True,
            )


def test_rows_that_cannot_be_advanced_stop_no_look(project, monkeypatch):
    land_rows(project, "1", [("a", 10, "control")], [("a", 20, "order", 100)])

    def broken(*_args, **_kwargs):
        raise duckdb.OutOfMemoryException("no room")

    monkeypatch.setattr(row_advance.Advance, "run", broken)
    assert_same(*both(project))
    manifest, wanted = manifest_of(project), list(project.experiments.values())
    shards = list(advanced_shards(project, manifest, wanted, as_of=AS_OF))
    assert shards == [(None, wanted)]


def test_published_frames_keep_their_files_while_others_move_on(tmp_path):
    project = make_project(tmp_path, **two_experiments())
    land_rows(project, "1", [("a", 10, "control"), ("b", 300, "control")], [])
    published, _ = both(project, "second")
    for number in range(2, 6):  # the shard moves on for the other experiment alone
        land_rows(project, str(number), [], [("a", 10 + number, "order", 100)])
        both(project)
    layout = manifest_of(project).layout
    assert all((layout.root / name).exists() for name in published.info.unit_rows)
    again = read_current_frames(layout, project.experiments["second"])
    assert again.user.equals(published.user)


def test_no_file_of_rows_is_ever_written_twice(project):
    land_rows(project, "1", [("a", 10, "control")], [])
    both(project)
    before = files_of(project)
    # Another window makes the rows anew at the same cut-off.
    write_configs(
        project.folder, trial=EXPERIMENT.replace("start: 2026-03-02", "start: 2026-03-01")
    )
    edited = load_project(project.folder)
    assert_same(*both(edited))
    after = files_of(edited)
    assert after.keys() == before.keys()
    assert set(after.values()).isdisjoint(before.values())
