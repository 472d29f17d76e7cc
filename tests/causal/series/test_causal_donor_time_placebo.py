"""Placebo starts of donor designs: what they read, how they rank, what they cannot."""

import numpy as np
import pytest
from donor_factories import as_panel, make_outcomes, make_panel

from experiments_dagster.causal.series.augmented_control import augmented_control_effect
from experiments_dagster.causal.series.donor_checks import check_placebo_in_time
from experiments_dagster.causal.series.donor_panel import Predictor
from experiments_dagster.causal.series.donor_time_placebo import (
    cut_predictors,
    donor_placebo_in_time,
)
from experiments_dagster.causal.series.placebo_rank import rank_placebos
from experiments_dagster.causal.series.series_checks import check_bias_alarm
from experiments_dagster.causal.series.synthetic_control import synthetic_control_effect
from experiments_dagster.causal.series.synthetic_did import synthetic_did_effect
from experiments_dagster.stats.errors import EstimationError


def control(panel, predictors=()):
    return synthetic_control_effect(panel, predictors, seed=1)


def long_panel(**changes):
    return make_panel(**({"n_pre": 120, "n_post": 5} | changes))


@pytest.mark.parametrize(
    "method", [control, synthetic_did_effect, augmented_control_effect], ids=["sc", "sdid", "asc"]
)
def test_a_real_effect_outranks_all_placebos(method):
    found = donor_placebo_in_time(long_panel(effect=5.0), method)
    assert found.p_value == pytest.approx(1 / 21)
    assert len(found.effects) == 20
    assert found.effect == pytest.approx(5.0, abs=1.0)
    assert check_placebo_in_time(found).passed
    assert check_bias_alarm(found).passed


def test_without_effect_the_claim_is_blocked():
    found = donor_placebo_in_time(long_panel(), control)
    count = (np.abs(found.effects) >= abs(found.effect)).sum()
    assert found.p_value == pytest.approx((1 + count) / 21)
    outcome = check_placebo_in_time(found)
    assert (outcome.passed, outcome.severity) == (False, "ERROR")


def test_few_placebos_are_compared_but_do_not_block():
    largest = check_placebo_in_time(rank_placebos(9.0, {30: 1.0, 40: -2.0, 50: 0.5}, 10))
    assert largest.passed
    assert largest.message.endswith("(3 placebos allow no p below 0.05)")
    exceeded = check_placebo_in_time(rank_placebos(9.0, {30: 1.0, 40: -12.0, 50: 0.5}, 10))
    assert (exceeded.passed, exceeded.severity) == (False, "WARN")
    assert "1 of 3 moved starts show as much" in exceeded.message


def test_a_placebo_reads_no_step_after_its_own_window():
    outcomes = make_outcomes(n_pre=120, n_post=5)
    base = donor_placebo_in_time(as_panel(outcomes, 120), synthetic_did_effect)
    assert base.positions[0] == 10
    assert base.positions[-1] == 115
    changed = outcomes.copy()
    changed[120:] += 100.0 * np.arange(13)
    after = donor_placebo_in_time(as_panel(changed, 120), synthetic_did_effect)
    assert np.array_equal(after.effects, base.effects)
    changed = outcomes.copy()
    changed[117:, 0] += 100.0
    last = donor_placebo_in_time(as_panel(changed, 120), control)
    first = donor_placebo_in_time(as_panel(outcomes, 120), control)
    assert (last.effects != first.effects).tolist() == [False] * 19 + [True]


def test_the_effect_at_one_start_is_that_of_the_shorter_panel():
    panel = long_panel()
    found = donor_placebo_in_time(panel, synthetic_did_effect)
    step = int(found.positions[7])
    alone = synthetic_did_effect(as_panel(panel.outcomes[: step + 5], step))
    assert found.effects[7] == pytest.approx(alone[step:].mean())


def test_fewer_post_steps_leave_room_for_placebos():
    panel = make_panel(effect=4.0, n_pre=40, n_post=40)
    with pytest.raises(EstimationError, match="0 starts with 10 steps before and 40 after") as e:
        donor_placebo_in_time(panel, control)
    assert e.value.code == "N_TOO_SMALL"
    found = donor_placebo_in_time(panel, control, n_post=5)
    assert len(found.effects) == 20
    assert found.effect == pytest.approx(control(panel)[40:45].mean())
    assert "windows overlap" in found.warnings[0]


def test_held_out_steps_stay_held_out():
    panel = long_panel().holding_out(20)
    found = donor_placebo_in_time(panel, control)
    assert found.positions[-1] == 95
    assert found.effect == pytest.approx(control(panel)[120:].mean())


def test_predictors_are_cut_at_each_start():
    panel = long_panel(effect=5.0)
    windows = ((0, 5), (5, 60), (60, 120))
    predictors = [Predictor(values=panel.outcomes, first=a, stop=b) for a, b in windows]
    moved = as_panel(panel.outcomes[:35], 30)
    cut = cut_predictors(predictors, moved)
    assert [(p.first, p.stop, len(p.values)) for p in cut] == [(0, 5, 35), (5, 30, 35)]
    found = donor_placebo_in_time(panel, lambda p: control(p, cut_predictors(predictors, p)))
    assert found.p_value == pytest.approx(1 / 21)
    with pytest.raises(EstimationError, match="every window begins after step 29"):
        cut_predictors(predictors[2:], moved)
    late = donor_placebo_in_time(panel, lambda p: control(p, cut_predictors(predictors[2:], p)))
    assert late.positions.min() > 60
    # Without cutting, a placebo would read the future: the panel refuses every start.
    with pytest.raises((EstimationError, ValueError)):
        donor_placebo_in_time(panel, lambda p: control(p, predictors))


def test_a_method_that_forgets_the_trend_raises_the_alarm():
    outcomes = make_outcomes(n_pre=120, n_post=5) + 0.5 * np.arange(125.0)[:, None]
    panel = as_panel(outcomes, 120)

    def forgets(moved):
        return moved.treated_path - moved.treated_path[: moved.n_fit].mean()

    alarm = check_bias_alarm(donor_placebo_in_time(panel, forgets))
    assert (alarm.passed, alarm.severity) == (False, "ERROR")
    assert check_bias_alarm(donor_placebo_in_time(panel, control)).passed


@pytest.mark.parametrize(
    "changes", [{"n_post": 6}, {"n_post": 0}, {"n_placebos": 0}, {"min_pre_steps": 1}]
)
def test_senseless_numbers_raise(changes):
    with pytest.raises(ValueError, match="need 1 to 5"):
        donor_placebo_in_time(long_panel(), control, **changes)


@pytest.mark.slow
def test_p_rejects_at_its_level_without_effect():
    runs = 200
    found = [
        donor_placebo_in_time(long_panel(seed=[seed, 9]), control).p_value for seed in range(runs)
    ]
    # Placebos are fitted on less history and look larger: the rank is conservative at most.
    assert np.mean(np.array(found) <= 0.05) <= 1 / 21 + 3.1 * np.sqrt(0.05 * 0.95 / runs)
