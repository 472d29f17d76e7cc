"""Contract of the summary frame. A broken contract names rules and counts, never rows.

The frame has a handful of rows and is made for every look, so that values are checked by rules in
one pass; the schema holds names, types and nullability.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING

from experiments_dagster.contracts.validation import validate
from experiments_dagster.storage.errors import ContractError

if TYPE_CHECKING:
    import polars as pl
    from pandera.polars import Column

    from experiments_dagster.config.resolve import Experiment

# Moments of two arms that are a whole day apart compare a longer run with a shorter one.
MAX_GAP = dt.timedelta(days=1)


def validate_summary_frame(frame: pl.DataFrame, experiment: Experiment) -> None:
    """One row per metric and arm, known names, whole and finite moments, arms at one time.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    validate("summary_frame", experiment.slug, frame, _columns())
    counts = frame.select((~rule).sum().alias(name) for name, rule in _rules(experiment).items())
    broken = {name: n for name, n in counts.row(0, named=True).items() if n}
    if broken:
        raise ContractError(f"summary_frame of {experiment.slug}", broken)


@cache
def _columns() -> dict[str, Column]:
    import polars as pl
    from pandera.polars import Column

    return {
        "metric": Column(pl.String, nullable=False),
        "arm": Column(pl.String, nullable=False),
        "taken_at": Column(pl.Datetime("us", "UTC"), nullable=False),
        "n": Column(pl.Int64, nullable=False),
        "mean": Column(pl.Float64, nullable=True),
        "variance": Column(pl.Float64, nullable=True),
        "denominator_mean": Column(pl.Float64, nullable=True),
        "denominator_variance": Column(pl.Float64, nullable=True),
        "covariance": Column(pl.Float64, nullable=True),
    }


def _rules(experiment: Experiment) -> dict[str, pl.Expr]:
    """One boolean per row and rule, true where the row is fine."""
    import polars as pl
    from polars import selectors as cs

    ratios = [metric.name for metric in experiment.metrics if metric.summary_ratio]
    names = [metric.name for metric in experiment.metrics]
    n = pl.col("n")
    has_spread = pl.col("variance").is_not_null() | (n < 2)  # noqa: PLR2004
    has_denominator = pl.col("denominator_mean").is_not_null() & (
        pl.all_horizontal(pl.col("denominator_variance", "covariance").is_not_null()) | (n < 2)  # noqa: PLR2004
    )
    is_whole = pl.col("mean").is_not_null() & has_spread
    is_whole &= has_denominator | ~pl.col("metric").is_in(ratios)
    behind = pl.col("taken_at").max().over("metric") - pl.col("taken_at")
    return {
        "known_metric": pl.col("metric").is_in(names),
        "known_arm": pl.col("arm").is_in(list(experiment.variants)),
        "one_row_per_metric_and_arm": ~pl.struct("metric", "arm").is_duplicated(),
        "moments_finite": pl.all_horizontal(cs.float().is_finite().fill_null(value=True)),
        "n_not_negative": n >= 0,
        "variance_not_negative": pl.all_horizontal(cs.ends_with("variance").fill_null(0.0) >= 0),
        "moments_complete": is_whole | (n == 0),
        "arms_less_than_a_day_apart": behind < MAX_GAP,
    }
