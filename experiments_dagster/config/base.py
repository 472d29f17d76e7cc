"""What all configuration models share: frozen, no extra keys, no silent conversions."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

SLUG = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")


def _plain_date(value: Any) -> Any:
    """Refuse what pydantic would turn into a date: numbers (seconds since 1970) and times."""
    if type(value) is dt.date:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return value
    msg = f"need a date such as 2026-01-31, got {value!r}"
    raise ValueError(msg)


Day = Annotated[dt.date, BeforeValidator(_plain_date)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Fraction = Annotated[float, Field(strict=True, gt=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Days = Annotated[int, Field(strict=True, ge=1, le=3650)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
Slug = Annotated[str, StringConstraints(pattern=SLUG.pattern)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Spec(BaseModel):
    """Base of everything read from a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
