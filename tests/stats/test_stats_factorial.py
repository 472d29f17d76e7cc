import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.factorial import factorial_effects
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.multiplicity import adjusted_p_values


def experiment(k, n, seed, *, balanced=False):
    """Units with k factors: unequal shares unless balanced, and effects of every order."""
    rng = np.random.default_rng(seed)
    if balanced:
        cells = np.array(list(itertools.product((0, 1), repeat=k)))
        levels = np.repeat(cells, n // len(cells), axis=0)
    else:
        levels = (rng.random((n, k)) < rng.uniform(0.3, 0.7, k)).astype(int)
    noise = rng.normal(size=len(levels)) * (1 + levels[:, 0])
    y = 5 + levels @ np.arange(1, k + 1) + 2 * levels[:, 0] * levels[:, -1] + noise
    return y, levels


def names(k):
    return list("abcdef"[:k])


def design(levels, order):
    """Written out, one product per term, by statsmodels' own means."""
    halves = levels - 0.5
    terms = [
        term
        for size in range(1, order + 1)
        for term in itertools.combinations(range(levels.shape[1]), size)
    ]
    return sm.add_constant(np.column_stack([halves[:, term].prod(axis=1) for term in terms]))


def bell_mccaffrey(X, position):
    """By the n × n definition of the paper, for unequal cells as well."""
    inverse = np.linalg.inv(X.T @ X)
    hat = X @ inverse @ X.T
    weights = (X @ inverse)[:, position] / np.sqrt(1 - np.diag(hat))
    G = (np.eye(len(X)) - hat) * weights
    eigenvalues = np.linalg.eigvalsh(G.T @ G)
    return eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


@pytest.mark.parametrize(("k", "order"), [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 2), (6, 2)])
def test_live_against_statsmodels(k, order):
    y, levels = experiment(k, 600, seed=k)
    result = factorial_effects(y, levels, factors=names(k), order=order)
    X = design(levels, order)
    live = sm.OLS(y, X).fit(cov_type="HC2", use_t=False)
    found = [result.grand_mean, *result.effects]
    assert [effect.estimate for effect in found] == pytest.approx(live.params, rel=1e-9)
    assert [effect.std_error for effect in found] == pytest.approx(live.bse, rel=1e-9)
    for position, effect in enumerate(found):
        df = bell_mccaffrey(X, position)
        assert effect.degrees_of_freedom == pytest.approx(df, rel=1e-6)
        if effect.p_value is not None:
            t = live.params[position] / live.bse[position]
            assert effect.p_value == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-6)


@pytest.mark.parametrize(("k", "order"), [(2, 2), (3, 2), (3, 3)])
def test_the_table_of_a_balanced_design_is_the_classical_one(k, order):
    y, levels = experiment(k, 160, seed=9, balanced=True)
    table = factorial_effects(y, levels, factors=names(k), order=order).variance_table
    X = design(levels, order)
    live = sm.OLS(y, X).fit()
    assert table.residual_sum_of_squares == pytest.approx(live.ssr, rel=1e-9)
    assert table.residual_df == live.df_resid
    assert [row.f for row in table.rows] == pytest.approx(live.tvalues[1:] ** 2, rel=1e-8)
    assert [row.p_value for row in table.rows] == pytest.approx(live.pvalues[1:], rel=1e-7)
    total = sum(row.sum_of_squares for row in table.rows) + table.residual_sum_of_squares
    assert total == pytest.approx(((y - y.mean()) ** 2).sum(), rel=1e-9)


def test_an_unbalanced_design_has_no_classical_table():
    y, levels = experiment(2, 101, seed=1)
    assert factorial_effects(y, levels, factors=["a", "b"]).variance_table is None


def test_closed_form_of_two_factors():
    """Means of cells 1, 2, 4, 9: effects by hand."""
    means = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 4.0, (1, 1): 9.0}
    rows = [(cell, means[cell] + off) for cell in means for off in (-1.0, 0.0, 1.0)]
    levels, y = zip(*rows, strict=True)
    result = factorial_effects(y, levels, factors=["a", "b"])
    assert result.grand_mean.estimate == pytest.approx(4.0)
    assert [effect.estimate for effect in result.effects] == pytest.approx([5.0, 3.0, 4.0])
    # Each cell's mean has variance 1/3; a main effect is half a sum of four of them.
    assert [effect.std_error for effect in result.effects] == pytest.approx(
        [math.sqrt(1 / 3), math.sqrt(1 / 3), math.sqrt(4 / 3)]
    )
    assert [effect.name for effect in result.effects] == ["a", "b", "a:b"]
    assert result.smallest_cell == 3


