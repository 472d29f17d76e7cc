"""Explorations of an experiment's frames: right counts, no arm compared, no look taken."""

import dataclasses
import datetime as dt
import json

import dagster as dg
import numpy as np
import polars as pl
import pytest
from shop_factory import LAST_DAY, land_all, shop_project

from experiments_dagster.assets.exploration import exploration as exploration_asset
from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.exploration.explore import MOMENTS_ONLY, SUMS_ONLY, explore
from experiments_dagster.exploration.publish import explore_current, publish_exploration
from experiments_dagster.exploration.record import COLUMNS, facts_table
from experiments_dagster.exploration.report import (
    markdown_summary,
    render_exploration,
    unbalanced,
)
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.calendar import start_of_day
from experiments_dagster.looks.take import build_frames
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

POOLED = ("quality", "metrics", "exposures", "segments", "correlation")


def build(project, day=LAST_DAY):
    manifest = Manifest(Layout(project.storage)).refresh()
    trial = project.experiments["trial"]
    frames = build_frames(project, manifest, trial, as_of=start_of_day(trial, day))
    return trial, frames


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    project = shop_project(tmp_path_factory.mktemp("shop"), n_users=1500)
    land_all(project)
    trial, frames = build(project)
    return project, trial, frames


def value(found, section, subject, statistic, level=""):
    (fact,) = (
        f for f in found.section(section)
        if (f.subject, f.statistic, f.level) == (subject, statistic, level)
    )  # fmt: skip
    return fact.value


def test_numbers_are_those_of_the_frames_over_all_arms(shop):
    _, trial, frames = shop
    found = explore(trial, frames)
    orders = frames.user["orders"].to_numpy()
    assert value(found, "metrics", "orders", "n") == len(orders) == frames.user.height
    assert value(found, "metrics", "orders", "mean") == pytest.approx(orders.mean(), rel=1e-12)
    assert value(found, "metrics", "orders", "zero_share") == (orders == 0).mean()
    assert value(found, "metrics", "orders", "pre_correlation") == pytest.approx(
        np.corrcoef(orders, frames.user["pre_orders"])[0, 1], rel=1e-10
    )
    top, bottom = (frames.ratio[f"order_value_{part}"] for part in ("numerator", "denominator"))
    ratio = value(found, "metrics", "order_value", "ratio_of_totals")
    assert ratio == pytest.approx(top.sum() / bottom.sum(), rel=1e-12)
    assert value(found, "quality", "user_frame", "rows") == frames.user.height
    assert value(found, "quality", "user_frame", "duplicate_units") == 0


def test_exposures_are_counted_by_local_day_and_add_up(shop):
    _, trial, frames = shop
    days = explore(trial, frames).section("exposures")
    assert sum(fact.value for fact in days) == frames.user.height
    dates = [dt.date.fromisoformat(fact.level) for fact in days]
    assert dates == [dates[0] + dt.timedelta(days=k) for k in range(len(dates))]
    assert trial.spec.window.start <= dates[0] <= dates[-1] < trial.spec.window.end


def test_open_windows_are_missing_and_not_zero(tmp_path):
    project = shop_project(tmp_path, n_users=800)
    land_all(project)
    trial, frames = build(project, dt.date(2026, 3, 16))
    found = explore(trial, frames)
    n_open = value(found, "metrics", "orders", "n_missing")
    assert n_open == frames.info.n_immature["orders"] > 0


def test_exchanging_arms_changes_nothing_but_the_balance(shop):
    """What depends on who is in which arm would be a look; the pooled sections do not."""
    _, trial, frames = shop
    rng = np.random.default_rng(4)
    arms = pl.Series("arm", rng.permutation(frames.user["arm"].to_numpy()))
    exchanged = Frames(
        info=frames.info,
        user=frames.user.with_columns(arms),
        ratio=frames.ratio.with_columns(arms),
    )
    one, other = explore(trial, frames), explore(trial, exchanged)
    for section in POOLED:
        assert one.section(section) == other.section(section)
    assert one.section("balance") != other.section("balance")


def test_no_outcome_stands_beside_an_arm(shop):
    _, trial, frames = shop
    found = explore(trial, frames)
    outcomes = {name for metric in trial.metrics for name, _ in metric.columns}
    for fact in found.facts:
        if fact.level in trial.variants:
            assert fact.section in ("units", "balance")
            assert fact.subject not in outcomes
    # A lift of 30 % was injected; a table that told it apart would hold one of these two means.
    text = json.dumps([fact.value for fact in found.facts if fact.section in POOLED])
    for arm in trial.variants:
        mean = frames.user.filter(pl.col("arm") == arm)["orders"].mean()
        assert str(mean) not in text


