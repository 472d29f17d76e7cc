"""Slack-compatible incoming webhook (Slack, Mattermost, Rocket.Chat): `{text, blocks}`.

The address is the secret, so it comes from the environment (`url_env`) or is masked (`url`). Slack
knows no idempotency key; `X-Experiments-Alert-Id` is sent for receivers that look at it.
"""

import json
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

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

# Slack refuses longer section texts.
MAX_BLOCK_CHARACTERS = 3000


class SlackChannel(ChannelBase):
    """Settings of a Slack-compatible incoming webhook.

    Args:
        url_env: Environment variable that holds the address; the better choice.
        url: The address itself; masked wherever settings are shown. Exactly one of the two.
        timeout_s: Limit for one attempt, seconds.
        allow_private: The host may resolve to a private address.
    """

    kind: Literal["slack"]
    url_env: str | None = Field(default=None, pattern=ENVIRONMENT_NAME_PATTERN)
    url: SecretStr | None = None
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    allow_private: bool = False

    @field_validator("url")
    @classmethod
    def _check_form(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_url(value.get_secret_value(), allow_private=True)
        return value

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give exactly one of url_env and url")
        return self

    def send(self, alert: Alert, outside: Outside) -> SendOutcome:
        """Send `alert` once."""
        try:
            url = self._address(outside)
            check_url(url, allow_private=self.allow_private)
        except SecretMissingError as error:
            return SendOutcome(status="unavailable", reason=str(error))
        except AddressRefusedError as error:
            return SendOutcome(status="rejected", reason=str(error))
        request = WireRequest(
            url=url,
            body=json.dumps(slack_message(alert)).encode(),
            headers={
                "Content-Type": "application/json",
                "User-Agent": "experiments-dagster",
                "X-Experiments-Alert-Id": alert.alert_id,
            },
            timeout_s=self.timeout_s,
            allow_private=self.allow_private,
        )
        return post(request, outside)

    def _address(self, outside: Outside) -> str:
        if self.url is not None:
            return self.url.get_secret_value()
        return secret_from(outside.environ, self.url_env or "")


def slack_message(alert: Alert) -> dict[str, object]:
    """Return the message for `alert`; `&`, `<` and `>` are escaped: nothing mentions or links."""
    title = f"[{alert.level}] {alert.title}"
    facts = [
        f"{label}: {escape(value)}"
        for label, value in (
            ("experiment", alert.experiment),
            ("check", alert.check),
            ("run", alert.run_id),
            ("at", alert.created_at.isoformat(timespec="seconds")),
        )
        if value
    ]
    blocks: list[dict[str, object]] = [_section(f"*{escape(_first_line(title))}*")]
    if alert.text.strip():
        blocks.append(_section(escape(alert.text)))
    blocks.append({"type": "context", "elements": [_markdown("  |  ".join(facts))]})
    return {"text": escape(title), "blocks": blocks}


def escape(text: str) -> str:
    """Escape the three characters that Slack treats as control characters.

    Examples:
        >>> escape("<!channel> a & b")
        '&lt;!channel&gt; a &amp; b'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, object]:
    return {"type": "mrkdwn", "text": _shortened(text), "verbatim": True}


def _shortened(text: str) -> str:
    if len(text) <= MAX_BLOCK_CHARACTERS:
        return text
    kept = text[: MAX_BLOCK_CHARACTERS - 4]
    # Never cut inside an entity such as &amp;.
    ampersand = kept.rfind("&")
    if ampersand > kept.rfind(";"):
        kept = kept[:ampersand]
    return f"{kept} ..."


def _first_line(text: str) -> str:
    return text.splitlines()[0]
