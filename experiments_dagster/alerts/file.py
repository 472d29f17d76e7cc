"""File channel: one JSON line per alert, appended once and fsynced.

The file itself says which alerts it holds, so an alert whose delivery marker was lost to a kill is
not appended again. A last line torn by a full disk or a kill is cut off first; its alert is still
pending and is written again whole.
"""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Literal

from experiments_dagster.alerts.alert import Alert
from experiments_dagster.alerts.channel import DELIVERED, ChannelBase, Outside, SendOutcome
from experiments_dagster.alerts.files import fsync_folder


class FileChannel(ChannelBase):
    """Settings of a JSONL file.

    Args:
        path: The file; its folder is created. The configuration makes a relative path absolute.
    """

    kind: Literal["file"]
    path: Path

    def send(self, alert: Alert, outside: Outside) -> SendOutcome:  # noqa: ARG002 - one shape for all
        """Append `alert` unless the file holds it."""
        try:
            append_once(self.path, alert)
        except OSError as error:
            return SendOutcome(status="unavailable", reason=f"{type(error).__name__} {error.errno}")
        return DELIVERED


def append_once(path: Path, alert: Alert) -> bool:
    """Append `alert` as one line, durable on return.

    Returns:
        Whether a line was written; False when the file already holds this alert.

    Raises:
        OSError: The file cannot be written; then it is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        # Two outboxes may share a file.
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
        content = stream.readall()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            stream.truncate(end)
        is_new = not _holds(content[:end], alert.alert_id)
        if is_new:
            _append(stream.fileno(), alert.to_json().encode() + b"\n", end)
        os.fsync(stream.fileno())
    fsync_folder(path.parent)
    return is_new


def _append(descriptor: int, line: bytes, end: int) -> None:
    is_whole = False
    try:
        is_whole = os.write(descriptor, line) == len(line)
    finally:
        if not is_whole:
            os.ftruncate(descriptor, end)
    if not is_whole:
        raise OSError(errno.ENOSPC, "short write")


def _holds(content: bytes, alert_id: str) -> bool:
    needle = alert_id.encode()
    return needle in content and any(
        _id_of(line) == alert_id for line in content.splitlines() if needle in line
    )


def _id_of(line: bytes) -> object:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record.get("alert_id") if isinstance(record, dict) else None
