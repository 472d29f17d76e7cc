"""Numbers as people read them in the terminal."""

from __future__ import annotations


def percent(value: float | None, digits: int = 1) -> str:
    """A signed percentage, or a dash."""
    return "-" if value is None else f"{value:+.{digits}%}"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval of percentages, or a dash."""
    if low is None or high is None:
        return "-"
    return f"[{low:+.{digits}%}, {high:+.{digits}%}]"


def p_value(value: float | None) -> str:
    """Three digits, or < 0.001."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004
