"""Refutations of a donor design: each with the case that fires and the one that stays silent."""

import numpy as np
import pytest
from donor_factories import as_panel, make_outcomes, make_panel

from experiments_dagster.causal.series.augmented_control import augmented_control_effect
from experiments_dagster.causal.series.donor_checks import (
    check_placebo_lean,
    check_placebo_rank,
    check_pre_fit,
    check_sensitivity,
)
from experiments_dagster.causal.series.donor_panel import Predictor
from experiments_dagster.causal.series.donor_placebo import placebo_in_space, sign_test
from experiments_dagster.causal.series.donor_sensitivity import (
    drop_last_pre_steps,
    leave_one_donor_out,
    leave_one_predictor_out,
)
from experiments_dagster.causal.series.synthetic_control import (
    estimate_synthetic_control,
    synthetic_control_effect,
)
from experiments_dagster.causal.series.synthetic_did import synthetic_did_effect
from experiments_dagster.stats.errors import EstimationError


def control(panel, predictors=()):
    return synthetic_control_effect(panel, predictors, seed=1)


def forgets_the_trend(panel):
    """A broken method: the counterfactual is the unit's own past mean."""
    return panel.treated_path - panel.treated_path[: panel.n_fit].mean()


def test_a_real_effect_outranks_every_donor():
    placebo = placebo_in_space(make_panel(effect=4.0, n_donors=25), control)
    assert placebo.p_value == 1 / 26
    assert placebo.ratio > placebo.ratios.max()
    assert placebo.ci_low < placebo.average_effect < placebo.ci_high
    assert placebo.ci_low > 0
    outcome = check_placebo_rank(placebo)
    assert (outcome.passed, outcome.value) == (True, 1 / 26)


def test_no_effect_is_blocked():
    outcome = check_placebo_rank(placebo_in_space(make_panel(n_donors=25), control))
    assert (outcome.passed, outcome.severity) == (False, "ERROR")
    assert "untreated donors show as much" in outcome.message


def test_ranks_and_records_add_up():
    panel = make_panel(effect=0.5, n_donors=25)
    placebo = placebo_in_space(panel, control)
    assert placebo.effects.shape == (25, 48)
    assert placebo.p_value == (1 + (placebo.ratios >= placebo.ratio).sum()) / 26
    alone = control(panel.as_if_treated(int(placebo.donors[3])))
    assert np.array_equal(placebo.effects[3], alone)
    after, before = (np.sqrt(np.mean(part**2)) for part in (alone[40:], alone[:40]))
    assert placebo.ratios[3] == pytest.approx(after / before)
    assert placebo.average_effects[3] == pytest.approx(alone[40:].mean())


def test_the_treated_unit_lends_nothing_to_its_placebos():
    base = placebo_in_space(make_panel(n_donors=25), control)
    moved = placebo_in_space(make_panel(effect=100.0, n_donors=25), control)
    assert np.array_equal(moved.effects, base.effects)
    assert moved.ci_low == pytest.approx(base.ci_low + 100.0, abs=1e-6)


def test_the_interval_inverts_the_test():
    base = make_panel(n_donors=25)
    placebo = placebo_in_space(base, control, alpha=0.1)
    for limit, inwards in ((placebo.ci_low, 1e-6), (placebo.ci_high, -1e-6)):
        for shift, is_accepted in ((inwards, True), (-inwards, False)):
            outcomes = base.outcomes.copy()
            outcomes[40:, 0] -= limit + shift
            p = placebo_in_space(as_panel(outcomes, 40), control, alpha=0.1).p_value
            assert (p >= 0.1) is is_accepted


@pytest.mark.parametrize("n_donors", [9, 18, 19, 20, 25])
def test_p_falls_below_alpha_exactly_when_the_interval_excludes_zero(n_donors):
    for effect in (0.0, 0.5, 1.0, 3.0):
        placebo = placebo_in_space(make_panel(effect=effect, n_donors=n_donors), control)
        if n_donors <= 19:
            assert (placebo.ci_low, placebo.ci_reason) == (None, "N_TOO_SMALL")
            assert placebo.p_value >= 0.05
            assert f"{n_donors} placebos: p cannot fall below" in placebo.warnings[0]
            assert not check_placebo_rank(placebo).passed
        else:
            excluded = not placebo.ci_low <= 0 <= placebo.ci_high
            assert (placebo.p_value < 0.05) == excluded
            assert placebo.warnings == ()


def test_an_effect_that_is_not_constant_has_no_interval():
    panel = make_panel(n_donors=25)
    outcomes = panel.outcomes.copy()
    outcomes[40:, 0] += np.linspace(0, 60, 8)
    placebo = placebo_in_space(as_panel(outcomes, 40), control)
    assert (placebo.ci_low, placebo.ci_high, placebo.ci_reason) == (None, None, "NOT_IDENTIFIED")
    assert placebo.p_value == 1 / 26


