"""Landing: each incoming file once, checked, deduplicated, into one immutable batch.

Per file, always: rows in = kept + deduplicated + quarantined. A file that cannot be read as its
source says is set aside whole with the reason and stops nothing else. Duplicates by event id:
the first by (batch, file, row) stays, for ever; the same id with other content is quarantined.

Row rules (quarantine reasons): missing_unit, missing_time, time_out_of_range, missing_event,
missing_event_id, non_finite_value, negative_value, missing_experiment, missing_variant,
conflicting_duplicate; for moments also missing_metric, missing_n, negative_n, fractional_n,
missing_moment, negative_variance, impossible_covariance. Moments have no ids: a repeated row
stays, and of the rows for one time the one landed last counts.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from experiments_dagster.config.platform import ExposureSource
from experiments_dagster.config.project import Project
from experiments_dagster.storage.atomic import exclusive, sha256_file, staged
from experiments_dagster.storage.duck import Duck, connect, quote_name, quote_text
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.incoming import NewFile, incoming_root, new_files
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import (
    Batch,
    IncomingFile,
    LandedTable,
    Manifest,
    SourceBatch,
)
from experiments_dagster.storage.normalise import (
    FileRefusedError,
    read_columns,
    select_rows,
    value_type,
)
from experiments_dagster.storage.seen_ids import id_files, write_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingReport:
    """What one landing did. `batch` is None when there was nothing new.

    `problems` name files that were set aside or changed after landing.
    """

    batch: Batch | None
    problems: tuple[str, ...]


@contextlib.contextmanager
def open_lander(project: Project, *, remember_ids: bool = False) -> Iterator[Lander]:
    """Hold the landing lock and one connection for one landing or many in a row.

    Args:
        project: Sources and storage.
        remember_ids: Keep the ids seen so far in memory instead of scanning the landed files
            once per batch; worth it when many batches land in a row.

    Raises:
        BusyError: Another process is landing.
        DataDamagedError: The manifest is damaged.
    """
    layout = Layout(project.storage)
    lock = layout.root / "landing" / ".lock"
    sources = project.platform.sources.values()
    attach = {
        f"source_{index}": project.folder / source.database
        for index, source in enumerate(sources)
        if source.database is not None and (project.folder / source.database).exists()
    }
    folders = {incoming_root(project.folder, source) for source in sources if source.path}
    with (
        exclusive(lock, lambda owner: f"landing is running already in {owner}; try again later"),
        connect(project.platform, layout, folders=sorted(folders), attach=attach) as duck,
    ):
        yield Lander(project, Manifest(layout).refresh(), duck, remember_ids=remember_ids)


def land(
    project: Project,
    *,
    arrival_day: dt.date,
    now: dt.datetime,
    kind: Literal["data", "history"] = "data",
) -> LandingReport:
    """Land everything new once; see `Lander.land`."""
    with open_lander(project) as lander:
        return lander.land(arrival_day=arrival_day, now=now, kind=kind)


class Lander:
    """Lands batches one after another; made by `open_lander`."""

    def __init__(
        self, project: Project, manifest: Manifest, duck: Duck, *, remember_ids: bool
    ) -> None:
        self.project = project
        self.manifest = manifest
        self.duck = duck
        self.remember_ids = remember_ids
        self.remembered: set[str] = set()

    def land(
        self,
        *,
        arrival_day: dt.date,
        now: dt.datetime,
        kind: Literal["data", "history"] = "data",
    ) -> LandingReport:
        """Land everything new of all sources as one batch.

        Args:
            arrival_day: The label of the batch.
            now: Aware time of landing; events more than a day after it are quarantined.
            kind: `history` when the true arrival days are unknown.

        Raises:
            DataDamagedError: An earlier landed file, needed to find duplicates, is damaged.
        """
        sources: dict[str, SourceBatch] = {}
        problems: list[str] = []
        for name in self.project.platform.sources:
            landing = _SourceLanding(self, name, now)
            known = self.manifest.known_files(name)
            files, changed = new_files(self.project.folder, landing.source, known)
            problems += changed
            if files:
                part = landing.land(files, problems)
                if part.files:
                    sources[name] = part
        if not sources:
            return LandingReport(batch=None, problems=tuple(problems))
        batch = self.manifest.commit(
            {"kind": kind, "arrival_day": arrival_day, "landed_at": now, "sources": sources}
        )
        logger.info("landed batch=%s arrival_day=%s", batch.sequence, arrival_day)
        return LandingReport(batch=batch, problems=tuple(problems))


class _SourceLanding:
    """Landing of one source within one batch.

    Rows pass through the temporary table `incoming`: file_no, row_no, the landed columns and
    `reason` (why a row is quarantined, NULL when it is fine).
    """

    def __init__(self, lander: Lander, name: str, now: dt.datetime) -> None:
        self.project = lander.project
        self.lander = lander
        self.duck = lander.duck
        self.layout = lander.manifest.layout
        self.manifest = lander.manifest
        self.name = name
        self.source = self.project.platform.sources[name]
        self.now = now
        self.sequence = self.manifest.head + 1
        self.columns: list[str] = []

    def land(self, candidates: list[NewFile], problems: list[str]) -> SourceBatch:
        """Read, check and deduplicate; publish the kept and the quarantined rows."""
        files: list[dict[str, Any]] = []
        for item in candidates:
            files.append(self._stage(files, item, problems))
        table = None
        if self.columns:
            self._mark_duplicates()
            table = self._publish()
            self._count(files)
            self.duck.execute("DROP TABLE incoming")
        known = self.manifest.known_files(self.name)
        records = [IncomingFile(**record) for record in files]
        # A file that is set aside again for the same reason needs no second record.
        changed = tuple(record for record in records if record != known.get(record.path))
        return SourceBatch(files=changed, table=table)

    def _stage(
        self, staged_before: list[dict[str, Any]], item: NewFile, problems: list[str]
    ) -> dict[str, Any]:
        """Put one file's rows into `incoming` and return what is known of the file."""
        index = len(staged_before)
        record: dict[str, Any] = {
            "path": item.name,
            "sha256": item.sha256,
            "size": item.size,
            "modified_ns": item.modified_ns,
        }
        known = self.manifest.known_files(self.name).values()
        landed = [file for file in known if file.error is None]
        landed += [IncomingFile(**file) for file in staged_before if "error" not in file]
        same = next((f for f in landed if f.sha256 == item.sha256), None)
        if same is not None and self.source.table is None:
            rows = same.rows_in
            return record | {
                "rows_in": rows,
                "deduplicated": rows,
                "reasons": {"same_file": rows} if rows else {},
            }
        expected = next((f.columns for f in landed if f.columns), None)
        try:
            self._refuse_other_value_type()
            reader, columns = read_columns(
                self.duck, self.source, self._alias(), item.path, expected
            )
            zone = self.project.platform.timezone
            self._insert(select_rows(self.source, reader, columns, zone, self.now), index)
            counted = self.duck.connection.execute(f"SELECT count(*) FROM {reader}").fetchall()
        except (FileRefusedError, duckdb.Error) as error:
            # DuckDB's own message may quote data, so only its kind is kept.
            refused = isinstance(error, FileRefusedError)
            reason = str(error) if refused else f"cannot be read ({type(error).__name__})"
            problems.append(f"{item.path}: {reason}")
            return record | {"error": reason}
        return record | {"columns": columns, "rows_in": counted[0][0]}

    def _refuse_other_value_type(self) -> None:
        """Values of another type beside the landed ones would be rounded when they are read."""
        wanted = value_type(self.source)
        for _, table in self.manifest.tables(self.name, up_to=self.manifest.head)[-1:]:
            if table.value_type is not None and table.value_type != wanted:
                raise FileRefusedError(
                    f"`value_decimals` changed: landed values are {table.value_type}, "
                    f"the source now asks for {wanted}. Hint: take it back, or name a new source"
                )

    def _alias(self) -> str:
        """The name under which this source's DuckDB file is attached, if it has one."""
        return f"source_{list(self.project.platform.sources).index(self.name)}"

    def _insert(self, select: str, index: int) -> None:
        numbered = f"SELECT {index} AS file_no, row_number() OVER () AS row_no, * FROM ({select})"
        if not self.columns:
            self.duck.execute(
                f"CREATE OR REPLACE TEMP TABLE incoming AS "
                f"SELECT *, false AS is_duplicate FROM ({numbered})"
            )
            self.columns = self.duck.connection.table("incoming").columns
            return
        try:
            self.duck.execute(
                f"INSERT INTO incoming BY NAME SELECT *, false AS is_duplicate FROM ({numbered})"
            )
        except duckdb.Error:
            self.duck.execute("DELETE FROM incoming WHERE file_no = $i", i=index)
            raise

    def _mark_duplicates(self) -> None:
        """Mark rows whose id was seen before, here or in an earlier batch."""
        if "event_id" not in self.columns:
            return
        content = self._content
        self.duck.execute(
            f"""CREATE OR REPLACE TEMP TABLE first_seen AS
            SELECT event_id, arg_min(hash({content}), (file_no, row_no)) AS content,
                   min((file_no, row_no)) AS place
            FROM incoming WHERE reason IS NULL GROUP BY event_id"""
        )
        earlier = self._earlier_ids(content)
        if earlier:
            self.duck.execute(
                f"""UPDATE first_seen SET content = old.content, place = NULL
                FROM (SELECT event_id, content FROM {earlier}
                      SEMI JOIN first_seen USING (event_id)) old
                WHERE first_seen.event_id = old.event_id"""
            )
        self.duck.execute(
            f"""UPDATE incoming SET
                is_duplicate = hash({content}) = f.content,
                reason = CASE WHEN hash({content}) != f.content THEN 'conflicting_duplicate' END
            FROM first_seen f
            WHERE incoming.event_id = f.event_id AND incoming.reason IS NULL
              AND (f.place IS NULL OR f.place != (incoming.file_no, incoming.row_no))"""
        )
        if self.lander.remember_ids:
            self.duck.execute(
                f"""INSERT INTO {earlier} SELECT event_id, content
                FROM first_seen WHERE place IS NOT NULL"""
            )

    def _earlier_ids(self, content: str) -> str | None:
        """What holds event_id and content hash of every row landed before, or None."""
        remembered = f"seen_{list(self.project.platform.sources).index(self.name)}"
        if self.name in self.lander.remembered:
            return remembered
        files = id_files(self.duck, self.manifest, self.name, content)
        listed = ", ".join(quote_text(str(path)) for path in files)
        scan = f"SELECT event_id, content FROM read_parquet([{listed}])"
        if not self.lander.remember_ids:
            return f"({scan})" if files else None
        if not files:
            scan = "SELECT event_id, content FROM first_seen LIMIT 0"
        self.duck.execute(f"CREATE TEMP TABLE {remembered} AS {scan}")
        self.lander.remembered.add(self.name)
        return remembered

    def _publish(self) -> LandedTable:
        hidden = ("file_no", "row_no", "reason", "is_duplicate")
        kept = ", ".join(quote_name(name) for name in self.columns if name not in hidden)
        order = "ORDER BY unit, occurred_at, file_no, row_no"
        fine = "reason IS NULL AND NOT is_duplicate"
        summary = self.duck.connection.execute(
            f"""SELECT count(*) FILTER ({fine}), min(occurred_at) FILTER ({fine}),
                max(occurred_at) FILTER ({fine}), count(reason) FROM incoming"""
        ).fetchall()[0]
        if summary[3]:
            target = self.layout.quarantined(self.name, self.sequence)
            bad = f"SELECT reason, {kept} FROM incoming WHERE reason IS NOT NULL {order}"
            self._copy(bad, target)
        target = self.layout.landed(self.name, self.sequence)
        digest = self._copy(f"SELECT {kept} FROM incoming WHERE {fine} {order}", target)
        table = LandedTable(
            path=str(target.relative_to(self.layout.root)),
            sha256=digest,
            size=target.stat().st_size,
            modified_ns=target.stat().st_mtime_ns,
            rows=summary[0],
            value_type=value_type(self.source),
            first_at=_aware(summary[1]),
            last_at=_aware(summary[2]),
        )
        if "event_id" in self.columns:
            ids = f"SELECT event_id, hash({self._content}) AS content FROM incoming WHERE {fine}"
            write_ids(self.duck, self.manifest, table, ids)
        return table

    @property
    def _content(self) -> str:
        """The columns that tell a repeated row from another one with the same id."""
        if isinstance(self.source, ExposureSource):
            return "unit, occurred_at, experiment, variant"
        return "unit, occurred_at, event, value"

    def _copy(self, select: str, target: Path) -> str:
        with staged(target, self.layout.staging) as temporary:
            path = quote_text(str(temporary))
            self.duck.execute(f"COPY ({select}) TO {path} (FORMAT parquet, COMPRESSION zstd)")
            return sha256_file(temporary)

    def _count(self, files: list[dict[str, Any]]) -> None:
        """Add the rows of each fate to each file's record and check that none is lost."""
        counts = self.duck.connection.execute(
            """SELECT file_no, coalesce(reason, ''), is_duplicate, count(*)
            FROM incoming GROUP BY ALL ORDER BY ALL"""
        ).fetchall()
        for file_no, reason, is_duplicate, n in counts:
            record = files[file_no]
            fate = "quarantined" if reason else "deduplicated" if is_duplicate else "kept"
            record[fate] = record.get(fate, 0) + n
            if reason:
                record.setdefault("reasons", {})[reason] = n
        for record in files:
            fates = sum(record.get(fate, 0) for fate in ("kept", "deduplicated", "quarantined"))
            if fates != record.get("rows_in", 0):
                raise StorageError(
                    f"{record['path']}: {record['rows_in']} rows came in, {fates} are accounted "
                    "for. Hint: this is a fault of the program; nothing was landed"
                )


def _aware(value: dt.datetime | None) -> dt.datetime | None:
    return value.replace(tzinfo=dt.UTC) if value is not None else None
