"""What lies in the sources' folders and has not been landed: found by name, size, time, content."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments_dagster.config.platform import Source
from experiments_dagster.config.project import Project
from experiments_dagster.storage.atomic import sha256_file
from experiments_dagster.storage.manifest import IncomingFile, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file or table that may hold new rows. `name` is what the manifest knows it by."""

    name: str
    path: Path
    sha256: str
    size: int
    modified_ns: int


def has_new_files(project: Project, manifest: Manifest) -> bool:
    """Whether any source has a file that no batch has registered (by path, size and time).

    A landed file that changed is not new: landing names it and lands nothing from it.
    """
    for name, source in project.platform.sources.items():
        known = manifest.known_files(name)
        for path in _incoming_paths(project.folder, source):
            record = known.get(_registered_name(project.folder, path))
            may_land_again = record is None or record.error or source.table
            if may_land_again and not _is_registered(record, path):
                return True
    return False


def _is_registered(record: IncomingFile | None, path: Path) -> bool:
    """Whether a file has the size and time it was recorded with."""
    stat = path.stat()
    return record is not None and (record.size, record.modified_ns) == (
        stat.st_size,
        stat.st_mtime_ns,
    )


def _incoming_paths(folder: Path, source: Source) -> list[Path]:
    if source.database is not None:
        path = folder / source.database
        return [path] if path.exists() else []
    assert source.path is not None
    pattern = Path(source.path)
    if pattern.is_absolute():
        folder, pattern = Path(pattern.anchor), pattern.relative_to(pattern.anchor)
    return sorted(path for path in folder.glob(str(pattern)) if path.is_file())


def _registered_name(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def incoming_root(folder: Path, source: Source) -> Path:
    """The deepest folder of a source's pattern that holds no wildcard."""
    parts = Path(source.path or "").parts[:-1]
    plain = itertools.takewhile(lambda part: not set(part) & set("*?["), parts)
    return folder.joinpath(*plain)


def new_files(
    folder: Path, source: Source, known: Mapping[str, IncomingFile]
) -> tuple[list[NewFile], list[str]]:
    """Files without a record, and those set aside earlier: the cause may be mended by now.

    Args:
        folder: The project folder.
        source: Where to look.
        known: The newest record of each incoming path of the source.

    Returns:
        The files to land, and a problem for each landed file whose content changed since.
    """
    found, problems = [], []
    for path in _incoming_paths(folder, source):
        registered = _registered_name(folder, path)
        record, stat = known.get(registered), path.stat()
        if record is not None and record.error is not None:
            record = None
        if _is_registered(record, path):
            continue
        digest = sha256_file(path)
        if record is not None and record.sha256 == digest:
            continue
        if record is not None and source.table is None:
            problems.append(
                f"{path}: content changed after landing "
                f"(SHA-256 {record.sha256[:12]}... is now {digest[:12]}...). "
                "Hint: landed data stay as they were; send corrections as a new file"
            )
            continue
        found.append(
            NewFile(
                name=registered,
                path=path,
                sha256=digest,
                size=stat.st_size,
                modified_ns=stat.st_mtime_ns,
            )
        )
    return found, problems
