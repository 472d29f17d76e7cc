import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.regression.linear_model import GLS

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.novelty import daily_effects, novelty_test


def draw(seed, n=900, days=10, effect=0.0):
    """Correlated days of unequal spread: a unit's own level, then a random walk."""
    rng = np.random.default_rng(seed)
    is_treated = rng.random(n) < 0.4
    noise = rng.normal(size=(n, 1)) + np.cumsum(rng.normal(size=(n, days)), axis=1) / 2
    return noise + is_treated[:, None] * np.broadcast_to(effect, days), is_treated


def covariance_of(seed, days):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(days, days + 3))
    return root @ root.T / 50


@pytest.mark.parametrize("days", [7, 14, 28])
def test_agrees_with_statsmodels_gls(days):
    rng = np.random.default_rng(days)
    sigma = covariance_of(days, days)
    delta = rng.normal(size=days)
    found = novelty_test(delta, sigma)
    design = np.column_stack([np.ones(days), np.arange(days)])
    # Σ is known, not estimated up to a factor: hence cov_params without the residual scale.
    fit = GLS(delta, design, sigma=sigma).fit()
    assert found.slope == pytest.approx(fit.params[1], rel=1e-8)
    assert found.std_error == pytest.approx(math.sqrt(fit.normalized_cov_params[1, 1]), rel=1e-8)
    assert found.n_days == days


@given(st.integers(0, 1000), st.floats(-50, 50))
def test_an_effect_that_never_changes_has_no_slope(seed, level):
    """The wrong twin, centred at the plain mean, shows one wherever days differ in variance."""
    days = 9
    sigma = covariance_of(seed, days)
    found = novelty_test(np.full(days, level), sigma)
    assert found.slope == pytest.approx(0.0, abs=1e-9 * max(1.0, abs(level)))
    assert found.contrast == pytest.approx(0.0, abs=1e-9)


def test_the_plain_mean_would_show_a_slope():
    sigma = np.diag([0.01, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
    day = np.arange(7) - 3.0
    inverse = np.linalg.inv(sigma)
    twin = day @ inverse @ np.ones(7) / (day @ inverse @ day)
    assert abs(twin) > 5 / math.sqrt(day @ inverse @ day) / 2
    assert novelty_test(np.ones(7), sigma).slope == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.001, 1000))
def test_swap_scale_and_shift(seed, level, scale):
    rng = np.random.default_rng(seed)
    sigma, delta = covariance_of(seed, 8), rng.normal(size=8)
    base = novelty_test(delta, sigma)
    swapped = novelty_test(-delta, sigma)
    assert (swapped.slope, swapped.p_value) == (-base.slope, base.p_value)
    assert (swapped.contrast, swapped.early) == (-base.contrast, -base.early)
    shifted = novelty_test(delta + level, sigma)
    assert shifted.slope == pytest.approx(base.slope, rel=1e-7, abs=1e-9)
    assert shifted.late == pytest.approx(base.late + level, abs=1e-9)
    scaled = novelty_test(scale * delta, scale**2 * sigma)
    assert scaled.slope == pytest.approx(scale * base.slope, rel=1e-8)
    assert scaled.p_value == pytest.approx(base.p_value, rel=1e-7)


def test_contrast_is_late_minus_early():
    found = novelty_test(np.arange(8.0), 0.1 * np.eye(8))
    assert (found.early, found.late, found.contrast) == pytest.approx((0.5, 6.5, 6.0))
    assert found.contrast_std_error == pytest.approx(math.sqrt(0.1))
    assert found.slope == pytest.approx(1.0)
    assert found.is_flagged
    assert not novelty_test(0.01 * np.arange(8.0), 0.1 * np.eye(8)).is_flagged


def test_daily_effects_are_welch_day_by_day():
    from experiments_dagster.stats.methods.moments.mean import compare_means
    from experiments_dagster.stats.moments import ArmMoments

    y, is_treated = draw(1)
    found = daily_effects(y, is_treated)
    for day in range(y.shape[1]):
        welch = compare_means(
            ArmMoments.from_arrays(y=y[~is_treated, day]),
            ArmMoments.from_arrays(y=y[is_treated, day]),
        ).difference
        assert found.effects[day] == pytest.approx(welch.estimate, rel=1e-9)
        assert math.sqrt(found.covariance[day, day]) == pytest.approx(welch.std_error, rel=1e-9)
    sizes = (~is_treated).sum(), is_treated.sum()
    by_numpy = sum(
        np.cov(y[mask], rowvar=False) / n
        for mask, n in zip((~is_treated, is_treated), sizes, strict=True)
    )
    assert found.covariance == pytest.approx(by_numpy, rel=1e-9, abs=1e-12)
    assert (found.n_control, found.n_treatment) == sizes


def test_units_in_any_order_and_arms_swapped():
    y, is_treated = draw(2, effect=np.linspace(0.5, 0, 10))
    base = daily_effects(y, is_treated)
    moved = daily_effects(y[::-1], is_treated[::-1])
    assert moved.effects == pytest.approx(base.effects, rel=1e-9)
    swapped = daily_effects(y, ~is_treated)
    assert swapped.effects == pytest.approx(-base.effects, rel=1e-12)
    assert swapped.covariance == pytest.approx(base.covariance, rel=1e-9)
    offset = daily_effects(y + 1e7, is_treated)
    # The offset costs seven of sixteen digits.
    assert offset.effects == pytest.approx(base.effects, abs=1e-7)


def test_finds_novelty_and_primacy():
    for effect, sign in ((np.linspace(1, 0, 10), -1), (np.linspace(0, 1, 10), 1)):
        found = daily_effects(*draw(3, effect=effect))
        result = novelty_test(found.effects, found.covariance)
        assert result.is_flagged
        assert math.copysign(1, result.slope) == sign
        assert math.copysign(1, result.contrast) == sign


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 3.0])
def test_a_constant_effect_is_flagged_at_the_level(effect, monte_carlo_band):
    runs = 3000
    flagged = 0
    for seed in range(runs):
        found = daily_effects(*draw(seed, n=1500, days=8, effect=effect))
        flagged += novelty_test(found.effects, found.covariance).is_flagged
    low, high = monte_carlo_band(0.01, runs)
    assert low < flagged / runs < high


def novelty(days=7, n=400, **changes):
    y, is_treated = draw(1, n=n, days=days)
    for column, value in changes.items():
        y[0, int(column[1:])] = value
    return daily_effects(y, is_treated)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: novelty(days=6), "N_TOO_SMALL"),
        (lambda: novelty(n=139), "N_TOO_SMALL"),
        (lambda: novelty(d3=math.nan), "NON_FINITE_INPUT"),
        (lambda: daily_effects(np.zeros((400, 7)), np.ones(400)), "EMPTY_ARM"),
        (lambda: novelty_test(np.zeros(6), np.eye(6)), "N_TOO_SMALL"),
        (lambda: novelty_test([math.inf] * 7, np.eye(7)), "NON_FINITE_INPUT"),
        (lambda: novelty_test(np.zeros(7), np.diag([1.0] * 6 + [0.0])), "ZERO_VARIANCE"),
        (lambda: novelty_test(np.zeros(7), np.ones((7, 7))), "SINGULAR_DESIGN"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: novelty_test(np.zeros(7), np.eye(8)), "need"),
        (lambda: daily_effects(np.zeros(7), [0, 1]), r"need \(n, days\)"),
        (lambda: daily_effects(np.zeros((400, 7)), [0, 1]), "is_treated needs 400"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
