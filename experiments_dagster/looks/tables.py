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

A look stands in files of its own or, with all others of its night, in one folder with one file
per table; never in both. Everything here can be made again from the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

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
from experiments_dagster.storage.atomic import staged, staged_folder
from experiments_dagster.storage.errors import ContractError, DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout

TABLES = ("effect_estimates", "boundaries", "segment_tests", "trust", "novelty", "verdicts")

_TYPES: dict[type, Any] = {int: pl.Int64, float: pl.Float64, str: pl.String, bool: pl.Boolean}
_BY_DAY = {"days": "day", "effects": "effect", "std_errors": "std_error"}

NIGHTS = "nights"
REBUILD_HINT = "delete its folder; the next run writes these tables again from the ledger"

Row = dict[str, Any]
Schema = dict[str, Any]


class Recorded(NamedTuple):
    """A recorded look and the hash of its ledger file."""

    look: Look
    ledger_head: str


def effect_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """All effects of a look with their key, one row each."""
    return _table("effect_estimates", [Recorded(look, ledger_head)])


def boundary_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """The sequential state of every hypothesis, the safety monitor's included."""
    return _table("boundaries", [Recorded(look, ledger_head)])


def segment_test_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """Every level of every segment; `omnibus_*` are those of the whole segment, on each row."""
    return _table("segment_tests", [Recorded(look, ledger_head)])


def trust_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """What says how far each success metric can be believed."""
    return _table("trust", [Recorded(look, ledger_head)])


def novelty_rows(look: Look, ledger_head: str) -> pl.DataFrame:
    """The effect of every day since exposure; slope and levels stand on each row."""
    return _table("novelty", [Recorded(look, ledger_head)])


def _effects(look: Look) -> Iterator[Row]:
    parts = (("plan", look.effects), ("segment", look.segments), ("sensitivity", look.sensitivity))
    for analysis, effects in parts:
        for effect in effects:
            yield {"analysis": analysis} | effect.model_dump()


def _boundaries(look: Look) -> Iterator[Row]:
    return (row.model_dump() for row in (*look.boundaries, *look.deterioration))


def _segment_tests(look: Look) -> Iterator[Row]:
    for test in look.segment_tests:
        whole = {
            "segment": test.segment,
            "metric": test.metric,
            "arm": test.arm,
            "omnibus_q": test.q,
            "omnibus_degrees_of_freedom": test.degrees_of_freedom,
            "omnibus_p_value": test.p_value,
        }
        for level in test.levels:
            yield whole | level.model_dump()


def _trust(look: Look) -> Iterator[Row]:
    return (row.model_dump() for row in look.trust)


def _novelty(look: Look) -> Iterator[Row]:
    for row in look.novelty:
        whole = row.model_dump(exclude=set(_BY_DAY))
        for values in zip(*(getattr(row, name) for name in _BY_DAY), strict=True):
            yield whole | dict(zip(_BY_DAY.values(), values, strict=True))


def _verdicts(look: Look) -> Iterator[Row]:
    """One row per arm; a blocked look has none."""
    for row in () if look.is_blocked else look.decisions:
        yield row.model_dump(exclude={"missing"}) | {"missing": "; ".join(row.missing)}


def write_results(layout: Layout, look: Look, ledger_head: str) -> None:
    """Write the tables of a recorded look; what exists already is left alone.

    The effects come last: where they are, the others are too.

    Raises:
        ContractError: The effects break their contract.
    """
    effects = effect_rows(look, ledger_head)
    validate_effect_estimates(effects, look.look_id)
    for name in ("boundaries", "segment_tests", "trust", "novelty"):
        _write_once(layout, name, look, _table(name, [Recorded(look, ledger_head)]))
    _write_once(layout, "effect_estimates", look, effects)


def write_verdicts(layout: Layout, look: Look, ledger_head: str) -> None:
    """Publish the verdicts of a recorded look, one row per arm; a blocked look has none."""
    if not table_file(layout, "verdicts", look).exists():
        _write_once(layout, "verdicts", look, _table("verdicts", [Recorded(look, ledger_head)]))


def _write_once(layout: Layout, name: str, look: Look, table: pl.DataFrame) -> None:
    target = table_file(layout, name, look)
    if table.is_empty() or target.exists():
        return
    with staged(target, layout.staging) as temporary:
        table.write_parquet(temporary, compression="zstd")


def table_file(layout: Layout, name: str, look: Look) -> Path:
    """Where one table of one look lies, if the look has files of its own."""
    folder = layout.results(name, look.experiment)
    return folder / f"phase-{look.phase}-look-{look.look or 0:06d}.parquet"


def is_written(layout: Layout, name: str, look: Look) -> bool:
    """Whether a table of a look lies in a file of its own, or has nothing to hold."""
    if name == "verdicts" and look.is_blocked:
        return True
    return table_file(layout, name, look).exists()


