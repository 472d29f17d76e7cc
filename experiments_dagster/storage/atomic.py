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
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments_dagster.storage.errors import BusyError

CHUNK = 1 << 20


def canonical_json(document: Any) -> bytes:
    """Sorted, compact JSON that refuses NaN and infinity."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


_HASHED: dict[tuple[Path, int, int, int], str] = {}


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


def write_bytes(target: Path, content: bytes) -> None:
    """Replace a small file atomically."""
    with staged(target, target.parent) as temporary:
        temporary.write_bytes(content)


def write_once(target: Path, content: bytes) -> bool:
    """Create a file that must never change; False if it exists already (it is left alone)."""
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
        fsync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(lock_file: Path, message: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process dies.

    Args:
        lock_file: Where the lock lives; holds the owner's description for people.
        message: Makes the error text from the present owner's description.

    Raises:
        BusyError: Somebody else holds the lock.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(message(file.read().strip() or "another process")) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
