"""Contract of the long result table: one row per effect, numbers only where the status is ok."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from experiments_dagster.contracts.validation import (
    Contract,
    Rule,
    is_unique,
    make_contract,
    not_null,
    row_rule,
    validate,
)
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
FILLED = (
    "experiment",
    "metric",
    "arm",
    "control",
    "estimand",
    "method",
    "as_of",
    "plan_hash",
    "analysis",
    "status",
)
NUMBERS = ("estimate", "std_error", "ci_low", "ci_high", "p_value", "p_adjusted")
ROUNDING = 1e-12


def validate_effect_estimates(frame: pl.DataFrame, subject: str) -> None:
    """Key filled and unique, interval ordered, p in [0, 1], numbers exactly where status is ok.

    A segment and its level stand on segment rows and on no other. A corrected p-value is not
    below the plain one and names its correction. The rows of many looks may be checked at once:
    the key holds the look.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    validate("effect_estimates", subject, frame, _contract())


@cache
def _contract() -> Contract:
    import polars as pl

    types: dict[str, Any] = dict.fromkeys(FILLED, pl.String)
    types |= dict.fromkeys(("look_id", "segment", "level", "reason", "correction"), pl.String)
    types |= dict.fromkeys(NUMBERS, pl.Float64) | {"is_adjusted": pl.Boolean}
    return make_contract(types, _rules(), strict=False)


def _rules() -> dict[str, Rule]:
    import polars as pl

    is_ok, reason = pl.col("status") == "ok", pl.col("reason")
    segment, level = pl.col("segment"), pl.col("level")
    is_segment = pl.col("analysis") == "segment"
    has_both = segment.is_not_null() & level.is_not_null()
    has_none = segment.is_null() & level.is_null()
    corrected, named = pl.col("p_adjusted"), pl.col("correction").is_not_null()
    # One hypothesis alone is corrected to itself, give or take a rounding.
    grows = corrected >= pl.col("p_value") * (1 - ROUNDING)
    return {f"{name} not_null": not_null(name) for name in FILLED} | {
        "analysis known": row_rule(pl.col("analysis").is_in(ANALYSES)),
        "status known": row_rule(pl.col("status").is_in(("ok", "not_estimable"))),
        "p_value in [0, 1]": row_rule(pl.col("p_value").is_between(0.0, 1.0)),
        "p_adjusted in [0, 1]": row_rule(corrected.is_between(0.0, 1.0)),
        "std_error not_negative": row_rule(pl.col("std_error") >= 0.0),
        "numbers_iff_ok": row_rule(is_ok == pl.col("estimate").is_not_null()),
        "interval_ordered": row_rule(pl.col("ci_low") <= pl.col("ci_high")),
        "reason_known": row_rule(is_ok | reason.is_in(list(REASONS)).fill_null(value=False)),
        "level_iff_segment": row_rule(pl.when(is_segment).then(has_both).otherwise(has_none)),
        "corrected_upwards": row_rule(
            grows.fill_null(value=True) & (corrected.is_not_null() == named)
        ),
        "key_unique": is_unique(*EFFECT_KEY),
    }
