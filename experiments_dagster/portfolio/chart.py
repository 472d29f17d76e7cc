"""Raw and shrunk effects of decided arms, one row each: how much of a win is to be believed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from experiments_dagster.portfolio.pooling import ShrunkArm
from experiments_dagster.reporting import svg
from experiments_dagster.reporting.look_charts import NARROW
from experiments_dagster.reporting.numbers import lift, tick
from experiments_dagster.reporting.svg import Drawing, Scale

_Z95 = 1.96
_TOP, _TICK_ROOM = 44.0, 70.0
_LONGEST = 3.0  # median half-widths that an interval may reach before it is cut


def shrinkage_chart(arms: Sequence[ShrunkArm], *, title: str, width: int) -> str:
    """Two 95 % intervals per arm as SVG: raw in grey above, shrunk in blue below.

    Args:
        arms: One or more, of one metric.
        title: For people who cannot see the picture.
        width: Pixels; below 560 the layout is that of a phone.
    """
    narrow = width < NARROW
    # A phone has the names above the intervals.
    start, room, step = (24.0, width - 28.0, 50.0) if narrow else (230.0, 202.0, 34.0)
    bottom = _TOP + step * len(arms)
    drawing = Drawing(width, bottom + 34)
    x = _scale(arms, start=start, end=width - 24.0)
    drawing.text((14, _TOP - 20), "raw", size=11.5, fill=svg.FAINT, bold=True)
    drawing.text((44, _TOP - 20), "shrunk", size=11.5, fill=svg.BLUE, bold=True)
    drawing.line((14, _TOP - 10), (width - 14, _TOP - 10), stroke=svg.EDGE)
    for value in svg.nice_ticks(x.low, x.high, max(2, int((x.end - x.start) / _TICK_ROOM))):
        stroke, thick = (svg.MUTED, 1.3) if value == 0 else (svg.GRID, 1.0)
        drawing.line((x(value), _TOP - 4), (x(value), bottom), stroke=stroke, width=thick)
        drawing.text((x(value), bottom + 18), tick(value, lift), anchor="middle", size=11)
    for row, one in enumerate(arms):
        y = _TOP + row * step + (34.0 if narrow else 17.0)
        name = svg.fit(f"{one.arm.experiment} / {one.arm.arm}", 12, room)
        label_y = y - 16 if narrow else y + 4
        drawing.text((14, label_y), name, fill=svg.INK, bold=one.arm.is_shipped, halo=True)
        _interval(drawing, x, y - 6, one.arm.estimate, one.arm.std_error, svg.FAINT)
        _interval(drawing, x, y + 6, one.shrunk.estimate, one.shrunk.posterior_sd, svg.BLUE)
    return drawing.render(title=title, description=_describe(arms))


def _scale(arms: Sequence[ShrunkArm], *, start: float, end: float) -> Scale:
    longest = _LONGEST * _Z95 * statistics.median(one.arm.std_error for one in arms)
    low, high = 0.0, 0.0
    for one in arms:
        half = min(_Z95 * one.arm.std_error, longest)
        low = min(low, one.arm.estimate - half)
        high = max(high, one.arm.estimate + half)
    pad = 0.06 * (high - low)
    return Scale(low - pad, high + pad, start, end)


def _interval(
    drawing: Drawing, x: Scale, y: float, centre: float, spread: float, colour: str
) -> None:
    low, high = centre - _Z95 * spread, centre + _Z95 * spread
    left, right = x(x.clip(low)), x(x.clip(high))
    drawing.line((left, y), (right, y), stroke=colour, width=2)
    if not x.contains(low):
        drawing.side_arrow((left, y), right=False, fill=colour)
    if not x.contains(high):
        drawing.side_arrow((right, y), right=True, fill=colour)
    drawing.dot((x(centre), y), 4, fill=colour)


def _describe(arms: Sequence[ShrunkArm]) -> str:
    rows = (
        f"{one.arm.experiment} {one.arm.arm}: raw {lift(one.arm.estimate)}, "
        f"shrunk {lift(one.shrunk.estimate)}"
        for one in arms
    )
    return "; ".join(rows) + "."
