"""Augmented inverse propensity weighting (METHODS 11.8): right if either model is.

    ATE   ψ_i = m₁ − m₀ + T(Y − m₁)/e − (1 − T)(Y − m₀)/(1 − e),   Δ̂ = ψ̄,   SE = sd(ψ)/√n
    ATT   ψ_i = [T − (1 − T)e/(1 − e)](Y − m₀)/T̄,   Δ̂ = ψ̄,   SE = sd(ψ − Δ̂T/T̄)/√n

m₀, m₁ are outcome models of each arm. Parametric ones (linear regression, logistic propensity)
are fitted to all units, whose own estimation adds nothing to first order; any other model is
cross-fitted: unit i is predicted by models of the folds that do not hold it. Trimming keeps units
with e inside [0.1, 0.9], refits on them, and renames the estimand `ate_trimmed`, `att_trimmed`.

What does not belong here: individual effects (`learners`), which reuse these nuisances.

References:
    Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018; Crump et al. 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import (
    BoolArray,
    IntArray,
    UnitEffect,
    UnitEstimand,
    Units,
    checked_units,
    effect_from_scores,
)
from experiments_dagster.causal.units.propensity import (
    FitProbability,
    Predict,
    Propensity,
    fit_logistic,
    fit_propensity,
    inside_bounds,
    require_overlap,
)
from experiments_dagster.causal.units.weighting import (
    Target,
    effective_sample_size,
    inverse_weights,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.cross_fitted import fit_ridge, fold_numbers
from experiments_dagster.stats.methods.units.interacted import unit_column

# From features (n, p) and an outcome (n,) to a function from features to predictions.
FitOutcome = Callable[[FloatArray, FloatArray], Predict]

TRIMMED: dict[Target, UnitEstimand] = {"ate": "ate_trimmed", "att": "att_trimmed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisances:
    """Predicted outcomes without and with treatment, and the propensity; each (n,)."""

    m0: FloatArray
    m1: FloatArray
    propensity: Propensity

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoublyRobustEffect:
    """The AIPW effect with what it is made of.

    `scores` (n_used,) sum to about zero and their squares to the variance. `is_used` (n,) marks
    the units left by trimming. `folds` is None for parametric models fitted to all units.
    Effective sample sizes are those of the inverse weights.
    """

    effect: UnitEffect
    nuisances: Nuisances
    scores: FloatArray
    is_used: BoolArray
    folds: int | None
    ess_control: float
    ess_treatment: float


def doubly_robust_effect(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariates: ArrayLike,
    *,
    target: Target = "ate",
    unit_keys: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    fit_outcome: FitOutcome | None = None,
    fit_treatment: FitProbability | None = None,
    trim: tuple[float, float] | None = None,
    alpha: float = 0.05,
) -> DoublyRobustEffect:
    """Estimate an effect from outcome models and the propensity together.

    Assumes no unmeasured confounding given the covariates, overlap, and that one of the two
    models is right.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,).
        covariates: Known before treatment, shape (n, p).
        target: `ate` or `att`.
        unit_keys: Text or integers, shape (n,): cross-fits with folds by their hash. Required for
            models other than the parametric default, which is fitted to all units without keys.
        folds: Number of folds, at least 2.
        seed: Of the folds.
        fit_outcome: Outcome model; default least squares.
        fit_treatment: Propensity model; default logistic regression.
        trim: Keep only propensities inside these bounds, and rename the estimand.
        alpha: Two-sided level.

    Raises:
        EstimationError: NO_OVERLAP, SINGULAR_DESIGN, NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL,
            ZERO_VARIANCE.
        ValueError: Shapes differ, or a model without keys.

    References:
        Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018; METHODS 11.8.

    Examples:
        >>> rng = np.random.default_rng(5)
        >>> x = rng.standard_normal((4000, 1))
        >>> t = rng.random(4000) < 1 / (1 + np.exp(-x[:, 0]))
        >>> y = 2 * t + 3 * x[:, 0] + rng.standard_normal(4000)
        >>> effect = doubly_robust_effect(y, t, x).effect
        >>> effect.ci_low < 2 < effect.ci_high
        True
    """
    if unit_keys is None and (fit_outcome is not None or fit_treatment is not None):
        msg = "a model of your own must be cross-fitted: pass unit_keys"
        raise ValueError(msg)
    units = checked_units(y, is_treated, covariates)
    fold_of = None
    if unit_keys is not None:
        fold_of = checked_folds(unit_keys, len(units.y), folds=folds, seed=seed)
    nuisances = fit_nuisances(units, fold_of, fit_outcome, fit_treatment)
    is_used = np.ones(len(units.y), dtype=np.bool_)
    if trim is not None:
        is_used = inside_bounds(nuisances.propensity, trim)
        units = units.subset(is_used)
        kept = None if fold_of is None else fold_of[is_used]
        nuisances = fit_nuisances(units, kept, fit_outcome, fit_treatment)
    require_overlap(nuisances.propensity)
    means, scores = _means_and_scores(units, nuisances, target)
    mask = units.is_treated
    weights = inverse_weights(nuisances.propensity, mask, target=target)
    effect = effect_from_scores(
        scores,
        means=means,
        sizes=(int((~mask).sum()), int(mask.sum())),
        estimand=target if trim is None else TRIMMED[target],
        method="aipw" if fold_of is None else "aipw_cross_fitted",
        variance_formula="influence",
        alpha=alpha,
    )
    return DoublyRobustEffect(
        effect=effect,
        nuisances=nuisances,
        scores=scores,
        is_used=is_used,
        folds=None if fold_of is None else folds,
        ess_control=effective_sample_size(weights[~mask]),
        ess_treatment=effective_sample_size(weights[mask]),
    )


def fit_nuisances(
    units: Units,
    fold_of: IntArray | None,
    fit_outcome: FitOutcome | None = None,
    fit_treatment: FitProbability | None = None,
    *,
    propensity: Propensity | None = None,
) -> Nuisances:
    """Fit outcome models of both arms, and the propensity where it is not given.

    Args:
        units: Of one sample.
        fold_of: Fold of each unit, shape (n,); None fits all units to themselves.
        fit_outcome: Default least squares.
        fit_treatment: Default logistic regression.
        propensity: Known probabilities.

    Raises:
        EstimationError: EMPTY_ARM or N_TOO_SMALL outside a fold, NO_OVERLAP, SINGULAR_DESIGN.
    """
    outcome_model = fit_outcome or fit_least_squares
    treatment_model = fit_treatment or fit_logistic
    if fold_of is None:
        m0, m1 = _outcomes(units, units.covariates, outcome_model)
        return Nuisances(
            m0=m0,
            m1=m1,
            propensity=propensity or fit_propensity(units.covariates, units.is_treated),
        )
    m0, m1, e = np.empty((3, len(units.y)))
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        training, rows = units.subset(~held_out), units.covariates[held_out]
        m0[held_out], m1[held_out] = _outcomes(training, rows, outcome_model)
        if propensity is None:
            model = treatment_model(training.covariates, training.is_treated.astype(np.float64))
            e[held_out] = model(rows)
    estimated = propensity or Propensity(values=unit_column(e, "propensity"), source="cross_fitted")
    return Nuisances(m0=m0, m1=m1, propensity=estimated)


def pseudo_outcomes(units: Units, nuisances: Nuisances) -> FloatArray:
    """Return ψ of the ATE for each unit, shape (n,): its mean given x is the effect at x.

    Examples:
        >>> from experiments_dagster.causal.units.propensity import known_propensity
        >>> units = checked_units([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], np.zeros((4, 0)))
        >>> zero = np.zeros(4)
        >>> nuisances = Nuisances(m0=zero, m1=zero, propensity=known_propensity(0.5, 4))
        >>> pseudo_outcomes(units, nuisances).tolist()
        [-2.0, -4.0, 10.0, 12.0]
    """
    e = nuisances.propensity.values
    own = np.where(units.is_treated, nuisances.m1, nuisances.m0)
    inverse = np.where(units.is_treated, 1 / e, -1 / (1 - e))
    return np.asarray(nuisances.m1 - nuisances.m0 + inverse * (units.y - own), dtype=np.float64)


def fit_least_squares(features: FloatArray, target: FloatArray) -> Predict:
    """Fit a linear regression; collinear columns share their weight."""
    return fit_ridge(features, target, penalty=0.0)


def checked_folds(unit_keys: ArrayLike, n: int, *, folds: int, seed: int) -> IntArray:
    """Return the fold of each unit by the hash of its key, shape (n,)."""
    fold_of = fold_numbers(unit_keys, folds=folds, seed=seed)
    if fold_of.shape != (n,):
        msg = f"unit_keys have shape {fold_of.shape}, need ({n},)"
        raise ValueError(msg)
    if len(np.unique(fold_of)) < folds:
        detail = f"{n} units leave one of {folds} folds empty"
        raise EstimationError("N_TOO_SMALL", "folds", detail)
    return fold_of


def _outcomes(training: Units, rows: FloatArray, fit: FitOutcome) -> tuple[FloatArray, FloatArray]:
    """Predictions at `rows` by a model of the controls and one of the treated."""
    control, treated = (
        unit_column(fit(training.covariates[arm], training.y[arm])(rows), "predicted outcome")
        for arm in (~training.is_treated, training.is_treated)
    )
    return control, treated


def _means_and_scores(
    units: Units, nuisances: Nuisances, target: Target
) -> tuple[tuple[float, float], FloatArray]:
    """Means of both potential outcomes, and influence scores of their difference."""
    n, mask = len(units.y), units.is_treated
    if target == "ate":
        psi = pseudo_outcomes(units, nuisances)
        e = nuisances.propensity.values
        treated = nuisances.m1 + np.where(mask, (units.y - nuisances.m1) / e, 0.0)
        mean_t = float(treated.mean())
        means = mean_t - float(psi.mean()), mean_t
        deviations = psi - psi.mean()
    else:
        share = float(mask.mean())
        weights = inverse_weights(nuisances.propensity, mask, target="att")
        signed = np.where(mask, weights, -weights)
        psi = signed * (units.y - nuisances.m0) / share
        mean_t = float(units.y[mask].mean())
        means = mean_t - float(psi.mean()), mean_t
        deviations = psi - psi.mean() * mask / share
    return means, np.asarray(deviations / np.sqrt(n * (n - 1)), dtype=np.float64)
