import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.factorial import factorial_effects
from experiments_dagster.stats.interaction import (
    assignment_dependence,
    effect_interaction,
    interaction_of_means,
)
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.moments import ArmMoments


def two_experiments(n, seed, *, product=0.0):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) < 0.5, rng.random(n) < 0.3
    noise = (1 + b) * rng.normal(size=n)
    return a + 0.5 * b + product * (a & b) + noise, a, b


@pytest.mark.parametrize("product", [0.0, 0.8])
def test_live_against_regression_with_hc2(product):
    y, a, b = two_experiments(3000, 1, product=product)
    found = interaction_of_means(y, a, b)
    X = sm.add_constant(np.column_stack([a, b, a & b]).astype(float))
    live = sm.OLS(y, X).fit(cov_type="HC2")
    assert found.estimate == pytest.approx(live.params[3], rel=1e-9)
    assert found.std_error == pytest.approx(live.bse[3], rel=1e-9)
    assert found.in_control.estimate == pytest.approx(live.params[1], rel=1e-9)
    assert found.in_treatment.estimate == pytest.approx(live.params[1] + live.params[3], rel=1e-9)


def test_it_is_the_product_of_a_factorial_design():
    y, a, b = two_experiments(2000, 2, product=0.3)
    found = interaction_of_means(y, a, b)
    levels = np.column_stack([a, b]).astype(int)
    effect = factorial_effects(y, levels, factors=["a", "b"]).effects[2]
    assert found.estimate == pytest.approx(effect.estimate, rel=1e-9)
    assert found.std_error == pytest.approx(effect.std_error, rel=1e-9)


def test_degrees_of_freedom_are_satterthwaites_of_four_cells():
    y, a, b = two_experiments(600, 3)
    found = interaction_of_means(y, a, b, min_units=2)
    cells = [y[(a == i) & (b == j)] for i in (0, 1) for j in (0, 1)]
    parts = np.array([cell.var(ddof=1) / len(cell) for cell in cells])
    sizes = np.array([len(cell) for cell in cells])
    df = parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    assert found.degrees_of_freedom == pytest.approx(df, rel=1e-9)
    t = found.estimate / found.std_error
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9)


@given(st.integers(0, 500), st.sampled_from([1e-6, 3.0, 1e6]), st.sampled_from([-50.0, 0.0, 1e4]))
def test_scale_shift_and_swaps(seed, scale, shift):
    y, a, b = two_experiments(1000, seed, product=0.2)
    base = interaction_of_means(y, a, b, min_units=2)
    other = interaction_of_means(scale * y, a, b, min_units=2)
    assert other.estimate == pytest.approx(scale * base.estimate, rel=1e-7)
    assert other.p_value == pytest.approx(base.p_value, rel=1e-6)
    moved = interaction_of_means(y + shift, a, b, min_units=2)
    assert moved.estimate == pytest.approx(base.estimate, abs=1e-8)
    # Which experiment is called the first does not matter; turning one around turns the sign.
    assert interaction_of_means(y, b, a, min_units=2).estimate == pytest.approx(
        base.estimate, rel=1e-9
    )
    turned = interaction_of_means(y, ~a, b, min_units=2)
    assert turned.estimate == pytest.approx(-base.estimate, rel=1e-9)
    assert turned.p_value == pytest.approx(base.p_value, rel=1e-9)


def test_effects_of_ratios_take_normal_quantiles():
    rng = np.random.default_rng(4)

    def arm(n):
        d = rng.poisson(3, n) + 1.0
        return ArmMoments.from_arrays(numerator=d * rng.normal(2, 1, n), denominator=d)

    effects = [compare_ratios(arm(400), arm(500)).difference for _ in range(2)]
    found = effect_interaction(*effects)
    assert found.degrees_of_freedom is None
    assert found.std_error == pytest.approx(math.hypot(*(e.std_error for e in effects)))
    assert found.estimate == pytest.approx(effects[1].estimate - effects[0].estimate)


