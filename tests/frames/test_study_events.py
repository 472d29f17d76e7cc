"""Study frames from landed events, against a plain Python reading of the same rows."""

import datetime as dt
import textwrap
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from factories import events_table, exposures_table, incoming, land_now, make_project, manifest_of

from experiments_dagster.config.project import load_project
from experiments_dagster.frames.study_frames import (
    build_study_frame,
    not_ready,
    read_study_frame,
)
from experiments_dagster.interventions.publish import due_interventions, run_study, write_study
from experiments_dagster.storage.errors import ContractError

BERLIN = ZoneInfo("Europe/Berlin")
HEAD = "schema_version: 1\nowner: team:growth\ndescription: Spring campaign\n"
PANEL = """
    panel:
      metric: spend
      frequency: weekly
      treated: {source: exposures, experiment: spring, variants: [targeted]}
      pre: {start: 2026-02-02, end: 2026-03-01}
      post: {start: 2026-03-02, end: 2026-03-15}
    design: {kind: difference_in_differences}
"""
UNITS = """
    units:
      outcome: {metric: spend, start: 2026-03-02, end: 2026-03-15}
      treated: {source: exposures, experiment: spring, variants: [targeted]}
      covariates:
        spend_before: {metric: spend, start: 2026-02-02, end: 2026-02-15}
        orders_before: {metric: orders, start: 2026-02-02, end: 2026-02-15}
      placebo_outcomes:
        spend_between: {metric: spend, start: 2026-02-16, end: 2026-03-01}
    design: {kind: observational}
"""
FIRST, LAST = dt.date(2026, 2, 1), dt.date(2026, 3, 17)
TREATED = [f"u{k}" for k in range(0, 40, 2)]


def simulated(seed):
    """Random orders (user, instant, event, id, amount) of 40 users; two only order late."""
    rng = np.random.default_rng(seed)
    span = int((LAST - FIRST).days * 86_400)
    start = dt.datetime.combine(FIRST, dt.time(), dt.UTC)
    rows = []
    for k in range(700):
        at = start + dt.timedelta(seconds=int(rng.integers(span)))
        user = f"u{rng.integers(40)}"
        if user in {"u0", "u1"} and at < start + dt.timedelta(days=35):
            continue
        rows.append((user, at, "order", f"e{k}", round(float(rng.gamma(2, 10)), 2)))
    return rows


@pytest.fixture
def landed(tmp_path):
    make_project(tmp_path)
    folder = tmp_path / "configs" / "interventions"
    folder.mkdir()
    for name, text in (("panel", PANEL), ("units", UNITS)):
        (folder / f"{name}.yaml").write_text(HEAD + textwrap.dedent(text))
    (folder / "whole.yaml").write_text(
        HEAD + textwrap.dedent(PANEL).replace("weekly", "whole").replace("2026-03-15", "2026-03-08")
    )
    project = load_project(tmp_path)
    rows = simulated(3)
    incoming(project, "events", "all", events_table(rows))
    at = dt.datetime(2026, 3, 1, 23, tzinfo=dt.UTC)
    group = [(user, at, "targeted") for user in [*TREATED, "never-seen"]]
    others = [("u1", at, "held_out")]
    incoming(project, "exposures", "all", exposures_table(group + others, experiment="spring"))
    land_now(project)
    return project, rows


def built(project, slug):
    manifest = manifest_of(project)
    return build_study_frame(project, manifest, project.interventions[slug], cutoff=manifest.head)


def total(rows, user, first, last):
    """What a user spent on local days first to last."""
    return sum(
        amount
        for who, at, _, _, amount in rows
        if who == user and first <= at.astimezone(BERLIN).date() <= last
    )


def day(text):
    return dt.date.fromisoformat(text)


def test_a_panel_has_every_seen_unit_in_every_week(landed):
    project, rows = landed
    frame = built(project, "panel").rows
    assert frame["label"].unique().sort().to_list() == [
        *("2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23", "2026-03-02", "2026-03-09")
    ]
    seen = {
        u
        for u in (f"u{k}" for k in range(40))
        if total(rows, u, day("2026-02-02"), day("2026-03-01"))
    }
    assert "u0" not in seen
    assert set(frame["unit"]) == seen
    assert frame.height == 6 * len(seen)
    for row in frame.iter_rows(named=True):
        first = day(row["label"])
        expected = total(rows, row["unit"], first, first + dt.timedelta(days=6))
        assert row["outcome"] == pytest.approx(expected, abs=1e-9)
        assert row["first_treated"] == (4 if row["unit"] in TREATED else None)


def test_whole_periods_are_per_day(landed):
    project, rows = landed
    frame = built(project, "whole").rows
    assert frame["period"].unique().sort().to_list() == [0, 1]
    for row in frame.iter_rows(named=True):
        first, last, days = [
            (day("2026-02-02"), day("2026-03-01"), 28),
            (day("2026-03-02"), day("2026-03-08"), 7),
        ][row["period"]]
        assert row["outcome"] == pytest.approx(total(rows, row["unit"], first, last) / days)


