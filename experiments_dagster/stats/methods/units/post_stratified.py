"""Post-stratified difference of means (METHODS 3.5).

    Δ̂ = Σ_k w_k Δ̂_k,  w_k = n_k/n,  Δ̂_k the difference of means within stratum k
    V = Σ w_k² V_k + [Σ w_k Δ̂_k² − Δ̂²]/n,   V_k = s²_Tk/n_Tk + s²_Ck/n_Ck
    ψ_i = ± w_k (Y_i − m_ak)/√(n_ak(n_ak − 1)) + (Δ̂_k − Δ̂)/n,   Σψ² = V
    ν = (Σ w_k² V_k)²/Σ_cells (w_k² s²_ak/n_ak)²/(n_ak − 1)

The second part of V is the sampling of the weights. With one stratum all of it is Welch's test;
the estimate is that of Lin's regression on stratum indicators. Weights known from outside (a
census) do not belong here: they would drop the second part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.units.covariates import text_labels
from experiments_dagster.stats.methods.units.interacted import (
    Matrix,
    Vector,
    arm_mask,
    unit_column,
)
from experiments_dagster.stats.moments import CONSTANT_SD, ArmMoments
from experiments_dagster.stats.records import Contrast, ScoredContrast
from experiments_dagster.stats.relative import contrast_of

MIN_CELL = 2  # units that a variance needs


@dataclass(frozen=True, slots=True, kw_only=True)
class PostStratifiedContrast(ScoredContrast):
    """A post-stratified contrast with the strata behind it.

    `strata` holds the levels of each stratum used, in order; more than one where levels with fewer
    than two units in an arm were merged. Their number is `n_strata`.
    """

    strata: tuple[tuple[str, ...], ...]

    @property
    def n_strata(self) -> int:
        """Number of strata after merging."""
        return len(self.strata)


def compare_post_stratified(
    y: ArrayLike,
    is_treated: ArrayLike,
    strata: ArrayLike,
    *,
    alpha: float = 0.05,
    order: Sequence[str] | Sequence[float] | None = None,
) -> PostStratifiedContrast:
    """Compare means within strata fixed before exposure: estimand μ_T − μ_C.

    A stratum with fewer than two units in an arm is merged with the level before it in the declared
    order (the first with the one after it), until every cell has two.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,).
        strata: Level of each unit, text or numbers, shape (n,); None is the level "missing".
        alpha: Two-sided level, t quantiles for the difference.
        order: All levels, neighbours beside each other; default the sorted ones.

    Returns:
        Contrast, scores and the strata used. The lift divides by the raw control mean.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE.
        ValueError: Lengths differ, or `order` misses or repeats a level.

    References:
        Miratrix, Sekhon & Yu 2013.

    Examples:
        >>> result = compare_post_stratified(
        ...     [1, 2, 3, 4, 11, 12, 15, 16], [0, 0, 1, 1] * 2, ["a"] * 4 + ["b"] * 4
        ... )
        >>> result.contrast.difference.estimate, result.n_strata
        (3.0, 2)
    """
    outcome = unit_column(y, "y")
    mask = arm_mask(is_treated, len(outcome))
    codes, levels = _ordered_codes(strata, order)
    if codes.shape != outcome.shape:
        msg = f"strata have shape {codes.shape}, need {outcome.shape}"
        raise ValueError(msg)
    group_of = _merged(codes, mask, len(levels))
    cells = _cells(outcome, mask, group_of[codes])
    difference = float(cells.weights @ cells.effects)
    scores = cells.scores + (cells.effects[group_of[codes]] - difference) / len(outcome)
    if float(cells.variances.sum()) == 0:
        raise EstimationError("ZERO_VARIANCE", "post_stratified", "every cell is constant")
    scores.setflags(write=False)
    return PostStratifiedContrast(
        contrast=_contrast(
            difference, scores, outcome, mask, df=_degrees_of_freedom(cells), alpha=alpha
        ),
        scores=scores,
        strata=tuple(
            tuple(str(levels[level]) for level in np.flatnonzero(group_of == group))
            for group in range(len(cells.weights))
        ),
    )


def _contrast(
    difference: float,
    scores: Vector,
    outcome: Vector,
    is_treated: NDArray[np.bool_],
    *,
    df: float,
    alpha: float,
) -> Contrast:
    """The difference with the variance of its scores, and its lift over the raw control mean."""
    control, treatment = (
        ArmMoments.from_arrays(y=outcome[rows]) for rows in (~is_treated, is_treated)
    )
    variance_control = float(np.square(scores[~is_treated]).sum())
    variance_treatment = float(np.square(scores[is_treated]).sum())
    influence = outcome[~is_treated] - control.mean("y")
    influence /= math.sqrt(control.n * (control.n - 1))
    estimate = difference_estimate(
        difference,
        math.sqrt(variance_control + variance_treatment),
        arms=ArmSummary(
            control_mean=control.mean("y"),
            treatment_mean=treatment.mean("y"),
            n_control=control.n,
            n_treatment=treatment.n,
        ),
        alpha=alpha,
        method="post_stratified",
        variance_formula="random_weights",
        df=df,
    )
    return contrast_of(
        estimate,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
        alpha=alpha,
        variance_control_mean=float(np.square(influence).sum()),
        covariance=float(scores[~is_treated] @ influence),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Strata after merging.

    Args:
        weights: n_k/n, shape (K,).
        effects: Δ̂_k, shape (K,).
        variances: w_k² s²_ak/n_ak, control first, shape (2, K).
        sizes: n_ak, shape (2, K).
        scores: ψ without the part of the weights, shape (n,).
    """

    weights: Vector
    effects: Vector
    variances: Matrix
    sizes: NDArray[np.int64]
    scores: Vector


