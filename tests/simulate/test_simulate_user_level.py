"""Users with a pre-period: effects are exactly the declared ones, whatever the tails and drift."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.integrate import quad

from experiments_dagster.simulate.kinds import make_spec, simulate
from experiments_dagster.simulate.user_level import (
    TAIL_INDEX,
    UserLevelSpec,
    analytic_means,
    simulate_users,
)

# Of all checks of this file together one in a thousand would fail by chance at 4.5.
Z_LIMIT = 4.5
SCENARIOS = {
    "none": {},
    "activity": {"sessions_lift": 0.07},
    "monetization": {"value_lift": 0.05, "conversion_lift": 0.01},
    "mixed": {"sessions_lift": -0.1, "value_lift": 0.03, "conversion_lift": -0.02},
}


def table_of(scenario):
    (table,) = scenario.tables.values()
    return table


def truth_of(scenario, metric, derivation="analytic", estimand="difference"):
    (effect,) = (
        e for e in scenario.effects
        if (e.metric, e.derivation, e.estimand) == (metric, derivation, estimand)
    )  # fmt: skip
    return effect.value


def z_of_difference(table, metric, truth):
    groups = [
        table.filter(pl.col("group") == arm)[metric].to_numpy().astype(float)
        for arm in ("control", "test")
    ]
    error = math.sqrt(sum(g.var(ddof=1) / len(g) for g in groups))
    return (groups[1].mean() - groups[0].mean() - truth) / error


@pytest.mark.parametrize("heavy_tail", [False, True])
@pytest.mark.parametrize("drift", [0.0, 0.5])
@pytest.mark.parametrize("effect", SCENARIOS)
def test_the_declared_effect_is_what_the_arms_differ_by(effect, heavy_tail, drift):
    spec = UserLevelSpec(
        effect=effect, users=200_000, heavy_tail=heavy_tail, drift=drift, seed=7,
        **SCENARIOS[effect],
    )  # fmt: skip
    scenario = simulate_users(spec)
    for metric in ("sessions", "revenue", "conversions", "converted"):
        truth = truth_of(scenario, metric)
        assert abs(z_of_difference(table_of(scenario), metric, truth)) < Z_LIMIT
        # Drawn for the same users, both outcomes tell the effect with far less noise.
        drawn = truth_of(scenario, metric, "potential_outcomes")
        scale = analytic_means(spec)[metric][0]
        assert drawn == pytest.approx(truth, abs=0.02 * scale)


def test_multiplying_and_rounding_counts_would_lose_the_effect():
    """The broken twin: most users have few sessions, and 7 % more of few rounds to nothing."""
    spec = UserLevelSpec(effect="none", users=200_000, seed=7)
    table = table_of(simulate_users(spec))
    broken = table.with_columns(
        sessions=pl.when(pl.col("group") == "test")
        .then((pl.col("sessions") * 1.07).round())
        .otherwise(pl.col("sessions"))
    )
    assert z_of_difference(broken, "sessions", 0.07 * spec.sessions_mean) < -Z_LIMIT


def test_relative_effects_follow_from_the_lifts():
    lifts = {"sessions_lift": 0.03, "value_lift": 0.05, "conversion_lift": 0.006}
    scenario = simulate_users(UserLevelSpec(effect="mixed", users=2000, **lifts))

    def lift(metric):
        return truth_of(scenario, metric, estimand="relative_difference")

    assert lift("sessions") == pytest.approx(0.03, abs=1e-12)
    assert lift("revenue") == pytest.approx(1.03 * 1.05 - 1, abs=1e-12)
    assert lift("revenue_per_session") == pytest.approx(0.05, abs=1e-12)
    assert lift("conversions_per_session") == pytest.approx(0.006 / 0.06, abs=1e-12)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_the_share_of_converted_users_agrees_with_adaptive_integration(drift):
    spec = UserLevelSpec(effect="mixed", conversion_lift=0.03, drift=drift)
    r, sd = spec.sessions_dispersion, spec.activity_log_sd

    def none_converts(rate, level):
        def density(log_a):
            mean = -(sd**2) / 2
            at = math.exp(-((log_a - mean) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi))
            return at * (1 + rate * level * spec.sessions_mean * math.exp(log_a) / r) ** -r

        return quad(density, -8, 8, epsabs=1e-12, limit=200)[0]

    def converted(rate):
        if not drift:
            return 1 - none_converts(rate, 1.0)
        return 1 - quad(lambda u: none_converts(rate, 1 + drift * (u - 0.5)), 0, 1)[0]

    base, treated = analytic_means(spec)["converted"]
    # Both integrals are exact to far below this.
    assert base == pytest.approx(converted(0.06), abs=1e-8)
    assert treated == pytest.approx(converted(0.09), abs=1e-8)


def test_sessions_are_negative_binomial_given_activity():
    spec = UserLevelSpec(effect="none", users=400_000)
    sessions = table_of(simulate_users(spec))["sessions"].to_numpy()
    m, r = spec.sessions_mean, spec.sessions_dispersion
    variance = m + m**2 * (math.exp(spec.activity_log_sd**2) * (1 + 1 / r) - 1)
    assert sessions.mean() == pytest.approx(m, rel=0.01)
    # The variance of a sample variance is that of a heavy-tailed count: 5 % is 4 of its errors.
    assert sessions.var() == pytest.approx(variance, rel=0.05)


def hill(values, k):
    """The tail index by the k largest values (Hill 1975)."""
    largest = np.sort(values)[-k - 1 :]
    return 1 / np.mean(np.log(largest[1:] / largest[0]))


def test_heavy_tails_have_the_declared_index():
    flat = {"value_log_sd": 1e-6, "high_spender_share": 0.0}
    flat |= dict.fromkeys(("activity_log_sd", "value_user_log_sd", "period_log_sd"), 0.0)
    spec = UserLevelSpec(effect="none", users=200_000, heavy_tail=True, **flat)
    table = table_of(simulate_users(spec)).filter(pl.col("sessions") > 0)
    value = (table["revenue"] / table["sessions"]).to_numpy()
    # With nothing else in it the value is a Pareto: Hill's error is index / sqrt(k).
    assert abs(hill(value, 2000) - TAIL_INDEX) < Z_LIMIT * TAIL_INDEX / math.sqrt(2000)


def test_heavy_tails_leave_the_mean_where_it_is():
    for on in (False, True):
        spec = UserLevelSpec(effect="none", users=400_000, heavy_tail=on)
        revenue = table_of(simulate_users(spec))["revenue"].to_numpy()
        error = revenue.std() / math.sqrt(400_000)
        assert abs(revenue.mean() - spec.sessions_mean * spec.value_mean) < Z_LIMIT * error


def test_drift_raises_the_level_over_arrival_in_both_arms():
    table = table_of(simulate_users(UserLevelSpec(effect="none", users=200_000, drift=0.5)))
    half = table.height // 2
    for arm in ("control", "test"):
        early, late = (
            part.filter(pl.col("group") == arm)["sessions"].mean()
            for part in (table[:half], table[half:])
        )
        # Means of the two halves of a line from 0.75 to 1.25; 3 % is 4 standard errors.
        assert late / early == pytest.approx(1.125 / 0.875, rel=0.03)


def test_the_pre_period_predicts_and_is_the_same_in_both_arms():
    table = table_of(simulate_users(UserLevelSpec(effect="activity", sessions_lift=0.2)))
    for metric in ("sessions", "revenue"):
        assert np.corrcoef(table[metric], table[f"{metric}_pre"])[0, 1] > 0.2
        assert abs(z_of_difference(table, f"{metric}_pre", 0.0)) < Z_LIMIT


def test_rows_come_in_order_of_arrival_within_the_days():
    table = table_of(simulate_users(UserLevelSpec(effect="none", users=1000, days=3)))
    assert table["timestamp"].is_sorted()
    assert table["user_id"].to_list() == list(range(1, 1001))
    assert (table["timestamp"].max() - table["timestamp"].min()).total_seconds() < 3 * 86_400


def test_a_seed_says_everything():
    first, again, other = (
        table_of(simulate_users(UserLevelSpec(users=500, seed=seed))) for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize("kind", ["none", "activity", "monetization", "mixed"])
def test_every_kind_moves_what_its_name_says(kind):
    scenario = simulate(kind, make_spec(kind, {"users": 500}))
    moved = {
        e.metric for e in scenario.effects if e.derivation == "analytic" and abs(e.value) > 1e-12
    }
    assert ("sessions" in moved) == (kind in ("activity", "mixed"))
    assert ("revenue_per_session" in moved) == (kind in ("monetization", "mixed"))
    assert list(scenario.tables) == [f"scenario_{kind}"]


@pytest.mark.parametrize(
    ("kind", "given", "effects", "rule"),
    [
        ("activity", {}, ["revenue_per_session=0.1"], "value_lift is 0.1; scenario activity moves"),
        ("none", {}, ["0.1"], "scenario none moves nothing"),
        ("mixed", {}, ["conversion=0.99"], "must lie between 0 and 1"),
        ("mixed", {}, ["clicks=1"], "has no effect 'clicks'"),
        ("mixed", {}, ["much"], "must be a number"),
        ("mixed", {"users": 0}, [], "users is 0"),
        ("mixed", {"confounding": 1.0}, [], "no parameter 'confounding'"),
        ("mixed", {"effect": "none"}, [], "leave it out"),
        ("unheard", {}, [], "unknown kind 'unheard'"),
    ],
)
def test_what_does_not_fit_is_named(kind, given, effects, rule):
    with pytest.raises(ValueError, match=rule):
        make_spec(kind, given, effects)
