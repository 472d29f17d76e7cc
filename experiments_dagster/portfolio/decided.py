"""The decided experiments of a project, read from their ledgers; nothing is estimated here.

An arm is decided where its verdict at the last recorded look is SHIP, DO_NOT_SHIP or INCONCLUSIVE
and no health check blocks the look. Effects of arms that are still open are not read: that would
be an unplanned look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments_dagster.config.experiment import EffectPrior as DeclaredPrior
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import ArmDecision, Look
from experiments_dagster.looks.take import deciding_look, open_ledger
from experiments_dagster.stats.shrinkage import EffectPrior
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.manifest import Manifest

DECIDED = frozenset({"SHIP", "DO_NOT_SHIP", "INCONCLUSIVE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedArm:
    """The relative effect of one decided arm on the primary metric of its experiment.

    Args:
        experiment: Slug.
        arm: The treatment arm.
        metric: The primary metric.
        direction: Which way is better.
        verdict: Of the arm.
        is_shipped: Whether it is the arm that the experiment ships.
        is_study: Whether it stands for its experiment where experiments are pooled.
        look_id: The look whose estimate it is.
        as_of: ISO instant of that look.
        estimate: Lift, as decided on: adjusted where the plan adjusts.
        std_error: Of the lift.
        n_units: In the arm and its control.
        own_prior: What the plan declares to believe before the data, or the default.
    """

    experiment: str
    arm: str
    metric: str
    direction: str
    verdict: str
    is_shipped: bool
    is_study: bool
    look_id: str
    as_of: str
    estimate: float
    std_error: float
    n_units: int
    own_prior: EffectPrior


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An arm or experiment that is not in the portfolio, and why."""

    experiment: str
    arm: str | None
    reason: str


def read_decided(
    project: Project, manifest: Manifest
) -> tuple[list[DecidedArm], list[LeftOut], dict[str, Look]]:
    """Read the last recorded look of every experiment.

    Returns:
        The decided arms, what is left out, and the last look of experiments with a decided arm.
    """
    decided: list[DecidedArm] = []
    left_out: list[LeftOut] = []
    last: dict[str, Look] = {}
    for slug, experiment in project.experiments.items():
        try:
            looks = recorded_looks(open_ledger(manifest, experiment))
        except StorageError as error:
            left_out.append(LeftOut(experiment=slug, arm=None, reason=str(error)))
            continue
        found, open_arms = _arms(experiment, looks)
        decided += found
        left_out += open_arms
        if found:
            last[slug] = looks[-1]
    return decided, left_out, last


def _arms(experiment: Experiment, looks: list[Look]) -> tuple[list[DecidedArm], list[LeftOut]]:
    if not looks:
        reason = "no look has been recorded yet"
        return [], [LeftOut(experiment=experiment.slug, arm=None, reason=reason)]
    last = looks[-1]
    if last.is_blocked:
        failed = ", ".join(dict.fromkeys(check.name for check in last.checks if check.blocks))
        reason = f"{last.verdict}: not a fair comparison ({failed})"
        return [], [LeftOut(experiment=experiment.slug, arm=None, reason=reason)]
    decided: list[DecidedArm] = []
    left_out: list[LeftOut] = []
    for arm in experiment.treatments:
        decision = next((item for item in last.decisions if item.arm == arm), None)
        found = "not part of the last look" if decision is None else None
        if decision is not None:
            row = _decided_arm(experiment, looks, decision, is_first=not decided)
            if isinstance(row, DecidedArm):
                decided.append(row)
            else:
                found = row
        if found is not None:
            left_out.append(LeftOut(experiment=experiment.slug, arm=arm, reason=found))
    return decided, left_out


def _decided_arm(
    experiment: Experiment, looks: list[Look], decision: ArmDecision, *, is_first: bool
) -> DecidedArm | str:
    """The arm, or in words why it is not in the portfolio."""
    last = looks[-1]
    if decision.verdict not in DECIDED:
        return f"{decision.verdict}: {decision.reason}"
    look = deciding_look(experiment, decision.arm, looks)
    metric = experiment.primary
    effect = look.effect(
        metric.name, decision.arm, "relative_difference", adjusted=experiment.adjusts
    )
    if effect is None or effect.estimate is None or not effect.std_error:
        code = effect.reason if effect is not None else None
        return f"the lift of {metric.name} is not estimable ({code or 'no such row'})"
    assert math.isfinite(effect.estimate)
    return DecidedArm(
        experiment=experiment.slug,
        arm=decision.arm,
        metric=metric.name,
        direction=metric.direction,
        verdict=decision.verdict,
        is_shipped=decision.verdict == "SHIP" and last.arm == decision.arm,
        is_study=is_first,
        look_id=look.look_id,
        as_of=look.as_of,
        estimate=effect.estimate,
        std_error=effect.std_error,
        n_units=(effect.n_control or 0) + (effect.n_treatment or 0),
        own_prior=_own_prior(experiment),
    )


def _own_prior(experiment: Experiment) -> EffectPrior:
    declared = experiment.plan.prior
    sd = (declared or DeclaredPrior()).lift_sd
    name = "default" if declared is None else "declared"
    return EffectPrior(name=name, mean=0.0, tau2=sd * sd, n_effects=0)
