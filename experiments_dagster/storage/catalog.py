"""experiments.duckdb: views over frames and results for anybody with DuckDB, and full exports.

The catalog holds views with absolute paths and no data; it is replaced as a whole, so a process
that has it open keeps the old one. It can be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import duckdb

from experiments_dagster.storage.duck import quote_name, quote_text
from experiments_dagster.storage.layout import Layout

RESULT_TABLES = (
    "effect_estimates",
    "boundaries",
    "segment_tests",
    "trust",
    "novelty",
    "verdicts",
    "impact_series",
    "impact_summary",
)
FRAMES = ("user_frame", "ratio_frame")


def catalog_tables(layout: Layout) -> dict[str, list[Path]]:
    """View name to the files behind it: result tables, and the published frame per experiment."""
    tables: dict[str, list[Path]] = {}
    for name in RESULT_TABLES:
        folder = layout.root / "results" / name
        files = sorted(folder.glob("*/*.parquet"))
        if files:
            tables[name] = files
    for pointer in sorted((layout.root / "frames" / "user_frame").glob("*/current.json")):
        info = json.loads(pointer.read_bytes())
        for kind in FRAMES:
            path = layout.root / info[kind]
            if path.exists():
                tables[f"{kind}_{info['experiment'].replace('-', '_')}"] = [path]
    return tables


def publish_catalog(layout: Layout) -> Path:
    """Replace the catalog by one that shows what is published now; read-only for everybody."""
    statement = "CREATE VIEW {name} AS SELECT * FROM {files}"
    return _build(layout, layout.catalog, statement, mode=0o444)


def export(layout: Layout, target: Path) -> Path:
    """Write one self-contained .duckdb file with every published table.

    Raises:
        FileExistsError: The target exists; exports never overwrite.
    """
    if target.exists():
        msg = f"{target} exists already; choose another name"
        raise FileExistsError(msg)
    return _build(layout, target, "CREATE TABLE {name} AS SELECT * FROM {files}", mode=0o644)


def _build(layout: Layout, target: Path, statement: str, *, mode: int) -> Path:
    temporary = target.parent / f".{target.name}.building"
    temporary.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(duckdb.connect(str(temporary))) as connection:
            for name, files in catalog_tables(layout).items():
                listed = ", ".join(quote_text(str(file.resolve())) for file in files)
                source = f"read_parquet([{listed}], union_by_name=true)"
                connection.execute(statement.format(name=quote_name(name), files=source))
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
