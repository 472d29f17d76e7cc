"""Conformal test and interval of a constant effect on one series, by shifted residuals.

Under "the effect is τ at every post step" the path y - τ·1{post} needs no intervention. A
counterfactual is fitted to all T steps of it, and its residuals u are shifted around the circle:

    S(u) = mean_{post} |u_t|        p(τ) = #{shifts s in 0..T-1: S(u shifted by s) >= S(u)} / T

so p is a multiple of 1/T and never 0. The interval is the hull of the τ with p(τ) >= α that a
search outwards from the estimate meets, and of 0 if p(0) >= α. p(τ) need not be monotone: where 0
lies in the hull but p(0) < α, the reported p is α, so that p < α exactly when the interval
excludes 0.

Valid when residuals under the truth are stationary and weakly dependent. The fit itself belongs
to the caller.

References:
    Chernozhukov, Wüthrich & Zhu 2021, equations 2 and 5 with moving-block permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite

Residuals = Callable[[FloatArray], FloatArray]
Test = Callable[[float], float]
GRID_POINTS = 60
BISECTIONS = 20
MOST_DOUBLINGS = 12
TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformalResult:
    """p of no effect, and the constant effects that are not rejected.

    The limits are None, with `ci_reason`, where no p can fall below α (N_TOO_SMALL), or where
    effects of any size or not even the estimate are accepted (NOT_IDENTIFIED).
    """

    p_value: float
    ci_low: float | None
    ci_high: float | None
    ci_reason: str | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def conformal_effect(
    path: FloatArray, n_pre: int, estimate: float, residuals: Residuals, *, alpha: float
) -> ConformalResult:
    """Test constant effects on `path` and invert the test.

    Args:
        path: Outcome of the treated unit, shape (T,).
        n_pre: Number of steps before the intervention.
        estimate: Average effect, the point the search for limits starts from.
        residuals: Refits the counterfactual to a path of T steps and returns its residuals.
        alpha: 1 - confidence level.
    """
    is_post = np.arange(len(path)) >= n_pre

    def p_of(effect: float) -> float:
        return _shifted_p(residuals(np.where(is_post, path - effect, path)), n_pre)

    at_zero = p_of(0.0)
    if 1 / len(path) >= alpha:
        return ConformalResult(p_value=at_zero, ci_low=None, ci_high=None, ci_reason="N_TOO_SMALL")
    if p_of(estimate) < alpha:
        return ConformalResult(
            p_value=at_zero, ci_low=None, ci_high=None, ci_reason="NOT_IDENTIFIED"
        )
    reach = max(abs(estimate), float(np.abs(residuals(path)).mean()), TIE)
    low = _limit(p_of, estimate, -reach, alpha)
    high = _limit(p_of, estimate, reach, alpha)
    if at_zero >= alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    is_bounded = bool(np.isfinite([low, high]).all())
    return ConformalResult(
        p_value=max(at_zero, alpha) if low <= 0 <= high else at_zero,
        ci_low=low if is_bounded else None,
        ci_high=high if is_bounded else None,
        ci_reason=None if is_bounded else "NOT_IDENTIFIED",
    )


def _limit(p_of: Test, estimate: float, reach: float, alpha: float) -> float:
    """Return the outermost accepted effect on the side of `reach`; infinite if it has no end."""
    inner = 0.0
    for _ in range(MOST_DOUBLINGS):
        if p_of(estimate + reach) < alpha:
            break
        inner, reach = reach, 2 * reach
    else:
        return float(np.copysign(np.inf, reach))
    offsets = np.linspace(inner, reach, GRID_POINTS)
    accepted, rejected = inner, offsets[1]
    for left, right in zip(offsets[-2:0:-1], offsets[:1:-1], strict=True):
        if p_of(estimate + float(left)) >= alpha:
            accepted, rejected = left, right
            break
    for _ in range(BISECTIONS):
        middle = (accepted + rejected) / 2
        if p_of(estimate + float(middle)) >= alpha:
            accepted = middle
        else:
            rejected = middle
    return estimate + float(accepted)


def _shifted_p(residual: FloatArray, n_pre: int) -> float:
    size = np.abs(residual)
    n_post = len(size) - n_pre
    # Sum over every window of n_post steps on the circle.
    running = np.concatenate([[0.0], np.cumsum(np.concatenate([size, size[: n_post - 1]]))])
    sums = running[n_post:] - running[:-n_post]
    return float(np.mean(sums >= sums[n_pre] - TIE * sums.max()))
