"""Unit frames from hand-written rows, and against a plain Python reading of the definitions."""

import datetime as dt
import itertools
import json
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl
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
from experiments_dagster.frames.definitions import (
    first_exposures,
    measured_events,
    metric_totals,
    unit_days,
    unit_frame,
    window_totals,
)
from experiments_dagster.frames.partials import build_partials, measures_hash
from experiments_dagster.frames.unit_frames import build_unit_frames, read_current_frames
from experiments_dagster.storage.errors import ContractError, DataDamagedError

BERLIN = ZoneInfo("Europe/Berlin")
US = dt.timedelta(microseconds=1)
DAY = dt.timedelta(days=1)
E = utc(2026, 3, 10, 9, 30)  # an exposure in the middle of a local day
LATE = utc(2026, 4, 30)
COLUMNS = ["spend", "orders", "bought", "back"]


def events(*rows):
    """(user, at, event, amount) with ids made from their place and time."""
    return events_table(
        [(user, at, event, f"{user}/{at}/{event}", amount) for user, at, event, amount in rows]
    )


# An event far after everything, so that the horizon is `as_of`.
CLOSING = ("nobody", LATE, "visit", None)


def land_batch(project, name, event_rows=(), exposure_rows=()):
    if event_rows:
        incoming(project, "events", name, events(*event_rows))
    if exposure_rows:
        incoming(project, "exposures", name, exposures_table(list(exposure_rows)))
    return land_now(project)


def frames_of(project, *, as_of=LATE, cutoff=None):
    manifest = manifest_of(project)
    cutoff = manifest.head if cutoff is None else cutoff
    trial = project.experiments["trial"]
    return build_unit_frames(project, manifest, trial, cutoff=cutoff, as_of=as_of)


def values(frame, *columns):
    return {row[0]: row[1:] for row in frame.select("unit", *columns).iter_rows()}


def test_every_kind_of_metric_over_its_window(project):
    land_batch(
        project,
        "a",
        [
            ("a", E + DAY, "order", 10.0),
            ("a", E + 2 * DAY, "order", 2.5),
            ("a", E + 3 * DAY, "visit", None),  # returns on day 3
            ("b", E + DAY, "visit", None),  # before day 3: no return
            ("b", E + 8 * DAY, "order", 99.0),  # after the window
            ("c", E + DAY, "other", 5.0),  # no metric counts it
            CLOSING,
        ],
        [("a", E, "control"), ("b", E, "treatment"), ("c", E, "control")],
    )
    frames = frames_of(project)
    assert values(frames.user, "arm", *COLUMNS) == {
        "a": ("control", 12.5, 2.0, 1.0, 1.0),
        "b": ("treatment", 0.0, 0.0, 0.0, 0.0),
        "c": ("control", 0.0, 0.0, 0.0, 0.0),
    }
    assert values(frames.ratio, "basket_numerator", "basket_denominator") == {
        "a": (12.5, 2.0),
        "b": (0.0, 0.0),
        "c": (0.0, 0.0),
    }
    assert frames.user["exposed_at"].to_list() == [E] * 3
    assert frames.user.columns == [
        "unit", "arm", "exposed_at", "is_pre_missing",
        *itertools.chain.from_iterable((name, f"pre_{name}") for name in COLUMNS),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "outcome", "before"),
    [
        (E - 14 * DAY - US, 0, 0),
        (E - 14 * DAY, 0, 1),
        (E - 14 * DAY + US, 0, 1),
        (E - US, 0, 1),
        (E, 1, 0),  # at the very instant of exposure: outcome
        (E + US, 1, 0),
        (E + 7 * DAY - US, 1, 0),
        (E + 7 * DAY, 0, 0),
        # the days that exposure and the window's ends cut in two
        (utc(2026, 3, 9, 23), 0, 1),
        (utc(2026, 3, 10, 22, 59, 59), 1, 0),
        (utc(2026, 3, 16, 23), 1, 0),
        (utc(2026, 3, 17, 22, 59, 59), 0, 0),
    ],
)
def test_windows_are_exact_to_the_microsecond(project, at, outcome, before):
    land_batch(project, "a", [("u", at, "order", 3.0), CLOSING], [("u", E, "control")])
    (row,) = values(
        frames_of(project).user, "spend", "pre_spend", "orders", "is_pre_missing"
    ).values()
    assert row == (3.0 * outcome, 3.0 * before, float(outcome), not before)


