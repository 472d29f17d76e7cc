"""configs/bandits/<slug>.yaml: what is read, what is refused and where."""

import datetime as dt

import pytest
from bandit_factory import BANDIT, GAUSSIAN, bandit_project, write_bandit
from factories import PLATFORM

from experiments_dagster.config.project import load_project, read_project


@pytest.fixture
def folder(tmp_path):
    return bandit_project(tmp_path).folder


def issue_of(folder, text):
    write_bandit(folder, text)
    project, issues = read_project(folder)
    assert project is not None
    assert "headline" not in project.bandits
    (issue,) = issues
    assert issue.file.name == "headline.yaml"
    return issue


def test_a_file_becomes_a_bandit_with_everything_filled_in(folder):
    bandit = load_project(folder).bandits["headline"]
    assert (bandit.arms, bandit.control) == (("plain", "bold", "loud"), "plain")
    assert bandit.exposure_name == "headline"
    assert (bandit.reward.prior.a, bandit.reward.prior.b) == (1.0, 1.0)
    assert bandit.starts_on(3) == dt.date(2026, 3, 4)
    # Berlin is an hour ahead of UTC in winter, two after the clocks went forward.
    assert bandit.starts_at(1) == dt.datetime(2026, 3, 1, 23, tzinfo=dt.UTC)
    assert bandit.starts_at(28) == dt.datetime(2026, 3, 28, 23, tzinfo=dt.UTC)
    assert bandit.starts_at(29) == dt.datetime(2026, 3, 29, 22, tzinfo=dt.UTC)


def test_the_hash_knows_what_moves_a_share_and_nothing_else(folder):
    before = load_project(folder).bandits["headline"].plan_hash

    def hash_with(old, new):
        write_bandit(folder, BANDIT.replace(old, new))
        return load_project(folder).bandits["headline"].plan_hash

    assert hash_with("team:growth", "team:core") == before
    assert hash_with("Which headline", "Another") == before
    assert hash_with("floor: 0.2", "floor: 0.2\n    alpha: 0.1") == before
    for old, new in (
        ("floor: 0.2", "floor: 0.3"),
        ("seed: 7", "seed: 8"),
        ("[plain, bold, loud]", "[bold, plain, loud]"),
        ("metric: bought", "metric: bought, prior: {a: 2.0}"),
        ("every: day", "every: week"),
    ):
        assert hash_with(old, new) != before


@pytest.mark.parametrize(
    ("old", "new", "path", "rule"),
    [
        ("metric: bought", "metric: bougt", "reward.metric", "unknown metric 'bougt'"),
        ("metric: bought", "metric: spend", "reward.metric", "needs a proportion or retention"),
        ("{source: exposures}", "{source: events}", "exposure.source", "not an exposure source"),
        ("[plain, bold, loud]", "[plain, plain]", "", "each must be named once"),
        ("[plain, bold, loud]", "[plain]", "arms", "at least 2"),
        ("floor: 0.2", "floor: 1.5", "floor", "less than or equal to 1"),
        ("seed: 7", "seed: 0", "seed", "greater than or equal to 1"),
        ("first: 2026-03-02", "first: 2026-03-02, end: 2026-03-02", "periods", "whole days after"),
        (
            "every: day, first: 2026-03-02",
            "every: week, first: 2026-03-02, end: 2026-03-10",
            "periods",
            "whole weeks after",
        ),
        ("floor: 0.2", "flor: 0.2", "flor", "unknown key 'flor'"),
        ("kind: bernoulli", "kind: poisson", "reward", "bernoulli"),
    ],
)
def test_mistakes_name_their_place_and_rule(folder, old, new, path, rule):
    issue = issue_of(folder, BANDIT.replace(old, new))
    assert issue.path == path
    assert rule in issue.rule


def test_a_gaussian_reward_has_to_say_its_scale(folder):
    text = GAUSSIAN.replace(", prior: {mean: 10.0, sd: 10.0, units: 4}", "")
    assert "'prior' is missing" in issue_of(folder, text).rule


def test_sums_need_exact_values(tmp_path):
    platform = PLATFORM.replace("        value_decimals: 2\n", "")
    project = bandit_project(tmp_path, platform=platform)
    issue = issue_of(project.folder, GAUSSIAN)
    assert "value_decimals" in issue.rule
    # Counts are exact anyway.
    write_bandit(project.folder, GAUSSIAN.replace("metric: spend", "metric: orders"))
    assert load_project(project.folder).bandits["headline"].metric.name == "orders"


def test_a_reward_increases_and_is_final(folder):
    metrics = folder / "configs" / "metrics.yaml"
    original = metrics.read_text()
    line = "bought: {kind: proportion, event: order, window_days: 1"
    metrics.write_text(original.replace(line, f"{line}, direction: decrease"))
    assert "to increase" in issue_of(folder, BANDIT).rule
    metrics.write_text(original.replace(line, f"{line}, cohorts: open_ended"))
    assert "complete cohorts" in issue_of(folder, BANDIT).rule


def test_a_broken_bandit_stops_only_itself(folder):
    write_bandit(folder, BANDIT.replace("seed: 7", "seed: x"), slug="broken")
    project, issues = read_project(folder)
    assert list(project.bandits) == ["headline"]
    assert len(issues) == 1
