"""experiments.duckdb: views over frames and results for anybody with DuckDB, and full exports.

The catalog holds views with absolute paths and no data; it is replaced as a whole, so a process
that has it open keeps the old one. It can be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

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
    "causal_estimates",
    "causal_refutations",
)
VERSIONED = frozenset({"impact_series", "causal_estimates", "causal_refutations"})
FRAMES = ("user_frame", "ratio_frame")
# Metrics that decide alone, and all others of the plan: success, guardrail, secondary. The empty
# table brings the column `analysis` to effects that were written before there was one.
_PLAN_EFFECTS = (
    "SELECT * FROM (SELECT * FROM effect_estimates UNION ALL BY NAME "
    "SELECT NULL::VARCHAR AS analysis WHERE false) "
    "WHERE coalesce(analysis, 'plan') = 'plan' AND role {} 'primary'"
)
EFFECT_VIEWS = {
    "int_experiment_results_primary": _PLAN_EFFECTS.format("="),
    "int_experiment_results_secondary": _PLAN_EFFECTS.format("<>"),
}


def catalog_tables(layout: Layout) -> dict[str, str]:
    """View name to its SQL: result tables, and the published frames of each experiment.

    The SQL of a later one may name an earlier one.
    """
    frames = published_frames(layout)
    return result_tables(layout) | {
        f"{kind}_{slug.replace('-', '_')}": select for (slug, kind), select in frames.items()
    }


def result_tables(layout: Layout) -> dict[str, str]:
    """Tables of results to their SQL."""
    tables: dict[str, str] = {}
    for name in RESULT_TABLES:
        files = sorted((layout.root / "results" / name).glob("*/*.parquet"))
        # Looks of many experiments that were published together have one file per table.
        files += sorted((layout.root / "results" / "nights").glob(f"*/{name}.parquet"))
        if files:
            rows = _parquet(files)
            tables[name] = (
                _with_current(layout, rows) if name in VERSIONED else f"SELECT * FROM {rows}"
            )
    return tables | (EFFECT_VIEWS if "effect_estimates" in tables else {})


def _with_current(layout: Layout, rows: str) -> str:
    """Every version of the interventions' rows, and whether it is the newest."""
    current = [
        json.loads(path.read_bytes()).get("version", "")
        for result in ("impact", "causal_effect")
        for path in sorted((layout.root / "results" / result).glob("*/current.json"))
    ]
    listed = ", ".join(quote_text(version) for version in current) or "''"
    # Rows that were written before there were versions have none.
    versioned = (
        f"SELECT * FROM {rows} UNION ALL BY NAME SELECT NULL::VARCHAR AS version WHERE false"
    )
    return f"SELECT *, coalesce(version IN ({listed}), false) AS is_current FROM ({versioned})"


def published_frames(layout: Layout) -> dict[tuple[str, str], str]:
    """Experiment and kind of frame to its SQL."""
    frames: dict[tuple[str, str], str] = {}
    for pointer in sorted((layout.root / "frames" / "user_frame").glob("*/current.json")):
        info = json.loads(pointer.read_bytes())
        for kind in FRAMES:
            select = _frame(layout, info, kind)
            if select is not None:
                frames[info["experiment"], kind] = select
    return frames


def _frame(layout: Layout, info: dict[str, Any], kind: str) -> str | None:
    """One published frame: a file, or a view over kept unit rows."""
    named = [info[kind]] if info[kind] else info.get("unit_rows") or []
    files = [layout.root / name for name in named]
    if not files or not all(file.exists() for file in files):
        return None
    if info[kind]:
        return f"SELECT * FROM {_parquet(files)}"
    return f"WITH unit_rows AS (SELECT * FROM {_parquet(files)}) {info['views'][kind]}"


def _parquet(files: list[Path]) -> str:
    listed = ", ".join(quote_text(str(file.resolve())) for file in files)
    return f"read_parquet([{listed}], union_by_name=true)"


def publish_catalog(layout: Layout) -> Path:
    """Replace the catalog by one that shows what is published now; read-only for everybody."""
    statement = "CREATE VIEW {name} AS {select}"
    return _build(layout, layout.catalog, statement, mode=0o444)


def export(layout: Layout, target: Path) -> Path:
    """Write one self-contained .duckdb file with every published table.

    Raises:
        FileExistsError: The target exists; exports never overwrite.
    """
    if target.exists():
        msg = f"{target} exists already; choose another name"
        raise FileExistsError(msg)
    return _build(layout, target, "CREATE TABLE {name} AS {select}", mode=0o644)


def _build(layout: Layout, target: Path, statement: str, *, mode: int) -> Path:
    temporary = target.parent / f".{target.name}.building"
    temporary.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(duckdb.connect(str(temporary))) as connection:
            # Views look at their files: many share some. One transaction, one write.
            connection.execute("SET parquet_metadata_cache = true")
            connection.execute("BEGIN")
            for name, select in catalog_tables(layout).items():
                connection.execute(statement.format(name=quote_name(name), select=select))
            connection.execute("COMMIT")
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
