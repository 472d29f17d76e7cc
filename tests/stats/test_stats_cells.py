"""Cells against the scalar functions, one at a time; those are held to reference numbers."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.cells import (
    MeanCells,
    PairCells,
    compare_adjusted_cells,
    compare_mean_cells,
    compare_ratio_cells,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.moments import ArmMoments

NUMBERS = ("estimate", "std_error", "ci_low", "ci_high", "p_value")
SAME = 1e-12  # the same formulas in the same order: only the libraries' rounding differs


def mean_cells(rng, cells):
    return MeanCells(
        n=rng.integers(2, 400, cells),
        mean=rng.normal(1, 3, cells),
        variance=rng.gamma(1, 5, cells),
    )


def pair_cells(rng, cells, *, negative=False):
    variance, second = rng.gamma(2, 5, cells), rng.gamma(2, 1, cells)
    return PairCells(
        n=rng.integers(3, 400, cells),
        mean=rng.normal(1, 3, cells),
        variance=variance,
        mean_second=rng.gamma(5, 1, cells) * (-1 if negative else 1),
        variance_second=second,
        covariance=rng.uniform(-0.9, 0.9, cells) * np.sqrt(variance * second),
    )


def moments_at(arm, index, names=("y",)):
    """The cell as `ArmMoments`; undefined moments of small arms as zeros."""
    n = int(arm.n[index])
    means = [arm.mean[index]]
    cross = np.array([[arm.variance[index]]])
    if len(names) == 2:
        means = [arm.mean[index], arm.mean_second[index]]
        covariance = arm.covariance[index]
        cross = np.array(
            [[arm.variance[index], covariance], [covariance, arm.variance_second[index]]]
        )
    if n == 0:
        return ArmMoments.empty(names)
    with np.errstate(over="ignore"):
        cross = cross * (n - 1) if n > 1 else np.zeros_like(cross)
    return ArmMoments(n=n, columns=names, means=np.array(means), cross=cross)


def scalar_or_reason(compare, *args, **options):
    try:
        return compare(*args, **options), ""
    except EstimationError as error:
        return None, error.code


def check_cell(cells, index, contrast, reason, *, rel=SAME):
    assert cells.difference.reason[index] == reason
    if contrast is None:
        assert cells.relative.reason[index] == reason
        assert np.isnan(cells.control_mean[index])
        for name in NUMBERS:
            assert np.isnan(getattr(cells.difference, name)[index])
            assert np.isnan(getattr(cells.relative, name)[index])
        return
    assert cells.relative.reason[index] == (contrast.relative_reason or "")
    for part in ("difference", "relative"):
        expected, actual = getattr(contrast, part), getattr(cells, part)
        for name in NUMBERS:
            value = getattr(actual, name)[index]
            if expected is None:
                assert np.isnan(value), (part, name)
            else:
                # Limits cancel near zero: they are held relative to their width.
                # Below the smallest normal number the two normal tails of scipy end differently.
                tiny = rel * expected.std_error if name != "p_value" else np.finfo(float).tiny
                assert value == pytest.approx(getattr(expected, name), rel=rel, abs=tiny)
    for name in ("variance_control", "variance_treatment"):
        assert getattr(cells, name)[index] == pytest.approx(getattr(contrast, name), rel=rel)
    df = contrast.difference.degrees_of_freedom
    assert cells.degrees_of_freedom[index] == pytest.approx(
        np.nan if df is None else df, rel=rel, nan_ok=True
    )
    if contrast.relative is not None:
        is_fieller = contrast.relative.variance_formula.startswith("fieller")
        assert cells.is_fieller[index] == is_fieller


@given(
    st.integers(0, 10_000), st.sampled_from(["t", "normal"]), st.sampled_from([0.001, 0.05, 0.4])
)
def test_means_equal_the_scalar_function(seed, distribution, alpha):
    rng = np.random.default_rng(seed)
    control, treatment = mean_cells(rng, 20), mean_cells(rng, 20)
    cells = compare_mean_cells(control, treatment, alpha=alpha, distribution=distribution)
    for index in range(20):
        contrast, reason = scalar_or_reason(
            compare_means,
            moments_at(control, index),
            moments_at(treatment, index),
            alpha=alpha,
            distribution=distribution,
        )
        check_cell(cells, index, contrast, reason)


@given(st.integers(0, 10_000))
def test_ratios_equal_the_scalar_function(seed):
    rng = np.random.default_rng(seed)
    control, treatment = pair_cells(rng, 20), pair_cells(rng, 20)
    cells = compare_ratio_cells(control, treatment)
    names = ("numerator", "denominator")
    for index in range(20):
        contrast, reason = scalar_or_reason(
            compare_ratios,
            moments_at(control, index, names),
            moments_at(treatment, index, names),
        )
        check_cell(cells, index, contrast, reason)


NAN, INF = float("nan"), float("inf")

# n, mean, variance of an arm
ORDINARY = (50, 3.0, 2.0)
DEGENERATE = {
    "empty": (0, 0.0, 0.0),
    "empty, mean unknown": (0, NAN, NAN),
    "one unit": (1, 4.0, 0.0),
    "one unit, variance unknown": (1, 4.0, NAN),
    "one unit, not finite": (1, NAN, NAN),
    "constant": (40, 5.0, 0.0),
    "constant but for rounding": (7, 0.1, 1e-34),
    "constant at zero": (40, 0.0, 0.0),
    "mean NaN": (40, NAN, 1.0),
    "mean infinite": (40, INF, 1.0),
    "variance NaN": (40, 1.0, NAN),
    "variance infinite": (40, 1.0, INF),
    "variance overflows": (400, 1.0, 1e308),
    "offset 1e15": (40, 1e15, 1.0),
    "offset 1e15, wide": (40, 1e15, 1e8),
    "offset 1e8": (40, 1e8, 1.0),
    "mean zero": (40, 0.0, 1.0),
    "mean near zero": (40, 1e-9, 1.0),
    "negative mean": (40, -3.0, 2.0),
    "noisy mean": (10, 1.0, 0.5),
    "tiny": (40, 1e-150, 1e-302),
    "huge": (40, 1e150, 1e299),
    "two units": (2, 1.0, 0.5),
    "ordinary": ORDINARY,
}


def mean_arm(rows):
    n, mean, variance = (np.array(column) for column in zip(*rows, strict=True))
    return MeanCells(n=n, mean=mean, variance=variance)


@pytest.mark.parametrize("distribution", ["t", "normal"])
@pytest.mark.parametrize("first", DEGENERATE)
def test_degenerate_means_have_the_reason_of_the_scalar_function(first, distribution):
    others = list(DEGENERATE.values())
    control = mean_arm([DEGENERATE[first]] * len(others) + others)
    treatment = mean_arm(others + [DEGENERATE[first]] * len(others))
    cells = compare_mean_cells(control, treatment, distribution=distribution)
    for index in range(2 * len(others)):
        arms = []
        reason = ""
        for arm in (control, treatment):
            moments, refusal = scalar_or_reason(moments_at, arm, index)
            arms.append(moments)
            reason = reason or refusal
        contrast = None
        if not reason:
            contrast, reason = scalar_or_reason(compare_means, *arms, distribution=distribution)
        check_cell(cells, index, contrast, reason)


# n, means, variances of numerator and denominator, covariance
PAIRS = {
    "ordinary": (50, 3.0, 2.0, 4.0, 1.0, 0.5),
    "empty": (0, NAN, NAN, NAN, NAN, NAN),
    "one unit": (1, 1.0, NAN, 2.0, NAN, NAN),
    "no denominator": (30, 3.0, 2.0, 0.0, 0.0, 0.0),
    "zero on average": (30, 3.0, 2.0, 0.0, 1.0, 0.1),
    "negative denominator": (30, 3.0, 2.0, -4.0, 1.0, 0.5),
    "constant denominator": (30, 3.0, 2.0, 1.0, 0.0, 0.0),
    "constant numerator": (30, 3.0, 0.0, 4.0, 1.0, 0.0),
    "no numerator": (30, 0.0, 0.0, 4.0, 1.0, 0.0),
    "numerator is twice the denominator": (30, 8.0, 4.0, 4.0, 1.0, 2.0),
    "nearly in proportion": (30, 8.0, 4.0 + 1e-17, 4.0, 1.0, 2.0),
    "NaN": (30, 3.0, 2.0, NAN, 1.0, 0.5),
    "covariance NaN": (30, 3.0, 2.0, 4.0, 1.0, NAN),
    "infinite": (30, INF, 2.0, 4.0, 1.0, 0.5),
    "offset 1e15": (30, 1e15, 1e4, 1e15, 1e4, 5e3),
    "negative ratio": (30, -3.0, 2.0, 4.0, 1.0, 0.5),
    "ratio overflows": (30, 1e300, 1e300, 1e-300, 1e-300, 0.0),
    "tiny denominator": (30, 3.0, 2.0, 1e-8, 1e-16, 0.0),
}


def pair_arm(rows):
    n, mean, variance, mean_second, variance_second, covariance = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return PairCells(
        n=n,
        mean=mean,
        variance=variance,
        mean_second=mean_second,
        variance_second=variance_second,
        covariance=covariance,
    )


@pytest.mark.parametrize("first", PAIRS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning:experiments_dagster.stats.moments")
def test_degenerate_ratios_have_the_reason_of_the_scalar_function(first):
    others = list(PAIRS.values())
    control = pair_arm([PAIRS[first]] * len(others) + others)
    treatment = pair_arm(others + [PAIRS[first]] * len(others))
    cells = compare_ratio_cells(control, treatment)
    names = ("numerator", "denominator")
    for index in range(2 * len(others)):
        arms, reason = [], ""
        for arm in (control, treatment):
            moments, refusal = scalar_or_reason(moments_at, arm, index, names)
            arms.append(moments)
            reason = reason or refusal
        contrast = None
        if not reason:
            contrast, reason = scalar_or_reason(compare_ratios, *arms)
        check_cell(cells, index, contrast, reason)


def test_every_code_is_known():
    from experiments_dagster.stats.errors import REASONS

    rows = list(DEGENERATE.values())
    cells = compare_mean_cells(mean_arm(rows), mean_arm(rows[::-1]))
    assert set(np.unique(cells.difference.reason)) - {""} <= set(REASONS)
    assert set(np.unique(cells.relative.reason)) - {""} <= set(REASONS)


def unit_arms(rng, n_control, n_treatment):
    x = rng.normal(20, 4, n_control + n_treatment)
    y = 0.8 * x + rng.normal(0, 3, len(x)) * (1 + 0.05 * np.abs(x - 20))
    mask = np.arange(len(x)) >= n_control
    y[mask] += 0.5 + 0.2 * x[mask]
    return y, x, mask


def pair_of_units(y, x):
    both = ArmMoments.from_arrays(y=y, x=x)
    return (
        both.n,
        both.mean("y"),
        both.variance("y"),
        both.mean("x"),
        both.variance("x"),
        both.covariance("y", "x"),
    )


def adjusted_of(units):
    return compare_adjusted_cells(
        pair_arm([pair_of_units(y[~mask], x[~mask]) for y, x, mask in units]),
        pair_arm([pair_of_units(y[mask], x[mask]) for y, x, mask in units]),
    )


def test_adjusted_estimate_is_that_of_the_units():
    rng = np.random.default_rng(1)
    units = [unit_arms(rng, 20, 35), unit_arms(rng, 200, 100), unit_arms(rng, 8000, 12_000)]
    cells = adjusted_of(units)
    for index, ((y, x, mask), tolerance) in enumerate(zip(units, (0.1, 0.02, 3e-4), strict=True)):
        expected = compare_adjusted(y, mask, x[:, None], names=["x"])
        check_cell_close(cells, index, expected, tolerance)
    assert cells.is_adjusted.all()


def check_cell_close(cells, index, expected, tolerance):
    """Estimates equal; standard errors near HC2, nearer the more units."""
    adjusted = expected.adjusted
    difference = cells.adjusted.difference
    assert difference.estimate[index] == pytest.approx(adjusted.difference.estimate, rel=1e-9)
    assert difference.std_error[index] == pytest.approx(
        adjusted.difference.std_error, rel=tolerance
    )
    relative = cells.adjusted.relative
    assert relative.estimate[index] == pytest.approx(adjusted.relative.estimate, rel=1e-9)
    assert relative.std_error[index] == pytest.approx(adjusted.relative.std_error, rel=tolerance)
    assert cells.variance_reduction[index] == pytest.approx(
        expected.variance_reduction, abs=2 * tolerance
    )
    check_cell(cells.unadjusted, index, expected.unadjusted, "", rel=1e-10)


def test_adjusted_variance_is_that_of_ordinary_regression_in_each_arm():
    """Independent: statsmodels' OLS of y on x − X̄ in one arm, variance of the intercept."""
    import statsmodels.api as sm

    y, x, mask = unit_arms(np.random.default_rng(2), 30, 50)
    cells = adjusted_of([(y, x, mask)])
    fits = [sm.OLS(y[rows], sm.add_constant(x[rows] - x.mean())).fit() for rows in (~mask, mask)]
    assert cells.adjusted.variance_control[0] == pytest.approx(fits[0].bse[0] ** 2, rel=1e-9)
    assert cells.adjusted.variance_treatment[0] == pytest.approx(fits[1].bse[0] ** 2, rel=1e-9)
    assert cells.adjusted.difference.estimate[0] == pytest.approx(
        fits[1].params[0] - fits[0].params[0], rel=1e-9
    )


