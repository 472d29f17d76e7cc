"""The learners: what they recover, what they must not see, and what they refuse."""

import numpy as np
import pytest
from scipy.special import expit
from unit_samples import band, make_experiment

from experiments_dagster.causal.units.learners import fit_uplift, permutation_importance
from experiments_dagster.causal.units.weighted_fit import fit_weighted_ridge
from experiments_dagster.stats.errors import EstimationError

LEARNERS = ("s", "t", "x", "r", "dr")
RUNS = 150


def keys(y):
    return np.arange(len(y))


@pytest.mark.parametrize("learner", ["t", "x", "r", "dr"])
@pytest.mark.parametrize("base", ["linear", "ridge"])
def test_the_effect_at_x_is_recovered(learner, base):
    y, t, x, tau = make_experiment(n=8000, heterogeneity=0.7)
    fit = fit_uplift(y, t, x, learner=learner, propensity=0.5, unit_keys=keys(y), base=base)
    assert np.corrcoef(fit.effects, tau)[0, 1] > 0.99
    assert np.sqrt(np.mean((fit.effects - tau) ** 2)) < 0.08
    assert fit.average.ci_low <= tau.mean() <= fit.average.ci_high


def test_a_single_linear_model_knows_one_effect():
    y, t, x, tau = make_experiment(heterogeneity=0.7)
    fit = fit_uplift(y, t, x, learner="s", propensity=0.5, unit_keys=keys(y))
    assert len(np.unique(fit.effects.round(12))) == 5
    assert fit.effects.mean() == pytest.approx(tau.mean(), abs=0.15)


def test_linear_t_and_x_learners_agree():
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    fits = [fit_uplift(y, t, x, learner=k, propensity=0.5, unit_keys=keys(y)) for k in ("t", "x")]
    assert fits[0].effects == pytest.approx(fits[1].effects, rel=1e-9)
    assert fits[0].std_errors == pytest.approx(fits[1].std_errors, rel=1e-9)


@pytest.mark.parametrize("learner", LEARNERS)
def test_no_outcome_of_a_fold_reaches_its_effects(learner):
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    base = fit_uplift(y, t, x, learner=learner, unit_keys=keys(y))
    fold = base.fold_of == 2
    spoiled = np.where(fold, 1000 * np.random.default_rng(1).standard_normal(len(y)), y)
    other = fit_uplift(spoiled, t, x, learner=learner, unit_keys=keys(y))
    assert other.effects[fold] == pytest.approx(base.effects[fold], rel=1e-9)
    assert other.effects[~fold] != pytest.approx(base.effects[~fold], rel=1e-3)
    # Folds 1 and 2 are predicted by the folds before them, which the spoiled one is not among.
    later = base.fold_of[base.fold_of > 0]
    assert other.early_effects[later <= 2] == pytest.approx(
        base.early_effects[later <= 2], rel=1e-9
    )
    assert other.early_effects[later > 2] != pytest.approx(base.early_effects[later > 2], rel=1e-3)
    in_sample = [fit_uplift(v, t, x, learner=learner).effects[fold] for v in (y, spoiled)]
    assert in_sample[0] != pytest.approx(in_sample[1], rel=1e-3)


@pytest.mark.parametrize("learner", ["t", "r", "dr"])
def test_intervals_cover_the_effect_at_x(learner):
    """Of one unit per run, since the units of a run share their coefficients."""
    covers = []
    for seed in range(RUNS):
        y, t, x, tau = make_experiment(n=1500, heterogeneity=0.5, seed=seed)
        fit = fit_uplift(y, t, x, learner=learner, propensity=0.5, unit_keys=keys(y))
        covers.append(fit.ci_low[7] <= tau[7] <= fit.ci_high[7])
    low, high = band(0.95, RUNS)
    assert low <= np.mean(covers) <= min(high, 1)


