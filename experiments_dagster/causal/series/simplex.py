"""Weights on the simplex: the convex combination of columns nearest to a target.

    min_w ‖D w‖² + ridge ‖w‖²,    w >= 0, Σw = 1,    D = columns minus target

The point of least norm in a convex hull is a non-negative least-squares problem. For any scale c

    min_{u>=0} ‖D u‖² + ridge ‖u‖² + c² (Σu - 1)²    has    u = s w with one number s > 0,

because for a fixed direction w the best s has no say in w. So one active-set run (Lawson &
Hanson) solves it exactly, without a penalty that must tend to infinity, and w = u / Σu sums to 1.
Where many w fit equally well, the one of least norm is taken, which does not depend on the order
of the columns.

References:
    Lawson & Hanson 1974, chapter 23 (least distance programming); Wolfe 1976.
"""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.stats.errors import EstimationError

# Relative to the largest entry of D: above the solver's rounding, far below any fit that matters.
TIE_RIDGE = 1e-9
MOST_STEPS_PER_COLUMN = 100


def simplex_weights(differences: FloatArray, *, ridge: float = 0.0) -> FloatArray:
    """Return w, shape (J,), for columns minus target, shape (m, J).

    Args:
        differences: D, finite.
        ridge: Penalty on ‖w‖² in units of D squared.

    Raises:
        EstimationError: NOT_IDENTIFIED where the active set does not settle.
    """
    scale = float(np.abs(differences).max()) or 1.0
    n_columns = differences.shape[1]
    root = np.sqrt(ridge / scale**2 + TIE_RIDGE)
    rows = np.vstack([differences / scale, root * np.eye(n_columns), np.ones((1, n_columns))])
    return solve_stacked(rows)


def solve_stacked(rows: FloatArray) -> FloatArray:
    """Return w for rows of D and penalty with a last row of ones, in no particular units."""
    from scipy.optimize import nnls

    goal = np.zeros(len(rows))
    goal[-1] = 1.0
    try:
        loads, _ = nnls(rows, goal, maxiter=MOST_STEPS_PER_COLUMN * rows.shape[1])
    except RuntimeError as error:
        detail = f"{rows.shape[1]} donors; hint: leave out donors that are nearly the same"
        raise EstimationError("NOT_IDENTIFIED", "donor weights", detail) from error
    weights: FloatArray = loads / loads.sum()
    return weights
