"""What `estimate_impact` refuses, each beside the nearest case it takes."""

import numpy as np
import pytest

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.stats.errors import EstimationError


def impact(observed, covariates, n_pre=100, **changes):
    settings = {"min_pre_points": 30, "seed": 7, "n_draws": 1000} | changes
    return estimate_impact(observed, covariates, n_pre, **settings)


def refused(code, observed, covariates, n_pre=100, **changes):
    with pytest.raises(EstimationError) as caught:
        impact(observed, covariates, n_pre, **changes)
    assert caught.value.code == code


def test_short_histories_are_refused(series):
    observed, covariates = series(n_pre=29)
    refused("N_TOO_SMALL", observed, covariates, 29)
    observed, covariates = series(n_pre=30)
    assert impact(observed, covariates, 30).n_pre == 30
    observed[3] = np.nan
    refused("N_TOO_SMALL", observed, covariates, 30)
    weekly = series(n_pre=20, n_post=8)
    assert impact(*weekly, 20, min_pre_points=20).n_pre == 20
    refused("N_TOO_SMALL", *weekly, 19, min_pre_points=20)
    refused("N_TOO_SMALL", *weekly, 9, min_pre_points=1)


def test_empty_post_periods_are_refused(series):
    observed, covariates = series()
    refused("N_TOO_SMALL", observed, covariates, 130)
    refused("N_TOO_SMALL", observed, covariates, n_post=0)
    refused("N_TOO_SMALL", observed, covariates, n_post=31)
    observed[100:] = np.nan
    refused("N_TOO_SMALL", observed, covariates)
    observed[129] = 50.0
    assert impact(observed, covariates).effect.shape == (1,)


def test_missing_covariates_and_infinite_outcomes_are_refused(series):
    observed, covariates = series()
    for bad in (np.nan, np.inf):
        holed = covariates.copy()
        holed[120, 1] = bad
        refused("NON_FINITE_INPUT", observed, holed)
        assert impact(observed, holed, n_post=20).n_post == 20
    infinite = observed.copy()
    infinite[3] = np.inf
    refused("NON_FINITE_INPUT", infinite, covariates)


def test_a_constant_outcome_is_refused(series):
    observed, covariates = series()
    refused("ZERO_VARIANCE", np.r_[np.full(100, 0.1), observed[100:]], covariates)
    nearly = np.full(130, 0.1)
    nearly[50] += 1e-3
    assert impact(nearly, covariates).n_pre == 100


@pytest.mark.parametrize("changes", [{"alpha": 0}, {"alpha": 1.5}, {"n_draws": 40}, {"season": 1}])
def test_senseless_settings_raise(series, changes):
    with pytest.raises(ValueError, match="need"):
        impact(*series(), **changes)


def test_shapes_that_do_not_match_raise(series):
    observed, covariates = series()
    with pytest.raises(ValueError, match="need \\(n,\\) and \\(n, p\\)"):
        impact(observed, covariates[:-1])
    with pytest.raises(ValueError, match="need \\(n,\\) and \\(n, p\\)"):
        impact(observed, covariates[:, 0])
