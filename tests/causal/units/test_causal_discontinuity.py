"""Jumps at a cutoff: an independent engine, closed forms, coverage, refutations, refusals."""

import numpy as np
import pytest

from experiments_dagster.causal.units.density import density_jump
from experiments_dagster.causal.units.discontinuity import (
    estimate_discontinuity,
    parametric_discontinuity,
)
from experiments_dagster.causal.units.discontinuity_checks import (
    bandwidth_sensitivity,
    covariate_jumps,
    donut_sensitivity,
    placebo_cutoffs,
)
from experiments_dagster.causal.units.local_polynomial import (
    Side,
    linear_weights,
    neighbour_residuals,
)
from experiments_dagster.stats.calibration import rejection_band
from experiments_dagster.stats.errors import EstimationError

ALGEBRA = 1e-9


def make_units(n=4000, *, jump=1.0, curve=True, seed=0):
    """A skewed running variable and the steep curve of Lee's data at zero."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.beta(2, 4, n) - 0.6
    steep = np.where(x < 0, 1.3 * x + 7.2 * x**2 + 20.2 * x**3, 0.8 * x - 3 * x**2 + 4 * x**3)
    y = (steep if curve else x) + jump * (x >= 0) + 0.3 * rng.normal(size=n)
    return y, x


def coarse_wave():
    """4,000 units on 81 values, without random numbers."""
    i = np.arange(4000)
    x = np.round(40 * np.sin(1.7 * i + 0.3 * np.sin(i)))
    return 0.03 * x + 2 * (x >= 0) + 1.5 * np.sin(0.37 * i * i), x


def test_mass_points_as_rdrobust_treats_them():
    # rdrobust 2.1.1 on `coarse_wave`; it adds 1e-8 to bandwidths at their floor.
    found = estimate_discontinuity(*coarse_wave(), 0.0)
    assert found.conventional.estimate == pytest.approx(1.858422760653, rel=1e-7)
    assert found.robust.estimate == pytest.approx(1.878584368876, rel=1e-7)
    assert found.conventional.std_error == pytest.approx(0.155010948294, rel=1e-7)
    assert found.robust.std_error == pytest.approx(0.184434281801, rel=1e-7)
    assert found.bandwidth == pytest.approx(12.866646398647, rel=1e-7)
    assert found.bias_bandwidth == pytest.approx(20.435543439164, rel=1e-7)
    assert (found.robust.n_control, found.robust.n_treatment) == (398, 418)
    assert any("too coarse" in warning for warning in found.warnings)
    assert any("tied" in warning for warning in found.warnings)
    assert estimate_discontinuity(*make_units(), 0.0).warnings == ()


def test_at_given_bandwidths_it_is_weighted_least_squares():
    y, x = make_units(1000)
    h, b = 0.3, 0.4
    limits, corrected = [], []
    for side in (x < 0, x >= 0):
        fits = []
        for order, width in ((1, h), (2, b)):
            root = np.sqrt(np.maximum(1 - np.abs(x[side]) / width, 0))
            powers = np.vander(x[side], order + 1, increasing=True)
            fits.append(np.linalg.lstsq(powers * root[:, None], y[side] * root, rcond=None)[0])
        limits.append(fits[0][0])
        weight = np.maximum(1 - np.abs(x[side]) / h, 0)
        powers = np.vander(x[side], 2, increasing=True)
        line = np.linalg.solve(powers.T @ (weight[:, None] * powers), powers.T * weight)[0]
        corrected.append(fits[0][0] - fits[1][2] * (line @ x[side] ** 2))
    found = estimate_discontinuity(y, x, 0.0, bandwidth=h, bias_bandwidth=b)
    assert found.conventional.estimate == pytest.approx(limits[1] - limits[0], rel=1e-8)
    assert found.robust.estimate == pytest.approx(corrected[1] - corrected[0], rel=1e-8)
    assert found.conventional.control_mean == pytest.approx(limits[0], rel=1e-8)


def test_equal_bandwidths_make_the_corrected_line_the_quadratic():
    """Calonico, Cattaneo & Titiunik 2014, remark 7: with h = b the correction raises the order."""
    y, x = make_units(2000)
    found = estimate_discontinuity(y, x, 0.0, bandwidth=0.3)
    sides = [
        Side(name=name, x=np.sort(x[kept]), y=y[kept][np.argsort(x[kept])]).within(0.3)
        for name, kept in (("left", x < 0), ("right", x >= 0))
    ]
    weights = [linear_weights(side, 0.3, 2)[0] for side in sides]
    limits = [w @ side.y for w, side in zip(weights, sides, strict=True)]
    variance = sum(
        np.square(w * neighbour_residuals(side)).sum()
        for w, side in zip(weights, sides, strict=True)
    )
    assert found.robust.estimate == pytest.approx(limits[1] - limits[0], rel=1e-8)
    assert found.robust.std_error == pytest.approx(np.sqrt(variance), rel=1e-8)


def test_neighbour_residuals_by_brute_force():
    rng = np.random.default_rng(0)
    x = np.sort(np.round(rng.normal(size=60), 1))
    y = rng.normal(size=60)
    expected = []
    for i in range(60):
        distance = np.abs(x - x[i])
        others = np.delete(np.arange(60), i)
        # Grow by whole distances: ties come together. Round off what subtraction leaves.
        radius = np.sort(np.round(distance[others], 9))[2]
        near = others[np.round(distance[others], 9) <= radius]
        expected.append(np.sqrt(len(near) / (len(near) + 1)) * (y[i] - y[near].mean()))
    tenths = Side(name="left", x=np.round(10 * x), y=y)  # integers, so that ties are exact
    np.testing.assert_allclose(neighbour_residuals(tenths), expected, rtol=ALGEBRA, atol=ALGEBRA)


def test_polynomials_are_found_exactly():
    x = np.linspace(-1, 1, 400)
    y = 2 + x + 3 * (x >= 0) + 0.01 * np.where(np.arange(400) % 2, 1, -1)
    found = estimate_discontinuity(y, x, 0.0)
    assert found.robust.estimate == pytest.approx(3, abs=0.01)
    curved = y + 5 * x**2
    assert estimate_discontinuity(curved, x, 0.0).robust.estimate == pytest.approx(3, abs=0.01)


def test_invariants():
    y, x = make_units(3000)
    base = estimate_discontinuity(y, x, 0.0)
    scaled = estimate_discontinuity(100 * y - 7, 50 * x + 3, 3.0)
    assert scaled.bandwidth == pytest.approx(50 * base.bandwidth, rel=1e-6)
    assert scaled.robust.estimate == pytest.approx(100 * base.robust.estimate, rel=1e-6)
    assert scaled.robust.p_value == pytest.approx(base.robust.p_value, rel=1e-4)
    order = np.random.default_rng(0).permutation(3000)
    assert estimate_discontinuity(y[order], x[order], 0.0) == base
    # No value of x is at the cutoff: mirrored, the sides swap.
    mirrored = estimate_discontinuity(y, -x, 0.0)
    assert mirrored.robust.estimate == pytest.approx(-base.robust.estimate, rel=1e-6)
    excludes = base.robust.ci_low > 0 or base.robust.ci_high < 0
    assert excludes == (base.robust.p_value < 0.05)
    assert base.robust.std_error > base.conventional.std_error
    assert base.bias_corrected.estimate == base.robust.estimate


@pytest.mark.slow
def test_coverage_of_the_robust_row_and_the_conventional_twin():
    """Conventional intervals ignore the bias: outside the band at twice the optimal bandwidth."""
    covered = {"robust": 0, "conventional": 0, "wide": 0}
    replicates = 1000
    for seed in range(replicates):
        y, x = make_units(2000, seed=[seed, 1])
        found = estimate_discontinuity(y, x, 0.0)
        wide = estimate_discontinuity(y, x, 0.0, bandwidth=2 * found.bandwidth).conventional
        for name, row in (
            ("robust", found.robust),
            ("conventional", found.conventional),
            ("wide", wide),
        ):
            covered[name] += row.ci_low <= 1.0 <= row.ci_high
    low, high = rejection_band(0.95, replicates)
    assert low <= covered["robust"] / replicates <= high
    assert covered["conventional"] < covered["robust"]
    assert covered["wide"] / replicates < low


@pytest.mark.slow
def test_size_of_the_density_test_and_its_twin():
    """Sizes of smooth densities in their band; units that jump the queue are found."""
    replicates = 600
    low, high = rejection_band(0.05, replicates)
    for draw in (lambda rng: rng.normal(0.3, 1, 1000), lambda rng: rng.uniform(-1, 1, 1000)):
        rejected = [
            density_jump(draw(np.random.default_rng([seed, 2])), 0.0).p_value < 0.05
            for seed in range(replicates)
        ]
        assert low <= np.mean(rejected) <= high
    found = []
    for seed in range(100):
        x = np.random.default_rng([seed, 3]).normal(0.3, 1, 2000)
        is_moved = (x < 0) & (x > -0.3) & (np.arange(2000) % 2 == 0)
        found.append(density_jump(np.where(is_moved, -x, x), 0.0).p_value < 0.01)
    # rddensity 3.0 finds .7 of such samples.
    assert np.mean(found) > 0.65


def test_density_error_is_the_jackknife():
    x = np.sort(np.random.default_rng(4).normal(0.2, 1, 400))
    widths = (0.9, 0.9)
    whole = density_jump(x, 0.0, bandwidths=widths)
    differences = [
        (left_out := density_jump(np.delete(x, i), 0.0, bandwidths=widths)).density_right
        - left_out.density_left
        for i in range(400)
    ]
    jackknife = np.sqrt(399 * np.var(differences))
    # First order of the jackknife; it differs at 1/(nh).
    assert whole.std_error == pytest.approx(jackknife, rel=0.02)
    assert whole.density_left == pytest.approx(0.391, abs=4 * 0.1)


def test_density_refuses_and_takes_ties():
    with pytest.raises(EstimationError, match="distinct values") as caught:
        density_jump(np.repeat(np.arange(-20, 20), 50), 0.0)
    assert caught.value.code == "N_TOO_SMALL"
    with pytest.raises(ValueError, match="positive"):
        density_jump(np.linspace(-1, 1, 200), 0.0, bandwidths=(0.0, 1.0))
    rounded = np.round(np.random.default_rng(1).normal(size=4000), 2)
    assert density_jump(rounded, -0.005).p_value > 0.01


def test_placebo_cutoffs_are_silent_and_a_hidden_jump_fires():
    y, x = make_units(6000, curve=False, seed=5)
    checks = placebo_cutoffs(y, x, 0.0)
    assert [check.value < 0 for check in checks] == [True] * 3 + [False] * 3
    assert all(check.p_adjusted > 0.05 for check in checks if check.estimate)
    hidden = y + 1.0 * (x >= 0.3)
    (fired,) = placebo_cutoffs(hidden, x, 0.0, cutoffs=[0.3])
    assert fired.p_adjusted < 0.001
    # Rows across the real cutoff would find the real jump next to it.
    (near,) = placebo_cutoffs(y, x, 0.0, cutoffs=[0.1])
    assert abs(near.estimate.estimate) < 0.5
    (thin,) = placebo_cutoffs(y, x, 0.0, cutoffs=[x.min() + 1e-3])
    assert (thin.estimate, thin.reason) == (None, "N_TOO_SMALL")
    with pytest.raises(ValueError, match="itself"):
        placebo_cutoffs(y, x, 0.0, cutoffs=[0.0])


def test_covariate_jumps_fire_and_stay_silent():
    _, x = make_units(5000)
    rng = np.random.default_rng(9)
    columns = np.column_stack([rng.normal(size=5000), rng.normal(size=5000) + (x >= 0)])
    smooth, jumping = covariate_jumps(columns, x, 0.0, names=["age", "income"])
    assert (smooth.name, jumping.name) == ("age", "income")
    assert smooth.p_adjusted > 0.01
    assert jumping.p_adjusted < 1e-6
    (constant,) = covariate_jumps(np.ones((5000, 1)), x, 0.0, names=["constant"])
    assert (constant.estimate, constant.reason) == (None, "ZERO_VARIANCE")
    for names in (["age"], ["age", "age"]):
        with pytest.raises(ValueError, match="covariates"):
            covariate_jumps(columns, x, 0.0, names=names)


def test_bandwidths_and_donuts():
    y, x = make_units(6000, curve=False)
    base = estimate_discontinuity(y, x, 0.0)
    checks = bandwidth_sensitivity(y, x, 0.0, multiples=(0.5, 1.0, 2.0))
    assert [check.value / base.bandwidth for check in checks] == pytest.approx([0.5, 1, 2])
    assert checks[1].estimate == base.robust
    assert all(check.estimate.ci_low < 1.0 < check.estimate.ci_high for check in checks)
    # Units just above the cutoff that were let through by hand are the whole effect here.
    heaped = y - 1.0 * (x >= 0) + 3.0 * ((x >= 0) & (x < 0.05))
    assert estimate_discontinuity(heaped, x, 0.0).robust.p_value < 0.001
    (donut,) = donut_sensitivity(heaped, x, 0.0, radii=[0.05])
    assert donut.estimate.p_value > 0.01


@pytest.mark.parametrize("variance", ["ols", "hc1"])
@pytest.mark.parametrize(("order", "is_interacted"), [(1, False), (1, True), (2, False), (2, True)])
def test_parametric_fit_is_least_squares(order, is_interacted, variance):
    import statsmodels.api as sm

    y, x = make_units(60, seed=3)
    right = (x >= 0).astype(float)
    powers = x[:, None] ** np.arange(1, order + 1)
    extra = right[:, None] * powers if is_interacted else powers[:, :0]
    design = np.column_stack([right, np.ones(60), powers, extra])
    fit = sm.OLS(y, design).fit(cov_type="nonrobust" if variance == "ols" else "HC1", use_t=True)
    found = parametric_discontinuity(
        y, x, 0.0, order=order, is_interacted=is_interacted, variance=variance
    )
    assert found.estimate == pytest.approx(fit.params[0], rel=1e-8)
    assert found.std_error == pytest.approx(fit.bse[0], rel=1e-8)
    assert found.p_value == pytest.approx(fit.pvalues[0], rel=1e-7)
    assert found.control_mean == pytest.approx(fit.params[1], rel=1e-8)


def refused(code, call):
    with pytest.raises(EstimationError) as caught:
        call()
    assert caught.value.code == code


def test_refusals():
    y, x = make_units(2000)
    few = np.concatenate([np.flatnonzero(x < 0)[:49], np.flatnonzero(x >= 0)])
    refused("N_TOO_SMALL", lambda: estimate_discontinuity(y[few], x[few], 0.0))
    refused("N_TOO_SMALL", lambda: estimate_discontinuity(y, x, 0.0, bandwidth=0.001))
    refused("EMPTY_ARM", lambda: estimate_discontinuity(y, x, 9.0))
    refused("NON_FINITE_INPUT", lambda: estimate_discontinuity(np.where(x > 1, np.nan, y), x, 0.0))
    refused("NON_FINITE_INPUT", lambda: estimate_discontinuity(y, np.where(x > 1, np.inf, x), 0.0))
    refused("ZERO_VARIANCE", lambda: estimate_discontinuity(np.ones(2000), x, 0.0))
    refused("ZERO_VARIANCE", lambda: estimate_discontinuity(np.ones(2000), x, 0.0, bandwidth=0.3))
    two_values = np.where(x < 0, -1.0, 1.0)
    refused("N_TOO_SMALL", lambda: estimate_discontinuity(y, two_values, 0.0))
    refused("SINGULAR_DESIGN", lambda: parametric_discontinuity(y, two_values, 0.0))
    refused("N_TOO_SMALL", lambda: parametric_discontinuity(y[:3], [-1, 1, 2], 0.0))
    refused("ZERO_VARIANCE", lambda: parametric_discontinuity(x, x, 0.0))
    with pytest.raises(ValueError, match="order"):
        parametric_discontinuity(y, x, 0.0, order=3)
    with pytest.raises(ValueError, match="positive"):
        estimate_discontinuity(y, x, 0.0, bandwidth=-1.0)
    with pytest.raises(ValueError, match="same shape"):
        estimate_discontinuity(y[:-1], x, 0.0)
    with pytest.raises(ValueError, match="finite"):
        estimate_discontinuity(y, x, float("nan"))
