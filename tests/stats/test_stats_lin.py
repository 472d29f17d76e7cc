import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.lin import compare_adjusted, with_missing_indicator

# Two numerically different routes to the same linear algebra.
ALGEBRA = 1e-9


def make_units(seed=0, n=300, p=2, effect=0.3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.arange(1, p + 1)
    is_treated = rng.random(n) < 0.4
    y = 5 + x.sum(axis=1) + effect * is_treated * (1 + x[:, 0]) + rng.exponential(size=n)
    return y, is_treated, x


def names_of(x):
    return [f"x{index}" for index in range(x.shape[1])]


def adjusted(y, is_treated, x, **options):
    return compare_adjusted(y, is_treated, x, names=names_of(x), **options)


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
def test_reference_lin(reference, two_arms, case, outcome, covariate):
    expected = reference("fixed", case)
    control, treatment = two_arms(case)
    numbers = expected.expected[f"cuped_{outcome}_by_{covariate}"]
    y = np.concatenate([control[outcome], treatment[outcome]])
    x = np.concatenate([control[covariate], treatment[covariate]])
    is_treated = np.arange(len(y)) >= len(control)
    result = compare_adjusted(y, is_treated, x[:, None], names=[covariate])
    assert len(y) == numbers["n"]
    expected.check(result.adjusted.difference.estimate, numbers["lin_coef"])
    expected.check(result.adjusted.difference.std_error, numbers["lin_se_hc2"])
    expected.check(result.correlation, numbers["corr"])
    expected.check(1 - result.correlation**2, numbers["var_ratio"])
    welch = expected.expected[f"welch_{outcome}"]
    expected.check(result.unadjusted.difference.p_value, welch["p"])


@pytest.mark.parametrize("p", [1, 2, 4])
def test_hc2_is_that_of_statsmodels(p):
    import statsmodels.api as sm

    y, is_treated, x = make_units(seed=p, n=120, p=p)
    centred = x - x.mean(axis=0)
    t = is_treated[:, None].astype(float)
    design = np.column_stack([np.ones(len(y)), t, centred, t * centred])
    live = sm.OLS(y, design).fit(cov_type="HC2")
    result = adjusted(y, is_treated, x).adjusted.difference
    assert result.estimate == pytest.approx(live.params[1], rel=ALGEBRA)
    assert result.std_error == pytest.approx(live.bse[1], rel=ALGEBRA)
    assert result.p_value == pytest.approx(live.pvalues[1], rel=1e-7)


@pytest.mark.parametrize("p", [1, 3])
def test_hc3_is_that_of_statsmodels(p):
    import statsmodels.api as sm

    y, is_treated, x = make_units(seed=p, n=90, p=p)
    centred = x - x.mean(axis=0)
    t = is_treated[:, None].astype(float)
    design = np.column_stack([np.ones(len(y)), t, centred, t * centred])
    live = sm.OLS(y, design).fit(cov_type="HC3")
    result = adjusted(y, is_treated, x, variance_formula="hc3")
    difference = result.adjusted.difference
    assert difference.variance_formula == "hc3"
    assert difference.estimate == pytest.approx(live.params[1], rel=ALGEBRA)
    assert difference.std_error == pytest.approx(live.bse[1], rel=ALGEBRA)
    assert np.square(result.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-12)
    assert difference.std_error > adjusted(y, is_treated, x).adjusted.difference.std_error


def make_three_arms():
    rng = np.random.default_rng(11)
    arm = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 2)) + 0.3 * arm[:, None]
    y = 2 + x[:, 0] * (1 + arm) - x[:, 1] + 0.5 * (arm == 2) + rng.exponential(size=400)
    return arm, x, y


@pytest.mark.parametrize("formula", ["lin_hc2", "hc3"])
@pytest.mark.parametrize("treatment", [1, 2])
def test_several_arms_adjust_at_the_mean_of_all(formula, treatment):
    import statsmodels.api as sm

    arm, x, y = make_three_arms()
    centred = x - x.mean(axis=0)
    arms = np.column_stack([arm == 1, arm == 2]).astype(float)
    slopes = [column[:, None] * centred for column in arms.T]
    design = np.column_stack([np.ones(len(y)), arms, centred, *slopes])
    live = sm.OLS(y, design).fit(cov_type=formula[-3:].upper())
    pair = (arm == 0) | (arm == treatment)
    both = adjusted(
        y[pair], arm[pair] == treatment, x[pair], centre=x.mean(axis=0), variance_formula=formula
    )
    result = both.adjusted.difference
    assert result.estimate == pytest.approx(live.params[treatment], rel=ALGEBRA)
    assert result.std_error == pytest.approx(live.bse[treatment], rel=ALGEBRA)
    assert np.square(both.scores).sum() == pytest.approx(result.std_error**2, rel=1e-12)
    # The wrong twin, centred at the mean of the pair, answers for another population.
    alone = adjusted(y[pair], arm[pair] == treatment, x[pair]).adjusted.difference
    assert abs(alone.estimate - result.estimate) > 1e-3


