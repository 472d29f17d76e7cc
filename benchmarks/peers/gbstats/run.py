"""gbstats on queries of the shape that GrowthBook writes, run by DuckDB.

    python -m benchmarks.peers.gbstats.run DATA_FOLDER plain|joint|cuped

`plain` is one query per metric; `joint` and `cuped` are one query for the five metrics of the fact
table, as GrowthBook writes when its query optimisation is on. All of them read the exposures,
make one row per unit, join the fact table's rows to it, total them per unit, and return one row of
sums per arm. The covariate of `cuped` is left out of the ratio, for which this version of gbstats
has none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from gbstats.gbstats import process_experiment_results

from benchmarks.clock import (
    DATA_END,
    EXPERIMENT_START,
    THREADS,
    TREATMENTS,
    WINDOW_DAYS,
    Estimates,
    run,
)

HOURS = f"INTERVAL {24 * WINDOW_DAYS} HOURS"
ARMS = ("control", *TREATMENTS)


@dataclass(frozen=True)
class Metric:
    """A fact metric: its rows, their value, and for a ratio the rows of the denominator."""

    id: str
    event: str
    value: str = "1"
    total: str = "SUM"
    denominator_event: str | None = None

    @property
    def filter(self) -> str:
        """The rows of the fact table that it reads."""
        filters = [f"event = '{self.event}'"]
        if self.denominator_event:
            filters.append(f"event = '{self.denominator_event}'")
        return "(" + " OR ".join(filters) + ")"


METRICS = (
    Metric("revenue", "purchase", value="m.value"),
    Metric("conversion", "purchase", total="MAX"),
    Metric("clicks", "click"),
    Metric("views", "view"),
    Metric("revenue_per_cart", "purchase", value="m.value", denominator_event="cart"),
)


def analyse(folder: Path, scenario: str) -> Estimates:
    """Differences of both treatments from control by gbstats' two-sided t-test."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}")
    files = {
        "events": str(folder / "events" / "*.parquet"),
        "exposures": str(folder / "exposures.parquet"),
    }
    groups = [[metric] for metric in METRICS] if scenario == "plain" else [METRICS]
    queries = []
    for metrics in groups:
        found = connection.execute(query(metrics, before=scenario == "cuped"), files)
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        queries.append({"rows": rows, "metrics": [metric.id for metric in metrics]})
    return tested(queries, before=scenario == "cuped")


def tested(queries: list[dict[str, Any]], *, before: bool) -> Estimates:
    """Hand the rows to gbstats and read its differences."""
    analysis = {
        "var_names": list(ARMS),
        "var_ids": list(ARMS),
        "weights": [1 / 3] * 3,
        "stats_engine": "frequentist",
        "difference_type": "absolute",
    }
    metrics = {metric.id: settings(metric, before=before) for metric in METRICS}
    results = process_experiment_results(
        {"metrics": metrics, "analyses": [analysis], "query_results": queries}
    )
    return {
        f"{arm}/{estimand(result['metric'], before=before)}": {
            "difference": float(variation["uplift"]["mean"]),
            "std_error": float(variation["uplift"]["stddev"]),
        }
        for result in results
        for arm, variation in zip(
            ARMS, result["analyses"][0]["dimensions"][0]["variations"], strict=True
        )
        if arm in TREATMENTS
    }


def estimand(metric: str, *, before: bool) -> str:
    """The name of what is estimated: the ratio of `cuped` is another one than the peers'."""
    return f"{metric}_unadjusted" if before and metric == "revenue_per_cart" else metric


def settings(metric: Metric, *, before: bool) -> dict[str, Any]:
    """What gbstats has to know of a metric."""
    kind = "binomial" if metric.total == "MAX" else "count"
    ratio = metric.denominator_event is not None
    return {
        "id": metric.id,
        "name": metric.id,
        "statistic_type": "ratio" if ratio else "mean_ra" if before else "mean",
        "main_metric_type": kind,
        "denominator_metric_type": "count" if ratio else None,
        "covariate_metric_type": kind if before and not ratio else None,
    }


