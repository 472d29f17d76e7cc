"""What an uplift study estimates besides its claim: curves, gains, importance, unit scores.

    gain area   (1/n)Σ (u_i − 1/2)ψ_i = ∫ [gain(s) − s·gain(1)] ds over the share s treated

    saved       (1/n)Σ [(ψ_i − τ̂ᵇ_i)² − (ψ_i − τ̂_i)²]: what boosted trees predict better than the
                benchmark τ̂ᵇ, the T-learner of linear models with the same folds

u_i is the rank of τ̂ in its fold, from 0 to 1. Everything uses all folds, each predicted by the
others, and describes. Curves rank units within folds, since the levels of two folds' models differ
by chance.

References:
    Radcliffe 2007; Gutierrez & Gérardy 2017; Yadlowsky et al. 2025 (the gain area); METHODS 11.10,
    11.11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.records import EffectInterval, FloatArray
from experiments_dagster.causal.units.balance import BalanceTable
from experiments_dagster.causal.units.effects import IntArray
from experiments_dagster.causal.units.heterogeneity_proof import (
    HeterogeneityProof,
    prove_heterogeneity,
)
from experiments_dagster.causal.units.learners import (
    FeatureImportance,
    UpliftFit,
    permutation_importance,
    require_out_of_sample,
)
from experiments_dagster.causal.units.policy_value import PolicyValue, policy_value
from experiments_dagster.causal.units.uplift_curves import (
    AreaInterval,
    CurveKind,
    UpliftCurve,
    area_interval,
    uplift_curve,
)
from experiments_dagster.config.intervention import UpliftDesign
from experiments_dagster.interventions.designs.uplift_evidence import (
    Evidence,
    SequentialEstimate,
    evidence_words,
    fit_unseen,
    gather_evidence,
    normal_interval,
    sequential_slope,
    top_share_effect,
    treatment_of,
    varying_covariates,
)
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.stats.errors import EstimationError

REPLICATES = 500
TABLE_SHARES = (0.1, 0.2, 0.3, 0.5)
CURVE_SHARES = tuple(step / 20 for step in range(1, 21))
GAIN_DEFINITION = "sum of the doubly robust scores of the units treated, top share of every fold"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingCurve:
    """A curve of raw outcomes; `interval` is None with `reason` where resamples have no area."""

    curve: UpliftCurve
    interval: AreaInterval | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """The test of heterogeneity by linear T-learners, and the squared error saved against them."""

    proof: HeterogeneityProof
    saved: EffectInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftFindings:
    """All numbers of a study whose models could be fitted; `benchmark` is of boosted trees only.

    `curves` compare raw outcomes and stand for a known probability of treatment only; `gains` by
    share and `gain_area` read ψ and stand for an estimated one. `top` is None, and `policies` are
    empty, unless differences of the effect are shown; the first policy is of the design's share.
    """

    fit: UpliftFit
    evidence: Evidence
    slope: SequentialEstimate
    top: SequentialEstimate | None
    curves: tuple[RankingCurve, ...]
    gains: tuple[PolicyValue, ...]
    gain_area: EffectInterval | None
    importance: tuple[FeatureImportance, ...]
    benchmark: Benchmark | None
    policies: tuple[PolicyValue, ...]
    balance: BalanceTable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitScores:
    """Predicted effect of each unit by the models of the other folds; arrays have shape (n,).

    Limits are of the mean effect among units with the same covariates, if it has the form of the
    model; they are no limits of one unit's effect. None where the base gives no errors, for the
    reason `no_interval`.
    """

    names: tuple[str, ...]
    effects: FloatArray
    ci_low: FloatArray | None
    ci_high: FloatArray | None
    no_interval: str | None
    confidence_level: float
    fold_of: IntArray


def find(
    units: Units,
    design: UpliftDesign,
    fit: UpliftFit,
    evidence: Evidence,
    balance: BalanceTable | None,
) -> UpliftFindings:
    """Estimate everything that a fit and the evidence allow.

    Raises:
        EstimationError: ZERO_VARIANCE where the prediction does not vary.
    """
    is_randomised, is_shown = design.treated_share is not None, evidence.is_shown
    alpha, share = design.alpha, design.top_share
    shares = [share, *(other for other in TABLE_SHARES if other != share)] if is_shown else []
    return UpliftFindings(
        fit=fit,
        evidence=evidence,
        slope=sequential_slope(fit, alpha=alpha),
        top=top_share_effect(fit, share=share, alpha=alpha) if is_shown else None,
        curves=ranking_curves(units, fit, seed=design.seed, alpha=alpha) if is_randomised else (),
        gains=()
        if is_randomised
        else tuple(policy_value(fit, share=share, alpha=alpha) for share in CURVE_SHARES),
        gain_area=None if is_randomised else gain_area(fit, alpha=alpha),
        importance=permutation_importance(
            fit, units.covariates, seed=design.seed, names=units.covariate_names, alpha=alpha
        ),
        benchmark=linear_benchmark(units, design, fit) if design.base == "boosted" else None,
        policies=tuple(policy_value(fit, share=share, alpha=alpha) for share in shares),
        balance=balance,
    )


def uplift_scores(units: Units, design: UpliftDesign) -> UnitScores:
    """Predict the effect of each unit, once it is shown that effects differ.

    Raises:
        EstimationError: NOT_IDENTIFIED where that is not shown out of sample; otherwise as
            `fit_unseen`.
    """
    sample = varying_covariates(units)
    fit = fit_unseen(sample, design)
    evidence = gather_evidence(sample, design, fit)
    if not evidence.is_shown:
        detail = f"{evidence.finding}: {evidence_words(evidence)}"
        raise EstimationError("NOT_IDENTIFIED", "scores of units", detail)
    return UnitScores(
        names=units.names,
        effects=fit.effects,
        ci_low=fit.ci_low,
        ci_high=fit.ci_high,
        no_interval=fit.no_interval,
        confidence_level=fit.confidence_level,
        fold_of=require_out_of_sample(fit),
    )


def ranking_curves(
    units: Units, fit: UpliftFit, *, seed: int, alpha: float
) -> tuple[RankingCurve, ...]:
    """Qini and uplift curve of the ranks within folds, with bootstrap limits of their areas."""
    score = ranks_within_folds(fit.effects, require_out_of_sample(fit))
    return tuple(
        ranking_curve(units, score, kind, seed=seed, alpha=alpha) for kind in ("qini", "uplift")
    )


def ranking_curve(
    units: Units, score: FloatArray, kind: CurveKind, *, seed: int, alpha: float
) -> RankingCurve:
    """One curve of a score (n,) that was not fitted to these units."""
    treated = treatment_of(units)
    interval, reason = None, None
    try:
        interval = area_interval(
            units.outcome,
            treated,
            score,
            kind=kind,
            seed=seed,
            replicates=REPLICATES,
            alpha=alpha,
        )
    except EstimationError as error:
        reason = str(error)
    curve = uplift_curve(units.outcome, treated, score, kind=kind)
    return RankingCurve(curve=curve, interval=interval, reason=reason)


def gain_area(fit: UpliftFit, *, alpha: float) -> EffectInterval:
    """The area between the gains by share and those of a random order."""
    ranks = ranks_within_folds(fit.effects, require_out_of_sample(fit))
    scores = (ranks - 0.5) * fit.pseudo_outcomes
    error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    return normal_interval(float(scores.mean()), error, alpha)


def linear_benchmark(units: Units, design: UpliftDesign, fit: UpliftFit) -> Benchmark:
    """Linear T-learners on the folds of a fit, against the scores of that fit."""
    other = fit_unseen(units, design.model_copy(update={"learner": "t", "base": "linear"}))
    psi = fit.pseudo_outcomes
    saved = np.square(psi - other.effects) - np.square(psi - fit.effects)
    error = float(saved.std(ddof=1) / np.sqrt(len(saved)))
    return Benchmark(
        proof=prove_heterogeneity(other, alpha=design.alpha),
        saved=normal_interval(float(saved.mean()), error, design.alpha),
    )


def ranks_within_folds(effects: FloatArray, fold_of: IntArray) -> FloatArray:
    """Return the rank of each unit in its fold, from 0 to 1, shape (n,); equal effects share one.

    Examples:
        >>> ranks_within_folds(np.array([3.0, 1.0, 2.0, 2.0]), np.zeros(4, int)).tolist()
        [0.875, 0.125, 0.5, 0.5]
    """
    ranks = np.empty(len(effects))
    for fold in np.unique(fold_of):
        rows = np.flatnonzero(fold_of == fold)
        _, inverse, counts = np.unique(effects[rows], return_inverse=True, return_counts=True)
        ranks[rows] = (np.cumsum(counts) - counts / 2)[inverse] / len(rows)
    return ranks
