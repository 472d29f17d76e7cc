"""Who was treated, given what was known before: the propensity score and its overlap.

    e(x) = 1/(1 + exp(−x'γ)),   γ̂ by Newton: γ ← γ + (X'WX + Λ)⁻¹(X'(T − e) − Λγ),  W = e(1 − e)
    overlap: share of units with e outside [0.01, 0.99], at most 5 %

Covariates are centred and scaled inside; Λ = n·penalty on the scaled slopes, never on the
intercept. Where the covariates separate the groups the likelihood has no maximum: the steps do not
end, and that is refused as NO_OVERLAP, never reported as a fit. METHODS 11.8.

What does not belong here: the effect (`weighting`, `matching`, `doubly_robust`).

References:
    Rosenbaum & Rubin 1983; Crump, Hotz, Imbens & Mitnik 2009; Albert & Anderson 1984.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import BoolArray, covariate_matrix
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.cross_fitted import fold_numbers
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

Predict = Callable[[FloatArray], FloatArray]
# From features (n, p) and a 0/1 target (n,) to a function from features to probabilities.
FitProbability = Callable[[FloatArray, FloatArray], Predict]

BOUNDS = (0.01, 0.99)
TRIM_BOUNDS = (0.1, 0.9)  # Crump et al. 2009
MOST_EXTREME = 0.05  # share outside BOUNDS above which there is no overlap
# Newton converges quadratically within ten steps; under separation each step divides the
# decrement by e only, and thirty do not reach the tolerance.
NEWTON_STEPS = 30
DECREMENT = 1e-20  # per unit
COLLINEAR = 1e-10  # smallest eigenvalue of the covariates' correlation matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Propensity:
    """Estimated or known probabilities of treatment, shape (n,), strictly between 0 and 1.

    `design` (n, k) and `information` (k, k) are those of the fit, with which its uncertainty
    enters an effect; None where the probabilities are known or from models fitted to other units.
    `coefficients` are intercept and slopes in the units of the covariates.
    """

    values: FloatArray
    source: str
    design: FloatArray | None = None
    information: FloatArray | None = None
    coefficients: FloatArray | None = None

    def __post_init__(self) -> None:
        refuse_non_finite(self)
        if not ((self.values > 0) & (self.values < 1)).all():
            raise EstimationError("NO_OVERLAP", "propensity", "a value is 0 or 1")

    @property
    def logit(self) -> FloatArray:
        """Log e/(1 − e), shape (n,)."""
        return np.asarray(np.log(self.values) - np.log1p(-self.values), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How much of the sample can be compared.

    `extreme_share` of the units have a propensity outside `bounds`.
    """

    n: int
    bounds: tuple[float, float]
    extreme_share: float
    most_extreme_share: float
    lowest: float
    highest: float
    has_overlap: bool


def fit_propensity(
    covariates: ArrayLike, is_treated: ArrayLike, *, penalty: float = 0.0
) -> Propensity:
    """Fit a logistic regression with intercept to all units.

    Args:
        covariates: Known before treatment, shape (n, p).
        is_treated: 0 or 1, shape (n,).
        penalty: Ridge penalty per unit on standardised slopes, not negative.

    Raises:
        EstimationError: NO_OVERLAP where the covariates separate the groups; SINGULAR_DESIGN for
            collinear columns without a penalty; NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL.
        ValueError: Shapes differ or the penalty is negative.

    References:
        Rosenbaum & Rubin 1983; METHODS 11.8.

    Examples:
        >>> fit = fit_propensity([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]], [0, 0, 1, 0, 1, 1])
        >>> fit.values.round(6).tolist()
        [0.333333, 0.333333, 0.333333, 0.666667, 0.666667, 0.666667]
    """
    mask = arm_mask(is_treated, len(np.asarray(is_treated)))
    matrix = covariate_matrix(covariates, len(mask))
    if not penalty >= 0:
        msg = f"penalty is {penalty}, need >= 0"
        raise ValueError(msg)
    centre, scale = matrix.mean(axis=0), _spread(matrix)
    design = np.column_stack([np.ones(len(mask)), (matrix - centre) / scale])
    ridge = np.r_[0.0, np.full(matrix.shape[1], penalty * len(mask))]
    if penalty == 0:
        _refuse_collinear(design[:, 1:])
    scaled, information = _newton(design, mask.astype(np.float64), ridge)
    slopes = scaled[1:] / scale
    return Propensity(
        values=np.asarray(expit(design @ scaled), dtype=np.float64),
        source="logistic" if penalty == 0 else "logistic_ridge",
        design=design,
        information=information,
        coefficients=np.r_[scaled[0] - centre @ slopes, slopes],
    )


def cross_fitted_propensity(
    covariates: ArrayLike,
    is_treated: ArrayLike,
    unit_keys: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    fit: FitProbability | None = None,
) -> Propensity:
    """Predict each unit's probability by a model fitted to the other folds.

    Args:
        covariates: Known before treatment, shape (n, p).
        is_treated: 0 or 1, shape (n,).
        unit_keys: Text or integers, shape (n,); equal keys share a fold.
        folds: At least 2.
        seed: Of the fold assignment.
        fit: Another model, such as boosted trees; default the logistic regression.

    Raises:
        EstimationError: As `fit_propensity`, in any fold.
    """
    mask = arm_mask(is_treated, len(np.asarray(is_treated)))
    matrix = covariate_matrix(covariates, len(mask))
    fold_of = fold_numbers(unit_keys, folds=folds, seed=seed)
    if fold_of.shape != mask.shape:
        msg = f"unit_keys have shape {fold_of.shape}, need {mask.shape}"
        raise ValueError(msg)
    values = np.empty(len(mask))
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        model = (fit or fit_logistic)(matrix[~held_out], mask[~held_out].astype(np.float64))
        values[held_out] = model(matrix[held_out])
    return Propensity(values=unit_column(values, "propensity"), source="cross_fitted")


