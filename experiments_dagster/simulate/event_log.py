"""The event log of a model in an A/B test: assignment, then inference, then response.

    variant_assignment   one per user
    model_inference      one per impression: model_version, prediction_score, latency_ms
    user_response        one per inference: clicked (0 or 1)

Times are ordered: a response comes its latency and a reaction time after its inference, and no
inference comes before the assignment. A user clicks with a probability P ~ Beta of mean p;
treated with P + (1 - P)(q - p)/(1 - p), or P q/p where q < p, whose mean is exactly q. One uniform
per impression decides both outcomes. Latencies are lognormal with exact means.

A batch holds the users assigned in its days. Each has a stream of its own, so that a batch neither
copies another nor changes when more are asked for. A late response is delivered with the next
batch; a duplicate is delivered again in the same one, with the same event id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from experiments_dagster.config.base import Count, Days, Fraction, Name, Positive, Spec, Text
from experiments_dagster.simulate.scenario import (
    KnownEffect,
    Scenario,
    ScenarioSpec,
    Vector,
    both_estimands,
)

ASSIGNMENT, INFERENCE, RESPONSE = "variant_assignment", "model_inference", "user_response"
COLUMNS: dict[str, Any] = {
    "event_id": pl.String,
    "event_type": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "user_id": pl.String,
    "experiment_id": pl.String,
    "variant": pl.String,
    "model_version": pl.String,
    "prediction_score": pl.Float64,
    "latency_ms": pl.Float64,
    "clicked": pl.Int64,
}
MICROSECONDS_PER_DAY = 86_400_000_000
MICROSECONDS = 1_000_000
LONGEST_WAIT_SECONDS = 300.0
SHARE_TOLERANCE = 1e-9

Times = NDArray[np.int64]


class VariantSpec(Spec):
    """One arm: `latency_ms` is the mean latency of an inference."""

    share: Fraction
    model_version: Text
    click_rate: Fraction
    latency_ms: Positive


VARIANTS = {
    "control": VariantSpec(share=0.5, model_version="ranker-1", click_rate=0.08, latency_ms=120.0),
    "treatment": VariantSpec(
        share=0.5, model_version="ranker-2", click_rate=0.09, latency_ms=126.0
    ),
}


class EventLogSpec(ScenarioSpec):
    """Parameters; the first variant is the control.

    Args:
        users: Users of each batch.
        days: Days of each batch.
        impressions_per_user: Mean; one, and a Poisson number more.
        click_concentration: a + b of the users' Beta distribution; larger is more alike.
        latency_log_sd: Spread of the latencies.
        score_noise: Standard deviation of the noise of the score, in log-odds.
        late_share: Share of responses delivered one batch later than they happened.
        duplicate_share: Share of events delivered twice.
    """

    experiment_id: Name = "recsys_ranker"
    users: Count = 20_000
    batches: Count = 1
    days: Days = 7
    variants: dict[Name, VariantSpec] = Field(default_factory=lambda: dict(VARIANTS))
    impressions_per_user: float = Field(default=1.0, ge=1, le=1000)
    click_concentration: Positive = 20.0
    latency_log_sd: float = Field(default=0.4, ge=0, le=3)
    score_noise: float = Field(default=0.5, ge=0, le=10)
    late_share: float = Field(default=0.0, ge=0, lt=1)
    duplicate_share: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> EventLogSpec:
        if len(self.variants) < 2:  # noqa: PLR2004
            msg = f"variants has {len(self.variants)}, need a control and at least one more"
            raise ValueError(msg)
        total = sum(variant.share for variant in self.variants.values())
        if abs(total - 1) > SHARE_TOLERANCE:
            msg = f"shares of variants sum to {total:g}, must sum to 1"
            raise ValueError(msg)
        return self

    @property
    def control(self) -> str:
        """The first variant."""
        return next(iter(self.variants))


class _Batch:
    """Users of one batch, their impressions, and both outcomes of each."""

    def __init__(self, spec: EventLogSpec, number: int) -> None:
        rng = spec.generator(number)
        self.spec, self.number = spec, number
        arms = list(spec.variants.values())
        n = spec.users
        self.arm = rng.choice(len(arms), size=n, p=[arm.share for arm in arms])
        first = (number - 1) * spec.days * MICROSECONDS_PER_DAY
        span = spec.days * MICROSECONDS_PER_DAY
        moments = rng.random(n) * span
        self.assigned_at: Times = first + np.sort(moments).astype(np.int64)
        extra = rng.poisson(spec.impressions_per_user - 1, n)
        self.owner = np.repeat(np.arange(n), 1 + extra)
        self.position = _position_in_group(self.owner)
        gaps = _microseconds(rng.lognormal(1.0, 0.8, len(self.owner)))
        # The k-th inference comes after k gaps, each at least a millisecond.
        waited = _running_sum_by_group(gaps + 1_000, self.owner)
        self.inferred_at = self.assigned_at[self.owner] + waited
        control = spec.variants[spec.control].click_rate
        a, b = control * spec.click_concentration, (1 - control) * spec.click_concentration
        base = rng.beta(a, b, n)
        chances = np.stack([_moved(base, control, arm.click_rate) for arm in arms])
        uniform = rng.random(len(self.owner))
        self.outcomes = (uniform < chances[:, self.owner]).astype(np.int64)
        shown = chances[self.arm, np.arange(n)]
        sd, standard = spec.latency_log_sd, rng.normal(size=len(self.owner))
        means = np.array([arm.latency_ms for arm in arms])
        self.latencies = means[:, None] * np.exp(sd * standard - sd**2 / 2)
        self.score = _score(shown[self.owner], rng.normal(size=len(self.owner)), spec.score_noise)
        reaction = _microseconds(rng.lognormal(1.5, 0.7, len(self.owner)))
        latency = np.ceil(self.seen(self.latencies) * 1_000).astype(np.int64)
        self.responded_at = self.inferred_at + latency + reaction + 1_000
        self.is_late = rng.random(len(self.owner)) < spec.late_share
        self.rng = rng

    def seen(self, by_arm: NDArray[Any]) -> NDArray[Any]:
        """Of outcomes by (arm, impression) those of the arm that the user is in."""
        chosen: NDArray[Any] = by_arm[self.arm[self.owner], np.arange(len(self.owner))]
        return chosen

    @property
    def users(self) -> pl.Series:
        """Ids, unique over all batches."""
        first = (self.number - 1) * self.spec.users + 1
        return pl.Series([f"u{k:08d}" for k in range(first, first + self.spec.users)])

    def events(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The events in order of time, and those of them that are delivered late."""
        ids, spec = self.users, self.spec
        owners = ids.gather(self.owner)
        place = pl.Series(self.position).cast(pl.String)
        shown = np.array(list(spec.variants))[self.arm]
        versions = np.array([arm.model_version for arm in spec.variants.values()])[self.arm]
        assignment = {
            "event_id": ids + "-assignment",
            "event_type": ASSIGNMENT,
            "timestamp": self.assigned_at,
            "user_id": ids,
            "variant": shown,
        }
        inference = {
            "event_id": owners + "-inference-" + place,
            "event_type": INFERENCE,
            "timestamp": self.inferred_at,
            "user_id": owners,
            "variant": shown[self.owner],
            "model_version": versions[self.owner],
            "prediction_score": self.score,
            "latency_ms": self.seen(self.latencies),
        }
        response = {
            "event_id": owners + "-response-" + place,
            "event_type": RESPONSE,
            "timestamp": self.responded_at,
            "user_id": owners,
            "variant": shown[self.owner],
            "clicked": self.seen(self.outcomes),
        }
        tables = [self._table(columns) for columns in (assignment, inference, response)]
        on_time = pl.concat([*tables[:2], tables[2].filter(pl.Series(~self.is_late))])
        is_twice = self.rng.random(on_time.height) < spec.duplicate_share
        delivered = pl.concat([on_time, on_time.filter(pl.Series(is_twice))])
        order = ["timestamp", "event_id"]
        return delivered.sort(order), tables[2].filter(pl.Series(self.is_late)).sort(order)

    def _table(self, columns: Mapping[str, Any]) -> pl.DataFrame:
        start = int(self.spec.start_at.astype(np.int64))
        shifted = dict(columns) | {"timestamp": columns["timestamp"] + start}
        frame = pl.DataFrame({"_height": np.zeros(len(columns["user_id"]), dtype=np.int8)})
        values = [
            (
                pl.lit(shifted[name])
                if isinstance(shifted.get(name), str)
                else pl.Series(name, shifted[name])
                if name in shifted
                else pl.lit(self.spec.experiment_id if name == "experiment_id" else None)
            )
            .cast(dtype)
            .alias(name)
            for name, dtype in COLUMNS.items()
        ]
        return frame.select(values)