def test_poorly_fitted_donors_can_be_left_out():
    outcomes = make_outcomes(n_donors=25)
    outcomes[:, 7] += 50.0
    everyone = placebo_in_space(as_panel(outcomes, 40), control)
    kept = placebo_in_space(as_panel(outcomes, 40), control, max_fit_ratio=5.0)
    assert (everyone.n_excluded, kept.n_excluded) == (0, 1)
    assert 7 not in kept.donors
    assert "1 donors with pre-period error above 5 times" in kept.warnings[0]
    with pytest.raises(EstimationError, match="need 2"):
        placebo_in_space(as_panel(outcomes, 40), control, max_fit_ratio=1e-6)


def test_an_exact_fit_is_refused():
    with pytest.raises(EstimationError, match="fitted exactly on 3 steps") as caught:
        placebo_in_space(make_panel(n_pre=3, n_donors=25), control)
    assert caught.value.code == "ZERO_DENOMINATOR"


def test_a_method_that_forgets_the_trend_raises_the_bias_alarm():
    outcomes = make_outcomes(n_donors=25) + 0.5 * np.arange(48.0)[:, None]
    panel = as_panel(outcomes, 40)
    broken = placebo_in_space(panel, forgets_the_trend)
    outcome = check_placebo_lean(broken)
    assert broken.is_one_sided
    assert (outcome.passed, outcome.severity) == (False, "ERROR")
    assert outcome.message.startswith("25 of 25 placebo effects are positive")
    sound = placebo_in_space(panel, control)
    assert not sound.is_one_sided
    assert check_placebo_lean(sound).passed


def test_most_placebos_on_one_side_warn():
    outcomes = make_outcomes(n_donors=25)
    # Equal weights, and one donor breaks away: all others seem to fall.
    outcomes[40:, 7] += 100.0

    def equal_weights(panel):
        return synthetic_did_effect(panel, weighting="did")

    placebo = placebo_in_space(as_panel(outcomes, 40), equal_weights)
    outcome = check_placebo_lean(placebo)
    assert (outcome.passed, outcome.severity) == (False, "WARN")
    assert outcome.value < 0.01
    assert not placebo.is_one_sided


def test_the_sign_test_is_binomial():
    assert sign_test(np.array([1.0, 1, 1, 1, 1, -1])) == pytest.approx(2 * 7 / 64)
    assert sign_test(np.ones(6)) == pytest.approx(2 / 64)
    assert sign_test(np.array([1.0, -1])) == 1.0


def test_pre_fit_warns_outside_the_hull_only():
    close = estimate_synthetic_control(make_panel(noise=0.1), seed=1)
    assert check_pre_fit(close).passed
    outcomes = make_outcomes(noise=0.1)
    outcomes[:, 0] += 20
    outcome = check_pre_fit(estimate_synthetic_control(as_panel(outcomes, 40), seed=1))
    assert (outcome.passed, outcome.severity) == (False, "WARN")
    assert outcome.value > outcome.threshold == 0.5
    outcomes[:40, 0] = 10.0
    flat = check_pre_fit(estimate_synthetic_control(as_panel(outcomes, 40), seed=1))
    assert (flat.passed, flat.value) == (False, None)


def test_an_effect_on_one_donor_is_fragile_and_a_real_one_is_not():
    panel = make_panel(effect=4.0)
    sound = leave_one_donor_out(panel, control)
    assert sound.left_out.tolist() == list(range(1, 13))
    assert not sound.is_fragile
    assert check_sensitivity(sound).passed
    assert sound.effects[4] == pytest.approx(control(panel.without_donor(5))[40:].mean())
    # The "effect" is one donor's own fall: without that donor nothing is left.
    outcomes = make_outcomes()
    outcomes[:, 0] = outcomes[:, 5] + 0.05 * outcomes[:, 0]
    outcomes[40:, 5] -= 4.0
    hanging = leave_one_donor_out(as_panel(outcomes, 40), control, donors=[5])
    outcome = check_sensitivity(hanging)
    assert hanging.is_fragile
    assert (outcome.passed, outcome.severity, outcome.name) == (False, "WARN", "leave_out_donor")
    assert "it hangs on it" in outcome.message
    assert hanging.largest_change > 0.5


def predictors_of(panel, extra=None):
    steps = ((0, 10), (10, 20), (20, 30), (30, 40))
    predictors = [Predictor(values=panel.outcomes, first=a, stop=b) for a, b in steps]
    return predictors if extra is None else [*predictors, extra]


