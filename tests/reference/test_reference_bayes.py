"""Every number of shared/data/bayes/expected.json against ours, one test per case and key."""

import functools
import json
import math
from pathlib import Path

import pytest

from experiments_dagster.stats.bandits.regret import lai_robbins_constant, simulate_regret
from experiments_dagster.stats.bayesian.best_arm import compare_arms
from experiments_dagster.stats.bayesian.beta_binomial import closed_probability
from experiments_dagster.stats.bayesian.gamma_poisson import GammaPosterior, probability_higher
from experiments_dagster.stats.bayesian.posteriors import BetaPosterior

AREA = Path(__file__).parents[3] / "shared" / "data" / "bayes"
CASES = (
    {case["case"]: case for case in json.loads((AREA / "expected.json").read_text())}
    if AREA.exists()
    else {}
)
# A linear model of a factorial experiment; its test stands with that model.
ELSEWHERE = {"factorial_toothgrowth"}
INPUTS = {
    "beta_binomial": {"set", "alphaA", "betaA", "alphaB", "betaB"},
    "gamma_poisson": {"set", "shape1", "rate1", "shape2", "rate2"},
    "lai_robbins": {"set", "p"},
}
HORIZON, RUNS = 10_000, 200


def beta_row(row):
    a = BetaPosterior(a=row["alphaA"], b=row["betaA"])
    b = BetaPosterior(a=row["alphaB"], b=row["betaB"])
    two = compare_arms(a, b)
    return {
        "prob_B_beats_A": closed_probability(a, b),
        "prob_quad": two.probability,
        "expected_loss_choose_B": two.loss_treatment,
        "loss_B_quad": two.loss_treatment,
        "expected_loss_choose_A": two.loss_control,
    }


def gamma_row(row):
    first = GammaPosterior(shape=row["shape1"], rate=row["rate1"])
    second = GammaPosterior(shape=row["shape2"], rate=row["rate2"])
    return {
        "p2_gt_1": probability_higher(first, second),
        "check_beta": 1 - probability_higher(second, first),
    }


CHECKERS = {
    "beta_binomial": beta_row,
    "gamma_poisson": gamma_row,
    "lai_robbins": lambda row: {"const": lai_robbins_constant(row["p"])},
}
KEYS = [
    (name, index, key)
    for name, case in CASES.items()
    if name in CHECKERS
    for index, row in enumerate(case["expected"])
    for key in row
    if key not in INPUTS[name]
]

pytestmark = pytest.mark.skipif(not CASES, reason=f"no reference data at {AREA}")


@functools.cache
def computed(name, index):
    return CHECKERS[name](CASES[name]["expected"][index])


@pytest.mark.parametrize(("name", "index", "key"), KEYS)
def test_reference(name, index, key):
    tolerance = {kind: CASES[name]["tolerance"].get(kind, 0.0) for kind in ("rel", "abs")}
    expected = CASES[name]["expected"][index][key]
    assert computed(name, index)[key] == pytest.approx(expected, **tolerance)


def test_every_case_and_key_has_a_checker():
    assert set(CASES) == set(CHECKERS) | ELSEWHERE
    for name in CHECKERS:
        for index, row in enumerate(CASES[name]["expected"]):
            assert INPUTS[name] < set(row)
            assert set(row) - INPUTS[name] == set(computed(name, index)), name


def test_small_losses_have_digits_and_not_only_a_small_size():
    """The tolerance of the case would pass a loss of 0; the two larger rows have ten digits."""
    for index in (0, 1):
        row = CASES["beta_binomial"]["expected"][index]
        found = computed("beta_binomial", index)["loss_B_quad"]
        # Printed to ten digits.
        assert found == pytest.approx(row["loss_B_quad"], rel=1e-9)
    assert 0 < computed("beta_binomial", 2)["loss_B_quad"] < 1e-100


def test_thompson_regret_is_below_ucb1_and_near_the_lai_robbins_bound():
    (row,) = CASES["lai_robbins"]["expected"]
    thompson, ucb1 = (
        simulate_regret(row["p"], policy=policy, horizon=HORIZON, runs=RUNS, seed=11)
        for policy in ("thompson", "ucb1")
    )
    assert thompson.mean + 3 * thompson.std_error < ucb1.mean - 3 * ucb1.std_error
    assert thompson.mean < 3 * row["const"] * math.log(HORIZON)
