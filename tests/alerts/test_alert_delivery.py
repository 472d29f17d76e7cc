"""F-104: a channel that is down loses nothing and doubles nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from itertools import pairwise

import pytest

from experiments_dagster.alerts.delivery import deliver_pending
from experiments_dagster.alerts.file import FileChannel
from experiments_dagster.alerts.slack import SlackChannel
from experiments_dagster.alerts.webhook import WebhookChannel

ENVIRON = {"HOOK_SECRET": "s"}


def hook(url="https://hooks.example.com/x", name="hook", **changes):
    return WebhookChannel(kind="webhook", name=name, url=url, secret_env="HOOK_SECRET", **changes)


class Clock:
    def __init__(self, now):
        self.now = now
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(alert_factory):
    return Clock(alert_factory().created_at)


def call(outbox, channels, clock, transport=None, **changes):
    return deliver_pending(
        outbox,
        channels,
        transport=transport,
        environ=ENVIRON,
        clock=clock,
        sleep=clock.sleep,
        **changes,
    )


@pytest.mark.parametrize("failures", [0, 1, 2, 3, 7])
def test_receiver_answering_500_gets_one_delivery(
    outbox, alert_factory, start_receiver, clock, failures
):
    receiver = start_receiver(*[500] * failures, 200)
    alert = alert_factory()
    outbox.enqueue(alert)
    summaries = [call(outbox, [hook(receiver.url)], clock) for _ in range(5)]
    assert receiver.accepted == [alert.alert_id]
    assert len(receiver.received) == failures + 1
    assert {headers["X-Experiments-Alert-Id"] for headers, _ in receiver.received} == {
        alert.alert_id
    }
    assert sum(summary.delivered for summary in summaries) == 1
    assert summaries[-1].pending == 0
    assert outbox.attempts(alert.alert_id, "hook").attempts == failures


def test_pause_doubles_within_a_call(outbox, alert_factory, fake_transport, clock):
    outbox.enqueue(alert_factory())
    call(outbox, [hook()], clock, fake_transport(500), attempts_per_call=4, backoff_s=0.5)
    assert clock.slept == [0.5, 1.0, 2.0]


def test_down_channel_holds_up_no_other(outbox, alert_factory, tmp_path, clock, start_receiver):
    up = start_receiver(200)
    for name in "abc":
        outbox.enqueue(alert_factory(name))
    path = tmp_path / "alerts.jsonl"
    channels = [
        hook("http://127.0.0.1:1/", name="down"),
        hook(up.url, name="up"),
        FileChannel(kind="file", name="file", path=path),
    ]
    summary = call(outbox, channels, clock)
    by_name = {each.channel: each for each in summary.channels}
    assert (by_name["down"].delivered, by_name["down"].pending) == (0, 3)
    assert by_name["down"].last_error == "ConnectionRefusedError"
    assert (by_name["up"].delivered, by_name["up"].pending) == (3, 0)
    assert len(up.accepted) == len(set(up.accepted)) == 3
    assert len(path.read_text().splitlines()) == 3


def test_down_channel_is_not_tried_for_every_alert(outbox, alert_factory, fake_transport, clock):
    for name in "abcdef":
        outbox.enqueue(alert_factory(name))
    transport = fake_transport(None)
    summary = call(outbox, [hook()], clock, transport, attempts_per_call=3)
    assert len(transport.requests) == 3
    assert summary.pending == 6


def test_defect_in_a_channel_holds_up_no_other(outbox, alert_factory, tmp_path, clock):
    class Broken:
        def post(self, request):
            raise RuntimeError("defect with https://secret.example.com")

    outbox.enqueue(alert_factory())
    path = tmp_path / "alerts.jsonl"
    summary = call(
        outbox, [hook(), FileChannel(kind="file", name="file", path=path)], clock, Broken()
    )
    assert [each.delivered for each in summary.channels] == [0, 1]
    assert summary.channels[0].last_error == "RuntimeError"


def test_refused_alert_stays_and_is_tried_ever_more_rarely(
    outbox, alert_factory, fake_transport, clock
):
    refused = alert_factory("refused")
    outbox.enqueue(refused)
    transport = fake_transport(400)
    tried_at = []
    for minute in range(60 * 24):
        before = len(transport.requests)
        summary = call(outbox, [hook()], clock, transport)
        tried_at += [minute] if len(transport.requests) > before else []
        clock.now += timedelta(minutes=1)
    gaps = [later - earlier for earlier, later in pairwise(tried_at)]
    assert gaps == sorted(gaps)
    assert gaps[:4] == [1, 2, 4, 8]
    assert max(gaps) == 360
    assert summary.channels[0].rejected == summary.pending == 1
    assert outbox.attempts(refused.alert_id, "hook").last_error == "HTTP 400"
    transport.statuses = [200]
    clock.now += timedelta(hours=6)
    assert call(outbox, [hook()], clock, transport).delivered == 1


def test_refused_alert_does_not_hold_up_the_next(outbox, alert_factory, fake_transport, clock):
    for name in "ab":
        outbox.enqueue(alert_factory(name))
    summary = call(outbox, [hook()], clock, fake_transport(400, 200))
    assert (summary.delivered, summary.pending) == (1, 1)


def test_retry_after_is_kept(outbox, alert_factory, fake_transport, clock):
    outbox.enqueue(alert_factory())
    transport = fake_transport(429, 200, retry_after_s=120)
    assert call(outbox, [hook()], clock, transport).delivered == 0
    clock.now += timedelta(seconds=60)
    assert call(outbox, [hook()], clock, transport).delivered == 0
    assert len(transport.requests) == 1
    clock.now += timedelta(seconds=61)
    assert call(outbox, [hook()], clock, transport).delivered == 1


def test_routing_decides_and_is_remembered(outbox, alert_factory, fake_transport, clock):
    outbox.enqueue(alert_factory("warning", level="warning"))
    outbox.enqueue(alert_factory("error", level="error"))
    transport = fake_transport(200)
    channel = hook(levels=["error"])
    summary = call(outbox, [channel], clock, transport)
    assert (summary.delivered, summary.pending) == (1, 0)
    assert call(outbox, [channel], clock, transport).delivered == 0
    assert len(transport.requests) == 1


def test_second_deliverer_is_busy(outbox, alert_factory, fake_transport, clock):
    outbox.enqueue(alert_factory())
    with outbox.deliverer():
        summary = call(outbox, [hook()], clock, fake_transport())
    assert summary.status == "busy"
    assert call(outbox, [hook()], clock, fake_transport()).delivered == 1


def test_budget_ends_the_call(outbox, alert_factory, fake_transport, clock):
    for name in "ab":
        outbox.enqueue(alert_factory(name))
    transport = fake_transport()
    summary = call(outbox, [hook()], clock, transport, budget_s=-1.0)
    assert (summary.delivered, summary.pending, transport.requests) == (0, 2, [])


def test_nothing_to_do(outbox, clock):
    channel = SlackChannel(kind="slack", name="growth", url_env="SLACK_URL")
    summary = call(outbox, [channel], clock)
    assert (summary.status, summary.delivered, summary.pending) == ("done", 0, 0)


# The child counts its system calls and kills itself with SIGKILL at the n-th one.
CHILD = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from experiments_dagster.alerts import alert, delivery, file, outbox, webhook
    from datetime import UTC, datetime

    root, url, path, kill_at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            global count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call

    box = outbox.Outbox(Path(root))
    for name in ("link", "fsync", "unlink", "write", "replace", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    for name in "abc":
        box.enqueue(alert.Alert(alert_id=alert.alert_id_for("kill", name), level="error",
            title=name, text="", created_at=datetime(2026, 1, 5, tzinfo=UTC)))
    channels = [
        webhook.WebhookChannel(kind="webhook", name="hook", url=url, secret_env="HOOK_SECRET"),
        file.FileChannel(kind="file", name="file", path=path),
    ]
    delivery.deliver_pending(box, channels, backoff_s=0.0)
    print(count)
    """
)