@pytest.mark.parametrize(("exposed", "at", "counts"), [
    # the clock goes forward on 29 March: the local day has 23 hours, the window still 7 x 24
    (utc(2026, 3, 28, 23), utc(2026, 4, 4, 22, 59, 59), True),
    (utc(2026, 3, 28, 23), utc(2026, 4, 4, 23), False),
    (utc(2026, 3, 28, 23), utc(2026, 3, 28, 22, 59, 59), False),
    (utc(2026, 3, 25, 12), utc(2026, 4, 1, 11, 59, 59), True),
    (utc(2026, 3, 25, 12), utc(2026, 4, 1, 12), False),
])  # fmt: skip
def test_windows_across_a_clock_change(project, exposed, at, counts):
    land_batch(project, "a", [("u", at, "order", 3.0), CLOSING], [("u", exposed, "control")])
    assert values(frames_of(project).user, "orders") == {"u": (float(counts),)}


def test_the_day_with_midnight_twice_is_cut_at_the_right_instant(tmp_path):
    trial = EXPERIMENT.replace("2026-03-02", "2025-10-02").replace("2026-03-30", "2025-12-01")
    platform = PLATFORM.replace("Europe/Berlin", "America/Havana")
    project = make_project(tmp_path, platform=platform, trial=trial)
    exposed = utc(2025, 11, 2, 4, 30)
    rows = [("u", exposed - dt.timedelta(minutes=15), "order", 1.0), ("u", exposed, "order", 2.0)]
    land_batch(project, "a", [*rows, CLOSING], [("u", exposed, "control")])
    assert values(frames_of(project).user, "spend", "pre_spend") == {"u": (2.0, 1.0)}


def test_units_in_two_arms_are_left_out_and_counted(project):
    exposures = [
        ("one", E, "control"), ("one", E + DAY, "control"),
        ("two", E, "treatment"), ("two", E + DAY, "control"),
    ]  # fmt: skip
    land_batch(project, "a", [CLOSING], exposures)
    frames = frames_of(project)
    assert frames.user["unit"].to_list() == ["one"]
    info = frames.info
    assert info.n_exposed == {"control": 1, "treatment": 0}
    assert info.n_multi_arm == {"control": 0, "treatment": 1}
    assert info.n_rows == {"control": 2, "treatment": 0}


@pytest.mark.parametrize("others", [0, 5])
def test_an_unknown_variant_is_refused_by_name(project, others):
    exposures = [(f"u{k}", E, "control") for k in range(others)]
    land_batch(project, "a", [CLOSING], [*exposures, ("canary-7f3a", E, "tretment")])
    with pytest.raises(
        ContractError, match="variant 'tretment' is not configured: 1 rows"
    ) as caught:
        frames_of(project)
    assert "canary-7f3a" not in str(caught.value)
    assert not (manifest_of(project).layout.frame("user_frame", "trial") / "current.json").exists()


def test_exposures_outside_the_window_or_of_other_experiments_do_not_count(project):
    start, end = utc(2026, 3, 1, 23), utc(2026, 3, 29, 22)
    rows = [("early", start - US), ("first", start), ("last", end - US), ("late", end)]
    land_batch(project, "a", [CLOSING], [(unit, at, "control") for unit, at in rows])
    incoming(project, "exposures", "b", exposures_table([("other", E, "control")], "another"))
    land_now(project)
    assert frames_of(project).user["unit"].to_list() == ["first", "last"]


def test_immature_units_have_null_outcomes_and_are_counted(project):
    later = E + 5 * DAY
    land_batch(
        project, "a", [("old", E, "order", 1.0), ("young", later, "order", 1.0), CLOSING],
        [("old", E, "control"), ("young", later, "control")],
    )  # fmt: skip
    frames = frames_of(project, as_of=E + 7 * DAY)
    assert values(frames.user, "spend", "pre_spend") == {"old": (1.0, 0.0), "young": (None, 0.0)}
    assert frames.info.n_immature == dict.fromkeys([*COLUMNS, "basket"], 1)
    assert frames_of(project, as_of=E + 7 * DAY - US).info.n_immature["spend"] == 2
    assert frames_of(project, as_of=E + 12 * DAY).info.n_immature["spend"] == 0


