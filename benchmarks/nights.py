"""A night of many experiments: from new events to recorded looks, in one Dagster run.

    python -m benchmarks.nights night EXPERIMENTS FOLDER     through Dagster, as the schedule does
    python -m benchmarks.nights plain EXPERIMENTS FOLDER     the same calls without Dagster

Every experiment has 10,000 of the users of FOLDER (events of `generate.py`) in two arms, five
metrics over 7 days after exposure and CUPED; a user is in many experiments. The night is the one
after day 8, the first with closed windows; the one before has made the unit rows. What is measured
begins with the day's batch landed: unit rows, looks, ledgers, tables, checks.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import shutil
import tempfile
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from benchmarks.clock import Estimates, report
from benchmarks.generate import FIRST_DAY, PRE_DAYS, SEED
from benchmarks.looks import DAY, as_of, batch_of, copy
from benchmarks.project import TWO_ARMS, write_project
from experiments_dagster.automation.looks_run import nightly_looks
from experiments_dagster.config.project import Project, load_project
from experiments_dagster.frames.unit_rows import advanced_shards
from experiments_dagster.looks.publish import NightPublication
from experiments_dagster.looks.take import take_look
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.landing import open_lander
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

UNITS, NIGHT = 10_000, 8


def slugs(n: int) -> list[str]:
    """Names of the experiments."""
    return [f"trial-{number:04d}" for number in range(n)]


def exposures(users: pl.Series, n: int) -> pl.DataFrame:
    """Exposures of all experiments on their first day: 10,000 users each, drawn anew."""
    rng = np.random.default_rng([SEED, 7])
    parts = []
    for slug in slugs(n):
        who = rng.choice(len(users), min(UNITS, len(users)), replace=False)
        micros = pl.Series(rng.integers(0, 86_400_000_000, len(who))).cast(pl.Duration("us"))
        arms = pl.Series(["control", "bold"]).gather(rng.integers(0, 2, len(who)))
        part = pl.DataFrame({"user_id": users.gather(who), "variant": arms, "ts": micros})
        start = FIRST_DAY + PRE_DAYS * DAY
        parts.append(part.with_columns(pl.col("ts") + start, experiment=pl.lit(slug)))
    return pl.concat(parts)


def prepared(data: Path, n: int) -> Path:
    """A project that has landed up to the night and has looked the night before."""
    folder = data / "nights" / str(n)
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    project = write_project(folder, slugs(n), variants=TWO_ARMS, days=7)
    users = pl.read_parquet(data / "exposures.parquet")["user_id"]
    with open_lander(project, remember_ids=True) as lander:
        for day in range(PRE_DAYS + NIGHT):
            name, start = f"day-{day:02d}.parquet", FIRST_DAY + day * DAY
            os.link(data / "events" / name, folder / "incoming" / "events" / name)
            if day == PRE_DAYS:
                exposures(users, n).write_parquet(folder / "incoming" / "exposures" / name)
            if day >= PRE_DAYS - 1:
                kind = "history" if day == PRE_DAYS - 1 else "data"
                now = (start + DAY + dt.timedelta(hours=1)).replace(tzinfo=dt.UTC)
                lander.land(arrival_day=start.date(), now=now, kind=kind)
    last = Layout(project.storage).manifest / f"{batch_of(NIGHT):06d}.json"
    last.rename(folder / "last.json")
    looks(project, NIGHT - 1)
    (folder / "ready").touch()
    return folder


def looks(project: Project, day: int) -> None:
    """Take all looks of a night without Dagster."""
    manifest = Manifest(Layout(project.storage)).refresh()
    publication = NightPublication(manifest.layout)
    wanted = list(project.experiments.values())
    for shard, members in advanced_shards(project, manifest, wanted, as_of=as_of(day)):
        for experiment in members:
            attempt = take_look(project, manifest, experiment, as_of=as_of(day), shard=shard)
            assert attempt.is_new
            publication.add(attempt.ledger, attempt.look)
    assert publication.write() == {}
    publish_catalog(manifest.layout)


def plain(folder: Path, _scratch: Path) -> Estimates:
    """A night without Dagster, from the configuration on."""
    looks(load_project(folder), NIGHT)
    return {}


def night(folder: Path, scratch: Path) -> Estimates:
    """A night as one run of the job, with SQLite storage for its events."""
    home = scratch / "dagster"
    home.mkdir()
    config = {"as_of": str(as_of(NIGHT).date()), "draw": False}
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        result = nightly_looks.execute_in_process(
            instance=instance,
            resources={"experiments": ExperimentsProject(folder=str(folder))},
            run_config={"ops": {"take_looks": {"config": config}}},
        )
        assert result.success
    return {}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prepare", "night", "plain"])
    parser.add_argument("experiments", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # The clock starts after the imports, also those that are put off until their first use.
    import pandera.backends.polars.register
    import pandera.polars  # noqa: F401
    import scipy.optimize  # noqa: F401

    start = prepared(given.folder, given.experiments)
    if given.what == "prepare":
        return
    with tempfile.TemporaryDirectory(dir=given.folder / "nights") as scratch:
        folder = Path(scratch) / "project"
        copy(start, folder)
        manifest = Layout(folder / "store").manifest
        os.link(start / "last.json", manifest / f"{batch_of(NIGHT):06d}.json")
        run = night if given.what == "night" else plain
        report(lambda: run(folder, Path(scratch)))


if __name__ == "__main__":
    main()
