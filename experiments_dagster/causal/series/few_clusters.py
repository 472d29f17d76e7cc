"""Inference on a difference in differences with few clusters in an arm (METHODS 11.5).

Both tests depend on the rows through the counts N_gc and sums S_gc of cluster g in the four cells c
(control before, control after, treated before, treated after); the estimate is Σ_c w_c Σ_g S_gc
with w = (1, −1, −1, 1)/N_c.

    wild bootstrap    τ₀ imposed: E_gc = S_gc − N_gc m̃_c, m̃ the least-squares means without
                      interaction of y − τ₀·1{treated after}; then v_g E_gc with v_g drawn from
                      Webb's six points, and the share of |t*| ≥ |t|. Sums are linear in τ₀, so each
                      τ₀ costs one pass over the draws
    randomisation     every assignment of the clusters (or a sample with the actual one) that keeps
                      the number treated; p is the share with |d_π − τ₀k_π| ≥ |d − τ₀|

Both intervals are inverted from their test: they exclude 0 exactly where p < α. A limit is absent
where no effect on that side is ever rejected.

The bootstrap needs clusters on both sides to work: with one to three treated it hardly ever
rejects. The randomisation test is exact where treated and control clusters are exchangeable, which
is an assumption here: nobody drew lots.

References:
    Cameron, Gelbach & Miller 2008; Webb 2023; MacKinnon & Webb 2017, 2018; Roodman et al. 2019;
    Conley & Taber 2011.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SIGNS = np.array([1.0, -1.0, -1.0, 1.0])  # control before, after, treated before, after
ADDITIVE = np.array([[1.0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])  # cells without interaction
WEBB = np.sqrt([1.5, 1.0, 0.5])
MOST_ASSIGNMENTS = 20_000  # enumerated below, sampled above
TIES = 1e-10  # relative to the size of a statistic
DOUBLINGS = 12  # of the distance searched for a limit, from one standard error
HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSums:
    """Counts and sums of the outcome by cluster and cell, shape (G, 4)."""

    counts: Matrix
    sums: Matrix

    @property
    def means(self) -> Vector:
        """Mean of each cell over all its rows, shape (4,)."""
        return np.asarray(self.sums.sum(axis=0) / self.counts.sum(axis=0), dtype=np.float64)

    @property
    def weights(self) -> Vector:
        """Weight in the estimate of a row of each cell, shape (4,)."""
        return np.asarray(SIGNS / self.counts.sum(axis=0), dtype=np.float64)

    @property
    def has_treated(self) -> NDArray[np.bool_]:
        """Whether a cluster has treated rows, shape (G,)."""
        return np.asarray(self.counts[:, 2:].sum(axis=1) > 0, dtype=np.bool_)

    @property
    def has_control(self) -> NDArray[np.bool_]:
        """Whether a cluster has control rows, shape (G,)."""
        return np.asarray(self.counts[:, :2].sum(axis=1) > 0, dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedTest:
    """p-value of no effect with the limits of the effects not rejected.

    `std_error` is CR1's for the bootstrap, the spread over assignments for randomisation.
    `n_draws` counts bootstrap draws or assignments.
    """

    p_value: float
    ci_low: float | None
    ci_high: float | None
    std_error: float
    n_draws: int


def wild_bootstrap(cells: CellSums, *, alpha: float, replicates: int, seed: int) -> InvertedTest:
    """Return the restricted wild cluster bootstrap with Webb's weights.

    Args:
        cells: Counts and sums by cluster.
        alpha: Two-sided level.
        replicates: Number of draws.
        seed: Of the draws.

    Raises:
        EstimationError: ZERO_VARIANCE where the residuals of every cluster cancel.

    References:
        Cameron, Gelbach & Miller 2008; Webb 2023, Canadian J. of Economics 56(3).
    """
    weights, means = cells.weights, cells.means
    scores = (cells.sums - cells.counts * means) @ weights
    n_clusters = len(scores)
    std_error = math.sqrt(float(scores @ scores))
    largest = float(np.abs(cells.sums).max()) * float(np.abs(weights).max())
    if std_error <= TIES * largest:
        raise EstimationError("ZERO_VARIANCE", "wild bootstrap", "residuals of clusters cancel")
    estimate = float(SIGNS @ means)
    rng = np.random.default_rng(seed)
    points = np.concatenate([-WEBB, WEBB])
    draws = points[rng.integers(0, len(points), size=(replicates, n_clusters))]
    treated_after = np.zeros_like(cells.counts)
    treated_after[:, 3] = cells.counts[:, 3]
    shift, scatter = zip(
        *(_draw_scores(cells, draws, sums) for sums in (cells.sums, treated_after)), strict=True
    )
    squares = [np.einsum("bg,bg->b", scatter[i], scatter[j]) for i, j in ((0, 0), (0, 1), (1, 1))]

    def p_value(effect: float) -> float:
        numerator = np.abs(shift[0] - effect * shift[1])
        variance = squares[0] - 2 * effect * squares[1] + effect**2 * squares[2]
        observed = abs(estimate - effect) / std_error
        bound = observed * (1 - TIES) * np.sqrt(np.maximum(variance, 0.0))
        return float((1 + np.count_nonzero(numerator >= bound)) / (1 + replicates))

    low, high = (_limit(p_value, estimate, side * std_error, alpha) for side in (-1, 1))
    correction = math.sqrt(n_clusters / (n_clusters - 1))
    return InvertedTest(
        p_value=p_value(0.0),
        ci_low=low,
        ci_high=high,
        std_error=correction * std_error,
        n_draws=replicates,
    )


def _draw_scores(cells: CellSums, draws: Matrix, sums: Matrix) -> tuple[Vector, Matrix]:
    """Estimate (B,) and cluster scores (B, G) of each draw, before τ₀ is combined in."""
    totals = cells.counts.sum(axis=0)
    normal = ADDITIVE.T @ (totals[:, None] * ADDITIVE)
    additive = ADDITIVE @ np.linalg.solve(normal, ADDITIVE.T @ sums.sum(axis=0))
    residuals = sums - cells.counts * additive
    own = residuals @ cells.weights
    refitted = (draws @ residuals) @ (cells.counts * cells.weights / totals).T
    return draws @ own, draws * own - refitted


def _limit(
    p_value: Callable[[float], float], estimate: float, step: float, alpha: float
) -> float | None:
    """Largest effect on the side of `step` that is not rejected; None where there is no such."""
    # 0 counts as inside exactly where its test does not reject.
    zero_is_beyond = (0 - estimate) * step > 0
    inside = 0.0 if zero_is_beyond and p_value(0.0) >= alpha else estimate
    if zero_is_beyond and inside != 0.0:
        outside = 0.0
    else:
        for doubling in range(DOUBLINGS):
            outside = inside + step * 2.0**doubling
            if p_value(outside) < alpha:
                break
        else:
            return None
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if p_value(middle) < alpha:
            outside = middle
        else:
            inside = middle
    return inside


def randomization_test(
    cells: CellSums, *, alpha: float, replicates: int, seed: int
) -> InvertedTest:
    """Return the test over assignments of whole clusters to treatment.

    Args:
        cells: Counts and sums by cluster, each cluster in one arm, with rows before and after.
        alpha: Two-sided level.
        replicates: Assignments sampled where there are too many to enumerate.
        seed: Of the sample.

    Raises:
        EstimationError: NOT_IDENTIFIED where a cluster has rows in both arms or lacks rows before
            or after; N_TOO_SMALL where no assignment can be as rare as `alpha`.

    References:
        MacKinnon & Webb 2018; Rosenbaum 2002 for the inversion.
    """
    counts = cells.counts[:, :2] + cells.counts[:, 2:]
    sums = cells.sums[:, :2] + cells.sums[:, 2:]
    treated = cells.has_treated
    n_clusters, n_treated = len(treated), int(treated.sum())
    if (treated & cells.has_control).any() or (counts == 0).any():
        detail = "each cluster needs one arm, and rows before and after"
        raise EstimationError("NOT_IDENTIFIED", "randomisation over clusters", detail)
    n_assignments = math.comb(n_clusters, n_treated)
    if n_assignments * alpha < 1:
        detail = (
            f"{n_treated} treated of {n_clusters}: {n_assignments} assignments, need "
            f"{math.ceil(1 / alpha)} for a test at {alpha:g}"
        )
        raise EstimationError("N_TOO_SMALL", "clusters", detail)
    assigned = _assignments(treated, n_assignments, replicates, seed)
    differences = _differences(assigned, sums, counts)
    after = np.column_stack([np.zeros(n_clusters), counts[:, 1] * treated])
    overlaps = _differences(assigned, after, counts)
    observed = float(_differences(treated[None].astype(np.float64), sums, counts)[0])
    tie = TIES * float(np.abs(differences).max())
    edges = np.stack(
        [
            _edges(observed - differences, 1 - overlaps, tie),
            _edges(observed + differences, 1 + overlaps, tie),
        ]
    )
    # An edge at infinity belongs to an assignment that is as extreme at every effect.
    is_always = np.isinf(edges).any(axis=0)
    lower = np.sort(np.where(is_always, -np.inf, edges.min(axis=0)))
    upper = np.sort(np.where(is_always, np.inf, edges.max(axis=0)))[::-1]
    n = len(lower)
    n_extreme = int((~is_always & (edges.min(axis=0) <= 0) & (edges.max(axis=0) >= 0)).sum())
    rank = int(np.searchsorted(np.arange(1, n + 1) / n, alpha))
    return InvertedTest(
        p_value=(n_extreme + int(is_always.sum())) / n,
        ci_low=min(float(lower[rank]), observed) if np.isfinite(lower[rank]) else None,
        ci_high=max(float(upper[rank]), observed) if np.isfinite(upper[rank]) else None,
        std_error=float(differences.std()),
        n_draws=n,
    )


def _assignments(
    treated: NDArray[np.bool_], n_assignments: int, replicates: int, seed: int
) -> Matrix:
    """Indicators of treated clusters, shape (R, G); the actual ones stand first where sampled."""
    n, n_treated = len(treated), int(treated.sum())
    if n_assignments <= MOST_ASSIGNMENTS:
        chosen = np.array(list(combinations(range(n), n_treated)))
    else:
        rng = np.random.default_rng(seed)
        keys = rng.random((replicates, n))
        sampled = np.argpartition(keys, n_treated - 1, axis=1)[:, :n_treated]
        chosen = np.concatenate([np.flatnonzero(treated)[None], sampled])
    assigned = np.zeros((len(chosen), n))
    np.put_along_axis(assigned, chosen, 1.0, axis=1)
    return assigned


def _differences(assigned: Matrix, sums: Matrix, counts: Matrix) -> Vector:
    """Estimate under each assignment, shape (R,), from (G, 2) sums and counts before and after."""
    treated = (assigned @ sums) / (assigned @ counts)
    control = ((1 - assigned) @ sums) / ((1 - assigned) @ counts)
    change = (treated - control) @ np.array([-1.0, 1.0])
    return np.asarray(change, dtype=np.float64)


def _edges(distance: Vector, slope: Vector, tie: float) -> Vector:
    """distance/slope with ties at exactly zero; infinite where the slope is zero."""
    snapped = np.where(np.abs(distance) <= tie, 0.0, distance)
    is_flat = slope <= TIES
    return np.where(is_flat, np.inf, snapped / np.where(is_flat, 1.0, slope))
