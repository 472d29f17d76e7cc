"""Synthetic DiD: its identities, its errors, and what it does with several treated units."""

import numpy as np
import pytest
from donor_factories import as_panel, make_outcomes, make_panel

from experiments_dagster.causal.series.simplex import simplex_weights
from experiments_dagster.causal.series.synthetic_control import estimate_synthetic_control
from experiments_dagster.causal.series.synthetic_did import (
    estimate_synthetic_did,
    synthetic_did_effect,
)


def weighted_regression(panel, omega, lam):
    """Two-way fixed effects with weights ω_i λ_t, the definition of the paper."""
    units = [*panel.treated, *panel.donors]
    n_treated, n_post = len(panel.treated), panel.n_post
    unit_weights = np.r_[np.full(n_treated, 1 / n_treated), omega]
    step_weights = np.r_[lam, np.full(n_post, 1 / n_post)]
    n_steps, n_units = len(panel.outcomes), len(units)
    columns, outcomes, weights = [], [], []
    for t in range(n_steps):
        for i, unit in enumerate(units):
            row = np.zeros(n_steps + n_units + 1)
            row[t] = row[n_steps + i] = 1.0
            row[-1] = float(i < n_treated and t >= panel.n_pre)
            columns.append(row)
            outcomes.append(panel.outcomes[t, unit])
            weights.append(unit_weights[i] * step_weights[t])
    root = np.sqrt(weights)
    found = np.linalg.lstsq(np.array(columns) * root[:, None], np.array(outcomes) * root)[0]
    return found[-1]


@pytest.mark.parametrize("weighting", ["sdid", "did"])
@pytest.mark.parametrize("treated", [(0,), (0, 1, 2)])
def test_the_estimate_is_the_weighted_two_way_regression(weighting, treated):
    panel = as_panel(make_outcomes(n_pre=20), 20, treated=treated)
    result = estimate_synthetic_did(panel, weighting=weighting)
    regression = weighted_regression(panel, result.unit_weights, result.time_weights)
    # Two ways to one number; least squares with tiny weights loses a few digits.
    assert result.estimate == pytest.approx(regression, rel=1e-6)


def test_did_is_the_difference_of_four_means():
    panel = make_panel(effect=2.0)
    result = estimate_synthetic_did(panel, weighting="did")
    treated, donors = panel.outcomes[:, 0], panel.outcomes[:, 1:]
    expected = treated[40:].mean() - treated[:40].mean() - donors[40:].mean() + donors[:40].mean()
    assert result.estimate == pytest.approx(expected)
    assert set(result.unit_weights) == {1 / 12}


def test_sc_is_the_synthetic_control_on_outcomes():
    panel = make_panel(effect=2.0)
    ours = estimate_synthetic_did(panel, weighting="sc")
    control = estimate_synthetic_control(panel, seed=1)
    assert ours.unit_weights == pytest.approx(control.weights, abs=1e-6)
    assert ours.estimate == pytest.approx(control.average_effect, abs=1e-5)
    assert not ours.time_weights.any()
    assert ours.pre_rmspe == pytest.approx(control.pre_rmspe, abs=1e-5)


@pytest.mark.parametrize("weighting", ["sdid", "sc", "did"])
def test_weights_sum_to_one_and_the_effect_averages_to_the_estimate(weighting):
    panel = make_panel(effect=3.0)
    result = estimate_synthetic_did(panel, weighting=weighting)
    assert result.unit_weights.sum() == pytest.approx(1, abs=1e-12)
    assert min(result.unit_weights.min(), result.time_weights.min()) >= 0
    assert result.time_weights.sum() == pytest.approx(0 if weighting == "sc" else 1, abs=1e-12)
    assert result.effect[40:].mean() == pytest.approx(result.estimate)
    assert result.estimate == pytest.approx(3.0, abs=1.2)
    assert synthetic_did_effect(panel, weighting=weighting) == pytest.approx(result.effect)


def test_the_penalty_is_that_of_the_paper():
    panel = make_panel()
    before = panel.donor_paths[:40]
    zeta = 8**0.25 * np.diff(before, axis=0).std(ddof=1)
    gaps = before - panel.treated_path[:40, None]
    expected = simplex_weights(gaps - gaps.mean(axis=0), ridge=40 * zeta**2)
    result = estimate_synthetic_did(panel)
    assert result.unit_weights == pytest.approx(expected)
    unpenalised = simplex_weights(gaps - gaps.mean(axis=0))
    assert 1 / (result.unit_weights**2).sum() > 1.2 / (unpenalised**2).sum()