def test_one_factor_is_welch():
    y, levels = experiment(1, 200, seed=4)
    effect = factorial_effects(y, levels, factors=["a"]).effects[0]
    is_high = levels[:, 0] == 1
    welch = compare_means(
        ArmMoments.from_arrays(y=y[~is_high]), ArmMoments.from_arrays(y=y[is_high])
    ).difference
    assert effect.estimate == pytest.approx(welch.estimate, rel=1e-12)
    assert effect.std_error == pytest.approx(welch.std_error, rel=1e-12)


def test_holm_stays_within_an_order():
    y, levels = experiment(3, 300, seed=3)
    effects = factorial_effects(y, levels, factors=names(3), order=3).effects
    for order in (1, 2, 3):
        same = [effect for effect in effects if effect.order == order]
        raw = [effect.p_value for effect in same]
        assert [effect.p_adjusted for effect in same] == list(adjusted_p_values(raw, "holm"))


def without(y, levels, cell):
    keep = ~(levels == np.array(cell)).all(axis=1)
    return y[keep], levels[keep]


def test_an_empty_cell_takes_the_effects_that_need_it():
    y, levels = experiment(2, 300, seed=5)
    result = factorial_effects(*without(y, levels, (1, 1)), factors=["a", "b"])
    assert [effect.reason for effect in result.effects] == ["NOT_IDENTIFIED"] * 3
    assert result.grand_mean.reason == "NOT_IDENTIFIED"
    assert (result.n_empty_cells, result.smallest_cell) == (1, 0)
    # Without an interaction in the model three cells are enough.
    additive = factorial_effects(*without(y, levels, (1, 1)), factors=["a", "b"], order=1)
    assert [effect.reason for effect in additive.effects] == [None, None]


def test_effects_that_do_not_need_the_empty_cells_stay():
    """Nobody has a and b high, whatever c: c and what it does with a and b are still there."""
    y, levels = experiment(3, 800, seed=6)
    for c in (0, 1):
        y, levels = without(y, levels, (1, 1, c))
    result = factorial_effects(y, levels, factors=names(3))
    found = {effect.name: effect for effect in result.effects}
    missing = {name for name, effect in found.items() if effect.reason == "NOT_IDENTIFIED"}
    assert missing == {"a", "b", "a:b"}
    # Those that stay agree with a regression on the columns that remain independent.
    halves = levels - 0.5
    X = np.column_stack(
        [np.ones(len(y)), halves[:, :2], halves[:, 2], halves[:, [0, 2]].prod(axis=1)]
    )
    X = np.column_stack([X, halves[:, [1, 2]].prod(axis=1)])
    live = sm.OLS(y, X).fit(cov_type="HC2")
    for name, position in (("c", 3), ("a:c", 4), ("b:c", 5)):
        assert found[name].estimate == pytest.approx(live.params[position], rel=1e-8)
        assert found[name].std_error == pytest.approx(live.bse[position], rel=1e-8)
    # Effects that cannot be estimated still count in the correction.
    two = [effect for effect in result.effects if effect.order == 2 and effect.p_value is not None]
    raw = [effect.p_value for effect in two]
    assert [effect.p_adjusted for effect in two] == list(adjusted_p_values(raw, "holm", planned=3))


def test_a_cell_of_one_unit_has_no_variance_of_its_own():
    y, levels = experiment(2, 300, seed=7)
    y, levels = without(y, levels, (1, 1))
    y, levels = np.append(y, 3.0), np.vstack([levels, [1, 1]])
    result = factorial_effects(y, levels, factors=["a", "b"])
    assert [effect.reason for effect in result.effects] == ["N_TOO_SMALL"] * 3


