"""The methods by their names, and the average effect of the same method at a moved intervention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.donor_panel import DonorPanel, build_panel
from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.causal.series.scaled_control import (
    FEWEST_POINTS,
    draw_errors,
    estimate_scaled_control,
    pre_fit,
    scaled_control_average,
)
from experiments_dagster.causal.series.series_effect import (
    SeriesEffect,
    effect_of_errors,
    effect_of_impact,
)
from experiments_dagster.causal.series.synthetic_control import (
    estimate_synthetic_control,
    synthetic_control_effect,
)
from experiments_dagster.cli.impact.request import SEASON, ImpactRequest
from experiments_dagster.cli.impact.series_file import RegularSeries
from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
# Gaps below this share of the outcome are what the weights' solver leaves.
PRECISION = 1e-6
FEWEST_COLUMNS = {"causal_impact_like": 0, "did": 1, "synthetic_control": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTask:
    """One series to estimate: the same data may be asked with fewer columns or fewer days.

    Args:
        request: The flags.
        y: Outcome, shape (n,).
        x: Columns, shape (n, p).
        names: Of the columns.
        n_pre: Periods before the intervention.
        n_dropped: Last periods before it that no fit may read.
    """

    request: ImpactRequest
    y: Vector
    x: Vector
    names: tuple[str, ...]
    n_pre: int
    n_dropped: int = 0

    @classmethod
    def of(cls, request: ImpactRequest, series: RegularSeries) -> SeriesTask:
        """The whole series of a file.

        Raises:
            ValueError: The method needs more columns.
        """
        least = FEWEST_COLUMNS[request.method]
        if len(series.names) < least:
            given = ",".join(series.names)
            msg = f"--x {given!r}: --method {request.method} needs at least {least} columns"
            raise ValueError(msg)
        return cls(request=request, y=series.y, x=series.x, names=series.names, n_pre=series.n_pre)

    def without(self, column: int) -> SeriesTask:
        """The same without a column."""
        names = tuple(name for k, name in enumerate(self.names) if k != column)
        return replace(self, x=np.delete(self.x, column, axis=1), names=names)

    def dropping(self, n_periods: int) -> SeriesTask:
        """The same with fits that do not read the last periods before the intervention."""
        return replace(self, n_dropped=n_periods)

    @property
    def fitted(self) -> Vector:
        """The outcome with NaN where no fit may read it, shape (n,)."""
        y = self.y.copy()
        y[self.n_pre - self.n_dropped : self.n_pre] = np.nan
        return y


def estimate(task: SeriesTask) -> SeriesEffect:
    """The effect by the method of the request.

    Raises:
        EstimationError: The data cannot give it.
    """
    if task.request.method == "did":
        return _did(task)
    if task.request.method == "synthetic_control":
        return _synthetic_control(task)
    return _structural(task)


def placebos(task: SeriesTask) -> PlaceboResult:
    """The same method at interventions that never happened.

    Raises:
        EstimationError: No position has enough periods before and after it.
    """
    request, n_post = task.request, len(task.y) - task.n_pre
    if request.method == "causal_impact_like":
        return placebo_in_time(
            task.y,
            task.x,
            task.n_pre,
            season=SEASON[request.freq],
            min_pre_points=request.floor,
            n_placebos=request.n_placebos,
            min_placebos=1,
        )
    first, last = max(request.floor, FEWEST_POINTS), task.n_pre - n_post
    if last < first:
        detail = f"none with {first} steps before and {n_post} after before the intervention"
        raise EstimationError("N_TOO_SMALL", "placebo in time", detail)
    n_steps = min(request.n_placebos, last - first + 1)
    positions = np.rint(np.linspace(first, last, n_steps)).astype(np.int64)
    effects = np.array([_average(task, int(step), n_post) for step in positions])
    effect = _average(task, task.n_pre, n_post)
    return _ranked(effect, positions, effects, n_post)


def _ranked(
    effect: float, positions: NDArray[np.int64], effects: Vector, n_post: int
) -> PlaceboResult:
    """Rank the effect, p = (1 + k) / (1 + n), with the sign test of `placebo_in_time`."""
    n_disjoint, free_from = 0, 0
    for step in positions.tolist():
        if step >= free_from:
            n_disjoint, free_from = n_disjoint + 1, step + n_post
    share = float((effects > 0).mean())
    rarer = round(min(share, 1 - share) * n_disjoint)
    tail = sum(math.comb(n_disjoint, k) for k in range(rarer + 1)) / 2.0**n_disjoint
    return PlaceboResult(
        effect=effect,
        positions=positions,
        effects=effects,
        p_value=(1 + int((np.abs(effects) >= abs(effect)).sum())) / (1 + len(effects)),
        sign_p_value=min(1.0, 2 * tail),
        is_one_sided=bool((effects > 0).all() or (effects < 0).all()),
        n_disjoint=n_disjoint,
        warnings=(),
    )


def _average(task: SeriesTask, step: int, n_post: int) -> float:
    if task.request.method == "did":
        return scaled_control_average(task.y, task.x, step, n_post, task.request.floor)
    stop = step + n_post
    panel = _panel(task.y[:stop], task.x[:stop], step)
    return float(synthetic_control_effect(panel, seed=task.request.seed)[step:].mean())


def _structural(task: SeriesTask) -> SeriesEffect:
    request = task.request
    result = estimate_impact(
        task.fitted,
        task.x,
        task.n_pre,
        season=SEASON[request.freq],
        min_pre_points=request.floor,
        n_draws=request.n_paths,
        seed=request.seed,
        alpha=request.alpha,
    )
    effect = effect_of_impact(request.method, result)
    dropped = [task.names[column] for column in result.dropped_covariates]
    return replace(effect, extra={**effect.extra, "dropped_covariates": dropped})


def _did(task: SeriesTask) -> SeriesEffect:
    request = task.request
    return estimate_scaled_control(
        task.fitted,
        task.x,
        task.n_pre,
        min_pre_points=request.floor,
        n_draws=request.n_paths,
        seed=request.seed,
        alpha=request.alpha,
    )


def _synthetic_control(task: SeriesTask) -> SeriesEffect:
    """Donor weights from the pre period; the error of the gap is drawn as AR(1) noise."""
    request, n_pre = task.request, task.n_pre
    n_fit = n_pre - task.n_dropped
    if n_fit < request.floor:
        detail = f"{n_fit} observed points, need {request.floor}; hint: a longer history"
        raise EstimationError("N_TOO_SMALL", "pre period", detail)
    panel = _panel(task.y, task.x, n_pre).holding_out(task.n_dropped)
    result = estimate_synthetic_control(panel, seed=request.seed)
    gap = task.y - result.counterfactual
    fitted = gap[:n_pre].copy()
    fitted[n_fit:] = np.nan
    if float(np.abs(gap[:n_fit]).max()) <= PRECISION * float(np.abs(task.y[:n_fit]).max()):
        raise EstimationError("ZERO_VARIANCE", "gap before the intervention", "a perfect fit")
    # Weights above 0 with sum 1 move along differences between their donors.
    used = task.x[:, result.weights > 0]
    differences = used[:, 1:] - used[:, :1]
    rng = np.random.default_rng(request.seed)
    phi, errors = draw_errors(fitted, differences, request.n_paths, rng)
    warnings = list(result.warnings)
    if result.is_poor_fit:
        warnings.append(
            f"synthetic control: pre-period error {result.pre_rmspe:.3g} exceeds half the sd of "
            f"the outcome ({result.pre_sd:.3g}): no mix of the columns tracks it"
        )
    return effect_of_errors(
        task.y,
        result.counterfactual,
        errors,
        n_pre,
        method=request.method,
        interval="AR(1) errors of the gap with those of the weights above 0",
        fit=pre_fit(task.y[:n_fit], gap[:n_fit], n_coefficients=0),
        alpha=request.alpha,
        extra={
            "donor_weights": dict(zip(task.names, result.weights.tolist(), strict=True)),
            "pre_rmspe": result.pre_rmspe,
            "is_poor_fit": result.is_poor_fit,
            "ar1_coefficient": phi,
        },
        warnings=tuple(warnings),
    )


def _panel(y: Vector, x: Vector, n_pre: int) -> DonorPanel:
    treated_at = np.r_[float(n_pre), np.full(x.shape[1], np.inf)]
    outcomes = np.column_stack([y, x])
    return build_panel(outcomes, treated=[0], n_pre=n_pre, treated_at=treated_at)
