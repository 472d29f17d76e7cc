"""Augmented synthetic control: its limits, its penalty and its conformal interval."""

import numpy as np
import pytest
from donor_factories import as_panel, make_outcomes, make_panel

from experiments_dagster.causal.series.augmented_control import (
    augmented_control_effect,
    estimate_augmented_control,
)
from experiments_dagster.causal.series.block_conformal import conformal_effect
from experiments_dagster.causal.series.synthetic_control import estimate_synthetic_control
from experiments_dagster.stats.errors import EstimationError


def outside(effect=0.0, n_pre=40, **changes):
    """The treated unit loads more on a factor than any donor: no mix reaches it."""
    return make_panel(effect=effect, n_pre=n_pre, load=(2.0, 0.5), noise=0.3, **changes)


def test_an_infinite_penalty_is_the_synthetic_control():
    panel = outside(effect=2.0)
    control = estimate_synthetic_control(panel, seed=1)
    result = estimate_augmented_control(panel, penalty=1e12)
    # λ is 10 digits above the donors' variance, not infinite.
    assert result.weights == pytest.approx(control.weights, abs=1e-7)
    assert result.effect == pytest.approx(control.effect, abs=1e-6)
    assert result.simplex_weights == pytest.approx(control.weights)
    assert result.simplex_average_effect == pytest.approx(control.average_effect)
    assert result.simplex_pre_rmspe == pytest.approx(control.pre_rmspe)


def test_a_vanishing_penalty_fits_the_pre_period_exactly():
    panel = outside(n_pre=10)
    result = estimate_augmented_control(panel, penalty=1e-9)
    assert result.pre_rmspe < 1e-6 < result.simplex_pre_rmspe


def test_the_weights_are_a_ridge_regression_among_donors():
    panel = outside(effect=2.0)
    result = estimate_augmented_control(panel, penalty=5.0)
    donors, treated = panel.donor_paths, panel.treated_path
    # Regress the donors' post outcomes on their own past, and correct w by the prediction.
    centre = donors.mean(axis=1)
    past, later = (donors[:40].T - centre[:40]), (donors[40:].T - centre[40:])
    eta = np.linalg.solve(past.T @ past + 5.0 * np.eye(40), past.T @ later)
    w = result.simplex_weights
    left = treated[:40] - donors[:40] @ w
    assert result.counterfactual[40:] == pytest.approx(donors[40:] @ w + left @ eta)


def test_weights_sum_to_one_and_closing_the_gap_costs_negative_ones():
    results = [estimate_augmented_control(outside(effect=3.0, seed=[s, 77])) for s in range(40)]
    for result in results:
        assert result.weights.sum() == pytest.approx(1, abs=1e-9)
        negative = result.weights[result.weights < 0].sum()
        assert result.negative_weight_sum == pytest.approx(negative)
        assert negative < 0
        assert result.pre_rmspe < result.simplex_pre_rmspe
    # Nearer on average; on a single panel it may lie further off.
    errors = [abs(r.average_effect - 3.0) for r in results]
    assert np.mean(errors) < np.mean([abs(r.simplex_average_effect - 3.0) for r in results])


def test_where_the_simplex_fits_well_little_changes():
    result = estimate_augmented_control(make_panel(effect=3.0, noise=0.1))
    assert result.average_effect == pytest.approx(result.simplex_average_effect, abs=0.1)


def test_p_falls_below_alpha_exactly_when_the_interval_excludes_zero():
    seen = set()
    for effect in np.linspace(0, 4, 9):
        result = estimate_augmented_control(make_panel(effect=effect, n_pre=52))
        excluded = not result.ci_low <= 0 <= result.ci_high
        assert (result.p_value < 0.05) == excluded
        assert result.ci_low <= result.average_effect <= result.ci_high
        assert result.p_value >= 1 / 60
        seen.add(excluded)
    assert seen == {True, False}


