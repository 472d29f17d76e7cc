import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from experiments_dagster.alerts.outbox import AttemptLog, Outbox


def test_enqueue_is_idempotent(outbox, alert_factory):
    alert = alert_factory()
    assert outbox.enqueue(alert)
    assert not outbox.enqueue(alert_factory(title="the same id, other words"))
    assert outbox.alerts() == (alert,)


def test_enqueue_by_many_has_one_winner(outbox, alert_factory):
    alert = alert_factory()
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: Outbox(outbox.root).enqueue(alert), range(40)))
    assert sum(created) == 1
    assert list((outbox.root / "tmp").iterdir()) == []


def test_pending_by_channel_oldest_first(outbox, alert_factory):
    young = alert_factory("young")
    old = alert_factory("old", created_at=young.created_at - timedelta(hours=1))
    outbox.enqueue(young)
    outbox.enqueue(old)
    assert outbox.pending("slack") == (old, young)
    outbox.mark_delivered(old.alert_id, "slack")
    outbox.mark_delivered(old.alert_id, "slack")
    assert outbox.pending("slack") == (young,)
    assert outbox.pending("file") == (old, young)
    assert outbox.is_delivered(old.alert_id, "slack")
    assert not outbox.is_delivered(old.alert_id, "file")


def test_state_survives_a_restart(outbox, alert_factory):
    alert = alert_factory()
    outbox.enqueue(alert)
    outbox.record_attempts(alert.alert_id, "slack", AttemptLog(attempts=2, last_error="HTTP 500"))
    again = Outbox(outbox.root)
    assert again.pending("slack") == (alert,)
    assert again.attempts(alert.alert_id, "slack").attempts == 2
    assert again.attempts(alert.alert_id, "file") == AttemptLog()


def test_one_deliverer_at_a_time(outbox):
    with outbox.deliverer() as first, Outbox(outbox.root).deliverer() as second:
        assert first
        assert not second
    with outbox.deliverer() as third:
        assert third


def test_damaged_file_is_kept_and_holds_up_nothing(outbox, alert_factory):
    alert = alert_factory()
    outbox.enqueue(alert)
    (outbox.root / "alerts" / "torn.json").write_text('{"alert_id": "torn"')
    assert outbox.pending("slack") == (alert,)
    assert outbox.damaged() == ("torn",)


def test_new_channel_gets_its_last_day_only(outbox, alert_factory):
    old, new = alert_factory("old"), alert_factory("new")
    outbox.enqueue(old)
    outbox.enqueue(new)
    path = outbox.root / "alerts" / f"{old.alert_id}.json"
    two_days_ago = path.stat().st_mtime - 2 * 86_400
    os.utime(path, (two_days_ago, two_days_ago))
    outbox.channel_state("added_later")
    assert outbox.pending("added_later") == (new,)


def test_channel_down_for_long_keeps_everything(outbox, alert_factory):
    state = outbox.channel_state("slack")
    month = 30 * 86_400
    known_for_long = state.model_copy(update={"first_seen_s": state.first_seen_s - month})
    outbox.set_channel_state("slack", known_for_long)
    alert = alert_factory()
    outbox.enqueue(alert)
    path = outbox.root / "alerts" / f"{alert.alert_id}.json"
    os.utime(path, (path.stat().st_mtime - month + 60,) * 2)
    assert outbox.pending("slack") == (alert,)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "UPPER", ".hidden", "a" * 65, "a\n"])
def test_channel_name_cannot_leave_the_folder(outbox, name):
    with pytest.raises(ValueError, match="no valid name"):
        outbox.pending(name)


def test_prune_forgets_only_what_everybody_has(outbox, alert_factory):
    done, waiting = alert_factory("done"), alert_factory("waiting")
    for alert in (done, waiting):
        outbox.enqueue(alert)
    for channel in ("slack", "file"):
        outbox.mark_delivered(done.alert_id, channel)
    outbox.mark_delivered(waiting.alert_id, "slack")
    assert outbox.prune(before=done.created_at, channels=("slack", "file")) == 0
    later = done.created_at + timedelta(days=60)
    assert outbox.prune(before=later, channels=("slack", "file")) == 1
    assert outbox.alerts() == (waiting,)


def test_marker_says_why(outbox, alert_factory):
    alert = alert_factory()
    outbox.mark_delivered(alert.alert_id, "slack", outcome="not_routed", at=alert.created_at)
    marker = outbox.root / "delivered" / "slack" / alert.alert_id
    assert json.loads(marker.read_text())["outcome"] == "not_routed"
