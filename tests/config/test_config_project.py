"""A whole project: every mistake with file, line, path and rule; one does not hide another."""

import textwrap

import pytest
from factories import EXPERIMENT, METRICS, PLATFORM, REPOSITORY, make_project, write_configs

from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.project import load_project, read_project


def line_of(text, needle):
    """The line of the first occurrence of a piece of text in a file."""
    if needle == "the whole file":
        return 1
    before, found, _ = textwrap.dedent(text).partition(needle)
    assert found, needle
    return before.count("\n") + 1


def issues_of(folder, **configs):
    return read_project(write_configs(folder, **configs))[1]


EXPERIMENT_MISTAKES = [
    # what is written, what is written instead, where the message points, path, rule
    ("owner: team:growth", "owner: team:growth\nownr: x", "ownr", "ownr", "unknown key 'ownr'"),
    ("mde: 0.1", "mde: 0.1\n  power_: 0.8", "power_", "plan.power_", "unknown key 'power_'"),
    ("owner: team:growth\n", "", "the whole file", "", "required key 'owner' is missing"),
    ("  mde: 0.1\n", "", "plan:", "plan", "required key 'mde' is missing"),
    ("treatment: 0.5", "treatment: 0.4", "the whole file", "", "shares sum to 0.9, need 1"),
    ("control: 0.5, ", "", "variants:", "variants", "at least 2"),
    ("treatment: 0.5", "treatment: -0.5", "variants:", "variants.treatment", "greater than 0"),
    (
        "metric: spend",
        "metric: spent",
        "primary: {m",
        "metrics.primary.metric",
        "unknown metric 'spent'",
    ),
    ("bought, back", "bought, bakc", "secondary", "metrics.secondary.2", "unknown metric 'bakc'"),
    ("metric: basket", "metric: Basket", "guardrails", "metrics.guardrails.0.metric", "pattern"),
    ("[orders, bought, back]", "[spend]", "metrics:", "metrics", "'spend' is listed 2 times"),
    ("mde: 0.1", "mde: '0.1'", "mde", "plan.mde", "valid number, got '0.1'"),
    ("mde: 0.1", "mde: .inf", "mde", "plan.mde", "finite number"),
    ("mde: 0.1", "mde: true", "mde", "plan.mde", "valid number, got True"),
    ("mde: 0.1", "mde: 0.1\n  alpha: 5", "alpha", "plan.alpha", "less than 1, got 5"),
    ("mde: 0.1", "mde: 12:30:00", "mde", "plan.mde", "valid number, got '12:30:00'"),
    ("planned: 4", "planned: 4.0", "looks", "plan.looks.design.planned", "valid integer, got 4.0"),
    ("planned: 4", "planned: '4'", "looks", "plan.looks.design.planned", "valid integer, got '4'"),
    ("group_sequential", "sequential", "looks", "plan.looks.design", "group_sequential"),
    (
        "covariate_days: 14",
        "covariate_days: 0",
        "estimator",
        "plan.estimator.covariate_days",
        "greater",
    ),
    ("2026-03-30", "2026-03-01", "window:", "window", "end 2026-03-01 must be after start"),
    (
        "2026-03-02",
        "20260302",
        "window:",
        "window.start",
        "a date such as 2026-01-31, got 20260302",
    ),
    ("2026-03-02", "2026-03-02T10:00:00", "window:", "window.start", "a date such as"),
    ("a-salt-of-its-own", "short", "salt", "salt", "at least 8 characters"),
    ("a-salt-of-its-own", "1234567890", "salt", "salt", "valid string"),
    ("owner: team:growth", "owner: NO", None, None, None),
    (
        "owner: team:growth",
        "owner: team:growth\ncontrol: b",
        "the whole file",
        "",
        "control 'b' is not one of",
    ),
    (
        "owner: team:growth",
        "owner: team:growth\nsegments: [device]",
        "segments",
        "segments.0",
        "not mapped",
    ),
    (
        "owner: team:growth",
        "owner: team:growth\nexposure: {source: events}",
        "exposure:",
        "exposure.source",
        "not an exposure source",
    ),
    (
        "owner: team:growth",
        "owner: team:growth\ntruth: {b: 0.1}",
        "the whole file",
        "",
        "truth: arm 'b'",
    ),
    (
        "owner: team:growth",
        "owner: team:growth\ntruth: {control: '0'}",
        "truth",
        "truth.control",
        "valid number",
    ),
    (
        "2026-03-30}",
        "2026-03-30, timezone: Europe/Berln}",
        "window",
        "window.timezone",
        "unknown time zone",
    ),
    ("metric: spend,", "metric: basket,", "metrics:", "metrics", "'basket' is listed 2 times"),
    (
        "owner: team:growth",
        "owner: team:growth\nlayer: checkout",
        "layer",
        "layer",
        "layers are not there yet",
    ),
    ("owner: team:growth", "owner: team:growth\nlayer: null", None, None, None),
    (
        "owner: team:growth",
        "owner: team:growth\neligibility: {include: [new]}",
        "eligibility",
        "eligibility",
        "unknown key 'eligibility'",
    ),
    (
        "primary: {metric: spend, minimum_effect: 0.02}\n  secondary: [orders,",
        "primary: {metric: orders}\n  secondary: [",
        None,
        None,
        None,
    ),
]


