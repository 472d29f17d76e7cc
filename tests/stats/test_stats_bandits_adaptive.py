"""Estimates from adaptive data: arithmetic by hand, and coverage where the naive one fails."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from experiments_dagster.stats.bandits.adaptive import Batch, weighted_ipw, within_periods
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import ArmMoments

BOTH = {"weighted_ipw": weighted_ipw, "within_periods": within_periods}
ARMS = {"control": "a", "treatment": "b"}


def moments(values):
    return ArmMoments.from_arrays(reward=np.asarray(values, dtype=float))


def of_counts(n, successes):
    """Moments of a 0/1 reward."""
    if not n:
        return ArmMoments.empty(("reward",))
    mean = successes / n
    cross = np.array([[n * mean * (1 - mean)]])
    return ArmMoments(n=int(n), columns=("reward",), means=np.array([mean]), cross=cross)


def small_batches(seed=1):
    """Three periods of three arms with their shares and raw rewards."""
    rng = np.random.default_rng(seed)
    table = []
    for shares in ((0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.2, 0.7, 0.1)):
        arms = rng.choice(3, size=40, p=shares)
        table.append((dict(zip("abc", shares, strict=True)), arms, rng.normal(5 + arms, 2)))
    return table


def as_batch(shares, arms, rewards):
    return Batch(
        shares=shares, arms={name: moments(rewards[arms == k]) for k, name in enumerate("abc")}
    )


def test_ipw_from_moments_is_ipw_unit_by_unit():
    table = small_batches()
    found = weighted_ipw([as_batch(*row) for row in table], **ARMS, prior_mean=4.0)
    scores, weights = [], []
    seen = {0: [], 1: []}
    for shares, arms, rewards in table:
        means = {arm: np.mean(values) if values else 4.0 for arm, values in seen.items()}
        e = {0: shares["a"], 1: shares["b"]}
        gamma = {k: means[k] + (arms == k) * (rewards - means[k]) / e[k] for k in (0, 1)}
        scores.append(gamma[1] - gamma[0])
        weights.append(np.full(len(arms), (1 / e[0] + 1 / e[1]) ** -0.5))
        for k, values in seen.items():
            values.extend(rewards[arms == k])
    d, h = np.concatenate(scores), np.concatenate(weights)
    estimate = h @ d / h.sum()
    assert found.estimate == pytest.approx(estimate, rel=1e-12)
    std_error = math.sqrt((h**2) @ (d - estimate) ** 2) / h.sum()
    assert found.std_error == pytest.approx(std_error, rel=1e-12)
    assert (found.label, found.method, found.n_batches) == ("ADAPTIVE", "weighted_ipw", 3)
    assert sum(found.weights) == pytest.approx(1)
    assert found.is_thin
    assert found.fewest_units == min((arms == k).sum() for _, arms, _ in table for k in (0, 1))


def test_within_periods_is_the_weighted_mean_of_differences():
    table = small_batches(seed=2)
    found = within_periods([as_batch(*row) for row in table], **ARMS)
    differences, variances, weights = [], [], []
    for shares, arms, rewards in table:
        a, b = rewards[arms == 0], rewards[arms == 1]
        differences.append(b.mean() - a.mean())
        variances.append(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        weights.append((1 / shares["a"] + 1 / shares["b"]) ** -0.5)
    w = np.array(weights) / sum(weights)
    assert found.estimate == pytest.approx(w @ differences, rel=1e-12)
    assert found.std_error == pytest.approx(math.sqrt(w**2 @ np.array(variances)), rel=1e-12)
    assert found.label == "ADAPTIVE"
    assert found.weights == pytest.approx(w)


def test_planned_sizes_weigh_by_their_root_and_only_proportions_matter():
    rows = [as_batch(*row) for row in small_batches()]
    fourfold = [Batch(shares=b.shares, arms=b.arms, planned_units=400.0) for b in rows]
    hundred = [Batch(shares=b.shares, arms=b.arms, planned_units=100.0) for b in rows]
    assert within_periods(fourfold, **ARMS) == within_periods(hundred, **ARMS)
    uneven = [
        Batch(shares=dict.fromkeys("abc", 1 / 3), arms=b.arms, planned_units=size)
        for b, size in zip(rows, (1.0, 4.0, 4.0), strict=True)
    ]
    assert within_periods(uneven, **ARMS).weights == pytest.approx([0.2, 0.4, 0.4])


@pytest.mark.parametrize("estimator", BOTH.values(), ids=BOTH)
def test_weights_do_not_depend_on_rewards(estimator):
    table = small_batches()
    other = [(shares, arms, rewards * 3 - 7) for shares, arms, rewards in table]
    first, second = (estimator([as_batch(*row) for row in rows], **ARMS) for rows in (table, other))
    assert first.weights == second.weights


@pytest.mark.parametrize("estimator", BOTH.values(), ids=BOTH)
def test_swapping_arms_changes_the_sign_only(estimator):
    rows = [as_batch(*row) for row in small_batches()]
    forward = estimator(rows, control="a", treatment="b")
    backward = estimator(rows, control="b", treatment="a")
    assert forward.estimate == pytest.approx(-backward.estimate, rel=1e-12)
    assert forward.std_error == pytest.approx(backward.std_error, rel=1e-12)
    assert forward.p_value == pytest.approx(backward.p_value, rel=1e-12)
    assert (forward.p_value < 0.05) == (not forward.ci_low <= 0 <= forward.ci_high)


def simulate(means, *, periods, per_period, runs, seed, floor=0.1, drift=0.0):
    """Two-armed Thompson in periods: shares, units and successes, all of shape (periods, runs).

    `drift` lowers both arms linearly over time.
    """
    rng = np.random.default_rng(seed)
    won, drawn = np.zeros((2, runs)), np.zeros((2, runs))
    history = []
    for period in range(periods):
        a, b = 1 + won, 1 + drawn - won
        mean = a / (a + b)
        spread = np.sqrt((mean * (1 - mean) / (a + b + 1)).sum(axis=0))
        share = np.clip(ndtr((mean[1] - mean[0]) / spread), floor / 2, 1 - floor / 2)
        units = rng.binomial(per_period, share)
        n = np.stack([per_period - units, units])
        level = np.array(means)[:, None] - drift * period / (periods - 1)
        x = rng.binomial(n, level)
        won, drawn = won + x, drawn + n
        history.append((share, n, x))
    return history


def estimates(history, estimator):
    for run in range(len(history[0][0])):
        batches = [
            Batch(
                shares={"a": 1 - share[run], "b": share[run]},
                arms={
                    "a": of_counts(n[0, run], x[0, run]),
                    "b": of_counts(n[1, run], x[1, run]),
                },
            )
            for share, n, x in history
        ]
        yield estimator(batches, **ARMS, alpha=0.05)


def naive(history):
    """The broken twin: pooled means with a fixed-horizon interval."""
    n = sum(n for _, n, _ in history)
    p = sum(x for _, _, x in history) / n
    return p[1] - p[0], np.sqrt((p * (1 - p) / n).sum(axis=0))


RUNS = 1500
SCENES = {
    "equal arms": ({"means": (0.5, 0.5), "periods": 10, "per_period": 1000, "seed": 1}, 0.0),
    "one better": ({"means": (0.3, 0.35), "periods": 10, "per_period": 600, "seed": 2}, 0.05),
    "both fall": (
        {"means": (0.6, 0.65), "periods": 10, "per_period": 600, "seed": 3, "drift": 0.4},
        0.05,
    ),
}


@pytest.fixture(scope="module", params=SCENES, ids=lambda name: name.replace(" ", "_"))
def scene(request):
    settings, truth = SCENES[request.param]
    return simulate(**settings, runs=RUNS), truth


@pytest.mark.parametrize("estimator", BOTH.values(), ids=BOTH)
def test_intervals_cover_although_shares_followed_the_outcomes(scene, estimator, monte_carlo_band):
    history, truth = scene
    found = list(estimates(history, estimator))
    covered = np.mean([e.ci_low <= truth <= e.ci_high for e in found])
    low, high = monte_carlo_band(0.95, RUNS)
    assert low <= covered <= high


@pytest.mark.parametrize("name", ["equal arms", "both fall"])
def test_the_naive_interval_does_not(name, monte_carlo_band):
    settings, truth = SCENES[name]
    estimate, std_error = naive(simulate(**settings, runs=RUNS))
    covered = (np.abs(estimate - truth) <= 1.959964 * std_error).mean()
    assert covered < monte_carlo_band(0.95, RUNS)[0]


def test_the_naive_difference_is_biased_where_the_level_moves():
    settings, truth = SCENES["both fall"]
    history = simulate(**settings, runs=RUNS)
    estimate, _ = naive(history)
    bias = abs(estimate.mean() - truth)
    for estimator in BOTH.values():
        values = np.array([e.estimate for e in estimates(history, estimator)])
        assert abs(values.mean() - truth) < bias / 5


def test_a_handful_of_units_per_period_is_called_thin():
    """Why: three units of the weaker arm per period do not cover, fifty do."""
    history = simulate((0.2, 0.2), periods=14, per_period=60, runs=600, seed=5)
    found = list(estimates(history, within_periods))
    covered = np.mean([e.ci_low <= 0 <= e.ci_high for e in found])
    assert covered < 0.93
    assert all(e.is_thin for e in found)
    settings, _ = SCENES["equal arms"]
    wide = list(estimates(simulate(**settings, runs=20), within_periods))
    # A floor of 0.1 leaves 50 of 1,000 in expectation.
    assert np.median([e.fewest_units for e in wide]) >= 40


def test_empty_batches_are_left_out_and_counted():
    rows = [as_batch(*row) for row in small_batches()]
    nothing = Batch(shares={"a": 0.5, "b": 0.5}, arms={})
    found = weighted_ipw([*rows, nothing], **ARMS)
    assert (found.n_batches, found.n_left_out) == (3, 1)
    thin = Batch(shares={"a": 0.5, "b": 0.5}, arms={"a": moments([1.0, 2.0]), "b": moments([1.0])})
    found = within_periods([thin, *rows], **ARMS)
    assert (found.n_batches, found.n_left_out) == (3, 1)
    # Inverse propensities need no second unit.
    assert weighted_ipw([thin, *rows], **ARMS).n_batches == 4


def code_of(call, *arguments, **named):
    with pytest.raises(EstimationError) as caught:
        call(*arguments, **named)
    return caught.value.code


@pytest.mark.parametrize("estimator", BOTH.values(), ids=BOTH)
def test_what_cannot_be_estimated(estimator):
    halves = {"a": 0.5, "b": 0.5}
    only = Batch(shares=halves, arms={"a": moments([1.0, 2.0])})
    assert code_of(estimator, [only], **ARMS) == "EMPTY_ARM"
    assert code_of(estimator, [], **ARMS) == "EMPTY_ARM"
    constant = Batch(shares=halves, arms={"a": moments([0.0] * 3), "b": moments([0.0] * 3)})
    assert code_of(estimator, [constant], **ARMS) == "ZERO_VARIANCE"


def test_a_period_of_single_units_has_no_difference():
    single = Batch(shares={"a": 0.5, "b": 0.5}, arms={"a": moments([1.0]), "b": moments([3.0])})
    assert code_of(within_periods, [single], **ARMS) == "N_TOO_SMALL"


def test_units_without_a_share_are_refused():
    with pytest.raises(ValueError, match="no share"):
        Batch(shares={"a": 1.0}, arms={"b": moments([1.0])})
    with pytest.raises(ValueError, match="planned units"):
        Batch(shares={"a": 1.0}, arms={}, planned_units=0.0)
