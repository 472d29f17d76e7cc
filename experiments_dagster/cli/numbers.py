"""Numbers as people read them in the terminal."""

from __future__ import annotations


def percent(value: float | None, digits: int = 1, *, signed: bool = True) -> str:
    """A percentage, or a dash.

    Examples:
        >>> percent(0.1349), percent(0.02845, signed=False), percent(0.12, 0)
        ('+13.5%', '2.8%', '+12%')
    """
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{digits}%}"


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
