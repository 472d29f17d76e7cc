"""What all channels share: name, routing, the outcome of one attempt.

A channel's settings are its implementation: a frozen pydantic model with `kind` and `send`. Input
is hidden in validation errors, since an address may hold a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments_dagster.alerts.addresses import AddressRefusedError
from experiments_dagster.alerts.alert import Alert, AlertLevel
from experiments_dagster.alerts.outbox import CHANNEL_NAME_PATTERN
from experiments_dagster.alerts.transport import Transport, TransportError, WireRequest

ENVIRONMENT_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOutcome:
    """How one attempt to send one alert ended.

    Args:
        status: `delivered`; `unavailable` (the channel is down: try all again later); `rejected`
            (this alert was refused: try it again ever more rarely).
        reason: A status or an error class; never an address, a secret or a response body.
        retry_after_s: The pause that the receiver asked for.
    """

    status: Literal["delivered", "unavailable", "rejected"]
    reason: str | None = None
    retry_after_s: float | None = None


DELIVERED = SendOutcome(status="delivered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a channel needs of the outside while it sends.

    Args:
        transport: The network.
        environ: Environment variables, for secrets by name.
        now: The time, aware.
    """

    transport: Transport
    environ: Mapping[str, str]
    now: datetime

    def __repr__(self) -> str:
        return f"Outside(now={self.now.isoformat()})"


class SecretMissingError(LookupError):
    """An environment variable that should hold a secret is not set."""


class ChannelBase(BaseModel):
    """Name and routing of a channel.

    Args:
        name: Unique; delivery state is kept under it, so a renamed channel is a new channel.
        levels: Only alerts of these levels; all when left out.
        experiments: Only alerts of these experiments; all when left out. A failed run that belongs
            to no experiment reaches only channels without this list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=CHANNEL_NAME_PATTERN)
    levels: tuple[AlertLevel, ...] | None = Field(default=None, min_length=1)
    experiments: tuple[str, ...] | None = Field(default=None, min_length=1)

    def accepts(self, alert: Alert) -> bool:
        """Tell whether the routing sends `alert` here."""
        level_fits = self.levels is None or alert.level in self.levels
        experiment_fits = self.experiments is None or alert.experiment in self.experiments
        return level_fits and experiment_fits


def post(request: WireRequest, outside: Outside) -> SendOutcome:
    """Send one POST and say how it ended."""
    try:
        response = outside.transport.post(request)
    except AddressRefusedError as error:
        return SendOutcome(status="rejected", reason=str(error))
    except TransportError as error:
        return SendOutcome(status="unavailable", reason=str(error))
    status_class = response.status // 100
    if status_class == 2:  # noqa: PLR2004 - success
        return DELIVERED
    # 3xx is refused too: a redirect could lead inside.
    is_refusal = status_class in {3, 4} and response.status not in {408, 429}
    return SendOutcome(
        status="rejected" if is_refusal else "unavailable",
        reason=f"HTTP {response.status}",
        retry_after_s=response.retry_after_s,
    )


def secret_from(environ: Mapping[str, str], name: str) -> str:
    """Return the secret in the environment variable `name`.

    Raises:
        SecretMissingError: It is not set, or empty.
    """
    value = environ.get(name, "").strip()
    if not value:
        raise SecretMissingError(f"environment variable {name} is not set")
    return value
