"""Users with a pre-period and a post-period: activity, monetization, or both move.

    sessions    S ~ Poisson(m A G),  A lognormal with mean 1 per user, G ~ Gamma(r, mean 1)
                negative binomial given A: variance mA + (mA)^2 / r
    value       V per session and user, lognormal times M (lognormal, mean 1), times h for the few
                high spenders; --heavy-tail: and times a Pareto of tail index 2.2 with mean 1
    revenue     S V J,  J lognormal with mean 1, drawn anew in each period
    conversions C ~ Binomial(S, p);  converted = 1 if C > 0

A and V are the same in both periods, so that the pre-period predicts. The treated outcome is drawn
for every user together with the untreated one: sessions are added as a second Poisson process (or
thinned), so that E[S(1)] = (1 + lift) E[S(0)] exactly; multiplying and rounding counts would lose
small lifts. All factors are independent, so that means are products; the share of converted users
is E[1 - (1 + p m A / r)^(-r)], by Gauss-Hermite quadrature over ln A.

With drift the level of activity rises linearly over arrival, in both arms alike and by 1 on
average: the effects below stay what they are for all users, not for the first ones.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from experiments_dagster.config.base import Count, Days, Flag, Fraction, Positive
from experiments_dagster.simulate.scenario import (
    Derivation,
    KnownEffect,
    Scenario,
    ScenarioSpec,
    Vector,
    both_estimands,
)

CONTROL, TEST = "control", "test"
TAIL_INDEX = 2.2  # finite variance, infinite third moment
QUADRATURE_NODES = 96
MICROSECONDS_PER_DAY = 86_400_000_000

# What a scenario moves when nothing is asked for.
LIFTS: dict[str, dict[str, float]] = {
    "none": {},
    "activity": {"sessions_lift": 0.07},
    "monetization": {"value_lift": 0.05},
    "mixed": {"sessions_lift": 0.03, "value_lift": 0.03},
}
MOVES = {
    "none": (),
    "activity": ("sessions_lift",),
    "monetization": ("value_lift", "conversion_lift"),
    "mixed": ("sessions_lift", "value_lift", "conversion_lift"),
}

Effect = Literal["none", "activity", "monetization", "mixed"]
Counts = NDArray[np.int64]


class UserLevelSpec(ScenarioSpec):
    """Parameters; lifts of sessions and of value per session are relative, of conversion absolute.

    `drift` is how far the level of activity rises over arrival, as a share of its mean.
    """

    effect: Effect = "mixed"
    users: Count = 50_000
    days: Days = 14
    test_share: Fraction = 0.5
    sessions_mean_pre: Positive = 3.0
    sessions_mean: Positive = 3.2
    sessions_dispersion: Positive = 1.5
    high_spender_share: float = Field(default=0.03, ge=0, lt=1)
    high_spender_factor: float = Field(default=6.0, ge=1)
    value_log_mean: float = -0.2
    value_log_sd: Positive = 1.0
    activity_log_sd: float = Field(default=0.6, ge=0, le=2)
    value_user_log_sd: float = Field(default=0.7, ge=0, le=2)
    period_log_sd: float = Field(default=0.15, ge=0, le=2)
    conversion_rate: Fraction = 0.06
    sessions_lift: float = Field(default=0.0, gt=-1, le=10)
    value_lift: float = Field(default=0.0, gt=-1, le=10)
    conversion_lift: float = Field(default=0.0, gt=-1, lt=1)
    heavy_tail: Flag = False
    drift: float = Field(default=0.0, ge=0, lt=2)

    @model_validator(mode="after")
    def _moves_what_it_says(self) -> UserLevelSpec:
        for name in MOVES["mixed"]:
            if getattr(self, name) and name not in MOVES[self.effect]:
                moved = ", ".join(MOVES[self.effect]) or "nothing"
                msg = f"{name} is {getattr(self, name):g}; scenario {self.effect} moves {moved}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rate_is_one(self) -> UserLevelSpec:
        if not 0 < self.conversion_rate + self.conversion_lift < 1:
            rate = self.conversion_rate + self.conversion_lift
            msg = f"conversion_rate + conversion_lift is {rate:g}, must lie between 0 and 1"
            raise ValueError(msg)
        return self

    @property
    def value_mean(self) -> float:
        """Expected revenue per session of an untreated user."""
        base = math.exp(self.value_log_mean + self.value_log_sd**2 / 2)
        return base * (1 + self.high_spender_share * (self.high_spender_factor - 1))


def simulate_users(spec: UserLevelSpec) -> Scenario:
    """Draw all users, both outcomes of each, and show the one of the arm.

    Returns:
        One table `scenario_<effect>`, a row per user in order of arrival: user_id, group,
        timestamp, sessions_pre, revenue_pre, conversions_pre, sessions, revenue, conversions,
        converted.
    """
    rng = spec.generator(1)
    n = spec.users
    arrival = np.sort(rng.random(n))
    is_test = rng.random(n) < spec.test_share
    activity = _mean_one(rng, spec.activity_log_sd, n)
    value = _value_per_session(rng, spec)
    level = 1 + spec.drift * (arrival - 0.5)
    rate = spec.sessions_mean * activity * level * _gamma(rng, spec)
    pre_rate = spec.sessions_mean_pre * activity * _gamma(rng, spec)
    sessions_pre = rng.poisson(pre_rate)
    sessions = _sessions(rng, rate, spec.sessions_lift)
    period = _mean_one(rng, spec.period_log_sd, n)
    revenue = (sessions[0] * value * period, sessions[1] * value * period * (1 + spec.value_lift))
    conversions = _conversions(rng, sessions, spec)
    revenue_pre = sessions_pre * value * _mean_one(rng, spec.period_log_sd, n)
    conversions_pre = rng.binomial(sessions_pre, spec.conversion_rate)
    outcomes: dict[str, tuple[NDArray[np.generic], NDArray[np.generic]]] = {
        "sessions": sessions,
        "revenue": revenue,
        "conversions": conversions,
        "converted": (
            (conversions[0] > 0).astype(np.int64),
            (conversions[1] > 0).astype(np.int64),
        ),
    }
    offset = np.floor(arrival * spec.days * MICROSECONDS_PER_DAY).astype("timedelta64[us]")
    table = pl.DataFrame(
        {
            "user_id": np.arange(1, n + 1),
            "group": np.where(is_test, TEST, CONTROL),
            "timestamp": spec.start_at + offset,
            "sessions_pre": sessions_pre,
            "revenue_pre": revenue_pre,
            "conversions_pre": conversions_pre,
            **{
                name: np.where(is_test, treated, base) for name, (base, treated) in outcomes.items()
            },
        }
    ).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    means = {
        name: (float(base.mean(dtype=float)), float(treated.mean(dtype=float)))
        for name, (base, treated) in outcomes.items()
    }
    n_test = int(is_test.sum())
    return Scenario(
        kind=spec.effect,
        parameters=spec,
        tables={f"scenario_{spec.effect}": table},
        units={CONTROL: n - n_test, TEST: n_test},
        effects=[
            *_effects(analytic_means(spec), "analytic"),
            *_effects(means, "potential_outcomes"),
        ],
        more={"holds_for": "all users; under drift not for the first ones alone"},
    )


def analytic_means(spec: UserLevelSpec) -> dict[str, tuple[float, float]]:
    """Expected outcome per user of control and test."""
    sessions = (spec.sessions_mean, spec.sessions_mean * (1 + spec.sessions_lift))
    values = (spec.value_mean, spec.value_mean * (1 + spec.value_lift))
    rates = (spec.conversion_rate, spec.conversion_rate + spec.conversion_lift)
    return {
        "sessions": sessions,
        "revenue": (sessions[0] * values[0], sessions[1] * values[1]),
        "conversions": (sessions[0] * rates[0], sessions[1] * rates[1]),
        "converted": (
            _converted(spec, sessions[0] * rates[0]),
            _converted(spec, sessions[1] * rates[1]),
        ),
    }


def _converted(spec: UserLevelSpec, mean: float) -> float:
    """Share of users with a conversion at this mean number of conversions.

    Thinned, the count of a user is Poisson(mean A G d) with d the level of drift at arrival.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    sd = spec.activity_log_sd
    activity = np.exp(sd * nodes - sd**2 / 2)
    times, shares = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    level = 1 + spec.drift * times / 2
    r = spec.sessions_dispersion
    none = (1 + mean / r * np.outer(level, activity)) ** -r
    return float(1 - (shares / 2) @ none @ (weights / weights.sum()))