def test_data_that_end_early_keep_windows_open(project):
    newest = E + 6 * DAY  # its local day ends at 23:00 UTC
    land_batch(project, "a", [("u", newest, "order", 1.0)], [("u", E, "control")])
    frames = frames_of(project, as_of=LATE)
    assert frames.info.horizon == utc(2026, 3, 16, 23).isoformat()
    assert frames.info.n_immature["spend"] == 1


def test_a_late_event_changes_the_frame_of_the_next_cut_off_only(project):
    land_batch(project, "a", [("u", E, "order", 1.0), CLOSING], [("u", E, "control")])
    before = frames_of(project)
    land_batch(project, "b", [("u", E + DAY, "order", 4.0)])
    assert values(frames_of(project).user, "spend") == {"u": (5.0,)}
    again = frames_of(project, cutoff=1)
    assert again.user.equals(before.user)


def test_a_late_exposure_moves_the_first_one_back(project):
    rows = [("u", E - DAY, "order", 1.0), ("u", E + 6 * DAY + US, "order", 2.0), CLOSING]
    land_batch(project, "a", rows, [("u", E, "control")])
    assert values(frames_of(project).user, "spend", "pre_spend") == {"u": (2.0, 1.0)}
    land_batch(project, "b", exposure_rows=[("u", E - DAY, "control")])
    assert values(frames_of(project).user, "spend", "pre_spend") == {"u": (1.0, 0.0)}
    land_batch(project, "c", exposure_rows=[("u", E + DAY, "treatment")])
    assert frames_of(project).info.n_multi_arm == {"control": 1, "treatment": 0}


def test_the_order_of_files_and_batches_does_not_matter(tmp_path):
    parts = [
        ([("a", E + k * DAY, "order", 0.1 * k), ("b", E - k * DAY, "visit", None)],
         [(f"u{k}", E + k * DAY, "control"), ("a", E, "control"), ("b", E + k * DAY, "treatment")])
        for k in range(4)
    ]  # fmt: skip
    found = []
    for number, order in enumerate(itertools.permutations(range(4))):
        if number % 5:
            continue
        project = make_project(tmp_path / str(number))
        for k in order:
            land_batch(project, f"f{k}", *parts[k])
        land_batch(project, "closing", [CLOSING])
        found.append(frames_of(project))
    assert len(found) == 5
    for frames in found[1:]:
        assert frames.user.equals(found[0].user)
        assert frames.ratio.equals(found[0].ratio)


def test_properties_filter_events_and_become_segments_at_first_exposure(tmp_path):
    platform = PLATFORM.replace(
        "value_decimals: 2", "value_decimals: 2\n        properties: {device: device}"
    ).replace("variant: variant}", "variant: variant}\n        properties: {device: device}")
    metrics = METRICS.replace(
        "orders: {kind: count,", "orders: {kind: count, where: {device: web},"
    )
    trial = EXPERIMENT.replace("plan:", "segments: [device]\n    plan:")
    project = make_project(tmp_path, platform=platform, metrics=metrics, trial=trial)
    rows = [("u", E, "order", 1.0), ("u", E + DAY, "order", 2.0), ("v", E, "order", 4.0), CLOSING]
    devices = pl.Series("device", ["web", "app", None, "web"])
    incoming(project, "events", "a", events(*rows).with_columns(devices))
    exposures = exposures_table(
        [("u", E + DAY, "control"), ("u", E, "control"), ("v", E, "control")]
    )
    incoming(
        project, "exposures", "a", exposures.with_columns(device=pl.Series(["app", "web", None]))
    )
    land_now(project)
    frame = frames_of(project).user
    assert values(frame, "spend", "orders", "segment_device") == {
        "u": (3.0, 1.0, "web"),
        "v": (4.0, 0.0, None),
    }


