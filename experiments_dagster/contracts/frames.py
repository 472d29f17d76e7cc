"""Contracts of the frames. A broken contract names rules and counts, never rows or ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments_dagster.config.experiment import CapQuantile
from experiments_dagster.contracts.validation import validate

if TYPE_CHECKING:
    import polars as pl
    from pandera.polars import Check, Column

    from experiments_dagster.config.resolve import Experiment


def validate_user_frame(frame: pl.DataFrame, experiment: Experiment) -> None:
    """One row per unit, known arms, finite values, 0/1 for indicators.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    from pandera.polars import Check

    columns = _identity_columns(experiment)
    for metric in experiment.metrics:
        if metric.is_ratio:
            continue
        rules = [_finite()]
        if metric.is_indicator:
            rules.append(Check.isin([0.0, 1.0], name="is_0_or_1"))
        columns |= _value_column(metric.name, rules)
        columns |= _history_columns(metric.name, experiment)
    if isinstance(experiment.plan.cap, CapQuantile):
        columns |= _value_column(f"cap_basis_{experiment.primary.name}", [_finite()])
    validate("user_frame", experiment.slug, frame, columns)


def validate_ratio_frame(frame: pl.DataFrame, experiment: Experiment) -> None:
    """One row per unit, known arms, finite parts, no negative denominator.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    from pandera.polars import Check

    columns = _identity_columns(experiment)
    for metric in experiment.metrics:
        if not metric.is_ratio:
            continue
        for (name, _), is_denominator in zip(metric.columns, (False, True), strict=True):
            rules = [_finite()]
            if is_denominator:
                rules.append(Check.ge(0.0, name="denominator_not_negative"))
            columns |= _value_column(name, rules)
            columns |= _history_columns(name, experiment)
    validate("ratio_frame", experiment.slug, frame, columns)


def _identity_columns(experiment: Experiment) -> dict[str, Column]:
    import polars as pl
    from pandera.polars import Check, Column

    return {
        "unit": Column(pl.String, unique=True, nullable=False),
        "arm": Column(
            pl.String, Check.isin(list(experiment.variants), name="known_arm"), nullable=False
        ),
        "exposed_at": Column(pl.Datetime("us", "UTC"), nullable=False),
        "is_pre_missing": Column(pl.Boolean, nullable=False),
        **{
            f"segment_{name}": Column(pl.String, nullable=True)
            for name in experiment.exposure_properties
        },
    }


def _history_columns(name: str, experiment: Experiment) -> dict[str, Column]:
    """The pre-period of an outcome column, and what predictions are trained on."""
    prefixes = ("pre_", "lag_") if experiment.predicts else ("pre_",)
    columns: dict[str, Column] = {}
    for prefix in prefixes:
        columns |= _value_column(f"{prefix}{name}", [_finite()], nullable=False)
    return columns


def _value_column(name: str, rules: list[Check], *, nullable: bool = True) -> dict[str, Column]:
    import polars as pl
    from pandera.polars import Column

    return {name: Column(pl.Float64, rules, nullable=nullable)}


def _finite() -> Check:
    import polars as pl
    from pandera.polars import Check, PolarsData

    def is_finite(data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key or "*").is_finite())

    return Check(is_finite, name="is_finite")


def validate_daily_series(frame: pl.DataFrame, slug: str) -> None:
    """One row per day without gaps, finite totals.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    import polars as pl
    from pandera.polars import Column

    def has_no_gap(data: pl.LazyFrame) -> pl.LazyFrame:
        step = pl.col("event_day").diff().dt.total_days()
        return data.select((step == 1).fill_null(value=True))

    columns = {"event_day": Column(pl.Date, unique=True, nullable=False)}
    for name in ("treated", "others"):
        columns |= _value_column(name, [_finite()], nullable=False)
    validate("daily_series", slug, frame, columns, rules={"no_gap": has_no_gap})
