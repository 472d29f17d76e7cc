"""Contract of the long result table: one row per effect, numbers only where the status is ok."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments_dagster.contracts.validation import validate
from experiments_dagster.stats.errors import REASONS

if TYPE_CHECKING:
    import polars as pl


def validate_effect_estimates(frame: pl.DataFrame, subject: str) -> None:
    """Key filled, interval ordered, p in [0, 1], and numbers exactly where the status is ok.

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

    text = ("experiment", "metric", "arm", "control", "estimand", "method", "as_of", "plan_hash")
    columns = {name: Column(pl.String, nullable=False) for name in text}
    columns |= {
        "p_value": Column(pl.Float64, Check.in_range(0.0, 1.0), nullable=True),
        "std_error": Column(pl.Float64, Check.ge(0.0), nullable=True),
        "status": Column(pl.String, Check.isin(["ok", "not_estimable"]), nullable=False),
    }
    rules = {
        "numbers_iff_ok": has_numbers_iff_ok,
        "interval_ordered": is_ordered,
        "reason_known": has_known_reason,
    }
    validate("effect_estimates", subject, frame, columns, rules=rules, strict=False)
