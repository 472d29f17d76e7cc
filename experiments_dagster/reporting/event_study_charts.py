"""The event study: estimates by period relative to the start, with the reference they start from.

Leads that differ from zero speak against parallel trends, so they stand on the same scale as the
lags and look no different.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.reporting import axes, svg
from experiments_dagster.reporting.axes import Axis, Key
from experiments_dagster.reporting.numbers import MINUS, Format, count, level, plural, signed
from experiments_dagster.reporting.svg import Drawing, Scale

_PANEL = 250.0
_LONGEST = 4.0  # median half-widths that an interval may reach before it is cut
_WIDEST_BAR, _NARROWEST = 13.0, 0.6
_SMALL_DOT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodEstimate:
    """One period: its own interval, and the band that holds for all periods jointly.

    `period` 0 is the first one after the start. A missing band is None at both ends.
    """

    period: int
    estimate: float
    ci_low: float
    ci_high: float
    band_low: float | None = None
    band_high: float | None = None


def event_study_chart(
    rows: Sequence[PeriodEstimate],
    *,
    title: str,
    reference: int | None = -1,
    unit: str | None = None,
    shown: Format | None = None,
    confidence_level: float = 0.95,
    period_name: str = "periods",
    note: str | None = None,
    width: int = 780,
) -> str:
    """Estimates by period with pointwise intervals and the simultaneous band, as SVG.

    An interval many times longer than the others is cut at the edge and carries an arrow.

    Args:
        rows: Periods in any order, without the reference, one or more.
        title: For people who cannot see the picture.
        reference: The period that is zero by construction; None where each period before the start
            is compared with the one before it.
        unit: Unit of the estimates.
        shown: How a tick is written.
        confidence_level: Of intervals and band.
        period_name: What a period is, such as quarters.
        note: Words below the picture.
        width: Pixels; below 560 the layout is that of a phone.

    Raises:
        ValueError: No rows, a period twice, or a value that is not finite.
    """
    rows = sorted(rows, key=lambda row: row.period)
    _check(title, rows, reference)
    drawing = Drawing(width, 0)
    has_band = any(_band(row) for row in rows)
    top = (
        axes.legend(drawing, _keys(reference, level(confidence_level), has_band=has_band))
        + axes.START_ROOM
    )
    base = top + _PANEL
    axis = _estimate_axis(rows, shown)
    periods = [row.period for row in rows] + ([] if reference is None else [reference])
    first, last = min(periods), max(periods)
    x = Scale(first - 0.6, last + 0.6, axes.EDGE_ROOM + axis.room + 10, width - 24)
    y = axis.scale(base, top)
    axes.panel_name(drawing, f"estimate ({unit})" if unit else "estimate", top - 28)
    axes.value_grid(drawing, axis, x, y)
    _period_ticks(drawing, x, first, last, base)
    axes.axis_name(drawing, x, f"{period_name} since the start", base + 36)
    if first < 0 <= last:
        axes.start_line(drawing, x(-0.5), "start", top=top, base=base)
    half = max(min(_WIDEST_BAR, 0.7 * (x(1) - x(0))) / 2, _NARROWEST)
    for row in rows:
        _period(drawing, x, y, row, half=half)
    if reference is not None:
        place = (x(reference), y(0.0))
        axes.diamond(drawing, place, min(6.0, half + 1), fill=svg.PAPER, stroke=svg.INK)
    axes.finish(drawing, base + 44, [note])
    return drawing.render(title=title, description=_describe(rows, reference))


def _check(title: str, rows: Sequence[PeriodEstimate], reference: int | None) -> None:
    limits = (limit for row in rows for limit in (_band(row) or ()))
    own = (value for row in rows for value in (row.estimate, row.ci_low, row.ci_high))
    axes.check_finite(title, [*own, *limits])
    periods = [row.period for row in rows] + ([] if reference is None else [reference])
    twice = sorted({period for period in periods if periods.count(period) > 1})
    if twice:
        msg = f"{title}: period {twice[0]} is there twice, need each once and the reference apart"
        raise ValueError(msg)


def _band(row: PeriodEstimate) -> tuple[float, float] | None:
    if row.band_low is None or row.band_high is None:
        return None
    return row.band_low, row.band_high


def _estimate_axis(rows: Sequence[PeriodEstimate], shown: Format | None) -> Axis:
    limits = [_band(row) or (row.ci_low, row.ci_high) for row in rows]
    usual = _LONGEST * statistics.median((high - low) / 2 for low, high in limits)
    pairs = list(zip(rows, limits, strict=True))
    low = min(0.0, *(max(low, row.estimate - usual) for row, (low, _) in pairs))
    high = max(0.0, *(min(high, row.estimate + usual) for row, (_, high) in pairs))
    return axes.make_axis(low, high, wanted=6, shown=shown)


def _keys(reference: int | None, confidence: str, *, has_band: bool) -> list[Key]:
    keys = [Key(mark="whisker", words=f"estimate, {confidence} interval of the period")]
    if has_band:
        words = f"{confidence} band for all periods jointly"
        keys.append(Key(mark="bar", words=words, colour=svg.BAR))
    if reference is not None:
        keys.append(Key(mark="diamond", words=f"reference period {_period_name(reference)}"))
    return keys


def _period_ticks(drawing: Drawing, x: Scale, first: int, last: int, base: float) -> None:
    words = [_period_name(period) for period in range(first, last + 1)]
    _, stride = axes.choose_labels(words, x(1) - x(0))
    drawing.line((x.start, base), (x.end, base), stroke=svg.FAINT)
    for period, word in zip(range(first, last + 1), words, strict=True):
        if period % stride == 0:
            at = x(period)
            drawing.line((at, base), (at, base + 4), stroke=svg.FAINT)
            drawing.text((at, base + 17), word, anchor="middle", size=axes.SMALL)


def _period_name(period: int) -> str:
    return count(period).replace("-", MINUS)


def _period(drawing: Drawing, x: Scale, y: Scale, row: PeriodEstimate, *, half: float) -> None:
    at, band = x(row.period), _band(row)
    if band:
        low, high = (y(y.clip(limit)) for limit in band)
        drawing.rect((at - half, high), (2 * half, low - high), fill=svg.BAR, radius=1.5)
        if band[1] > y.high:
            drawing.arrow((at, y(y.high)), down=False, fill=svg.BAR)
        if band[0] < y.low:
            drawing.arrow((at, y(y.low)), down=True, fill=svg.BAR)
    axes.whisker(drawing, at, (row.ci_low, row.ci_high), y)
    # A rim would hide small dots.
    radius = max(min(4.2, half), 1.2)
    rim = svg.PAPER if radius > _SMALL_DOT else svg.INK
    drawing.dot((at, y(row.estimate)), radius, stroke=rim)


def _describe(rows: Sequence[PeriodEstimate], reference: int | None) -> str:
    before = sum(row.period < 0 for row in rows)
    words = f"{plural(before, 'period')} before the start and {len(rows) - before} from it on"
    words += "" if reference is None else f", reference period {_period_name(reference)}"
    last = rows[-1]
    return (
        f"{words}; period {_period_name(last.period)}: {signed(last.estimate)}, "
        f"{signed(last.ci_low)} to {signed(last.ci_high)}."
    )
