"""Files that survive kill -9: complete or absent, never torn.

Every file is written to a temporary name outside the listed folders, fsynced, and then linked
(fails if the name is taken) or renamed (replaces) to its final name; the folder is fsynced last.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STALE_TEMPORARY_S = 3600.0


def write_exclusive(path: Path, data: bytes, *, temporary: Path) -> bool:
    """Write `path` unless it exists; exactly one of many writers wins.

    Args:
        path: Final name.
        data: Whole content.
        temporary: Folder for temporary names, on the same file system.

    Returns:
        Whether this call created the file.
    """
    staged = _stage(data, temporary)
    try:
        os.link(staged, path)
        created = True
    except FileExistsError:
        created = False
    finally:
        staged.unlink(missing_ok=True)
    # Also when it existed: the writer that won may have died before its own fsync.
    fsync_folder(path.parent)
    return created


def replace_file(path: Path, data: bytes, *, temporary: Path) -> None:
    """Write `path`, replacing what was there in one step."""
    staged = _stage(data, temporary)
    staged.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Remove temporary files that a killed writer left behind more than an hour ago."""
    limit = time.time() - STALE_TEMPORARY_S
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < limit:
                entry.unlink()


@contextlib.contextmanager
def exclusive_lock(path: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock file `path`; the kernel releases it when the process dies.

    Args:
        path: Lock file, created when missing and never removed.
        wait_s: How long to wait for another holder.

    Yields:
        Whether the lock is held; False when another holder kept it for longer than `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        held = _try_lock(descriptor)
        while not held and time.monotonic() < deadline:
            time.sleep(0.05)
            held = _try_lock(descriptor)
        yield held
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stage(data: bytes, temporary: Path) -> Path:
    descriptor, name = tempfile.mkstemp(dir=temporary)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return Path(name)
