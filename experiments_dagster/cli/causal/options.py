"""The flags that verbs of designs share."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

InputFile = Annotated[Path, typer.Option("--input", help="CSV or Parquet.")]
OutDir = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder for results.json, report.html, tables and plots."
    ),
]
Alpha = Annotated[float, typer.Option(help="1 - confidence level.")]
Seed = Annotated[int, typer.Option(help="Of what is random.")]
OutcomeColumn = Annotated[str, typer.Option("--y", help="Column of the outcome.")]
Covariates = Annotated[str | None, typer.Option(help="Columns known before, with commas between.")]


class StudyOutputs(NamedTuple):
    """Where a study goes."""

    out: Path | None
    out_json: Path | None
    out_md: Path | None
    as_json: bool


def moment(flag: str, text: str | None) -> int | dt.date | None:
    """A whole number such as a year, or a date.

    Raises:
        ValueError: It is neither.
    """
    if text is None:
        return None
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else dt.date.fromisoformat(text)
    except ValueError:
        msg = f"{flag} {text!r}: must be a whole number such as 1989, or a date such as 2026-01-31"
        raise ValueError(msg) from None


def listed(text: str | None) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
