import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.design.power import mean_power
from experiments_dagster.stats.design.power_solver import Adjustments, PowerDesign
from experiments_dagster.stats.design.rule_power import (
    conditional_power,
    detectable_now,
    power_per_test,
    rule_power,
    stopping_law,
    stopping_profile,
)
from experiments_dagster.stats.sequential.boundaries import (
    Boundaries,
    design_boundaries,
    solve_boundaries,
)
from experiments_dagster.stats.sequential.power import (
    expected_information,
    fixed_drift,
    inflation_factor,
    required_drift,
)

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]
TWO_SIDED = solve_boundaries(FIVE, alpha=0.05)
ONE_SIDED = solve_boundaries(FIVE, alpha=0.05, sides=1)
RUNS = 40_000


def within(found, wanted, errors=4.0):
    """Four Monte Carlo standard errors: a false alarm in 16,000 fixed seeds."""
    return abs(found - wanted) < errors * math.sqrt(wanted * (1 - wanted) / RUNS) + 1e-12


# one sequential plan


@pytest.mark.parametrize(
    ("case", "design"), [("design_of5_2s_p90", "obrien_fleming"), ("design_p5_2s_p90", "pocock")]
)
def test_reference_designs(reference, case, design):
    expected = reference("sequential", case)
    plan = design_boundaries(design, FIVE, alpha=0.05)
    inflation = inflation_factor(plan, alpha=0.05, power=0.9)
    laws = stopping_profile(plan, drift=math.sqrt(expected.expected["shift"]))
    # The shift is printed with six digits.
    assert laws[-1].power == pytest.approx(0.9, abs=1e-5)
    for law, name in zip(laws, ("asn0", "asn01", "asn1"), strict=True):
        expected.check(inflation * law.expected_fraction, expected.expected[name])


@pytest.mark.parametrize("plan", [TWO_SIDED, ONE_SIDED])
def test_a_law_is_a_distribution_over_looks(plan):
    drift = required_drift(plan, power=0.8)
    null, half, full = stopping_profile(plan, drift=drift)
    for law in (null, half, full):
        assert math.fsum(law.stop_probabilities) == pytest.approx(1, abs=1e-12)
        information = expected_information(plan, drift=law.drift)
        assert law.expected_fraction == pytest.approx(information, rel=1e-12)
        assert law.expected_days([7, 14, 21, 28, 35]) == pytest.approx(
            35 * law.expected_fraction, rel=1e-12
        )
    assert null.power == pytest.approx(0.05 / plan.sides, abs=1e-9)
    assert full.power == pytest.approx(0.8, abs=1e-9)
    assert null.power < half.power < full.power
    assert null.expected_fraction > half.expected_fraction > full.expected_fraction


def test_the_plan_reaches_its_power_with_the_inflated_sample():
    inflation = inflation_factor(TWO_SIDED, alpha=0.05, power=0.8)
    design = PowerDesign(adjustments=Adjustments(inflation=inflation))
    inflated = mean_power(sd=1, effect=0.1, power=0.8, design=design)
    std_error = math.sqrt(sum(1 / n for n in inflated.n_exact))
    assert stopping_law(TWO_SIDED, drift=0.1 / std_error).power == pytest.approx(0.8, abs=1e-9)
    # The wrong twin: the sample of a fixed test is too small for the plan.
    assert stopping_law(TWO_SIDED, drift=fixed_drift(alpha=0.05, power=0.8)).power < 0.799


def test_a_plan_where_early_looks_cannot_stop():
    plan = solve_boundaries([0.01, 0.5, 1.0], alpha=0.05)
    assert plan.critical_values[0] is None
    assert stopping_law(plan, drift=3.0).stop_probabilities[0] == 0


# the rule


