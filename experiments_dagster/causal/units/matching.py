"""One-to-one nearest-neighbour matching on the logit of the propensity (METHODS 11.8).

    order      treated units in descending e, each takes the nearest control that is left (greedy)
    caliper    0.2 pooled sd of logit(e), s² = (s_T² + s_C²)/2; a treated unit without a control
               inside it stays unmatched, and the estimand is then `att_matched`
    estimate   mean of d_j = Y_j − Y_m(j)
    SE         √(Σ(d_j − d̄)²/(m(m − 1)))                                  without replacement
               √(Σ(d_j − d̄)² + ΣK(K − 1)σ̂²(x))/m,  σ̂² = (Y − Y_l)²/2       with replacement

Without replacement each control is used once (K = 1) and the Abadie-Imbens variance is that of the
pairs. σ̂² compares a control with its nearest control l. Both take the propensity as known.
Regression adjustment regresses Y on (1, T, X) over the pairs, with errors clustered by pair, or by
control where it is reused.

Controls at equal distance are taken in the order of `unit_keys`, or of the rows without keys.

References:
    Abadie & Imbens 2006, theorem 7; Abadie & Spiess 2022; Austin 2011; Rosenbaum & Rubin 1985.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.units.effects import (
    BoolArray,
    IntArray,
    UnitEffect,
    UnitEstimand,
    covariate_matrix,
    effect_from_scores,
)
from experiments_dagster.causal.units.propensity import Propensity
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.hashing import mix
from experiments_dagster.stats.methods.units.hashing import unit_keys as hashed_keys
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column

CALIPER = 0.2
ORDER = "descending_propensity_greedy"
FEWEST_PAIRS = 2
# Logits of equal covariates differ by rounding.
TIE = 1e-9
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Pairs of row numbers, in the order in which they were formed.

    `caliper` is in logits, None where none was set; `distances` are absolute differences of
    logits. `weights` (n,) counts how often each unit is used. `neighbours` are the controls
    nearest to the partners, None without replacement.
    """

    treated: IntArray
    control: IntArray
    distances: FloatArray
    weights: FloatArray
    caliper: float | None
    n_unmatched: int
    with_replacement: bool
    order: str
    neighbours: IntArray | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedEffect:
    """The effect on the matched treated, plain and adjusted for what matching left.

    `adjusted` is None without covariates. `differences` are those of the pairs, for sensitivity
    bounds.
    """

    effect: UnitEffect
    adjusted: UnitEffect | None
    differences: FloatArray


def match_nearest(
    propensity: Propensity,
    is_treated: ArrayLike,
    *,
    caliper_sd: float | None = CALIPER,
    with_replacement: bool = False,
    unit_keys: ArrayLike | None = None,
) -> Matching:
    """Pair each treated unit with the nearest control.

    Args:
        propensity: Of all units.
        is_treated: 0 or 1, shape (n,).
        caliper_sd: Widest distance in pooled sd of the logit; None for no limit.
        with_replacement: Whether a control may serve several treated units.
        unit_keys: Text or integers, shape (n,): breaks ties by a hash instead of the row order.

    Raises:
        EstimationError: NO_OVERLAP where fewer than 2 pairs form; EMPTY_ARM, N_TOO_SMALL.
        ValueError: Shapes differ or the caliper is not above 0.

    Examples:
        >>> from experiments_dagster.causal.units.propensity import known_propensity
        >>> e = known_propensity([0.6, 0.3, 0.31, 0.58, 0.5], 5)
        >>> pairs = match_nearest(e, [1, 1, 0, 0, 0], caliper_sd=None)
        >>> list(zip(pairs.treated.tolist(), pairs.control.tolist()))
        [(0, 3), (1, 2)]
    """
    logit = propensity.logit
    mask = arm_mask(is_treated, len(logit))
    if caliper_sd is not None and not caliper_sd > 0:
        msg = f"caliper_sd is {caliper_sd}, need above 0 or None"
        raise ValueError(msg)
    caliper = None if caliper_sd is None else caliper_sd * _pooled_sd(logit, mask)
    rank = _tie_ranks(unit_keys, len(logit))
    treated = _sorted_rows(-logit, mask, rank)
    controls = _sorted_rows(logit, ~mask, rank)
    found = _nearest(
        logit[treated],
        logit[controls],
        rank[controls],
        caliper=np.inf if caliper is None else caliper,
        with_replacement=with_replacement,
    )
    is_matched = found >= 0
    if is_matched.sum() < FEWEST_PAIRS:
        detail = f"{int(is_matched.sum())} pairs inside the caliper, need {FEWEST_PAIRS}"
        raise EstimationError("NO_OVERLAP", "matching", detail)
    treated, partners = treated[is_matched], controls[found[is_matched]]
    return Matching(
        treated=treated,
        control=partners,
        distances=np.abs(logit[treated] - logit[partners]),
        weights=np.bincount(np.r_[treated, partners], minlength=len(logit)).astype(np.float64),
        caliper=caliper,
        n_unmatched=int((~is_matched).sum()),
        with_replacement=with_replacement,
        order=ORDER,
        neighbours=_control_neighbours(logit, controls)[found[is_matched]]
        if with_replacement
        else None,
    )


