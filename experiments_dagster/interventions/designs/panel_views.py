"""Tables and the picture that panel designs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments_dagster.causal.series.event_study import EventStudy, MagnitudeBound
from experiments_dagster.causal.series.panel_inference import PeriodEffect
from experiments_dagster.interventions.designs.panel_parts import is_treated
from experiments_dagster.interventions.study import Picture, StudyTable, Value, table_of
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, Panel
from experiments_dagster.reporting.event_study_charts import PeriodEstimate, event_study_chart


def lead_tables(found: EventStudy, panel: Panel, start: int) -> list[StudyTable]:
    """Effects by period; with leads also their joint test and the bounds."""
    tables = [
        effect_table(
            "period_effects",
            "Effects by period",
            found.effects,
            labels=[panel.labels[start + effect.event_time] for effect in found.effects],
            note=f"Against {panel.labels[start - 1]}, the last period before the start. The band "
            "holds for all periods jointly, the interval for one.",
        )
    ]
    if found.pre_trend is not None:
        test = found.pre_trend.test
        tables.append(
            table_of(
                "pre_trend",
                "Joint test of the leads, and what it could have missed",
                [
                    {
                        "chi_square": test.statistic,
                        "leads": test.n_effects,
                        "p_value": test.p_value,
                        "p_value_chi_square": test.chi_square_p_value,
                        "power_at_effect": found.pre_trend.power_at_effect,
                        "detectable_slope": found.pre_trend.detectable_slope,
                        "bias_of_detectable": found.pre_trend.bias_of_detectable,
                    }
                ],
                note="Power is that against the straight trend that would by itself make the "
                "effect. The detectable slope per period is found with probability 0.8, its bias "
                "is what it adds to the average effect. A test that does not reject shows nothing.",
            )
        )
    if found.bounds:
        of = f"the average against {panel.labels[start - 1]}"
        tables.append(sensitivity_table(found.bounds, found.breakdown_magnitude, of=of))
    return tables


def sensitivity_table(
    bounds: Sequence[MagnitudeBound], breakdown: float | None, *, of: str
) -> StudyTable:
    """Intervals where trends may differ after the start, and how much the sign stands."""
    stands = "at none" if breakdown is None else f"up to {breakdown:.2f}"
    return table_of(
        "sensitivity",
        "Interval of the average effect where trends differ after the start too",
        [
            {
                "magnitude": bound.magnitude,
                "ci_low": bound.ci_low,
                "ci_high": bound.ci_high,
                "excludes_zero": bound.excludes_zero,
            }
            for bound in bounds
        ],
        note=f"Of {of}. Magnitude 1 allows changes between neighbouring periods as large as the "
        f"largest before the start. The sign stands {stands}.",
    )


def effect_table(
    name: str,
    title: str,
    effects: Sequence[PeriodEffect],
    *,
    labels: Sequence[str] | None = None,
    note: str,
) -> StudyTable:
    """Estimates by time since the start, with intervals and band."""
    rows: list[Mapping[str, Value]] = []
    for position, effect in enumerate(effects):
        own = {} if labels is None else {"period": labels[position]}
        rows.append(
            {
                "event_time": effect.event_time,
                **own,
                "estimate": effect.estimate,
                "std_error": effect.std_error,
                "ci_low": effect.ci_low,
                "ci_high": effect.ci_high,
                "band_low": effect.band_low,
                "band_high": effect.band_high,
                "p_value": effect.p_value,
            }
        )
    return table_of(name, title, rows, note=note)


def means_table(panel: Panel, is_kept: BoolArray) -> StudyTable:
    """Mean outcome of treated and untreated by period.

    Args:
        panel: Its rows.
        is_kept: Units to read, shape (N,).
    """
    treated, control, sizes = period_means(panel, is_kept)
    rows = []
    for period, label in enumerate(panel.labels):
        is_there = sizes[:, period] > 0
        rows.append(
            {
                "period": label,
                "treated": float(treated[period]) if is_there[0] else None,
                "untreated": float(control[period]) if is_there[1] else None,
                "difference": float(treated[period] - control[period]) if is_there.all() else None,
                "n_treated": int(sizes[0, period]),
                "n_untreated": int(sizes[1, period]),
            }
        )
    return table_of("group_means", f"Mean {panel.outcome_name} by period", rows)


def period_means(panel: Panel, is_kept: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means of treated and of untreated, shape (T,), NaN without rows; rows by side, (2, T)."""
    n_periods = len(panel.labels)
    treated = is_treated(panel)[panel.unit]
    kept = is_kept[panel.unit]
    means, sizes = [], []
    for side in (kept & treated, kept & ~treated):
        counts = np.bincount(panel.period[side], minlength=n_periods)
        sums = np.bincount(panel.period[side], panel.outcome[side], minlength=n_periods)
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
        sizes.append(counts.astype(np.float64))
    return means[0], means[1], np.stack(sizes)


def event_picture(
    effects: Sequence[PeriodEffect],
    *,
    title: str,
    unit: str,
    confidence_level: float,
    reference: int | None = -1,
) -> Picture:
    """Estimates by time since the start; no reference where each lead has its own base."""
    rows = [
        PeriodEstimate(
            period=effect.event_time,
            estimate=effect.estimate,
            ci_low=effect.ci_low,
            ci_high=effect.ci_high,
            band_low=effect.band_low,
            band_high=effect.band_high,
        )
        for effect in effects
    ]

    def draw(width: int) -> str:
        return event_study_chart(
            rows,
            title=title,
            reference=reference,
            unit=unit,
            confidence_level=confidence_level,
            width=width,
        )

    return Picture(name="event_study", caption=title, draw=draw)
