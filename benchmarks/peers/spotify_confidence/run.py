"""spotify-confidence, handed a one-pass query: totals per user by DuckDB, the test by the package.

    python -m benchmarks.peers.spotify_confidence.run DATA_FOLDER plain|sums

The package takes sums and sums of squares per arm. `plain` brings one row per user to pandas and
sums there; in `sums` DuckDB does that as well, so that three rows leave it. The package has no
ratio of totals: it is given the sums of the delta-method linearisation.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
from spotify_confidence import StudentsTTest

from benchmarks.clock import (
    DATA_END,
    EXPERIMENT_START,
    MEANS,
    METRICS,
    THREADS,
    TREATMENTS,
    WINDOW_DAYS,
    Estimates,
    run,
)

USERS = """
    WITH exposed AS (
        SELECT user_id, variant, ts AS exposed_at
        FROM read_parquet($exposures)
        WHERE ts + to_days($days::INTEGER) <= $end::TIMESTAMP
    ), totals AS (
        SELECT
            user_id,
            sum(value) FILTER (event = 'purchase') AS revenue,
            count(*) FILTER (event = 'purchase') AS purchases,
            count(*) FILTER (event = 'click') AS clicks,
            count(*) FILTER (event = 'view') AS views,
            count(*) FILTER (event = 'cart') AS carts
        FROM read_parquet($events) JOIN exposed USING (user_id)
        WHERE event IN ('view', 'click', 'cart', 'purchase') AND ts >= $start::TIMESTAMP
            AND ts >= exposed_at AND ts < exposed_at + to_days($days::INTEGER)
        GROUP BY user_id
    )
    SELECT
        variant,
        coalesce(revenue, 0) AS revenue,
        (coalesce(purchases, 0) > 0)::DOUBLE AS conversion,
        coalesce(clicks, 0)::DOUBLE AS clicks,
        coalesce(views, 0)::DOUBLE AS views,
        coalesce(carts, 0)::DOUBLE AS carts
    FROM exposed LEFT JOIN totals USING (user_id)
"""
SUMS = """
    SELECT
        variant,
        count(*) AS n,
        sum(COLUMNS(* EXCLUDE variant)),
        sum(COLUMNS(* EXCLUDE variant) ** 2) AS 'squares_\\0',
        sum(revenue * carts) AS product
    FROM users
    GROUP BY variant
"""


def analyse(folder: Path, scenario: str) -> Estimates:
    """Differences of both treatments from control by its t-test with unequal variances."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}")
    users = connection.sql(
        USERS,
        params={
            "events": str(folder / "events" / "*.parquet"),
            "exposures": str(folder / "exposures.parquet"),
            "start": EXPERIMENT_START,
            "days": WINDOW_DAYS,
            "end": DATA_END,
        },
    )
    if scenario == "sums":
        return compare(users.query("users", SUMS).df())
    return compare(sums_in_pandas(users.df()))


def sums_in_pandas(users: pd.DataFrame) -> pd.DataFrame:
    """Per arm: n, sums, sums of squares, and the sum of revenue times carts."""
    columns = [*MEANS, "carts"]
    squares = {f"squares_{name}": users[name] ** 2 for name in columns}
    wide = users.assign(n=1, product=users["revenue"] * users["carts"], **squares)
    return wide.groupby("variant").sum().reset_index()


def compare(arms: pd.DataFrame) -> Estimates:
    """Hand the sums of all metrics to the package and read its differences."""
    rows = [
        {
            "variant": arm["variant"],
            "metric": metric,
            "numerator": numerator,
            "squares": squares,
            "n": arm["n"],
        }
        for arm in arms.to_dict("records")
        for metric in METRICS
        for numerator, squares in [sums_of_metric(arm, metric)]
    ]
    test = StudentsTTest(
        pd.DataFrame(rows),
        numerator_column="numerator",
        numerator_sum_squares_column="squares",
        denominator_column="n",
        categorical_group_columns="variant",
        metric_column="metric",
        treatment_column="variant",
    )
    levels = [("control", arm) for arm in TREATMENTS]
    table = test.differences(levels, absolute=True, groupby="metric", verbose=True)
    return {
        f"{row['level_2']}/{row['metric']}": {
            "difference": float(row["difference"]),
            "std_error": float(row["std_err"]),
        }
        for row in table.to_dict("records")
    }


def sums_of_metric(arm: dict[str, float], metric: str) -> tuple[float, float]:
    """Sum and sum of squares over users; of the linearised values for the ratio.

    The linearised value of a user is R + (revenue - R carts) / mean(carts), of mean R.
    """
    if metric != "revenue_per_cart":
        return arm[metric], arm[f"squares_{metric}"]
    n, ratio = arm["n"], arm["revenue"] / arm["carts"]
    residual_squares = (
        arm["squares_revenue"] - 2 * ratio * arm["product"] + ratio**2 * arm["squares_carts"]
    )
    return n * ratio, n * ratio**2 + residual_squares / (arm["carts"] / n) ** 2


if __name__ == "__main__":
    run(analyse, "plain", "sums")
