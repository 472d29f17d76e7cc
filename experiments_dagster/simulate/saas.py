"""An AI product's users over some days in three arms, randomised or not, with known effects.

Attributes x of a user: region, device, company size, power user u, baseline productivity b, churn
risk c, sign-up age. The arms work through h(arm, x), the known effect function:

    h(A) = 0        h(B) = 0.6        h(C) = 0.4 + 0.5 u + 0.5 (1 - c),      times `effect`

C is better than B on average and worse for users who are likely to leave and no power users;
region, device, company size and sign-up age move nothing. A user-day has the expectations

    ai_calls            2 + 0.02 b + 1.5 u + 4 h                    Poisson times a user's factor
    tokens_generated    300 per call                                Poisson, gamma-mixed
    tasks_completed     0.4 per call                                binomial, beta-mixed
    time_on_platform    20 + 8 u + 0.1 (b - 60) + 3 h minutes       gamma
    satisfaction_score  3 + 0.3 u + 0.01 (b - 60) + 0.6 h           1 + 4 beta
    retention_7d        0.25 + 0.002 b + 0.1 u - 0.15 c + 0.08 h    0 or 1
    revenue             4.1 (1 + 0.5 u) (b / 60) (1 + 0.25 h)       0, 10, 20 or 50, scaled

so the effect of an arm on a user is a difference of two lines above. Confounding of strength s lets
users choose: arm k gets the odds share_k exp(s g_k z), z the standardised confounder score
0.3 b + 10 u - 20 c and g = 0, 0.5, 1. Given the score, arms and outcomes are independent: adjusting
for the attributes identifies the effects, comparing the arms does not. With s = 0 the arms are
randomised.

Expectations over the population follow because every line is linear in b and in c given u, and the
attributes are independent: it is enough to put in E[b] and E[c] for both values of u.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator

from experiments_dagster.config.base import Count, Days
from experiments_dagster.simulate.scenario import (
    KnownEffect,
    Scenario,
    ScenarioSpec,
    Vector,
    both_estimands,
)

A, B, C = "A_control", "B_adaptive_v1", "C_adaptive_v2"
ARMS = (A, B, C)
SHARES = (0.34, 0.33, 0.33)
PULL = (0.0, 0.5, 1.0)  # of the confounder score, by arm
REGIONS = {"US": 0.25, "EU": 0.25, "IN": 0.30, "APAC": 0.20}
DEVICES = {"desktop": 0.6, "mobile": 0.4}
SIZES = {"SMB": 0.40, "Mid-Market": 0.35, "Enterprise": 0.25}
POWER_SHARE = 0.15
PRODUCTIVITY = (60.0, 15.0)
PRODUCTIVITY_RANGE = (5.0, 100.0)
SIGNUP_DAYS = (5, 400)
REVENUES = ((0.0, 0.75), (10.0, 0.15), (20.0, 0.08), (50.0, 0.02))
REVENUE_MEAN = sum(value * chance for value, chance in REVENUES)
WEEK = np.array([1.08, 1.10, 1.08, 1.06, 1.02, 0.80, 0.86])  # activity by weekday, Monday first
USER_SD = 0.3
SATISFACTION_CONCENTRATION = 7.0
METRICS = (
    *("ai_calls", "tokens_generated", "tasks_completed", "satisfaction_score"),
    *("time_on_platform", "revenue", "retention_7d"),
)
MODIFIERS = ("power_user", "churn_risk", "baseline_productivity")
NO_MODIFIERS = ("region", "device", "company_size", "signup_age")
# Beyond, the expectations of some users leave their range: calls below 0, satisfaction above 5.
EFFECT_RANGE = (-0.5, 1.5)
CHURN_LEVELS = ("low", "medium", "high")

Attributes = Mapping[str, Any]


class SaasSpec(ScenarioSpec):
    """Parameters.

    Args:
        users: Users in all arms together.
        days: Days after assignment.
        effect: Factor of the effect function by arm; 0 for both is an A/A/A.
        confounding: Strength s of self-selection; 0 for a randomised experiment.
    """

    users: Count = 50_000
    days: Days = 30
    effect: dict[str, float] = Field(default_factory=lambda: {B: 1.0, C: 1.0})
    confounding: float = Field(default=0.0, ge=0, le=3)

    @field_validator("effect")
    @classmethod
    def _arms_and_range(cls, effect: dict[str, float]) -> dict[str, float]:
        for arm, factor in effect.items():
            if arm not in ARMS[1:]:
                msg = f"effect names arm {arm!r}; arms with an effect are {B} and {C}"
                raise ValueError(msg)
            low, high = EFFECT_RANGE
            if not low <= factor <= high:
                msg = f"effect of {arm} is {factor:g}, must lie between {low:g} and {high:g}"
                raise ValueError(msg)
        return {arm: effect.get(arm, 1.0) for arm in ARMS[1:]}


def simulate_saas(spec: SaasSpec) -> Scenario:
    """Draw users, arms and days.

    Returns:
        Tables `users` (a row per user: attributes, cohort, treatment, means per day of the
        outcomes, and the sum of revenue), `daily` (a row per user and day) and
        `potential_outcomes` (per user: the chance of each arm and the expected outcome in each;
        nothing an analyst could know).
    """
    rng = spec.generator(1)
    x = draw_attributes(rng, spec.users)
    chances = propensities(x, spec.confounding)
    arm = (rng.random(spec.users)[:, None] > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
    expected = [expected_outcomes(x, h) for h in effect_functions(x, spec)]
    shown = {name: _pick([means[name] for means in expected], arm) for name in METRICS}
    daily = _draw_days(spec.generator(2), shown, spec)
    users = _users_table(x, arm, daily, spec)
    return Scenario(
        kind="saas",
        parameters=spec,
        tables={
            "users": users,
            "daily": _daily_table(arm, daily, spec),
            "potential_outcomes": _potential_table(chances, expected, spec),
        },
        units={name: int((arm == k).sum()) for k, name in enumerate(ARMS)},
        effects=_effects(x, expected, spec),
        more={
            "metrics": "expectations of a user-day, as in daily and as means in users; revenue_sum "
            "is the column revenue of users, the sum over the days",
            "is_randomised": spec.confounding == 0,
            "effect_modifiers": list(MODIFIERS),
            "no_effect_modifiers": list(NO_MODIFIERS),
            "naive_comparison": _naive(chances, expected),
        },
    )


def draw_attributes(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Independent attributes of n users, and the confounder score made of three of them."""
    mean, sd = PRODUCTIVITY
    x: dict[str, Any] = {
        "region": rng.choice(list(REGIONS), n, p=list(REGIONS.values())),
        "device": rng.choice(list(DEVICES), n, p=list(DEVICES.values())),
        "company_size": rng.choice(list(SIZES), n, p=list(SIZES.values())),
        "baseline_productivity": rng.normal(mean, sd, n).clip(*PRODUCTIVITY_RANGE),
        "churn_risk": rng.random(n),
        "power_user": (rng.random(n) < POWER_SHARE).astype(np.int64),
        "signup_age": rng.integers(*SIGNUP_DAYS, n),
    }
    return x | {"confounder_score": confounder_score(x)}


