"""The fully interacted regression that covariate adjustment stands on, arm by arm.

Regressing Y on (1, T, X−X̄, T·(X−X̄)) is one regression of Y on (1, X−X̄) in each arm; the intercept
is the adjusted mean at X̄, the mean of all rows (or of all arms of the contrast set, where given):

    adjusted mean_a = m_a − β_a'(X̄_a − X̄)
    HC2 part_a = Σ a_i² e_i²/(1 − h_i),   a_i = 1/n_a − (X_i − X̄_a)'S_a⁻¹(X̄_a − X̄)
    ψ_i = ± a_i e_i/√(1 − h_i),   so that Σψ² is the HC2 variance of the difference

e are residuals, h leverages, S_a the centred cross-products of the arm; all from one QR of the
centred and scaled covariates, so neither offset nor scale of a column matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import check_sizes

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SINGULAR = 1e-8  # share of a scaled column left by the ones before it; METHODS 3.2, condition 1e8
HEADROOM = 64.0  # for the weights that squares are multiplied with, such as a bootstrap's
CONSTANT = 1e-12  # spread of a column without variance, relative to its largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariates:
    """Usable covariates, centred at X̄ and scaled, with the names left out."""

    matrix: Matrix
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFit:
    """Regression of one arm.

    Args:
        intercept: Adjusted mean at X̄.
        slopes: Coefficients of the scaled covariates, shape (p,).
        weighted_residuals: a_i e_i/√(1 − h_i), shape (n_a,).
        leverage: h_i, shape (n_a,).
    """

    intercept: float
    slopes: Vector
    weighted_residuals: Vector
    leverage: Vector


def with_missing_indicator(
    values: ArrayLike, *, name: str = "pre_period"
) -> tuple[Matrix, tuple[str, ...]]:
    """Replace missing values by 0 and add the column that says where (METHODS 3.3).

    Args:
        values: Shape (n,), NaN where a unit has no pre-period.
        name: Name of the covariate.

    Returns:
        Matrix (n, 1) and the name where nothing is missing, else (n, 2) and both names.

    Raises:
        EstimationError: NON_FINITE_INPUT for an infinite value.

    Examples:
        >>> matrix, names = with_missing_indicator([2.0, float("nan")], name="revenue")
        >>> matrix.tolist(), names
        ([[2.0, 0.0], [0.0, 1.0]], ('revenue', 'revenue_missing'))
    """
    column = np.asarray(values, dtype=np.float64)
    is_missing = np.isnan(column)
    if np.isinf(column).any():
        raise EstimationError("NON_FINITE_INPUT", name)
    filled = np.where(is_missing, 0.0, column)
    if not is_missing.any():
        return filled[:, None], (name,)
    return np.column_stack([filled, is_missing.astype(np.float64)]), (name, f"{name}_missing")


def finite_column(values: ArrayLike, name: str) -> Vector:
    """Return one finite value per unit, shape (n,); NON_FINITE_INPUT otherwise."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        msg = f"{name} has shape {column.shape}, need (n,)"
        raise ValueError(msg)
    if not np.isfinite(column).all():
        raise EstimationError("NON_FINITE_INPUT", name)
    return column


def unit_column(values: ArrayLike, name: str) -> Vector:
    """Return one value per unit, shape (n,), finite as sums and squares of them are.

    Raises:
        EstimationError: NON_FINITE_INPUT.
    """
    column = finite_column(values, name)
    # The square of a sum is at most n times the sum of squares: no later sum overflows.
    with np.errstate(over="ignore"):
        squares = HEADROOM * len(column) * float(column @ column)
    if not math.isfinite(squares):
        raise EstimationError("NON_FINITE_INPUT", name, "sums of squares overflow")
    return column


def without_level(values: Vector) -> tuple[Vector, float]:
    """Return values less a level that they share, and the level, without rounding.

    Values within a factor of two of each other lose no digit by this (Sterbenz 1974); means of what
    is left keep those that an offset would cost. Other values come back as they are, at level 0.

    Examples:
        >>> without_level(np.array([1e15 + 0.5, 1e15]))
        (array([0.5, 0. ]), 1000000000000000.0)
    """
    low, high = float(values.min()), float(values.max())
    level = low if 0 < high <= 2 * low else high if 0 > low >= 2 * high else 0.0
    return (values - level if level else values), level


def rescaled_ratio(numerator: Vector, denominator: Vector) -> tuple[Vector, Vector]:
    """Return the columns of a ratio over the power of two next to the mean denominator.

    No ratio changes, and sums of squares of ratios are finite, whatever the unit of each column.

    Raises:
        EstimationError: NON_FINITE_INPUT where they are not.
    """
    exponent = math.frexp(float(denominator.mean()))[1] - 1
    with np.errstate(over="ignore"):
        top = np.ldexp(numerator, -exponent)
    return unit_column(top, "ratio"), np.ldexp(denominator, -exponent)


