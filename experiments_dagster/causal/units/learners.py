"""Who responds: S-, T-, X-, R- and DR-learners of the effect at x (METHODS 11.10).

    S    one model of Y on (X, T):  τ(x) = μ(x, 1) − μ(x, 0); constant with a linear or ridge base
    T    two models:                τ(x) = μ₁(x) − μ₀(x)
    X    D¹ = Y − μ₀(x) in T and D⁰ = μ₁(x) − Y in C, each regressed on x;
         τ(x) = g(x)τ₀(x) + (1 − g(x))τ₁(x),  g = e
    R    minimise Σ[(Y − m(x)) − τ(x)(T − e(x))]²,  m = E[Y|x] = e μ₁ + (1 − e)μ₀: the regression
         of (Y − m)/(T − e) on x with weights (T − e)²
    DR   the AIPW pseudo-outcome ψ regressed on x

With unit keys everything is cross-fitted: the effect of a unit, and the nuisances of its ψ, come
from folds that do not hold it, and the R- and DR-learners cross-fit the nuisances of their
regression once more inside those folds. For the test of heterogeneity each fold is also predicted
by the folds before it alone. Without keys the fit is to the units themselves: a description, which
the proofs refuse.

The base is one kind of model for outcomes and effect: a linear or a ridge regression, or boosted
trees (`boosted`), which find effects that are no line in the covariates.

Intervals exist for the linear base alone: normal, with HC2 errors of the coefficients. They are of
the mean effect among units with the same x if it is linear in x, never of one person's effect.

What does not belong here: whether the differences are real (`heterogeneity_proof`), what acting
on them is worth (`policy_value`), and curves (`uplift_curves`).

References:
    Künzel, Sekhon, Bickel & Yu 2019; Nie & Wager 2021; Kennedy 2023; MacKinnon & White 1985 (HC2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.boosted import boosted_base
from experiments_dagster.causal.units.doubly_robust import (
    FitOutcome,
    Nuisances,
    checked_folds,
    fit_least_squares,
    fit_nuisances,
    pseudo_outcomes,
)
from experiments_dagster.causal.units.effects import (
    BoolArray,
    IntArray,
    UnitEffect,
    Units,
    checked_names,
    checked_units,
    covariate_matrix,
    effect_from_scores,
)
from experiments_dagster.causal.units.propensity import (
    FitProbability,
    Predict,
    Propensity,
    known_propensity,
    require_overlap,
)
from experiments_dagster.causal.units.weighted_fit import fit_weighted_ridge
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value
from experiments_dagster.stats.methods.units.cross_fitted import fit_ridge
from experiments_dagster.stats.methods.units.interacted import unit_column

Learner = Literal["s", "t", "x", "r", "dr"]
Base = Literal["linear", "ridge", "boosted"]
# From features (n, p), a target (n,) and weights (n,) to a function from features to predictions.
FitWeighted = Callable[[FloatArray, FloatArray, FloatArray], Predict]
# From rows (m, p) and their propensities (m,) to effects (m,).
PredictEffect = Callable[[FloatArray, FloatArray], FloatArray]

MIN_UNITS = 100  # per arm and fold
INNER_SEED = 0x9E3779B9  # another split of the same keys
LINEAR: dict[str, tuple[FitOutcome, FitWeighted]] = {
    "linear": (fit_least_squares, partial(fit_weighted_ridge, penalty=0.0)),
    "ridge": (fit_ridge, fit_weighted_ridge),
}
NO_INTERVAL = {
    "ridge": "the penalty moves predicted effects towards each other by an unknown amount",
    "boosted": "boosted trees have no standard error at given covariates",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectModel:
    """A fitted effect function and its standard error, which only a linear base has."""

    predict: PredictEffect
    std_error: Callable[[FloatArray], FloatArray] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftFit:
    """The effect at each unit's covariates; arrays have shape (n,), in input order.

    `pseudo_outcomes` are ψ: unbiased for the effect of each unit and noisy, with which every
    proof compares `effects`. `early_effects` (m,) are those of the units of folds 1, 2, .. by a
    model of the folds before theirs. `fold_of` and `early_effects` are None, and `models` holds
    one, where the fit saw the units it predicts. `average` is the AIPW effect over all units.
    Errors and limits are None for a base other than linear; `no_interval` says why.
    """

    learner: Learner
    base: str
    effects: FloatArray
    std_errors: FloatArray | None
    ci_low: FloatArray | None
    ci_high: FloatArray | None
    confidence_level: float
    pseudo_outcomes: FloatArray
    propensity: Propensity
    average: UnitEffect
    fold_of: IntArray | None
    early_effects: FloatArray | None
    models: tuple[EffectModel, ...]

    def __post_init__(self) -> None:
        refuse_non_finite(self)

    @property
    def no_interval(self) -> str | None:
        """Why effects have no errors; None where they have."""
        if self.std_errors is not None:
            return None
        return NO_INTERVAL.get(self.base, "the model given has no standard error")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureImportance:
    """What permuting one covariate on unseen folds does; descriptive only.

    `loss_increase` is the mean rise of (ψ − τ̂)², in squared units of the outcome: about zero, of
    either sign, for a covariate that does not predict the effect. `mean_change` is the mean
    absolute change of τ̂, which is above zero for any covariate that a model uses, needed or not.
    """

    name: str
    loss_increase: float
    std_error: float
    ci_low: float
    ci_high: float
    mean_change: float

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def fit_uplift(
    y: ArrayLike,
    is_treated: ArrayLike,
    covariates: ArrayLike,
    *,
    learner: Learner = "dr",
    propensity: float | ArrayLike | None = None,
    unit_keys: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    base: Base | FitOutcome = "linear",
    fit_weighted: FitWeighted | None = None,
    fit_treatment: FitProbability | None = None,
    alpha: float = 0.05,
) -> UpliftFit:
    """Estimate the effect of treatment at each unit's covariates.

    Args:
        y: Outcome, shape (n,).
        is_treated: 0 or 1, shape (n,).
        covariates: Known before treatment, shape (n, p), p >= 1.
        learner: `s`, `t`, `x`, `r` or `dr`.
        propensity: The known share, or known probabilities (n,), of a randomised design; None
            estimates them.
        unit_keys: Text or integers, shape (n,), for the folds; None fits in sample.
        folds: At least 2.
        seed: Of the folds and of what a base draws.
        base: `linear`, `ridge` (penalty by generalised cross-validation), `boosted` (trees, with
            the extra [uplift]), or a model of your own: it serves the outcomes and the effect.
            The default does not depend on what is installed.
        fit_weighted: The R-learner's model of the effect; needed beside a base of your own.
        fit_treatment: Propensity model where it is estimated; default logistic.
        alpha: Two-sided level of the intervals.

    Raises:
        EstimationError: N_TOO_SMALL below 100 units of an arm in a fold; NO_OVERLAP,
            SINGULAR_DESIGN, NON_FINITE_INPUT, EMPTY_ARM, ZERO_VARIANCE.
        ValueError: Shapes differ, no covariate, fewer than 2 folds, an unknown base, or an
            R-learner whose base takes no weights.
        ModuleNotFoundError: `boosted` without scikit-learn.

    References:
        Künzel et al. 2019; Nie & Wager 2021; Kennedy 2023; METHODS 11.10.

    Examples:
        >>> rng = np.random.default_rng(2)
        >>> x, t = rng.standard_normal((4000, 1)), rng.random(4000) < 0.5
        >>> y = (1 + x[:, 0]) * t + rng.standard_normal(4000)
        >>> fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(4000))
        >>> bool(np.corrcoef(fit.effects, x[:, 0])[0, 1] > 0.99)
        True
    """
    units = checked_units(y, is_treated, covariates)
    if not units.covariates.shape[1] or folds < 2:  # noqa: PLR2004
        msg = f"{units.covariates.shape[1]} covariates, {folds} folds; need at least 1 and 2"
        raise ValueError(msg)
    known = None if propensity is None else known_propensity(propensity, len(units.y))
    outcome_model, weighted_model = _models(learner, base, fit_weighted, seed)
    fold_of = inner_of = None
    if unit_keys is not None:
        fold_of = checked_folds(unit_keys, len(units.y), folds=folds, seed=seed)
        inner_of = checked_folds(unit_keys, len(units.y), folds=folds, seed=seed ^ INNER_SEED)
        _refuse_thin_folds(units, fold_of)
    nuisances = fit_nuisances(units, fold_of, outcome_model, fit_treatment, propensity=known)
    require_overlap(nuisances.propensity)

    def fit_model(rows: BoolArray) -> EffectModel:
        given = None if known is None else known_propensity(known.values[rows], int(rows.sum()))
        inner = None if inner_of is None else inner_of[rows]
        return _fit_model(
            units.subset(rows),
            learner,
            outcome_model,
            weighted_model,
            is_linear=base == "linear" and fit_weighted is None,
            inner=lambda part: fit_nuisances(
                part, inner, outcome_model, fit_treatment, propensity=given
            ),
        )

    x, e = units.covariates, nuisances.propensity.values
    early = None
    models: tuple[EffectModel, ...]
    if fold_of is None:
        models = (fit_model(np.ones(len(units.y), dtype=np.bool_)),)
    else:
        models = tuple(fit_model(fold_of != fold) for fold in range(folds))
        later = fold_of > 0
        before = tuple(fit_model(fold_of < fold) for fold in range(1, folds))
        early, _ = _predict(before, x[later], e[later], fold_of[later] - 1)
    effects, errors = _predict(models, x, e, fold_of)
    half = None if errors is None else critical_value(alpha) * errors
    psi = pseudo_outcomes(units, nuisances)
    return UpliftFit(
        learner=learner,
        base=base if isinstance(base, str) else "custom",
        effects=unit_column(effects, "predicted effect"),
        std_errors=errors,
        ci_low=None if half is None else effects - half,
        ci_high=None if half is None else effects + half,
        confidence_level=1 - alpha,
        pseudo_outcomes=psi,
        propensity=nuisances.propensity,
        average=_average(units, nuisances, psi, alpha),
        fold_of=fold_of,
        early_effects=early,
        models=models,
    )


def require_out_of_sample(fit: UpliftFit) -> IntArray:
    """Return the folds of a cross-fitted result; NOT_IDENTIFIED for one fitted in sample."""
    if fit.fold_of is None:
        detail = "the effects were fitted to the units they describe; hint: pass unit_keys"
        raise EstimationError("NOT_IDENTIFIED", f"{fit.learner}-learner out of sample", detail)
    return fit.fold_of


def permutation_importance(
    fit: UpliftFit,
    covariates: ArrayLike,
    *,
    seed: int,
    names: Sequence[str] | None = None,
    repeats: int = 5,
    alpha: float = 0.05,
) -> tuple[FeatureImportance, ...]:
    """Permute each covariate among the units of each unseen fold.

    Args:
        fit: Cross-fitted.
        covariates: Those of the fit, shape (n, p).
        seed: Of the permutations.
        names: One per covariate.
        repeats: Permutations averaged, at least 1.
        alpha: Two-sided level of the intervals of the increase in loss.

    Raises:
        EstimationError: NOT_IDENTIFIED for a fit in sample.
        ValueError: Shapes differ or no repeat.

    References:
        Breiman 2001; Fisher, Rudin & Dominici 2019; the loss is that of Kennedy 2023.
    """
    fold_of = require_out_of_sample(fit)
    matrix = covariate_matrix(covariates, len(fit.effects))
    labels = checked_names(names, matrix.shape[1])
    if repeats < 1:
        msg = f"repeats is {repeats}, need at least 1"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    loss = np.square(fit.pseudo_outcomes - fit.effects)
    found = []
    for column, name in enumerate(labels):
        increase, change = np.zeros((2, len(loss)))
        for _ in range(repeats):
            permuted = matrix.copy()
            for fold in range(len(fit.models)):
                rows = np.flatnonzero(fold_of == fold)
                permuted[rows, column] = matrix[rng.permutation(rows), column]
            moved, _ = _predict(fit.models, permuted, fit.propensity.values, fold_of)
            increase += (np.square(fit.pseudo_outcomes - moved) - loss) / repeats
            change += np.abs(moved - fit.effects) / repeats
        mean, std_error = float(increase.mean()), float(increase.std(ddof=1) / np.sqrt(len(loss)))
        half = critical_value(alpha) * std_error
        found.append(
            FeatureImportance(
                name=name,
                loss_increase=mean,
                std_error=std_error,
                ci_low=mean - half,
                ci_high=mean + half,
                mean_change=float(change.mean()),
            )
        )
    return tuple(found)


def _fit_model(
    units: Units,
    learner: Learner,
    fit: FitOutcome,
    fit_weighted: FitWeighted | None,
    *,
    is_linear: bool,
    inner: Callable[[Units], Nuisances],
) -> EffectModel:
    """Fit one learner to all units given."""
    x, y, mask = units.covariates, units.y, units.is_treated
    if learner == "s":
        return _single_model(units, fit, is_linear=is_linear)
    if fit_weighted is not None:
        return _residual_model(units, inner(units), fit_weighted, is_linear=is_linear)
    if learner == "dr":
        psi = pseudo_outcomes(units, inner(units))
        model = fit(x, psi)
        error = _error_of_lines([_linear_covariance(x, psi)]) if is_linear else None
        return EffectModel(predict=lambda rows, _: model(rows), std_error=error)
    # With a linear base the X-learner's two regressions are the T-learner's difference again.
    lines = [_linear_covariance(x[arm], y[arm]) for arm in (mask, ~mask)] if is_linear else None
    error = None if lines is None else _error_of_lines(lines)
    mu0, mu1 = fit(x[~mask], y[~mask]), fit(x[mask], y[mask])
    if learner == "t":
        return EffectModel(predict=lambda rows, _: mu1(rows) - mu0(rows), std_error=error)
    tau1 = fit(x[mask], y[mask] - mu0(x[mask]))
    tau0 = fit(x[~mask], mu1(x[~mask]) - y[~mask])
    return EffectModel(
        predict=lambda rows, e: e * tau0(rows) + (1 - e) * tau1(rows), std_error=error
    )


def _single_model(units: Units, fit: FitOutcome, *, is_linear: bool) -> EffectModel:
    design = np.column_stack([units.is_treated.astype(np.float64), units.covariates])
    model = fit(design, units.y)

    def predict(rows: FloatArray, _: FloatArray) -> FloatArray:
        one, zero = np.ones(len(rows)), np.zeros(len(rows))
        return model(np.column_stack([one, rows])) - model(np.column_stack([zero, rows]))

    if not is_linear:
        return EffectModel(predict=predict, std_error=None)
    # Position 1 follows the intercept.
    error = float(np.sqrt(_linear_covariance(design, units.y)[1, 1]))
    return EffectModel(predict=predict, std_error=lambda rows: np.full(len(rows), error))


def _models(
    learner: Learner, base: Base | FitOutcome, fit_weighted: FitWeighted | None, seed: int
) -> tuple[FitOutcome, FitWeighted | None]:
    """Model of outcomes and effect, and the R-learner's second step, which no other has."""
    if learner != "r" and fit_weighted is not None:
        msg = f"fit_weighted is the R-learner's; learner is {learner!r}"
        raise ValueError(msg)
    weighted: FitWeighted | None
    if callable(base):
        fit, weighted = base, None
    elif base == "boosted":
        fit, weighted = boosted_base(seed)
    elif base in LINEAR:
        fit, weighted = LINEAR[base]
    else:
        msg = f"base is {base!r}; need {', '.join(get_args(Base))}, or a model of your own"
        raise ValueError(msg)
    if learner != "r":
        return fit, None
    chosen = fit_weighted or weighted
    if chosen is None:
        msg = "learner 'r' with a base of your own: pass fit_weighted, its model that takes weights"
        raise ValueError(msg)
    return fit, chosen


