"""The forest plot of a segment analysis: one row per level, its interval beside that of all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.look_charts import NARROW
from experiments_dagster.reporting.numbers import Format, count, p_value, tick
from experiments_dagster.reporting.svg import Drawing, Scale

_LONGEST = 3.0  # median half-widths that an interval may reach before it is cut
_TOP = 46.0
_TICK_ROOM = 62.0
_BAND = "#f3f5f8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """The effect in one level with its interval; `p_adjusted` is corrected for all levels."""

    name: str
    n_units: int
    estimate: float
    low: float
    high: float
    p_adjusted: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestGroup:
    """The levels of one segment under its name; `p_value` is that of a difference between them."""

    heading: str
    rows: tuple[ForestRow, ...]
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Where things stand; a phone has units and p-value on a second line."""

    label: float
    units: float
    effect: float
    p: float
    step: float
    is_narrow: bool


def forest_plot(
    overall: ForestRow,
    groups: Sequence[ForestGroup],
    *,
    quantity: str,
    shown: Format,
    title: str,
    width: int,
) -> str:
    """Effects by level as SVG; an interval beyond the scale is cut and carries an arrow.

    Args:
        overall: The effect among all units, drawn first and as a line through all rows.
        groups: Segments with their levels.
        quantity: What the effects are, such as lift.
        shown: How an effect is written.
        title: For people who cannot see the picture.
        width: Pixels; below 560 the layout is that of a phone.
    """
    narrow = width < NARROW
    columns = (
        _Columns(label=14, units=14, effect=width - 14.0, p=width - 14.0, step=38, is_narrow=True)
        if narrow
        else _Columns(
            label=18, units=232, effect=width - 100.0, p=width - 18.0, step=25, is_narrow=False
        )
    )
    n_rows = 1 + sum(1 + len(group.rows) for group in groups)
    bottom = _TOP + n_rows * columns.step
    drawing = Drawing(width, bottom + 34)
    levels = [row for group in groups for row in group.rows]
    start, end = (118.0, width - 84.0) if narrow else (254.0, width - 172.0)
    x = _effect_scale([overall, *levels], start=start, end=end)
    _header(drawing, columns, quantity)
    _axis(drawing, x, shown, bottom)
    at = x(overall.estimate)
    drawing.line((at, _TOP), (at, bottom), stroke=svg.BLUE, dash="4 4")
    largest = max(row.n_units for row in [overall, *levels])
    y = _TOP + columns.step / 2
    _row(drawing, columns, x, y, overall, shown, largest=largest, bold=True)
    for group in groups:
        y += columns.step
        _heading(drawing, columns, y, group)
        for row in group.rows:
            y += columns.step
            _row(drawing, columns, x, y, row, shown, largest=largest, bold=False)
    return drawing.render(title=title, description=_describe(overall, levels, shown))


def _describe(overall: ForestRow, levels: list[ForestRow], shown: Format) -> str:
    rows = (
        f"{row.name}: {shown(row.estimate)}, {shown(row.low)} to {shown(row.high)}"
        for row in [overall, *levels]
    )
    return "; ".join(rows) + "."


def _effect_scale(rows: list[ForestRow], *, start: float, end: float) -> Scale:
    longest = _LONGEST * statistics.median((row.high - row.low) / 2 for row in rows)
    low = min(0.0, *(max(row.low, row.estimate - longest) for row in rows))
    high = max(0.0, *(min(row.high, row.estimate + longest) for row in rows))
    pad = 0.06 * (high - low) or 0.01
    return Scale(low - pad, high + pad, start, end)


def _header(drawing: Drawing, columns: _Columns, quantity: str) -> None:
    y = _TOP - 18
    if columns.is_narrow:
        drawing.text((columns.label, y), "level, units", size=11)
        drawing.text((columns.effect, y), f"{quantity}, corrected p", anchor="end", size=11)
        return
    drawing.text((columns.label, y), "level", size=11.5)
    drawing.text((columns.units, y), "units", anchor="end", size=11.5)
    drawing.text((columns.effect, y), quantity, anchor="end", size=11.5)
    drawing.text((columns.p, y), "corrected p", anchor="end", size=11.5)


def _axis(drawing: Drawing, x: Scale, shown: Format, bottom: float) -> None:
    drawing.line((14, _TOP - 8), (drawing.width - 14, _TOP - 8), stroke=svg.EDGE)
    wanted = max(2, int((x.end - x.start) / _TICK_ROOM))
    for value in svg.nice_ticks(x.low, x.high, wanted):
        stroke, width = (svg.MUTED, 1.3) if value == 0 else (svg.GRID, 1.0)
        drawing.line((x(value), _TOP), (x(value), bottom), stroke=stroke, width=width)
        drawing.text((x(value), bottom + 18), tick(value, shown), anchor="middle", size=11)


def _heading(drawing: Drawing, columns: _Columns, y: float, group: ForestGroup) -> None:
    top, right = y - columns.step / 2, drawing.width - 14
    drawing.rect((14, top + 1), (right - 14, columns.step - 2), fill=_BAND)
    words = ""
    if group.p_value is not None:
        words = f"difference between levels: p {p_value(group.p_value)}"
    room = right - columns.label - svg.text_width(words, 11.5) - 12
    name = svg.fit(group.heading, 12, room)
    drawing.text((columns.label, y + 4), name, bold=True, fill=svg.INK)
    drawing.text((columns.p, y + 4), words, anchor="end", size=11.5)


def _row(
    drawing: Drawing,
    columns: _Columns,
    x: Scale,
    y: float,
    row: ForestRow,
    shown: Format,
    *,
    largest: int,
    bold: bool,
) -> None:
    below = 8.0 if columns.is_narrow else 0.0
    name_y, detail_y = y + 4 - below, y + 4 + below
    room = (x.start if columns.is_narrow else columns.units - 64) - columns.label - 8
    name = svg.fit(row.name, 12, room)
    drawing.text((columns.label, name_y), name, fill=svg.INK, bold=bold)
    anchor: svg.Anchor = "start" if columns.is_narrow else "end"
    drawing.text((columns.units, detail_y), count(row.n_units), anchor=anchor, size=11.5)
    _interval(drawing, x, y, row, radius=2.5 + 3 * (row.n_units / largest) ** 0.5, bold=bold)
    effect = shown(row.estimate)
    drawing.text((columns.effect, name_y), effect, fill=svg.INK, anchor="end", bold=bold)
    if row.p_adjusted is not None:
        words = p_value(row.p_adjusted)
        drawing.text((columns.p, detail_y), words, anchor="end", size=11.5)


def _interval(
    drawing: Drawing, x: Scale, y: float, row: ForestRow, *, radius: float, bold: bool
) -> None:
    colour = svg.BLUE if bold else svg.INK
    low, high = x(x.clip(row.low)), x(x.clip(row.high))
    drawing.line((low, y), (high, y), stroke=colour, width=2.2 if bold else 1.5)
    if not x.contains(row.low):
        drawing.side_arrow((low, y), right=False, fill=colour)
    if not x.contains(row.high):
        drawing.side_arrow((high, y), right=True, fill=colour)
    drawing.dot((x(row.estimate), y), radius, fill=colour)