def query(metrics: Sequence[Metric], *, before: bool) -> str:
    """One query for some metrics of the fact table; a row of sums per arm."""
    start = dt.datetime.fromisoformat(EXPERIMENT_START)
    if before:
        start -= dt.timedelta(days=WINDOW_DAYS)
    last_exposure = dt.datetime.fromisoformat(DATA_END) - dt.timedelta(days=WINDOW_DAYS)
    columns = [column for i, metric in enumerate(metrics) for column in fact_columns(i, metric)]
    joined = [
        column for i, metric in enumerate(metrics) for column in join_columns(i, metric, before)
    ]
    totals = [
        column for i, metric in enumerate(metrics) for column in total_columns(i, metric, before)
    ]
    sums = [column for i, metric in enumerate(metrics) for column in sum_columns(i, metric, before)]
    wanted = " OR ".join(dict.fromkeys(metric.filter for metric in metrics))
    return f"""
    WITH __rawExperiment AS (
        SELECT user_id, ts AS timestamp, experiment AS experiment_id, variant AS variation_id
        FROM read_parquet($exposures)
    ), __experimentExposures AS (
        SELECT e.user_id, CAST(e.variation_id AS VARCHAR) AS variation, e.timestamp
        FROM __rawExperiment e
        WHERE e.experiment_id = 'checkout'
            AND e.timestamp >= TIMESTAMP '{EXPERIMENT_START}'
            AND e.timestamp <= TIMESTAMP '{DATA_END}'
    ), __experimentUnits AS (
        SELECT
            e.user_id,
            CASE WHEN count(DISTINCT e.variation) > 1 THEN '__multiple__'
                ELSE max(e.variation) END AS variation,
            MIN(e.timestamp) AS first_exposure_timestamp
        FROM __experimentExposures e
        GROUP BY e.user_id
    ), __distinctUsers AS (
        SELECT user_id, variation, first_exposure_timestamp AS timestamp
        FROM __experimentUnits
        WHERE first_exposure_timestamp <= TIMESTAMP '{last_exposure}'
    ), __factTable AS (
        SELECT m.user_id, m.timestamp, {", ".join(columns)}
        FROM (
            SELECT user_id, ts AS timestamp, event, value FROM read_parquet($events)
        ) m
        WHERE m.timestamp >= TIMESTAMP '{start}' AND m.timestamp <= TIMESTAMP '{DATA_END}'
            AND ({wanted})
    ), __userMetricJoin AS (
        SELECT d.variation, d.timestamp, d.user_id, {", ".join(joined)}
        FROM __distinctUsers d LEFT JOIN __factTable m ON (m.user_id = d.user_id)
    ), __userMetricAgg AS (
        SELECT umj.variation, umj.user_id, {", ".join(totals)}
        FROM __userMetricJoin umj
        GROUP BY umj.variation, umj.user_id
    )
    SELECT m.variation, 'All' AS dimension, COUNT(*) AS users, {", ".join(sums)}
    FROM __userMetricAgg m
    GROUP BY m.variation
    """


def fact_columns(i: int, metric: Metric) -> list[str]:
    """The value of a row of the fact table for a metric."""
    columns = [f"CASE WHEN event = '{metric.event}' THEN {metric.value} END AS m{i}_value"]
    if metric.denominator_event:
        columns.append(
            f"CASE WHEN event = '{metric.denominator_event}' THEN 1 END AS m{i}_denominator"
        )
    return columns


def join_columns(i: int, metric: Metric, before: bool) -> list[str]:  # noqa: FBT001
    """The value if the row lies in the unit's window, and if it lies in the one before."""
    inside = f"m.timestamp >= d.timestamp AND m.timestamp < d.timestamp + {HOURS}"
    columns = [f"CASE WHEN {inside} THEN m.m{i}_value END AS m{i}_value"]
    if metric.denominator_event:
        return [*columns, f"CASE WHEN {inside} THEN m.m{i}_denominator END AS m{i}_denominator"]
    if before:
        earlier = f"m.timestamp >= d.timestamp - {HOURS} AND m.timestamp < d.timestamp"
        columns.append(f"CASE WHEN {earlier} THEN m.m{i}_value END AS m{i}_covariate")
    return columns


def total_columns(i: int, metric: Metric, before: bool) -> list[str]:  # noqa: FBT001
    """Totals per unit."""
    names = [f"m{i}_value"]
    if metric.denominator_event:
        names.append(f"m{i}_denominator")
    elif before:
        names.append(f"m{i}_covariate")
    return [f"{metric.total}(COALESCE(umj.{name}, 0)) AS {name}" for name in names]


def sum_columns(i: int, metric: Metric, before: bool) -> list[str]:  # noqa: FBT001
    """Sums, sums of squares and of products over the units of an arm."""
    value = f"COALESCE(m.m{i}_value, 0)"
    columns = [
        f"SUM({value}) AS m{i}_main_sum",
        f"SUM(POWER({value}, 2)) AS m{i}_main_sum_squares",
    ]
    other = "denominator" if metric.denominator_event else "covariate" if before else None
    if other:
        second = f"COALESCE(m.m{i}_{other}, 0)"
        columns += [
            f"SUM({second}) AS m{i}_{other}_sum",
            f"SUM(POWER({second}, 2)) AS m{i}_{other}_sum_squares",
            f"SUM({value} * {second}) AS m{i}_main_{other}_sum_product",
        ]
    return columns


if __name__ == "__main__":
    run(analyse, "plain", "joint", "cuped")
