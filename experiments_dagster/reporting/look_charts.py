"""The trajectory of an effect over the looks: estimate, three intervals, and what matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Look
from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import day, declared, level, lift, reason_words
from experiments_dagster.reporting.svg import Drawing, Scale
from experiments_dagster.reporting.trajectory import (
    LookPoint,
    desired_sign,
    look_points,
    planned_count,
)

NARROW = 560
DATE_SPACE = 48
Interval = tuple[float, float]
_CROSSED = {"desired": "crossed: better", "undesired": "crossed: worse"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    x: Scale
    y: Scale


def look_trajectory(
    looks: Sequence[Look], experiment: Experiment, arm: str, *, width: int = 780
) -> str:
    """The lift of one arm at each look with its naive, repeated and anytime interval, as SVG.

    The scale follows the estimates, the naive intervals and the last look; a longer interval is
    cut at the edge and carries an arrow.

    Args:
        looks: Recorded looks in order; a peek may be the last.
        experiment: The plan.
        arm: A treatment arm.
        width: Pixels; below 560 the layout is that of a phone.
    """
    points = look_points(looks, experiment, arm)
    height = 380 if width < NARROW else 400
    drawing = Drawing(width, height)
    bottom = _legend(drawing, experiment, points)
    references = _references(experiment, arm)
    margin = 20 + max(svg.text_width(words, 11.5) for _, words, _ in references)
    axes = _Axes(
        x=_look_scale(experiment, points, start=58, end=width - margin),
        y=_lift_scale(points, [value for value, _, _ in references], height - 52, bottom + 18),
    )
    _grid(drawing, axes)
    _look_axis(drawing, axes, experiment, points)
    _anytime_band(drawing, axes, points)
    _reference_lines(drawing, axes, references, points)
    for point in points:
        _look(drawing, axes, point)
    _label_last(drawing, axes, points)
    metric = experiment.primary.name
    return drawing.render(
        title=f"{metric}: lift of {arm} against {experiment.control} at each look",
        description=_describe(points),
    )


def _describe(points: list[LookPoint]) -> str:
    known = [point for point in points if point.estimate is not None]
    if not known or known[-1].estimate is None:
        return "No look could estimate the lift yet."
    last = known[-1]
    words = f"{len(points)} looks; at look {last.name} the lift is {lift(known[-1].estimate)}"
    if last.repeated:
        words += f", repeated interval {lift(last.repeated[0])} to {lift(last.repeated[1])}"
    return words + "."


def _references(experiment: Experiment, arm: str) -> list[tuple[float, str, str]]:
    rows = [(0.0, "no effect", svg.MUTED)]
    if experiment.minimum_effect is not None:
        value = desired_sign(experiment) * experiment.minimum_effect
        rows.append((value, f"min. {declared(value)}", svg.GREEN))
    truth = experiment.spec.truth or {}
    if truth.get(arm) == 0:
        rows[0] = (0.0, "truth: 0%", svg.PURPLE)
    elif arm in truth:
        rows.append((truth[arm], f"truth {declared(truth[arm])}", svg.PURPLE))
    return rows


def _look_scale(
    experiment: Experiment, points: list[LookPoint], *, start: float, end: float
) -> Scale:
    last = max([planned_count(experiment) or 1, *(point.position for point in points)])
    first = min([1.0, *(point.position for point in points)])
    return Scale(first - 0.5, last + 0.5, start, end)


def _lift_scale(
    points: list[LookPoint], references: list[float], bottom: float, top: float
) -> Scale:
    values = list(references)
    for point in points:
        values += [point.estimate] if point.estimate is not None else []
        values += point.naive or ()
    last = [point for point in points if point.repeated or point.anytime][-1:]
    for point in last:
        values += point.repeated or point.anytime or ()
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 0.01
    return Scale(low - pad, high + pad, bottom, top)


def _grid(drawing: Drawing, axes: _Axes) -> None:
    for value in svg.nice_ticks(axes.y.low, axes.y.high, 6):
        y = axes.y(value)
        drawing.line((axes.x.start, y), (axes.x.end, y), stroke=svg.GRID)
        drawing.text((axes.x.start - 8, y + 4), declared(value), anchor="end", size=11.5)


def _look_axis(
    drawing: Drawing, axes: _Axes, experiment: Experiment, points: list[LookPoint]
) -> None:
    base = axes.y.start
    dates = {point.position: point.date for point in points}
    names = {point.position: point.name for point in points}
    for index, planned in enumerate(experiment.planned_looks(), start=1):
        dates.setdefault(float(index), planned)
        names.setdefault(float(index), str(index))
    positions = sorted(dates)
    step = max(1, round(DATE_SPACE * len(positions) / (axes.x.end - axes.x.start) + 0.49))
    name_step = max(1, step // 2) if len(positions) <= 40 else step  # noqa: PLR2004
    taken = {point.position for point in points}
    for k, position in enumerate(positions):
        x, fill = axes.x(position), svg.INK if position in taken else svg.FAINT
        if k % name_step == 0:
            drawing.line((x, base), (x, base + 4), stroke=svg.EDGE)
            drawing.text((x, base + 17), names[position], anchor="middle", fill=fill, size=11.5)
        if k % step == 0:
            words = day(dates[position], year=False)
            drawing.text((x, base + 32), words, anchor="middle", fill=svg.FAINT, size=10.5)
    drawing.text((axes.x.start - 8, base + 17), "look", anchor="end", size=11.5)


def _anytime_band(drawing: Drawing, axes: _Axes, points: list[LookPoint]) -> None:
    known = [(axes.x(point.position), point.anytime) for point in points if point.anytime]
    for place in range(len(known) - 1):
        (x1, (low1, high1)), (x2, (low2, high2)) = known[place], known[place + 1]
        corners = [(x1, high1), (x2, high2), (x2, low2), (x1, low1)]
        drawing.area([(x, axes.y(axes.y.clip(v))) for x, v in corners], fill=svg.SHADE)
    if len(known) == 1:
        x, (low, high) = known[0]
        top, bottom = axes.y(axes.y.clip(high)), axes.y(axes.y.clip(low))
        drawing.rect((x - 14, top), (28, bottom - top), fill=svg.SHADE)


def _reference_lines(
    drawing: Drawing,
    axes: _Axes,
    references: list[tuple[float, str, str]],
    points: list[LookPoint],
) -> None:
    for value, _, colour in references:
        y, dash = axes.y(value), "" if value == 0 else "5 4"
        width = 1.4 if value == 0 else 1.2
        drawing.line((axes.x.start, y), (axes.x.end, y), stroke=colour, width=width, dash=dash)
    labels = [(axes.y(value), words, colour, False) for value, words, colour in references]
    last = _last_estimate(points)
    if last is not None and not _has_room(axes, last):
        assert last.estimate is not None
        labels.append((axes.y(last.estimate), lift(last.estimate), svg.INK, True))
    placed = svg.spread([y for y, *_ in labels], gap=15, low=axes.y.end + 4, high=axes.y.start - 4)
    for y, (_, words, colour, bold) in zip(placed, labels, strict=True):
        drawing.text((axes.x.end + 8, y + 4), words, fill=colour, size=11.5, bold=bold)


def _look(drawing: Drawing, axes: _Axes, point: LookPoint) -> None:
    x = axes.x(point.position)
    if point.estimate is None:
        drawing.text((x, axes.y.start - 6), "n/e", anchor="middle", size=10.5, halo=True)
        return
    step = abs(axes.x(1) - axes.x(0))
    if point.repeated:
        _bar(drawing, axes, x, point.repeated, half=min(6.0, 0.3 * step))
    if point.naive:
        low, high = (axes.y(axes.y.clip(limit)) for limit in point.naive)
        drawing.line((x, low), (x, high), width=1.4)
    y = axes.y(axes.y.clip(point.estimate))
    radius = min(4.2, 0.3 * step)
    row = point.boundary
    if row is None or row.critical_value is None:
        drawing.dot((x, y), radius, fill=svg.PAPER, stroke=svg.INK, width=1.5)
        return
    colours = {"desired": svg.GREEN, "undesired": svg.RED, "none": svg.INK}
    grown = radius + (1.2 if row.crossed != "none" else 0)
    drawing.dot((x, y), grown, fill=colours[row.crossed], width=1.3)


def _bar(drawing: Drawing, axes: _Axes, x: float, limits: Interval, *, half: float) -> None:
    low, high = (axes.y(axes.y.clip(limit)) for limit in limits)
    drawing.rect((x - half, high), (2 * half, low - high), fill=svg.BAR, radius=1.5)
    if limits[1] > axes.y.high:
        drawing.arrow((x, high - 8), down=False)
    if limits[0] < axes.y.low:
        drawing.arrow((x, low + 8), down=True)


def _label_last(drawing: Drawing, axes: _Axes, points: list[LookPoint]) -> None:
    last = _last_estimate(points)
    if last is None or last.estimate is None or not _has_room(axes, last):
        return
    at = (axes.x(last.position) + 11, axes.y(last.estimate) + 4)
    drawing.text(at, lift(last.estimate), fill=svg.INK, bold=True, halo=True, size=12.5)


def _last_estimate(points: list[LookPoint]) -> LookPoint | None:
    return next((point for point in reversed(points) if point.estimate is not None), None)


def _has_room(axes: _Axes, point: LookPoint) -> bool:
    return axes.x(point.position) + 66 < axes.x.end


def _legend(drawing: Drawing, experiment: Experiment, points: list[LookPoint]) -> float:
    """Draw the legend in as many rows as it needs; return where it ends."""
    rows = [("dot", "lift"), ("naive", f"naive {level(1 - experiment.plan.alpha)}")]
    sequential = level(1 - experiment.alpha_per_hypothesis)
    if any(point.repeated for point in points):
        rows.append(("bar", f"repeated {sequential} (decides)"))
    if any(point.anytime for point in points):
        rows.append(("band", f"confidence sequence {sequential}"))
    crossed = {point.boundary.crossed for point in points if point.boundary}
    rows += [(side, words) for side, words in _CROSSED.items() if side in crossed]
    if any(point.boundary is None or point.boundary.critical_value is None for point in points):
        rows.append(("hollow", "no boundary at this look"))
    if any(point.estimate is None for point in points):
        reasons = {reason_words(p.reason) for p in points if p.estimate is None}
        rows.append(("n/e", "; ".join(sorted(filter(None, reasons)))))
    x, y = 18.0, 25.0
    for kind, words in rows:
        needed = 22 + svg.text_width(words, 11.5) + 16
        if x + needed > drawing.width and x > 18:  # noqa: PLR2004
            x, y = 18.0, y + 19
        _key(drawing, kind, (x, y))
        drawing.text((x + 20, y + 4), words, size=11.5)
        x += needed
    return y


def _key(drawing: Drawing, kind: str, at: tuple[float, float]) -> None:
    x, y = at[0] + 7, at[1]
    if kind == "dot":
        drawing.dot((x, y), 4.2)
    elif kind == "naive":
        drawing.line((x, y - 7), (x, y + 7), width=1.4)
    elif kind == "bar":
        drawing.rect((x - 5, y - 7), (10, 14), fill=svg.BAR, radius=1.5)
    elif kind == "band":
        drawing.rect((x - 7, y - 6), (14, 12), fill=svg.SHADE, stroke=svg.EDGE)
    elif kind in _CROSSED:
        drawing.dot((x, y), 5.2, fill=svg.GREEN if kind == "desired" else svg.RED)
    elif kind == "hollow":
        drawing.dot((x, y), 4.2, fill=svg.PAPER, stroke=svg.INK, width=1.5)
    else:
        drawing.text((x, y + 4), kind, anchor="middle", size=10.5)
