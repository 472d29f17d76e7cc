"""Cells of a staggered design: ATT(g, t) with one influence score per unit.

Cohort g is treated from period g on. Against units that stay untreated,

    ATT(g, t) = E[y_t − y_base | cohort g] − E[y_t − y_base | controls]

with base the period before g; before the start `varying` takes the period before t (each a test of
no change), `universal` always the period before g. Controls are the never treated, or units treated
neither by t nor by the base. With covariates each cell is doubly robust (`doubly_robust_change`).

What does not belong here: averages over cells (`staggered`).

References:
    Callaway & Sant'Anna 2021, J. of Econometrics 225, theorem 1; Sant'Anna & Zhao 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.series.doubly_robust_change import effect_on_change
from experiments_dagster.causal.series.panel_inference import complete_rows
from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Flags = NDArray[np.bool_]

Control = Literal["never", "not_yet"]
Base = Literal["varying", "universal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Complete units; `start` is the column of the first treated period, T for never."""

    outcomes: Matrix
    start: NDArray[np.int64]
    periods: Vector
    covariates: Matrix
    codes: NDArray[np.intp]
    n_clusters: int
    n_always: int
    n_dropped: int

    def share(self, start: int) -> float:
        """P(g): share of the units in a cohort."""
        return float((self.start == start).mean())

    def by_cluster(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add scores up by cluster, with G/(G − 1) where clusters are coarser than units."""
        if self.n_clusters == len(self.codes):
            return scores
        totals = np.zeros((self.n_clusters, *scores.shape[1:]))
        np.add.at(totals, self.codes, scores)
        return totals * math.sqrt(self.n_clusters / (self.n_clusters - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Estimated cells: columns of start and period, lag, effect, scores (n, k) and counts."""

    cohort: NDArray[np.int64]
    period: NDArray[np.int64]
    lag: NDArray[np.int64]
    estimates: Vector
    scores: Matrix
    n_treated: NDArray[np.int64]
    n_control: NDArray[np.int64]
    missing: tuple[tuple[float, float, str], ...]


def make_panel(
    outcomes: ArrayLike,
    first_treated: ArrayLike,
    periods: ArrayLike | None,
    covariates: ArrayLike | None,
    clusters: ArrayLike | None,
    *,
    keeps_always: bool = False,
) -> Panel:
    """Check and cut the inputs of `group_time_effects`, which states arguments and errors."""
    matrix, is_complete = complete_rows(outcomes)
    n, n_periods = matrix.shape
    first = np.asarray(first_treated, dtype=np.float64)
    labels = np.asarray(range(n_periods) if periods is None else periods, dtype=np.float64)
    units = np.arange(n) if clusters is None else np.asarray(clusters)
    extra = np.empty((n, 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    if first.shape != (n,) or units.shape != (n,) or extra.ndim != 2 or len(extra) != n:  # noqa: PLR2004
        msg = (
            f"first_treated {first.shape}, clusters {units.shape}, covariates {extra.shape}: "
            f"need ({n},), ({n},) and ({n}, p)"
        )
        raise ValueError(msg)
    if labels.shape != (n_periods,) or not (np.diff(labels) > 0).all():
        msg = f"periods need {n_periods} increasing labels"
        raise ValueError(msg)
    if np.isnan(first).any() or not np.isfinite(extra).all():
        detail = "first_treated or covariates; never treated is infinity"
        raise EstimationError("NON_FINITE_INPUT", "panel", detail)
    if n_periods < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", "periods", f"{n_periods}, need 2")
    start = np.searchsorted(labels, first, side="left").astype(np.int64)
    is_known = (start == n_periods) | (labels[np.minimum(start, n_periods - 1)] == first)
    if not is_known[first >= labels[0]].all():
        msg = "first_treated holds a label within the periods that is none of them"
        raise ValueError(msg)
    is_always = is_complete & (start == 0)
    kept = is_complete & ((start > 0) | keeps_always)
    if not (start[kept] < n_periods).any():
        raise EstimationError("EMPTY_ARM", "treated", "no unit starts within the periods")
    level = float(matrix[kept].mean())
    levels, codes = np.unique(units[kept], return_inverse=True)
    return Panel(
        outcomes=matrix[kept] - level,
        start=start[kept],
        periods=labels,
        covariates=extra[kept],
        codes=codes,
        n_clusters=len(levels),
        n_always=int(is_always.sum()),
        n_dropped=int((~is_complete).sum()),
    )


def estimate_cells(panel: Panel, control: Control, base: Base) -> Cells:
    """Estimate every cell; those that cannot be are listed in `missing` with their code."""
    n_periods = len(panel.periods)
    rows, columns, missing = [], [], []
    for g in np.unique(panel.start[panel.start < n_periods]):
        for t in range(n_periods):
            before = g - 1 if t >= g or base == "universal" else t - 1
            if before < 0 or before == t:
                continue
            untreated = (
                panel.start == n_periods
                if control == "never"
                else (panel.start > max(t, before)) & (panel.start != g)
            )
            label = float(panel.periods[g]), float(panel.periods[t])
            try:
                estimate, scores = _estimate_cell(panel, panel.start == g, untreated, t, before)
            except EstimationError as error:
                missing.append((*label, error.code))
                continue
            sizes = int((panel.start == g).sum()), int(untreated.sum())
            rows.append((int(g), t, estimate, *sizes))
            columns.append(scores)
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    cohort, period = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return Cells(
        cohort=cohort,
        period=period,
        lag=period - cohort,
        estimates=table[:, 2],
        scores=np.column_stack(columns) if columns else np.empty((len(panel.start), 0)),
        n_treated=table[:, 3].astype(np.int64),
        n_control=table[:, 4].astype(np.int64),
        missing=tuple(missing),
    )


def _estimate_cell(
    panel: Panel, treated: Flags, untreated: Flags, t: int, before: int
) -> tuple[float, Vector]:
    subject = f"period {panel.periods[t]:g}"
    if not untreated.any():
        raise EstimationError("EMPTY_ARM", subject, "no untreated unit is left")
    used = treated | untreated
    change = panel.outcomes[used, t] - panel.outcomes[used, before]
    estimate, own = effect_on_change(change, treated[used], panel.covariates[used], subject=subject)
    scores = np.zeros(len(used))
    scores[used] = own
    return estimate, scores
