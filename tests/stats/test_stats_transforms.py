import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.transforms import (
    compare_capped_shares,
    compare_log_means,
    frozen_cap,
    log1p_outcome,
    winsorise,
)
from experiments_dagster.stats.moments import ArmMoments

values = arrays(np.float64, st.integers(1, 60), elements=st.floats(0.5, 1e6))


@given(values, st.floats(0.01, 0.99))
def test_cap_is_the_type_seven_quantile(column, quantile):
    """By its definition: linear between the order statistics around (n − 1)q."""
    ordered = np.sort(column)
    position = (len(ordered) - 1) * quantile
    below = int(np.floor(position))
    above = min(below + 1, len(ordered) - 1)
    expected = ordered[below] + (position - below) * (ordered[above] - ordered[below])
    assert frozen_cap(column, quantile) == pytest.approx(expected, rel=1e-12)


def test_cap_agrees_with_scipy_and_ignores_order():
    column = np.random.default_rng(1).lognormal(3, 2, 5000)
    hazen = stats.mstats.mquantiles(column, 0.999, alphap=1, betap=1)[0]
    assert frozen_cap(column) == pytest.approx(hazen, rel=1e-12)
    assert frozen_cap(column[::-1]) == frozen_cap(column)


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ([], "N_TOO_SMALL"),
        ([0.0] * 2000 + [5.0], "NOT_IDENTIFIED"),
        ([-3.0, -2.0], "NOT_IDENTIFIED"),
        ([1.0, float("nan")], "NON_FINITE_INPUT"),
        ([1.0, float("inf")], "NON_FINITE_INPUT"),
    ],
)
def test_cap_refused(column, code):
    with pytest.raises(EstimationError) as error:
        frozen_cap(column)
    assert error.value.code == code


@pytest.mark.parametrize("quantile", [0.0, 1.0, 99.9, float("nan")])
def test_quantile_outside_its_range(quantile):
    with pytest.raises(ValueError, match="quantile"):
        frozen_cap([1.0, 2.0], quantile)


@given(values, st.floats(1.0, 1e6))
def test_winsorise(column, cap):
    before = column.copy()
    capped = winsorise(column, cap)
    assert (column == before).all()
    assert (capped[column <= cap] == column[column <= cap]).all()
    assert (capped[column > cap] == cap).all()
    assert (winsorise(capped, cap) == capped).all()


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan"), float("inf")])
def test_no_cap(cap):
    with pytest.raises(ValueError, match="cap"):
        winsorise([1.0], cap)
    with pytest.raises(ValueError, match="cap"):
        compare_capped_shares([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], cap)


def test_winsorise_refuses_what_is_not_finite():
    with pytest.raises(EstimationError) as error:
        winsorise([1.0, float("inf")], 5.0)
    assert error.value.code == "NON_FINITE_INPUT"


def test_a_cap_per_arm_would_bias_the_effect():
    """The wrong twin: each arm cut at its own quantile hides an effect that sits in the tail."""
    rng = np.random.default_rng(2)
    control, treatment = rng.lognormal(1, 1.5, (2, 20_000))
    treatment[:200] += 100.0
    cap = frozen_cap(rng.lognormal(1, 1.5, 20_000))
    one_cap = winsorise(treatment, cap).mean() - winsorise(control, cap).mean()
    shifted_cap = cap + 100.0
    per_arm = winsorise(treatment, shifted_cap).mean() - winsorise(control, cap).mean()
    assert per_arm > one_cap + 0.05


def test_capped_share_agrees_with_scipy():
    rng = np.random.default_rng(3)
    y = rng.exponential(10, 20_000)
    mask = rng.random(20_000) < 0.4
    result = compare_capped_shares(y, mask, 40.0)
    table = [[(y[a] > 40).sum(), (y[a] <= 40).sum()] for a in (~mask, mask)]
    assert result.test == "chi_square"
    assert result.p_value == pytest.approx(
        stats.chi2_contingency(table, correction=False).pvalue, rel=1e-10
    )
    assert result.share_control == pytest.approx((y[~mask] > 40).mean())
    assert result.share_treatment == pytest.approx((y[mask] > 40).mean())
    swapped = compare_capped_shares(y, ~mask, 40.0)
    assert swapped.p_value == pytest.approx(result.p_value, rel=1e-10)
    assert swapped.capped_control == result.capped_treatment


