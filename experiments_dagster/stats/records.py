"""Records that every estimator returns: frozen, slotted, keyword-only.

The statistics layer knows no experiment names; callers add identity. A number that cannot be
computed is absent with a reason (`EstimationError`), never NaN, infinity or a neutral value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Estimand = Literal[
    "difference",
    "relative_difference",
    "quantile_difference",
    "relative_quantile_difference",
    "log_mean_difference",
    "trimmed_mean_difference",
    "probability_of_superiority",
    "odds_ratio",
]
Inference = Literal[
    "fixed_horizon", "group_sequential", "anytime_valid", "bayesian", "randomization"
]
Severity = Literal["WARN", "ERROR"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One effect with its uncertainty.

    `p_value` and the interval come from inverting the same test, unless `interval` names the
    construction of the interval: then it need not contain the estimate and carries no p-value of
    its own. `degrees_of_freedom` is None for normal inference. Limits may be None where the set is
    unbounded.
    """

    estimand: Estimand
    inference: Inference
    method: str
    variance_formula: str
    estimate: float
    std_error: float
    ci_low: float | None
    ci_high: float | None
    confidence_level: float
    p_value: float | None
    degrees_of_freedom: float | None
    control_mean: float
    treatment_mean: float
    n_control: int
    n_treatment: int
    interval: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"{self.method}: {field.name} is {value}; an estimate is finite or absent"
                raise ValueError(msg)
        if self.p_value is not None and not 0 <= self.p_value <= 1:
            msg = f"{self.method}: p_value is {self.p_value}, need 0..1"
            raise ValueError(msg)
        if self.ci_low is None or self.ci_high is None:
            return
        if self.ci_low > self.ci_high or (
            self.interval is None and not self.ci_low <= self.estimate <= self.ci_high
        ):
            msg = f"{self.method}: [{self.ci_low}, {self.ci_high}] misses {self.estimate}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Treatment minus control for one metric: what sequential and guardrail code consumes.

    `variance_control` and `variance_treatment` are the parts of the variance of the absolute
    difference that each arm contributes (their sum is `difference.std_error ** 2`).
    `relative` is None with `relative_reason` set where the lift is not identified.
    """

    difference: Estimate
    relative: Estimate | None
    relative_reason: str | None
    variance_control: float
    variance_treatment: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredContrast:
    """A contrast with the influence scores behind it.

    `scores` are those of the absolute difference, shape (n,), in input order: they sum to about
    zero and their squares sum to the variance, `contrast.difference.std_error ** 2`.
    """

    contrast: Contrast
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedContrast:
    """A covariate-adjusted contrast beside the unadjusted one that it improves on.

    `variance_reduction` is 1 - (adjusted std_error / unadjusted std_error) squared.
    `dropped_covariates` names columns without variance or collinear with others.
    `scores` are the influence scores of the absolute difference, shape (n,), in input order; None
    where only sums are known.
    """

    adjusted: Contrast
    unadjusted: Contrast
    variance_reduction: float
    correlation: float | None
    dropped_covariates: tuple[str, ...]
    scores: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """The result of one health check; `value` and `threshold` are shown to people."""

    name: str
    passed: bool
    severity: Severity
    value: float | None
    threshold: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChiSquare:
    """A chi-square statistic with its degrees of freedom and upper-tail p-value."""

    statistic: float
    degrees_of_freedom: int
    p_value: float