@given(
    st.integers(0, 1000),
    st.sampled_from([1e-9, 0.5, 1e7]),
    st.sampled_from([-40.0, 0.0, 1e5]),
    st.integers(2, 4),
)
def test_scale_shift_order_and_swapped_levels(seed, scale, shift, k):
    y, levels = experiment(k, 40 * 2**k, seed=seed)
    base = factorial_effects(y, levels, factors=names(k))
    scaled = factorial_effects(scale * y, levels, factors=names(k))
    moved = factorial_effects(y + shift, levels, factors=names(k))
    order = np.random.default_rng(seed).permutation(len(y))
    shuffled = factorial_effects(y[order], levels[order], factors=names(k))
    swapped = factorial_effects(
        y, np.column_stack([1 - levels[:, 0], levels[:, 1:]]), factors=names(k)
    )
    for position, effect in enumerate(base.effects):
        other = scaled.effects[position]
        assert other.estimate == pytest.approx(scale * effect.estimate, rel=1e-7, abs=1e-9 * scale)
        assert other.p_value == pytest.approx(effect.p_value, rel=1e-6, abs=1e-12)
        assert moved.effects[position].estimate == pytest.approx(effect.estimate, abs=1e-8)
        assert shuffled.effects[position].std_error == pytest.approx(effect.std_error, rel=1e-9)
        sign = -1 if "a" in effect.factors else 1
        assert swapped.effects[position].estimate == pytest.approx(sign * effect.estimate, abs=1e-8)
        assert effect.ci_low <= effect.estimate <= effect.ci_high
        assert effect.p_value <= effect.p_adjusted <= 1
    assert moved.grand_mean.estimate == pytest.approx(base.grand_mean.estimate + shift, abs=1e-7)


def test_size_with_unequal_variances_and_the_pooled_twin(monte_carlo_band):
    """Small cells have the larger variance: HC2 with its t holds, one pooled variance does not."""
    rng = np.random.default_rng(8)
    cells = [((0, 0), 60, 1.0), ((0, 1), 20, 2.0), ((1, 0), 20, 2.0), ((1, 1), 8, 5.0)]
    levels = np.repeat([cell for cell, _, _ in cells], [n for _, n, _ in cells], axis=0)
    sd = np.repeat([spread for _, _, spread in cells], [n for _, n, _ in cells])
    X = design(levels, 2)
    inverse = np.linalg.inv(X.T @ X)
    runs, rejected, pooled = 2000, 0, 0
    for _ in range(runs):
        y = sd * rng.normal(size=len(sd))
        result = factorial_effects(y, levels, factors=["a", "b"])
        rejected += result.effects[2].p_value < 0.05
        coefficients = inverse @ X.T @ y
        residual = y - X @ coefficients
        error = math.sqrt(residual @ residual / (len(y) - 4) * inverse[3, 3])
        pooled += abs(coefficients[3]) / error > 1.98
    low, high = monte_carlo_band(0.05, runs)
    # Bell-McCaffrey is an approximation by two moments; it errs to the conservative side a little.
    assert low - 0.01 <= rejected / runs <= high
    assert pooled / runs > high + 0.05


def test_offset_costs_no_digits():
    y, levels = experiment(2, 400, seed=2)
    base = factorial_effects(y, levels, factors=["a", "b"])
    far = factorial_effects(np.round(y, 6) + 1e9, levels, factors=["a", "b"])
    for one, other in zip(base.effects, far.effects, strict=True):
        assert other.estimate == pytest.approx(one.estimate, abs=1e-5)
        assert other.std_error == pytest.approx(one.std_error, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: factorial_effects([], np.empty((0, 2)), factors=["a", "b"]), "N_TOO_SMALL"),
        (
            lambda: factorial_effects([1.0, math.nan], [[0], [1]], factors=["a"]),
            "NON_FINITE_INPUT",
        ),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


def test_a_constant_outcome_has_a_reason_and_no_zero():
    levels = [[0, 0], [0, 1], [1, 0], [1, 1]] * 3
    result = factorial_effects([0.1] * 12, levels, factors=["a", "b"])
    assert {effect.reason for effect in result.effects} == {"ZERO_VARIANCE"}
    assert {effect.estimate for effect in result.effects} == {None}
    assert result.variance_table is None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: factorial_effects([1.0], [[0] * 7], factors=list("abcdefg")), "need 1 to 6"),
        (lambda: factorial_effects([1.0], np.empty((1, 0)), factors=[]), "need 1 to 6"),
        (lambda: factorial_effects([1.0], [[0, 1]], factors=["a", "a"]), "distinct"),
        (lambda: factorial_effects([1.0], [[0, 2]], factors=["a", "b"]), "0 for low"),
        (lambda: factorial_effects([1.0], [[0]], factors=["a", "b"]), "need \\(1, 2\\)"),
        (lambda: factorial_effects([1.0], [[0]], factors=["a"], order=2), "need 1 to 1"),
        (lambda: factorial_effects([1.0], [[0]], factors=["a"], alpha=0), "alpha is 0"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
