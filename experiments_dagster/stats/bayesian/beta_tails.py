"""Density and tails of Beta(a, b) in log space, for a and b up to 1e8 and tails below 1e-300.

Everything is a function of y = logit x, so that neither end of (0, 1) loses digits. With
m = a/(a + b) and d = y − logit m, and δ the error of Stirling's formula for ln Γ,

    ln g(y) = −a ln(1 + (1 − m)(e^−d − 1)) − b ln(1 + m(e^d − 1))
              + ½ ln(ab / 2π(a + b)) + δ(a + b) − δ(a) − δ(b)

is the density of y: no term grows with a + b near the mode, as ln B(a, b) would. Tails are
regularised incomplete beta functions, and where these underflow

    ln P(Y < y) = ln g(y) − ln a + ln K(a, b, x)

with K the continued fraction of the incomplete beta function.

References:
    Loader 2000 (saddle-point expansion of the density); DiDonato & Morris 1992 (fraction).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, expit, gammaln, log_expit

Vector = NDArray[np.float64]

STIRLING_FROM = 16.0  # from here four terms of the series leave less than 2e-14
SMALLEST = 1e-290  # below, the incomplete beta function nears underflow
NEAR = 1.0  # |d| up to which the difference of logarithms would cancel
MAX_TERMS = 500
CHECK_EVERY = 8  # terms after which points that have converged are set aside
FRACTION_PRECISION = 1e-15
FRACTION_FLOOR = 1e-300


def stirling_error(z: float) -> float:
    """Return δ(z) = ln Γ(z) − [(z − ½) ln z − z + ½ ln 2π].

    Examples:
        >>> round(stirling_error(1.0), 12), round(stirling_error(100.0), 12)
        (0.081061466795, 0.000833330556)
    """
    if z < STIRLING_FROM:
        return float(gammaln(z)) - ((z - 0.5) * math.log(z) - z + 0.5 * math.log(2 * math.pi))
    r = 1 / (z * z)
    return (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / z


def log_peak(a: float, b: float) -> float:
    """Return the logarithm of m^a (1 − m)^b / B(a, b), the density of y at logit m."""
    total = a + b
    rest = stirling_error(total) - stirling_error(a) - stirling_error(b)
    return 0.5 * (math.log(a) + math.log(b / total) - math.log(2 * math.pi)) + rest


def log_density(y: Vector, a: float, b: float) -> Vector:
    """Return ln g(y), the log density of the logit of a Beta(a, b), shape of y."""
    m = a / (a + b)
    d = y - math.log(a / b)
    near = np.clip(d, -NEAR, NEAR)
    close = a * np.log1p((1 - m) * np.expm1(-near)) + b * np.log1p(m * np.expm1(near))
    far = -a * (log_expit(y) - math.log(m)) - b * (log_expit(-y) - math.log1p(-m))
    kernel = np.where(np.abs(d) <= NEAR, close, far)
    return np.asarray(log_peak(a, b) - kernel)


def log_tails(y: Vector, a: float, b: float) -> tuple[Vector, Vector]:
    """Return ln P(Y < y) and ln P(Y > y) for the logit Y of a Beta(a, b), shape of y each.

    The smaller one is computed, the larger follows from it without loss.
    """
    is_left = y <= math.log(a / b)
    # The tail on the left of y is that on the right of −y with a and b exchanged.
    left = _log_lower(y[is_left], a, b)
    right = _log_lower(-y[~is_left], b, a)
    below, above = np.empty_like(y), np.empty_like(y)
    below[is_left], above[is_left] = left, _log_complement(left)
    above[~is_left], below[~is_left] = right, _log_complement(right)
    return below, above


def _log_lower(y: Vector, a: float, b: float) -> Vector:
    """The left tail, for y up to about the mode."""
    x, rest = expit(y), expit(-y)
    is_small = x <= rest
    p = np.empty_like(x)
    p[is_small] = betainc(a, b, x[is_small])
    p[~is_small] = betaincc(b, a, rest[~is_small])
    found = np.log(np.maximum(p, SMALLEST))
    deep = p < SMALLEST
    if deep.any():
        fraction = _continued_fraction(x[deep], a, b)
        found[deep] = log_density(y[deep], a, b) - math.log(a) + np.log(fraction)
    return np.asarray(np.minimum(found, 0.0))


def _log_complement(log_p: Vector) -> Vector:
    """ln(1 − p) from ln p."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-np.exp(log_p)))


def _continued_fraction(x: Vector, a: float, b: float) -> Vector:
    """K(a, b, x) by the modified Lentz method; it converges fast far below the mean."""
    found, index = np.ones_like(x), np.arange(len(x))
    c, product = np.ones_like(x), np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    product *= d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            product = product * (c * d)
        is_open = np.abs(c * d - 1) > FRACTION_PRECISION
        if m % CHECK_EVERY and is_open.any():
            continue
        found[index] = product
        if not is_open.any():
            break
        index = index[is_open]
        x, c, d, product = x[is_open], c[is_open], d[is_open], product[is_open]
    found[index] = product
    return found


def _away_from_zero(value: Vector) -> Vector:
    return np.where(np.abs(value) < FRACTION_FLOOR, FRACTION_FLOOR, value)
