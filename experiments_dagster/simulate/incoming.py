"""A day of incoming data: a few small tables that become files in the sources' folders."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from experiments_dagster.storage.atomic import staged


def write_incoming(folder: Path, name: str, tables: Mapping[str, pl.DataFrame]) -> list[Path]:
    """Write one Parquet file per non-empty table as `<folder>/<source>/<name>.parquet`.

    A file that exists already is left alone, so that writing the same day again changes nothing.
    """
    written = []
    for source, table in tables.items():
        target = folder / source / f"{name}.parquet"
        if table.is_empty() or target.exists():
            continue
        with staged(target, folder / ".staging") as temporary:
            table.write_parquet(temporary)
        written.append(target)
    return written


def local_midnight_utc(day: dt.date, zone: dt.tzinfo) -> dt.datetime:
    """The instant a local day begins, in UTC."""
    return dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC)