@pytest.mark.parametrize(
    ("case", "outcome", "covariate"),
    [
        ("nsw_experimental", "re78", "re75"),
        ("hillstrom_half_mens", "spend", "history"),
        ("hillstrom_half_womens", "visit", "history"),
    ],
)
def test_reference_adjusted(reference, two_arms, case, outcome, covariate):
    expected = reference("fixed", case)
    numbers = expected.expected[f"cuped_{outcome}_by_{covariate}"]
    arms = [
        pair_arm([pair_of_units(frame[outcome].to_numpy(), frame[covariate].to_numpy())])
        for frame in two_arms(case)
    ]
    cells = compare_adjusted_cells(*arms)
    expected.check(cells.adjusted.difference.estimate[0], numbers["lin_coef"])
    # Not HC2, and earnings have a heavy tail: within two percent.
    assert cells.adjusted.difference.std_error[0] == pytest.approx(numbers["lin_se_hc2"], rel=0.02)


def test_adjusted_coverage(monte_carlo_band):
    rng = np.random.default_rng(3)
    runs, n = 4000, 60
    x = rng.normal(0, 1, (2, runs, n))
    y = 2 * x + rng.normal(0, 1, (2, runs, n)) * (1 + 0.5 * (x > 0))
    arms = []
    for side in (0, 1):
        dx = x[side] - x[side].mean(axis=1, keepdims=True)
        dy = y[side] - y[side].mean(axis=1, keepdims=True)
        arms.append(
            PairCells(
                n=np.full(runs, n),
                mean=y[side].mean(axis=1),
                variance=(dy * dy).sum(axis=1) / (n - 1),
                mean_second=x[side].mean(axis=1),
                variance_second=(dx * dx).sum(axis=1) / (n - 1),
                covariance=(dx * dy).sum(axis=1) / (n - 1),
            )
        )
    cells = compare_adjusted_cells(*arms)
    rejected = np.mean(cells.adjusted.difference.p_value < 0.05)
    low, high = monte_carlo_band(0.05, runs)
    # Normal quantiles with 116 degrees of freedom reject 0.0524.
    assert low < rejected < high + 0.0024


