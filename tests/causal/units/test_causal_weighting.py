"""Inverse propensity weighting: identities, honest errors, refusals."""

import numpy as np
import pytest
from unit_samples import band, make_observational

from experiments_dagster.causal.units.propensity import fit_propensity, known_propensity
from experiments_dagster.causal.units.weighting import (
    effective_sample_size,
    inverse_weights,
    weighted_effect,
)
from experiments_dagster.stats.errors import EstimationError

RUNS = 400


def test_known_equal_shares_are_the_difference_of_means():
    y, t, _ = make_observational(confounding=0.0)
    result = weighted_effect(y, t, known_propensity(t.mean(), len(y)))
    assert result.effect.estimate == pytest.approx(y[t].mean() - y[~t].mean(), rel=1e-12)
    expected = np.sqrt(sum(y[arm].var() / arm.sum() for arm in (t, ~t)))
    assert result.effect.std_error == pytest.approx(expected, rel=1e-12)
    assert result.ess_control == pytest.approx((~t).sum())


@pytest.mark.parametrize(
    ("target", "estimator"), [("ate", "hajek"), ("att", "hajek"), ("ate", "horvitz_thompson")]
)
def test_scores_are_the_influence_of_each_unit(target, estimator):
    """Leaving a unit out, with the propensity fitted anew, moves the estimate by its score."""
    y, t, x = make_observational(n=400)
    fit = weighted_effect(y, t, fit_propensity(x, t), target=target, estimator=estimator)
    assert fit.scores.sum() == pytest.approx(0, abs=1e-10)
    rest = np.ones(400, dtype=bool)
    moves = []
    for unit in range(40):
        rest[unit] = False
        left = weighted_effect(
            y[rest], t[rest], fit_propensity(x[rest], t[rest]), target=target, estimator=estimator
        )
        moves.append(fit.effect.estimate - left.effect.estimate)
        rest[unit] = True
    # Equal to first order in 1/n; single units of large weight differ by a few percent.
    assert np.corrcoef(moves, fit.scores[:40])[0, 1] > 0.995
    assert np.abs(moves - fit.scores[:40]).max() < 0.1 * np.abs(fit.scores).max()


def test_invariants():
    y, t, x = make_observational()
    base = weighted_effect(y, t, fit_propensity(x, t)).effect
    swapped = weighted_effect(y, ~t, fit_propensity(x, ~t)).effect
    assert swapped.estimate == pytest.approx(-base.estimate, rel=1e-9)
    assert swapped.std_error == pytest.approx(base.std_error, rel=1e-9)
    moved = weighted_effect(3 * y + 7, t, fit_propensity(x, t)).effect
    assert moved.estimate == pytest.approx(3 * base.estimate, rel=1e-9)
    assert moved.std_error == pytest.approx(3 * base.std_error, rel=1e-9)
    assert moved.p_value == pytest.approx(base.p_value, rel=1e-6)
    order = np.random.default_rng(2).permutation(len(y))
    shuffled = weighted_effect(y[order], t[order], fit_propensity(x[order], t[order])).effect
    assert shuffled.estimate == pytest.approx(base.estimate, rel=1e-9)


def test_weights_balance_the_covariates():
    """The ATT weights reproduce the treated means of each covariate to first order."""
    _, t, x = make_observational(n=20_000)
    fit = fit_propensity(x, t)
    w = inverse_weights(fit, t, target="att")
    gap = np.average(x[~t], weights=w[~t], axis=0) - x[t].mean(axis=0)
    assert np.abs(gap).max() < 0.05 < np.abs(x[~t].mean(axis=0) - x[t].mean(axis=0)).min()


def runs(target, *, is_known=False):
    found = []
    for seed in range(RUNS):
        y, t, x = make_observational(seed=seed)
        e = fit_propensity(x, t)
        e = known_propensity(e.values, len(y)) if is_known else e
        effect = weighted_effect(y, t, e, target=target).effect
        found.append((effect.estimate, effect.std_error, effect.ci_low <= 1 <= effect.ci_high))
    estimate, std_error, covers = np.array(found).T
    return estimate, std_error.mean() / estimate.std(ddof=1), covers.mean()


@pytest.mark.parametrize("target", ["ate", "att"])
def test_the_interval_covers_and_the_error_is_that_of_the_estimates(target):
    estimate, ratio, coverage = runs(target)
    assert abs(estimate.mean() - 1) < 4 * estimate.std() / np.sqrt(RUNS)
    low, high = band(0.95, RUNS)
    assert low <= coverage <= high
    # The sd of 400 estimates is known to 3.5 %; three of those.
    assert ratio == pytest.approx(1, abs=0.11)


def test_an_estimated_propensity_taken_as_known_leaves_the_band():
    _, ratio, coverage = runs("ate", is_known=True)
    assert ratio > 1.3
    assert coverage > band(0.95, RUNS)[1]


def test_no_overlap_is_refused():
    y, t, x = make_observational(confounding=4.0)
    with pytest.raises(EstimationError) as caught:
        weighted_effect(y, t, fit_propensity(x, t))
    assert caught.value.code == "NO_OVERLAP"


def test_senseless_calls_raise():
    y, t, x = make_observational()
    with pytest.raises(ValueError, match="ate only"):
        weighted_effect(y, t, fit_propensity(x, t), target="att", estimator="horvitz_thompson")
    with pytest.raises(ValueError, match="shape"):
        weighted_effect(y, t, known_propensity(0.5, 3))
    with pytest.raises(EstimationError) as caught:
        weighted_effect(np.ones(len(y)), t, fit_propensity(x, t))
    assert caught.value.code == "ZERO_VARIANCE"


def test_effective_sample_size_does_not_depend_on_the_scale():
    w = np.random.default_rng(1).random(50)
    assert effective_sample_size(7 * w) == pytest.approx(effective_sample_size(w), rel=1e-12)
    assert 1 < effective_sample_size(w) < 50
