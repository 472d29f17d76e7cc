"""Sums made where the units are equal those of arrays in this process."""

import contextlib
import datetime as dt
import json
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from factories import (
    METRICS,
    PLATFORM,
    events_table,
    exposures_table,
    incoming,
    land_now,
    make_project,
    manifest_of,
    utc,
)
from rich_factory import rich_project
from sums_factory import ADDITIVE, PLAIN, TWO_ARMS, assert_equal_sums, by_polars

from experiments_dagster.frames.unit_frames import build_unit_frames
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.portable_sums import Block, DuckStore, PolarsStore, PortableEngine
from experiments_dagster.looks.remote import (
    answer,
    frames_of_sums,
    read_answer,
    read_request,
    request_sums,
)
from experiments_dagster.looks.sums import EVERYBODY, collect_sums
from experiments_dagster.looks.take import preview_look
from experiments_dagster.looks.unit_sums import UnitEngine
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError, DataDamagedError

N_USERS = 1500
ROW_FILES = {"frames"}  # hashes of unit rows, of which one of both has none


@pytest.fixture(scope="module", params=[ADDITIVE, PLAIN, TWO_ARMS], ids=["three", "plain", "two"])
def landed(request, tmp_path_factory):
    """A project with landed data, and a look's time at which many windows are open."""
    project = rich_project(tmp_path_factory.mktemp("p"), text=request.param, n_users=N_USERS)
    trial = project.experiments["trial"]
    return project, trial, start_of_day(trial, trial.planned_looks()[2])


@contextlib.contextmanager
def engine_of(name, project):
    """A reader of files and a store."""
    if name == "polars":
        yield by_polars, PolarsStore()
        return
    with connect(project.platform, manifest_of(project).layout) as duck:
        yield lambda files: nw.from_native(duck.parquet(map(Path, files))), DuckStore(duck)


def frames_of(landed):
    project, trial, as_of = landed
    manifest = manifest_of(project)
    return build_unit_frames(project, manifest, trial, cutoff=manifest.head, as_of=as_of)


def request_of(landed, *, cap=None):
    project, trial, as_of = landed
    manifest = manifest_of(project)
    return request_sums(manifest, trial, cutoff=manifest.head, as_of=as_of, cap=cap)


@pytest.mark.parametrize("cap", [None, 40.0])
@pytest.mark.parametrize("engine", ["duckdb", "polars"])
def test_sums_from_landed_files_equal_those_of_unit_frames(landed, engine, cap):
    project, trial, _ = landed
    frames = frames_of(landed)
    expected = collect_sums(trial, UnitEngine(trial, frames, cap=cap))
    with engine_of(engine, project) as (scan, store):
        found = answer(request_of(landed, cap=cap), scan, store)
    assert_equal_sums(found.sums, expected)
    for name in ("n_exposed", "n_multi_arm", "n_rows", "n_immature"):
        assert getattr(found, name) == getattr(frames.info, name)
    assert min(found.n_immature.values()) > 100  # open windows are there
    assert any(not part.inside for _, part in found.sums.moments)


def test_request_and_answer_pass_through_json_without_a_changed_bit(landed):
    request = request_of(landed, cap=40.0)
    text = json.dumps(request.document(), allow_nan=False)
    assert landed[1].salt not in text
    back = read_request(json.loads(text))
    assert back.document() == request.document()
    assert list(back.experiment.variants) == list(request.experiment.variants)
    found = answer(request, by_polars, PolarsStore())
    written = json.dumps(found.document(), allow_nan=False)
    again = read_answer(json.loads(written))
    assert json.dumps(again.document(), allow_nan=False) == written
    assert_equal_sums(again.sums, found.sums)
    moments = found.sums.moments["spend", EVERYBODY]["control"]
    same = again.sums.moments["spend", EVERYBODY]["control"]
    assert np.array_equal(same.cross, moments.cross)
    assert np.array_equal(same.mean_rest, moments.mean_rest)
    # Aggregates only: the answer does not grow with the units.
    assert "s000" not in written


