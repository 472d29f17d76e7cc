import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.sequential.boundaries import first_crossings, solve_boundaries
from experiments_dagster.stats.sequential.futility import futility_design, next_futility_bound
from experiments_dagster.stats.sequential.power import expected_information, required_drift
from experiments_dagster.stats.sequential.recursion import crossing_probabilities
from experiments_dagster.stats.sequential.spending import spent_per_tail

THIRDS = [1 / 3, 2 / 3, 1.0]
# The engines print ten digits and stop their own root search at about 1e-7.
ENGINE = 1e-6

spendings = st.sampled_from(["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"])
fractions = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(
    lambda ints: [i / max(ints) for i in sorted(ints)]
)


def test_reference_obrien_fleming_spending_of_both(reference):
    numbers = reference("sequential", "design_asof_bsof_nonbind").expected
    design = futility_design(THIRDS, alpha=0.025, power=0.8)
    assert list(design.upper) == pytest.approx(numbers["crit"], abs=ENGINE)
    assert list(design.lower[:-1]) == pytest.approx(numbers["fut"], abs=ENGINE)
    assert design.lower[-1] == design.upper[-1]
    assert design.inflation == pytest.approx(numbers["inflation"], abs=ENGINE)
    expected = design.expected_with_futility
    assert expected.under_null == pytest.approx(numbers["asn0"], abs=ENGINE)
    assert expected.under_half == pytest.approx(numbers["asn01"], abs=ENGINE)
    assert expected.under_planned == pytest.approx(numbers["asn1"], abs=ENGINE)


def test_reference_default_design(reference):
    numbers = reference("sequential", "design_gsDesign_default_typ4").expected
    design = futility_design(
        THIRDS,
        alpha=0.025,
        power=0.9,
        spending="hwang_shih_decani",
        parameter=-4.0,
        beta_spending="hwang_shih_decani",
        beta_parameter=-2.0,
    )
    assert list(design.lower) == pytest.approx(numbers["lower"], abs=ENGINE)
    assert np.diff(design.cumulative_beta, prepend=0).tolist() == pytest.approx(
        numbers["lower_spend"], abs=ENGINE
    )
    expected = design.expected_with_futility
    assert [expected.under_null, expected.under_planned] == pytest.approx(numbers["en"], abs=ENGINE)


@given(fractions, spendings, st.sampled_from([1, 2]), st.floats(0.5, 0.95))
def test_the_upper_bounds_ignore_futility_and_beta_is_spent_in_full(look_at, beta, sides, power):
    design = futility_design(look_at, alpha=0.05, power=power, sides=sides, beta_spending=beta)
    plan = solve_boundaries(look_at, alpha=0.05, sides=sides)
    assert design.upper == plan.critical_values
    assert design.cumulative_beta[-1] == pytest.approx(1 - power, abs=1e-8)
    for lower, upper in zip(design.lower, design.upper, strict=True):
        assert lower is None or upper is None or lower <= upper
        assert lower is None or upper is None or sides == 1 or lower > -upper
    # Stops for nothing cost power, so the plan needs more information than without them.
    assert design.drift >= required_drift(plan, power=power) - 1e-7
    ignored = design.expected_without_futility
    assert ignored.under_planned == pytest.approx(
        design.inflation * expected_information(plan, drift=design.drift), rel=1e-9
    )
    assert design.expected_with_futility.under_null <= ignored.under_null + 1e-12


def test_one_look_is_the_fixed_test():
    design = futility_design([1.0], alpha=0.025, power=0.9)
    assert design.lower == design.upper == (pytest.approx(1.959964, abs=1e-6),)
    assert design.inflation == pytest.approx(1.0, abs=1e-9)
    assert design.expected_with_futility.under_null == pytest.approx(1.0, abs=1e-9)


@given(spendings, st.sampled_from([1, 2]))
def test_look_by_look_gives_the_bounds_of_the_plan(beta, sides):
    look_at = [0.1, 0.35, 0.6, 1.0]
    design = futility_design(look_at, alpha=0.05, power=0.8, sides=sides, beta_spending=beta)
    stored, spent = [], 0.0
    for t, upper, lower in zip(look_at, design.upper, design.lower, strict=True):
        bound = next_futility_bound(
            stored,
            t=t,
            upper=upper,
            drift=design.drift,
            cumulative_beta_now=spent_per_tail(beta, t, 0.2),
            beta_spent=spent,
            sides=sides,
        )
        assert bound.lower == (lower if lower is None else pytest.approx(lower, abs=1e-6))
        spent = bound.beta_spent
        stored.append((t, upper, bound.lower))
    assert spent == pytest.approx(0.2, abs=1e-8)


