"""Difference of two quantiles, of units or of the events of randomised units (METHODS 2.6).

    r_i = Σ_{e∈i} (share_a − 1{Y_e ≤ Q̂_a})          N_a events of n_a units; unit level: one each
    σ_a² = [Σr²·n_a/(n_a−1)/N_a²]·q(1 − q)/[share_a(1 − share_a)]       variance of the share below
    outer     SE_a = [Q(q + zσ_a) − Q(q − zσ_a)]/(2z), z = 1.96 whatever α
    kernel    SE_a = σ_a/f̂(Q̂_a), Gaussian, bandwidth 0.9·min(s, IQR/1.34)·N^(−1/5)
    ψ_i = ± r_i rescaled so that Σψ² = SE_a² in each arm

The kernel is biased where the density bends, as beside the mode of a skewed outcome (SE 9 % low at
the median of log-normal latencies of 200 units per arm): `outer` is the default.

The sample quantile is type 7 everywhere. Away from ties share_a is q up to 1/N. Where more than
5 % of the values equal Q̂, or the distance of the outer quantiles is zero, no smooth density stands
behind a standard error: the estimate then carries the interval put together from the outer
quantiles of the two arms, `interval="outer"`, and no p-value and no lift:

    Δ̂ − √[(Q̂_T − L_T)² + (U_C − Q̂_C)²],   Δ̂ + √[(U_T − Q̂_T)² + (Q̂_C − L_C)²]

References:
    Deng, Knoblich & Lu 2018, section 4.2; Liu, Sun, Varshney & Xu 2019; Hyndman & Fan 1996 (type
    7); Silverman 1986, 3.4.2; Zou & Donner 2008 for the combination of two intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import (
    ArmSummary,
    check_alpha,
    critical_value,
    difference_estimate,
)
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column, without_level
from experiments_dagster.stats.records import Contrast, Estimate, ScoredContrast
from experiments_dagster.stats.relative import contrast_of

Vector = NDArray[np.float64]
Codes = NDArray[np.intp]
VarianceFormula = Literal["outer", "kernel"]

METHOD = "quantile"
MASS_POINT = 0.05  # share of values equal to the quantile
SMALLEST_TAIL = 10  # values expected on each side of the quantile
FEWEST_CLUSTERS = 4  # METHODS 3.7
OUTER_ALPHA = 0.05  # fixed, so that neither standard error nor p-value depends on the level
NORMAL_IQR = 1.34
SILVERMAN = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """One arm: its quantile, σ of the share below, standard error and the r of its units.

    `values` and `quantile` are those of the outcome less `level`.
    """

    name: str
    level: float
    n: int
    values: Vector
    q: float
    quantile: float
    share_error: float
    std_error: float
    is_regular: bool
    residuals: Vector

    @property
    def scores(self) -> Vector:
        size = math.sqrt(float(np.square(self.residuals).sum()))
        return self.residuals * (self.std_error / size) if size > 0 else self.residuals


def compare_quantiles(
    y: ArrayLike,
    is_treated: ArrayLike,
    *,
    q: float,
    alpha: float = 0.05,
    clusters: ArrayLike | None = None,
    variance_formula: VarianceFormula = "outer",
) -> ScoredContrast:
    """Compare a quantile of two arms: estimand Q_q(T) − Q_q(C).

    Args:
        y: Value of each unit, or with `clusters` of each event, shape (n,).
        is_treated: True for treatment, shape (n,), constant within a cluster.
        q: Order of the quantile, between 0 and 1.
        alpha: Two-sided level, normal quantiles.
        clusters: Randomised unit of each event, integers or strings, shape (n,). Units without an
            event take no part.
        variance_formula: `outer` interval, or `kernel` density.

    Returns:
        A contrast whose means are the two quantiles and whose sizes count units, with one score
        per unit: in input order, or with clusters in the order in which they first appear. At a
        mass point the difference has `interval="outer"` and neither p-value nor lift: its standard
        error then describes the interval and is not to be divided by.

    Raises:
        EstimationError: NON_FINITE_INPUT; EMPTY_ARM; N_TOO_SMALL where n·q or n·(1 − q) is below 10
            in an arm, an arm has fewer than 4 clusters, or the outer interval leaves the data;
            ZERO_VARIANCE where both outer intervals have no width.
        ValueError: `q` outside (0, 1), or a cluster with events in both arms.

    References:
        Deng, Knoblich & Lu 2018; Liu et al. 2019; METHODS 2.6.

    Examples:
        >>> y = np.arange(400.0)
        >>> result = compare_quantiles(y + (y >= 200) * 10, y >= 200, q=0.9)
        >>> round(result.contrast.difference.estimate, 6), len(result.scores)
        (210.0, 400)
    """
    check_alpha(alpha)
    if not 0 < q < 1:
        msg = f"q is {q}, need 0 < q < 1"
        raise ValueError(msg)
    values, level = without_level(unit_column(y, "y"))
    if clusters is None:
        codes, unit_arms = np.arange(len(values)), arm_mask(is_treated, len(values))
        fewest = 2
    else:
        codes, unit_arms = _code_clusters(clusters, is_treated, len(values))
        fewest = FEWEST_CLUSTERS
    rows = unit_arms[codes]
    arms = []
    for name, is_unit, is_row in (
        ("control", ~unit_arms, ~rows),
        ("treatment", unit_arms, rows),
    ):
        n = int(np.count_nonzero(is_unit))
        _check_size(name, n, fewest, int(np.count_nonzero(is_row)), q)
        local = np.cumsum(is_unit) - 1
        fit = _fit_arm(values[is_row], local[codes[is_row]], n, q, variance_formula, name)
        arms.append(replace(fit, level=level))
    control, treatment = arms
    scores = np.empty(len(unit_arms))
    scores[~unit_arms], scores[unit_arms] = -control.scores, treatment.scores
    scores.setflags(write=False)
    return ScoredContrast(
        contrast=_contrast(control, treatment, alpha, variance_formula), scores=scores
    )


def _code_clusters(
    clusters: ArrayLike, is_treated: ArrayLike, n: int
) -> tuple[Codes, NDArray[np.bool_]]:
    """Number the clusters by first appearance; return the number of each row and their arms."""
    column = np.asarray(clusters)
    if column.shape != (n,) or column.dtype.kind not in "iuUSO":
        msg = f"clusters of type {column.dtype}, shape {column.shape}: need {n} integers or strings"
        raise ValueError(msg)
    mask = arm_mask(is_treated, n)
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.intp)
    rank[order] = np.arange(len(first))
    codes, unit_arms = rank[inverse], mask[first[order]]
    if (unit_arms[codes] != mask).any():
        msg = "is_treated changes within a cluster, need one arm per cluster"
        raise ValueError(msg)
    return codes, unit_arms


def _check_size(name: str, n: int, fewest: int, n_values: int, q: float) -> None:
    if n < fewest:
        raise EstimationError("N_TOO_SMALL", f"arm {name}", f"{n} units, need {fewest}")
    # Rounding of n·(1 − q) must not refuse 100 values at q = 0.9.
    tail = round(n_values * min(q, 1 - q), 9)
    if tail < SMALLEST_TAIL:
        detail = f"{tail:g} values beyond the quantile {q:g}, need {SMALLEST_TAIL}"
        raise EstimationError("N_TOO_SMALL", f"arm {name}", detail)


def _fit_arm(
    values: Vector, codes: Codes, n: int, q: float, variance_formula: VarianceFormula, name: str
) -> _Arm:
    """Estimate the quantile of one arm and its standard error."""
    quantile = float(np.quantile(values, q))
    share_error, residuals = _share_below(values, codes, n, quantile, q)
    z = critical_value(OUTER_ALPHA)
    low, high = _outer_quantiles(values, q, z * share_error, name)
    std_error = (high - low) / (2 * z)
    is_regular = std_error > 0 and float((values == quantile).mean()) <= MASS_POINT
    if is_regular and variance_formula == "kernel":
        density = _density(values, quantile)
        is_regular = density > 0
        std_error = share_error / density if is_regular else std_error
    return _Arm(
        name=name,
        level=0.0,
        n=n,
        values=values,
        q=q,
        quantile=quantile,
        share_error=share_error,
        std_error=std_error,
        is_regular=is_regular,
        residuals=residuals,
    )


def _share_below(
    values: Vector, codes: Codes, n: int, quantile: float, q: float
) -> tuple[float, Vector]:
    """Standard error of the share of values below the quantile, clustered, and its residuals.

    At a mass point the shares with and without it differ: the one nearer ½ tells how clustering
    widens the variance, and q(1 − q) how wide it is for independent values.
    """
    shares = [(float(below.mean()), below) for below in (values <= quantile, values < quantile)]
    share, is_below = min(shares, key=lambda pair: abs(pair[0] - 0.5))
    counts = np.bincount(codes, minlength=n).astype(np.float64)
    residuals = share * counts - np.bincount(codes, is_below, n)
    spread = share * (1 - share)
    if spread == 0:
        return 0.0, residuals
    clustered = float(np.square(residuals).sum()) * n / (n - 1) / len(values) ** 2
    return math.sqrt(clustered * q * (1 - q) / spread), residuals


def _outer_quantiles(values: Vector, q: float, reach: float, name: str) -> tuple[float, float]:
    """Quantiles of order q ∓ reach."""
    if q - reach < 0 or q + reach > 1:
        detail = f"quantiles {q - reach:.3g} and {q + reach:.3g} leave the data"
        raise EstimationError("N_TOO_SMALL", f"arm {name}", detail)
    low, high = np.quantile(values, [q - reach, q + reach])
    return float(low), float(high)


def _density(values: Vector, point: float) -> float:
    """Gaussian kernel density at one point, 0 where it underflows."""
    low, high = np.quantile(values, [0.25, 0.75])
    scales = [
        scale for scale in (float(values.std(ddof=1)), (high - low) / NORMAL_IQR) if scale > 0
    ]
    bandwidth = SILVERMAN * min(scales) * math.pow(len(values), -0.2)
    kernel = np.exp(-0.5 * np.square((values - point) / bandwidth))
    return float(kernel.mean()) / (bandwidth * math.sqrt(2 * math.pi))


def _contrast(
    control: _Arm, treatment: _Arm, alpha: float, variance_formula: VarianceFormula
) -> Contrast:
    """Return the inverted normal test, or the outer interval where an arm is not regular."""
    if not (control.is_regular and treatment.is_regular):
        return Contrast(
            difference=_outer_difference(control, treatment, alpha),
            relative=None,
            relative_reason="NOT_IDENTIFIED",
            variance_control=control.std_error**2,
            variance_treatment=treatment.std_error**2,
        )
    contrast = contrast_of(
        replace(
            difference_estimate(
                treatment.quantile - control.quantile,
                math.hypot(control.std_error, treatment.std_error),
                arms=_summary(control, treatment),
                alpha=alpha,
                method=METHOD,
                variance_formula=variance_formula,
            ),
            estimand="quantile_difference",
        ),
        variance_control=control.std_error**2,
        variance_treatment=treatment.std_error**2,
        alpha=alpha,
    )
    if contrast.relative is None:
        return contrast
    lift = replace(contrast.relative, estimand="relative_quantile_difference")
    return replace(contrast, relative=lift)


def _outer_difference(control: _Arm, treatment: _Arm, alpha: float) -> Estimate:
    """Return the difference with the interval put together from the outer quantiles."""
    z = critical_value(alpha)
    limits = [
        _outer_quantiles(arm.values, arm.q, z * arm.share_error, arm.name)
        for arm in (control, treatment)
    ]
    (low_control, high_control), (low_treatment, high_treatment) = limits
    # The record of a normal test checks the variance; its limits and p-value do not apply.
    normal = difference_estimate(
        treatment.quantile - control.quantile,
        math.hypot(control.std_error, treatment.std_error),
        arms=_summary(control, treatment),
        alpha=alpha,
        method=METHOD,
        variance_formula="outer",
    )
    below = math.hypot(treatment.quantile - low_treatment, high_control - control.quantile)
    above = math.hypot(high_treatment - treatment.quantile, control.quantile - low_control)
    return replace(
        normal,
        estimand="quantile_difference",
        ci_low=normal.estimate - below,
        ci_high=normal.estimate + above,
        p_value=None,
        interval="outer",
    )


def _summary(control: _Arm, treatment: _Arm) -> ArmSummary:
    return ArmSummary(
        control_mean=control.level + control.quantile,
        treatment_mean=treatment.level + treatment.quantile,
        n_control=control.n,
        n_treatment=treatment.n,
    )