def test_a_look_without_rows_says_what_a_look_at_frames_says(landed):
    project, trial, as_of = landed
    manifest = manifest_of(project)
    expected = preview_look(manifest, trial, frames_of(landed))
    answers = {None: answer(request_of(landed), by_polars, PolarsStore())}
    at = {"cutoff": manifest.head, "as_of": as_of}
    found = preview_look(manifest, trial, frames_of_sums(manifest, trial, answers, **at))
    assert sum(effect.status == "ok" for effect in expected.effects) > 10
    documents = [look.model_dump(mode="json", exclude=ROW_FILES) for look in (found, expected)]
    assert_same(*documents)


def assert_same(found, expected):
    """Equal documents but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        # Differences of means cancel digits: as far as the moments agree, times 1,000.
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    else:
        assert found == expected


@pytest.fixture
def trial(tmp_path):
    """The three-arm plan; units are written by hand."""
    return rich_project(tmp_path, text=ADDITIVE, n_users=20).experiments["trial"]


def unit_rows(trial, n, *, offset=0.0, seed=3):
    """Unit rows as of a look; outcomes lie around an offset."""
    rng = np.random.default_rng(seed)
    at = trial.starts_at.replace(tzinfo=None)
    minutes = rng.integers(0, 27 * 24 * 60, n)
    rows = {
        "arm": rng.choice(list(trial.variants), n),
        "exposed_at": [at + dt.timedelta(minutes=int(m)) for m in minutes],
        "n_exposures": np.ones(n, dtype=np.int64),
        "n_arms": np.ones(n, dtype=np.int64),
        "is_pre_missing": rng.random(n) < 0.3,
        "segment_device": rng.choice(["desktop", "phone", None], n),
        "segment_country": ["de"] * n,
    }
    for metric in trial.metrics:
        for name, _ in metric.columns:
            rows[name] = offset + rng.gamma(2.0, 1.0, n)
            rows[f"pre_{name}"] = offset + rng.gamma(2.0, 1.0, n)
    return pl.DataFrame(rows).with_columns(pl.col("exposed_at").cast(pl.Datetime("us")))


class InMemory:
    """Unit frames as `UnitEngine` reads them."""

    def __init__(self, rows):
        self.rows = rows.filter(pl.col("n_arms") == 1)

    def chunks(self, columns):
        utc = self.rows.with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC"))
        yield utc.select(columns)


def both(trial, rows):
    portable = PortableEngine(trial, nw.from_native(rows.lazy()), PolarsStore(), cap=None)
    return collect_sums(trial, portable), collect_sums(
        trial, UnitEngine(trial, InMemory(rows), cap=None)
    )


def test_what_an_engine_rounds_off_its_mean_is_put_back():
    """1 and 3 around a mean of 1.5: deviations leave 0.5 per unit."""
    block = Block(name="m", columns=("y",), names=("y",), mature=None)
    row = {"m:n": 2, "m:mean:0": 1.5, "m:deviation:0": 1.0, "m:product:0:0": 0.25 + 2.25}
    found = block.moments(row)
    assert (found.n, found.mean("y"), found.variance("y")) == (2, 2.0, 2.0)
    tiny = block.moments(row | {"m:mean:0": 1e8, "m:deviation:0": 2e-12})
    assert tiny.mean_rest is not None
    assert (tiny.mean("y"), tiny.mean_rest[0]) == (1e8, 1e-12)


def test_levels_that_are_null_and_units_of_two_arms(trial):
    rows = unit_rows(trial, 900)
    rows = rows.with_columns(n_arms=pl.when(pl.int_range(pl.len()) % 7 == 0).then(2).otherwise(1))
    found, expected = both(trial, rows)
    assert "missing" in expected.counts.by_level["device"]
    assert_equal_sums(found, expected)


def test_a_large_offset_costs_no_digits(trial):
    """At 1e8 standard deviations from zero raw squares would have no right digit left."""
    found, expected = both(trial, unit_rows(trial, 900, offset=1e8))
    for arm, other in expected.moments["spend", EVERYBODY].items():
        one = found.moments["spend", EVERYBODY][arm]
        # A unit's value itself is rounded to 1.5e-8 there.
        assert one.variance("spend" if "spend" in one.columns else "y") == pytest.approx(
            other.variance("y"), rel=1e-7
        )
        assert one.mean("y") == pytest.approx(other.mean("y"), rel=1e-15)


def test_a_covariate_that_isolates_a_unit_is_left_out_alike(trial):
    rows = unit_rows(trial, 900)
    alone = (pl.int_range(pl.len()) == rows["arm"].to_list().index("control")).alias("alone")
    rows = rows.with_columns(is_pre_missing=alone)
    found, expected = both(trial, rows)
    assert_equal_sums(found, expected)
    assert any("is_pre_missing" in lines.dropped for lines in expected.lines.values())


def test_without_units_there_are_empty_moments(trial):
    found = collect_sums(
        trial,
        PortableEngine(
            trial, nw.from_native(unit_rows(trial, 5).clear().lazy()), PolarsStore(), cap=None
        ),
    )
    assert {m.n for arms in found.moments.values() for m in arms.values()} == {0}
    assert found.counts.by_day == {}
    assert found.lines == {}


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"])
def test_local_days_across_clock_changes_and_odd_offsets(trial, zone):
    trial = trial.model_copy(update={"timezone": zone})
    found, expected = both(trial, unit_rows(trial, 900, seed=5))
    assert found.counts.by_day == expected.counts.by_day


def test_every_offset_since_2000_is_whole_quarters_of_an_hour():
    """So that a quarter of an hour in UTC lies in one local day, everywhere."""
    for name in available_timezones():
        zone = ZoneInfo(name)
        for week in range(52 * 30):
            at = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(weeks=week)
            offset = at.astimezone(zone).utcoffset()
            assert offset % dt.timedelta(minutes=15) == dt.timedelta(), name


def test_an_unknown_arm_is_refused_by_name(landed):
    request = request_of(landed)
    arms = dict(request.experiment.variants)
    arms["renamed"] = arms.pop(request.experiment.treatments[0])
    wrong = request.experiment.model_copy(update={"variants": arms})
    with pytest.raises(ContractError, match="variant 'one_step' is not configured"):
        answer(
            read_request(request.document() | {"experiment": wrong.model_dump(mode="json")}),
            by_polars,
            PolarsStore(),
        )


def test_a_damaged_file_is_never_sent(tmp_path):
    project = rich_project(tmp_path, text=ADDITIVE, n_users=50)
    trial = project.experiments["trial"]
    as_of = start_of_day(trial, trial.planned_looks()[3])
    (path,) = request_of((project, trial, as_of)).exposures
    Path(path).write_bytes(b"x" + Path(path).read_bytes())
    with pytest.raises(DataDamagedError):
        request_of((project, trial, as_of))


def test_two_sources_of_which_one_may_be_silent(tmp_path):
    platform = PLATFORM + (
        "      calls:\n        kind: events\n        path: incoming/calls/*\n"
        "        event_name: call\n"
        "        columns: {unit: user, timestamp: at, event_id: id}\n"
    )
    metrics = METRICS.replace("event: order", "event: order, source: events").replace(
        "event: visit", "event: call, source: calls"
    )
    project = make_project(tmp_path, platform=platform, metrics=metrics)
    trial = project.experiments["trial"]
    (tmp_path / "incoming/calls").mkdir()
    exposed, as_of = utc(2026, 3, 10, 9), utc(2026, 4, 20)
    before = exposed - dt.timedelta(days=1)
    units = ("caller", "neither", "shopper")
    incoming(
        project, "exposures", "a", exposures_table([(unit, exposed, "control") for unit in units])
    )
    rows = [("shopper", before, "order", "1", 2.0), ("nobody", as_of, "order", "2", 1.0)]
    incoming(project, "events", "a", events_table(rows))
    land_now(project)
    silent = answer(request_of((project, trial, as_of)), by_polars, PolarsStore())
    assert (silent.n_immature["back"], silent.n_immature["spend"]) == (3, 0)
    assert silent.sums.counts.missing == {"control": 2, "treatment": 0}
    calls = [("caller", before, "call", "3", None), ("nobody", as_of, "call", "4", None)]
    incoming(project, "calls", "a", events_table(calls).drop("event", "amount"))
    land_now(project)
    both_speak = answer(request_of((project, trial, as_of)), by_polars, PolarsStore())
    assert both_speak.n_immature["back"] == 0
    assert both_speak.sums.counts.missing == {"control": 1, "treatment": 0}
