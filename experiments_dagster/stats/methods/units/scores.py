"""Influence scores of plain comparisons: what every unit contributes (METHODS section 0).

    means    ψ_i = ±(Y_i − m_a)/√(n_a(n_a − 1))
    ratios   the same with L_i = (N_i − R̂_a D_i)/D̄_a in place of Y_i − m_a

The squares sum to the variance of the difference, with the n/(n − 1) of the sample variance.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.methods.units.interacted import Vector


def mean_scores(y: Vector, is_treated: NDArray[np.bool_]) -> Vector:
    """Return the scores of a difference of means, shape (n,).

    Examples:
        >>> scores = mean_scores(np.array([1.0, 3.0, 2.0, 6.0]), np.array([0, 0, 1, 1], dtype=bool))
        >>> round(float(np.square(scores).sum()), 9)
        5.0
    """
    deviations = np.empty(len(y))
    for rows in (~is_treated, is_treated):
        deviations[rows] = y[rows] - y[rows].mean()
    return _scaled(deviations, is_treated)


def ratio_scores(numerator: Vector, denominator: Vector, is_treated: NDArray[np.bool_]) -> Vector:
    """Return the scores of a difference of ratios of totals, shape (n,).

    Each arm has its own ratio and mean denominator, which is not zero.
    """
    linear = np.empty(len(numerator))
    for rows in (~is_treated, is_treated):
        top, bottom = numerator[rows], denominator[rows]
        linear[rows] = (top - top.sum() / bottom.sum() * bottom) / bottom.mean()
    return _scaled(linear, is_treated)


def _scaled(deviations: Vector, is_treated: NDArray[np.bool_]) -> Vector:
    n_treatment = int(is_treated.sum())
    n_control = len(is_treated) - n_treatment
    per_arm = [sign / math.sqrt(n * (n - 1)) for sign, n in ((1, n_treatment), (-1, n_control))]
    scores: Vector = deviations * np.where(is_treated, *per_arm)
    return scores
