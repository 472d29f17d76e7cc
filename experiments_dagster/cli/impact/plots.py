"""The three plots of a result folder: observed against counterfactual, effect, running sum."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.series_effect import SeriesEffect
from experiments_dagster.cli.impact.request import ImpactRequest
from experiments_dagster.cli.impact.series_file import RegularSeries
from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import day, level, number, signed, tick
from experiments_dagster.reporting.svg import Drawing, Scale

Vector = NDArray[np.float64]
WIDTH, HEIGHT = 760.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 44.0, 76.0, 44.0
LABELS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """A line with limits from one date on; `observed` beside it for levels."""

    dates: tuple[dt.date, ...]
    line: Vector
    low: Vector
    high: Vector
    observed: Vector | None = None


def drawings(
    series: RegularSeries, effect: SeriesEffect, request: ImpactRequest
) -> dict[str, Callable[[], str]]:
    """Functions that draw an SVG, by plot name."""
    after = series.dates[series.n_pre :]
    levels = _Band(
        dates=series.dates,
        line=effect.expected,
        low=effect.expected_low,
        high=effect.expected_high,
        observed=series.y,
    )
    points = _Band(dates=after, line=effect.effect, low=effect.effect_low, high=effect.effect_high)
    running = _Band(
        dates=after,
        line=effect.cumulative,
        low=effect.cumulative_low,
        high=effect.cumulative_high,
    )
    named = {
        "observed_vs_counterfactual": (levels, f"{request.y}: observed and counterfactual"),
        "point_effect": (points, f"{request.y}: effect per period"),
        "cumulative_effect": (running, f"{request.y}: cumulative effect"),
    }
    return {
        name: partial(_draw, band, title, request.intervention, request.alpha)
        for name, (band, title) in named.items()
    }


def _draw(band: _Band, title: str, intervention: dt.date, alpha: float) -> str:
    drawing = Drawing(WIDTH, HEIGHT)
    drawing.text((18, 26), svg.fit(title, 14, WIDTH - 36), size=14, fill=svg.INK, bold=True)
    is_level = band.observed is not None
    words = f"{'counterfactual' if is_level else 'effect'} with its {level(1 - alpha)} interval"
    drawing.text((18, 48), words + ("; observed in black" if is_level else ""), size=11.5)
    first, last = band.dates[0].toordinal(), band.dates[-1].toordinal()
    across = Scale(first - 0.5, last + 0.5, LEFT, WIDTH - RIGHT)
    up = _vertical(band)
    for value in svg.nice_ticks(up.low, up.high, 5):
        stroke = svg.MUTED if value == 0 and not is_level else svg.GRID
        drawing.line((across.start, up(value)), (across.end, up(value)), stroke=stroke)
        shown = tick(value, signed if up.low < 0 else number)
        drawing.text((across.start - 8, up(value) + 4), shown, anchor="end", size=11)
    at = [across(date.toordinal()) for date in band.dates]
    upper = list(zip(at, map(up, band.high.tolist()), strict=True))
    lower = list(zip(at, map(up, band.low.tolist()), strict=True))
    drawing.area([*upper, *reversed(lower)], fill=svg.SHADE)
    drawing.polyline(
        list(zip(at, map(up, band.line.tolist()), strict=True)),
        stroke=svg.BLUE,
        width=1.6,
        dash="5 3" if is_level else "",
    )
    if band.observed is not None:
        drawing.polyline(list(zip(at, map(up, band.observed.tolist()), strict=True)), width=1.4)
        cut = across(across.clip(intervention.toordinal() - 0.5))
        drawing.line((cut, TOP), (cut, HEIGHT - BOTTOM), stroke=svg.RED, width=1.3, dash="4 4")
        drawing.text((cut, TOP - 6), day(intervention), fill=svg.RED, size=11, anchor="middle")
    for k in range(0, len(at), max(1, round(len(at) / LABELS))):
        label = band.dates[k].isoformat()
        drawing.text((at[k], HEIGHT - BOTTOM + 18), label, anchor="middle", size=10.5)
    description = f"{title}: {len(at)} periods, the last {number(float(band.line[-1]))}."
    return drawing.render(title=title, description=description)


def _vertical(band: _Band) -> Scale:
    values = [band.line, band.low, band.high]
    values.append(np.zeros(1) if band.observed is None else band.observed)
    low, high = (float(limit(np.concatenate(values))) for limit in (np.min, np.max))
    pad = 0.06 * (high - low) or 1.0
    return Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
