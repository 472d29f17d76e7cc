import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.fisher import (
    FISHER_LIMIT,
    contingency_monte_carlo,
    fisher_exact,
    has_sparse_cells,
)
from experiments_dagster.stats.methods.moments.proportion import contingency_chi_square

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("table", "published"),
    [
        # R ?fisher.test: Agresti 1990, tea tasting (two-sided 0.4857, also Fisher 1935).
        ((1, 4, 3, 4), 0.4857),
        # R ?fisher.test: Fisher 1962, convictions of like-sex twins, 2/12 against 15/18.
        ((15, 18, 2, 12), 0.0005367),
    ],
)
def test_published_by_r(table, published):
    # Four digits are published.
    assert fisher_exact(*table).p_value == pytest.approx(published, rel=1.5e-4)


@given(counts, counts)
def test_agrees_with_scipy(control, treatment):
    (x_c, n_c), (x_t, n_t) = control, treatment
    result = fisher_exact(x_c, n_c, x_t, n_t)
    live = stats.fisher_exact([[x_t, n_t - x_t], [x_c, n_c - x_c]])
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-9)
    if result.odds_ratio is None:
        assert not math.isfinite(live.statistic)
    else:
        assert result.odds_ratio == pytest.approx(live.statistic, rel=1e-12)


@pytest.mark.parametrize(
    "table", [(20, 250_000, 45, 250_000), (120_000, 250_000, 121_000, 250_000)]
)
def test_large_tables_agree_with_scipy(table):
    x_c, n_c, x_t, n_t = table
    live = stats.fisher_exact([[x_t, n_t - x_t], [x_c, n_c - x_c]])
    # Log factorials of 2.5e5 are 3e6: nine digits are left.
    assert fisher_exact(*table).p_value == pytest.approx(live.pvalue, rel=1e-7)


def test_at_the_limit_it_nears_the_chi_square():
    half = FISHER_LIMIT // 2
    table = (50_000, half, 50_600, half)
    x_c, n_c, x_t, n_t = table
    chi_square = contingency_chi_square([[x_c, n_c - x_c], [x_t, n_t - x_t]], yates=True)
    # The corrected chi-square is the normal approximation of the exact p.
    assert fisher_exact(*table).p_value == pytest.approx(chi_square.p_value, rel=0.01)


@given(counts, counts)
def test_swap_of_arms_and_of_outcomes(control, treatment):
    (x_c, n_c), (x_t, n_t) = control, treatment
    base = fisher_exact(x_c, n_c, x_t, n_t)
    assert fisher_exact(x_t, n_t, x_c, n_c).p_value == pytest.approx(base.p_value, rel=1e-10)
    flipped = fisher_exact(n_c - x_c, n_c, n_t - x_t, n_t)
    assert flipped.p_value == pytest.approx(base.p_value, rel=1e-10)


def test_the_mirrored_table_counts_as_equally_likely():
    # Equal arms: the mirror of 8 against 2 is as extreme, so p is twice the one-sided tail.
    law = stats.hypergeom(20, 10, 10)
    assert fisher_exact(2, 10, 8, 10).p_value == pytest.approx(2 * law.sf(7), rel=1e-12)


def test_no_successes_at_all_is_no_evidence():
    result = fisher_exact(0, 10, 0, 12)
    assert (result.p_value, result.odds_ratio) == (1.0, None)


def test_tiny_p_value_keeps_its_digits():
    # Only the observed table is as extreme: p = 2/C(200, 100).
    exact = 2 / math.comb(200, 100)
    assert fisher_exact(0, 100, 100, 100).p_value == pytest.approx(exact, rel=1e-11)


def test_empty_arm():
    with pytest.raises(EstimationError) as error:
        fisher_exact(0, 0, 1, 2)
    assert error.value.code == "EMPTY_ARM"


@pytest.mark.parametrize("x", [-1, 5, 1.5, float("nan")])
def test_counts_outside_the_arm(x):
    with pytest.raises(ValueError, match="arm treatment"):
        fisher_exact(1, 4, x, 4)


def test_too_many_units_point_to_chi_square():
    with pytest.raises(ValueError, match="contingency_chi_square"):
        fisher_exact(1, FISHER_LIMIT, 1, 1)


