"""Contracts of study frames: panels and units of designs without randomisation."""

from __future__ import annotations

from typing import Any

import polars as pl

from experiments_dagster.contracts.validation import (
    Rule,
    is_unique,
    make_contract,
    not_null,
    row_rule,
    validate,
)


def validate_panel(frame: pl.DataFrame, slug: str) -> None:
    """One row per unit and period, finite outcomes, one start per unit, somebody treated.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    covariates = [name for name in frame.columns if name.startswith("x.")]
    types: dict[str, Any] = {
        "unit": pl.String,
        "period": pl.Int64,
        "label": pl.String,
        "outcome": pl.Float64,
        "first_treated": pl.Int64,
        **dict.fromkeys(covariates, pl.Float64),
    }
    several_starts = pl.col("first_treated").n_unique().over("unit") > 1
    nobody = (pl.col("first_treated").null_count() == pl.len()).cast(pl.Int64)
    rules = {
        **{f"{name} not_null": not_null(name) for name in ("unit", "period", "label", "outcome")},
        "unit and period is_unique": is_unique("unit", "period"),
        "outcome is_finite": row_rule(pl.col("outcome").is_finite()),
        "one first_treated per unit": Rule(several_starts.sum(), several_starts.sum()),
        "somebody is treated": Rule(nobody, nobody),
        **{f"{name} is_finite": row_rule(pl.col(name).is_finite()) for name in covariates},
    }
    validate("study_frame", slug, frame, make_contract(types, rules))


def validate_units(frame: pl.DataFrame, slug: str) -> None:
    """One row per unit, every value finite; at a cutoff covariates and placebos may be missing.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    types: dict[str, Any] = {"unit": pl.String}
    if "treated" in frame.columns:
        types["treated"] = pl.Boolean
    numbers = [name for name in frame.columns if name not in types]
    types |= dict.fromkeys(numbers, pl.Float64)
    may_lack = "running" in frame.columns
    needed = [name for name in types if not (may_lack and "." in name)]
    rules = {
        **{f"{name} not_null": not_null(name) for name in needed},
        "unit is_unique": is_unique("unit"),
        **{f"{name} is_finite": row_rule(pl.col(name).is_finite()) for name in numbers},
    }
    validate("study_frame", slug, frame, make_contract(types, rules))
