import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import FTestAnovaPower, TTestIndPower
from statsmodels.stats.proportion import power_proportions_2indep

from experiments_dagster.stats.design.power import anova_power, mean_power, ratio_power
from experiments_dagster.stats.design.power_solver import DEFAULT_BUFFER, Adjustments, PowerDesign
from experiments_dagster.stats.design.proportion_power import (
    EXACT_LIMIT,
    detectable_effects,
    proportion_power,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.moments import ArmMoments

NORMAL_FORMULAS = ["pooled_alt", "baseline", "unpooled", "arcsine"]
UNEQUAL = PowerDesign(shares=(0.7, 0.3))
THREE_ARMS = PowerDesign(shares=(0.5, 0.3, 0.2), split_alpha=True)


def z_sum(alpha=0.05, power=0.8, sides=2):
    return stats.norm.isf(alpha / sides) + stats.norm.ppf(power)


# means


def test_closed_form_of_the_mean():
    found = mean_power(sd=3, sd_treatment=4, effect=0.5, power=0.8, design=UNEQUAL)
    kappa = 3 / 7
    n_control = z_sum() ** 2 * (9 + 16 / kappa) / 0.25
    assert found.n_exact == pytest.approx((n_control, kappa * n_control), rel=1e-12)
    assert found.n_per_group == tuple(math.ceil(n) for n in found.n_exact)
    assert found.n_total == sum(found.n_per_group)
    assert (found.formula, found.solved_for, found.power) == ("z", "n_total", 0.8)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("effect", "n", "share"), [(0.1, 500, 0.5), (0.9, 30, 0.3), (2, 8, 0.5)])
def test_t_power_agrees_with_statsmodels(effect, n, share, sides):
    design = PowerDesign(shares=(share, 1 - share), sides=sides, strict=True)
    found = mean_power(sd=1, effect=effect, n_total=n, formula="t", design=design).power
    wanted = TTestIndPower().power(
        effect,
        nobs1=n * share,
        alpha=0.05,
        ratio=(1 - share) / share,
        alternative="two-sided" if sides == 2 else "larger",
    )
    assert found == pytest.approx(wanted, rel=1e-8)


def test_t_needs_a_little_more_than_z_and_the_same_in_the_end():
    for effect, error in ((1.0, 0.1), (0.01, 1e-3)):  # of order 1/n
        z = mean_power(sd=1, effect=effect, power=0.8)
        t = mean_power(sd=1, effect=effect, power=0.8, formula="t")
        # The classic correction is z_a²/4 per arm, 0.96 here.
        assert t.n_exact[0] - z.n_exact[0] == pytest.approx(0.9604, abs=error)


@pytest.mark.parametrize("formula", ["z", "t"])
@pytest.mark.parametrize(
    "design", [PowerDesign(), UNEQUAL, THREE_ARMS, PowerDesign(strict=True), PowerDesign(sides=1)]
)
@pytest.mark.parametrize("target", [0.1, 0.5, 0.8, 0.999])
def test_the_three_directions_agree(formula, design, target):
    def solve(**quantities):
        return mean_power(sd=10, formula=formula, design=design, **quantities)

    size = solve(effect=1.5, power=target)
    n = sum(size.n_exact)
    assert solve(effect=1.5, n_total=n).power == pytest.approx(target, rel=1e-9)
    assert solve(power=target, n_total=n).effect == pytest.approx(1.5, rel=1e-8)
    assert solve(effect=-1.5, n_total=n).power == pytest.approx(target, rel=1e-9)


def test_the_smallest_treatment_decides():
    three = mean_power(sd=1, effect=0.2, power=0.8, design=THREE_ARMS)
    pair = mean_power(
        sd=1, effect=0.2, power=0.8, design=PowerDesign(alpha=0.025, shares=(5 / 7, 2 / 7))
    )
    assert three.n_exact[0] == pytest.approx(pair.n_exact[0], rel=1e-12)
    assert three.n_exact[2] == pytest.approx(pair.n_exact[1], rel=1e-12)
    assert (three.alpha, three.comparison_alpha) == (0.05, 0.025)
    at_full_level = mean_power(
        sd=1, effect=0.2, power=0.8, design=PowerDesign(shares=THREE_ARMS.shares)
    )
    assert at_full_level.n_total < three.n_total


