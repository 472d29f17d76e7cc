"""AIPW: right when either model is, honest intervals, refusals."""

import numpy as np
import pytest
from scipy.special import expit
from unit_samples import band, make_observational

from experiments_dagster.causal.units.doubly_robust import doubly_robust_effect
from experiments_dagster.stats.errors import EstimationError

RUNS = 400


def make_curved(n, seed, *, outcome_is_linear, treatment_is_linear):
    """Confounding through x alone, with a curve in one of the two models."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, n)
    logit = 0.8 * x if treatment_is_linear else 0.8 * x**2 - 1
    t = rng.random(n) < expit(logit)
    level = 2 * x if outcome_is_linear else 2 * x + 2 * x**2
    return 1.0 * t + level + rng.standard_normal(n), t, x[:, None]


@pytest.mark.parametrize("target", ["ate", "att"])
@pytest.mark.parametrize("is_cross_fitted", [False, True])
@pytest.mark.parametrize("right", ["outcome", "treatment"])
def test_one_right_model_is_enough(target, is_cross_fitted, right):
    y, t, x = make_curved(
        40_000,
        3,
        outcome_is_linear=right == "outcome",
        treatment_is_linear=right == "treatment",
    )
    keys = np.arange(len(y)) if is_cross_fitted else None
    effect = doubly_robust_effect(y, t, x, target=target, unit_keys=keys).effect
    assert effect.ci_low <= 1 <= effect.ci_high
    assert effect.ci_high - effect.ci_low < 0.25


def test_two_wrong_models_miss_it():
    y, t, x = make_curved(40_000, 3, outcome_is_linear=False, treatment_is_linear=False)
    effect = doubly_robust_effect(y, t, x).effect
    assert not effect.ci_low <= 1 <= effect.ci_high


@pytest.mark.parametrize("target", ["ate", "att"])
@pytest.mark.parametrize("is_cross_fitted", [False, True])
def test_intervals_cover(target, is_cross_fitted):
    covers, naive = [], []
    for seed in range(RUNS):
        y, t, x = make_observational(n=600, seed=seed)
        keys = np.arange(len(y)) if is_cross_fitted else None
        effect = doubly_robust_effect(y, t, x, target=target, unit_keys=keys).effect
        covers.append(effect.ci_low <= 1 <= effect.ci_high)
        difference = y[t].mean() - y[~t].mean()
        naive.append(abs(difference - 1) <= 1.96 * effect.std_error)
    low, high = band(0.95, RUNS)
    assert low <= np.mean(covers) <= high
    assert np.mean(naive) < 0.1


def test_scores_give_the_variance_and_the_interval_the_p_value():
    y, t, x = make_observational()
    for target in ("ate", "att"):
        result = doubly_robust_effect(y, t, x, target=target)
        assert result.scores.sum() == pytest.approx(0, abs=1e-9)
        assert result.scores @ result.scores == pytest.approx(result.effect.std_error**2)
        null = result.effect.estimate - result.effect.ci_low
        at_limit = doubly_robust_effect(
            y - (result.effect.estimate - null) * t, t, x, target=target
        )
        assert at_limit.effect.p_value == pytest.approx(0.05, abs=2e-3)


def test_invariants():
    y, t, x = make_observational()
    base = doubly_robust_effect(y, t, x, unit_keys=np.arange(500)).effect
    swapped = doubly_robust_effect(y, ~t, x, unit_keys=np.arange(500)).effect
    assert swapped.estimate == pytest.approx(-base.estimate, rel=1e-8)
    order = np.random.default_rng(4).permutation(500)
    moved = doubly_robust_effect(
        3 * y[order] + 2, t[order], 5 * x[order] - 1, unit_keys=np.arange(500)[order]
    ).effect
    assert moved.estimate == pytest.approx(3 * base.estimate, rel=1e-8)
    assert moved.std_error == pytest.approx(3 * base.std_error, rel=1e-8)


def test_trimming_names_its_own_estimand():
    y, t, x = make_observational(n=4000, confounding=2.5)
    with pytest.raises(EstimationError) as caught:
        doubly_robust_effect(y, t, x)
    assert caught.value.code == "NO_OVERLAP"
    trimmed = doubly_robust_effect(y, t, x, trim=(0.1, 0.9))
    assert trimmed.effect.estimand == "ate_trimmed"
    assert 0.2 < trimmed.is_used.mean() < 0.9
    assert trimmed.effect.n_control + trimmed.effect.n_treatment == trimmed.is_used.sum()
    assert trimmed.effect.ci_low <= 1 <= trimmed.effect.ci_high


def test_another_model_must_be_cross_fitted_and_is_used():
    y, t, x = make_curved(8000, 5, outcome_is_linear=False, treatment_is_linear=False)

    def fit_square(features, target):
        basis = np.vander(features[:, 0], 3)
        beta, *_ = np.linalg.lstsq(basis, target, rcond=None)
        return lambda rows: np.vander(rows[:, 0], 3) @ beta

    with pytest.raises(ValueError, match="unit_keys"):
        doubly_robust_effect(y, t, x, fit_outcome=fit_square)
    effect = doubly_robust_effect(
        y, t, x, fit_outcome=fit_square, unit_keys=np.arange(len(y))
    ).effect
    assert effect.method == "aipw_cross_fitted"
    assert effect.ci_low <= 1 <= effect.ci_high


def test_too_few_units_for_the_folds_are_refused():
    y, t, x = make_observational(n=500)
    with pytest.raises(EstimationError) as caught:
        doubly_robust_effect(y, t, x, unit_keys=np.zeros(500, dtype=int))
    assert caught.value.code == "N_TOO_SMALL"
    few = np.zeros(500, dtype=bool)
    few[0] = True
    with pytest.raises(EstimationError) as caught:
        doubly_robust_effect(y, few, x)
    assert caught.value.code == "N_TOO_SMALL"