def _residual_model(
    units: Units, nuisances: Nuisances, fit: FitWeighted, *, is_linear: bool
) -> EffectModel:
    e = nuisances.propensity.values
    expected = e * nuisances.m1 + (1 - e) * nuisances.m0
    surprise = units.is_treated - e
    target = (units.y - expected) / surprise
    model = fit(units.covariates, target, np.square(surprise))
    error = None
    if is_linear:
        covariance = _linear_covariance(units.covariates, target, np.abs(surprise))
        error = _error_of_lines([covariance])
    return EffectModel(predict=lambda rows, _: model(rows), std_error=error)


def _linear_covariance(
    features: FloatArray, target: FloatArray, root: FloatArray | None = None
) -> FloatArray:
    """HC2 covariance of intercept and slopes by least squares, shape (p + 1, p + 1).

    `root` are the square roots of weights, shape (n,).
    """
    scale = np.maximum(np.abs(features).max(axis=0), np.finfo(np.float64).tiny)
    design = np.column_stack([np.ones(len(features)), features / scale])
    if root is not None:
        design, target = root[:, None] * design, root * target
    inverse = np.linalg.pinv(design)
    residuals = target - design @ (inverse @ target)
    leverage = np.einsum("ij,ji->i", design, inverse)
    influence = inverse * (residuals / np.sqrt(np.maximum(1 - leverage, 1e-12)))
    units_of = np.r_[1.0, scale]
    return np.asarray(influence @ influence.T / np.outer(units_of, units_of), dtype=np.float64)