def test_simulated_power_of_the_mean(monte_carlo_band):
    found = mean_power(
        sd=1, sd_treatment=2, effect=0.5, power=0.8, design=PowerDesign(shares=(0.4, 0.6))
    )
    rng = np.random.default_rng(7)
    runs, (n_control, n_treatment) = 4000, found.n_per_group
    control = rng.normal(0, 1, (runs, n_control))
    treatment = rng.normal(0.5, 2, (runs, n_treatment))
    std_error = np.sqrt(1 / n_control + 4 / n_treatment)
    z = (treatment.mean(axis=1) - control.mean(axis=1)) / std_error
    low, high = monte_carlo_band(0.8, runs)
    assert low < (z > stats.norm.isf(0.025)).mean() < high


@given(st.floats(0.01, 100), st.sampled_from(["z", "t"]))
def test_the_unit_of_the_metric_does_not_matter(scale, formula):
    base = mean_power(sd=2, effect=0.7, power=0.8, formula=formula)
    scaled = mean_power(sd=2 * scale, effect=0.7 * scale, power=0.8, formula=formula)
    assert scaled.n_exact == pytest.approx(base.n_exact, rel=1e-8)


@pytest.mark.parametrize("sd", [1e-200, 1e200])
def test_extreme_units(sd):
    assert mean_power(sd=sd, effect=0.1 * sd, power=0.8).n_per_group == (1570, 1570)
    assert mean_power(sd=sd, n_total=3140, power=0.8).effect == pytest.approx(0.1 * sd, rel=1e-3)


def test_a_small_sd_has_a_small_detectable_effect():
    # No grid: an older tool rounded a constant up and returned 2.5 times too much.
    found = mean_power(sd=1e-4, n_total=20_000, power=0.8, formula="t")
    assert found.effect == pytest.approx(z_sum() * 1e-4 * math.sqrt(2 / 10_000), rel=1e-3)


def test_relative_effects():
    found = mean_power(sd=20, baseline=50, relative_effect=-0.02, power=0.8)
    assert found.effect == -1
    assert found.relative_effect == -0.02
    assert found.n_exact == mean_power(sd=20, effect=1, power=0.8).n_exact
    assert mean_power(sd=20, effect=1, power=0.8).relative_effect is None


def test_a_given_total_is_apportioned_exactly():
    found = mean_power(sd=1, effect=0.1, n_total=101, design=PowerDesign(shares=(0.4, 0.3, 0.3)))
    assert sum(found.n_per_group) == 101
    assert found.n_exact == pytest.approx((40.4, 30.3, 30.3))
    # 0.7 + 0.3 of 10 must not lose a unit to rounding.
    assert mean_power(sd=1, effect=0.1, n_total=10, design=UNEQUAL).n_per_group == (7, 3)


def test_a_whole_number_costs_no_extra_unit():
    sd = math.sqrt(100 / 2) / z_sum()
    assert mean_power(sd=sd, effect=1, power=0.8).n_per_group == (100, 100)


# adjustments


@pytest.mark.parametrize(
    ("adjustments", "factor"),
    [
        (Adjustments(r_squared=0.4), 0.6),
        (Adjustments(cluster_size=11, icc=0.02), 1.2),
        (Adjustments(cluster_size=11, cluster_size_cv=0.5, icc=0.02), 1 + (11 * 1.25 - 1) * 0.02),
        (Adjustments(inflation=1.0265), 1.0265),
        (Adjustments(buffer=DEFAULT_BUFFER), 1.1),
        (Adjustments(r_squared=0.5, inflation=1.2, buffer=1.1), 0.66),
    ],
)
def test_adjustments_multiply_the_size(adjustments, factor):
    design = PowerDesign(adjustments=adjustments)
    for solve in (
        lambda **q: mean_power(sd=5, **q),
        lambda **q: proportion_power(baseline=0.2, **q),
    ):
        plain = solve(effect=0.05, power=0.8)
        adjusted = solve(effect=0.05, power=0.8, design=design)
        assert adjusted.n_exact[0] == pytest.approx(factor * plain.n_exact[0], rel=1e-12)
        n = sum(adjusted.n_exact)
        assert solve(effect=0.05, n_total=n, design=design).power == pytest.approx(0.8, rel=1e-9)
        found = solve(power=0.8, n_total=n, design=design).effect
        assert found == pytest.approx(0.05, rel=1e-8)
    assert math.prod(f for _, f in adjusted.adjustments) == pytest.approx(factor)
    assert plain.adjustments == ()


