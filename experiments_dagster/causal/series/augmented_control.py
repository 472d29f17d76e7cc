"""Augmented synthetic control: the fit that simplex weights leave open is closed by ridge.

    Ŷ₁ₜ(0) = Σ_i w_i Y_it + (x₁ - Σ_i w_i x_i)' η̂_t = Σ_i γ_i Y_it
    γ_i    = w_i + (x₁ - Σ_j w_j x_j)' (X'X + λI)⁻¹ x_i

x are the outcomes at the fitted steps, centred by the donors' mean at each step (rows of X), w the
simplex weights on them, η̂_t the ridge regression of Y_t on x among donors. Σγ = 1, but γ may be
negative: the counterfactual extrapolates, by no more than λ allows. λ → ∞ gives back w.

λ is the largest whose leave-one-step-out error on the treated unit, with w fitted again without
the step, is within one standard error of the least. p and interval come from one conformal
inversion (`block_conformal`) with λ kept.

Use it where the synthetic control fits poorly; where that fits well the two agree.

References:
    Ben-Michael, Feller & Rothstein 2021, equations 3, 6-7 and section 5; Chernozhukov et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.block_conformal import conformal_effect
from experiments_dagster.causal.series.donor_panel import (
    DonorPanel,
    IntArray,
    refuse_several_treated,
    rmspe,
)
from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.series.simplex import simplex_weights
from experiments_dagster.stats.errors import EstimationError

N_PENALTIES = 21
PENALTY_RANGE = 1e-8
FEWEST_FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedControlResult:
    """One treated unit beside its augmented control.

    `weights` are γ (sum 1, some negative), `simplex_weights` are w, in the order of the columns
    `donors`; `negative_weight_sum` <= 0 tells how far the mix extrapolates. `counterfactual` and
    `effect` have all T steps. `pre_rmspe` and `average_effect` have beside them what w alone
    gives. p is below 1 - confidence_level exactly when the interval excludes 0; the limits are
    None, with `ci_reason`, where the test has no end or too few steps.
    """

    donors: IntArray
    weights: FloatArray
    simplex_weights: FloatArray
    negative_weight_sum: float
    penalty: float
    counterfactual: FloatArray
    effect: FloatArray
    average_effect: float
    relative_effect: float | None
    simplex_average_effect: float
    pre_rmspe: float
    simplex_pre_rmspe: float
    p_value: float
    ci_low: float | None
    ci_high: float | None
    ci_reason: str | None
    confidence_level: float
    n_fit: int
    n_pre: int
    n_post: int

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def estimate_augmented_control(
    panel: DonorPanel, *, penalty: float | None = None, alpha: float = 0.05
) -> AugmentedControlResult:
    """Estimate the effect on one treated unit at each step and on average.

    Args:
        panel: One treated unit and its donors.
        penalty: λ > 0 in units of the outcome squared; by leave-one-step-out if None.
        alpha: 1 - confidence level.

    Raises:
        EstimationError: N_TOO_SMALL (fewer than 3 fitted steps), ZERO_VARIANCE (donors alike).
        ValueError: Several treated units, or alpha or penalty make no sense.

    Examples:
        >>> from experiments_dagster.causal.series.donor_panel import build_panel
        >>> rng = np.random.default_rng(5)
        >>> donors = rng.normal(size=(40, 8)).cumsum(axis=0)
        >>> treated = 1.5 * donors[:, 0] - 0.5 * donors[:, 1] + 0.1 * rng.normal(size=40)
        >>> treated[32:] += 3
        >>> at = np.r_[32, np.full(8, np.inf)]
        >>> outcomes = np.column_stack([treated, donors])
        >>> panel = build_panel(outcomes, treated=[0], n_pre=32, treated_at=at)
        >>> result = estimate_augmented_control(panel)
        >>> result.pre_rmspe < 0.5 * result.simplex_pre_rmspe, round(result.average_effect, 1)
        (True, 3.0)
    """
    refuse_several_treated(panel, "augmented control")
    if not 0 < alpha < 1 or not (penalty is None or 0 < penalty < np.inf):
        msg = f"alpha {alpha}, penalty {penalty}; need 0 < alpha < 1 and a positive penalty"
        raise ValueError(msg)
    path, donors = panel.treated_path, panel.donor_paths
    if penalty is None:
        penalty = _choose_penalty(path[: panel.n_fit], donors[: panel.n_fit])
    base, weights = _weights(path[: panel.n_fit], donors[: panel.n_fit], penalty)
    effect, base_effect = path - donors @ weights, path - donors @ base
    average = float(effect[panel.n_pre :].mean())
    expected = float((donors @ weights)[panel.n_pre :].mean())

    def residuals(without_effect: FloatArray) -> FloatArray:
        _, refitted = _weights(without_effect, donors, penalty)
        left: FloatArray = without_effect - donors @ refitted
        return left

    test = conformal_effect(path, panel.n_pre, average, residuals, alpha=alpha)
    return AugmentedControlResult(
        donors=panel.donors.copy(),
        weights=weights,
        simplex_weights=base,
        negative_weight_sum=float(weights[weights < 0].sum()),
        penalty=penalty,
        counterfactual=donors @ weights,
        effect=effect,
        average_effect=average,
        relative_effect=average / expected if expected > 0 else None,
        simplex_average_effect=float(base_effect[panel.n_pre :].mean()),
        pre_rmspe=rmspe(effect[: panel.n_fit]),
        simplex_pre_rmspe=rmspe(base_effect[: panel.n_fit]),
        p_value=test.p_value,
        ci_low=test.ci_low,
        ci_high=test.ci_high,
        ci_reason=test.ci_reason,
        confidence_level=1 - alpha,
        n_fit=panel.n_fit,
        n_pre=panel.n_pre,
        n_post=panel.n_post,
    )


def augmented_control_effect(panel: DonorPanel, *, penalty: float | None = None) -> FloatArray:
    """Return the effect at all T steps only: what placebos and leave-one-out refit."""
    refuse_several_treated(panel, "augmented control")
    path, donors = panel.treated_path, panel.donor_paths
    if penalty is None:
        penalty = _choose_penalty(path[: panel.n_fit], donors[: panel.n_fit])
    _, weights = _weights(path[: panel.n_fit], donors[: panel.n_fit], penalty)
    effect: FloatArray = path - donors @ weights
    return effect


def _weights(
    treated: FloatArray, donors: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Return w and γ for paths of the steps to match, shapes (n,) and (n, J)."""
    base = simplex_weights(donors - treated[:, None])
    left, directions, values = _ridge_parts(treated, donors, base)
    shrunk = directions @ (left / (values**2 + penalty) * values)
    return base, base + shrunk