@pytest.mark.parametrize(
    ("row", "reason", "is_adjusted"),
    [
        ((50, 3.0, 2.0, 7.0, 0.0, 0.0), "", False),
        ((2, 3.0, 2.0, 7.0, 1.0, 0.5), "", False),
        ((50, 8.0, 4.0, 4.0, 1.0, 2.0), "ZERO_VARIANCE", True),
        ((50, 3.0, 0.0, 7.0, 1.0, 0.0), "ZERO_VARIANCE", True),
        ((50, 3.0, 2.0, NAN, 1.0, 0.5), "NON_FINITE_INPUT", True),
        ((50, 3.0, 2.0, 7.0, 1.0, INF), "NON_FINITE_INPUT", True),
        ((0, NAN, NAN, NAN, NAN, NAN), "EMPTY_ARM", False),
        ((1, 3.0, NAN, 1.0, NAN, NAN), "N_TOO_SMALL", False),
    ],
)
def test_degenerate_covariates(row, reason, is_adjusted):
    ordinary = (50, 3.5, 2.0, 4.0, 1.0, 0.5)
    # Both arms alike for what only shows then; an ordinary cell beside it is not disturbed.
    cells = compare_adjusted_cells(pair_arm([row, ordinary]), pair_arm([row, ordinary]))
    assert cells.adjusted.difference.reason.tolist() == [reason, ""]
    assert cells.is_adjusted.tolist() == [is_adjusted, True]
    if not is_adjusted and not reason:
        for name in NUMBERS:
            raw = getattr(cells.unadjusted.difference, name)
            assert getattr(cells.adjusted.difference, name)[0] == raw[0]
        assert cells.variance_reduction[0] == 0
        assert cells.adjusted.degrees_of_freedom[0] == cells.unadjusted.degrees_of_freedom[0]


