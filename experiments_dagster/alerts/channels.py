"""All channels: the settings union for the configuration, and the section it stands in.

A new channel is one file with typed settings and `send`, plus one name in the union.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from experiments_dagster.alerts.file import FileChannel
from experiments_dagster.alerts.slack import SlackChannel
from experiments_dagster.alerts.webhook import WebhookChannel

ChannelSettings = Annotated[
    WebhookChannel | SlackChannel | FileChannel, Field(discriminator="kind")
]


class AlertSettings(BaseModel):
    """The `alerts:` section of platform.yaml.

    Args:
        channels: Where alerts go; none means that they stay in the outbox.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    channels: tuple[ChannelSettings, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"channel names must be unique, found twice: {', '.join(twice)}")
        return self
