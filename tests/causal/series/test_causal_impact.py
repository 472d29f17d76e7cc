"""Properties of `estimate_impact`."""

import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest

from experiments_dagster.causal.series.impact import estimate_impact, path_limits, two_sided_p
from experiments_dagster.causal.series.records import EffectInterval


def impact(observed, covariates, n_pre=100, **changes):
    settings = {"min_pre_points": 30, "seed": 7, "n_draws": 1000} | changes
    return estimate_impact(observed, covariates, n_pre, **settings)


@pytest.mark.parametrize("noise", ["independent", "ar", "local_level"])
def test_an_injected_effect_moves_the_estimate_by_exactly_itself(series, noise):
    observed, covariates = series(noise=noise)
    clean = impact(observed, covariates)
    observed[100:] += 4.0
    moved = impact(observed, covariates)
    assert moved.average.estimate - clean.average.estimate == pytest.approx(4.0)
    assert moved.total.ci_low - clean.total.ci_low == pytest.approx(120.0)
    assert moved.average.ci_low <= 4.0 <= moved.average.ci_high


def test_a_large_effect_is_found_and_its_absence_is_not(series):
    assert impact(*series(effect=3.0)).p_value < 0.01
    assert impact(*series()).p_value > 0.05


def test_p_is_below_alpha_exactly_when_the_interval_excludes_zero():
    rng = np.random.default_rng(3)
    for n_draws, alpha in [(1000, 0.05), (1999, 0.05), (2000, 0.1), (999, 0.01)]:
        draws = np.sort(rng.standard_normal(n_draws))
        for k in range(int(alpha * n_draws / 2) + 3):
            # Shifted so that exactly k draws stand at or below 0.
            shifted = draws - (draws[k - 1] + draws[k]) / 2 if k else draws - draws[0] + 1
            low, high = path_limits(shifted, alpha)
            assert (two_sided_p(shifted) < alpha) == (low > 0 or high < 0)
            assert two_sided_p(shifted) == pytest.approx(two_sided_p(-shifted))
            assert two_sided_p(shifted) >= 1 / (n_draws + 1)


def test_the_cumulative_interval_sums_paths_not_pointwise_limits(series):
    result = impact(*series())
    low, high = path_limits(result.total_draws, 0.05)
    assert (result.total.ci_low, result.total.ci_high) == (low, high)
    assert result.cumulative_low[-1] == low
    assert result.cumulative_high[-1] == high
    assert result.cumulative == pytest.approx(result.effect.cumsum())
    # Independent noise: limits grow with √t, pointwise limits add up with t.
    width = result.cumulative_high[-1] - result.cumulative_low[-1]
    naive = (result.effect_high - result.effect_low).sum()
    assert width < 0.6 * naive


def test_average_and_relative_effect_follow_from_the_total(series):
    observed, covariates = series(effect=2.0)
    result = impact(observed, covariates)
    assert result.average.estimate == pytest.approx(result.total.estimate / 30)
    assert result.average.ci_low == pytest.approx(result.total.ci_low / 30)
    actual = observed[100:].sum()
    assert result.relative.estimate == pytest.approx(
        result.total.estimate / (actual - result.total.estimate)
    )
    low, high = path_limits(actual / (actual - result.total_draws) - 1, 0.05)
    assert (result.relative.ci_low, result.relative.ci_high) == pytest.approx((low, high))
    assert (result.relative.ci_low > 0) == (result.total.ci_low > 0)


def test_relative_effect_is_absent_with_a_reason_where_the_prediction_may_be_zero(series):
    observed, covariates = series()
    result = impact(observed - 50, covariates)
    assert result.relative is None
    assert result.relative_reason == "NOT_IDENTIFIED"
    assert impact(observed, covariates).relative_reason is None


@pytest.mark.parametrize("prior", ["weak", "published"])
def test_units_of_outcome_and_covariates_do_not_matter(series, prior):
    observed, covariates = series(effect=1.0, noise="ar")
    base = impact(observed, covariates, prior=prior)
    scaled = impact(1e3 * observed + 7e4, 0.01 * covariates - 3, prior=prior)
    assert scaled.total.estimate == pytest.approx(1e3 * base.total.estimate)
    assert scaled.total.ci_high == pytest.approx(1e3 * base.total.ci_high)
    assert scaled.effect_low == pytest.approx(1e3 * base.effect_low)
    assert scaled.p_value == base.p_value
    assert scaled.local_level_weight == pytest.approx(base.local_level_weight)


def test_order_of_covariates_does_not_matter(series):
    observed, covariates = series(p=4)
    base = impact(observed, covariates)
    permuted = impact(observed, covariates[:, [2, 0, 3, 1]])
    # The same sums in another order: linear algebra, rounding only.
    assert permuted.total.estimate == pytest.approx(base.total.estimate, rel=1e-9)
    assert permuted.total_draws == pytest.approx(base.total_draws, rel=1e-7)


def test_equal_seeds_give_equal_results_and_other_seeds_move_only_the_limits(series):
    observed, covariates = series()
    first, again = impact(observed, covariates), impact(observed, covariates)
    other = impact(observed, covariates, seed=8)
    assert np.array_equal(first.total_draws, again.total_draws)
    assert other.total.estimate == first.total.estimate
    assert other.total.ci_low != first.total.ci_low


def test_nothing_after_the_intervention_reaches_the_counterfactual(series):
    observed, covariates = series()
    base = impact(observed, covariates)
    observed[100:] = np.random.default_rng(0).normal(1e6, 1e5, 30)
    leaky = impact(observed, covariates)
    assert np.array_equal(leaky.counterfactual, base.counterfactual)
    assert np.array_equal(leaky.counterfactual_low, base.counterfactual_low)
    assert leaky.diagnostics == base.diagnostics


