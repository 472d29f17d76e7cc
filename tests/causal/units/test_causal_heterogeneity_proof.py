"""The proof of heterogeneity: silent on noise, loud on real differences, never in sample."""

import numpy as np
import pytest
from unit_samples import band, make_experiment

from experiments_dagster.causal.units.heterogeneity_proof import (
    SEGMENTS,
    effect_segments,
    groups_within_folds,
    prove_heterogeneity,
)
from experiments_dagster.causal.units.learners import fit_uplift
from experiments_dagster.stats.errors import EstimationError

RUNS = 300


def fitted(*, learner="dr", seed=1, n=4000, heterogeneity=0.0, p=3):
    y, t, x, tau = make_experiment(n=n, p=p, heterogeneity=heterogeneity, seed=seed)
    fit = fit_uplift(y, t, x, learner=learner, propensity=0.5, unit_keys=np.arange(n))
    return fit, tau


@pytest.mark.parametrize("learner", ["t", "dr"])
def test_noise_is_called_heterogeneity_as_often_as_it_says(learner):
    p_values = []
    for seed in range(RUNS):
        fit, _ = fitted(learner=learner, seed=seed, n=1500, p=6)
        p_values.append(prove_heterogeneity(fit).p_value)
    for level in (0.05, 0.1, 0.5):
        low, high = band(level, RUNS)
        assert low <= np.mean(np.array(p_values) <= level) <= high


def test_pooled_folds_would_count_chance_twice():
    """The broken twin: with two folds that predict each other, z has twice its variance."""
    pooled, sequential = [], []
    for seed in range(RUNS):
        y, t, x, _ = make_experiment(n=1000, p=6, seed=seed)
        fit = fit_uplift(y, t, x, learner="t", propensity=0.5, unit_keys=np.arange(1000), folds=2)
        proof = prove_heterogeneity(fit)
        sequential.append(proof.statistic)
        pooled.append(proof.blp_slope.estimate / proof.blp_slope.std_error)
    # The variance of 300 normal values is known to 8 %; three of those.
    assert np.var(sequential) == pytest.approx(1, abs=0.25)
    assert np.var(pooled) > 1.5


def test_in_sample_evaluation_would_call_it_most_of_the_time():
    """The broken twin: pseudo-outcomes judged by effects fitted to them."""
    shown = []
    for seed in range(40):
        y, t, x, _ = make_experiment(n=1500, p=6, seed=seed)
        fit = fit_uplift(y, t, x, propensity=0.5)
        with pytest.raises(EstimationError) as caught:
            prove_heterogeneity(fit)
        assert caught.value.code == "NOT_IDENTIFIED"
        centred = fit.effects - fit.effects.mean()
        slope = centred @ fit.pseudo_outcomes / (centred @ centred)
        error = np.sqrt((centred**2) @ (fit.pseudo_outcomes - fit.pseudo_outcomes.mean()) ** 2) / (
            centred @ centred
        )
        shown.append(slope / error > 1.2816)
    assert np.mean(shown) > 0.7


def test_real_differences_are_shown_and_calibrated():
    fit, tau = fitted(heterogeneity=0.5)
    proof = prove_heterogeneity(fit)
    assert proof.is_proven
    assert proof.p_value < 1e-6
    assert proof.blp_slope.ci_low <= 1 <= proof.blp_slope.ci_high
    assert proof.calibration_slope.ci_low <= 1 <= proof.calibration_slope.ci_high
    assert proof.calibration_intercept.ci_low <= 0 <= proof.calibration_intercept.ci_high
    assert [group.group for group in proof.groups] == [0, 1, 2, 3, 4]
    assert sum(group.n for group in proof.groups) == proof.n == len(tau)
    predicted = [group.predicted for group in proof.groups]
    assert predicted == sorted(predicted)
    # E[x₀ | top fifth] − E[x₀ | bottom fifth] = 2.8 for a normal.
    assert proof.spread.ci_low <= 0.5 * 2.8 <= proof.spread.ci_high
    assert proof.calibration_error < 0.15


