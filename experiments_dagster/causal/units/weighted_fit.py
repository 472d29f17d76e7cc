"""Weighted ridge regression: the second step of the R-learner.

    minimise Σ w_i (y_i − a − x_i'b)² + λ n w̄ ‖b‖²      (x standardised by its weighted moments)

λ is 0 for least squares, else the minimiser of generalised cross-validation of the weighted errors.
With equal weights it is `stats.methods.units.cross_fitted.fit_ridge`.

References:
    Hoerl & Kennard 1970; Golub, Heath & Wahba 1979; Nie & Wager 2021.
"""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.causal.units.propensity import Predict
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.cross_fitted import PENALTIES

EPS = float(np.finfo(np.float64).eps)


def fit_weighted_ridge(
    features: FloatArray,
    target: FloatArray,
    weights: FloatArray,
    *,
    penalty: float | None = None,
) -> Predict:
    """Fit the regression and return its prediction.

    Constant features have no weight.

    Args:
        features: Shape (n, p).
        target: Shape (n,).
        weights: Not negative, shape (n,).
        penalty: λ, not negative; default by generalised cross-validation.

    Raises:
        EstimationError: ZERO_DENOMINATOR where the weights sum to zero.
        ValueError: A negative weight or penalty.

    Examples:
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 5.0])
        >>> fit_weighted_ridge(x, y, np.array([1.0, 1.0, 0.0]), penalty=0.0)(x).round(9).tolist()
        [0.0, 1.0, 2.0]
    """
    if (weights < 0).any() or not (penalty is None or penalty >= 0):
        msg = f"{int((weights < 0).sum())} negative weights, penalty {penalty}; need none, >= 0"
        raise ValueError(msg)
    if not weights.sum() > 0:
        raise EstimationError("ZERO_DENOMINATOR", "weights", "they sum to zero")
    n = len(target)
    share = weights / weights.mean()
    root = np.sqrt(share)
    centre, level = share @ features / n, float(share @ target) / n
    spread = np.sqrt(share @ np.square(features - centre) / n)
    is_used = spread > 16 * EPS * np.abs(features).max(axis=0, initial=0.0)
    scale = np.where(is_used, spread, 1.0)
    standard = root[:, None] * ((features - centre) / scale * is_used)
    deviations = root * (target - level)
    eigenvalues, vectors = np.linalg.eigh(standard.T @ standard / n)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    projected = vectors.T @ (standard.T @ deviations) / n
    chosen = penalty
    if chosen is None:
        chosen = _best_penalty(eigenvalues, projected, float(deviations @ deviations) / n, n)
    denominator = eigenvalues + chosen
    is_estimable = denominator > EPS * max(len(eigenvalues), 1)
    slopes = np.divide(projected, denominator, out=np.zeros_like(projected), where=is_estimable)
    coefficients = (vectors @ slopes) / scale * is_used

    def predict(rows: FloatArray) -> FloatArray:
        return np.asarray(level + (rows - centre) @ coefficients, dtype=np.float64)

    return predict


def _best_penalty(
    eigenvalues: FloatArray, projected: FloatArray, mean_square: float, n: int
) -> float:
    """The penalty of the grid with the least generalised cross-validation error."""
    denominator = eigenvalues[:, None] + PENALTIES
    explained = np.square(projected)[:, None] * (eigenvalues[:, None] + 2 * PENALTIES)
    residual = np.maximum(mean_square - (explained / denominator**2).sum(axis=0), 0.0)
    trace = 1 + (eigenvalues[:, None] / denominator).sum(axis=0)
    free = np.maximum(1 - trace / n, EPS)
    return float(PENALTIES[np.argmin(residual / free**2)])
