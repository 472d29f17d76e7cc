"""Poisson bootstrap of means and ratios of totals over randomisation units (METHODS 2.7).

    w_ir ~ Poisson(1) from hash(unit i, replicate r, seed),   θ*_ar = Σ w N / Σ w D   (mean: D = 1)
    percentile   order statistics of θ*_T − θ*_C
    t            order statistics of Δ̂ − SE·(Δ* − Δ̂)/SE*, SE* by the delta method in the replicate
    p = 2(1 + min(#{draw ≤ 0}, #{draw ≥ 0}))/(B + 1), at most 1

With j the largest count of draws beyond zero that still gives p < α, the limits are the (j+1)-th
smallest and largest draw: p < α exactly where the interval excludes zero. The lift Δ*/|θ*_C| is
computed anew in each replicate.

Weights depend on the unit and the replicate alone, so sums over partitions of the units add up to
the sums of the whole. `buckets` resamples 1,000 hash buckets of units instead of units, as
clusters: an approximation that costs the same for any number of units, and whose standard error
itself varies by about 2 % from one bucketing to the next (1/√(2·1000) per arm).

References:
    Efron & Tibshirani 1993, ch. 12-14; Chamandy, Muralidharan, Najmi & Naidu 2012 (Poisson).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.methods.units import hashing
from experiments_dagster.stats.methods.units.hashing import bootstrap_sums, bucket_sums
from experiments_dagster.stats.methods.units.interacted import arm_mask, rescaled_ratio, unit_column
from experiments_dagster.stats.records import Contrast, Estimand, Estimate

__all__ = ["bootstrap_sums", "bucket_sums", "compare_by_bootstrap"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Statistic = Literal["mean", "ratio"]
Scheme = Literal["units", "buckets"]
Interval = Literal["percentile", "t"]

METHOD = "poisson_bootstrap"
REPLICATES_BY_ALPHA = 50  # 1,000 replicates at α = 0.05: METHODS 2.7
ROUNDING = 1e-13  # spread of a constant over its size
TIE = 1e-10  # draw that differs from zero by rounding alone, over the standard error


def compare_by_bootstrap(
    y: ArrayLike,
    is_treated: ArrayLike,
    *,
    unit_keys: ArrayLike | None = None,
    statistic: Statistic = "mean",
    denominator: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int,
    interval: Interval = "percentile",
    scheme: Scheme = "units",
    alpha: float = 0.05,
) -> Contrast:
    """Compare means or ratios of totals by the Poisson bootstrap: estimand θ_T − θ_C.

    Rows that share a key are resampled together, as one unit (or whole cluster): `n_control` and
    `n_treatment` count keys. Without keys each row is a unit numbered by its position, so that the
    draws, not the estimate, depend on row order. Standard errors are those of the replicates.

    Args:
        y: Outcome, or numerator of the ratio, shape (n,).
        is_treated: True for treatment, shape (n,), constant within a key.
        unit_keys: Integers or strings, shape (n,).
        statistic: `mean`, or `ratio` for Σy/Σdenominator.
        denominator: Shape (n,), for `ratio` only, none negative.
        replicates: B, at least 50/α.
        seed: Any integer; the same seed and keys give the same draws.
        interval: `percentile`, or `t` for skewed outcomes.
        scheme: `units`, or `buckets` for the approximation over 1,000 hash buckets per arm.
        alpha: Two-sided level.

    Returns:
        A contrast whose estimates name `bootstrap_percentile` or `bootstrap_t` as their interval.
        The lift is absent with NOT_IDENTIFIED where the control value changes sign in a replicate.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_DENOMINATOR, NOT_IDENTIFIED
            for a negative denominator, ZERO_VARIANCE.
        ValueError: Too few replicates for α, a key in both arms, or a denominator that does not
            belong to the statistic.

    References:
        Efron & Tibshirani 1993; Chamandy et al. 2012.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> y = rng.exponential(size=400) + np.repeat([0.0, 1.0], 200)
        >>> contrast = compare_by_bootstrap(y, np.repeat([0, 1], 200), seed=1)
        >>> contrast.difference.interval, contrast.difference.p_value < 0.001
        ('bootstrap_percentile', True)
    """
    _check_replicates(replicates, alpha)
    top, bottom = _columns(y, denominator, statistic)
    units = _collect_units(top, bottom, arm_mask(is_treated, len(top)), unit_keys)
    control, treatment = (
        _resample_arm(units, arm, scheme=scheme, replicates=replicates, seed=seed)
        for arm in ("control", "treatment")
    )
    return _contrast(control, treatment, interval=interval, scheme=scheme, alpha=alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """Totals (m, 2) of N − offset·D and of D by unit; the offset keeps large levels exact."""

    keys: hashing.Words
    is_treated: NDArray[np.bool_]
    totals: Matrix
    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """Value less offset and its variance: observed, then one per replicate, shape (1 + B,)."""

    n: int
    offset: float
    deviations: Vector
    variances: Vector

    @property
    def levels(self) -> Vector:
        """Value itself; zero where only rounding is left of it."""
        levels = self.offset + self.deviations
        return np.where(np.abs(levels) <= ROUNDING * abs(self.offset), 0.0, levels)

    @property
    def variance(self) -> float:
        """Variance over the replicates."""
        return float(self.deviations[1:].var(ddof=1))


def _check_replicates(replicates: int, alpha: float) -> None:
    check_alpha(alpha)
    if replicates * alpha < REPLICATES_BY_ALPHA:
        need = math.ceil(REPLICATES_BY_ALPHA / alpha)
        msg = f"replicates is {replicates}, need {need} at alpha {alpha}"
        raise ValueError(msg)


def _columns(
    y: ArrayLike, denominator: ArrayLike | None, statistic: Statistic
) -> tuple[Vector, Vector]:
    """Numerator and denominator by row; the denominator of a mean is 1."""
    if (statistic == "ratio") != (denominator is not None):
        msg = f"denominator: statistic is {statistic}, and only a ratio has a denominator"
        raise ValueError(msg)
    top = unit_column(y, "y")
    bottom = np.ones(len(top)) if denominator is None else unit_column(denominator, "denominator")
    if bottom.shape != top.shape:
        msg = f"denominator has {len(bottom)} values, need {len(top)}"
        raise ValueError(msg)
    if (bottom < 0).any():
        raise EstimationError("NOT_IDENTIFIED", "denominator", "negative values")
    return rescaled_ratio(top, bottom)


def _collect_units(
    top: Vector, bottom: Vector, is_treated: NDArray[np.bool_], unit_keys: ArrayLike | None
) -> _Units:
    """Add up the rows of each key."""
    total = float(bottom.sum())
    offset = float(top.sum()) / total if total > 0 else 0.0
    totals = np.column_stack([top - offset * bottom, bottom])
    keys = (
        np.arange(len(top), dtype=np.uint64) if unit_keys is None else hashing.unit_keys(unit_keys)
    )
    if keys.shape != top.shape:
        msg = f"unit_keys have {len(keys)} values, need {len(top)}"
        raise ValueError(msg)
    if unit_keys is not None and _has_repeats(keys):
        keys, first, codes = np.unique(keys, return_index=True, return_inverse=True)
        arms = is_treated[first]
        if (arms[codes] != is_treated).any():
            msg = "unit_keys: a key stands in both arms, need one arm per unit"
            raise ValueError(msg)
        totals, is_treated = hashing.sums_by_code(totals, codes, len(keys)), arms
    return _Units(keys=keys, is_treated=is_treated, totals=totals, offset=offset)


def _has_repeats(keys: hashing.Words) -> bool:
    ordered = np.sort(keys)
    return bool((ordered[1:] == ordered[:-1]).any())


def _resample_arm(units: _Units, arm: str, *, scheme: Scheme, replicates: int, seed: int) -> _Arm:
    """Weighted totals of one arm, turned into its value and variance per replicate."""
    rows = units.is_treated if arm == "treatment" else ~units.is_treated
    totals, keys = units.totals[rows], units.keys[rows]
    n = len(keys)
    if n < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", f"arm {arm}", f"{n} unit, need 2")
    if scheme == "buckets":
        totals = bucket_sums(totals, keys, seed=seed)[:, 1:]
        # The same bucket of the other arm has a key, and so a weight, of its own.
        keys = np.arange(hashing.BUCKETS, dtype=np.uint64) + np.uint64(
            hashing.BUCKETS * (arm == "treatment")
        )
    residual, denominator = totals.T
    columns = np.column_stack(
        [residual, denominator, residual**2, residual * denominator, denominator**2]
    )
    sums = np.vstack([columns.sum(axis=0), hashing.resample(columns, keys, replicates, seed)])
    total = sums[:, 1]
    if (total <= 0).any():
        code = "ZERO_DENOMINATOR" if total[0] <= 0 else "N_TOO_SMALL"
        raise EstimationError(code, f"arm {arm}", "a replicate has no denominator")
    ratio = sums[:, 0] / total
    squares = sums[:, 2] - 2 * ratio * sums[:, 3] + ratio**2 * sums[:, 4]
    return _Arm(
        n=n,
        offset=units.offset,
        deviations=ratio,
        variances=np.maximum(squares, 0.0) / total**2,
    )


def _contrast(
    control: _Arm, treatment: _Arm, *, interval: Interval, scheme: Scheme, alpha: float
) -> Contrast:
    """Difference and lift, each with its own draws."""
    parts = control.variance, treatment.variance
    size = max(float(np.abs(arm.deviations).max()) for arm in (control, treatment))
    if math.sqrt(sum(parts)) <= ROUNDING * size:
        raise EstimationError("ZERO_VARIANCE", METHOD, "all values of both arms are constant")
    difference = _estimate(
        treatment.deviations - control.deviations,
        control.variances + treatment.variances,
        std_error=math.sqrt(sum(parts)),
        estimand="difference",
        arms=(control, treatment),
        interval=interval,
        scheme=scheme,
        alpha=alpha,
    )
    relative, reason = None, _relative_reason(control.levels)
    if reason is None:
        lifts, variances, std_error = _lifts(control, treatment)
        reason = _spread_reason(variances, std_error)
    if reason is None:
        relative = _estimate(
            lifts,
            variances,
            std_error=std_error,
            estimand="relative_difference",
            arms=(control, treatment),
            interval=interval,
            scheme=scheme,
            alpha=alpha,
        )
    return Contrast(
        difference=difference,
        relative=relative,
        relative_reason=reason,
        variance_control=parts[0],
        variance_treatment=parts[1],
    )


def _lifts(control: _Arm, treatment: _Arm) -> tuple[Vector, Vector, float]:
    """Lift and its variance per replicate, and the standard error over the replicates."""
    with np.errstate(all="ignore"):
        level = np.abs(control.levels)
        ratio = treatment.levels / control.levels
        lifts = (treatment.deviations - control.deviations) / level
        variances = treatment.variances / level / level
        variances += ratio**2 * (control.variances / level / level)
        return lifts, variances, float(lifts[1:].std(ddof=1))


def _spread_reason(variances: Vector, std_error: float) -> str | None:
    """Why the lift has no error: overflow beside a tiny control value, or no spread."""
    if not (np.isfinite(variances).all() and math.isfinite(std_error)):
        return "NOT_IDENTIFIED"
    return "ZERO_VARIANCE" if std_error == 0 else None


def _relative_reason(control_levels: Vector) -> str | None:
    """Why there is no lift: a control value of zero, or one that changes its sign."""
    if control_levels[0] == 0:
        return "ZERO_DENOMINATOR"
    signs = np.sign(control_levels)
    return None if (signs == signs[0]).all() else "NOT_IDENTIFIED"


def _estimate(
    values: Vector,
    variances: Vector,
    *,
    std_error: float,
    estimand: Estimand,
    arms: tuple[_Arm, _Arm],
    interval: Interval,
    scheme: Scheme,
    alpha: float,
) -> Estimate:
    """Estimate with the limits and p-value of one ordering of the draws."""
    control, treatment = arms
    draws = values[1:] if interval == "percentile" else _pivots(values, variances)
    # A draw that is zero on paper counts on both sides of zero, whatever the rounding.
    draws = np.where(np.abs(draws) <= TIE * std_error, 0.0, draws)
    low, high, p_value = _invert(draws, alpha)
    return Estimate(
        estimand=estimand,
        inference="fixed_horizon",
        method=METHOD,
        variance_formula=f"poisson_{scheme}",
        estimate=float(values[0]),
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        confidence_level=1 - alpha,
        p_value=p_value,
        degrees_of_freedom=None,
        control_mean=float(control.levels[0]),
        treatment_mean=float(treatment.levels[0]),
        n_control=control.n,
        n_treatment=treatment.n,
        interval=f"bootstrap_{interval}",
    )


def _pivots(values: Vector, variances: Vector) -> Vector:
    """Draws of Δ̂ − SE·t*, whose order statistics are the limits of the bootstrap-t interval."""
    if (variances[1:] <= ROUNDING * variances[0]).any():
        raise EstimationError(
            "ZERO_VARIANCE", METHOD, "a replicate has no variance: use percentile"
        )
    pivots: Vector = values[0] - (values[1:] - values[0]) * np.sqrt(variances[0] / variances[1:])
    return pivots


def _invert(draws: Vector, alpha: float) -> tuple[float, float, float]:
    """Limits and p-value of one test: p < alpha exactly where the limits exclude zero."""
    replicates = len(draws)
    beyond = np.arange(replicates // 2)
    last = int(np.count_nonzero(2 * (1 + beyond) / (replicates + 1) < alpha)) - 1
    ordered = np.partition(draws, [last, replicates - 1 - last])
    fewest = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p_value = min(1.0, float(2 * (1 + fewest) / (replicates + 1)))
    return float(ordered[last]), float(ordered[replicates - 1 - last]), p_value
