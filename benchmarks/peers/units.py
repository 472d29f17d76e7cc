"""One row per exposed user, in pandas: for the peers that read data frames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.clock import DATA_END, EVENTS, EXPERIMENT_START, WINDOW_DAYS

WINDOW = pd.Timedelta(days=WINDOW_DAYS)


def users_frame(folder: Path, *, filtered: bool) -> pd.DataFrame:
    """variant, revenue, conversion, clicks, views and carts of every user whose window is closed.

    The exposures have one row per user.

    Args:
        folder: Of the data.
        filtered: Whether events of no metric and before the experiment are left out while reading,
            or all rows are read and joined.
    """
    exposures = pd.read_parquet(
        folder / "exposures.parquet", columns=["user_id", "ts", "variant"]
    ).rename(columns={"ts": "exposed_at"})
    exposures = exposures[exposures["exposed_at"] + WINDOW <= pd.Timestamp(DATA_END)]
    needed = [("event", "in", EVENTS), ("ts", ">=", pd.Timestamp(EXPERIMENT_START))]
    events = pd.read_parquet(
        folder / "events",
        columns=["user_id", "ts", "event", "value"],
        filters=needed if filtered else None,
    )
    joined = events.merge(exposures[["user_id", "exposed_at"]], on="user_id")
    inside = (joined["ts"] >= joined["exposed_at"]) & (joined["ts"] < joined["exposed_at"] + WINDOW)
    joined = joined.loc[inside, ["user_id", "event", "value"]]
    counts = joined.groupby(["user_id", "event"]).size().unstack(fill_value=0)
    counts["revenue"] = joined[joined["event"] == "purchase"].groupby("user_id")["value"].sum()
    users = exposures[["user_id", "variant"]].merge(
        counts, how="left", left_on="user_id", right_index=True
    )
    users = users.fillna(dict.fromkeys((*EVENTS, "revenue"), 0))
    users["conversion"] = (users["purchase"] > 0).astype(float)
    return users.rename(columns={"click": "clicks", "view": "views", "cart": "carts"})
