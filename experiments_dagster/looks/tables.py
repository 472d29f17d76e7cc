"""Result tables of a look, as Parquet beside the ledger: long, keyed, never overwritten.

`effect_estimates` has one row per effect, `boundaries` one per hypothesis, `verdicts` one per
arm. Every row carries the look, its cut-off, the plan hash, the code version and the ledger head.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from experiments_dagster.contracts.results import validate_effect_estimates
from experiments_dagster.looks.records import Effect, Look
from experiments_dagster.storage.atomic import staged
from experiments_dagster.storage.layout import Layout

TABLES = ("effect_estimates", "boundaries", "verdicts")

_TYPES: dict[str, Any] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "str": pl.String,
    "bool": pl.Boolean,
}


def effect_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """The look's effects with their key, one row each."""
    key = _key(look, ledger_head)
    rows = [key | effect.model_dump() for effect in look.effects]
    schema = dict.fromkeys(key, pl.String) | {"look": pl.Int64, "cutoff": pl.Int64}
    schema |= {name: _dtype(str(field.annotation)) for name, field in Effect.model_fields.items()}
    return pl.DataFrame(rows, schema=schema)


def write_results(layout: Layout, look: Look, ledger_head: str) -> None:
    """Write effects and boundaries of a recorded look; what exists already is left alone.

    Raises:
        ContractError: The effects break their contract.
    """
    effects = effect_rows(look, ledger_head)
    validate_effect_estimates(effects, look.look_id)
    _write_once(layout, "effect_estimates", look, effects)
    key = _key(look, ledger_head)
    boundaries = _frame(key | row.model_dump() for row in look.boundaries)
    _write_once(layout, "boundaries", look, boundaries)


def write_verdicts(layout: Layout, look: Look, ledger_head: str) -> None:
    """Publish the verdicts of a recorded look, one row per arm; a blocked look has none."""
    if look.is_blocked:
        return
    key = _key(look, ledger_head)
    rows = _frame(
        key | row.model_dump(exclude={"missing"}) | {"missing": "; ".join(row.missing)}
        for row in look.decisions
    )
    _write_once(layout, "verdicts", look, rows)


def _write_once(layout: Layout, name: str, look: Look, table: pl.DataFrame) -> None:
    target = table_file(layout, name, look)
    if table.is_empty() or target.exists():
        return
    with staged(target, layout.staging) as temporary:
        table.write_parquet(temporary, compression="zstd")


def table_file(layout: Layout, name: str, look: Look) -> Path:
    """Where one table of one look lies."""
    folder = layout.results(name, look.experiment)
    return folder / f"phase-{look.phase}-look-{look.look or 0:06d}.parquet"


def _key(look: Look, ledger_head: str) -> dict[str, Any]:
    return {
        "experiment": look.experiment,
        "phase": str(look.phase),
        "look": look.look,
        "look_id": look.look_id,
        "as_of": look.as_of,
        "horizon": look.horizon,
        "cutoff": look.cutoff,
        "plan_hash": look.plan_hash,
        "code_version": look.code_version,
        "ledger_head": ledger_head,
    }


def _frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


def _dtype(annotation: str) -> Any:
    for name, dtype in _TYPES.items():
        if name in annotation:
            return dtype
    return pl.String
