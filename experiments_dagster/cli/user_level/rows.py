"""The file of an analysis: its rows, the two arms that are compared, its columns as numbers.

Values of ids never stand in a message. Labels of arms do: they are configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.stats.design.sample_ratio import chi_square, sample_ratio_outcome
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.covariates import (
    missing_counts_differ,
    missing_differs_by_arm,
)

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNIT_COLUMNS = ("user_id", "uid", "customer_id", "client_id", "id")
# What people's exports write for a value that is not there.
MISSING_TEXT = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
MISSING_ALPHA = 0.001  # METHODS 3.3
MANY_LABELS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmColumns:
    """Names that say which rows are compared.

    Args:
        group: Column of the arm.
        control: Its value for the control.
        test: Its value for the treatment.
        unit: Column of the unit id; None where there is none.
    """

    group: str
    control: str
    test: str
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoArms:
    """The rows of control and test in file order.

    Args:
        path: The file.
        table: All columns, shape (n,).
        is_test: Shape (n,).
        rows: Position of each row in the file, shape (n,).
        n_file: Rows of the file.
        assigned: Units of control and test in the file, with or without an outcome: those that
            the sample ratio is about.
        warnings: What was left out, or looks wrong.
    """

    path: Path
    table: pl.DataFrame
    is_test: Mask
    rows: NDArray[np.int64]
    n_file: int
    assigned: tuple[int, int]
    warnings: tuple[str, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of control and test."""
        n_test = int(self.is_test.sum())
        return len(self.is_test) - n_test, n_test

    def keep(self, mask: Mask) -> TwoArms:
        """The same with fewer rows."""
        return TwoArms(
            path=self.path,
            table=self.table.filter(pl.Series(mask)),
            is_test=self.is_test[mask],
            rows=self.rows[mask],
            n_file=self.n_file,
            assigned=self.assigned,
            warnings=self.warnings,
        )


def read_file(path: Path) -> pl.DataFrame:
    """All columns of a CSV or Parquet file.

    Raises:
        ValueError: Unknown file type, or the file cannot be read as what its name says.
    """
    if not path.is_file():
        msg = f"--input {path}: no such file"
        raise ValueError(msg)
    if path.suffix not in (".parquet", ".pq", ".csv"):
        msg = f"--input {path}: unknown file type {path.suffix!r}; use .csv or .parquet"
        raise ValueError(msg)
    try:
        if path.suffix == ".csv":
            # All rows decide on the types: a late 1.5 after a thousand integers is no error.
            table = pl.read_csv(path, infer_schema_length=None, null_values=MISSING_TEXT)
        else:
            table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        # The library's message may quote rows.
        msg = f"--input {path}: cannot be read as {path.suffix} ({type(error).__name__})"
        raise ValueError(msg) from None
    if not table.height:
        msg = f"--input {path}: has no rows"
        raise ValueError(msg)
    return table


def two_arms(path: Path, table: pl.DataFrame, columns: ArmColumns) -> TwoArms:
    """Choose the rows of the two arms.

    Raises:
        ValueError: A column or an arm is missing, or a unit has several rows.
    """
    require_columns(path, table, {"--group-col": columns.group})
    if columns.control == columns.test:
        msg = f"--control and --test are both {columns.control!r}; need two arms"
        raise ValueError(msg)
    groups = table[columns.group].cast(pl.String)
    labels = groups.alias("arm").value_counts(sort=True, name="n")
    counts = {label: n for label, n in labels.iter_rows() if label is not None}
    for flag, arm in (("--control", columns.control), ("--test", columns.test)):
        if arm not in counts:
            shown = ", ".join(sorted(counts)[:MANY_LABELS]) or "no values"
            msg = f"{flag} {arm}: no row of {path} is in arm {arm!r}; {columns.group!r} has {shown}"
            raise ValueError(msg)
    is_chosen = groups.is_in([columns.control, columns.test]).fill_null(value=False).to_numpy()
    chosen = TwoArms(
        path=path,
        table=table,
        is_test=(groups == columns.test).fill_null(value=False).to_numpy(),
        rows=np.arange(table.height),
        n_file=table.height,
        assigned=(counts[columns.control], counts[columns.test]),
        warnings=tuple(_exclusions(columns, groups, counts)),
    ).keep(is_chosen)
    return _with_unit_check(chosen, columns)


