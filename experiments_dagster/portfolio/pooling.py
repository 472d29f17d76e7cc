"""What decided effects of one metric say together: prior, shrunk effects, mean, what shipped.

Pure. One arm per experiment, the first of its file that is decided, is a study of the
meta-analysis and of the learned prior: arms share their control and are not independent. Every arm
is shrunk by the prior. Relative effects of different metrics are never added (METHODS 10.2, 10.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster.portfolio.decided import DecidedArm
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.meta_analysis import PooledEffect, pool_studies
from experiments_dagster.stats.shrinkage import (
    MIN_EFFECTS,
    EffectPrior,
    PortfolioEffect,
    ShrunkEstimate,
    learn_prior,
    portfolio_effect,
    shrunk_estimate,
)

# Where a prior comes from, in words.
PRIORS = {
    "default": "default",
    "declared": "declared in the plan",
    "reml_zero_mean": "learned around 0",
    "reml_free_mean": "learned around its own mean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrunkArm:
    """A decided arm with what its prior makes of it; raw and shrunk are read side by side."""

    arm: DecidedArm
    prior: EffectPrior
    shrunk: ShrunkEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPortfolio:
    """All decided effects on one metric, on the relative scale.

    Args:
        metric: Name.
        direction: Which way is better.
        n_experiments: Independent experiments behind prior and mean.
        prior: Learned from them; None below 5, where each arm has the prior of its own plan.
        arms: The arms and their shrunk effects.
        pooled: Meta-analysis; None with `pooled_reason`.
        pooled_reason: Code of `stats.errors.REASONS`.
        shipped: Sum of the shrunk effects that were shipped; None where nothing was.
    """

    metric: str
    direction: str
    n_experiments: int
    prior: EffectPrior | None
    arms: tuple[ShrunkArm, ...]
    pooled: PooledEffect | None
    pooled_reason: str | None
    shipped: PortfolioEffect | None


def pool_by_metric(arms: Sequence[DecidedArm]) -> list[MetricPortfolio]:
    """Pool decided arms by their primary metric, in the order in which metrics appear."""
    by_metric: dict[str, list[DecidedArm]] = {}
    for arm in arms:
        by_metric.setdefault(arm.metric, []).append(arm)
    return [_pool(metric, found) for metric, found in by_metric.items()]


def _pool(metric: str, arms: Sequence[DecidedArm]) -> MetricPortfolio:
    studies = [arm for arm in arms if arm.is_study]
    estimates = [study.estimate for study in studies]
    errors = [study.std_error for study in studies]
    prior = learn_prior(estimates, errors) if len(studies) >= MIN_EFFECTS else None
    shrunk = tuple(_shrink(arm, prior or arm.own_prior) for arm in arms)
    shipped = [one.shrunk for one in shrunk if one.arm.is_shipped]
    pooled, reason = None, None
    try:
        pooled = pool_studies(estimates, [error * error for error in errors])
    except EstimationError as error:
        reason = error.code
    return MetricPortfolio(
        metric=metric,
        direction=arms[0].direction,
        n_experiments=len(studies),
        prior=prior,
        arms=shrunk,
        pooled=pooled,
        pooled_reason=reason,
        shipped=portfolio_effect(shipped) if shipped else None,
    )


def _shrink(arm: DecidedArm, prior: EffectPrior) -> ShrunkArm:
    shrunk = shrunk_estimate(arm.estimate, arm.std_error, prior.tau2, mean=prior.mean)
    return ShrunkArm(arm=arm, prior=prior, shrunk=shrunk)