def test_the_pairs_own_mean_is_the_default_centre_and_dropping_keeps_the_rest():
    y, is_treated, x = make_units()
    base = adjusted(y, is_treated, x).adjusted.difference
    same = adjusted(y, is_treated, x, centre=x.mean(axis=0)).adjusted.difference
    assert same.estimate == pytest.approx(base.estimate, rel=1e-12)
    wide = np.column_stack([np.ones(len(y)), x])
    dropped = adjusted(y, is_treated, wide, centre=wide.mean(axis=0))
    assert dropped.dropped_covariates == ("x0",)
    assert dropped.adjusted.difference.estimate == pytest.approx(base.estimate, rel=1e-12)


def test_centre_is_one_finite_value_for_each_covariate_and_not_for_superpop():
    y, is_treated, x = make_units()
    with pytest.raises(ValueError, match="centre has 1 values"):
        adjusted(y, is_treated, x, centre=[0.0])
    with pytest.raises(EstimationError, match=r"centre.*NON_FINITE_INPUT"):
        adjusted(y, is_treated, x, centre=[0.0, np.nan])
    with pytest.raises(ValueError, match="lin_superpop"):
        adjusted(y, is_treated, x, centre=[0.0, 0.0], variance_formula="lin_superpop")


def test_scores_square_to_the_variance_and_follow_the_input_order():
    y, is_treated, x = make_units()
    result = adjusted(y, is_treated, x)
    contrast = result.adjusted
    assert np.square(result.scores).sum() == pytest.approx(
        contrast.difference.std_error**2, rel=1e-12
    )
    assert np.square(result.scores[is_treated]).sum() == pytest.approx(
        contrast.variance_treatment, rel=1e-12
    )
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = adjusted(y[order], is_treated[order], x[order])
    np.testing.assert_allclose(shuffled.scores, result.scores[order], rtol=1e-6, atol=1e-14)


def test_superpopulation_variance_adds_the_sampling_of_the_covariate_mean():
    y, is_treated, x = make_units(n=4000, effect=2.0)
    plain = adjusted(y, is_treated, x)
    wider = adjusted(y, is_treated, x, variance_formula="lin_superpop")
    extra = wider.adjusted.difference.std_error**2 - plain.adjusted.difference.std_error**2
    # Slopes differ by 2 in x0, whose variance is 1: about 4/n.
    assert extra == pytest.approx(4 / 4000, rel=0.25)
    assert wider.adjusted.difference.estimate == plain.adjusted.difference.estimate
    assert wider.adjusted.difference.variance_formula == "lin_superpop"


def test_lift_is_over_the_raw_control_mean_with_its_covariance():
    y, is_treated, x = make_units()
    result = adjusted(y, is_treated, x)
    lift, difference = result.adjusted.relative, result.adjusted.difference
    raw = y[~is_treated]
    assert difference.control_mean == pytest.approx(raw.mean())
    assert lift.estimate == pytest.approx(difference.estimate / raw.mean())
    phi = np.zeros(len(y))
    n = len(raw)
    phi[~is_treated] = (raw - raw.mean()) / n * np.sqrt(n / (n - 1))
    psi = result.scores / raw.mean() - difference.estimate / raw.mean() ** 2 * phi
    assert lift.std_error == pytest.approx(np.sqrt(np.square(psi).sum()), rel=1e-10)


def test_without_covariates_it_is_welch():
    y, is_treated, _ = make_units()
    result = adjusted(y, is_treated, np.empty((len(y), 0)))
    assert result.adjusted == result.unadjusted
    assert result.variance_reduction == 0
    assert result.correlation is None
    assert np.square(result.scores).sum() == pytest.approx(
        result.unadjusted.difference.std_error**2, rel=1e-12
    )


@given(st.floats(1e-3, 1e3), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_scale_of_y_and_origin_and_scale_of_x_do_not_matter(k, shift, scale):
    y, is_treated, x = make_units()
    base = adjusted(y, is_treated, x).adjusted.difference
    moved = adjusted(k * y, is_treated, scale * x + shift * scale).adjusted.difference
    assert moved.estimate == pytest.approx(k * base.estimate, rel=1e-6)
    assert moved.std_error == pytest.approx(k * base.std_error, rel=1e-6)
    assert moved.p_value == pytest.approx(base.p_value, rel=1e-5)


def test_offset_of_1e9_in_outcome_and_covariate():
    y, is_treated, x = make_units()
    y, x = np.round(y * 1024) / 1024, np.round(x * 1024) / 1024
    base, far = adjusted(y, is_treated, x), adjusted(y + 1e9, is_treated, x + 1e9)
    assert far.adjusted.difference.estimate == pytest.approx(
        base.adjusted.difference.estimate, abs=1e-6
    )
    assert far.adjusted.difference.std_error == pytest.approx(
        base.adjusted.difference.std_error, rel=1e-6
    )


def test_arm_swap_changes_signs_only():
    y, is_treated, x = make_units()
    base, swapped = adjusted(y, is_treated, x), adjusted(y, ~is_treated, x)
    assert swapped.adjusted.difference.estimate == pytest.approx(
        -base.adjusted.difference.estimate, rel=1e-12
    )
    np.testing.assert_allclose(swapped.scores, -base.scores, rtol=1e-9, atol=1e-15)


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.3]))
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(seed, alpha):
    y, is_treated, x = make_units(seed=seed, n=60)
    result = adjusted(y, is_treated, x, alpha=alpha).adjusted.difference
    assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_unusable_columns_are_dropped_by_name():
    y, is_treated, x = make_units(n=200)
    columns = {
        "constant": np.full(200, 1e9 + 0.1),
        "x0": x[:, 0],
        "copy": 3 * x[:, 0] - 7,
        "only_treated": np.where(is_treated, x[:, 1], 0.0),
        "one_unit": (np.arange(200) == np.flatnonzero(is_treated)[0]).astype(float),
        "x1": x[:, 1],
    }
    result = compare_adjusted(y, is_treated, np.column_stack(list(columns.values())), names=columns)
    assert result.dropped_covariates == ("constant", "copy", "only_treated", "one_unit")
    clean = adjusted(y, is_treated, x)
    assert result.adjusted.difference.estimate == pytest.approx(
        clean.adjusted.difference.estimate, rel=ALGEBRA
    )