def _error_of_lines(covariances: Sequence[FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """Standard error of a sum or difference of independent lines at given rows."""
    covariance = np.sum(covariances, axis=0)

    def error(rows: FloatArray) -> FloatArray:
        design = np.column_stack([np.ones(len(rows)), rows])
        variance = np.einsum("ij,jk,ik->i", design, covariance, design)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float64)

    return error


def _predict(
    models: Sequence[EffectModel], x: FloatArray, e: FloatArray, fold_of: IntArray | None
) -> tuple[FloatArray, FloatArray | None]:
    """Effects and their errors, each unit by the model of its fold."""
    folds = np.zeros(len(x), dtype=np.int64) if fold_of is None else fold_of
    effects, errors = np.empty(len(x)), np.empty(len(x))
    has_errors = all(model.std_error is not None for model in models)
    for fold, model in enumerate(models):
        rows = folds == fold
        effects[rows] = model.predict(x[rows], e[rows])
        if has_errors and model.std_error is not None:
            errors[rows] = model.std_error(x[rows])
    return effects, errors if has_errors else None


def _refuse_thin_folds(units: Units, fold_of: IntArray) -> None:
    fewest = min(
        int(np.bincount(fold_of[arm], minlength=int(fold_of.max()) + 1).min())
        for arm in (units.is_treated, ~units.is_treated)
    )
    if fewest < MIN_UNITS:
        detail = f"{fewest} units of an arm in a fold, need {MIN_UNITS}"
        raise EstimationError("N_TOO_SMALL", "uplift", detail)


def _average(units: Units, nuisances: Nuisances, psi: FloatArray, alpha: float) -> UnitEffect:
    n, mask = len(psi), units.is_treated
    inverse = np.where(mask, 1 / nuisances.propensity.values, 0.0)
    mean_t = float((nuisances.m1 + inverse * (units.y - nuisances.m1)).mean())
    return effect_from_scores(
        (psi - psi.mean()) / np.sqrt(n * (n - 1)),
        means=(mean_t - float(psi.mean()), mean_t),
        sizes=(int((~mask).sum()), int(mask.sum())),
        estimand="ate",
        method="aipw",
        variance_formula="influence",
        alpha=alpha,
    )
