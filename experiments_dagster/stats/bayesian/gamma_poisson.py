"""Counts with a gamma prior (METHODS 9.1).

    λ | x ~ Gamma(shape + x, rate + exposure)
    P(λ₂ > λ₁) = I_w(s₁, s₂),   w = r₁/(r₁ + r₂)

with shapes s and rates r of two independent posteriors and I the regularised incomplete beta
function: r₁λ₁/(r₁λ₁ + r₂λ₂) is Beta(s₁, s₂).

References:
    Miller 2014, Formulas for Bayesian A/B testing (count data).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import betainc, betaincc, gammainccinv, gammaincinv

from experiments_dagster.stats.intervals import check_alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaPosterior:
    """Gamma(shape, rate) for events per unit of exposure; both above 0."""

    shape: float
    rate: float

    def __post_init__(self) -> None:
        if not (0 < self.shape < math.inf and 0 < self.rate < math.inf):
            msg = f"gamma: shape is {self.shape}, rate is {self.rate}, need finite numbers above 0"
            raise ValueError(msg)

    @property
    def mean(self) -> float:
        """shape/rate."""
        return self.shape / self.rate

    def interval(self, alpha: float) -> tuple[float, float]:
        """Quantiles at alpha/2 and 1 − alpha/2."""
        check_alpha(alpha)
        low, high = gammaincinv(self.shape, alpha / 2), gammainccinv(self.shape, alpha / 2)
        return float(low) / self.rate, float(high) / self.rate


def count_posterior(events: int, exposure: float, *, prior: GammaPosterior) -> GammaPosterior:
    """Return the posterior of a rate of events.

    Args:
        events: 0 or more.
        exposure: Units, or units times days; above 0.
        prior: Shape and rate, in the units of `exposure`.

    Raises:
        ValueError: Negative events, or no exposure.
    """
    if events < 0 or not 0 < exposure < math.inf:
        msg = f"{events} events over {exposure}: need events >= 0 and a finite exposure above 0"
        raise ValueError(msg)
    return GammaPosterior(shape=prior.shape + events, rate=prior.rate + exposure)


def probability_higher(control: GammaPosterior, treatment: GammaPosterior) -> float:
    """Return P(treatment's rate > control's); small ones keep their digits.

    Examples:
        >>> a, b = GammaPosterior(shape=11, rate=1), GammaPosterior(shape=15, rate=1)
        >>> round(probability_higher(a, b), 10)
        0.7878218889
    """
    total = control.rate + treatment.rate
    share, rest = control.rate / total, treatment.rate / total
    # The argument up to ½ is the one that rounding has not touched.
    if share <= rest:
        return float(betainc(control.shape, treatment.shape, share))
    return float(betaincc(treatment.shape, control.shape, rest))
