"""Values of flags, refused by the flag's name."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.stats.intervals import check_alpha

COMPAT = ("ours", "legacy")


def check_choice(flag: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not one of a few.

    Raises:
        ValueError: It is not.
    """
    if value not in allowed:
        msg = f"{flag} {value!r}: must be one of {', '.join(allowed)}"
        raise ValueError(msg)


def check_level(flag: str, value: float) -> None:
    """Refuse a level outside (0, 1), by its flag.

    Raises:
        ValueError: It is outside.
    """
    try:
        check_alpha(value)
    except ValueError:
        msg = f"{flag} {value:g}: must be above 0 and below 1"
        raise ValueError(msg) from None


def is_legacy(value: str) -> bool:
    """Whether `--compat legacy` asks for the old numbers, labelled, beside ours.

    Raises:
        ValueError: Neither ours nor legacy.
    """
    check_choice("--compat", value, COMPAT)
    return value == "legacy"
