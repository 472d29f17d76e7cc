"""Thompson shares, decisions and regret."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.bandits.regret import lai_robbins_constant, simulate_regret
from experiments_dagster.stats.bandits.thompson import (
    decide,
    draw_best,
    floored_shares,
    next_shares,
)
from experiments_dagster.stats.bayesian.beta_binomial import rate_posterior
from experiments_dagster.stats.bayesian.posteriors import (
    BetaPosterior,
    NormalPosterior,
    StudentPosterior,
)
from experiments_dagster.stats.design.allocation import assign

ARMS = {
    "control": BetaPosterior(a=41, b=361),
    "bold": BetaPosterior(a=55, b=347),
    "plain": BetaPosterior(a=44, b=358),
}


def test_shares_are_the_frequencies_of_thompson_draws():
    allocation = next_shares(ARMS, floor=0.0, seed=1)
    size = 200_000
    drawn = draw_best(list(ARMS.values()), np.random.default_rng(4), size)
    for index, (arm, share) in enumerate(allocation.probabilities_best.items()):
        error = math.sqrt(share * (1 - share) / size)
        assert abs((drawn == index).mean() - share) < 4 * error
        assert allocation.shares[arm] == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize(
    "posterior",
    [NormalPosterior(mean=3.0, sd=0.5), StudentPosterior(mean=3.0, scale=0.5, df=8.0)],
)
def test_draws_follow_the_posterior(posterior):
    draws = posterior.draw(np.random.default_rng(0), 100_000)
    low, high = posterior.interval(0.1)
    inside = ((draws > low) & (draws < high)).mean()
    assert inside == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 100_000))


def test_before_any_data_all_arms_share_alike():
    priors = {arm: rate_posterior(0, 0) for arm in ("a", "b", "c", "d")}
    shares = next_shares(priors, floor=0.1, seed=1).shares
    assert list(shares.values()) == pytest.approx([0.25] * 4, rel=1e-9)


def test_a_hopeless_arm_keeps_its_floor():
    arms = ARMS | {"broken": BetaPosterior(a=1, b=5001)}
    allocation = next_shares(arms, floor=0.2, seed=1)
    assert allocation.shares["broken"] == 0.2 / 4
    assert allocation.probabilities_best["broken"] < 1e-6
    # One per cent is the least, whatever the floor.
    assert next_shares(arms, floor=0.0, seed=1).shares["broken"] == 0.01


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda p: sum(p) > 1e-3),
    st.floats(0, 1),
)
def test_shares_keep_floor_sum_and_order(weights, floor):
    p = np.array(weights) / sum(weights)
    shares = np.array(floored_shares(p, floor))
    least = max(0.01, floor / len(p))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert (shares >= least * (1 - 1e-12)).all()
    order = np.argsort(p)
    assert (np.diff(shares[order]) >= -1e-12).all()
    above = shares > least * (1 + 1e-9)
    if above.sum() > 1:  # what is above the floor keeps its proportions
        ratios = shares[above] / p[above]
        assert ratios == pytest.approx(ratios[0], rel=1e-6)


def test_a_floor_of_one_is_uniform_allocation():
    assert floored_shares([0.999, 0.001, 0.0], 1.0) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("probabilities", "floor"),
    [([0.5, 0.5], -0.1), ([0.5, 0.5], 1.1), ([0.5, 0.4], 0.1), ([0.01] * 101, 0.0)],
)
def test_shares_that_cannot_be(probabilities, floor):
    with pytest.raises(ValueError, match="need"):
        floored_shares(probabilities, floor)


def test_decisions_are_drawn_with_their_probability_and_can_be_computed_again():
    shares = next_shares(ARMS, floor=0.3, seed=9).shares
    units = [f"user-{k}" for k in range(40_000)]
    decisions = [decide(unit, bandit="home", seed=9, shares=shares) for unit in units]
    assert decisions == [decide(unit, bandit="home", seed=9, shares=shares) for unit in units]
    for arm, share in shares.items():
        found = sum(decision.arm == arm for decision in decisions) / len(units)
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / len(units))
    assert all(decision.probability == shares[decision.arm] for decision in decisions)
    by_command = assign(units[0], experiment="home", salt="9", shares=shares)
    assert by_command.variant == decisions[0].arm
    other = [decide(unit, bandit="home", seed=10, shares=shares).arm for unit in units]
    assert other != [decision.arm for decision in decisions]


def test_a_unit_moves_only_where_the_shares_moved_over_it():
    before, after = {"a": 0.5, "b": 0.5}, {"a": 0.4, "b": 0.6}
    for k in range(2000):
        first = decide(f"u{k}", bandit="home", seed=1, shares=before).arm
        second = decide(f"u{k}", bandit="home", seed=1, shares=after).arm
        assert (first, second) != ("b", "a")


def plain_thompson(means, horizon, rng):
    """One run, written out: the posterior as an integer count, drawn by sums of exponentials.

    A Beta(a, b) with whole a and b is G_a/(G_a + G_b) of gamma variables, and a gamma variable of
    whole shape minus the log of a product of uniforms.
    """
    successes, failures, regret = [0] * len(means), [0] * len(means), 0.0
    for _ in range(horizon):
        draws = []
        for won, lost in zip(successes, failures, strict=True):
            one = -np.log1p(-rng.random(won + 1)).sum()
            other = -np.log1p(-rng.random(lost + 1)).sum()
            draws.append(one / (one + other))
        arm = draws.index(max(draws))
        regret += max(means) - means[arm]
        if rng.random() < means[arm]:
            successes[arm] += 1
        else:
            failures[arm] += 1
    return regret


def test_regret_agrees_with_an_independent_simulation():
    means, horizon, runs = [0.2, 0.5, 0.4], 200, 200
    ours = simulate_regret(means, policy="thompson", horizon=horizon, runs=2000, seed=3)
    rng = np.random.Generator(np.random.MT19937(77))
    theirs = [plain_thompson(means, horizon, rng) for _ in range(runs)]
    error = math.hypot(ours.std_error, np.std(theirs, ddof=1) / math.sqrt(runs))
    # 3.3 standard errors: one run in a thousand.
    assert abs(ours.mean - np.mean(theirs)) < 3.3 * error
    uniform = simulate_regret(means, policy="uniform", horizon=horizon, seed=4)
    assert ours.mean + 5 * error < uniform.mean
    exact = horizon * np.mean([0.3, 0.0, 0.1])
    assert abs(uniform.mean - exact) < 4 * uniform.std_error
    assert (uniform.runs, uniform.horizon, uniform.seed) == (200, horizon, 4)


def test_a_greedy_policy_falls_outside_that_band():
    """The broken twin: the arm with the best mean so far, which gets stuck on a bad one."""
    means, horizon, runs = np.array([0.2, 0.5, 0.4]), 200, 400
    rng = np.random.default_rng(5)
    won, drawn = np.zeros((runs, 3)), np.zeros((runs, 3))
    row = np.arange(runs)
    for t in range(horizon):
        arm = np.full(runs, t) if t < 3 else np.argmax(won / drawn, axis=1)
        won[row, arm] += rng.random(runs) < means[arm]
        drawn[row, arm] += 1
    greedy = drawn @ (means.max() - means)
    ours = simulate_regret(list(means), policy="thompson", horizon=horizon, runs=2000, seed=3)
    error = math.hypot(ours.std_error, greedy.std() / math.sqrt(runs))
    assert abs(ours.mean - greedy.mean()) > 3.3 * error


def test_regret_grows_with_the_logarithm_for_thompson_and_linearly_for_uniform():
    def grown(policy):
        short, long = (
            simulate_regret([0.3, 0.6], policy=policy, horizon=h, runs=300, seed=6).mean
            for h in (250, 1000)
        )
        return long / short

    assert grown("uniform") == pytest.approx(4, rel=0.1)
    assert grown("thompson") < 1.8


def test_the_same_seed_gives_the_same_regret():
    first, again = (
        simulate_regret([0.1, 0.2], policy="thompson", horizon=100, runs=20, seed=8)
        for _ in range(2)
    )
    assert first == again


def test_the_constant_is_the_sum_over_arms():
    p, best = np.array([0.1, 0.3]), 0.5
    divergence = p * np.log(p / best) + (1 - p) * np.log((1 - p) / (1 - best))
    expected = float(((best - p) / divergence).sum())
    assert lai_robbins_constant([0.1, 0.5, 0.3, 0.5]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("means", [[0.2, 0.2], [0.0, 0.5], [0.5, 1.0], [0.3]])
def test_constants_that_do_not_exist(means):
    with pytest.raises(ValueError, match="means"):
        lai_robbins_constant(means)


@pytest.mark.parametrize(
    "change",
    [{"means": [0.1]}, {"means": [0.1, 1.2]}, {"horizon": 0}, {"runs": 1}, {"policy": "greedy"}],
)
def test_simulations_that_cannot_be(change):
    call = {"means": [0.1, 0.2], "policy": "uniform", "horizon": 5, "runs": 3, "seed": 1} | change
    with pytest.raises(ValueError, match=r"need|unknown policy"):
        simulate_regret(call.pop("means"), **call)
