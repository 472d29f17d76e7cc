"""Results as Markdown: what was measured, the target beside it, and whether it is met."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of targets.

    Attributes:
        what: What is measured, in words.
        measured: The number, or None if there is none.
        target: At most this.
        unit: "x" for a ratio, else "s", "MB" or the like.
        met: Whether the number is there and within the target.
        reason: Why there is no number.
    """

    what: str
    measured: float | None
    target: float
    unit: str
    met: bool
    reason: str = ""


def targets_table(rows: Sequence[Row]) -> str:
    """Markdown table of the targets, with the reasons of missing numbers below it."""
    lines = [
        (
            row.what,
            "not measured" if row.measured is None else quantity(row.measured, row.unit),
            f"at most {quantity(row.target, row.unit)}",
            "yes" if row.met else "**no**",
        )
        for row in rows
    ]
    table = markdown(("what", "measured", "target", "met"), lines)
    different = dict.fromkeys(row.reason for row in rows if row.reason)
    reasons = [f"- not measured: {reason}" for reason in different]
    return "\n".join([table, *(["", *reasons] if reasons else [])])


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rules = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *lines))


def quantity(value: float, unit: str) -> str:
    """A number with three digits and its unit: `2.6x`, `0.35x`, `412 MB`, `1,234 MB`, `0.84 s`."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    text = f"{value:,.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}x" if unit == "x" else f"{text} {unit}"


def write_block(readme: Path, text: str) -> None:
    """Replace what stands between `<!-- bench -->` and `<!-- /bench -->`.

    Raises:
        ValueError: The file has no such pair of lines.
    """
    page = readme.read_text(encoding="utf-8")
    if not BLOCK.search(page):
        raise ValueError(f"{readme}: no lines <!-- bench --> and <!-- /bench --> to write between")
    # A function, since the text may have backslashes.
    readme.write_text(BLOCK.sub(lambda _: text.strip() + "\n", page, count=1), encoding="utf-8")
