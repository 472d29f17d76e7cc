"""The value of treating the top share: identities, coverage, money, refusals."""

import numpy as np
import pytest
from unit_samples import band, make_experiment

from experiments_dagster.causal.units.heterogeneity_proof import prove_heterogeneity
from experiments_dagster.causal.units.learners import fit_uplift
from experiments_dagster.causal.units.policy_value import (
    policy_value,
    target_top_share,
    top_share_within_folds,
)
from experiments_dagster.stats.errors import EstimationError

RUNS = 200


def fitted(*, seed=1, n=4000, heterogeneity=0.5):
    y, t, x, tau = make_experiment(n=n, heterogeneity=heterogeneity, seed=seed)
    return fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(n)), tau


def test_treating_everybody_is_the_average_effect():
    fit, _ = fitted()
    value = policy_value(fit, share=1.0)
    assert value.gain.estimate == pytest.approx(fit.average.estimate)
    assert value.gain.std_error == pytest.approx(fit.average.std_error)
    assert value.effect_targeted.estimate == pytest.approx(fit.average.estimate)
    assert value.gain_over_everybody.estimate == value.gain_over_random.estimate == 0
    assert value.n_targeted == value.n == 4000


def test_parts_add_up():
    fit, _ = fitted()
    value = policy_value(fit, share=0.2)
    average = fit.average.estimate
    assert value.gain_over_random.estimate == pytest.approx(value.gain.estimate - 0.2 * average)
    assert value.gain_over_everybody.estimate == pytest.approx(value.gain.estimate - average)
    assert value.effect_targeted.estimate == pytest.approx(value.gain.estimate / 0.2)
    assert value.n_targeted == pytest.approx(800)
    assert value.total_gain.estimate == pytest.approx(4000 * value.gain.estimate)


def test_intervals_cover_the_value_of_the_policy():
    covers = []
    for seed in range(RUNS):
        fit, tau = fitted(seed=seed, n=1500)
        value = policy_value(fit, share=0.2)
        treated = top_share_within_folds(fit.effects, fit.fold_of, 0.2)
        covers.append(
            [
                value.gain.ci_low <= (treated * tau).mean() <= value.gain.ci_high,
                value.effect_targeted.ci_low
                <= (treated @ tau) / treated.sum()
                <= value.effect_targeted.ci_high,
            ]
        )
    low, high = band(0.95, RUNS)
    for coverage in np.mean(covers, axis=0):
        assert low <= coverage <= high


def test_without_heterogeneity_targeting_gains_nothing_over_chance():
    found = []
    for seed in range(RUNS):
        fit, _ = fitted(seed=seed, n=1500, heterogeneity=0.0)
        interval = policy_value(fit, share=0.2).gain_over_random
        found.append(interval.ci_low > 0)
    assert np.mean(found) <= band(0.025, RUNS)[1]


def test_money():
    fit, _ = fitted()
    value = policy_value(fit, share=0.2, value_per_effect=10, cost_per_unit=4)
    assert value.net.estimate == pytest.approx(10 * value.gain.estimate - 0.8)
    assert value.net.std_error == pytest.approx(10 * value.gain.std_error)
    assert value.roi.estimate == pytest.approx(value.net.estimate / 0.8)
    assert value.total_net.estimate == pytest.approx(4000 * value.net.estimate)
    assert policy_value(fit, share=0.2).roi is None
    harm = policy_value(fit, share=0.2, value_per_effect=-1)
    assert harm.net.ci_low <= harm.net.estimate <= harm.net.ci_high < 0


def test_ties_share_the_room_that_is_left():
    effects, folds = np.array([1.0, 1, 1, 1, 5, 2, 2, 0]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    treated = top_share_within_folds(effects, folds, 0.5)
    assert treated.tolist() == [0.5, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 0]


def test_units_are_named_only_after_the_proof():
    fit, tau = fitted()
    treated = target_top_share(fit, prove_heterogeneity(fit), share=0.2)
    assert treated.sum() == pytest.approx(800, abs=3)
    assert tau[treated].mean() > tau[~treated].mean() + 0.5
    none, _ = fitted(heterogeneity=0.0, seed=4)
    with pytest.raises(EstimationError) as caught:
        target_top_share(none, prove_heterogeneity(none), share=0.2)
    assert caught.value.code == "NOT_IDENTIFIED"


def test_refusals():
    y, t, x, _ = make_experiment()
    with pytest.raises(EstimationError) as caught:
        policy_value(fit_uplift(y, t, x, propensity=0.5), share=0.2)
    assert caught.value.code == "NOT_IDENTIFIED"
    fit, _ = fitted()
    for changes in ({"share": 0}, {"share": 1.1}):
        with pytest.raises(ValueError, match="share"):
            policy_value(fit, **changes)
    with pytest.raises(ValueError, match="cost"):
        policy_value(fit, share=0.2, cost_per_unit=-1)
