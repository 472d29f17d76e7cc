"""A discontinuity in pictures: the outcome and the number of units around the cutoff.

No bin crosses the cutoff: one that did would hide or make a jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import axes, svg
from experiments_dagster.reporting.axes import Axis, Key
from experiments_dagster.reporting.numbers import MINUS, Format, count, number
from experiments_dagster.reporting.svg import Drawing, Scale

_PANEL = 260.0
_SMALLEST_DOT, _LARGEST_DOT = 2.2, 5.2
_MARK_BINS = 1  # how far the mark of a density reaches
_ROUNDING = 1e-9

FitPoint = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedMean:
    """The units of one bin: mean running variable, mean outcome and their number."""

    x: float
    mean: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountBin:
    """How many units have a running variable from `low` up to `high`."""

    low: float
    high: float
    n: int


def binned_means(
    x: Sequence[float], y: Sequence[float], cutoff: float, *, n_bins: int = 20
) -> tuple[BinnedMean, ...]:
    """Means in bins of equal width on each side of the cutoff; empty bins are left out.

    Args:
        x: Running variable; values from the cutoff on are on the right side.
        y: Outcome of the same units.
        cutoff: Where treatment starts.
        n_bins: On each side.

    Raises:
        ValueError: Lengths differ, no units, or a value that is not finite.

    Examples:
        >>> [(b.x, b.mean, b.n) for b in binned_means([-1.0, 0.0, 0.2], [1, 2, 4], 0.0, n_bins=1)]
        [(-1.0, 1.0, 1), (0.1, 3.0, 2)]
    """
    axes.check_finite("running variable", x)
    axes.check_finite("outcome", y)
    reach_left, reach_right = _reaches(x, cutoff)
    members: dict[int, list[tuple[float, float]]] = {}
    for at, value in zip(x, y, strict=True):
        is_right = at >= cutoff
        reach = reach_right if is_right else reach_left
        place = min(int(abs(at - cutoff) / reach * n_bins), n_bins - 1) if reach else 0
        members.setdefault(place if is_right else -1 - place, []).append((at, value))
    return tuple(
        BinnedMean(
            x=math.fsum(at for at, _ in rows) / len(rows),
            mean=math.fsum(value for _, value in rows) / len(rows),
            n=len(rows),
        )
        for _, rows in sorted(members.items())
    )


def count_bins(x: Sequence[float], cutoff: float, *, n_bins: int = 20) -> tuple[CountBin, ...]:
    """Counts in bins of one width, with an edge at the cutoff and `n_bins` on the longer side.

    Args:
        x: Running variable; values from the cutoff on are on the right side.
        cutoff: Where treatment starts.
        n_bins: On the side that reaches farther.

    Raises:
        ValueError: No units, or a value that is not finite.

    Examples:
        >>> [(b.low, b.high, b.n) for b in count_bins([-1.0, 0.0, 2.0], 0.0, n_bins=2)]
        [(-1.0, 0.0, 1), (0.0, 1.0, 1), (1.0, 2.0, 1)]
    """
    axes.check_finite("running variable", x)
    reaches = _reaches(x, cutoff)
    size = max(reaches) / n_bins or 1.0
    # An empty side has no bins; the farthest value belongs to the last one.
    n_left = math.ceil(reaches[0] / size - _ROUNDING)
    n_right = math.ceil(reaches[1] / size - _ROUNDING) or int(max(x) >= cutoff)
    tally = [0] * (n_left + n_right)
    for at in x:
        away = min(int(abs(at - cutoff) / size), (n_right if at >= cutoff else n_left) - 1)
        tally[n_left + away if at >= cutoff else n_left - 1 - away] += 1
    return tuple(
        CountBin(low=cutoff + (k - n_left) * size, high=cutoff + (k + 1 - n_left) * size, n=n)
        for k, n in enumerate(tally)
    )


def discontinuity_chart(
    bins: Sequence[BinnedMean],
    cutoff: float,
    *,
    left: Sequence[FitPoint],
    right: Sequence[FitPoint],
    title: str,
    running: str,
    outcome: str,
    bandwidth: float | None = None,
    shown: Format | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """Binned means of the outcome with the local fit of each side and the cutoff, as SVG.

    Args:
        bins: See `binned_means`; larger dots hold more units.
        cutoff: Where treatment starts.
        left: The fit below the cutoff, in order, ending at it.
        right: The fit from the cutoff on.
        title: For people who cannot see the picture.
        running: Name of the running variable.
        outcome: Name of the outcome.
        bandwidth: Distance from the cutoff within which units entered the fits; shaded.
        shown: How a tick of the outcome is written.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No bins, or a value that is not finite.
    """
    fits = [*left, *right]
    places = [one.x for one in bins] + [at for at, _ in fits] + [cutoff]
    values = [one.mean for one in bins] + [value for _, value in fits]
    axes.check_finite(title, places)
    axes.check_finite(title, values)
    drawing = Drawing(width, 0)
    keys = [Key(mark="dot", words="mean of a bin, size by units", colour=svg.FAINT)]
    if fits:
        keys.append(Key(mark="thick", words="local fit", colour=svg.BLUE))
    if bandwidth is not None:
        words = f"within the bandwidth of {number(bandwidth)}"
        keys.append(Key(mark="swatch", words=words, colour=svg.SHADE))
    top = axes.legend(drawing, keys) + axes.START_ROOM
    axis = axes.make_axis(min(values), max(values), shown=shown)
    x, y = _panel(drawing, axis, (min(places), max(places)), top=top)
    axes.panel_name(drawing, outcome, top - 28)
    if bandwidth is not None:
        low, high = (x(x.clip(cutoff + side * bandwidth)) for side in (-1, 1))
        drawing.rect((low, top), (high - low, y.start - top), fill=svg.SHADE)
    axes.value_grid(drawing, axis, x, y, has_zero=False)
    largest = max((one.n for one in bins), default=1)
    for one in bins:
        size = _SMALLEST_DOT + (_LARGEST_DOT - _SMALLEST_DOT) * (one.n / largest) ** 0.5
        drawing.dot((x(one.x), y(one.mean)), size, fill=svg.FAINT)
    for fit in (left, right):
        drawing.polyline([(x(at), y(value)) for at, value in fit], stroke=svg.BLUE, width=2.8)
    axes.start_line(drawing, x(cutoff), f"cutoff {_plain(cutoff)}", top=top, base=y.start)
    axes.axis_name(drawing, x, running, y.start + 36)
    axes.finish(drawing, y.start + 44, [note])
    n_right = sum(one.n for one in bins if one.x >= cutoff)
    n_left = sum(one.n for one in bins) - n_right
    described = (
        f"{outcome} by {running}: {count(n_left)} units below the cutoff {_plain(cutoff)} and "
        f"{count(n_right)} from it on"
    )
    if left and right:
        ends = f"{number(left[-1][1])} below and {number(right[0][1])} above"
        described += f"; fits at the cutoff {ends}"
    return drawing.render(title=title, description=f"{described}.")


def density_chart(
    bins: Sequence[CountBin],
    cutoff: float,
    *,
    title: str,
    running: str,
    densities: tuple[float, float] | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """Units by running variable around the cutoff, as SVG.

    Args:
        bins: Of equal width, in order, none across the cutoff; see `count_bins`.
        cutoff: Where treatment starts.
        title: For people who cannot see the picture.
        running: Name of the running variable.
        densities: Estimates just below and just above, per unit of the running variable.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No bins, one across the cutoff, or a value that is not finite.
    """
    axes.check_finite(title, [edge for one in bins for edge in (one.low, one.high)])
    axes.check_finite(title, [cutoff, *(densities or ())])
    across = [one for one in bins if one.low + _slack(bins) < cutoff < one.high - _slack(bins)]
    if across:
        msg = f"{title}: the bin {across[0].low:g} to {across[0].high:g} crosses {cutoff:g}"
        raise ValueError(msg)
    drawing = Drawing(width, 0)
    size = bins[0].high - bins[0].low
    total = sum(one.n for one in bins)
    heights = [density * total * size for density in densities or ()]
    keys = [Key(mark="swatch", words=f"units per {_plain(size)}", colour=svg.BAR)]
    if heights:
        keys.append(Key(mark="thick", words="density estimated at the cutoff", colour=svg.BLUE))
    top = axes.legend(drawing, keys) + axes.START_ROOM
    axis = axes.make_axis(0.0, 1.04 * max([1.0, *(one.n for one in bins), *heights]), pad=0)
    x, y = _panel(drawing, axis, (bins[0].low, bins[-1].high), top=top)
    axes.panel_name(drawing, "units", top - 28)
    axes.value_grid(drawing, axis, x, y)
    for one in bins:
        left, wide = x(one.low) + 0.5, max(x(one.high) - x(one.low) - 1, 0.6)
        drawing.rect((left, y(one.n)), (wide, y.start - y(one.n)), fill=svg.BAR)
    axes.start_line(drawing, x(cutoff), f"cutoff {_plain(cutoff)}", top=top, base=y.start)
    for side, height in zip((-1, 1), heights, strict=False):
        at, end = x(cutoff), x(x.clip(cutoff + side * _MARK_BINS * size))
        drawing.line((at, y(height)), (end, y(height)), stroke=svg.BLUE, width=3)
    axes.axis_name(drawing, x, running, y.start + 36)
    axes.finish(drawing, y.start + 44, [note])
    n_right = sum(one.n for one in bins if one.high > cutoff + _slack(bins))
    described = (
        f"{count(total - n_right)} units below the cutoff {_plain(cutoff)} of {running} and "
        f"{count(n_right)} from it on"
    )
    if densities:
        ends = f"{number(densities[0])} below and {number(densities[1])} above"
        described += f"; densities at the cutoff {ends}"
    return drawing.render(title=title, description=f"{described}.")


def _reaches(x: Sequence[float], cutoff: float) -> tuple[float, float]:
    """Distance of the farthest value on each side of the cutoff."""
    return max(cutoff - min(x), 0.0), max(max(x) - cutoff, 0.0)


def _panel(
    drawing: Drawing, axis: Axis, reach: tuple[float, float], *, top: float
) -> tuple[Scale, Scale]:
    """Both scales of a panel over the running variable, its ticks drawn."""
    base = top + _PANEL
    start, end = axes.EDGE_ROOM + axis.room + 10, drawing.width - 26.0
    side = axes.side_axis(*reach, pixels=end - start, pad=0.02)
    x = side.scale(start, end)
    axes.base_ticks(drawing, side, x, base)
    return x, axis.scale(base, top)


def _slack(bins: Sequence[CountBin]) -> float:
    """Rounding of an edge, against the width of a bin."""
    return _ROUNDING * (bins[0].high - bins[0].low)


def _plain(value: float) -> str:
    """A value that somebody wrote down, with a real minus sign."""
    return f"{value:.6g}".replace("-", MINUS)
