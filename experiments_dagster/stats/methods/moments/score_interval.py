"""The interval of a difference of proportions that inverts the pooled z test (METHODS 2.4).

It collects every δ that the test does not reject:

    (p̂_T − p̂_C − δ)² ≤ z²_{1−α/2} [p̃_T(1 − p̃_T)/n_T + p̃_C(1 − p̃_C)/n_C]

with p̃ the maximum-likelihood proportions under p_T − p_C = δ; at δ = 0 they are the pooled p̄.
Miettinen and Nurminen multiply the variance by N/(N − 1), which would pair the pooled p-value with
the interval of another test: that factor is left out (Mee 1984).
"""

from __future__ import annotations

import math

from experiments_dagster.stats.intervals import critical_value


def score_interval(
    x_control: int, n_control: int, x_treatment: int, n_treatment: int, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the interval of p_T − p_C that inverts the pooled z test.

    Args:
        x_control: Successes in control.
        n_control: Units in control.
        x_treatment: Successes in treatment.
        n_treatment: Units in treatment.
        alpha: Two-sided level.

    References:
        Mee 1984.
    """
    from scipy.optimize import brentq

    z = critical_value(alpha)
    estimate = x_treatment / n_treatment - x_control / n_control

    def excess(delta: float) -> float:
        variance = _restricted_variance(x_control, n_control, x_treatment, n_treatment, delta)
        return (estimate - delta) ** 2 - z * z * variance

    def limit(end: float) -> float:
        # Just inside the estimate, where the variance may itself be zero (0 and n successes).
        inside = estimate + (end - estimate) * 1e-12
        if estimate == end or excess(inside) >= 0:
            return estimate
        return float(brentq(excess, inside, end, xtol=1e-15))

    return min(limit(-1.0), estimate), max(limit(1.0), estimate)


def _restricted_variance(
    x_control: int, n_control: int, x_treatment: int, n_treatment: int, delta: float
) -> float:
    """Variance of the difference at the likelihood maximum under p_T − p_C = δ."""
    p_control = _restricted_control(x_control, n_control, x_treatment, n_treatment, delta)
    p_treatment = min(max(p_control + delta, 0.0), 1.0)
    return p_control * (1 - p_control) / n_control + p_treatment * (1 - p_treatment) / n_treatment


def _restricted_control(
    x_control: int, n_control: int, x_treatment: int, n_treatment: int, delta: float
) -> float:
    """Closed-form root of the cubic likelihood equation (Miettinen & Nurminen 1985, appendix)."""
    n, x = n_control + n_treatment, x_control + x_treatment
    l2 = (n_treatment + 2 * n_control) * delta - n - x
    l1 = (n_control * delta - n - 2 * x_control) * delta + x
    l0 = x_control * delta * (1 - delta)
    q = (l2 / (3 * n)) ** 3 - l1 * l2 / (6 * n * n) + l0 / (2 * n)
    p = math.copysign(math.sqrt(max((l2 / (3 * n)) ** 2 - l1 / (3 * n), 0.0)), q)
    angle = 0.0 if p == 0 else (math.pi + math.acos(min(max(q / p**3, -1.0), 1.0))) / 3
    root = 2 * p * math.cos(angle) - l2 / (3 * n)
    return min(max(root, 0.0, -delta), 1.0, 1 - delta)
