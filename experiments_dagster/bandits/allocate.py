"""The shares of the next period: when they are due, what they are, and the same again.

A period's shares rest on whole days: a run at any hour writes those of the first period that has
not begun, from what happened before the day of the run. A run that was missed leaves the earlier
shares in force. The first recorded period knows the prior alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from experiments_dagster import __version__
from experiments_dagster.bandits.history import (
    encoded,
    freeze_plan,
    read_history,
    record_period,
    write_head,
)
from experiments_dagster.bandits.records import ArmShare, Period, posterior_record
from experiments_dagster.bandits.rewards import count_exposures, read_rewards
from experiments_dagster.config.bandit import STEP_DAYS, Bandit, BernoulliReward
from experiments_dagster.config.project import Project
from experiments_dagster.looks.plan import differences
from experiments_dagster.stats.bandits.adaptive import COLUMN
from experiments_dagster.stats.bandits.thompson import next_shares
from experiments_dagster.stats.bayesian.beta_binomial import BetaPrior, rate_posterior
from experiments_dagster.stats.bayesian.normal import MeanPrior, mean_posterior
from experiments_dagster.stats.bayesian.posteriors import BetaPosterior, StudentPosterior
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.errors import ContractError, StorageError
from experiments_dagster.storage.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A recorded period beside the same computed anew; `differences` are empty if all is equal."""

    period: int
    is_identical: bool
    differences: tuple[str, ...]


