"""Columns of a user's file as arrays, checked; messages name flag, column and rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.storage.table_file import read_table

if TYPE_CHECKING:
    import polars as pl

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


def checked_alpha(alpha: float) -> None:
    """Refuse a level outside (0, 1).

    Raises:
        ValueError: Naming the flag.
    """
    if not 0 < alpha < 1:
        msg = f"--alpha {alpha:g}: must be between 0 and 1"
        raise ValueError(msg)


def number_columns(path: Path, columns: Mapping[str, str]) -> dict[str, Vector]:
    """Columns of finite numbers, by the flag that names each.

    Raises:
        ValueError: A column is missing, named twice, no number, or has missing or infinite values.
    """
    table = table_of(path, columns)
    return {flag: numbers(path, table, flag, column) for flag, column in columns.items()}


def table_of(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    """Some columns of a file, each with one role and without missing values.

    Args:
        path: Parquet or CSV.
        columns: Column by the flag, or part of a flag, that names it.

    Raises:
        ValueError: As `number_columns`.
    """
    roles: dict[str, str] = {}
    for flag, column in columns.items():
        if column in roles:
            msg = f"{flag} {column}: is {roles[column]} already, must be another column"
            raise ValueError(msg)
        roles[column] = flag
    table = read_table(path, list(roles))
    if table.is_empty():
        msg = f"{path}: has no rows"
        raise ValueError(msg)
    for column in roles:
        missing = table[column].null_count()
        if missing:
            msg = f"{path}: column {column!r} has {missing} missing values"
            raise ValueError(msg)
    return table


def numbers(path: Path, table: pl.DataFrame, flag: str, column: str) -> Vector:
    """A column of finite numbers.

    Raises:
        ValueError: Text, NaN or infinite values.
    """
    import polars as pl

    series = table[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        msg = f"{flag} {column}: must be numbers, the column has type {series.dtype}"
        raise ValueError(msg)
    values = series.cast(pl.Float64).to_numpy()
    n_wrong = int((~np.isfinite(values)).sum())
    if n_wrong:
        msg = f"{path}: column {column!r} has {n_wrong} values that are NaN or infinite"
        raise ValueError(msg)
    return values


def two_levels(table: pl.DataFrame, flag: str, column: str) -> tuple[Mask, tuple[str, str]]:
    """Whether each row has the higher of a column's two values, and the two values in order.

    Raises:
        ValueError: The column has another number of values, or numbers that are not finite.
    """
    series = table[column]
    if series.dtype.is_float():
        n_wrong = int((~series.is_finite()).sum())
        if n_wrong:
            msg = f"{flag} {column}: {n_wrong} values are NaN or infinite, must be levels"
            raise ValueError(msg)
    values = series.unique().sort().to_list()
    if len(values) != 2:  # noqa: PLR2004
        shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")  # noqa: PLR2004
        msg = f"{flag} {column}: must have two levels, the column has {len(values)}: {shown}"
        raise ValueError(msg)
    return (series == values[1]).to_numpy(), (str(values[0]), str(values[1]))


def names_of(flag: str, text: str) -> Sequence[str]:
    """Column names separated by commas.

    Raises:
        ValueError: None is given.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        msg = f"{flag} {text!r}: must be column names separated by commas"
        raise ValueError(msg)
    return names
