"""Each refutation of a design on units fires on its fault and is silent on a clean case."""

from dataclasses import replace

import numpy as np
import pytest
from unit_samples import make_experiment, make_observational

from experiments_dagster.causal.units.balance import balance_table
from experiments_dagster.causal.units.density import density_jump
from experiments_dagster.causal.units.discontinuity import estimate_discontinuity
from experiments_dagster.causal.units.discontinuity_checks import (
    JumpCheck,
    bandwidth_sensitivity,
    covariate_jumps,
    donut_sensitivity,
    placebo_cutoffs,
)
from experiments_dagster.causal.units.effects import effect_from_scores
from experiments_dagster.causal.units.fuzzy_discontinuity import estimate_fuzzy_discontinuity
from experiments_dagster.causal.units.heterogeneity_proof import prove_heterogeneity
from experiments_dagster.causal.units.learners import fit_uplift
from experiments_dagster.causal.units.propensity import fit_propensity, measure_overlap
from experiments_dagster.causal.units.sensitivity import (
    e_value,
    e_value_of_difference,
    rosenbaum_signed_rank,
)
from experiments_dagster.causal.units.unit_checks import (
    check_arm_sizes,
    check_balance,
    check_bandwidths,
    check_calibration,
    check_covariate_jumps,
    check_density,
    check_donut,
    check_e_value,
    check_effective_rows,
    check_first_stage,
    check_heterogeneity,
    check_hidden_bias,
    check_mass_points,
    check_overlap,
    check_placebo_cutoffs,
    check_placebo_outcome,
    check_placebo_outcomes,
    check_weights,
)
from experiments_dagster.causal.units.weighting import weighted_effect
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value


def verdict(outcome):
    return outcome.name, outcome.passed, outcome.severity