def test_a_unit_with_events_in_only_one_of_two_sources_has_a_pre_period(tmp_path):
    platform = PLATFORM + (
        "      calls:\n        kind: events\n        path: incoming/calls/*\n"
        "        event_name: call\n"
        "        columns: {unit: user, timestamp: at, event_id: id}\n"
    )
    metrics = METRICS.replace("event: order", "event: order, source: events").replace(
        "event: visit", "event: call, source: calls"
    )
    project = make_project(tmp_path, platform=platform, metrics=metrics)
    (tmp_path / "incoming/calls").mkdir()
    rows = [("shopper", E - DAY, "order", 1.0), CLOSING]
    exposures = [(unit, E, "control") for unit in ("caller", "neither", "shopper")]
    land_batch(project, "a", rows, exposures)
    # Nothing is known of the calls: their metric waits, the others do not.
    silent = frames_of(project)
    assert (silent.info.n_immature["back"], silent.info.n_immature["spend"]) == (3, 0)
    calls = events(("caller", E - DAY, "call", None), ("shopper", E + 3 * DAY, "call", None))
    calls.drop("event", "amount").write_parquet(tmp_path / "incoming/calls/a.parquet")
    land_now(project)
    # The calls end on day 3, so that windows of their metrics are open, and only those.
    frames = frames_of(project)
    assert frames.info.n_immature["back"] == 3
    assert frames.info.n_immature["spend"] == 0
    closing = events(("nobody", LATE, "call", None))
    closing.drop("event", "amount").write_parquet(tmp_path / "incoming/calls/b.parquet")
    land_now(project)
    assert values(frames_of(project).user, "spend", "pre_spend", "back", "is_pre_missing") == {
        "caller": (0.0, 0.0, 0.0, False),
        "neither": (0.0, 0.0, 0.0, True),
        "shopper": (0.0, 1.0, 1.0, False),
    }


def test_the_cap_basis_is_the_pre_period_total_over_a_window_as_long_as_the_outcome(tmp_path):
    text = EXPERIMENT.replace("mde: 0.1", "mde: 0.1\n      cap: {quantile: 0.9, from: pre_period}")
    project = make_project(tmp_path, trial=text)
    rows = [("u", E - 7 * DAY - US, "order", 1.0), ("u", E - 7 * DAY, "order", 2.0), CLOSING]
    land_batch(project, "a", rows, [("u", E, "control")])
    assert values(frames_of(project).user, "cap_basis_spend", "pre_spend") == {"u": (2.0, 3.0)}


def test_a_property_mapped_later_is_empty_in_older_batches(tmp_path):
    project = make_project(tmp_path)
    land_batch(project, "a", [("u", E, "order", 1.0)], [("u", E, "control")])
    platform = PLATFORM.replace(
        "value_decimals: 2", "value_decimals: 2\n        properties: {device: device}"
    )
    metrics = METRICS.replace(
        "spend: {kind: mean, event: order,",
        "spend: {kind: mean, event: order, where: {device: tv},",
    )
    project = load_project(write_configs(tmp_path, platform=platform, metrics=metrics))
    later = events(("u", E + DAY, "order", 4.0), CLOSING).with_columns(device=pl.lit("tv"))
    incoming(project, "events", "b", later)
    land_now(project)
    assert values(frames_of(project).user, "spend", "orders") == {"u": (4.0, 2.0)}


def test_without_data_there_is_no_frame(project):
    with pytest.raises(ContractError, match="no events have landed"):
        frames_of(project)
    land_batch(project, "a", [CLOSING])
    with pytest.raises(ContractError, match="no exposures have landed"):
        frames_of(project)
    land_batch(project, "b", exposure_rows=[("u", LATE, "control")])
    assert frames_of(project).user.height == 0


def test_published_frames_are_read_back(project):
    land_batch(project, "a", [("u", E, "order", 1.0), CLOSING], [("u", E, "control")])
    frames = frames_of(project)
    current = read_current_frames(manifest_of(project).layout, project.experiments["trial"])
    assert current.info == frames.info
    assert current.user.equals(frames.user)
    assert current.ratio.equals(frames.ratio)


# unit_days


