"""Effects of a bandit's arms, from data whose shares followed the outcomes: labelled ADAPTIVE."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from experiments_dagster.bandits.history import History
from experiments_dagster.bandits.rewards import Rewards, read_rewards
from experiments_dagster.config.bandit import Bandit, BernoulliReward
from experiments_dagster.config.project import Project
from experiments_dagster.stats.bandits.adaptive import (
    AdaptiveEstimate,
    Batch,
    weighted_ipw,
    within_periods,
)
from experiments_dagster.stats.design.sample_ratio import (
    BLOCK_ANYTIME_P,
    CONCENTRATIONS,
    anytime_p_value,
    sequential_log_e_value,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.storage.manifest import Manifest

METHODS = ("weighted_ipw", "within_periods")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Whether units met the arms with the recorded probabilities; None without units.

    Everything adaptive rests on these probabilities. `p_value` is an anytime p-value: it may be
    read every day, with as few units of an arm as there are.
    """

    p_value: float | None
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a bandit's arms at a cut-off: one row per treatment arm and method."""

    cutoff: int
    as_of: str
    n_open: int
    n_crossed: int
    sample_ratio: SampleRatio
    estimates: tuple[dict[str, Any], ...]


def collect_evidence(
    project: Project, manifest: Manifest, bandit: Bandit, history: History, now: dt.datetime
) -> Evidence:
    """Estimate every arm against the first one from all that has landed.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        bandit: As frozen.
        history: Its recorded periods, which hold the shares.
        now: Aware instant; whole local days before it count.

    Raises:
        ContractError: Exposures name an unknown arm.
        DataDamagedError: A landed file is damaged.
    """
    as_of = bandit.start_of_day(bandit.local_day(now))
    rewards = read_rewards(
        project,
        manifest,
        bandit,
        cutoff=manifest.head,
        as_of=as_of,
        starts=[bandit.starts_at(record.period) for record in history.periods],
    )
    batches = [
        Batch(shares=record.shares, arms=moments)
        for record, moments in zip(history.periods, rewards.periods, strict=True)
    ]
    return Evidence(
        cutoff=manifest.head,
        as_of=as_of.isoformat(),
        n_open=rewards.n_open,
        n_crossed=rewards.n_crossed,
        sample_ratio=_sample_ratio(history, rewards),
        estimates=tuple(_rows(bandit, batches)),
    )


def _rows(bandit: Bandit, batches: list[Batch]) -> Iterator[dict[str, Any]]:
    for arm in bandit.arms[1:]:
        for method in METHODS:
            identity = {"arm": arm, "control": bandit.control, "metric": bandit.metric.name}
            try:
                found = asdict(_estimate(bandit, batches, arm, method))
                found["weights"] = list(found["weights"])
                yield identity | {"status": "ok", "reason": None} | found
            except EstimationError as error:
                absent = {"label": "ADAPTIVE", "method": method, "estimate": None}
                yield identity | {"status": "not_estimable", "reason": error.code} | absent


def _estimate(bandit: Bandit, batches: list[Batch], arm: str, method: str) -> AdaptiveEstimate:
    if method == "within_periods":
        return within_periods(batches, control=bandit.control, treatment=arm, alpha=bandit.alpha)
    prior = bandit.reward.prior
    is_rate = isinstance(bandit.reward, BernoulliReward)
    return weighted_ipw(
        batches,
        control=bandit.control,
        treatment=arm,
        prior_mean=prior.a / (prior.a + prior.b) if is_rate else prior.mean,  # type: ignore[union-attr]
        alpha=bandit.alpha,
    )


def _sample_ratio(history: History, rewards: Rewards) -> SampleRatio:
    """The product of the periods' e-values, at its largest so far (METHODS 5.2).

    Given the recorded shares the counts of a period are multinomial, whatever came before, so each
    factor has expectation 1 at most, and so has the mean over the concentrations. No cell needs
    many expected units, as it does for chi-square.
    """
    log_e, largest, has_units = np.zeros(len(CONCENTRATIONS)), 0.0, False
    for record, counts in zip(history.periods, rewards.decisions, strict=True):
        if not sum(counts.values()):
            continue
        shares = [record.shares[arm] for arm in counts]
        if any(n for n, share in zip(counts.values(), shares, strict=True) if not share):
            return SampleRatio(p_value=0.0, passed=False)
        log_e += [
            sequential_log_e_value(list(counts.values()), shares, concentrations=[c])
            for c in CONCENTRATIONS
        ]
        largest = max(largest, float(logsumexp(log_e)) - math.log(len(log_e)))
        has_units = True
    if not has_units:
        return SampleRatio(p_value=None, passed=True)
    p_value = anytime_p_value(largest)
    return SampleRatio(p_value=p_value, passed=p_value > BLOCK_ANYTIME_P)