def test_an_effect_on_one_predictor_is_fragile_and_a_real_one_is_not():
    panel = make_panel(effect=4.0, noise=0.1)
    sound = leave_one_predictor_out(panel, predictors_of(panel), control)
    assert sound.left_out.tolist() == [0, 1, 2, 3]
    assert check_sensitivity(sound).passed
    # A single predictor pins the weights to a donor that breaks away; the other one does not.
    outcomes = make_outcomes(noise=0.1)
    outcomes[40:, 5] += 10.0
    trap = np.full(13, 0.0)
    trap[[0, 5]] = 1.0
    pinned = as_panel(outcomes, 40)

    def given(panel, predictors):
        return synthetic_control_effect(
            panel, predictors, predictor_weights=np.geomspace(1, 1e4, len(predictors)), seed=1
        )

    trapped = predictors_of(
        pinned, Predictor(values=np.broadcast_to(trap, (48, 13)), first=0, stop=1)
    )
    fragile = leave_one_predictor_out(pinned, trapped, given)
    assert fragile.is_fragile
    assert not check_sensitivity(fragile).passed


def test_an_effect_that_began_before_is_caught_by_dropping_the_last_steps():
    sound = drop_last_pre_steps(make_panel(effect=4.0), control, n_dropped=(1, 4, 8))
    assert sound.left_out.tolist() == [1, 4, 8]
    assert check_sensitivity(sound).passed
    assert np.abs(sound.held_out_effects).max() < 1.0
    outcomes = make_outcomes()
    outcomes[32:, 0] += 4.0
    early = drop_last_pre_steps(as_panel(outcomes, 40), control, n_dropped=(1, 4, 8))
    assert early.held_out_effects[2] == pytest.approx(4.0, abs=1.0)
    assert (early.is_early, sound.is_early) == (True, False)
    outcome = check_sensitivity(early)
    assert not outcome.passed
    assert outcome.message.endswith("it began before the intervention")


def test_a_fit_that_rests_on_the_last_steps_is_fragile():
    outcomes = make_outcomes(noise=0.1)
    # Only the last steps tell unit 5 from the others as the one to follow.
    outcomes[36:, [0, 5]] += 20.0
    result = drop_last_pre_steps(as_panel(outcomes, 40), control, n_dropped=(1, 4))
    assert result.is_fragile
    assert abs(result.full_effect) < 1 < abs(result.effects[1])
    assert not check_sensitivity(result).passed


def test_a_held_out_gap_reads_no_held_out_step():
    panel = make_panel()
    gap = control(panel.holding_out(5))
    result = drop_last_pre_steps(panel, control, n_dropped=[5])
    assert result.held_out_effects[0] == pytest.approx(gap[35:40].mean())
    assert result.effects[0] == pytest.approx(gap[40:].mean())


@pytest.mark.parametrize("method", [augmented_control_effect, synthetic_did_effect])
def test_other_methods_stand_the_same_tests(method):
    panel = make_panel(effect=4.0, n_donors=25)
    assert placebo_in_space(panel, method).p_value == 1 / 26
    assert check_sensitivity(leave_one_donor_out(panel, method)).passed
    assert check_sensitivity(drop_last_pre_steps(panel, method)).passed


def test_what_cannot_be_left_out_is_refused():
    small = make_panel(n_donors=2)
    with pytest.raises(EstimationError, match="2 donors, need 3") as caught:
        leave_one_donor_out(small, control)
    assert caught.value.code == "N_TOO_SMALL"
    panel = make_panel()
    with pytest.raises(EstimationError, match="1 predictor, need 2"):
        leave_one_predictor_out(panel, predictors_of(panel)[:1], control)
    with pytest.raises(EstimationError, match="need 2 before"):
        drop_last_pre_steps(panel, control, n_dropped=[39])
    with pytest.raises(ValueError, match="positive numbers of steps"):
        drop_last_pre_steps(panel, control, n_dropped=[0])
    with pytest.raises(ValueError, match="need some of the donors"):
        leave_one_donor_out(panel, control, donors=[0])
    with pytest.raises(ValueError, match="need 0 < alpha < 1"):
        placebo_in_space(panel, control, alpha=1.0)
    with pytest.raises(ValueError, match="2 treated units"):
        placebo_in_space(as_panel(make_outcomes(), 40, treated=(0, 1)), control)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_p_rejects_at_its_level_and_no_alarm_goes_off_without_effect(phi):
    n = 500
    placebos = [
        placebo_in_space(make_panel(n_donors=19, phi=phi, seed=[seed, 3]), control)
        for seed in range(n)
    ]
    # With 19 donors p is a multiple of 1/20, so these levels can be met exactly.
    for level in (0.05, 0.2):
        rate = np.mean([placebo.p_value <= level for placebo in placebos])
        assert abs(rate - level) <= 3.29 * np.sqrt(level * (1 - level) / n)
    assert not any(placebo.is_one_sided for placebo in placebos)
    assert np.mean([placebo.sign_p_value < 0.01 for placebo in placebos]) < 0.05
