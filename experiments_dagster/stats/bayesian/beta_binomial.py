"""Rates with a beta prior (METHODS 9.1).

    p | x ~ Beta(a + x, b + n − x)

The prior is Beta(1, 1), declared, or learned from past baselines by moments: with rates p_j of n_j
units, mean p̄ = Σx/Σn, S = Σ n_j (p_j − p̄)², c = Σ n_j (1 − n_j/N) and k − 1 = Σ (1 − n_j/N),

    ρ = [S/(p̄q̄) − (k − 1)] / [c − (k − 1)],   a + b = 1/ρ − 1,   a = p̄ (a + b).

P(B > A) and expected losses: `best_arm.compare_arms`. The closed sum for integers is here too; it
loses its digits for large counts, and serves as a check.

References:
    Kleinman 1973 (moments); Miller 2014, Formulas for Bayesian A/B testing (closed sum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from experiments_dagster.stats.bayesian.posteriors import BetaPosterior
from experiments_dagster.stats.errors import EstimationError

MIN_BASELINES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPrior:
    """Beta(a, b); `name` says where it comes from: `uniform`, `declared` or `learned`."""

    name: str
    a: float
    b: float
    n_baselines: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            msg = f"beta prior: a is {self.a}, b is {self.b}, need finite numbers above 0"
            raise ValueError(msg)


UNIFORM = BetaPrior(name="uniform", a=1.0, b=1.0)


def rate_posterior(successes: int, n: int, *, prior: BetaPrior = UNIFORM) -> BetaPosterior:
    """Return the posterior of a rate.

    Args:
        successes: Units with an event, 0 to n.
        n: Units.
        prior: Beta(1, 1) unless another is given.

    Raises:
        ValueError: Counts that are none.

    Examples:
        >>> rate_posterior(20, 100)
        BetaPosterior(a=21.0, b=81.0)
    """
    if not 0 <= successes <= n:
        msg = f"{successes} successes of {n} units: need 0 <= successes <= n"
        raise ValueError(msg)
    return BetaPosterior(a=prior.a + successes, b=prior.b + n - successes)


def learn_rate_prior(successes: ArrayLike, n: ArrayLike) -> BetaPrior:
    """Return the beta prior that past baselines of a metric support, by moments.

    Args:
        successes: Shape (k,).
        n: Units, shape (k,), 2 or more each.

    Raises:
        EstimationError: N_TOO_SMALL below 2 baselines; ZERO_VARIANCE where they differ no more
            than chance makes them, or not at all.
        ValueError: Shapes differ, or counts that are none.

    References:
        Kleinman 1973, Journal of the American Statistical Association 68.

    Examples:
        >>> prior = learn_rate_prior([80, 120, 100, 140], [1000] * 4)
        >>> round(prior.a, 2), round(prior.b, 2)
        (18.81, 152.15)
    """
    x, size = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if x.shape != size.shape or x.ndim != 1 or not ((x >= 0) & (x <= size) & (size > 1)).all():
        msg = f"successes {x.shape} of n {size.shape}: need (k,) each, 0 <= successes <= n, n >= 2"
        raise ValueError(msg)
    if len(x) < MIN_BASELINES:
        detail = f"{len(x)}, need {MIN_BASELINES}. Hint: declare a prior"
        raise EstimationError("N_TOO_SMALL", "past baselines", detail)
    total = size.sum()
    mean = float(x.sum() / total)
    spread = mean * (1 - mean)
    if spread == 0:
        raise EstimationError("ZERO_VARIANCE", "past baselines", "every rate is 0 or every rate 1")
    free = float((1 - size / total).sum())
    between = float((size * np.square(x / size - mean)).sum()) / spread - free
    if between <= 0:
        detail = "they differ no more than chance makes them. Hint: declare a prior"
        raise EstimationError("ZERO_VARIANCE", "past baselines", detail)
    correlation = between / (float((size * (1 - size / total)).sum()) - free)
    concentration = 1 / correlation - 1
    if concentration <= 0:
        raise EstimationError("NOT_IDENTIFIED", "past baselines", "they are all but 0 and 1")
    return BetaPrior(
        name="learned",
        a=mean * concentration,
        b=(1 - mean) * concentration,
        n_baselines=len(x),
    )


def closed_probability(control: BetaPosterior, treatment: BetaPosterior) -> float:
    """Return P(treatment > control) by the closed sum over the treatment's integer `a`.

    Rounding can lift it above 1 for large counts; it is cut off there.

    Raises:
        ValueError: The treatment's `a` is no integer.

    References:
        Miller 2014, equation 6.
    """
    if treatment.a != int(treatment.a):
        msg = f"the closed sum needs an integer a, got {treatment.a}"
        raise ValueError(msg)
    i = np.arange(int(treatment.a), dtype=np.float64)
    above = betaln(control.a + i, control.b + treatment.b)
    below = betaln(1 + i, treatment.b) + np.log(treatment.b + i) + betaln(control.a, control.b)
    return min(1.0, float(np.exp(above - below).sum()))
