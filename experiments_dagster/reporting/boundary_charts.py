"""The test statistic against its boundaries on the clock of information, and the alpha spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Boundary, Look
from experiments_dagster.reporting import svg
from experiments_dagster.reporting.look_charts import NARROW
from experiments_dagster.reporting.numbers import alpha, number, share
from experiments_dagster.reporting.svg import Drawing, Scale

LARGEST_Z = 5.5
_LABEL_GAP = 17.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    name: str
    row: Boundary


def boundary_chart(
    looks: Sequence[Look], experiment: Experiment, arm: str, *, width: int = 780
) -> str:
    """Z against the critical values of each look, and the cumulative alpha spent, as SVG.

    Positive z is the desired direction. Critical values above the scale are cut at its edge.

    Args:
        looks: Recorded looks in order.
        experiment: The plan.
        arm: A treatment arm.
        width: Pixels; below 560 the layout is that of a phone.
    """
    found = ((look, look.boundary(experiment.primary.name, arm)) for look in looks)
    steps = [_Step(name=str(look.look), row=row) for look, row in found if row is not None]
    drawing = Drawing(width, 460)
    title = f"{experiment.primary.name}: test statistic of {arm} and its boundaries"
    if not steps:
        drawing.text((18, 40), "No boundary yet: no look could estimate the effect.", size=12.5)
        return drawing.render(title=title, description="No boundary yet.")
    right = width - (72 if width < NARROW else 126)
    furthest = max(1.0, *(step.row.information_fraction for step in steps))
    x = Scale(0, furthest, 58, right)
    z = _z_scale(steps, bottom=302, top=64)
    spent = Scale(0, steps[-1].row.alpha, 420, 338)
    _legend(drawing, has_futility=bool(_futility(steps)))
    _regions(drawing, x, z, steps)
    _z_axis(drawing, x, z)
    _boundaries(drawing, x, z, steps)
    _futility_line(drawing, x, z, steps)
    _path(drawing, x, z, steps)
    _spending(drawing, x, spent, steps)
    _information_axis(drawing, x, base=420)
    return drawing.render(title=title, description=_describe(steps[-1]))


def _describe(step: _Step) -> str:
    row = step.row
    words = f"Look {step.name}: z = {number(row.statistic)}"
    if row.critical_value is not None:
        words += f", critical value {number(row.critical_value)}"
    if row.futility_bound is not None:
        words += f", futility bound {number(row.futility_bound)} (not binding)"
    return (
        f"{words}, {share(row.information_fraction)} of the planned information, "
        f"alpha spent {alpha(row.alpha_spent)} of {alpha(row.alpha)}."
    )


def _z_scale(steps: list[_Step], *, bottom: float, top: float) -> Scale:
    statistics = [step.row.statistic for step in steps]
    finite = [step.row.critical_value for step in steps if step.row.critical_value is not None]
    closest = min([*finite, LARGEST_Z])
    high = max(LARGEST_Z, max(statistics) + 0.6)
    low = min(
        -closest - 0.9, min(statistics) - 0.6, *(bound - 0.4 for _, bound in _futility(steps))
    )
    return Scale(max(low, -high), high, bottom, top)


def _regions(drawing: Drawing, x: Scale, z: Scale, steps: list[_Step]) -> None:
    """Shade where a boundary is crossed."""
    known = _known(steps)
    for sign, fill, edge in ((1, svg.GREEN_SHADE, z.high), (-1, svg.RED_SHADE, z.low)):
        line = [(x(t), z(z.clip(sign * c))) for t, c in known]
        if line:
            drawing.area([*line, (line[-1][0], z(edge)), (line[0][0], z(edge))], fill=fill)


def _boundaries(drawing: Drawing, x: Scale, z: Scale, steps: list[_Step]) -> None:
    known = _known(steps)
    for sign, colour in ((1, svg.GREEN), (-1, svg.RED)):
        drawing.polyline([(x(t), z(z.clip(sign * c))) for t, c in known], stroke=colour)
        for t, c in known:
            place = (x(t), z(z.clip(sign * c)))
            if z.contains(sign * c):
                drawing.dot(place, 3, fill=colour)
            else:
                drawing.arrow(place, down=sign < 0, fill=colour)
    if known and z.contains(known[-1][1]):
        t, c = known[-1]
        drawing.text((x(t) + 7, z(c) + 4), f"±{number(c)}", fill=svg.GREEN, size=11.5, halo=True)


def _futility_line(drawing: Drawing, x: Scale, z: Scale, steps: list[_Step]) -> None:
    """Where success has become unlikely: a line without a region, as nothing is forced there."""
    places = [(x(t), z(z.clip(bound))) for t, bound in _futility(steps)]
    drawing.polyline(places, stroke=svg.AMBER, width=1.8, dash="5 4")
    for place in places:
        drawing.dot(place, 3, fill=svg.AMBER)


def _path(drawing: Drawing, x: Scale, z: Scale, steps: list[_Step]) -> None:
    places = [(x(step.row.information_fraction), z(step.row.statistic)) for step in steps]
    drawing.polyline(places, width=1.4)
    for place, words in _grouped([(p, s.name) for p, s in zip(places, steps, strict=True)]):
        drawing.text(
            (place[0], place[1] + 19), words, anchor="middle", size=11, fill=svg.INK, halo=True
        )
    for place, step in zip(places, steps, strict=True):
        is_open = step.row.critical_value is None
        fill = svg.PAPER if is_open else svg.INK
        if step.row.crossed != "none":
            fill = svg.GREEN if step.row.crossed == "desired" else svg.RED
        elif step.row.is_futile:
            fill = svg.AMBER
        edge = svg.INK if is_open else svg.PAPER
        drawing.dot(place, 5 if step.row.crossed != "none" else 4.2, fill=fill, stroke=edge)


def _grouped(places: list[tuple[svg.Point, str]]) -> list[tuple[svg.Point, str]]:
    """Join the names of looks that share a place, such as 7–12."""
    groups: list[list[tuple[svg.Point, str]]] = []
    for place, name in places:
        if groups and abs(place[0] - groups[-1][0][0][0]) < _LABEL_GAP / 2:
            groups[-1].append((place, name))
        else:
            groups.append([(place, name)])
    return [
        (group[0][0], group[0][1] if len(group) == 1 else f"{group[0][1]}–{group[-1][1]}")
        for group in groups
    ]


def _z_axis(drawing: Drawing, x: Scale, z: Scale) -> None:
    for value in svg.nice_ticks(z.low, z.high, 6):
        stroke, width = (svg.MUTED, 1.2) if value == 0 else (svg.GRID, 1.0)
        drawing.line((x.start, z(value)), (x.end, z(value)), stroke=stroke, width=width)
        text = f"{value:g}".replace("-", "−")
        drawing.text((x.start - 8, z(value) + 4), text, anchor="end", size=11.5)
    drawing.text((x.start - 8, z.end - 8), "z", anchor="end", size=11.5, bold=True)
    labels = [(z.high, "better", svg.GREEN), (0.0, "zero", svg.MUTED)]
    for value, words, colour in [*labels, (z.low, "worse", svg.RED)]:
        y = min(max(z(value) + 4, z.end + 8), z.start)
        drawing.text((x.end + 8, y), words, fill=colour, size=11.5)


def _spending(drawing: Drawing, x: Scale, spent: Scale, steps: list[_Step]) -> None:
    total = steps[-1].row.alpha
    for value in (0.0, total):
        drawing.line(
            (x.start, spent(value)),
            (x.end, spent(value)),
            stroke=svg.MUTED if value else svg.GRID,
            dash="5 4" if value else "",
        )
        drawing.text((x.start - 8, spent(value) + 4), alpha(value), anchor="end", size=11.5)
    line = [(x(0.0), spent(0.0))]
    for step in steps:
        place = (x(step.row.information_fraction), spent(step.row.alpha_spent))
        line += [(place[0], line[-1][1]), place]
    drawing.area([*line, (line[-1][0], spent(0.0))], fill=svg.SHADE)
    drawing.polyline(line, stroke=svg.BLUE, width=1.8)
    drawing.dot(line[-1], 3.4, fill=svg.BLUE)
    words = f"{alpha(steps[-1].row.alpha_spent)} spent"
    low = min(line[-1][1] + 4, spent.start - 5)
    fits = line[-1][0] + 8 + svg.text_width(words, 11.5) < drawing.width - 6
    anchor: svg.Anchor = "start" if fits else "end"
    x_text = line[-1][0] + (8 if fits else -8)
    drawing.text(
        (x_text, low), words, fill=svg.BLUE, size=11.5, bold=True, anchor=anchor, halo=True
    )
    drawing.text((x.start, spent.end - 9), "cumulative alpha spent", size=11.5)


def _information_axis(drawing: Drawing, x: Scale, *, base: float) -> None:
    for value in svg.nice_ticks(0, x.high, 5):
        drawing.line((x(value), base), (x(value), base + 4), stroke=svg.EDGE)
        drawing.text((x(value), base + 17), share(value), anchor="middle", size=11.5)
    drawing.text(
        ((x.start + x.end) / 2, base + 32), "information fraction", anchor="middle", size=11.5
    )


def _legend(drawing: Drawing, *, has_futility: bool) -> None:
    rows = [("z", "z at each look"), ("c", "critical value"), ("r", "crossing decides")]
    if has_futility:
        rows.append(("f", "futility bound (not binding)"))
    x, y = 18.0, 25.0
    for kind, words in rows:
        room = 22 + svg.text_width(words, 11.5)
        if x + room > drawing.width:
            x, y = 18.0, y + 19
        if kind == "z":
            drawing.dot((x + 7, y), 4.2)
        elif kind == "r":
            drawing.rect((x, y - 6), (14, 12), fill=svg.GREEN_SHADE, stroke=svg.EDGE)
        else:
            stroke, dash = (svg.GREEN, "") if kind == "c" else (svg.AMBER, "5 4")
            drawing.line((x, y), (x + 14, y), stroke=stroke, width=1.8, dash=dash)
        drawing.text((x + 20, y + 4), words, size=11.5)
        x += room + 16


def _futility(steps: list[_Step]) -> list[tuple[float, float]]:
    return [
        (step.row.information_fraction, step.row.futility_bound)
        for step in steps
        if step.row.futility_bound is not None
    ]


def _known(steps: list[_Step]) -> list[tuple[float, float]]:
    return [
        (step.row.information_fraction, step.row.critical_value)
        for step in steps
        if step.row.critical_value is not None
    ]
