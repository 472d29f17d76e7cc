"""Run a pandera schema on a collected frame and count what breaks, without showing any row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from experiments_dagster.storage.errors import ContractError

if TYPE_CHECKING:
    import polars as pl
    from pandera.polars import Column

FrameRule = Callable[["pl.LazyFrame"], "pl.LazyFrame"]


def validate(
    table: str,
    subject: str,
    frame: pl.DataFrame,
    columns: dict[str, Column],
    *,
    rules: Mapping[str, FrameRule] | None = None,
    strict: bool = True,
) -> None:
    """Check a frame against columns and rules over several columns.

    Args:
        table: Name of the table, for the message.
        subject: Which experiment or intervention, for the message.
        frame: Collected rows: pandera checks only the schema of a LazyFrame.
        columns: One pandera column per expected column.
        rules: Name to a function that gives one boolean column, true where a row is fine.
        strict: Refuse columns that are not listed.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    from pandera.errors import SchemaErrors
    from pandera.polars import DataFrameSchema

    counts: dict[str, int] = {}
    try:
        DataFrameSchema(columns, strict=strict).validate(frame, lazy=True)
    except SchemaErrors as error:
        for case in error.schema_errors:
            place = getattr(case.schema, "name", None) or table
            rule = getattr(case.check, "name", None) or str(case.reason_code.name).lower()
            failed = case.failure_cases
            counts[f"{place} {rule}"] = int(getattr(failed, "height", 1) or 1)
    for name, rule in (rules or {}).items():
        broken = frame.height - int(rule(frame.lazy()).collect().to_series().sum())
        if broken:
            counts[name] = broken
    if counts:
        raise ContractError(f"{table} of {subject}", counts)