def test_indicator_of_one_unit_per_arm_isolates_and_is_dropped():
    y, is_treated, x = make_units(n=100)
    lone = np.zeros(100)
    lone[[np.flatnonzero(is_treated)[0], np.flatnonzero(~is_treated)[0]]] = 1.0
    result = compare_adjusted(
        y, is_treated, np.column_stack([x[:, 0], lone]), names=["x", "x_missing"]
    )
    assert result.dropped_covariates == ("x_missing",)


def test_all_dropped_falls_back_to_the_unadjusted_contrast():
    y, is_treated, _ = make_units()
    result = compare_adjusted(y, is_treated, np.ones((len(y), 1)), names=["x"])
    assert result.dropped_covariates == ("x",)
    assert result.adjusted == result.unadjusted
    assert result.adjusted.difference.method == "welch"
    assert result.correlation is None


def test_more_covariates_than_units_leaves_a_degree_of_freedom():
    y, is_treated, x = make_units(n=12, p=9)
    result = adjusted(y, is_treated, x)
    smallest = min(is_treated.sum(), (~is_treated).sum())
    assert 9 - len(result.dropped_covariates) <= smallest - 2


def test_missing_pre_period_becomes_zero_and_an_indicator():
    matrix, names = with_missing_indicator([1.0, np.nan, 3.0], name="spend")
    assert names == ("spend", "spend_missing")
    assert matrix.tolist() == [[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]
    matrix, names = with_missing_indicator([1.0, 2.0])
    assert names == ("pre_period",)
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        with_missing_indicator([np.inf])


def test_missing_for_everyone_is_no_adjustment():
    y, is_treated, _ = make_units()
    matrix, names = with_missing_indicator(np.full(len(y), np.nan))
    result = compare_adjusted(y, is_treated, matrix, names=names)
    assert result.dropped_covariates == names
    assert result.variance_reduction == 0


def test_not_estimable():
    y, is_treated, x = make_units(n=50)
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(EstimationError, match=r"x1.*NON_FINITE_INPUT"):
        adjusted(y, is_treated, bad)
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        adjusted(np.where(np.arange(50) == 3, np.inf, y), is_treated, x)
    with pytest.raises(EstimationError, match=r"arm treatment.*EMPTY_ARM"):
        adjusted(y, np.zeros(50), x)
    with pytest.raises(EstimationError, match=r"arm treatment.*N_TOO_SMALL"):
        adjusted(y, np.arange(50) == 0, x)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        adjusted(np.ones(50), is_treated, x)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        adjusted(x[:, 0], is_treated, x)


def test_misuse_is_a_bug_not_a_result():
    y, is_treated, x = make_units(n=50)
    with pytest.raises(ValueError, match="covariates have shape"):
        adjusted(y, is_treated, x[:40])
    with pytest.raises(ValueError, match="is_treated"):
        adjusted(y, is_treated * 2, x)
    with pytest.raises(ValueError, match="y has shape"):
        adjusted(y[:, None], is_treated, x)


@pytest.mark.alone
def test_a_million_units_take_well_under_a_second():
    y, is_treated, x = make_units(n=1_000_000)
    started = time.perf_counter()
    adjusted(y, is_treated, x)
    # 0.25 s on the build machine; the limit leaves room for a busy one.
    assert time.perf_counter() - started < 1.5


@pytest.mark.slow
def test_size_is_nominal_in_aa_tests(monte_carlo_band):
    rng = np.random.default_rng(20)
    runs, n, rejections = 2000, 500, 0
    for _ in range(runs):
        x = rng.exponential(size=(n, 1))
        y = x[:, 0] ** 2 + rng.normal(size=n)
        is_treated = rng.permutation(n) < n // 2
        rejections += adjusted(y, is_treated, x).adjusted.difference.p_value < 0.05
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejections / runs <= high
