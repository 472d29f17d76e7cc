"""Simulated data with the effects that hold in them: tables, and one small strict-JSON truth.

A known effect says how it is known:

    analytic             expectation over the population that the units are drawn from
    effect_function      expected effect of every simulated unit given its attributes, averaged
    potential_outcomes   both outcomes were drawn for every simulated unit; mean difference

A ratio is a ratio of totals; its relative difference is that of the two ratios.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from experiments_dagster.config.base import Day, Spec
from experiments_dagster.storage.atomic import sha256_file, staged, write_bytes

FORMAT_VERSION = 1
SUFFIXES = (".parquet", ".pq", ".csv")
DERIVATIONS = {
    "analytic": "expectation over the population that the units are drawn from, by formula",
    "effect_function": "expected effect of each simulated unit given its attributes, averaged "
    "over these units; exact for them",
    "potential_outcomes": "both outcomes were drawn for each simulated unit; their mean difference",
}

Derivation = Literal["analytic", "effect_function", "potential_outcomes"]
Estimand = Literal["difference", "relative_difference"]
Vector = NDArray[np.float64]


class ScenarioSpec(Spec):
    """What all simulators ask for.

    Args:
        seed: Of everything random.
        start: First day, UTC.
    """

    seed: int = Field(default=42, ge=0, lt=2**63, strict=True)
    start: Day = dt.date(2026, 1, 5)

    @property
    def start_at(self) -> np.datetime64:
        """00:00 UTC of the first day, in microseconds."""
        return np.datetime64(self.start, "us")

    def generator(self, *stream: int) -> np.random.Generator:
        """The generator of one stream, so that no stream depends on how much another draws."""
        return np.random.default_rng([self.seed, *stream])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEffect:
    """One effect that a good estimator finds; `attribute` and `level` name a group of units."""

    metric: str
    arm: str
    control: str
    estimand: Estimand
    derivation: Derivation
    value: float
    attribute: str | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Simulated tables by name, and what is known about them.

    Args:
        kind: Which simulator.
        parameters: All of them, the seed included.
        tables: What an analyst sees.
        units: Simulated units by arm; the control comes first.
        effects: Exact effects.
        more: Further facts, as plain data.
    """

    kind: str
    parameters: ScenarioSpec
    tables: Mapping[str, pl.DataFrame]
    units: Mapping[str, int]
    effects: Sequence[KnownEffect]
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truth(self) -> dict[str, Any]:
        """The truth as plain data, without the files."""
        used = dict.fromkeys(effect.derivation for effect in self.effects)
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "seed": self.parameters.seed,
            "parameters": self.parameters.model_dump(mode="json"),
            "control": next(iter(self.units)),
            "units": dict(self.units),
            "derivations": {name: DERIVATIONS[name] for name in used},
            "effects": [asdict(effect) for effect in self.effects],
            **self.more,
        }


def both_estimands(
    metric: str,
    arm: str,
    control: str,
    means: tuple[float, float],
    derivation: Derivation,
    *,
    group: tuple[str, str] | None = None,
) -> list[KnownEffect]:
    """Difference and relative difference from the means of control and arm."""
    attribute, level = group or (None, None)
    base, treated = means
    values: dict[Estimand, float] = {"difference": treated - base}
    if base > 0:
        values["relative_difference"] = treated / base - 1
    return [
        KnownEffect(
            metric=metric,
            arm=arm,
            control=control,
            estimand=estimand,
            derivation=derivation,
            value=float(value),
            attribute=attribute,
            level=level,
        )
        for estimand, value in values.items()
    ]


def write_scenario(scenario: Scenario, out: Path, *, suffix: str = ".parquet") -> dict[str, Any]:
    """Write the tables and the truth, which comes last and names the bytes of each table.

    Args:
        scenario: What to write.
        out: A file ending in .parquet, .pq or .csv, or a folder. Several tables for one file name
            become `<stem>_<table>` beside each other.
        suffix: Of the tables in a folder.

    Returns:
        The truth with `files`: name, rows, columns and hash of each table; and with `folder` and
        the name of the truth itself.

    Raises:
        FileExistsError: A file stands there that this program did not simulate.
        ValueError: Unknown file type.
    """
    folder, truth_path, paths = _places(scenario, out, suffix)
    _refuse_foreign(truth_path, paths.values())
    files = {}
    staging = folder / f".staging-{uuid.uuid4().hex}"
    try:
        for name, path in paths.items():
            table = scenario.tables[name]
            with staged(path, staging) as temporary:
                _write_table(table, temporary)
            files[name] = {
                "file": path.name,
                "rows": table.height,
                "columns": table.columns,
                "sha256": sha256_file(path),
            }
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    document = scenario.truth | {"files": files}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(truth_path, text.encode())
    return document | {"folder": str(folder), "truth": truth_path.name}


def _write_table(table: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    else:
        table.write_parquet(path)


def is_one_file(out: Path) -> bool:
    """Whether a path names a file of tables, and not a folder."""
    return out.suffix in SUFFIXES and not out.is_dir()


def _places(scenario: Scenario, out: Path, suffix: str) -> tuple[Path, Path, dict[str, Path]]:
    """The folder, the truth's path and the path of each table."""
    if is_one_file(out):
        several = len(scenario.tables) > 1
        names = {name: f"{out.stem}_{name}" if several else out.stem for name in scenario.tables}
        folder, stem, suffix = out.parent, out.stem, out.suffix
    elif suffix not in SUFFIXES or (out.suffix and not out.is_dir()):
        wrong = suffix if suffix not in SUFFIXES else out.suffix
        msg = f"{out}: unknown file type {wrong!r}; use {', '.join(SUFFIXES)}, or name a folder"
        raise ValueError(msg)
    else:
        names = {name: name for name in scenario.tables}
        folder, stem = out, scenario.kind.replace("-", "_")
    paths = {table: folder / f"{name}{suffix}" for table, name in names.items()}
    return folder, folder / f"{stem}.truth.json", paths


def _refuse_foreign(truth_path: Path, paths: Any) -> None:
    """Replace only what an earlier truth lists: anything else is somebody's data."""
    known: set[str] = set()
    if truth_path.exists():
        try:
            earlier = json.loads(truth_path.read_bytes())
            known = {item["file"] for item in earlier["files"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            msg = f"{truth_path} exists and is no truth of a simulation; choose another name"
            raise FileExistsError(msg) from None
    for path in paths:
        if path.exists() and path.name not in known:
            msg = f"{path} exists and was not simulated here; choose another name"
            raise FileExistsError(msg)
