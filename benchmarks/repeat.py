"""The same events, one in a hundred of them delivered twice: the data of the deduplicating cases.

python -m benchmarks.repeat .bench/data/M .bench/data/M-repeated
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

EVERY = 100


def repeat(source: Path, folder: Path) -> None:
    """Link the files of a data set and add one with every hundredth event again."""
    done = folder / "done.json"
    if done.exists():
        return
    (folder / "events").mkdir(parents=True, exist_ok=True)
    days = sorted((source / "events").glob("day-*.parquet"))
    for path in [*days, source / "exposures.parquet"]:
        link = folder / path.relative_to(source)
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    again = pl.concat([pl.read_parquet(day).gather_every(EVERY) for day in days])
    again.write_parquet(folder / "events" / "again.parquet", compression="zstd")
    done.write_text((source / "done.json").read_text())


def main() -> None:
    """Write the folder if it is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    repeat(arguments.source, arguments.folder)


if __name__ == "__main__":
    main()
