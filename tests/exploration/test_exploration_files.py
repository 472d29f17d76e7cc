"""Explorations of a file: types, missing, duplicates, levels, and no arm compared on an outcome."""

import numpy as np
import polars as pl
import pytest

from experiments_dagster.exploration.files import FileRequest, explore_file
from experiments_dagster.exploration.report import render_exploration, unbalanced
from experiments_dagster.simulate.event_log import EventLogSpec, simulate_events
from experiments_dagster.simulate.saas import SaasSpec, simulate_saas

ATTRIBUTES = ("power_user", "churn_risk", "baseline_productivity", "region")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "users.parquet"
    simulate_saas(SaasSpec(users=4000, days=3, confounding=1.0)).tables["users"].write_parquet(path)
    return path


def facts(found, section):
    return {(f.subject, f.statistic, f.level): f.value for f in found.section(section)}


def test_quality_counts_shape_types_missing_and_duplicates(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("id,y,word\nu1,1.5,a\nu1,1.5,a\nu2,,b\nu3,NaN,\n")
    found = explore_file(FileRequest(path=path, unit="id"))
    quality = facts(found, "quality")
    assert quality["file", "rows", ""] == 4
    assert quality["file", "columns", ""] == 3
    assert quality["file", "duplicate_rows", ""] == 1
    assert quality["file", "duplicate_units", ""] == 1
    assert quality["file", "n_missing", "y"] == 2
    assert quality["file", "n_missing", "word"] == 1
    types = {f.level: f.text for f in found.section("quality") if f.statistic == "dtype"}
    assert types == {"id": "String", "y": "Float64", "word": "String"}
    levels = facts(found, "segments")
    assert levels["word", "n", "a"] == 2
    assert levels["word", "n", "missing"] == 1
    assert not any(subject == "id" for subject, _, _ in levels)


def test_balance_shows_confounding_and_only_on_what_came_before(users):
    found = explore_file(
        FileRequest(path=users, group="cohort", control="A_control", pre=ATTRIBUTES)
    )
    assert {"churn_risk", "baseline_productivity", "power_user"} <= set(unbalanced(found))
    compared = {fact.subject.partition("=")[0] for fact in found.section("balance")}
    assert compared == set(ATTRIBUTES)
    assert not any(name.startswith("region") for name in unbalanced(found))


def test_columns_that_tell_the_arm_are_left_out(users):
    """A 0/1 of the treatment correlated with an outcome is a comparison of the arms."""
    for request in (FileRequest(path=users, group="cohort"), FileRequest(path=users)):
        found = explore_file(request)
        named = {name for f in found.section("correlation") for name in (f.subject, f.level)}
        assert "treatment" not in named
        assert "ai_calls" in named
        assert "treatment" not in {f.subject for f in found.section("metrics")}
        assert any("tell the arm" in note for note in found.notes)


def test_without_a_grouping_column_no_column_of_two_values_is_correlated(tmp_path):
    """Any of them may be the arm, whatever it is called."""
    rng = np.random.default_rng(3)
    is_test = rng.integers(0, 2, 400)
    y = rng.normal(size=400) + 2.0 * is_test
    columns = {"is_test": is_test, "flag": y > 1, "y": y, "z": rng.normal(size=400)}
    holes = [None if k % 7 == 0 else float(k % 2) for k in range(400)]
    path = tmp_path / "users.parquet"
    pl.DataFrame(columns | {"holes": holes}).write_parquet(path)
    found = explore_file(FileRequest(path=path))
    assert {(f.subject, f.level) for f in found.section("correlation")} == {("y", "z")}
    (note,) = found.notes
    assert note.startswith("not correlated: is_test, flag, holes. A column of two values")
    # With the arm named, what does not tell it is correlated as before.
    found = explore_file(FileRequest(path=path, group="is_test"))
    pairs = {(f.subject, f.level) for f in found.section("correlation")}
    assert ("flag", "y") in pairs
    assert not any("is_test" in pair for pair in pairs)


def test_a_file_with_a_header_alone_is_refused(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="has no rows"):
        explore_file(FileRequest(path=path))


def test_the_guard_finds_arms_under_any_name(users, tmp_path):
    table = pl.read_parquet(users)
    code = {"A_control": 1.7, "B_adaptive_v1": -2.0, "C_adaptive_v2": 8.0}
    buckets = {"A_control": 0, "B_adaptive_v1": 40, "C_adaptive_v2": 80}
    rng = np.random.default_rng(1)
    table = table.with_columns(
        shade=pl.col("cohort").replace_strict(code),
        slot=pl.col("cohort").replace_strict(buckets)
        + pl.Series(rng.integers(0, 20, table.height)),
        always=pl.lit(3.0),
    )
    path = tmp_path / "hidden.parquet"
    table.write_parquet(path)
    found = explore_file(FileRequest(path=path, group="cohort"))
    assert found.notes == ("left out because they tell the arm: treatment, shade, slot",)
    described = {f.subject for f in found.section("metrics")}
    assert "always" in described
    assert "user_id" not in described  # an id is counted, not averaged
    unguarded = np.corrcoef(table["shade"], table["ai_calls"])[0, 1]
    assert abs(unguarded) > 0.1  # the broken twin: without the guard this would have been shown


def test_exchanging_arms_changes_only_balance_and_sizes(users, tmp_path):
    table = pl.read_parquet(users).drop("treatment")
    arms = np.random.default_rng(2).permutation(table["cohort"].to_numpy())
    path = tmp_path / users.name
    table.with_columns(cohort=pl.Series(arms)).write_parquet(path)
    request = {"group": "cohort", "pre": ATTRIBUTES}
    one = explore_file(FileRequest(path=users, **request))
    other = explore_file(FileRequest(path=path, **request))
    for section in ("metrics", "segments", "correlation", "derived"):
        assert one.section(section) == other.section(section)


def test_columns_called_pre_are_compared_without_being_named(tmp_path):
    path = tmp_path / "pre.csv"
    rows = ["group,pre_y,x_pre,y"]
    rows += [f"{'test' if k % 2 else 'control'},{k},{-k},{k}" for k in range(20)]
    path.write_text("\n".join(rows))
    found = explore_file(FileRequest(path=path, group="group"))
    assert {fact.subject for fact in found.section("balance")} == {"pre_y", "x_pre"}
    assert found.arms == ("control", "test")


def test_derived_ratios_are_ratios_of_totals(users):
    found = explore_file(FileRequest(path=users, ratios={"per_call": ("revenue", "ai_calls")}))
    derived = facts(found, "derived")
    table = pl.read_parquet(users)
    hours = 60 * table["ai_calls"].sum() / table["time_on_platform"].sum()
    assert derived["ai_calls_per_hour", "ratio_of_totals", ""] == pytest.approx(hours)
    own = table["revenue"].sum() / table["ai_calls"].sum()
    assert derived["per_call", "ratio_of_totals", ""] == pytest.approx(own)


def test_an_event_log_has_missing_values_and_no_ids_on_the_page(tmp_path):
    path = tmp_path / "events.parquet"
    table = simulate_events(EventLogSpec(users=500)).tables["events_001"]
    table.write_parquet(path)
    found = explore_file(FileRequest(path=path, unit="user_id", group="variant"))
    assert facts(found, "metrics")["clicked", "missing_share", ""] == pytest.approx(2 / 3)
    html = render_exploration(found)
    for column in ("user_id", "event_id"):
        assert not any(name in html for name in table[column].head(50))


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"group": "arm"}, "column 'arm' is missing"),
        ({"unit": "nobody"}, "column 'nobody' is missing"),
        ({"group": "cohort", "control": "Z"}, "has no row of it"),
        ({"group": "confounder_score"}, "need at most 20"),
        ({"ratios": {"r": ("region", "revenue")}}, "must be numbers"),
    ],
)
def test_columns_that_do_not_fit_are_named(users, more, rule):
    with pytest.raises(ValueError, match=rule):
        explore_file(FileRequest(path=users, **more))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.xlsx", b"x", "unknown file type"),
        ("a.parquet", b"no parquet, and u-secret-1", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named_without_their_content(tmp_path, name, content, error):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=error) as caught:
        explore_file(FileRequest(path=path))
    assert "u-secret-1" not in str(caught.value)