def test_one_metric_and_one_arm_is_the_recursion():
    drift = required_drift(TWO_SIDED, power=0.8)
    rule = rule_power(TWO_SIDED, drifts=[drift], simulations=RUNS)
    law = stopping_law(TWO_SIDED, drift=drift)
    assert rule.metric_power == ((law.power,),)
    assert rule.union_bound[0] == pytest.approx(law.power, rel=1e-12)
    assert within(rule.ship[0], law.power)
    for found, wanted in zip(rule.stop_probabilities, law.stop_probabilities, strict=True):
        assert within(found, wanted)
    assert rule.expected_fraction == pytest.approx(law.expected_fraction, abs=0.01)
    assert rule.expected_days([1, 2, 3, 4, 5]) == pytest.approx(5 * rule.expected_fraction)
    assert rule.ship_errors[0] == pytest.approx(math.sqrt(0.16 / RUNS), rel=0.05)
    assert rule.ship_by_look[0][-1] == rule.ship[0]
    assert list(rule.ship_by_look[0]) == sorted(rule.ship_by_look[0])


def test_independent_tests_multiply_and_the_union_bound_holds():
    per_test = power_per_test(0.8, guardrails=2)
    drifts = [
        required_drift(TWO_SIDED, power=per_test),
        *[required_drift(ONE_SIDED, power=per_test)] * 2,
    ]
    rule = rule_power(TWO_SIDED, [ONE_SIDED] * 2, drifts=drifts, simulations=RUNS)
    assert rule.metric_power[0] == pytest.approx((per_test,) * 3, abs=1e-9)
    assert rule.union_bound[0] == pytest.approx(0.8, abs=1e-9)
    assert within(rule.ship[0], per_test**3)
    # The wrong twin: every test at 0.8 leaves the rule at a half.
    naive = [required_drift(plan, power=0.8) for plan in (TWO_SIDED, ONE_SIDED, ONE_SIDED)]
    found = rule_power(TWO_SIDED, [ONE_SIDED] * 2, drifts=naive, simulations=RUNS)
    assert within(found.ship[0], 0.8**3)


def test_correlation_lies_between_independence_and_identity():
    drift = required_drift(ONE_SIDED, power=0.8)

    def ship(rho):
        return rule_power(
            ONE_SIDED,
            [ONE_SIDED],
            drifts=[drift, drift],
            correlations=[[1, rho], [rho, 1]],
            simulations=RUNS,
        ).ship[0]

    assert within(ship(0.0), 0.64)
    assert within(ship(1.0), 0.8)
    assert ship(0.0) < ship(0.5) < ship(1.0)
    # Opposed metrics reach the lower bound of Fréchet here: at least one always passes.
    assert ship(-1.0) == pytest.approx(0.6, abs=0.01)


def test_one_look_is_a_normal_orthant():
    plan = solve_boundaries([1.0], alpha=0.025, sides=1)
    matrix = [[1, 0.4, 0.2], [0.4, 1, 0.3], [0.2, 0.3, 1]]
    drifts = np.array([2.8, 3.2, 2.5])
    rule = rule_power(
        plan, [plan, plan], drifts=drifts, correlations=matrix, simulations=RUNS, seed=4
    )
    wanted = stats.multivariate_normal(cov=matrix).cdf(drifts - stats.norm.isf(0.025))
    assert within(rule.ship[0], float(wanted))


def test_arms_share_their_control():
    plan = solve_boundaries([1.0], alpha=0.025, sides=1)
    rule = rule_power(
        plan, drifts=[[2.8], [2.8]], shares=(1 / 3, 1 / 3, 1 / 3), simulations=RUNS, seed=2
    )
    both = stats.multivariate_normal(cov=[[1, 0.5], [0.5, 1]]).cdf([2.8 - 1.959964] * 2)
    assert within(rule.ship_all, float(both))
    assert within(rule.ship_any, 2 * rule.metric_power[0][0] - float(both))
    assert rule.ship_any >= max(rule.ship) >= rule.ship_all
    assert len(rule.ship) == len(rule.ship_by_look) == len(rule.union_bound) == 2


