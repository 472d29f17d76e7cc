"""Effects by time since the start, for treatment that starts at one time, and what was before it.

Units i are seen in all periods t; e = t − t₀ counts periods from the first treated one. With
d_ie = y_ie − y_i,ref (the reference is the last period before the start),

    β_e = mean of d_ie over the treated − mean over the controls

the coefficients of leads and lags in the two-way fixed-effects regression of a balanced panel, each
with CR2 errors by cluster and Satterthwaite degrees of freedom. V(β) comes from the stacked scores.

    pre-trends    joint test of the leads (`panel_inference`)
    power         of that test against a straight trend, by the noncentral χ²
    sensitivity   violations after the start up to M̄ times the largest change between
                  neighbouring periods before it: |δ_e − δ_{e−1}| ≤ M̄ max_s |δ_s − δ_{s−1}|
    band          for all periods jointly (`panel_inference`)

For an average effect θ = l'β the violation adds at most M̄ω max_s|ν_s|, ω = Σ l_e(e + 1) and ν the
changes before the start. The interval joins, over s and signs, those of θ ± M̄ων_s: each end is
exceeded with probability at most α/2, since one of the joined intervals is for the true bound. It
is wider than Rambachan and Roth's, and needs no optimisation.

Not rejecting parallel trends before the start does not show them after it. Treatment that starts at
different times belongs to `staggered`: there this regression mixes treated units into the controls.

References:
    Roth 2022 (power of pre-tests); Rambachan & Roth 2023 (relative magnitudes); Bell &
    McCaffrey 2002.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, chndtr

from experiments_dagster.causal.series.panel_inference import (
    AverageEffect,
    JointTest,
    PeriodEffect,
    average_effect,
    band_critical_value,
    check_draws,
    complete_rows,
    joint_test,
    period_effects,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value
from experiments_dagster.stats.methods.units.cluster_robust import cr2
from experiments_dagster.stats.methods.units.interacted import arm_mask

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

POWER = 0.8  # at which a trend counts as detectable
MAGNITUDE_STEP = 0.05
LARGEST_MAGNITUDE = 5.0
CHUNK = 2_000_000  # random numbers at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTrend:
    """The joint test of the leads and the trends it could have missed.

    Args:
        test: Of all leads.
        power_at_effect: Power at level α against the straight trend that would by itself make
            the average effect.
        detectable_slope: Slope per period that the test finds with power 0.8.
        bias_of_detectable: What that trend adds to the average effect.
    """

    test: JointTest
    power_at_effect: float
    detectable_slope: float
    bias_of_detectable: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeBound:
    """Interval of the average effect if trends after the start differ by up to `magnitude` M̄."""

    magnitude: float
    ci_low: float
    ci_high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the effect survives."""
        return not self.ci_low <= 0 <= self.ci_high


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStudy:
    """Leads, lags, their average after the start, and how far the design can be trusted.

    Args:
        effects: By event time, without the reference period −1.
        average: Mean of the effects after the start.
        pre_trend: None with `pre_trend_reason`, such as with one period before the start.
        pre_trend_reason: Code.
        bounds: At M̄ = 0.5, 1 and 2; empty without leads.
        breakdown_magnitude: Largest M̄ on a grid of 0.05 up to 5 at which, and below which, the
            interval excludes 0; None where it never does or without leads.
        confidence_level: 1 − α.
        band_critical_value: c of the simultaneous band.
        n_control: Units.
        n_treated: Units.
        n_clusters: Clusters of both groups.
        n_dropped: Units left out for a missing period.
    """

    effects: tuple[PeriodEffect, ...]
    average: AverageEffect
    pre_trend: PreTrend | None
    pre_trend_reason: str | None
    bounds: tuple[MagnitudeBound, ...]
    breakdown_magnitude: float | None
    confidence_level: float
    band_critical_value: float
    n_control: int
    n_treated: int
    n_clusters: int
    n_dropped: int


