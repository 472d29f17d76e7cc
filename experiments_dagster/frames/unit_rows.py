"""Unit rows kept from look to look: what is new is added, what it touches is reopened.

One row per (experiment, unit): first exposure and the totals over its windows, whatever has been
seen of them so far. Nothing in a row depends on the time of the look, so rows serve every look
after them. Experiments that add up the same windows share a *shard*, up to 64 of them:

    frames/unit_rows/<key>/<shard>/state.json             cut-off, experiments, files
                                  /2026-01-19.000028.parquet   units first exposed on that day

`advance` takes a shard from its cut-off to a later one:

    new exposures   of a known unit       count them; a second arm shows; an earlier first exposure
                                          moves the unit, whose totals are made anew
                    of a new unit         its totals are made from all batches
    new events      in a window           their sums are added to the rows they fall into
    all else        stays as it is, file by file

Sums are exact where values are decimals or counts, so the result equals that of a rebuild; with
floating values it does to rounding. The rows are a private cache of one writer: damaged or missing,
they are made again from the partials.

Hand-written for DuckDB; `definitions` says what the numbers are, and the tests hold one against the
other.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.row_advance import Advance
from experiments_dagster.frames.row_plan import State, read_state, row_plan, write_state
from experiments_dagster.storage.atomic import canonical_json, exclusive, write_bytes
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import BusyError
from experiments_dagster.storage.manifest import Manifest

SHARD_SIZE = 64
KEPT_AFTER_LAST_LOOK = dt.timedelta(days=60)


class Shard:
    """The unit rows of up to 64 experiments that add up the same windows."""

    def __init__(self, folder: Path, members: Sequence[Experiment]) -> None:
        self.folder = folder
        self.members = members
        self.state = State()

    def files(self) -> list[Path]:
        """The files that hold the rows now, by day of first exposure."""
        return [self.folder / cohort.file for _, cohort in sorted(self.state.cohorts.items())]

    def read(self, slugs: Sequence[str]) -> pl.DataFrame:
        """The rows of some members: by day of first exposure, experiment and unit."""
        columns = row_plan(self.members).columns
        files = self.files()
        if not files:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        frame = pl.scan_parquet(files, glob=False)
        if len(self.members) > len(slugs):
            frame = frame.filter(pl.col("experiment").is_in(list(slugs)))
        return frame.select(columns).collect()

    def advance(self, project: Project, manifest: Manifest, *, cutoff: int) -> None:
        """Bring the rows of the members, and of no other experiment, to a cut-off.

        Args:
            project: Its measures are aggregated together.
            manifest: The landed batches.
            cutoff: The last batch that counts.

        Raises:
            BusyError: Another run is at it.
            DataDamagedError: A landed file that is needed is damaged.
        """
        lock = self.folder / ".lock"
        with exclusive(lock, lambda owner: f"unit rows are being made by {owner}; try again later"):
            before = read_state(self.folder)
            with connect(project.platform, manifest.layout) as duck:
                step = Advance(
                    duck,
                    project,
                    manifest,
                    self.folder,
                    plan=row_plan(self.members),
                    state=before,
                    members=self.members,
                    cutoff=cutoff,
                )
                self.state = step.run()
            if self.state is not before:
                write_state(self.folder, self.state, before=before)


def shards_of(manifest: Manifest, experiments: Sequence[Experiment]) -> list[Shard]:
    """Put experiments that add up the same windows together, always at the same place.

    Raises:
        BusyError: Another run is doing the same.
    """
    by_key: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_key.setdefault(row_plan([experiment]).key, []).append(experiment)
    return [shard for key, members in by_key.items() for shard in _placed(manifest, key, members)]


def _placed(manifest: Manifest, key: str, members: Sequence[Experiment]) -> list[Shard]:
    """The shards of one key; each experiment keeps the place that it first got."""
    folder = manifest.layout.unit_rows(key)
    register = folder / "members.json"
    with exclusive(folder / ".lock", lambda owner: f"unit rows are being placed by {owner}"):
        known: list[str] = json.loads(register.read_bytes()) if register.exists() else []
        new = [experiment.slug for experiment in members if experiment.slug not in known]
        if new:
            known += new
            write_bytes(register, canonical_json(known))
    place = {slug: position // SHARD_SIZE for position, slug in enumerate(known)}
    by_shard: dict[int, list[Experiment]] = {}
    for experiment in members:
        by_shard.setdefault(place[experiment.slug], []).append(experiment)
    return [Shard(folder / f"{number:03d}", group) for number, group in sorted(by_shard.items())]


def kept_rows(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
) -> pl.DataFrame | None:
    """The rows of one experiment at a cut-off, by day of first exposure and unit.

    All experiments of its shard that are under way go along, since they share the new events. None
    where another run is at them: the caller then makes its own.
    """
    key = row_plan([experiment]).key
    others = (e for e in project.experiments.values() if e.slug != experiment.slug)
    alike = [e for e in others if is_under_way(e, as_of) and row_plan([e]).key == key]
    try:
        shards = shards_of(manifest, [experiment, *alike])
        shard = next(shard for shard in shards if experiment in shard.members)
        shard.advance(project, manifest, cutoff=cutoff)
    except BusyError:
        return None
    return shard.read([experiment.slug])


def is_under_way(experiment: Experiment, as_of: dt.datetime) -> bool:
    """Whether an experiment has begun and its last look is not long ago."""
    if experiment.is_summary:
        return False
    last = dt.datetime.combine(experiment.last_look(), dt.time(), dt.UTC)
    return experiment.starts_at <= as_of < last + KEPT_AFTER_LAST_LOOK