def test_shares_set_the_correlation_of_the_arms():
    plan = solve_boundaries([1.0], alpha=0.025, sides=1)

    def both(shares):
        return rule_power(plan, drifts=[[2.8], [2.8]], shares=shares, simulations=RUNS).ship_all

    # A large control makes arms nearly independent, a small one nearly the same.
    assert both((0.98, 0.01, 0.01)) == pytest.approx(0.64, abs=0.02)
    assert both((0.002, 0.499, 0.499)) == pytest.approx(0.8, abs=0.03)


def test_harm_ends_an_arm_without_shipping():
    rule = rule_power(TWO_SIDED, drifts=[-4.0], simulations=RUNS)
    assert rule.ship[0] < 1e-3
    assert rule.expected_fraction < 0.75
    one_sided = solve_boundaries(FIVE, alpha=0.025, sides=1)
    assert rule_power(one_sided, drifts=[-4.0], simulations=RUNS).expected_fraction == 1.0


def test_a_harmed_arm_does_not_recover():
    wild = Boundaries(
        fractions=(0.5, 1.0),
        critical_values=(0.0, 0.0),
        cumulative_alpha=(0.5, 1.0),
        nominal_levels=(0.5, 0.5),
        sides=2,
    )
    # The first look stops every walk on one side or the other.
    rule = rule_power(wild, drifts=[0.0], simulations=RUNS)
    assert within(rule.ship[0], 0.5)
    assert rule.stop_probabilities == (1.0, 0.0)


def test_a_guardrail_that_nobody_passes():
    rule = rule_power(TWO_SIDED, [ONE_SIDED], drifts=[5.0, -9.0], simulations=RUNS)
    assert rule.ship == (0.0,)
    assert rule.ship_errors[0] > 0
    assert rule.union_bound[0] < 1e-4
    assert rule.expected_fraction > 0.999


def test_seeds_repeat_and_differ():
    first, again, other = (
        rule_power(TWO_SIDED, drifts=[2.8], simulations=2000, seed=seed).ship for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"drifts": [2.8]}, "drifts"),
        ({"drifts": [2.8, math.nan]}, "drifts"),
        ({"drifts": [[2.8, 3.0], [1.0, 1.0]]}, "drifts"),
        ({"correlations": [[1.0]]}, "correlations has shape"),
        ({"correlations": [[1, 2], [2, 1]]}, "correlations is"),
        ({"correlations": [[1, 0.5], [0.4, 1]]}, "correlations is"),
        ({"correlations": [[1, math.nan], [math.nan, 1]]}, "correlations is"),
        ({"shares": [1.0]}, "shares"),
        ({"simulations": 0}, "simulations is 0"),
        ({"guardrails": [TWO_SIDED]}, "guardrail 1 has 2 sides"),
        ({"guardrails": [solve_boundaries([1.0], alpha=0.05, sides=1)]}, "guardrail 1 looks at"),
    ],
)
def test_rule_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        rule_power(
            **{
                "success": TWO_SIDED,
                "guardrails": [ONE_SIDED],
                "drifts": [2.8, 2.8],
                **arguments,
            }
        )


@pytest.mark.parametrize(("power", "guardrails"), [(0, 1), (1, 1), (0.8, -1)])
def test_power_per_test_refuses(power, guardrails):
    with pytest.raises(ValueError, match="need"):
        power_per_test(power, guardrails=guardrails)


# mid-run


@given(st.floats(0.02, 0.98), st.floats(-4, 4), st.floats(1.5, 3), st.floats(0.5, 5), st.booleans())
def test_one_look_left_is_the_closed_form(t, z, c, planned, one_sided):
    now = conditional_power(
        t=t,
        z=z,
        fractions=[1.0],
        critical_values=[c],
        planned_drift=planned,
        sides=1 if one_sided else 2,
    )
    for found, drift in ((now.current_trend, z / math.sqrt(t)), (now.planned_effect, planned)):
        wanted = stats.norm.cdf((z * math.sqrt(t) + drift * (1 - t) - c) / math.sqrt(1 - t))
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_conditional_power_averages_to_power():
    drift = required_drift(TWO_SIDED, power=0.8)
    law = stopping_law(TWO_SIDED, drift=drift)
    t, critical = 0.4, TWO_SIDED.critical_values
    z = np.linspace(-critical[1], critical[1], 401)
    # Density of Z at look 2; stopping at look 1 has probability 1e-4 and is left out.
    density = stats.norm.pdf(z - drift * math.sqrt(t))
    later = [
        conditional_power(
            t=t, z=one, fractions=FIVE[2:], critical_values=critical[2:], planned_drift=drift
        ).planned_effect
        for one in z
    ]
    early = 1 - stats.norm.cdf(critical[1] - drift * math.sqrt(t))
    assert early + np.trapezoid(later * density, z) == pytest.approx(law.power, abs=1e-3)


