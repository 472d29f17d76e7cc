"""Gradient boosted trees as a base of the learners, by scikit-learn, which [uplift] brings.

    ŷ(x) = Σ_{m<=M} νh_m(x)        h_m: a tree of at most 4 leaves for the gradient of the loss

Squared loss; for a target of 0 and 1 the log loss, with the probability as prediction. The number
of trees M has the least loss on a fifth of the rows, drawn by the seed; all rows are then fitted
again with that many. A target that is mostly noise, as pseudo-outcomes are, then gets few trees: a
number that suits outcomes would follow the noise.

Rows are put in an order of their own first, so that their order changes nothing. Fits and
predictions use one thread: a second gained nothing at 16,000 rows, and on a busy machine waiting
for it took up to twenty times as long. The trees are the same with two.

What does not belong here: standard errors, which trees do not have.

References:
    Friedman 2001; Ke et al. 2017 (histograms); Zhang & Yu 2005 (early stopping).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.causal.units.effects import BoolArray
from experiments_dagster.causal.units.propensity import Predict
from experiments_dagster.stats.errors import EstimationError

MISSING = "boosted trees need the extra [uplift]: pip install 'experiments-dagster[uplift]'"
LEAVES = 4
LEARNING_RATE = 0.2
MOST_TREES = 100
PATIENCE = 5  # trees without a lower loss on the rows held out
HELD_OUT = 5  # one row of so many chooses the number of trees
MIN_EVENTS = 10  # of zeros and of ones; fewer are predicted by their share
THREADS = 1


def require_boosting() -> Any:
    """The module with the trees.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        return importlib.import_module("sklearn.ensemble")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(MISSING) from None


def boosted_base(
    seed: int,
) -> tuple[
    Callable[[FloatArray, FloatArray], Predict],
    Callable[[FloatArray, FloatArray, FloatArray], Predict],
]:
    """The models without and with weights, with their seed.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    require_boosting()
    return partial(fit_boosted, seed=seed), partial(fit_weighted_boosted, seed=seed)


def fit_boosted(features: FloatArray, target: FloatArray, *, seed: int) -> Predict:
    """Fit boosted trees and return their prediction: a mean, or the probability of a 1.

    Args:
        features: Shape (n, p).
        target: Shape (n,).
        seed: Of the rows that choose the number of trees, not negative.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    return _fit(features, target, None, seed, is_binary=bool(np.isin(target, (0.0, 1.0)).all()))


def fit_weighted_boosted(
    features: FloatArray, target: FloatArray, weights: FloatArray, *, seed: int
) -> Predict:
    """Fit boosted trees by weighted least squares: the second step of the R-learner.

    Args:
        features: Shape (n, p).
        target: Shape (n,).
        weights: Not negative, shape (n,).
        seed: As for `fit_boosted`.

    Raises:
        EstimationError: ZERO_DENOMINATOR where the weights sum to zero.
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: A negative weight.
    """
    if (weights < 0).any():
        msg = f"{int((weights < 0).sum())} negative weights, need none"
        raise ValueError(msg)
    if not weights.sum() > 0:
        raise EstimationError("ZERO_DENOMINATOR", "weights", "they sum to zero")
    return _fit(features, target, weights / weights.mean(), seed, is_binary=False)


def _fit(
    features: FloatArray,
    target: FloatArray,
    weights: FloatArray | None,
    seed: int,
    *,
    is_binary: bool,
) -> Predict:
    trees = require_boosting()
    # Features first: that the target is moved or turned around changes no row's place.
    given = () if weights is None else (weights,)
    order = np.lexsort((*given, target, *features.T))
    x, y = features[order], target[order]
    w = None if weights is None else weights[order]
    if _is_constant(y, is_binary=is_binary):
        level = float(np.average(y, weights=w))
        return lambda rows: np.full(len(rows), level)
    kind = (
        trees.HistGradientBoostingClassifier if is_binary else trees.HistGradientBoostingRegressor
    )
    make = partial(
        kind, learning_rate=LEARNING_RATE, max_leaf_nodes=LEAVES, random_state=seed % 2**32
    )
    held_out = _held_out(y, seed, is_binary=is_binary)
    with _limited_threads():
        chosen = _tree_count(make, x, y, w, held_out)
        model = make(max_iter=chosen, early_stopping=False).fit(x, y, sample_weight=w)

    def predict(rows: FloatArray) -> FloatArray:
        with _limited_threads():
            found = model.predict_proba(rows)[:, 1] if is_binary else model.predict(rows)
        return np.asarray(found, dtype=np.float64)

    return predict


def _tree_count(
    make: Callable[..., Any],
    x: FloatArray,
    y: FloatArray,
    weights: FloatArray | None,
    held_out: BoolArray,
) -> int:
    """The number of trees with the least loss on the rows held out, at least 1."""
    fitted, judging = (None if weights is None else weights[part] for part in (~held_out, held_out))
    model = make(
        max_iter=MOST_TREES,
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        tol=0.0,
        scoring="loss",
    ).fit(
        x[~held_out],
        y[~held_out],
        sample_weight=fitted,
        X_val=x[held_out],
        y_val=y[held_out],
        sample_weight_val=judging,
    )
    # The first score is that of the mean, before any tree.
    return max(int(np.argmax(model.validation_score_)), 1)


def _held_out(y: FloatArray, seed: int, *, is_binary: bool) -> BoolArray:
    """Every fifth row of a random order, of zeros and ones alike."""
    order = np.random.default_rng(seed).permutation(len(y))
    if is_binary:
        order = order[np.argsort(y[order], kind="stable")]
    held_out = np.zeros(len(y), dtype=np.bool_)
    held_out[order[::HELD_OUT]] = True
    return held_out


def _is_constant(y: FloatArray, *, is_binary: bool) -> bool:
    """Whether trees have nothing to tell apart."""
    if is_binary:
        return min(float(y.sum()), float(len(y) - y.sum())) < MIN_EVENTS
    return len(y) < HELD_OUT or float(np.ptp(y)) == 0


@cache
def _controller() -> Any:
    """Finds the libraries with threads, once: those of the trees are loaded by now."""
    return importlib.import_module("threadpoolctl").ThreadpoolController()


def _limited_threads() -> Any:
    return _controller().limit(limits=THREADS, user_api="openmp")
