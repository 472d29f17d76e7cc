"""Which experiments share units, whether their arms are independent, whether effects interact.

Units are those of the published unit frames: exposed in exactly one arm. Independence of arms reads
no outcome and is tested for all overlapping pairs. Interactions are tested on the primary metric of
decided experiments only, by their plan's own estimator within each arm of the other experiment, and
corrected by BY over all of them. METHODS 10.3.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.unit_frames import frame_columns, read_current_frames
from experiments_dagster.looks.contrasts import MetricRows, compare_arm, metric_rows
from experiments_dagster.looks.records import Look
from experiments_dagster.portfolio.decided import DECIDED
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.interaction import (
    AssignmentDependence,
    EffectInteraction,
    assignment_dependence,
    effect_interaction,
)
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.storage.layout import Layout

OTHER_ARM = "other arm"  # no metric or property can be called so
MAX_PAIRS = 2000  # overlaps whose interactions are tested, the largest first
DEPENDENT = "DEPENDENT_ARMS"

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionTest:
    """How the effect of one experiment on its primary metric changes with an arm of another.

    Args:
        experiment: Whose effect it is.
        metric: Its primary metric.
        arm: Its treatment arm.
        other: The other experiment.
        other_arm: Treatment arm of the other one, compared with its control.
        method: Estimator of the effect within each arm of the other.
        found: The interaction; None with a reason.
        p_adjusted: By BY over all interactions that were to be tested.
        reason: Code of `stats.errors.REASONS`, or DEPENDENT_ARMS.
    """

    experiment: str
    metric: str
    arm: str
    other: str
    other_arm: str
    method: str | None = None
    found: EffectInteraction | None = None
    p_adjusted: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two experiments with common units; `counts` by arm of the first and arm of the second."""

    first: str
    second: str
    arms: tuple[tuple[str, ...], tuple[str, ...]]
    counts: tuple[tuple[int, ...], ...]
    dependence: AssignmentDependence | None
    reason: str | None

    @property
    def n_units(self) -> int:
        """Units in both experiments."""
        return sum(map(sum, self.counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """All overlapping pairs and the interactions tested in them.

    `n_pairs_not_tested` counts overlaps beyond the largest `MAX_PAIRS`.
    """

    pairs: tuple[Overlap, ...]
    tests: tuple[InteractionTest, ...]
    n_pairs_not_tested: int


def read_overlaps(
    layout: Layout, experiments: Mapping[str, Experiment], decided: Mapping[str, Look]
) -> Overlaps:
    """Find and test the overlapping pairs of experiments.

    Args:
        layout: Where the published frames are.
        experiments: All of the project.
        decided: Last look of those with a decided arm: the effects of such arms may be read.
    """
    units = {
        slug: found
        for slug, experiment in experiments.items()
        if (found := _units_of(layout, experiment)) is not None
    }
    usable = {slug: experiments[slug] for slug in units}
    pairs = sorted(_pairs(usable, units), key=lambda pair: -pair.n_units)
    chosen = pairs[:MAX_PAIRS]
    tests = list(_tests(layout, experiments, decided, chosen, units))
    return Overlaps(
        pairs=tuple(pairs),
        tests=tuple(_corrected(tests)),
        n_pairs_not_tested=len(pairs) - len(chosen),
    )


def _units_of(layout: Layout, experiment: Experiment) -> pl.DataFrame | None:
    """Unit and arm, one row per unit of exactly one arm; None where no frame is published.

    Frames with arms that the experiment does not have now are those of another experiment.
    """
    if experiment.is_summary:
        return None
    try:
        frames = read_current_frames(layout, experiment)
    except FileNotFoundError:
        return None
    parts = list(frames.chunks(["unit", "arm"]))
    if not parts:
        return None
    units = pl.concat(parts)
    return units if set(units["arm"].unique()) <= set(experiment.variants) else None


def _pairs(
    experiments: Mapping[str, Experiment], units: Mapping[str, pl.DataFrame]
) -> Iterator[Overlap]:
    """Pairs with common units whose windows overlap in time."""
    columns = [(slug, arm) for slug in experiments for arm in experiments[slug].variants]
    if not columns:
        return
    common = _common_units(experiments, units, columns)
    place = {slug: [k for k, (name, _) in enumerate(columns) if name == slug] for slug in units}
    for first, second in itertools.combinations(units, 2):
        one, other = experiments[first], experiments[second]
        counts = common[np.ix_(place[first], place[second])]
        if not (counts.any() and _meet(one, other)):
            continue
        yield _overlap(one, other, counts)


def _meet(first: Experiment, second: Experiment) -> bool:
    """Whether both measured anything at the same time."""
    ends = [
        experiment.ends_at + dt.timedelta(days=experiment.primary.maturity_days)
        for experiment in (first, second)
    ]
    return first.starts_at < ends[1] and second.starts_at < ends[0]


def _common_units(
    experiments: Mapping[str, Experiment],
    units: Mapping[str, pl.DataFrame],
    columns: Sequence[tuple[str, str]],
) -> Counts:
    """Units in each pair of arms of any two experiments, shape (arms, arms).

    One product of a sparse matrix units × arms with itself; units of different kinds are different
    units.
    """
    from scipy.sparse import csr_matrix

    number = {column: k for k, column in enumerate(columns)}
    rows = pl.concat(
        frame.select(
            pl.concat_str([pl.lit(experiments[slug].unit), "unit"], separator="\x1f").alias("unit"),
            pl.col("arm")
            .replace_strict({arm: number[slug, arm] for arm in experiments[slug].variants})
            .cast(pl.Int64)
            .alias("column"),
        )
        for slug, frame in units.items()
    )
    unit = rows["unit"].rank("dense").cast(pl.Int64).to_numpy() - 1
    shape = (int(unit.max()) + 1 if len(unit) else 0, len(columns))
    ones = np.ones(len(unit), dtype=np.int64)
    matrix = csr_matrix((ones, (unit, rows["column"].to_numpy())), shape=shape)
    return csr_matrix(matrix.T @ matrix).toarray()


def _overlap(first: Experiment, second: Experiment, counts: Counts) -> Overlap:
    dependence, reason = None, None
    try:
        dependence = assignment_dependence(counts)
    except EstimationError as error:
        reason = error.code
    return Overlap(
        first=first.slug,
        second=second.slug,
        arms=(tuple(first.variants), tuple(second.variants)),
        counts=tuple(tuple(int(n) for n in row) for row in counts),
        dependence=dependence,
        reason=reason,
    )


def _tests(
    layout: Layout,
    experiments: Mapping[str, Experiment],
    decided: Mapping[str, Look],
    pairs: Sequence[Overlap],
    units: Mapping[str, pl.DataFrame],
) -> Iterator[InteractionTest]:
    """One test per decided treatment arm of an experiment, and treatment arm of a partner."""
    for slug, look in decided.items():
        partners = [
            (pair, pair.second if pair.first == slug else pair.first)
            for pair in pairs
            if slug in (pair.first, pair.second)
        ]
        if not partners:
            continue
        experiment = experiments[slug]
        is_decided = {item.arm: item.verdict in DECIDED for item in look.decisions}
        arms = [arm for arm in experiment.treatments if is_decided.get(arm)]
        rows = _metric_rows(layout, experiment, look)
        for pair, name in partners:
            yield from _partner_tests(experiment, arms, rows, pair, experiments[name], units[name])


def _metric_rows(layout: Layout, experiment: Experiment, look: Look) -> MetricRows | str:
    """The primary metric of all units with a closed window, or the code why there is none."""
    frames = read_current_frames(layout, experiment)
    metric = experiment.primary
    wanted = frame_columns(experiment)["ratio_frame" if metric.is_ratio else "user_frame"]
    # Frames of another plan than the one that decided would give another effect.
    if frames.info.plan_hash != look.plan_hash or not set(wanted) <= set(frames.of(metric).columns):
        return "OUTSIDE_PLAN"
    cap = look.frozen.cap if look.frozen is not None else None
    try:
        return metric_rows(metric, frames, cap=cap)
    except EstimationError as error:
        return error.code


def _partner_tests(
    experiment: Experiment,
    decided_arms: Sequence[str],
    rows: MetricRows | str,
    pair: Overlap,
    other: Experiment,
    other_units: pl.DataFrame,
) -> Iterator[InteractionTest]:
    is_dependent = pair.dependence is not None and pair.dependence.is_dependent
    joined = None
    if isinstance(rows, MetricRows) and not is_dependent:
        arms = other_units.rename({"arm": OTHER_ARM})
        frame = rows.frame.join(arms, on="unit", how="inner", maintain_order="left")
        joined = replace(rows, frame=frame)
    for arm, other_arm in itertools.product(decided_arms, other.treatments):
        test = InteractionTest(
            experiment=experiment.slug,
            metric=experiment.primary.name,
            arm=arm,
            other=other.slug,
            other_arm=other_arm,
        )
        if joined is None:
            reason = DEPENDENT if is_dependent else str(rows)
            yield replace(test, reason=reason)
            continue
        try:
            yield _tested(test, experiment, joined, other.control)
        except EstimationError as error:
            yield replace(test, reason=error.code)


def _tested(
    test: InteractionTest, experiment: Experiment, rows: MetricRows, other_control: str
) -> InteractionTest:
    effects = [
        compare_arm(experiment, rows.where(pl.col(OTHER_ARM) == arm), test.arm).deciding.difference
        for arm in (other_control, test.other_arm)
    ]
    found = effect_interaction(effects[0], effects[1], alpha=experiment.plan.alpha)
    return replace(test, method=effects[0].method, found=found)


def _corrected(tests: Sequence[InteractionTest]) -> Iterator[InteractionTest]:
    """BY over all; cells that are too small make no hypothesis, other failures count as p = 1."""
    p_values = [test.found.p_value for test in tests if test.found is not None]
    planned = sum(test.reason != "N_TOO_SMALL" for test in tests)
    adjusted = iter(adjusted_p_values(p_values, "by", planned=planned))
    for test in tests:
        yield test if test.found is None else replace(test, p_adjusted=next(adjusted))