@pytest.mark.parametrize(("old", "new", "where", "path", "rule"), EXPERIMENT_MISTAKES)
def test_a_mistake_names_file_line_path_and_rule(tmp_path, old, new, where, path, rule):
    base = textwrap.dedent(EXPERIMENT)
    assert base.count(old) == 1
    text = base.replace(old, new)
    issues = issues_of(tmp_path, trial=text)
    if rule is None:
        assert issues == []
        return
    (issue,) = issues
    assert issue.file == tmp_path / "configs" / "experiments" / "trial.yaml"
    assert issue.path == path
    assert rule in issue.rule
    assert issue.line == line_of(text, where)
    assert str(issue).startswith(f"{issue.file}:{issue.line}: {path}".rstrip())


def test_a_day_that_does_not_exist_is_a_mistake_of_its_file_only(tmp_path):
    text = EXPERIMENT.replace("2026-03-02", "2026-02-30")
    other = EXPERIMENT.replace("a-salt-of", "another-salt-of")
    project, (issue,) = read_project(write_configs(tmp_path, trial=text, other=other))
    assert issue.file.stem == "trial"
    assert "day is out of range" in issue.rule
    assert list(project.experiments) == ["other"]


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("pre_orders", "count", "the pre-period of 'orders'"),
        ("lag_orders", "count", "the time before the pre-period of 'orders'"),
        ("cap_basis_spend", "count", "the basis of the cap of 'spend'"),
        ("basket_numerator", "count", "a part of the ratio 'basket'"),
        ("pre_basket_denominator", "count", "the pre-period of 'basket_denominator'"),
        ("segment_country", "count", "the property 'country'"),
        ("is_pre_missing", "count", "of every unit"),
        ("arm", "count", "of every unit"),
        # Fine: nothing in the experiment is called like the rest of the name.
        ("pre_visits", "count", None),
        ("orders_numerator", "count", None),
        ("segment_device", "count", None),
    ],
)
def test_a_metric_cannot_have_the_name_of_a_column_made_of_another(tmp_path, name, kind, what):
    metrics = f"{METRICS}      {name}: {{kind: {kind}, event: order, window_days: 7}}\n"
    mapped = "variant: variant}\n        properties: {country: country}"
    platform = PLATFORM.replace("variant: variant}", mapped)
    text = EXPERIMENT.replace("bought, back]", f"bought, back, {name}]")
    text = text.replace("    plan:\n", "    segments: [country]\n    plan:\n")
    folder = write_configs(tmp_path, platform=platform, metrics=metrics, trial=text)
    issues = read_project(folder)[1]
    if what is None:
        assert issues == []
        return
    (issue,) = issues
    assert (issue.file.stem, issue.path) == ("trial", "metrics.secondary.3")
    assert issue.line == line_of(text, "secondary")
    assert issue.rule.startswith(f"metric {name!r} needs the column {name!r}, which is {what}")
    # Each alone is fine: the columns are those of one experiment.
    (tmp_path / "configs" / "experiments" / "trial.yaml").write_text(textwrap.dedent(EXPERIMENT))
    assert read_project(folder)[1] == []


