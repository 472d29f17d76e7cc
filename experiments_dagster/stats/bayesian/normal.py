"""Effects with a normal prior, and means with a normal-inverse-gamma prior (METHODS 9.2, 9.4).

An effect Δ̂ | θ ~ N(θ, s²) with θ ~ N(μ₀, τ²) has the posterior N(m, v) of `shrinkage`. Then, with
z = m/√v,

    P(θ > 0) = Φ(z),   expected loss of shipping E[(−θ)⁺] = √v [φ(z) − z Φ(−z)]

and that of not shipping is the same at −z. The prior is learned from past effects
(`shrinkage.learn_prior`) or declared; a flat one (τ = ∞) has to be asked for and says `flat`.
Stopping when the posterior looks good does not control error rates: the plan still decides.

Rewards y_1 … y_n ~ N(μ, σ²), both unknown, with prior guesses μ₀ and σ₀ worth κ₀ units have

    κ = κ₀ + n,  M = κ₀σ₀² + Σ(y − ȳ)² + κ₀n(ȳ − μ₀)²/κ,  μ | y ~ t_κ((κ₀μ₀ + nȳ)/κ, M/κ²)

which is the normal-inverse-gamma update with α₀ = κ₀/2 and β₀ = κ₀σ₀²/2.

References:
    Azevedo et al. 2020; Murphy 2007, Conjugate Bayesian analysis of the Gaussian distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import erfcx, log_ndtr, ndtr, ndtri

from experiments_dagster.stats.bayesian.posteriors import MIN_DF, StudentPosterior
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.shrinkage import EffectPrior, shrunk_estimate

FLAT = "flat"
SERIES_FROM = 12.0  # from here the asymptotic series has more digits than 1 − z R(z)
SERIES_TERMS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPosterior:
    """What an effect is believed to be, and what deciding on it costs.

    `prior` names the prior: that of past effects, a declared one, or `flat`. Losses are expected
    ones in units of the effect: of shipping where the true effect is negative, of not shipping
    where it is positive. `weight` is the share of the raw estimate kept.
    """

    prior: str
    raw_estimate: float
    raw_std_error: float
    mean: float
    sd: float
    weight: float
    ci_low: float
    ci_high: float
    confidence_level: float
    probability_positive: float
    loss_shipping: float
    loss_not_shipping: float
    log_loss_shipping: float
    log_loss_not_shipping: float


def effect_posterior(
    estimate: float, std_error: float, prior: EffectPrior, *, alpha: float = 0.05
) -> EffectPosterior:
    """Return the posterior of an effect under a normal prior.

    Args:
        estimate: Raw effect, on the scale of the prior (relative as a rule).
        std_error: Above 0.
        prior: From `shrinkage.learn_prior`, or declared; its variance above 0.
        alpha: 1 − level of the credible interval.

    Raises:
        EstimationError: NON_FINITE_INPUT, or ZERO_VARIANCE of the estimate or the prior.

    Examples:
        >>> prior = EffectPrior(name="declared", mean=0.0, tau2=0.0025, n_effects=0)
        >>> found = effect_posterior(0.04, 0.02, prior)
        >>> round(found.mean, 6), round(found.probability_positive, 6), found.prior
        (0.034483, 0.968341, 'declared')
    """
    if prior.tau2 == 0:
        detail = f"prior {prior.name} allows no effect but {prior.mean:g}"
        raise EstimationError("ZERO_VARIANCE", "effect posterior", detail)
    shrunk = shrunk_estimate(estimate, std_error, prior.tau2, mean=prior.mean)
    return _posterior(
        prior.name,
        (estimate, std_error),
        shrunk.estimate,
        shrunk.posterior_sd,
        weight=shrunk.weight,
        alpha=alpha,
    )


def flat_effect_posterior(
    estimate: float, std_error: float, *, alpha: float = 0.05
) -> EffectPosterior:
    """Return the posterior of an effect without any prior knowledge, labelled `flat`.

    It believes every estimate as it stands, winners too: P(θ > 0) is 1 minus the one-sided p-value.

    Raises:
        EstimationError: NON_FINITE_INPUT, or ZERO_VARIANCE.

    Examples:
        >>> found = flat_effect_posterior(1.96, 1.0)
        >>> found.prior, round(found.probability_positive, 6)
        ('flat', 0.975002)
    """
    if not (math.isfinite(estimate) and math.isfinite(std_error)):
        raise EstimationError("NON_FINITE_INPUT", "effect posterior")
    if std_error <= 0:
        raise EstimationError("ZERO_VARIANCE", "effect posterior", f"std_error is {std_error}")
    return _posterior(FLAT, (estimate, std_error), estimate, std_error, weight=1.0, alpha=alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPrior:
    """Guesses of a reward's mean and standard deviation, worth as many units as `units`."""

    mean: float
    sd: float
    units: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.sd < math.inf):
            msg = f"prior: mean is {self.mean}, sd is {self.sd}, need finite numbers and sd above 0"
            raise ValueError(msg)
        if not MIN_DF <= self.units < math.inf:
            msg = f"prior: worth {self.units} units, need {MIN_DF:g} or more"
            raise ValueError(msg)