def matched_effect(
    y: ArrayLike,
    matching: Matching,
    *,
    covariates: ArrayLike | None = None,
    alpha: float = 0.05,
) -> MatchedEffect:
    """Estimate the effect on the matched treated units.

    Args:
        y: Outcome of all units, shape (n,).
        matching: From `match_nearest` on the same rows.
        covariates: For regression adjustment after matching, shape (n, p).
        alpha: Two-sided level.

    Raises:
        EstimationError: ZERO_VARIANCE, NON_FINITE_INPUT; NO_OVERLAP where the covariates leave
            no treatment to compare.
        ValueError: Shapes differ.

    References:
        Abadie & Imbens 2006; Abadie & Spiess 2022; METHODS 11.8.
    """
    outcome = unit_column(y, "outcome")
    if outcome.shape != matching.weights.shape:
        msg = f"outcome has shape {outcome.shape}, need {matching.weights.shape}"
        raise ValueError(msg)
    treated, control = matching.treated, matching.control
    m = len(treated)
    differences = outcome[treated] - outcome[control]
    means = float(outcome[control].mean()), float(outcome[treated].mean())
    scores = (differences - differences.mean()) / m
    if matching.with_replacement:
        scores = np.r_[scores, _reuse_scores(outcome, matching)]
    else:
        scores = scores * np.sqrt(m / (m - 1))
    estimand: UnitEstimand = "att_matched" if matching.n_unmatched else "att"
    sizes = len(np.unique(control)), m
    effect = effect_from_scores(
        scores,
        means=means,
        sizes=sizes,
        estimand=estimand,
        method="nearest_neighbour_1_1",
        variance_formula="abadie_imbens_2006" if matching.with_replacement else "paired",
        alpha=alpha,
    )
    adjusted = None
    if covariates is not None:
        matrix = covariate_matrix(covariates, len(outcome))
        adjusted_difference, clustered = _pair_regression(outcome, matrix, matching)
        adjusted = effect_from_scores(
            clustered,
            means=(means[1] - adjusted_difference, means[1]),
            sizes=sizes,
            estimand=estimand,
            method="nearest_neighbour_1_1_regression",
            variance_formula="clustered_by_pair",
            alpha=alpha,
        )
    return MatchedEffect(effect=effect, adjusted=adjusted, differences=differences)


def _pooled_sd(logit: FloatArray, mask: BoolArray) -> float:
    return float(np.sqrt((logit[mask].var(ddof=1) + logit[~mask].var(ddof=1)) / 2))


def _tie_ranks(unit_keys: ArrayLike | None, n: int) -> IntArray:
    if unit_keys is None:
        return np.arange(n)
    keys = mix(hashed_keys(unit_keys))
    if keys.shape != (n,):
        msg = f"unit_keys have shape {keys.shape}, need ({n},)"
        raise ValueError(msg)
    return np.argsort(np.argsort(keys, kind="stable"), kind="stable").astype(np.int64)


def _sorted_rows(key: FloatArray, mask: BoolArray, rank: IntArray) -> IntArray:
    """Rows of one arm by key, ties by rank."""
    rows = np.flatnonzero(mask)
    by_key = rows[np.argsort(key[rows], kind="stable")]
    return by_key[np.lexsort((rank[by_key], _tie_groups(key[by_key])))].astype(np.int64)


