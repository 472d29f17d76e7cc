"""Observed against counterfactual, the pointwise difference and its running sum."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import MINUS, MONTHS, day, level, signed
from experiments_dagster.reporting.svg import Drawing, Scale

NARROW = 560
PANEL, GAP, TOP = 150, 40, 66


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpactPoint:
    """One step of an impact analysis; `ci_low` and `ci_high` are limits of the counterfactual.

    `observed` is None where the value is missing, and with it the effect. The cumulative effect
    runs after the intervention only.
    """

    date: dt.date
    observed: float | None
    counterfactual: float
    ci_low: float
    ci_high: float
    effect: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    cumulative: float | None = None
    cumulative_low: float | None = None
    cumulative_high: float | None = None


_Triple = tuple[float, float, float]


def impact_chart(
    points: Sequence[ImpactPoint],
    intervention: dt.date,
    *,
    title: str,
    unit: str | None = None,
    confidence_level: float = 0.95,
    width: int = 780,
) -> str:
    """Three panels over one time axis, with a line where the intervention began, as SVG.

    Args:
        points: Steps in order, at least one.
        intervention: First day after the intervention.
        title: What the series is.
        unit: Unit of the series.
        confidence_level: Level of the bands, for the legend.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No points.
    """
    if not points:
        msg = f"{title}: no points to draw"
        raise ValueError(msg)
    bottom = TOP + 3 * PANEL + 2 * GAP
    drawing = Drawing(width, bottom + 46)
    first, last = points[0].date.toordinal(), points[-1].date.toordinal()
    x = Scale(first - 0.5, last + 0.5, 66, width - 22)
    _legend(drawing, level(confidence_level))
    tops = [TOP + k * (PANEL + GAP) for k in range(3)]
    suffix = f" ({unit})" if unit else ""
    _panel(drawing, x, tops[0], f"observed and counterfactual{suffix}", points, pick=_levels)
    _panel(drawing, x, tops[1], f"difference per step{suffix}", points, pick=_effects)
    _panel(drawing, x, tops[2], f"cumulative difference{suffix}", points, pick=_cumulative)
    at = x(x.clip(intervention.toordinal() - 0.5))
    drawing.line((at, TOP - 22), (at, bottom), stroke=svg.RED, width=1.3, dash="4 4")
    is_left = at > width / 2
    drawing.text(
        (at + (-6 if is_left else 6), TOP - 24),
        day(intervention),
        fill=svg.RED,
        size=11.5,
        anchor="end" if is_left else "start",
    )
    _dates(drawing, x, points, bottom)
    return drawing.render(title=title, description=_describe(points, intervention))


def _describe(points: Sequence[ImpactPoint], intervention: dt.date) -> str:
    known = [point for point in points if point.cumulative is not None]
    words = f"{len(points)} steps, intervention on {day(intervention)}"
    if known and known[-1].cumulative is not None:
        words += f"; cumulative difference {signed(known[-1].cumulative)}"
    return words + "."


def _levels(point: ImpactPoint) -> _Triple:
    return point.counterfactual, point.ci_low, point.ci_high


def _effects(point: ImpactPoint) -> _Triple | None:
    return _triple(point.effect, point.effect_low, point.effect_high)


def _cumulative(point: ImpactPoint) -> _Triple | None:
    return _triple(point.cumulative, point.cumulative_low, point.cumulative_high)


def _triple(middle: float | None, low: float | None, high: float | None) -> _Triple | None:
    return None if middle is None or low is None or high is None else (middle, low, high)


def _panel(
    drawing: Drawing,
    x: Scale,
    top: float,
    name: str,
    points: Sequence[ImpactPoint],
    *,
    pick: Callable[[ImpactPoint], _Triple | None],
) -> None:
    is_level = pick is _levels
    rows = [(x(point.date.toordinal()), pick(point)) for point in points]
    known = [(at, triple) for at, triple in rows if triple is not None]
    values = [value for _, triple in known for value in triple] + ([] if is_level else [0.0])
    seen = [p.observed for p in points if p.observed is not None] if is_level else []
    low, high = min([*values, *seen]), max([*values, *seen])
    pad = 0.06 * (high - low) or 1.0
    y = Scale(low - pad, high + pad, top + PANEL, top)
    for tick in svg.nice_ticks(y.low, y.high, 4):
        stroke = svg.MUTED if tick == 0 and not is_level else svg.GRID
        drawing.line((x.start, y(tick)), (x.end, y(tick)), stroke=stroke)
        text = f"{tick:,.6g}".replace("-", MINUS)
        drawing.text((x.start - 8, y(tick) + 4), text, anchor="end", size=11)
    drawing.text((x.start, top - 9), name, size=11.5, fill=svg.INK)
    band = [(at, y(t[2])) for at, t in known] + [(at, y(t[1])) for at, t in reversed(known)]
    drawing.area(band, fill=svg.SHADE)
    line = [(at, y(t[0])) for at, t in known]
    drawing.polyline(line, stroke=svg.BLUE, width=1.6, dash="5 3" if is_level else "")
    if is_level:
        _observed(drawing, x, y, points)


def _observed(drawing: Drawing, x: Scale, y: Scale, points: Sequence[ImpactPoint]) -> None:
    """The observed line, broken where values are missing."""
    run: list[svg.Point] = []
    for point in [*points, None]:
        if point is not None and point.observed is not None:
            run.append((x(point.date.toordinal()), y(point.observed)))
            continue
        drawing.polyline(run, width=1.6)
        if len(run) == 1:
            drawing.dot(run[0], 2.2)
        run = []


def _dates(drawing: Drawing, x: Scale, points: Sequence[ImpactPoint], base: float) -> None:
    wanted = 4 if drawing.width < NARROW else 8
    step = max(1, round(len(points) / wanted))
    span = points[-1].date.toordinal() - points[0].date.toordinal()
    for point in points[::step]:
        at, date = x(point.date.toordinal()), point.date
        words = f"{MONTHS[date.month - 1]} {date.year}" if span > 400 else day(date, year=False)  # noqa: PLR2004
        drawing.line((at, base), (at, base + 4), stroke=svg.EDGE)
        drawing.text((at, base + 18), words, anchor="middle", size=11)
    years = sorted({points[0].date.year, points[-1].date.year})
    drawing.text((x.end, base + 36), "–".join(str(year) for year in years), anchor="end", size=11)


def _legend(drawing: Drawing, confidence: str) -> None:
    x = 18.0
    rows = (("observed", svg.INK, ""), ("counterfactual", svg.BLUE, "5 3"), (confidence, "", ""))
    for words, stroke, dash in rows:
        if stroke:
            drawing.line((x, 22), (x + 16, 22), stroke=stroke, width=1.8, dash=dash)
        else:
            drawing.rect((x, 16), (16, 12), fill=svg.SHADE, stroke=svg.EDGE)
        drawing.text((x + 22, 26), words, size=11.5)
        x += 24 + svg.text_width(words, 11.5) + 18