def test_the_slope_is_that_of_a_regression_with_a_level_for_each_fold():
    import statsmodels.api as sm

    fit, _ = fitted(heterogeneity=0.5)
    proof = prove_heterogeneity(fit)
    levels = np.eye(5)[fit.fold_of]
    theirs = sm.OLS(fit.pseudo_outcomes, np.column_stack([fit.effects, levels])).fit(cov_type="HC3")
    assert proof.blp_slope.estimate == pytest.approx(theirs.params[0], rel=1e-9)
    assert proof.blp_slope.std_error == pytest.approx(theirs.bse[0], rel=1e-9)
    line = sm.OLS(fit.pseudo_outcomes, sm.add_constant(fit.effects)).fit(cov_type="HC3")
    assert proof.calibration_intercept.std_error == pytest.approx(line.bse[0], rel=1e-9)
    assert proof.calibration_slope.std_error == pytest.approx(line.bse[1], rel=1e-9)


def test_exaggerated_predictions_have_a_slope_below_one():
    from dataclasses import replace

    fit, _ = fitted(heterogeneity=0.5, n=8000)
    mean = fit.effects.mean()
    loud = replace(
        fit, effects=mean + 3 * (fit.effects - mean), early_effects=3 * fit.early_effects
    )
    honest, exaggerated = prove_heterogeneity(fit), prove_heterogeneity(loud)
    assert exaggerated.blp_slope.estimate == pytest.approx(honest.blp_slope.estimate / 3, rel=0.05)
    assert exaggerated.calibration_slope.ci_high < 1
    assert exaggerated.calibration_error > 3 * honest.calibration_error
    assert exaggerated.statistic == pytest.approx(honest.statistic)
    inverse = prove_heterogeneity(
        replace(fit, effects=-fit.effects, early_effects=-fit.early_effects)
    )
    assert not inverse.is_proven
    assert inverse.p_value > 0.99


def test_group_effects_cover_the_effects_of_their_units():
    covers = []
    for seed in range(60):
        fit, tau = fitted(seed=seed, n=1500, heterogeneity=0.5)
        group_of = groups_within_folds(fit.effects, fit.fold_of, 5)
        for group in prove_heterogeneity(fit).groups:
            truth = tau[group_of == group.group].mean()
            covers.append(group.observed.ci_low <= truth <= group.observed.ci_high)
    low, high = band(0.95, len(covers))
    assert low <= np.mean(covers) <= high


def test_segments_are_named_only_after_the_proof():
    fit, tau = fitted(heterogeneity=0.5)
    names = np.array(effect_segments(fit, prove_heterogeneity(fit)))
    means = [tau[names == name].mean() for name in SEGMENTS]
    assert means == sorted(means)
    assert min(np.mean(names == name) for name in SEGMENTS) > 0.19
    none, _ = fitted(seed=4)
    proof = prove_heterogeneity(none)
    assert proof.finding == "no reliable heterogeneity"
    with pytest.raises(EstimationError) as caught:
        effect_segments(none, proof)
    assert caught.value.code == "NOT_IDENTIFIED"
    assert f"p = {proof.p_value:.3g}" in str(caught.value)


def test_equal_effects_share_a_group():
    effects = np.repeat([1.0, 2.0, 3.0], [50, 30, 20])
    groups = groups_within_folds(effects, np.zeros(100, dtype=int), 5)
    assert [sorted(set(groups[effects == v])) for v in (1.0, 2.0, 3.0)] == [[1], [3], [4]]


def test_one_effect_for_all_cannot_be_tested():
    fit, _ = fitted(learner="s", heterogeneity=0.5)
    with pytest.raises(EstimationError) as caught:
        prove_heterogeneity(fit)
    assert caught.value.code == "ZERO_VARIANCE"
    fit, _ = fitted(heterogeneity=0.5)
    with pytest.raises(ValueError, match="bins"):
        prove_heterogeneity(fit, bins=1)
