"""What the command line shares: tables and JSON on stdout, everything else on stderr, exit codes.

0 fine    2 usage or configuration    3 contract    4 data or storage damaged    5 not estimable
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.status import Status

OK, USAGE, CONTRACT, DAMAGED, NOT_ESTIMABLE = 0, 2, 3, 4, 5

# Piped output has no width of its own; tables then take the room they need.
MIN_WIDTH = 130
out = Console(highlight=False, width=None if sys.stdout.isatty() else MIN_WIDTH)
err = Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """Strict JSON: NaN and infinity are errors."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
