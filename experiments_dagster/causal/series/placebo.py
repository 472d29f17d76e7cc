"""Placebo in time: the same model at interventions that never happened.

The intervention is moved to evenly spread steps of the pre period, each with as many steps after
it as the real post period and enough before it. With average effects e_1..e_n of the placebos,

    p = (1 + #{|e_i| >= |e|}) / (1 + n),    never 0
    sign test: p = 2 P(Bin(m, ½) <= count of the rarer sign)

where m counts windows that share no step and the rarer sign's count is scaled to m. Windows that
overlap repeat each other, so p is fair only when most windows are disjoint: pre period of about
min_pre_points + n · n_post steps. Refitting per se belongs to `impact`.

References:
    Abadie, Diamond & Hainmueller 2015, section "placebo in time"; Phipson & Smyth 2010 for the +1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.impact import fit_prepared
from experiments_dagster.causal.series.prepare import FEWEST_POINTS, prepare_series
from experiments_dagster.causal.series.records import FloatArray, PlaceboResult, Prior
from experiments_dagster.stats.errors import EstimationError


def placebo_in_time(
    observed: FloatArray,
    covariates: FloatArray,
    n_pre: int,
    *,
    n_post: int | None = None,
    season: int | None = None,
    min_pre_points: int,
    n_placebos: int = 20,
    min_placebos: int = 20,
    prior: Prior = "weak",
) -> PlaceboResult:
    """Rank the average effect among those of placebo interventions before it.

    Args:
        observed: Outcome, shape (n,); NaN is a missing value.
        covariates: Untouched series, shape (n, p), none missing.
        n_pre: Number of steps before the real intervention.
        n_post: Number of steps after it that count, also after each placebo; all by default.
        season: Seasonal period in steps, see `estimate_impact`.
        min_pre_points: Fewest observed points before a placebo.
        n_placebos: Number of placebos wanted.
        min_placebos: Fewest placebos accepted; below 20, p cannot fall under 0.05.
        prior: As in `estimate_impact`.

    Raises:
        EstimationError: N_TOO_SMALL where fewer than `min_placebos` positions fit; otherwise as
            `estimate_impact` for the real intervention.
    """
    observed = np.asarray(observed, dtype=np.float64)
    covariates = np.asarray(covariates, dtype=np.float64)
    length = len(observed) - n_pre if n_post is None else n_post

    def average_effect(step: int) -> float:
        prepared = prepare_series(
            observed,
            covariates,
            step,
            n_post=length,
            season=season,
            min_pre_points=min_pre_points,
        )
        posterior = fit_prepared(prepared, prior)
        expected = prepared.restore(posterior.forecast_mean(prepared.design_post))
        return float(np.nanmean(prepared.post - expected))

    effect = average_effect(n_pre)
    first, last = max(min_pre_points, FEWEST_POINTS), n_pre - length
    effects: dict[int, float] = {}
    for step in _spread_steps(first, last, n_placebos):
        try:
            effects[step] = average_effect(step)
        except EstimationError:  # too many missing values around this step
            continue
    if len(effects) < min_placebos:
        detail = (
            f"{len(effects)} positions with {first} steps before and {length} after, "
            f"need {min_placebos}; hint: a longer history or a shorter post period"
        )
        raise EstimationError("N_TOO_SMALL", "placebo in time", detail)
    positions = np.array(list(effects), dtype=np.int64)
    placebos = np.array(list(effects.values()))
    n_disjoint = _count_disjoint(positions, length)
    return PlaceboResult(
        effect=effect,
        positions=positions,
        effects=placebos,
        p_value=(1 + int((np.abs(placebos) >= abs(effect)).sum())) / (1 + len(placebos)),
        sign_p_value=_sign_p(float((placebos > 0).mean()), n_disjoint),
        is_one_sided=bool((placebos > 0).all() or (placebos < 0).all()),
        n_disjoint=n_disjoint,
        warnings=_warn(len(placebos), n_disjoint),
    )


def _spread_steps(first: int, last: int, n_placebos: int) -> list[int]:
    if last < first:
        return []
    n_steps = min(n_placebos, last - first + 1)
    return [round(float(step)) for step in np.linspace(first, last, n_steps)]


def _count_disjoint(positions: NDArray[np.int64], length: int) -> int:
    count, free_from = 0, 0
    for step in positions:
        if step >= free_from:
            count, free_from = count + 1, int(step) + length
    return count


def _sign_p(share_positive: float, n_windows: int) -> float:
    rarer = round(min(share_positive, 1 - share_positive) * n_windows)
    tail: float = sum(math.comb(n_windows, k) for k in range(rarer + 1)) / 2.0**n_windows
    return min(1.0, 2 * tail)


def _warn(n_placebos: int, n_disjoint: int) -> tuple[str, ...]:
    if n_disjoint >= n_placebos:
        return ()
    floor = 1 / (1 + n_disjoint)
    return (f"{n_placebos} windows overlap, {n_disjoint} disjoint: p below {floor:.2g} is luck",)
