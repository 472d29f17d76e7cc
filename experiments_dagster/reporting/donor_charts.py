"""A synthetic control in pictures: who it is mixed from, how it tracks, how unusual the gap is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import axes, numbers, svg
from experiments_dagster.reporting.axes import Axis, Key, Rows
from experiments_dagster.reporting.numbers import MINUS, number, plural, share, signed
from experiments_dagster.reporting.svg import Drawing, Scale

SMALLEST_SHOWN = 0.01
MOST_SHOWN = 20
_NEXT_TO_NOTHING = 1e-4
_PANEL = 240.0
_OUTLIER = 3.0  # times the usual reach of a gap, from which donors are cut at the edge
_DOT, _TALLEST_STACK = 10.0, 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorWeight:
    """A donor and its weight in the mix; negative ones extrapolate."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPoint:
    """One step of the treated unit and of its synthetic control; the label names the step."""

    label: str
    observed: float
    synthetic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceboGap:
    """Observed minus synthetic at every step, of the treated unit or of a donor in its place."""

    name: str
    gaps: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceboRatio:
    """The error after the start over the error before it, of one unit."""

    name: str
    ratio: float


def donor_weight_chart(
    donors: Sequence[DonorWeight], *, title: str, note: str | None = None, width: int = 780
) -> str:
    """Weights as horizontal bars, largest first, as SVG; those below 1 % are only counted.

    Args:
        donors: One or more; at most 20 get a bar.
        title: For people who cannot see the picture.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No donors, or a weight that is not finite.
    """
    axes.check_finite(title, (donor.weight for donor in donors))
    bars, others = _split_donors(donors)
    rows = axes.plan_rows([bar.name for bar in bars], width)
    start, end = rows.start, width - 78.0
    drawing = Drawing(width, 0)
    top, weights = 20.0, [bar.weight for bar in bars]
    base = top + rows.step * len(bars)
    axis = axes.side_axis(min(0.0, *weights), max(0.0, *weights), pixels=end - start, shown=_share)
    x = axis.scale(start, end)
    axes.side_grid(drawing, axis, x, top=top, base=base)
    for place, bar in enumerate(bars):
        _weight_row(drawing, x, rows, rows.centre(top, place), bar)
    rest = _describe_others(others)
    axes.finish(drawing, base + 24, [rest, note])
    weighed = "; ".join(f"{bar.name}: {_share(bar.weight)}" for bar in bars)
    words = " ".join(filter(None, [f"{weighed}.", rest]))
    return drawing.render(title=title, description=words)


