import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from experiments_dagster.cli.multiplicity import register

SHARED = Path(__file__).parents[3] / "shared" / "data"


def run(*arguments, code=0):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["multiplicity", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.skipif(not SHARED.exists(), reason="shared/ is not beside the checkout")
@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("bonferroni", "bonf"),
        ("holm", "holm"),
        ("hochberg", "hoch"),
        ("bh", "bh"),
        ("by", "by"),
    ],
)
def test_agrees_with_the_published(method, key):
    cases = json.loads((SHARED / "fixed" / "expected.json").read_text())
    case = next(item for item in cases if item["case"] == "bh1995_pvalues")
    p = case["expected"]["p"]
    result = run("--p", ",".join(map(str, p)), "--method", method, "--json")
    document = json.loads(result.stdout)
    assert document["adjusted"] == pytest.approx(
        case["expected"][key], abs=case["tolerance"]["abs"]
    )
    assert (document["method"], document["p_values"], document["planned"]) == (method, p, 15)


def test_planned_hypotheses_count():
    result = run("--p", "0.01,0.02", "--method", "bonferroni", "--planned", "10", "--json")
    assert json.loads(result.stdout)["adjusted"] == pytest.approx([0.1, 0.2])


def test_people_get_a_table():
    title, _, *rows = run("--p", "0.03, 0.01", "--method", "holm").stdout.splitlines()
    assert title.strip() == "holm, 2 hypotheses"
    assert [row.split() for row in rows] == [["1", "0.03", "0.03"], ["2", "0.01", "0.02"]]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--p", "0.1,1.5", "--method", "bh"), ("--p '0.1,1.5'", "from 0 to 1")),
        (("--p", "nan", "--method", "bh"), ("--p 'nan'", "from 0 to 1")),
        (("--p", "0.1;0.2", "--method", "bh"), ("--p '0.1;0.2'", "commas")),
        (("--p", "", "--method", "bh"), ("--p ''",)),
        (("--p", "0.1", "--method", "sidak"), ("--method 'sidak'", "bonferroni, holm")),
        (("--p", "0.1,0.2", "--method", "bh", "--planned", "1"), ("--planned 1", "at least 2")),
    ],
)
def test_refusals_name_flag_value_and_rule(arguments, texts):
    result = run(*arguments, code=2)
    for text in texts:
        assert text in result.stderr
    assert result.stdout == ""