def confounder_score(x: Attributes) -> Vector:
    """What pulls users towards an arm and helps them in any."""
    score: Vector = (
        0.3 * x["baseline_productivity"] + 10.0 * x["power_user"] - 20.0 * x["churn_risk"]
    )
    return score


def propensities(x: Attributes, strength: float) -> Vector:
    """The chance of each arm, shape (n, 3)."""
    power_sd = math.sqrt(POWER_SHARE * (1 - POWER_SHARE))
    sd = math.hypot(0.3 * PRODUCTIVITY[1], 10 * power_sd, 20 / math.sqrt(12))
    mean = 0.3 * PRODUCTIVITY[0] + 10 * POWER_SHARE - 10
    z = (x["confounder_score"] - mean) / sd
    odds = np.array(SHARES) * np.exp(strength * np.outer(z, PULL))
    result: Vector = odds / odds.sum(axis=1, keepdims=True)
    return result


def effect_functions(x: Attributes, spec: SaasSpec) -> list[Vector]:
    """Return h(arm, x) of each arm for each user."""
    nothing = np.zeros_like(x["churn_risk"], dtype=np.float64)
    of_c = 0.4 + 0.5 * x["power_user"] + 0.5 * (1 - x["churn_risk"])
    return [nothing, spec.effect[B] * (nothing + 0.6), spec.effect[C] * of_c]


