"""Several treatments against one control: Dunnett's single-step test and intervals.

Contrasts Δ̂_j with variances V_C + V_j share the control, so their correlations are products:

    corr_ij = λ_i λ_j,   λ_j = √(V_C/(V_C + V_j))        (= √(n_j/(n_j + n_C)) for equal variances)
    P(max|T_j| ≥ d) = ∫φ(x) [1 − Π_j {1 − q_j(x)}] dx
    q_j(x) = Φ((λ_j x − d)/s_j) + Φ(−(λ_j x + d)/s_j),   s_j = √(1 − λ_j²)

(one-sided: the first term alone). Finite degrees of freedom: the same with d·u, averaged over u
distributed as χ_ν/√ν. Both integrals are composite Gauss-Legendre; the upper probability is summed
directly, so that a p-value of 1e-58 keeps its digits. Adjusted p and simultaneous interval invert
one test, METHODS section 4.

Where covariate adjustment gives each contrast its own part V_C, λ_j takes that part: the
correlation is then the largest one possible, and exact where the control scores are proportional.

References:
    Dunnett 1955, JASA 50; Dunnett 1964, Biometrics 20; Genz & Bretz 2009, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, ndtr, ndtri, stdtrit

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha

Sides = Literal[1, 2]
Vector = NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
SCORE_LIMIT = 39.0  # φ(x) underflows beyond
SCORE_MARGIN = 9.0  # past the limit d the integrand is below e⁻⁴⁰ of the whole
SCORE_PANELS = 24
SMALLEST_SPREAD = 1e-6  # s_j of an arm whose mean is known all but exactly
STEP_OFFSETS = np.array([-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0])  # around a step, in its widths
NEGLIGIBLE_LOG, UNDERFLOW_LOG = 40.0, 746.0  # of a density relative to its peak, and of a double
ROOT_PRECISION = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class DunnettContrast:
    """One treatment against the control; p-value and limits hold for all treatments together."""

    estimate: float
    std_error: float
    statistic: float
    p_value: float
    ci_low: float
    ci_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DunnettComparison:
    """All treatments against the control at one family-wise level, in the order given."""

    contrasts: tuple[DunnettContrast, ...]
    critical_value: float
    alpha: float
    sides: Sides
    degrees_of_freedom: float | None


def compare_with_control(
    estimates: Sequence[float],
    *,
    variance_control: ArrayLike,
    variance_treatments: Sequence[float],
    alpha: float = 0.05,
    sides: Sides = 2,
    df: float | None = None,
) -> DunnettComparison:
    """Compare k treatments with the control, family-wise.

    Args:
        estimates: Treatment minus control for each treatment, shape (k,).
        variance_control: Part of each variance from the control: one number, or one per treatment.
        variance_treatments: Part of each variance from its treatment, shape (k,).
        alpha: Family-wise level.
        sides: 2, or 1 for effects above zero (negate the estimates for those below); the upper
            limit is then None.
        df: Degrees of freedom of the common variance estimate; None for normal quantiles.

    Raises:
        EstimationError: NON_FINITE_INPUT, or ZERO_VARIANCE where an effect has no variance.
        ValueError: Lengths differ, no treatment, or a negative variance.

    References:
        Dunnett 1955, equation 2.

    Examples:
        >>> result = compare_with_control(
        ...     [2.0, 2.5], variance_control=0.5, variance_treatments=[0.5, 0.5]
        ... )
        >>> round(result.critical_value, 4), [round(c.p_value, 4) for c in result.contrasts]
        (2.2121, [0.0829, 0.0235])
    """
    effects = np.asarray(estimates, dtype=np.float64)
    if not np.isfinite(effects).all():
        raise EstimationError("NON_FINITE_INPUT", "Dunnett", "an estimate is NaN or infinite")
    loadings = Loadings.of(variance_control, variance_treatments)
    if effects.shape != loadings.std_errors.shape:
        msg = f"{effects.size} estimates and {loadings.std_errors.size} variances, need one each"
        raise ValueError(msg)
    statistics = effects / loadings.std_errors
    p_values = [upper_probability(t, loadings, sides=sides, df=df) for t in statistics]
    critical = critical_value(loadings, alpha=alpha, sides=sides, df=df)
    return DunnettComparison(
        contrasts=tuple(
            DunnettContrast(
                estimate=float(effect),
                std_error=float(std_error),
                statistic=float(effect / std_error),
                p_value=p_value,
                ci_low=float(effect - critical * std_error),
                ci_high=float(effect + critical * std_error) if sides == 2 else None,  # noqa: PLR2004
            )
            for effect, std_error, p_value in zip(
                effects, loadings.std_errors, p_values, strict=True
            )
        ),
        critical_value=critical,
        alpha=alpha,
        sides=sides,
        degrees_of_freedom=df,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loadings:
    """The shared part λ_j of each standardised contrast and its own part s_j, shape (k,) each."""

    shared: Vector
    own: Vector
    std_errors: Vector

    @classmethod
    def of(cls, variance_control: ArrayLike, variance_treatments: ArrayLike) -> Loadings:
        """Return the loadings of contrasts from the variances of the arm means.

        Args:
            variance_control: One number, or one per treatment.
            variance_treatments: Shape (k,).

        Raises:
            EstimationError: NON_FINITE_INPUT or ZERO_VARIANCE.
            ValueError: No treatment, other shapes, or a negative variance.

        Examples:
            >>> float(Loadings.of(1.0, [1.0]).shared[0] ** 2).__round__(12)
            0.5
        """
        own = np.asarray(variance_treatments, dtype=np.float64)
        shared = np.asarray(variance_control, dtype=np.float64)
        if own.ndim != 1 or own.size == 0 or shared.shape not in {(), own.shape}:
            msg = f"variances have shapes {shared.shape} and {own.shape}, need () or (k,) and (k,)"
            raise ValueError(msg)
        total = shared + own
        if not np.isfinite(total).all():
            raise EstimationError("NON_FINITE_INPUT", "Dunnett", "a variance is NaN or infinite")
        if (shared < 0).any() or (own < 0).any():
            msg = "variances must not be negative"
            raise ValueError(msg)
        if (total == 0).any():
            raise EstimationError("ZERO_VARIANCE", "Dunnett", "an effect has no variance")
        return cls(
            shared=np.sqrt(shared / total),
            own=np.maximum(np.sqrt(own / total), SMALLEST_SPREAD),
            std_errors=np.sqrt(total),
        )


def critical_value(
    loadings: Loadings, *, alpha: float = 0.05, sides: Sides = 2, df: float | None = None
) -> float:
    """Return d with P(max T ≥ d) = alpha, of |T| where two-sided.

    Args:
        loadings: Of the contrasts.
        alpha: Family-wise level.
        sides: 1 or 2.
        df: Degrees of freedom; None for normal quantiles.

    Raises:
        ValueError: `alpha`, `sides` or `df` out of range.

    References:
        Dunnett 1955, 1964.

    Examples:
        >>> round(critical_value(Loadings.of(1.0, [1.0, 1.0, 1.0]), df=20), 2)
        2.54
    """
    from scipy.optimize import brentq

    check_alpha(alpha)
    _check(sides, df)
    k = len(loadings.shared)
    single = _upper_quantile(alpha / sides, df)
    if k == 1:
        return single

    def excess(d: float) -> float:
        return math.log(upper_probability(d, loadings, sides=sides, df=df) / alpha)

    # One contrast alone needs less, Bonferroni more; both are reached at the extremes.
    slack = ROOT_PRECISION * max(1.0, abs(single))
    low, high = single - slack, _upper_quantile(alpha / sides / k, df) + slack
    return float(brentq(excess, low, high, xtol=ROOT_PRECISION))


def upper_probability(
    statistic: float, loadings: Loadings, *, sides: Sides = 2, df: float | None = None
) -> float:
    """Return P(max T ≥ statistic) under no effect: the adjusted p-value of one contrast.

    Two-sided it is P(max|T| ≥ |statistic|).

    Args:
        statistic: Estimate over standard error.
        loadings: Of all contrasts of the family.
        sides: 1 or 2.
        df: Degrees of freedom; None for normal quantiles.

    Raises:
        ValueError: `sides` or `df` out of range.

    References:
        Dunnett 1955, equation 4.

    Examples:
        >>> round(upper_probability(1.959964, Loadings.of(1.0, [1.0])), 6)
        0.05
    """
    _check(sides, df)
    d = abs(statistic) if sides == 2 else statistic  # noqa: PLR2004
    if df is None:
        return float(_normal_probability(np.array([d]), loadings, sides)[0])
    log_scales, log_masses = _chi_quadrature(df, max(d, 0.0))
    given = _normal_probability(d * np.exp(log_scales), loadings, sides)
    return min(1.0, float(np.exp(log_masses) @ given))


def _normal_probability(limits: Vector, loadings: Loadings, sides: Sides) -> Vector:
    """P(max Z ≥ d) for each d, shape (u,), by the integral over the control score x."""
    # Arms of equal variance have equal tails: each is computed once.
    distinct, counts = np.unique(
        np.column_stack([loadings.shared, loadings.own]), axis=0, return_counts=True
    )
    x, weights = _score_quadrature(limits, distinct)
    d = limits[:, None]
    log_none = np.zeros_like(x)
    for (shared, own), count in zip(distinct, counts, strict=True):
        tail = ndtr((shared * x - d) / own)
        if sides == 2:  # noqa: PLR2004
            tail += ndtr(-(shared * x + d) / own)
        # Rounding can put the tails of d = 0 a last digit above 1.
        log_none += count * np.log1p(-np.minimum(tail, 1 - np.finfo(np.float64).epsneg))
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    total = (weights * density * -np.expm1(log_none)).sum(axis=1)
    return np.asarray(np.minimum(1.0, total))


def _score_quadrature(limits: Vector, distinct: Vector) -> tuple[Vector, Vector]:
    """Nodes and weights for each limit, shape (u, nodes), finer where a tail steps up at d/λ."""
    reach = np.minimum(SCORE_LIMIT, np.maximum(limits, 0.0) + SCORE_MARGIN)[:, None]
    shared, own = distinct[:, :1], distinct[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = limits[:, None, None] / shared + own / shared * STEP_OFFSETS
    # Without a shared part there is no step: 0/0 and d/0 fall to the edge.
    steps = np.nan_to_num(steps, nan=SCORE_LIMIT).reshape(len(limits), -1)
    grid = reach * np.linspace(-1.0, 1.0, SCORE_PANELS + 1)
    edges = np.concatenate([grid, steps, -steps], axis=1).clip(-reach, reach)
    return _composite(np.sort(edges, axis=1))


def _chi_quadrature(df: float, d: float) -> tuple[Vector, Vector]:
    """Nodes ln u and log weights of u = χ_ν/√ν, where P(max Z ≥ d·u) has its mass.

    The density of ln u falls as ν(e^{2w} − 1 − 2w)/2 from its peak at 0; multiplied by a tail at
    d·u the peak moves down to at most ½ ln(ν/(ν + d²)).
    """
    peak = -math.log(math.hypot(1.0, d / math.sqrt(df)))
    below = math.sqrt(2 * NEGLIGIBLE_LOG / df)
    if below > 1:
        below = NEGLIGIBLE_LOG / df + 0.5
    low = max(peak, -UNDERFLOW_LOG / df) - below
    high = math.sqrt(NEGLIGIBLE_LOG / df)
    panels = math.ceil((high - low) * math.sqrt(df / 2))
    w, weights = _composite(np.linspace(low, high, panels + 1)[None, :])
    log_constant = math.log(2) + df / 2 * math.log(df / 2) - float(gammaln(df / 2))
    log_density = log_constant + df * w[0] - df / 2 * np.exp(2 * w[0])
    return w[0], log_density + np.log(weights[0])


def _composite(edges: Vector) -> tuple[Vector, Vector]:
    """Gauss-Legendre nodes and weights on each panel between edges, shape (rows, nodes)."""
    half = np.diff(edges, axis=1)[:, :, None] / 2
    middle = (edges[:, :-1, None] + edges[:, 1:, None]) / 2
    rows = len(edges)
    return (
        np.asarray(middle + half * NODES).reshape(rows, -1),
        np.asarray(half * WEIGHTS).reshape(rows, -1),
    )


def _upper_quantile(alpha: float, df: float | None) -> float:
    return -float(ndtri(alpha) if df is None else stdtrit(df, alpha))


def _check(sides: int, df: float | None) -> None:
    if sides not in {1, 2}:
        msg = f"sides is {sides}, need 1 or 2"
        raise ValueError(msg)
    if df is not None and not (df > 0 and math.isfinite(df)):
        msg = f"df is {df}, need a finite number above 0, or None"
        raise ValueError(msg)
