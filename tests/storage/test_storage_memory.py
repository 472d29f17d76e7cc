"""The configured memory limit: what does not fit is spilled, and the answer is the same."""

import resource

import polars as pl
import pytest

from experiments_dagster.config.platform import Platform
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.layout import Layout

SOURCES = {"events": {"kind": "events", "path": "x", "columns": {"unit": "u", "timestamp": "t"},
                      "event_name": "e"}}  # fmt: skip
UNITS, REPEATS = 5_000_000, 2
QUERY = """SELECT count(*) AS units, sum(n) AS rows, min(first) AS lowest
    FROM (SELECT unit, count(*) AS n, min(seen) AS first FROM {files} GROUP BY unit)"""


def platform(limit):
    return Platform.model_validate(
        {"schema_version": 1, "sources": SOURCES, "memory_limit": limit, "threads": 2}
    )


@pytest.mark.slow
def test_four_times_the_limit_finishes_by_spilling(tmp_path):
    layout = Layout(tmp_path)
    numbers = pl.int_range(UNITS, eager=True)
    ids = pl.select(
        pl.format("{}-of-a-unit-with-a-long-name", numbers.hash(seed=1).cast(pl.String))
    ).to_series()
    for part in range(REPEATS):
        frame = pl.DataFrame({"unit": ids.shuffle(seed=part), "seen": numbers + part})
        frame.write_parquet(tmp_path / f"{part}.parquet")
    # One row of the aggregate: 16 bytes of text header, some 48 of text, two 8-byte sums.
    needed = UNITS * 80
    limit = needed // 4 // 1_000_000
    query = QUERY.format(files=f"read_parquet('{tmp_path}/*.parquet')")
    with connect(platform(f"{limit}MB"), layout) as duck:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_oublock
        (row,) = duck.query(query).iter_rows()
        spilled = resource.getrusage(resource.RUSAGE_SELF).ru_oublock - before
    assert row == (UNITS, UNITS * REPEATS, 0)
    assert spilled > 0  # it did not fit
    assert not list(layout.spill.iterdir())  # and left nothing behind