def test_bounds_follow_the_information_that_came():
    design = futility_design([0.25, 0.5, 0.75, 1.0], alpha=0.05, power=0.8, sides=2)

    def bound(t):
        return next_futility_bound(
            [],
            t=t,
            upper=solve_boundaries([t, 1.0], alpha=0.05).critical_values[0],
            drift=design.drift,
            cumulative_beta_now=spent_per_tail("obrien_fleming", t, 0.2),
            beta_spent=0.0,
            sides=2,
        ).lower

    assert bound(0.3) < bound(0.5) < bound(0.8)
    # A score at its drift after half of the information is far from hopeless.
    assert bound(0.5) < design.drift * math.sqrt(0.5)


def test_a_late_look_never_asks_for_more_than_efficacy():
    bound = next_futility_bound(
        [], t=0.9, upper=1.5, drift=5.0, cumulative_beta_now=0.2, beta_spent=0.0
    )
    assert bound.lower == 1.5
    assert bound.beta_spent < 0.2


def test_nothing_to_spend_and_no_new_information():
    call = {"upper": 2.5, "drift": 3.0, "cumulative_beta_now": 0.1}
    none = next_futility_bound([], t=0.5, beta_spent=0.1, **call)
    assert (none.lower, none.reason) == (None, "NO_STOP_AT_THIS_LOOK")
    again = next_futility_bound([(0.5, 2.5, 0.3)], t=0.5, beta_spent=0.05, **call)
    assert (again.lower, again.beta_spent) == (None, 0.05)
    assert again.reason == "INFORMATION_DECREASED"


def test_power_and_size_by_simulation(monte_carlo_band):
    """Obeyed, the plan has its power; ignored, its type I error is still alpha, not less."""
    rng = np.random.default_rng(4)
    runs, look_at = 200_000, np.array([0.25, 0.5, 0.75, 1.0])
    design = futility_design(look_at.tolist(), alpha=0.05, power=0.8, sides=2)
    steps = np.diff(look_at, prepend=0)
    noise = rng.normal(size=(runs, 4)) * np.sqrt(steps)

    def rejected_above(drift, *, obey):
        z = np.cumsum(noise + drift * steps, axis=1) / np.sqrt(look_at)
        crossed = first_crossings(z, design.upper, sides=2)
        is_above = (crossed >= 0) & (z[np.arange(runs), crossed] > 0)
        hopeless = first_crossings(-z[:, :-1], np.negative(design.lower[:-1]).tolist(), sides=1)
        return is_above & ~(obey & (hopeless >= 0) & (hopeless < crossed)), crossed >= 0

    low, high = monte_carlo_band(0.8, runs)
    assert low <= rejected_above(design.drift, obey=True)[0].mean() <= high
    assert rejected_above(design.drift, obey=False)[0].mean() > high
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected_above(0.0, obey=False)[1].mean() <= high


def test_uppers_that_count_on_futility_would_break_when_it_is_ignored():
    """The wrong twin: final bound lowered until the size with binding futility is alpha."""
    design = futility_design(THIRDS, alpha=0.025, power=0.8)
    lowered = [*design.upper[:-1], design.upper[-1] - 0.1]
    assert crossing_probabilities(THIRDS, design.upper, sides=1).total == pytest.approx(0.025)
    assert crossing_probabilities(THIRDS, lowered, sides=1).total > 0.029


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: futility_design([0.5, 0.9], alpha=0.05, power=0.8), "end at 1"),
        (lambda: futility_design([], alpha=0.05, power=0.8), "end at 1"),
        (lambda: futility_design([1.0], alpha=0.05, power=1.0), "power"),
        (lambda: futility_design([0.5, 1.0], alpha=0.05, power=0.01), "power"),
        (
            lambda: futility_design([1.0], alpha=0.05, power=0.8, beta_spending="linear"),
            "unknown spending",
        ),
        (
            lambda: next_futility_bound(
                [(0.5, 2.0, 0.0)],
                t=1.1,
                upper=2.0,
                drift=3.0,
                cumulative_beta_now=0.2,
                beta_spent=0.0,
            ),
            "stored ones",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
