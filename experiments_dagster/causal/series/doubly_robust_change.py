"""Doubly robust effect on the treated from changes: one cell of a staggered design.

With Δy_i the change of unit i, D treated, X covariates with a constant, e(X) the logistic share of
treated and m(X) the least-squares change of the controls,

    τ = Σ D(Δy − m)/ΣD − Σ w(Δy − m)/Σw,   w = (1 − D) e/(1 − e)

which is right if either model is. Influence scores contain the estimation of both models. Without
covariates it is the difference of mean changes. Scores are scaled by √(n_a/(n_a − k_a)) per arm
(k = 1 for the treated, the number of columns for the controls), so that without covariates Σψ² is
the HC2 variance.

References:
    Sant'Anna & Zhao 2020, J. of Econometrics 219, equations 2.6 and 3.1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LARGEST_SHARE = 0.999  # fitted share of treated of a control: its odds outweigh all others
COMPARABLE_SHARE = 0.99  # fitted share of a treated unit: beyond it no control is like it
MOST_INCOMPARABLE = 0.05  # of the treated; METHODS 11.8
NEWTON_STEPS = 50
CONVERGED = 1e-10  # largest gradient per unit
SINGULAR = 1e-8


def effect_on_change(
    change: Vector, treated: NDArray[np.bool_], covariates: Matrix, *, subject: str
) -> tuple[float, Vector]:
    """Return the effect on the treated and its influence scores, Σψ² being the variance.

    Args:
        change: Shape (n,).
        treated: Shape (n,).
        covariates: Shape (n, p) without a constant; p may be 0.
        subject: Named in errors.

    Raises:
        EstimationError: N_TOO_SMALL below two units in an arm or without residual degrees of
            freedom; SINGULAR_DESIGN; NO_OVERLAP where covariates separate the groups.

    References:
        Sant'Anna & Zhao 2020.
    """
    n_treated = int(treated.sum())
    n_control = len(change) - n_treated
    n_columns = 1 + covariates.shape[1]
    if n_treated < 2 or n_control <= n_columns:  # noqa: PLR2004
        detail = f"{n_treated} treated, {n_control} controls, {n_columns} columns"
        raise EstimationError("N_TOO_SMALL", subject, detail)
    if n_columns == 1:
        return _difference_of_means(change, treated)
    spread = covariates.std(axis=0)
    if not spread.all():
        raise EstimationError("SINGULAR_DESIGN", subject, "a covariate is constant")
    design = np.column_stack(
        [np.ones(len(change)), (covariates - covariates.mean(axis=0)) / spread]
    )
    control = design[~treated]
    if np.linalg.cond(control) > 1 / SINGULAR:
        raise EstimationError(
            "SINGULAR_DESIGN", subject, "covariates of the controls are collinear"
        )
    share, hessian = _logistic(design, treated, subject)
    bread = np.linalg.inv(control.T @ control)
    residual = change - design @ (bread @ (control.T @ change[~treated]))
    odds = np.where(treated, 0.0, share / (1 - share))
    weight = treated.astype(np.float64)
    of_treated = float(weight @ residual) / n_treated
    of_control = float(odds @ residual) / float(odds.sum())
    # How the two fits move each mean, per unit.
    outcome_moves = ((~treated) * residual)[:, None] * design @ bread
    share_moves = (weight - share)[:, None] * design @ np.linalg.inv(hessian)
    score_treated = (
        weight * (residual - of_treated) - outcome_moves @ (design.T @ weight)
    ) / n_treated
    deviation = odds * (residual - of_control)
    score_control = (
        deviation + share_moves @ (design.T @ deviation) - outcome_moves @ (design.T @ odds)
    ) / odds.sum()
    return of_treated - of_control, _rescaled(score_treated - score_control, treated, n_columns)


def _difference_of_means(change: Vector, treated: NDArray[np.bool_]) -> tuple[float, Vector]:
    means = float(change[treated].mean()), float(change[~treated].mean())
    n_treated = int(treated.sum())
    scores = np.where(
        treated,
        (change - means[0]) / n_treated,
        -(change - means[1]) / (len(change) - n_treated),
    )
    return means[0] - means[1], _rescaled(scores, treated, 1)


def _rescaled(scores: Vector, treated: NDArray[np.bool_], n_columns: int) -> Vector:
    n_treated = int(treated.sum())
    n_control = len(treated) - n_treated
    factors = (
        math.sqrt(n_control / (n_control - n_columns)),
        math.sqrt(n_treated / (n_treated - 1)),
    )
    return np.asarray(scores * np.where(treated, factors[1], factors[0]), dtype=np.float64)


def _logistic(design: Matrix, treated: NDArray[np.bool_], subject: str) -> tuple[Vector, Matrix]:
    """Fitted shares and the information matrix at the maximum, by Newton with halving."""
    target = treated.astype(np.float64)
    coefficients = np.zeros(design.shape[1])

    def loss(values: Vector) -> float:
        index = design @ values
        return float(np.logaddexp(0.0, index).sum() - target @ index)

    current = loss(coefficients)
    for _ in range(NEWTON_STEPS):
        share = expit(design @ coefficients)
        gradient = design.T @ (target - share)
        information = design.T @ ((share * (1 - share))[:, None] * design)
        if np.abs(gradient).max() <= CONVERGED * len(target):
            break
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            break
        while loss(coefficients + step) > current and np.abs(step).max() > CONVERGED:
            step = step / 2
        coefficients = coefficients + step
        current = loss(coefficients)
    largest = float(share[~treated].max())
    incomparable = float((share[treated] > COMPARABLE_SHARE).mean())
    if not largest <= LARGEST_SHARE or incomparable > MOST_INCOMPARABLE:
        detail = (
            f"{incomparable:.1%} of the treated have a fitted share of treated above "
            f"{COMPARABLE_SHARE}; the largest of a control is {largest:.4g}"
        )
        raise EstimationError("NO_OVERLAP", subject, detail)
    return np.asarray(share, dtype=np.float64), np.asarray(information, dtype=np.float64)