def _ridge_parts(
    treated: FloatArray, donors: FloatArray, base: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what w leaves open, in the singular directions of the centred donors."""
    centred = donors - donors.mean(axis=1, keepdims=True)
    by_step, values, by_donor = np.linalg.svd(centred, full_matrices=False)
    return by_step.T @ (treated - donors @ base), by_donor.T, values


def _choose_penalty(treated: FloatArray, donors: FloatArray) -> float:
    n_steps = len(treated)
    if n_steps < FEWEST_FOLDS:
        detail = f"{n_steps} fitted steps, need {FEWEST_FOLDS} to choose the penalty"
        raise EstimationError("N_TOO_SMALL", "augmented control", detail)
    largest = float(np.linalg.norm(donors - donors.mean(axis=1, keepdims=True), 2)) ** 2
    if largest == 0:
        raise EstimationError("ZERO_VARIANCE", "augmented control", "all donors are alike")
    penalties = largest * np.geomspace(1, PENALTY_RANGE, N_PENALTIES)
    errors = np.empty((n_steps, N_PENALTIES))
    for step in range(n_steps):
        rest = np.arange(n_steps) != step
        base = simplex_weights(donors[rest] - treated[rest, None])
        left, directions, values = _ridge_parts(treated[rest], donors[rest], base)
        shrunk = (left * values)[:, None] / (values[:, None] ** 2 + penalties)
        predicted = donors[step] @ (base[:, None] + directions @ shrunk)
        errors[step] = (treated[step] - predicted) ** 2
    mean, spread = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(n_steps)
    least = int(np.argmin(mean))
    return float(penalties[int(np.argmax(mean <= mean[least] + spread[least]))])