def test_scale_shift_and_a_constant_effect_act_as_they_should():
    panel = make_panel(n_pre=52)
    base = estimate_augmented_control(panel)
    scaled = estimate_augmented_control(as_panel(100 * panel.outcomes - 7, 52))
    assert scaled.average_effect == pytest.approx(100 * base.average_effect, rel=1e-5)
    assert scaled.p_value == base.p_value
    # Bisection stops at 2^-20 of a grid step.
    assert scaled.ci_low == pytest.approx(100 * base.ci_low, rel=1e-3)
    moved = estimate_augmented_control(make_panel(n_pre=52, effect=5.0))
    assert np.array_equal(moved.weights, base.weights)
    assert moved.average_effect == pytest.approx(base.average_effect + 5.0)
    assert moved.ci_high == pytest.approx(base.ci_high + 5.0, abs=1e-2)


def test_no_interval_is_made_up():
    # 1/T must be below α: 20 steps cannot reject at 5 %, 21 can.
    assert estimate_augmented_control(make_panel(n_pre=12, n_post=8)).ci_reason == "N_TOO_SMALL"
    assert estimate_augmented_control(make_panel(n_pre=18, n_post=3)).ci_reason is None

    def follows_everything(path):
        return np.ones_like(path)

    path = np.arange(40.0)
    test = conformal_effect(path, 32, 1.0, follows_everything, alpha=0.05)
    assert (test.p_value, test.ci_low, test.ci_reason) == (1.0, None, "NOT_IDENTIFIED")

    def fits_no_constant(path):
        return np.r_[np.zeros(32), np.ones(8)] * (1 + np.abs(path))

    test = conformal_effect(path, 32, 1.0, fits_no_constant, alpha=0.05)
    assert (test.p_value, test.ci_low, test.ci_reason) == (1 / 40, None, "NOT_IDENTIFIED")


def test_conformal_ranks_circular_shifts():
    residual = np.array([1.0, -1.0, 2.0, 0.5, 3.0, -2.0])
    result = conformal_effect(np.zeros(6), 4, 0.0, lambda path: residual, alpha=0.1)
    sums = [2, 3, 2.5, 3.5, 5, 3]
    assert result.p_value == np.mean(np.array(sums) >= 5)
    assert result.ci_reason == "N_TOO_SMALL"


def test_an_acceptance_region_with_a_gap_reports_its_hull():
    path = np.r_[np.zeros(30), np.full(10, 2.0)]

    def residuals(path):
        level = path[30:].mean()
        is_large = 0.5 < abs(level) < 1.0
        return np.r_[np.ones(30), np.full(10, 9.0 if is_large or abs(level) > 2.5 else 0.5)]

    result = conformal_effect(path, 30, 2.0, residuals, alpha=0.05)
    # Effects of 1 to 1.5 are rejected, smaller ones accepted: the hull reaches -0.5.
    assert result.ci_low == pytest.approx(-0.5, abs=1e-3)
    assert result.ci_high == pytest.approx(4.5, abs=1e-3)
    assert result.p_value >= 0.05


def test_thin_or_flat_panels_and_senseless_arguments_are_refused():
    with pytest.raises(EstimationError, match="2 fitted steps, need 3") as caught:
        estimate_augmented_control(make_panel(n_pre=2))
    assert caught.value.code == "N_TOO_SMALL"
    flat = np.repeat(make_outcomes()[:, :1], 5, axis=1)
    with pytest.raises(EstimationError, match="alike") as caught:
        estimate_augmented_control(as_panel(flat, 40))
    assert caught.value.code == "ZERO_VARIANCE"
    for changes in ({"alpha": 0}, {"alpha": 1}, {"penalty": 0.0}, {"penalty": np.inf}):
        with pytest.raises(ValueError, match="positive penalty"):
            estimate_augmented_control(make_panel(), **changes)
    with pytest.raises(ValueError, match="2 treated units"):
        estimate_augmented_control(as_panel(make_outcomes(), 40, treated=(0, 1)))


def test_the_refit_for_placebos_is_the_same_method():
    panel = outside(effect=3.0)
    assert np.array_equal(augmented_control_effect(panel), estimate_augmented_control(panel).effect)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_p_rejects_at_most_at_its_level_without_effect(phi):
    n = 300
    results = [
        estimate_augmented_control(
            make_panel(n_pre=52, n_donors=15, phi=phi, seed=[seed, 9]), alpha=0.1
        )
        for seed in range(n)
    ]
    rate = np.mean([r.p_value < 0.1 for r in results])
    assert rate <= 0.1 + 3.29 * np.sqrt(0.09 / n)
