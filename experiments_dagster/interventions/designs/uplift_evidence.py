"""Whether effects differ: what an uplift study claims, judged on units that no model saw.

    slope       β̂ = Σ w_kβ̂_k/Σ w_k,  SE = √(K − 1)/Σ w_k,  w_k = 1/SE_k,   k = 1, .., K − 1
                with β̂_k and its HC3 error from ψ on τ̂ in fold k, τ̂ by a model of the folds
                before it:  β̂/SE is the statistic of the test of heterogeneity
    top share   δ̂ = (1/n)Σ (π_i/s − 1)(ψ_i − ψ̄_fold) over the same folds, SE = sd/√n

π_i is 1 for the share s of a fold with the highest τ̂; δ̂ is the effect among the top share less the
average effect. Folds that predict each other count the same chance agreement twice: of 1,000
samples without heterogeneity a 95 % interval of δ̂ from all folds missed 0 in 10 %, one from
earlier folds in 6 %.

Which split of the units is drawn is chance too: the test is repeated on others, and differences
count as shown only where the median p-value is small as well.

References:
    Wager 2024 (sequential evaluation); Chernozhukov, Demirer, Duflo & Fernández-Val 2018 (best
    linear predictor, medians over splits); METHODS 11.10.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np

from experiments_dagster.causal.series.records import EffectInterval, FloatArray
from experiments_dagster.causal.units.effects import BoolArray, IntArray
from experiments_dagster.causal.units.heterogeneity_proof import (
    FULL_LEVERAGE,
    NOT_SHOWN,
    ROUNDING,
    SHOWN,
    HeterogeneityProof,
    prove_heterogeneity,
)
from experiments_dagster.causal.units.learners import (
    UpliftFit,
    fit_uplift,
    require_out_of_sample,
)
from experiments_dagster.causal.units.policy_value import top_share_within_folds
from experiments_dagster.config.intervention import UpliftDesign
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value

OTHER_SPLITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialEstimate:
    """An estimate on the folds after the first, each predicted by the folds before it.

    Interval and two-sided p-value invert the same normal test.
    """

    interval: EffectInterval
    p_value: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Whether differences of the effect are shown, on the declared split and on others.

    `p_values` are one-sided, that of the declared split first.
    """

    proof: HeterogeneityProof
    p_values: tuple[float, ...]

    @property
    def median_p(self) -> float:
        """Median over splits."""
        return float(np.median(self.p_values))

    @property
    def is_shown(self) -> bool:
        """Whether segments may be named."""
        return self.proof.is_proven and self.median_p <= self.proof.max_p

    @property
    def finding(self) -> str:
        """The same in words."""
        return SHOWN if self.is_shown else NOT_SHOWN


def treatment_of(units: Units) -> BoolArray:
    """Who was treated.

    Raises:
        ValueError: The units do not say.
    """
    if units.treated is None:
        msg = "uplift needs to know who was treated"
        raise ValueError(msg)
    return units.treated


def varying_covariates(units: Units) -> Units:
    """The units without covariates that are the same for all.

    Raises:
        EstimationError: ZERO_VARIANCE where none is left.
    """
    is_varying = np.ptp(units.covariates, axis=0) > 0
    if not is_varying.any():
        detail = "no covariate differs between units, so no difference of effects can be predicted"
        raise EstimationError("ZERO_VARIANCE", "covariates", detail)
    names = tuple(np.asarray(units.covariate_names, dtype=object)[is_varying])
    return replace(units, covariates=units.covariates[:, is_varying], covariate_names=names)


def fit_unseen(units: Units, design: UpliftDesign) -> UpliftFit:
    """Fit the design's learner with folds by the units' names.

    Raises:
        EstimationError: As `fit_uplift`.
        ModuleNotFoundError: Boosted trees without their extra.
    """
    return fit_uplift(
        units.outcome,
        treatment_of(units),
        units.covariates,
        learner=design.learner,
        base=design.base,
        propensity=design.treated_share,
        unit_keys=np.asarray(units.names),
        folds=design.folds,
        seed=design.seed,
        alpha=design.alpha,
    )