def simulate_events(spec: EventLogSpec) -> Scenario:
    """Draw every batch.

    Returns:
        Tables `events_001` and so on, one per batch, with the columns of `COLUMNS` in order of
        time. `clicked` is known of responses only, score and latency of inferences only.
    """
    batches = [_Batch(spec, number) for number in range(1, spec.batches + 1)]
    tables: dict[str, pl.DataFrame] = {}
    late = pl.DataFrame(schema=COLUMNS)
    for batch in batches:
        own, next_late = batch.events()
        is_last = batch is batches[-1]
        parts = [own, late, next_late] if is_last else [own, late]
        tables[f"events_{batch.number:03d}"] = pl.concat(parts).sort("timestamp", "event_id")
        late = next_late
    arms = np.concatenate([batch.arm for batch in batches])
    units = {arm: int((arms == k).sum()) for k, arm in enumerate(spec.variants)}
    return Scenario(
        kind="ab-ml",
        parameters=spec,
        tables=tables,
        units=units,
        effects=_effects(spec, batches),
        more={
            "unit": "clicked and latency_ms are per impression; the unit randomised is the user",
            "batch_seeds": [[spec.seed, batch.number] for batch in batches],
            "impressions": sum(len(batch.owner) for batch in batches),
        },
    )


def one_file(scenario: Scenario) -> Scenario:
    """All batches as one table, delivery after delivery."""
    table = pl.concat(list(scenario.tables.values()))
    return Scenario(
        kind=scenario.kind,
        parameters=scenario.parameters,
        tables={"events": table},
        units=scenario.units,
        effects=scenario.effects,
        more=scenario.more,
    )


