"""A shop with any number of arms and exactly known effects on the order rate.

Each user orders as a Poisson process whose rate is gamma distributed over users (so that past
orders predict future ones). An arm with effect e adds, from first exposure on, an independent
process of e times the user's own rate: the expected number of orders is exactly (1 + e) times
that of the same users untreated. Order values are lognormal and untouched by the arms.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.stats.design.allocation import assign

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Shop:
    """Users, their exposures and orders.

    Args:
        experiment: Arms, salt and the days on which users are exposed.
        effects: Relative effect on the order rate, by arm; arms not named have none.
        n_users: Users, exposed evenly over the experiment's window.
        orders_per_day: Mean order rate of an untreated user.
        history_days: Days of orders before each user's exposure.
        follow_up_days: Days of orders after it.
        seed: Seed of everything random except the arms, which are the salted hash.
    """

    experiment: Experiment
    effects: Mapping[str, float]
    n_users: int
    orders_per_day: float
    history_days: int
    follow_up_days: int
    seed: int

    @cached_property
    def users(self) -> pl.DataFrame:
        """user_id, exposed_at, variant, rate."""
        rng = np.random.default_rng([self.seed, 1])
        units = [f"s{index:06d}" for index in range(self.n_users)]
        span = (self.experiment.ends_at - self.experiment.starts_at).total_seconds()
        seconds = rng.uniform(0, span, self.n_users).astype("int64")
        start = np.datetime64(self.experiment.starts_at.replace(tzinfo=None), "us")
        arms = [
            assign(
                unit,
                experiment=self.experiment.slug,
                salt=self.experiment.salt,
                shares=self.experiment.variants,
            ).variant
            for unit in units
        ]
        return pl.DataFrame(
            {
                "user_id": units,
                "exposed_at": start + seconds.astype("timedelta64[s]"),
                "variant": arms,
                "rate": self.orders_per_day * rng.gamma(2.0, 0.5, self.n_users),
            }
        ).with_columns(pl.col("exposed_at").dt.replace_time_zone("UTC"))

    @cached_property
    def exposures(self) -> pl.DataFrame:
        """unit, exposed_at, experiment, variant, day (local)."""
        return self.users.select(
            pl.col("user_id").alias("unit"),
            "exposed_at",
            pl.lit(self.experiment.slug).alias("experiment"),
            "variant",
            self._local_day("exposed_at"),
        ).sort("exposed_at")

    @cached_property
    def events(self) -> pl.DataFrame:
        """user_id, occurred_at, event, event_id, amount, day (local)."""
        rng = np.random.default_rng([self.seed, 2])
        effect = np.array([self.effects.get(arm, 0.0) for arm in self.users["variant"]])
        base = self._orders(rng, np.ones(self.n_users), -self.history_days)
        extra = self._orders(rng, effect, 0)
        orders = pl.concat([base, extra]).sort("occurred_at", "user_id")
        return orders.with_columns(
            event=pl.lit("order"),
            event_id=pl.format("{}-{}", "user_id", pl.int_range(pl.len())),
            amount=pl.Series(np.round(rng.lognormal(3.2, 0.6, orders.height), 2)),
            day=self._local_day("occurred_at"),
        )

    def _orders(self, rng: np.random.Generator, factor: np.ndarray, first_day: int) -> pl.DataFrame:
        days = self.follow_up_days - first_day
        counts = rng.poisson(self.users["rate"].to_numpy() * factor * days)
        users = self.users[np.repeat(np.arange(self.n_users), counts)]
        offset = rng.uniform(first_day, self.follow_up_days, users.height) * SECONDS_PER_DAY
        seconds = pl.Series(np.floor(offset).astype("int64") * 1_000_000).cast(pl.Duration("us"))
        return users.select("user_id", (pl.col("exposed_at") + seconds).alias("occurred_at"))

    def _local_day(self, column: str) -> pl.Expr:
        local = pl.col(column).dt.convert_time_zone(self.experiment.timezone)
        return local.dt.date().alias("day")


def day_of(table: pl.DataFrame, day: dt.date) -> pl.DataFrame:
    """The rows of one local day, without the day itself."""
    return table.filter(pl.col("day") == day).drop("day")
