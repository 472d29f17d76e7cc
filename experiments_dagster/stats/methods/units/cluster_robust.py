"""One coefficient of least squares with clustered errors: CR2 or CR1 (METHODS 3.7).

With X = QR, v = R⁻ᵀℓ, B_g = Q_g'Q_g, M_g = (I − B_g)^(−1/2) (Moore-Penrose where singular):

    CR2   ψ_g = v'M_g Q_g'e_g   (Bell & McCaffrey's (I − H_gg)^(−1/2)e_g, seen from the p columns)
    CR1   ψ_g = √c v'Q_g'e_g,   c = G/(G − 1) · (n − 1)/(n − p)
    V = Σψ_g²

Satterthwaite degrees of freedom of CR2 under independent errors of equal variance, with
f_g = B_g M_g v, d_g = v'M_g B_g M_g v and Γ = diag(d) − FF' (F has the rows f_g):

    ν = (tr Γ)²/tr Γ² = (Σd − Σ|f|²)²/[Σd² − 2Σ d|f|² + ‖F'F‖²]

CR1 takes G − 1. Nothing of size n × n or of the size of a cluster squared is formed. One unit per
cluster gives HC2, and for two groups the degrees of freedom of Welch with equal variances.

References:
    Bell & McCaffrey 2002; Imbens & Kolesár 2016; Pustejovsky & Tipton 2018; Cameron & Miller 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import (
    SINGULAR,
    Matrix,
    Vector,
    unit_column,
)
from experiments_dagster.stats.moments import CONSTANT_SD

FULL_LEVERAGE = 1e-10  # 1 − eigenvalue of B_g below which a cluster fits its direction alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRobustCoefficient:
    """A linear combination of coefficients with its clustered error.

    Args:
        estimate: ℓ'β̂.
        std_error: Its standard error.
        degrees_of_freedom: For t quantiles.
        variance_formula: `cr2` or `cr1`.
        clusters: Labels in sorted order, shape (G,).
        scores: ψ_g with Σψ² the variance, in the order of `clusters`.
    """

    estimate: float
    std_error: float
    degrees_of_freedom: float
    variance_formula: str
    clusters: NDArray[np.generic]
    scores: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """Least squares in an orthonormal basis, rows sorted by cluster."""

    basis: Matrix
    residuals: Vector
    target: Vector
    estimate: float
    largest: float
    clusters: NDArray[np.generic]
    starts: NDArray[np.int64]


def cr2(
    y: ArrayLike, design: ArrayLike, clusters: ArrayLike, contrast: ArrayLike
) -> ClusterRobustCoefficient:
    """Estimate ℓ'β with the bias-reduced CR2 variance and Satterthwaite degrees of freedom.

    Args:
        y: Outcome, shape (n,).
        design: X with the column of ones where wanted, shape (n, p).
        clusters: Label of each row, shape (n,).
        contrast: ℓ, shape (p,).

    Raises:
        EstimationError: NON_FINITE_INPUT; N_TOO_SMALL below 2 clusters or without a residual
            degree of freedom; SINGULAR_DESIGN; NOT_IDENTIFIED where single clusters determine the
            contrast; ZERO_VARIANCE.

    References:
        Bell & McCaffrey 2002, Survey Methodology 28(2); Imbens & Kolesár 2016, Rev. Econ. Stat. 98.

    Examples:
        >>> y = [1.0, 2.0, 2.0, 4.0, 3.0, 5.0, 6.0, 6.0]
        >>> treated = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> design = np.column_stack([np.ones(8), treated])
        >>> result = cr2(y, design, list("aabbccdd"), [0, 1])
        >>> round(result.estimate, 6), round(result.std_error, 6), round(result.degrees_of_freedom)
        (2.75, 1.25, 2)
    """
    fit = _least_squares(y, design, clusters, contrast)
    columns = [_sum_by_cluster(fit.basis * column[:, None], fit.starts) for column in fit.basis.T]
    gram = np.stack(columns, axis=1)
    eigenvalues, vectors = np.linalg.eigh(gram)
    free = 1 - eigenvalues
    root = np.where(free > FULL_LEVERAGE, 1 / np.sqrt(np.maximum(free, FULL_LEVERAGE)), 0.0)
    # M_g v, one row for each cluster.
    weights = np.einsum("gij,gj->gi", vectors, root * np.einsum("gji,j->gi", vectors, fit.target))
    sums = _sum_by_cluster(fit.basis * fit.residuals[:, None], fit.starts)
    return _coefficient(
        fit,
        scores=np.einsum("gi,gi->g", weights, sums),
        df=_satterthwaite(weights, np.einsum("gij,gj->gi", gram, weights)),
        formula="cr2",
    )


def cr1(
    y: ArrayLike, design: ArrayLike, clusters: ArrayLike, contrast: ArrayLike
) -> ClusterRobustCoefficient:
    """Estimate ℓ'β with the CR1 variance that Stata prints, G − 1 degrees of freedom.

    Too small with few or unequal clusters: for comparison with other tools. Arguments and errors
    are those of `cr2`.

    References:
        Liang & Zeger 1986; Cameron & Miller 2015.
    """
    fit = _least_squares(y, design, clusters, contrast)
    n_clusters, (n, p) = len(fit.starts), fit.basis.shape
    correction = n_clusters / (n_clusters - 1) * (n - 1) / (n - p)
    sums = _sum_by_cluster(fit.basis * fit.residuals[:, None], fit.starts)
    return _coefficient(
        fit, scores=math.sqrt(correction) * (sums @ fit.target), df=n_clusters - 1, formula="cr1"
    )


def _least_squares(
    y: ArrayLike, design: ArrayLike, clusters: ArrayLike, contrast: ArrayLike
) -> _Fit:
    outcome, combination = unit_column(y, "y"), unit_column(contrast, "contrast")
    matrix, labels = np.asarray(design, dtype=np.float64), np.asarray(clusters)
    n, p = len(outcome), len(combination)
    if matrix.shape != (n, p) or labels.shape != (n,):
        msg = f"design {matrix.shape}, clusters {labels.shape}: need ({n}, {p}) and ({n},)"
        raise ValueError(msg)
    if not np.isfinite(matrix).all():
        raise EstimationError("NON_FINITE_INPUT", "design")
    levels, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(levels) < 2 or n <= p:  # noqa: PLR2004
        detail = f"{len(levels)} clusters, {n} rows, {p} columns; need 2 and more rows than columns"
        raise EstimationError("N_TOO_SMALL", "clusters", detail)
    scale = np.linalg.norm(matrix, axis=0)
    if not scale.all():
        raise EstimationError("SINGULAR_DESIGN", "design", "a column is zero")
    order = np.argsort(codes, kind="stable")
    basis, triangle = np.linalg.qr(matrix[order] / scale)
    if np.abs(np.diag(triangle)).min() <= SINGULAR:
        raise EstimationError("SINGULAR_DESIGN", "design", "columns depend on each other")
    target = np.linalg.solve(triangle.T, combination / scale)
    projection = basis.T @ outcome[order]
    residuals = outcome[order] - basis @ projection
    rest = basis.T @ residuals  # a second pass, for an outcome far from zero
    return _Fit(
        basis=basis,
        residuals=residuals - basis @ rest,
        target=target,
        estimate=float(target @ (projection + rest)),
        largest=float(np.abs(outcome).max()),
        clusters=levels,
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]),
    )


def _sum_by_cluster(rows: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.add.reduceat(rows, starts, axis=0)


def _satterthwaite(weights: Matrix, projected: Matrix) -> float:
    """ν from M_g v and B_g M_g v, both of shape (G, p)."""
    own = np.einsum("gi,gi->g", weights, projected)
    shared = np.square(projected).sum(axis=1)
    trace = float((own - shared).sum())
    squares = float((own * (own - 2 * shared)).sum()) + float(
        np.square(projected.T @ projected).sum()
    )
    if not trace > FULL_LEVERAGE * float(own.sum()) or squares <= 0:
        raise EstimationError("NOT_IDENTIFIED", "cr2", "single clusters determine the contrast")
    return trace**2 / squares


def _coefficient(fit: _Fit, *, scores: Vector, df: float, formula: str) -> ClusterRobustCoefficient:
    std_error = math.sqrt(float(np.square(scores).sum()))
    if std_error <= CONSTANT_SD * fit.largest * float(np.linalg.norm(fit.target)):
        raise EstimationError("ZERO_VARIANCE", formula, "the residuals of every cluster cancel")
    scores.setflags(write=False)
    return ClusterRobustCoefficient(
        estimate=fit.estimate,
        std_error=std_error,
        degrees_of_freedom=df,
        variance_formula=formula,
        clusters=fit.clusters,
        scores=scores,
    )
