"""Numbers that were wrong in the tools of old, on the very examples that showed it."""

import datetime as dt
import json
import math
from pathlib import Path

import numpy as np
import pytest
from factories import EXPERIMENT, make_project
from scipy import stats
from statsmodels.stats.power import tt_ind_solve_power, tt_solve_power
from typer.testing import CliRunner

from experiments_dagster.cli import app
from experiments_dagster.looks.calendar import due_look, next_look
from experiments_dagster.stats.design.sample_ratio import sample_ratio_outcome
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.moments import ArmMoments

EXAMPLES = Path(__file__).parents[1] / "examples"
PROPORTION = ("power", "--kind", "proportion", "--baseline", "0.08", "--effect", "0.02")
MEAN = ("power", "--kind", "mean", "--sd", "1", "--formula", "t")


def run_json(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_the_total_of_equal_groups_is_twice_a_group_and_not_four_times():
    """8 % against 10 %: 3,213 per arm; n/rate + n/(1 - rate) with n per arm gave 12,852."""
    found = run_json(*PROPORTION)
    assert (found["n_per_group"], found["n_total"]) == ([3213, 3213], 6426)
    assert 3213 / 0.5 + 3213 / 0.5 == 12_852


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_the_total_of_unequal_groups_is_the_sum_of_both_and_has_the_power(share):
    found = run_json(*PROPORTION, "--shares", f"{1 - share},{share}", "--formula", "unpooled")
    n_control, n_treatment = found["n_per_group"]
    assert found["n_total"] == n_control + n_treatment != 2 * n_control
    assert n_treatment / found["n_total"] == pytest.approx(share, abs=1e-3)
    rng, runs = np.random.default_rng(9), 20_000
    rates = rng.binomial([n_control, n_treatment], [0.08, 0.1], (runs, 2)) / [
        n_control,
        n_treatment,
    ]
    variances = (rates * (1 - rates) / [n_control, n_treatment]).sum(axis=1)
    rejected = (rates[:, 1] - rates[:, 0]) / np.sqrt(variances) > stats.norm.isf(0.025)
    # 99.9 % Monte-Carlo band, and 0.005 for the normal approximation of few successes.
    assert rejected.mean() == pytest.approx(0.8, abs=3.29 * math.sqrt(0.16 / runs) + 0.005)


def test_no_effect_has_no_sample_size():
    done = CliRunner().invoke(app, [*PROPORTION[:-1], "0"])
    assert done.exit_code == 2
    assert "--effect 0" in done.stderr


def test_power_of_two_groups_is_that_of_two_samples():
    found = run_json(*MEAN, "--effect", "0.2", "--n-total", "400")["power"]
    assert found == pytest.approx(tt_ind_solve_power(0.2, 200, 0.05), abs=1e-3)
    # The planted fault: one sample of all 400.
    assert tt_solve_power(0.2, 400, 0.05) > 0.97


@pytest.mark.parametrize("n_total", [8, 20, 400_000_000])
def test_a_detectable_effect_has_neither_ceiling_nor_floor(n_total):
    effect = run_json(*MEAN, "--n-total", n_total)["effect"]
    assert run_json(*MEAN, "--n-total", n_total, "--effect", effect)["power"] == pytest.approx(
        0.8, abs=1e-6
    )
    assert effect > 2 or n_total > 8
    assert effect < 5e-4 or n_total <= 20


@pytest.mark.parametrize(
    ("direction", "level", "critical"),
    [("two_sided", 0.95, 1.959964), ("increase", 0.90, 1.644854)],
)
def test_an_interval_says_the_level_that_its_critical_value_has(
    tmp_path, direction, level, critical
):
    flags = ("--looks", "4000", "--effect-direction", direction, "--out", tmp_path)
    flags = ("--y", "y", "--timestamp-col", "timestamp", *flags)
    found = run_json("sequential-mean", "--input", EXAMPLES / "sequential.csv", *flags)["estimates"]
    assert found["final_confidence_level"] == pytest.approx(level)
    low, high = found["final_ci"]
    half, middle = (high - low) / 2, (high + low) / 2
    assert middle == pytest.approx(found["estimate"], rel=1e-6)
    # What is called naive is the two-sided 95 % in either case.
    naive = (found["naive_ci"][1] - found["naive_ci"][0]) / 2
    # The score of a t is a little smaller than the t; 1.96 for 1.64 would be 19 % off.
    assert half / naive == pytest.approx(critical / 1.959964, rel=5e-3)


def test_a_split_within_ten_points_is_a_mismatch_all_the_same():
    found = run_json("srm", "--counts", "52000,48000")
    assert found["p_value"] == pytest.approx(stats.chisquare([52_000, 48_000]).pvalue)
    assert found["p_value"] < 1e-35
    counts = {"control": 52_000, "treatment": 48_000}
    outcome = sample_ratio_outcome(counts, {"control": 0.5, "treatment": 0.5}, at_planned_end=True)
    assert (outcome.passed, outcome.severity) == (False, "ERROR")
    # And a split that is far from half is none where it was configured.
    shares = {"control": 0.52, "treatment": 0.48}
    assert sample_ratio_outcome(counts, shares, at_planned_end=True).passed


@pytest.mark.parametrize(
    ("command", "file", "flags"),
    [
        ("cuped", "example_user_level.csv", ("--y", "revenue", "--x", "revenue_pre")),
        (
            "cuped-ratio",
            "example_ratio.csv",
            (
                *("--num", "revenue", "--den", "sessions"),
                *("--num-pre", "revenue_pre", "--den-pre", "sessions_pre"),
            ),
        ),
        ("sequential-mean", "sequential.csv", ("--y", "y", "--looks", "4000")),
        ("sequential-ratio", "sequential.csv", ("--num", "num", "--den", "den", "--looks", "4000")),
    ],
)
def test_every_comparison_of_tecore_tests_the_sample_ratio(tmp_path, command, file, flags):
    shares = ("--shares", "control=0.6,test=0.4", "--out", tmp_path)
    found = run_json(command, "--input", EXAMPLES / file, *flags, *shares)
    srm = found["diagnostics"]["srm"]
    counts = [srm["counts"]["control"], srm["counts"]["test"]]
    wanted = stats.chisquare(counts, [0.6 * sum(counts), 0.4 * sum(counts)])
    assert srm["p_value"] == pytest.approx(wanted.pvalue)
    assert srm["verdict"] == "block"
    assert any("sample ratio" in text for text in found["warnings"])


def latencies(mean, n, seed):
    """Of n users, in ms: lognormal, with a spread of half the mean."""
    draws = np.random.default_rng(seed).lognormal(0, 0.47, n)
    return ArmMoments.from_arrays(y=mean * draws / np.exp(0.47**2 / 2))


@pytest.mark.parametrize(
    ("treatment", "n", "outcome"),
    [
        (70.0, 2000, "worse"),  # +40 ms; 1.30 times and at least 50 ms more let it pass
        (70.0, 30, "worse"),
        (36.0, 2000, "non_inferior"),  # 1.2 times, and shown to be within 1.25 times
        (36.0, 30, "open"),  # 1.2 times, and not shown
        (37.5, 2000, "open"),  # at the margin
    ],
)
def test_latency_has_one_margin_and_a_test(treatment, n, outcome):
    contrast = compare_means(latencies(30.0, n, 1), latencies(treatment, n, 2))
    found = non_inferiority(contrast, margin=0.25, higher_is_better=False)
    state = "non_inferior" if found.is_non_inferior else "worse" if found.is_inferior else "open"
    assert state == outcome


def test_looks_go_on_across_the_end_of_a_year(tmp_path):
    text = EXPERIMENT.replace("2026-03-02", "2026-12-07").replace("2026-03-30", "2027-01-04")
    trial = make_project(tmp_path, trial=text).experiments["trial"]
    days = [dt.date(2026, 12, 21), dt.date(2026, 12, 28), dt.date(2027, 1, 4), dt.date(2027, 1, 11)]
    assert list(trial.planned_looks()) == days
    assert due_look(trial, [], dt.date(2026, 12, 31)).planned_index == 2
    assert due_look(trial, [], dt.date(2027, 1, 1)).planned_index == 2
    assert due_look(trial, [], dt.date(2027, 1, 11)).is_planned_end
    assert next_look(trial, [], dt.date(2026, 12, 31)) == "2027-01-04"


def test_every_estimate_of_a_comparison_names_its_variance_formula():
    flags = ("--group-col", "group", "--control", "control")
    formulas = set()
    for method in ((), ("--method", "lin", "--covariates", "revenue_pre")):
        file = EXAMPLES / "example_user_level.csv"
        found = run_json("compare", "--input", file, *flags, "--value", "revenue", *method)
        formulas |= {row["variance_formula"] for row in found["estimates"]}
    assert {"welch", "lin_hc2"} <= formulas
    assert None not in formulas