def test_conditional_power_by_simulation():
    rng = np.random.default_rng(9)
    t, z, drift, critical = 0.4, 1.5, 2.9, TWO_SIDED.critical_values[2:]
    score = np.full(RUNS, z * math.sqrt(t))
    passed, harmed = np.zeros(RUNS, dtype=bool), np.zeros(RUNS, dtype=bool)
    for look, bound in zip((0.6, 0.8, 1.0), critical, strict=True):
        score += rng.normal(0.2 * drift, math.sqrt(0.2), RUNS)
        passed |= (score / math.sqrt(look) >= bound) & ~harmed
        harmed |= (score / math.sqrt(look) <= -bound) & ~passed
    now = conditional_power(
        t=t, z=z, fractions=FIVE[2:], critical_values=critical, planned_drift=drift
    )
    assert within(passed.mean(), now.planned_effect)


def test_the_sign_of_the_plan_only_turns_the_picture():
    options = {"t": 0.4, "fractions": FIVE[2:], "critical_values": TWO_SIDED.critical_values[2:]}
    up = conditional_power(z=1.3, planned_drift=2.9, **options)
    down = conditional_power(z=-1.3, planned_drift=-2.9, **options)
    assert up == down
    against = conditional_power(z=-1.3, planned_drift=2.9, **options)
    assert against.current_trend < 1e-3 < against.planned_effect < up.planned_effect


def test_a_look_without_a_boundary_stops_nothing():
    one = conditional_power(t=0.5, z=1.0, fractions=[1.0], critical_values=[2.0], planned_drift=2.5)
    two = conditional_power(
        t=0.5, z=1.0, fractions=[0.7, 1.0], critical_values=[None, 2.0], planned_drift=2.5
    )
    assert two.planned_effect == pytest.approx(one.planned_effect, rel=1e-10)
    assert two.current_trend == pytest.approx(one.current_trend, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"t": 1.0}, "must increase"),
        ({"t": 0.0}, "must increase"),
        ({"z": math.nan}, "z is nan"),
        ({"planned_drift": 0.0}, "planned_drift is 0"),
        ({"planned_drift": math.inf}, "planned_drift is inf"),
        ({"planned_drift": -1.0, "sides": 1}, "planned_drift is -1.0, need > 0"),
        ({"fractions": [], "critical_values": []}, "0 fractions left"),
        ({"critical_values": [2.0, 2.0]}, "2 critical values"),
    ],
)
def test_conditional_power_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        conditional_power(
            **{
                "t": 0.5,
                "z": 1.0,
                "fractions": [1.0],
                "critical_values": [2.0],
                "planned_drift": 2.0,
                **arguments,
            }
        )


def test_detectable_now_is_the_fixed_detectable_effect():
    found = mean_power(sd=3, n_total=400, power=0.9).effect
    std_error = 3 * math.sqrt(2 / 200)
    assert detectable_now(std_error, critical_value=1.9599639845400545, power=0.9) == (
        pytest.approx(found, rel=1e-12)
    )


@pytest.mark.parametrize(
    ("std_error", "critical_value", "power"),
    [(0, 2, 0.8), (1, 0, 0.8), (1, 2, 1), (math.nan, 2, 0.8)],
)
def test_detectable_now_refuses(std_error, critical_value, power):
    with pytest.raises(ValueError, match="need"):
        detectable_now(std_error, critical_value=critical_value, power=power)
