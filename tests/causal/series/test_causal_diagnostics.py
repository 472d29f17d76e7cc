"""Diagnostics of the pre period: good models look good, bad ones bad."""

import numpy as np
import pytest

from experiments_dagster.causal.series.impact import estimate_impact


def impact(observed, covariates, n_pre=100, **changes):
    settings = {"min_pre_points": 30, "seed": 7, "n_draws": 1000} | changes
    return estimate_impact(observed, covariates, n_pre, **settings)


def test_diagnostics_show_a_good_model_as_good(series):
    good = impact(*series(n_pre=300, noise="ar"), n_pre=300).diagnostics
    assert len(good.acf) == 7
    assert good.max_abs_acf == max(abs(value) for value in good.acf)
    assert good.max_abs_acf < 0.2
    assert good.ljung_box_p > 0.01
    assert good.normality_p > 0.01
    assert good.r2_pre > 0.5
    assert good.mape_pre < 0.1
    assert good.rmse_pre == pytest.approx(1.0, abs=0.15)
    assert good.backtest.n_points == 30
    assert good.backtest.coverage > 0.8


def test_diagnostics_show_a_bad_model_as_bad(series):
    observed, covariates = series(n_pre=300, p=0)
    wave = 5 * np.sin(2 * np.pi * np.arange(330) / 11)
    bad = impact(observed + wave, covariates, n_pre=300).diagnostics
    assert bad.ljung_box_p < 1e-3
    assert bad.max_abs_acf > 0.3
    spiked = observed.copy()
    spiked[[50, 90]] += 15
    assert impact(spiked, covariates, n_pre=300).diagnostics.normality_p < 1e-3
    broken = observed.copy()
    broken[285:300] += 20
    assert not impact(broken, covariates, n_pre=300).diagnostics.backtest.covers_total
    through_zero = observed.copy()
    through_zero[3] = 0.0
    assert impact(through_zero, covariates, n_pre=300).diagnostics.mape_pre is None


def test_the_backtest_is_absent_where_nothing_was_held_out(series):
    observed, covariates = series()
    observed[80:100] = np.nan
    assert impact(observed, covariates).diagnostics.backtest is None
