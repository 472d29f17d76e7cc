"""The commands power and srm, in an app of their own."""

import json
import math
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from experiments_dagster.cli.design import register
from experiments_dagster.stats.design.sample_ratio import (
    anytime_p_value,
    chi_square,
    sequential_log_e_value,
)

MEAN = ("power", "--kind", "mean", "--sd", "1")
PROPORTION = ("power", "--kind", "proportion", "--baseline", "0.2")


def run(*arguments, code=0):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(run(*arguments, "--json").stdout, parse_constant=refuse)


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        # R power.t.test and power.prop.test, and the page of Evan Miller.
        ((*MEAN, "--effect", "1", "--power", "0.9", "--formula", "t"), 22.0211),
        ((*MEAN, "--effect", "-1", "--power", "0.9", "--formula", "t"), 22.0211),
        ((*MEAN, "--effect", "1", "--power", "0.9", "--formula", "t", "--sides", "1"), 17.84713),
        ((*PROPORTION, "--effect", "0.05", "--power", "0.8"), 1093.739),
        ((*PROPORTION, "--relative-effect", "0.25", "--power", "0.8"), 1093.739),
        ((*PROPORTION, "--effect", "0.05", "--formula", "baseline"), 1030.219),
    ],
)
def test_sample_size(arguments, n):
    found = run_json(*arguments)
    assert found["n_exact"][0] == pytest.approx(n, rel=1e-5)
    assert found["n_per_group"] == [math.ceil(n)] * 2
    assert found["n_total"] == 2 * math.ceil(n)
    assert found["solved_for"] == "n_total"
    assert {"n_per_group", "n_total", "power", "effect", "formula"} <= set(found)


def test_power_and_effect_are_solved_too():
    found = run_json(*MEAN, "--effect", "1", "--n-total", "40", "--formula", "t")
    assert found["power"] == pytest.approx(0.8689528, rel=1e-6)
    assert (found["solved_for"], found["n_per_group"]) == ("power", [20, 20])
    found = run_json(*MEAN, "--n-total", "40", "--power", "0.8689528017", "--formula", "t")
    assert found["effect"] == pytest.approx(1.0, rel=1e-6)
    assert found["solved_for"] == "effect"


def test_power_is_080_where_nothing_is_said():
    for arguments in (("--effect", "0.1"), ("--n-total", "500"), ("--effect", "0.1")):
        assert run_json(*MEAN, *arguments)["power"] == 0.8


def test_both_directions_of_a_proportion():
    found = run_json("power", "--kind", "proportion", "--baseline", "0.9", "--n-total", "2000")
    assert 0 < found["effect"] < -found["effect_decrease"] < 0.05
    assert "effect_decrease" not in run_json(*PROPORTION, "--effect", "0.05")
    rare = run_json("power", "--kind", "proportion", "--baseline", "0.02", "--n-total", "300")
    assert rare["effect_decrease"] is None
    table = run("power", "--kind", "proportion", "--baseline", "0.02", "--n-total", "300").stdout
    assert "none is detectable" in table


def test_shares_alpha_and_ratio():
    found = run_json(
        *("power", "--kind", "ratio", "--sd", "2", "--baseline", "4"),
        *("--relative-effect", "-0.02", "--shares", "0.6,0.2,0.2", "--alpha", "0.01"),
    )
    # n_C = (z_a + z_b)²σ²(1 + 1/κ)/δ² with κ = 1/3.
    n_control = (2.5758293 + 0.8416212) ** 2 * 4 * 4 / 0.08**2
    assert found["n_exact"][0] == pytest.approx(n_control, rel=1e-6)
    assert found["n_exact"][1] == found["n_exact"][2] == pytest.approx(n_control / 3, rel=1e-6)
    assert found["effect"] == pytest.approx(-0.08)
    assert (found["alpha"], found["shares"]) == (0.01, [0.6, 0.2, 0.2])


