"""Integrals of positive functions that are known by their logarithms.

Gauss-Legendre on panels, added up in logs; a panel is halved until its halves agree with the
whole. Several functions share their nodes, and each is held to its own total, so an integral of
1e-200 has as many digits as one of 1. Below 1e-300 only the logarithm is given, to 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
LogFunctions = Callable[[Vector], Vector]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
PRECISION = 1e-11  # of each total
ROUNDING = 1e-14  # of its logarithm, which is all that a logarithm of -1e6 can give
NEGLIGIBLE = -700.0  # ln of totals below the smallest double, of which a rough logarithm will do
ROUGH = 1e-3
MAX_HALVINGS = 30
FLOOR = -1e9  # stands for the logarithm of 0


def log_integrals(functions: LogFunctions, low: Vector, high: Vector) -> Vector:
    """Return the logarithms of m integrals over the same panels.

    Args:
        functions: From y of shape (n,) to ln f, shape (m, n); −inf where f is 0.
        low: Lower ends of the panels, shape (p,).
        high: Upper ends, above the lower ones, shape (p,).

    Returns:
        Shape (m,).

    Raises:
        EstimationError: NOT_IDENTIFIED where halving does not settle.

    Examples:
        >>> def bell(y):
        ...     return -0.5 * y[None, :] ** 2
        >>> round(float(np.exp(2 * log_integrals(bell, np.r_[-9.0, 0.0], np.r_[0.0, 9.0])[0])), 9)
        6.283185307
    """
    whole = _panels(functions, low, high)
    accepted = np.full((len(whole), 1), FLOOR)
    for _ in range(MAX_HALVINGS):
        middle = (low + high) / 2
        if not ((low < middle) & (middle < high)).all():
            break  # nothing between the ends can be told from them
        left, right = _panels(functions, low, middle), _panels(functions, middle, high)
        halves = np.logaddexp(left, right)
        totals = logsumexp(np.hstack([accepted, halves]), axis=1)
        error = np.abs(np.expm1(np.clip(whole - halves, -1.0, 1.0)))
        error *= np.exp(np.minimum(halves - totals[:, None], 0.0))
        allowed = np.where(totals < NEGLIGIBLE, ROUGH, np.maximum(PRECISION, -ROUNDING * totals))
        is_open = (error > allowed[:, None]).any(axis=0)
        accepted = logsumexp(np.hstack([accepted, halves[:, ~is_open]]), axis=1, keepdims=True)
        if not is_open.any():
            return np.asarray(accepted[:, 0])
        whole = np.hstack([left[:, is_open], right[:, is_open]])
        low, high = (
            np.concatenate([low[is_open], middle[is_open]]),
            np.concatenate([middle[is_open], high[is_open]]),
        )
    raise EstimationError("NOT_IDENTIFIED", "quadrature", "the posteriors are too ill-conditioned")


def _panels(functions: LogFunctions, low: Vector, high: Vector) -> Vector:
    """Logarithm of the integral over each panel, shape (m, p)."""
    half = (high - low) / 2
    y = (low + half)[:, None] + half[:, None] * NODES
    values = np.maximum(functions(y.ravel()), FLOOR)
    weighted = values.reshape(len(values), *y.shape) + np.log(half[:, None] * WEIGHTS)
    return np.asarray(logsumexp(weighted, axis=2))