def test_triggering():
    design = PowerDesign(adjustments=Adjustments(trigger_rate=0.25))
    found = mean_power(sd=1, effect=0.2, power=0.8, design=design)
    assert found.n_total == mean_power(sd=1, effect=0.2, power=0.8).n_total
    assert found.n_total_assigned == 4 * found.n_total
    assert found.population_effect == 0.05
    # The dilution theorem: without the filter the same effect needs about 1/rate more again.
    diluted = mean_power(sd=1, effect=found.population_effect, power=0.8)
    assert diluted.n_total > 3.9 * found.n_total_assigned


# proportions


@pytest.mark.parametrize("formula", NORMAL_FORMULAS)
@pytest.mark.parametrize("design", [PowerDesign(), UNEQUAL, THREE_ARMS, PowerDesign(strict=True)])
@pytest.mark.parametrize(("baseline", "effect"), [(0.1, 0.02), (0.95, -0.03), (0.6, 0.07)])
def test_the_three_directions_of_proportions_agree(formula, design, baseline, effect):
    def solve(**quantities):
        return proportion_power(baseline=baseline, formula=formula, design=design, **quantities)

    n = sum(solve(effect=effect, power=0.8).n_exact)
    assert solve(effect=effect, n_total=n).power == pytest.approx(0.8, rel=1e-8)
    direction = "increase" if effect > 0 else "decrease"
    found = solve(power=0.8, n_total=n, direction=direction)
    assert found.effect == pytest.approx(effect, rel=1e-7)
    assert found.relative_effect == pytest.approx(effect / baseline, rel=1e-7)
    assert found.formula == formula + ("_strict" if design.strict else "")


@pytest.mark.parametrize(("baseline", "effect"), [(0.2, 0.05), (0.7, -0.1)])
def test_unpooled_agrees_with_statsmodels(baseline, effect):
    # statsmodels counts both tails; its other variance pools as if the groups were equal.
    wanted = power_proportions_2indep(effect, baseline, 400, ratio=1.0)
    found = proportion_power(
        baseline=baseline, effect=effect, n_total=800, design=PowerDesign(strict=True)
    )
    assert found.power == pytest.approx(wanted.power, rel=1e-9)


def test_unequal_allocation_of_pooled_alt():
    found = proportion_power(baseline=0.2, effect=0.05, power=0.8, design=UNEQUAL)
    kappa = 3 / 7
    mean = (0.2 + kappa * 0.25) / (1 + kappa)
    null = math.sqrt(mean * (1 - mean) * (1 + 1 / kappa))
    alternative = math.sqrt(0.16 + 0.1875 / kappa)
    root_n = (stats.norm.isf(0.025) * null + stats.norm.isf(0.2) * alternative) / 0.05
    assert found.n_exact == pytest.approx((root_n**2, kappa * root_n**2), rel=1e-12)


@given(st.floats(0.02, 0.98), st.sampled_from(["pooled_alt", "unpooled", "arcsine"]))
def test_success_and_failure_mirror_each_other(baseline, formula):
    for n in (60, 5000):
        effects = [
            detectable_effects(baseline=p, power=0.8, n_total=n, formula=formula)
            for p in (baseline, 1 - baseline)
        ]
        for direction, other in (("increase", "decrease"), ("decrease", "increase")):
            found, mirrored = effects[0][direction], effects[1][other]
            assert (found is None) == (mirrored is None)
            assert found is None or found == pytest.approx(-mirrored, rel=1e-6)


@pytest.mark.parametrize("baseline", [0.5, 0.51, 0.9, 0.999])
def test_detectable_effects_above_one_half(baseline):
    found = detectable_effects(baseline=baseline, power=0.8, n_total=1_000_000)
    wanted = z_sum() * math.sqrt(baseline * (1 - baseline) * 4 / 1_000_000)
    # The variance at p₂ is nearly that of the baseline for effects this small.
    assert found["increase"] == pytest.approx(wanted, rel=0.1)
    assert found["decrease"] == pytest.approx(-wanted, rel=0.1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("n_control", "n_treatment", "p2"), [(20, 20, 0.6), (35, 15, 0.05)])
