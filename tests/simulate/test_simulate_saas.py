"""The AI product: known effects per user, and confounding that misleads whoever does not adjust."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import integrate, stats

from experiments_dagster.simulate.kinds import make_spec
from experiments_dagster.simulate.saas import (
    ARMS,
    METRICS,
    A,
    B,
    C,
    SaasSpec,
    draw_attributes,
    expected_outcomes,
    population_means,
    simulate_saas,
)

Z_LIMIT = 4.5  # for all checks of this file together about one false alarm in a thousand
ATTRIBUTES = ("baseline_productivity", "power_user", "churn_risk")


@pytest.fixture(scope="module")
def randomised():
    return simulate_saas(SaasSpec(users=40_000, days=10))


@pytest.fixture(scope="module")
def confounded():
    return simulate_saas(SaasSpec(users=40_000, days=10, confounding=1.0, seed=5))


def truth(scenario, metric, arm, *, attribute=None, level=None, derivation="effect_function"):
    (effect,) = (
        e for e in scenario.effects
        if (e.metric, e.arm, e.attribute, e.level, e.derivation, e.estimand)
        == (metric, arm, attribute, level, derivation, "difference")
    )  # fmt: skip
    return effect.value


def outcome(scenario, metric):
    users = scenario.tables["users"]
    days = scenario.parameters.days if metric == "revenue" else 1
    return users[metric].to_numpy() / days


def naive(scenario, metric, arm):
    """Difference of means and its standard error."""
    cohort, y = scenario.tables["users"]["cohort"].to_numpy(), outcome(scenario, metric)
    groups = [y[cohort == name] for name in (A, arm)]
    error = math.sqrt(sum(g.var(ddof=1) / len(g) for g in groups))
    return groups[1].mean() - groups[0].mean(), error


def design(scenario, names):
    """All products of up to as many attributes as there are: saturated for bilinear outcomes."""
    users = scenario.tables["users"]
    columns = [users[name].to_numpy().astype(float) for name in names]
    columns = [(c - c.mean()) / c.std() for c in columns]
    products = [
        np.prod(chosen, axis=0)
        for size in range(1, len(columns) + 1)
        for chosen in itertools.combinations(columns, size)
    ]
    return np.column_stack([np.ones(users.height), *products])


def adjusted(scenario, metric, arm, names=ATTRIBUTES):
    """Regression in each arm, averaged over everybody; error by Huber-White given the design."""
    X, y = design(scenario, names), outcome(scenario, metric)
    cohort = scenario.tables["users"]["cohort"].to_numpy()
    centre = X.mean(axis=0)
    estimate, variance = 0.0, 0.0
    for name, sign in ((arm, 1), (A, -1)):
        rows = cohort == name
        own = X[rows]
        inverse = np.linalg.inv(own.T @ own)
        beta = inverse @ own.T @ y[rows]
        weights = own @ inverse @ centre
        residual = y[rows] - own @ beta
        estimate += sign * float(centre @ beta)
        variance += float((weights**2 * residual**2).sum())
    return estimate, math.sqrt(variance)


def weighted(scenario, metric, arm):
    """Inverse probability weighting by the true propensities, normalised."""
    y, cohort = outcome(scenario, metric), scenario.tables["users"]["cohort"].to_numpy()
    estimate, variance = 0.0, 0.0
    for name, sign in ((arm, 1), (A, -1)):
        rows = cohort == name
        chance = scenario.tables["potential_outcomes"][f"propensity_{name}"].to_numpy()[rows]
        w = 1 / chance / (1 / chance).sum()
        mean = float(w @ y[rows])
        estimate += sign * mean
        variance += float((w**2 * (y[rows] - mean) ** 2).sum())
    return estimate, math.sqrt(variance)


@pytest.mark.parametrize("metric", METRICS)
def test_randomised_arms_differ_by_the_known_effect(randomised, metric):
    for arm in (B, C):
        estimate, error = naive(randomised, metric, arm)
        assert abs(estimate - truth(randomised, metric, arm)) < Z_LIMIT * error


@pytest.mark.parametrize("metric", METRICS)
def test_confounding_misleads_a_naive_comparison_as_much_as_declared(confounded, metric):
    for row in confounded.more["naive_comparison"]:
        if row["metric"] != metric:
            continue
        estimate, error = naive(confounded, metric, row["arm"])
        assert abs(estimate - row["difference"]) < Z_LIMIT * error
        assert abs(estimate - truth(confounded, metric, row["arm"])) > Z_LIMIT * error
        assert row["bias"] > 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", [adjusted, weighted])
def test_adjusting_for_the_attributes_recovers_the_truth(confounded, metric, method):
    for arm in (B, C):
        estimate, error = method(confounded, metric, arm)
        known = truth(confounded, metric, arm)
        assert abs(estimate - known) < Z_LIMIT * error
        assert error < 0.2 * known  # not by being uncertain about everything


def test_adjusting_for_attributes_that_did_not_choose_leaves_the_bias(confounded):
    """The broken twin: sign-up age has nothing to do with arm or outcome."""
    for arm in (B, C):
        estimate, error = adjusted(confounded, "revenue", arm, names=("signup_age",))
        assert abs(estimate - truth(confounded, "revenue", arm)) > Z_LIMIT * error


def test_the_confounder_score_alone_identifies_the_effects_by_weighting_in_strata(confounded):
    """Arms depend on the score alone: within narrow strata of it they are as good as randomised."""
    users = confounded.tables["users"]
    stratum = (users["confounder_score"].rank("ordinal") * 40 // (users.height + 1)).to_numpy()
    cohort, y = users["cohort"].to_numpy(), outcome(confounded, "ai_calls")
    for arm in (B, C):
        estimate, variance = 0.0, 0.0
        for k in np.unique(stratum):
            share = (stratum == k).mean()
            for name, sign in ((arm, 1), (A, -1)):
                group = y[(stratum == k) & (cohort == name)]
                estimate += sign * share * group.mean()
                variance += share**2 * group.var(ddof=1) / len(group)
        # Forty strata leave a little bias: under one standard error.
        assert abs(estimate - truth(confounded, "ai_calls", arm)) < Z_LIMIT * math.sqrt(variance)


def test_population_effects_are_those_of_a_large_draw():
    spec = SaasSpec()
    x = draw_attributes(np.random.default_rng(1), 2_000_000)
    base = expected_outcomes(x, np.zeros(2_000_000))
    for name, known in population_means(spec)[0].items():
        error = base[name].std() / math.sqrt(2_000_000)
        assert abs(base[name].mean() - known) < Z_LIMIT * error


def test_the_mean_of_the_clipped_productivity_agrees_with_integration():
    density = stats.norm(60, 15)
    inside = integrate.quad(lambda b: b * density.pdf(b), 5, 100, epsabs=1e-12)[0]
    mean = 5 * density.cdf(5) + inside + 100 * density.sf(100)
    # Calls are 2 + 0.02 b + 1.5 u, and E[u] is 0.15; integration is exact to 1e-10.
    assert population_means(SaasSpec())[0]["ai_calls"] == pytest.approx(
        2 + 0.02 * mean + 1.5 * 0.15, abs=1e-9
    )


def test_effects_per_attribute_say_what_modifies_and_what_does_not(randomised):
    by_power = [truth(randomised, "ai_calls", C, attribute="power_user", level=k) for k in "01"]
    assert by_power[1] - by_power[0] == pytest.approx(4 * 0.5, abs=0.05)
    regions = [
        truth(randomised, "ai_calls", C, attribute="region", level=k) for k in ("US", "EU", "IN")
    ]
    assert max(regions) - min(regions) < 0.05
    risky = truth(randomised, "ai_calls", C, attribute="churn_risk", level="high")
    assert risky < truth(randomised, "ai_calls", B, attribute="churn_risk", level="high")
    assert truth(randomised, "ai_calls", C) > truth(randomised, "ai_calls", B)


def test_levels_average_to_the_whole(randomised):
    users = randomised.tables["users"]
    shares = dict(users.group_by("power_user").len().iter_rows())
    for metric, arm in itertools.product(METRICS, (B, C)):
        parts = sum(
            n / users.height * truth(randomised, metric, arm, attribute="power_user", level=str(u))
            for u, n in shares.items()
        )
        assert parts == pytest.approx(truth(randomised, metric, arm), rel=1e-9)


def test_every_user_has_a_chance_of_every_arm_and_arms_follow_it(confounded):
    chances = confounded.tables["potential_outcomes"].select(f"propensity_{arm}" for arm in ARMS)
    matrix = chances.to_numpy()
    assert np.allclose(matrix.sum(axis=1), 1)
    assert matrix.min() > 0.02
    for k, arm in enumerate(ARMS):
        spread = math.sqrt((matrix[:, k] * (1 - matrix[:, k])).sum())
        assert abs(confounded.units[arm] - matrix[:, k].sum()) < Z_LIMIT * spread


def test_individual_effects_are_in_the_table_of_potential_outcomes(randomised):
    table = randomised.tables["potential_outcomes"]
    for metric in METRICS:
        own = (table[f"{metric}_{C}"] - table[f"{metric}_{A}"]).mean()
        assert own == pytest.approx(truth(randomised, metric, C), rel=1e-12)


def test_users_are_the_means_of_their_days(randomised):
    daily = randomised.tables["daily"]
    assert daily.height == 400_000
    found = daily.group_by("user_id", maintain_order=True).agg(
        *(pl.col(name).mean() for name in METRICS if name != "revenue"), pl.col("revenue").sum()
    )
    users = randomised.tables["users"]
    for name in METRICS:
        assert np.allclose(found[name], users[name])
    assert daily["satisfaction_score"].is_between(1, 5).all()
    assert set(daily["retention_7d"]) == {0, 1}
    assert daily["date"].min() == users["assigned_at"].min().date()


def test_days_of_a_user_are_alike_so_that_rows_are_no_units(randomised):
    """Row-level errors would be too small: the calls of a user share a factor."""
    daily = randomised.tables["daily"].filter(pl.col("cohort") == A)["ai_calls"].to_numpy()
    table = daily.reshape(-1, 10)
    between = table.mean(axis=1).var(ddof=1)
    assert between > 1.5 * table.var(axis=1, ddof=1).mean() / 10


@pytest.mark.parametrize("days", [1, 3, 30])
def test_the_weekday_pattern_does_not_move_the_effects(days):
    scenario = simulate_saas(SaasSpec(users=20_000, days=days, seed=9))
    estimate, error = naive(scenario, "ai_calls", B)
    assert abs(estimate - 2.4) < Z_LIMIT * error


def test_no_effect_is_no_effect():
    scenario = simulate_saas(make_spec("saas", {"users": 2000, "days": 2}, ["0"]))
    assert {effect.value for effect in scenario.effects} == {0.0}
    assert scenario.more["is_randomised"]


def test_a_seed_says_everything_and_confounding_moves_only_the_arms():
    plain, again, other = (
        simulate_saas(SaasSpec(users=300, days=2, seed=seed)) for seed in (1, 1, 2)
    )
    for name, table in plain.tables.items():
        assert table.equals(again.tables[name])
        assert not table.equals(other.tables[name])
    chosen = simulate_saas(SaasSpec(users=300, days=2, seed=1, confounding=2.0))
    attributes = ["region", "device", "company_size", *ATTRIBUTES]
    assert (
        chosen.tables["users"].select(attributes).equals(plain.tables["users"].select(attributes))
    )


@pytest.mark.parametrize(
    ("given", "effects", "rule"),
    [
        ({}, ["A_control=1"], "has no effect 'A_control'"),
        ({}, ["2"], "must lie between -0.5 and 1.5"),
        ({"confounding": -1.0}, [], "confounding is -1.0"),
        ({"days": 0}, [], "days is 0"),
    ],
)
def test_saas_parameters_that_do_not_fit_are_named(given, effects, rule):
    with pytest.raises(ValueError, match=rule):
        make_spec("saas", given, effects)
