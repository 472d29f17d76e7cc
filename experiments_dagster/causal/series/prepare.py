"""Checked, standardised columns for one series: what a fit before the intervention may see.

Outcome and covariates are centred and scaled by their mean and sd before the intervention;
no outcome after it is read by the fit. A season of period S enters as min(S/2, 6) harmonics
(complete up to S = 13), fixed over time. Estimation does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.stats.errors import EstimationError

FEWEST_POINTS = 10
FEWEST_CYCLES = 3
MOST_HARMONICS = 6
# Variation below this share of the magnitude is rounding error.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSeries:
    """One series cut at the intervention, in standardised units except `post`.

    `columns` are y, 1, season, covariates before the intervention; `design_post` the same without
    y after it. `post` holds the observed values after it in original units, NaN where missing.
    """

    columns: FloatArray
    is_observed: NDArray[np.bool_]
    design_post: FloatArray
    pre: FloatArray
    post: FloatArray
    centre: float
    spread: float
    n_season: int
    dropped_covariates: tuple[int, ...]
    warnings: tuple[str, ...]

    def restore(self, standardised: FloatArray) -> FloatArray:
        """Return values of the outcome in original units."""
        return self.centre + self.spread * standardised


def prepare_series(
    observed: FloatArray,
    covariates: FloatArray,
    n_pre: int,
    *,
    n_post: int | None,
    season: int | None,
    min_pre_points: int,
) -> PreparedSeries:
    """Check and standardise one series; see `estimate_impact` for arguments and errors."""
    stop = len(observed) if n_post is None else n_pre + n_post
    _check(observed, covariates, n_pre, stop, season)
    observed, covariates = observed[:stop], covariates[:stop]
    pre, post = observed[:n_pre], observed[n_pre:]
    is_observed = np.isfinite(pre)
    _refuse_thin(int(is_observed.sum()), int(np.isfinite(post).sum()), min_pre_points)
    centre, spread = float(pre[is_observed].mean()), float(pre[is_observed].std(ddof=1))
    if spread <= ROUNDING * float(np.abs(pre[is_observed]).max()):
        raise EstimationError("ZERO_VARIANCE", "outcome", f"{n_pre} equal points before the cut")

    is_kept = np.ptp(covariates[:n_pre], axis=0) > ROUNDING * np.abs(covariates[:n_pre]).max(axis=0)
    kept = covariates[:, is_kept]
    kept = (kept - kept[:n_pre].mean(axis=0)) / kept[:n_pre].std(axis=0, ddof=1)
    # An order of their own, so that permuted covariates meet the same random numbers.
    kept = kept[:, np.lexsort(kept[:n_pre])]
    has_season = season is not None and n_pre >= FEWEST_CYCLES * season
    waves = _harmonics(stop, season) if season and has_season else np.empty((stop, 0))
    design = np.column_stack([np.ones(stop), waves, kept])
    outcome = np.where(is_observed, (pre - centre) / spread, 0.0)
    return PreparedSeries(
        columns=np.column_stack([outcome, design[:n_pre]]),
        is_observed=is_observed,
        design_post=design[n_pre:],
        pre=pre,
        post=post,
        centre=centre,
        spread=spread,
        n_season=waves.shape[1],
        dropped_covariates=tuple(int(i) for i in np.flatnonzero(~is_kept)),
        warnings=_warn(covariates, is_kept, n_pre, None if has_season else season),
    )


def _check(
    observed: FloatArray, covariates: FloatArray, n_pre: int, stop: int, season: int | None
) -> None:
    if (observed.ndim, covariates.ndim) != (1, 2) or len(covariates) != len(observed):
        msg = f"observed {observed.shape}, covariates {covariates.shape}; need (n,) and (n, p)"
        raise ValueError(msg)
    if not 0 < n_pre < stop <= len(observed):
        detail = f"{len(observed)} steps, intervention at {n_pre}, end at {stop}"
        raise EstimationError("N_TOO_SMALL", "periods before and after the intervention", detail)
    if season is not None and season <= 1:
        msg = f"season is {season} steps; need at least 2, or None"
        raise ValueError(msg)
    if np.isinf(observed[:stop]).any():
        raise EstimationError("NON_FINITE_INPUT", "outcome", "infinite; missing values are NaN")
    is_bad = ~np.isfinite(covariates[:stop])
    if is_bad.any():
        step, column = np.argwhere(is_bad)[0]
        detail = f"column {column} at step {step}; hint: fill it or leave the covariate out"
        raise EstimationError("NON_FINITE_INPUT", "covariates", detail)


def _refuse_thin(n_before: int, n_after: int, min_pre_points: int) -> None:
    needed = max(min_pre_points, FEWEST_POINTS)
    if n_before < needed:
        detail = f"{n_before} observed points, need {needed}; hint: a longer history"
        raise EstimationError("N_TOO_SMALL", "pre period", detail)
    if n_after == 0:
        raise EstimationError("N_TOO_SMALL", "post period", "no observed point")


def _harmonics(n_steps: int, season: int) -> FloatArray:
    waves = []
    for k in range(1, min(season // 2, MOST_HARMONICS) + 1):
        angle = 2 * np.pi * k / season * np.arange(n_steps)
        waves.append(np.sqrt(2) * np.cos(angle))
        if 2 * k != season:
            waves.append(np.sqrt(2) * np.sin(angle))
    return np.column_stack(waves)


def _warn(
    covariates: FloatArray, is_kept: NDArray[np.bool_], n_pre: int, unused_season: int | None
) -> tuple[str, ...]:
    n_post = len(covariates) - n_pre
    warnings = []
    if n_post >= n_pre:
        warnings.append(
            f"post period of {n_post} steps is not shorter than the pre period of {n_pre}: "
            "the forecast rests on little history"
        )
    if unused_season is not None:
        warnings.append(
            f"season of {unused_season} steps left out: {n_pre} pre steps are fewer than "
            f"{FEWEST_CYCLES} cycles"
        )
    moves = ~is_kept & (np.ptp(covariates, axis=0) > ROUNDING * np.abs(covariates).max(axis=0))
    warnings.extend(
        f"covariate {column} is constant before the intervention and moves after it: "
        "dropped, its influence is unknown"
        for column in np.flatnonzero(moves)
    )
    return tuple(warnings)
