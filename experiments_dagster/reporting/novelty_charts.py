"""The effect by day since exposure with pointwise intervals, and its early and late level."""

from __future__ import annotations

from experiments_dagster.looks.records import Novelty
from experiments_dagster.reporting import svg
from experiments_dagster.reporting.look_charts import NARROW
from experiments_dagster.reporting.numbers import Format, level, tick
from experiments_dagster.reporting.svg import Drawing, Scale
from experiments_dagster.stats.intervals import critical_value

POINTWISE_ALPHA = 0.05
_DAY_ROOM = 26.0


def novelty_chart(row: Novelty, *, shown: Format, width: int = 780) -> str:
    """The effect of each day since exposure as SVG.

    Args:
        row: Effects and standard errors by day.
        shown: How a difference of the metric is written.
        width: Pixels; below 560 the layout is that of a phone.
    """
    drawing = Drawing(width, 300)
    half = critical_value(POINTWISE_ALPHA)
    limits = [
        (effect - half * error, effect + half * error)
        for effect, error in zip(row.effects, row.std_errors, strict=True)
    ]
    low = min(0.0, *(pair[0] for pair in limits))
    high = max(0.0, *(pair[1] for pair in limits))
    pad = 0.08 * (high - low) or 0.01
    y = Scale(low - pad, high + pad, 246, 62)
    right = width - (88 if width < NARROW else 110)
    x = Scale(row.days[0] - 0.5, row.days[-1] + 0.5, 64, right)
    _legend(drawing)
    _axes(drawing, x, y, row, shown)
    third = len(row.days) // 3
    _level(drawing, x, y, row.days[:third], row.early)
    _level(drawing, x, y, row.days[-third:], row.late)
    for day, effect, pair in zip(row.days, row.effects, limits, strict=True):
        drawing.line((x(day), y(pair[0])), (x(day), y(pair[1])), width=1.4)
        drawing.dot((x(day), y(effect)), min(3.8, 0.35 * (x(1) - x(0))))
    _end_labels(drawing, x, y, f"late {shown(row.late)}", row.late)
    return drawing.render(
        title=f"{row.metric}: effect of {row.arm} by day since exposure",
        description=(
            f"{len(row.days)} days; early {shown(row.early)}, late {shown(row.late)}, slope "
            f"{shown(row.slope)} per day."
        ),
    )


def _end_labels(drawing: Drawing, x: Scale, y: Scale, words: str, late: float) -> None:
    low, high = y.end + 4, y.start - 4
    places = svg.spread([y(0.0), y(late)], gap=15, low=low, high=high)
    labels = (("no effect", svg.MUTED, False), (words, svg.BLUE, True))
    for place, (label, colour, bold) in zip(places, labels, strict=True):
        drawing.text((x.end + 8, place + 4), label, fill=colour, size=11.5, bold=bold)


def _level(drawing: Drawing, x: Scale, y: Scale, days: tuple[int, ...], value: float) -> None:
    start, end = x(days[0] - 0.4), x(days[-1] + 0.4)
    drawing.line((start, y(value)), (end, y(value)), stroke=svg.BLUE, width=3)


def _axes(drawing: Drawing, x: Scale, y: Scale, row: Novelty, shown: Format) -> None:
    for value in svg.nice_ticks(y.low, y.high, 5):
        stroke, width = (svg.MUTED, 1.3) if value == 0 else (svg.GRID, 1.0)
        drawing.line((x.start, y(value)), (x.end, y(value)), stroke=stroke, width=width)
        drawing.text((x.start - 8, y(value) + 4), tick(value, shown), anchor="end", size=11.5)
    every = max(1, round(_DAY_ROOM * len(row.days) / (x.end - x.start) + 0.49))
    for day in row.days[::every]:
        drawing.line((x(day), y.start), (x(day), y.start + 4), stroke=svg.EDGE)
        drawing.text((x(day), y.start + 18), str(day), anchor="middle", size=11.5)
    middle = (x.start + x.end) / 2
    words = "days since first exposure"
    drawing.text((middle, y.start + 37), words, anchor="middle", size=11.5)


def _legend(drawing: Drawing) -> None:
    confidence = level(1 - POINTWISE_ALPHA)
    words = f"day, {confidence} interval"
    drawing.line((25, 18), (25, 32), width=1.4)
    drawing.dot((25, 25), 3.8)
    drawing.text((38, 29), words, size=11.5)
    x = 38 + svg.text_width(words, 11.5) + 16
    drawing.line((x, 25), (x + 16, 25), stroke=svg.BLUE, width=3)
    drawing.text((x + 22, 29), "mean of first and last third", size=11.5)
