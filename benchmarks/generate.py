"""Event data with seeds: the same rows on every machine.

    S  100,000 users, 2 million events      M  1 million, 20 million      L  5 million, 100 million

42 days: 14 before the experiment, 28 in it. One Parquet file per day, sorted by user, and one of
exposures. Columns of an event: user_id (text), ts (naive UTC), event, event_id, value (money of a
purchase, else null), page, session_id, device: the last three and a third of the rows serve no
metric, as in a real log. Users differ in activity (log-normal) and take part in one of three arms
at a moment of the first experiment day; 2 % come later.

    python -m benchmarks.generate M .bench/data/M
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

SEED = 20260105
DAYS, PRE_DAYS = 42, 14
FIRST_DAY = dt.datetime(2026, 1, 5)  # naive UTC, as the events are
START = FIRST_DAY + dt.timedelta(days=PRE_DAYS)
ARMS = ("control", "bold", "plain")
EVENTS = ("view", "click", "cart", "purchase", "heartbeat", "scroll")
EVENT_SHARES = (0.40, 0.14, 0.07, 0.05, 0.14, 0.20)
PURCHASE = EVENTS.index("purchase")
ACTIVITY_SD = 0.8
LIFT = {"bold": 0.05}


@dataclass(frozen=True, slots=True)
class Size:
    """How many users and events."""

    users: int
    events: int


SIZES = {
    "XS": Size(2_000, 40_000),
    "S": Size(100_000, 2_000_000),
    "M": Size(1_000_000, 20_000_000),
    "L": Size(5_000_000, 100_000_000),
}


def generate(size: Size, folder: Path) -> None:
    """Write events/day-00.parquet ... day-41.parquet and exposures.parquet into a folder."""
    done = folder / "done.json"
    if done.exists():
        return
    (folder / "events").mkdir(parents=True, exist_ok=True)
    users = user_table(size)
    exposures(users).write_parquet(folder / "exposures.parquet", compression="zstd")
    share = np.cumsum(users["activity"].to_numpy())
    for day in range(DAYS):
        frame = events_of_day(size, users, share / share[-1], day)
        frame.write_parquet(folder / "events" / f"day-{day:02d}.parquet", compression="zstd")
    done.write_text(json.dumps({"users": size.users, "events": size.events, "seed": SEED}))


def user_table(size: Size) -> pl.DataFrame:
    """user_id, activity (any unit), arm (its index)."""
    rng = np.random.default_rng([SEED, 0])
    activity = rng.lognormal(0.0, ACTIVITY_SD, size.users)
    arm = rng.integers(0, len(ARMS), size.users)
    numbers = pl.Series(np.arange(size.users))
    ids = pl.select(pl.format("u{}", numbers.cast(pl.String).str.zfill(8))).to_series()
    return pl.DataFrame({"user_id": ids, "activity": activity, "arm": arm.astype(np.int8)})


def exposures(users: pl.DataFrame) -> pl.DataFrame:
    """user_id, ts, experiment, variant, device: one row per user."""
    rng = np.random.default_rng([SEED, 1])
    n = users.height
    late = np.where(rng.random(n) < 0.02, rng.integers(1, 21, n), 0)
    micros = late * 86_400_000_000 + rng.integers(0, 86_400_000_000, n)
    arms = np.array(ARMS)[users["arm"].to_numpy()]
    devices = np.array(["phone", "desktop", "tablet"])[rng.integers(0, 3, n)]
    return pl.DataFrame(
        {
            "user_id": users["user_id"],
            "ts": pl.Series(micros).cast(pl.Duration("us")) + START,
            "experiment": pl.Series(["checkout"]).new_from_index(0, n),
            "variant": arms,
            "device": devices,
        }
    )


def events_of_day(
    size: Size, users: pl.DataFrame, cumulative: np.ndarray, day: int
) -> pl.DataFrame:
    """The events of one day, sorted by user and time."""
    rng = np.random.default_rng([SEED, 2, day])
    n = size.events // DAYS + (day < size.events % DAYS)
    who = np.searchsorted(cumulative, rng.random(n))
    micros = rng.integers(0, 86_400_000_000, n)
    order = np.lexsort((micros, who))
    who, micros = who[order], micros[order]
    kind = rng.choice(len(EVENTS), n, p=EVENT_SHARES).astype(np.int8)
    arm = users["arm"].to_numpy()[who]
    lift = np.array([1 + LIFT.get(name, 0.0) for name in ARMS])[arm] if day >= PRE_DAYS else 1.0
    spend = np.round(rng.lognormal(3.0, 0.7, n) * lift, 2)
    value = pl.Series(spend).set(pl.Series(kind != PURCHASE), None)
    at = pl.Series(micros).cast(pl.Duration("us")) + (FIRST_DAY + dt.timedelta(days=day))
    number = pl.Series(np.arange(n)).cast(pl.String)
    return pl.DataFrame(
        {
            "user_id": users["user_id"].gather(who),
            "ts": at,
            "event": pl.Series(EVENTS).gather(kind),
            "event_id": pl.select(pl.format("e{}-{}", pl.lit(day), number)).to_series(),
            "value": value,
            "page": pl.Series([f"/p/{k}" for k in range(50)]).gather(rng.integers(0, 50, n)),
            "session_id": rng.integers(0, 1 << 40, n),
            "device": pl.Series(["phone", "desktop", "tablet"]).gather(rng.integers(0, 3, n)),
        }
    )


def main() -> None:
    """Write one size into a folder, if it is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    generate(SIZES[arguments.size], arguments.folder)


if __name__ == "__main__":
    main()
