import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.pooled_theta import (
    ancova,
    cuped_pooled_theta,
    theta_pooled,
    theta_within,
)


@pytest.mark.parametrize(
    ("case", "outcome", "covariate"),
    [
        ("nsw_experimental", "re78", "re75"),
        ("nsw_experimental", "re78", "re74"),
        ("hillstrom_half_mens", "spend", "history"),
        ("hillstrom_half_mens", "visit", "history"),
        ("hillstrom_half_womens", "spend", "history"),
        ("hillstrom_half_womens", "visit", "history"),
    ],
)
def test_reference_cuped(reference, two_arms, case, outcome, covariate):
    expected = reference("fixed", case)
    numbers = expected.expected[f"cuped_{outcome}_by_{covariate}"]
    control, treatment = two_arms(case)
    y = np.concatenate([control[outcome], treatment[outcome]])
    x = np.concatenate([control[covariate], treatment[covariate]])
    is_treated = np.arange(len(y)) >= len(control)
    result = cuped_pooled_theta(y, is_treated, x)
    difference = result.adjusted.difference
    regression = ancova(y, is_treated, x)
    for name, value in {
        "theta_pooled": theta_pooled(y, x),
        "theta_within": theta_within(y, is_treated, x),
        "diff_cuped": difference.estimate,
        "se_cuped": difference.std_error,
        "t": difference.estimate / difference.std_error,
        "p": difference.p_value,
        "corr": result.correlation,
        "ancova_coef": regression.estimate,
        "ancova_se_hc1": regression.std_error,
    }.items():
        expected.check(value, numbers[name])


def test_scores_square_to_the_variance():
    rng = np.random.default_rng(2)
    x = rng.normal(size=100)
    result = cuped_pooled_theta(x + rng.normal(size=100), rng.random(100) < 0.5, x)
    std_error = result.adjusted.difference.std_error
    assert np.square(result.scores).sum() == pytest.approx(std_error**2, rel=1e-12)
    assert result.scores.sum() == pytest.approx(0.0, abs=1e-12)


def test_constant_covariate_falls_back():
    y, is_treated = np.array([1.0, 2.0, 4.0, 3.0]), [0, 0, 1, 1]
    result = cuped_pooled_theta(y, is_treated, np.ones(4), name="pre")
    assert result.dropped_covariates == ("pre",)
    assert result.adjusted == result.unadjusted
    assert theta_pooled(y, np.ones(4)) is None
    assert theta_within(y, is_treated, [1.0, 1.0, 2.0, 2.0]) is None
    with pytest.raises(EstimationError, match="SINGULAR_DESIGN"):
        ancova(y, is_treated, [1.0, 1.0, 2.0, 2.0])


def test_ancova_is_that_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    x, t = rng.normal(size=80), (rng.random(80) < 0.3).astype(float)
    y = 1 + 2 * x + 0.5 * t + rng.normal(size=80) * (1 + t)
    live = sm.OLS(y, np.column_stack([np.ones(80), t, x])).fit(cov_type="HC1")
    result = ancova(y, t, x)
    assert result.estimate == pytest.approx(live.params[1], rel=1e-10)
    assert result.std_error == pytest.approx(live.bse[1], rel=1e-10)
