"""The winner's curse: what an estimate that looks large is worth (METHODS 10.4).

Past effects Δ̂_j with standard errors s_j are draws around μ, which is 0 or free, with a variance
τ² of true effects that `between_variance` estimates. Then, for a new result Δ̂ ± s,

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
from numpy.typing import ArrayLike
from scipy.special import ndtr

from experiments_dagster.stats.between_variance import (
    likeliest_tau2,
    scaled_studies,
    weighted_mean,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value

Mean = Literal["zero", "free"]

MIN_EFFECTS = 5  # below, a declared default prior
FREE_MEAN_EFFECTS = 20
SCORE_PRECISION = 1e-14


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
    if mean not in {"zero", "free"}:
        msg = f"mean is {mean!r}, need 'zero' or 'free'"
        raise ValueError(msg)
    is_free = mean == "free"
    studies = scaled_studies(estimates, std_errors, is_centred=is_free, subject="past effects")
    if len(studies.y) < 1 + is_free:
        raise EstimationError(
            "N_TOO_SMALL", "past effects", f"{len(studies.y)}, need {1 + is_free}"
        )
    tau2 = likeliest_tau2(studies.y, studies.v, "reml" if is_free else "zero_mean")
    mu = studies.effect(weighted_mean(studies.y, studies.v, tau2)[0]) if is_free else 0.0
    return mu, studies.variance(tau2)


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
