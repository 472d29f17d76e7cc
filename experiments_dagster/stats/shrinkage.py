"""The winner's curse: what an estimate that looks large is worth (METHODS 10.4).

Past effects Δ̂_j with standard errors s_j, weights w_j = 1/(s_j² + τ²), are draws around μ:

    mean zero   ℓ(τ²) = ½Σ ln w − ½Σ w Δ̂²
    mean free   ℓ(τ²) = ½Σ ln w − ½ ln Σw − ½Σ w (Δ̂ − μ̂)²,   μ̂ = Σ wΔ̂/Σw        (REML)

maximised over τ² ≥ 0, boundary included. Then, for a new result Δ̂ ± s,

    shrunk = μ + B (Δ̂ − μ),   B = τ²/(τ² + s²),   posterior sd = √(τ²s²/(τ² + s²)) = s√B

shown beside the raw value, never instead of it. With fewer than 20 past effects μ is 0, with fewer
than 5 a declared default prior stands in. Without any prior, a result seen only because it was
significant has the conditional likelihood φ(z − θ)/P_θ(|Z| > c); its maximum θ̂ solves
z = E_θ(Z | |Z| > c).

References:
    Lee & Shen 2018; Azevedo et al. 2020; Viechtbauer 2005; Zhong & Prentice 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value

Mean = Literal["zero", "free"]
Vector = NDArray[np.float64]

MIN_EFFECTS = 5  # below, a declared default prior
FREE_MEAN_EFFECTS = 20
GRID = 400  # points of τ² between which the likelihood has at most one peak
SMALLEST_TAU2 = 1e-8  # relative to the smallest squared standard error
SCORE_PRECISION = 1e-14
TINY = float(np.finfo(np.float64).tiny)  # leaves the precision of a root to its size


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPrior:
    """Distribution of the true effects of a metric: normal with this mean and variance.

    `name` says where it comes from: `reml_zero_mean`, `reml_free_mean` or that of a default prior.
    """

    name: str
    mean: float
    tau2: float
    n_effects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrunkEstimate:
    """A result and what a prior makes of it; `weight` is the share B of the raw value kept."""

    raw_estimate: float
    raw_std_error: float
    estimate: float
    posterior_sd: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioEffect:
    """The sum of shrunk effects, with the standard error of independent ones."""

    estimate: float
    std_error: float
    n_effects: int


def between_variance(
    estimates: ArrayLike, std_errors: ArrayLike, *, mean: Mean = "zero"
) -> tuple[float, float]:
    """Return (μ̂, τ̂²) of past effects by (restricted) maximum likelihood.

    Args:
        estimates: Effects, shape (k,).
        std_errors: Above 0, shape (k,).
        mean: `zero` fixes μ at 0; `free` estimates it (REML).

    Raises:
        EstimationError: N_TOO_SMALL (no effect, or one where the mean is free), NON_FINITE_INPUT,
            ZERO_VARIANCE.
        ValueError: Shapes differ, or an unknown mean.

    References:
        Viechtbauer 2005, Journal of Educational and Behavioral Statistics 30.

    Examples:
        >>> mu, tau2 = between_variance([0.3, -0.1, 0.2, -0.2], [0.1] * 4)
        >>> mu, round(tau2, 9)
        (0.0, 0.035)
    """
    from scipy.optimize import brentq

    if mean not in {"zero", "free"}:
        msg = f"mean is {mean!r}, need 'zero' or 'free'"
        raise ValueError(msg)
    y, v, scale = _scaled(estimates, std_errors)
    is_free = mean == "free"
    if len(y) < 1 + is_free:
        raise EstimationError("N_TOO_SMALL", "past effects", f"{len(y)}, need {1 + is_free}")
    centre = float(y.mean()) if is_free else 0.0
    y = y - centre
    # At the top every term of the score is negative.
    top = 4 * float(np.square(y).max())
    low = SMALLEST_TAU2 * float(v.min())
    grid = np.concatenate([[0.0], np.geomspace(low, max(top, 2 * low), GRID)])
    scores = _score(grid, y, v, is_free=is_free)

    def score_at(value: float) -> float:
        return float(_score(np.array([value]), y, v, is_free=is_free)[0])

    peaks = [0.0] if scores[0] <= 0 else []
    peaks += [
        float(brentq(score_at, grid[index], grid[index + 1], xtol=TINY))
        for index in np.flatnonzero((scores[:-1] > 0) & (scores[1:] <= 0))
    ]
    heights = _log_likelihood(np.array(peaks), y, v, is_free=is_free)
    tau2 = peaks[int(np.argmax(heights))]
    w = 1 / (v + tau2)
    mu = centre + float(w @ y / w.sum()) if is_free else 0.0
    return mu * scale, tau2 * scale**2


def learn_prior(
    estimates: ArrayLike,
    std_errors: ArrayLike,
    *,
    default: EffectPrior | None = None,
    mean: Mean | None = None,
) -> EffectPrior:
    """Return the prior that past effects of a metric support.

    Args:
        estimates: Effects on one scale, relative ones as a rule, shape (k,).
        std_errors: Shape (k,).
        default: Declared prior for fewer than 5 effects.
        mean: `zero` or `free`; by default zero below 20 effects and free from there on.

    Raises:
        EstimationError: N_TOO_SMALL below 5 effects without a default; as `between_variance`.

    Examples:
        >>> default = EffectPrior(name="declared", mean=0.0, tau2=1e-4, n_effects=0)
        >>> learn_prior([0.1, 0.2], [0.1, 0.1], default=default).name
        'declared'
    """
    k = np.asarray(estimates).size
    if k < MIN_EFFECTS:
        if default is None:
            detail = f"{k}, need {MIN_EFFECTS}. Hint: declare a default prior"
            raise EstimationError("N_TOO_SMALL", "past effects", detail)
        return default
    chosen: Mean = mean or ("free" if k >= FREE_MEAN_EFFECTS else "zero")
    mu, tau2 = between_variance(estimates, std_errors, mean=chosen)
    return EffectPrior(name=f"reml_{chosen}_mean", mean=mu, tau2=tau2, n_effects=k)


def shrunk_estimate(
    estimate: float, std_error: float, tau2: float, *, mean: float = 0.0
) -> ShrunkEstimate:
    """Return the posterior mean and sd of an effect under a normal prior.

    Args:
        estimate: Raw effect, on the scale of the prior.
        std_error: Above 0.
        tau2: Variance of true effects.
        mean: Mean of true effects.

    Raises:
        EstimationError: NON_FINITE_INPUT, or ZERO_VARIANCE for a standard error of 0.
        ValueError: A negative variance or standard error.

    References:
        Azevedo et al. 2020; METHODS 10.4.

    Examples:
        >>> shrunk = shrunk_estimate(0.04, 0.01, 0.0003)
        >>> round(shrunk.estimate, 6), round(shrunk.posterior_sd, 6)
        (0.03, 0.00866)
    """
    if not all(map(math.isfinite, (estimate, std_error, tau2, mean))):
        raise EstimationError("NON_FINITE_INPUT", "shrinkage")
    if std_error < 0 or tau2 < 0:
        msg = f"std_error is {std_error} and tau2 {tau2}, need 0 or more"
        raise ValueError(msg)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "shrinkage", "std_error is 0")
    tau = math.sqrt(tau2)
    weight = (tau / math.hypot(tau, std_error)) ** 2
    return ShrunkEstimate(
        raw_estimate=estimate,
        raw_std_error=std_error,
        estimate=mean + weight * (estimate - mean),
        posterior_sd=std_error * math.sqrt(weight),
        weight=weight,
    )


def portfolio_effect(effects: Sequence[ShrunkEstimate]) -> PortfolioEffect:
    """Sum the shrunk effects of what was shipped, to compare with a long-term control group.

    Raises:
        EstimationError: N_TOO_SMALL without effects.

    Examples:
        >>> one = shrunk_estimate(0.04, 0.01, 0.0003)
        >>> round(portfolio_effect([one, one]).estimate, 6)
        0.06
    """
    if not effects:
        raise EstimationError("N_TOO_SMALL", "portfolio", "no shipped effect")
    return PortfolioEffect(
        estimate=math.fsum(effect.estimate for effect in effects),
        std_error=math.hypot(*(effect.posterior_sd for effect in effects)),
        n_effects=len(effects),
    )


def conditional_estimate(estimate: float, std_error: float, *, alpha: float = 0.05) -> float:
    """Return the maximum-likelihood effect given that it was significant, two-sided.

    Args:
        estimate: A result with |estimate|/std_error beyond the critical value.
        std_error: Above 0.
        alpha: Level of the selection.

    Raises:
        EstimationError: NON_FINITE_INPUT or ZERO_VARIANCE.
        ValueError: A result that was not significant.

    References:
        Zhong & Prentice 2008, Biostatistics 9, equation 4.

    Examples:
        >>> round(conditional_estimate(2.2, 1.0), 4), round(conditional_estimate(6.0, 1.0), 4)
        (0.637, 5.9999)
    """
    from scipy.optimize import brentq

    if not (math.isfinite(estimate) and math.isfinite(std_error)):
        raise EstimationError("NON_FINITE_INPUT", "conditional estimate")
    if std_error <= 0:
        raise EstimationError("ZERO_VARIANCE", "conditional estimate")
    c = critical_value(alpha)
    z = abs(estimate) / std_error
    if z <= c:
        msg = f"|z| is {z:.6g}, need more than {c:.6g}: the result was not selected"
        raise ValueError(msg)

    def score(theta: float) -> float:
        edge = math.exp(-0.5 * (theta - c) ** 2) - math.exp(-0.5 * (theta + c) ** 2)
        selected = float(ndtr(theta - c) + ndtr(-theta - c))
        return z - theta - edge / math.sqrt(2 * math.pi) / selected

    theta = float(brentq(score, 0.0, z, xtol=SCORE_PRECISION))
    return math.copysign(theta * std_error, estimate)


def _scaled(estimates: ArrayLike, std_errors: ArrayLike) -> tuple[Vector, Vector, float]:
    """Effects and variances in units of the largest number among them."""
    y = np.asarray(estimates, dtype=np.float64)
    s = np.asarray(std_errors, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        msg = f"estimates have shape {y.shape}, std_errors {s.shape}, need (k,) each"
        raise ValueError(msg)
    if not (np.isfinite(y).all() and np.isfinite(s).all()):
        raise EstimationError("NON_FINITE_INPUT", "past effects")
    if (s <= 0).any():
        raise EstimationError("ZERO_VARIANCE", "past effects", "a std_error is not above 0")
    scale = float(np.abs([y, s]).max(initial=0.0)) or 1.0
    return y / scale, np.square(s / scale), scale


def _log_likelihood(tau2: Vector, y: Vector, v: Vector, *, is_free: bool) -> Vector:
    """ℓ at each τ², shape (grid,)."""
    w = 1 / (v + tau2[:, None])
    total = w.sum(axis=1)
    mu = (w * y).sum(axis=1) / total if is_free else np.zeros_like(total)
    quadratic = (w * np.square(y - mu[:, None])).sum(axis=1)
    restricted = np.log(total) if is_free else 0.0
    return np.asarray(0.5 * (np.log(w).sum(axis=1) - restricted - quadratic))


def _score(tau2: Vector, y: Vector, v: Vector, *, is_free: bool) -> Vector:
    """Twice dℓ/dτ² at each τ², shape (grid,)."""
    w = 1 / (v + tau2[:, None])
    total, squares = w.sum(axis=1), np.square(w)
    mu = (w * y).sum(axis=1) / total if is_free else np.zeros_like(total)
    penalty = total - squares.sum(axis=1) / total if is_free else total
    return np.asarray((squares * np.square(y - mu[:, None])).sum(axis=1) - penalty)