def test_swap_scale_and_shift():
    rng = np.random.default_rng(4)
    control, treatment = pair_cells(rng, 50), pair_cells(rng, 50)
    base = compare_adjusted_cells(control, treatment).adjusted.difference
    swapped = compare_adjusted_cells(treatment, control).adjusted.difference
    assert swapped.estimate == pytest.approx(-base.estimate, rel=1e-10)
    assert swapped.p_value == pytest.approx(base.p_value, rel=1e-9)

    def moved(arm):
        return PairCells(
            n=arm.n,
            mean=100 * (arm.mean + 7),
            variance=1e4 * arm.variance,
            mean_second=arm.mean_second - 3,
            variance_second=arm.variance_second,
            covariance=100 * arm.covariance,
        )

    other = compare_adjusted_cells(moved(control), moved(treatment)).adjusted.difference
    assert other.estimate == pytest.approx(100 * base.estimate, rel=1e-9, abs=1e-9)
    assert other.p_value == pytest.approx(base.p_value, rel=1e-8)


def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero():
    rng = np.random.default_rng(5)
    control, treatment = mean_cells(rng, 2000), mean_cells(rng, 2000)
    for distribution in ("t", "normal"):
        result = compare_mean_cells(control, treatment, distribution=distribution, alpha=0.2)
        for part in (result.difference, result.relative):
            ok = part.reason == ""
            excludes = (part.ci_low > 0) | (part.ci_high < 0)
            assert ((part.p_value < 0.2) == excludes)[ok].all()
            assert ok.sum() > 1000