def _ordered_codes(
    strata: ArrayLike, order: Sequence[str] | Sequence[float] | None
) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
    """Position of each unit's level in the declared order, and the levels in that order."""
    labels = np.asarray(strata)
    if labels.dtype.kind not in "iub":
        labels = text_labels(labels) if labels.dtype.kind != "f" else unit_column(labels, "strata")
    levels, codes = np.unique(labels, return_inverse=True)
    if order is None:
        return codes, levels
    declared = text_labels(order) if levels.dtype.kind == "U" else np.asarray(order)
    places = {level: place for place, level in enumerate(declared.tolist())}
    if len(places) != len(declared) or not set(levels.tolist()) <= set(places):
        msg = f"order {list(order)} needs each of the levels {levels.tolist()} once"
        raise ValueError(msg)
    place_of = np.array([places[level] for level in levels.tolist()], dtype=np.int64)
    return place_of[codes], declared


def _merged(
    codes: NDArray[np.int64], is_treated: NDArray[np.bool_], n_levels: int
) -> NDArray[np.int64]:
    """Group of each level such that every group has two units in both arms."""
    counts = np.stack(
        [np.bincount(codes[rows], minlength=n_levels) for rows in (~is_treated, is_treated)]
    )
    starts = list(range(n_levels))
    while len(starts) > 1:
        smallest = np.add.reduceat(counts, starts, axis=1).min(axis=0)
        small = np.flatnonzero(smallest < MIN_CELL)
        if len(small) == 0:
            break
        del starts[max(int(small[0]), 1)]
    return np.searchsorted(starts, np.arange(n_levels), side="right") - 1


def _cells(outcome: Vector, is_treated: NDArray[np.bool_], group: NDArray[np.int64]) -> _Cells:
    """Means and variances of every arm within every stratum."""
    n, n_groups = len(outcome), int(group.max()) + 1
    cell = group + n_groups * is_treated
    sizes = np.bincount(cell, minlength=2 * n_groups)
    level = float(outcome.mean())
    deviations = outcome - level
    means = np.zeros(2 * n_groups)
    for _ in range(2):  # the second pass takes off what the first one rounded
        step = np.bincount(cell, deviations) / sizes
        means += step
        deviations -= step[cell]
    squares = np.bincount(cell, np.square(deviations))
    is_constant = np.sqrt(squares) <= np.sqrt(sizes) * CONSTANT_SD * np.abs(level + means)
    deviations[is_constant[cell]] = 0.0
    weights = sizes.reshape(2, n_groups).sum(axis=0) / n
    sign = np.where(is_treated, 1.0, -1.0)
    scores = sign * (weights[group] * deviations / np.sqrt(sizes * (sizes - 1.0))[cell])
    control_means, treatment_means = means.reshape(2, n_groups)
    return _Cells(
        weights=weights,
        effects=treatment_means - control_means,
        variances=np.asarray(np.bincount(cell, np.square(scores)), dtype=np.float64).reshape(2, -1),
        sizes=sizes.reshape(2, n_groups),
        scores=scores,
    )


def _degrees_of_freedom(cells: _Cells) -> float:
    """Welch-Satterthwaite over the cells; the weights are as good as known."""
    shares = cells.variances / cells.variances.sum()
    return 1 / float((np.square(shares) / (cells.sizes - 1)).sum())