def test_size_and_the_twin_with_one_variance(monte_carlo_band):
    """The rarer arm of B has the larger spread, which a pooled variance does not see."""
    runs, n, rejected, pooled = 2000, 2000, 0, 0
    rng = np.random.default_rng(5)
    for _ in range(runs):
        a, b = rng.random(n) < 0.5, rng.random(n) < 0.25
        y = 1.0 * a + b + np.where(b, 3.0, 1.0) * rng.normal(size=n)
        rejected += interaction_of_means(y, a, b).p_value < 0.05
        cells = [y[(a == i) & (b == j)] for i in (0, 1) for j in (0, 1)]
        residual = sum(((cell - cell.mean()) ** 2).sum() for cell in cells) / (n - 4)
        error = math.sqrt(residual * sum(1 / len(cell) for cell in cells))
        means = [cell.mean() for cell in cells]
        pooled += abs(means[3] - means[2] - means[1] + means[0]) / error > 1.96
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected / runs <= high
    assert pooled / runs > high + 0.05


def test_cells_below_a_hundred_are_not_tested():
    rng = np.random.default_rng(6)
    a = np.repeat([0, 1], 200)
    b = np.tile([0, 1], 200)
    b[a == 1] = np.repeat([0, 1], [101, 99])
    y = rng.normal(size=400)
    with pytest.raises(EstimationError, match="99 in a cell, need 100"):
        interaction_of_means(y, a, b)
    assert interaction_of_means(y, a, b, min_units=99).p_value <= 1


def test_dependence_of_assignments_is_pearsons(monte_carlo_band):
    table = [[250, 240, 260], [230, 270, 250]]
    found = assignment_dependence(table)
    live = stats.chi2_contingency(table, correction=False)
    assert found.statistic == pytest.approx(live.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(live.pvalue, rel=1e-10)
    assert (found.n_units, found.degrees_of_freedom, found.is_dependent) == (1500, 2, False)
    # Clean pairs: uniform p. Broken twin: a tenth of the units got both arms from one hash.
    rng = np.random.default_rng(7)
    p, n_found = [], 0
    for _ in range(400):
        a, b = rng.integers(0, 2, (2, 4000))
        p.append(assignment_dependence(np.bincount(2 * a + b, minlength=4).reshape(2, 2)).p_value)
        b[:400] = a[:400]
        shared = assignment_dependence(np.bincount(2 * a + b, minlength=4).reshape(2, 2))
        n_found += shared.is_dependent
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert min(p) > 1e-4
    assert n_found > 390


def effect_of(rows):
    return compare_means(*(ArmMoments.from_arrays(y=row) for row in rows)).difference


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: assignment_dependence([[0, 0], [0, 0]]), "N_TOO_SMALL"),
        (lambda: assignment_dependence([[9, 3], [3, 2]]), "N_TOO_SMALL"),
        (lambda: assignment_dependence([[90, 0], [80, 0]]), "ZERO_VARIANCE"),
        (lambda: interaction_of_means([1.0, math.inf], [0, 1], [0, 1]), "NON_FINITE_INPUT"),
        (lambda: interaction_of_means([1.0] * 4, [1] * 4, [0, 1] * 2), "EMPTY_ARM"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: assignment_dependence([1, 2]), "need \\(arms, arms\\)"),
        (lambda: assignment_dependence([[1, -2], [3, 4]]), "need counts"),
        (lambda: interaction_of_means([1.0, 2.0], [0, 2], [0, 1]), "is_treated"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_different_estimands_are_refused():
    rng = np.random.default_rng(0)
    rows = [5 + rng.random(150) for _ in range(2)]
    contrast = compare_means(*(ArmMoments.from_arrays(y=row) for row in rows))
    with pytest.raises(ValueError, match="one estimand"):
        effect_interaction(contrast.difference, contrast.relative)