def _tie_groups(ascending: FloatArray) -> IntArray:
    """Number of the group of equal values, 0, 1, ..."""
    return np.cumsum(np.diff(ascending, prepend=ascending[:1]) > TIE).astype(np.int64)


def _nearest(
    treated: FloatArray,
    controls: FloatArray,
    rank: IntArray,
    *,
    caliper: float,
    with_replacement: bool,
) -> IntArray:
    """Position among the sorted controls of each treated unit's partner, -1 for none.

    Used controls are skipped by links that shorten themselves, so the search is near-linear.
    """
    n = len(controls)
    # Free at or after position i; free at or before position i - 1, counted from 1 (0: none).
    after, before = list(range(n + 1)), list(range(n + 1))
    groups = _tie_groups(controls)
    first = np.searchsorted(groups, groups).tolist()
    starts = np.searchsorted(controls, treated).tolist()
    found = np.full(len(treated), -1, dtype=np.int64)
    for index, (value, start) in enumerate(zip(treated.tolist(), starts, strict=True)):
        candidates = [_end_of(before, start) - 1, _end_of(after, start)]
        # Of equal controls the first free one, which its group's start leads to.
        heads = [_end_of(after, first[j]) for j in candidates if 0 <= j < n]
        if not heads:
            continue
        best = min(heads, key=lambda j: (round(abs(controls[j] - value) / TIE), rank[j]))
        if abs(controls[best] - value) > caliper:
            continue
        found[index] = best
        if not with_replacement:
            after[best], before[best + 1] = best + 1, best
    return found


def _end_of(links: list[int], start: int) -> int:
    """Follow the links to the position that points at itself, and shorten them."""
    while links[start] != start:
        links[start] = links[links[start]]
        start = links[start]
    return start


def _control_neighbours(logit: FloatArray, sorted_controls: IntArray) -> IntArray:
    """For each sorted control, the row of the control nearest to it."""
    values = logit[sorted_controls]
    gaps = np.r_[np.inf, np.diff(values), np.inf]
    step = np.where(gaps[:-1] <= gaps[1:], -1, 1)
    return sorted_controls[np.arange(len(values)) + step]


def _reuse_scores(y: FloatArray, matching: Matching) -> FloatArray:
    """√(K(K − 1))σ̂ of each used control over m: what its repeated use adds to the variance."""
    assert matching.neighbours is not None
    rows, first, times = np.unique(matching.control, return_index=True, return_counts=True)
    sd = np.abs(y[rows] - y[matching.neighbours[first]]) / np.sqrt(2)
    return np.asarray(np.sqrt(times * (times - 1)) * sd / len(matching.control), dtype=np.float64)


def _pair_regression(
    y: FloatArray, covariates: FloatArray, matching: Matching
) -> tuple[float, FloatArray]:
    """Coefficient of T over the pairs, and its influence scores by pair (or reused control).

    Partialling X out of T and Y leaves the coefficient alone and needs no full-rank X.
    """
    m = len(matching.treated)
    rows = np.r_[matching.treated, matching.control]
    x = covariates[rows]
    spread = x.std(axis=0)
    is_used = spread > ROUNDING * np.abs(x).max(axis=0, initial=0.0)
    standard = (x[:, is_used] - x[:, is_used].mean(axis=0)) / spread[is_used]
    basis = np.column_stack([np.ones(2 * m), standard])
    both = np.column_stack([np.r_[np.ones(m), np.zeros(m)], y[rows]])
    left, *_ = np.linalg.lstsq(basis, both, rcond=None)
    treatment, outcome = (both - basis @ left).T
    weight = float(treatment @ treatment)
    if weight <= ROUNDING * m:
        detail = "the covariates determine the treatment among the matched units"
        raise EstimationError("NO_OVERLAP", "regression after matching", detail)
    coefficient = float(treatment @ outcome) / weight
    influence = treatment * (outcome - coefficient * treatment) / weight
    clusters = np.r_[matching.control, matching.control]
    totals = np.bincount(np.unique(clusters, return_inverse=True)[1], influence)
    g = len(totals)
    return coefficient, np.asarray(totals * np.sqrt(g / (g - 1)), dtype=np.float64)
