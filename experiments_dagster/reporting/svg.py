"""Hand-made SVG: a small drawing surface with finite coordinates and escaped text only.

Attributes instead of style sheets, so that a drawing looks the same in a page, in an <img> and
in the Dagster UI, and no rule leaks out of it. Every drawing has its own light background.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.sax.saxutils import escape

from experiments_dagster.reporting.numbers import clean_text

INK, MUTED, FAINT, GRID = "#1b2430", "#5b6675", "#6f7987", "#e8ebef"
PAPER, EDGE = "#ffffff", "#dde2e8"
BLUE, BAR, SHADE = "#1f5a8c", "#a9c4de", "#e9f0f7"
GREEN, RED, PURPLE, AMBER = "#17663f", "#a02c2c", "#6a3d9a", "#8a5a00"
GREEN_SHADE, RED_SHADE = "#e9f4ed", "#faecea"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GLYPH_WIDTH = 0.56  # of the font size, on average: enough to place labels

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from [low, high] to [start, end]; `clip` keeps a value inside."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def clip(self, value: float) -> float:
        """The value, or the nearer end of the range."""
        return min(max(value, self.low), self.high)

    def contains(self, value: float) -> bool:
        """Whether a value is inside the range."""
        return self.low <= value <= self.high


@dataclass(slots=True)
class Drawing:
    """Shapes in the order in which they are painted."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def line(
        self, start: Point, end: Point, *, stroke: str = INK, width: float = 1, dash: str = ""
    ) -> None:
        """A straight line."""
        (x1, y1), (x2, y2) = start, end
        self._add("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2}, _stroke(stroke, width, dash))

    def polyline(
        self, points: Sequence[Point], *, stroke: str = INK, width: float = 1.5, dash: str = ""
    ) -> None:
        """A line through points."""
        if len(points) > 1:
            self._add("polyline", {"points": _path(points)}, _stroke(stroke, width, dash))

    def area(self, points: Sequence[Point], *, fill: str) -> None:
        """A filled polygon."""
        if len(points) > 2:  # noqa: PLR2004
            self._add("polygon", {"points": _path(points), "fill": fill})

    def rect(
        self,
        corner: Point,
        size: Point,
        *,
        fill: str = "none",
        stroke: str = "none",
        radius: float = 0,
    ) -> None:
        """A rectangle from its upper left corner."""
        box = {"x": corner[0], "y": corner[1], "width": size[0], "height": size[1], "rx": radius}
        self._add("rect", box, {"fill": fill, "stroke": stroke})

    def dot(
        self,
        centre: Point,
        radius: float,
        *,
        fill: str = INK,
        stroke: str = PAPER,
        width: float = 1,
    ) -> None:
        """A circle."""
        self._add(
            "circle",
            {"cx": centre[0], "cy": centre[1], "r": radius},
            {"fill": fill, "stroke": stroke, "stroke-width": _number(width)},
        )

    def text(
        self,
        at: Point,
        words: str,
        *,
        size: float = 12,
        fill: str = MUTED,
        anchor: Anchor = "start",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """One line of text; `halo` keeps it readable on top of shapes."""
        style: dict[str, str] = {"fill": fill, "text-anchor": anchor, "font-size": _number(size)}
        if bold:
            style["font-weight"] = "600"
        if halo:
            style |= {"stroke": PAPER, "stroke-width": "3", "paint-order": "stroke"}
        opening = _attributes({"x": at[0], "y": at[1]}, style)
        self.parts.append(f"<text{opening}>{escape(clean_text(words))}</text>")

    def arrow(self, tip: Point, *, down: bool, fill: str = BAR) -> None:
        """A small head that says: this goes on beyond the edge."""
        x, y = tip
        back = y - 7 if down else y + 7
        self.area([(x - 6, back), (x + 6, back), (x, y)], fill=fill)

    def side_arrow(self, tip: Point, *, right: bool, fill: str = BAR) -> None:
        """The same for what goes on beyond the left or right edge."""
        x, y = tip
        back = x - 7 if right else x + 7
        self.area([(back, y - 5), (back, y + 5), (x, y)], fill=fill)

    def render(self, *, title: str, description: str) -> str:
        """The whole document."""
        body = "".join(self.parts)
        # Ids must differ between drawings in one page and be the same in every run.
        name = "c" + hashlib.sha256((title + description + body).encode()).hexdigest()[:10]
        width, height = _number(self.width), _number(self.height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-labelledby="{name}t {name}d" '
            f'font-family="{FONT}">'
            f'<title id="{name}t">{escape(clean_text(title))}</title>'
            f'<desc id="{name}d">{escape(clean_text(description))}</desc>'
            f'<rect x="0.5" y="0.5" width="{_number(self.width - 1)}" '
            f'height="{_number(self.height - 1)}" rx="6" fill="{PAPER}" stroke="{EDGE}"/>'
            f"{body}</svg>"
        )

    def _add(
        self, name: str, places: Mapping[str, float | str], style: dict[str, str] | None = None
    ) -> None:
        self.parts.append(f"<{name}{_attributes(places, style or {})}/>")


def data_uri(svg: str) -> str:
    """An SVG as a base64 data URI, for Dagster metadata and <img>."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round values inside [low, high]."""
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]


def text_width(words: str, size: float) -> float:
    """How wide a text will be, roughly."""
    return GLYPH_WIDTH * size * len(words)


def fit(words: str, size: float, room: float) -> str:
    """The text, or as much of its beginning as there is room for.

    Examples:
        >>> fit("tablet", 12, 100), fit("a very long name", 12, 60)
        ('tablet', 'a very…')
    """
    longest = max(int(room / (GLYPH_WIDTH * size)), 2)
    return words if len(words) <= longest else words[: longest - 1].rstrip() + "…"


def spread(positions: Iterable[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until they are `gap` apart, in their order, inside a range."""
    wanted = list(positions)
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    placed = [min(max(value, low), high) for value in wanted]
    floor = low
    for k in order:
        placed[k] = max(placed[k], floor)
        floor = placed[k] + gap
    ceiling = high
    for k in reversed(order):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    return placed


def _stroke(stroke: str, width: float, dash: str) -> dict[str, str]:
    style = {"stroke": stroke, "stroke-width": _number(width), "fill": "none"}
    return style | ({"stroke-dasharray": dash} if dash else {})


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _attributes(places: Mapping[str, float | str], style: dict[str, str]) -> str:
    written = {k: v if isinstance(v, str) else _number(v) for k, v in places.items()} | style
    return "".join(f' {name}="{value}"' for name, value in written.items())


def _number(value: float) -> str:
    if not math.isfinite(value):
        msg = f"a coordinate is {value}; drawings hold finite numbers only"
        raise ValueError(msg)
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