def _effects(spec: EventLogSpec, batches: list[_Batch]) -> list[KnownEffect]:
    arms = list(spec.variants)
    clicks = np.concatenate([batch.outcomes for batch in batches], axis=1).mean(axis=1)
    latencies = np.concatenate([batch.latencies for batch in batches], axis=1).mean(axis=1)
    base = spec.variants[spec.control]
    effects: list[KnownEffect] = []
    for k, (arm, variant) in enumerate(spec.variants.items()):
        if arm == spec.control:
            continue
        pairs = {
            "clicked": (base.click_rate, variant.click_rate),
            "latency_ms": (base.latency_ms, variant.latency_ms),
        }
        drawn = {"clicked": clicks, "latency_ms": latencies}
        for metric, means in pairs.items():
            effects += both_estimands(metric, arm, arms[0], means, "analytic")
        for metric, means_by_arm in drawn.items():
            seen = (float(means_by_arm[0]), float(means_by_arm[k]))
            effects += both_estimands(metric, arm, arms[0], seen, "potential_outcomes")
    return effects


def _moved(chance: Vector, base: float, rate: float) -> Vector:
    """Chances of mean `base` moved to mean `rate`, each in the same direction."""
    if rate >= base:
        return chance + (1 - chance) * (rate - base) / (1 - base)
    lowered: Vector = chance * rate / base
    return lowered


def _score(chance: Vector, noise: Vector, spread: float) -> Vector:
    """The chance as a model sees it: log-odds with noise, back on the scale of a probability."""
    inside = np.clip(chance, 1e-9, 1 - 1e-9)
    log_odds = np.log(inside / (1 - inside)) + spread * noise
    result: Vector = 1 / (1 + np.exp(-log_odds))
    return result


def _microseconds(seconds: Vector) -> Times:
    shortened = np.minimum(seconds, LONGEST_WAIT_SECONDS) * MICROSECONDS
    whole: Times = np.floor(shortened).astype(np.int64)
    return whole


def _position_in_group(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """1, 2, ... within each run of equal owners."""
    return _running_sum_by_group(np.ones(len(owner), dtype=np.int64), owner)


def _running_sum_by_group(values: Times, owner: NDArray[np.int64]) -> Times:
    """Running sums that start anew with each owner; owners are sorted."""
    total = np.cumsum(values)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    before = np.r_[0, total[starts[1:] - 1]]
    lengths = np.diff(np.r_[starts, len(owner)])
    result: Times = total - np.repeat(before, lengths)
    return result
