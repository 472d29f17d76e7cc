"""CUPAC: one prediction from pre-period data as a covariate (METHODS 3.2).

    f̂_k = argmin over training folds Σ(y − f(x))² + λ‖β‖²   (features standardised there)
    prediction_i = f̂_{k(i)}(x_i),  k(i) = hash(seed, unit key) mod folds

Every unit is predicted by a model that never saw it. λ is the minimiser of generalised
cross-validation within the training folds: GCV(λ) = (RSS/n)/(1 − tr S_λ/n)². Only pre-period data
enters: the target is a later stretch of the pre-period, the features an earlier one. The prediction
is one covariate of `compare_adjusted`, which stays unbiased however bad the model is.

References:
    Tang et al. 2020 (CUPAC); Golub, Heath & Wahba 1979; Chernozhukov et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import Matrix, Vector, unit_column

Predict = Callable[[Matrix], Vector]
Fit = Callable[[Matrix, Vector], Predict]

PENALTIES = np.logspace(-6, 4, 41)  # λ/n: from least squares to the mean
MIN_TRAINING = 10  # units; fewer do not choose a penalty
# FNV-1a and the finaliser of SplitMix64: a hash that is the same on every machine and version.
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def out_of_fold_predictions(
    y: ArrayLike,
    features: ArrayLike,
    unit_keys: ArrayLike,
    *,
    folds: int = 5,
    penalty: float | None = None,
    seed: int = 0,
    fit: Fit | None = None,
    predict_at: ArrayLike | None = None,
) -> Vector:
    """Predict every unit by a model fitted to the other folds.

    Args:
        y: Target from a later stretch of the pre-period, shape (n,).
        features: From an earlier stretch, shape (n, p).
        unit_keys: Text or integers, shape (n,); equal keys share a fold.
        folds: Number of folds, at least 2.
        penalty: λ/n of the ridge regression; default by generalised cross-validation.
        seed: Of the fold assignment, 0 <= seed < 2**64.
        fit: Another model: from (features, target) to a function from features to predictions.
        predict_at: The features one stretch later, just before exposure, shape (n, p): the
            prediction is then one of the outcome itself. Default `features`.

    Returns:
        Predictions, shape (n,); the order of the rows changes them by rounding alone.

    Raises:
        EstimationError: NON_FINITE_INPUT; N_TOO_SMALL below 10 units outside a fold.
        ValueError: Shapes differ, fewer than 2 folds, a penalty that is negative or beside `fit`.

    References:
        Tang et al. 2020; Golub, Heath & Wahba 1979; METHODS 3.2.

    Examples:
        >>> x = np.linspace(0, 1, 40)[:, None]
        >>> predicted = out_of_fold_predictions(3 * x[:, 0], x, np.arange(40))
        >>> float(np.abs(predicted - 3 * x[:, 0]).max()) < 1e-4
        True
    """
    target = unit_column(y, "y")
    rows = _feature_matrix(features, len(target), "features")
    later = rows if predict_at is None else _feature_matrix(predict_at, len(target), "predict_at")
    if later.shape != rows.shape or (fit is not None and penalty is not None):
        msg = (
            f"features {rows.shape}, predict_at {later.shape}, penalty {penalty}: "
            "need equal shapes, and a penalty only without fit"
        )
        raise ValueError(msg)
    model = fit if fit is not None else partial(fit_ridge, penalty=penalty)
    fold_of = fold_numbers(unit_keys, folds=folds, seed=seed)
    if fold_of.shape != target.shape:
        msg = f"unit_keys have shape {fold_of.shape}, need {target.shape}"
        raise ValueError(msg)
    predictions = np.empty(len(target))
    for fold in range(folds):
        held_out = fold_of == fold
        n_training = int((~held_out).sum())
        if n_training < MIN_TRAINING:
            raise EstimationError(
                "N_TOO_SMALL", "prediction", f"{n_training} units to train on, need {MIN_TRAINING}"
            )
        if held_out.any():
            predict = model(rows[~held_out], target[~held_out])
            predictions[held_out] = predict(later[held_out])
    return unit_column(predictions, "prediction")


def fit_ridge(features: Matrix, target: Vector, *, penalty: float | None = None) -> Predict:
    """Fit a ridge regression on standardised features and return its prediction.

    Constant features have no weight; a constant target is predicted by itself.

    Args:
        features: Shape (n, p).
        target: Shape (n,).
        penalty: λ/n, not negative; default by generalised cross-validation.

    References:
        Hoerl & Kennard 1970; Golub, Heath & Wahba 1979.
    """
    if penalty is not None and not penalty >= 0:
        msg = f"penalty is {penalty}, need >= 0"
        raise ValueError(msg)
    n = len(target)
    centre, level = features.mean(axis=0), float(target.mean())
    spread = features.std(axis=0)
    is_used = spread > 16 * np.finfo(np.float64).eps * np.abs(features).max(axis=0, initial=0.0)
    scale = np.where(is_used, spread, 1.0)
    standard = (features - centre) / scale * is_used
    deviations = target - level
    eigenvalues, vectors = np.linalg.eigh(standard.T @ standard / n)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    projected = vectors.T @ (standard.T @ deviations) / n
    chosen = penalty
    if chosen is None:
        chosen = _best_penalty(eigenvalues, projected, float(deviations @ deviations) / n, n)
    denominator = eigenvalues + chosen
    is_estimable = denominator > np.finfo(np.float64).eps * max(len(eigenvalues), 1)
    slopes = np.divide(projected, denominator, out=np.zeros_like(projected), where=is_estimable)
    weights = (vectors @ slopes) / scale * is_used

    def predict(rows: Matrix) -> Vector:
        return np.asarray(level + (rows - centre) @ weights, dtype=np.float64)

    return predict


def fold_numbers(unit_keys: ArrayLike, *, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each unit from a hash of its key, shape (n,).

    Examples:
        >>> fold_numbers(["a", "b", "c"], folds=5).tolist()
        [1, 1, 0]
    """
    if folds < 2 or not 0 <= seed < 2**64:  # noqa: PLR2004
        msg = f"folds is {folds}, seed {seed}: need at least 2 folds and 0 <= seed < 2**64"
        raise ValueError(msg)
    keys = np.asarray(unit_keys)
    if keys.ndim != 1 or keys.dtype.kind == "f":
        msg = f"unit_keys are {keys.dtype} of shape {keys.shape}, need text or integers, (n,)"
        raise ValueError(msg)
    text = np.ascontiguousarray(keys.astype(np.str_))
    points = text.view(np.uint32).reshape(len(text), text.itemsize // 4).astype(np.uint64)
    hashed = np.full(len(text), FNV_OFFSET ^ np.uint64(seed))
    with np.errstate(over="ignore"):
        for column in points.T:
            # Padding after the end of a shorter key leaves its hash alone.
            hashed = np.where(column > 0, (hashed ^ column) * FNV_PRIME, hashed)
        for shift, factor in MIX:
            hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(factor)
    return (hashed % np.uint64(folds)).astype(np.int64)


def _best_penalty(eigenvalues: Vector, projected: Vector, mean_square: float, n: int) -> float:
    """The penalty of the grid with the smallest generalised cross-validation error."""
    denominator = eigenvalues[:, None] + PENALTIES
    explained = np.square(projected)[:, None] * (eigenvalues[:, None] + 2 * PENALTIES)
    residual = np.maximum(mean_square - (explained / denominator**2).sum(axis=0), 0.0)
    trace = 1 + (eigenvalues[:, None] / denominator).sum(axis=0)
    free = np.maximum(1 - trace / n, np.finfo(np.float64).eps)
    return float(PENALTIES[np.argmin(residual / free**2)])


def _feature_matrix(features: ArrayLike, n: int, name: str) -> Matrix:
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != n:  # noqa: PLR2004
        msg = f"{name} have shape {matrix.shape}, need ({n}, p)"
        raise ValueError(msg)
    if not np.isfinite(matrix).all():
        raise EstimationError("NON_FINITE_INPUT", name)
    return matrix
