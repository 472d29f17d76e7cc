import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.sequential.boundaries import next_boundary, solve_boundaries
from experiments_dagster.stats.sequential.longitudinal import (
    longitudinal_boundary,
    score_products,
    spending_fraction,
)


def independent_increments(fractions):
    """Cov(Δ̂_j, Δ̂_k) = 1/I_k for j ≤ k."""
    return 1 / np.maximum.outer(fractions, fractions)


@pytest.mark.parametrize(
    ("looks", "spending", "sides"),
    [
        (1, "obrien_fleming", 2),
        (5, "obrien_fleming", 2),
        (5, "pocock", 2),
        (4, "pocock", 1),
        (12, "obrien_fleming", 1),
    ],
)
def test_independent_increments_give_the_recursive_boundaries(looks, spending, sides):
    fractions = np.arange(1, looks + 1) / looks
    plan = solve_boundaries(fractions.tolist(), alpha=0.05, sides=sides, spending=spending)
    products = independent_increments(fractions)
    spent = 0.0
    for k, (critical, allowed) in enumerate(
        zip(plan.critical_values, plan.cumulative_alpha, strict=True)
    ):
        look = longitudinal_boundary(
            products[: k + 1, : k + 1],
            plan.critical_values[:k],
            cumulative_alpha_now=max(allowed, 1e-300),
            alpha_spent=spent,
            sides=sides,
        )
        if critical is None:
            assert (look.critical_value, look.reason) == (None, "NO_STOP_AT_THIS_LOOK")
            continue
        # Five of its own standard errors; the nugget on R moves c by less than 1e-8.
        assert look.critical_value == pytest.approx(critical, abs=5 * look.monte_carlo_error + 1e-8)
        assert look.monte_carlo_error < 1e-4
        spent = look.alpha_spent


def test_small_increments_are_resolved():
    """An increment of 1e-9, of which blind sampling with 2e5 points would see nothing."""
    fractions = [0.3, 0.31]
    plan = solve_boundaries(fractions, alpha=0.05)
    products = independent_increments(np.array(fractions))
    allowed = plan.cumulative_alpha[0] + 1e-9
    look = longitudinal_boundary(
        products,
        plan.critical_values[:1],
        cumulative_alpha_now=allowed,
        alpha_spent=plan.cumulative_alpha[0],
    )
    exact = next_boundary(
        [(0.3, plan.critical_values[0])],
        t=0.31,
        cumulative_alpha_now=allowed,
        alpha_spent=plan.cumulative_alpha[0],
    )
    assert look.critical_value == pytest.approx(exact.critical_value, abs=2e-3)


def test_another_law_agrees_with_the_multivariate_normal():
    products = np.array([[4.0, 1.0, 0.4], [1.0, 1.5, 0.3], [0.4, 0.3, 1.0]])
    stored = [2.6, 2.4]
    look = longitudinal_boundary(products, stored, cumulative_alpha_now=0.05, alpha_spent=0.024)
    scale = np.sqrt(np.diag(products))
    bounds = np.array([*stored, look.critical_value])

    def inside(k):
        law = stats.multivariate_normal(np.zeros(k), (products / np.outer(scale, scale))[:k, :k])
        return law.cdf(bounds[:k], lower_limit=-bounds[:k], rng=np.random.default_rng(0))

    assert inside(2) - inside(3) == pytest.approx(0.026, abs=2e-5)


def test_less_correlation_needs_higher_boundaries():
    fractions = np.array([0.5, 0.75, 1.0])
    plan = solve_boundaries(fractions.tolist(), alpha=0.05, spending="pocock")
    products = independent_increments(fractions)
    apart = products * (1 - 0.6 * (1 - np.eye(3)))
    call = {"cumulative_alpha_now": 0.05, "alpha_spent": plan.cumulative_alpha[1], "points": 2**13}
    close = longitudinal_boundary(products, plan.critical_values[:2], **call).critical_value
    far = longitudinal_boundary(apart, plan.critical_values[:2], **call).critical_value
    assert far > close + 0.05


def test_looks_that_repeat_each_other():
    """No new data at all: only |Z| between the old and the new bound is left to reject."""
    products = np.ones((2, 2))
    look = longitudinal_boundary(products, [2.5], cumulative_alpha_now=0.03, alpha_spent=0.0124193)
    assert look.critical_value == pytest.approx(stats.norm.isf(0.015), abs=1e-3)