def expected_outcomes(x: Attributes, h: Vector) -> dict[str, Vector]:
    """Expected outcome of a user-day, from attributes and the value of the effect function."""
    b, u, c = x["baseline_productivity"], x["power_user"], x["churn_risk"]
    calls = 2 + 0.02 * b + 1.5 * u + 4 * h
    return {
        "ai_calls": calls,
        "tokens_generated": 300 * calls,
        "tasks_completed": 0.4 * calls,
        "time_on_platform": 20 + 8 * u + 0.1 * (b - 60) + 3 * h,
        "satisfaction_score": 3 + 0.3 * u + 0.01 * (b - 60) + 0.6 * h,
        "retention_7d": 0.25 + 0.002 * b + 0.1 * u - 0.15 * c + 0.08 * h,
        "revenue": REVENUE_MEAN * (1 + 0.5 * u) * (b / 60) * (1 + 0.25 * h),
    }


def population_means(spec: SaasSpec) -> list[dict[str, float]]:
    """Expected outcome of a user-day in each arm, over the population."""
    x = {
        "baseline_productivity": np.full(2, _censored_normal_mean(*PRODUCTIVITY)),
        "churn_risk": np.full(2, 0.5),
        "power_user": np.array([0.0, 1.0]),
    }
    weights = np.array([1 - POWER_SHARE, POWER_SHARE])
    return [
        {name: float(values @ weights) for name, values in expected_outcomes(x, h).items()}
        for h in effect_functions(x, spec)
    ]


def _censored_normal_mean(mean: float, sd: float) -> float:
    """E of a normal variable whose values outside `PRODUCTIVITY_RANGE` are moved to its ends."""
    low, high = PRODUCTIVITY_RANGE
    a, b = (low - mean) / sd, (high - mean) / sd

    def below(z: float) -> float:
        return math.erfc(-z / math.sqrt(2)) / 2

    def density(z: float) -> float:
        return math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    inside = mean * (below(b) - below(a)) + sd * (density(a) - density(b))
    return low * below(a) + inside + high * below(-b)


def _pick(by_arm: list[Vector], arm: NDArray[np.int64]) -> Vector:
    """Of values by arm those of each user's own."""
    chosen: Vector = np.stack(by_arm)[arm, np.arange(len(arm))]
    return chosen


def _draw_days(
    rng: np.random.Generator, means: Mapping[str, Vector], spec: SaasSpec
) -> dict[str, NDArray[Any]]:
    """Outcomes of shape (users, days)."""
    shape = (spec.users, spec.days)
    week = WEEK[(spec.start.weekday() + np.arange(spec.days)) % 7]
    week = week / week.mean()  # so that the mean over these days is what the table above says
    factor = rng.gamma(USER_SD**-2, USER_SD**2, spec.users)
    calls = rng.poisson(np.outer(means["ai_calls"] * factor, week))
    per_call = rng.gamma(36.0, 300 / 36.0, shape)
    minutes = means["time_on_platform"][:, None]
    happy = (means["satisfaction_score"][:, None] - 1) / 4
    k = SATISFACTION_CONCENTRATION
    uniform = rng.random(shape)
    steps = np.cumsum([chance for _, chance in REVENUES])[:-1]
    amounts = np.array([value for value, _ in REVENUES])
    paid = amounts[np.searchsorted(steps, uniform.ravel(), side="right")].reshape(shape)
    scale = means["revenue"] / REVENUE_MEAN
    return {
        "ai_calls": calls,
        "tokens_generated": rng.poisson(calls * per_call),
        "tasks_completed": rng.binomial(calls, rng.beta(2.0, 3.0, shape)),
        "satisfaction_score": 1 + 4 * rng.beta(k * happy, k * (1 - happy), shape),
        "retention_7d": (rng.random(shape) < means["retention_7d"][:, None]).astype(np.int64),
        "revenue": paid * scale[:, None],
        "time_on_platform": rng.gamma((minutes / 5) ** 2, 25 / minutes, shape),
    }