def test_the_table_names_the_formula():
    text = run(*PROPORTION, "--effect", "0.05").stdout
    for part in ("pooled_alt", "1,094 / 1,094", "2,188", "0.8000", "+25.00% of the baseline"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((*MEAN,), ("exactly one of --effect", "--n-total")),
        ((*MEAN, "--effect", "1", "--power", "0.8", "--n-total", "9"), ("--n-total 9", "exactly")),
        ((*MEAN, "--effect", "1", "--relative-effect", "1"), ("--relative-effect 1", "one of")),
        ((*MEAN, "--relative-effect", "0.1"), ("--baseline None", "need")),
        (("power", "--kind", "mean", "--effect", "1"), ("--sd is missing",)),
        (("power", "--kind", "proportion", "--effect", "0.1"), ("--baseline is missing",)),
        ((*PROPORTION, "--sd", "1", "--effect", "0.1"), ("--sd 1", "left out")),
        (("power", "--kind", "mean", "--sd", "-1", "--effect", "1"), ("--sd -1", ">= 0")),
        (("power", "--kind", "median", "--effect", "1"), ("--kind 'median'", "proportion")),
        ((*MEAN, "--effect", "0"), ("--effect 0", "other than 0")),
        ((*MEAN, "--effect", "nan"), ("--effect nan",)),
        ((*MEAN, "--effect", "1", "--alpha", "2"), ("--alpha 2", "alpha < 1")),
        ((*MEAN, "--effect", "1", "--power", "1.5"), ("--power 1.5", "less than 1")),
        ((*MEAN, "--effect", "1", "--sides", "3"), ("--sides 3", "1 or 2")),
        ((*MEAN, "--effect", "1", "--n-total", "3"), ("--n-total 3", "at least 4")),
        ((*MEAN, "--effect", "1", "--shares", "0.5,0.6"), ("--shares [0.5, 0.6]", "sum to 1")),
        ((*MEAN, "--effect", "1", "--shares", "a"), ("--shares 'a'", "numbers")),
        ((*MEAN, "--effect", "1", "--formula", "arcsine"), ("--formula arcsine", "z or t")),
        ((*PROPORTION, "--effect", "0.1", "--formula", "t"), ("--formula t", "pooled_alt")),
        ((*PROPORTION, "--effect", "0.01", "--formula", "exact"), ("--formula exact", "500")),
        ((*PROPORTION, "--effect", "0.9"), ("--effect 0.9", "1.1")),
        ((*PROPORTION, "--relative-effect", "5"), ("--relative-effect 5", "1.2")),
        (("srm", "--counts", "500"), ("--counts 500", "two or more")),
        (("srm", "--counts", "5,6,7"), ("--counts 5,6,7", "--shares 0.5,0.5")),
        (("srm", "--counts", "5,x"), ("--counts '5,x'", "numbers")),
        (("srm", "--counts", "5,-1"), ("--counts [5.0, -1.0]", "not negative")),
        (("srm", "--counts", "5,6", "--shares", "0.5,0.6"), ("--shares [0.5, 0.6]", "sum to 1")),
        (("srm", "--counts", "5,6", "--shares", "1,0"), ("--shares [1.0, 0.0]", "zero")),
    ],
)
def test_usage_errors_name_flag_value_and_rule(arguments, parts):
    message = run(*arguments, code=2).stderr
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("power", "--kind", "mean", "--sd", "0", "--effect", "1"), "ZERO_VARIANCE"),
        (
            ("power", "--kind", "proportion", "--baseline", "0.99", "--n-total", "20"),
            "NOT_IDENTIFIED",
        ),
        (("srm", "--counts", "0,0"), "EMPTY_ARM"),
    ],
)
def test_not_estimable(arguments, code):
    result = run(*arguments, "--json", code=5)
    assert code in result.stderr
    assert result.stdout == ""


def test_srm():
    found = run_json("srm", "--counts", "500,560", "--shares", "0.5,0.5")
    fixed = chi_square([500, 560], [0.5, 0.5])
    assert found == {
        "chi2": pytest.approx(3600 / 1060),
        "df": 1,
        "p_value": fixed.p_value,
        "sequential_p_value": anytime_p_value(sequential_log_e_value([500, 560], [0.5, 0.5])),
    }
    text = run("srm", "--counts", "6000,4000").stdout
    assert "0.6000" in text
    assert "sequential p" in text
    assert run_json("srm", "--counts", "500,300,200", "--shares", "0.5,0.3,0.2")["p_value"] == 1.0


@pytest.mark.parametrize(
    "arguments", [[*MEAN, "--effect", "1", "--formula", "t"], ["srm", "--counts", "5,6"]]
)
def test_the_commands_load_nothing_heavy(arguments):
    code = (
        "import sys, typer\n"
        "from experiments_dagster.cli.design import register\n"
        "app = typer.Typer()\nregister(app)\n"
        f"sys.argv = ['x', *{list(arguments)!r}]\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "names = {'dagster', 'pandas', 'polars', 'duckdb', 'statsmodels', 'scipy.stats'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
