"""Boosted trees as a base: what they find, what changes nothing, and what happens without them."""

import sys

import numpy as np
import pytest
from scipy.special import expit
from unit_samples import make_experiment

from experiments_dagster.causal.units import boosted
from experiments_dagster.causal.units.boosted import fit_boosted, fit_weighted_boosted
from experiments_dagster.causal.units.learners import fit_uplift
from experiments_dagster.stats.errors import EstimationError


def make_rows(*, n=2000, p=3, noise=1.0, seed=1):
    """Features, and a target that is 1 for |x₀| > 1 and 0 else, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p))
    truth = (np.abs(x[:, 0]) > 1).astype(np.float64)
    return x, truth + noise * rng.standard_normal(n), truth


def rmse(found, truth):
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def test_a_curve_without_a_line_is_found_on_rows_not_seen():
    x, y, _ = make_rows()
    new, _, truth = make_rows(seed=2)
    found = fit_boosted(x, y, seed=1)(new)
    # The best line is the mean, whose error is the spread of the truth, 0.47.
    assert rmse(found, truth) < 0.4 * truth.std()


def test_the_number_of_trees_follows_the_signal_and_not_the_noise():
    x, y, truth = make_rows(noise=5.0)
    rng = np.random.default_rng(3)
    chosen = fit_boosted(x, rng.standard_normal(len(y)), seed=1)(x)
    assert chosen.std() < 0.2
    from sklearn.ensemble import HistGradientBoostingRegressor

    # The broken twin: as many trees for any target follow the noise of scores.
    fixed = HistGradientBoostingRegressor(early_stopping=False).fit(x, y).predict(x)
    assert rmse(fit_boosted(x, y, seed=1)(x), truth) < 0.3 * rmse(fixed, truth)


def test_zeros_and_ones_are_predicted_by_their_probability():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6000, 2))
    probability = expit(4 * x.sum(axis=1))
    y = (rng.random(6000) < probability).astype(np.float64)
    found = fit_boosted(x, y, seed=1)(x)
    assert (found > 0).all()
    assert (found < 1).all()
    assert rmse(found, probability) < 0.1
    # The broken twin: by squares the same trees leave the bounds.
    squares = fit_weighted_boosted(x, y, np.ones(6000), seed=1)(x)
    assert squares.min() < 0
    assert squares.max() > 1


@pytest.mark.parametrize("events", [0, 1, 9])
def test_too_few_events_are_predicted_by_their_share(events):
    x, *_ = make_rows(n=500)
    y = np.r_[np.ones(events), np.zeros(500 - events)]
    assert fit_boosted(x, y, seed=1)(x[:3]).tolist() == [events / 500] * 3


def test_a_constant_target_is_predicted_by_itself():
    x, *_ = make_rows(n=300)
    assert fit_boosted(x, np.full(300, 2.5), seed=1)(x[:2]).tolist() == [2.5, 2.5]


def test_weights_decide_between_rows_that_disagree():
    x, *_ = make_rows(n=2000)
    twice = np.vstack([x, x])
    y = np.r_[x[:, 1], -x[:, 1]]
    weights = np.r_[np.full(2000, 9.0), np.ones(2000)]
    found = fit_weighted_boosted(twice, y, weights, seed=1)(x)
    # The weighted mean is 0.8·x₁, of which trees miss some.
    assert np.polyfit(x[:, 1], found, 1)[0] == pytest.approx(0.8, abs=0.08)
    scaled = fit_weighted_boosted(twice, y, 4 * weights, seed=1)(x)
    assert np.array_equal(scaled, found)


def test_weights_that_make_no_sense_are_refused():
    x, y, _ = make_rows(n=300)
    with pytest.raises(ValueError, match="1 negative weights"):
        fit_weighted_boosted(x, y, np.r_[-1.0, np.ones(299)], seed=1)
    with pytest.raises(EstimationError) as caught:
        fit_weighted_boosted(x, y, np.zeros(300), seed=1)
    assert caught.value.code == "ZERO_DENOMINATOR"


@pytest.mark.parametrize("is_binary", [False, True])
def test_threads_runs_and_the_order_of_rows_change_no_bit(monkeypatch, is_binary):
    x, y, _ = make_rows(n=8000, p=8)
    target = (y > 0).astype(np.float64) if is_binary else y
    base = fit_boosted(x, target, seed=1)(x)
    assert np.array_equal(fit_boosted(x, target, seed=1)(x), base)
    order = np.random.default_rng(5).permutation(len(y))
    assert np.array_equal(fit_boosted(x[order], target[order], seed=1)(x), base)
    # Another seed is another choice of the number of trees, which may be the same.
    others = [fit_boosted(x, target, seed=seed)(x) for seed in range(2, 6)]
    assert not all(np.array_equal(other, base) for other in others)
    monkeypatch.setattr(boosted, "THREADS", 2)
    assert np.array_equal(fit_boosted(x, target, seed=1)(x), base)


def test_the_number_of_threads_of_others_stays():
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {item["num_threads"] for item in threadpool_info() if item["user_api"] == "openmp"}

    x, y, _ = make_rows(n=300)
    boosted.require_boosting()
    with threadpool_limits(2, user_api="openmp"):
        fit_boosted(x, y, seed=1)(x)
        assert threads() == {2}


@pytest.mark.parametrize("learner", ["s", "t", "x", "r", "dr"])
def test_every_learner_finds_an_effect_that_is_no_line(learner):
    y, t, x, _ = make_experiment(n=2000)
    bent = np.abs(x[:, 1]) > 1
    fit = fit_uplift(
        y + 2.0 * t * bent,
        t,
        x,
        learner=learner,
        propensity=0.5,
        unit_keys=np.arange(len(y)),
        folds=2,
        base="boosted",
    )
    assert (fit.base, fit.std_errors, fit.ci_low, fit.ci_high) == ("boosted", None, None, None)
    assert fit.no_interval == "boosted trees have no standard error at given covariates"
    assert fit.effects[bent].mean() - fit.effects[~bent].mean() > 1
    assert fit.average.ci_low <= 0.5 + 2.0 * bent.mean() <= fit.average.ci_high


def test_only_lines_have_intervals_and_the_others_say_why_not():
    y, t, x, _ = make_experiment(n=2000)
    assert fit_uplift(y, t, x, propensity=0.5).no_interval is None
    ridge = fit_uplift(y, t, x, propensity=0.5, base="ridge")
    assert ridge.ci_low is None
    assert "penalty" in ridge.no_interval
    with pytest.raises(ValueError, match="'forest'; need linear, ridge, boosted"):
        fit_uplift(y, t, x, propensity=0.5, base="forest")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    y, t, x, _ = make_experiment(n=2000)
    with pytest.raises(ModuleNotFoundError, match=r"'experiments-dagster\[uplift\]'"):
        fit_uplift(y, t, x, propensity=0.5, base="boosted")
    assert fit_uplift(y, t, x, propensity=0.5).base == "linear"