def test_any_shape_and_no_cells():
    rng = np.random.default_rng(6)
    control, treatment = mean_cells(rng, (4, 7)), mean_cells(rng, (4, 7))
    grid = compare_mean_cells(control, treatment)
    assert grid.difference.reason.shape == grid.relative.p_value.shape == (4, 7)
    flat = compare_mean_cells(
        *(MeanCells(n=a.n.ravel(), mean=a.mean.ravel(), variance=a.variance.ravel())
          for a in (control, treatment))
    )  # fmt: skip
    assert (flat.difference.p_value == grid.difference.p_value.ravel()).all()
    nothing = MeanCells(n=[], mean=[], variance=[])
    assert compare_mean_cells(nothing, nothing).difference.estimate.shape == (0,)


def test_results_and_inputs_cannot_be_changed():
    given_mean = np.array([1.0, 2.0])
    arm = MeanCells(n=[5, 5], mean=given_mean, variance=[1.0, 1.0])
    given_mean[:] = 9
    assert arm.mean.tolist() == [1.0, 2.0]
    result = compare_mean_cells(arm, arm)
    for array in (arm.mean, result.difference.p_value, result.relative.reason, result.is_fieller):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


@pytest.mark.parametrize("n", [[-1.0, 2.0], [1.5, 2.0], [NAN, 2.0], [INF, 2.0]])
def test_n_is_a_count(n):
    with pytest.raises(ValueError, match="whole numbers"):
        MeanCells(n=n, mean=[1.0, 2.0], variance=[1.0, 2.0])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="variance has shape"):
        MeanCells(n=[2, 2], mean=[1.0, 2.0], variance=[1.0])
    one, two = mean_arm([ORDINARY]), mean_arm([ORDINARY] * 2)
    with pytest.raises(ValueError, match="treatment has shape"):
        compare_mean_cells(one, two)
    with pytest.raises(ValueError, match="alpha"):
        compare_mean_cells(one, one, alpha=1.5)


def shortest(function, runs):
    """The least disturbed of some runs, in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.alone
def test_a_thousand_cells_take_less_than_ten_milliseconds():
    rng = np.random.default_rng(7)
    means = mean_cells(rng, 1000), mean_cells(rng, 1000)
    pairs = pair_cells(rng, 1000), pair_cells(rng, 1000)
    for function, arms in (
        (compare_mean_cells, means),
        (compare_ratio_cells, pairs),
        (compare_adjusted_cells, pairs),
    ):
        assert shortest(lambda call=function, given=arms: call(*given), 5) < 0.010


@pytest.mark.alone
def test_ten_thousand_experiments_with_28_looks_take_less_than_a_second():
    rng = np.random.default_rng(8)
    control, treatment = mean_cells(rng, (10_000, 28)), mean_cells(rng, (10_000, 28))

    def run():
        compare_mean_cells(control, treatment, distribution="normal")

    assert shortest(run, 3) < 0.5
