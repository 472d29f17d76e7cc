"""Whether predicted differences of the effect are real, on units not used to predict them.

    test         z_k = β̂_k/SE_k of ψ on τ̂ in fold k, with τ̂ from folds 0, .., k − 1 alone;
                 z = Σ_{k>=1} z_k/√(K − 1);   H0: β <= 0, one-sided
    BLP          ψ_i = α_fold + β(τ̂_i − τ̄_fold) + ε over all folds, HC3
    GATES        mean ψ among fifths by τ̂ within fold, with interval
    calibration  ψ_i = a + bτ̂_i + ε:   a = 0 and b = 1 for a perfect prediction

ψ is unbiased for each unit's effect, so β = 1 where τ̂ is right and 0 where its differences are
noise. The test is sequential because in ordinary cross-fitting fold j predicts fold k and fold k
predicts fold j: the same chance agreement counts twice, and z has more than unit variance where
there is no heterogeneity. Predicted from earlier folds alone, the z_k are a martingale. The slope
and its interval use all folds and describe the size; they carry no p-value.

With p > 0.1 the finding is "no reliable heterogeneity", and no segment is named:
`effect_segments` refuses. METHODS 11.10.

References:
    Chernozhukov, Demirer, Duflo & Fernández-Val 2018; Wager 2024, Sequential validation of
    treatment heterogeneity; MacKinnon & White 1985 (HC3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.records import (
    EffectInterval,
    FloatArray,
    refuse_non_finite,
)
from experiments_dagster.causal.units.effects import IntArray
from experiments_dagster.causal.units.learners import UpliftFit, require_out_of_sample
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, upper_tail

MAX_P = 0.1
BINS = 5
SEGMENTS = ("Very Low", "Low", "Medium", "High", "Very High")
NOT_SHOWN = "no reliable heterogeneity"
SHOWN = "heterogeneity shown out of sample"
# Differences of predictions within a fold, against their magnitude.
ROUNDING = 1e-10
# A unit that decides the slope alone has leverage 1 and residual 0.
FULL_LEVERAGE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEffect:
    """Units of one fifth of the predicted effect: what was predicted, what was observed."""

    group: int
    n: int
    predicted: float
    observed: EffectInterval

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeterogeneityProof:
    """The test of heterogeneity, best linear predictor, group effects and calibration of one fit.

    `statistic` and the one-sided `p_value` are those of the sequential test; `is_proven` says
    that p is at most `max_p`. `groups` run from the lowest to the highest predicted effect;
    `spread` is the observed effect of the last minus that of the first. `calibration_error` is
    the mean over groups, weighted by size, of |predicted − observed|.
    """

    finding: str
    is_proven: bool
    max_p: float
    blp_slope: EffectInterval
    statistic: float
    p_value: float
    groups: tuple[GroupEffect, ...]
    spread: EffectInterval
    calibration_intercept: EffectInterval
    calibration_slope: EffectInterval
    calibration_error: float
    n: int

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def prove_heterogeneity(
    fit: UpliftFit, *, bins: int = BINS, max_p: float = MAX_P, alpha: float = 0.05
) -> HeterogeneityProof:
    """Test whether units with a higher predicted effect have a higher effect.

    Args:
        fit: Cross-fitted effects with their pseudo-outcomes.
        bins: Groups by predicted effect, at least 2.
        max_p: Largest one-sided p-value that counts as shown.
        alpha: Two-sided level of the intervals.

    Raises:
        EstimationError: NOT_IDENTIFIED for effects fitted in sample; ZERO_VARIANCE where the
            predicted effect is the same for all; N_TOO_SMALL where a group has fewer than 2
            units.
        ValueError: Fewer than 2 bins or max_p outside (0, 1).

    References:
        Wager 2024; Chernozhukov et al. 2018; METHODS 11.10.

    Examples:
        >>> from experiments_dagster.causal.units.learners import fit_uplift
        >>> rng = np.random.default_rng(2)
        >>> x, t = rng.standard_normal((4000, 1)), rng.random(4000) < 0.5
        >>> y = (1 + x[:, 0]) * t + rng.standard_normal(4000)
        >>> fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(4000))
        >>> prove_heterogeneity(fit).finding
        'heterogeneity shown out of sample'
    """
    fold_of = require_out_of_sample(fit)
    if bins < 2 or not 0 < max_p < 1:  # noqa: PLR2004
        msg = f"bins is {bins}, max_p {max_p}; need at least 2 and 0 < max_p < 1"
        raise ValueError(msg)
    psi = fit.pseudo_outcomes
    slope, slope_error = _blp(fit.effects, psi, fold_of)
    statistic = _sequential_statistic(fit, fold_of)
    p_value = upper_tail(statistic)
    group_of = groups_within_folds(fit.effects, fold_of, bins)
    groups = tuple(
        _group_effect(group, fit.effects[group_of == group], psi[group_of == group], alpha)
        for group in np.unique(group_of).tolist()
    )
    bottom, top = groups[0].observed, groups[-1].observed
    line, covariance = _line(fit.effects, psi)
    is_proven = p_value <= max_p
    return HeterogeneityProof(
        finding=SHOWN if is_proven else NOT_SHOWN,
        is_proven=is_proven,
        max_p=max_p,
        blp_slope=_interval(slope, slope_error, alpha),
        statistic=statistic,
        p_value=p_value,
        groups=groups,
        spread=_interval(
            top.estimate - bottom.estimate,
            float(np.hypot(top.std_error, bottom.std_error)),
            alpha,
        ),
        calibration_intercept=_interval(line[0], float(np.sqrt(covariance[0, 0])), alpha),
        calibration_slope=_interval(line[1], float(np.sqrt(covariance[1, 1])), alpha),
        calibration_error=float(
            np.average(
                [abs(group.predicted - group.observed.estimate) for group in groups],
                weights=[group.n for group in groups],
            )
        ),
        n=len(psi),
    )


def effect_segments(fit: UpliftFit, proof: HeterogeneityProof) -> tuple[str, ...]:
    """Name the segment of each unit, in input order, once heterogeneity is shown.

    Raises:
        EstimationError: NOT_IDENTIFIED where it is not, with the p-value.

    References:
        METHODS 11.10.
    """
    require_proof(proof)
    group_of = groups_within_folds(fit.effects, require_out_of_sample(fit), len(SEGMENTS))
    return tuple(SEGMENTS[group] for group in group_of.tolist())


def require_proof(proof: HeterogeneityProof) -> None:
    """Refuse to act on differences that were not shown out of sample.

    Raises:
        EstimationError: NOT_IDENTIFIED.
    """
    if not proof.is_proven:
        detail = f"{NOT_SHOWN}: p = {proof.p_value:.3g}, need at most {proof.max_p:g}"
        raise EstimationError("NOT_IDENTIFIED", "segments by effect", detail)


def groups_within_folds(effects: FloatArray, fold_of: IntArray, bins: int) -> IntArray:
    """Return the group of each unit, 0 for the lowest effects of its fold, shape (n,).

    Units with equal effects share the group that most of their ranks fall into.
    """
    group_of = np.empty(len(effects), dtype=np.int64)
    for fold in np.unique(fold_of):
        rows = np.flatnonzero(fold_of == fold)
        _, inverse, counts = np.unique(effects[rows], return_inverse=True, return_counts=True)
        middle = (np.cumsum(counts) - counts / 2)[inverse] / len(rows)
        group_of[rows] = np.minimum((middle * bins).astype(np.int64), bins - 1)
    return group_of


def _sequential_statistic(fit: UpliftFit, fold_of: IntArray) -> float:
    """Combine the folds' statistics; a fold whose prediction does not vary adds nothing."""
    assert fit.early_effects is not None
    later = fold_of > 0
    psi, fold_of = fit.pseudo_outcomes[later], fold_of[later]
    folds = np.unique(fold_of)
    statistics, n_constant = [], 0
    for fold in folds:
        rows = fold_of == fold
        try:
            slope, error = _blp(fit.early_effects[rows], psi[rows], fold_of[rows])
            statistics.append(slope / error)
        except EstimationError:
            n_constant += 1
    if n_constant == len(folds):
        detail = "every unit of a fold has the same predicted effect"
        raise EstimationError("ZERO_VARIANCE", "predicted effects", detail)
    return float(np.sum(statistics) / np.sqrt(len(folds)))


