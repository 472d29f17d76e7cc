"""Who responds: a ranking against a random order, predicted against observed, and what it uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import axes, svg
from experiments_dagster.reporting.axes import Key
from experiments_dagster.reporting.numbers import Format, count, level, number, share, signed
from experiments_dagster.reporting.svg import Drawing, Scale

MOST_SHOWN = 20
_PANEL = 250.0
_COLUMN = 1.5  # pixels within which points of a curve are one


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The curve after the `n_targeted` units with the highest scores; limits are pointwise."""

    n_targeted: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectBin:
    """Units of like prediction: the mean prediction and what was observed, with its interval."""

    name: str
    n: int
    predicted: float
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What one covariate contributes, with an interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def qini_chart(
    points: Sequence[CurvePoint],
    *,
    title: str,
    definition: str,
    quantity: str = "cumulative difference",
    confidence_level: float = 0.95,
    note: str | None = None,
    width: int = 780,
) -> str:
    """A Qini or uplift curve against the line of a random order, as SVG.

    Args:
        points: By units targeted, from 0 to all; the last one ends the random line.
        title: For people who cannot see the picture.
        definition: Formula and source of the curve: several are in use.
        quantity: What the curve counts, such as additional visits.
        confidence_level: Of the band, where there is one.
        note: More words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: Fewer than two points, not in order, or a value that is not finite.
    """
    limits = [limit for point in points for limit in (_band(point) or ())]
    values = [point.value for point in points]
    sizes = [point.n_targeted for point in points]
    axes.check_finite(title, [*values, *limits, *sizes])
    if sizes != sorted(sizes) or not sizes[-1] > 0:
        msg = f"{title}: units targeted {sizes[0]:g} to {sizes[-1]:g}, need them rising to all"
        raise ValueError(msg)
    end = points[-1]
    drawing = Drawing(width, 0)
    top = (
        axes.legend(drawing, _curve_keys(level(confidence_level), has_band=bool(limits)))
        + axes.NAME_ROOM
    )
    base = top + _PANEL
    axis = axes.make_axis(min([0.0, *values, *limits]), max([0.0, *values, *limits]))
    x = Scale(0.0, end.n_targeted, axes.EDGE_ROOM + axis.room + 10, width - 30)
    y = axis.scale(base, top)
    axes.panel_name(drawing, quantity, top - 14)
    kept = _thin(points, x)
    line = [(x(point.n_targeted), y(point.value)) for point in kept]
    random_line = [(x.start, y(0.0)), (x.end, y(end.value))]
    if limits:
        _draw_band(drawing, x, y, kept)
    else:
        drawing.area([*line, *reversed(random_line)], fill=svg.SHADE)
    axes.value_grid(drawing, axis, x, y)
    drawing.line(*random_line, stroke=svg.MUTED, width=1.5, dash="5 4")
    drawing.polyline(line, stroke=svg.BLUE, width=2)
    shares = axes.side_axis(0.0, 1.0, pixels=x.end - x.start, shown=share)
    axes.base_ticks(drawing, shares, shares.scale(x.start, x.end), base)
    axes.axis_name(drawing, x, "share of units targeted, highest score first", base + 36)
    named = f"Definition: {definition}."
    axes.finish(drawing, base + 44, [named, note])
    words = f"{count(round(end.n_targeted))} units, {quantity} {signed(end.value)} when all are."
    return drawing.render(title=title, description=f"{words} {named}")


def effect_bin_chart(
    bins: Sequence[EffectBin],
    *,
    title: str,
    average: float | None = None,
    unit: str | None = None,
    shown: Format | None = None,
    confidence_level: float = 0.95,
    note: str | None = None,
    width: int = 780,
) -> str:
    """Predicted (hollow) against observed differences by bin of the prediction, as SVG.

    Args:
        bins: From the lowest to the highest prediction.
        title: For people who cannot see the picture.
        average: The difference among all units, drawn as a line.
        unit: Unit of the differences.
        shown: How a tick is written.
        confidence_level: Of the intervals.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No bins, or a value that is not finite.
    """
    values = [v for one in bins for v in (one.predicted, one.estimate, one.low, one.high)]
    values += [] if average is None else [average]
    axes.check_finite(title, values)
    drawing = Drawing(width, 0)
    keys = [
        Key(mark="whisker", words=f"observed, {level(confidence_level)} interval"),
        Key(mark="diamond", words="predicted, mean of the bin", colour=svg.BLUE),
    ]
    if average is not None:
        keys.append(Key(mark="dashed", words="observed in all units", colour=svg.MUTED))
    top = axes.legend(drawing, keys) + axes.NAME_ROOM
    base = top + _PANEL
    axis = axes.make_axis(min(0.0, *values), max(0.0, *values), wanted=6, shown=shown)
    x = Scale(-0.5, len(bins) - 0.5, axes.EDGE_ROOM + axis.room + 10, width - 22)
    y = axis.scale(base, top)
    axes.panel_name(drawing, f"difference ({unit})" if unit else "difference", top - 14)
    axes.value_grid(drawing, axis, x, y)
    drawing.line((x.start, base), (x.end, base), stroke=svg.FAINT)
    if average is not None:
        place = y(average)
        drawing.line((x.start, place), (x.end, place), stroke=svg.MUTED, width=1.3, dash="5 4")
    for place, one in enumerate(bins):
        _effect_bin(drawing, x, y, place, one)
    below = _bin_names(drawing, x, base, bins)
    axes.axis_name(drawing, x, "units by predicted difference, lowest first", below + 22)
    axes.finish(drawing, below + 30, [note])
    words = "; ".join(
        f"{one.name}: predicted {signed(one.predicted)}, observed {signed(one.estimate)}, "
        f"{signed(one.low)} to {signed(one.high)}"
        for one in bins
    )
    return drawing.render(title=title, description=f"{words}.")