def test_scale_order_and_seed():
    products = np.array([[4.0, 1.0], [1.0, 1.5]])
    call = {"cumulative_alpha_now": 0.03, "alpha_spent": 0.01, "points": 2**12}
    base = longitudinal_boundary(products, [2.6], **call)
    again = longitudinal_boundary(products * 1e8, [2.6], **call)
    assert again.critical_value == pytest.approx(base.critical_value, rel=1e-12)
    assert longitudinal_boundary(products, [2.6], **call) == base
    other = longitudinal_boundary(products, [2.6], seed=1, **call)
    assert other.critical_value != base.critical_value
    assert abs(other.critical_value - base.critical_value) < 8 * base.monte_carlo_error
    # A look that could not stop restricts nothing: as if it had not been taken.
    free = longitudinal_boundary(products, [None], **call)
    alone = longitudinal_boundary(products[1:, 1:], [], **call)
    assert free.critical_value == pytest.approx(alone.critical_value, abs=1e-3)


def test_bounds_of_another_law_still_give_an_answer():
    """Stored bounds that under this law stop more than they spent: the tail is widened."""
    products = np.array([[1.0, 0.9], [0.9, 1.0]])
    look = longitudinal_boundary(
        products, [1.0], cumulative_alpha_now=0.05, alpha_spent=0.001, points=2**13
    )
    rho = stats.multivariate_normal([0, 0], products)
    reach = np.array([1.0, look.critical_value])
    inside = rho.cdf(reach, lower_limit=-reach, rng=np.random.default_rng(0))
    first = rho.cdf([1.0, 40.0], lower_limit=[-1.0, -40.0], rng=np.random.default_rng(0))
    assert first - inside == pytest.approx(0.049, abs=1e-3)


@given(st.integers(0, 10_000))
def test_score_products_by_hand(seed):
    rng = np.random.default_rng(seed)
    looks, table = [], {}
    for k in range(3):
        keys = rng.choice(20, size=rng.integers(1, 15), replace=False)
        scores = rng.normal(size=len(keys))
        looks.append(([f"u{key}" for key in keys], scores))
        for key, score in zip(keys, scores, strict=True):
            table.setdefault(key, [0.0] * 3)[k] = score
    psi = np.array(list(table.values()))
    products = score_products(looks)
    assert products == pytest.approx(psi.T @ psi, rel=1e-12, abs=1e-12)
    order = rng.permutation(len(looks[1][1]))
    looks[1] = ([looks[1][0][i] for i in order], looks[1][1][order])
    assert score_products(looks) == pytest.approx(products, rel=1e-12, abs=1e-12)


def test_spending_fraction():
    call = {"planned_information": 100.0}
    assert spending_fraction([10.0, 40.0], scheduled=0.9, **call) == 0.4
    assert spending_fraction([10.0, 400.0], scheduled=0.9, **call) == 1.0
    assert spending_fraction([10.0, 10.0], scheduled=0.5, **call) == 0.5
    # Once it did not grow, the schedule counts, but spending is never taken back.
    assert spending_fraction([10.0, 9.0, 30.0], scheduled=0.6, previous=0.7, **call) == 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_products([(["a"], [1.0]), None], subject="watch time"), "NOT_IDENTIFIED"),
        (lambda: score_products([(["a"], [math.nan])]), "NON_FINITE"),
        (lambda: score_products([(["a", "a"], [1.0, 2.0])]), "2 rows of 1 units"),
        (lambda: score_products([(["a", "b"], [1.0])]), "shape"),
        (lambda: score_products([]), "no looks"),
        (lambda: spending_fraction([], planned_information=1.0, scheduled=0.5), "0 looks"),
        (lambda: spending_fraction([1.0], planned_information=0.0, scheduled=0.5), "planned"),
        (
            lambda: longitudinal_boundary([[0.0]], [], cumulative_alpha_now=0.05, alpha_spent=0.0),
            "ZERO_VARIANCE",
        ),
        (
            lambda: longitudinal_boundary(
                [[math.inf]], [], cumulative_alpha_now=0.05, alpha_spent=0.0
            ),
            "NON_FINITE",
        ),
        (
            lambda: longitudinal_boundary(
                [[1.0]], [2.0], cumulative_alpha_now=0.05, alpha_spent=0.0
            ),
            "need \\(2, 2\\)",
        ),
        (
            lambda: longitudinal_boundary(
                [[1.0]], [], cumulative_alpha_now=0.05, alpha_spent=0.0, points=1001
            ),
            "power of two",
        ),
        (
            lambda: longitudinal_boundary([[1.0]], [], cumulative_alpha_now=1.0, alpha_spent=0.0),
            "levels",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_refusal_without_scores_says_what_to_do():
    with pytest.raises(EstimationError, match="complete cohorts"):
        score_products([None], subject="watch time")
