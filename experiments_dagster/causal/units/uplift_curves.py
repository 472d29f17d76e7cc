"""Qini and uplift curves of a score, each with its definition in the result (METHODS 11.11).

Units by score, highest first (stable; points only where the score changes). After k units, with
N and Y the counts and sums of outcomes of the treated (T) and the controls (C) among them:

    Qini      Q(k) = Y_T − Y_C·N_T/N_C                       N_T/N_C is 0 while N_C = 0
    uplift    U(k) = (Y_T/N_T − Y_C/N_C)·(N_T + N_C)         a mean is 0 while its count is
    area      [∫curve − n·end/2]/n²,  by trapezoids: above the straight line of a random order
    normalised   the same area over that of the perfect order, for a 0/1 outcome:
                 2·1{y = t} + t for Qini; for uplift the last key is y where the control
                 responders outnumber the treated non-responders

Both must be judged on units that the score was not fitted to. Intervals are bootstrap percentiles
over units; they need not contain the estimate.

References:
    Radcliffe 2007; Gutierrez & Gérardy 2017; the normalisation is that of scikit-uplift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import BoolArray, IntArray
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

CurveKind = Literal["qini", "uplift"]
ShareOf = Literal["overall", "by_group"]

DEFINITIONS: dict[CurveKind, str] = {
    "qini": "Y_T - Y_C*N_T/N_C (Radcliffe 2007)",
    "uplift": "(Y_T/N_T - Y_C/N_C)*(N_T + N_C) (Gutierrez & Gerardy 2017)",
}
NORMALISATION = "area above random over that of the perfect ranking (scikit-uplift)"
FEWEST_PER_ARM = 2
MOST_UNDEFINED = 0.1  # share of replicates without an arm or a perfect ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftCurve:
    """A curve with its areas; `definition` and `normalisation` say which of several it is.

    `n_targeted` and `values` (k + 1,) begin at 0. `normalised_area` is None, with
    `normalised_reason`, for an outcome that is not 0/1 or a perfect order no better than random.
    """

    kind: CurveKind
    definition: str
    n_targeted: FloatArray
    values: FloatArray
    end: float
    area_minus_random_per_n2: float
    normalised_area: float | None
    normalised_reason: str | None
    normalisation: str

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaInterval:
    """Bootstrap percentile limits of the areas of a curve; None where the area is."""

    confidence_level: float
    n_replicates: int
    n_undefined: int
    area_low: float
    area_high: float
    normalised_low: float | None
    normalised_high: float | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftAtShare:
    """Difference of mean outcomes among the units with the highest scores."""

    share: float
    share_of: ShareOf
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    n_control: int
    n_treatment: int

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """Outcome and treatment by descending score, and the last position of each score."""

    y: FloatArray
    is_treated: BoolArray
    order: IntArray
    ends: IntArray


def uplift_curve(
    y: ArrayLike, is_treated: ArrayLike, score: ArrayLike, *, kind: CurveKind
) -> UpliftCurve:
    """Return the curve of a score that was not fitted to these units.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,), randomised.
        score: Higher is treated first, shape (n,).
        kind: `qini` or `uplift`.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL.
        ValueError: Shapes differ.

    References:
        Radcliffe 2007; Gutierrez & Gérardy 2017; METHODS 11.11.

    Examples:
        >>> curve = uplift_curve([1, 0, 0, 1], [1, 0, 1, 0], [4, 3, 2, 1], kind="qini")
        >>> curve.values.tolist(), curve.end, curve.normalised_area
        ([0.0, 1.0, 1.0, 1.0, 0.0], 0.0, 1.0)
    """
    ranking, perfect, reason = _rankings(y, is_treated, score, kind)
    weights = np.ones(len(ranking.y))
    n_targeted, values = _curve(ranking, weights, kind)
    area = _area(n_targeted, values)
    best = None if perfect is None else _area(*_curve(perfect, weights, kind))
    if best is not None and best <= 0:
        best, reason = None, "the perfect order is no better than random"
    return UpliftCurve(
        kind=kind,
        definition=DEFINITIONS[kind],
        n_targeted=n_targeted,
        values=values,
        end=float(values[-1]),
        area_minus_random_per_n2=area,
        normalised_area=None if best is None else area / best,
        normalised_reason=reason,
        normalisation=NORMALISATION,
    )


def area_interval(
    y: ArrayLike,
    is_treated: ArrayLike,
    score: ArrayLike,
    *,
    kind: CurveKind,
    seed: int,
    replicates: int = 500,
    alpha: float = 0.05,
) -> AreaInterval:
    """Return bootstrap limits of a curve's areas, resampling units with the score fixed.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,), randomised.
        score: Higher is treated first, shape (n,).
        kind: `qini` or `uplift`.
        seed: Of the resampling.
        replicates: At least 100.
        alpha: Two-sided level.

    Raises:
        EstimationError: As `uplift_curve`; N_TOO_SMALL where more than 10 % of the replicates
            lack an arm or a perfect order.
        ValueError: Fewer than 100 replicates.

    References:
        Efron & Tibshirani 1993, section 13.3; METHODS 11.11.
    """
    check_alpha(alpha)
    if replicates < 100:  # noqa: PLR2004
        msg = f"replicates is {replicates}, need at least 100"
        raise ValueError(msg)
    ranking, perfect, _ = _rankings(y, is_treated, score, kind)
    mask = np.asarray(is_treated, dtype=np.float64)
    n, rng = len(mask), np.random.default_rng(seed)
    areas, normalised = [], []
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        best = 1.0 if perfect is None else _area(*_curve(perfect, drawn, kind))
        if not (0 < drawn @ mask < n and best > 0):
            continue
        areas.append(_area(*_curve(ranking, drawn, kind)))
        normalised.append(areas[-1] / best)
    undefined = replicates - len(areas)
    if undefined > MOST_UNDEFINED * replicates:
        detail = f"{undefined} of {replicates} replicates have no area"
        raise EstimationError("N_TOO_SMALL", f"{kind} interval", detail)
    low, high = np.quantile(areas, [alpha / 2, 1 - alpha / 2])
    normalised_low, normalised_high = np.quantile(normalised, [alpha / 2, 1 - alpha / 2])
    return AreaInterval(
        confidence_level=1 - alpha,
        n_replicates=replicates,
        n_undefined=undefined,
        area_low=float(low),
        area_high=float(high),
        normalised_low=None if perfect is None else float(normalised_low),
        normalised_high=None if perfect is None else float(normalised_high),
    )


def uplift_at_share(
    y: ArrayLike,
    is_treated: ArrayLike,
    score: ArrayLike,
    *,
    share: float,
    share_of: ShareOf = "overall",
    alpha: float = 0.05,
) -> UpliftAtShare:
    """Return the difference of means among the top share of all units, or of each arm.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,), randomised.
        score: Higher is treated first, shape (n,); equal scores keep their order.
        share: 0 < share <= 1, rounded down to whole units.
        share_of: `overall`: the top of all units; `by_group`: the top within each arm.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: N_TOO_SMALL where an arm has fewer than 2 units among them;
            ZERO_VARIANCE, NON_FINITE_INPUT, EMPTY_ARM.
        ValueError: Shapes differ or the share is outside (0, 1].

    Examples:
        >>> top = uplift_at_share([1, 0, 1, 1, 0, 0, 0, 1], [1, 0] * 4, range(8, 0, -1), share=0.5)
        >>> top.estimate, top.n_treatment
        (0.5, 2)
    """
    if not 0 < share <= 1:
        msg = f"share is {share}, need 0 < share <= 1"
        raise ValueError(msg)
    outcome, mask, given = _checked(y, is_treated, score)
    order = np.argsort(-given, kind="stable")
    if share_of == "overall":
        top = order[: _count(share, len(order))]
        arms = [top[mask[top] == arm] for arm in (False, True)]
    else:
        arms = [order[mask[order] == arm] for arm in (False, True)]
        arms = [rows[: _count(share, len(rows))] for rows in arms]
    if min(len(rows) for rows in arms) < FEWEST_PER_ARM:
        detail = f"{len(arms[0])} controls and {len(arms[1])} treated, need {FEWEST_PER_ARM} each"
        raise EstimationError("N_TOO_SMALL", f"uplift at {share:.0%}", detail)
    control, treated = (outcome[rows] for rows in arms)
    estimate = float(treated.mean() - control.mean())
    std_error = math.sqrt(sum(float(arm.var(ddof=1)) / len(arm) for arm in (control, treated)))
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", f"uplift at {share:.0%}")
    half = critical_value(alpha) * std_error
    return UpliftAtShare(
        share=share,
        share_of=share_of,
        estimate=estimate,
        std_error=std_error,
        ci_low=estimate - half,
        ci_high=estimate + half,
        n_control=len(control),
        n_treatment=len(treated),
    )


def _checked(
    y: ArrayLike, is_treated: ArrayLike, score: ArrayLike
) -> tuple[FloatArray, BoolArray, FloatArray]:
    outcome, given = unit_column(y, "outcome"), unit_column(score, "score")
    if given.shape != outcome.shape:
        msg = f"score has shape {given.shape}, need {outcome.shape}"
        raise ValueError(msg)
    return outcome, arm_mask(is_treated, len(outcome)), given


def _count(share: float, n: int) -> int:
    """Whole units in a share; 0.29 of 100 is 29 although 0.29*100 is below it."""
    return math.floor(share * n + 1e-9 * n)


def _rankings(
    y: ArrayLike, is_treated: ArrayLike, score: ArrayLike, kind: CurveKind
) -> tuple[_Ranking, _Ranking | None, str | None]:
    outcome, mask, given = _checked(y, is_treated, score)
    ranking = _rank(outcome, mask, given)
    if not np.isin(outcome, (0.0, 1.0)).all():
        return ranking, None, "the perfect order is defined for a 0/1 outcome only"
    last = mask.astype(np.float64)
    if kind == "uplift" and (outcome[~mask] == 1).sum() > (outcome[mask] == 0).sum():
        last = outcome
    return ranking, _rank(outcome, mask, 2.0 * (outcome == mask) + last), None


def _rank(y: FloatArray, mask: BoolArray, score: FloatArray) -> _Ranking:
    order = np.argsort(-score, kind="stable").astype(np.int64)
    ends = np.r_[np.flatnonzero(np.diff(score[order])), len(order) - 1].astype(np.int64)
    return _Ranking(y=y[order], is_treated=mask[order], order=order, ends=ends)


def _curve(
    ranking: _Ranking, weights: FloatArray, kind: CurveKind
) -> tuple[FloatArray, FloatArray]:
    """Units targeted and value at each point; weights are counts of units in input order."""
    w = weights[ranking.order]
    treated = w * ranking.is_treated
    columns = (treated, w, treated * ranking.y, w * ranking.y)
    n_t, n, y_t, y_all = (np.cumsum(column)[ranking.ends] for column in columns)
    n_c, y_c = n - n_t, y_all - y_t
    if kind == "qini":
        values = y_t - y_c * _ratio(n_t, n_c)
    else:
        values = (_ratio(y_t, n_t) - _ratio(y_c, n_c)) * n
    return np.r_[0.0, n], np.r_[0.0, values]


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _area(n_targeted: FloatArray, values: FloatArray) -> float:
    """Area above the straight line from the origin to the end, per squared number of units."""
    n = n_targeted[-1]
    area = float(((values[1:] + values[:-1]) / 2) @ np.diff(n_targeted))
    return float((area - n * values[-1] / 2) / n**2)
