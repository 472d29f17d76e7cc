"""Leads and lags, the joint test of the leads, the band, and how far trends may differ."""

import numpy as np
import pytest

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.causal.series.event_study import estimate_event_study
from experiments_dagster.causal.series.panel_inference import band_critical_value, joint_test
from experiments_dagster.stats.calibration import rejection_band
from experiments_dagster.stats.errors import EstimationError

ALGEBRA = 1e-9


def make_panel(n_treated=20, n_control=25, *, n_periods=8, n_pre=5, effect=0.0, slope=0.0, seed=0):
    rng = np.random.default_rng(seed)
    n = n_treated + n_control
    walk = 0.5 * rng.normal(size=(n, n_periods)).cumsum(axis=1)
    y = rng.normal(size=(n, 1)) + walk + rng.normal(size=(n, n_periods))
    treated = np.arange(n) < n_treated
    y[treated] += slope * np.arange(n_periods) + effect * (np.arange(n_periods) >= n_pre)
    return y, treated, n_pre


def study(y, treated, n_pre, **changes):
    return estimate_event_study(y, treated, n_pre, **({"seed": 1, "draws": 1000} | changes))


def test_coefficients_and_errors_are_those_of_two_way_fixed_effects():
    import statsmodels.api as sm

    y, treated, n_pre = make_panel(9, 14, n_periods=6, n_pre=3, effect=1.0)
    n, n_periods = y.shape
    unit, time = np.repeat(np.arange(n), n_periods), np.tile(np.arange(n_periods), n)
    given = np.repeat(treated, n_periods)
    design = np.column_stack(
        [
            *(unit == i for i in range(n)),
            *(time == t for t in range(1, n_periods)),
            *(given & (time == t) for t in range(n_periods) if t != n_pre - 1),
        ]
    ).astype(float)
    fit = sm.OLS(y.ravel(), design).fit()
    found = study(y, treated, n_pre)
    estimates = [effect.estimate for effect in found.effects]
    np.testing.assert_allclose(estimates, fit.params[-5:], rtol=0, atol=ALGEBRA)
    # Two groups of units without a common variance: CR2 is Welch's error of the changes.
    changes = y[:, [0, 1, 3, 4, 5]] - y[:, [2]]
    welch = changes[treated].var(axis=0, ddof=1) / 9 + changes[~treated].var(axis=0, ddof=1) / 14
    errors = [effect.std_error for effect in found.effects]
    np.testing.assert_allclose(errors, np.sqrt(welch), rtol=ALGEBRA)


def test_the_average_of_one_period_each_side_is_the_two_by_two():
    y, treated, _ = make_panel(20, 25, n_periods=2, n_pre=1, effect=1.0)
    found = study(y, treated, 1)
    rows = difference_in_differences(
        y.ravel(),
        np.repeat(treated, 2),
        np.tile([0, 1], 45),
        clusters=np.repeat(np.arange(45), 2),
        seed=1,
    ).difference
    for effect in (found.average, found.effects[0]):
        assert effect.estimate == pytest.approx(rows.estimate, rel=ALGEBRA)
        assert effect.std_error == pytest.approx(rows.std_error, rel=ALGEBRA)
        assert effect.degrees_of_freedom == pytest.approx(rows.degrees_of_freedom, rel=ALGEBRA)
    assert (found.pre_trend, found.pre_trend_reason) == (None, "N_TOO_SMALL")
    assert (found.bounds, found.breakdown_magnitude) == ((), None)


def test_the_joint_test_is_the_quadratic_form_and_one_effect_is_its_t_test():
    rng = np.random.default_rng(3)
    scores, estimates = rng.normal(size=(50, 3)), np.array([3.0, -8.0, 11.0])
    found = joint_test(estimates, scores)
    statistic = estimates @ np.linalg.solve(scores.T @ scores, estimates)
    assert found.statistic == pytest.approx(statistic, rel=ALGEBRA)
    single = joint_test(estimates[:1], scores[:, :1])
    t = estimates[0] / np.sqrt(scores[:, 0] @ scores[:, 0])
    assert single.statistic == pytest.approx(t**2, rel=ALGEBRA)
    assert found.p_value > found.chi_square_p_value
    many = joint_test(estimates, np.vstack([scores, np.zeros((10**6, 3))]))
    assert many.p_value == pytest.approx(many.chi_square_p_value, rel=1e-4)


def test_the_band_is_wider_than_one_interval_and_narrower_than_bonferroni():
    from scipy.special import ndtri

    scores = np.random.default_rng(0).normal(size=(400, 6))
    critical = band_critical_value(scores, alpha=0.05, draws=20_000, seed=1)
    assert 1.96 < critical < -ndtri(0.025 / 6) + 0.03  # Monte-Carlo error of the quantile
    one = band_critical_value(scores[:, :1].repeat(6, axis=1), alpha=0.05, draws=20_000, seed=1)
    assert one == pytest.approx(1.96, abs=0.04)
    found = study(*make_panel(effect=1.0))
    for effect in found.effects:
        assert effect.band_low < effect.ci_low < effect.ci_high < effect.band_high


