"""The frozen plan: what its hash sees and what it does not, and the calendar of looks."""

import datetime as dt
import textwrap

import pytest
from factories import EXPERIMENT, METRICS, PLATFORM, make_project, utc

BASE = textwrap.dedent(EXPERIMENT)
THREE = BASE.replace("{control: 0.5, treatment: 0.5}", "{control: 0.4, bold: 0.3, plain: 0.3}")


def trial(tmp_path, text=BASE, **configs):
    return make_project(tmp_path, trial=text, **configs).experiments["trial"]


def changed(tmp_path, old, new, text=BASE):
    assert text.count(old) == 1
    return trial(tmp_path, text.replace(old, new)).plan_hash != trial(tmp_path, text).plan_hash


SAME_PLAN = [
    ("owner: team:growth", "owner: team:finance"),
    ("More spend", "Less spend"),
    ("mde: 0.1", "# why\n  mde:   1e-1   # ten percent"),
    ("{control: 0.5, treatment: 0.5}", "{control: 0.50, treatment: 5e-1}"),
    ("  mde: 0.1", "  mde: 0.1\n  alpha: 0.05\n  power: 0.8\n  cap: null\n  baseline:"),
    (
        "design: {kind: group_sequential, planned: 4}",
        "design: {planned: 4, kind: group_sequential}",
    ),
    ("planned: 4", "planned: 4, spending: obrien_fleming"),
    ("owner: team:growth", "owner: team:growth\nunit: user\nphase: 1\ncontrol: control"),
    ("owner: team:growth", "owner: team:growth\nexposure: {source: exposures, first: true}"),
    ("owner: team:growth", "owner: team:growth\nbusiness: {cost: 4000}"),
    ("2026-03-30}", "2026-03-30, timezone: Europe/Berlin}"),
    ("margin: 0.2}", "margin: 0.2, absolute: false}"),
]


@pytest.mark.parametrize(("old", "new"), SAME_PLAN)
def test_what_changes_no_number_leaves_the_hash(tmp_path, old, new):
    assert not changed(tmp_path, old, new)


def test_the_order_of_blocks_leaves_the_hash(tmp_path):
    head, _, plan = BASE.partition("plan:\n")
    assert trial(tmp_path, "plan:\n" + plan + head).plan_hash == trial(tmp_path).plan_hash


OTHER_PLAN = [
    ("mde: 0.1", "mde: 0.11"),
    ("mde: 0.1", "mde: 0.1\n  alpha: 0.01"),
    ("mde: 0.1", "mde: 0.1\n  power: 0.9"),
    ("mde: 0.1", "mde: 0.1\n  baseline: 10"),
    ("mde: 0.1", "mde: 0.1\n  cap: {value: 100}"),
    ("mde: 0.1", "mde: 0.1\n  cap: {quantile: 0.99, from: pre_period}"),
    ("covariate_days: 14", "covariate_days: 15"),
    ("kind: cuped", "kind: unadjusted"),
    ("planned: 4", "planned: 5"),
    ("planned: 4", "planned: 4, spending: pocock"),
    ("group_sequential, planned: 4", "confidence_sequence"),
    ("schedule: weekly", "schedule: daily"),
    ("schedule: weekly", "schedule: weekly, first: 2026-03-20"),
    ("2026-03-30", "2026-03-31"),
    ("2026-03-02", "2026-03-03"),
    ("2026-03-30}", "2026-03-30, timezone: UTC}"),
    ("a-salt-of-its-own", "a-salt-of-another"),
    ("{control: 0.5, treatment: 0.5}", "{control: 0.4, treatment: 0.6}"),
    ("owner: team:growth", "owner: team:growth\ncontrol: treatment"),
    ("owner: team:growth", "owner: team:growth\nphase: 2"),
    ("owner: team:growth", "owner: team:growth\nunit: household"),
    ("minimum_effect: 0.02", "minimum_effect: 0.03"),
    ("margin: 0.2", "margin: 0.3"),
    ("margin: 0.2}", "margin: 0.2, absolute: true}"),
    ("[orders, bought, back]", "[orders, bought]"),
    ("metric: basket", "metric: orders"),
]


@pytest.mark.parametrize(("old", "new"), OTHER_PLAN)
def test_every_field_of_the_plan_changes_the_hash(tmp_path, old, new):
    text = BASE.replace("[orders, ", "[") if new == "metric: orders" else BASE
    assert changed(tmp_path, old, new, text)


def test_swapping_two_arms_changes_the_hash_because_units_would_move(tmp_path):
    assert changed(tmp_path, "bold: 0.3, plain: 0.3", "plain: 0.3, bold: 0.3", THREE)


