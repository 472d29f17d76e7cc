"""Synthetic difference-in-differences, with its two limits: synthetic control and DiD.

With ω on donors and λ on steps before the intervention, Ȳ the mean of the treated units,

    τ = (mean_{post} Ȳ_t - Σ_t λ_t Ȳ_t) - Σ_i ω_i (mean_{post} Y_it - Σ_t λ_t Y_it)
    ω = argmin Σ_{t<n_fit} (ω₀ + Σ_i ω_i Y_it - Ȳ_t)² + ζ² n_fit ‖ω‖²,    ω on the simplex
    λ = argmin Σ_i (λ₀ + Σ_t λ_t Y_it - mean_{post} Y_i)² + ζ_λ² J ‖λ‖²,   λ on the simplex
    ζ = (n_treated n_post)^¼ σ,    ζ_λ = 10⁻⁶ σ,    σ = sd of the donors' first differences

which is the two-way fixed-effects regression weighted by ω_i λ_t. `did` has equal weights; `sc`
has neither intercept nor λ, and 10⁻⁶σ for ζ.

Errors: for one treated unit each donor in turn takes its place and the errors are those of τ
among them (placebo; every donor once, so without random numbers), which assumes that noise is
alike in all units. For several treated units the jackknife over units with weights kept. The
interval is normal.

Valid when untreated outcomes follow a low-rank model of units and steps, and no donor is touched.

References:
    Arkhangelsky, Athey, Hirshberg, Imbens & Wager 2021, algorithms 1, 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from experiments_dagster.causal.series.donor_panel import DonorPanel, IntArray, rmspe
from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.causal.series.simplex import simplex_weights

Weighting = Literal["sdid", "sc", "did"]
SMALL_PENALTY = 1e-6
# Fewer placebo values than this say little about a standard deviation.
FEWEST_PLACEBOS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticDidResult:
    """The average post effect on the treated, with weights that each sum to 1.

    `effect` has all T steps: treated minus weighted donors, less the λ-weighted mean of that
    difference before the intervention. Its post mean is `estimate`. `time_weights` stand at the
    `n_fit` fitted steps; they are all 0 for `sc`, which takes no difference. `pre_rmspe` is that
    of `effect` over the fitted steps around its own mean (around 0 for `sc`). `std_error`,
    interval and p are None, with `error_reason`, where too few units remain to tell them.
    """

    weighting: Weighting
    estimate: float
    std_error: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    confidence_level: float
    error_method: Literal["placebo", "jackknife"]
    error_reason: str | None
    donors: IntArray
    unit_weights: FloatArray
    time_weights: FloatArray
    effect: FloatArray
    pre_rmspe: float
    n_treated: int
    n_fit: int
    n_pre: int
    n_post: int

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def estimate_synthetic_did(
    panel: DonorPanel, *, weighting: Weighting = "sdid", alpha: float = 0.05
) -> SyntheticDidResult:
    """Estimate the average effect on the treated units over the post period.

    Args:
        panel: Treated units, all from the same step on, and their donors.
        weighting: `sdid`, or one of its limits `sc` and `did`.
        alpha: 1 - confidence level.

    Raises:
        EstimationError: NOT_IDENTIFIED where the weights do not settle.
        ValueError: alpha is not between 0 and 1.

    Examples:
        >>> from experiments_dagster.causal.series.donor_panel import build_panel
        >>> rng = np.random.default_rng(3)
        >>> outcomes = rng.normal(size=(30, 1)).cumsum(axis=0) + rng.normal(size=(30, 12))
        >>> outcomes[20:, 0] += 4
        >>> at = np.r_[20, np.full(11, np.inf)]
        >>> panel = build_panel(outcomes, treated=[0], n_pre=20, treated_at=at)
        >>> result = estimate_synthetic_did(panel)
        >>> round(result.estimate, 1), result.p_value < 0.05
        (4.2, True)
    """
    from scipy.special import ndtr, ndtri

    if not 0 < alpha < 1:
        msg = f"alpha {alpha}; need 0 < alpha < 1"
        raise ValueError(msg)
    omega, lam = _weights(panel, weighting)
    effect = _effect(panel, omega, lam)
    estimate = float(effect[panel.n_pre :].mean())
    std_error, reason = _std_error(panel, weighting, omega, lam)
    half = None if std_error is None else float(-ndtri(alpha / 2)) * std_error
    before = effect[: panel.n_fit]
    return SyntheticDidResult(
        weighting=weighting,
        estimate=estimate,
        std_error=std_error,
        ci_low=None if half is None else estimate - half,
        ci_high=None if half is None else estimate + half,
        p_value=None if std_error is None else float(2 * ndtr(-abs(estimate) / std_error)),
        confidence_level=1 - alpha,
        error_method="placebo" if len(panel.treated) == 1 else "jackknife",
        error_reason=reason,
        donors=panel.donors.copy(),
        unit_weights=omega,
        time_weights=lam,
        effect=effect,
        pre_rmspe=rmspe(before if weighting == "sc" else before - before.mean()),
        n_treated=len(panel.treated),
        n_fit=panel.n_fit,
        n_pre=panel.n_pre,
        n_post=panel.n_post,
    )


def synthetic_did_effect(panel: DonorPanel, *, weighting: Weighting = "sdid") -> FloatArray:
    """Return the effect at all T steps only: what placebos and leave-one-out refit."""
    return _effect(panel, *_weights(panel, weighting))


def _effect(panel: DonorPanel, omega: FloatArray, lam: FloatArray) -> FloatArray:
    gap = panel.treated_path - panel.donor_paths @ omega
    effect: FloatArray = gap - lam @ gap[: panel.n_fit]
    return effect


def _weights(panel: DonorPanel, weighting: Weighting) -> tuple[FloatArray, FloatArray]:
    n_donors, n_fit = len(panel.donors), panel.n_fit
    if weighting == "did":
        return np.full(n_donors, 1 / n_donors), np.full(n_fit, 1 / n_fit)
    donors = panel.donor_paths
    before, after = donors[:n_fit], donors[panel.n_pre :].mean(axis=0)
    gaps = before - panel.treated_path[:n_fit, None]
    steps = np.diff(before, axis=0)
    sigma = float(steps.std(ddof=1))
    if weighting == "sc":
        omega = simplex_weights(gaps, ridge=(SMALL_PENALTY * sigma) ** 2 * n_fit)
        return omega, np.zeros(n_fit)
    zeta = (len(panel.treated) * panel.n_post) ** 0.25 * sigma
    # An intercept is the same as centring every column.
    omega = simplex_weights(gaps - gaps.mean(axis=0), ridge=zeta**2 * n_fit)
    by_donor = before.T - after[:, None]
    lam = simplex_weights(
        by_donor - by_donor.mean(axis=0), ridge=(SMALL_PENALTY * sigma) ** 2 * n_donors
    )
    return omega, lam


def _std_error(
    panel: DonorPanel, weighting: Weighting, omega: FloatArray, lam: FloatArray
) -> tuple[float | None, str | None]:
    if len(panel.treated) == 1:
        if len(panel.donors) < FEWEST_PLACEBOS:
            return None, "N_TOO_SMALL"
        estimates = [_average(panel.as_if_treated(int(donor)), weighting) for donor in panel.donors]
        spread = float(np.std(estimates))
    else:
        if (omega == 1).any():
            # Without the only donor that counts, no weights are left to keep.
            return None, "NOT_IDENTIFIED"
        estimates = _jackknife(panel, omega, lam)
        spread = float(np.std(estimates)) * np.sqrt(len(estimates) - 1)
    return (spread, None) if spread > 0 else (None, "ZERO_VARIANCE")


def _average(panel: DonorPanel, weighting: Weighting) -> float:
    return float(synthetic_did_effect(panel, weighting=weighting)[panel.n_pre :].mean())


def _jackknife(panel: DonorPanel, omega: FloatArray, lam: FloatArray) -> list[float]:
    estimates = []
    for unit in panel.treated:
        others = tuple(column for column in panel.treated if column != unit)
        left = replace(panel, treated=others)
        estimates.append(float(_effect(left, omega, lam)[panel.n_pre :].mean()))
    for position in range(len(omega)):
        kept = omega.copy()
        kept[position] = 0.0
        estimates.append(float(_effect(panel, kept / kept.sum(), lam)[panel.n_pre :].mean()))
    return estimates
