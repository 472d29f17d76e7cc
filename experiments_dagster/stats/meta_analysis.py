"""Several studies of one effect: the pooled effect, how far studies differ, what the next may show.

With effects y_j of variance v_j, τ² by `between_variance` (0 in the fixed-effect model) and
w = 1/(v + τ²):

    pooled            μ̂ = Σwy/Σw
    normal            SE² = 1/Σw, normal quantiles
    Hartung-Knapp     SE² = Σw(y − μ̂)²/((k − 1)Σw), t quantiles with k − 1 degrees of freedom
    prediction        μ̂ ± t_{k−1}√(τ² + SE²) with the SE of Hartung-Knapp
    heterogeneity     Q = Σ(y − μ̂_0)²/v ~ χ²_{k−1},   I² = 100 τ²/(τ² + s̃²) per cent,
                      s̃² = (k − 1)Σv⁻¹/((Σv⁻¹)² − Σv⁻²); (Q − (k − 1))/Q for DL and the fixed effect

By default REML with Hartung-Knapp. Two studies say next to nothing about τ²: they are pooled as
a fixed effect, flagged; one study is returned as it is (METHODS 10.2).

What does not belong here: which studies belong together. Arms that share a control, or results
kept because they were significant, are no independent studies.

References:
    DerSimonian & Laird 1986; Hartung & Knapp 2001; Higgins & Thompson 2002; Viechtbauer 2005;
    Higgins, Thompson & Spiegelhalter 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from experiments_dagster.stats.between_variance import (
    ESTIMATORS,
    Estimator,
    ScaledStudies,
    cochran_q,
    estimated_tau2,
    scaled_studies,
    weighted_mean,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, two_sided_p_value

Model = Literal["fixed", "dl", "pm", "ml", "reml"]
Interval = Literal["normal", "hartung_knapp"]
Flag = Literal["ONE_STUDY", "TWO_STUDIES", "NARROWER_THAN_NORMAL"]

MODELS: tuple[Model, ...] = ("fixed", *ESTIMATORS)
INTERVALS: tuple[Interval, ...] = get_args(Interval)
FLAGS: dict[Flag, str] = {
    "ONE_STUDY": "one study: returned as it is, nothing is known about others",
    "TWO_STUDIES": "two studies do not tell how far effects differ: pooled as one fixed effect, so "
    "the interval speaks of these two only",
    "NARROWER_THAN_NORMAL": "the studies differ less than their errors let expect: the "
    "Hartung-Knapp standard error is below the normal one",
}
RANDOM_STUDIES = 3  # from here on τ² is estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledEffect:
    """The mean effect over studies, in the units of the effects.

    Args:
        method: The model that was fitted: `fixed`, `dl`, `pm`, `ml` or `reml`, or `study` for one.
        interval: Construction of the interval and p-value of the mean.
        n_studies: k.
        estimate: μ̂.
        std_error: Of μ̂.
        ci_low: Lower limit of the mean.
        ci_high: Upper limit of the mean.
        confidence_level: 1 − α, of the prediction interval too.
        p_value: Of no mean effect, by inverting the interval.
        degrees_of_freedom: Of the t quantiles; None for normal ones.
        tau2: Variance of true effects; 0 by assumption in a fixed model that was asked for, None
            where k is too small to estimate it.
        q: Cochran's Q; None for one study.
        q_p_value: Of no heterogeneity.
        i2: Per cent of the variation between estimates that is not sampling error.
        prediction_low: Lower limit for the true effect of a further study; None without τ².
        prediction_high: Upper limit likewise.
        flag: What a reader must know, see `FLAGS`.
    """

    method: Literal["study", "fixed", "dl", "pm", "ml", "reml"]
    interval: Interval
    n_studies: int
    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    confidence_level: float
    p_value: float
    degrees_of_freedom: int | None
    tau2: float | None
    q: float | None
    q_p_value: float | None
    i2: float | None
    prediction_low: float | None
    prediction_high: float | None
    flag: Flag | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mean:
    """μ̂ in scaled units, with the standard errors of both constructions."""

    mu: float
    normal_error: float
    knapp_error: float | None


def pool_studies(
    estimates: ArrayLike,
    variances: ArrayLike,
    *,
    method: Model = "reml",
    interval: Interval | None = None,
    alpha: float = 0.05,
) -> PooledEffect:
    """Pool independent estimates of one effect: estimand the mean of the true effects.

    Args:
        estimates: One effect per study on one scale, shape (k,).
        variances: Their squared standard errors, above 0, shape (k,).
        method: `fixed` for one common effect, else how τ² is estimated.
        interval: Of the mean; by default `hartung_knapp` for random effects and `normal` for the
            fixed one.
        alpha: Two-sided level.

    Raises:
        EstimationError: N_TOO_SMALL without studies, NON_FINITE_INPUT, ZERO_VARIANCE (a variance
            of 0, or a Hartung-Knapp standard error of 0 where all effects are the same).
        ValueError: An unknown method or interval, or Hartung-Knapp for a fixed effect.

    References:
        DerSimonian & Laird 1986; Hartung & Knapp 2001; Viechtbauer 2005; METHODS 10.2.

    Examples:
        >>> pooled = pool_studies([0.1, 0.3, 0.5], [0.01, 0.01, 0.01])
        >>> round(pooled.estimate, 6), round(pooled.tau2, 6), round(pooled.i2, 6)
        (0.3, 0.03, 75.0)
        >>> pool_studies([0.1, 0.3], [0.01, 0.01]).flag
        'TWO_STUDIES'
    """
    check_alpha(alpha)
    chosen = _checked(method, interval)
    v = np.asarray(variances, dtype=np.float64)
    if (v < 0).any():
        raise EstimationError("ZERO_VARIANCE", "studies", "a variance is not above 0")
    studies = scaled_studies(estimates, np.sqrt(v), is_centred=True)
    k = len(studies.y)
    if k == 0:
        raise EstimationError("N_TOO_SMALL", "studies", "0, need 1")
    if k < RANDOM_STUDIES and method != "fixed":
        flag: Flag = "ONE_STUDY" if k == 1 else "TWO_STUDIES"
        return _pooled(studies, None, "study" if k == 1 else "fixed", "normal", alpha, flag)
    if method == "fixed":
        is_one = k == 1
        tau2 = None if is_one else 0.0
        name: Literal["study", "fixed"] = "study" if is_one else "fixed"
        return _pooled(studies, tau2, name, "normal", alpha, "ONE_STUDY" if is_one else None)
    return _pooled(studies, estimated_tau2(studies, method), method, chosen, alpha, None)


def heterogeneity_share(studies: ScaledStudies, tau2: float, *, by_q: bool) -> float:
    """Return I² in per cent.

    Args:
        studies: Two or more.
        tau2: In the units of the scaled studies.
        by_q: From Q alone, as DL and the fixed effect do.

    References:
        Higgins & Thompson 2002, equations 9 and 10.
    """
    df = len(studies.y) - 1
    if by_q:
        q = cochran_q(studies.y, studies.v)
        return 100 * max(0.0, q - df) / q if q > 0 else 0.0
    w = 1 / studies.v
    typical = df * float(w.sum()) / (float(w.sum()) ** 2 - float(w @ w))
    return 100 * tau2 / (tau2 + typical)


def _checked(method: Model, interval: Interval | None) -> Interval:
    if method not in MODELS:
        msg = f"method is {method!r}, need one of {', '.join(MODELS)}"
        raise ValueError(msg)
    if interval is not None and interval not in INTERVALS:
        msg = f"interval is {interval!r}, need one of {', '.join(INTERVALS)}"
        raise ValueError(msg)
    if method == "fixed" and interval == "hartung_knapp":
        msg = "interval is 'hartung_knapp', need a random-effects method with it, not 'fixed'"
        raise ValueError(msg)
    return interval or ("normal" if method == "fixed" else "hartung_knapp")


def _pooled(
    studies: ScaledStudies,
    tau2: float | None,
    method: Literal["study", "fixed"] | Estimator,
    interval: Interval,
    alpha: float,
    flag: Flag | None,
) -> PooledEffect:
    k = len(studies.y)
    is_random = method not in {"study", "fixed"}
    mean = _mean(studies, tau2 or 0.0)
    error, df = mean.normal_error, None
    if interval == "hartung_knapp":
        assert mean.knapp_error is not None
        error, df = mean.knapp_error, k - 1
        if error == 0:
            raise EstimationError("ZERO_VARIANCE", "studies", "all effects are the same")
        if tau2 == 0 and error < mean.normal_error:
            flag = "NARROWER_THAN_NORMAL"
    half_width = critical_value(alpha, df) * error
    estimate = studies.effect(mean.mu)
    q = cochran_q(studies.y, studies.v) if k > 1 else None
    predicted = None
    if is_random:
        assert tau2 is not None
        assert mean.knapp_error is not None
        predicted = critical_value(alpha, k - 1) * math.sqrt(tau2 + mean.knapp_error**2)
    by_q = method in {"fixed", "dl"}
    return PooledEffect(
        method=method,
        interval=interval,
        n_studies=k,
        estimate=estimate,
        std_error=studies.spread(error),
        ci_low=studies.effect(mean.mu - half_width),
        ci_high=studies.effect(mean.mu + half_width),
        confidence_level=1 - alpha,
        p_value=two_sided_p_value((mean.mu + studies.centre) / error, df),
        degrees_of_freedom=df,
        tau2=None if tau2 is None else studies.variance(tau2),
        q=q,
        q_p_value=None if q is None else float(chdtrc(k - 1, q)),
        i2=None if k == 1 else heterogeneity_share(studies, tau2 or 0.0, by_q=by_q),
        prediction_low=None if predicted is None else studies.effect(mean.mu - predicted),
        prediction_high=None if predicted is None else studies.effect(mean.mu + predicted),
        flag=flag,
    )


def _mean(studies: ScaledStudies, tau2: float) -> _Mean:
    mu, total = weighted_mean(studies.y, studies.v, tau2)
    df = len(studies.y) - 1
    knapp = math.sqrt(cochran_q(studies.y, studies.v, tau2) / df / total) if df else None
    return _Mean(mu=mu, normal_error=1 / math.sqrt(total), knapp_error=knapp)
