"""The one pass over events, portable and by hand: the same totals, consumed in full.

python -m benchmarks.definition portable|sql FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
import narwhals as nw

from benchmarks.clock import THREADS, WINDOW_DAYS, Estimates, report
from benchmarks.ours import opened
from benchmarks.project import experiment_of
from experiments_dagster.frames.one_pass import one_pass_totals
from experiments_dagster.frames.row_plan import totals_of

SQL = """
    WITH counted AS (
        SELECT e.user_id, e.event, e.value
        FROM read_parquet($events) e
        JOIN (SELECT user_id, ts AS low, ts + INTERVAL ({days}) DAY AS high
              FROM read_parquet($exposures)) x USING (user_id)
        WHERE CASE e.event WHEN 'cart' THEN true WHEN 'click' THEN true WHEN 'purchase' THEN true
              WHEN 'view' THEN true ELSE false END
          AND e.ts >= x.low AND e.ts < x.high),
    users AS (
        SELECT user_id,
               sum(CASE WHEN event = 'purchase' THEN value END) AS revenue,
               count(CASE WHEN event = 'purchase' THEN 1 END) AS orders,
               count(CASE WHEN event = 'click' THEN 1 END) AS clicks,
               count(CASE WHEN event = 'view' THEN 1 END) AS views,
               count(CASE WHEN event = 'cart' THEN 1 END) AS carts
        FROM counted GROUP BY user_id),
    everybody AS (
        SELECT x.user_id, coalesce(revenue, 0) AS revenue, coalesce(orders, 0) AS orders,
               coalesce(clicks, 0) AS clicks, coalesce(views, 0) AS views,
               coalesce(carts, 0) AS carts
        FROM read_parquet($exposures) x LEFT JOIN users USING (user_id))
    SELECT sum(revenue)::DOUBLE, sum(orders)::DOUBLE, sum(clicks)::DOUBLE, sum(views)::DOUBLE,
           sum(carts)::DOUBLE
    FROM everybody
"""
NAMES = ("revenue", "orders", "clicks", "views", "carts")


def totals(kind: str, folder: Path) -> Estimates:
    """Sums over all users."""
    experiment = experiment_of("unadjusted")
    with duckdb.connect() as connection:
        connection.execute(f"SET threads={THREADS}")
        connection.execute("SET enable_progress_bar=false")
        connection.execute("SET preserve_insertion_order=false")
        if kind == "sql":
            given = {
                "events": sorted(map(str, (folder / "events").glob("*.parquet"))),
                "exposures": str(folder / "exposures.parquet"),
            }
            rows = connection.execute(SQL.format(days=WINDOW_DAYS), given).fetchall()
        else:
            exposures, events = opened(connection, folder)
            wanted = [t for t in totals_of(experiment, "events") if t.start_day >= 0]
            # Revenue is a metric and the numerator of another; each is one column of users.
            once = {(total.measure, total.start_day): total for total in reversed(wanted)}
            parts = [part for metric in experiment.metrics for part in metric.parts]
            users = one_pass_totals(exposures, events, parts, list(once.values()))
            order = ("revenue", "conversion", "clicks", "views", "revenue_per_cart_denominator")
            rows = users.select(*(nw.col(name).sum() for name in order)).to_native().fetchall()
    # No estimates: the sums themselves must agree, to their own size.
    return {
        f"all/{name}": {"difference": n, "std_error": n}
        for name, n in zip(NAMES, rows[0], strict=True)
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["portable", "sql"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    report(lambda: totals(given.kind, given.folder))


if __name__ == "__main__":
    main()
