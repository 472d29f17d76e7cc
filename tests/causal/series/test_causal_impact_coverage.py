"""Coverage at zero effect: 1,000 series of 100 + 30 points for each kind of noise (METHODS 14)."""

import numpy as np
import pytest

from experiments_dagster.causal.series.impact import estimate_impact

N_SERIES = 1000
# 99.9 % Monte-Carlo band around 95 %.
BAND = 3.29 * np.sqrt(0.95 * 0.05 / N_SERIES)
NOISES = ["independent", "ar", "local_level"]


def in_band(coverage):
    return abs(coverage - 0.95) <= BAND


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_cumulative_interval_covers_and_is_not_much_wider_than_the_true_model_s(
    series, true_total_sd, noise
):
    covered, widths = [], []
    for seed in range(N_SERIES):
        observed, covariates = series(p=0, noise=noise, seed=[seed, 11])
        total = estimate_impact(
            observed, covariates, 100, min_pre_points=30, n_draws=1000, seed=seed
        ).total
        covered.append(total.ci_low <= 0 <= total.ci_high)
        widths.append(total.ci_high - total.ci_low)
    assert in_band(np.mean(covered)), np.mean(covered)
    # The true model knows its variances and autocorrelation; only its mean is estimated.
    true_width = 2 * 1.96 * true_total_sd(noise, 100, 30)
    assert np.mean(widths) <= 1.3 * true_width, np.mean(widths) / true_width


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["ar", "local_level"])
def test_an_interval_from_residuals_alone_falls_outside_the_band(series, noise):
    covered = []
    for seed in range(N_SERIES):
        observed, _ = series(p=0, noise=noise, seed=[seed, 11])
        pre, post = observed[:100], observed[100:]
        half = 1.96 * pre.std(ddof=1) * np.sqrt(30)
        covered.append(abs((post - pre.mean()).sum()) <= half)
    assert np.mean(covered) < 0.95 - BAND


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["ar", "local_level"])
def test_the_published_prior_falls_outside_the_band(series, noise):
    # Why it is not the default.
    covered = []
    for seed in range(300):
        observed, covariates = series(p=1, noise=noise, seed=[seed, 13])
        total = estimate_impact(
            observed,
            covariates,
            100,
            min_pre_points=30,
            n_draws=500,
            seed=seed,
            prior="published",
        ).total
        covered.append(total.ci_low <= 0 <= total.ci_high)
    assert np.mean(covered) < 0.95 - 3.29 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.slow
def test_p_values_are_uniform_enough_under_independent_noise(series):
    p_values = []
    for seed in range(400):
        observed, covariates = series(p=2, seed=[seed, 17])
        result = estimate_impact(
            observed, covariates, 100, min_pre_points=30, n_draws=500, seed=seed
        )
        p_values.append(result.p_value)
    for level in (0.1, 0.5):
        # Averaging over noise models is mildly conservative under white noise, never liberal.
        upper = level + 3.29 * np.sqrt(level * (1 - level) / 400)
        assert np.mean(np.array(p_values) <= level) <= upper
    assert np.mean(np.array(p_values) <= 0.5) > 0.35
