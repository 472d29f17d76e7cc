import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.sequential.boundaries import first_crossings, solve_boundaries
from experiments_dagster.stats.sequential.extension import (
    conditional_rejection_probability,
    extension_plan,
    new_data_score,
    reserved_extension_plan,
)
from experiments_dagster.stats.sequential.recursion import crossing_probabilities


@given(st.floats(0.05, 0.95), st.floats(-4, 4), st.floats(1.5, 4), st.sampled_from([1, 2]))
def test_one_final_bound_has_the_closed_form(t, z, c, sides):
    ahead = conditional_rejection_probability(t, z, remaining=[(1.0, c)], sides=sides)
    path, root = math.sqrt(t) * z, math.sqrt(1 - t)
    assert ahead.upper[0] == pytest.approx(ndtr(-(c - path) / root), rel=1e-9, abs=1e-300)
    below = ndtr((-c - path) / root) if sides == 2 else 0.0
    assert ahead.lower[0] == pytest.approx(below, rel=1e-9, abs=1e-300)


def test_several_looks_agree_with_the_multivariate_normal():
    t, z, times, bounds = 0.3, 1.2, np.array([0.5, 0.7, 1.0]), np.array([2.9, 2.4, 2.0])
    path = math.sqrt(t) * z
    law = stats.multivariate_normal(
        np.full(3, path), np.minimum.outer(times, times) - t, allow_singular=False
    )
    reach = bounds * np.sqrt(times)
    inside = law.cdf(reach, lower_limit=-reach, rng=np.random.default_rng(0))
    remaining = list(zip(times.tolist(), bounds.tolist(), strict=True))
    ahead = conditional_rejection_probability(t, z, remaining=remaining)
    assert ahead.total == pytest.approx(1 - inside, abs=2e-5)


def test_it_averages_to_the_size_that_remains():
    """E φ over the paths that go on is what the later looks of the plan reject with."""
    plan = solve_boundaries([0.4, 0.7, 1.0], alpha=0.05, spending="pocock")
    crossing = crossing_probabilities(plan.fractions, plan.critical_values)
    remaining = list(zip(plan.fractions[1:], plan.critical_values[1:], strict=True))
    c = plan.critical_values[0]
    points, weights = np.polynomial.legendre.leggauss(60)
    mean = sum(
        w
        * c
        * stats.norm.pdf(c * x)
        * conditional_rejection_probability(0.4, c * x, remaining=remaining).total
        for x, w in zip(points, weights, strict=True)
    )
    later = crossing.total - crossing.upper[0] - crossing.lower[0]
    assert mean == pytest.approx(later, abs=1e-9)


def test_conditional_power_grows_with_the_drift_and_a_look_without_a_boundary_is_passed():
    call = {"remaining": [(0.7, None), (1.0, 2.0)]}
    at = [conditional_rejection_probability(0.5, 1.0, drift=d, **call).upper for d in (0.0, 3.0)]
    assert at[0][0] == at[1][0] == 0
    assert at[1][1] > at[0][1]
    alone = conditional_rejection_probability(0.5, 1.0, remaining=[(1.0, 2.0)])
    assert at[0][1] == pytest.approx(alone.upper[0], rel=1e-9)


@given(st.floats(0.1, 0.9), st.floats(-2.5, 2.5))
def test_without_more_data_than_planned_the_extension_is_the_plan(t, z):
    """New data of exactly the planned size: the same decision as the planned last look."""
    c = 2.0
    plan = extension_plan(t, z, remaining=[(1.0, c)])
    for last in (-c - 0.01, -c + 0.01, c - 0.01, c + 0.01):
        score = new_data_score(t, z, 1.0, last)
        assert (score >= plan.upper or score <= plan.lower) == (abs(last) >= c)


@given(st.floats(0.1, 0.9), st.floats(-2.5, 2.5))
def test_arm_swap_mirrors(t, z):
    plan, swapped = (extension_plan(t, s * z, remaining=[(1.0, 2.0)]) for s in (1, -1))
    assert swapped.level == pytest.approx(plan.level, rel=1e-12)
    assert swapped.upper == pytest.approx(-plan.lower, rel=1e-9)
    assert plan.level_up + plan.level_down == plan.level


