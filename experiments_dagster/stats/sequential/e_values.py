"""E-values, and scores and p-values on their scale.

E ≥ 0 with E_0[E] ≤ 1 at any stopping time: reject where E ≥ 1/α (METHODS 8.10). Everything is kept
as ln E, so that neither 10^400 nor 10^−400 is lost.

    p to E     ln E = −ln 2 − ½ ln p               (calibrator ½ p^{−½})
    E to p     p = min(1, 1/E)
    averages   of e-values of any dependence are e-values; of e-processes, e-processes
    products   of e-values from independent experiments are e-values
    e-BH       reject the k* largest, k* = max{k : E_(k) ≥ m/(kα)}; controls the false discovery
               rate at one common time, whatever the dependence
    t to z     z' = Φ^{−1}(F_ν(t)), the normal score of a t statistic       (METHODS 2.2)

References:
    Vovk & Wang 2021; Wang & Ramdas 2022 (e-BH); Shafer 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, logsumexp, ndtri_exp, roots_laguerre, stdtr

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha

SMALLEST_TAIL = 1e-290  # below it a double tail loses digits; the logarithm is integrated instead
LAGUERRE_NODES = 32


def log_e_from_p(p_value: float) -> float:
    """Return the ln E that a p-value of one test is worth: ln(½ p^{−½}).

    Args:
        p_value: In (0, 1]. A p-value reported as 0 has lost its digits and is refused.

    Raises:
        ValueError: Outside (0, 1].

    Examples:
        >>> round(math.exp(log_e_from_p(0.0025)), 6)
        10.0
    """
    if not 0 < p_value <= 1:
        msg = f"p-value is {p_value}, need 0 < p <= 1"
        raise ValueError(msg)
    return -math.log(2) - 0.5 * math.log(p_value)


def p_from_log_e(log_e: float) -> float:
    """Return min(1, 1/E), valid at any stopping time.

    Examples:
        >>> round(p_from_log_e(math.log(20)), 6), p_from_log_e(-3.0)
        (0.05, 1.0)
    """
    return math.exp(-max(0.0, log_e))


def mean_log_e(log_e: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return ln of the weighted mean of e-values, dependent or not.

    Args:
        log_e: ln E of each; -inf is an e-value of 0.
        weights: Fixed before the data, not negative, summing to 1; equal by default.

    Raises:
        ValueError: No e-values, or weights that are not such.

    Examples:
        >>> round(math.exp(mean_log_e([math.log(30), math.log(10)])), 6)
        20.0
    """
    values = _checked(log_e)
    share = np.full(len(values), 1 / len(values)) if weights is None else np.asarray(weights)
    if share.shape != values.shape or (share < 0).any() or not math.isclose(share.sum(), 1):
        msg = f"weights {share.tolist()} for {len(values)} e-values must be >= 0 and sum to 1"
        raise ValueError(msg)
    return float(logsumexp(values, b=share))


def product_log_e(log_e: Sequence[float]) -> float:
    """Return ln of the product of e-values from independent experiments.

    Examples:
        >>> round(math.exp(product_log_e([math.log(4), math.log(5)])), 6)
        20.0
    """
    return float(_checked(log_e).sum())


def e_benjamini_hochberg(log_e: Sequence[float], *, alpha: float) -> tuple[bool, ...]:
    """Return which hypotheses e-BH rejects, in input order.

    Args:
        log_e: ln E of each hypothesis at one common time.
        alpha: False discovery rate.

    References:
        Wang & Ramdas 2022, definition 4.

    Examples:
        >>> e_benjamini_hochberg([math.log(100), math.log(1), math.log(35)], alpha=0.05)
        (True, False, True)
    """
    check_alpha(alpha)
    values = _checked(log_e)
    m = len(values)
    order = np.argsort(-values, kind="stable")
    passes = values[order] >= math.log(m / alpha) - np.log(np.arange(1, m + 1))
    count = int(np.flatnonzero(passes)[-1]) + 1 if passes.any() else 0
    rejected = np.zeros(m, dtype=bool)
    rejected[order[:count]] = True
    return tuple(bool(is_rejected) for is_rejected in rejected)


def normal_equivalent(t: float, df: float) -> float:
    """Return the normal score with the tail of a t statistic, for comparison with a boundary.

    Args:
        t: Statistic with a t distribution.
        df: Its degrees of freedom ν, above 0.

    Raises:
        EstimationError: NON_FINITE_INPUT.
        ValueError: df not above 0.

    References:
        METHODS 2.2. In the far tail, w = ½ν ln(1 + t²/ν) and s(u) = t at w + u,
        ln Q = −ln[√ν B(½, ν/2)] − w + ln ∫ e^{−u} √(1/s(u)² + 1/ν) du.

    Examples:
        >>> round(normal_equivalent(2.228139, 10), 6)
        1.959964
        >>> round(normal_equivalent(-1e200, 5), 3)
        -67.752
    """
    if not df > 0:
        msg = f"degrees of freedom are {df}, need > 0"
        raise ValueError(msg)
    if not (math.isfinite(t) and math.isfinite(df)):
        raise EstimationError("NON_FINITE_INPUT", "t statistic", f"t = {t}, df = {df}")
    tail = float(stdtr(df, -abs(t)))
    log_tail = math.log(tail) if tail > SMALLEST_TAIL else _far_log_tail(abs(t), df)
    return math.copysign(float(ndtri_exp(log_tail)), t)


def _far_log_tail(t: float, df: float) -> float:
    """Return ln P(T_ν > t) far out, where the integrand is nearly constant under e^{−u}."""
    w = 0.5 * df * float(np.logaddexp(0.0, 2 * math.log(t) - math.log(df)))
    points, weights = roots_laguerre(LAGUERRE_NODES)
    growth = 2 * (w + points) / df
    inverse_square = np.exp(-growth) / -np.expm1(-growth) / df
    integral = float(weights @ np.sqrt(inverse_square + 1 / df))
    return math.log(integral) - w - 0.5 * math.log(df) - float(betaln(0.5, df / 2))


def _checked(log_e: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(log_e, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any() or (values == np.inf).any():
        msg = f"ln E is {list(log_e)}, need one or more values below infinity"
        raise ValueError(msg)
    return values
