"""Inference on several panel effects from their scores by cluster.

Estimates θ̂ (k,) come with scores ψ (G, k), one row per independent cluster, ψ'ψ their covariance:

    joint test   W = θ̂'V⁻¹θ̂;  W (ν − k + 1)/(νk) ~ F(k, ν − k + 1), Hotelling's with ν degrees of
                 freedom of V, G − 2 for two groups of one variance; χ²_k for large ν. With 40
                 clusters and 4 effects χ² rejects 10 % at the 5 % level
    band         θ̂_j ± c·SE_j, c the 1 − α quantile of max_j |Σ_g v_g ψ_gj|/SE_j, v normal

What does not belong here: where effects and scores come from (`event_study`, `staggered`).

References:
    Hotelling 1931; Callaway & Sant'Anna 2021, algorithm 1; Montiel Olea & Plagborg-Møller 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

DRAWS_BY_ALPHA = 50
FULL_RANK = 1e-10  # smallest over largest eigenvalue of a correlation matrix
CHUNK = 2_000_000  # random numbers at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodEffect:
    """One coefficient: `event_time` 0 is the first treated period.

    Limits and p-value are of this period alone; the band holds for all periods jointly.
    """

    event_time: int
    estimate: float
    std_error: float
    degrees_of_freedom: float | None
    ci_low: float
    ci_high: float
    band_low: float
    band_high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageEffect:
    """A mean of effects with its interval."""

    estimate: float
    std_error: float
    degrees_of_freedom: float | None
    ci_low: float
    ci_high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTest:
    """That k effects are all zero: `p_value` from F, `chi_square_p_value` without its correction.

    `statistic` is the Wald statistic W, `n_clusters` the independent clusters behind it.
    """

    statistic: float
    n_effects: int
    n_clusters: int
    p_value: float
    chi_square_p_value: float


def check_draws(draws: int, alpha: float) -> None:
    """Refuse fewer draws than a quantile at `alpha` needs."""
    if draws * alpha < DRAWS_BY_ALPHA:
        msg = f"draws is {draws}, need {math.ceil(DRAWS_BY_ALPHA / alpha)} at alpha {alpha}"
        raise ValueError(msg)


def complete_rows(outcomes: ArrayLike) -> tuple[Matrix, NDArray[np.bool_]]:
    """Return the outcomes as a matrix and which units are seen in every period.

    Raises:
        EstimationError: NON_FINITE_INPUT for an infinite value.
        ValueError: No matrix.
    """
    matrix = np.asarray(outcomes, dtype=np.float64)
    if matrix.ndim != 2:  # noqa: PLR2004
        msg = f"outcomes have shape {matrix.shape}, need (units, periods)"
        raise ValueError(msg)
    if np.isinf(matrix).any():
        detail = "infinite; missing periods are NaN"
        raise EstimationError("NON_FINITE_INPUT", "outcomes", detail)
    return matrix, np.asarray(~np.isnan(matrix).any(axis=1), dtype=np.bool_)


def joint_test(estimates: Vector, scores: Matrix, *, df: float | None = None) -> JointTest:
    """Test that all effects are zero.

    Args:
        estimates: Shape (k,).
        scores: ψ with ψ'ψ their covariance, shape (G, k): one row per independent cluster.
        df: ν; default G − 2. Groups of unequal size have fewer: Satterthwaite's.

    Raises:
        EstimationError: N_TOO_SMALL where ν < k; SINGULAR_DESIGN where the effects
            determine each other; EMPTY_ARM without effects.

    References:
        Hotelling 1931, for two groups of normal vectors with one covariance.
    """
    n_clusters, k = scores.shape
    if k == 0:
        raise EstimationError("EMPTY_ARM", "joint test", "no effects to test")
    freedom = n_clusters - 2 if df is None else df
    if freedom < k:
        detail = f"{n_clusters} clusters, {freedom:.1f} degrees of freedom for {k} effects"
        raise EstimationError("N_TOO_SMALL", "joint test", detail)
    errors = np.sqrt(np.square(scores).sum(axis=0))
    if not errors.all():
        raise EstimationError("ZERO_VARIANCE", "joint test", "an effect has no error")
    eigenvalues, vectors = np.linalg.eigh((scores / errors).T @ (scores / errors))
    if eigenvalues[0] <= FULL_RANK * eigenvalues[-1]:
        raise EstimationError("SINGULAR_DESIGN", "joint test", "effects determine each other")
    statistic = float((np.square(vectors.T @ (estimates / errors)) / eigenvalues).sum())
    return JointTest(
        statistic=statistic,
        n_effects=k,
        n_clusters=n_clusters,
        p_value=float(fdtrc(k, freedom - k + 1, statistic * (freedom - k + 1) / (freedom * k))),
        chi_square_p_value=float(chdtrc(k, statistic)),
    )


def band_critical_value(scores: Matrix, *, alpha: float, draws: int, seed: int) -> float:
    """Return the 1 − α quantile of the largest |t|, at least that of one effect.

    Args:
        scores: Shape (G, k); columns without error do not count.
        alpha: Level of the band.
        draws: Number of draws.
        seed: Of the draws.

    References:
        Callaway & Sant'Anna 2021, algorithm 1, with normal multipliers.
    """
    errors = np.sqrt(np.square(scores).sum(axis=0))
    standard = scores[:, errors > 0] / errors[errors > 0]
    single = critical_value(alpha)
    if standard.shape[1] <= 1:
        return single
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(standard))
    largest = np.concatenate(
        [
            np.abs(rng.standard_normal((min(step, draws - start), len(standard))) @ standard).max(
                axis=1
            )
            for start in range(0, draws, step)
        ]
    )
    return max(single, float(np.quantile(largest, 1 - alpha, method="higher")))


def average_effect(
    estimate: float, std_error: float, *, df: float | None, alpha: float
) -> AverageEffect:
    """Return an effect with the interval and p-value of its t or normal test."""
    if not std_error > 0:
        raise EstimationError("ZERO_VARIANCE", "average effect", "changes are constant by group")
    half_width = critical_value(alpha, df) * std_error
    return AverageEffect(
        estimate=estimate,
        std_error=std_error,
        degrees_of_freedom=df,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        p_value=two_sided_p_value(estimate / std_error, df),
    )


def period_effects(
    event_times: NDArray[np.int64],
    estimates: Vector,
    scores: Matrix,
    *,
    df: Vector | None,
    critical: float,
    alpha: float,
) -> tuple[PeriodEffect, ...]:
    """Return one record per event time with its own interval and its part of the band.

    With t quantiles the band is widened alike: its critical value is carried over at equal
    normal tail probability.
    """
    errors = np.sqrt(np.square(scores).sum(axis=0))
    effects = []
    for position, event_time in enumerate(event_times):
        freedom = None if df is None else float(df[position])
        found = average_effect(
            float(estimates[position]), float(errors[position]), df=freedom, alpha=alpha
        )
        tail = two_sided_p_value(critical)
        half_band = critical_value(tail, freedom) * found.std_error
        effects.append(
            PeriodEffect(
                event_time=int(event_time),
                estimate=found.estimate,
                std_error=found.std_error,
                degrees_of_freedom=freedom,
                ci_low=found.ci_low,
                ci_high=found.ci_high,
                band_low=found.estimate - half_band,
                band_high=found.estimate + half_band,
                p_value=found.p_value,
            )
        )
    return tuple(effects)
