"""Faults of studies, end to end: no estimate, a failed check, and an alert that says so."""

import textwrap

import numpy as np
import polars as pl
import pytest
from real_case_project import copy_examples, due_in, run_due, words_of
from typer.testing import CliRunner

from experiments_dagster.cli.app import app

PANEL = """
    schema_version: 1
    owner: team:growth
    description: A new tariff in some regions
    panel:
      file: data/panel.csv
      unit: region
      time: year
      outcome: sales
      is_treated: tariff
    design: {design}
"""
UNITS = """
    schema_version: 1
    owner: team:growth
    description: A service that only large customers got
    units:
      file: data/units.csv
      unit: customer
      outcome: sales
      treated: served
      covariates: [size, age]
      placebo_outcomes: [sales_before]
    design: {kind: observational, seed: 1}
"""
# Fewer than 20 donors cannot bring the rank of the treated unit below 0.05.
DONORS = ", ".join("cdefghijklmnopqrsuvwxz")
CLEAN = f"{{kind: synthetic_control, method: augmented, donors: [{DONORS}]}}"
TREATED_DONOR = CLEAN.replace("[", "[b, ")
LATE_PREDICTOR = (
    "{kind: synthetic_control, predictors: [{columns: [sales], first: 2000, last: 2009}, "
    "{columns: [income], first: 2005, last: 2024}]}"
)


def write_panel(path):
    """24 regions over 32 years: a is treated from 2024 on, b from 2027 on."""
    rng = np.random.default_rng(4)
    common = np.cumsum(rng.normal(0, 1, 32))
    rows = []
    for k, region in enumerate("abcdefghijklmnopqrsuvwxz"):
        start = {"a": 2024, "b": 2027}.get(region, 9999)
        sales = 50 + k + common * (1 + 0.02 * k) + rng.normal(0, 0.3, 32)
        for t, year in enumerate(range(2000, 2032)):
            rows.append((region, year, sales[t] + 8 * (year >= start), 10 + k, int(year >= start)))
    names = ["region", "year", "sales", "income", "tariff"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)


def write_units(path):
    """Everybody above a size was served: no customer has a counterpart."""
    rng = np.random.default_rng(5)
    n = 400
    size = rng.normal(0, 1, n)
    served = (size > 0).astype(int)
    frame = pl.DataFrame(
        {
            "customer": [f"c{k}" for k in range(n)],
            "sales": 3 * size + served + rng.normal(0, 1, n),
            "served": served,
            "size": size,
            "age": rng.integers(20, 70, n),
            "sales_before": 3 * size + rng.normal(0, 1, n),
        }
    )
    frame.write_csv(path)


def make_project(folder, **interventions):
    """The frame of the example project with other tables."""
    copy_examples(folder, only=())
    write_panel(folder / "data" / "panel.csv")
    write_units(folder / "data" / "units.csv")
    for slug, text in interventions.items():
        path = folder / "configs" / "interventions" / f"{slug}.yaml"
        path.write_text(textwrap.dedent(text))
    return folder


def panel(design):
    return PANEL.replace("{design}", design)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = make_project(
        tmp_path_factory.mktemp("faults") / "studies",
        clean=panel(CLEAN),
        treated_donor=panel(TREATED_DONOR),
        late_predictor=panel(LATE_PREDICTOR),
        no_overlap=UNITS,
        no_column=UNITS.replace("outcome: sales", "outcome: revenue"),
    )
    return run_due(folder)


FAULTS = {
    "treated_donor": (
        "treated_donors",
        "NOT_IDENTIFIED",
        "1 of 23 donors are treated within the 32 steps (b)",
    ),
    "late_predictor": (
        "post_period_leak",
        "NOT_IDENTIFIED",
        "predictors read periods from 2024 on: income 2005-2024",
    ),
    "no_overlap": ("overlap", "NO_OVERLAP", "propensit"),
}


@pytest.mark.parametrize("slug", FAULTS)
def test_a_fault_leaves_no_estimate_and_says_why(ran, slug):
    name, reason, words = FAULTS[slug]
    document = ran.document(slug)
    assert document["claim"]["status"] in {"REFUSED", "NOT_ESTIMABLE"}
    assert (document["status"], document["reason"]) == ("not_estimable", reason)
    assert document["estimates"] == []
    assert ran.table("causal_estimates", slug).is_empty()
    (row,) = ran.table("causal_refutations", slug).filter(pl.col("name") == name).to_dicts()
    assert (row["passed"], row["severity"]) == (False, "ERROR")
    assert words in row["message"]


@pytest.mark.parametrize("slug", FAULTS)
def test_a_fault_fails_its_check_and_alerts(ran, slug):
    name, _, words = FAULTS[slug]
    fact = ran.checks_of(slug)[name]
    assert (fact.passed, fact.severity) == (False, "ERROR")
    alert = ran.alerts()[slug, name]
    assert alert.level == "error"
    assert slug in alert.title
    assert words in alert.text
    # One fault, one alert; customers are never named.
    assert [about for about, _ in ran.alerts()].count(slug) == 1
    assert not any(f"c{k} " in alert.text for k in range(400))


@pytest.mark.parametrize("slug", FAULTS)
def test_the_report_of_a_fault_shows_no_number_as_an_effect(ran, slug):
    words = words_of(ran.page(slug))
    assert "NOT ESTIMABLE" in words
    assert "Estimated effect" not in words
    assert "Estimated association:" not in words


def test_the_clean_case_beside_them_is_silent(ran):
    document = ran.document("clean")
    assert document["claim"]["status"] == "SUPPORTED"
    assert document["estimates"][0]["estimate"] == pytest.approx(8, abs=1)
    checks = ran.checks_of("clean")
    assert checks["treated_donors"].passed
    assert checks["post_period_leak"].passed
    assert "clean" not in {about for about, _ in ran.alerts()}


def test_a_table_without_the_column_publishes_nothing_and_is_told(ran):
    (trouble,) = ran.troubles
    assert (trouble.subject, trouble.code) == ("no_column", 3)
    assert "column 'revenue' is missing" in trouble.message
    assert not ran.has_document("no_column")
    assert ran.checks_of("no_column") == {}
    assert ran.alerts()["no_column", "study_frame_contract"].level == "error"


def test_only_the_broken_one_is_due_again_and_the_command_says_so(ran):
    folder = ran.runner.project.folder
    assert due_in(folder) == ["no_column"]
    before = ran.alerts().keys()
    result = CliRunner().invoke(app, ["run", "--config-dir", str(folder)])
    assert result.exit_code == 3
    assert "column 'revenue' is missing" in result.stderr.replace("\n", "")
    assert "treated_donor (not randomised): not estimable" in result.stdout.replace("\n", "")
    # The episode of the failed check goes on: nobody is told twice.
    assert ran.alerts().keys() == before


def test_a_mended_table_is_estimated(ran):
    folder = ran.runner.project.folder
    path = folder / "configs" / "interventions" / "treated_donor.yaml"
    path.write_text(path.read_text().replace("donors: [b, ", "donors: ["))
    mended = run_due(folder)
    assert set(mended.due) == {"treated_donor", "no_column"}
    assert mended.document("treated_donor")["status"] == "ok"
    assert mended.checks_of("treated_donor")["treated_donors"].passed
