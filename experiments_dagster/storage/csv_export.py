"""Published tables as CSV: one file per table, or one per table and experiment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from experiments_dagster.storage.catalog import catalog_tables, published_frames, result_tables
from experiments_dagster.storage.duck import quote_name, quote_text
from experiments_dagster.storage.layout import Layout

# ISO 8601; all times are UTC, as in the catalog.
FORMAT = "FORMAT csv, HEADER, DATEFORMAT '%Y-%m-%d', TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%S.%f+00:00'"
KEYS = ("experiment", "intervention")  # what a table of results calls the slug


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    target: Path
    select: str


def export_csv(layout: Layout, folder: Path, slugs: Sequence[str] = ()) -> list[Path]:
    """Write tables with a header and ISO times; nothing is ever overwritten.

    Args:
        layout: Whose tables.
        folder: Where to; made if it is not there. Files are `TABLE.csv`, or with slugs
            `SLUG/TABLE.csv` of those tables that hold something of the experiment.
        slugs: Experiments and interventions; all of them in whole tables where there is none.

    Returns:
        The files that were written.

    Raises:
        FileExistsError: A file exists already; none is written then.
        ValueError: The folder cannot be written to, or nothing is published.
    """
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute("SET parquet_metadata_cache=true")
        files = list(_files(connection, layout, folder, slugs))
        if not files:
            raise _unpublished(folder, "this project")
        for file in files:
            _refuse_existing(file.target)
        try:
            for file in files:
                _write(connection, file)
        except OSError as error:
            msg = f"--csv {folder}: cannot be written ({error.strerror})"
            raise _as_written(error, msg) from None
    return [file.target for file in files]


def _files(
    connection: duckdb.DuckDBPyConnection, layout: Layout, folder: Path, slugs: Sequence[str]
) -> Iterator[_File]:
    results = result_tables(layout) if slugs else catalog_tables(layout)
    for name, select in results.items():
        connection.execute(f"CREATE VIEW {quote_name(name)} AS {select}")
        if not slugs:
            yield _File(target=folder / f"{name}.csv", select=f"SELECT * FROM {quote_name(name)}")
    frames = published_frames(layout) if slugs else {}
    for slug in dict.fromkeys(slugs):
        parts = {name: _of_one(connection, name, slug) for name in results}
        parts = {
            name: part
            for name, part in parts.items()
            if connection.execute(f"{part} LIMIT 1").fetchall()
        }
        parts |= {kind: select for (owner, kind), select in frames.items() if owner == slug}
        if not parts:
            raise _unpublished(folder, slug)
        for name, part in parts.items():
            yield _File(target=folder / slug / f"{name}.csv", select=part)


def _of_one(connection: duckdb.DuckDBPyConnection, name: str, slug: str) -> str:
    columns = connection.sql(f"SELECT * FROM {quote_name(name)}").columns
    key = next(key for key in KEYS if key in columns)
    return f"SELECT * FROM {quote_name(name)} WHERE {key} = {quote_text(slug)}"


def _write(connection: duckdb.DuckDBPyConnection, file: _File) -> None:
    """Write beside the target and link: what appears is whole, what is there stays."""
    file.target.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.target.with_name(f".{file.target.name}.building")
    try:
        connection.execute(f"COPY ({file.select}) TO {quote_text(str(temporary))} ({FORMAT})")
        file.target.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _unpublished(folder: Path, what: str) -> ValueError:
    return ValueError(f"--csv {folder}: nothing of {what} is published yet")


def _refuse_existing(target: Path) -> None:
    if target.exists():
        msg = f"{target} exists already; choose another folder"
        raise FileExistsError(msg)


def _as_written(error: OSError, message: str) -> Exception:
    """A file that came into being meanwhile is one that exists; all else cannot be written."""
    if isinstance(error, FileExistsError):
        return FileExistsError(f"{error.filename2 or error.filename} exists already")
    return ValueError(message)
