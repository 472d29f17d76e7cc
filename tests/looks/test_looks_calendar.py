"""When a look is due: pure decisions on dates, records and information."""

import datetime as dt
from types import SimpleNamespace

import pytest
from factories import EXPERIMENT, make_project, utc

from experiments_dagster.looks.calendar import (
    due_look,
    is_complete,
    local_day,
    next_look,
    start_of_day,
)

DESIGN = "schedule: weekly, design: {kind: group_sequential, planned: 4}"


def trial(tmp_path, looks=DESIGN):
    text = EXPERIMENT.replace(DESIGN, looks)
    return make_project(tmp_path, trial=text).experiments["trial"]


def taken(index, *, is_end=False, fraction=0.5):
    boundary = SimpleNamespace(arm="treatment", kind="success", information_fraction=fraction)
    return SimpleNamespace(planned_index=index, is_planned_end=is_end, boundaries=(boundary,))


# planned: 16, 23, 30 March and 6 April
WEEKLY = [
    ((3, 15), [], None),
    ((3, 16), [], (1, False)),
    ((3, 22), [], (1, False)),
    ((3, 16), [1], None),
    ((3, 22), [1], None),
    ((3, 23), [1], (2, False)),
    ((3, 30), [1], (3, False)),  # the second was skipped: one look, the latest
    ((3, 31), [], (3, False)),
    ((4, 5), [1, 2, 3], None),
    ((4, 6), [1, 2, 3], (4, True)),
    ((5, 6), [1], (4, True)),
    ((5, 6), [], (4, True)),
]


@pytest.mark.parametrize(("day", "done", "due"), WEEKLY)
def test_the_calendar_of_a_weekly_plan(tmp_path, day, done, due):
    found = due_look(trial(tmp_path), [taken(k) for k in done], dt.date(2026, *day))
    assert (found and (found.planned_index, found.is_planned_end)) == due


def test_after_the_planned_end_or_all_information_nothing_is_due(tmp_path):
    experiment, day = trial(tmp_path), dt.date(2026, 6, 1)
    for last in (taken(4, is_end=True), taken(2, fraction=1.0)):
        assert is_complete(experiment, [last])
        assert due_look(experiment, [last], day) is None
        assert next_look(experiment, [last], day) is None
    assert not is_complete(experiment, [taken(2, fraction=0.99)])
    assert not is_complete(experiment, [])


@pytest.mark.parametrize(
    ("fraction", "done", "day", "due"),
    [
        (None, [], (3, 16), None),
        (0.249, [], (3, 16), None),
        (0.25, [], (3, 16), (1, False)),
        (0.6, [], (3, 16), (2, False)),
        (0.6, [2], (3, 16), None),
        (0.75, [2], (3, 16), (3, False)),
        (1.0, [2], (3, 16), (4, True)),
        (3.0, [2], (3, 16), (4, True)),
        (0.3, [1], (4, 5), None),
        (0.3, [1], (4, 6), (4, True)),  # every window is closed: the planned end
    ],
)
def test_looks_by_information(tmp_path, fraction, done, day, due):
    looks = "schedule: information, design: {kind: group_sequential, planned: 4}"
    found = due_look(
        trial(tmp_path, looks), [taken(k) for k in done], dt.date(2026, *day),
        information_fraction=fraction,
    )  # fmt: skip
    assert (found and (found.planned_index, found.is_planned_end)) == due


@pytest.mark.parametrize(
    ("schedule", "done", "day", "due"),
    [
        # first look: start + window of 7 days + one step
        ("weekly", [], (3, 15), None),
        ("weekly", [], (3, 16), 1),
        ("weekly", [1], (3, 22), None),
        ("weekly", [1], (3, 23), 2),
        # the last look, after all windows are closed on 6 April; none after it
        ("weekly", [3], (4, 7), 5),
        ("weekly", [3], (6, 15), 5),
        ("daily", [], (3, 9), None),
        ("daily", [], (3, 10), 1),
        ("daily", [1], (3, 10), None),
        ("daily", [1], (3, 13), 4),
    ],
)
def test_a_confidence_sequence_is_due_every_step_until_windows_close(
    tmp_path, schedule, done, day, due
):
    looks = f"schedule: {schedule}, design: {{kind: confidence_sequence}}"
    found = due_look(trial(tmp_path, looks), [taken(k) for k in done], dt.date(2026, *day))
    assert (found and found.planned_index) == due
    assert bool(found and found.is_planned_end) == (dt.date(2026, *day) >= dt.date(2026, 4, 7))


def test_the_next_look_in_words(tmp_path):
    experiment = trial(tmp_path)
    assert next_look(experiment, [], dt.date(2026, 3, 1)) == "2026-03-16"
    assert next_look(experiment, [taken(1)], dt.date(2026, 3, 16)) == "2026-03-23"
    assert next_look(experiment, [taken(3)], dt.date(2026, 4, 6)) is None


def test_days_are_local_across_a_clock_change(tmp_path):
    experiment = trial(tmp_path)
    assert local_day(experiment, utc(2026, 3, 28, 22, 59)) == dt.date(2026, 3, 28)
    assert local_day(experiment, utc(2026, 3, 28, 23)) == dt.date(2026, 3, 29)
    assert local_day(experiment, utc(2026, 3, 29, 22)) == dt.date(2026, 3, 30)
    assert start_of_day(experiment, dt.date(2026, 3, 30)) == utc(2026, 3, 29, 22)