def test_few_capped_units_take_the_exact_test():
    y = np.r_[np.ones(998), 50.0, 60.0, np.ones(994), 70.0 * np.ones(6)]
    mask = np.arange(2000) >= 1000
    result = compare_capped_shares(y, mask, 10.0)
    assert (result.test, result.capped_control, result.capped_treatment) == ("fisher", 2, 6)
    assert result.p_value == pytest.approx(stats.fisher_exact([[2, 998], [6, 994]]).pvalue)


@pytest.mark.parametrize("cap", [0.5, 100.0])
def test_nobody_or_everybody_capped(cap):
    result = compare_capped_shares([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], cap)
    assert (result.p_value, result.test, result.reason) == (None, None, "ZERO_VARIANCE")
    assert result.share_control == result.share_treatment == (1.0 if cap < 1 else 0.0)


def test_a_value_at_the_cap_is_not_capped():
    assert compare_capped_shares([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], 4.0).capped_treatment == 0


def test_log_means_are_welch_on_logs():
    rng = np.random.default_rng(4)
    y = rng.lognormal(2, 2, 3000)
    mask = rng.random(3000) < 0.5
    result = compare_log_means(y, mask)
    difference = result.contrast.difference
    live = stats.ttest_ind(np.log1p(y[mask]), np.log1p(y[~mask]), equal_var=False)
    assert difference.p_value == pytest.approx(live.pvalue, rel=1e-9)
    assert difference.degrees_of_freedom == pytest.approx(live.df, rel=1e-9)
    assert difference.estimand == "log_mean_difference"
    assert result.contrast.relative is None
    assert result.contrast.relative_reason == "NOT_IDENTIFIED"


def test_log_scores():
    rng = np.random.default_rng(5)
    y = rng.lognormal(2, 2, 300)
    mask = rng.random(300) < 0.3
    result = compare_log_means(y, mask)
    difference = result.contrast.difference
    assert np.square(result.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-10)
    assert result.scores.sum() == pytest.approx(0, abs=1e-12)
    parts = result.contrast.variance_control, result.contrast.variance_treatment
    for rows, part in zip((~mask, mask), parts, strict=True):
        assert np.square(result.scores[rows]).sum() == pytest.approx(part, rel=1e-10)
    swapped = compare_log_means(y, ~mask)
    assert (swapped.scores == -result.scores).all()
    order = rng.permutation(300)
    shuffled = compare_log_means(y[order], mask[order])
    assert shuffled.contrast.difference.p_value == pytest.approx(difference.p_value, rel=1e-9)


def test_an_effect_on_logs_is_not_the_effect_on_the_mean():
    """Same mean, more spread: the mean does not move and the mean of logs falls."""
    rng = np.random.default_rng(6)
    control, treatment = np.full(4000, 100.0), rng.choice([50.0, 150.0], 4000)
    y = np.r_[control + rng.normal(0, 1, 4000), treatment]
    mask = np.arange(8000) >= 4000
    raw = compare_means(ArmMoments.from_arrays(y=y[~mask]), ArmMoments.from_arrays(y=y[mask]))
    assert raw.difference.p_value > 0.05
    assert compare_log_means(y, mask).contrast.difference.p_value < 1e-10


@pytest.mark.parametrize(
    ("y", "mask", "code"),
    [
        ([1.0, -0.5, 2.0, 3.0], [0, 0, 1, 1], "NOT_IDENTIFIED"),
        ([1.0, float("nan"), 2.0, 3.0], [0, 0, 1, 1], "NON_FINITE_INPUT"),
        ([1.0, 2.0], [1, 1], "EMPTY_ARM"),
        ([1.0, 2.0, 3.0], [0, 1, 1], "N_TOO_SMALL"),
        ([1.0, 1.0, 2.0, 2.0], [0, 0, 1, 1], "ZERO_VARIANCE"),
    ],
)
def test_log_means_not_estimable(y, mask, code):
    with pytest.raises(EstimationError) as error:
        compare_log_means(y, mask)
    assert error.value.code == code


def test_log_of_small_and_large_values():
    assert log1p_outcome([0.0, 1e-18, 1e300]) == pytest.approx([0.0, 1e-18, 690.7755278982137])