def test_unit_levels_do_not_matter_but_for_sc():
    panel = make_panel(effect=3.0)
    shifted = as_panel(panel.outcomes + np.linspace(0, 30, 13), 40)
    for weighting, is_same in (("sdid", True), ("did", True), ("sc", False)):
        base = estimate_synthetic_did(panel, weighting=weighting)
        found = estimate_synthetic_did(shifted, weighting=weighting)
        assert (found.estimate == pytest.approx(base.estimate, abs=1e-4)) is is_same


def test_scale_and_order_of_donors_do_not_matter():
    panel = make_panel(effect=3.0)
    base = estimate_synthetic_did(panel)
    scaled = estimate_synthetic_did(as_panel(100 * panel.outcomes - 7, 40))
    assert scaled.estimate == pytest.approx(100 * base.estimate, rel=1e-6)
    assert scaled.std_error == pytest.approx(100 * base.std_error, rel=1e-6)
    assert scaled.p_value == pytest.approx(base.p_value, rel=1e-5)
    turned = estimate_synthetic_did(as_panel(panel.outcomes[:, [0, *range(12, 0, -1)]], 40))
    assert turned.estimate == pytest.approx(base.estimate, rel=1e-6)


def test_the_placebo_error_is_the_spread_over_all_donors():
    panel = make_panel(effect=3.0)
    result = estimate_synthetic_did(panel)
    placebos = [
        estimate_synthetic_did(as_panel(np.delete(panel.outcomes, 0, axis=1), 40, treated=(i,)))
        for i in range(12)
    ]
    assert result.std_error == pytest.approx(np.std([p.estimate for p in placebos]))
    assert result.error_method == "placebo"


def test_p_falls_below_alpha_exactly_when_the_interval_excludes_zero():
    for effect in np.linspace(0.3, 1.6, 14):
        result = estimate_synthetic_did(make_panel(effect=effect), alpha=0.1)
        assert (result.p_value < 0.1) == (not result.ci_low <= 0 <= result.ci_high)
        assert result.ci_low < result.estimate < result.ci_high


def test_several_treated_units_use_the_jackknife():
    outcomes = make_outcomes(n_donors=15)
    outcomes[40:, :3] += 3.0
    panel = as_panel(outcomes, 40, treated=(0, 1, 2))
    result = estimate_synthetic_did(panel)
    assert (result.error_method, result.n_treated) == ("jackknife", 3)
    assert result.estimate == pytest.approx(3.0, abs=0.8)
    assert result.ci_low < 3.0 < result.ci_high
    # Weights are kept, so one unit left out moves the estimate in closed form.
    effect = outcomes[40:].mean(axis=0) - result.time_weights @ outcomes[:40]
    omega, own, others = result.unit_weights, effect[:3], effect[3:]
    left = [np.delete(own, i).mean() - omega @ others for i in range(3)]
    for i in range(13):
        rest = np.delete(omega, i)
        left.append(own.mean() - rest @ np.delete(others, i) / rest.sum())
    assert result.std_error == pytest.approx(np.sqrt(15) * np.std(left))


def test_no_error_is_made_up_where_units_are_too_few():
    result = estimate_synthetic_did(make_panel(n_donors=2))
    assert (result.std_error, result.p_value, result.ci_low) == (None, None, None)
    assert result.error_reason == "N_TOO_SMALL"
    flat = np.repeat(make_outcomes()[:, :1], 5, axis=1)
    alike = estimate_synthetic_did(as_panel(flat, 40))
    assert (alike.std_error, alike.error_reason) == (None, "ZERO_VARIANCE")
    assert estimate_synthetic_did(make_panel(n_donors=3)).error_reason is None


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_senseless_alpha_raises(alpha):
    with pytest.raises(ValueError, match="need 0 < alpha < 1"):
        estimate_synthetic_did(make_panel(), alpha=alpha)


def test_no_outcome_after_the_intervention_reaches_the_unit_weights():
    outcomes = make_outcomes()
    base = estimate_synthetic_did(as_panel(outcomes, 40))
    outcomes[40:, 0] += 100.0
    moved = estimate_synthetic_did(as_panel(outcomes, 40))
    assert np.array_equal(moved.unit_weights, base.unit_weights)
    assert np.array_equal(moved.time_weights, base.time_weights)
    assert moved.estimate == pytest.approx(base.estimate + 100.0)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_the_interval_covers_no_effect_at_its_level(phi):
    n = 400
    results = [
        estimate_synthetic_did(make_panel(n_donors=19, phi=phi, seed=[seed, 5]))
        for seed in range(n)
    ]
    covered = np.mean([r.ci_low <= 0 <= r.ci_high for r in results])
    # A normal quantile with 19 placebos covers somewhat less than its level: t(18) would be 2.10.
    assert 0.93 - 3.29 * np.sqrt(0.05 * 0.95 / n) <= covered <= 0.95 + 3.29 * np.sqrt(0.0475 / n)
