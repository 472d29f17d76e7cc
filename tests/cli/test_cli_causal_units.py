"""The verbs on a row per unit: observational, discontinuity, e-value."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from experiments_dagster.cli.causal import units

SHARED = Path(__file__).parents[3] / "shared" / "data"
LALONDE = SHARED / "observational" / "lalonde_matchit.csv"
SENATE = SHARED / "timeseries" / "rdrobust_senate.csv"
MLDA = SHARED / "timeseries" / "mlda_drinking.csv"
needs_data = pytest.mark.skipif(not SHARED.exists(), reason=f"no reference data at {SHARED}")
COVARIATES = "age,educ,race,married,nodegree,re74,re75"


def run(*arguments, code=0):
    app = typer.Typer()
    units.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def estimates(text):
    return load(text)["estimates"]


@pytest.fixture
def campaign(tmp_path):
    """Customers of three arms; spend before is what a placebo outcome reads."""
    rng = np.random.default_rng(1)
    n = 900
    age, arm = rng.normal(40, 10, n), rng.choice(["mail", "app", "none"], n, p=[0.3, 0.2, 0.5])
    before = age + rng.normal(0, 5, n)
    path = tmp_path / "campaign.csv"
    pl.DataFrame(
        {
            "customer": [f"c{k}" for k in range(n)],
            "age": age,
            "arm": arm,
            "before": before,
            "spend": age + 8.0 * (arm == "mail") + rng.normal(0, 5, n),
        }
    ).write_csv(path)
    return path


@needs_data
def test_observational_gives_the_numbers_of_the_case_as_strict_json():
    arguments = ("observational", "--input", LALONDE, "--y", "re78", "--treated-col", "treat")
    found = estimates(run(*arguments, "--covariates", COVARIATES, "--json").stdout)
    rows = {row["name"]: row for row in found["estimates"]}
    # The case's att_ipw and naive.
    assert rows["weighting (Hajek)"]["estimate"] == pytest.approx(1214.071221, rel=1e-4)
    assert rows["plain difference, unadjusted"]["estimate"] == pytest.approx(-635.026212)
    assert found["claim"]["status"] == "WEAK"
    assert found["estimates"][0]["name"] == "AIPW, cross-fitted"
    everybody = run(*arguments, "--covariates", COVARIATES, "--estimand", "all", "--json").stdout
    rows = {row["name"]: row for row in estimates(everybody)["estimates"]}
    assert rows["AIPW, models of all units"]["estimate"] == pytest.approx(469.639983, rel=1e-4)


def test_observational_of_two_arms_among_three(campaign, tmp_path):
    out = tmp_path / "study"
    arguments = ("observational", "--input", campaign, "--y", "spend", "--treated-col", "arm")
    arms = ("--treatment", "mail", "--control", "none", "--unit-col", "customer")
    said = run(
        *(*arguments, *arms, "--covariates", "age", "--placebo-outcomes", "before"),
        *("--folds", 4, "--seed", 3, "--caliper", 0.1, "--alpha", 0.1, "--out", out),
    ).stdout
    assert "SUPPORTED" in said
    found = estimates((out / "results.json").read_text())
    first = found["estimates"][0]
    assert first["ci_low"] < 8 < first["ci_high"]
    assert first["confidence_level"] == pytest.approx(0.9)
    assert found["facts"]["cross-fitting"] == "4 folds by the hash of the unit, seed 3"
    assert "another arm" in " ".join(load((out / "results.json").read_text())["warnings"])
    assert (out / "report.html").exists()
    assert {path.stem for path in (out / "plots").iterdir()} == {
        *("balance", "balance_matching", "overlap"),
    }
    assert "placebo_outcomes.csv" in {path.name for path in (out / "tables").iterdir()}


@needs_data
def test_a_weak_claim_shows_no_effect_in_its_tables(tmp_path):
    arguments = ("observational", "--input", LALONDE, "--y", "re78", "--treated-col", "treat")
    path = tmp_path / "study.md"
    run(*arguments, "--covariates", COVARIATES, "--out-md", path)
    said = path.read_text()
    assert "WEAK" in said
    assert "plain difference, unadjusted" in said
    # What the study asks for keeps its name.
    without = said.replace("estimand: average effect on re78", "")
    assert "ffect" not in without.replace("effective", "")


def test_observational_without_overlap_prints_why_and_leaves_with_5(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    path = tmp_path / "decided.csv"
    pl.DataFrame({"x": x, "t": (x > 0).astype(int), "y": x + rng.normal(size=400)}).write_csv(path)
    arguments = ("observational", "--input", path, "--y", "y", "--treated-col", "t")
    found = estimates(run(*arguments, "--covariates", "x", "--json", code=5).stdout)
    assert found["reason"] == "NO_OVERLAP"
    assert found["estimates"] == []
    assert [check["name"] for check in found["refutations"]] == ["overlap"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--covariates", "age", "--estimand", "both"), "--estimand 'both'"),
        (("--covariates", "age", "--folds", 1), "--folds 1"),
        (("--covariates", "age", "--caliper", 0), "--caliper 0"),
        (("--covariates", "age", "--treatment", "mail"), "treatment and control stand together"),
        (("--covariates", "age"), "column 'arm' must hold 0 and 1"),
        (("--covariates", "spend"), "columns with two roles: spend"),
        (("--covariates", "height"), "height"),
        (("--covariates", ","), "covariates"),
    ],
)
def test_observational_names_the_wrong_flag(campaign, flags, words):
    arguments = ("observational", "--input", campaign, "--y", "spend", "--treated-col", "arm")
    assert words in run(*arguments, *flags, code=2).output


@needs_data
def test_discontinuity_gives_the_numbers_of_the_case():
    arguments = ("discontinuity", "--input", SENATE, "--y", "vote", "--running", "margin")
    found = estimates(run(*arguments, "--cutoff", 0, "--json").stdout)
    first = found["estimates"][0]
    numbers = [first[name] for name in ("estimate", "std_error", "ci_low", "ci_high")]
    assert numbers == pytest.approx([7.506502, 1.741258, 4.093699, 10.919306], abs=0.02)
    assert found["claim"]["status"] == "WEAK"
    full = run(*arguments, "--cutoff", 0, "--covariates", "population,class", "--json").stdout
    assert estimates(full)["claim"]["status"] == "SUPPORTED"
    mirrored = run(*arguments, "--cutoff", 0, "--treated-side", "below", "--json").stdout
    turned = estimates(mirrored)["estimates"][0]["estimate"]
    assert turned == pytest.approx(-first["estimate"])


@needs_data
def test_discontinuity_of_cells():
    arguments = ("discontinuity", "--input", MLDA, "--y", "all", "--running", "agecell")
    refused = estimates(run(*arguments, "--cutoff", 21, "--json", code=5).stdout)
    assert refused["reason"] == "N_TOO_SMALL"
    lines = ("--cutoff", 21, "--polynomial", 1, "--minimum", 19, "--maximum", 23)
    found = estimates(run(*arguments, *lines, "--placebo-outcomes", "internal", "--json").stdout)
    rows = {row["name"]: row for row in found["estimates"]}
    assert rows["jump between two lines"]["estimate"] == pytest.approx(7.662711632, rel=1e-6)
    assert found["tables"]["placebo_outcomes"][0]["outcome"] == "internal"
    narrow = run(*arguments, *lines[:-1], 22, "--json")
    assert estimates(narrow.stdout)["facts"]["rows"] == "36"


def test_discontinuity_with_a_column_of_take_up_is_fuzzy(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 3000)
    taken = (rng.random(3000) < np.where(x >= 0, 0.8, 0.1)).astype(int)
    path = tmp_path / "offer.parquet"
    y = x + 2 * taken + 0.3 * rng.normal(size=3000)
    pl.DataFrame({"score": x, "taken": taken, "y": y}).write_parquet(path)
    arguments = ("discontinuity", "--input", path, "--y", "y", "--running", "score", "--cutoff", 0)
    found = estimates(run(*arguments, "--treated-col", "taken", "--json").stdout)
    first = found["estimates"][0]
    ratio = "jump of the outcome per jump of the take-up"
    assert first["name"] == f"{ratio}, robust bias-corrected"
    assert first["ci_low"] < 2 < first["ci_high"]
    assert "take_up" in found["tables"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--polynomial", 3), "--polynomial 3"),
        (("--treated-side", "left"), "--treated-side 'left'"),
        (("--alpha", 2), "--alpha 2"),
        (("--treated-col", "margin"), "columns with two roles: margin"),
    ],
)
@needs_data
def test_discontinuity_names_the_wrong_flag(flags, words):
    arguments = ("discontinuity", "--input", SENATE, "--y", "vote", "--running", "margin")
    assert words in run(*arguments, "--cutoff", 0, *flags, code=2).output


def test_e_value_of_the_published_risk_ratio():
    """VanderWeele & Ding 2017: 3.9 [1.8, 8.7] has E-values 7.26 and 3.0."""
    arguments = ("e-value", "--estimate", 3.9, "--ci-low", 1.8, "--ci-high", 8.7, "--kind", "rr")
    found = load(run(*arguments, "--json").stdout)
    assert found["e_value"] == pytest.approx(7.263034, abs=1e-6)
    assert found["e_value_interval"] == pytest.approx(3.0)
    assert "7.263" in run(*arguments).stdout


def test_e_value_of_other_scales():
    """An odds ratio of a common outcome is about its root squared; of a rare one itself."""

    def of(*flags):
        return load(run("e-value", *flags, "--json").stdout)["e_value"]

    ratio = of("--estimate", 2, "--kind", "rr")
    assert of("--estimate", 4, "--kind", "or", "--common") == pytest.approx(ratio)
    assert of("--estimate", 2, "--kind", "or") == pytest.approx(ratio)
    assert of("--estimate", 2, "--kind", "hr") == pytest.approx(ratio)
    assert of("--estimate", 2, "--kind", "hr", "--common") < ratio
    assert of("--estimate", 0.5, "--kind", "rr") == pytest.approx(ratio)


def test_e_value_of_a_mean_difference(tmp_path):
    path = tmp_path / "deep" / "e.json"
    arguments = ("e-value", "--estimate", -0.5, "--kind", "mean-difference", "--sd", 1)
    by_error = load(run(*arguments, "--std-error", 0.1, "--json", "--out-json", path).stdout)
    assert load(path.read_text()) == by_error
    assert by_error["e_value"] == pytest.approx(2.5291, abs=1e-4)
    limits = ("--ci-low", -0.5 - 0.1959964, "--ci-high", -0.5 + 0.1959964)
    by_limits = load(run(*arguments, *limits, "--json").stdout)
    # The limits have seven digits.
    assert by_limits["e_value_interval"] == pytest.approx(by_error["e_value_interval"], rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--estimate", 2, "--kind", "odds"), "--kind odds"),
        (("--estimate", 2, "--kind", "rr", "--ci-low", 1), "--ci-high is missing"),
        (("--estimate", 2, "--kind", "rr", "--common"), "--common"),
        (("--estimate", 2, "--kind", "rr", "--sd", 1), "--sd"),
        (("--estimate", -2, "--kind", "rr"), "positive"),
        (("--estimate", 5, "--kind", "rr", "--ci-low", 1, "--ci-high", 3), "outside"),
        (("--estimate", 2, "--kind", "mean-difference"), "--sd is missing"),
        (("--estimate", 2, "--kind", "mean-difference", "--sd", 1), "--std-error"),
        (
            (
                "--estimate",
                2,
                "--kind",
                "mean-difference",
                "--sd",
                1,
                "--ci-low",
                3,
                "--ci-high",
                4,
            ),
            "--estimate 2: is outside",
        ),
    ],
)
def test_e_value_names_the_wrong_flag(flags, words):
    assert words in run("e-value", *flags, code=2).output
