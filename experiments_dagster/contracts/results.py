"""Contract of the long result table: one row per effect, numbers only where the status is ok."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments_dagster.contracts.validation import validate
from experiments_dagster.stats.errors import REASONS

if TYPE_CHECKING:
    import polars as pl

ANALYSES = ("plan", "segment", "sensitivity")
EFFECT_KEY = (
    "look_id",
    "analysis",
    "metric",
    "arm",
    "segment",
    "level",
    "estimand",
    "is_adjusted",
    "method",
)
ROUNDING = 1e-12


def validate_effect_estimates(frame: pl.DataFrame, subject: str) -> None:
    """Key filled and unique, interval ordered, p in [0, 1], numbers exactly where status is ok.

    A segment and its level stand on segment rows and on no other. A corrected p-value is not
    below the plain one and names its correction.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    import polars as pl
    from pandera.polars import Check, Column

    def has_numbers_iff_ok(data: pl.LazyFrame) -> pl.LazyFrame:
        is_ok = pl.col("status") == "ok"
        return data.select(is_ok == pl.col("estimate").is_not_null())

    def is_ordered(data: pl.LazyFrame) -> pl.LazyFrame:
        return data.select((pl.col("ci_low") <= pl.col("ci_high")).fill_null(value=True))

    def has_known_reason(data: pl.LazyFrame) -> pl.LazyFrame:
        is_ok = pl.col("status") == "ok"
        known = pl.col("reason").is_in(list(REASONS)).fill_null(value=False)
        return data.select(is_ok | known)

    def has_level_iff_segment(data: pl.LazyFrame) -> pl.LazyFrame:
        is_segment = pl.col("analysis") == "segment"
        has_both = pl.col("segment").is_not_null() & pl.col("level").is_not_null()
        has_none = pl.col("segment").is_null() & pl.col("level").is_null()
        return data.select(pl.when(is_segment).then(has_both).otherwise(has_none))

    def is_corrected_upwards(data: pl.LazyFrame) -> pl.LazyFrame:
        # One hypothesis alone is corrected to itself, give or take a rounding.
        grows = pl.col("p_adjusted") >= pl.col("p_value") * (1 - ROUNDING)
        is_named = pl.col("p_adjusted").is_not_null() == pl.col("correction").is_not_null()
        return data.select(grows.fill_null(value=True) & is_named)

    def is_unique(data: pl.LazyFrame) -> pl.LazyFrame:
        return data.select(~pl.struct(EFFECT_KEY).is_duplicated())

    text = ("experiment", "metric", "arm", "control", "estimand", "method", "as_of", "plan_hash")
    columns = {name: Column(pl.String, nullable=False) for name in text}
    columns |= {
        "analysis": Column(pl.String, Check.isin(list(ANALYSES)), nullable=False),
        "p_value": Column(pl.Float64, Check.in_range(0.0, 1.0), nullable=True),
        "p_adjusted": Column(pl.Float64, Check.in_range(0.0, 1.0), nullable=True),
        "std_error": Column(pl.Float64, Check.ge(0.0), nullable=True),
        "status": Column(pl.String, Check.isin(["ok", "not_estimable"]), nullable=False),
    }
    rules = {
        "numbers_iff_ok": has_numbers_iff_ok,
        "interval_ordered": is_ordered,
        "reason_known": has_known_reason,
        "level_iff_segment": has_level_iff_segment,
        "corrected_upwards": is_corrected_upwards,
        "key_unique": is_unique,
    }
    validate("effect_estimates", subject, frame, columns, rules=rules, strict=False)
