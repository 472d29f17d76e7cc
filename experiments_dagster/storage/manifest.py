"""The landing manifest: one immutable file per batch, chained by hashes.

A batch is visible when its manifest file exists, and only then. Landed data are listed from
here, never by globbing. A cut-off is a batch sequence number: what was known at cut-off c is
exactly the batches 1..c.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from experiments_dagster.storage.atomic import canonical_json, sha256_file, write_once
from experiments_dagster.storage.errors import DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout

FORMAT = 1
RESTORE_HINT = "restore the file from your backup; nothing was changed"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IncomingFile(_Entry):
    """One file (or table read) as it came in. rows_in = kept + deduplicated + quarantined.

    `error` names why a whole file was set aside; its rows were never read.
    """

    path: str
    sha256: str
    size: int
    modified_ns: int
    columns: dict[str, str] = {}
    rows_in: int = 0
    kept: int = 0
    deduplicated: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = {}
    error: str | None = None


class LandedTable(_Entry):
    """The rows of one source that a batch keeps, as one Parquet file below the storage root."""

    path: str
    sha256: str
    size: int
    modified_ns: int = 0
    rows: int
    value_type: str | None = None
    first_at: dt.datetime | None
    last_at: dt.datetime | None


class SourceBatch(_Entry):
    """What one batch holds of one source."""

    files: tuple[IncomingFile, ...]
    table: LandedTable | None


class Batch(_Entry):
    """One landed batch. `previous` is the SHA-256 of the manifest file before it."""

    format: Literal[1]
    sequence: int
    previous: str
    kind: Literal["data", "history"]
    arrival_day: dt.date
    landed_at: dt.datetime
    sources: dict[str, SourceBatch]


@dataclass(slots=True)
class Manifest:
    """All batches of one storage root, read once and extended as new ones appear."""

    layout: Layout
    batches: list[Batch] = field(default_factory=list)
    _head_hash: str = ""
    _verified: dict[Path, tuple[int, int, int]] = field(default_factory=dict)

    def refresh(self) -> Manifest:
        """Read the batches that were landed since the last call.

        Raises:
            DataDamagedError: A manifest file is missing from the middle, cut or changed.
        """
        folder = self.layout.manifest
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        expected = [f"{sequence:06d}.json" for sequence in range(1, len(names) + 1)]
        for name, wanted in zip(names, expected, strict=True):
            if name != wanted:
                raise DataDamagedError(folder / wanted, "batch is missing", RESTORE_HINT)
        if len(names) < len(self.batches):
            missing = folder / f"{len(names) + 1:06d}.json"
            raise DataDamagedError(missing, "batch is missing", RESTORE_HINT)
        for name in names[len(self.batches) :]:
            self._append(folder / name)
        return self

    def _append(self, path: Path) -> None:
        content = path.read_bytes()
        try:
            document = json.loads(content)
            if document.get("format", FORMAT) > FORMAT:
                rule = f"format {document['format']} is newer than this program reads ({FORMAT})"
                raise StorageError(f"{path}: {rule}. Hint: update experiments-dagster")
            batch = Batch.model_validate(document)
        except ValueError:
            raise DataDamagedError(path, "is not a manifest entry", RESTORE_HINT) from None
        if batch.previous != self._head_hash:
            rule = "does not follow the batch before it (hash chain broken)"
            raise DataDamagedError(path, rule, RESTORE_HINT)
        self.batches.append(batch)
        self._head_hash = hashlib.sha256(content).hexdigest()

    @property
    def head(self) -> int:
        """The sequence number of the newest batch; 0 when nothing has landed."""
        return len(self.batches)

    def commit(self, batch: dict[str, Any]) -> Batch:
        """Publish the next batch; only the holder of the landing lock calls this."""
        document = {"format": FORMAT, "sequence": self.head + 1, "previous": self._head_hash}
        entry = Batch.model_validate(document | batch)
        path = self.layout.manifest / f"{entry.sequence:06d}.json"
        if not write_once(path, canonical_json(entry.model_dump(mode="json"))):
            raise StorageError(f"{path}: batch {entry.sequence} exists already; land again")
        self.refresh()
        return entry

    def tables(self, source: str, *, up_to: int) -> list[tuple[Batch, LandedTable]]:
        """The landed tables of a source in batches 1..up_to, in order."""
        found = []
        for batch in self.batches[:up_to]:
            part = batch.sources.get(source)
            if part is not None and part.table is not None and part.table.rows:
                found.append((batch, part.table))
        return found

    def verified(self, table: LandedTable) -> Path:
        """The path of a landed table after its bytes were compared with the manifest.

        A file is hashed again whenever its size, time or inode changed in between.

        Raises:
            DataDamagedError: It is missing, or its SHA-256 is not the manifest's.
        """
        path = self.layout.root / table.path
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise DataDamagedError(path, "landed file is missing", RESTORE_HINT) from None
        identity = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if self._verified.get(path) != identity:
            digest = sha256_file(path)
            if digest != table.sha256:
                rule = f"SHA-256 is {digest[:12]}..., the manifest says {table.sha256[:12]}..."
                raise DataDamagedError(path, rule, RESTORE_HINT)
            self._verified[path] = identity
        return path

    def damaged(self) -> list[tuple[Batch, DataDamagedError]]:
        """Landed files that are missing or changed since they landed.

        Only files whose size or time is not the one recorded are hashed, so this costs little
        enough for every run; `verified` hashes before each read, `experiments doctor` all files.
        """
        found = []
        for batch in self.batches:
            for part in batch.sources.values():
                if part.table is None or self._is_untouched(part.table):
                    continue
                try:
                    self.verified(part.table)
                except DataDamagedError as error:
                    found.append((batch, error))
        return found

    def _is_untouched(self, table: LandedTable) -> bool:
        try:
            stat = (self.layout.root / table.path).stat()
        except FileNotFoundError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (table.size, table.modified_ns)

    def known_files(self, source: str) -> dict[str, IncomingFile]:
        """The newest record of each incoming path of a source."""
        known: dict[str, IncomingFile] = {}
        for batch in self.batches:
            part = batch.sources.get(source)
            for file in part.files if part else ():
                known[file.path] = file
        return known

    def last_event_at(self, sources: set[str], *, up_to: int) -> dt.datetime | None:
        """The newest time in the landed rows of some sources."""
        times = [
            table.last_at
            for source in sources
            for _, table in self.tables(source, up_to=up_to)
            if table.last_at is not None
        ]
        return max(times, default=None)

    def up_to_day(self, day: dt.date) -> int:
        """The last batch whose label, and that of every batch before it, is before a day."""
        for batch in self.batches:
            if batch.arrival_day >= day:
                return batch.sequence - 1
        return self.head
