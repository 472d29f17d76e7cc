"""What a report is made of: plain frozen blocks that one template lays out.

Cells and sentences are text and escaped by the template. `exact` is the one kind of markup in
them: a number as people read it, with the recorded value beside it for machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from experiments_dagster.reporting.numbers import Format, clean_text, missing

Cell = str | Markup
WIDE, PHONE = 780, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Sentences; `tone` is how loud they are."""

    words: tuple[Cell, ...]
    tone: Literal["plain", "muted", "note", "warning"] = "plain"
    kind: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A heading inside a section."""

    words: str
    kind: Literal["heading"] = "heading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a header; `align` has one letter per column, `strong` the rows that decide."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    align: str
    caption: Cell = ""
    strong: frozenset[int] = frozenset()
    kind: Literal["table"] = "table"

    def __post_init__(self) -> None:
        for row in (self.header, self.align, *self.rows):
            if len(row) != len(self.header):
                msg = f"{len(row)} cells for {len(self.header)} columns"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names with values."""

    rows: tuple[tuple[str, Cell], ...]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets:
    """A list of sentences; `numbered` where the order matters."""

    items: tuple[Cell, ...]
    numbered: bool = False
    kind: Literal["bullets"] = "bullets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart, drawn once for a page and once for a phone. Only our own SVG goes in."""

    wide: Markup
    phone: Markup
    caption: Cell
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to copy."""

    words: str
    kind: Literal["command"] = "command"


Block = Paragraph | Heading | Table | Facts | Bullets | Figure | Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report; where `hidden_because` is set it is folded away under that sentence."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    hidden_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A verdict in a word; `tone` picks its colours."""

    words: str
    tone: Literal["good", "bad", "wait", "broken", "open", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number of the bottom line."""

    label: str
    value: Cell
    detail: Cell = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole page."""

    kind: str
    title: str
    lead: str
    meta: tuple[str, ...]
    badge: Badge
    headline: str
    reasons: tuple[Cell, ...]
    tiles: tuple[Tile, ...]
    notes: tuple[Block, ...]
    sections: tuple[Section, ...]
    footer: str


def exact(value: float | None, shown: Format, reason: str | None = None) -> Cell:
    """A number as people read it that carries its recorded value; or why it is absent."""
    if value is None:
        return missing(reason)
    return Markup('<data value="{}">{}</data>').format(repr(value), shown(value))


def exact_interval(
    low: float | None, high: float | None, shown: Format, reason: str | None = None
) -> Cell:
    """Two limits that carry their recorded values; or why they are absent."""
    if low is None or high is None:
        return missing(reason)
    return Markup("{} to {}").format(exact(low, shown), exact(high, shown))


def phrase(template: str, *parts: Cell | int) -> Markup:
    """A sentence with escaped parts; the template is our own text."""
    cleaned = (
        clean_text(part) if isinstance(part, str) and not isinstance(part, Markup) else part
        for part in parts
    )
    return Markup(template).format(*cleaned)  # noqa: S704  # format escapes the parts


def figure(wide: str, phone: str, caption: Cell) -> Figure:
    """A figure of two drawings of `svg.Drawing`, which escapes every text in them."""
    return Figure(wide=Markup(wide), phone=Markup(phone), caption=caption)  # noqa: S704


def badge_of(verdict: str) -> Badge:
    """The badge of a verdict."""
    tones: dict[str, Literal["good", "bad", "wait", "broken", "open", "explore"]] = {
        "SHIP": "good",
        "DO_NOT_SHIP": "bad",
        "PENDING": "wait",
        "INVALID": "broken",
        "INCOMPLETE": "broken",
        "EXPLORATORY": "explore",
    }
    return Badge(words=verdict.replace("_", " "), tone=tones.get(verdict, "open"))


def render(report: Report) -> str:
    """The page as one self-contained HTML document."""
    text = _environment().get_template("report.html.j2").render(report=report)
    return text if text.endswith("\n") else text + "\n"


def join_sentences(sentences: Sequence[Cell]) -> Markup:
    """Sentences with a space between them."""
    return Markup(" ").join(sentences)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("experiments_dagster.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Control characters and direction overrides never reach the page.
        finalize=lambda value: (
            clean_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
