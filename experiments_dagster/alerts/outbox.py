"""The outbox: alerts on disk until every channel has them.

    alerts/<alert_id>.json                the alert, written once
    delivered/<channel>/<alert_id>        this channel has it (or does not want it)
    attempts/<channel>/<alert_id>.json    failed attempts and the last error, for people
    channels/<channel>.json               when the channel was first seen; when to try it again
    tmp/                                  temporary names
    deliver.lock                          held by the one deliverer

An alert is pending for a channel while it has no marker there, so a kill at any point loses
nothing. The alert file stays after delivery: enqueueing the same id again is then a no-op, which is
what keeps an occurrence that is processed twice from being told twice. Sending does not belong
here.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from experiments_dagster.alerts.alert import ALERT_ID_PATTERN, Alert
from experiments_dagster.alerts.files import (
    exclusive_lock,
    fsync_folder,
    remove_stale,
    replace_file,
    write_exclusive,
)

logger = logging.getLogger(__name__)

CHANNEL_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
# A channel added later gets the alerts of its last day, not the whole history.
NEW_CHANNEL_LOOKBACK_S = 86_400.0


class AttemptLog(BaseModel):
    """Failed attempts to deliver one alert to one channel.

    Args:
        attempts: How many failed.
        last_error: What the last one met; a status or an error class, never a response body.
        last_attempt_at: When.
        rejected: The receiver refused this alert (a 4xx); it is tried again ever more rarely.
        not_before: Earliest next attempt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = 0
    last_error: str | None = None
    last_attempt_at: AwareDatetime | None = None
    rejected: bool = False
    not_before: AwareDatetime | None = None


