"""The one way to open a DuckDB connection: in memory, locked down, in UTC.

Readers may reach only the folders they are given; nothing is installed or loaded at run time;
Python variables are invisible to SQL. See https://duckdb.org/docs/stable/operations_manual/securing_duckdb.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from experiments_dagster.config.platform import Platform
from experiments_dagster.storage.layout import Layout

logger = logging.getLogger(__name__)


class Duck:
    """A locked-down in-memory connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def query(self, sql: str, **params: Any) -> pl.DataFrame:
        """Rows of a SELECT; values travel as parameters `$name`."""
        rows: pl.DataFrame = self.connection.sql(sql, params=params or None).pl()
        return rows

    def execute(self, sql: str, **params: Any) -> None:
        """A statement without rows."""
        self.connection.execute(sql, params).fetchall()

    def relation(self, sql: str, **params: Any) -> duckdb.DuckDBPyRelation:
        """A lazy relation, for frame definitions."""
        return self.connection.sql(sql, params=params or None)

    def parquet(self, files: Iterable[Path]) -> duckdb.DuckDBPyRelation:
        """A lazy relation over listed files (never a glob), columns by name.

        All files are the program's own. A column that older files lack, such as a property that
        was mapped later, is NULL there.
        """
        return self.connection.read_parquet([str(file) for file in files], union_by_name=True)


@contextlib.contextmanager
def connect(
    platform: Platform,
    layout: Layout,
    *,
    folders: Iterable[Path] = (),
    attach: Mapping[str, Path] | None = None,
) -> Iterator[Duck]:
    """Open a connection that reads the storage root and the given folders, and close it.

    Args:
        platform: Memory limit and threads.
        layout: The storage root; its spill folder takes what does not fit in memory.
        folders: Further folders that may be read.
        attach: Users' DuckDB files, attached read-only under the given names. One that is
            damaged or open elsewhere for writing is left out.
    """
    layout.spill.mkdir(parents=True, exist_ok=True)
    allowed = ", ".join(quote_text(f"{folder}/") for folder in (layout.root, *folders))
    with duckdb.connect(":memory:") as connection:
        for name, path in (attach or {}).items():
            try:
                connection.execute(f"ATTACH {quote_text(str(path))} AS {name} (READ_ONLY)")
            except duckdb.Error as error:
                logger.warning("not attached path=%s error=%s", path, type(error).__name__)
        for statement in (
            "SET python_enable_replacements=false",
            "SET allow_community_extensions=false",
            "SET autoinstall_known_extensions=false",
            "SET autoload_known_extensions=false",
            f"SET temp_directory={quote_text(str(layout.spill))}",
            f"SET allowed_directories=[{allowed}]",
            "SET enable_external_access=false",
            f"SET memory_limit={quote_text(platform.memory_limit)}",
            f"SET threads={platform.threads}",
            "SET enable_progress_bar=false",
            "SET TimeZone='UTC'",
            "SET lock_configuration=true",
        ):
            connection.execute(statement)
        yield Duck(connection)


def quote_name(name: str) -> str:
    """A column or table name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text as an SQL literal, for places where no parameter is allowed."""
    return "'" + text.replace("'", "''") + "'"