def estimate_event_study(
    outcomes: ArrayLike,
    is_treated: ArrayLike,
    n_pre: int,
    *,
    clusters: ArrayLike | None = None,
    seed: int,
    draws: int = 1999,
    alpha: float = 0.05,
) -> EventStudy:
    """Estimate effects by period for treatment that starts at one time for all treated units.

    Args:
        outcomes: One row per unit, one column per period in order, shape (n, T). A unit with a
            missing (NaN) period is left out and counted.
        is_treated: Whether the unit is treated from period `n_pre` on, shape (n,).
        n_pre: Number of periods before the start, at least 1.
        clusters: Label of each unit's cluster, shape (n,); default the unit.
        seed: Of the multiplier draws.
        draws: Number of draws for the band, at least 50/α.
        alpha: Two-sided level.

    Raises:
        EstimationError: NON_FINITE_INPUT for infinite values; EMPTY_ARM; N_TOO_SMALL below two
            units in an arm or without periods on both sides; NOT_IDENTIFIED, ZERO_VARIANCE.
        ValueError: Shapes or settings that make no sense.

    References:
        Roth 2022; Rambachan & Roth 2023; METHODS 11.5, 11.6.

    Examples:
        >>> rng = np.random.default_rng(2)
        >>> y = rng.normal(size=(60, 1)) + rng.normal(size=(60, 6))
        >>> y[:30, 4:] += 2.0
        >>> found = estimate_event_study(y, np.arange(60) < 30, 4, seed=1)
        >>> [effect.event_time for effect in found.effects], round(found.average.estimate)
        ([-4, -3, -2, 0, 1], 2)
    """
    check_alpha(alpha)
    check_draws(draws, alpha)
    matrix, treated, labels, n_dropped = _complete_units(outcomes, is_treated, clusters)
    n_periods = matrix.shape[1]
    if not 0 < n_pre < n_periods:
        detail = f"{n_periods} periods, start at {n_pre}"
        raise EstimationError("N_TOO_SMALL", "periods before and after the start", detail)
    event_times = np.delete(np.arange(n_periods), n_pre - 1) - n_pre
    changes = np.delete(matrix - matrix[:, [n_pre - 1]], n_pre - 1, axis=1)
    estimates, scores, df = _changes_by_arm(changes, treated, labels)
    after = (event_times >= 0) / np.count_nonzero(event_times >= 0)
    mean_change = changes @ after
    design = np.column_stack([np.ones(len(treated)), treated])
    overall = cr2(mean_change, design, labels, [0.0, 1.0])
    critical = band_critical_value(scores, alpha=alpha, draws=draws, seed=seed)
    average = average_effect(
        overall.estimate, overall.std_error, df=overall.degrees_of_freedom, alpha=alpha
    )
    study = _ByTime(estimates=estimates, scores=scores, event_times=event_times)
    pre_trend, reason = _pre_trend(study, df, average.estimate, alpha)
    bounds, breakdown = magnitude_bounds(
        estimates, scores, event_times, df=overall.degrees_of_freedom, alpha=alpha
    )
    return EventStudy(
        effects=period_effects(
            event_times, estimates, scores, df=df, critical=critical, alpha=alpha
        ),
        average=average,
        pre_trend=pre_trend,
        pre_trend_reason=reason,
        bounds=bounds,
        breakdown_magnitude=breakdown,
        confidence_level=1 - alpha,
        band_critical_value=critical,
        n_control=int((~treated).sum()),
        n_treated=int(treated.sum()),
        n_clusters=len(scores),
        n_dropped=n_dropped,
    )


def magnitude_bounds(
    estimates: Vector,
    scores: Matrix,
    event_times: NDArray[np.int64],
    *,
    df: float | None,
    alpha: float,
) -> tuple[tuple[MagnitudeBound, ...], float | None]:
    """Return the intervals at M̄ = 0.5, 1 and 2 and the largest M̄ that leaves the sign.

    Args:
        estimates: β against the reference period −1, which is not among them, shape (k,).
        scores: ψ with ψ'ψ their covariance, shape (G, k).
        event_times: Shape (k,), increasing.
        df: Degrees of freedom of the average; None for normal quantiles.
        alpha: Two-sided level.

    Returns:
        Nothing and None without leads.

    References:
        Rambachan & Roth 2023, relative magnitudes.
    """
    if not (event_times < 0).any():
        return (), None
    study = _Bounded(estimates=estimates, scores=scores, event_times=event_times, average_df=df)
    return tuple(study.bound(m, alpha) for m in (0.5, 1.0, 2.0)), study.breakdown(alpha)


def _complete_units(
    outcomes: ArrayLike, is_treated: ArrayLike, clusters: ArrayLike | None
) -> tuple[Matrix, NDArray[np.bool_], NDArray[np.generic], int]:
    matrix, is_complete = complete_rows(outcomes)
    n = len(matrix)
    labels = np.arange(n) if clusters is None else np.asarray(clusters)
    if labels.shape != (n,):
        msg = f"clusters {labels.shape} need shape ({n},)"
        raise ValueError(msg)
    given = np.asarray(is_treated)
    if given.shape != (n,):
        msg = f"is_treated {given.shape} needs shape ({n},)"
        raise ValueError(msg)
    kept = matrix[is_complete]
    treated = arm_mask(given[is_complete], len(kept))
    # One common level costs digits and changes nothing.
    return kept - kept.mean(), treated, labels[is_complete], int((~is_complete).sum())


