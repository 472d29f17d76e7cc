"""Which arm a unit belongs to: a pure function of unit, experiment and salt.

bucket = first 8 bytes, big-endian, of SHA-256(key) / 2**64, uniform on [0, 1).

The default key prefixes each field with its length in bytes, so that no two different triples
share a key. The `incrementality` scheme keeps the key of an older system,
`unit:experiment:salt`, where ids that contain a colon are ambiguous, and puts the treatment
first. Raising an arm's share at the end of its interval never moves a unit out of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scheme = Literal["default", "incrementality"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One unit's arm and the bucket in [0, 1) that decided it."""

    unit: str
    variant: str
    bucket: float


def bucket(unit: str, experiment: str, salt: str, scheme: Scheme = "default") -> float:
    """A uniform number in [0, 1) for a unit.

    Examples:
        >>> round(bucket("user_001", "1", "", "incrementality"), 12)
        0.040838210307
    """
    if scheme == "incrementality":
        key = f"{unit}:{experiment}:{salt}".encode()
    else:
        fields = [field.encode() for field in (unit, experiment, salt)]
        key = b"".join(b"%d:%b" % (len(field), field) for field in fields)
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def assign(
    unit: str,
    *,
    experiment: str,
    salt: str,
    shares: Mapping[str, float],
    scheme: Scheme = "default",
) -> Assignment:
    """The arm of one unit.

    Args:
        unit: The unit's id, compared bytewise as UTF-8.
        experiment: Slug of the experiment.
        salt: Random, secret, one per experiment and phase.
        shares: Arm name to share; shares sum to 1.
        scheme: `default`, or `incrementality` for two arms of which one is `treatment`.

    Raises:
        ValueError: Shares are not positive or do not sum to 1, or do not fit the scheme.
    """
    if any(share <= 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        listed = ", ".join(f"{arm}={share:g}" for arm, share in shares.items())
        msg = f"shares {listed}: each must be positive and their sum 1"
        raise ValueError(msg)
    value = bucket(unit, experiment, salt, scheme)
    if scheme == "incrementality":
        if set(shares) != {"control", "treatment"}:
            msg = f"scheme incrementality needs arms control and treatment, got {', '.join(shares)}"
            raise ValueError(msg)
        arm = "treatment" if value < shares["treatment"] else "control"
        return Assignment(unit=unit, variant=arm, bucket=value)
    upper = 0.0
    for arm, share in shares.items():
        upper += share
        if value < upper:
            return Assignment(unit=unit, variant=arm, bucket=value)
    return Assignment(unit=unit, variant=arm, bucket=value)
