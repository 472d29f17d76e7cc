"""The logistic propensity against statsmodels, and what it refuses."""

import numpy as np
import pytest
from scipy.special import expit
from unit_samples import make_observational

from experiments_dagster.causal.units.propensity import (
    cross_fitted_propensity,
    fit_propensity,
    inside_bounds,
    known_propensity,
    measure_overlap,
    require_overlap,
)
from experiments_dagster.stats.errors import EstimationError


def refused(code, call, *args, **kwargs):
    with pytest.raises(EstimationError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    return str(caught.value)


def test_the_fit_is_that_of_statsmodels():
    import statsmodels.api as sm

    _, t, x = make_observational(confounding=1.5)
    ours = fit_propensity(x, t)
    theirs = sm.Logit(t.astype(float), sm.add_constant(x)).fit(disp=0, tol=1e-12)
    # Two Newton iterations to their ends: what is left is rounding.
    assert ours.coefficients == pytest.approx(theirs.params, rel=1e-8)
    assert ours.values == pytest.approx(theirs.predict(), rel=1e-8)


def test_the_score_equations_hold():
    """Residuals sum to zero over the sample and against each covariate, in any units."""
    _, t, x = make_observational()
    fit = fit_propensity(x * [1e6, 1e-6] + [0, 5], t)
    residuals = t - fit.values
    assert np.abs(fit.design.T @ residuals).max() < 1e-9 * len(t)
    assert fit.values == pytest.approx(fit_propensity(x, t).values, rel=1e-8)


def test_the_information_is_the_negative_second_derivative():
    _, t, x = make_observational(n=60)
    fit = fit_propensity(x, t)
    weights = fit.values * (1 - fit.values)
    assert fit.information == pytest.approx((fit.design.T * weights) @ fit.design, rel=1e-6)


def test_a_penalty_shrinks_slopes_and_leaves_the_level():
    _, t, x = make_observational(confounding=2.0)
    free, shrunk = fit_propensity(x, t), fit_propensity(x, t, penalty=0.1)
    assert np.abs(shrunk.coefficients[1:]).max() < np.abs(free.coefficients[1:]).min()
    assert shrunk.values.mean() == pytest.approx(t.mean(), rel=1e-9)
    heavy = fit_propensity(x, t, penalty=1e6)
    assert heavy.values == pytest.approx(np.full(len(t), t.mean()), abs=1e-4)


def test_separated_groups_are_refused_and_a_penalty_fits_them():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 2))
    t = x[:, 0] > 0
    assert "separate" in refused("NO_OVERLAP", fit_propensity, x, t)
    refused("NO_OVERLAP", require_overlap, fit_propensity(x, t, penalty=1e-3))
    t[np.argmin(x[:, 0])] = True
    assert np.isfinite(fit_propensity(x, t).coefficients).all()


def test_a_category_of_treated_units_only_is_refused():
    """Quasi-separation: one slope has no end, the others do."""
    _, t, x = make_observational(n=2000)
    level = np.zeros(2000)
    level[np.flatnonzero(t)[:5]] = 1
    refused("NO_OVERLAP", fit_propensity, np.column_stack([x, level]), t)
    level[np.flatnonzero(~t)[0]] = 1
    assert fit_propensity(np.column_stack([x, level]), t).values.max() < 1


def test_strong_but_possible_selection_converges():
    rng = np.random.default_rng(8)
    x = rng.standard_normal(20_000)
    t = rng.random(20_000) < expit(6 * x)
    assert fit_propensity(x[:, None], t).coefficients[1] == pytest.approx(6, rel=0.1)


def test_collinear_and_constant_columns_are_refused():
    _, t, x = make_observational()
    refused("SINGULAR_DESIGN", fit_propensity, np.column_stack([x, x.sum(axis=1)]), t)
    refused("SINGULAR_DESIGN", fit_propensity, np.column_stack([x, np.full(len(x), 0.1)]), t)
    assert fit_propensity(np.column_stack([x, x[:, 0]]), t, penalty=0.01).values.shape == t.shape


def test_bad_input_is_refused():
    _, t, x = make_observational()
    holed = x.copy()
    holed[3, 1] = np.nan
    assert "column 1" in refused("NON_FINITE_INPUT", fit_propensity, holed, t)
    refused("EMPTY_ARM", fit_propensity, x, np.ones(len(x)))
    refused("NO_OVERLAP", known_propensity, 1.0, 5)
    with pytest.raises(ValueError, match="penalty"):
        fit_propensity(x, t, penalty=-1)
    with pytest.raises(ValueError, match="bounds"):
        inside_bounds(known_propensity(0.5, 4), (0.9, 0.1))
    with pytest.raises(ValueError, match="unit_keys"):
        cross_fitted_propensity(x, t, np.arange(3))


def test_cross_fitting_predicts_no_unit_by_a_model_that_saw_it():
    _, t, x = make_observational(n=400)
    keys = np.arange(400)
    values = cross_fitted_propensity(x, t, keys).values
    from experiments_dagster.stats.methods.units.cross_fitted import fold_numbers

    fold = fold_numbers(keys, folds=5) == 2
    alone = fit_propensity(x[~fold], t[~fold]).coefficients
    assert values[fold] == pytest.approx(expit(alone[0] + x[fold] @ alone[1:]), rel=1e-9)
    order = np.random.default_rng(0).permutation(400)
    moved = cross_fitted_propensity(x[order], t[order], keys[order]).values
    assert moved == pytest.approx(values[order], rel=1e-8)


def test_overlap_alarms_on_extreme_propensities_and_not_on_randomised_units():
    values = np.full(100, 0.5)
    values[:5] = 0.995
    assert require_overlap(known_propensity(values, 100)).extreme_share == 0.05
    values[5] = 0.005
    assert "6.0% of 100" in refused("NO_OVERLAP", require_overlap, known_propensity(values, 100))
    assert inside_bounds(known_propensity(values, 100)).sum() == 94
    for seed in range(20):
        _, t, x = make_observational(confounding=0.0, seed=seed)
        assert measure_overlap(fit_propensity(x, t)).has_overlap