def require_columns(path: Path, table: pl.DataFrame, named: Mapping[str, str]) -> None:
    """Refuse columns, by flag, that the file does not have."""
    for flag, column in named.items():
        if column not in table.columns:
            msg = f"{flag} {column}: {path} has no such column; it has {', '.join(table.columns)}"
            raise ValueError(msg)


def unit_column(table: pl.DataFrame) -> str | None:
    """The first column that is named like a unit id."""
    return next((name for name in UNIT_COLUMNS if name in table.columns), None)


def numbers(arms: TwoArms, flag: str, column: str) -> Vector:
    """A column as floats, NaN where a value is missing, shape (n,).

    Raises:
        ValueError: The column is missing, holds text, or infinite values.
    """
    require_columns(arms.path, arms.table, {flag: column})
    series = arms.table[column]
    # A column of a CSV without any value has no type of its own.
    is_empty = series.null_count() == series.len()
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean or is_empty):
        wrong = series.len() - series.cast(pl.String).cast(pl.Float64, strict=False).count()
        bad = wrong - series.null_count()
        what = f"{bad} of {series.len()} values are not" if bad else f"it has type {series.dtype}"
        msg = f"{flag} {column}: must hold numbers; {what}"
        raise ValueError(msg)
    values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    n_infinite = int(np.isinf(values).sum())
    if n_infinite:
        msg = f"{flag} {column}: {n_infinite} of {series.len()} values are infinite"
        raise ValueError(msg)
    return np.array(values)


def complete_rows(
    arms: TwoArms, columns: Mapping[str, Vector], named: Mapping[str, str]
) -> tuple[Mask, list[str]]:
    """Which rows have a value in every column, and a warning for each column that has not.

    A row without an outcome cannot be compared. Leaving it out is safe only where values are
    missing alike in both arms, so that is tested and said.
    """
    is_complete = np.ones(len(arms.is_test), dtype=np.bool_)
    warnings = []
    for flag, values in columns.items():
        is_missing = np.isnan(values)
        is_complete &= ~is_missing
        counts = _by_arm(is_missing, arms.is_test)
        if not sum(counts):
            continue
        p = missing_counts_differ(counts, arms.counts)
        text = (
            f"{flag} {named[flag]}: {counts[0]} of {arms.counts[0]} control and {counts[1]} of "
            f"{arms.counts[1]} test rows have no value and are left out of every block"
        )
        if p < MISSING_ALPHA:
            text += f"; the arms differ in that (p = {p:.2g}): the comparison may be biased"
        warnings.append(text)
    return is_complete, warnings


def check_missing_alike(is_missing: Mask, is_test: Mask, subject: str) -> None:
    """Refuse a pre-period that is missing more often in one arm: then it is none.

    Raises:
        EstimationError: NOT_IDENTIFIED, naming the subject.
    """
    if is_missing.any() and missing_differs_by_arm(is_missing, is_test) < MISSING_ALPHA:
        detail = "it is missing in different shares of the arms, so it is no pre-period"
        raise EstimationError("NOT_IDENTIFIED", subject, detail)