def mean_posterior(n: int, mean: float, cross: float, *, prior: MeanPrior) -> StudentPosterior:
    """Return the posterior of a mean whose variance is unknown.

    Args:
        n: Units; 0 leaves the prior.
        mean: Their mean.
        cross: Σ(y − ȳ)², 0 or more.
        prior: Guesses and their worth.

    Raises:
        EstimationError: NON_FINITE_INPUT.
        ValueError: A negative count or sum of squares.

    Examples:
        >>> mean_posterior(0, 0.0, 0.0, prior=MeanPrior(mean=1.0, sd=2.0, units=4))
        StudentPosterior(mean=1.0, scale=1.0, df=4)
    """
    if not (math.isfinite(mean) and math.isfinite(cross)):
        raise EstimationError("NON_FINITE_INPUT", "mean posterior")
    if n < 0 or cross < 0:
        msg = f"n is {n}, the sum of squares {cross}, need 0 or more"
        raise ValueError(msg)
    units = prior.units + n
    shift = mean - prior.mean
    squares = prior.units * prior.sd**2 + cross + prior.units * n / units * shift**2
    return StudentPosterior(
        mean=prior.mean + n / units * shift, scale=math.sqrt(squares) / units, df=units
    )


def log_unit_loss(z: float) -> float:
    """Return ln[φ(z) − z Φ(−z)], the expected loss E[(−θ)⁺] of θ ~ N(z, 1).

    Examples:
        >>> round(log_unit_loss(0.0), 9), round(log_unit_loss(30.0), 6)
        (-0.918938533, -457.724654)
    """
    log_phi = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    if z <= 0:
        return float(math.log(math.exp(log_phi) - z * float(ndtr(-z))))
    if z < SERIES_FROM:
        mills = math.sqrt(math.pi / 2) * float(erfcx(z / math.sqrt(2)))
        return log_phi + math.log1p(-z * mills)
    # 1 − z R(z) = Σ (−1)^k (2k + 1)!!/z^(2k+2): no difference of nearly equal numbers.
    total, term = 0.0, 1 / z**2
    for k in range(1, SERIES_TERMS):
        total += term
        following = -term * (2 * k + 1) / z**2
        if abs(following) >= abs(term) or abs(following) < abs(total) * 1e-17:
            break
        term = following
    return log_phi + math.log(total)


def _posterior(
    name: str, raw: tuple[float, float], mean: float, sd: float, *, weight: float, alpha: float
) -> EffectPosterior:
    check_alpha(alpha)
    half, z = -float(ndtri(alpha / 2)) * sd, mean / sd
    ship, keep = (math.log(sd) + log_unit_loss(side) for side in (z, -z))
    return EffectPosterior(
        prior=name,
        raw_estimate=raw[0],
        raw_std_error=raw[1],
        mean=mean,
        sd=sd,
        weight=weight,
        ci_low=mean - half,
        ci_high=mean + half,
        confidence_level=1 - alpha,
        probability_positive=math.exp(float(log_ndtr(z))),
        loss_shipping=math.exp(ship),
        loss_not_shipping=math.exp(keep),
        log_loss_shipping=ship,
        log_loss_not_shipping=keep,
    )
