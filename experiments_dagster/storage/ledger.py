"""The look ledger of one experiment phase: write-once files, chained by hashes.

    000000.plan.json        the frozen plan
    000001.reserved.json    look 1 is taken: cut-off, as_of, owner; its alpha is spent from here
    000001.recorded.json    what was seen
    ...

Each file carries the SHA-256 of the one before it. A file is created by linking a finished
temporary file to its final name, which fails if the name exists, so that of two simultaneous
looks exactly one wins. A crash between reserved and recorded leaves a reservation that the next
look resumes with the same cut-off. The head's hash also stands with the results, so that a lost
last file is noticed.

Reading again costs what is new: a file is parsed once, and hashed again only when its size, times
or inode are not what they were.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fnmatch
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from experiments_dagster.storage.atomic import (
    Identity,
    canonical_json,
    exclusive,
    settled_identity,
    write_once,
)
from experiments_dagster.storage.errors import BusyError, DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout

FORMAT = 1
HINT = "restore the ledger from your backup; no look is taken until it is whole"
KINDS = ("plan", "reserved", "recorded")


class _Read(NamedTuple):
    """A file that was read: what it looked like then, None while it may change unseen."""

    identity: Identity | None
    sha256: str


# Compared and hashed as the object it is, so that what is made of it can be kept beside it.
@dataclass(slots=True, eq=False, weakref_slot=True)
class Ledger:
    """The files of one experiment phase, read and verified by `refresh`.

    `looks` are the recorded looks in order, `heads` the hashes of their files, `reserved` an
    unfinished reservation.
    """

    layout: Layout
    slug: str
    phase: int
    plan: dict[str, Any] | None = None
    looks: list[dict[str, Any]] = field(default_factory=list)
    reserved: dict[str, Any] | None = None
    head: str = ""
    heads: list[str] = field(default_factory=list)
    _files: dict[str, _Read] = field(default_factory=dict)
    _twin: tuple[str, Identity] | None = None

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.layout.ledger(self.slug, self.phase)

    @property
    def twins(self) -> Path:
        """Where each recorded look is kept a second time, with the results."""
        return self.layout.results("looks", self.slug) / f"phase-{self.phase}"

    def refresh(self) -> Ledger:
        """Read what is new and verify the chain.

        Raises:
            DataDamagedError: A file is missing, cut, changed or out of order.
        """
        # The twin first: it is written after its look, which is then among the files listed next.
        twins = _listed(self.twins, "[0-9]*.json")
        twin = max(twins, default=None)
        found = _listed(self.folder, "[0-9]*.*.json")
        names = sorted(found, key=_place)
        read = list(self._files)
        if names[: len(read)] != read or not all(self._is_unchanged(found[name]) for name in read):
            self._forget()
        for name in names[len(self._files) :]:
            self._append(name, found[name].path)
        if twin is not None:
            self._compare_twin(twins[twin])
        return self

    def _forget(self) -> None:
        """Begin anew; the chain then tells what is wrong, if anything is."""
        self.plan, self.reserved, self.head = None, None, ""
        # New lists: whoever holds the old ones keeps what was true then.
        self.looks, self.heads, self._files, self._twin = [], [], {}, None

    def _is_unchanged(self, entry: os.DirEntry[str]) -> bool:
        """Whether a file that was read still has the same bytes."""
        before = self._files[entry.name]
        try:
            if before.identity is not None and settled_identity(entry.stat()) == before.identity:
                return True
            now = self._files[entry.name] = _read(entry.path)[1]
        except FileNotFoundError:
            return False
        return now.sha256 == before.sha256

    def _compare_twin(self, entry: os.DirEntry[str]) -> None:
        """Notice that the end of the chain is lost or changed, which the chain cannot."""
        newest, identity = Path(entry.path), settled_identity(entry.stat())
        if identity is not None and self._twin == (newest.name, identity):
            return
        try:
            number, head = int(newest.stem), from_json(newest.read_bytes())["ledger_head"]
        except (ValueError, KeyError, TypeError):
            raise DataDamagedError(newest, "is not the twin of a recorded look", HINT) from None
        if number > len(self.looks):
            rule = f"{number} looks were recorded, {len(self.looks)} are here"
            raise DataDamagedError(self.folder, rule, HINT)
        if head != self.heads[number - 1]:
            raise DataDamagedError(self.folder, f"look {number} is not the one shown", HINT)
        self._twin = None if identity is None else (newest.name, identity)

    def _append(self, name: str, path: str) -> None:
        content, read = _read(path)
        try:
            document = from_json(content, allow_inf_nan=False)
            version, previous = document["format"], document["previous"]
        except (ValueError, KeyError, TypeError):
            raise DataDamagedError(Path(path), "is not a ledger file", HINT) from None
        if version > FORMAT:
            rule = f"format {version} is newer than this program reads ({FORMAT})"
            raise StorageError(f"{path}: {rule}. Hint: update experiments-dagster")
        kind = document.get("kind")
        if previous != self.head or kind not in KINDS or name != self._next_name(kind):
            raise DataDamagedError(Path(path), "does not follow the file before it", HINT)
        self.head = read.sha256
        self._files[name] = read
        if kind == "plan":
            self.plan = document["plan"]
        elif kind == "reserved":
            self.reserved = document["look"]
        else:
            self.looks.append(document["look"])
            self.heads.append(self.head)
            self.reserved = None

    def _next_name(self, kind: str) -> str:
        number = 0 if kind == "plan" else len(self.looks) + 1
        return f"{number:06d}.{kind}.json"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only one who takes a look; released by the kernel if the process dies.

        Raises:
            BusyError: Another run is taking a look, named with its look number.
        """

        def message(owner: str) -> str:
            number = len(self.looks) + 1
            return f"{self.slug}: look {number} is being taken by {owner}; wait for it to end"

        with exclusive(self.folder / ".lock", message):
            self.refresh()
            self.write_twin()  # a run may have died between the record and its twin
            yield

    def freeze_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan, once."""
        self._write("plan", {"plan": plan})

    def reserve(self, look: dict[str, Any]) -> dict[str, Any]:
        """Take the next look number, or resume the one that a dead run left behind.

        Returns:
            The reservation in force: the given one, or the earlier one with its own cut-off.

        Raises:
            BusyError: Another run took this number in the meantime.
        """
        if self.reserved is not None:
            return self.reserved
        number = len(self.looks) + 1
        owner = {"host": socket.gethostname(), "process": os.getpid()}
        self._write("reserved", {"look": look | {"look": number, "owner": owner}})
        assert self.reserved is not None
        return self.reserved

    def record(self, look: dict[str, Any]) -> None:
        """Write what was seen at the reserved look, and its twin beside the results.

        Raises:
            StorageError: No look is reserved.
        """
        if self.reserved is None or look["look"] != self.reserved["look"]:
            raise StorageError(f"{self.slug}: look {look['look']} was not reserved")
        self._write("recorded", {"look": look})
        self.write_twin()

    def write_twin(self) -> None:
        """Keep the last recorded look beside the results, if it is not there yet."""
        if not self.looks or self.reserved is not None:
            return
        path = self.twins / f"{self.looks[-1]['look']:06d}.json"
        if not path.exists():
            twin = {"format": FORMAT, "ledger_head": self.head, "look": self.looks[-1]}
            # If it is lost, whoever takes the lock next finds the record and writes it again.
            write_once(path, canonical_json(twin), is_spare=True)

    def _write(self, kind: str, body: dict[str, Any]) -> None:
        document = {
            "format": FORMAT,
            "kind": kind,
            "previous": self.head,
            "written_at": dt.datetime.now(dt.UTC).isoformat(),
            **body,
        }
        name = self._next_name(kind)
        path = self.folder / name
        if not write_once(path, canonical_json(document)):
            raise BusyError(f"{path}: written by another run in the meantime")
        self._append(name, str(path))


def _listed(folder: Path, pattern: str) -> dict[str, os.DirEntry[str]]:
    """A folder's files by name; none if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry for entry in entries}
    except FileNotFoundError:
        return {}
    return {name: found[name] for name in fnmatch.filter(found, pattern)}


def _place(name: str) -> tuple[str, int]:
    """Where in the chain a file stands by its name."""
    number, kind = name.split(".")[:2]
    return number, KINDS.index(kind) if kind in KINDS else len(KINDS)


def _read(path: str) -> tuple[bytes, _Read]:
    """A file's bytes and how to notice that they changed."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - thousands in a row, names will do
        # What it looks like is asked first: if it changes meanwhile, it is read again next time.
        identity = settled_identity(os.fstat(file.fileno()))
        content = file.read()
    return content, _Read(identity, hashlib.sha256(content).hexdigest())
