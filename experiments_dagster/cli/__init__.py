"""The command line. Heavy modules are imported inside the commands, so that help is instant."""

from __future__ import annotations

from experiments_dagster.cli.app import app


def main() -> None:
    """Entry point of `experiments`."""
    app()
