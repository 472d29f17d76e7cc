"""What an exploration is, as a record and as a table; and facts of ratios and of levels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster import __version__
from experiments_dagster.exploration.facts import (
    Fact,
    Section,
    Vector,
    balance_facts,
    number_fact,
)

NO_LEVEL = "missing"
COLUMNS: dict[str, Any] = {
    "section": pl.String,
    "subject": pl.String,
    "level": pl.String,
    "statistic": pl.String,
    "value": pl.Float64,
    "text": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """Everything found about one experiment or file.

    Args:
        subject: Slug of the experiment, or name of the file.
        unit: What a row is.
        facts: In the order of the report.
        origin: Where the data come from, by name: cut-off, plan hash, path.
        notes: What is missing, and why.
        arms: The control first; empty where there is no grouping.
    """

    subject: str
    unit: str
    facts: tuple[Fact, ...]
    origin: dict[str, str | int]
    notes: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()

    def section(self, name: Section) -> tuple[Fact, ...]:
        """The facts of one section."""
        return tuple(fact for fact in self.facts if fact.section == name)


def facts_table(exploration: Exploration) -> pl.DataFrame:
    """A row per fact, with where it comes from."""
    rows = [{name: getattr(fact, name) for name in COLUMNS} for fact in exploration.facts]
    table = pl.DataFrame(rows, schema=COLUMNS)
    origin = {name: pl.lit(value) for name, value in exploration.origin.items()}
    return table.select(
        pl.lit(exploration.subject).alias("of"),
        pl.all(),
        **origin,
        code_version=pl.lit(__version__),
    )


def parquet_bytes(exploration: Exploration) -> bytes:
    """The table of facts as a Parquet file."""
    buffer = io.BytesIO()
    facts_table(exploration).write_parquet(buffer)
    return buffer.getvalue()


def ratio_facts(
    section: Section, name: str, numerator: Vector, denominator: Vector
) -> Iterator[Fact]:
    """A ratio of totals; a mean of ratios of rows would be another quantity."""
    total = float(denominator.sum()) if len(denominator) else 0.0
    is_finite = bool(np.isfinite(numerator).all() and np.isfinite(denominator).all())
    value: float | str = "NON_FINITE_INPUT" if not is_finite else "ZERO_DENOMINATOR"
    if is_finite and total != 0:
        value = float(numerator.sum()) / total
    yield number_fact(section, name, "ratio_of_totals", value)
    share = float((denominator == 0).mean()) if len(denominator) else "N_TOO_SMALL"
    yield number_fact(section, name, "zero_denominator_share", share)


def level_facts(section: Section, name: str, column: pl.Series) -> Iterator[Fact]:
    """Units and share of each level, the largest first."""
    levels = column.cast(pl.String).fill_null(NO_LEVEL).alias("level").to_frame()
    counts = levels.group_by("level").len().sort(["len", "level"], descending=[True, False])
    for level, n in counts.iter_rows():
        yield number_fact(section, name, "n", n, level=level)
        yield number_fact(section, name, "share", n / levels.height, level=level)


def level_balance(
    name: str, column: pl.Series, arms: np.ndarray, order: tuple[str, ...]
) -> Iterator[Fact]:
    """Every level of a text column as a share."""
    levels = column.cast(pl.String).fill_null(NO_LEVEL)
    for level in sorted(levels.unique().to_list()):
        is_level = (levels == level).cast(pl.Float64).to_numpy()
        yield from balance_facts(f"{name}={level}", is_level, arms, order)