def _blp(effects: FloatArray, psi: FloatArray, fold_of: IntArray) -> tuple[float, float]:
    """Slope of ψ on the predicted effect within folds, and its HC3 error."""
    centred, outcome, leverage = effects.copy(), psi.copy(), np.empty(len(psi))
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        centred[rows] -= effects[rows].mean()
        outcome[rows] -= psi[rows].mean()
        leverage[rows] = 1 / rows.sum()
    weight = float(centred @ centred)
    if weight <= (ROUNDING * float(np.abs(effects).max())) ** 2 * len(effects):
        detail = "every unit of a fold has the same predicted effect"
        raise EstimationError("ZERO_VARIANCE", "predicted effects", detail)
    slope = float(centred @ outcome) / weight
    leverage += np.square(centred) / weight
    influence = centred * _hc3(outcome - slope * centred, leverage) / weight
    return slope, float(np.sqrt(influence @ influence))


def _line(effects: FloatArray, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of ψ on the predicted effect, and their HC3 covariance."""
    design = np.column_stack([np.ones(len(effects)), effects])
    inverse = np.linalg.pinv(design)
    line = inverse @ psi
    leverage = np.einsum("ij,ji->i", design, inverse)
    influence = inverse * _hc3(psi - design @ line, leverage)
    return line, np.asarray(influence @ influence.T, dtype=np.float64)


def _hc3(residuals: FloatArray, leverage: FloatArray) -> FloatArray:
    """e/(1 − h): what the residual would be without the unit."""
    return residuals / np.maximum(1 - leverage, FULL_LEVERAGE)


def _group_effect(group: int, predicted: FloatArray, psi: FloatArray, alpha: float) -> GroupEffect:
    if len(psi) < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", f"effect group {group}", f"{len(psi)} units, need 2")
    return GroupEffect(
        group=group,
        n=len(psi),
        predicted=float(predicted.mean()),
        observed=_interval(float(psi.mean()), float(psi.std(ddof=1) / np.sqrt(len(psi))), alpha),
    )


def _interval(estimate: float, std_error: float, alpha: float) -> EffectInterval:
    half = critical_value(alpha) * std_error
    return EffectInterval(
        estimate=float(estimate),
        std_error=std_error,
        ci_low=float(estimate) - half,
        ci_high=float(estimate) + half,
    )