def test_a_trend_is_found_and_survives_as_no_effect():
    """A straight trend and nothing else: the leads show it, and no sign survives at M̄ = 1."""
    y, treated, n_pre = make_panel(100, 100, slope=1.0)
    found = study(y, treated, n_pre)
    assert found.average.p_value < 1e-6
    assert found.pre_trend.test.p_value < 1e-6
    assert not found.bounds[1].excludes_zero
    assert found.breakdown_magnitude < 1


def test_a_large_effect_without_a_trend_survives():
    found = study(*make_panel(400, 400, effect=6.0))
    assert found.bounds[1].magnitude == 1
    assert found.bounds[1].excludes_zero
    assert found.breakdown_magnitude >= 1
    widths = [bound.ci_high - bound.ci_low for bound in found.bounds]
    assert widths == sorted(widths)


def test_power_against_the_trend_that_would_make_the_effect():
    weak = study(*make_panel(12, 12, effect=0.2, seed=4)).pre_trend
    strong = study(*make_panel(400, 400, effect=2.0, seed=4)).pre_trend
    assert strong.power_at_effect > 0.99
    assert weak.power_at_effect < 0.8
    # The mean of the trend over periods 0, 1, 2, counted from −1, is twice its slope.
    assert weak.bias_of_detectable == pytest.approx(2 * weak.detectable_slope)
    assert strong.detectable_slope < weak.detectable_slope


@pytest.mark.slow
def test_the_power_is_the_share_of_trends_found():
    slope = np.mean([study(*make_panel(60, 60, seed=s)).pre_trend.detectable_slope for s in (0, 1)])
    found = [
        study(*make_panel(60, 60, slope=slope, seed=[s, 3])).pre_trend.test.p_value < 0.05
        for s in range(300)
    ]
    # F costs a little power against the χ² of the plan.
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20), (15, 40)])
def test_sizes_of_the_joint_test_the_average_and_the_band(sizes):
    rejected = {"joint": 0, "average": 0, "outside": 0, "chi_square": 0}
    replicates = 800
    for seed in range(replicates):
        found = study(*make_panel(*sizes, seed=[seed, 5]), seed=seed)
        rejected["joint"] += found.pre_trend.test.p_value < 0.05
        rejected["chi_square"] += found.pre_trend.test.chi_square_p_value < 0.05
        rejected["average"] += found.average.p_value < 0.05
        rejected["outside"] += any(not e.band_low <= 0 <= e.band_high for e in found.effects)
    low, high = rejection_band(0.05, replicates)
    for name in ("joint", "average", "outside"):
        assert low <= rejected[name] / replicates <= high, name
    # The broken twin: χ² takes the estimated covariance for known.
    if sizes == (20, 20):
        assert rejected["chi_square"] / replicates > high


@pytest.mark.slow
def test_the_bound_covers_where_trends_go_on_as_before():
    covered = []
    for seed in range(300):
        y, treated, n_pre = make_panel(40, 40, effect=1.0, slope=0.3, seed=[seed, 11])
        bound = study(y, treated, n_pre, seed=seed).bounds[1]
        covered.append(bound.ci_low <= 1.0 <= bound.ci_high)
    assert np.mean(covered) >= 0.95
    plain = []
    for seed in range(300):
        y, treated, n_pre = make_panel(40, 40, effect=1.0, slope=0.3, seed=[seed, 11])
        average = study(y, treated, n_pre, seed=seed).average
        plain.append(average.ci_low <= 1.0 <= average.ci_high)
    assert np.mean(plain) < 0.9


def test_clusters_units_with_gaps_and_row_order():
    y, treated, n_pre = make_panel(effect=1.0)
    base = study(y, treated, n_pre)
    holed = np.vstack([y, np.where(np.arange(8) == 2, np.nan, 1.0)])
    found = study(holed, np.append(treated, True), n_pre)
    assert (found.n_dropped, found.average) == (1, base.average)
    order = np.random.default_rng(0).permutation(len(y))
    mixed = study(y[order], treated[order], n_pre)
    assert mixed.average.estimate == pytest.approx(base.average.estimate, rel=ALGEBRA)
    assert mixed.pre_trend.test.statistic == pytest.approx(base.pre_trend.test.statistic, rel=1e-8)
    twice = study(np.vstack([y, y]), np.tile(treated, 2), n_pre, clusters=np.tile(range(45), 2))
    assert twice.n_clusters == 45
    assert twice.average.std_error == pytest.approx(base.average.std_error, rel=ALGEBRA)


def refused(code, *arguments, **changes):
    with pytest.raises(EstimationError) as caught:
        study(*arguments, **changes)
    assert caught.value.code == code


def test_refusals():
    y, treated, n_pre = make_panel()
    refused("N_TOO_SMALL", y, treated, 0)
    refused("N_TOO_SMALL", y, treated, 8)
    refused("EMPTY_ARM", y, np.zeros(45), n_pre)
    refused("NON_FINITE_INPUT", np.where(y > 3, np.inf, y), treated, n_pre)
    refused("EMPTY_ARM", np.full_like(y, np.nan), treated, n_pre)
    refused("ZERO_VARIANCE", np.ones_like(y), treated, n_pre)
    with pytest.raises(ValueError, match="need"):
        study(y, treated, n_pre, draws=100)
    with pytest.raises(ValueError, match="need"):
        study(y[0], treated, n_pre)
    few = study(*make_panel(3, 2, effect=5.0))
    assert (few.pre_trend, few.pre_trend_reason) == (None, "N_TOO_SMALL")