@pytest.mark.parametrize(
    ("table", "is_sparse"),
    [
        ([[1, 99], [3, 97]], True),
        ([[5, 95], [5, 95]], False),
        # Expected 4, 4, 4, 96, 96, 96: half of the cells; in ten columns one of ten.
        ([[4, 96], [4, 96], [4, 96]], True),
        ([[4] + [20] * 9, [4] + [20] * 9], False),
    ],
)
def test_sparse_cells(table, is_sparse):
    assert has_sparse_cells(table) is is_sparse


def test_monte_carlo_two_by_two_is_fisher_on_chi_square():
    """With equal arms both order tables alike, so the simulated p estimates Fisher's."""
    exact = fisher_exact(2, 12, 8, 12).p_value
    test = contingency_monte_carlo([[2, 10], [8, 4]], replicates=40_000, seed=3)
    assert test.p_value == pytest.approx(exact, abs=4 * test.p_value_std_error)


def test_monte_carlo_agrees_with_the_simulation_of_scipy():
    """Agresti 2002, table 2.8, job satisfaction: R's chisq.test gives 5.9655 (asymptotic)."""
    table = [[1, 2, 1, 0], [3, 3, 6, 1], [10, 10, 14, 9], [6, 7, 12, 11]]
    ours = contingency_monte_carlo(table, replicates=20_000, seed=5)
    assert ours.statistic == pytest.approx(5.9655, abs=5e-5)
    method = stats.MonteCarloMethod(n_resamples=20_000, rng=np.random.default_rng(1))
    theirs = stats.chi2_contingency(table, correction=False, method=method)
    # Two simulated shares: four standard errors of their difference.
    assert ours.p_value == pytest.approx(
        theirs.pvalue, abs=4 * math.sqrt(2) * ours.p_value_std_error
    )


def test_monte_carlo_agrees_with_scipy_tables():
    table = np.array([[3, 1, 0], [1, 3, 2], [0, 4, 1]])
    ours = contingency_monte_carlo(table, replicates=20_000, seed=1)
    rng = np.random.default_rng(2)
    drawn = stats.random_table(table.sum(axis=1), table.sum(axis=0)).rvs(20_000, random_state=rng)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistics = ((drawn - expected) ** 2 / expected).sum(axis=(1, 2))
    theirs = np.mean(statistics >= ours.statistic * (1 - 1e-7))
    # Two simulated shares: four standard errors of their difference.
    assert ours.p_value == pytest.approx(theirs, abs=4 * math.sqrt(2) * ours.p_value_std_error)


def test_monte_carlo_repeats_and_never_reaches_zero():
    table = [[30, 0, 0], [0, 30, 0], [0, 0, 30]]
    first, again = (contingency_monte_carlo(table, replicates=99, seed=7) for _ in range(2))
    assert first == again
    assert first.p_value == 0.01


def test_monte_carlo_in_batches(monkeypatch):
    from experiments_dagster.stats.methods.moments import fisher

    monkeypatch.setattr(fisher, "LARGEST_BATCH", 60)
    test = contingency_monte_carlo([[3, 1], [1, 3], [0, 4]], replicates=2_000, seed=1)
    whole = stats.random_table([4, 4, 4], [4, 8]).rvs(20_000, random_state=1)
    chi_squares = np.sum((whole - [4 / 3, 8 / 3]) ** 2 / [4 / 3, 8 / 3], axis=(1, 2))
    exact = np.mean(chi_squares >= test.statistic - 1e-9)
    assert test.p_value == pytest.approx(exact, abs=4.5 * test.p_value_std_error)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[1, 2]], "shape"),
        ([[1, 2], [-1, 2]], "whole counts"),
        ([[1, 2], [0.5, 2]], "whole counts"),
        ([[1, 2], [float("nan"), 2]], "whole counts"),
    ],
)
def test_not_a_table_of_counts(table, message):
    with pytest.raises(ValueError, match=message):
        contingency_monte_carlo(table, seed=1)


def test_monte_carlo_refusals():
    with pytest.raises(EstimationError) as error:
        contingency_monte_carlo([[1, 0], [2, 0]], seed=1)
    assert error.value.code == "ZERO_VARIANCE"
    with pytest.raises(EstimationError):
        has_sparse_cells([[0, 0], [0, 0]])
    with pytest.raises(ValueError, match="replicates"):
        contingency_monte_carlo([[1, 2], [2, 1]], replicates=0, seed=1)