def importance_chart(
    rows: Sequence[Importance],
    *,
    title: str,
    quantity: str,
    confidence_level: float = 0.95,
    note: str | None = None,
    width: int = 780,
) -> str:
    """What each covariate contributes as horizontal bars, largest first, as SVG.

    Args:
        rows: One or more; at most 20 get a bar.
        title: For people who cannot see the picture.
        quantity: What is measured, such as the rise of the loss when a covariate is permuted.
        confidence_level: Of the intervals, where there are any.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No rows, or a value that is not finite.
    """
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    axes.check_finite(title, values)
    by_size = sorted(rows, key=lambda row: (-row.value, row.name))
    bars, others = by_size[:MOST_SHOWN], by_size[MOST_SHOWN:]
    drawing = Drawing(width, 0)
    keys = [Key(mark="swatch", words=quantity, colour=svg.BAR)]
    if any(row.low is not None for row in bars):
        keys.append(Key(mark="line", words=f"{level(confidence_level)} interval"))
    top = axes.legend(drawing, keys) + 10
    plan = axes.plan_rows([row.name for row in bars], width)
    base, start, end = top + plan.step * len(bars), plan.start, width - 34.0
    seen = [v for row in bars for v in (row.value, row.low, row.high) if v is not None]
    axis = axes.side_axis(min(0.0, *seen), max(0.0, *seen), pixels=end - start)
    x = axis.scale(start, end)
    axes.side_grid(drawing, axis, x, top=top, base=base)
    for place, row in enumerate(bars):
        y = plan.centre(top, place)
        plan.write(drawing, y, row.name)
        _importance_row(drawing, x, y, row)
    rest = None
    if others:
        rest = f"and {count(len(others))} more, at most {number(others[0].value)}."
    axes.finish(drawing, base + 24, [rest, note])
    words = "; ".join(f"{row.name}: {number(row.value)}" for row in bars)
    described = " ".join(filter(None, [f"{quantity}: {words}.", rest]))
    return drawing.render(title=title, description=described)


def _band(point: CurvePoint) -> tuple[float, float] | None:
    return None if point.low is None or point.high is None else (point.low, point.high)


def _curve_keys(confidence: str, *, has_band: bool) -> list[Key]:
    keys = [
        Key(mark="line", words="by score", colour=svg.BLUE),
        Key(mark="dashed", words="random order", colour=svg.MUTED),
    ]
    if has_band:
        keys.append(Key(mark="swatch", words=f"{confidence} pointwise", colour=svg.SHADE))
    return keys


def _thin(points: Sequence[CurvePoint], x: Scale) -> list[CurvePoint]:
    """The lowest and the highest point of each pixel column, with both ends of the curve."""
    columns: dict[int, list[CurvePoint]] = {}
    for point in points:
        columns.setdefault(math.floor(x(point.n_targeted) / _COLUMN), []).append(point)
    kept = [points[0]]
    for column in columns.values():
        low = min(column, key=lambda point: point.value)
        high = max(column, key=lambda point: point.value)
        kept += sorted({id(p): p for p in (low, high)}.values(), key=lambda p: p.n_targeted)
    return [*kept, points[-1]]


def _draw_band(drawing: Drawing, x: Scale, y: Scale, points: Sequence[CurvePoint]) -> None:
    known = [(x(point.n_targeted), band) for point in points if (band := _band(point))]
    upper = [(at, y(high)) for at, (_, high) in known]
    lower = [(at, y(low)) for at, (low, _) in known]
    drawing.area([*upper, *reversed(lower)], fill=svg.SHADE)


def _effect_bin(drawing: Drawing, x: Scale, y: Scale, place: int, one: EffectBin) -> None:
    at, step = x(place), x(1) - x(0)
    shift = min(7.0, step / 5)
    axes.whisker(drawing, at - shift, (one.low, one.high), y, width=1.7)
    drawing.dot((at - shift, y(one.estimate)), min(4.4, shift))
    half = min(5.8, shift + 0.8)
    axes.diamond(drawing, (at + shift, y(one.predicted)), half, fill=svg.PAPER, stroke=svg.BLUE)


def _bin_names(drawing: Drawing, x: Scale, base: float, bins: Sequence[EffectBin]) -> float:
    """Write names and sizes below the bins, or their places where the names do not fit."""
    room = x(1) - x(0) - 4
    names, sizes = [one.name for one in bins], [f"n {count(one.n)}" for one in bins]
    first, stride = 0, 1
    if max(svg.text_width(name, axes.SMALL) for name in names) > room:
        names = [str(place) for place in range(1, len(bins) + 1)]
        first, stride = axes.choose_labels(names, room)
    for place in range(first, len(bins), stride):
        drawing.text((x(place), base + 17), names[place], anchor="middle", size=axes.SMALL)
    if max(svg.text_width(size, axes.SMALL) for size in sizes) > room:
        return base + 17
    for place, size in enumerate(sizes):
        drawing.text((x(place), base + 32), size, anchor="middle", size=axes.SMALL)
    return base + 32


def _importance_row(drawing: Drawing, x: Scale, y: float, row: Importance) -> None:
    left, right = sorted((x(0.0), x(row.value)))
    drawing.rect((left, y - 6), (right - left, 12), fill=svg.BAR, radius=1)
    if row.low is not None and row.high is not None:
        drawing.line((x(row.low), y), (x(row.high), y), width=1.4)
        for limit in (row.low, row.high):
            drawing.line((x(limit), y - 3), (x(limit), y + 3), width=1.4)
