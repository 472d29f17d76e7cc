"""The event ids that each batch kept, beside the landed rows: a cache for finding duplicates.

One Parquet file per batch and source with `event_id` and `content` (a hash of the row), and an
index that says which landed file and which DuckDB made it (its hash function may change between
versions). Duplicates are found even where a landed file is damaged; what is missing, damaged or
made by another version is rebuilt from the landed file.
"""

from __future__ import annotations

import json
from pathlib import Path

import duckdb

from experiments_dagster.storage.atomic import (
    canonical_json,
    is_whole,
    sha256_file,
    staged,
    write_bytes,
)
from experiments_dagster.storage.duck import Duck, quote_text
from experiments_dagster.storage.manifest import LandedTable, Manifest


def write_ids(duck: Duck, manifest: Manifest, table: LandedTable, select: str) -> Path:
    """Write one batch's ids from a SELECT of event_id and content; needs no reading of the rows."""
    target = _file(manifest, table)
    with staged(target, manifest.layout.staging) as temporary:
        path = quote_text(str(temporary))
        duck.execute(f"COPY ({select}) TO {path} (FORMAT parquet, COMPRESSION zstd)")
        digest = sha256_file(temporary)
    index = {"landed": table.sha256, "duckdb": duckdb.__version__, "sha256": digest}
    write_bytes(target.with_suffix(".json"), canonical_json(index))
    return target


def id_files(duck: Duck, manifest: Manifest, source: str, content: str) -> list[Path]:
    """The id files of all batches of a source, rebuilt where they cannot be used.

    Args:
        duck: A connection that reads the storage root.
        manifest: The landed batches.
        source: Name of the source.
        content: The columns whose hash tells a duplicate from a conflict.

    Raises:
        DataDamagedError: A batch's ids must be rebuilt and its landed file is damaged.
    """
    files = []
    for _, table in manifest.tables(source, up_to=manifest.head):
        path = _file(manifest, table)
        if not _is_usable(path, table):
            landed = quote_text(str(manifest.verified(table)))
            rows = f"SELECT event_id, hash({content}) AS content FROM read_parquet({landed})"
            path = write_ids(duck, manifest, table, rows)
        files.append(path)
    return files


def _file(manifest: Manifest, table: LandedTable) -> Path:
    """landing/<source>/000001.parquet has its ids in landing/ids/<source>/000001.parquet."""
    landed = Path(table.path)
    return manifest.layout.root / "landing" / "ids" / landed.parent.name / landed.name


def _is_usable(path: Path, table: LandedTable) -> bool:
    try:
        index = json.loads(path.with_suffix(".json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    if (index["landed"], index["duckdb"]) != (table.sha256, duckdb.__version__):
        return False
    return is_whole(path, index["sha256"])