def _effects(means: dict[str, tuple[float, float]], derivation: Derivation) -> list[KnownEffect]:
    """Effects on the outcomes, and on both ratios of totals."""
    ratios = {"revenue_per_session": "revenue", "conversions_per_session": "conversions"}
    sessions = means["sessions"]
    for name, numerator in ratios.items():
        top = means[numerator]
        if min(sessions) > 0:
            means = means | {name: (top[0] / sessions[0], top[1] / sessions[1])}
    return [
        effect
        for name, pair in means.items()
        for effect in both_estimands(name, TEST, CONTROL, pair, derivation)
    ]


def _mean_one(rng: np.random.Generator, sd: float, n: int) -> Vector:
    """Lognormal factors with mean 1."""
    return rng.lognormal(-(sd**2) / 2, sd, n)


def _gamma(rng: np.random.Generator, spec: UserLevelSpec) -> Vector:
    r = spec.sessions_dispersion
    return rng.gamma(r, 1 / r, spec.users)


def _value_per_session(rng: np.random.Generator, spec: UserLevelSpec) -> Vector:
    n = spec.users
    base = rng.lognormal(spec.value_log_mean, spec.value_log_sd, n)
    if spec.heavy_tail:
        base *= (TAIL_INDEX - 1) / TAIL_INDEX * (1 + rng.pareto(TAIL_INDEX, n))
    is_high = rng.random(n) < spec.high_spender_share
    factor = np.where(is_high, spec.high_spender_factor, 1.0)
    return base * factor * _mean_one(rng, spec.value_user_log_sd, n)


def _sessions(rng: np.random.Generator, rate: Vector, lift: float) -> tuple[Counts, Counts]:
    """Untreated and treated sessions of the same users."""
    base = rng.poisson(rate)
    if lift < 0:
        return base, rng.binomial(base, 1 + lift)
    return base, base + rng.poisson(lift * rate)


def _conversions(
    rng: np.random.Generator, sessions: tuple[Counts, Counts], spec: UserLevelSpec
) -> tuple[Counts, Counts]:
    """Untreated and treated conversions: the sessions that both have convert alike where they can.

    A session with uniform u converts where u < p. At a higher rate those that did not convert do so
    with probability (q - p) / (1 - p); at a lower one those that did stay with probability q / p.
    """
    p, q = spec.conversion_rate, spec.conversion_rate + spec.conversion_lift
    shared = np.minimum(*sessions)
    base = rng.binomial(shared, p)
    if q >= p:
        treated = base + rng.binomial(shared - base, (q - p) / (1 - p))
    else:
        treated = rng.binomial(base, q / p)
    only_base, only_treated = sessions[0] - shared, sessions[1] - shared
    return base + rng.binomial(only_base, p), treated + rng.binomial(only_treated, q)