def test_one_sided_plans_have_no_lower_bound():
    plan = extension_plan(0.5, 1.0, remaining=[(1.0, 1.645)], sides=1)
    assert (plan.lower, plan.level_down) == (None, 0.0)
    assert reserved_extension_plan(alpha=0.05, reserve_alpha=0.01, sides=1).lower is None


def test_reserved_level():
    plan = reserved_extension_plan(alpha=0.05, reserve_alpha=0.01)
    # The plan rejects with 0.04; of the other 0.96 the extension may reject a share of φ.
    assert 0.04 + 0.96 * plan.level == pytest.approx(0.05)
    assert plan.upper == -plan.lower


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: extension_plan(1.0, 1.9, remaining=[]), "OUTSIDE_PLAN"),
        (lambda: extension_plan(0.5, 1.0, remaining=[(1.0, None)]), "OUTSIDE_PLAN"),
        (lambda: reserved_extension_plan(alpha=0.05, reserve_alpha=0.0), "OUTSIDE_PLAN"),
        (lambda: new_data_score(100.0, 1.0, 100.0, 1.0), "NOT_IDENTIFIED"),
    ],
)
def test_no_extension_out_of_nothing(call, code):
    with pytest.raises(EstimationError) as refused:
        call()
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extension_plan(0.5, 1.0, remaining=[(0.4, 2.0)]), "increase"),
        (lambda: extension_plan(0.5, 1.0, remaining=[(1.4, 2.0)]), "increase"),
        (lambda: extension_plan(0.0, 1.0, remaining=[(1.0, 2.0)]), "increase"),
        (lambda: extension_plan(0.5, 1.0, remaining=[(1.0, 2.0)], sides=3), "sides"),
        (lambda: reserved_extension_plan(alpha=0.05, reserve_alpha=0.06), "reserve_alpha"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_total_type_one_error_of_an_eager_extender(monte_carlo_band):
    """Whoever is close at the second look of three takes three times the data that were left."""
    rng = np.random.default_rng(12)
    runs, t = 20_000, np.array([0.4, 0.7, 1.0])
    plan = solve_boundaries(t.tolist(), alpha=0.05)
    critical = plan.critical_values
    path = np.cumsum(rng.normal(size=(runs, 3)) * np.sqrt(np.diff(t, prepend=0)), axis=1)
    z = path / np.sqrt(t)
    rejected = first_crossings(z, critical) >= 0
    careless = rejected.copy()
    stopped_early = first_crossings(z[:, :2], critical[:2]) >= 0
    for i in np.flatnonzero(~stopped_early & (np.abs(z[:, 1]) > 0.8)):
        information = 0.7 + 0.9 * rng.integers(1, 4) / 3
        total = path[i, 1] + rng.normal() * math.sqrt(information - 0.7)
        z_now = total / math.sqrt(information)
        plan_now = extension_plan(0.7, z[i, 1], remaining=[(1.0, critical[2])])
        score = new_data_score(0.7, z[i, 1], information, z_now)
        rejected[i] = score >= plan_now.upper or score <= plan_now.lower
    # Twin: nobody significant at the end stops collecting; everything is tested again.
    for i in np.flatnonzero(~careless & (np.abs(z[:, 2]) > 0.8)):
        total = path[i, 2]
        for information in (1.3, 1.6, 1.9):
            total += rng.normal() * math.sqrt(0.3)
            careless[i] |= abs(total) / math.sqrt(information) >= critical[2]
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected.mean() <= high
    assert careless.mean() > high


@pytest.mark.slow
def test_total_type_one_error_of_a_reserved_extension(monte_carlo_band):
    rng = np.random.default_rng(13)
    runs, t = 50_000, np.array([0.5, 1.0])
    plan = solve_boundaries(t.tolist(), alpha=0.04)
    z = np.cumsum(rng.normal(size=(runs, 2)) * np.sqrt(0.5), axis=1) / np.sqrt(t)
    rejected = first_crossings(z, plan.critical_values) >= 0
    extension = reserved_extension_plan(alpha=0.05, reserve_alpha=0.01)
    # Always extending is the worst case; the new data are a fresh score.
    fresh = rng.normal(size=runs)
    rejected |= ~rejected & ((fresh >= extension.upper) | (fresh <= extension.lower))
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected.mean() <= high
