"""Looks as data arrive, and the same look from all events at once.

    python -m benchmarks.looks look DAY FOLDER       the look on a day of the experiment, from 2 on
    python -m benchmarks.looks rebuild DAY FOLDER    the same look when nothing was kept
    python -m benchmarks.looks estimate DAY FOLDER   its numbers alone, in one pass, not recorded

The data of a folder are landed once, a day at a time after the history, into FOLDER/looks. A
measured look starts where the one of the day before ended; it adds up the new day, takes the look
and records it. The clock starts after the imports.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import tempfile
from pathlib import Path

import duckdb
import narwhals as nw
import polars as pl

from benchmarks.clock import THREADS, Estimates, report
from benchmarks.generate import DAYS, FIRST_DAY, PRE_DAYS
from benchmarks.ours import numbers
from benchmarks.project import write_project
from experiments_dagster.config.project import Project
from experiments_dagster.frames.definitions import first_exposures
from experiments_dagster.frames.unit_frames import data_horizons
from experiments_dagster.looks.direct import direct_estimates, direct_units
from experiments_dagster.looks.take import take_look
from experiments_dagster.storage.landing import open_lander
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

DAY = dt.timedelta(days=1)


def as_of(day: int) -> dt.datetime:
    """The end of a day of the experiment; its first day is day 1."""
    return (FIRST_DAY + (PRE_DAYS + day) * DAY).replace(tzinfo=dt.UTC)


def batch_of(day: int) -> int:
    """The batch that a day of the experiment lands in; the first holds the history."""
    return 1 + day


def landed(data: Path, folder: Path) -> Project:
    """Land the data of a folder day by day, once."""
    project = write_project(folder, ["checkout"])
    done = folder / "landed"
    if done.exists():
        return project
    exposures = pl.read_parquet(data / "exposures.parquet")
    with open_lander(project, remember_ids=True) as lander:
        for day in range(DAYS):
            name, start = f"day-{day:02d}.parquet", FIRST_DAY + day * DAY
            os.link(data / "events" / name, folder / "incoming" / "events" / name)
            mine = exposures.filter(pl.col("ts").is_between(start, start + DAY, closed="left"))
            if mine.height:
                mine.write_parquet(folder / "incoming" / "exposures" / name)
            if day >= PRE_DAYS - 1:
                kind = "history" if day == PRE_DAYS - 1 else "data"
                now = (start + DAY + dt.timedelta(hours=1)).replace(tzinfo=dt.UTC)
                lander.land(arrival_day=start.date(), now=now, kind=kind)
    done.touch()
    return project


def before(data: Path, day: int) -> Path:
    """A project that knows everything up to the day before, and has looked on that day."""
    folder = data / "looks" / f"before-{day:02d}"
    if not (folder / "ready").exists():
        base = landed(data, data / "looks" / "landed")
        shutil.rmtree(folder, ignore_errors=True)
        copy(base.folder, folder)
        manifest = Layout(folder / "store").manifest
        for path in manifest.glob("*.json"):
            if int(path.stem) > batch_of(day - 1):
                path.unlink()
        project = write_project(folder, ["checkout"])
        look(project, day - 1)
        (folder / "ready").touch()
    return folder


def copy(source: Path, target: Path) -> None:
    """Copy a project by links: files are replaced there, never changed in place."""
    shutil.copytree(source, target, copy_function=os.link)


def look(project: Project, day: int) -> Estimates:
    """Take the look of a day."""
    manifest = Manifest(Layout(project.storage)).refresh()
    attempt = take_look(project, manifest, project.experiments["checkout"], as_of=as_of(day))
    return numbers(attempt.look, is_adjusted=True)


def rebuild(project: Project, day: int) -> Estimates:
    """The look when all that can be made from landed files has to be made again."""
    layout = Layout(project.storage)
    for folder in (layout.unit_days("events", "-").parent, layout.unit_rows("-").parent):
        shutil.rmtree(folder)
    return look(project, day)


def estimate(project: Project, day: int) -> Estimates:
    """The same effects in one pass over all landed events, not recorded."""
    experiment = project.experiments["checkout"]
    manifest = Manifest(Layout(project.storage)).refresh()
    cutoff = batch_of(day)
    files = {
        source: [str(manifest.verified(t)) for _, t in manifest.tables(source, up_to=cutoff)]
        for source in ("events", "exposures")
    }
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of(day))
    naive = {source: at.replace(tzinfo=None) for source, at in horizons.items()}
    with duckdb.connect() as connection:
        connection.execute(f"SET threads={THREADS}")
        connection.execute("SET enable_progress_bar=false")
        connection.execute("SET preserve_insertion_order=false")
        who = first_exposures(
            nw.from_native(connection.read_parquet(files["exposures"])),
            experiment="checkout",
            starts_at=experiment.starts_at.replace(tzinfo=None),
            ends_at=min(experiment.ends_at.replace(tzinfo=None), naive["events"]),
            segments=(),
        )
        events = {"events": nw.from_native(connection.read_parquet(files["events"]))}
        units = direct_units(experiment, who, events, naive, connection=connection)
    return numbers(direct_estimates(experiment, units), is_adjusted=True)


ACTIONS = {"look": look, "rebuild": rebuild, "estimate": estimate}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prepare", *ACTIONS])
    parser.add_argument("day", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    # The clock starts after the imports, also those that are put off until their first use.
    import pandera.polars  # noqa: F401
    import scipy.optimize  # noqa: F401
    from pandera.backends.polars.register import register_polars_backends

    register_polars_backends()

    start = before(given.folder, given.day)
    if given.what == "prepare":
        return
    with tempfile.TemporaryDirectory(dir=given.folder / "looks") as scratch:
        folder = Path(scratch) / "project"
        copy(start, folder)
        name = f"{batch_of(given.day):06d}.json"
        os.link(
            Layout(given.folder / "looks" / "landed" / "store").manifest / name,
            Layout(folder / "store").manifest / name,
        )
        project = write_project(folder, ["checkout"])
        report(lambda: ACTIONS[given.what](project, given.day))


if __name__ == "__main__":
    main()
