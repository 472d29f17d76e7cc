"""Inverse propensity weighting (METHODS 11.8).

    ATE weights   1/e in T, 1/(1 − e) in C
    ATT weights   1 in T, e/(1 − e) in C
    Hajek         Δ̂ = Σ_T wY/Σ_T w − Σ_C wY/Σ_C w                  (default)
    Horvitz-Thompson   Δ̂ = (1/n)[Σ_T Y/e − Σ_C Y/(1 − e)]           (ATE, for comparison: unstable)
    score         ψ = [φ_i + D'I⁻¹x_i(T_i − e_i)]/n,   D = Σ∂φ/∂γ

φ_i is the influence of a unit at known e; the second part is that of estimating γ by logistic
regression with information I, and makes the interval of the ATE shorter, not longer. It is left
out where the probabilities are known or cross-fitted.

Effective sample size of weights: (Σw)²/Σw².

References:
    Horvitz & Thompson 1952; Hirano, Imbens & Ridder 2003; Lunceford & Davidian 2004; Kish 1965.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import BoolArray, UnitEffect, effect_from_scores
from experiments_dagster.causal.units.propensity import Propensity, require_overlap
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

Estimator = Literal["hajek", "horvitz_thompson"]
Target = Literal["ate", "att"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedEffect:
    """A weighted effect with the weights behind it.

    `weights` and `scores` have shape (n,); `max_weight_share` is the largest share of its arm's
    total weight that one unit carries.
    """

    effect: UnitEffect
    estimator: Estimator
    weights: FloatArray
    scores: FloatArray
    ess_control: float
    ess_treatment: float
    max_weight_share: float

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def weighted_effect(
    y: ArrayLike,
    is_treated: ArrayLike,
    propensity: Propensity,
    *,
    target: Target = "ate",
    estimator: Estimator = "hajek",
    alpha: float = 0.05,
) -> WeightedEffect:
    """Estimate an effect by weighting units with their inverse probability of treatment.

    Assumes no unmeasured confounding given the covariates of the propensity, and overlap.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,).
        propensity: Of the same units in the same order.
        target: `ate` over all units or `att` over the treated.
        estimator: `hajek` normalises the weights; `horvitz_thompson` does not, and exists for
            the ATE only.
        alpha: Two-sided level.

    Raises:
        EstimationError: NO_OVERLAP above 5 % extreme propensities; NON_FINITE_INPUT, EMPTY_ARM,
            N_TOO_SMALL, ZERO_VARIANCE.
        ValueError: Shapes differ, or Horvitz-Thompson for the ATT.

    References:
        Hirano, Imbens & Ridder 2003; Lunceford & Davidian 2004, section 3; METHODS 11.8.

    Examples:
        >>> from experiments_dagster.causal.units.propensity import known_propensity
        >>> result = weighted_effect([1, 2, 4, 5], [0, 0, 1, 1], known_propensity(0.5, 4))
        >>> result.effect.estimate, result.ess_control
        (3.0, 2.0)
    """
    outcome = unit_column(y, "outcome")
    mask = arm_mask(is_treated, len(outcome))
    if propensity.values.shape != outcome.shape:
        msg = f"propensity has shape {propensity.values.shape}, need {outcome.shape}"
        raise ValueError(msg)
    if estimator == "horvitz_thompson" and target == "att":
        msg = "horvitz_thompson estimates the ate only; use hajek for the att"
        raise ValueError(msg)
    require_overlap(propensity)
    weights = inverse_weights(propensity, mask, target=target)
    means, scores = _means_and_scores(outcome, mask, weights, propensity, estimator, target)
    effect = effect_from_scores(
        scores,
        means=means,
        sizes=(int((~mask).sum()), int(mask.sum())),
        estimand=target,
        method=f"ipw_{estimator}",
        variance_formula=(
            "influence_known_propensity"
            if propensity.design is None
            else "influence_estimated_propensity"
        ),
        alpha=alpha,
    )
    return WeightedEffect(
        effect=effect,
        estimator=estimator,
        weights=weights,
        scores=scores,
        ess_control=effective_sample_size(weights[~mask]),
        ess_treatment=effective_sample_size(weights[mask]),
        max_weight_share=max(
            float(weights[rows].max() / weights[rows].sum()) for rows in (mask, ~mask)
        ),
    )


def inverse_weights(
    propensity: Propensity, is_treated: BoolArray, *, target: Target = "ate"
) -> FloatArray:
    """Return the weight of each unit, not normalised, shape (n,)."""
    e = propensity.values
    if target == "att":
        return np.where(is_treated, 1.0, e / (1 - e))
    return np.where(is_treated, 1 / e, 1 / (1 - e))


def effective_sample_size(weights: ArrayLike) -> float:
    """Return (Σw)²/Σw²: the number of equally weighted units with the same variance.

    Examples:
        >>> effective_sample_size([1, 1, 1, 1]), effective_sample_size([1, 0, 0, 0])
        (4.0, 1.0)
    """
    given = np.asarray(weights, dtype=np.float64)
    return float(given.sum() ** 2 / (given @ given))


def _means_and_scores(
    y: FloatArray,
    mask: BoolArray,
    weights: FloatArray,
    propensity: Propensity,
    estimator: Estimator,
    target: Target,
) -> tuple[tuple[float, float], FloatArray]:
    """Weighted means of both arms, and influence scores of their difference."""
    sign = np.where(mask, 1.0, -1.0)
    if estimator == "horvitz_thompson":
        total = np.full(len(y), float(len(y)))
        moment = weights * y
        means = [float((weights * y)[rows].sum() / len(y)) for rows in (~mask, mask)]
        influence = sign * moment - (means[1] - means[0])
    else:
        mean_c, mean_t = (np.average(y[rows], weights=weights[rows]) for rows in (~mask, mask))
        total = np.where(mask, weights[mask].sum(), weights[~mask].sum())
        moment = weights * (y - np.where(mask, mean_t, mean_c))
        means = [float(mean_c), float(mean_t)]
        influence = sign * moment
    scores = influence / total
    if propensity.design is not None and propensity.information is not None:
        slope = propensity.design.T @ (
            sign * moment * _weight_slope(propensity, mask, target) / total
        )
        residual = mask - propensity.values
        scores += residual * (propensity.design @ np.linalg.solve(propensity.information, slope))
    return (means[0], means[1]), np.asarray(scores, dtype=np.float64)


def _weight_slope(propensity: Propensity, mask: BoolArray, target: Target) -> FloatArray:
    """D log(w)/dη of each unit, with η = logit(e)."""
    e = propensity.values
    if target == "att":
        return np.where(mask, 0.0, 1.0)
    return np.where(mask, -(1 - e), e)
