"""The alert: one frozen record of something people should hear about.

An alert leaves the machine. Raw unit ids, rows and secrets never stand in its title or text; the
caller sees to that, because no filter can tell an id from a word. Delivery state does not belong
here (`outbox`).
"""

import hashlib
import json
from datetime import UTC
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

AlertLevel = Literal["info", "success", "warning", "error"]

ALERT_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"


class Alert(BaseModel):
    """Something people should hear about once.

    Args:
        alert_id: Deterministic identity (`alert_id_for`); the same occurrence has the same id.
        level: `info`, `success`, `warning` or `error`.
        title: One line.
        text: The details, without raw unit ids.
        experiment: Slug of the experiment or intervention concerned, if there is one.
        check: `asset/key:check_name` of the check concerned, if there is one.
        run_id: Dagster run in which it happened, if there is one.
        created_at: When it happened, aware; stored as UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alert_id: str = Field(pattern=ALERT_ID_PATTERN)
    level: AlertLevel
    title: str = Field(min_length=1)
    text: str
    experiment: str | None = None
    check: str | None = None
    run_id: str | None = None
    created_at: AwareDatetime

    @field_validator("created_at")
    @classmethod
    def _to_utc(cls, value: AwareDatetime) -> AwareDatetime:
        return value.astimezone(UTC)

    def to_json(self) -> str:
        """Return the alert as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Alert":
        """Read an alert written by `to_json`.

        Raises:
            pydantic.ValidationError: The text is no alert.
        """
        return cls.model_validate_json(text)


def alert_id_for(*identity: str | None) -> str:
    """Return the id of the occurrence named by `identity`.

    SHA-256 over a JSON array rather than over joined text, so that no two identities share an id
    (a partition may hold the separator) and a missing part differs from an empty one.

    Examples:
        >>> alert_id_for("run", "4c1d")[:12]
        'cf9efc9426b0'
        >>> alert_id_for("a", "b:c") == alert_id_for("a:b", "c")
        False
    """
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
