"""Tables that people hand over: Parquet or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

# What people's exports write for a value that is not there.
MISSING_TEXT = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", ".")


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    missing: Sequence[str] = ("",),
    text: Sequence[str | None] = (),
) -> pl.DataFrame:
    """Some columns of a Parquet or CSV file.

    Args:
        path: The file.
        columns: Their names; a name that stands twice is read once.
        missing: What stands in a CSV for a value that is not there.
        text: Columns of a CSV that stay text, such as ids with leading zeros.

    Raises:
        ValueError: Unknown file type, no such file, or a column is missing.
    """
    if path.suffix not in (".parquet", ".pq", ".csv"):
        msg = f"{path}: unknown file type {path.suffix!r}; use .parquet or .csv"
        raise ValueError(msg)
    try:
        # All rows of a CSV decide on its types: a late 1.5 after a thousand integers is no error.
        table = (
            pl.scan_csv(
                path,
                infer_schema_length=None,
                null_values=list(missing),
                schema_overrides={column: pl.String for column in text if column is not None},
            )
            if path.suffix == ".csv"
            else pl.scan_parquet(path)
        )
        present = table.collect_schema().names()
        for column in columns:
            if column not in present:
                msg = f"{path}: column {column!r} is missing; it has {', '.join(present)}"
                raise ValueError(msg)
        return table.select(list(dict.fromkeys(columns))).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        # The library's message may quote rows.
        reason = "no such file" if not path.is_file() else type(error).__name__
        msg = f"{path}: cannot be read as {path.suffix} ({reason})"
        raise ValueError(msg) from None
