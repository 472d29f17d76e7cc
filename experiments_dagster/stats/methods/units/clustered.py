"""Difference of means where whole clusters are randomised (METHODS 3.7).

With Y_g, D_g the totals of a cluster (D = rows, or a denominator) and G clusters:

    G ≥ 400      R_T − R_C, R_a = ΣY_g/ΣD_g, delta method with clusters as units
    15 ≤ G       the same estimate as least squares on arm indicators, CR2 variance, Satterthwaite
                 t: one row √D_g per cluster gives the fit of all rows
    8 ≤ G < 15   randomisation test of the difference of the average cluster means r_g = Y_g/D_g,
                 every assignment of the clusters enumerated (3,432 at most); CR2 stands beside it

METHODS 3.7 hands over to the delta method at 50 clusters. With clusters of 1 to 120 rows its size
at 5 % is then .08, .066 at 100 and .053 at 400, while CR2 keeps .05: so CR2 serves longer, except
where a cluster has no denominator, which it cannot fit and the delta method can.

Below 4 clusters per arm nothing is inferred. The randomisation test is that of the sharp null of a
constant effect τ on every cluster mean. Assignment π has the difference d_π − τ k_π, k_π its
overlap with the actual one (difference of the shares treated), and is as extreme as the observed
d − τ for τ between

    (d − d_π)/(1 − k_π)   and   (d + d_π)/(1 + k_π),

an interval around d. p(τ) is the share of assignments whose interval holds τ; the confidence
interval {τ: p(τ) ≥ α} follows from order statistics and inverts the test exactly. A limit is absent
where so few assignments exist that no effect is ever rejected.

References:
    Bell & McCaffrey 2002; Imbens & Kolesár 2016; Deng, Knoblich & Lu 2018; Cameron & Miller 2015;
    Hayes & Moulton 2017 (cluster summaries); Rosenbaum 2002 (inversion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, check_alpha, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import check_denominator
from experiments_dagster.stats.methods.units.cluster_robust import cr2
from experiments_dagster.stats.methods.units.interacted import (
    Vector,
    arm_mask,
    rescaled_ratio,
    unit_column,
)
from experiments_dagster.stats.moments import CONSTANT_SD, ArmMoments
from experiments_dagster.stats.records import Contrast, Estimate, ScoredContrast
from experiments_dagster.stats.relative import contrast_of

MANY_CLUSTERS = 400  # delta method from here on
ENOUGH_CLUSTERS = 50  # and from here on where a cluster has no denominator
FEW_CLUSTERS = 15  # randomisation inference below
MIN_CLUSTERS = 4  # per arm
TIES = 1e-12  # differences of two assignments that are equal but for rounding, of the largest mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredContrast(ScoredContrast):
    """A contrast between arms of whole clusters.

    `n_control` and `n_treatment` of its estimates count clusters, and so does `scores`, shape (G,),
    in the order of `clusters`. `cluster_robust` is the CR2 estimate beside a randomisation test,
    else None.
    """

    clusters: NDArray[np.generic]
    cluster_robust: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Totals:
    """One row per cluster; numerators are those of y − level · denominator.

    `level` is the ratio over all rows: around it an offset of the outcome costs no digits.
    """

    numerator: Vector
    denominator: Vector
    level: float
    is_treated: NDArray[np.bool_]
    clusters: NDArray[np.generic]

    @property
    def arms(self) -> tuple[tuple[int, str, NDArray[np.bool_]], ...]:
        """Sign in the difference, name and rows of each arm."""
        return (-1, "control", ~self.is_treated), (1, "treatment", self.is_treated)

    def value(self, deviation: float) -> float:
        """Mean or ratio from its deviation; zero where only rounding is left of it."""
        value = self.level + deviation
        return 0.0 if abs(value) <= CONSTANT_SD * abs(self.level) else value


def compare_clustered(
    y: ArrayLike,
    is_treated: ArrayLike,
    clusters: ArrayLike,
    *,
    alpha: float = 0.05,
    denominator: ArrayLike | None = None,
) -> ClusteredContrast:
    """Compare arms of whole clusters by the method that their number allows.

    The estimand is the difference of means over rows (of ratios, with a denominator); below 15
    clusters that of the average cluster means, in which each cluster counts once.

    Args:
        y: Outcome or numerator per row, shape (n,).
        is_treated: True for treatment, the same within a cluster, shape (n,).
        clusters: Label of the cluster that was randomised, shape (n,).
        alpha: Two-sided level.
        denominator: Denominator per row, none negative, shape (n,); default one per row.

    Returns:
        The contrast with scores per cluster. Methods are `cluster_ratio`, `cluster_ols` and
        `cluster_means`; the last has no lift, which needs many clusters.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM; N_TOO_SMALL below 4 clusters in an arm;
            NOT_IDENTIFIED where a cluster has rows in both arms or a denominator is negative;
            ZERO_DENOMINATOR where one of fewer than 50 clusters has none; ZERO_VARIANCE.

    References:
        Bell & McCaffrey 2002; Cameron & Miller 2015; METHODS 3.7.

    Examples:
        >>> y = [1.0, 2, 2, 3, 1, 1, 2, 1, 4, 5, 6, 4, 5, 5, 7, 5]
        >>> clusters = np.repeat(np.arange(8), 2)
        >>> difference = compare_clustered(y, clusters >= 4, clusters).contrast.difference
        >>> difference.estimate, round(difference.p_value, 4), difference.inference
        (3.5, 0.0286, 'randomization')
    """
    check_alpha(alpha)
    totals = _totals(y, is_treated, clusters, denominator)
    n_clusters = len(totals.clusters)
    is_whole = bool(totals.denominator.all())
    if n_clusters >= (MANY_CLUSTERS if is_whole else ENOUGH_CLUSTERS):
        return _by_delta_method(totals, alpha)
    if not is_whole:
        detail = f"{int((totals.denominator == 0).sum())} of {n_clusters} clusters"
        raise EstimationError("ZERO_DENOMINATOR", "clusters", detail)
    return (_by_randomization if n_clusters < FEW_CLUSTERS else _by_least_squares)(totals, alpha)


def _totals(
    y: ArrayLike, is_treated: ArrayLike, clusters: ArrayLike, denominator: ArrayLike | None
) -> _Totals:
    outcome, labels = unit_column(y, "y"), np.asarray(clusters)
    n = len(outcome)
    size = np.ones(n) if denominator is None else unit_column(denominator, "denominator")
    if labels.shape != (n,) or size.shape != (n,):
        msg = f"clusters {labels.shape} and denominator {size.shape} need shape ({n},)"
        raise ValueError(msg)
    if (size < 0).any():
        raise EstimationError("NOT_IDENTIFIED", "denominator", "negative values")
    mask = arm_mask(is_treated, n)
    levels, codes, rows = np.unique(labels, return_inverse=True, return_counts=True)
    treated_rows = np.bincount(codes, mask)
    is_mixed = (treated_rows > 0) & (treated_rows < rows)
    if is_mixed.any():
        detail = f"{int(is_mixed.sum())} of {len(levels)} clusters have rows in both arms"
        raise EstimationError("NOT_IDENTIFIED", "clusters", detail)
    outcome, size = rescaled_ratio(outcome, size)
    total = float(size.sum())
    level = float(outcome.sum()) / total if total > 0 else 0.0
    centred = outcome - level * size
    if (np.abs(centred) <= CONSTANT_SD * np.abs(outcome)).all():
        centred[:] = 0.0
    totals = _Totals(
        numerator=np.asarray(np.bincount(codes, centred), dtype=np.float64),
        denominator=np.asarray(np.bincount(codes, size), dtype=np.float64),
        level=level,
        is_treated=treated_rows > 0,
        clusters=levels,
    )
    for _, arm, members in totals.arms:
        n_clusters = int(members.sum())
        if n_clusters < MIN_CLUSTERS:
            detail = f"{n_clusters} clusters, need {MIN_CLUSTERS}"
            raise EstimationError("N_TOO_SMALL", f"arm {arm}", detail)
        check_denominator(float(totals.denominator[members].sum()), arm)
    return totals


def _by_delta_method(totals: _Totals, alpha: float) -> ClusteredContrast:
    scores = np.empty(len(totals.clusters))
    for sign, _, members in totals.arms:
        top, bottom, n = totals.numerator[members], totals.denominator[members], members.sum()
        ratio = top.sum() / bottom.sum()
        residuals = top - ratio * bottom
        size = np.abs(top) + (abs(ratio) + abs(totals.level)) * bottom
        if np.abs(residuals).max() <= CONSTANT_SD * size.max():
            residuals[:] = 0.0  # a constant ratio, but for rounding
        scores[members] = sign * residuals / bottom.sum() * math.sqrt(n / (n - 1))
    return _of_ratios(totals, scores, alpha=alpha, method="cluster_ratio", formula="delta")


def _by_least_squares(totals: _Totals, alpha: float) -> ClusteredContrast:
    root = np.sqrt(totals.denominator)
    fit = cr2(
        totals.numerator / root,
        np.column_stack([root * ~totals.is_treated, root * totals.is_treated]),
        np.arange(len(root)),
        [-1.0, 1.0],
    )
    return _of_ratios(
        totals,
        fit.scores.copy(),
        alpha=alpha,
        method="cluster_ols",
        formula="cr2",
        df=fit.degrees_of_freedom,
    )


def _of_ratios(
    totals: _Totals,
    scores: Vector,
    *,
    alpha: float,
    method: str,
    formula: str,
    df: float | None = None,
) -> ClusteredContrast:
    """The difference of the two ratios of totals with the variance of its scores."""
    control, treatment = (
        float(totals.numerator[members].sum() / totals.denominator[members].sum())
        for _, _, members in totals.arms
    )
    variance_control, variance_treatment = (
        float(np.square(scores[members]).sum()) for _, _, members in totals.arms
    )
    difference = difference_estimate(
        treatment - control,
        math.sqrt(variance_control + variance_treatment),
        arms=ArmSummary(
            control_mean=totals.value(control),
            treatment_mean=totals.value(treatment),
            n_control=int((~totals.is_treated).sum()),
            n_treatment=int(totals.is_treated.sum()),
        ),
        alpha=alpha,
        method=method,
        variance_formula=formula,
        df=df,
    )
    contrast = contrast_of(
        difference,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
        alpha=alpha,
    )
    return _clustered(contrast, scores, totals, None)


def _by_randomization(totals: _Totals, alpha: float) -> ClusteredContrast:
    means = totals.numerator / totals.denominator
    moments = [ArmMoments.from_arrays(y=means[members]) for _, _, members in totals.arms]
    welch = compare_means(*moments, alpha=alpha)
    scores = np.empty(len(means))
    for (sign, _, members), arm in zip(totals.arms, moments, strict=True):
        scores[members] = sign * (means[members] - arm.mean("y")) / math.sqrt(arm.n * (arm.n - 1))
    p_value, low, high = _randomization_test(means - means.mean(), totals.is_treated, alpha)
    estimate = welch.difference.estimate
    difference = replace(
        welch.difference,
        inference="randomization",
        method="cluster_means",
        p_value=p_value,
        # Rounding alone can put the point a last digit outside.
        ci_low=None if low is None else min(low, estimate),
        ci_high=None if high is None else max(high, estimate),
        degrees_of_freedom=None,
        control_mean=totals.value(welch.difference.control_mean),
        treatment_mean=totals.value(welch.difference.treatment_mean),
    )
    return _clustered(
        replace(welch, difference=difference, relative=None, relative_reason="N_TOO_SMALL"),
        scores,
        totals,
        _by_least_squares(totals, alpha).contrast.difference,
    )


def _randomization_test(
    means: Vector, is_treated: NDArray[np.bool_], alpha: float
) -> tuple[float, float | None, float | None]:
    """p-value of no effect and the limits of the effects not rejected."""
    n, n_treatment = len(means), int(is_treated.sum())
    chosen = np.array(list(combinations(range(n), n_treatment)))
    assigned = np.zeros((len(chosen), n))
    np.put_along_axis(assigned, chosen, 1.0, axis=1)
    # Row of weights that turns values into treatment average minus control average.
    weights = assigned / n_treatment - (1 - assigned) / (n - n_treatment)
    differences, overlaps = weights @ means, weights @ is_treated
    observed = float(means[is_treated].mean() - means[~is_treated].mean())
    tie = TIES * float(np.abs(means).max())
    limits = [
        _edges(observed - differences, 1 - overlaps, tie=tie),
        _edges(observed + differences, 1 + overlaps, tie=tie),
    ]
    # An edge at infinity belongs to an assignment that is as extreme at every effect.
    is_always = np.isinf(limits[0]) | np.isinf(limits[1])
    lower = np.where(is_always, -np.inf, np.minimum(*limits))
    upper = np.where(is_always, np.inf, np.maximum(*limits))
    p_value = float(np.mean((lower <= 0) & (upper >= 0)))
    shares = np.arange(1, len(lower) + 1) / len(lower)
    needed = int(np.searchsorted(shares, alpha))  # fewest assignments with a share of alpha
    low, high = np.sort(lower)[needed], -np.sort(-upper)[needed]
    return (
        p_value,
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def _edges(distance: Vector, slope: Vector, *, tie: float) -> Vector:
    """distance/slope with ties at exactly zero; infinite where the slope is zero."""
    snapped = np.where(np.abs(distance) <= tie, 0.0, distance)
    is_flat = slope <= TIES
    return np.where(is_flat, np.inf, snapped / np.where(is_flat, 1.0, slope))


def _clustered(
    contrast: Contrast, scores: Vector, totals: _Totals, beside: Estimate | None
) -> ClusteredContrast:
    scores.setflags(write=False)
    return ClusteredContrast(
        contrast=contrast, scores=scores, clusters=totals.clusters, cluster_robust=beside
    )
