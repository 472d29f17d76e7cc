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
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments_dagster.storage.atomic import canonical_json, exclusive, write_once
from experiments_dagster.storage.errors import BusyError, DataDamagedError, StorageError
from experiments_dagster.storage.layout import Layout

FORMAT = 1
HINT = "restore the ledger from your backup; no look is taken until it is whole"


@dataclass(slots=True)
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

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.layout.ledger(self.slug, self.phase)

    @property
    def twins(self) -> Path:
        """Where each recorded look is kept a second time, with the results."""
        return self.layout.results("looks", self.slug) / f"phase-{self.phase}"

    def refresh(self) -> Ledger:
        """Read all files and verify the chain.

        Raises:
            DataDamagedError: A file is missing, cut, changed or out of order.
        """
        self.plan, self.looks, self.reserved, self.head = None, [], None, ""
        self.heads = []
        # The twin first: it is written after its look, which is then among the files listed next.
        twin = max(self.twins.glob("[0-9]*.json"), default=None)
        kinds = ("plan", "reserved", "recorded")
        files = self.folder.glob("[0-9]*.*.json")
        for path in sorted(files, key=lambda p: (p.name[:6], kinds.index(p.name.split(".")[1]))):
            self._append(path)
        if twin is not None:
            self._compare_twin(twin)
        return self

    def _compare_twin(self, newest: Path) -> None:
        """Notice that the end of the chain is lost or changed, which the chain cannot."""
        try:
            number, head = int(newest.stem), json.loads(newest.read_bytes())["ledger_head"]
        except (ValueError, KeyError, TypeError):
            raise DataDamagedError(newest, "is not the twin of a recorded look", HINT) from None
        if number > len(self.looks):
            rule = f"{number} looks were recorded, {len(self.looks)} are here"
            raise DataDamagedError(self.folder, rule, HINT)
        if head != self.heads[number - 1]:
            raise DataDamagedError(self.folder, f"look {number} is not the one shown", HINT)

    def _append(self, path: Path) -> None:
        content = path.read_bytes()
        try:
            document = json.loads(content)
            version, previous = document["format"], document["previous"]
        except (ValueError, KeyError, TypeError):
            raise DataDamagedError(path, "is not a ledger file", HINT) from None
        if version > FORMAT:
            rule = f"format {version} is newer than this program reads ({FORMAT})"
            raise StorageError(f"{path}: {rule}. Hint: update experiments-dagster")
        if previous != self.head or path.name != self._next_name(document["kind"]):
            raise DataDamagedError(path, "does not follow the file before it", HINT)
        self.head = hashlib.sha256(content).hexdigest()
        if document["kind"] == "plan":
            self.plan = document["plan"]
        elif document["kind"] == "reserved":
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
        number = self.looks[-1]["look"]
        twin = {"format": FORMAT, "ledger_head": self.head, "look": self.looks[-1]}
        write_once(self.twins / f"{number:06d}.json", canonical_json(twin))

    def _write(self, kind: str, body: dict[str, Any]) -> None:
        document = {
            "format": FORMAT,
            "kind": kind,
            "previous": self.head,
            "written_at": dt.datetime.now(dt.UTC).isoformat(),
            **body,
        }
        path = self.folder / self._next_name(kind)
        if not write_once(path, canonical_json(document)):
            raise BusyError(f"{path}: written by another run in the meantime")
        self._append(path)
