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
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import polars as pl

from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.row_advance import Advance
from experiments_dagster.frames.row_plan import Cohort, State, read_state, row_plan, write_state
from experiments_dagster.storage.atomic import canonical_json, exclusive, write_bytes
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import BusyError, StorageError
from experiments_dagster.storage.manifest import Manifest

logger = logging.getLogger(__name__)

SHARD_SIZE = 64
# Rows of one member and of a whole shard that are read into memory at once.
MEMBER_ROWS, SHARD_ROWS = 100_000, 2_000_000
KEPT_AFTER_LAST_LOOK = dt.timedelta(days=60)


class Shard:
    """The unit rows of up to 64 experiments that add up the same windows."""

    def __init__(self, folder: Path, members: Sequence[Experiment]) -> None:
        self.folder = folder
        self.members = members
        self.state = State()
        self._by_member: dict[str, pl.DataFrame] | None = None
        self._nothing: pl.DataFrame | None = None

    def files(self) -> list[Path]:
        """The files that hold the rows now, by day of first exposure."""
        return [self.folder / cohort.file for _, cohort in sorted(self.state.cohorts.items())]

    def cohorts(self) -> list[Cohort]:
        """The files with their sizes, by day of first exposure."""
        return [cohort for _, cohort in sorted(self.state.cohorts.items())]

    @property
    def types(self) -> dict[str, str]:
        """DuckDB types of the columns."""
        return self.state.types

    def loaded(self, slug: str) -> pl.DataFrame | None:
        """The rows of one member, by day of first exposure and unit; None where they are many.

        The rows of a shard with many small members are read once for all of them.
        """
        if self._by_member is None:
            self._by_member = {}
            rows = sum(cohort.rows for cohort in self.cohorts())
            if 0 < rows <= min(len(self.members) * MEMBER_ROWS, SHARD_ROWS):
                table = pl.read_parquet(self.files(), glob=False)
                parts = table.partition_by("experiment", as_dict=True, maintain_order=True)
                self._by_member = {str(key[0]): part for key, part in parts.items()}
                self._nothing = table.clear()
        if self._nothing is None:
            return None
        return self._by_member.get(slug, self._nothing)

    def forget(self) -> None:
        """Drop the rows from memory."""
        self._by_member, self._nothing = None, None

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
                published = _published(manifest, self.folder)
                write_state(self.folder, self.state, before=before, published=published)


def _published(manifest: Manifest, folder: Path) -> set[str]:
    """Files of a shard that published frames name, also those of experiments that have left it."""
    register = folder.parent / "members.json"
    slugs: list[str] = json.loads(register.read_bytes()) if register.exists() else []
    names = set[str]()
    for slug in slugs:
        pointer = manifest.layout.frame("user_frame", slug) / "current.json"
        if pointer.exists():
            paths = json.loads(pointer.read_bytes()).get("unit_rows") or ()
            names |= {Path(path).name for path in paths}
    return names


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
) -> Shard | None:
    """The shard of one experiment, brought to a cut-off.

    All experiments of its shard that are under way go along, since they share the new events. None
    where another run is at them, or where they cannot be advanced: the caller then makes its own.
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
    except duckdb.Error:
        logger.exception("unit rows not advanced experiment=%s", experiment.slug)
        return None
    return shard


def advanced_shards(
    project: Project, manifest: Manifest, experiments: Sequence[Experiment], *, as_of: dt.datetime
) -> Iterator[tuple[Shard | None, list[Experiment]]]:
    """Experiments for looks, shard by shard, each shard brought to the head of the manifest once.

    None stands for those that make their own frames: their plans cannot use kept rows, another run
    holds them, or something that they need is damaged, which their own look then says.

    Args:
        project: All its experiments that are under way go along in their shards.
        manifest: The landed batches.
        experiments: Those that are looked at.
        as_of: Aware instant of the looks.
    """
    wanted = {experiment.slug: experiment for experiment in experiments}
    others = (e for e in project.experiments.values() if e.slug not in wanted)
    under_way = [experiment for experiment in others if is_under_way(experiment, as_of)]
    plain = [experiment for experiment in experiments if experiment.is_summary]
    rest = [experiment for experiment in experiments if not experiment.is_summary]
    try:
        shards = shards_of(manifest, [*rest, *under_way])
    except BusyError:
        plain, shards = list(experiments), []
    if plain:
        yield None, plain
    for shard in shards:
        members = [member for member in shard.members if member.slug in wanted]
        if not members:
            continue
        try:
            shard.advance(project, manifest, cutoff=manifest.head)
        except (StorageError, duckdb.Error):
            # Each of them makes its own frames, or says itself what is wrong.
            logger.exception("unit rows not advanced folder=%s", shard.folder)
            yield None, members
        else:
            yield shard, members
            shard.forget()


def is_under_way(experiment: Experiment, as_of: dt.datetime) -> bool:
    """Whether an experiment has begun and its last look is not long ago."""
    if experiment.is_summary:
        return False
    last = dt.datetime.combine(experiment.last_look(), dt.time(), dt.UTC)
    return experiment.starts_at <= as_of < last + KEPT_AFTER_LAST_LOOK
