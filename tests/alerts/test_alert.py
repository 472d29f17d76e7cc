from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from experiments_dagster.alerts.alert import Alert, alert_id_for


def test_json_round_trip(alert_factory):
    alert = alert_factory(text='ü "quoted" \n line', experiment=None)
    assert Alert.from_json(alert.to_json()) == alert
    assert "\n" not in alert.to_json()


def test_time_is_stored_as_utc(alert_factory):
    berlin = timezone(timedelta(hours=1))
    alert = alert_factory(created_at=datetime(2026, 1, 5, 13, tzinfo=berlin))
    assert alert.created_at.tzinfo is UTC
    assert alert.created_at.hour == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": datetime(2026, 1, 5)},
        {"level": "fatal"},
        {"alert_id": "../../etc/passwd"},
        {"alert_id": ""},
        {"title": ""},
        {"unit": "u1"},
    ],
)
def test_refuses(alert_factory, changes):
    with pytest.raises(ValidationError):
        alert_factory(**changes)


def test_is_frozen(alert_factory):
    with pytest.raises(ValidationError, match="frozen"):
        alert_factory().title = "other"


def test_identity_is_deterministic_and_unambiguous():
    assert alert_id_for("run", "r1") == alert_id_for("run", "r1")
    ids = {
        alert_id_for("check", "r", "a", "c", None),
        alert_id_for("check", "r", "a", "c", "None"),
        alert_id_for("check", "r", "a", "c", ""),
        alert_id_for("check", "r", "a:c", "d", "p"),
        alert_id_for("check", "r", "a", "c", "d:p"),
    }
    assert len(ids) == 5