def has_own_files(layout: Layout, look: Look) -> bool:
    """Whether tables of a look were written, or begun to be, as files of its own."""
    return any(table_file(layout, name, look).exists() for name in TABLES)


def write_night(layout: Layout, recorded: Sequence[Recorded]) -> dict[str, StorageError]:
    """Write all tables of many looks, verdicts included, as one file per table.

    The folder appears whole, so that after a crash a night is there or is not. Effects are
    checked together, and look by look only if they break their contract together. Beside the
    tables lies `looks.parquet` with the key of every look that the night holds.

    Args:
        layout: Where to.
        recorded: Looks that are published nowhere yet; not empty.

    Returns:
        By experiment what is wrong with looks that were left out.
    """
    effects = _table("effect_estimates", recorded)
    broken: dict[str, StorageError] = {}
    try:
        validate_effect_estimates(effects, f"{len(recorded)} looks")
    except ContractError:
        broken = _broken_experiments(recorded)
        recorded = [item for item in recorded if item.look.experiment not in broken]
        if not recorded:
            return broken
        effects = _table("effect_estimates", recorded)
    newest = max(item.look.as_of for item in recorded)
    digest = hashlib.sha256("".join(item.ledger_head for item in recorded).encode()).hexdigest()
    night = layout.results(NIGHTS, f"{newest[:10]}-{digest[:16]}")
    with staged_folder(night, layout.staging) as temporary:
        keys = pl.DataFrame([_key(*item) for item in recorded], schema=_KEY)
        keys.write_parquet(temporary / "looks.parquet", compression="zstd")
        for name in TABLES:
            table = effects if name == "effect_estimates" else _table(name, recorded)
            if not table.is_empty():
                table.write_parquet(temporary / f"{name}.parquet", compression="zstd")
    return broken


def _broken_experiments(recorded: Iterable[Recorded]) -> dict[str, StorageError]:
    """Which experiments have effects that break their contract, and how."""
    broken: dict[str, StorageError] = {}
    for item in recorded:
        try:
            validate_effect_estimates(effect_rows(*item), item.look.look_id)
        except ContractError as error:
            broken[item.look.experiment] = error
    return broken


@dataclass(slots=True)
class Nights:
    """Which looks were published with others of their night, by look_id; read once per night."""

    layout: Layout
    looks: set[str] = field(default_factory=set)
    _read: set[str] = field(default_factory=set)

    def refresh(self) -> Nights:
        """Read the nights that were written since the last call.

        Raises:
            DataDamagedError: A table cannot be read.
        """
        folder = self.layout.results(NIGHTS, "")
        nights = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if not self._read <= nights:
            self.looks, self._read = set(), set()
        for name in sorted(nights - self._read):
            self.looks |= _look_ids(folder / name / "looks.parquet")
            self._read.add(name)
        return self


def _look_ids(keys: Path) -> set[str]:
    try:
        return set(pl.read_parquet(keys, columns=["look_id"])["look_id"])
    except (OSError, pl.exceptions.PolarsError):
        raise DataDamagedError(keys, "cannot be read", REBUILD_HINT) from None


def _table(name: str, recorded: Iterable[Recorded]) -> pl.DataFrame:
    """Rows of looks with the key of their look in front, typed also where a column is empty."""
    rows_of, schema = _CONTENTS[name]
    rows = [_key(*item) | row for item in recorded for row in rows_of(item.look)]
    return pl.DataFrame(rows, schema=_KEY | schema)


def _key(look: Look, ledger_head: str) -> Row:
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


_KEY: Schema = {
    "experiment": pl.String,
    "phase": pl.String,
    "look": pl.Int64,
    "look_id": pl.String,
    "as_of": pl.String,
    "horizon": pl.String,
    "cutoff": pl.Int64,
    "plan_hash": pl.String,
    "code_version": pl.String,
    "ledger_head": pl.String,
}


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


_OMNIBUS = {
    "q": "omnibus_q",
    "degrees_of_freedom": "omnibus_degrees_of_freedom",
    "p_value": "omnibus_p_value",
}
_CONTENTS: dict[str, tuple[Callable[[Look], Iterator[Row]], Schema]] = {
    "effect_estimates": (_effects, {"analysis": pl.String} | _schema(Effect)),
    "boundaries": (_boundaries, _schema(Boundary)),
    "segment_tests": (
        _segment_tests,
        {_OMNIBUS.get(name, name): dtype for name, dtype in _schema(SegmentTest).items()}
        | _schema(SegmentLevel),
    ),
    "trust": (_trust, _schema(Trust)),
    "novelty": (
        _novelty,
        _schema(Novelty) | {"day": pl.Int64, "effect": pl.Float64, "std_error": pl.Float64},
    ),
    "verdicts": (
        _verdicts,
        dict.fromkeys(("arm", "verdict", "clause", "reason", "missing"), pl.String)
        | {"is_harmful": pl.Boolean},
    ),
}
