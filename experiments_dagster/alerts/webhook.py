"""Signed webhook: the alert as JSON, with a signature the receiver can check.

    X-Experiments-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">
    X-Experiments-Alert-Id:  <alert_id>, the same at every attempt

The receiver compares the signature in constant time, refuses an old `t` and ignores an id it has
already seen.
"""

import hashlib
import hmac
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from experiments_dagster.alerts.addresses import AddressRefusedError, check_url
from experiments_dagster.alerts.alert import Alert
from experiments_dagster.alerts.channel import (
    ENVIRONMENT_NAME_PATTERN,
    ChannelBase,
    Outside,
    SecretMissingError,
    SendOutcome,
    post,
    secret_from,
)
from experiments_dagster.alerts.transport import WireRequest


class WebhookChannel(ChannelBase):
    """Settings of a signed webhook.

    Args:
        url: https address (http for loopback hosts only); masked wherever settings are shown.
        secret_env: Environment variable that holds the signing secret.
        timeout_s: Limit for one attempt, seconds.
        allow_private: The host may resolve to a private address.
    """

    kind: Literal["webhook"]
    url: SecretStr
    secret_env: str = Field(pattern=ENVIRONMENT_NAME_PATTERN)
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    allow_private: bool = False

    @field_validator("url")
    @classmethod
    def _check_form(cls, value: SecretStr) -> SecretStr:
        # Ranges need allow_private and are checked when connecting.
        check_url(value.get_secret_value(), allow_private=True)
        return value

    def send(self, alert: Alert, outside: Outside) -> SendOutcome:
        """Send `alert` once."""
        try:
            secret = secret_from(outside.environ, self.secret_env)
            check_url(self.url.get_secret_value(), allow_private=self.allow_private)
        except SecretMissingError as error:
            return SendOutcome(status="unavailable", reason=str(error))
        except AddressRefusedError as error:
            return SendOutcome(status="rejected", reason=str(error))
        body = alert.to_json().encode()
        timestamp = int(outside.now.timestamp())
        request = WireRequest(
            url=self.url.get_secret_value(),
            body=body,
            headers={
                "Content-Type": "application/json",
                "User-Agent": "experiments-dagster",
                "X-Experiments-Alert-Id": alert.alert_id,
                "X-Experiments-Signature": sign(body, secret=secret, timestamp=timestamp),
            },
            timeout_s=self.timeout_s,
            allow_private=self.allow_private,
        )
        return post(request, outside)


def sign(body: bytes, *, secret: str, timestamp: int) -> str:
    """Return the signature header for `body` at `timestamp` (unix seconds)."""
    signed = str(timestamp).encode() + b"." + body
    return f"t={timestamp},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"
