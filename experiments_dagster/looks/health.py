"""Health checks of a look: is this a fair comparison at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl

from experiments_dagster.config.experiment import GroupSequential
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.unit_frames import FrameInfo, Frames
from experiments_dagster.looks.contrasts import Inputs, clusters_of
from experiments_dagster.looks.records import Check, Look
from experiments_dagster.looks.sums import Counts
from experiments_dagster.looks.unit_sums import counts_of
from experiments_dagster.stats.design.bias import multi_arm_outcome, pre_period_balance
from experiments_dagster.stats.design.sample_ratio import (
    sample_ratio_outcome,
    sequential_log_e_value,
)
from experiments_dagster.stats.design.sample_ratio_segments import (
    mismatch_onset,
    sample_ratio_by_level,
    sample_ratio_levels_outcome,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.covariates import (
    missing_counts_differ,
    text_labels,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import CheckOutcome

BLOCK_MISSING_P, WARN_MISSING_P = 0.001, 0.01  # METHODS 3.3


@dataclass(slots=True, kw_only=True)
class Health:
    """The checks of a look and what later looks need of it.

    `log_e` is ln E of the sample ratio over all units, `log_e_by_level` of each segment level
    (`segment=level`).
    """

    checks: list[Check] = field(default_factory=list)
    log_e: float = 0.0
    log_e_by_level: dict[str, float] = field(default_factory=dict)


def health_checks(
    experiment: Experiment,
    frames: Inputs,
    earlier: Sequence[Look],
    *,
    is_planned_end: bool,
    counts: Counts | None = None,
) -> Health:
    """All checks of a look.

    Args:
        experiment: Shares, arms and metrics.
        frames: The frames as of the look; all exposed units count, mature or not.
        earlier: The looks recorded before.
        is_planned_end: Whether the fixed sample-ratio test counts as well.
        counts: Counts of the frames' units, where they are known.
    """
    info = frames.info
    if counts is None and isinstance(frames, Frames):
        counts = counts_of(experiment, frames)
    shares = experiment.variants
    largest = max((look.log_e_sample_ratio for look in earlier), default=0.0)
    health = Health()
    n_randomised = _n_randomised(experiment, frames)
    if sum(n_randomised.values()):
        sizes = [float(n_randomised[arm]) for arm in shares]
        health.log_e = sequential_log_e_value(sizes, list(shares.values()))
        outcome = sample_ratio_outcome(
            n_randomised,
            shares,
            at_planned_end=is_planned_end,
            largest_earlier_log_e=largest,
        )
        check = _check("sample_ratio", outcome)
        if not check.passed and counts is not None:
            message = check.message + _onset(experiment, counts)
            check = check.model_copy(update={"message": message})
        health.checks.append(check)
    health.checks.append(_units_in_two_arms(info))
    if isinstance(frames, Frames) and counts is not None:
        _ratio_by_segment(
            experiment, frames, counts, earlier, health, is_planned_end=is_planned_end
        )
        health.checks += _missing(experiment, counts, info, len(earlier) + 1)
        health.checks += _balance(experiment, frames, counts, len(earlier) + 1)
    return health


def _n_randomised(experiment: Experiment, frames: Inputs) -> dict[str, int]:
    """Units by arm, or clusters where these were randomised."""
    cluster = experiment.plan.cluster
    if cluster is None or not isinstance(frames, Frames):
        return frames.info.n_exposed
    table = pl.DataFrame({"cluster": clusters_of(frames.user, cluster), "arm": frames.user["arm"]})
    found = dict(table.group_by("arm").agg(pl.col("cluster").n_unique()).iter_rows())
    return {arm: int(found.get(arm, 0)) for arm in experiment.variants}


def _onset(experiment: Experiment, counts: Counts) -> str:
    """Since when the split is wrong, in words."""
    if experiment.plan.cluster is not None:
        return ""  # days of units say little of clusters
    days = sorted(counts.by_day)
    by_day = np.array(
        [[counts.by_day[day].get(arm, 0) for arm in experiment.variants] for day in days]
    )
    try:
        onset = mismatch_onset(by_day, list(experiment.variants.values()))
    except EstimationError:
        return ""
    day = days[onset.day]
    split = "/".join(f"{share:.3f}" for share in onset.shares)
    return f"; most likely since {day} (split {split} from then on)"


def _ratio_by_segment(
    experiment: Experiment,
    frames: Frames,
    found: Counts,
    earlier: Sequence[Look],
    health: Health,
    *,
    is_planned_end: bool,
) -> None:
    """The sample ratio in every level of every segment, corrected for the levels."""
    for segment in experiment.segments:
        counts = dict(sorted(found.by_level.get(segment, {}).items()))
        if experiment.plan.cluster is not None:
            counts = _clusters_by_level(frames, segment, experiment.plan.cluster)
        before: dict[str, float] = {}
        for look in earlier:
            for name, log_e in look.log_e_by_level.items():
                known, _, level = name.partition("=")
                if known == segment and level in counts:
                    before[level] = max(before.get(level, 0.0), log_e)
        try:
            ratios = sample_ratio_by_level(
                counts, experiment.variants, largest_earlier_log_e=before
            )
            outcome = sample_ratio_levels_outcome(segment, ratios, at_planned_end=is_planned_end)
        except EstimationError:
            continue  # too few units in every level
        health.checks.append(_check("sample_ratio_by_segment", outcome))
        health.log_e_by_level |= {
            f"{segment}={ratio.level}": ratio.log_e_value for ratio in ratios.tested
        }


def _clusters_by_level(frames: Frames, segment: str, cluster: str) -> dict[str, dict[str, int]]:
    """Clusters by arm in every level of a segment."""
    levels = text_labels(frames.user[f"segment_{segment}"].to_list())
    table = pl.DataFrame(
        {"level": levels, "arm": frames.user["arm"], "cluster": clusters_of(frames.user, cluster)}
    ).unique()
    counts: dict[str, dict[str, int]] = {}
    for level, arm, n in table.group_by("level", "arm").len().sort("level").iter_rows():
        counts.setdefault(level, {})[arm] = n
    return counts


def _missing(experiment: Experiment, counts: Counts, info: FrameInfo, look: int) -> list[Check]:
    """Whether the share of units without a pre-period differs by arm, which it cannot."""
    if not experiment.adjusts:  # clustered plans do not adjust
        return []
    comparisons = len(experiment.treatments) * _planned_checks(experiment, look)
    checks = []
    for arm in experiment.treatments:
        pair = (experiment.control, arm)
        n_missing = (counts.missing.get(pair[0], 0), counts.missing.get(pair[1], 0))
        try:
            p = missing_counts_differ(n_missing, (info.n_exposed[pair[0]], info.n_exposed[arm]))
        except EstimationError:
            continue
        p = min(1.0, p * comparisons)
        checks.append(
            Check(
                name="pre_period_missing",
                passed=p >= WARN_MISSING_P,
                severity="ERROR" if p < BLOCK_MISSING_P else "WARN",
                value=p,
                threshold=WARN_MISSING_P,
                message=f"{arm}: units without pre-period differ from {experiment.control}'s "
                f"with p = {p:.3g}, adjusted for {comparisons} comparisons",
            )
        )
    return checks


def _planned_checks(experiment: Experiment, look: int) -> int:
    """Comparisons over the whole experiment: planned looks, or k(k + 1) where that is open."""
    design = experiment.plan.looks.design
    return design.planned if isinstance(design, GroupSequential) else look * (look + 1)


def _units_in_two_arms(info: FrameInfo) -> Check:
    excluded = sum(info.n_multi_arm.values())
    total = excluded + sum(info.n_exposed.values())
    return _check("units_in_two_arms", multi_arm_outcome(excluded, max(total, 1)))


def _cluster_history(experiment: Experiment, frames: Frames, column: str) -> dict[str, ArmMoments]:
    """Moments of the clusters' mean pre-period, by arm."""
    assert experiment.plan.cluster is not None
    frame = frames.of(experiment.primary)
    labels = clusters_of(frame, experiment.plan.cluster)
    means = (
        frame.with_columns(_cluster=labels)
        .group_by("_cluster", "arm")
        .agg(pl.col(column).mean())
        .sort("_cluster")
    )
    return {
        arm: ArmMoments.from_arrays(
            **{column: means.filter(pl.col("arm") == arm)[column].to_numpy()}
        )
        for arm in experiment.variants
    }


def _balance(experiment: Experiment, frames: Frames, counts: Counts, look: int) -> list[Check]:
    """Pre-period of the primary metric by arm, all exposed units.

    The levels hold over the whole experiment: they are split over arms and looks, by the planned
    number of looks or, where that is open, by 1 / (k (k + 1)) for look k.
    """
    metric = experiment.primary
    looks = _planned_checks(experiment, look)
    column = f"pre_{metric.columns[0][0]}"
    arms = {
        arm: counts.history.get(arm, ArmMoments.empty((column,))) for arm in experiment.variants
    }
    if experiment.plan.cluster is not None:
        arms = _cluster_history(experiment, frames, column)
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
