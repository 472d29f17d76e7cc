"""Interventions from landed events to a summary: estimable, not yet estimable, partial weeks."""

import datetime as dt
import textwrap

import numpy as np
import polars as pl
import pytest
from factories import events_table, exposures_table, incoming, land_now, make_project, manifest_of

from experiments_dagster.config.project import load_project
from experiments_dagster.frames.series import build_daily_series, read_daily_series
from experiments_dagster.interventions.estimate import (
    due_interventions,
    estimate_intervention,
    impact_series,
    read_summary,
    write_impact,
)
from experiments_dagster.interventions.report import impact_svg, publish_intervention_report
from experiments_dagster.storage.errors import ContractError

INTERVENTION = """
    schema_version: 1
    owner: team:growth
    description: Spring campaign
    series:
      metric: spend
      frequency: weekly
      treated: {source: exposures, experiment: spring, variants: [targeted]}
      controls: other_units
    pre: {start: 2025-09-01, end: 2026-02-15}
    post: {start: 2026-02-16, end: 2026-03-29}
    design: {kind: time_series, draws: 1000, placebos: 3, seed: 1}
"""
PRE, POST = dt.date(2025, 9, 1), dt.date(2026, 2, 16)


def write(folder):
    path = folder / "configs" / "interventions" / "spring.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(INTERVENTION))


def land_days(project, first, last, *, lift=0.0):
    """One order a day per unit: two treated and two others; treated gain `lift` after POST."""
    rng = np.random.default_rng(7)
    rows, day = [], PRE
    while day <= last:
        common = rng.normal(0, 2)
        for unit in ("t1", "t2", "o1", "o2"):
            amount = 50 + common + rng.normal(0, 1)
            amount += lift if unit.startswith("t") and day >= POST else 0.0
            at = dt.datetime.combine(day, dt.time(12), dt.UTC)
            if day >= first:
                rows.append((unit, at, "order", f"{unit}-{day}", round(amount, 2)))
        day += dt.timedelta(days=1)
    incoming(project, "events", f"until-{last}", events_table(rows))
    at = dt.datetime(2026, 2, 16, tzinfo=dt.UTC)
    group = exposures_table([("t1", at, "targeted"), ("t2", at, "targeted")], experiment="spring")
    incoming(project, "exposures", f"until-{last}", group)
    land_now(project)


@pytest.fixture
def project(tmp_path):
    make_project(tmp_path)
    write(tmp_path)
    return load_project(tmp_path)


def estimated(project):
    manifest = manifest_of(project)
    intervention = project.interventions["spring"]
    series = build_daily_series(project, manifest, intervention, cutoff=manifest.head)
    return manifest, series, estimate_intervention(intervention, series)


def test_a_known_lift_is_inside_the_interval_and_noticed(project):
    land_days(project, PRE, dt.date(2026, 4, 1), lift=10.0)
    manifest, series, result = estimated(project)
    assert series.info.n_treated == 2
    truth = 10.0 * 2 * 42
    total = result.impact.total
    assert total.ci_low < truth < total.ci_high
    assert result.impact.p_value < 0.05
    document = write_impact(manifest.layout, result)
    assert read_summary(manifest.layout, "spring") == document
    assert document["status"] == "ok"
    assert due_interventions(project, manifest) == []
    table = impact_series(result, result.impact)
    assert table.height == 24 + 6
    assert table["effect"].null_count() == 24
    assert "<svg" in impact_svg(result)
    again = read_daily_series(manifest.layout, "spring")
    assert again.days.equals(series.days)


def test_totals_equal_the_landed_sums(project):
    land_days(project, PRE, dt.date(2025, 9, 28))
    manifest = manifest_of(project)
    series = build_daily_series(project, manifest, project.interventions["spring"], cutoff=1)
    path = manifest.layout.landed("events", 1)
    landed = pl.read_parquet(path).with_columns(pl.col("value").cast(pl.Float64))
    treated = landed.filter(pl.col("unit").str.starts_with("t"))["value"].sum()
    assert series.days["treated"].sum() == pytest.approx(treated, rel=1e-12)
    assert series.days["others"].sum() == pytest.approx(landed["value"].sum() - treated, rel=1e-12)


def test_a_week_that_has_not_ended_is_left_out(project):
    land_days(project, PRE, dt.date(2025, 9, 24))
    _, series, _ = estimated(project)
    starts = series.periods(project.interventions["spring"])["period_start"].to_list()
    assert starts == [dt.date(2025, 9, 1), dt.date(2025, 9, 8), dt.date(2025, 9, 15)]


def test_before_the_post_period_it_is_not_estimable_and_says_so(project):
    land_days(project, PRE, dt.date(2026, 2, 10))
    manifest, _, result = estimated(project)
    assert result.impact is None
    assert result.reason == "N_TOO_SMALL"
    document = write_impact(manifest.layout, result)
    assert (document["status"], document["total"]) == ("not_estimable", None)
    assert impact_svg(result) is None
    page = publish_intervention_report(manifest.layout, result).read_text()
    assert "too few" in page
    land_days(project, dt.date(2026, 2, 11), dt.date(2026, 4, 1))
    assert due_interventions(project, manifest_of(project)) == ["spring"]


def test_without_treated_units_the_contract_says_so(project):
    rows = [("o1", dt.datetime(2025, 9, 1, 12, tzinfo=dt.UTC), "order", "1", 1.0)]
    incoming(project, "events", "a", events_table(rows))
    at = dt.datetime(2026, 2, 16, tzinfo=dt.UTC)
    incoming(project, "exposures", "a", exposures_table([("x", at, "other")], experiment="spring"))
    land_now(project)
    with pytest.raises(ContractError, match="no treated unit"):
        estimated(project)