def test_a_cap_needs_a_mean(tmp_path):
    text = EXPERIMENT.replace("metric: spend,", "metric: orders,").replace("[orders,", "[spend,")
    capped = text.replace("mde: 0.1", "mde: 0.1\n      cap: {quantile: 0.99, from: pre_period}")
    (issue,) = issues_of(tmp_path, trial=capped)
    assert issue.path == "plan.cap"
    assert "'orders' is a count" in issue.rule
    fine = EXPERIMENT.replace("mde: 0.1", "mde: 0.1\n      cap: {quantile: 0.99, from: pre_period}")
    assert issues_of(tmp_path, trial=fine) == []


@pytest.mark.parametrize(
    ("old", "new", "path", "rule"),
    [
        (
            "timezone: Europe/Berlin",
            'timezone: Europe/Berlin\navoid: [{first: "02-30", last: "03-01", reason: x}]',
            "avoid.0.first",
            "no such day of the year: '02-30'",
        ),
        ("timezone: Europe/Berlin", "timezone: Berlin", "timezone", "unknown time zone 'Berlin'"),
        ("memory_limit: 1GB", "memory_limit: 1 GB", "memory_limit", "pattern"),
        ("value_decimals: 2", "value_decimals: 9", "sources.events.value_decimals", "less than"),
        ("event: event, ", "", "sources.events", "either `columns.event` or one `event_name`"),
        ("path: incoming/events/*", "table: t", "sources.events", "either `path` (files) or"),
        (
            "path: incoming/events/*",
            "path: a\n    table: t\n    database: d",
            "sources.events",
            "either",
        ),
        ("kind: events", "kind: event", "sources.events", "'events'"),
        ("storage: store", "storage: ''", "storage", "at least 1"),
        ("threads: 1", "threads: 0", "threads", "greater than or equal to 1"),
    ],
)
def test_mistakes_in_platform(tmp_path, old, new, path, rule):
    base = textwrap.dedent(PLATFORM)
    assert base.count(old) == 1
    project, issues = read_project(write_configs(tmp_path, platform=base.replace(old, new)))
    assert project is None
    assert {issue.path for issue in issues} == {path}
    assert rule in issues[0].rule
    assert issues[0].line is not None


@pytest.mark.parametrize(
    ("metric", "path", "rule"),
    [
        ("{kind: mean, event: order, window_days: 0}", "metrics.extra.window_days", "greater"),
        (
            "{kind: mean, event: order, window_days: 7, source: nowhere}",
            "metrics.extra",
            "'nowhere' is not an event source",
        ),
        (
            "{kind: mean, event: order, window_days: 7, source: exposures}",
            "metrics.extra",
            "'exposures' is not an event source",
        ),
        (
            "{kind: mean, event: order, window_days: 7, where: {device: web}}",
            "metrics.extra",
            "property 'device' is not mapped",
        ),
        ("{kind: median, event: order, window_days: 7}", "metrics.extra", "'mean'"),
        ("{kind: ratio, event: order, window_days: 7}", "metrics.extra", "'numerator' is missing"),
        (
            "{kind: retention, event: order, window_days: 7}",
            "metrics.extra",
            "'start_day' is missing",
        ),
        (
            "{kind: mean, event: order, window_days: 7, heartbeat: 'yes'}",
            "metrics.extra.heartbeat",
            "valid boolean",
        ),
    ],
)
def test_mistakes_in_metrics(tmp_path, metric, path, rule):
    text = textwrap.dedent(METRICS) + f"  extra: {metric}\n"
    issues = issues_of(tmp_path, metrics=text)
    assert (issues[0].path, issues[0].line) == (path, line_of(text, "extra"))
    assert rule in issues[0].rule
    assert issues[0].file.name == "metrics.yaml"


@pytest.mark.parametrize("name", ["has-dash", "1st", "UPPER", "a b", "x" * 65, "ü"])
def test_a_metric_name_must_be_fit_for_a_column(tmp_path, name):
    text = textwrap.dedent(METRICS) + f"  {name}: {{kind: count, event: a, window_days: 7}}\n"
    (issue,) = issues_of(tmp_path, metrics=text)
    assert issue.path.startswith("metrics")
    assert issue.line is not None


def test_a_sum_needs_a_value_column(tmp_path):
    issues = issues_of(tmp_path, platform=PLATFORM.replace(", value: amount", ""))
    wrong = [issue for issue in issues if issue.file.name == "metrics.yaml"]
    assert {issue.path for issue in wrong} == {"metrics.spend", "metrics.basket"}
    assert all("maps no `value` column" in issue.rule for issue in wrong)