def test_damaged_partials_are_rebuilt_from_the_landed_file(project):
    land_batch(project, "a", [("u", E, "order", 1.0), CLOSING], [("u", E, "control")])
    clean = frames_of(project)
    manifest = manifest_of(project)
    folder = manifest.layout.unit_days("events", measures_hash(project.measures("events")))
    for name in ("days/000001.parquet", "events/000001.parquet", "000001.json"):
        path = folder / name
        content = path.read_bytes()
        for damage in (content[:-5], b"", content[:30] + b"\x00" + content[31:], None):
            path.unlink() if damage is None else path.write_bytes(damage)
            assert frames_of(project).user.equals(clean.user)
    ((_, table),) = manifest.tables("events", up_to=1)
    manifest.verified(table).write_bytes(b"")
    assert frames_of(project).user.equals(clean.user)  # the partials are whole, nothing is read
    (folder / "000001.json").unlink()
    with pytest.raises(DataDamagedError, match=table.path):
        frames_of(project)


def test_only_an_edit_of_the_measures_makes_new_partials(tmp_path):
    project = make_project(tmp_path)
    land_batch(project, "a", [("u", E, "order", 1.0), CLOSING], [("u", E, "control")])
    first = build_partials(project, manifest_of(project), "events", up_to=1)
    stamp = first.days[0].stat().st_mtime_ns
    other_window = METRICS.replace(
        "window_days: 7}", "window_days: 9, direction: decrease, owner: me}"
    )
    edited = make_project(tmp_path, metrics=other_window)
    assert build_partials(edited, manifest_of(edited), "events", up_to=1) == first
    assert first.days[0].stat().st_mtime_ns == stamp
    renamed = make_project(tmp_path, metrics=METRICS.replace("event: visit", "event: login"))
    assert build_partials(renamed, manifest_of(renamed), "events", up_to=1).days != first.days


def test_the_index_of_partials_names_the_landed_file(project):
    land_batch(project, "a", [("u", E, "order", 1.0)], [("u", E, "control")])
    partials = build_partials(project, manifest_of(project), "events", up_to=1)
    ((_, table),) = manifest_of(project).tables("events", up_to=1)
    index = json.loads((partials.days[0].parents[1] / "000001.json").read_bytes())
    assert index["landed"] == table.sha256
    assert partials.inputs == {table.path: table.sha256}


# against a plain reading

NEAR = st.one_of(
    st.sampled_from([d * DAY + e for d in (-14, -7, 0, 3, 7) for e in (-US, 0 * US, US)]),
    st.integers(-20 * 86_400, 12 * 86_400).map(lambda s: dt.timedelta(seconds=s)),
)
UNITS = st.sampled_from(["a", "b", "c"])
EXPOSED = st.integers(0, 26 * 24).map(lambda h: utc(2026, 3, 1, 23) + dt.timedelta(hours=h))
EXPOSURES = st.lists(
    st.tuples(UNITS, EXPOSED, st.sampled_from(["control", "control", "treatment"])),
    min_size=1, max_size=6, unique_by=lambda row: row[:2],
)  # fmt: skip
EVENTS = st.lists(
    st.tuples(UNITS, NEAR, st.sampled_from(["order", "visit", "other"]), st.integers(0, 400)),
    min_size=1, max_size=25,
)  # fmt: skip


def plain_reading(exposures, rows, horizon):
    """The frame as the words of the definitions say, without any engine."""
    frame = {}
    for unit in sorted({unit for unit, *_ in exposures}):
        mine = sorted((at, arm) for u, at, arm in exposures if u == unit and at < horizon)
        if len({arm for _, arm in mine}) != 1:
            continue
        exposed, arm = mine[0]

        def total(event, start, end, unit=unit, exposed=exposed):
            inside = [
                amount for u, at, e, amount in rows
                if u == unit and e == event and exposed + start * DAY <= at < exposed + end * DAY
            ]  # fmt: skip
            return sum(inside), float(len(inside))

        spend, orders = total("order", 0, 7)
        before, n_before = total("order", -14, 0)
        n_visits_before = total("visit", -14, 0)[1]
        back = float(total("visit", 3, 7)[1] > 0)
        outcomes = (spend, orders, float(orders > 0), back)
        if exposed + 7 * DAY > horizon:
            outcomes = (None,) * 4
        pairs = zip(outcomes, (before, n_before, n_before, n_visits_before), strict=True)
        is_missing = n_before + n_visits_before == 0
        frame[unit] = (arm, exposed, is_missing, *itertools.chain(*pairs))
    return frame


