"""The commands on files of studies, factors and units that did not comply."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from scipy.stats import chisquare, ttest_ind
from typer.testing import CliRunner

from experiments_dagster.cli import cace, factorial, meta
from experiments_dagster.stats.factorial import factorial_effects
from experiments_dagster.stats.meta_analysis import pool_studies
from experiments_dagster.stats.noncompliance import complier_effect

SHARED = Path(__file__).parents[3] / "shared" / "data"
KEYS = ("estimate", "std_error", "ci_low", "ci_high", "tau2", "q", "i2")


def run(*arguments, code=0):
    app = typer.Typer()
    for commands in (cace, factorial, meta):
        commands.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def studies(tmp_path):
    path = tmp_path / "studies.csv"
    pl.DataFrame({"lift": [0.1, 0.3, 0.6, 0.2], "v": [0.02, 0.03, 0.01, 0.02]}).write_csv(path)
    return path


@pytest.fixture
def factors(tmp_path):
    rng = np.random.default_rng(1)
    price, layout = rng.choice(["high", "low"], 400), rng.integers(0, 2, 400)
    y = 3 + (price == "low") + 2 * layout + rng.normal(size=400)
    path = tmp_path / "factors.parquet"
    pl.DataFrame({"y": y, "price": price, "layout": layout}).write_parquet(path)
    return path


@pytest.fixture
def offers(tmp_path):
    rng = np.random.default_rng(2)
    z = rng.integers(0, 2, 900)
    d = z * (rng.random(900) < 0.6)
    y = 2.0 * d + rng.normal(size=900)
    path = tmp_path / "offers.csv"
    pl.DataFrame({"arm": np.where(z == 1, "offer", "control"), "took": d, "y": y}).write_csv(path)
    return path


def meta_of(path, *arguments, code=0):
    return run(
        "meta", "--input", path, "--effect", "lift", "--variance", "v", *arguments, code=code
    )


@pytest.mark.parametrize(
    ("flag", "method", "interval"),
    [
        ("dl", "dl", "normal"),
        ("reml", "reml", "normal"),
        ("hk", "reml", "hartung_knapp"),
        ("fixed", "fixed", "normal"),
    ],
)
def test_the_numbers_are_those_of_the_library(studies, flag, method, interval):
    document = load(meta_of(studies, "--method", flag, "--json").stdout)
    frame = pl.read_csv(studies)
    expected = pool_studies(frame["lift"], frame["v"], method=method, interval=interval)
    for key in KEYS:
        assert document[key] == pytest.approx(getattr(expected, key), rel=1e-12), key


@pytest.mark.parametrize(("method", "key"), [("dl", "DL"), ("reml", "REML"), ("hk", "REML_HK")])
def test_the_published_case(method, key):
    path = SHARED / "meta" / "bcg.csv"
    if not path.exists():
        pytest.skip(f"no data at {path}")
    case = json.loads((SHARED / "meta" / "expected.json").read_text())[0]
    arguments = ("--input", path, "--effect", "yi", "--variance", "vi", "--method", method)
    document = load(run("meta", *arguments, "--json").stdout)
    expected = case["expected"][key]
    names = {"b": "estimate", "se": "std_error", "tau2": "tau2", "I2": "i2", "Q": "q"}
    actual = {name: document[ours] for name, ours in names.items() if name in expected}
    wanted = {name: expected[name] for name in actual}
    assert actual == pytest.approx(wanted, rel=0, abs=case["tolerance"]["abs"])
    assert [document["ci_low"], document["ci_high"]] == pytest.approx(
        expected["ci"], rel=0, abs=case["tolerance"]["abs"]
    )


def test_two_studies_are_flagged_and_their_spread_is_null(studies):
    pl.read_csv(studies).head(2).write_csv(studies)
    document = load(meta_of(studies, "--json").stdout)
    assert (document["method"], document["flag"], document["tau2"]) == (
        "fixed",
        "TWO_STUDIES",
        None,
    )
    assert "two studies" in document["note"]
    assert "two studies" in meta_of(studies).stdout


def test_files_are_written(studies, tmp_path):
    out_json, out_md = tmp_path / "out" / "meta.json", tmp_path / "meta.md"
    shown = meta_of(studies, "--out-json", out_json, "--out-md", out_md).stdout
    assert "prediction" in shown
    assert load(out_json.read_text())["n_studies"] == 4
    assert out_md.read_text().startswith("# lift, 4 studies: random effects, REML")


@pytest.mark.parametrize(
    ("frame", "arguments", "texts"),
    [
        (None, ("--method", "mh"), ("--method 'mh'", "hk, reml, dl")),
        (None, ("--alpha", "1"), ("--alpha 1", "at least 1e-12 and below 1")),
        (None, ("--alpha", "1e-300"), ("--alpha 1e-300", "at least 1e-12 and below 1")),
        (None, ("--alpha", "nan"), ("--alpha nan", "at least 1e-12 and below 1")),
        ({"lift": [0.1, 0.2], "w": [1, 2]}, (), ("column 'v' is missing", "lift, w")),
        ({"lift": [0.1, 0.2], "v": [0.1, 0.0]}, (), ("--variance v", "row 2 is 0", "above 0")),
        ({"lift": [0.1, None], "v": [0.1, 0.2]}, (), ("'lift' has 1 missing",)),
        ({"lift": ["a", "b"], "v": [0.1, 0.2]}, (), ("--effect lift", "must be numbers")),
        ({"lift": [0.1, float("nan")], "v": [0.1, 0.2]}, (), ("'lift'", "NaN or infinite")),
        ({"lift": [], "v": []}, (), ("has no rows",)),
    ],
)
def test_refusals_name_what_and_rule(studies, frame, arguments, texts):
    if frame is not None:
        pl.DataFrame(frame).write_csv(studies)
    result = meta_of(studies, *arguments, code=2)
    for text in texts:
        assert text in result.stderr
    assert result.stdout == ""


def test_one_column_has_one_role(studies):
    arguments = ("--input", studies, "--effect", "v", "--variance", "v")
    assert "is --effect already" in run("meta", *arguments, code=2).stderr


def test_effects_that_are_all_the_same_are_not_estimable(studies):
    pl.DataFrame({"lift": [0.2] * 3, "v": [0.1, 0.2, 0.3]}).write_csv(studies)
    assert "ZERO_VARIANCE" in meta_of(studies, code=5).stderr


def factorial_of(path, *arguments, code=0):
    given = ("--input", path, "--value", "y", "--factors", "price,layout")
    return run("factorial", *given, *arguments, code=code)


def test_factorial_effects_by_name_and_level(factors):
    document = load(factorial_of(factors, "--json").stdout)
    frame = pl.read_parquet(factors)
    levels = np.column_stack([frame["price"] == "low", frame["layout"] == 1])
    expected = factorial_effects(frame["y"], levels, factors=["price", "layout"])
    assert [row["name"] for row in document["effects"]] == ["price", "layout", "price:layout"]
    for row, effect in zip(document["effects"], expected.effects, strict=True):
        assert row["status"] == "ok"
        for key in ("estimate", "std_error", "p_value", "p_adjusted"):
            assert row[key] == pytest.approx(getattr(effect, key), rel=1e-12)
    assert document["inputs"]["levels"]["price"] == {"low": "high", "high": "low"}
    assert document["grand_mean"]["estimate"] == pytest.approx(expected.grand_mean.estimate)
    shown = factorial_of(factors).stdout
    assert "price: high is low, low is high" in shown
    assert "price:layout" in shown


def test_an_empty_cell_is_named_and_exits_with_not_estimable(factors, tmp_path):
    path = tmp_path / "part.parquet"
    frame = pl.read_parquet(factors)
    frame.filter((pl.col("price") != "low") | (pl.col("layout") == 0)).write_parquet(path)
    document = load(factorial_of(path, "--json", code=5).stdout)
    assert {row["reason"] for row in document["effects"]} == {"NOT_IDENTIFIED"}
    assert {row["estimate"] for row in document["effects"]} == {None}
    assert document["n_empty_cells"] == 1
    assert "NOT_IDENTIFIED" in factorial_of(path, code=5).stdout
    additive = load(factorial_of(path, "--order", 1, "--json").stdout)
    assert [row["status"] for row in additive["effects"]] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--factors", "price,price"), ("price", "already")),
        (("--factors", ","), ("--factors ','", "separated by commas")),
        (("--factors", "a,b,c,d,e,f,g"), ("7 given", "6 or fewer")),
        (("--factors", "price,y"), ("already",)),
        (("--factors", "layout,price", "--order", "3"), ("--order 3", "1 to 2")),
        (("--factors", "price", "--value", "layout", "--alpha", "0"), ("--alpha 0",)),
    ],
)
def test_factorial_refusals(factors, arguments, texts):
    result = factorial_of(factors, *arguments, code=2)
    for text in texts:
        assert text in result.stderr


def test_a_factor_needs_two_levels(factors, tmp_path):
    path = tmp_path / "three.csv"
    pl.DataFrame({"y": [1.0, 2, 3], "price": ["a", "b", "c"], "layout": [0, 1, 0]}).write_csv(path)
    assert "two levels, the column has 3: a, b, c" in factorial_of(path, code=2).stderr


def test_what_is_no_number_is_no_level(factors, tmp_path):
    path = tmp_path / "gaps.parquet"
    layout = pl.Series([1.0, float("nan")] * 200)
    pl.read_parquet(factors).with_columns(layout=layout).write_parquet(path)
    said = factorial_of(path, code=2).stderr
    assert "--factors layout: 200 values are NaN or infinite, must be levels" in said


def cace_of(path, *arguments, code=0):
    given = ("--input", path, "--value", "y", "--received", "took", "--group-col", "arm")
    return run("cace", *given, "--control", "control", *arguments, code=code)


def test_complier_effects_with_their_assumptions(offers):
    document = load(cace_of(offers, "--json").stdout)
    frame = pl.read_csv(offers)
    expected = complier_effect(frame["y"], frame["arm"] == "offer", frame["took"])
    for key in ("estimate", "std_error", "ci_low", "ci_high", "first_stage_f"):
        assert document[key] == pytest.approx(getattr(expected, key), rel=1e-12)
    assert document["itt"]["estimate"] == pytest.approx(expected.itt.estimate)
    assert [text.split(":")[0] for text in document["assumptions"]] == [
        "randomised",
        "exclusion",
        "monotonicity",
    ]
    shown = cace_of(offers).stdout
    for text in ("intent to treat", "compliers", "exclusion", "monotonicity", "Anderson-Rubin"):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--control", "nobody"), ("--control nobody", "control, offer")),
        (("--treatment", "nobody"), ("--treatment nobody",)),
        (("--treatment", "control"), ("another arm",)),
        (("--received", "y"), ("already",)),
        (("--received", "y", "--value", "took"), ("--received y", "zeros and ones")),
    ],
)
def test_cace_refusals(offers, arguments, texts):
    result = cace_of(offers, *arguments, code=2)
    for text in texts:
        assert text in result.stderr


def test_three_arms_need_a_choice(offers):
    frame = pl.read_csv(offers)
    arms = frame.with_columns(
        arm=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("push")).otherwise("arm")
    )
    arms.write_csv(offers)
    assert "--treatment is missing" in cace_of(offers, code=2).stderr
    found = load(cace_of(offers, "--treatment", "offer", "--json").stdout)
    assert found["inputs"]["treatment"] == "offer"
    assert found["itt"]["n_control"] + found["itt"]["n_treatment"] < frame.height


def test_nobody_received_is_not_estimable(offers):
    pl.read_csv(offers).with_columns(took=pl.lit(0)).write_csv(offers)
    assert "ZERO_DENOMINATOR" in cace_of(offers, code=5).stderr


@pytest.mark.parametrize(("took", "reason"), [(0, "ZERO_DENOMINATOR"), (1, "NOT_IDENTIFIED")])
def test_the_intent_to_treat_stands_without_compliers(offers, took, reason):
    is_control = pl.col("arm") == "control"
    frame = pl.read_csv(offers).with_columns(took=pl.when(is_control).then(took).otherwise(0))
    frame.write_csv(offers)
    document = load(cace_of(offers, "--json", code=5).stdout)
    expected = ttest_ind(
        *(frame.filter(arm=name)["y"].to_numpy() for name in ("offer", "control")), equal_var=False
    )
    assert document["itt"]["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert document["itt"]["estimate"] / document["itt"]["std_error"] == pytest.approx(
        expected.statistic, rel=1e-9
    )
    assert (document["status"], document["reason"]) == ("not_estimable", reason)
    assert document["estimate"] is None
    assert document["first_stage"] is None


def test_cace_tests_the_sample_ratio_of_what_was_assigned(offers):
    flags = ("cace", "--input", offers, "--value", "y", "--received", "took", "--group-col")
    flags = (*flags, "arm", "--control", "control", "--json")
    table = pl.read_csv(offers)
    counts = [table.filter(arm=arm).height for arm in ("control", "offer")]
    found = load(run(*flags).stdout)
    assert found["sample_ratio"]["counts"] == {"control": counts[0], "offer": counts[1]}
    assert found["sample_ratio"]["p_value"] == pytest.approx(chisquare(counts).pvalue)
    assert found["sample_ratio"]["verdict"] == "ok"
    assert found["warnings"] == []
    skewed = run(*flags, "--shares", "control=0.7,offer=0.3")
    ratio = load(skewed.stdout)["sample_ratio"]
    wanted = chisquare(counts, [0.7 * sum(counts), 0.3 * sum(counts)])
    assert ratio["chi2"] == pytest.approx(wanted.statistic)
    assert (ratio["df"], ratio["verdict"]) == (1, "block")
    assert "sample ratio against the given shares" in skewed.stderr.replace("\n", " ")


def test_factorial_tests_the_sample_ratio_of_its_combinations(factors):
    flags = ("factorial", "--input", factors, "--value", "y", "--factors", "price,layout")
    table = pl.read_parquet(factors)
    counts = {
        f"{price}/{layout}": table.filter(price=price, layout=layout).height
        for price in ("high", "low")
        for layout in (0, 1)
    }
    ratio = load(run(*flags, "--json").stdout)["sample_ratio"]
    assert ratio["counts"] == counts
    assert ratio["p_value"] == pytest.approx(chisquare(list(counts.values())).pvalue)
    assert (ratio["df"], ratio["verdict"]) == (3, "ok")
    assert "sample ratio against equal shares" in run(*flags).stdout
    shares = "high/0=0.4,high/1=0.1,low/0=0.1,low/1=0.4"
    wrong = load(run(*flags, "--shares", shares, "--json").stdout)
    assert wrong["sample_ratio"]["verdict"] == "block"
    assert len(wrong["warnings"]) == 1


def test_a_combination_without_units_is_missed_unless_it_was_not_configured(tmp_path):
    rng = np.random.default_rng(3)
    a = rng.integers(0, 2, 300)
    b = np.where(a == 1, 0, rng.integers(0, 2, 300))
    path = tmp_path / "corner.parquet"
    pl.DataFrame({"y": rng.normal(size=300), "a": a, "b": b}).write_parquet(path)
    flags = ("factorial", "--input", path, "--value", "y", "--factors", "a,b", "--order", "1")
    assert load(run(*flags, "--json").stdout)["sample_ratio"]["counts"]["1/1"] == 0
    assert load(run(*flags, "--json").stdout)["sample_ratio"]["verdict"] == "block"
    shares = ("--shares", "0/0=0.25,0/1=0.25,1/0=0.5")
    found = load(run(*flags, *shares, "--json").stdout)["sample_ratio"]
    assert found["counts"].keys() == {"0/0", "0/1", "1/0"}
    assert found["verdict"] == "ok"
    others = run(*flags, "--shares", "0/0=0.5,0/1=0.5", code=2).stderr.replace("\n", " ")
    assert "the arms are 0/0, 0/1, 1/0" in others


def test_many_combinations_are_counted_and_not_listed_in_a_warning(tmp_path):
    rng = np.random.default_rng(4)
    columns = {name: rng.integers(0, 2, 800) for name in "abcd"}
    columns["a"] = (rng.random(800) < 0.3).astype(int)
    path = tmp_path / "four.parquet"
    pl.DataFrame({"y": rng.normal(size=800), **columns}).write_parquet(path)
    flags = ("factorial", "--input", path, "--value", "y", "--factors", "a,b,c,d")
    found = load(run(*flags, "--json").stdout)
    assert len(found["sample_ratio"]["counts"]) == 16
    (warning,) = found["warnings"]
    assert "800 units in 16 arms" in warning
    assert len(warning) < 150