def test_standard_errors_are_those_of_the_regression():
    import statsmodels.api as sm

    y, t, x, _ = make_experiment(heterogeneity=0.7)
    fit = fit_uplift(y, t, x, learner="t", propensity=0.5)
    design = sm.add_constant(x)
    covariance = sum(
        sm.OLS(y[arm], design[arm]).fit(cov_type="HC2").cov_params() for arm in (t, ~t)
    )
    expected = np.sqrt(np.einsum("ij,jk,ik->i", design, covariance, design))
    assert fit.std_errors == pytest.approx(expected, rel=1e-8)


def residual_regression(y, t, x, e):
    """The R-learner by hand: nuisances by least squares per arm, then weighted least squares."""
    import statsmodels.api as sm

    design = sm.add_constant(x)
    m0, m1 = (design @ sm.OLS(y[arm], design[arm]).fit().params for arm in (~t, t))
    expected = e * m1 + (1 - e) * m0
    return sm.WLS((y - expected) / (t - e), design, weights=(t - e) ** 2), design


def test_the_r_learner_is_the_weighted_regression_of_residuals():
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    e = expit(0.8 * x[:, 1])
    fit = fit_uplift(y, t, x, learner="r", propensity=e)
    model, design = residual_regression(y, t, x, e)
    reference = model.fit(cov_type="HC2")
    assert fit.effects == pytest.approx(design @ reference.params, rel=1e-8, abs=1e-9)
    covariance = reference.cov_params()
    errors = np.sqrt(np.einsum("ij,jk,ik->i", design, covariance, design))
    assert fit.std_errors == pytest.approx(errors, rel=1e-8)
    # It minimises the R-loss: any other line, such as the unweighted one, has more.
    unweighted = fit_uplift(
        y,
        t,
        x,
        learner="r",
        propensity=e,
        fit_weighted=lambda rows, target, weights: fit_weighted_ridge(
            rows, target, np.ones_like(weights), penalty=0.0
        ),
    )
    surprise, target = t - e, model.endog

    def loss(effects):
        return np.sum(surprise**2 * (target - effects) ** 2)

    assert unweighted.effects != pytest.approx(fit.effects, rel=1e-2)
    assert unweighted.std_errors is None
    assert loss(fit.effects) < loss(unweighted.effects)


def test_the_r_learner_is_orthogonal_to_outcome_models_that_are_wrong():
    """Where the linear m misses a large curve, known propensities still give the effect at x."""
    y, t, x, tau = make_experiment(n=40_000, heterogeneity=0.7)
    y = y + 3 * x[:, 1] ** 2
    fit = fit_uplift(y, t, x, learner="r", propensity=0.5, unit_keys=keys(y))
    # The error of a slope is sd(y)/(½√n) = 0.05.
    assert np.sqrt(np.mean((fit.effects - tau) ** 2)) < 0.2
    assert fit.average.ci_low <= tau.mean() <= fit.average.ci_high


def test_an_r_learner_of_your_own_takes_weights():
    y, t, x, _ = make_experiment(n=8000, heterogeneity=0.7)

    def fit_line(features, target):
        return fit_weighted_ridge(features, target, np.ones(len(target)), penalty=0.0)

    own = fit_uplift(
        y,
        t,
        x,
        learner="r",
        propensity=0.5,
        unit_keys=keys(y),
        base=fit_line,
        fit_weighted=lambda *rows: fit_weighted_ridge(*rows, penalty=0.0),
    )
    linear = fit_uplift(y, t, x, learner="r", propensity=0.5, unit_keys=keys(y))
    assert own.effects == pytest.approx(linear.effects, rel=1e-8, abs=1e-9)
    assert (own.base, own.std_errors) == ("custom", None)
    with pytest.raises(ValueError, match="pass fit_weighted"):
        fit_uplift(y, t, x, learner="r", propensity=0.5, base=fit_line)
    with pytest.raises(ValueError, match="R-learner's; learner is 'dr'"):
        fit_uplift(y, t, x, propensity=0.5, fit_weighted=fit_weighted_ridge)


