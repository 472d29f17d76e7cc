"""From an effect and its variance to p-value, interval and lift.

Two-sided tails come from the small side, 2·F(−|t|), so that p = 1e-58 keeps its digits; the
interval Δ̂ ± q·SE inverts the same test.

What does not belong here: the lift (`relative`), and which variance a design needs: that is the
estimators' business.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import Estimate, Inference


def check_alpha(alpha: float) -> None:
    """Refuse a level outside (0, 1)."""
    if not 0 < alpha < 1:
        msg = f"alpha is {alpha}, need 0 < alpha < 1"
        raise ValueError(msg)


def critical_value(alpha: float, df: float | None = None) -> float:
    """Return the quantile that leaves `alpha / 2` in each tail; normal without `df`.

    Examples:
        >>> round(critical_value(0.05), 6)
        1.959964
    """
    check_alpha(alpha)
    lower = ndtri(alpha / 2) if df is None else stdtrit(df, alpha / 2)
    return -float(lower)


def upper_quantile(alpha: float) -> float:
    """Return the standard normal quantile that leaves `alpha` above it."""
    check_alpha(alpha)
    return -float(ndtri(alpha))


def upper_tail(z: float) -> float:
    """Return the standard normal probability above `z`."""
    return float(ndtr(-z))


def two_sided_p_value(statistic: float, df: float | None = None) -> float:
    """Return the probability of a statistic at least this far from zero; normal without `df`."""
    below = ndtr(-abs(statistic)) if df is None else stdtr(df, -abs(statistic))
    return min(1.0, 2 * float(below))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """What both estimates of a contrast repeat: raw arm means and sizes."""

    control_mean: float
    treatment_mean: float
    n_control: int
    n_treatment: int


def difference_estimate(
    estimate: float,
    std_error: float,
    *,
    arms: ArmSummary,
    alpha: float,
    method: str,
    variance_formula: str,
    df: float | None = None,
    inference: Inference = "fixed_horizon",
) -> Estimate:
    """Return a difference with the p-value and interval of its t or normal test.

    Args:
        estimate: Treatment minus control.
        std_error: Its standard error, above zero.
        arms: Raw means and sizes.
        alpha: Two-sided level.
        method: Name of the estimator.
        variance_formula: Name of the variance.
        df: Degrees of freedom; None for normal quantiles.
        inference: Label of the record.

    Raises:
        EstimationError: ZERO_VARIANCE where the standard error is zero.
    """
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", method, "all values of both arms are constant")
    half_width = critical_value(alpha, df) * std_error
    return Estimate(
        estimand="difference",
        inference=inference,
        method=method,
        variance_formula=variance_formula,
        estimate=estimate,
        std_error=std_error,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(estimate / std_error, df),
        degrees_of_freedom=df,
        control_mean=arms.control_mean,
        treatment_mean=arms.treatment_mean,
        n_control=arms.n_control,
        n_treatment=arms.n_treatment,
    )
