"""Two groups, before and after: the change of the treated less the change of the controls.

    τ = (ȳ_T,after − ȳ_T,before) − (ȳ_C,after − ȳ_C,before)

which is the interaction of least squares of y on (1, T, P, T·P). It is the effect on the treated if
without treatment both groups had changed alike (parallel trends); two periods cannot test that,
more of them can (`event_study`).

    no clusters                  repeated cross-sections: HC1, t with n − 4 degrees of freedom
    ≥ 10 clusters in each arm    CR2 with Satterthwaite degrees of freedom
    4 to 9 in the smaller arm    wild cluster bootstrap, Webb's weights, τ₀ imposed
    1 to 3 in the smaller arm    randomisation over clusters

A panel is clustered by unit, or by what was treated together (state, store, market) where that is
coarser. Several periods before and after may be stacked: clustering keeps their serial correlation.

What does not belong here: treatment that starts at different times (`staggered`), repeated
looks at pre-trends (`event_study`).

References:
    Card & Krueger 1994; Bertrand, Duflo & Mullainathan 2004; Cameron & Miller 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.causal.series.few_clusters import (
    SIGNS,
    CellSums,
    randomization_test,
    wild_bootstrap,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, check_alpha, difference_estimate
from experiments_dagster.stats.methods.units.cluster_robust import cr2
from experiments_dagster.stats.methods.units.interacted import unit_column
from experiments_dagster.stats.records import Estimate
from experiments_dagster.stats.relative import relative_estimate

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]

METHOD = "difference_in_differences"
ENOUGH_CLUSTERS = 10  # in each arm, for CR2
FEW_CLUSTERS = 4  # in the smaller arm, for the wild bootstrap
REPLICATES_BY_ALPHA = 50
CELLS = ("control before", "control after", "treated before", "treated after")
COUNTERFACTUAL = np.array([-1.0, 1.0, 1.0, 0.0])  # treated before + change of the controls


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceInDifferences:
    """The effect on the treated after the start, under parallel trends.

    `difference.treatment_mean` is the mean of the treated after the start, `control_mean` its
    counterfactual: their mean before plus the change of the controls. Counts of the estimates are
    clusters, or rows without clusters.

    Args:
        difference: τ.
        relative: τ over the counterfactual mean; None with `relative_reason`.
        relative_reason: Code, N_TOO_SMALL with few clusters.
        means: Of the cells control before, control after, treated before, treated after.
        n_rows: Rows in the same cells.
        std_error_ols: Of independent rows of equal variance, for comparison.
        std_error_hc1: Of independent rows, for comparison.
        cluster_robust: The CR2 estimate beside a test for few clusters, where there is one.
        n_draws: Bootstrap draws or assignments; None where neither was used.
    """

    difference: Estimate
    relative: Estimate | None
    relative_reason: str | None
    means: tuple[float, float, float, float]
    n_rows: tuple[int, int, int, int]
    std_error_ols: float
    std_error_hc1: float
    cluster_robust: Estimate | None
    n_draws: int | None


def difference_in_differences(
    y: ArrayLike,
    is_treated: ArrayLike,
    is_post: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    seed: int,
    replicates: int = 4999,
    alpha: float = 0.05,
) -> DifferenceInDifferences:
    """Estimate the effect on the treated group from rows before and after.

    Args:
        y: Outcome per row, shape (n,); no missing values.
        is_treated: Whether the row belongs to the treated group, before too, shape (n,).
        is_post: Whether the row lies after the start, shape (n,).
        clusters: Unit or coarser group of each row, shape (n,); None for cross-sections in which
            no unit is seen twice.
        seed: Of the bootstrap or sampled assignments, with few clusters.
        replicates: Number of either, at least 50/α.
        alpha: Two-sided level.

    Raises:
        EstimationError: NON_FINITE_INPUT; EMPTY_ARM naming an empty cell; N_TOO_SMALL without a
            residual degree of freedom or with too few clusters for any test; NOT_IDENTIFIED;
            ZERO_VARIANCE.
        ValueError: Shapes or indicators that do not fit, too few replicates.

    References:
        Card & Krueger 1994; METHODS 11.5.

    Examples:
        >>> y = [20.0, 22, 24, 21, 23, 22, 18, 20, 19, 24, 25, 24]
        >>> is_post = [0, 0, 0, 1, 1, 1] * 2
        >>> found = difference_in_differences(y, np.repeat([0, 1], 6), is_post, seed=1)
        >>> round(found.difference.estimate, 3), found.difference.variance_formula
        (5.333, 'hc1')
    """
    check_alpha(alpha)
    if replicates * alpha < REPLICATES_BY_ALPHA:
        need = math.ceil(REPLICATES_BY_ALPHA / alpha)
        msg = f"replicates is {replicates}, need {need} at alpha {alpha}"
        raise ValueError(msg)
    rows = _rows(y, is_treated, is_post)
    if clusters is None:
        return _by_rows(rows, alpha)
    labels = np.asarray(clusters)
    if labels.shape != rows.outcome.shape:
        msg = f"clusters {labels.shape} need shape {rows.outcome.shape}"
        raise ValueError(msg)
    codes = np.unique(labels, return_inverse=True)[1]
    cells = _cell_sums(rows, codes)
    if min(cells.has_treated.sum(), cells.has_control.sum()) >= ENOUGH_CLUSTERS:
        return _by_cr2(rows, codes, cells, alpha)
    return _by_few_clusters(rows, codes, cells, alpha=alpha, replicates=replicates, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Outcome less `level`, with the cell 0..3 of each row and what the cells add up to."""

    outcome: Vector
    level: float
    cell: NDArray[np.int64]
    counts: Vector
    means: Vector

    @property
    def estimate(self) -> float:
        return float(SIGNS @ self.means)

    @property
    def residuals(self) -> Vector:
        return np.asarray(self.outcome - self.means[self.cell], dtype=np.float64)

    def arms(self, n_control: int, n_treated: int) -> ArmSummary:
        return ArmSummary(
            control_mean=self.level + float(COUNTERFACTUAL @ self.means),
            treatment_mean=self.level + float(self.means[3]),
            n_control=n_control,
            n_treatment=n_treated,
        )