def _users_table(
    x: Attributes, arm: NDArray[np.int64], daily: Mapping[str, NDArray[Any]], spec: SaasSpec
) -> pl.DataFrame:
    sums = ("revenue",)
    outcomes = {
        name: daily[name].sum(axis=1) if name in sums else daily[name].mean(axis=1)
        for name in METRICS
    }
    return pl.DataFrame(
        {
            "user_id": np.arange(1, spec.users + 1),
            **x,
            "cohort": np.array(ARMS)[arm],
            "treatment": (arm > 0).astype(np.int64),
            "assigned_at": np.full(spec.users, spec.start_at),
            **outcomes,
        }
    ).with_columns(pl.col("assigned_at").dt.replace_time_zone("UTC"))


def _daily_table(
    arm: NDArray[np.int64], daily: Mapping[str, NDArray[Any]], spec: SaasSpec
) -> pl.DataFrame:
    users, days = np.arange(1, spec.users + 1), np.arange(1, spec.days + 1)
    dates = np.array(
        [spec.start + dt.timedelta(days=int(day) - 1) for day in days], "datetime64[D]"
    )
    return pl.DataFrame(
        {
            "user_id": np.repeat(users, spec.days),
            "day": np.tile(days, spec.users),
            "date": np.tile(dates, spec.users),
            "cohort": np.repeat(np.array(ARMS)[arm], spec.days),
            "treatment": np.repeat((arm > 0).astype(np.int64), spec.days),
            **{name: values.ravel() for name, values in daily.items()},
        }
    )


def _potential_table(
    chances: Vector, expected: list[dict[str, Vector]], spec: SaasSpec
) -> pl.DataFrame:
    columns: dict[str, Any] = {"user_id": np.arange(1, spec.users + 1)}
    columns |= {f"propensity_{arm}": chances[:, k] for k, arm in enumerate(ARMS)}
    for name in METRICS:
        columns |= {f"{name}_{arm}": expected[k][name] for k, arm in enumerate(ARMS)}
    return pl.DataFrame(columns)


def _effects(x: Attributes, expected: list[dict[str, Vector]], spec: SaasSpec) -> list[KnownEffect]:
    """Over the population, over these users, and over the users of each level."""
    population = population_means(spec)
    groups = _levels(x)
    effects: list[KnownEffect] = []
    for name in METRICS:
        for k, arm in enumerate(ARMS[1:], start=1):
            pair = (population[0][name], population[k][name])
            effects += both_estimands(name, arm, A, pair, "analytic")
            base, treated = expected[0][name], expected[k][name]
            pair = (float(base.mean()), float(treated.mean()))
            effects += both_estimands(name, arm, A, pair, "effect_function")
            if name == "revenue":
                pair = (pair[0] * spec.days, pair[1] * spec.days)
                effects += both_estimands("revenue_sum", arm, A, pair, "effect_function")
            for group, members in groups.items():
                pair = (float(base[members].mean()), float(treated[members].mean()))
                effects += both_estimands(name, arm, A, pair, "effect_function", group=group)
    return effects


def _levels(x: Attributes) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """The users of each level of an attribute; churn risk in thirds of its range."""
    third = np.minimum((x["churn_risk"] * 3).astype(np.int64), 2)
    columns = {
        "power_user": x["power_user"].astype(str),
        "churn_risk": np.array(CHURN_LEVELS)[third],
        **{name: x[name] for name in ("region", "device", "company_size")},
    }
    return {
        (name, str(level)): values == level
        for name, values in columns.items()
        for level in np.unique(values)
    }


def _naive(chances: Vector, expected: list[dict[str, Vector]]) -> list[dict[str, Any]]:
    """Where the difference of the arms' means goes instead, for users like these."""
    weights = chances / chances.sum(axis=0)
    rows = []
    for name in METRICS:
        means = [float(weights[:, k] @ expected[k][name]) for k in range(len(ARMS))]
        for k, arm in enumerate(ARMS[1:], start=1):
            true = float((expected[k][name] - expected[0][name]).mean())
            difference = means[k] - means[0]
            rows.append(
                {"metric": name, "arm": arm, "difference": difference, "bias": difference - true}
            )
    return rows
