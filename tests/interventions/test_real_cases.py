"""The published cases run as configured interventions, from their files to claim and alert."""

import json
import re

import duckdb
import numpy as np
import pytest
from real_case_project import (
    EXAMPLE_SLUGS,
    EXAMPLES,
    OTHER_SLUGS,
    SHARED,
    add_real_cases,
    copy_examples,
    due_in,
    reference,
    run_due,
    words_of,
)
from typer.testing import CliRunner

from experiments_dagster.checks.refutations import OTHERS, SERIES
from experiments_dagster.cli.app import app
from experiments_dagster.config.project import load_project
from experiments_dagster.reporting.refutation_words import QUESTIONS

HAS_DATA = SHARED.exists()
needs_data = pytest.mark.skipif(not HAS_DATA, reason=f"no reference data at {SHARED}")
CASES = EXAMPLE_SLUGS + (OTHER_SLUGS if HAS_DATA else [])

# What may be said, and what speaks against an effect where it may not.
CLAIMS = {
    # 16 regions give p = .65: Abadie & Gardeazabal show the path and claim no significance.
    "basque": ("REFUSED", {"placebo_in_space"}),
    # Two placebos of 30 days fit before; and one covariate breaks at the start.
    "causalimpact_example": ("WEAK", {"placebo_in_time", "covariate_breaks"}),
    "job_training": ("WEAK", {"e_value", "hidden_bias"}),
    "prop99": ("SUPPORTED", set()),
    "prop99_augmented": ("REFUSED", {"placebo_in_space"}),
    "prop99_did": ("WEAK", {"cluster_count"}),
    # t = -15.6 / 9.4: Arkhangelsky et al. 2021 report a standard error of 8.4 to 9.
    "prop99_sdid": ("WEAK", set()),
    "volkswagen": ("WEAK", {"placebo_in_time"}),
    "card_krueger": ("WEAK", set()),
    "causalimpact_published": (
        "WEAK",
        {"placebo_in_time", "covariate_breaks", "pre_fit", "drop_last_pre"},
    ),
    "drinking_age": ("WEAK", set()),
    "hillstrom_mens": ("REFUSED", {"heterogeneity", "calibration"}),
    "hillstrom_womens": ("SUPPORTED", set()),
    "lalonde": ("WEAK", {"balance", "e_value", "hidden_bias"}),
    "lalonde_all": (
        "REFUSED",
        {"balance", "leave_one_covariate_out", "e_value", "hidden_bias"},
    ),
    "senate": ("SUPPORTED", set()),
    "volkswagen_published": ("WEAK", {"pre_fit", "placebo_in_time"}),
}
STUDIES = [slug for slug in CASES if not slug.startswith(("causalimpact", "volkswagen"))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Every case in one project, run once."""
    folder = copy_examples(tmp_path_factory.mktemp("real") / "studies")
    if HAS_DATA:
        add_real_cases(folder)
    return run_due(folder)


def close(found, wanted, tolerance):
    assert found == pytest.approx(wanted, abs=tolerance, rel=0)


def relative(found, wanted, tolerance):
    assert found == pytest.approx(wanted, rel=tolerance, abs=0)


def test_every_case_ran_without_trouble(ran):
    assert ran.troubles == []
    assert sorted(ran.due) == sorted(CASES) == sorted(set(CLAIMS) & set(CASES))
    assert all(ran.document(slug)["status"] == "ok" for slug in CASES)


def donor_case(ran, slug, case, gap):
    """Error before, then weights, then the gaps."""
    expected, tolerance = case["expected"], case["tolerance"]
    series = ran.rows(slug, "series")
    start = int(re.search(r"\d{4}", ran.document(slug)["facts"]["periods after"]).group())
    before = [row["difference"] for row in series if int(row["period"]) < start]
    error = float(np.sqrt(np.mean(np.square(before))))
    weights = {row["donor"]: row["weight"] for row in ran.rows(slug, "donor_weights")}
    for name, weight in expected["weights"].items():
        (found,) = [w for donor, w in weights.items() if donor.startswith(name)]
        close(found, weight, tolerance["weights"])
    assert sum(weights.values()) == pytest.approx(1, abs=tolerance["weights"])
    mean, last = ran.document(slug)["estimates"][:2]
    close(mean["estimate"], expected[gap], tolerance["gap"])
    year = next(name for name in expected if name.startswith("gap_"))
    close(last["estimate"], expected[year], tolerance["gap"])
    assert series[-1]["difference"] == last["estimate"]
    return error


@needs_data
def test_prop99(ran):
    case = reference("timeseries", "prop99_scm")
    error = donor_case(ran, "prop99", case, "mean_gap_1989_2000")
    assert error <= case["tolerance"]["pre_rmspe_at_most"]
    # Abadie, Diamond & Hainmueller 2010: no state's ratio exceeds California's.
    assert ran.document("prop99")["estimates"][0]["p_value"] == pytest.approx(1 / 39)


@needs_data
def test_basque(ran):
    case = reference("timeseries", "basque_scm")
    error = donor_case(ran, "basque", case, "mean_gap_1970_1997")
    # Published weights have three digits; the error they give may be undercut, not exceeded.
    assert error <= case["expected"]["pre_rmspe_1960_69"] * 1.001


@needs_data
def test_prop99_by_three_estimators(ran):
    case = reference("timeseries", "prop99_sdid")
    expected, tolerance = case["expected"], case["tolerance"]
    found = {
        "sdid": ran.estimate("prop99_sdid", "average per period"),
        "sc": ran.estimate("prop99_augmented", "average per period, not augmented"),
        "did": ran.document("prop99_did")["estimates"][0],
    }
    assert found.keys() == expected.keys()
    for name, number in expected.items():
        close(found[name]["estimate"], number, tolerance[name])


@needs_data
@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("causalimpact_published", "causalimpact_google"),
        ("volkswagen_published", "causalimpact_volks"),
    ],
)
def test_impact_of_the_published_series(ran, slug, name):
    """Within half a posterior sd, interval ends within 0.6; sign and significance equal."""
    expected, found = reference("timeseries", name)["expected"], ran.document(slug)
    sd, average = expected["sd_avg"], found["average"]
    assert found["n_pre"] == expected["n_pre"]
    close(average["estimate"], expected["abs_effect_avg"], 0.5 * sd)
    for end, number in zip(("ci_low", "ci_high"), expected["abs_effect_ci"], strict=True):
        close(average[end], number, 0.6 * sd)
    close(found["total"]["estimate"], expected["cum_effect"], 0.5 * sd * found["n_post"])
    close(found["relative"]["estimate"], expected["rel_effect"], 0.02)
    assert found["p_value"] < 0.05
    assert any("published prior" in text for text in ran.document(slug)["warnings"])


@needs_data
@pytest.mark.parametrize(
    ("slug", "name"),
    [("causalimpact_example", "causalimpact_google"), ("volkswagen", "causalimpact_volks")],
)
def test_the_default_prior_agrees_in_sign_and_is_wider(ran, slug, name):
    expected, found = reference("timeseries", name)["expected"], ran.document(slug)
    average = found["average"]
    close(average["estimate"], expected["abs_effect_avg"], 0.7 * expected["sd_avg"])
    assert average["ci_high"] - average["ci_low"] > 1.5 * np.diff(expected["abs_effect_ci"])[0]
    assert found["p_value"] < 0.05


@needs_data
def test_card_krueger(ran):
    case = reference("timeseries", "card_krueger")
    expected, rel = case["expected"], case["tolerance"]["rel"]
    main = ran.document("card_krueger")["estimates"][0]
    cells = {row["group"]: row for row in ran.rows("card_krueger", "cells")}
    errors = {
        row["formula"]: row["std_error"] for row in ran.rows("card_krueger", "standard_errors")
    }
    means = {
        f"{name}_{when}": cells[group][when]
        for name, group in (("PA", "untreated"), ("NJ", "treated"))
        for when in ("before", "after")
    }
    groups = ("treated", "untreated")
    found = {
        "att": main["estimate"],
        "se_ols": errors["ols"],
        "se_hc1": main["std_error"],
        "n": sum(cells[g]["rows_before"] + cells[g]["rows_after"] for g in groups),
        "means": means,
    }
    assert found.keys() == expected.keys()
    for name, number in expected.items():
        relative(found[name], number, rel)
    assert ran.document("card_krueger")["warnings"] == ["26 rows left out: fte is missing"]


@needs_data
def test_senate(ran):
    case = reference("timeseries", "rdd_senate")
    expected, tolerance = case["expected"], case["tolerance"]
    rows = [
        ran.estimate("senate", name)
        for name in (
            "jump, conventional, bias ignored",
            "jump, bias-corrected, interval too short",
            "jump, robust bias-corrected",
        )
    ]
    for key, found in {
        "coef": [row["estimate"] for row in rows],
        "se": [row["std_error"] for row in rows],
        "ci": [[row["ci_low"], row["ci_high"]] for row in rows],
    }.items():
        assert np.abs(np.subtract(found, expected[key])).max() <= tolerance["coef_abs"], key
    sides = ran.rows("senate", "local_fit")
    bandwidths = [[row[name] for row in sides] for name in ("bandwidth", "bias_bandwidth")]
    np.testing.assert_allclose(bandwidths, expected["bws"], rtol=tolerance["bw_rel"])
    assert [row["n_within_bandwidth"] for row in sides] == expected["N_h"]
    assert ran.document("senate")["estimates"][0]["name"] == "jump, robust bias-corrected"


@needs_data
def test_drinking_age(ran):
    case = reference("timeseries", "rdd_mlda")
    rel = case["tolerance"]["rel"]
    names = {
        "mlda_all~T*a+I(a**2)+T:I(a**2)": "jump between two parabolas, equal variances",
    }
    for formula, name in names.items():
        row = ran.estimate("drinking_age", name)
        relative([row["estimate"], row["std_error"]], case["expected"][formula], rel)
    # Lines: the jump of both formulas; errors are the robust ones here.
    lines = ran.estimate("drinking_age", "jump between two lines")["estimate"]
    for formula in ("mlda_all~T+a", "mlda_all~T*a"):
        relative(lines, case["expected"][formula][0], rel)
    # Angrist & Pischke, table 4.1: 9.55 (1.83).
    close(ran.document("drinking_age")["estimates"][0]["std_error"], 1.83, 0.005)


@needs_data
def test_lalonde(ran):
    case = reference("observational", "lalonde_matchit")
    expected, rel = case["expected"], case["tolerance"]["rel"]
    propensity = next(r for r in ran.rows("lalonde", "propensity") if r["units"] == "all")
    quantiles = ("lowest", "quartile_1", "median", "quartile_3", "highest")
    control = next(r for r in ran.rows("lalonde", "weights") if r["units"] == "not treated")
    uncrossed = ran.estimate("lalonde_all", "AIPW, models of all units")
    naive = ran.estimate("lalonde", "plain difference")
    total = ran.estimate("lalonde_all", "weighting (Horvitz-Thompson), unstable")
    found = {
        "ps_summary": [propensity[name] for name in quantiles],
        "naive": naive["estimate"],
        "att_ipw": ran.estimate("lalonde", "weighting (Hajek)")["estimate"],
        "ate_hajek": ran.estimate("lalonde_all", "weighting (Hajek)")["estimate"],
        "ate_ht": total["estimate"],
        "ess_control": control["effective_n"],
        "aipw_ate": uncrossed["estimate"],
        "aipw_se": uncrossed["std_error"],
    }
    for name, number in found.items():
        relative(number, expected[name], rel)
    names = {"distance": "propensity", "raceblack": "race=black", "racehispan": "race=hispan"}
    names["racewhite"] = "race=(base)"
    before = {row["covariate"]: row["smd_before"] for row in ran.rows("lalonde", "balance")}
    relative(before, {names.get(n, n): smd for n, smd in expected["smd_before"].items()}, rel)


def test_job_training_repeats_its_trial(ran):
    """Dehejia & Wahba 1999: 1,794 dollars (671 with unequal variances), n = 185 and 260."""
    naive = ran.estimate("job_training", "plain difference")
    close(naive["estimate"], 1794, 0.5)
    close(naive["std_error"], 671, 0.5)
    adjusted = ran.document("job_training")["estimates"][0]
    # Randomised: adjustment moves the estimate by far less than its error.
    close(adjusted["estimate"], naive["estimate"], 0.25 * adjusted["std_error"])
    facts = ran.document("job_training")["facts"]
    assert (facts["treated"], facts["not treated"]) == ("185", "260")


@needs_data
@pytest.mark.parametrize("arm", ["mens", "womens"])
def test_hillstrom(ran, arm):
    slug = f"hillstrom_{arm}"
    case = reference("uplift", f"hillstrom_A_half_{arm}")
    expected, rel = case["expected"], case["tolerance"]["rel"]
    means = {row["estimate_of"]: row for row in ran.rows(slug, "average_effect")}
    ends = {row["curve"]: row["value"] for row in ran.rows(slug, "curves")
            if row["quantity"] == "end"}  # fmt: skip
    facts = ran.document(slug)["facts"]
    assert int(facts["units"].replace(",", "")) == expected["n"]
    relative(means["difference of means"]["estimate"], expected["ate_dim"], rel)
    # The end of a curve is the same for every score; its area is that of our own ranking.
    relative(ends["qini"], expected["qini_curve_end"], rel)
    # The women's mail has responders to find, the men's none reliably: only then are they named.
    tables = ran.document(slug)["tables"]
    assert ("segments" in tables) == (arm == "womens")
    assert ("targeting" in tables) == (arm == "womens")


@pytest.mark.parametrize("slug", CASES)
def test_the_claim_and_what_weighs_against_it(ran, slug):
    status, failed = CLAIMS[slug]
    document = ran.document(slug)
    assert document["claim"]["status"] == status
    assert {row["name"] for row in document["refutations"] if row["passed"] is False} == failed
    assert bool(document["claim"]["clauses"]) == (status != "SUPPORTED")


@pytest.mark.parametrize("slug", CASES)
def test_each_refutation_is_an_evaluated_asset_check(ran, slug):
    expected = ran.expected_checks(slug)
    found = {
        name: (fact.passed, fact.severity, fact.blocking)
        for name, fact in ran.checks_of(slug).items()
    }
    assert found == {name: (*outcome, False) for name, outcome in expected.items()}
    assert expected or slug == "card_krueger"
    assert all(fact.description for fact in ran.checks_of(slug).values())


def test_every_refutation_that_has_words_has_a_check():
    names = SERIES | OTHERS
    unknown = {
        name
        for name in QUESTIONS
        if name not in names and not any(name.startswith(f"{kind}_") for kind in names)
    }
    assert unknown == set()


@pytest.mark.parametrize("slug", CASES)
def test_only_what_blocks_the_claim_alerts(ran, slug):
    failed = {
        name: fact
        for name, fact in ran.checks_of(slug).items()
        if not fact.passed and fact.severity == "ERROR"
    }
    assert bool(failed) == (CLAIMS[slug][0] == "REFUSED")
    alerts = {check: alert for (about, check), alert in ran.alerts().items() if about == slug}
    assert alerts.keys() == failed.keys()
    for name, alert in alerts.items():
        assert alert.level == "error"
        assert failed[name].description in alert.text


@pytest.mark.parametrize("slug", CASES)
def test_the_result_tables_say_what_the_document_says(ran, slug):
    document = ran.document(slug)
    for name in ("estimates", "refutations"):
        table = ran.table(f"causal_{name}", slug)
        assert set(table["claim"]) <= {document["claim"]["status"]}
        assert set(table["version"]) <= {document["version"]}
        if slug in STUDIES:
            rows = document[name]
            assert table.height == len(rows)
            assert not rows or table.select(list(rows[0])).to_dicts() == rows
    if slug not in STUDIES:
        total = ran.table("causal_estimates", slug).row(0, named=True)
        assert {name: total[name] for name in document["total"]} == document["total"]
        passed = {row["name"]: row["passed"] for row in document["refutations"]}
        table = ran.table("causal_refutations", slug)
        assert dict(table.select("name", "passed").iter_rows()) == passed


def test_the_catalog_shows_the_results_at_once(ran):
    with duckdb.connect(str(ran.layout.catalog), read_only=True) as duck:
        named = "SELECT DISTINCT intervention FROM {} WHERE is_current ORDER BY 1"
        found = {
            table: [row[0] for row in duck.sql(named.format(table)).fetchall()]
            for table in ("causal_estimates", "impact_series")
        }
    assert found["causal_estimates"] == sorted(CASES)
    assert found["impact_series"] == sorted(set(CASES) - set(STUDIES))


@pytest.mark.parametrize("slug", CASES)
def test_the_report_names_design_estimand_assumptions_and_refutations(ran, slug):
    words, document = words_of(ran.page(slug)).casefold(), ran.document(slug)
    intervention = ran.runner.project.interventions[slug]
    assert intervention.spec.description.casefold() in words
    assert document["claim"]["status"].casefold() in words
    assert f"{len(document['refutations'])} refutation" in words or slug == "card_krueger"
    if slug in STUDIES:
        for text in (document["method"], document["estimand"], *document["assumptions"]):
            assert text.casefold() in words
    for row in document["refutations"]:
        assert QUESTIONS.get(row["name"], ("", ""))[1] in words
    for path in intervention.files:
        assert path.name.casefold() in words
    assert "what has to hold" in words


@pytest.mark.parametrize("slug", CASES)
def test_only_a_supported_estimate_is_called_an_effect(ran, slug):
    words, is_supported = words_of(ran.page(slug)), CLAIMS[slug][0] == "SUPPORTED"
    assert ("Estimated effect" in words) == is_supported
    document = ran.document(slug)
    # Where treatment was randomised, what is refused is that units respond differently.
    term = "difference" if document.get("is_randomised") else "association"
    assert (f"Estimated {term}" in words) != is_supported
    if is_supported or document.get("is_randomised"):
        return
    for row in document.get("estimates", []):
        if "effect" in row["name"]:
            assert row["name"] not in words
            assert row["name"].replace("effect", "association") in words


def test_running_again_does_nothing(ran):
    assert due_in(ran.runner.project.folder) == []
    reports = {slug: ran.page(slug) for slug in CASES}
    n_runs = ran.runner.instance.get_runs_count()
    result = CliRunner().invoke(app, ["run", "--config-dir", str(ran.runner.project.folder)])
    assert result.exit_code == 0, result.output
    text = re.sub(r"\s+", " ", result.output)
    for slug in CASES:
        how = "randomised" if slug.startswith("hillstrom") else "not randomised"
        assert f"{slug} ({how}): {CLAIMS[slug][0]}: " in text
    # One run: the nightly looks, which has no experiment to look at.
    assert ran.runner.instance.get_runs_count() == n_runs + 1
    assert {slug: ran.page(slug) for slug in CASES} == reports


def readers_of(ran, name):
    """Interventions that read a file."""
    project = ran.runner.project
    return {
        slug
        for slug, intervention in project.interventions.items()
        if name in {path.name for path in intervention.files}
    }


@pytest.mark.parametrize("name", ["volkswagen.csv", "basque.csv", "california_prop99_sdid.csv"])
def test_an_edited_table_makes_exactly_its_readers_due(ran, name):
    path = ran.runner.project.folder / "data" / name
    content = path.read_bytes()
    try:
        path.write_bytes(content.rstrip(b"\n"))
        assert set(due_in(ran.runner.project.folder)) == readers_of(ran, name)
    finally:
        path.write_bytes(content)
    assert due_in(ran.runner.project.folder) == []


@pytest.mark.parametrize("slug", ["volkswagen", "basque", "job_training"])
def test_an_edited_configuration_makes_exactly_itself_due(ran, slug):
    path = ran.runner.project.folder / "configs" / "interventions" / f"{slug}.yaml"
    text = path.read_text()
    try:
        path.write_text(f"# A comment changes no plan.\n{text}")
        assert due_in(ran.runner.project.folder) == []
        path.write_text(text.replace("seed: 1", "seed: 2"))
        assert due_in(ran.runner.project.folder) == [slug]
    finally:
        path.write_text(text)


def test_a_new_table_gives_a_new_version_beside_the_old_one(tmp_path):
    folder = copy_examples(tmp_path / "studies", only={"job_training"})
    first = run_due(folder)
    old = first.document("job_training")
    path = folder / "data" / "nsw_mixtape.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("9930.046", "")
    path.write_text("\n".join(lines) + "\n")
    again = run_due(folder)
    new = again.document("job_training")
    assert (first.due, again.due) == (["job_training"], ["job_training"])
    assert again.troubles == []
    assert new["version"] != old["version"]
    assert new["inputs"] != old["inputs"]
    assert new["warnings"][-1] == "1 rows left out: a value is missing"
    kept = again.layout.results("causal_effect", "job_training")
    assert json.loads((kept / f"{old['version']}.json").read_text()) == old


def test_the_example_project_is_complete_and_leaves_nothing_behind():
    """Every table is read, every table has its source and licence, nothing else lies there."""
    project = load_project(EXAMPLES)
    read = {path for item in project.interventions.values() for path in item.files}
    data = {path for path in (EXAMPLES / "data").iterdir() if path.suffix == ".csv"}
    assert read == data
    notice = (EXAMPLES / "data" / "NOTICE.md").read_text()
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"`{path.name}`" in notice for path in data)
    assert all(f"`{slug}`" in readme for slug in project.interventions)
    assert project.platform.sources == {}
    assert project.metrics == {}


@needs_data
def test_the_examples_are_the_reference_data():
    """Unchanged, but for separators of one file."""
    examples = EXAMPLES / "data"
    same = {
        "prop99_smoking.csv": "timeseries/prop99_smoking.csv",
        "california_prop99_sdid.csv": "timeseries/california_prop99_sdid.csv",
        "basque.csv": "timeseries/basque.csv",
        "causalimpact_example.csv": "timeseries/ci_google_data.csv",
        "nsw_mixtape.csv": "observational/nsw_mixtape.csv",
    }
    for name, source in same.items():
        assert (examples / name).read_bytes() == (SHARED / source).read_bytes()
    rows = (SHARED / "timeseries" / "ci_volks_data.csv").read_text().replace('"', "").split("\n")
    assert (examples / "volkswagen.csv").read_text() == "\n".join(
        row.replace(" ", ",") for row in rows
    )