def test_units_have_what_was_before_and_after(landed):
    project, rows = landed
    built_frame = built(project, "units")
    frame = built_frame.rows
    for row in frame.iter_rows(named=True):
        user = row["unit"]
        assert row["outcome"] == pytest.approx(
            total(rows, user, day("2026-03-02"), day("2026-03-15"))
        )
        before = total(rows, user, day("2026-02-02"), day("2026-02-15"))
        assert row["x.spend_before"] == pytest.approx(before)
        assert before > 0
        between = total(rows, user, day("2026-02-16"), day("2026-03-01"))
        assert row["placebo.spend_between"] == pytest.approx(between)
        n = sum(
            user == who and day("2026-02-02") <= at.astimezone(BERLIN).date() <= day("2026-02-15")
            for who, at, *_ in rows
        )
        assert row["x.orders_before"] == n
        assert row["treated"] == (user in TREATED)
    seen = set(frame["unit"])
    unseen = len([user for user in [*TREATED, "never-seen"] if user not in seen])
    assert built_frame.info.left_out == {"units of the group without an event before": unseen}
    assert built_frame.info.outcome == "spend"


def test_a_frame_is_read_as_it_was_published(landed):
    project, _ = landed
    frame = built(project, "units")
    again = read_study_frame(manifest_of(project).layout, "units")
    assert again.info == frame.info
    assert again.rows.equals(frame.rows)


def test_nothing_is_due_before_the_last_day_has_landed_whole(tmp_path):
    make_project(tmp_path)
    folder = tmp_path / "configs" / "interventions"
    folder.mkdir()
    (folder / "units.yaml").write_text(HEAD + textwrap.dedent(UNITS))
    project = load_project(tmp_path)
    rows = [row for row in simulated(3) if row[1] < dt.datetime(2026, 3, 15, 12, tzinfo=dt.UTC)]
    incoming(project, "events", "early", events_table(rows))
    at = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    group = exposures_table([(user, at, "targeted") for user in TREATED], experiment="spring")
    incoming(project, "exposures", "all", group)
    land_now(project, now=dt.datetime(2026, 3, 15, 13, tzinfo=dt.UTC))
    manifest, intervention = manifest_of(project), project.interventions["units"]
    assert "up to 2026-03-15, landed as a whole up to 2026-03-14" in str(
        not_ready(project, manifest, intervention)
    )
    assert due_interventions(project, manifest) == []
    late = [("u3", dt.datetime(2026, 3, 16, 9, tzinfo=dt.UTC), "order", "late", 5.0)]
    incoming(project, "events", "late", events_table(late))
    land_now(project, now=dt.datetime(2026, 3, 16, 13, tzinfo=dt.UTC))
    assert not_ready(project, manifest_of(project), intervention) is None
    assert due_interventions(project, manifest_of(project)) == ["units"]


def test_late_events_change_the_frame_and_make_the_study_due_again(landed):
    project, rows = landed
    frame = built(project, "units")
    manifest = manifest_of(project)
    write_study(manifest.layout, run_study(project.interventions["units"], frame))
    assert "units" not in due_interventions(project, manifest)
    late = ("u4", dt.datetime(2026, 3, 3, 9, tzinfo=dt.UTC), "order", "late", 12.5)
    incoming(project, "events", "late", events_table([late, rows[0]]))
    land_now(project, now=dt.datetime(2026, 5, 2, tzinfo=dt.UTC))
    assert "units" in due_interventions(project, manifest_of(project))
    changed = built(project, "units").rows.join(frame.rows, on="unit", suffix="_old")
    different = changed.filter((pl.col("outcome") - pl.col("outcome_old")).abs() > 1e-9)
    assert different["unit"].to_list() == ["u4"]
    assert different["outcome"][0] - different["outcome_old"][0] == pytest.approx(12.5)


def test_a_group_that_never_landed_breaks_the_contract(landed):
    project, _ = landed
    path = project.folder / "configs" / "interventions" / "panel.yaml"
    path.write_text(path.read_text().replace("experiment: spring", "experiment: autumn"))
    project = load_project(project.folder)
    with pytest.raises(
        ContractError, match="no unit of autumn \\(targeted\\) has landed in exposures"
    ):
        built(project, "panel")


def test_a_log_scale_is_that_of_one_plus_the_total(landed):
    project, _ = landed
    linear = built(project, "units").rows
    path = project.folder / "configs" / "interventions" / "units.yaml"
    text = "spend_before: {metric: spend, start: 2026-02-02, end: 2026-02-15"
    path.write_text(path.read_text().replace(text, text + ", scale: log"))
    logs = built(load_project(project.folder), "units").rows
    expected = np.log1p(linear["x.spend_before"])
    assert np.allclose(logs["x.log spend_before"], expected, rtol=1e-12)
    assert logs.drop("x.log spend_before").equals(linear.drop("x.spend_before"))