def _changes_by_arm(
    changes: Matrix, treated: NDArray[np.bool_], labels: NDArray[np.generic]
) -> tuple[Vector, Matrix, Vector]:
    """β (k,), scores (G, k) and degrees of freedom (k,) of the columns of changes."""
    design = np.column_stack([np.ones(len(treated)), treated])
    fits = [cr2(column, design, labels, [0.0, 1.0]) for column in changes.T]
    return (
        np.array([fit.estimate for fit in fits]),
        np.column_stack([fit.scores for fit in fits]),
        np.array([fit.degrees_of_freedom for fit in fits]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByTime:
    """Estimates and scores by event time, for what the leads say about the average effect."""

    estimates: Vector
    scores: Matrix
    event_times: NDArray[np.int64]

    @property
    def leads(self) -> NDArray[np.bool_]:
        return self.event_times < 0

    @property
    def after(self) -> Vector:
        """Weights of the average effect."""
        is_after = self.event_times >= 0
        return np.asarray(is_after / np.count_nonzero(is_after), dtype=np.float64)

    @property
    def reach(self) -> float:
        """ω: mean number of changes between the reference and the periods after the start."""
        return float(self.after @ (self.event_times + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounded(_ByTime):
    """With the degrees of freedom of the average, None for normal quantiles."""

    average_df: float | None

    def bound(self, magnitude: float, alpha: float) -> MagnitudeBound:
        """Joined interval at one M̄."""
        leads = self.leads
        # The reference period is zero by construction and ends the last change.
        changes = np.diff(np.append(self.estimates[leads], 0.0))
        zero = np.zeros((len(self.scores), 1))
        change_scores = np.diff(np.column_stack([self.scores[:, leads], zero]), axis=1)
        size = magnitude * self.reach
        signed = size * np.concatenate([changes, -changes])
        scores = (self.scores @ self.after)[:, None] + size * np.concatenate(
            [change_scores, -change_scores], axis=1
        )
        half_widths = critical_value(alpha, self.average_df) * np.sqrt(
            np.square(scores).sum(axis=0)
        )
        centres = float(self.estimates @ self.after) + signed
        return MagnitudeBound(
            magnitude=magnitude,
            ci_low=float((centres - half_widths).min()),
            ci_high=float((centres + half_widths).max()),
        )

    def breakdown(self, alpha: float) -> float | None:
        """Largest M̄ on the grid below which every interval excludes 0."""
        survived = None
        for step in range(round(LARGEST_MAGNITUDE / MAGNITUDE_STEP) + 1):
            magnitude = step * MAGNITUDE_STEP
            if not self.bound(magnitude, alpha).excludes_zero:
                break
            survived = magnitude
        return survived


def _pre_trend(
    study: _ByTime, df: Vector, effect: float, alpha: float
) -> tuple[PreTrend | None, str | None]:
    leads = study.leads
    if not leads.any():
        return None, "N_TOO_SMALL"
    scores = study.scores[:, leads]
    try:
        test = joint_test(study.estimates[leads], scores, df=float(df[leads].mean()))
    except EstimationError as error:
        return None, error.code
    # A trend of slope 1 is zero at the reference period −1.
    trend = (study.event_times[leads] + 1).astype(np.float64)
    information = float(trend @ np.linalg.solve(scores.T @ scores, trend))
    slope = effect / study.reach
    detectable = math.sqrt(_noncentrality(test.n_effects, alpha) / information)
    return (
        PreTrend(
            test=test,
            power_at_effect=_power(slope**2 * information, test.n_effects, alpha),
            detectable_slope=detectable,
            bias_of_detectable=detectable * study.reach,
        ),
        None,
    )


def _power(noncentrality: float, df: int, alpha: float) -> float:
    return 1 - float(chndtr(float(chdtri(df, alpha)), df, noncentrality))


def _noncentrality(df: int, alpha: float) -> float:
    """Noncentrality at which the test has power 0.8, by bisection."""
    low, high = 0.0, 1.0
    while _power(high, df, alpha) < POWER:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, df, alpha) < POWER else (low, middle)
    return high
