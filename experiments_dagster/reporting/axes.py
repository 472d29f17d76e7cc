"""What charts share: axes with round ticks, labels of steps, legends and words below a picture.

Every range is wide enough to draw, even where all values are equal; every tick is written with
the digits that its axis needs and no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.impact_charts import NARROW
from experiments_dagster.reporting.numbers import MINUS, Format, tick
from experiments_dagster.reporting.svg import Drawing, Point, Scale

EDGE_ROOM, SMALL, LINE_STEP = 18.0, 11.0, 15.0
LEGEND_TOP = 22.0
# Above a panel: its name alone, or its name and the words of a start line.
NAME_ROOM, START_ROOM = 32.0, 46.0
FEWEST_TICKS, _MOST_TICKS = 4, 10
GREY = "#b4bcc7"  # many lines or bars that are background to one
_LARGE = ((1e12, "T"), (1e9, "bn"), (1e6, "M"))
_MOST_DECIMALS, _PLAIN_FROM = 12, 1e-4
_STRIDES = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

Mark = Literal["line", "thick", "dashed", "dot", "hollow", "bar", "swatch", "whisker", "diamond"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A range with its ticks and their words."""

    low: float
    high: float
    ticks: tuple[float, ...]
    words: tuple[str, ...]

    def scale(self, start: float, end: float) -> Scale:
        """The map of the range to pixels."""
        return Scale(self.low, self.high, start, end)

    @property
    def room(self) -> float:
        """Pixels that the longest label needs."""
        return max((svg.text_width(word, SMALL) for word in self.words), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a legend."""

    mark: Mark
    words: str
    colour: str = svg.INK


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where named rows stand: `start` is the left end of the marks, `step` the height of a row."""

    start: float
    step: float
    is_stacked: bool

    def centre(self, top: float, place: int) -> float:
        """The height at which the marks of a row stand."""
        return top + place * self.step + (26.0 if self.is_stacked else self.step / 2)

    def write(self, drawing: Drawing, y: float, name: str) -> None:
        """Write the name of the row whose marks stand at `y`."""
        if self.is_stacked:
            # Right of the line at zero, and readable across the others.
            at, room = (self.start + 5, y - 11), drawing.width - EDGE_ROOM - self.start - 5
        else:
            at, room = (EDGE_ROOM, y + 4), self.start - EDGE_ROOM
        words = svg.fit(name, 12, room)
        drawing.text(at, words, fill=svg.INK, halo=self.is_stacked)


def is_narrow(width: float) -> bool:
    """Whether the layout is that of a phone."""
    return width < NARROW


def check_finite(title: str, values: Iterable[float]) -> None:
    """Refuse nothing to draw and what is not a number.

    Raises:
        ValueError: No values, or one is not finite.
    """
    count = 0
    for value in values:
        count += 1
        if not math.isfinite(value):
            msg = f"{title}: a value to draw is {value}, need finite numbers"
            raise ValueError(msg)
    if not count:
        msg = f"{title}: nothing to draw, need at least one value"
        raise ValueError(msg)


def make_axis(
    low: float,
    high: float,
    *,
    wanted: int = 5,
    pad: float = 0.06,
    shown: Format | None = None,
) -> Axis:
    """A range with room at both ends and about `wanted` round ticks.

    Args:
        low: Least value.
        high: Largest value; may equal the least.
        wanted: Number of ticks.
        pad: Room at each end, as a share of the range.
        shown: How a tick is written; plain digits by default.
    """
    size = max(abs(low), abs(high))
    # Below this a range is rounding, and its ticks would all read the same.
    if not high - low > 1e-9 * size:
        half = 0.1 * size or 1.0
        low, high, pad = low - half, high + half, 0.0
    room = pad * (high - low)
    ticks: list[float] = []
    # Rounding a step upwards can leave two ticks of five.
    for aim in range(wanted, 2 * wanted + 1):
        ticks = svg.nice_ticks(low - room, high + room, aim)
        if len(ticks) >= min(wanted, FEWEST_TICKS):
            break
    words = round_words(ticks) if shown is None else [tick(value, shown) for value in ticks]
    return Axis(low=low - room, high=high + room, ticks=tuple(ticks), words=tuple(words))


def side_axis(
    low: float, high: float, *, pixels: float, pad: float = 0.0, shown: Format | None = None
) -> Axis:
    """A horizontal axis with as many ticks as its words leave room for.

    Args:
        low: Least value.
        high: Largest value.
        pixels: Length of the axis.
        pad: Room at each end, as a share of the range.
        shown: How a tick is written; plain digits by default.
    """
    axis = make_axis(low, high, wanted=1, pad=pad, shown=shown)
    for wanted in range(_MOST_TICKS, 1, -1):
        denser = make_axis(low, high, wanted=wanted, pad=pad, shown=shown)
        step = (denser.ticks[1] - denser.ticks[0]) if len(denser.ticks) > 1 else 0.0
        if step / (denser.high - denser.low) * pixels >= denser.room + 18:
            return denser
    return axis


def plan_rows(names: Sequence[str], width: float) -> Rows:
    """Names beside their marks, or above them where they are too long for that."""
    longest = max((svg.text_width(name, 12) for name in names), default=0.0)
    if longest > (114.0 if is_narrow(width) else 240.0):
        return Rows(start=EDGE_ROOM + 8, step=38.0, is_stacked=True)
    return Rows(start=EDGE_ROOM + longest + 14, step=22.0, is_stacked=False)


def round_words(ticks: Sequence[float]) -> list[str]:
    """Ticks of one axis, all with the decimals that tell them apart.

    Examples:
        >>> round_words([-0.25, 0.0, 0.25]), round_words([0.0, 2500.0, 5000.0])
        (['−0.25', '0', '0.25'], ['0', '2,500', '5,000'])
        >>> round_words([0.0, 2.5e6, 5e6]), round_words([0.0, 5e-8])
        (['0', '2.5M', '5.0M'], ['0', '5e-8'])
    """
    largest = max((abs(value) for value in ticks), default=1.0)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0
    if 0 < largest < _PLAIN_FROM:
        return ["0" if value == 0 else _power(value) for value in ticks]
    size, suffix = next(((s, t) for s, t in _LARGE if largest >= s and step >= s / 100), (1.0, ""))
    decimals = next(
        (d for d in range(_MOST_DECIMALS) if abs(round(step / size, d) * size / step - 1) < 1e-6),  # noqa: PLR2004
        _MOST_DECIMALS,
    )
    return ["0" if v == 0 else _signed(v / size, f",.{decimals}f") + suffix for v in ticks]


def wrap(words: str, size: float, room: float) -> list[str]:
    """Text in lines that fit; a word longer than a line is cut."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and svg.text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(svg.fit(word, size, room))
    return lines


def value_grid(drawing: Drawing, axis: Axis, x: Scale, y: Scale, *, has_zero: bool = True) -> None:
    """Lines across the panel with their values at the left; zero is darker."""
    for value, words in zip(axis.ticks, axis.words, strict=True):
        is_zero = value == 0 and has_zero
        stroke, width = (svg.MUTED, 1.3) if is_zero else (svg.GRID, 1.0)
        drawing.line((x.start, y(value)), (x.end, y(value)), stroke=stroke, width=width)
        drawing.text((x.start - 8, y(value) + 4), words, anchor="end", size=SMALL)


def side_grid(drawing: Drawing, axis: Axis, x: Scale, *, top: float, base: float) -> None:
    """Lines down the panel with their values below; zero is darker."""
    for value, words in zip(axis.ticks, axis.words, strict=True):
        stroke, width = (svg.MUTED, 1.3) if value == 0 else (svg.GRID, 1.0)
        drawing.line((x(value), top), (x(value), base), stroke=stroke, width=width)
        _centred(drawing, x(value), base + 17, words)


def base_ticks(drawing: Drawing, axis: Axis, x: Scale, base: float) -> None:
    """Short ticks below a panel with their values."""
    drawing.line((x.start, base), (x.end, base), stroke=svg.FAINT)
    for value, words in zip(axis.ticks, axis.words, strict=True):
        drawing.line((x(value), base), (x(value), base + 4), stroke=svg.FAINT)
        _centred(drawing, x(value), base + 17, words)


def step_ticks(drawing: Drawing, x: Scale, labels: Sequence[str], base: float) -> None:
    """The labels of the steps 0, 1, … below a panel, as many as there is room for."""
    drawing.line((x.start, base), (x.end, base), stroke=svg.FAINT)
    first, stride = choose_labels(labels, abs(x(1) - x(0)))
    for position in range(first, len(labels), stride):
        at = x(position)
        drawing.line((at, base), (at, base + 4), stroke=svg.FAINT)
        _centred(drawing, at, base + 17, labels[position])


def choose_labels(labels: Sequence[str], spacing: float) -> tuple[int, int]:
    """Return the first label to write and the stride; years fall on round ones.

    Examples:
        >>> choose_labels([str(year) for year in range(1969, 2001)], 12.0)
        (1, 5)
    """
    widest = max(svg.text_width(label, SMALL) for label in labels) + 18
    # Beyond the largest stride there is room for the first label only.
    stride = next((s for s in _STRIDES if s * spacing >= widest), len(labels))
    whole = [int(label) for label in labels if label.isdecimal()]
    if len(whole) == len(labels) and whole[-1] - whole[0] == len(whole) - 1:
        first = -whole[0] % stride
        return (first if first < len(labels) else 0), stride
    return 0, math.ceil(widest / spacing)


def start_line(drawing: Drawing, at: float, words: str, *, top: float, base: float) -> None:
    """Where the intervention began, with words above on the side that has room."""
    drawing.line((at, top - 6), (at, base), stroke=svg.RED, width=1.3, dash="4 4")
    is_left = at > drawing.width / 2
    room = (at if is_left else drawing.width - at) - EDGE_ROOM - 6
    drawing.text(
        (at + (-5 if is_left else 5), top - 9),
        svg.fit(words, 11.5, room),
        fill=svg.RED,
        size=11.5,
        anchor="end" if is_left else "start",
    )


def panel_name(drawing: Drawing, words: str, y: float) -> None:
    """What the values of a panel are, above it at the left."""
    drawing.text(
        (EDGE_ROOM, y),
        svg.fit(words, 11.5, drawing.width - 2 * EDGE_ROOM),
        size=11.5,
        fill=svg.INK,
    )


def axis_name(drawing: Drawing, x: Scale, words: str, y: float) -> None:
    """What the horizontal axis is, centred below it."""
    room = drawing.width - 2 * EDGE_ROOM
    _centred(drawing, (x.start + x.end) / 2, y, svg.fit(words, 11.5, room), size=11.5)


def legend(drawing: Drawing, keys: Sequence[Key]) -> float:
    """Draw the entries in as many rows as they need; return where they end."""
    x, y = EDGE_ROOM, LEGEND_TOP
    for key in keys:
        words = svg.fit(key.words, 11.5, drawing.width - 2 * EDGE_ROOM - 22)
        needed = 22 + svg.text_width(words, 11.5)
        if x + needed > drawing.width - EDGE_ROOM + 8 and x > EDGE_ROOM:
            x, y = EDGE_ROOM, y + 19
        _mark(drawing, key, (x + 8, y))
        drawing.text((x + 22, y + 4), words, size=11.5)
        x += needed + 16
    return y + 8


def finish(drawing: Drawing, base: float, notes: Sequence[str | None]) -> None:
    """Write the notes below `base` and set the height of the picture."""
    y = base
    for note in filter(None, notes):
        for line in wrap(note, SMALL, drawing.width - 2 * EDGE_ROOM):
            y += LINE_STEP
            drawing.text((EDGE_ROOM, y), line, size=SMALL)
        y += 3
    drawing.height = y + 14


def whisker(
    drawing: Drawing,
    at: float,
    limits: tuple[float, float],
    y: Scale,
    *,
    colour: str = svg.INK,
    width: float = 1.5,
) -> None:
    """An upright interval, cut at the edge of the scale with an arrow where it goes on."""
    low, high = limits
    drawing.line((at, y(y.clip(low))), (at, y(y.clip(high))), stroke=colour, width=width)
    if high > y.high:
        drawing.arrow((at, y(y.high)), down=False, fill=colour)
    if low < y.low:
        drawing.arrow((at, y(y.low)), down=True, fill=colour)


def bounded_line(
    drawing: Drawing, places: Sequence[tuple[float, float]], y: Scale, *, stroke: str, width: float
) -> None:
    """A line through (pixel, value) places, left out where it is beyond the scale."""
    run: list[Point] = []
    for (x1, v1), (x2, v2) in itertools.pairwise(places):
        inside = _inside(v1, v2, y)
        if inside is None:
            drawing.polyline(run, stroke=stroke, width=width)
            run = []
            continue
        ends = [(x1 + share * (x2 - x1), y(y.clip(v1 + share * (v2 - v1)))) for share in inside]
        if not run or inside[0] > 0:
            drawing.polyline(run, stroke=stroke, width=width)
            run = [ends[0]]
        run.append(ends[1])
    drawing.polyline(run, stroke=stroke, width=width)


def diamond(drawing: Drawing, centre: Point, half: float, *, fill: str, stroke: str) -> None:
    """A square on its corner with an outline."""
    x, y = centre
    for size, colour in ((half, stroke), (max(half - 1.6, 0.0), fill)):
        drawing.area([(x - size, y), (x, y - size), (x + size, y), (x, y + size)], fill=colour)


def _inside(v1: float, v2: float, y: Scale) -> tuple[float, float] | None:
    """Shares of a segment between which it is inside the scale."""
    if v1 == v2:
        return (0.0, 1.0) if y.contains(v1) else None
    crossed = sorted(((y.low - v1) / (v2 - v1), (y.high - v1) / (v2 - v1)))
    first, last = max(crossed[0], 0.0), min(crossed[1], 1.0)
    return (first, last) if first < last else None


def _centred(drawing: Drawing, at: float, y: float, words: str, size: float = SMALL) -> None:
    """Centred text, moved inwards where the edge would cut it."""
    half = svg.text_width(words, size) / 2
    inside = min(max(at, half + 4), drawing.width - half - 4)
    drawing.text((inside, y), words, anchor="middle", size=size)


def _mark(drawing: Drawing, key: Key, at: Point) -> None:
    (x, y), colour = at, key.colour
    if key.mark in {"line", "thick", "dashed"}:
        width = 3.0 if key.mark == "thick" else 1.8
        dash = "4 3" if key.mark == "dashed" else ""
        drawing.line((x - 8, y), (x + 8, y), stroke=colour, width=width, dash=dash)
    elif key.mark == "bar":
        drawing.rect((x - 4, y - 7), (8, 14), fill=colour, radius=1.5)
    elif key.mark == "swatch":
        drawing.rect((x - 8, y - 6), (16, 12), fill=colour, stroke=svg.EDGE)
    elif key.mark == "hollow":
        drawing.dot((x, y), 4.2, fill=svg.PAPER, stroke=colour, width=1.6)
    elif key.mark == "diamond":
        diamond(drawing, (x, y), 5.5, fill=svg.PAPER, stroke=colour)
    else:
        if key.mark == "whisker":
            drawing.line((x, y - 8), (x, y + 8), stroke=colour, width=1.5)
        drawing.dot((x, y), 3.8, fill=colour)


def _signed(value: float, spec: str) -> str:
    return format(value, spec).replace("-", MINUS)


def _power(value: float) -> str:
    digits, exponent = f"{value:.6e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS, value < 0)