def arm_mask(is_treated: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Return the treatment indicator as booleans; EMPTY_ARM or N_TOO_SMALL for too small arms."""
    given = np.asarray(is_treated)
    mask = given.astype(np.bool_)
    if mask.shape != (n,) or not np.array_equal(mask, given):
        msg = f"is_treated needs {n} values of 0 or 1, got shape {given.shape}"
        raise ValueError(msg)
    n_treatment = int(np.count_nonzero(mask))
    check_sizes(n - n_treatment, n_treatment)
    return mask


def usable_covariates(
    covariates: ArrayLike,
    is_treated: NDArray[np.bool_],
    names: Sequence[str],
    *,
    centre: ArrayLike | None = None,
) -> Covariates:
    """Centre, scale and keep the columns that both arms can estimate.

    A column is dropped where, in either arm, it is constant, a combination of the columns before
    it, isolates one unit (leverage 1), or leaves no degree of freedom.

    Args:
        covariates: Shape (n, p); p may be 0.
        is_treated: Shape (n,).
        names: One name per column.
        centre: X̄, shape (p,); default the means of these rows.

    Raises:
        EstimationError: NON_FINITE_INPUT naming the column.
    """
    matrix = np.asarray(covariates, dtype=np.float64, order="F")
    if matrix.shape != (len(is_treated), len(names)):
        msg = f"covariates have shape {matrix.shape}, need ({len(is_treated)}, {len(names)})"
        raise ValueError(msg)
    for index, name in enumerate(names):
        if not np.isfinite(matrix[:, index]).all():
            raise EstimationError("NON_FINITE_INPUT", name)
    means = matrix.mean(axis=0)
    centred = matrix - means
    spread = np.abs(centred).max(axis=0)
    kept = list(np.flatnonzero(spread > CONSTANT * np.abs(matrix).max(axis=0)))
    centred = centred.T[kept].T / spread[kept]
    centred -= centred.mean(axis=0)
    if centre is not None:
        centred -= (_checked_centre(centre, names) - means)[kept] / spread[kept]
    arms = [rows_of(centred, ~is_treated), rows_of(centred, is_treated)]
    positions = list(range(len(kept)))
    while positions and (bad := _first_unusable([arm[:, positions] for arm in arms])) is not None:
        del positions[bad]
    used = {kept[position] for position in positions}
    return Covariates(
        matrix=centred.T[positions].T,
        dropped=tuple(name for index, name in enumerate(names) if index not in used),
    )


def rows_of(matrix: Matrix, mask: NDArray[np.bool_]) -> Matrix:
    """Return the rows of one arm, column-major: a few long columns are read one at a time."""
    return np.compress(mask, matrix.T, axis=1).T


def fit_arm(outcome: Vector, covariates: Matrix) -> ArmFit:
    """Regress the outcome of one arm on its usable covariates.

    Args:
        outcome: Shape (n_a,).
        covariates: Rows of `Covariates.matrix` of this arm, shape (n_a, p).
    """
    n = len(outcome)
    centre = covariates.mean(axis=0)
    basis, triangle = np.linalg.qr(covariates - centre)
    outcome_mean = outcome.mean()
    deviations = outcome - outcome_mean
    projection = basis.T @ deviations
    slopes = np.linalg.solve(triangle, projection)
    # Coordinates in the basis of the point X̄, where the adjusted mean is taken.
    target = np.linalg.solve(triangle.T, centre)
    weights = 1 / n - basis @ target
    residuals = deviations - basis @ projection
    leverage = 1 / n + np.square(basis).sum(axis=1)
    return ArmFit(
        intercept=float(outcome_mean - projection @ target),
        slopes=slopes,
        weighted_residuals=weights * residuals / np.sqrt(1 - leverage),
        leverage=leverage,
    )


def _checked_centre(centre: ArrayLike, names: Sequence[str]) -> Vector:
    point = unit_column(centre, "centre")
    if len(point) != len(names):
        msg = f"centre has {len(point)} values, need one for each of {len(names)} covariates"
        raise ValueError(msg)
    return point


def _first_unusable(arms: Sequence[Matrix]) -> int | None:
    """Position of the first column to drop, or None."""
    for arm in arms:
        n = len(arm)
        if arm.shape[1] > n - 2:
            return n - 2
        centred = arm - arm.mean(axis=0)
        is_constant = np.abs(centred).max(axis=0) <= CONSTANT * np.abs(arm).max(axis=0)
        if is_constant.any():
            return int(np.argmax(is_constant))
        basis, triangle = np.linalg.qr(centred / np.linalg.norm(centred, axis=0))
        is_collinear = np.abs(np.diag(triangle)) <= SINGULAR
        if is_collinear.any():
            return int(np.argmax(is_collinear))
        leverage = 1 / n + np.square(basis).sum(axis=1)
        if float(leverage.max()) > 1 - SINGULAR:
            isolated = np.abs(basis[int(np.argmax(leverage))])
            return int(np.argmax(isolated))
    return None