@pytest.mark.parametrize(
    ("old", "new", "is_other"),
    [
        (
            "spend: {kind: mean, event: order, window_days: 7}",
            "spend: {kind: mean, event: order, window_days: 8}",
            True,
        ),
        (
            "spend: {kind: mean, event: order, window_days: 7}",
            "spend: {kind: mean, event: [order, tip], window_days: 7}",
            True,
        ),
        (
            "spend: {kind: mean, event: order, window_days: 7}",
            "spend: {kind: mean, event: order, window_days: 7, direction: decrease}",
            True,
        ),
        (
            "spend: {kind: mean, event: order, window_days: 7}",
            "spend: {kind: mean, event: [order], window_days: 7, owner: me, description: x}",
            False,
        ),
        ("start_day: 3", "start_day: 4", True),
    ],
)
def test_the_plan_holds_the_definition_of_its_metrics(tmp_path, old, new, is_other):
    before = trial(tmp_path).plan_hash
    after = trial(tmp_path, metrics=METRICS.replace(old, new)).plan_hash
    assert (after != before) is is_other


def test_a_metric_that_the_experiment_does_not_use_changes_nothing(tmp_path):
    before = trial(tmp_path).plan_hash
    more = textwrap.dedent(METRICS) + "  extra: {kind: count, event: x, window_days: 3}\n"
    assert trial(tmp_path, metrics=more).plan_hash == before


def test_the_plan_does_not_show_the_salt(tmp_path):
    experiment = trial(tmp_path)
    assert experiment.salt == "a-salt-of-its-own"
    assert experiment.salt not in str(experiment.plan_document)


def test_arms_control_and_alpha(tmp_path):
    experiment = trial(tmp_path, THREE)
    assert (experiment.control, experiment.treatments) == ("control", ("bold", "plain"))
    assert experiment.alpha_per_hypothesis == 0.025
    named = trial(tmp_path, THREE.replace("owner:", "control: plain\nowner:"))
    assert (named.control, named.treatments) == ("plain", ("control", "bold"))


def test_the_window_starts_and_ends_at_local_midnight_across_a_clock_change(tmp_path):
    experiment = trial(tmp_path)  # Berlin: summer time began on 29 March 2026
    assert experiment.starts_at == utc(2026, 3, 1, 23)
    assert experiment.ends_at == utc(2026, 3, 29, 22)


def test_a_midnight_that_does_not_exist_is_the_first_instant_of_the_day(tmp_path):
    text = BASE.replace("2026-03-02", "2018-11-04").replace(
        "2026-03-30}", "2018-12-04, timezone: America/Sao_Paulo}"
    )
    assert trial(tmp_path, text).starts_at == utc(2018, 11, 4, 3)


@pytest.mark.parametrize(
    ("looks", "days"),
    [
        # the last look is when the last unit's window of 7 days closes: 30 March + 7
        (
            "schedule: weekly, design: {kind: group_sequential, planned: 4}",
            [(3, 16), (3, 23), (3, 30), (4, 6)],
        ),
        ("schedule: daily, design: {kind: group_sequential, planned: 3}", [(4, 4), (4, 5), (4, 6)]),
        (
            "schedule: weekly, first: 2026-03-20, design: {kind: group_sequential, planned: 2}",
            [(3, 20), (3, 27)],
        ),
        # more looks than fit: never before one step after the start
        (
            "schedule: weekly, design: {kind: group_sequential, planned: 5}",
            [(3, 9), (3, 16), (3, 23), (3, 30), (4, 6)],
        ),
        (
            "schedule: weekly, design: {kind: group_sequential, planned: 6}",
            [(3, 9), (3, 16), (3, 23), (3, 30), (4, 6), (4, 13)],
        ),
        ("schedule: information, design: {kind: group_sequential, planned: 4}", []),
        ("schedule: weekly, design: {kind: confidence_sequence}", []),
    ],
)
def test_the_calendar_of_looks(tmp_path, looks, days):
    old = "schedule: weekly, design: {kind: group_sequential, planned: 4}"
    experiment = trial(tmp_path, BASE.replace(old, looks))
    assert experiment.planned_looks() == tuple(dt.date(2026, *day) for day in days)


def test_two_event_sources_ask_which_one_a_metric_means(tmp_path):
    second = textwrap.dedent(PLATFORM) + (
        "  calls:\n    kind: events\n    path: c/*\n    event_name: call\n"
        "    columns: {unit: u, timestamp: t}\n"
    )
    from factories import write_configs

    from experiments_dagster.config.project import read_project

    _, issues = read_project(write_configs(tmp_path, platform=second))
    assert any("needs `source`, one of: events, calls" in issue.rule for issue in issues)