def test_an_outcome_called_pre_something_is_an_outcome(shop):
    _, trial, frames = shop
    name = "pre_tax_orders"
    primary = trial.primary.model_copy(update={"name": name})
    renamed = trial.model_copy(update={"primary": primary})
    user = frames.user.rename({"orders": name, "pre_orders": f"pre_{name}"})
    found = explore(renamed, Frames(info=frames.info, user=user, ratio=frames.ratio))
    compared = {fact.subject for fact in found.section("balance")}
    assert f"pre_{name}" in compared
    assert name not in compared
    assert value(found, "metrics", name, "n") == user.height


def test_a_fair_split_is_balanced_and_a_skewed_one_is_named(shop):
    _, trial, frames = shop
    assert unbalanced(explore(trial, frames)) == []
    heavy = frames.user["pre_orders"] > frames.user["pre_orders"].median()
    arms = heavy.replace_strict({True: "treatment", False: "control"}).alias("arm")
    skewed = Frames(
        info=frames.info,
        user=frames.user.with_columns(arms),
        ratio=frames.ratio.with_columns(arms),
    )
    found = explore(trial, skewed)
    assert "pre_orders" in unbalanced(found)
    assert "differ by more than 0.1 std. dev. before exposure: pre_orders" in render_exploration(
        found
    )


def test_exploring_takes_no_look(shop):
    project, trial, _ = shop
    layout = Layout(project.storage)
    before = {path for path in layout.root.rglob("*") if path.is_file()}
    table, page = publish_exploration(layout, explore_current(layout, trial))
    after = {path for path in layout.root.rglob("*") if path.is_file()}
    assert after - before == {table, page}
    assert not layout.ledger("trial", 1).exists()


def test_table_and_page_are_whole_and_name_their_origin(shop):
    project, trial, frames = shop
    layout = Layout(project.storage)
    found = explore_current(layout, trial)
    path, page = publish_exploration(layout, found)
    table = pl.read_parquet(path)
    assert table.equals(facts_table(found))
    assert set(COLUMNS) < set(table.columns)
    assert set(table["plan_hash"]) == {trial.plan_hash}
    assert set(table["cutoff"]) == {frames.info.cutoff}
    silent = table.filter(pl.col("value").is_null())
    assert (silent["reason"].is_not_null() | silent["text"].is_not_null()).all()
    assert table.filter(pl.col("value").is_nan()).is_empty()
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert "spends no alpha" in html
    assert "<svg" in html
    assert "nan" not in html.lower().replace("finance", "")
    for unit in frames.user["unit"].head(20):
        assert unit not in html


def test_metadata_is_a_markdown_table_with_a_row_per_column(shop):
    _, trial, frames = shop
    lines = markdown_summary(explore(trial, frames)).splitlines()
    columns = [name for metric in trial.metrics for name, _ in metric.columns]
    assert len(lines) == 2 + len(columns)
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_asset_publishes_and_shows_what_it_found(shop):
    project, _, _ = shop
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(EXPERIMENTS.name, ["trial"])
        result = dg.materialize(
            [exploration_asset],
            partition_key="trial",
            instance=instance,
            resources={"experiments": ExperimentsProject(folder=str(project.folder))},
        )
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["unbalanced_before_exposure"].value == "none"
    assert "orders" in metadata["metrics"].value


def test_without_frames_it_says_what_to_do(tmp_path):
    project = shop_project(tmp_path, n_users=10)
    with pytest.raises(FileNotFoundError, match="no frames have been published yet; run"):
        explore_current(Layout(project.storage), project.experiments["trial"])


def test_units_that_stay_in_their_engine_are_only_counted(shop):
    _, trial, frames = shop
    info = dataclasses.replace(frames.info, user_frame=None, unit_rows=None)
    found = explore(trial, Frames(info=info))
    assert found.notes == (SUMS_ONLY,)
    assert {fact.section for fact in found.facts} == {"units"}
    assert render_exploration(found).startswith("<!doctype html>")


def test_moments_are_pooled_over_arms(shop):
    _, trial, frames = shop
    metric = trial.primary
    halves = [
        frames.user.filter(pl.col("arm") == arm)[metric.name].to_numpy() for arm in trial.variants
    ]
    summary = trial.model_copy(update={"secondary": (), "guardrails": ()})
    moments = {
        (metric.name, arm): ArmMoments.from_arrays(y=values)
        for arm, values in zip(trial.variants, halves, strict=True)
    }
    info = dataclasses.replace(frames.info, summary_frame="x", user_frame=None, unit_rows=None)
    found = explore(summary, Summaries(info=info, moments=moments))
    together = np.concatenate(halves)
    assert found.notes == (MOMENTS_ONLY,)
    assert value(found, "metrics", metric.name, "n") == len(together)
    # Merging moments and computing them at once differ by rounding.
    assert value(found, "metrics", metric.name, "mean") == pytest.approx(together.mean(), rel=1e-12)
    assert value(found, "metrics", metric.name, "std_dev") == pytest.approx(
        together.std(ddof=1), rel=1e-10
    )
