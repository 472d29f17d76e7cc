"""The floor of every analysis: DuckDB reads the needed columns of all event files, nothing else.

    python -m benchmarks.bare_scan DATA_FOLDER plain|ids

`ids` reads the event ids as well, which an analysis that removes repeated events has to look at.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from benchmarks.clock import THREADS, Estimates, run

SCANS = {
    "plain": """
        SELECT count(*), max(user_id), max(ts), max(event), sum(value)
        FROM read_parquet($events)
    """,
    "ids": """
        SELECT count(*), max(user_id), max(ts), max(event), sum(value), max(event_id)
        FROM read_parquet($events)
    """,
}


def scan(folder: Path, scenario: str) -> Estimates:
    """Read the columns; there is nothing to estimate."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}")
    events = str(folder / "events" / "*.parquet")
    connection.execute(SCANS[scenario], {"events": events}).fetchall()
    return {}


if __name__ == "__main__":
    run(scan, *SCANS)
