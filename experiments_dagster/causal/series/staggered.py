"""Treatment that starts at different times: effects by cohort and period, and their averages.

The cells ATT(g, t) are those of `staggered_cells`; their averages are

    simple     mean over treated cells, weights P(g)
    group      mean over t ≥ g by cohort, then over cohorts by P(g)
    calendar   mean over cohorts treated by t, weights P(g); then over t
    dynamic    mean over cohorts at e = t − g, weights P(g); then over e ≥ 0

Every average is linear in the cells; its variance is that of the stacked scores by cluster, the
estimation of P(g) included. The band uses multiplier draws of the same scores.

Two-way fixed effects weigh cells of units treated earlier negatively as controls for later ones:
`two_way_contrast` shows that number with the share of its negative weights, never as an estimate.

References:
    Callaway & Sant'Anna 2021, J. of Econometrics 225; Sant'Anna & Zhao 2020; Goodman-Bacon 2021;
    Sun & Abraham 2021; de Chaisemartin & D'Haultfoeuille 2020 (weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.series.event_study import MagnitudeBound, magnitude_bounds
from experiments_dagster.causal.series.panel_inference import (
    AverageEffect,
    JointTest,
    PeriodEffect,
    average_effect,
    band_critical_value,
    check_draws,
    joint_test,
    period_effects,
)
from experiments_dagster.causal.series.staggered_cells import (
    Base,
    Cells,
    Control,
    Panel,
    estimate_cells,
    make_panel,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Flags = NDArray[np.bool_]

FEWEST_CLUSTERS = 10  # treated and untreated: below it normal quantiles are too short


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEffect:
    """ATT(g, t); `is_post` where t ≥ g. Limits hold for this cell alone."""

    cohort: float
    period: float
    is_post: bool
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    p_value: float
    n_treated: int
    n_control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledEffect:
    """An average for one cohort or one period."""

    label: float
    effect: AverageEffect


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTimeEffects:
    """Cells and their averages.

    Args:
        cells: ATT(g, t) in order of cohort and period.
        simple: Mean over treated cells.
        groups: By cohort.
        group_average: Over cohorts.
        calendar: By period.
        calendar_average: Over periods.
        dynamic: By periods since the start, with the band; normal quantiles.
        dynamic_average: Over periods since the start from 0 on.
        pre_trend: Joint test of the dynamic effects before the start; None with
            `pre_trend_reason`.
        pre_trend_reason: Code.
        bounds: Intervals of `dynamic_average` where trends differ after the start by up to M̄ times
            the largest change before it (`event_study`), at M̄ = 0.5, 1 and 2, with leads against
            the period before the start; empty without such leads.
        breakdown_magnitude: Largest M̄ that leaves its sign; None where there is none.
        missing_cells: (cohort, period, code) of cells without an estimate; they are in no average.
        control: Which units are the controls.
        base: Of the effects before the start.
        n_units: Units in the analysis.
        n_never: Never treated among them.
        n_always: Units treated from the first period on, left out.
        n_dropped: Units left out for a missing period.
        n_clusters: Independent clusters.
        confidence_level: 1 − α.
        band_critical_value: Of the dynamic effects.
        warnings: What a reader must know.
    """

    cells: tuple[CellEffect, ...]
    simple: AverageEffect
    groups: tuple[LabelledEffect, ...]
    group_average: AverageEffect
    calendar: tuple[LabelledEffect, ...]
    calendar_average: AverageEffect
    dynamic: tuple[PeriodEffect, ...]
    dynamic_average: AverageEffect
    pre_trend: JointTest | None
    pre_trend_reason: str | None
    bounds: tuple[MagnitudeBound, ...]
    breakdown_magnitude: float | None
    missing_cells: tuple[tuple[float, float, str], ...]
    control: Control
    base: Base
    n_units: int
    n_never: int
    n_always: int
    n_dropped: int
    n_clusters: int
    confidence_level: float
    band_critical_value: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoWayContrast:
    """What two-way fixed effects would print: a contrast, not an effect.

    `negative_weight_share` is the share of the absolute weights on treated cells that is negative;
    `n_negative` of `n_cells` cohort-period cells have one.
    """

    coefficient: float
    negative_weight_share: float
    n_negative: int
    n_cells: int


def group_time_effects(
    outcomes: ArrayLike,
    first_treated: ArrayLike,
    *,
    periods: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    control: Control = "never",
    base: Base = "varying",
    balanced_to: int | None = None,
    seed: int,
    draws: int = 1999,
    alpha: float = 0.05,
) -> GroupTimeEffects:
    """Estimate ATT(g, t) and its averages in a balanced panel.

    Args:
        outcomes: One row per unit, one column per period, shape (n, T). Units with a missing (NaN)
            period are left out and counted.
        first_treated: First treated period of each unit in the labels of `periods`, infinity for
            never, shape (n,). A start after the last period counts as never.
        periods: Increasing labels, shape (T,); default 0..T−1. Event times count columns.
        covariates: Fixed before any treatment, shape (n, p), none missing.
        clusters: Label of each unit's cluster, shape (n,); default the unit.
        control: `never` treated, or `not_yet` treated.
        base: Before the start, `varying` or `universal`.
        balanced_to: If given, dynamic effects up to this event time from cohorts seen that long,
            so that their composition does not change after the start.
        seed: Of the multiplier draws.
        draws: Their number, at least 50/α.
        alpha: Two-sided level.

    Raises:
        EstimationError: NON_FINITE_INPUT; EMPTY_ARM without treated units or controls;
            N_TOO_SMALL, NOT_IDENTIFIED where no treated cell can be estimated; ZERO_VARIANCE.
        ValueError: Shapes, labels or settings that make no sense.

    References:
        Callaway & Sant'Anna 2021, section 3; METHODS 11.6.

    Examples:
        >>> rng = np.random.default_rng(3)
        >>> first = np.repeat([2.0, 3.0, np.inf], 40)
        >>> y = rng.normal(size=(120, 1)) + rng.normal(size=(120, 5))
        >>> y += 2.0 * (np.arange(5) >= first[:, None])
        >>> found = group_time_effects(y, first, seed=1)
        >>> len(found.cells), round(found.simple.estimate)
        (8, 2)
    """
    check_alpha(alpha)
    check_draws(draws, alpha)
    panel = make_panel(outcomes, first_treated, periods, covariates, clusters)
    cells = estimate_cells(panel, control, base)
    treated_cells = np.asarray(np.flatnonzero(cells.lag >= 0), dtype=np.int64)
    if not len(treated_cells):
        reasons = ", ".join(sorted({code for _, _, code in cells.missing}))
        raise EstimationError("NOT_IDENTIFIED", "effects after the start", reasons or "no cell")

    def averaged(positions: NDArray[np.int64]) -> _Average:
        return _average_cells(panel, cells, positions)

    def finished(average: _Average) -> AverageEffect:
        return average_effect(
            average.estimate, _sd_of(panel.by_cluster(average.scores)), df=None, alpha=alpha
        )

    groups = {
        g: _mean_of([_single(cells, int(k)) for k in treated_cells if cells.cohort[k] == g])
        for g in np.unique(cells.cohort[treated_cells])
    }
    calendar = {
        t: averaged(treated_cells[cells.period[treated_cells] == t])
        for t in np.unique(cells.period[treated_cells])
    }
    is_kept = _balanced(panel, cells, balanced_to)
    dynamic = {
        int(e): averaged(np.flatnonzero(is_kept & (cells.lag == e)))
        for e in np.unique(cells.lag[is_kept])
    }
    if not any(e >= 0 for e in dynamic):
        detail = f"no cohort is seen {balanced_to} periods after its start"
        raise EstimationError("NOT_IDENTIFIED", "dynamic effects", detail)
    scores = panel.by_cluster(np.column_stack([found.scores for found in dynamic.values()]))
    estimates = np.array([found.estimate for found in dynamic.values()])
    times = np.array(list(dynamic), dtype=np.int64)
    critical = band_critical_value(scores, alpha=alpha, draws=draws, seed=seed)
    pre_trend, reason = _pre_trend(estimates, scores, times)
    bounds, breakdown = _bounds(panel, cells, control, base, balanced_to, alpha)
    return GroupTimeEffects(
        cells=tuple(
            _cell_effect(panel, cells, k, finished(_single(cells, k)))
            for k in range(len(cells.lag))
        ),
        simple=finished(averaged(treated_cells)),
        groups=_labelled(groups, panel.periods, finished),
        group_average=finished(_weigh_groups(panel, groups)),
        calendar=_labelled(calendar, panel.periods, finished),
        calendar_average=finished(_mean_of(list(calendar.values()))),
        dynamic=period_effects(times, estimates, scores, df=None, critical=critical, alpha=alpha),
        dynamic_average=finished(_mean_of([dynamic[e] for e in dynamic if e >= 0])),
        pre_trend=pre_trend,
        pre_trend_reason=reason,
        bounds=bounds,
        breakdown_magnitude=breakdown,
        missing_cells=cells.missing,
        control=control,
        base=base,
        n_units=len(panel.outcomes),
        n_never=int((panel.start == len(panel.periods)).sum()),
        n_always=panel.n_always,
        n_dropped=panel.n_dropped,
        n_clusters=panel.n_clusters,
        confidence_level=1 - alpha,
        band_critical_value=critical,
        warnings=_warn(panel, cells),
    )


def two_way_contrast(
    outcomes: ArrayLike, first_treated: ArrayLike, *, periods: ArrayLike | None = None
) -> TwoWayContrast:
    """Return the two-way fixed-effects coefficient and the share of its negative weights.

    Arguments as in `group_time_effects`; units treated from the first period on are part of it.

    Raises:
        EstimationError: As `group_time_effects`; NOT_IDENTIFIED where treatment does not vary.

    References:
        de Chaisemartin & D'Haultfoeuille 2020, theorem 1; Goodman-Bacon 2021.
    """
    panel = make_panel(outcomes, first_treated, periods, None, None, keeps_always=True)
    n_periods = len(panel.periods)
    treated = np.arange(n_periods) >= panel.start[:, None]
    indicator = treated.astype(np.float64)
    residual = (
        indicator
        - indicator.mean(axis=1, keepdims=True)
        - indicator.mean(axis=0, keepdims=True)
        + indicator.mean()
    )
    total = float((residual * indicator).sum())
    if total <= 0 or not (np.abs(residual) > np.finfo(float).eps).any():
        raise EstimationError("NOT_IDENTIFIED", "two-way fixed effects", "treatment does not vary")
    weights = residual[treated] / total
    # One weight per cohort and period: units of a cohort share it.
    starts, first = np.unique(panel.start, return_index=True)
    of_cells = [residual[i, start:] for start, i in zip(starts, first, strict=True)]
    cell_weights = np.concatenate(of_cells)
    return TwoWayContrast(
        coefficient=float((residual * panel.outcomes).sum()) / total,
        negative_weight_share=float(-weights[weights < 0].sum() / np.abs(weights).sum()),
        n_negative=int((cell_weights < -np.finfo(float).eps * n_periods).sum()),
        n_cells=len(cell_weights),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Average:
    """A linear combination of cells with one score per unit."""

    estimate: float
    scores: Vector


def _single(cells: Cells, k: int) -> _Average:
    return _Average(estimate=float(cells.estimates[k]), scores=cells.scores[:, k])


def _mean_of(averages: list[_Average]) -> _Average:
    return _Average(
        estimate=float(np.mean([average.estimate for average in averages])),
        scores=np.mean([average.scores for average in averages], axis=0),
    )


def _average_cells(panel: Panel, cells: Cells, positions: NDArray[np.int64]) -> _Average:
    """Mean of cells with weights P(g), whose estimation is part of the scores."""
    parts = [_single(cells, int(k)) for k in positions]
    return _weigh(panel, parts, [int(cells.cohort[k]) for k in positions])


def _weigh_groups(panel: Panel, groups: dict[int, _Average]) -> _Average:
    return _weigh(panel, list(groups.values()), [int(g) for g in groups])


def _weigh(panel: Panel, parts: list[_Average], starts: list[int]) -> _Average:
    shares = np.array([panel.share(start) for start in starts])
    weights = shares / shares.sum()
    values = np.array([part.estimate for part in parts])
    estimate = float(weights @ values)
    scores = np.sum([w * part.scores for w, part in zip(weights, parts, strict=True)], axis=0)
    moved = np.zeros(len(panel.start))
    for start, value in zip(starts, values, strict=True):
        moved += (panel.start == start) * (value - estimate)
    return _Average(estimate=estimate, scores=scores + moved / (shares.sum() * len(panel.start)))


def _balanced(panel: Panel, cells: Cells, balanced_to: int | None) -> Flags:
    if balanced_to is None:
        return np.ones(len(cells.lag), dtype=np.bool_)
    if balanced_to < 0:
        msg = f"balanced_to is {balanced_to}, need 0 or more"
        raise ValueError(msg)
    is_seen = cells.cohort + balanced_to < len(panel.periods)
    return np.asarray(is_seen & (cells.lag <= balanced_to), dtype=np.bool_)


def _bounds(
    panel: Panel,
    cells: Cells,
    control: Control,
    base: Base,
    balanced_to: int | None,
    alpha: float,
) -> tuple[tuple[MagnitudeBound, ...], float | None]:
    """Relative magnitudes of the dynamic average, whose leads need the universal base."""
    if base != "universal":
        cells = estimate_cells(panel, control, "universal")
    is_kept = _balanced(panel, cells, balanced_to)
    times = np.unique(cells.lag[is_kept])
    found = [
        _average_cells(panel, cells, np.flatnonzero(is_kept & (cells.lag == e))) for e in times
    ]
    return magnitude_bounds(
        np.array([average.estimate for average in found]),
        panel.by_cluster(np.column_stack([average.scores for average in found])),
        times,
        df=None,
        alpha=alpha,
    )


def _pre_trend(
    estimates: Vector, scores: Matrix, times: NDArray[np.int64]
) -> tuple[JointTest | None, str | None]:
    leads = times < 0
    if not leads.any():
        return None, "N_TOO_SMALL"
    try:
        return joint_test(estimates[leads], scores[:, leads]), None
    except EstimationError as error:
        return None, error.code


def _labelled(
    averages: dict[int, _Average],
    periods: Vector,
    finished: Callable[[_Average], AverageEffect],
) -> tuple[LabelledEffect, ...]:
    return tuple(
        LabelledEffect(label=float(periods[position]), effect=finished(average))
        for position, average in averages.items()
    )


def _cell_effect(panel: Panel, cells: Cells, k: int, found: AverageEffect) -> CellEffect:
    return CellEffect(
        cohort=float(panel.periods[cells.cohort[k]]),
        period=float(panel.periods[cells.period[k]]),
        is_post=bool(cells.lag[k] >= 0),
        estimate=found.estimate,
        std_error=found.std_error,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        p_value=found.p_value,
        n_treated=int(cells.n_treated[k]),
        n_control=int(cells.n_control[k]),
    )


def _sd_of(scores: Vector) -> float:
    return math.sqrt(float(scores @ scores))


def _warn(panel: Panel, cells: Cells) -> tuple[str, ...]:
    warnings = []
    if cells.missing:
        warnings.append(f"{len(cells.missing)} cells have no estimate and are in no average")
    n_treated = len(np.unique(panel.codes[panel.start < len(panel.periods)]))
    n_never = len(np.unique(panel.codes[panel.start == len(panel.periods)]))
    if n_treated < FEWEST_CLUSTERS or 0 < n_never < FEWEST_CLUSTERS:
        warnings.append(
            f"{n_treated} treated and {n_never} never treated clusters: normal intervals are too "
            f"short below {FEWEST_CLUSTERS}"
        )
    return tuple(warnings)
