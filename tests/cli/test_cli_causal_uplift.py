"""The verb `uplift` on files: what it prints, what it writes, and what it will not write."""

import json
import sys

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from experiments_dagster.cli.causal import uplift

FLAGS = ("--y", "spend", "--treated-col", "arm", "--treatment", "mail", "--control", "none")
KNOWN = ("--covariates", "x0,x1,region", "--unit-col", "id", "--treated-share", "0.5")


def run(path, *arguments, code=0):
    app = typer.Typer()
    uplift.register(app)
    given = ["--input", path, *FLAGS, *KNOWN, *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in given])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def study_of(text):
    """The study stands below what every verb prints."""
    return load(text)["estimates"]


def write(path, *, heterogeneity, n=3000, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    arm = rng.integers(0, 2, n)
    y = (0.5 + heterogeneity * x[:, 0]) * arm + x.sum(axis=1) + rng.standard_normal(n)
    frame = pl.DataFrame(
        {
            "id": [f"unit{i}" for i in range(n)],
            "spend": y,
            "arm": np.where(arm == 1, "mail", "none"),
            "x0": x[:, 0],
            "x1": x[:, 1],
            "region": rng.choice(["north", "south", "west"], n),
            "before": x[:, 1] + rng.standard_normal(n),
        }
    )
    # Rows of an arm that is not asked for change nothing.
    other = frame.head(50).with_columns(arm=pl.lit("call"), id=pl.col("id") + "b")
    pl.concat([frame, other]).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def different(tmp_path_factory):
    return write(tmp_path_factory.mktemp("uplift") / "different.parquet", heterogeneity=0.8)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return write(tmp_path_factory.mktemp("uplift") / "alike.parquet", heterogeneity=0.0)


def test_it_prints_the_study_as_json(different):
    found = study_of(run(different, "--json").stdout)
    claim = found["claim"]["status"]
    assert (found["design"], found["status"], claim) == ("uplift", "ok", "SUPPORTED")
    by_name = {item["name"]: item for item in found["estimates"]}
    assert "Radcliffe" in by_name["Qini area above random"]["method"]
    assert found["tables"]["segment_profile"][0]["covariate"] == "x0"
    assert {row["definition"] for row in found["tables"]["curves"]} >= {
        "Y_T - Y_C*N_T/N_C (Radcliffe 2007)"
    }
    covariates = found["facts"]["covariates"]
    assert covariates.count("region=") == 2
    assert found["facts"]["units"] == "3,000"


def test_it_writes_the_files_asked_for(different, tmp_path):
    run(different, "--out", tmp_path / "out", "--learner", "r")
    assert {path.name for path in (tmp_path / "out" / "tables").iterdir()} >= {
        "segments.csv",
        "targeting.csv",
        "group_effects.csv",
    }
    assert (tmp_path / "out" / "report.html").is_file()
    run(different, "--out-json", tmp_path / "a.json", "--out-md", tmp_path / "a.md")
    assert study_of((tmp_path / "a.json").read_text())["claim"]["status"] == "SUPPORTED"
    assert "Qini" in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_scores_are_a_row_per_unit(different, tmp_path, suffix):
    target = tmp_path / "made" / f"scores.{suffix}"
    run(different, "--json", "--scores-out", target)
    scores = pl.read_parquet(target) if suffix == "parquet" else pl.read_csv(target)
    assert scores.columns == ["unit", "predicted_effect", "ci_low", "ci_high", "fold"]
    rows = pl.read_parquet(different).filter(pl.col("arm") != "call")
    joined = scores.join(rows, left_on="unit", right_on="id")
    assert joined.height == scores.height == 3000
    assert np.corrcoef(joined["predicted_effect"], joined["x0"])[0, 1] > 0.95
    assert list(target.parent.iterdir()) == [target]


def test_scores_of_trees_have_no_limits_and_say_why(different, tmp_path):
    target = tmp_path / "scores.parquet"
    arguments = ("--base", "boosted", "--learner", "s", "--folds", "2", "--scores-out", target)
    result = run(different, "--json", *arguments)
    assert study_of(result.stdout)["method"].startswith("S-learner, boosted trees")
    assert "boosted trees have no standard error" in " ".join(result.stderr.split())
    scores = pl.read_parquet(target)
    assert scores["ci_low"].dtype == pl.Float64
    assert scores["ci_low"].null_count() == scores["ci_high"].null_count() == scores.height
    assert scores["predicted_effect"].n_unique() > 20


def test_trees_without_their_extra_end_with_two(different, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    words = " ".join(run(different, "--base", "boosted", code=2).stderr.split())
    assert "need the extra [uplift]: pip install 'experiments-dagster[uplift]'" in words


def test_no_scores_without_proof(alike, tmp_path):
    target = tmp_path / "scores.csv"
    result = run(alike, "--json", "--scores-out", target, code=5)
    found = study_of(result.stdout)
    assert found["claim"]["status"] == "REFUSED"
    assert not {"segments", "targeting", "segment_profile"} & set(found["tables"])
    assert "no reliable heterogeneity" in result.stderr
    assert not target.exists()


def test_without_randomisation_the_propensity_is_estimated(different):
    app = typer.Typer()
    uplift.register(app)
    flags = ["--covariates", "x0,x1", "--placebo-outcomes", "before", "--json"]
    result = CliRunner().invoke(app, ["--input", str(different), *FLAGS, *flags])
    assert result.exit_code == 0, result.output
    found = study_of(result.stdout)
    assert {"overlap", "balance", "placebo_outcome_before"} <= {
        item["name"] for item in found["refutations"]
    }
    assert "gains" in found["tables"]


def test_what_cannot_be_estimated_ends_with_five(tmp_path):
    small = write(tmp_path / "small.parquet", heterogeneity=1.0, n=500)
    found = study_of(run(small, "--json", code=5).stdout)
    assert (found["status"], found["reason"]) == ("not_estimable", "N_TOO_SMALL")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--learner", "q"), "--learner 'q'"),
        (("--base", "forest"), "--base 'forest'"),
        (("--folds", "1"), "--folds 1"),
        (("--top-share", "1.5"), "--top-share 1.5"),
        (("--scores-out", "scores.xlsx"), "--scores-out scores.xlsx"),
        (("--treatment", "letter"), "'letter'"),
        (("--covariates", "x0,missing"), "'missing'"),
    ],
)
def test_wrong_flags_are_named(different, arguments, words):
    assert words in run(different, *arguments, code=2).stderr
