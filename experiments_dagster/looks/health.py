"""Health checks of a look: is this a fair comparison at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from experiments_dagster.config.experiment import GroupSequential
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.looks.contrasts import Inputs
from experiments_dagster.looks.records import Check, Look
from experiments_dagster.stats.design.bias import multi_arm_outcome, pre_period_balance
from experiments_dagster.stats.design.sample_ratio import (
    sample_ratio_outcome,
    sequential_log_e_value,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import CheckOutcome

CHECK_NAMES = ("sample_ratio", "units_in_two_arms", "pre_period_balance")


def health_checks(
    experiment: Experiment, frames: Inputs, earlier: Sequence[Look], *, is_planned_end: bool
) -> tuple[list[Check], float]:
    """All checks of a look, and ln E of the sample ratio for later looks.

    Args:
        experiment: Shares, arms and metrics.
        frames: The frames as of the look; all exposed units count, mature or not.
        earlier: The looks recorded before.
        is_planned_end: Whether the fixed sample-ratio test counts as well.
    """
    info = frames.info
    shares = experiment.variants
    largest = max((look.log_e_sample_ratio for look in earlier), default=0.0)
    log_e = 0.0
    checks = [_units_in_two_arms(info)]
    if sum(info.n_exposed.values()):
        counts = [float(info.n_exposed[arm]) for arm in shares]
        log_e = sequential_log_e_value(counts, list(shares.values()))
        checks.insert(
            0,
            _check(
                "sample_ratio",
                sample_ratio_outcome(
                    info.n_exposed,
                    shares,
                    at_planned_end=is_planned_end,
                    largest_earlier_log_e=largest,
                ),
            ),
        )
    if not isinstance(frames, Summaries):
        checks += _balance(experiment, frames, len(earlier) + 1)
    return checks, log_e


def _units_in_two_arms(info: FrameInfo) -> Check:
    excluded = sum(info.n_multi_arm.values())
    total = excluded + sum(info.n_exposed.values())
    return _check("units_in_two_arms", multi_arm_outcome(excluded, max(total, 1)))


def _balance(experiment: Experiment, frames: Frames, look: int) -> list[Check]:
    """Pre-period of the primary metric by arm, all exposed units.

    The levels hold over the whole experiment: they are split over arms and looks, by the planned
    number of looks or, where that is open, by 1 / (k (k + 1)) for look k.
    """
    metric = experiment.primary
    design = experiment.plan.looks.design
    looks = design.planned if isinstance(design, GroupSequential) else look * (look + 1)
    column = f"pre_{metric.columns[0][0]}"
    frame = frames.of(metric)
    arms = {
        arm: ArmMoments.from_arrays(
            **{column: frame.filter(pl.col("arm") == arm)[column].to_numpy()}
        )
        for arm in experiment.variants
    }
    checks = []
    for arm in experiment.treatments:
        try:
            outcome = pre_period_balance(
                arms[experiment.control],
                arms[arm],
                column=column,
                arm=arm,
                n_comparisons=len(experiment.treatments) * looks,
            )
        except EstimationError:
            continue  # nobody has a pre-period: there is nothing that could differ
        checks.append(_check("pre_period_balance", outcome))
    return checks


def _check(name: str, outcome: CheckOutcome) -> Check:
    return Check(**(asdict(outcome) | {"name": name}))
