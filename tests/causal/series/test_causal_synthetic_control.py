"""Synthetic control: weights, predictors, the search for V, and what is refused."""

import time

import numpy as np
import pytest
from donor_factories import as_panel, make_outcomes, make_panel
from scipy.optimize import minimize

from experiments_dagster.causal.series import synthetic_control
from experiments_dagster.causal.series.donor_panel import (
    Predictor,
    build_panel,
    predictor_means,
)
from experiments_dagster.causal.series.donor_placebo import placebo_in_space
from experiments_dagster.causal.series.simplex import simplex_weights
from experiments_dagster.causal.series.synthetic_control import (
    estimate_synthetic_control,
    synthetic_control_effect,
)
from experiments_dagster.stats.errors import EstimationError


def windows(panel, steps=((0, 10), (10, 20), (20, 30), (39, 40))):
    return [Predictor(values=panel.outcomes, first=a, stop=b) for a, b in steps]


def estimate(panel, predictors=(), **changes):
    return estimate_synthetic_control(panel, predictors, **({"seed": 1} | changes))


def refused(code, call, match=None):
    with pytest.raises(EstimationError, match=match) as caught:
        call()
    assert caught.value.code == code


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_simplex_weights_beat_a_general_solver(ridge):
    rng = np.random.default_rng(4)
    for _ in range(5):
        differences = rng.normal(size=(15, 8)) + rng.normal(size=8)

        def loss(w, d=differences):
            return np.sum((d @ w) ** 2) + ridge * np.sum(w**2)

        ours = simplex_weights(differences, ridge=ridge)
        general = minimize(
            loss,
            np.full(8, 1 / 8),
            method="SLSQP",
            bounds=[(0, 1)] * 8,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert ours.min() >= 0
        assert ours.sum() == pytest.approx(1, abs=1e-14)
        # The other solver stops at 1e-12 relative, ours is exact up to the tie-breaking ridge.
        assert loss(ours) <= general.fun * (1 + 1e-7)
        assert ours == pytest.approx(general.x, abs=1e-4)


def test_the_optimality_conditions_hold():
    differences = np.random.default_rng(3).normal(size=(20, 10)) + 1
    w = simplex_weights(differences)
    slope = differences.T @ (differences @ w)
    # Equal slope on the support, no lower slope off it (Karush-Kuhn-Tucker).
    assert slope[w > 0] == pytest.approx(np.full((w > 0).sum(), (slope @ w)), rel=1e-6)
    assert (slope[w == 0] >= slope @ w - 1e-6).all()


def test_ties_do_not_depend_on_the_order_of_donors():
    rng = np.random.default_rng(8)
    differences = rng.normal(size=(3, 12))
    order = rng.permutation(12)
    assert np.abs(differences @ simplex_weights(differences)).max() < 1e-6
    permuted = simplex_weights(differences[:, order])
    assert permuted == pytest.approx(simplex_weights(differences)[order], abs=1e-6)


def test_a_known_mix_is_found():
    outcomes = make_outcomes(noise=1.0)
    outcomes[:, 0] = 0.6 * outcomes[:, 3] + 0.4 * outcomes[:, 7]
    outcomes[40:, 0] += 2.0
    result = estimate(as_panel(outcomes, 40))
    expected = np.zeros(12)
    expected[[2, 6]] = 0.6, 0.4
    # Exact but for the tie-breaking ridge.
    assert result.weights == pytest.approx(expected, abs=1e-6)
    assert result.effect[40:] == pytest.approx(np.full(8, 2.0), abs=1e-5)
    assert result.average_effect == pytest.approx(2.0, abs=1e-5)
    assert result.pre_rmspe < 1e-5


@pytest.mark.parametrize("has_predictors", [False, True])
def test_weights_sum_to_one_and_rebuild_the_counterfactual(has_predictors):
    panel = make_panel(effect=3.0)
    result = estimate(panel, windows(panel) if has_predictors else ())
    assert result.weights.sum() == pytest.approx(1, abs=1e-12)
    assert result.weights.min() >= 0
    assert result.counterfactual == pytest.approx(panel.donor_paths @ result.weights)
    assert result.counterfactual + result.effect == pytest.approx(panel.treated_path)
    assert result.average_effect == pytest.approx(3.0, abs=1.0)
    expected = result.average_effect / result.counterfactual[40:].mean()
    assert result.relative_effect == pytest.approx(expected)


def test_scale_shift_and_order_of_units_do_not_matter():
    panel = make_panel(effect=3.0)
    base = estimate(panel, windows(panel), n_random_starts=3)
    scaled = as_panel(100 * panel.outcomes - 7, 40)
    found = estimate(scaled, windows(scaled), n_random_starts=3)
    # A search ends where its own stopping rule says, at slightly different weights.
    assert found.average_effect == pytest.approx(100 * base.average_effect, rel=1e-3)
    assert found.pre_rmspe == pytest.approx(100 * base.pre_rmspe, rel=1e-3)
    order = [0, *range(12, 0, -1)]
    turned = as_panel(panel.outcomes[:, order], 40)
    assert estimate(turned).weights[::-1] == pytest.approx(estimate(panel).weights, abs=1e-6)


def test_a_constant_added_to_the_post_period_moves_the_effect_only():
    panel = make_panel()
    moved = make_panel(effect=5.0)
    for base, found in [
        (estimate(panel), estimate(moved)),
        (estimate(panel, windows(panel)), estimate(moved, windows(moved))),
    ]:
        assert np.array_equal(found.weights, base.weights)
        assert found.average_effect == pytest.approx(base.average_effect + 5.0)


def test_no_outcome_after_the_intervention_reaches_the_weights():
    outcomes = make_outcomes()
    changed = outcomes.copy()
    changed[40:] = np.random.default_rng(1).normal(size=changed[40:].shape)
    before, after = as_panel(outcomes, 40), as_panel(changed, 40)
    assert np.array_equal(
        estimate(before, windows(before)).weights, estimate(after, windows(after)).weights
    )
    changed = outcomes.copy()
    changed[39] += np.arange(13.0)
    assert not np.array_equal(
        estimate(as_panel(changed, 40)).weights, estimate(as_panel(outcomes, 40)).weights
    )


def test_the_gradient_of_the_search_is_exact():
    panel = make_panel()
    means = predictor_means(panel, windows(panel))
    gaps = panel.donor_paths[:40] - panel.treated_path[:40, None]
    problem = synthetic_control._Problem.build(panel, means, gaps)
    logits = np.random.default_rng(2).normal(size=4)
    _, gradient = problem.loss(logits)
    step = 1e-5
    numeric = [
        (problem.loss(logits + step * e)[0] - problem.loss(logits - step * e)[0]) / (2 * step)
        for e in np.eye(4)
    ]
    assert np.abs(gradient).max() > 1e-3
    # Central differences err by the square of the step.
    assert gradient == pytest.approx(numeric, abs=1e-7)


def test_the_search_keeps_the_best_start_and_repeats_itself():
    panel = make_panel()
    result = estimate(panel, windows(panel))
    errors = dict(result.start_rmspe)
    assert len(errors) == 3 + 10
    assert result.pre_rmspe == min(errors.values()) == errors[result.best_start]
    assert (
        result.pre_rmspe <= estimate(panel, windows(panel), predictor_weights=np.ones(4)).pre_rmspe
    )
    assert np.array_equal(estimate(panel, windows(panel)).weights, result.weights)
    assert result.balance.weights.sum() == pytest.approx(1)
    # No predictor is left without a say.
    assert result.balance.weights.min() >= synthetic_control.SMALLEST_SHARE * (1 - 1e-9)


def test_balance_is_in_the_units_of_the_predictors():
    panel = make_panel()
    result = estimate(panel, windows(panel), predictor_weights=[3, 1, 0, 0])
    means = predictor_means(panel, windows(panel))
    assert result.balance.weights.tolist() == [0.75, 0.25, 0, 0]
    assert result.balance.treated == pytest.approx(means[:, 0])
    assert result.balance.synthetic == pytest.approx(means[:, 1:] @ result.weights)
    assert result.balance.donor_mean == pytest.approx(means[:, 1:].mean(axis=1))
    assert estimate(panel, windows(panel)[:1]).balance.weights.tolist() == [1.0]
    assert estimate(panel).balance is None


def test_predictor_units_do_not_matter():
    panel = make_panel()
    predictors = windows(panel)
    scaled = [
        Predictor(values=p.values * k, first=p.first, stop=p.stop)
        for p, k in zip(predictors, (1, 100, 1e-3, 7), strict=True)
    ]
    given = {"predictor_weights": [1, 2, 3, 4]}
    base, found = estimate(panel, predictors, **given), estimate(panel, scaled, **given)
    assert found.weights == pytest.approx(base.weights, abs=1e-8)


def test_a_unit_outside_the_hull_is_flagged():
    assert not estimate(make_panel(noise=0.1)).is_poor_fit
    outcomes = make_outcomes(noise=0.1)
    outcomes[:, 0] += 20
    outside = estimate(as_panel(outcomes, 40))
    assert outside.is_poor_fit
    assert outside.pre_rmspe > 0.5 * outside.pre_sd


def test_thin_designs_warn():
    assert estimate(make_panel()).warnings == ()
    assert "9 fitted steps" in estimate(make_panel(n_pre=9, n_donors=5)).warnings[0]
    assert "12 donors for 12 fitted steps" in estimate(make_panel(n_pre=12)).warnings[0]


def test_39_fits_at_given_predictor_weights_take_less_than_a_fifth_of_a_second():
    panel = make_panel(n_pre=19, n_post=12, n_donors=38)
    predictors = windows(panel, [(0, 6), (6, 12), (12, 18), (5, 6), (10, 11), (17, 18), (18, 19)])

    def effect_of(panel):
        return synthetic_control_effect(panel, predictors, predictor_weights=np.ones(7), seed=1)

    effect_of(panel)
    spent = []
    for _ in range(3):
        start = time.process_time()
        placebo_in_space(panel, effect_of)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.2


def test_treated_donors_are_refused():
    outcomes = make_outcomes()
    at = np.full(13, np.inf)
    at[[0, 5]] = 40, 47

    def build(**changes):
        return build_panel(outcomes, **({"treated": [0], "n_pre": 40, "treated_at": at} | changes))

    refused("NOT_IDENTIFIED", build, "column 5 is treated at step 47")
    at[5] = np.nan
    refused("NOT_IDENTIFIED", build, "column 5 is treated at step nan")
    # Treated after the data end, or not a donor: nothing to object to.
    at[5] = 48
    assert len(build().donors) == 12
    at[5] = 3
    clean = build(donors=[1, 2, 3, 4, 6, 7])
    assert clean.donors.tolist() == [1, 2, 3, 4, 6, 7]
    at[0] = 39
    refused("NOT_IDENTIFIED", lambda: build(donors=[1, 2]), "column 0 is treated at step 39")


def test_a_predictor_that_reads_one_step_too_many_is_refused():
    panel = make_panel()
    clean = [Predictor(values=panel.outcomes, first=30, stop=40)]
    assert estimate(panel, clean).n_fit == 40
    leaking = [*clean, Predictor(values=panel.outcomes, first=30, stop=41)]
    refused("NOT_IDENTIFIED", lambda: estimate(panel, leaking), "predictor 1.*ends at step 41")


def test_held_out_steps_are_not_read():
    panel = make_panel()
    held = panel.holding_out(5)
    changed = panel.outcomes.copy()
    changed[35:40] += np.arange(13.0)
    other = as_panel(changed, 40).holding_out(5)
    steps = ((0, 10), (30, 40))
    first = estimate(held, windows(held, steps))
    assert np.array_equal(first.weights, estimate(other, windows(other, steps)).weights)
    assert (first.n_fit, first.n_pre) == (35, 40)
    refused("NOT_IDENTIFIED", lambda: estimate(held, windows(held, [(36, 40)])), "fit ends at 35")


def test_missing_values_are_refused_or_left_out():
    outcomes = make_outcomes()
    outcomes[3, 4] = np.nan
    refused("NON_FINITE_INPUT", lambda: as_panel(outcomes, 40), "column 4 at step 3")
    panel = as_panel(outcomes, 40, donors=[1, 2, 3, 5, 6])
    values = make_outcomes()
    values[:5, 2] = np.nan
    holed = Predictor(values=values, first=0, stop=10)
    means = predictor_means(panel, [holed])
    assert means[0, 2] == pytest.approx(values[5:10, 2].mean())
    refused(
        "NON_FINITE_INPUT",
        lambda: estimate(panel, [Predictor(values=values, first=0, stop=5)]),
        "column 2 has no value",
    )


def test_constant_predictors_and_thin_panels_are_refused():
    panel = make_panel()
    flat = Predictor(values=np.ones_like(panel.outcomes), first=0, stop=5)
    refused("ZERO_VARIANCE", lambda: estimate(panel, [*windows(panel), flat]), "predictor 4")
    refused("N_TOO_SMALL", lambda: make_panel(n_donors=1), "1 donors, need 2")
    refused("N_TOO_SMALL", lambda: make_panel(n_pre=1))
    refused("N_TOO_SMALL", lambda: as_panel(make_outcomes(), 48))
    refused("N_TOO_SMALL", lambda: panel.holding_out(39))


def test_senseless_arguments_raise():
    panel = make_panel()
    for weights in ([1, 2], [-1, 1, 1, 1], [0, 0, 0, 0], [np.nan, 1, 1, 1]):
        with pytest.raises(ValueError, match="need 4 non-negative"):
            estimate(panel, windows(panel), predictor_weights=weights)
    with pytest.raises(ValueError, match="need 0 <= first < stop"):
        estimate(panel, windows(panel, [(5, 5)]))
    with pytest.raises(ValueError, match="as the outcomes"):
        estimate(panel, [Predictor(values=panel.outcomes[:, :5], first=0, stop=5)])
    with pytest.raises(ValueError, match="2 treated units; need 1"):
        estimate(as_panel(make_outcomes(), 40, treated=(0, 1)))
    with pytest.raises(ValueError, match=r"need columns 0\.\.12"):
        as_panel(make_outcomes(), 40, donors=[1, 13])
    with pytest.raises(ValueError, match="share a column"):
        as_panel(make_outcomes(), 40, donors=[1, 1])
    with pytest.raises(ValueError, match="need \\(T, N\\) and \\(N,\\)"):
        build_panel(make_outcomes(), treated=[0], n_pre=40, treated_at=np.full(3, np.inf))


def test_the_callers_array_is_left_alone():
    outcomes = make_outcomes()
    before = outcomes.copy()
    panel = as_panel(outcomes, 40)
    estimate(panel, windows(panel))
    outcomes[0, 0] = -1.0
    assert np.array_equal(panel.outcomes, before)
    with pytest.raises(ValueError, match="read-only"):
        panel.outcomes[0, 0] = 0.0
