import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.pooled_theta import (
    ancova,
    ancova_hc1,
    cuped_pooled_theta,
    cuped_within_theta,
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


METHODS = [cuped_pooled_theta, cuped_within_theta, ancova_hc1]


def make_units(seed=2, n=100):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    is_treated = rng.random(n) < 0.4
    return 3 + x + 0.4 * is_treated * (1 + x) + rng.exponential(size=n), is_treated, x


@pytest.mark.parametrize("method", METHODS)
def test_scores_square_to_the_variance(method):
    result = method(*make_units())
    difference = result.adjusted.difference
    assert np.square(result.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-12)
    assert result.scores.sum() == pytest.approx(0.0, abs=1e-12)
    assert result.adjusted.variance_control + result.adjusted.variance_treatment == pytest.approx(
        difference.std_error**2, rel=1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_arm_swap_scale_shift_and_order(method):
    y, is_treated, x = make_units()
    base = method(y, is_treated, x)
    swapped = method(y, ~is_treated, x)
    np.testing.assert_allclose(swapped.scores, -base.scores, rtol=1e-9, atol=1e-14)
    moved = method(10 * y + 7, is_treated, 3 * x - 100).adjusted.difference
    difference = base.adjusted.difference
    assert moved.estimate == pytest.approx(10 * difference.estimate, rel=1e-9)
    assert moved.p_value == pytest.approx(difference.p_value, rel=1e-9)
    order = np.random.default_rng(0).permutation(len(y))
    np.testing.assert_allclose(
        method(y[order], is_treated[order], x[order]).scores,
        base.scores[order],
        rtol=1e-9,
        atol=1e-14,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(method, alpha):
    for seed in range(40):
        result = method(*make_units(seed), alpha=alpha).adjusted.difference
        assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_within_theta_is_welch_on_the_adjusted_outcome():
    from scipy.stats import ttest_ind

    y, is_treated, x = make_units()
    # The slope on X beside a treatment dummy is the within-arm coefficient.
    design = np.column_stack([np.ones(len(y)), is_treated, x])
    theta = np.linalg.lstsq(design, y, rcond=None)[0][2]
    values = y - theta * (x - x.mean())
    live = ttest_ind(values[is_treated], values[~is_treated], equal_var=False)
    result = cuped_within_theta(y, is_treated, x).adjusted.difference
    assert result.method == "cuped_within_theta"
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-9)
    assert result.degrees_of_freedom == pytest.approx(live.df, rel=1e-9)
    assert result.estimate == pytest.approx(ancova(y, is_treated, x).estimate, rel=1e-12)


def test_pooled_theta_absorbs_a_part_of_a_large_effect_and_within_theta_does_not():
    # By hand: X̄ differs by 1, X and Y are unrelated within the arms, the effect is 10.
    y, is_treated = np.array([0.0, 1, 0, 1, 10, 11, 10, 11]), np.arange(8) >= 4
    x = np.array([0.0, 0, 2, 2, 1, 1, 3, 3])
    assert theta_within(y, is_treated, x) == 0.0
    assert cuped_within_theta(y, is_treated, x).adjusted.difference.estimate == 10.0
    assert ancova(y, is_treated, x).estimate == 10.0
    # Pooled: Σ(x − 1.5)(y − 5.5) = 20 over Σ(x − 1.5)² = 10, times the gap of 1.
    assert theta_pooled(y, x) == pytest.approx(2.0)
    assert cuped_pooled_theta(y, is_treated, x).adjusted.difference.estimate == pytest.approx(8.0)


@pytest.mark.parametrize("method", METHODS)
def test_not_estimable(method):
    y, is_treated, x = make_units()
    with pytest.raises(EstimationError, match=r"pre.*NON_FINITE_INPUT"):
        method(y, is_treated, np.where(x > 0, np.nan, x), name="pre")
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        method(y, np.zeros(len(y)), x)
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        method(y, np.arange(len(y)) == 3, x)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        method(np.ones(len(y)), is_treated, x)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        method(2 * x, is_treated, x)


@pytest.mark.parametrize("method", [cuped_within_theta, ancova_hc1])
def test_covariate_constant_in_both_arms_falls_back(method):
    y, is_treated = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0, 0, 1, 1])
    result = method(y, is_treated, [1.0, 1.0, 2.0, 2.0], name="pre")
    assert result.dropped_covariates == ("pre",)
    assert result.adjusted == result.unadjusted
    assert np.square(result.scores).sum() == pytest.approx(
        result.unadjusted.difference.std_error**2, rel=1e-12
    )


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
    assert result.p_value == pytest.approx(live.pvalues[1], rel=1e-8)
    assert ancova_hc1(y, t, x).adjusted.difference == result
