"""Whether two groups can be compared: covariate balance and overlap of the propensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import axes, svg
from experiments_dagster.reporting.axes import Key
from experiments_dagster.reporting.numbers import count, number, share
from experiments_dagster.reporting.svg import Drawing, Scale

MOST_SHOWN = 40
_PANEL = 220.0
_OUTLIER = 2.0  # times the ninth decile of the differences, from which they are cut at the edge
_LARGEST = 3.0  # standard deviations; what differs by more is off any scale that shows 0.1
_BOUND_MARGIN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CovariateBalance:
    """Standardised mean differences of one covariate, treated minus control, before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapBin:
    """How many units of each group have a propensity from `low` up to `high`."""

    low: float
    high: float
    n_treated: int
    n_control: int


def love_plot(
    rows: Sequence[CovariateBalance],
    *,
    title: str,
    adjustment: str = "weighting",
    weak_above: float = 0.1,
    refused_above: float = 0.25,
    note: str | None = None,
    width: int = 780,
) -> str:
    """Absolute standardised differences before (hollow) and after (filled) adjustment, as SVG.

    Covariates stand in order of their larger difference; beyond 40 the others are summed up. A
    few huge differences are cut at the edge, carry an arrow and are said below.

    Args:
        rows: One or more covariates.
        title: For people who cannot see the picture.
        adjustment: What was done, such as matching.
        weak_above: Differences after adjustment above it weaken the claim.
        refused_above: Above it there is no claim.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No rows, or a value that is not finite.
    """
    axes.check_finite(title, [value for row in rows for value in (row.before, row.after)])
    by_size = sorted(rows, key=lambda row: (-max(abs(row.before), abs(row.after)), row.name))
    bars, others = by_size[:MOST_SHOWN], by_size[MOST_SHOWN:]
    limits = ((weak_above, svg.AMBER), (refused_above, svg.RED))
    drawing = Drawing(width, 0)
    keys = [
        Key(mark="hollow", words=f"before {adjustment}", colour=svg.MUTED),
        Key(mark="dot", words=f"after {adjustment}", colour=svg.BLUE),
        Key(mark="dashed", words=f"weak above {weak_above:g}", colour=svg.AMBER),
        Key(mark="dashed", words=f"no claim above {refused_above:g}", colour=svg.RED),
    ]
    top = axes.legend(drawing, keys) + 12
    plan = axes.plan_rows([row.name for row in bars], width)
    base, start, end = top + plan.step * len(bars), plan.start, width - 34.0
    sizes = [max(abs(row.before), abs(row.after)) for row in bars]
    usual = _OUTLIER * sizes[len(sizes) // 10]
    high = max(min(1.04 * sizes[0], usual, _LARGEST), 1.2 * refused_above)
    axis = axes.side_axis(0.0, high, pixels=end - start)
    x = axis.scale(start, end)
    axes.side_grid(drawing, axis, x, top=top, base=base)
    for value, colour in limits:
        drawing.line((x(value), top), (x(value), base), stroke=colour, width=1.3, dash="4 3")
    for place, row in enumerate(bars):
        y = plan.centre(top, place)
        plan.write(drawing, y, row.name)
        _balance_row(drawing, x, y, row, limits)
    axes.axis_name(drawing, x, "absolute standardised mean difference", base + 36)
    rest = _describe_others(others, adjustment)
    cut = f"An arrow stands for a difference above {number(high)}." if sizes[0] > high else None
    axes.finish(drawing, base + 44, [cut, rest, note])
    return drawing.render(title=title, description=_describe_balance(rows, adjustment, limits))


def overlap_bins(
    treated: Sequence[float], control: Sequence[float], *, n_bins: int = 40
) -> tuple[OverlapBin, ...]:
    """Count propensities in about `n_bins` bins of round width over the range they take.

    Args:
        treated: Propensities of the treated, each inside [0, 1].
        control: Those of the controls.
        n_bins: Wanted number.

    Raises:
        ValueError: A group is empty, or a propensity is not inside [0, 1].

    Examples:
        >>> [(b.n_treated, b.n_control) for b in overlap_bins([0.55], [0.12, 0.05], n_bins=3)]
        [(0, 2), (0, 0), (1, 0)]
    """
    for name, values in (("treated", treated), ("control", control)):
        axes.check_finite(f"propensities, {name}", values)
        if min(values) < 0 or max(values) > 1:
            msg = f"propensities, {name}: {min(values)} to {max(values)}, need 0 to 1"
            raise ValueError(msg)
    everybody = [*treated, *control]
    low, high = min(everybody), max(everybody)
    if not high > low:
        low, high = max(low - 0.05, 0.0), min(high + 0.05, 1.0)
    ticks = svg.nice_ticks(low, high, n_bins)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else (high - low) / n_bins
    first = math.floor(low / step + _BOUND_MARGIN)
    n = max(1, math.ceil(high / step - _BOUND_MARGIN) - first)
    tallies = []
    for values in (treated, control):
        tally = [0] * n
        for value in values:
            tally[min(max(math.floor(value / step + _BOUND_MARGIN) - first, 0), n - 1)] += 1
        tallies.append(tally)
    return tuple(
        OverlapBin(
            low=(first + k) * step,
            high=(first + k + 1) * step,
            n_treated=tallies[0][k],
            n_control=tallies[1][k],
        )
        for k in range(n)
    )


def overlap_chart(
    bins: Sequence[OverlapBin],
    *,
    title: str,
    treated: str = "treated",
    control: str = "control",
    bounds: tuple[float, float] = (0.01, 0.99),
    extreme_share: float | None = None,
    note: str | None = None,
    width: int = 780,
) -> str:
    """Propensities of the treated upwards and of the controls downwards, as SVG.

    Heights are shares of each group, so that groups of different size can be compared.

    Args:
        bins: Of equal width, in order; see `overlap_bins`.
        title: For people who cannot see the picture.
        treated: Name of the treated group.
        control: Name of the other.
        bounds: Propensities outside them count as extreme; drawn where they are on the axis.
        extreme_share: Share of all units outside the bounds, for the words below.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No bins, or a group without units.
    """
    axes.check_finite(title, [edge for one in bins for edge in (one.low, one.high)])
    n_treated, n_control = (sum(side) for side in _sides(bins))
    if not (n_treated and n_control):
        msg = f"{title}: {n_treated} treated and {n_control} control units, need one of each"
        raise ValueError(msg)
    drawing = Drawing(width, 0)
    keys = [
        Key(mark="swatch", words=f"{treated} ({count(n_treated)})", colour=svg.BLUE),
        Key(mark="swatch", words=f"{control} ({count(n_control)})", colour=svg.BAR),
    ]
    lines = [bound for bound in bounds if bins[0].low < bound < bins[-1].high]
    if lines:
        words = f"extreme outside {bounds[0]:g} to {bounds[1]:g}"
        keys.append(Key(mark="dashed", words=words, colour=svg.RED))
    top = axes.legend(drawing, keys) + axes.NAME_ROOM
    base = top + _PANEL
    up, down = (
        [n / total for n in side]
        for side, total in zip(_sides(bins), (n_treated, n_control), strict=True)
    )
    axis = axes.make_axis(-max(down), max(up), wanted=5, pad=0.04, shown=_size)
    x = Scale(bins[0].low, bins[-1].high, axes.EDGE_ROOM + axis.room + 10, width - 26)
    y = axis.scale(base, top)
    axes.panel_name(drawing, "share of the group", top - 14)
    axes.value_grid(drawing, axis, x, y)
    for one, above, below in zip(bins, up, down, strict=True):
        left, size = x(one.low) + 0.4, max(x(one.high) - x(one.low) - 0.8, 0.6)
        drawing.rect((left, y(above)), (size, y(0.0) - y(above)), fill=svg.BLUE)
        drawing.rect((left, y(0.0)), (size, y(-below) - y(0.0)), fill=svg.BAR)
    for bound in lines:
        at = x(bound)
        drawing.line((at, top), (at, base), stroke=svg.RED, width=1.2, dash="4 3")
    ticks = axes.side_axis(x.low, x.high, pixels=x.end - x.start)
    axes.base_ticks(drawing, ticks, x, base)
    axes.axis_name(drawing, x, "propensity of treatment", base + 36)
    outside = _describe_outside(extreme_share, bounds)
    axes.finish(drawing, base + 44, [outside, note])
    words = (
        f"{treated}: {count(n_treated)} units, {control}: {count(n_control)} units, propensities "
        f"{number(bins[0].low)} to {number(bins[-1].high)}."
    )
    return drawing.render(title=title, description=" ".join(filter(None, [words, outside])))


def _balance_row(
    drawing: Drawing,
    x: Scale,
    y: float,
    row: CovariateBalance,
    limits: Sequence[tuple[float, str]],
) -> None:
    before, after = abs(row.before), abs(row.after)
    left, right = sorted((x(x.clip(before)), x(x.clip(after))))
    drawing.line((left, y), (right, y), stroke=axes.GREY, width=1.6)
    fill = next((colour for limit, colour in reversed(limits) if after > limit), svg.BLUE)
    for value, colour, inside in ((before, svg.MUTED, svg.PAPER), (after, fill, fill)):
        if x.contains(value):
            drawing.dot((x(value), y), 4.6, fill=inside, stroke=colour, width=1.6)
        else:
            drawing.side_arrow((x.end + 8, y), right=True, fill=colour)


def _sides(bins: Sequence[OverlapBin]) -> tuple[list[int], list[int]]:
    return [one.n_treated for one in bins], [one.n_control for one in bins]


def _size(value: float) -> str:
    """A share without the sign that only says in which direction its bar points."""
    return share(abs(value))


def _describe_outside(extreme_share: float | None, bounds: tuple[float, float]) -> str | None:
    if extreme_share is None:
        return None
    return f"{share(extreme_share)} of all units outside {bounds[0]:g} to {bounds[1]:g}."


def _describe_others(others: Sequence[CovariateBalance], adjustment: str) -> str | None:
    if not others:
        return None
    before = max(abs(row.before) for row in others)
    after = max(abs(row.after) for row in others)
    return (
        f"and {count(len(others))} more, at most {number(before)} before and {number(after)} "
        f"after {adjustment}."
    )


def _describe_balance(
    rows: Sequence[CovariateBalance], adjustment: str, limits: Sequence[tuple[float, str]]
) -> str:
    worst = max(rows, key=lambda row: abs(row.after))
    above = "; ".join(
        f"{sum(abs(row.after) > limit for row in rows)} above {limit:g}" for limit, _ in limits
    )
    return (
        f"{len(rows)} covariates after {adjustment}: {above}; the largest is {worst.name} with "
        f"{number(abs(worst.after))}, {number(abs(worst.before))} before."
    )