def test_confounded_units_need_the_propensity():
    rng = np.random.default_rng(9)
    x = rng.standard_normal((20_000, 2))
    t = rng.random(20_000) < expit(x[:, 0])
    y = (0.5 + 0.5 * x[:, 1]) * t + 2 * x[:, 0] + rng.standard_normal(20_000)
    fit = fit_uplift(y, t, x, unit_keys=keys(y))
    assert fit.propensity.source == "cross_fitted"
    assert fit.average.ci_low <= 0.5 <= fit.average.ci_high
    assert y[t].mean() - y[~t].mean() > 1
    assert np.corrcoef(fit.effects, x[:, 1])[0, 1] > 0.98


def test_invariants():
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    base = fit_uplift(y, t, x, propensity=0.5, unit_keys=keys(y))
    swapped = fit_uplift(y, ~t, x, propensity=0.5, unit_keys=keys(y))
    assert swapped.effects == pytest.approx(-base.effects, abs=1e-9)
    order = np.random.default_rng(3).permutation(len(y))
    moved = fit_uplift(
        3 * y[order] + 9, t[order], 10 * x[order] + 4, propensity=0.5, unit_keys=order
    )
    assert moved.effects == pytest.approx(3 * base.effects[order], abs=1e-8)
    assert moved.std_errors == pytest.approx(3 * base.std_errors[order], rel=1e-7)


def test_a_model_of_your_own_serves_as_base_without_errors():
    def fit_step(features, target):
        above = features[:, -1] > 0
        high, low = target[above].mean(), target[~above].mean()
        return lambda rows: np.where(rows[:, -1] > 0, high, low)

    y, t, x, _ = make_experiment()
    y = y + 2 * t * (x[:, -1] > 0)
    fit = fit_uplift(y, t, x, learner="dr", propensity=0.5, unit_keys=keys(y), base=fit_step)
    assert (fit.base, fit.std_errors, fit.ci_low) == ("custom", None, None)
    step = fit.effects[x[:, -1] > 0].mean() - fit.effects[x[:, -1] <= 0].mean()
    assert step == pytest.approx(2, abs=0.3)


def test_importance_names_the_driver_and_no_noise():
    y, t, x, _ = make_experiment(n=8000, p=4, heterogeneity=0.7)
    fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=keys(y))
    driver, *noise = permutation_importance(fit, x, seed=1, names=["a", "b", "c", "d"])
    assert driver.name == "a"
    assert driver.ci_low > 0
    # Permuting x₀ replaces 0.7·x₀ by an independent copy: E[Δ²] = 2·0.49.
    assert driver.loss_increase == pytest.approx(0.98, rel=0.2)
    for row in noise:
        assert row.ci_low < 0.01
        assert abs(row.loss_increase) < 0.02
        assert row.mean_change > 0
    again = permutation_importance(fit, x, seed=1, names=["a", "b", "c", "d"])
    assert again[0] == driver


def test_importance_of_an_in_sample_fit_is_refused():
    y, t, x, _ = make_experiment()
    with pytest.raises(EstimationError) as caught:
        permutation_importance(fit_uplift(y, t, x, propensity=0.5), x, seed=1)
    assert caught.value.code == "NOT_IDENTIFIED"


def test_thin_folds_and_missing_overlap_are_refused():
    y, t, x, _ = make_experiment(n=900)
    with pytest.raises(EstimationError) as caught:
        fit_uplift(y, t, x, propensity=0.5, unit_keys=keys(y))
    assert caught.value.code == "N_TOO_SMALL"
    assert "need 100" in str(caught.value)
    y, t, x, _ = make_experiment()
    with pytest.raises(EstimationError) as caught:
        fit_uplift(y, t, x, propensity=np.where(x[:, 0] > 1, 0.995, 0.5), unit_keys=keys(y))
    assert caught.value.code == "NO_OVERLAP"


@pytest.mark.parametrize("changes", [{"folds": 1}, {"covariates": np.empty((4000, 0))}])
def test_senseless_calls_raise(changes):
    y, t, x, _ = make_experiment()
    with pytest.raises(ValueError, match="need"):
        fit_uplift(y, t, changes.pop("covariates", x), propensity=0.5, unit_keys=keys(y), **changes)
