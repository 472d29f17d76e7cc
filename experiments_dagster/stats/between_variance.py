"""τ²: how much true effects differ between studies, beyond their sampling errors (METHODS 10.2).

y_j ~ N(μ, v_j + τ²), w = 1/(v + τ²), μ̂ = Σwy/Σw, Q(τ²) = Σw(y − μ̂)²:

    zero_mean  ℓ = ½Σ ln w − ½Σ w y²
    ml         ℓ = ½Σ ln w − ½Q
    reml       ℓ = ½Σ ln w − ½ ln Σw − ½Q
    dl         max(0, (Q(0) − (k − 1))/(Σw − Σw²/Σw)) with w at τ² = 0
    pm         the root of Q(τ²) = k − 1, or 0

The likelihoods are maximised over τ² ≥ 0, boundary included, and can have several peaks: a grid
finds each, Fisher scoring goes to its top, the highest wins.

What does not belong here: the pooled effect (`meta_analysis`), what a prior does to an effect
(`shrinkage`).

References:
    DerSimonian & Laird 1986; Paule & Mandel 1982; DerSimonian & Kacker 2007; Viechtbauer 2005.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError

Likelihood = Literal["zero_mean", "ml", "reml"]
Estimator = Literal["dl", "pm", "ml", "reml"]
Vector = NDArray[np.float64]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

GRID = 400  # points of τ² between which a likelihood has at most one peak
SMALLEST_TAU2 = 1e-8  # relative to the smallest variance
MAX_STEPS = 300
ROUNDING = 4e-16


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledStudies:
    """Effects and variances over a power of two near the largest number, so that squares fit.

    `y` is in units of 2^`exponent`, after `centre` (in these units too) was taken from it; `v` in
    units of its square.
    """

    y: Vector
    v: Vector
    centre: float
    exponent: int

    def effect(self, value: float) -> float:
        """An effect in the units of the input."""
        return math.ldexp(value + self.centre, self.exponent)

    def spread(self, value: float) -> float:
        """A standard error in the units of the input."""
        return math.ldexp(value, self.exponent)

    def variance(self, value: float) -> float:
        """A variance in the units of the input.

        Raises:
            EstimationError: NON_FINITE_INPUT where it is beyond the largest number.
        """
        try:
            return math.ldexp(value, 2 * self.exponent)
        except OverflowError:
            raise EstimationError("NON_FINITE_INPUT", "studies", "a variance overflows") from None


def scaled_studies(
    estimates: ArrayLike, std_errors: ArrayLike, *, is_centred: bool, subject: str = "studies"
) -> ScaledStudies:
    """Check studies and bring them to one scale.

    Args:
        estimates: Effects, shape (k,).
        std_errors: Above 0, shape (k,).
        is_centred: Whether to take off the mean of the effects; no digit of their differences is
            then lost to a level that they share.
        subject: What messages call them.

    Raises:
        EstimationError: NON_FINITE_INPUT, ZERO_VARIANCE.
        ValueError: Shapes differ.
    """
    y = np.asarray(estimates, dtype=np.float64)
    s = np.asarray(std_errors, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        msg = f"estimates have shape {y.shape}, std_errors {s.shape}, need (k,) each"
        raise ValueError(msg)
    if not (np.isfinite(y).all() and np.isfinite(s).all()):
        raise EstimationError("NON_FINITE_INPUT", subject)
    if (s <= 0).any():
        raise EstimationError("ZERO_VARIANCE", subject, "a std_error is not above 0")
    exponent = math.frexp(float(np.abs([y, s]).max(initial=0.0)))[1]
    y, s = np.ldexp(y, -exponent), np.ldexp(s, -exponent)
    centre = float(y.mean()) if is_centred and len(y) else 0.0
    v = np.square(s)
    with np.errstate(over="ignore", divide="ignore"):
        is_negligible = ~np.isfinite(v**-3)  # the largest power of a weight below
    if is_negligible.any():
        raise EstimationError("ZERO_VARIANCE", subject, "a std_error is nothing beside the rest")
    return ScaledStudies(y=y - centre, v=v, centre=centre, exponent=exponent)


def estimated_tau2(studies: ScaledStudies, estimator: Estimator) -> float:
    """Return τ̂² around a free mean, in the units of the scaled studies.

    Args:
        studies: Two or more.
        estimator: One of `ESTIMATORS`.
    """
    if estimator == "dl":
        return dersimonian_laird(studies.y, studies.v)
    if estimator == "pm":
        return paule_mandel(studies.y, studies.v)
    return likeliest_tau2(studies.y, studies.v, estimator)


def weighted_mean(y: Vector, v: Vector, tau2: float = 0.0) -> tuple[float, float]:
    """Return μ̂ and Σw at a τ².

    Examples:
        >>> weighted_mean(np.array([1.0, 4.0]), np.array([1.0, 2.0]))
        (2.0, 1.5)
    """
    w = 1 / (v + tau2)
    total = float(w.sum())
    return float(w @ y) / total, total


def cochran_q(y: Vector, v: Vector, tau2: float = 0.0) -> float:
    """Return Q(τ²) = Σw(y − μ̂)².

    References:
        Cochran 1954.
    """
    mu, _ = weighted_mean(y, v, tau2)
    return float((np.square(y - mu) / (v + tau2)).sum())


def dersimonian_laird(y: Vector, v: Vector) -> float:
    """Return the moment estimate, 0 where Q falls short of its expectation.

    References:
        DerSimonian & Laird 1986, equation 8.
    """
    w = 1 / v
    excess = cochran_q(y, v) - (len(y) - 1)
    scale = float(w.sum()) - float(w @ w) / float(w.sum())
    return max(0.0, excess / scale)


def paule_mandel(y: Vector, v: Vector) -> float:
    """Return the root of Q(τ²) = k − 1, or 0 where Q(0) is below.

    Q is convex and falls in τ², so Newton steps from 0 stay below the root and reach it.

    References:
        Paule & Mandel 1982; DerSimonian & Kacker 2007, equation 6.
    """
    tau2, df = 0.0, len(y) - 1
    for _ in range(MAX_STEPS):
        mu, _ = weighted_mean(y, v, tau2)
        excess = float((np.square(y - mu) / (v + tau2)).sum()) - df
        slope = float(np.square((y - mu) / (v + tau2)).sum())
        if excess <= 0 or excess <= ROUNDING * slope * tau2:
            break
        tau2 += excess / slope
    return tau2


def likeliest_tau2(y: Vector, v: Vector, likelihood: Likelihood) -> float:
    """Return the τ² ≥ 0 of the highest peak of a likelihood.

    Args:
        y: Effects on a scale where squares neither overflow nor vanish, shape (k,).
        v: Their variances, above 0, shape (k,).
        likelihood: Around 0, or around a free mean with or without paying for it.

    References:
        Viechtbauer 2005, equations 9 to 13; Thompson & Sharp 1999.
    """
    top = 4 * float(np.square(y).max())  # from there on every score is negative
    low = SMALLEST_TAU2 * float(v.min())
    grid = np.concatenate([[0.0], np.geomspace(low, max(top, 2 * low), GRID)])
    scores, _ = _score(grid, y, v, likelihood)
    peaks = [0.0] if scores[0] <= 0 else []
    peaks += [
        _climb(float(grid[index]), float(grid[index + 1]), y, v, likelihood)
        for index in np.flatnonzero((scores[:-1] > 0) & (scores[1:] <= 0))
    ]
    heights = _log_likelihood(np.array(peaks), y, v, likelihood)
    return peaks[int(np.argmax(heights))]


def _climb(low: float, high: float, y: Vector, v: Vector, likelihood: Likelihood) -> float:
    """Fisher scoring between two points where the score is positive and not; halves every third."""
    tau2 = low
    for step in range(MAX_STEPS):
        score, information = (float(x[0]) for x in _score(np.array([tau2]), y, v, likelihood))
        low, high = (tau2, high) if score > 0 else (low, tau2)
        # One weight beyond all others leaves no information but rounding.
        proposed = tau2 + score / information if information > 0 else high
        is_inside = low < proposed < high
        if high - low <= ROUNDING * high or (is_inside and proposed == tau2):
            break
        tau2 = proposed if is_inside and step % 3 < 2 else (low + high) / 2  # noqa: PLR2004
    return tau2


def _log_likelihood(tau2: Vector, y: Vector, v: Vector, likelihood: Likelihood) -> Vector:
    """ℓ at each τ², shape (grid,)."""
    w = 1 / (v + tau2[:, None])
    total = w.sum(axis=1)
    residual = _residuals(w, total, y, likelihood)
    quadratic = (w * np.square(residual)).sum(axis=1)
    restricted = np.log(total) if likelihood == "reml" else 0.0
    return np.asarray(0.5 * (np.log(w).sum(axis=1) - restricted - quadratic))


def _score(tau2: Vector, y: Vector, v: Vector, likelihood: Likelihood) -> tuple[Vector, Vector]:
    """Twice the score and twice the expected information of τ², shape (grid,) each."""
    w = 1 / (v + tau2[:, None])
    total, squares = w.sum(axis=1), np.square(w)
    s2 = squares.sum(axis=1)
    penalty, information = total, s2
    if likelihood == "reml":
        # tr P and tr PP of P = W − W11'W/Σw.
        penalty = total - s2 / total
        information = s2 - 2 * (squares * w).sum(axis=1) / total + np.square(s2 / total)
    residual = _residuals(w, total, y, likelihood)
    return np.asarray((squares * np.square(residual)).sum(axis=1) - penalty), information


def _residuals(w: Vector, total: Vector, y: Vector, likelihood: Likelihood) -> Vector:
    """Effects less their weighted mean at each τ², shape (grid, k)."""
    if likelihood == "zero_mean":
        return np.broadcast_to(y, w.shape)
    mu = (w * y).sum(axis=1) / total
    return np.asarray(y - mu[:, None])