def gather_evidence(units: Units, design: UpliftDesign, fit: UpliftFit) -> Evidence:
    """Test the differences of the effect on the design's split and on others.

    Raises:
        EstimationError: ZERO_VARIANCE where the learner predicts one effect for all.
    """
    if fit.learner == "s" and fit.base in {"linear", "ridge"}:
        detail = (
            "one linear model of covariates and treatment has the same effect for all; "
            "hint: learner t, x, r or dr, or base boosted"
        )
        raise EstimationError("ZERO_VARIANCE", "s-learner", detail)
    proof = prove_heterogeneity(fit, alpha=design.alpha)
    others = split_p_values(units, design) if proof.is_proven else ()
    return Evidence(proof=proof, p_values=(proof.p_value, *others))


def split_p_values(units: Units, design: UpliftDesign) -> tuple[float, ...]:
    """The p-values of the test on other splits into folds, where they leave enough in each fold."""
    found = []
    for step in range(1, OTHER_SPLITS + 1):
        other = design.model_copy(update={"seed": design.seed + step})
        with contextlib.suppress(EstimationError):
            found.append(prove_heterogeneity(fit_unseen(units, other)).p_value)
    return tuple(found)


def sequential_slope(fit: UpliftFit, *, alpha: float) -> SequentialEstimate:
    """The slope of the observed on the predicted effect, predicted by earlier folds alone.

    Raises:
        EstimationError: NOT_IDENTIFIED for a fit in sample; ZERO_VARIANCE where no fold's
            prediction varies.
    """
    fold, early, psi = _later_folds(fit)
    folds = np.unique(fold)
    slopes, weights = [], []
    for number in folds:
        rows = fold == number
        centred, observed = early[rows] - early[rows].mean(), psi[rows] - psi[rows].mean()
        square = float(centred @ centred)
        if square <= (ROUNDING * float(np.abs(early[rows]).max())) ** 2 * len(centred):
            continue
        slope = float(centred @ observed) / square
        leverage = 1 / len(centred) + np.square(centred) / square
        without = (observed - slope * centred) / np.maximum(1 - leverage, FULL_LEVERAGE)
        slopes.append(slope)
        weights.append(square / float(np.sqrt(np.square(centred * without).sum())))
    if not slopes:
        raise EstimationError("ZERO_VARIANCE", "predicted effects", "the same for all units")
    std_error = float(np.sqrt(len(folds)) / np.sum(weights))
    return _sequential(float(np.average(slopes, weights=weights)), std_error, len(psi), alpha)


def top_share_effect(fit: UpliftFit, *, share: float, alpha: float) -> SequentialEstimate:
    """The effect among the top share less the average effect, ranked by earlier folds alone.

    Args:
        fit: Cross-fitted.
        share: Of each fold.
        alpha: Two-sided level of interval and p-value.

    Raises:
        EstimationError: NOT_IDENTIFIED for a fit in sample; ZERO_VARIANCE where the prediction or
            the outcome does not vary.
    """
    fold, early, psi = _later_folds(fit)
    chosen = top_share_within_folds(early, fold, share)
    level = np.bincount(fold, psi) / np.maximum(np.bincount(fold), 1)
    scores = (chosen / share - 1) * (psi - level[fold])
    std_error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    if not std_error > 0:
        raise EstimationError("ZERO_VARIANCE", "effect of the top share")
    return _sequential(float(scores.mean()), std_error, len(psi), alpha)


def evidence_words(evidence: Evidence) -> str:
    """The p-values as words."""
    words = f"p = {evidence.proof.p_value:.3g}"
    if len(evidence.p_values) > 1:
        words += f", median {evidence.median_p:.3g} over {len(evidence.p_values)} splits"
    return f"{words}; need at most {evidence.proof.max_p:g}"


def _later_folds(fit: UpliftFit) -> tuple[IntArray, FloatArray, FloatArray]:
    """Fold, effect predicted by the folds before it, and ψ of the units after the first fold."""
    fold_of = require_out_of_sample(fit)
    assert fit.early_effects is not None
    later = fold_of > 0
    return fold_of[later], fit.early_effects, fit.pseudo_outcomes[later]


def _sequential(estimate: float, std_error: float, n: int, alpha: float) -> SequentialEstimate:
    return SequentialEstimate(
        interval=normal_interval(estimate, std_error, alpha),
        p_value=two_sided_p_value(estimate / std_error),
        n=n,
    )


def normal_interval(estimate: float, std_error: float, alpha: float) -> EffectInterval:
    """The estimate with its normal limits."""
    half = critical_value(alpha) * std_error
    return EffectInterval(
        estimate=estimate, std_error=std_error, ci_low=estimate - half, ci_high=estimate + half
    )