def _rows(y: ArrayLike, is_treated: ArrayLike, is_post: ArrayLike) -> _Rows:
    outcome = unit_column(y, "y")
    treated, post = (
        _flags(values, name, len(outcome))
        for name, values in (("is_treated", is_treated), ("is_post", is_post))
    )
    cell = 2 * treated.astype(np.int64) + post
    counts = np.bincount(cell, minlength=len(CELLS)).astype(np.float64)
    for name, count in zip(CELLS, counts, strict=True):
        if count == 0:
            raise EstimationError("EMPTY_ARM", name, "no rows")
    if len(outcome) <= len(CELLS):
        raise EstimationError("N_TOO_SMALL", "rows", f"{len(outcome)}, need more than 4")
    level = float(outcome.mean())
    centred = outcome - level
    return _Rows(
        outcome=centred,
        level=level,
        cell=cell,
        counts=counts,
        means=np.asarray(np.bincount(cell, centred) / counts, dtype=np.float64),
    )


def _flags(values: ArrayLike, name: str, n: int) -> Flags:
    given = np.asarray(values)
    flags = given.astype(np.bool_)
    if flags.shape != (n,) or not np.array_equal(flags, given):
        msg = f"{name} needs {n} values of 0 or 1, got shape {given.shape}"
        raise ValueError(msg)
    return flags


def _cell_sums(rows: _Rows, codes: NDArray[np.intp]) -> CellSums:
    n_cells, n_clusters = len(CELLS), int(codes.max()) + 1
    position = codes * n_cells + rows.cell
    counts = np.bincount(position, minlength=n_clusters * n_cells)
    sums = np.bincount(position, rows.outcome, minlength=n_clusters * n_cells)
    return CellSums(
        counts=counts.reshape(n_clusters, n_cells).astype(np.float64),
        sums=np.asarray(sums.reshape(n_clusters, n_cells), dtype=np.float64),
    )


def _by_rows(rows: _Rows, alpha: float) -> DifferenceInDifferences:
    n, p = len(rows.outcome), len(CELLS)
    correction = n / (n - p)
    scores = (SIGNS / rows.counts)[rows.cell] * rows.residuals
    counterfactual = (COUNTERFACTUAL / rows.counts)[rows.cell] * rows.residuals
    is_treated = rows.cell >= p // 2
    difference = difference_estimate(
        rows.estimate,
        _std_error_hc1(rows),
        arms=rows.arms(int((~is_treated).sum()), int(is_treated.sum())),
        alpha=alpha,
        method=METHOD,
        variance_formula="hc1",
        df=n - p,
    )
    relative, reason = relative_estimate(
        difference,
        variance_control_mean=correction * float(counterfactual @ counterfactual),
        covariance=correction * float(scores @ counterfactual),
        alpha=alpha,
    )
    return _result(rows, difference, relative=relative, reason=reason)


