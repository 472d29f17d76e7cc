"""The plots of a result folder, as SVG: two distributions, a cloud, two trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import number, signed, tick
from experiments_dagster.reporting.svg import Drawing, Scale

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Limits = tuple[float | None, float | None]

WIDTH, HEIGHT = 720.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 24.0, 84.0, 52.0
BINS = 40
MANY_POINTS = 1500  # of a cloud, per arm: more only make the file larger
CENTRAL = 0.995  # share of the values that a histogram shows; the rest is counted
CONTROL, TEST = svg.MUTED, svg.BLUE
LARGEST_Z = 6.0  # beyond it a boundary is drawn at the edge


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryPoint:
    """One look of a plot: rows so far, the value, and its limits or boundary; None where absent."""

    look_n: int
    value: float | None
    limits: Limits
    crossed: bool


def histograms(values: Vector, is_test: Mask, *, arms: tuple[str, str], title: str, x: str) -> str:
    """The distributions of both arms, each adding up to 1."""
    drawing = Drawing(WIDTH, HEIGHT)
    _heading(drawing, title)
    low, high = (float(q) for q in np.quantile(values, [1 - CENTRAL, CENTRAL]))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - _room(low), high + _room(high)
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(values[m], edges)[0] / max(m.sum(), 1) for m in (~is_test, is_test)]
    tallest = max(float(share.max()) for share in shares) or 1.0
    across = Scale(low, high, LEFT, WIDTH - RIGHT)
    up = Scale(0, 1.06 * tallest, HEIGHT - BOTTOM, TOP)
    _axes(drawing, across, up, x=x, y="share of rows")
    for share, colour in zip(shares, (CONTROL, TEST), strict=True):
        line = [(across(low), up(0.0))]
        for k, height in enumerate(share):
            line += [(across(edges[k]), up(height)), (across(edges[k + 1]), up(height))]
        drawing.polyline([*line, (across(high), up(0.0))], stroke=colour, width=1.8)
    outside = int(((values < low) | (values > high)).sum())
    note = f"{outside} of {len(values)} values lie outside" if outside else ""
    _legend(drawing, arms, note)
    return drawing.render(title=title, description=f"Distributions of {x} in {' and '.join(arms)}.")


def cloud(
    x: Vector,
    y: Vector,
    is_test: Mask,
    *,
    arms: tuple[str, str],
    title: str,
    names: tuple[str, str],
) -> str:
    """One value against another, a dot per row."""
    drawing = Drawing(WIDTH, HEIGHT)
    _heading(drawing, title)
    across = _range(x, LEFT, WIDTH - RIGHT)
    up = _range(y, HEIGHT - BOTTOM, TOP)
    _axes(drawing, across, up, x=names[0], y=names[1])
    shown = 0
    for mask, colour in ((~is_test, CONTROL), (is_test, TEST)):
        rows = np.flatnonzero(mask)
        # Evenly spaced rows: the same in every run.
        rows = rows[:: max(1, math.ceil(len(rows) / MANY_POINTS))]
        shown += len(rows)
        for a, b in zip(x[rows].tolist(), y[rows].tolist(), strict=True):
            drawing.dot((across(a), up(b)), 2.0, fill=colour, width=0.4)
    note = f"{shown} of {len(x)} rows shown" if shown < len(x) else ""
    _legend(drawing, arms, note)
    return drawing.render(title=title, description=f"{names[1]} against {names[0]} by arm.")


def trajectory(
    points: Sequence[TrajectoryPoint], *, title: str, y: str, is_score: bool, note: str = ""
) -> str:
    """A value at each look with limits around it (an effect) or boundaries beside it (a score)."""
    drawing = Drawing(WIDTH, HEIGHT)
    _heading(drawing, title)
    known = [point for point in points if point.value is not None]
    if not known:
        drawing.text((LEFT, HEIGHT / 2), "No look could be evaluated.", size=13)
        return drawing.render(title=title, description="No look could be evaluated.")
    across = Scale(0, 1.04 * max(point.look_n for point in points), LEFT, WIDTH - RIGHT)
    up = _vertical(known, is_score=is_score)
    _axes(drawing, across, up, x="rows so far", y=y)
    drawing.line((LEFT, up(0.0)), (WIDTH - RIGHT, up(0.0)), stroke=svg.MUTED, width=1.2)
    for side in (0, 1):
        line = [
            (float(point.look_n), limit)
            for point in known
            if (limit := point.limits[side]) is not None
        ]
        for start, end in _inside(line, up):
            ends = [(across(x), up(value)) for x, value in (start, end)]
            drawing.line(ends[0], ends[1], stroke=svg.RED, width=1.8, dash="5 4")
    drawing.polyline([(across(p.look_n), up(up.clip(p.value or 0.0))) for p in known], width=1.6)
    for point in known:
        fill = svg.GREEN if point.crossed else svg.INK
        drawing.dot((across(point.look_n), up(up.clip(point.value or 0.0))), 4.2, fill=fill)
    drawing.text((LEFT, 46), note, size=11.5)
    last = known[-1]
    words = f"At {last.look_n} rows: {number(last.value or 0.0)}."
    return drawing.render(title=title, description=words)


def _vertical(known: Sequence[TrajectoryPoint], *, is_score: bool) -> Scale:
    values = [0.0, *(point.value or 0.0 for point in known)]
    # Early limits reach far out; the picture is about the later ones.
    later = known if is_score else known[len(known) // 2 :]
    limits = [limit for point in later for limit in point.limits if limit is not None]
    values += [limit for limit in limits if abs(limit) <= LARGEST_Z or not is_score]
    low, high = min(values), max(values)
    pad = 0.1 * (high - low) or 1.0
    return Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)


def _inside(line: Sequence[svg.Point], up: Scale) -> list[tuple[svg.Point, svg.Point]]:
    """The pieces of a line that lie within the scale."""
    pieces = []
    for (x1, y1), (x2, y2) in pairwise(line):
        if max(y1, y2) < up.low or min(y1, y2) > up.high:
            continue

        def at(y: float, x1: float = x1, y1: float = y1, x2: float = x2, y2: float = y2) -> float:
            return x1 if y == y1 else x1 + (y - y1) / (y2 - y1) * (x2 - x1)

        first, last = up.clip(y1), up.clip(y2)
        pieces.append(((at(first), first), (at(last), last)))
    return pieces


def _range(values: Vector, start: float, end: float) -> Scale:
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or _room(low)
    return Scale(low - pad, high + pad, start, end)


def _room(value: float) -> float:
    """Room around a single value."""
    return max(0.5, 0.05 * abs(value))


def _heading(drawing: Drawing, title: str) -> None:
    drawing.text((18, 26), svg.fit(title, 14, WIDTH - 36), size=14, fill=svg.INK, bold=True)


def _legend(drawing: Drawing, arms: tuple[str, str], note: str) -> None:
    x = LEFT
    for name, colour in zip(arms, (CONTROL, TEST), strict=True):
        words = svg.fit(name, 11.5, 160)
        drawing.dot((x + 4, 45), 4, fill=colour)
        drawing.text((x + 13, 49), words, size=11.5)
        x += 30 + svg.text_width(words, 11.5)
    drawing.text((WIDTH - RIGHT, 49), note, size=11.5, anchor="end")


def _axes(drawing: Drawing, across: Scale, up: Scale, *, x: str, y: str) -> None:
    for value in svg.nice_ticks(up.low, up.high, 5):
        drawing.line((across.start, up(value)), (across.end, up(value)), stroke=svg.GRID)
        words = tick(value, signed if up.low < 0 else number)
        drawing.text((across.start - 8, up(value) + 4), words, anchor="end", size=11)
    base = up.start
    for value in svg.nice_ticks(across.low, across.high, 6):
        drawing.line((across(value), base), (across(value), base + 4), stroke=svg.EDGE)
        drawing.text((across(value), base + 17), tick(value, number), anchor="middle", size=11)
    drawing.text(((across.start + across.end) / 2, base + 36), x, anchor="middle", size=11.5)
    drawing.text((18, TOP - 12), svg.fit(y, 11, 300), size=11)
