"""What the command line shares: tables and JSON on stdout, everything else on stderr, exit codes.

0 fine    2 usage or configuration    3 contract    4 data or storage damaged    5 not estimable
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status

OK, USAGE, CONTRACT, DAMAGED, NOT_ESTIMABLE = 0, 2, 3, 4, 5

# Piped output has no width of its own; tables then take the room they need.
MIN_WIDTH = 130
MAX_WIDTH = 120  # of a sheet; words in wider ones go on a second line
out = Console(highlight=False, width=None if sys.stdout.isatty() else MIN_WIDTH)
err = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print strict JSON.")]
OutJson = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write the JSON to a file.")
]
OutMd = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write the tables as Markdown to a file.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table for people: in the terminal by rich, in a file as Markdown.

    `align` has one letter per column, l or r; numbers align right, which is the default. Columns
    without a name have no header; notes are sentences below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    notes: Sequence[str] = ()

    @property
    def is_number(self) -> list[bool]:
        """Whether each column aligns right."""
        return [letter == "r" for letter in self.align or "r" * len(self.columns)]


def deliver(
    document: Any,
    sheets: Sequence[Sheet],
    *,
    as_json: bool,
    out_json: Path | None,
    out_md: Path | None,
) -> None:
    """Write the files asked for, then print the document or its tables.

    Raises:
        ValueError: A file cannot be written; nothing is printed then.
    """
    write_files(document, sheets, out_json=out_json, out_md=out_md)
    if as_json:
        print_json(document)
        return
    for position, sheet in enumerate(sheets):
        if position:
            out.print()
        print_sheet(sheet)


def write_files(
    document: Any, sheets: Sequence[Sheet], *, out_json: Path | None, out_md: Path | None
) -> None:
    """Write the document as JSON and its tables as Markdown, each where a path is given.

    Raises:
        ValueError: A file cannot be written.
    """
    if out_json is not None:
        _write("--out-json", out_json, _json(document))
    if out_md is not None:
        _write("--out-md", out_md, "\n".join(markdown(sheet) for sheet in sheets))


def print_sheet(sheet: Sheet) -> None:
    """Print title, table and notes."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(sheet.columns))
    for name, is_number in zip(sheet.columns, sheet.is_number, strict=True):
        table.add_column(
            _escaped(name), justify="right" if is_number else "left", no_wrap=is_number
        )
    for row in sheet.rows:
        table.add_row(*map(_escaped, row))
    # A narrow terminal breaks the lines; cut to its width they would lose names and digits.
    wide = Console(file=out.file, highlight=False, width=MAX_WIDTH)
    wide.print(_escaped(sheet.title), soft_wrap=True)
    wide.print(table)
    for note in sheet.notes:
        wide.print(_escaped(note), soft_wrap=True)


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown: heading, pipe table, list of notes."""
    rules = ["---:" if is_number else ":---" for is_number in sheet.is_number]
    lines = [_pipes(sheet.columns), _pipes(rules), *map(_pipes, sheet.rows)]
    notes = ["", *(f"- {_one_line(note)}" for note in sheet.notes)] if sheet.notes else []
    return "\n".join([f"# {_one_line(sheet.title)}", "", *lines, *notes, ""])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write(flag: str, path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{flag} {path}: cannot be written ({error.strerror})"
        raise ValueError(msg) from None


def print_json(document: Any) -> None:
    """Strict JSON: NaN and infinity are errors."""
    sys.stdout.write(_json(document))


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def progress(text: str) -> Iterator[Status]:
    """A spinner on stderr that shows what the library logs; silent where nobody watches."""
    with err.status(text) as status:
        handler = _StatusHandler(status)
        logger = logging.getLogger("experiments_dagster")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield status
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


class _StatusHandler(logging.Handler):
    def __init__(self, status: Status) -> None:
        super().__init__(logging.INFO)
        self.status = status

    def emit(self, record: logging.LogRecord) -> None:
        self.status.update(record.getMessage())


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors people can act on into one message and the right exit code."""
    from experiments_dagster.config.errors import ConfigError
    from experiments_dagster.stats.errors import EstimationError

    try:
        yield
    except ConfigError as error:
        fail(str(error), USAGE)
    except EstimationError as error:
        fail(str(error), NOT_ESTIMABLE)
    except (ValueError, FileExistsError, FileNotFoundError, ModuleNotFoundError) as error:
        fail(str(error), USAGE)
    except RuntimeError as error:
        from experiments_dagster.storage.errors import ContractError, StorageError

        if isinstance(error, ContractError):
            fail(str(error), CONTRACT)
        if isinstance(error, StorageError):
            fail(str(error), DAMAGED)
        raise


def fail(message: str, code: int) -> None:
    """Print an error and leave."""
    show_error(message)
    raise SystemExit(code)


def show_error(message: str) -> None:
    """Print an error."""
    err.print(f"[bold red]error[/]: {_escaped(message)}", soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning."""
    err.print(f"[yellow]warning[/]: {_escaped(message)}", soft_wrap=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
