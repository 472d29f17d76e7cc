"""Result tables of a look, as Parquet beside the ledger: long, keyed, never overwritten.

effect_estimates  one row per effect. `analysis` says what for: `plan` (what the roles of the plan
                  ask for), `segment` (the primary metric in one level) or `sensitivity` (by
                  another method); only `plan` rows can decide
boundaries        one per hypothesis: success, guardrail, deterioration
segment_tests     one per level: its effect against the rest, and the test over all levels
trust             one per success metric and arm
novelty           one per arm and day since exposure
verdicts          one per arm

Every row carries the look, its cut-off, the plan hash, the code version and the ledger head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import polars as pl
from pydantic import BaseModel

from experiments_dagster.contracts.results import validate_effect_estimates
from experiments_dagster.looks.records import (
    Boundary,
    Effect,
    Look,
    Novelty,
    SegmentLevel,
    SegmentTest,
    Trust,
)
from experiments_dagster.storage.atomic import staged
from experiments_dagster.storage.layout import Layout

TABLES = ("effect_estimates", "boundaries", "segment_tests", "trust", "novelty", "verdicts")

_TYPES: dict[type, Any] = {int: pl.Int64, float: pl.Float64, str: pl.String, bool: pl.Boolean}
_BY_DAY = {"days": "day", "effects": "effect", "std_errors": "std_error"}

Row = dict[str, Any]
Schema = dict[str, Any]


def effect_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """All effects of a look with their key, one row each."""
    parts = (("plan", look.effects), ("segment", look.segments), ("sensitivity", look.sensitivity))
    rows = [
        {"analysis": analysis} | effect.model_dump()
        for analysis, effects in parts
        for effect in effects
    ]
    return _table(look, ledger_head, rows, {"analysis": pl.String} | _schema(Effect))


def boundary_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """The sequential state of every hypothesis, the safety monitor's included."""
    rows = [row.model_dump() for row in (*look.boundaries, *look.deterioration)]
    return _table(look, ledger_head, rows, _schema(Boundary))


def segment_test_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """Every level of every segment; `omnibus_*` are those of the whole segment, on each row."""
    rows = [
        {
            "segment": test.segment,
            "metric": test.metric,
            "arm": test.arm,
            "omnibus_q": test.q,
            "omnibus_degrees_of_freedom": test.degrees_of_freedom,
            "omnibus_p_value": test.p_value,
        }
        | level.model_dump()
        for test in look.segment_tests
        for level in test.levels
    ]
    renamed = {
        "q": "omnibus_q",
        "degrees_of_freedom": "omnibus_degrees_of_freedom",
        "p_value": "omnibus_p_value",
    }
    whole = {renamed.get(name, name): dtype for name, dtype in _schema(SegmentTest).items()}
    return _table(look, ledger_head, rows, whole | _schema(SegmentLevel))


def trust_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """What says how far each success metric can be believed."""
    return _table(look, ledger_head, [row.model_dump() for row in look.trust], _schema(Trust))


def novelty_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """The effect of every day since exposure; slope and levels stand on each row."""
    schema = _schema(Novelty) | {"day": pl.Int64, "effect": pl.Float64, "std_error": pl.Float64}
    return _table(look, ledger_head, list(_days(look)), schema)


def _days(look: Look) -> Iterator[Row]:
    for row in look.novelty:
        whole = row.model_dump(exclude=set(_BY_DAY))
        for values in zip(*(getattr(row, name) for name in _BY_DAY), strict=True):
            yield whole | dict(zip(_BY_DAY.values(), values, strict=True))


def write_results(layout: Layout, look: Look, ledger_head: str) -> None:
    """Write the tables of a recorded look; what exists already is left alone.

    The effects come last: where they are, the others are too.

    Raises:
        ContractError: The effects break their contract.
    """
    effects = effect_rows(look, ledger_head)
    validate_effect_estimates(effects, look.look_id)
    others = {
        "boundaries": boundary_rows,
        "segment_tests": segment_test_rows,
        "trust": trust_rows,
        "novelty": novelty_rows,
    }
    for name, rows_of in others.items():
        _write_once(layout, name, look, rows_of(look, ledger_head))
    _write_once(layout, "effect_estimates", look, effects)


def write_verdicts(layout: Layout, look: Look, ledger_head: str) -> None:
    """Publish the verdicts of a recorded look, one row per arm; a blocked look has none."""
    if look.is_blocked:
        return
    rows = [
        row.model_dump(exclude={"missing"}) | {"missing": "; ".join(row.missing)}
        for row in look.decisions
    ]
    schema = dict.fromkeys(("arm", "verdict", "clause", "reason", "missing"), pl.String)
    table = _table(look, ledger_head, rows, schema | {"is_harmful": pl.Boolean})
    _write_once(layout, "verdicts", look, table)


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


def _table(look: Look, ledger_head: str, rows: Sequence[Row], schema: Schema) -> pl.DataFrame:
    """Rows with the key of their look in front, typed also where a column is empty."""
    key = {
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
    types = dict.fromkeys(key, pl.String) | {"look": pl.Int64, "cutoff": pl.Int64}
    return pl.DataFrame([key | row for row in rows], schema=types | schema)


def _schema(record: type[BaseModel]) -> Schema:
    """Column types of a record's plain fields; what is nested becomes rows elsewhere."""
    fields = {name: _dtype(field.annotation) for name, field in record.model_fields.items()}
    return {name: dtype for name, dtype in fields.items() if dtype is not None}


def _dtype(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return pl.String
    if annotation in _TYPES:
        return _TYPES[annotation]
    if get_origin(annotation) is tuple:
        return None
    return next((_dtype(part) for part in get_args(annotation) if part is not type(None)), None)
