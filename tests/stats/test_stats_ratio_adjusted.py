import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted


def make_units(seed=0, n=2000, effect=0.1):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(4.0, 0.5, n)
    pre = np.column_stack([rng.poisson(3 * rate), np.full(n, 3.0) + rng.poisson(1, n)])
    is_treated = rng.random(n) < 0.5
    denominator = rng.poisson(4, n).astype(float)
    numerator = denominator * (rate + effect * is_treated) + rng.normal(size=n)
    return numerator, denominator, is_treated, pre


def test_denominator_of_ones_is_lin():
    numerator, _, is_treated, pre = make_units()
    names = ["a", "b"]
    ratio = compare_ratios_adjusted(
        numerator, np.ones(len(numerator)), is_treated, pre, names=names
    )
    lin = compare_adjusted(numerator, is_treated, pre, names=names)
    for part in ("difference", "relative"):
        actual, expected = getattr(ratio.adjusted, part), getattr(lin.adjusted, part)
        for name in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
            assert getattr(actual, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    np.testing.assert_allclose(ratio.scores, lin.scores, rtol=1e-9, atol=1e-15)


def test_scores_square_to_the_variance_and_a_good_covariate_reduces_it():
    result = compare_ratios_adjusted(*make_units(), names=["clicks", "views"])
    std_error = result.adjusted.difference.std_error
    assert np.square(result.scores).sum() == pytest.approx(std_error**2, rel=1e-12)
    assert 0.2 < result.variance_reduction < 0.9
    assert result.unadjusted.difference.method == "ratio"
    assert result.correlation > 0.3


def test_an_independent_covariate_moves_little():
    numerator, denominator, is_treated, _ = make_units()
    noise = np.random.default_rng(9).normal(size=(len(numerator), 1))
    result = compare_ratios_adjusted(numerator, denominator, is_treated, noise, names=["noise"])
    moved = result.adjusted.difference.estimate - result.unadjusted.difference.estimate
    assert abs(moved) < 0.1 * result.unadjusted.difference.std_error
    assert result.variance_reduction > -0.005


def test_without_covariates_it_is_the_delta_method():
    numerator, denominator, is_treated, _ = make_units()
    none = np.empty((len(numerator), 0))
    result = compare_ratios_adjusted(numerator, denominator, is_treated, none, names=[])
    assert result.adjusted == result.unadjusted
    assert np.square(result.scores).sum() == pytest.approx(
        result.unadjusted.difference.std_error**2, rel=1e-10
    )


def test_not_estimable():
    numerator, denominator, is_treated, pre = make_units(n=50)
    call = {"names": ["a", "b"]}
    with pytest.raises(EstimationError, match=r"arm treatment.*ZERO_DENOMINATOR"):
        compare_ratios_adjusted(
            numerator, np.where(is_treated, 0.0, denominator), is_treated, pre, **call
        )
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        compare_ratios_adjusted(numerator, -denominator, is_treated, pre, **call)
    with pytest.raises(ValueError, match="length"):
        compare_ratios_adjusted(numerator, denominator[:-1], is_treated, pre, **call)


@pytest.mark.slow
def test_estimate_is_unbiased_and_its_error_honest(monte_carlo_band):
    runs, covered, estimates = 1000, 0, []
    for seed in range(runs):
        result = compare_ratios_adjusted(*make_units(seed, n=600), names=["clicks", "views"])
        difference = result.adjusted.difference
        estimates.append(difference.estimate)
        covered += difference.ci_low <= 0.1 <= difference.ci_high
    low, high = monte_carlo_band(0.95, runs)
    assert low - 0.005 <= covered / runs <= high
    assert np.mean(estimates) == pytest.approx(0.1, abs=4 * np.std(estimates) / np.sqrt(runs))