def known_propensity(values: float | ArrayLike, n: int) -> Propensity:
    """Return the probabilities of a design that is known, such as a randomised share."""
    filled = np.broadcast_to(np.asarray(values, dtype=np.float64), (n,)).copy()
    return Propensity(values=filled, source="known")


def fit_logistic(features: FloatArray, target: FloatArray, *, penalty: float = 0.0) -> Predict:
    """Fit the logistic regression and return its prediction for other units."""
    coefficients = fit_propensity(features, target, penalty=penalty).coefficients

    def predict(rows: FloatArray) -> FloatArray:
        assert coefficients is not None
        return np.asarray(expit(coefficients[0] + rows @ coefficients[1:]), dtype=np.float64)

    return predict


def measure_overlap(
    propensity: Propensity,
    *,
    bounds: tuple[float, float] = BOUNDS,
    most_extreme_share: float = MOST_EXTREME,
) -> Overlap:
    """Return the share of units whose propensity is outside the bounds.

    Examples:
        >>> measure_overlap(known_propensity(0.5, 10)).has_overlap
        True
    """
    low, high = _checked_bounds(bounds)
    is_extreme = (propensity.values < low) | (propensity.values > high)
    share = float(is_extreme.mean())
    return Overlap(
        n=len(propensity.values),
        bounds=bounds,
        extreme_share=share,
        most_extreme_share=most_extreme_share,
        lowest=float(propensity.values.min()),
        highest=float(propensity.values.max()),
        has_overlap=share <= most_extreme_share,
    )


def require_overlap(propensity: Propensity) -> Overlap:
    """Return the overlap, or refuse.

    Raises:
        EstimationError: NO_OVERLAP with the share of extreme propensities.
    """
    overlap = measure_overlap(propensity)
    if not overlap.has_overlap:
        detail = (
            f"{overlap.extreme_share:.1%} of {overlap.n} units have a propensity outside "
            f"{list(overlap.bounds)}, at most {overlap.most_extreme_share:.0%} allowed; "
            f"hint: trim to {list(TRIM_BOUNDS)} and report the trimmed estimand"
        )
        raise EstimationError("NO_OVERLAP", "propensity", detail)
    return overlap


def inside_bounds(propensity: Propensity, bounds: tuple[float, float] = TRIM_BOUNDS) -> BoolArray:
    """Return which units stay when the sample is trimmed; the estimand is then theirs."""
    low, high = _checked_bounds(bounds)
    return np.asarray((propensity.values >= low) & (propensity.values <= high))


def _newton(
    design: FloatArray, target: FloatArray, ridge: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Coefficients and information of the penalised likelihood, by damped Newton steps."""
    beta = np.zeros(design.shape[1])
    share = target.mean()
    beta[0] = np.log(share) - np.log1p(-share)
    objective = _log_likelihood(design, target, ridge, beta)
    for _ in range(NEWTON_STEPS):
        fitted = expit(design @ beta)
        gradient = design.T @ (target - fitted) - ridge * beta
        information = (design * (fitted * (1 - fitted))[:, None]).T @ design + np.diag(ridge)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            break
        if gradient @ step <= DECREMENT * len(target):
            return beta + step, information
        # Halved until the likelihood does not fall: far starts overshoot.
        for _ in range(NEWTON_STEPS):
            trial = _log_likelihood(design, target, ridge, beta + step)
            if trial >= objective - 1e-12 * abs(objective):
                break
            step = step / 2
        beta, objective = beta + step, trial
    detail = (
        "the logistic likelihood has no maximum: the covariates separate the groups; "
        "hint: drop the covariate that decides the treatment, or trim the sample to where both "
        "groups occur"
    )
    raise EstimationError("NO_OVERLAP", "propensity", detail)


def _log_likelihood(
    design: FloatArray, target: FloatArray, ridge: FloatArray, beta: FloatArray
) -> float:
    linear = design @ beta
    fit = float(log_expit(np.where(target > 0, linear, -linear)).sum())
    return fit - float(ridge @ beta**2) / 2


def _spread(matrix: FloatArray) -> FloatArray:
    """Standard deviations; a constant column is not estimable beside the intercept."""
    spread = matrix.std(axis=0)
    is_constant = spread <= 1e-12 * np.abs(matrix).max(axis=0, initial=0.0)
    if is_constant.any():
        column = int(np.flatnonzero(is_constant)[0])
        raise EstimationError("SINGULAR_DESIGN", "covariates", f"column {column} is constant")
    return np.asarray(spread, dtype=np.float64)


def _refuse_collinear(standard: FloatArray) -> None:
    if not standard.shape[1]:
        return
    smallest = float(np.linalg.eigvalsh(standard.T @ standard / len(standard))[0])
    if smallest < COLLINEAR:
        detail = f"smallest eigenvalue of the correlations {smallest:.1e}; hint: drop a column"
        raise EstimationError("SINGULAR_DESIGN", "covariates", detail)


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 <= low < high <= 1:
        msg = f"bounds are {bounds}, need 0 <= low < high <= 1"
        raise ValueError(msg)
    return low, high