def test_missing_outcomes_are_skipped(series):
    observed, covariates = series(noise="ar")
    full = impact(observed, covariates)
    observed[[0, 10, 40, 41, 42, 99, 100, 115]] = np.nan
    result = impact(observed, covariates)
    assert result.counterfactual.shape == (130,)
    assert result.effect.shape == (28,)
    assert np.array_equal(result.effect_steps, np.delete(np.arange(100, 130), [0, 15]))
    assert result.average.estimate == pytest.approx(full.average.estimate, abs=0.5)


def test_a_missing_value_equals_a_shorter_series_at_the_ends(series):
    observed, covariates = series(p=0)
    padded = np.r_[np.nan, observed]
    result = impact(padded, np.empty((131, 0)), n_pre=101)
    # Level and AR noise start at their stationary law, so a leading gap says nothing.
    assert result.total.estimate == pytest.approx(
        impact(observed, covariates).total.estimate, abs=2
    )


def test_constant_covariates_are_dropped_and_named(series):
    observed, covariates = series()
    clean = impact(observed, covariates)
    flat = np.full((130, 1), 0.1)
    result = impact(observed, np.hstack([covariates[:, :1], flat, covariates[:, 1:]]))
    assert result.dropped_covariates == (1,)
    assert result.warnings == ()
    assert result.total == clean.total
    flat[100:] = 5.0
    moving = impact(observed, np.hstack([covariates, flat]))
    assert moving.dropped_covariates == (2,)
    assert "constant before the intervention and moves after it" in moving.warnings[0]


def test_collinear_and_many_covariates_are_handled_by_the_ridge(series):
    observed, covariates = series()
    doubled = impact(observed, np.hstack([covariates, covariates]))
    assert doubled.average.estimate == pytest.approx(
        impact(observed, covariates).average.estimate, abs=0.1
    )
    junk = np.random.default_rng(5).standard_normal((130, 120))
    many = impact(observed, np.hstack([covariates, junk]))
    assert many.average.ci_low < 0 < many.average.ci_high


def test_a_perfect_covariate_gives_a_tight_finite_result(series):
    observed, _ = series()
    result = impact(observed, observed[:, None])
    assert abs(result.average.estimate) < 0.1
    assert result.diagnostics.r2_pre > 0.99


def test_season_sharpens_the_forecast_and_needs_three_cycles(series):
    observed, covariates = series(n_pre=100, n_post=10)
    wave = 5 * np.cos(2 * np.pi * np.arange(110) / 7) + 2 * np.sin(6 * np.pi * np.arange(110) / 7)
    plain, seasonal = (impact(observed + wave, covariates, season=s) for s in (None, 7))
    assert seasonal.is_seasonal
    assert not plain.is_seasonal
    assert seasonal.total.std_error < 0.7 * plain.total.std_error
    assert np.abs(seasonal.effect).max() < 4
    short = impact(observed, covariates, season=34)
    assert not short.is_seasonal
    assert "fewer than 3 cycles" in short.warnings[0]
    assert impact(observed, covariates, season=33).is_seasonal
    assert impact(observed, covariates, season=2).is_seasonal


def test_a_post_period_as_long_as_the_pre_period_warns(series):
    result = impact(*series(n_pre=100, n_post=100))
    assert "not shorter than the pre period" in result.warnings[0]
    assert impact(*series()).warnings == ()


def test_n_post_cuts_the_series(series):
    observed, covariates = series()
    short = impact(observed, covariates, n_post=10)
    assert short.n_post == 10
    assert np.array_equal(short.total_draws, impact(observed[:110], covariates[:110]).total_draws)


@pytest.mark.parametrize("noise", ["independent", "ar", "local_level"])
def test_noise_model_follows_the_data(series, noise):
    n_pre = 600
    result = impact(*series(n_pre=n_pre, noise=noise, seed=2), n_pre=n_pre)
    assert result.noise_model == ("local_level" if noise == "local_level" else "ar1")
    assert (result.local_level_weight > 0.5) == (noise == "local_level")


def test_every_number_that_leaves_is_finite_and_frozen(series):
    observed, covariates = series()
    observed[[5, 120]] = np.nan
    result = impact(observed, covariates)
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray):
            assert np.isfinite(value).all(), field.name
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 0
    with pytest.raises(ValueError, match="finite number"):
        EffectInterval(estimate=np.nan, std_error=1.0, ci_low=0.0, ci_high=1.0)
    with pytest.raises(ValueError, match="inverted"):
        EffectInterval(estimate=0.0, std_error=1.0, ci_low=1.0, ci_high=-1.0)


def test_inputs_are_left_alone(series):
    observed, covariates = series()
    kept = observed.copy(), covariates.copy()
    impact(observed, covariates)
    assert np.array_equal(observed, kept[0])
    assert np.array_equal(covariates, kept[1])
    observed[0] = 1.0  # still writable


def test_importing_the_estimators_loads_no_heavy_library():
    code = (
        "import sys, experiments_dagster.causal.series.placebo;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'scipy', 'pandas', 'polars', 'statsmodels', 'dagster', 'duckdb'}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.mark.alone
def test_three_years_of_days_with_five_covariates_take_less_than_a_third_of_a_second(series):
    observed, covariates = series(n_pre=1035, n_post=60, p=5)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        impact(observed, covariates, n_pre=1035, season=7, n_draws=2000)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
