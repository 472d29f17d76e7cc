"""unit_days and unit_events per landed batch: the expensive pass over raw events, done once.

For one source and one set of measures each batch has two Parquet files and an index file that
names their hashes and the landed file they were made from. They are caches: a missing or
damaged one is rebuilt from the landed batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from experiments_dagster.config.metrics import Measure
from experiments_dagster.config.project import Project
from experiments_dagster.frames.definitions import measured_events, unit_days
from experiments_dagster.storage.atomic import (
    canonical_json,
    is_whole,
    sha256_file,
    staged,
    write_bytes,
)
from experiments_dagster.storage.duck import Duck, connect
from experiments_dagster.storage.manifest import Batch, LandedTable, Manifest

# Up to here a batch fits in memory many times over and Polars starts faster than DuckDB (8 ms
# against 40 ms for a day of 5,000 rows); the definition is the same.
SMALL_BATCH = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Partials:
    """Files of one source up to a cut-off, in batch order, and the hashes behind them."""

    days: tuple[Path, ...]
    events: tuple[Path, ...]
    sequences: tuple[int, ...]
    inputs: dict[str, str]


def measures_hash(measures: Sequence[Measure]) -> str:
    """Names one set of measures; editing a metric that is not among them changes nothing."""
    return hashlib.sha256(" ".join(measure.key for measure in measures).encode()).hexdigest()[:12]


def build_partials(
    project: Project,
    manifest: Manifest,
    source: str,
    *,
    up_to: int,
    needed: Sequence[Measure] = (),
) -> Partials:
    """Make what is missing of a source's partials in batches 1..up_to and list them all.

    Args:
        project: Its measures of the source are aggregated together, for all experiments.
        manifest: The landed batches.
        source: Name of an event source.
        up_to: The cut-off.
        needed: Measures that must be there. Those of a frozen plan that the configuration has
            dropped since are aggregated apart.

    Raises:
        DataDamagedError: A landed file that must be read again is damaged.
    """
    measures = project.measures(source)
    if not {measure.key for measure in needed} <= {measure.key for measure in measures}:
        measures = tuple(sorted(set(needed), key=lambda measure: measure.key))
    folder = manifest.layout.unit_days(source, measures_hash(measures))
    tables = manifest.tables(source, up_to=up_to)
    missing = [(batch, table) for batch, table in tables if not _is_built(folder, batch, table)]
    if missing:
        with connect(project.platform, manifest.layout) as duck:
            for batch, table in missing:
                _build_batch(duck, manifest, folder, measures, batch, table)
    names = [f"{batch.sequence:06d}.parquet" for batch, _ in tables]
    return Partials(
        days=tuple(folder / "days" / name for name in names),
        events=tuple(folder / "events" / name for name in names),
        sequences=tuple(batch.sequence for batch, _ in tables),
        inputs={table.path: table.sha256 for _, table in tables},
    )


def _is_built(folder: Path, batch: Batch, table: LandedTable) -> bool:
    """Whether a batch's partials exist, belong to the landed file and are whole."""
    try:
        index = json.loads((folder / f"{batch.sequence:06d}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    if index["landed"] != table.sha256:
        return False
    return all(_is_as_written(folder / name, written) for name, written in index["files"].items())


def _is_as_written(path: Path, written: Any) -> bool:
    """Whether a file is the one that was written; its bytes are read only if it looks touched."""
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (written["size"], written["modified_ns"]):
            return True
    except (FileNotFoundError, TypeError):
        return False
    return is_whole(path, written["sha256"])


def _build_batch(
    duck: Duck,
    manifest: Manifest,
    folder: Path,
    measures: Sequence[Measure],
    batch: Batch,
    table: LandedTable,
) -> None:
    path = manifest.verified(table)
    name = f"{batch.sequence:06d}.parquet"
    files = {}
    if table.rows <= SMALL_BATCH:
        rows = measured_events(nw.from_native(pl.scan_parquet(path)), measures).collect().lazy()
    else:
        rows = measured_events(nw.from_native(duck.parquet([path])), measures)
    for kind, frame in (("events", rows), ("days", unit_days(rows, measures))):
        target = folder / kind / name
        native = frame.sort("unit", "event_day").to_native()
        with staged(target, manifest.layout.staging) as temporary:
            if isinstance(native, pl.LazyFrame):
                native.collect().write_parquet(temporary, compression="zstd")
            else:
                native.write_parquet(str(temporary), compression="zstd")
            digest = sha256_file(temporary)
        stat = target.stat()
        files[f"{kind}/{name}"] = {
            "sha256": digest,
            "size": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
        }
    index = {"landed": table.sha256, "files": files}
    write_bytes(folder / f"{batch.sequence:06d}.json", canonical_json(index))