def run_child(outbox, url, path, kill_at):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(outbox.root), url, str(path), str(kill_at)],
        env={**os.environ, **ENVIRON},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_kill_at_many_points_loses_nothing(outbox, start_receiver, tmp_path):
    """Each child is killed a little later than the one before; then one is left alone."""
    receiver = start_receiver(500, 200)
    path = tmp_path / "alerts.jsonl"
    killed = [run_child(outbox, receiver.url, path, point) for point in range(1, 40, 3)]
    assert {child.returncode for child in killed} <= {-signal.SIGKILL, 0}
    assert sum(child.returncode == -signal.SIGKILL for child in killed) >= 5
    last = run_child(outbox, receiver.url, path, 0)
    assert last.returncode == 0, last.stderr
    assert len(outbox.alerts()) == 3
    assert outbox.pending("hook") == outbox.pending("file") == ()
    wanted = {alert.alert_id for alert in outbox.alerts()}
    lines = [json.loads(line)["alert_id"] for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(wanted)
    assert set(receiver.accepted) == wanted
    # Sent again only where a kill fell between the answer and the mark.
    assert len(receiver.accepted) <= 3 + len(killed)


def test_clean_run_sends_each_once(outbox, start_receiver, tmp_path):
    receiver = start_receiver(200)
    path = tmp_path / "alerts.jsonl"
    for _ in range(2):
        assert run_child(outbox, receiver.url, path, 0).returncode == 0
    assert sorted(receiver.accepted) == sorted({alert.alert_id for alert in outbox.alerts()})
    assert len(path.read_text().splitlines()) == 3
