"""Posteriors of one arm's mean: beta, normal and Student t, each with tails in log space.

    BetaPosterior      a rate; integrals run over its logit
    NormalPosterior    a mean or an effect with known standard error
    StudentPosterior   a mean whose variance is unknown (marginal of a normal-inverse-gamma)

What `best_arm` needs of a posterior is its density and both tails in some coordinate y, in logs,
and points between which its density is smooth. Nothing here compares arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import (
    betainccinv,
    betaincinv,
    digamma,
    log_expit,
    log_ndtr,
    ndtri,
    polygamma,
    stdtrit,
)

from experiments_dagster.stats.bayesian import beta_tails
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha

Vector = NDArray[np.float64]
Coordinate = Literal["logit", "value"]

REACH = 40.0  # standard deviations; a normal tail there is below 1e-300
STEP = 1.0
DEEPEST = 700.0  # −ln of the smallest tail that a grid must reach
TAIL_STEP = 8.0  # nats between points of an exponential tail
MIN_DF = 2.0


class Posterior(Protocol):
    """What an arm's mean is believed to be."""

    @property
    def coordinate(self) -> Coordinate:
        """Over which y integrals run: the logit of the mean, or the mean itself."""

    @property
    def mean(self) -> float:
        """Posterior mean."""

    def interval(self, alpha: float) -> tuple[float, float]:
        """Central credible interval that leaves `alpha / 2` on each side."""

    def points(self) -> Vector:
        """Increasing y between which the density is smooth, out to tails below 1e-300."""

    def log_density(self, y: Vector) -> Vector:
        """Log density with respect to y."""

    def log_tails(self, y: Vector) -> tuple[Vector, Vector]:
        """Logarithms of P(below y) and P(above y)."""

    def draw(self, rng: np.random.Generator, size: int) -> Vector:
        """Independent draws of the mean, shape (size,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPosterior:
    """Beta(a, b) for a rate; a and b above 0.

    Examples:
        >>> low, high = BetaPosterior(a=11, b=91).interval(0.05)
        >>> round(low, 4), round(high, 4)
        (0.0556, 0.1746)
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        _check_finite("beta posterior", self.a, self.b)
        if self.a <= 0 or self.b <= 0:
            msg = f"beta posterior: a is {self.a}, b is {self.b}, need numbers above 0"
            raise ValueError(msg)

    @property
    def coordinate(self) -> Coordinate:
        """The logit."""
        return "logit"

    @property
    def mean(self) -> float:
        """a/(a + b)."""
        return self.a / (self.a + self.b)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Quantiles at alpha/2 and 1 − alpha/2."""
        check_alpha(alpha)
        return (
            float(betaincinv(self.a, self.b, alpha / 2)),
            float(betainccinv(self.a, self.b, alpha / 2)),
        )

    def points(self) -> Vector:
        """A grid in standard deviations of the logit, and along its exponential tails."""
        centre = float(digamma(self.a) - digamma(self.b))
        sd = math.sqrt(polygamma(1, self.a) + polygamma(1, self.b))
        tail = np.arange(TAIL_STEP, DEEPEST + TAIL_STEP, TAIL_STEP)
        grid = sd * np.arange(-REACH, REACH + STEP, STEP)
        left, right = -tail / self.a, tail / self.b
        parts = (left[left < grid[0]], grid, right[right > grid[-1]])
        return np.asarray(centre + np.sort(np.concatenate(parts)))

    def log_density(self, y: Vector) -> Vector:
        """Log density of the logit."""
        return beta_tails.log_density(y, self.a, self.b)

    def log_tails(self, y: Vector) -> tuple[Vector, Vector]:
        """Logarithms of P(below) and P(above), at the logit."""
        return beta_tails.log_tails(y, self.a, self.b)

    def draw(self, rng: np.random.Generator, size: int) -> Vector:
        """Rates."""
        return rng.beta(self.a, self.b, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalPosterior:
    """N(mean, sd²); sd above 0."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _check_finite("normal posterior", self.mean, self.sd)
        _check_spread("normal posterior", self.sd)

    @property
    def coordinate(self) -> Coordinate:
        """The mean itself."""
        return "value"

    def interval(self, alpha: float) -> tuple[float, float]:
        """The mean and z standard deviations to each side."""
        check_alpha(alpha)
        half = -float(ndtri(alpha / 2)) * self.sd
        return self.mean - half, self.mean + half

    def points(self) -> Vector:
        """A grid in standard deviations."""
        return self.mean + self.sd * np.arange(-REACH, REACH + STEP, STEP)

    def log_density(self, y: Vector) -> Vector:
        """Log density of the mean."""
        z = (y - self.mean) / self.sd
        return np.asarray(-0.5 * z * z - math.log(self.sd * math.sqrt(2 * math.pi)))

    def log_tails(self, y: Vector) -> tuple[Vector, Vector]:
        """Logarithms of Φ(z) and Φ(−z)."""
        z = (y - self.mean) / self.sd
        return np.asarray(log_ndtr(z)), np.asarray(log_ndtr(-z))

    def draw(self, rng: np.random.Generator, size: int) -> Vector:
        """Means."""
        return rng.normal(self.mean, self.sd, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentPosterior:
    """mean + scale · t with `df` degrees of freedom; scale above 0, df at least 2."""

    mean: float
    scale: float
    df: float

    def __post_init__(self) -> None:
        _check_finite("Student posterior", self.mean, self.scale, self.df)
        _check_spread("Student posterior", self.scale)
        if self.df < MIN_DF:
            msg = f"Student posterior: df is {self.df}, need {MIN_DF:g} or more"
            raise ValueError(msg)

    @property
    def coordinate(self) -> Coordinate:
        """The mean itself."""
        return "value"

    def interval(self, alpha: float) -> tuple[float, float]:
        """The mean and t scales to each side."""
        check_alpha(alpha)
        half = -float(stdtrit(self.df, alpha / 2)) * self.scale
        return self.mean - half, self.mean + half

    def points(self) -> Vector:
        """A grid in scales, then doubling along the polynomial tails."""
        near = np.arange(-REACH, REACH + STEP, STEP)
        # ln P(|t| > u) is about −df ln u far out.
        doublings = min(1000, math.ceil(DEEPEST / self.df / math.log(2)))
        far = REACH * 2.0 ** np.arange(1, doublings + 1)
        return self.mean + self.scale * np.concatenate([-far[::-1], near, far])

    def log_density(self, y: Vector) -> Vector:
        """Log density of the mean."""
        half_df = self.df / 2
        # −ln B(½, df/2), by the peak of the beta density, which keeps its digits for a large df.
        peak = beta_tails.log_peak(0.5, half_df)
        peak += half_df * math.log1p(0.5 / half_df) + 0.5 * math.log1p(2 * half_df)
        kernel = (half_df + 0.5) * np.logaddexp(0.0, self._log_ratio(y))
        return np.asarray(peak - 0.5 * math.log(self.df) - math.log(self.scale) - kernel)

    def log_tails(self, y: Vector) -> tuple[Vector, Vector]:
        """Logarithms of both tails: half a tail of t²/(df + t²), which is beta distributed."""
        _, outside = beta_tails.log_tails(self._log_ratio(y), 0.5, self.df / 2)
        small = outside - math.log(2)
        large = np.log1p(-np.exp(small))
        is_left = y <= self.mean
        return np.where(is_left, small, large), np.where(is_left, large, small)

    def draw(self, rng: np.random.Generator, size: int) -> Vector:
        """Means."""
        return self.mean + self.scale * rng.standard_t(self.df, size)

    def _log_ratio(self, y: Vector) -> Vector:
        """ln(t²/df), the logit of t²/(df + t²)."""
        distance = np.maximum(np.abs(y - self.mean) / self.scale, np.finfo(np.float64).tiny)
        return np.asarray(2 * np.log(distance) - math.log(self.df))


def log_slope(coordinate: Coordinate, y: Vector) -> Vector:
    """Logarithm of |dx/dy| of the mean x by its coordinate y."""
    if coordinate == "logit":
        return np.asarray(log_expit(y) + log_expit(-y))
    return np.zeros_like(y)


def _check_finite(subject: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise EstimationError("NON_FINITE_INPUT", subject)


def _check_spread(subject: str, value: float) -> None:
    if value < 0:
        msg = f"{subject}: the spread is {value}, need a number above 0"
        raise ValueError(msg)
    if value == 0:
        raise EstimationError("ZERO_VARIANCE", subject)