def _by_cr2(
    rows: _Rows, codes: NDArray[np.intp], cells: CellSums, alpha: float
) -> DifferenceInDifferences:
    difference, scores = _cr2_estimate(rows, codes, cells, alpha)
    counterfactual = cr2(rows.outcome, _dummies(rows), codes, COUNTERFACTUAL).scores
    relative, reason = relative_estimate(
        difference,
        variance_control_mean=float(counterfactual @ counterfactual),
        covariance=float(scores @ counterfactual),
        alpha=alpha,
    )
    return _result(rows, difference, relative=relative, reason=reason)


def _by_few_clusters(
    rows: _Rows,
    codes: NDArray[np.intp],
    cells: CellSums,
    *,
    alpha: float,
    replicates: int,
    seed: int,
) -> DifferenceInDifferences:
    n_control, n_treated = int(cells.has_control.sum()), int(cells.has_treated.sum())
    is_wild = min(n_control, n_treated) >= FEW_CLUSTERS
    test = wild_bootstrap if is_wild else randomization_test
    found = test(cells, alpha=alpha, replicates=replicates, seed=seed)
    arms = rows.arms(n_control, n_treated)
    difference = difference_estimate(
        rows.estimate,
        found.std_error,
        arms=arms,
        alpha=alpha,
        method=METHOD,
        variance_formula="cr1" if is_wild else "randomization",
    )
    difference = replace(
        difference,
        inference="fixed_horizon" if is_wild else "randomization",
        p_value=found.p_value,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        interval="wild_cluster_bootstrap" if is_wild else "randomization",
    )
    try:
        beside, _ = _cr2_estimate(rows, codes, cells, alpha)
    except EstimationError:  # a single treated cluster has no variance of its own
        beside = None
    return _result(
        rows,
        difference,
        relative=None,
        reason="N_TOO_SMALL",
        cluster_robust=beside,
        n_draws=found.n_draws,
    )


def _dummies(rows: _Rows) -> NDArray[np.float64]:
    return np.asarray(rows.cell[:, None] == np.arange(len(CELLS)), dtype=np.float64)


def _cr2_estimate(
    rows: _Rows, codes: NDArray[np.intp], cells: CellSums, alpha: float
) -> tuple[Estimate, Vector]:
    fit = cr2(rows.outcome, _dummies(rows), codes, SIGNS)
    estimate = difference_estimate(
        rows.estimate,
        fit.std_error,
        arms=rows.arms(int(cells.has_control.sum()), int(cells.has_treated.sum())),
        alpha=alpha,
        method=METHOD,
        variance_formula="cr2",
        df=fit.degrees_of_freedom,
    )
    return estimate, fit.scores


def _std_error_hc1(rows: _Rows) -> float:
    scores = (SIGNS / rows.counts)[rows.cell] * rows.residuals
    largest = float(np.abs(rows.outcome).max()) + abs(rows.level)
    n, p = len(scores), len(CELLS)
    std_error = math.sqrt(float(scores @ scores) * n / (n - p))
    return std_error if std_error > np.finfo(float).eps * largest else 0.0


def _result(
    rows: _Rows,
    difference: Estimate,
    *,
    relative: Estimate | None,
    reason: str | None,
    cluster_robust: Estimate | None = None,
    n_draws: int | None = None,
) -> DifferenceInDifferences:
    n, p = len(rows.outcome), len(CELLS)
    noise = float(np.square(rows.residuals).sum()) / (n - p)
    means = rows.level + rows.means
    return DifferenceInDifferences(
        difference=difference,
        relative=relative,
        relative_reason=reason,
        means=(float(means[0]), float(means[1]), float(means[2]), float(means[3])),
        n_rows=tuple(int(count) for count in rows.counts),  # type: ignore[arg-type]
        std_error_ols=math.sqrt(noise * float((1 / rows.counts).sum())),
        std_error_hc1=_std_error_hc1(rows),
        cluster_robust=cluster_robust,
        n_draws=n_draws,
    )