def by_polars(project, trial, horizon):
    """The same definitions run by Polars over the landed rows."""
    manifest = manifest_of(project)
    tables = {}
    for source in ("events", "exposures"):
        listed = [manifest.verified(t) for _, t in manifest.tables(source, up_to=manifest.head)]
        tables[source] = nw.from_native(pl.scan_parquet(listed))
    measures = project.measures("events")
    rows = measured_events(tables["events"], measures)
    naive = horizon.replace(tzinfo=None)
    exposed = first_exposures(
        tables["exposures"], experiment="trial", segments=(),
        starts_at=trial.starts_at.replace(tzinfo=None),
        ends_at=min(trial.ends_at.replace(tzinfo=None), naive),
    )  # fmt: skip
    totals = metric_totals(trial.metrics, trial.plan.estimator.covariate_days)
    frame = unit_frame(
        window_totals(exposed, unit_days(rows, measures), rows, totals), trial.metrics, naive
    )
    return frame.sort("unit").to_native().collect().filter(pl.col("n_arms") == 1)


@settings(max_examples=15, phases=[Phase.generate])  # an example costs half a second
@given(exposures=EXPOSURES, near=EVENTS, days=st.integers(1, 50), cut=st.integers(0, 25))
def test_two_engines_agree_with_a_plain_reading(tmp_path_factory, exposures, near, days, cut):
    project = make_project(tmp_path_factory.mktemp("p"))
    trial = project.experiments["trial"]
    anchor = {unit: at for unit, at, _ in exposures}
    rows = {
        (unit, anchor.get(unit, E) + offset, event): (
            unit, anchor.get(unit, E) + offset, event, cents / 100
        )
        for unit, offset, event, cents in near
    }  # fmt: skip
    rows = list(rows.values())
    land_batch(project, "a", rows[:cut], exposures[: cut // 4])
    land_batch(project, "b", rows[cut:], exposures[cut // 4 :])
    as_of = utc(2026, 3, 2) + days * DAY
    frames = frames_of(project, as_of=as_of)
    newest = max(at for _, at, *_ in rows).astimezone(BERLIN).date() + DAY
    horizon = min(as_of, dt.datetime.combine(newest, dt.time(), BERLIN).astimezone(dt.UTC))
    assert frames.info.horizon == horizon.isoformat()
    columns = list(itertools.chain.from_iterable((name, f"pre_{name}") for name in COLUMNS))
    found = values(frames.user, "arm", "exposed_at", "is_pre_missing", *columns)
    expected = plain_reading(exposures, rows, horizon)
    assert found.keys() == expected.keys()
    for unit, row in found.items():
        assert row[:3] == expected[unit][:3]
        for number, wanted in zip(row[3:], expected[unit][3:], strict=True):
            assert number == (wanted and pytest.approx(wanted, rel=1e-12, abs=1e-12))
    other = by_polars(project, trial, horizon).with_columns(
        pl.col("exposed_at").dt.replace_time_zone("UTC")
    )
    for frame in (frames.user, frames.ratio):
        assert frame.sort("unit").equals(other.select(frame.columns))


def test_a_metric_of_others_leaves_every_frame_as_it_was(tmp_path):
    """The covariates of a frozen plan depend on the plan alone, not on what else is configured."""
    lean = METRICS.replace(
        "      back: {kind: retention, event: visit, start_day: 3, window_days: 4}\n", ""
    )
    text = EXPERIMENT.replace("[orders, bought, back]", "[orders, bought]")
    project = make_project(tmp_path, metrics=lean, trial=text)
    rows = [("visitor", E - DAY, "visit", None), ("buyer", E - DAY, "order", 1.0), CLOSING]
    closing = ("nobody", LATE, "order", 1.0)
    land_batch(project, "a", [*rows, closing], [("visitor", E, "control"), ("buyer", E, "control")])
    before = frames_of(project)
    more = load_project(write_configs(tmp_path, metrics=METRICS, trial=text))
    after = frames_of(more)
    assert after.user.equals(before.user)
    assert after.ratio.equals(before.ratio)
    assert values(after.user, "is_pre_missing") == {"visitor": (True,), "buyer": (False,)}