def test_exact_power_by_brute_force(n_control, n_treatment, p2, strict):
    total, p1 = n_control + n_treatment, 0.25
    power = 0.0
    for x in range(n_control + 1):
        for y in range(n_treatment + 1):
            pooled = (x + y) / total
            variance = pooled * (1 - pooled) * (1 / n_control + 1 / n_treatment)
            difference = (y / n_treatment - x / n_control) * (1 if p2 > p1 else -1)
            z = difference / math.sqrt(variance) if variance else 0
            if z > 1.959964 or (strict and z < -1.959964):
                power += stats.binom.pmf(x, n_control, p1) * stats.binom.pmf(y, n_treatment, p2)
    design = PowerDesign(shares=(n_control / total, n_treatment / total), strict=strict)
    found = proportion_power(
        baseline=p1, effect=p2 - p1, n_total=total, formula="exact", design=design
    )
    assert found.power == pytest.approx(power, rel=1e-9)


@pytest.mark.parametrize("design", [PowerDesign(), UNEQUAL, PowerDesign(strict=True)])
def test_exact_size_is_the_first_that_suffices(design):
    def power_of(n):
        return proportion_power(
            baseline=0.2, effect=0.3, n_total=n, formula="exact", design=design
        ).power

    found = proportion_power(baseline=0.2, effect=0.3, power=0.8, formula="exact", design=design)
    assert found.power >= 0.8
    assert power_of(found.n_total) == found.power
    assert all(power_of(n) < 0.8 for n in range(found.n_total - 6, found.n_total - 2, 2))
    approximate = proportion_power(baseline=0.2, effect=0.3, power=0.8, design=design)
    assert found.n_total == pytest.approx(approximate.n_total, rel=0.15)


def test_exact_detectable_effect():
    found = proportion_power(baseline=0.2, n_total=200, power=0.8, formula="exact")
    again = proportion_power(baseline=0.2, n_total=200, effect=found.effect, formula="exact")
    assert again.power == pytest.approx(0.8, abs=1e-9)


def test_two_formulas_disagree_and_say_so():
    found = {
        formula: proportion_power(baseline=0.2, effect=0.05, power=0.8, formula=formula)
        for formula in NORMAL_FORMULAS
    }
    assert len({round(result.n_exact[0], 1) for result in found.values()}) == 4
    assert all(result.formula == formula for formula, result in found.items())


# ratios and F


def test_ratio_power_uses_the_delta_variance():
    rng = np.random.default_rng(3)
    denominator = rng.poisson(5, 4000) + 1.0
    numerator = rng.binomial(denominator.astype(int), 0.3).astype(float)
    arm = ArmMoments.from_arrays(numerator=numerator, denominator=denominator)
    live = compare_ratios(arm, arm).difference
    found = ratio_power(arm, n_total=8000, power=0.8)
    # Two such arms have the standard error that the comparison of ratios reports.
    assert found.effect == pytest.approx(z_sum() * live.std_error, rel=1e-9)
    assert found.relative_effect == pytest.approx(found.effect / live.control_mean, rel=1e-12)
    naive = numerator.std(ddof=1) / denominator.mean()  # the wrong twin: D taken as constant
    assert mean_power(sd=naive, n_total=8000, power=0.8).effect > 1.1 * found.effect


def test_ratio_refusals():
    with pytest.raises(EstimationError) as error:
        ratio_power(
            ArmMoments.from_arrays(numerator=[1, 2], denominator=[0, 0]), effect=1, power=0.8
        )
    assert error.value.code == "ZERO_DENOMINATOR"
    with pytest.raises(EstimationError) as error:
        ratio_power(ArmMoments.from_arrays(numerator=[1], denominator=[2]), effect=1, power=0.8)
    assert error.value.code == "N_TOO_SMALL"
    with pytest.raises(EstimationError) as error:
        ratio_power(
            ArmMoments.from_arrays(numerator=[1, 2], denominator=[1, 2]), effect=1, power=0.8
        )
    assert error.value.code == "ZERO_VARIANCE"


@pytest.mark.parametrize(("groups", "f", "n"), [(3, 0.1, 200), (5, 0.25, 39), (2, 0.5, 10)])
def test_anova_agrees_with_statsmodels(groups, f, n):
    wanted = FTestAnovaPower().power(f, nobs=groups * n, alpha=0.05, k_groups=groups)
    found = anova_power(groups=groups, effect=f, n_per_group=n)
    assert found.power == pytest.approx(wanted, rel=1e-8)
    assert anova_power(groups=groups, power=wanted, n_per_group=n).effect == pytest.approx(f)
    assert found.formula == "anova_f"


def test_two_groups_of_an_anova_are_a_t_test():
    f = anova_power(groups=2, effect=0.25, power=0.8).n_exact
    t = mean_power(sd=1, effect=0.5, power=0.8, formula="t", design=PowerDesign(strict=True))
    assert f == pytest.approx(t.n_exact, rel=1e-7)