def make_threshold(n=6000, *, jump=2.0, seed=0):
    """A smooth curve with a jump at 0, and a covariate fixed before."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=n)
    y = x + x**2 + jump * (x >= 0) + 0.5 * rng.normal(size=n)
    return y, x, rng


def table_of(weights=None, **changes):
    y, t, x = make_observational(**({"n": 2000} | changes))
    propensity = fit_propensity(x, t)
    found = weighted_effect(y, t, propensity)
    given = found.weights if weights is None else weights(t)
    return balance_table(x, t, given, names=["age", "spend"], target="ate"), found


def test_overlap():
    _, t, x = make_observational(n=2000)
    clean = check_overlap(measure_overlap(fit_propensity(x, t)))
    assert verdict(clean) == ("overlap", True, "ERROR")
    _, t, x = make_observational(n=2000, confounding=3.0)
    fault = check_overlap(measure_overlap(fit_propensity(x, t)))
    assert verdict(fault) == ("overlap", False, "ERROR")
    assert fault.value > fault.threshold == 0.05
    assert "trim and name the trimmed estimand" in fault.message


def test_balance():
    clean, _ = table_of()
    assert verdict(check_balance(clean)) == ("balance", True, "WARN")
    fault, _ = table_of(weights=lambda t: np.ones(len(t)))
    outcome = check_balance(fault)
    assert verdict(outcome) == ("balance", False, "ERROR")
    assert outcome.value == pytest.approx(abs(fault.worst_smd))
    assert (outcome.threshold, fault.worst in outcome.message) == (0.25, True)
    # Weights too weak by half leave a difference between both thresholds.
    weak, _ = table_of(weights=lambda t: np.ones(len(t)), confounding=0.18)
    assert verdict(check_balance(weak)) == ("balance", False, "WARN")
    assert check_balance(weak).threshold == 0.1


def test_weights():
    table, found = table_of()
    assert verdict(check_weights(table)) == ("weights", True, "WARN")
    assert check_weights(found).passed
    few, _ = table_of(n=90)
    outcome = check_weights(few)
    assert verdict(outcome) == ("weights", False, "WARN")
    assert outcome.value < outcome.threshold == 50
    heavy, _ = table_of(weights=lambda t: np.where(np.arange(len(t)) == t.argmax(), 110.0, 1.0))
    outcome = check_weights(heavy)
    assert verdict(outcome) == ("weights", False, "WARN")
    assert outcome.value == heavy.max_weight_share > outcome.threshold == 0.1


def test_arm_sizes():
    arms = np.repeat(["control", "mens", "womens"], [500, 500, 450])
    fold_of = np.arange(1450) % 4
    assert verdict(check_arm_sizes(arms, fold_of)) == ("arm_sizes", True, "ERROR")
    outcome = check_arm_sizes(arms, np.arange(1450) % 5)
    assert verdict(outcome) == ("arm_sizes", False, "ERROR")
    assert (outcome.value, "arm womens" in outcome.message) == (90.0, True)
    assert check_arm_sizes(arms).passed
    assert not check_arm_sizes(np.zeros(1000)).passed
    # A fold without any unit of an arm counts as 0, not as absent.
    assert check_arm_sizes(np.repeat([0, 1], 300), np.repeat([0, 1], 300)).value == 0
    with pytest.raises(ValueError, match="same shape"):
        check_arm_sizes(arms, np.zeros(3))


def test_placebo_outcome():
    _, t, x = make_observational(n=2000)
    before = x.sum(axis=1) + np.random.default_rng(2).standard_normal(2000)
    clean = weighted_effect(before, t, fit_propensity(x, t)).effect
    outcome = check_placebo_outcome(clean, outcome="spend_before")
    assert verdict(outcome) == ("placebo_outcome_spend_before", True, "ERROR")
    assert outcome.value == clean.p_value
    # A confounder is left out: what was before the treatment seems to respond to it.
    fault = weighted_effect(before, t, fit_propensity(x[:, :1], t)).effect
    outcome = check_placebo_outcome(fault, outcome="spend_before")
    assert verdict(outcome) == ("placebo_outcome_spend_before", False, "ERROR")
    assert "the treatment cannot have caused it" in outcome.message


def effect_of_p(p_value, alpha=0.05):
    """An effect whose error is 1 and whose p-value is known."""
    half = np.sqrt(0.5)
    return effect_from_scores(
        np.array([half, -half]),
        means=(0.0, critical_value(p_value)),
        sizes=(1, 1),
        estimand="ate",
        method="test",
        variance_formula="scores",
        alpha=alpha,
    )


@pytest.mark.parametrize(
    ("p", "alpha", "threshold", "passed"),
    [
        (0.012, 0.05, 0.05, False),
        (0.012, 0.001, 0.05, False),  # a stricter claim is no easier to defend
        (0.08, 0.05, 0.05, True),
        (0.08, 0.1, 0.1, False),
    ],
)
def test_a_placebo_outcome_is_tried_at_5_percent_or_the_level_of_the_claim(
    p, alpha, threshold, passed
):
    effect = effect_of_p(p, alpha)
    outcome = check_placebo_outcome(effect, outcome="before")
    assert (outcome.passed, outcome.threshold) == (passed, threshold)
    assert outcome.value == pytest.approx(p)
    assert f"p = {p:.3g}, tried at {threshold:g}" in outcome.message


def test_several_placebo_outcomes_are_one_family():
    names = {"a": 0.02, "b": 0.5, "c": 0.9}
    family = check_placebo_outcomes({name: effect_of_p(p) for name, p in names.items()})
    assert [outcome.name for outcome in family] == [f"placebo_outcome_{name}" for name in names]
    assert [outcome.passed for outcome in family] == [True, True, True]
    # Holm 1979: three times the smallest, twice the next, and never less than one before.
    assert [outcome.value for outcome in family] == pytest.approx([0.06, 1.0, 1.0])
    assert "0.06 adjusted by Holm for 3 placebo outcomes" in family[0].message
    assert not check_placebo_outcome(effect_of_p(0.02), outcome="a").passed
    small = check_placebo_outcomes({"a": effect_of_p(0.01), "b": effect_of_p(0.5)})
    assert [outcome.passed for outcome in small] == [False, True]
    assert check_placebo_outcomes({}) == ()
    unknown = replace(estimate_discontinuity(*make_threshold()[:2], 0.0).robust, p_value=None)
    with pytest.raises(EstimationError, match="no p-value"):
        check_placebo_outcome(unknown, outcome="before")


def test_two_placebo_outcomes_refuse_sound_studies_at_the_level_of_one():
    """1,000 sound studies; one by one 9.75 % of them would be refused."""
    rng = np.random.default_rng(7)
    p_values = rng.uniform(size=(1000, 2))
    refused = [
        not all(one.passed for one in check_placebo_outcomes({k: effect_of_p(v) for k, v in pair}))
        for pair in (enumerate(row) for row in p_values)
    ]
    # 99.9 % of rates at 5 % lie below.
    assert np.mean(refused) < 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / 1000)
    assert (p_values < 0.05).any(axis=1).mean() > 0.08


def test_hidden_bias():
    rng = np.random.default_rng(4)
    strong = rosenbaum_signed_rank(rng.normal(1.0, 1.0, size=100))
    assert verdict(check_hidden_bias(strong)) == ("hidden_bias", True, "WARN")
    weak = rosenbaum_signed_rank(rng.normal(0.03, 1.0, size=100))
    outcome = check_hidden_bias(weak)
    assert verdict(outcome) == ("hidden_bias", False, "WARN")
    assert 1 < outcome.value < outcome.threshold == 1.25
    none = check_hidden_bias(rosenbaum_signed_rank(rng.normal(-0.3, 1.0, size=100)))
    assert (none.passed, none.value) == (False, None)
    assert "even without hidden bias" in none.message


def test_e_values():
    strong = check_e_value(e_value(3.9, (1.8, 8.7)))
    assert verdict(strong) == ("e_value", True, "WARN")
    assert strong.value == pytest.approx(3.0, abs=5e-3)
    weak = check_e_value(e_value_of_difference(0.1, 0.04, 1.0))
    assert verdict(weak) == ("e_value", False, "WARN")
    assert check_e_value(e_value(1.5, (0.9, 2.4))).value == 1.0
    assert "of the estimate" in check_e_value(e_value(1.05)).message


def test_density():
    _, x, _ = make_threshold()
    assert verdict(check_density(density_jump(x, 0.0))) == ("density", True, "ERROR")
    moved = np.where((x < 0) & (x > -0.1) & (np.arange(len(x)) % 2 == 0), -x, x)
    outcome = check_density(density_jump(moved, 0.0))
    assert verdict(outcome) == ("density", False, "ERROR")
    assert outcome.value < outcome.threshold == 0.01


def test_covariate_jumps():
    _, x, rng = make_threshold()
    age, sex = rng.normal(size=(2, len(x)))
    clean = check_covariate_jumps(
        covariate_jumps(np.column_stack([age, sex]), x, 0.0, names=["age", "sex"])
    )
    assert verdict(clean) == ("covariate_jumps", True, "WARN")
    fault = check_covariate_jumps(
        covariate_jumps(np.column_stack([age, sex + (x >= 0)]), x, 0.0, names=["age", "sex"])
    )
    assert verdict(fault) == ("covariate_jumps", False, "ERROR")
    assert "at sex, 2 settings" in fault.message
    p = replace(covariate_jumps(age[:, None], x, 0.0, names=["age"])[0], p_adjusted=0.03)
    assert verdict(check_covariate_jumps([p])) == ("covariate_jumps", False, "WARN")
    missing = replace(p, estimate=None, p_adjusted=None, reason="ZERO_VARIANCE")
    assert "1 of 2 settings estimable" in check_covariate_jumps([p, missing]).message
    with pytest.raises(EstimationError, match="none with an estimate") as caught:
        check_covariate_jumps([missing])
    assert caught.value.code == "ZERO_VARIANCE"


def test_placebo_cutoffs():
    y, x, _ = make_threshold()
    assert verdict(check_placebo_cutoffs(placebo_cutoffs(y, x, 0.0))) == (
        "placebo_cutoffs",
        True,
        "WARN",
    )
    stairs = y + 2 * (x >= 0.5)
    outcome = check_placebo_cutoffs(placebo_cutoffs(stairs, x, 0.0, cutoffs=[-0.5, 0.5]))
    assert verdict(outcome) == ("placebo_cutoffs", False, "ERROR")
    assert "at 0.5, 2 settings" in outcome.message


def test_placebo_cutoffs_of_which_most_cannot_be_estimated_are_not_tried():
    y, x, _ = make_threshold()
    tried = placebo_cutoffs(y, x, 0.0)
    missing = JumpCheck(name="placebo_cutoff", value=9.0, estimate=None, reason="N_TOO_SMALL")
    assert check_placebo_cutoffs([*tried[:3], *[missing] * 3]).passed
    with pytest.raises(EstimationError, match="2 of 6 cutoffs have an estimate") as caught:
        check_placebo_cutoffs([*tried[:2], *[missing] * 4])
    assert caught.value.code == "N_TOO_SMALL"


def test_bandwidths():
    y, x, _ = make_threshold()
    found = estimate_discontinuity(y, x, 0.0)
    clean = check_bandwidths(found, bandwidth_sensitivity(y, x, 0.0))
    assert verdict(clean) == ("bandwidths", True, "WARN")
    y, x, _ = make_threshold(jump=0.0)
    none = estimate_discontinuity(y, x, 0.0)
    fault = check_bandwidths(none, bandwidth_sensitivity(y, x, 0.0))
    assert verdict(fault) == ("bandwidths", False, "WARN")
    assert fault.value > fault.threshold == 0.5
    missing = [replace(bandwidth_sensitivity(y, x, 0.0)[0], estimate=None, reason="N_TOO_SMALL")]
    with pytest.raises(EstimationError, match="1 settings, none with an estimate"):
        check_bandwidths(none, missing)


def test_donut():
    y, x, _ = make_threshold()
    found = estimate_discontinuity(y, x, 0.0)
    clean = check_donut(found, donut_sensitivity(y, x, 0.0, radii=[0.01, 0.02]))
    assert verdict(clean) == ("donut", True, "WARN")
    # Whoever chose the better side sits just above the cutoff.
    sorted_in, x, _ = make_threshold(jump=0.0)
    sorted_in = sorted_in + 3 * ((x >= 0) & (x < 0.05))
    found = estimate_discontinuity(sorted_in, x, 0.0)
    fault = check_donut(found, donut_sensitivity(sorted_in, x, 0.0, radii=[0.05]))
    assert verdict(fault) == ("donut", False, "WARN")
    assert "rows nearest the cutoff" in fault.message


def test_mass_points_and_effective_rows():
    y, x, _ = make_threshold()
    found = estimate_discontinuity(y, x, 0.0)
    assert verdict(check_mass_points(found)) == ("mass_points", True, "WARN")
    assert verdict(check_effective_rows(found)) == ("effective_rows", True, "ERROR")
    coarse = estimate_discontinuity(y, np.round(20 * x), 0.0)
    outcome = check_mass_points(coarse)
    assert verdict(outcome) == ("mass_points", False, "WARN")
    assert outcome.value < 0.05
    thin = replace(found, robust=replace(found.robust, n_control=49))
    outcome = check_effective_rows(thin)
    assert verdict(outcome) == ("effective_rows", False, "ERROR")
    assert (outcome.value, outcome.threshold) == (49.0, 50.0)
    with pytest.raises(EstimationError, match="need 50"):
        estimate_discontinuity(y, x, 0.0, bandwidth=0.01)


@pytest.mark.parametrize(("share", "passed"), [(0.5, True), (0.02, False)])
def test_first_stage(share, passed):
    y, x, rng = make_threshold()
    takes = (rng.random(len(x)) < 0.2 + share * (x >= 0)).astype(float)
    outcome = check_first_stage(estimate_fuzzy_discontinuity(y + takes, takes, x, 0.0))
    assert verdict(outcome) == ("first_stage", passed, "WARN")
    assert (outcome.value >= 10) is passed


def test_heterogeneity_and_calibration():
    y, t, x, _ = make_experiment(heterogeneity=0.7)
    fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(len(y)))
    proof = prove_heterogeneity(fit)
    assert verdict(check_heterogeneity(proof)) == ("heterogeneity", True, "ERROR")
    assert verdict(check_calibration(proof)) == ("calibration", True, "WARN")
    for factor, word in ((3.0, "far apart"), (0.3, "close")):
        stretched = prove_heterogeneity(
            replace(fit, effects=factor * fit.effects, early_effects=factor * fit.early_effects)
        )
        outcome = check_calibration(stretched)
        assert verdict(outcome) == ("calibration", False, "WARN")
        assert word in outcome.message
        # An interval of a stricter claim may hold 1; the prediction is no better for it.
        strict = replace(stretched.calibration_slope, ci_low=-9.0, ci_high=9.0)
        assert not check_calibration(replace(stretched, calibration_slope=strict)).passed
    y, t, x, _ = make_experiment(seed=3)
    noise = prove_heterogeneity(fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(len(y))))
    outcome = check_heterogeneity(noise)
    assert verdict(outcome) == ("heterogeneity", False, "ERROR")
    assert outcome.value > outcome.threshold == 0.1
    assert outcome.message.endswith("no segment is named")
