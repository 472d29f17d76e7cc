import math

import pytest

from experiments_dagster.stats.sequential.boundaries import design_boundaries, solve_boundaries
from experiments_dagster.stats.sequential.power import (
    expected_information,
    fixed_drift,
    inflation_factor,
    planned_information,
    required_drift,
)
from experiments_dagster.stats.sequential.recursion import crossing_probabilities

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("case", "design"), [("design_of5_2s_p90", "obrien_fleming"), ("design_p5_2s_p90", "pocock")]
)
def test_reference_designs(reference, case, design):
    expected = reference("sequential", case)
    numbers = expected.expected
    plan = design_boundaries(design, FIVE, alpha=0.05)
    drift = required_drift(plan, power=0.9)
    inflation = inflation_factor(plan, alpha=0.05, power=0.9)
    expected.check(list(plan.critical_values), numbers["crit"])
    expected.check(inflation, numbers["inflation"])
    expected.check(drift**2, numbers["shift"])
    expected.check(fixed_drift(alpha=0.05, power=0.9) ** 2, numbers["nfixed"])
    for share, name in ((0.0, "asn0"), (0.5, "asn01"), (1.0, "asn1")):
        expected.check(inflation * expected_information(plan, drift=share * drift), numbers[name])


def test_one_look_needs_no_inflation():
    plan = solve_boundaries([1.0], alpha=0.05)
    # The two-sided fixed test ignores crossings on the wrong side, and so does the plan.
    assert inflation_factor(plan, alpha=0.05, power=0.8) == pytest.approx(1.0, abs=1e-9)
    assert expected_information(plan, drift=1.0) == 1.0


def test_planned_information_reaches_the_power():
    information = planned_information(-0.2, alpha=0.05, power=0.8, fractions=FIVE, sides=1)
    plan = solve_boundaries(FIVE, alpha=0.05, sides=1)
    crossing = crossing_probabilities(
        FIVE, plan.critical_values, drift=0.2 * math.sqrt(information), sides=1
    )
    assert crossing.total == pytest.approx(0.8, abs=1e-9)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_power_out_of_reach(power):
    with pytest.raises(ValueError, match="power"):
        required_drift(solve_boundaries(FIVE, alpha=0.05), power=power)


@pytest.mark.parametrize("effect", [0.0, math.inf, math.nan])
def test_effect_must_be_finite_and_not_zero(effect):
    with pytest.raises(ValueError, match="effect"):
        planned_information(effect, alpha=0.05, power=0.8, fractions=[1.0])