def synthetic_path_chart(
    points: Sequence[PathPoint],
    n_pre: int,
    *,
    title: str,
    treated: str,
    synthetic: str = "synthetic control",
    unit: str | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """The treated unit and its synthetic control over all steps, as SVG.

    Args:
        points: Steps in order, equally spaced, two or more.
        n_pre: Steps before the start.
        title: For people who cannot see the picture.
        treated: Name of the treated unit.
        synthetic: Name of the other line.
        unit: Unit of the outcome.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No steps on one side of the start, or a value that is not finite.
    """
    values = [value for point in points for value in (point.observed, point.synthetic)]
    axes.check_finite(title, values)
    _check_start(title, n_pre, len(points))
    drawing = Drawing(width, 0)
    keys = [Key(mark="line", words=treated), Key(mark="dashed", words=synthetic, colour=svg.BLUE)]
    bottom = axes.legend(drawing, keys)
    axis = axes.make_axis(min(values), max(values))
    labels = [point.label for point in points]
    x, y = _step_panel(
        drawing, axis, labels, n_pre, top=bottom + axes.START_ROOM, name=unit or "outcome"
    )
    mix = [(x(step), y(point.synthetic)) for step, point in enumerate(points)]
    drawing.polyline(mix, stroke=svg.BLUE, width=1.9, dash="5 3")
    own = [(x(step), y(point.observed)) for step, point in enumerate(points)]
    drawing.polyline(own, width=1.9)
    axes.finish(drawing, y.start + 26, [note])
    return drawing.render(title=title, description=_describe_path(points, n_pre, treated))


def placebo_fan_chart(
    treated: PlaceboGap,
    donors: Sequence[PlaceboGap],
    labels: Sequence[str],
    n_pre: int,
    *,
    title: str,
    unit: str | None = None,
    n_left_out: int = 0,
    max_fit_ratio: float | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """The gap of the treated unit in bold among those of donors in its place, as SVG.

    A donor with gaps far beyond the usual would flatten all others: it is cut at the edge, and
    the words below say how many are.

    Args:
        treated: Its gaps.
        donors: The placebos that are compared.
        labels: One per step, equally spaced steps.
        n_pre: Steps before the start.
        title: For people who cannot see the picture.
        unit: Unit of the outcome.
        n_left_out: Placebos not compared for their poor fit before the start.
        max_fit_ratio: Their rule: error before the start above this multiple of the treated one.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: Gaps and labels differ in length, no steps on one side of the start, or a value
            that is not finite.
    """
    for unit_gaps in (treated, *donors):
        axes.check_finite(f"{title}, {unit_gaps.name}", unit_gaps.gaps)
        if len(unit_gaps.gaps) != len(labels):
            msg = f"{title}, {unit_gaps.name}: {len(unit_gaps.gaps)} gaps, {len(labels)} labels"
            raise ValueError(msg)
    _check_start(title, n_pre, len(labels))
    drawing = Drawing(width, 0)
    keys = [Key(mark="thick", words=treated.name)]
    if donors:
        words = f"{plural(len(donors), 'donor')} in its place"
        keys.append(Key(mark="line", words=words, colour=axes.GREY))
    bottom = axes.legend(drawing, keys)
    axis = _gap_axis(treated, donors)
    name = "observed minus synthetic" + (f" ({unit})" if unit else "")
    x, y = _step_panel(drawing, axis, labels, n_pre, top=bottom + axes.START_ROOM, name=name)
    for donor in donors:
        places = [(x(step), gap) for step, gap in enumerate(donor.gaps)]
        axes.bounded_line(drawing, places, y, stroke=axes.GREY, width=1)
    own = [(x(step), y(gap)) for step, gap in enumerate(treated.gaps)]
    drawing.polyline(own, width=2.8)
    n_cut = sum(not all(y.contains(gap) for gap in donor.gaps) for donor in donors)
    cut = f"{plural(n_cut, 'donor')} beyond the scale, cut at its edge." if n_cut else None
    left_out = _describe_left_out(treated.name, n_left_out, max_fit_ratio)
    axes.finish(drawing, y.start + 26, [left_out, cut, note])
    mean = sum(treated.gaps[n_pre:]) / (len(labels) - n_pre)
    described = (
        f"{treated.name}: mean difference from {labels[n_pre]} on {signed(mean)}, "
        f"beside {plural(len(donors), 'donor')}."
    )
    words = " ".join(filter(None, [described, left_out, cut]))
    return drawing.render(title=title, description=words)


def placebo_ratio_chart(
    treated: PlaceboRatio,
    donors: Sequence[PlaceboRatio],
    *,
    title: str,
    p_value: float | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """How much the error grew after the start, one dot per unit, stacked, as SVG.

    Args:
        treated: The treated unit.
        donors: The placebos that are compared.
        title: For people who cannot see the picture.
        p_value: Of the rank, for the words below.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: A ratio that is negative or not finite.
    """
    ratios = [unit.ratio for unit in (treated, *donors)]
    axes.check_finite(title, ratios)
    if min(ratios) < 0:
        msg = f"{title}: a ratio of errors is {min(ratios)}, need 0 or more"
        raise ValueError(msg)
    drawing = Drawing(width, 0)
    keys = [Key(mark="dot", words=treated.name, colour=svg.BLUE)]
    keys += [Key(mark="dot", words="donors in its place", colour=axes.GREY)] if donors else []
    bottom = axes.legend(drawing, keys)
    start, end = 28.0, width - 28.0
    axis = axes.side_axis(0.0, max(ratios), pixels=end - start)
    x = axis.scale(start, end)
    base = _draw_stacks(drawing, x, treated, donors, top=bottom + 12)
    axes.base_ticks(drawing, axis, x, base)
    axes.axis_name(drawing, x, "error after the start over error before it (RMSPE)", base + 36)
    words = _describe_rank(treated, donors, p_value)
    axes.finish(drawing, base + 44, [words, note])
    return drawing.render(title=title, description=words)


def _share(value: float) -> str:
    """A share that may be negative."""
    return share(value).replace("-", MINUS)


def _split_donors(
    donors: Sequence[DonorWeight],
) -> tuple[list[DonorWeight], list[DonorWeight]]:
    """Those with a bar and the others, each from the largest weight down."""
    by_size = sorted(donors, key=lambda donor: (-abs(donor.weight), donor.name))
    large = [donor for donor in by_size if abs(donor.weight) >= SMALLEST_SHOWN]
    shown = (large or by_size)[:MOST_SHOWN]
    bars = sorted(shown, key=lambda donor: (-donor.weight, donor.name))
    return bars, by_size[len(shown) :]


def _weight_row(drawing: Drawing, x: Scale, rows: Rows, y: float, bar: DonorWeight) -> None:
    rows.write(drawing, y, bar.name)
    left, right = sorted((x(0.0), x(bar.weight)))
    fill = svg.BLUE if bar.weight >= 0 else svg.AMBER
    drawing.rect((left, y - 6), (right - left, 12), fill=fill, radius=1)
    drawing.text(
        (drawing.width - axes.EDGE_ROOM, y + 4), _share(bar.weight), anchor="end", size=11.5
    )


def _describe_others(others: Sequence[DonorWeight]) -> str | None:
    if not others:
        return None
    largest = abs(others[0].weight)
    below = f"below {share(SMALLEST_SHOWN)}"
    size = below if largest < SMALLEST_SHOWN else f"of {share(largest)} or less"
    total = sum(other.weight for other in others)
    together = "less than 0.01%" if abs(total) < _NEXT_TO_NOTHING else _share(total)
    return f"and {numbers.count(len(others))} more {size}, together {together}."


def _check_start(title: str, n_pre: int, n_steps: int) -> None:
    if not 0 < n_pre < n_steps:
        msg = f"{title}: {n_pre} steps before the start of {n_steps}, need one or more on each side"
        raise ValueError(msg)


def _step_panel(
    drawing: Drawing, axis: Axis, labels: Sequence[str], n_pre: int, *, top: float, name: str
) -> tuple[Scale, Scale]:
    """Draw the axes of a panel over steps and the line of the start."""
    base = top + _PANEL
    last = len(labels) - 1
    x = Scale(-0.3, last + 0.3, axes.EDGE_ROOM + axis.room + 10, drawing.width - 24)
    y = axis.scale(base, top)
    axes.panel_name(drawing, name, top - 28)
    axes.value_grid(drawing, axis, x, y)
    axes.step_ticks(drawing, x, labels, base)
    axes.start_line(drawing, x(n_pre - 0.5), f"from {labels[n_pre]}", top=top, base=base)
    return x, y


def _gap_axis(treated: PlaceboGap, donors: Sequence[PlaceboGap]) -> Axis:
    """Room for all gaps, but a few huge ones may not flatten the others."""
    reaches = [max(map(abs, donor.gaps)) for donor in donors]
    own = max(map(abs, treated.gaps))
    usual = _OUTLIER * max(own, statistics.median(reaches) if reaches else own)
    gaps = [0.0, *treated.gaps, *(gap for donor in donors for gap in donor.gaps)]
    return axes.make_axis(max(min(gaps), -usual), min(max(gaps), usual))


def _draw_stacks(
    drawing: Drawing,
    x: Scale,
    treated: PlaceboRatio,
    donors: Sequence[PlaceboRatio],
    *,
    top: float,
) -> float:
    """Stack the dots of like ratios, the treated one lowest; return where they stand.

    Units within one dot of the lowest of a stack belong to it and stand at the middle of their
    ratios, so that a dot by itself is exact and no other is off by more than half its size.

    References:
        Wilkinson 1999, "Dot plots".
    """
    stacks: list[list[PlaceboRatio]] = []
    for unit in sorted((treated, *donors), key=lambda unit: unit.ratio):
        if stacks and x(unit.ratio) - x(stacks[-1][0].ratio) < _DOT:
            stacks[-1].append(unit)
        else:
            stacks.append([unit])
    highest = max(map(len, stacks))
    # Dots overlap in a tall stack, so that a thousand placebos still fit.
    rise = min(_DOT, _TALLEST_STACK / highest)
    base = top + max(40.0, rise * highest + 8)
    for stack in stacks:
        at = (x(stack[0].ratio) + x(stack[-1].ratio)) / 2
        for place, unit in enumerate(sorted(stack, key=lambda unit: unit is not treated)):
            fill = svg.BLUE if unit is treated else axes.GREY
            drawing.dot((at, base - _DOT / 2 - 2 - place * rise), _DOT / 2, fill=fill)
    return base


def _describe_left_out(name: str, n_left_out: int, max_fit_ratio: float | None) -> str | None:
    if not n_left_out:
        return None
    words = f"{plural(n_left_out, 'donor')} left out for poor fit before the start"
    if max_fit_ratio is None:
        return f"{words}."
    return f"{words}: error above {max_fit_ratio:g} times that of {name}."


def _describe_path(points: Sequence[PathPoint], n_pre: int, treated: str) -> str:
    after = points[n_pre:]
    mean = sum(point.observed - point.synthetic for point in after) / len(after)
    return (
        f"{len(points)} steps, {n_pre} before {after[0].label}; mean difference of {treated} from "
        f"then on {signed(mean)}."
    )


def _describe_rank(
    treated: PlaceboRatio, donors: Sequence[PlaceboRatio], p_value: float | None
) -> str:
    rank = 1 + sum(donor.ratio >= treated.ratio for donor in donors)
    words = f"{treated.name}: {number(treated.ratio)}, rank {rank} of {len(donors) + 1}"
    return f"{words}, p {numbers.p_value(p_value)}." if p_value is not None else f"{words}."
