"""Interventions from landed events to a summary: estimable, not yet estimable, partial weeks."""

import datetime as dt
import textwrap
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from factories import events_table, exposures_table, incoming, land_now, make_project, manifest_of

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.config.project import load_project
from experiments_dagster.frames.series import build_daily_series, read_daily_series
from experiments_dagster.interventions.estimate import (
    estimate_intervention,
    impact_series,
    read_summary,
    write_impact,
)
from experiments_dagster.interventions.publish import due_interventions
from experiments_dagster.interventions.report import (
    publish_intervention_report,
    study_record,
)
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
    written = pl.read_parquet(
        manifest.layout.results("impact_series", "spring") / f"{result.version}.parquet"
    )
    assert written.drop("cutoff", "version").equals(table)
    assert "<svg" in result.study.pictures[0].draw(780)
    again = read_daily_series(manifest.layout, "spring")
    assert again.days.equals(series.days)


def test_the_summary_names_the_claim_and_every_refutation(project):
    land_days(project, PRE, dt.date(2026, 4, 1), lift=10.0)
    manifest, _, result = estimated(project)
    document = write_impact(manifest.layout, result)
    # Three placebos were asked for, and no window of 6 weeks fits after 20 of 24 before.
    assert document["claim"]["status"] == "WEAK"
    assert document["placebo_p_value"] is None
    found = {row["name"]: row for row in document["refutations"]}
    assert found["placebo_in_time"]["passed"] is None
    assert found["placebo_in_time"]["message"].startswith("not run: ")
    assert found["post_period_leak"]["passed"] is True
    assert found["leave_one_covariate_out"]["severity"] == "WARN"
    assert set(document) >= {
        *("intervention", "method", "status", "reason", "cutoff", "total", "average", "relative"),
        *("p_value", "placebo_p_value", "n_placebos", "placebos_lean_one_way", "placebo_reason"),
        *("noise_model", "n_pre", "n_post", "confidence_level", "mape_pre", "max_abs_acf"),
        *("warnings", "code_version", "n_treated", "claim", "refutations"),
    }


def test_the_report_says_association_where_the_claim_is_weak(project):
    land_days(project, PRE, dt.date(2026, 4, 1), lift=10.0)
    manifest, _, result = estimated(project)
    record = study_record(result)
    assert (record.cutoff, record.owner) == (manifest.head, "team:growth")
    page = publish_intervention_report(manifest.layout, result).read_text()
    assert "Estimated association: " in page
    assert "Estimated effect" not in page
    assert "2 units listed as spring (targeted)" in page
    assert "the total of all other units" in page


def write_file(folder, *, covariates="[index]", missing=None):
    """40 weeks of a table with a covariate; the last 8 are higher by 30."""
    rng = np.random.default_rng(2)
    index = rng.normal(100, 5, 40)
    sales = 2 * index + rng.normal(0, 1, 40) + np.where(np.arange(40) >= 32, 30.0, 0.0)
    weeks = [dt.date(2025, 1, 6) + dt.timedelta(days=7 * k) for k in range(40)]
    lines = ["week,sales,index"]
    for k, (week, y, x) in enumerate(zip(weeks, sales, index, strict=True)):
        lines.append(f"{week},{'' if k == missing else round(y, 3)},{x:.3f}")
    (folder / "sales.csv").write_text("\n".join(lines) + "\n")
    text = f"""
    schema_version: 1
    owner: team:growth
    description: New shelves
    series: {{file: sales.csv, date: week, outcome: sales, covariates: {covariates},
      frequency: weekly}}
    pre: {{start: 2025-01-06, end: 2025-08-17}}
    post: {{start: 2025-08-18, end: 2025-10-12}}
    design: {{kind: time_series, draws: 1000, seed: 1}}
    """
    path = folder / "configs" / "interventions" / "spring.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return sales, index


def test_a_table_of_the_project_is_a_series_too(tmp_path):
    make_project(tmp_path)
    sales, index = write_file(tmp_path)
    manifest, _, result = estimated(load_project(tmp_path))
    direct = estimate_impact(
        np.round(sales, 3), np.round(index, 3)[:, None], 32, min_pre_points=20, n_draws=1000, seed=1
    )
    assert result.impact.total == direct.total
    assert result.impact.total.ci_low < 240 < result.impact.total.ci_high
    assert (result.n_treated, result.study.facts[0]) == (None, ("Treated", "sales in sales.csv"))
    document = write_impact(manifest.layout, result)
    assert document["n_treated"] is None
    assert set(document["inputs"]) == {"sales.csv"}
    page = publish_intervention_report(manifest.layout, result).read_text()
    assert "sales.csv" in page
    assert study_record(result).display_unit is None


def test_without_a_covariate_the_series_stands_for_itself(tmp_path):
    make_project(tmp_path)
    write_file(tmp_path, covariates="[]")
    _, _, result = estimated(load_project(tmp_path))
    assert dict(result.study.facts)["Counterfactual from"].startswith("no covariate")
    assert result.impact.total.estimate > 0


def test_a_gap_in_a_table_is_refused(tmp_path):
    make_project(tmp_path)
    write_file(tmp_path, missing=7)
    with pytest.raises(ContractError, match="not_null"):
        estimated(load_project(tmp_path))


def test_another_design_is_refused_by_name(project):
    spec = SimpleNamespace(design=SimpleNamespace(kind="uplift"))
    intervention = SimpleNamespace(slug="other", spec=spec)
    with pytest.raises(TypeError, match=r"other: uplift"):
        estimate_intervention(intervention, None)


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
    assert result.study.pictures == ()
    page = publish_intervention_report(manifest.layout, result).read_text()
    assert "NOT ESTIMABLE" in page
    assert "too few" in page
    assert document["claim"]["status"] == "NOT_ESTIMABLE"
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