def sample_ratio(
    counts: Mapping[str, int], shares: Mapping[str, float] | None
) -> tuple[dict[str, Any], str | None]:
    """The sample-ratio test of distinct units per arm, and a warning where it fails.

    Args:
        counts: Units that were assigned to each arm, whatever became of their outcomes.
        shares: Configured shares; equal ones where they are not given.

    Raises:
        ValueError: Shares that do not name these arms.
    """
    configured = shares or dict.fromkeys(counts, 1 / len(counts))
    if configured.keys() != counts.keys():
        msg = f"--shares names {', '.join(configured)}; the arms are {', '.join(counts)}"
        raise ValueError(msg)
    test = chi_square([counts[arm] for arm in counts], [configured[arm] for arm in counts])
    outcome = sample_ratio_outcome(counts, configured, at_planned_end=True)
    verdict = "ok" if outcome.passed else "block" if outcome.severity == "ERROR" else "warn"
    result = {
        "counts": dict(counts),
        "shares": {arm: configured[arm] for arm in counts},
        "shares_given": shares is not None,
        "chi2": test.statistic,
        "df": test.degrees_of_freedom,
        "p_value": test.p_value,
        "verdict": verdict,
    }
    against = "the given shares" if shares else "equal shares (give --shares where they are not)"
    warning = f"sample ratio against {against}: {outcome.message}"
    return result, None if outcome.passed else warning


def parse_shares(text: str | None) -> dict[str, float] | None:
    """Shares such as control=0.9,test=0.1.

    Raises:
        ValueError: Not of that form, not above 0, or not adding up to 1.
    """
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    try:
        shares = {arm.strip(): float(share) for arm, _, share in parts}
    except ValueError:
        shares = {}
    if len(shares) != len(parts) or not all(share > 0 for share in shares.values()):
        msg = f"--shares {text!r}: must be arm=share separated by commas, each share above 0"
        raise ValueError(msg)
    if abs(sum(shares.values()) - 1) > 1e-6:  # noqa: PLR2004
        msg = f"--shares {text!r}: must add up to 1, they make {sum(shares.values()):g}"
        raise ValueError(msg)
    return shares


def _by_arm(mask: Mask, is_test: Mask) -> tuple[int, int]:
    n_test = int((mask & is_test).sum())
    return int(mask.sum()) - n_test, n_test


def _distinct(units: pl.Series, is_test: Mask) -> tuple[int, int]:
    """Different units of each arm; rows without an id count one by one."""
    arms = (units.filter(pl.Series(~is_test)), units.filter(pl.Series(is_test)))
    control, test = (own.drop_nulls().n_unique() + own.null_count() for own in arms)
    return control, test


def _exclusions(columns: ArmColumns, groups: pl.Series, counts: Mapping[str, int]) -> list[str]:
    others = {arm: n for arm, n in counts.items() if arm not in (columns.control, columns.test)}
    texts = []
    if others:
        listed = ", ".join(f"{arm} {n}" for arm, n in sorted(others.items())[:MANY_LABELS])
        texts.append(f"rows of other arms take no part in any number: {listed}")
    if groups.null_count():
        texts.append(f"{groups.null_count()} rows without a value in {columns.group!r} left out")
    return texts


def _with_unit_check(arms: TwoArms, columns: ArmColumns) -> TwoArms:
    """Refuse units with several rows; say it where the id column was only guessed."""
    name = columns.unit or unit_column(arms.table)
    if name is None:
        return arms
    require_columns(arms.path, arms.table, {"--unit-col": name})
    units = arms.table[name]
    n_missing = units.null_count()
    n_repeated = units.len() - n_missing - units.drop_nulls().n_unique()
    found: Sequence[str] = [
        text
        for n, text in (
            (n_missing, f"{n_missing} rows have no unit id"),
            (n_repeated, f"{n_repeated} rows repeat a unit of an earlier row"),
        )
        if n
    ]
    if not found:
        return arms
    hint = "the analysis needs one row per randomised unit: add up the rows of a unit first"
    msg = f"column {name!r}: {' and '.join(found)}; {hint}"
    if columns.unit is not None:
        raise ValueError(f"--unit-col {msg}")
    return TwoArms(
        path=arms.path,
        table=arms.table,
        is_test=arms.is_test,
        rows=arms.rows,
        n_file=arms.n_file,
        assigned=_distinct(units, arms.is_test),
        warnings=(*arms.warnings, f"{msg}, or name the right column by --unit-col"),
    )
