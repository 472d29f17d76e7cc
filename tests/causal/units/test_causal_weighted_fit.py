"""Weighted ridge: an independent engine, the unweighted fit, rows that count several times."""

import numpy as np
import pytest

from experiments_dagster.causal.units.weighted_fit import fit_weighted_ridge
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.cross_fitted import fit_ridge


def make_rows(n=300, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1, 10, 0.1, 3] + 5
    y = x @ [1, 0.2, 3, 0] + rng.normal(size=n)
    return x, y, rng.uniform(0.1, 5, size=n)


def test_without_penalty_it_is_weighted_least_squares():
    import statsmodels.api as sm

    x, y, weights = make_rows()
    expected = sm.WLS(y, sm.add_constant(x), weights=weights).fit().fittedvalues
    found = fit_weighted_ridge(x, y, weights, penalty=0.0)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("penalty", [None, 0.3])
def test_equal_weights_are_none(penalty):
    x, y, _ = make_rows()
    found = fit_weighted_ridge(x, y, np.full(len(y), 7.0), penalty=penalty)(x)
    np.testing.assert_allclose(found, fit_ridge(x, y, penalty=penalty)(x), rtol=1e-10)


def test_whole_weights_are_repeated_rows():
    x, y, _ = make_rows()
    times = np.arange(len(y)) % 3 + 1
    repeated = fit_ridge(np.repeat(x, times, axis=0), np.repeat(y, times), penalty=0.5)(x)
    found = fit_weighted_ridge(x, y, times.astype(float), penalty=0.5)(x)
    np.testing.assert_allclose(found, repeated, rtol=1e-9)


def test_constant_columns_have_no_weight_and_noise_is_shrunk():
    x, y, weights = make_rows()
    padded = np.column_stack([x, np.full(len(y), 3.0)])
    np.testing.assert_allclose(
        fit_weighted_ridge(padded, y, weights)(padded),
        fit_weighted_ridge(x, y, weights)(x),
        rtol=1e-10,
    )
    noise = np.random.default_rng(2).normal(size=len(y))
    spread = [fit_weighted_ridge(x, noise, weights, penalty=p)(x).std() for p in (0.0, None, 1e6)]
    assert spread[0] > spread[1] > spread[2]


def test_refusals():
    x, y, weights = make_rows()
    with pytest.raises(EstimationError) as caught:
        fit_weighted_ridge(x, y, np.zeros(len(y)))
    assert caught.value.code == "ZERO_DENOMINATOR"
    with pytest.raises(ValueError, match="1 negative weights"):
        fit_weighted_ridge(x, y, np.where(np.arange(len(y)) == 3, -1.0, weights))
    with pytest.raises(ValueError, match="penalty -1"):
        fit_weighted_ridge(x, y, weights, penalty=-1.0)
