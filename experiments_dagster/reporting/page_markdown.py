"""A report as Markdown: the blocks of the page, without its pictures."""

from __future__ import annotations

from markupsafe import Markup

from experiments_dagster.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Command,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Report,
    Section,
    Table,
    Tile,
)
from experiments_dagster.reporting.numbers import clean_text
from experiments_dagster.reporting.tables import escape_markdown, markdown_table


def markdown_page(report: Report) -> str:
    """The same content as `blocks.render`; a section that only holds pictures is left out."""
    parts = [
        f"# {_escaped(report.title)}",
        _escaped(report.kind),
        _escaped(report.lead),
        _escaped(" · ".join(report.meta)),
        f"**{_escaped(report.badge.words)}** {_escaped(report.headline)}",
        *(_escaped(reason) for reason in report.reasons),
        "\n".join(_tile(tile) for tile in report.tiles),
        *(_block(note) for note in report.notes),
        *(_section(section) for section in report.sections),
        _escaped(report.footer),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> str:
    bodies = [text for text in (_block(block) for block in section.blocks) if text]
    if not bodies:
        return ""
    hidden = [_escaped(section.hidden_because)] if section.hidden_because else []
    return "\n\n".join([f"## {_escaped(section.title)}", *hidden, *bodies])


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            text = " ".join(_escaped(words) for words in block.words)
        case Heading():
            text = f"### {_escaped(block.words)}"
        case Bullets():
            marks = (f"{k}." if block.numbered else "-" for k, _ in enumerate(block.items, 1))
            rows = zip(marks, block.items, strict=True)
            text = "\n".join(f"{mark} {_escaped(item)}" for mark, item in rows)
        case Facts():
            facts = ((_escaped(name), _escaped(value)) for name, value in block.rows)
            text = "\n".join(f"- **{name}:** {value}" for name, value in facts)
        case Table():
            text = _table(block)
        case Command():
            # Indented, so that no text in it can end the code.
            text = f"    {clean_text(block.words)}"
        case Figure():
            text = ""
    return text


def _table(table: Table) -> str:
    align = "".join("r" if letter == "r" else "l" for letter in table.align)
    rows = [[_plain(cell) for cell in row] for row in table.rows]
    text = markdown_table(table.header, rows, align=align)
    return f"{text}\n\n{_escaped(table.caption)}" if table.caption else text


def _tile(tile: Tile) -> str:
    detail = f" ({_escaped(tile.detail)})" if tile.detail else ""
    return f"- {_escaped(tile.label)}: **{_escaped(tile.value)}**{detail}"


def _escaped(cell: Cell) -> str:
    return escape_markdown(_plain(cell))


def _plain(cell: Cell) -> str:
    """Text of a cell; what stands smaller on the page follows after a colon."""
    if not isinstance(cell, Markup):
        return cell
    # Only tags go; what was escaped is text again and is escaped as Markdown next.
    return Markup(str(cell).replace(" <small>", ": ")).striptags()  # noqa: S704
