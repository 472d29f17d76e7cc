"""Writing files so that a reader sees the old or the new whole, never a part.

Every write goes to a temporary name outside any listing, is fsynced and then renamed
(replaceable files) or hard-linked (files that must be written once).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments_dagster.storage.errors import BusyError

CHUNK = 1 << 20


def canonical_json(document: Any) -> bytes:
    """Sorted JSON on one line that refuses NaN and infinity."""
    # Indented, it would be easier to read and six times as slow to write.
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


_HASHED: dict[tuple[Path, int, int, int], str] = {}


Identity = tuple[int, int, int, int]
# Coarsest step of file times on the file systems we meet, with room to spare.
SETTLED_NS = 100_000_000


def settled_identity(stat: os.stat_result) -> Identity | None:
    """Size, times and inode of a file, which tell whether it changed since; None when too young.

    File times go by ticks: two writes within one tick may leave the same time. Of a file that was
    touched just now, only its bytes tell. The time of the last change of status is among them,
    which nobody can set back.
    """
    if abs(time.time_ns() - stat.st_ctime_ns) < SETTLED_NS:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file exists with exactly these bytes.

    Hashed again whenever size, time or inode changed since this process last looked.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    identity = (path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if identity not in _HASHED:
        _HASHED[identity] = sha256_file(path)
    return _HASHED[identity] == sha256


def fsync_folder(folder: Path) -> None:
    """Make renames and links in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staged(target: Path, staging: Path) -> Iterator[Path]:
    """Give a temporary path to write to; publish it at `target` by rename when all went well."""
    staging.mkdir(parents=True, exist_ok=True)
    temporary = staging / f"{uuid.uuid4().hex}{target.suffix}"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
        fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(target: Path, staging: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; publish it whole, as `target`, when all went well.

    Raises:
        OSError: The target is there already, with files in it.
    """
    temporary = staging / uuid.uuid4().hex
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Replace a small file atomically."""
    with staged(target, target.parent) as temporary:
        temporary.write_bytes(content)


def write_once(target: Path, content: bytes, *, is_spare: bool = False) -> bool:
    """Create a file that must never change; False if it exists already (it is left alone).

    Args:
        target: Where it shall be.
        content: All of it.
        is_spare: Whether the file can be made again. It is whole if it is there, but a loss of
            power may take it away.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        if not is_spare:
            fsync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(
    lock_file: Path, message: Callable[[str], str], *, wait: bool = False
) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process dies.

    Args:
        lock_file: Where the lock lives; holds the owner's description for people.
        message: Makes the error text from the present owner's description.
        wait: Wait for a holder that is done soon, instead of raising.

    Raises:
        BusyError: Somebody else holds the lock.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise BusyError(message(file.read().strip() or "another process")) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