# refusals


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sd": -1, "effect": 1, "power": 0.8}, "sd is -1"),
        ({"sd": math.nan, "effect": 1, "power": 0.8}, "sd is nan"),
        ({"sd": math.inf, "effect": 1, "power": 0.8}, "sd is inf"),
        ({"sd": 1, "effect": 0, "power": 0.8}, "effect is 0"),
        ({"sd": 1, "effect": math.nan, "power": 0.8}, "effect is nan"),
        ({"sd": 1, "effect": 1, "power": 1}, "power is 1"),
        ({"sd": 1, "effect": 1, "power": 0.02}, "power is 0.02, need more than 0.025"),
        ({"sd": 1, "effect": 1, "n_total": 3}, "n_total is 3, need at least 4"),
        ({"sd": 1, "effect": 1, "n_total": math.inf}, "n_total is inf"),
        ({"sd": 1, "effect": 1}, "leave out exactly one"),
        ({"sd": 1, "effect": 1, "power": 0.8, "n_total": 9}, "leave out exactly one"),
        ({"sd": 1, "relative_effect": 0.1, "power": 0.8}, "baseline is None"),
        ({"sd": 1, "relative_effect": 0.1, "effect": 1, "power": 0.8}, "need one of them"),
        ({"sd": 1, "effect": 1, "power": 0.8, "formula": "exact"}, "formula is exact"),
    ],
)
def test_mean_refuses_with_the_field(arguments, text):
    with pytest.raises(ValueError, match=text):
        mean_power(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"baseline": 0, "effect": 0.1}, "baseline is 0"),
        ({"baseline": 1.0, "effect": -0.1}, "baseline is 1"),
        ({"baseline": math.nan, "effect": -0.1}, "baseline is nan"),
        ({"baseline": 0.95, "effect": 0.05}, r"effect is 0.05, need baseline \+ effect"),
        ({"baseline": 0.1, "relative_effect": -1}, r"effect is -0.1, need baseline \+ effect"),
        ({"baseline": 0.1, "effect": 0}, "effect is 0"),
        ({"baseline": 0.1, "effect": 0.1, "formula": "z"}, "formula is z"),
        ({"baseline": 0.1, "effect": 0.1, "direction": "up"}, "direction is up"),
        ({"baseline": 0.1, "effect": 0.001, "formula": "exact"}, "formula is exact"),
    ],
)
def test_proportion_refuses_with_the_field(arguments, text):
    with pytest.raises(ValueError, match=text):
        proportion_power(**arguments, power=0.8)


def test_exact_refuses_large_groups_and_adjusted_variances():
    with pytest.raises(ValueError, match=f"at most {EXACT_LIMIT}"):
        proportion_power(baseline=0.5, effect=0.1, n_total=2000, formula="exact")
    design = PowerDesign(adjustments=Adjustments(r_squared=0.2))
    with pytest.raises(ValueError, match="no adjustment of variance"):
        proportion_power(baseline=0.5, effect=0.1, n_total=50, formula="exact", design=design)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"shares": (0.5, 0.6)}, "shares"),
        ({"shares": (1.0,)}, "shares"),
        ({"shares": (1.0, 0.0)}, "shares"),
        ({"sides": 3}, "sides is 3"),
        ({"alpha": 0}, "alpha is 0"),
    ],
)
def test_design_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        PowerDesign(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"r_squared": 1.0},
        {"r_squared": -0.1},
        {"cluster_size": 0.5},
        {"cluster_size_cv": -1},
        {"icc": 1.1},
        {"inflation": 0.9},
        {"trigger_rate": 0.0},
        {"buffer": 0.9},
        {"buffer": math.inf},
    ],
)
def test_adjustments_refuse_with_the_field(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Adjustments(**arguments)


def test_what_cannot_be_computed():
    with pytest.raises(EstimationError) as error:
        mean_power(sd=0, effect=1, power=0.8)
    assert error.value.code == "ZERO_VARIANCE"
    for call in (
        lambda: proportion_power(baseline=0.99, n_total=20, power=0.8),
        lambda: mean_power(sd=1, effect=1e-300, power=0.8),
        lambda: mean_power(sd=1, effect=1e-12, power=0.8, formula="t"),
    ):
        with pytest.raises(EstimationError) as error:
            call()
        assert error.value.code == "NOT_IDENTIFIED"
