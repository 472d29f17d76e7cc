"""The one chart of an exploration: how many units came on each day, all arms together."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import count, day, number, tick
from experiments_dagster.reporting.svg import Drawing, Scale

HEIGHT = 220
_LABEL_ROOM = 64.0


def exposures_chart(days: Sequence[tuple[dt.date, int]], *, width: int) -> str:
    """First exposures per day as bars.

    Args:
        days: Every day with its number of units, in order.
        width: Pixels.
    """
    drawing = Drawing(width, HEIGHT)
    most = max(n for _, n in days)
    y = Scale(0, max(most, 1) * 1.06, HEIGHT - 36, 22)
    x = Scale(0, len(days), 64, width - 16)
    for value in svg.nice_ticks(0, y.high, 4):
        drawing.line((x.start, y(value)), (x.end, y(value)), stroke=svg.GRID)
        drawing.text((x.start - 8, y(value) + 4), tick(value, number), anchor="end", size=11.5)
    room = x(1) - x(0)
    for k, (_, n) in enumerate(days):
        corner = (x(k) + 0.1 * room, y(n))
        drawing.rect(corner, (0.8 * room, y(0) - y(n)), fill=svg.BLUE)
    every = max(1, round(_LABEL_ROOM / room + 0.49))
    for k in range(0, len(days), every):
        drawing.text((x(k + 0.5), HEIGHT - 16), day(days[k][0], year=False), anchor="middle")
    total = sum(n for _, n in days)
    return drawing.render(
        title="First exposures by day, all arms together",
        description=f"{count(total)} units on {count(len(days))} days, at most {count(most)} a "
        "day.",
    )