class ChannelState(BaseModel):
    """What the outbox remembers of a channel.

    Args:
        first_seen_s: When it was first delivered to, seconds since 1970 by the clock of the files.
        not_before: Earliest next attempt, where the receiver asked for a pause.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_seen_s: float
    not_before: AwareDatetime | None = None


class Outbox:
    """A durable folder of alerts with delivery state by channel.

    Args:
        root: The folder; created when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._alerts = root / "alerts"
        self._tmp = root / "tmp"
        self._channels = root / "channels"
        for folder in (self._alerts, self._tmp, self._channels):
            folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(root)

    def enqueue(self, alert: Alert) -> bool:
        """Store `alert`; once it returns, the alert survives a kill.

        Returns:
            Whether it is new; False when this id was enqueued before, and then nothing changes.
        """
        path = self._alert_path(alert.alert_id)
        if path.exists():
            return False
        return write_exclusive(path, alert.to_json().encode(), temporary=self._tmp)

    def alerts(self) -> tuple[Alert, ...]:
        """Return all stored alerts, oldest first."""
        return self._read(path.stem for path in self._alerts.glob("*.json"))

    def pending(self, channel: str) -> tuple[Alert, ...]:
        """Return the alerts that `channel` does not have yet, oldest first."""
        settled = _names(self._folder("delivered", channel))
        stored = {path.stem: path for path in self._alerts.glob("*.json")}
        since = self._seen_since(channel)
        return self._read(
            alert_id
            for alert_id, path in stored.items()
            if alert_id not in settled and path.stat().st_mtime >= since
        )

    def damaged(self) -> tuple[str, ...]:
        """Return the ids of stored files that are no alert; they are kept and reported."""
        return tuple(
            path.stem
            for path in sorted(self._alerts.glob("*.json"))
            if _parse(path.read_bytes()) is None
        )

    def mark_delivered(
        self, alert_id: str, channel: str, *, outcome: str = "delivered", at: datetime | None = None
    ) -> None:
        """Record for ever that `channel` needs `alert_id` no more.

        Args:
            alert_id: The alert.
            channel: The channel.
            outcome: `delivered`, or `not_routed` when the channel's routing leaves it out.
            at: When, aware.
        """
        folder = self._folder("delivered", channel, create=True)
        content = json.dumps({"outcome": outcome, "at": at.isoformat() if at else None})
        path = folder / _checked(alert_id, ALERT_ID_PATTERN)
        write_exclusive(path, content.encode(), temporary=self._tmp)

    def is_delivered(self, alert_id: str, channel: str) -> bool:
        """Tell whether `channel` has `alert_id` (or its routing leaves it out)."""
        return (self._folder("delivered", channel) / alert_id).exists()

    def attempts(self, alert_id: str, channel: str) -> AttemptLog:
        """Return the failed attempts so far."""
        path = self._folder("attempts", channel) / f"{_checked(alert_id, ALERT_ID_PATTERN)}.json"
        if not path.exists():
            return AttemptLog()
        return AttemptLog.model_validate_json(path.read_bytes())

    def record_attempts(self, alert_id: str, channel: str, log: AttemptLog) -> None:
        """Store the failed attempts of one alert for one channel."""
        folder = self._folder("attempts", channel, create=True)
        path = folder / f"{_checked(alert_id, ALERT_ID_PATTERN)}.json"
        replace_file(path, log.model_dump_json().encode(), temporary=self._tmp)

    def channel_state(self, channel: str) -> ChannelState:
        """Return what is remembered of `channel`, registering it when it is new."""
        path = self._channel_path(channel)
        if not path.exists():
            state = ChannelState(first_seen_s=time.time())
            write_exclusive(path, state.model_dump_json().encode(), temporary=self._tmp)
        return ChannelState.model_validate_json(path.read_bytes())

    def set_channel_state(self, channel: str, state: ChannelState) -> None:
        """Store what to remember of `channel`."""
        path = self._channel_path(channel)
        replace_file(path, state.model_dump_json().encode(), temporary=self._tmp)

    @contextlib.contextmanager
    def deliverer(self) -> Iterator[bool]:
        """Be the one deliverer; yields False when another process (or thread) is it."""
        with exclusive_lock(self.root / "deliver.lock") as held:
            if held:
                remove_stale(self._tmp)
            yield held

    def prune(self, *, before: datetime, channels: tuple[str, ...]) -> int:
        """Forget alerts older than `before` that all `channels` have.

        Keep at least a month: a pruned alert would be told again if its run were processed again.

        Returns:
            How many alerts were removed.
        """
        removed = 0
        for alert in self.alerts():
            delivered = all(self.is_delivered(alert.alert_id, channel) for channel in channels)
            if alert.created_at < before and delivered:
                # The alert goes first: a marker without its alert does no harm.
                self._alert_path(alert.alert_id).unlink(missing_ok=True)
                for channel in channels:
                    marker = self._folder("delivered", channel) / alert.alert_id
                    marker.unlink(missing_ok=True)
                    attempts = self._folder("attempts", channel) / f"{alert.alert_id}.json"
                    attempts.unlink(missing_ok=True)
                removed += 1
        return removed

    def _read(self, alert_ids: Iterator[str]) -> tuple[Alert, ...]:
        found = []
        for alert_id in alert_ids:
            alert = _parse(self._alert_path(alert_id).read_bytes())
            if alert is None:
                logger.error("damaged alert file left in place alert_id=%s", alert_id)
            else:
                found.append(alert)
        return tuple(sorted(found, key=lambda alert: (alert.created_at, alert.alert_id)))

    def _seen_since(self, channel: str) -> float:
        """File time before which alerts are not for this channel (0 while it is not known)."""
        path = self._channel_path(channel)
        if not path.exists():
            return 0.0
        state = ChannelState.model_validate_json(path.read_bytes())
        return state.first_seen_s - NEW_CHANNEL_LOOKBACK_S

    def _alert_path(self, alert_id: str) -> Path:
        return self._alerts / f"{_checked(alert_id, ALERT_ID_PATTERN)}.json"

    def _channel_path(self, channel: str) -> Path:
        return self._channels / f"{_checked(channel, CHANNEL_NAME_PATTERN)}.json"

    def _folder(self, kind: str, channel: str, *, create: bool = False) -> Path:
        folder = self.root / kind / _checked(channel, CHANNEL_NAME_PATTERN)
        if create and not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            fsync_folder(folder.parent)
            fsync_folder(self.root)
        return folder


def _checked(name: str, pattern: str) -> str:
    # Names become file names, so nothing but the pattern may pass.
    if not re.fullmatch(pattern, name):
        raise ValueError(f"{name!r} is no valid name, need {pattern}")
    return name


def _names(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder)) if folder.exists() else frozenset()  # noqa: PTH208


def _parse(content: bytes) -> Alert | None:
    try:
        return Alert.from_json(content)
    except ValidationError:
        return None