def due_period(bandit: Bandit, recorded: Sequence[Period], now: dt.datetime) -> int | None:
    """The first period that has not begun, if it has no shares yet and is not after the end.

    Args:
        bandit: Its periods.
        recorded: In order.
        now: Aware instant.
    """
    days = (bandit.local_day(now) - bandit.periods.first).days
    period = max(1, days // STEP_DAYS[bandit.periods.every] + 1)
    if bandit.starts_at(period) < now:
        period += 1
    if bandit.periods.end is not None and bandit.starts_on(period) >= bandit.periods.end:
        return None
    if recorded and recorded[-1].period >= period:
        return None
    return period


def due_bandits(project: Project, manifest: Manifest, day: dt.date | None = None) -> list[str]:
    """Bandits whose next period has no shares yet.

    Args:
        project: Its bandits.
        manifest: The landed batches.
        day: As of 00:00 local time of this day; now when left out.
    """
    due = []
    for slug, bandit in project.bandits.items():
        now = dt.datetime.now(dt.UTC) if day is None else bandit.start_of_day(day)
        try:
            recorded = read_history(manifest.layout, slug).periods
        except StorageError:
            due.append(slug)  # the run names the damage
            continue
        if due_period(bandit, recorded, now) is not None:
            due.append(slug)
    return due


def allocate_next(
    project: Project, manifest: Manifest, bandit: Bandit, now: dt.datetime
) -> Period | None:
    """Record the shares of the next period, unless they are recorded or no period is left.

    Returns:
        The record that was written, or None.

    Raises:
        BanditChangedError: The file no longer says what the first period froze.
        ContractError: Exposures name an unknown arm, or met the arms of the period already.
        DataDamagedError: A landed file or a record is damaged.
        EstimationError: The posteriors cannot be compared.
    """
    layout = manifest.layout
    history = read_history(layout, bandit.slug)
    history.check_plan(bandit)
    period = due_period(bandit, history.periods, now)
    if period is None:
        return None
    _check_not_begun(project, manifest, bandit, period)
    if history.plan is not None:
        write_head(layout, bandit.slug)  # a run may have died between a record and its head
    else:
        freeze_plan(layout, bandit)
        history = read_history(layout, bandit.slug)
        history.check_plan(bandit)
    record = compute_period(
        project,
        manifest,
        bandit,
        period=period,
        as_of=bandit.start_of_day(bandit.local_day(now)),
        cutoff=manifest.head,
        earlier=history.periods,
        previous=history.head,
        code_version=__version__,
    )
    return record if record_period(layout, record) else None


def _check_not_begun(project: Project, manifest: Manifest, bandit: Bandit, period: int) -> None:
    """Refuse shares after the fact: units that are here were drawn with the shares before.

    Raises:
        ContractError: Exposures at or after the start of the period have landed.
    """
    starts_at = bandit.starts_at(period)
    n = count_exposures(project, manifest, bandit, starts_at)
    if n:
        rule = (
            f"period {period} began at {starts_at.isoformat()} and these exposures of it have "
            "landed under the shares before it; shares are recorded ahead of their period"
        )
        raise ContractError(f"exposures of {bandit.slug}", {rule: n})


def replay(project: Project, manifest: Manifest, present: Bandit) -> list[Replayed]:
    """Compute every recorded period again from the landed batches and compare the bytes.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        present: The bandit as configured now; the frozen plan is what is replayed.

    Raises:
        DataDamagedError: A landed file or a record is damaged.
    """
    history = read_history(manifest.layout, present.slug)
    bandit, replayed = history.frozen(present), []
    for index, seen in enumerate(history.periods):
        again = compute_period(
            project,
            manifest,
            bandit,
            period=seen.period,
            as_of=dt.datetime.fromisoformat(seen.as_of),
            cutoff=seen.cutoff,
            earlier=history.periods[:index],
            previous=seen.previous,
            code_version=seen.code_version,  # says who computed it first; not an input
        )
        is_identical = encoded(again) == history.contents[index]
        found = differences(seen.model_dump(mode="json"), again.model_dump(mode="json"))
        if not is_identical and not found:
            found = ["the file holds the same values in other bytes"]
        replayed.append(
            Replayed(period=seen.period, is_identical=is_identical, differences=tuple(found))
        )
    return replayed


def compute_period(
    project: Project,
    manifest: Manifest,
    bandit: Bandit,
    *,
    period: int,
    as_of: dt.datetime,
    cutoff: int,
    earlier: Sequence[Period],
    previous: str,
    code_version: str,
) -> Period:
    """The record of a period: a function of its arguments and the landed batches 1..cutoff.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        bandit: As frozen.
        period: Counted from 1.
        as_of: Aware instant up to which is looked.
        cutoff: The last batch that counts.
        earlier: Recorded periods, in order: their starts say which units have a probability.
        previous: SHA-256 of the record before.
        code_version: Of the program that computes it first.

    Raises:
        ContractError: Exposures name an unknown arm.
        DataDamagedError: A landed file that is needed is damaged.
        EstimationError: The posteriors cannot be compared.
    """
    rewards = read_rewards(
        project,
        manifest,
        bandit,
        cutoff=cutoff,
        as_of=as_of,
        starts=[bandit.starts_at(record.period) for record in earlier],
    )
    moments = {arm: rewards.pooled(arm) for arm in bandit.arms}
    posteriors = {arm: arm_posterior(bandit, moments[arm]) for arm in bandit.arms}
    allocation = next_shares(posteriors, floor=bandit.floor, seed=bandit.seed)
    arms = tuple(
        ArmShare(
            arm=arm,
            n=moments[arm].n,
            mean=moments[arm].mean(COLUMN) if moments[arm].n else None,
            cross=float(moments[arm].cross[0, 0]),
            posterior=posterior_record(posteriors[arm]),
            probability_best=allocation.probabilities_best[arm],
            expected_loss=allocation.expected_losses[arm],
            share=allocation.shares[arm],
        )
        for arm in bandit.arms
    )
    return Period(
        bandit=bandit.slug,
        plan_hash=bandit.plan_hash,
        code_version=code_version,
        period=period,
        starts_on=str(bandit.starts_on(period)),
        as_of=as_of.astimezone(dt.UTC).isoformat(),
        cutoff=cutoff,
        seed=bandit.seed,
        previous=previous,
        inputs=rewards.inputs,
        n_open=rewards.n_open,
        n_crossed=rewards.n_crossed,
        arms=arms,
    )


def arm_posterior(bandit: Bandit, moments: ArmMoments) -> BetaPosterior | StudentPosterior:
    """What an arm's mean reward is believed to be."""
    reward, n = bandit.reward, moments.n
    mean = moments.mean(COLUMN) if n else 0.0
    if isinstance(reward, BernoulliReward):
        prior = BetaPrior(name="declared", a=reward.prior.a, b=reward.prior.b)
        return rate_posterior(round(mean * n), n, prior=prior)
    guess = MeanPrior(mean=reward.prior.mean, sd=reward.prior.sd, units=reward.prior.units)
    return mean_posterior(n, mean, float(moments.cross[0, 0]), prior=guess)