def test_several_mistakes_are_reported_at_once_and_one_experiment_stops_no_other(tmp_path):
    two_mistakes = EXPERIMENT.replace("mde: 0.1", "mde: 0").replace("planned: 4", "planned: x")
    other = EXPERIMENT.replace("a-salt-of", "another-salt-of")
    broken_yaml = "a: [1"
    project, issues = read_project(
        write_configs(tmp_path, trial=two_mistakes, fine=other, torn=broken_yaml)
    )
    assert sorted(project.experiments) == ["fine"]
    found = {(issue.file.stem, issue.path) for issue in issues}
    assert found == {("trial", "plan.mde"), ("trial", "plan.looks.design.planned"), ("torn", "")}
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_shared_salt_is_refused_where_it_is_written_second(tmp_path):
    project, (issue,) = read_project(write_configs(tmp_path, one=EXPERIMENT, two=EXPERIMENT))
    assert (issue.file.stem, issue.path) == ("two", "salt")
    assert issue.line == line_of(EXPERIMENT, "salt:")
    assert "'one'" in issue.rule
    assert list(project.experiments) == ["one"]


@pytest.mark.parametrize(
    "name",
    [
        "CON.yaml",
        "a b.yaml",
        "x.yml",
        "x" * 65 + ".yaml",
        "a\n.yaml",
        "a\u2024b.yaml",
        "-a.yaml",
        "ü.yaml",
    ],
)
def test_a_file_name_that_is_no_slug_is_refused(tmp_path, name):
    write_configs(tmp_path)
    odd = tmp_path / "configs" / "experiments" / name
    odd.write_text(textwrap.dedent(EXPERIMENT))
    project, (issue,) = read_project(tmp_path)
    assert issue.file == odd
    assert "slug" in issue.rule
    assert list(project.experiments) == ["trial"]


def test_a_slug_of_64_characters_is_fine(tmp_path):
    slug = "x" * 64
    assert list(load_project(write_configs(tmp_path, **{slug: EXPERIMENT})).experiments) == [slug]


@pytest.mark.parametrize("source", ["../../x", "/etc/x", "a/b", "a\\0b", "x" * 300, "a\u2024b", ""])
def test_names_that_could_leave_the_storage_root_are_refused(tmp_path, source):
    text = textwrap.dedent(PLATFORM).replace("  events:\n", f'  "{source}":\n')
    issues = issues_of(tmp_path, platform=text)
    assert issues
    assert issues[0].path.startswith("sources")


def test_a_folder_without_configs_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"no configs/ folder here; `experiments init DIR`"):
        load_project(tmp_path)


def test_an_intervention_is_checked_like_an_experiment(tmp_path):
    write_configs(tmp_path)
    text = """\
schema_version: 1
owner: a
description: b
series: {metric: spent, treated: {source: events, experiment: x}}
pre: {start: 2026-01-05, end: 2026-02-01}
post: {start: 2026-02-02, end: 2026-03-01}
design: {kind: time_series}
"""
    folder = tmp_path / "configs" / "interventions"
    folder.mkdir()
    (folder / "law.yaml").write_text(text)
    project, issues = read_project(tmp_path)
    assert project.interventions == {}
    assert [(i.path, i.line) for i in issues] == [
        ("series.metric", 4),
        ("series.treated.source", 4),
    ]
    fine = text.replace("spent", "spend").replace("source: events", "source: exposures")
    (folder / "law.yaml").write_text(fine)
    assert list(load_project(tmp_path).interventions) == ["law"]
    (folder / "law.yaml").write_text(fine.replace("2026-02-02", "2026-02-01"))
    assert "must be the day after pre.end" in read_project(tmp_path)[1][0].rule


def test_the_configuration_of_this_repository_loads():
    project = load_project(REPOSITORY)
    assert len(project.experiments) == len(list((REPOSITORY / "configs/experiments").iterdir()))
    assert len(project.interventions) == len(list((REPOSITORY / "configs/interventions").iterdir()))


def test_the_smallest_project_loads_without_an_issue(tmp_path):
    project = make_project(tmp_path)
    assert list(project.experiments) == ["trial"]
    assert project.storage == tmp_path / "store"
