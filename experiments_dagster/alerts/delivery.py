"""Delivery: everything pending goes to every channel that wants it.

Channels are independent: one that is down keeps its alerts and holds up no other. Within a call an
alert is tried `attempts_per_call` times; a channel that is still down is left alone until the next
call. An alert that the receiver refuses (4xx) stays pending and is tried ever more rarely.

An alert is marked once the receiver answered 2xx and never sent after that. A kill between the
answer and the mark sends it again with the same id header; no sender can do better, so receivers
compare ids.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from experiments_dagster.alerts.alert import Alert
from experiments_dagster.alerts.channel import Outside, SendOutcome
from experiments_dagster.alerts.channels import ChannelSettings
from experiments_dagster.alerts.outbox import AttemptLog, Outbox
from experiments_dagster.alerts.transport import Transport, UrllibTransport

logger = logging.getLogger(__name__)

FIRST_REJECTION_PAUSE_S = 60.0
LONGEST_PAUSE_S = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDelivery:
    """What one call did for one channel.

    Args:
        channel: Name.
        delivered: Alerts sent now.
        pending: Alerts still waiting, those refused included.
        rejected: Of these, how many the receiver has refused.
        last_error: Of this call; None when nothing failed.
    """

    channel: str
    delivered: int
    pending: int
    rejected: int
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySummary:
    """What one call of `deliver_pending` did; `busy` means that another deliverer is at work."""

    status: Literal["done", "busy"]
    channels: tuple[ChannelDelivery, ...] = ()

    @property
    def delivered(self) -> int:
        """Alerts sent now, over all channels."""
        return sum(channel.delivered for channel in self.channels)

    @property
    def pending(self) -> int:
        """Alerts still waiting, over all channels."""
        return sum(channel.pending for channel in self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effort:
    """How hard one call tries."""

    outbox: Outbox
    transport: Transport
    environ: Mapping[str, str]
    attempts: int
    backoff_s: float
    deadline: float
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]


def utc_now() -> datetime:
    """Return the time, aware UTC."""
    return datetime.now(UTC)


def deliver_pending(
    outbox: Outbox,
    channels: Sequence[ChannelSettings],
    *,
    attempts_per_call: int = 3,
    backoff_s: float = 0.5,
    budget_s: float = 30.0,
    transport: Transport | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> DeliverySummary:
    """Send what is pending.

    Args:
        outbox: Where the alerts are.
        channels: Where they go.
        attempts_per_call: Attempts for one alert within this call, at least 1.
        backoff_s: Pause after the first failed attempt, seconds; doubled each time.
        budget_s: No attempt starts later than this after the call began; a Dagster sensor has 60 s.
        transport: The network; urllib when left out.
        environ: Environment variables for secrets; the process's own when left out.
        clock: The time, aware.
        sleep: How to pause.

    Returns:
        Counts by channel, or status `busy`.
    """
    effort = _Effort(
        outbox=outbox,
        transport=transport or UrllibTransport(),
        environ=os.environ if environ is None else environ,
        attempts=max(1, attempts_per_call),
        backoff_s=backoff_s,
        deadline=time.monotonic() + budget_s,
        clock=clock,
        sleep=sleep,
    )
    with outbox.deliverer() as held:
        if not held:
            return DeliverySummary(status="busy")
        done = tuple(_deliver_channel(channel, effort) for channel in channels)
    return DeliverySummary(status="done", channels=done)


def _deliver_channel(channel: ChannelSettings, effort: _Effort) -> ChannelDelivery:
    outbox, name = effort.outbox, channel.name
    state = outbox.channel_state(name)
    paused = state.not_before is not None and effort.clock() < state.not_before
    sent, last_error = 0, None
    waiting: list[Alert] = []
    for alert in outbox.pending(name):
        if not channel.accepts(alert):
            outbox.mark_delivered(alert.alert_id, name, outcome="not_routed", at=effort.clock())
            continue
        waiting.append(alert)
        if paused or time.monotonic() > effort.deadline or _is_early(alert, name, effort):
            continue
        outcome = _send_repeatedly(channel, alert, effort)
        if outcome.status == "delivered":
            outbox.mark_delivered(alert.alert_id, name, at=effort.clock())
            logger.info("alert delivered channel=%s alert_id=%s", name, alert.alert_id)
            waiting.pop()
            sent += 1
            continue
        last_error = outcome.reason
        paused = outcome.status == "unavailable"
        if paused and outcome.retry_after_s is not None:
            pause = timedelta(seconds=min(outcome.retry_after_s, LONGEST_PAUSE_S))
            later = state.model_copy(update={"not_before": effort.clock() + pause})
            outbox.set_channel_state(name, later)
    rejected = sum(outbox.attempts(alert.alert_id, name).rejected for alert in waiting)
    return ChannelDelivery(
        channel=name,
        delivered=sent,
        pending=len(waiting),
        rejected=rejected,
        last_error=last_error,
    )


def _is_early(alert: Alert, channel: str, effort: _Effort) -> bool:
    not_before = effort.outbox.attempts(alert.alert_id, channel).not_before
    return not_before is not None and effort.clock() < not_before


def _send_repeatedly(channel: ChannelSettings, alert: Alert, effort: _Effort) -> SendOutcome:
    pause = effort.backoff_s
    for attempt in range(1, effort.attempts + 1):
        outcome = _send(channel, alert, effort)
        if outcome.status == "delivered":
            return outcome
        _record(channel.name, alert, outcome, effort)
        is_last = attempt == effort.attempts or outcome.retry_after_s is not None
        if outcome.status == "rejected" or is_last or time.monotonic() + pause > effort.deadline:
            break
        effort.sleep(pause)
        pause *= 2
    return outcome


def _send(channel: ChannelSettings, alert: Alert, effort: _Effort) -> SendOutcome:
    outside = Outside(transport=effort.transport, environ=effort.environ, now=effort.clock())
    try:
        return channel.send(alert, outside)
    except Exception as error:  # noqa: BLE001 - one channel's defect must not hold up the others
        # The class only: the message may hold an address.
        return SendOutcome(status="unavailable", reason=type(error).__name__)


def _record(channel: str, alert: Alert, outcome: SendOutcome, effort: _Effort) -> None:
    before = effort.outbox.attempts(alert.alert_id, channel)
    rejected = outcome.status == "rejected"
    now = effort.clock()
    log = AttemptLog(
        attempts=before.attempts + 1,
        last_error=outcome.reason,
        last_attempt_at=now,
        rejected=rejected,
        not_before=now + _rejection_pause(before) if rejected else None,
    )
    effort.outbox.record_attempts(alert.alert_id, channel, log)
    logger.warning(
        "alert not delivered channel=%s alert_id=%s attempts=%d outcome=%s reason=%s",
        channel,
        alert.alert_id,
        log.attempts,
        outcome.status,
        outcome.reason,
    )


def _rejection_pause(before: AttemptLog) -> timedelta:
    """Twice the pause that went before; only refusals lengthen it."""
    if before.not_before is None or before.last_attempt_at is None:
        return timedelta(seconds=FIRST_REJECTION_PAUSE_S)
    doubled = 2 * (before.not_before - before.last_attempt_at)
    return min(doubled, timedelta(seconds=LONGEST_PAUSE_S))
