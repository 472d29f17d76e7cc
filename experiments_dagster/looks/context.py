"""What stands beside a result so that people read it rightly; none of it decides.

trust         too good to be true? how likely is a false win? drawn towards the prior
segments      the same effect in parts of the units, corrected as one exploratory family
sensitivity   the primary metric by other methods, each with its own estimand
novelty       the effect by day since exposure, at the planned end
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.config.experiment import EffectPrior
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.summaries import Summaries
from experiments_dagster.frames.unit_frames import Frames
from experiments_dagster.looks.contrasts import (
    Inputs,
    Mask,
    MetricRows,
    compare_arm,
    compare_sums,
    metric_rows,
    treated,
)
from experiments_dagster.looks.estimates import (
    Estimates,
    contrast_rows,
    corrected,
    estimate_row,
)
from experiments_dagster.looks.records import (
    Boundary,
    Effect,
    Novelty,
    SegmentLevel,
    SegmentTest,
    Trust,
)
from experiments_dagster.looks.sums import MAX_LEVELS, Part, Sums, shown_levels
from experiments_dagster.looks.unit_sums import sums_of
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.heterogeneity import MIN_UNITS, SegmentEffect, segment_heterogeneity
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.bootstrap import compare_by_bootstrap
from experiments_dagster.stats.methods.units.covariates import text_labels
from experiments_dagster.stats.methods.units.mann_whitney import compare_ranks
from experiments_dagster.stats.methods.units.permutation import permutation_test
from experiments_dagster.stats.methods.units.transforms import compare_log_means
from experiments_dagster.stats.methods.units.trimmed import compare_trimmed
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.novelty import daily_effects, novelty_test
from experiments_dagster.stats.records import Contrast, Estimate
from experiments_dagster.stats.shrinkage import shrunk_estimate
from experiments_dagster.stats.trust import (
    PRIOR_BAND,
    TWYMAN_RATIO,
    false_positive_risk,
    is_inconclusive,
    twyman_ratio,
)

Vector = NDArray[np.float64]
SEED = 20260105  # resampling is the same at every look and every reproduction
PERMUTATIONS = 1999


def trust_rows(
    experiment: Experiment, estimates: Estimates, boundaries: Sequence[Boundary]
) -> list[Trust]:
    """The trust numbers of every success metric and arm whose lift is estimable.

    Args:
        experiment: Prior, MDE and levels.
        estimates: The contrasts of the look.
        boundaries: Their repeated intervals, which tell whether a result is inconclusive; where
            there is none the naive interval does.
    """
    repeated = {
        (row.metric, row.arm): (row.limit_low, row.limit_high)
        for row in boundaries
        if row.kind == "success" and row.is_relative and row.critical_value is not None
    }
    prior = experiment.plan.prior
    name = "declared" if prior is not None else "default"
    prior = prior or EffectPrior()
    band = PRIOR_BAND if prior.share_true is None else (prior.share_true, prior.share_true)
    rows = []
    for metric in experiment.success_metrics:
        for arm in experiment.treatments:
            result = estimates.results.get((metric.name, arm))
            lift = result.deciding.relative if result is not None else None
            if lift is None:
                continue
            risks = [
                false_positive_risk(
                    experiment.alpha_per_hypothesis, experiment.plan.power, share, sides=2
                )
                for share in band
            ]
            shrunk = shrunk_estimate(lift.estimate, lift.std_error, prior.lift_sd**2)
            low, high = repeated.get((metric.name, arm), (lift.ci_low, lift.ci_high))
            ratio = twyman_ratio(lift.estimate, lift.std_error, prior.lift_sd)
            rows.append(
                Trust(
                    metric=metric.name,
                    arm=arm,
                    prior=name,
                    prior_sd=prior.lift_sd,
                    twyman_ratio=ratio,
                    is_suspicious=ratio > TWYMAN_RATIO,
                    false_positive_risk_low=min(risks),
                    false_positive_risk_high=max(risks),
                    shrunk_estimate=shrunk.estimate,
                    shrunk_std_error=shrunk.posterior_sd,
                    is_underpowered=is_inconclusive(low, high, experiment.plan.mde),
                )
            )
    return rows


def segment_rows(
    experiment: Experiment, inputs: Inputs, *, cap: float | None
) -> tuple[list[Effect], list[SegmentTest]]:
    """The deciding effect on the primary metric by level of every segment.

    P-values are corrected over all segments, levels and arms: BH within one segment, whose levels
    share no unit, BY over several, which overlap.
    """
    if isinstance(inputs, Summaries) or not experiment.segments:
        return [], []
    if experiment.is_additive:
        sums = sums_of(experiment, inputs, cap=cap)
        return _corrected(experiment, *_from_sums(experiment, sums))
    try:
        rows = metric_rows(experiment.primary, inputs, cap=cap)
    except EstimationError:
        return [], []
    effects: list[Effect] = []
    tests: list[SegmentTest] = []
    for segment in experiment.segments:
        labels = pl.Series("_level", text_labels(rows.frame[f"segment_{segment}"].to_list()))
        labelled = replace(rows, frame=rows.frame.with_columns(labels))
        by_size = labels.value_counts(sort=True)["_level"]
        beyond = max(len(by_size) - MAX_LEVELS, 0)
        for arm in experiment.treatments:
            shown = sorted(by_size.head(MAX_LEVELS))
            compare = partial(_level_of_units, experiment, labelled, arm)
            found, test = _by_level(experiment, compare, arm, segment, shown)
            effects += found
            tests.append(test.model_copy(update={"n_other_levels": beyond}))
    return _corrected(experiment, effects, tests)


def _from_sums(experiment: Experiment, sums: Sums) -> tuple[list[Effect], list[SegmentTest]]:
    """Every level of every segment of an additive plan."""
    effects: list[Effect] = []
    tests: list[SegmentTest] = []
    for segment in experiment.segments:
        sizes = sums.level_sizes(experiment, segment)
        shown = shown_levels(sizes)
        for arm in experiment.treatments:
            compare = partial(_level_of_sums, experiment, sums, arm, segment)
            found, test = _by_level(experiment, compare, arm, segment, shown)
            effects += found
            tests.append(test.model_copy(update={"n_other_levels": len(sizes) - len(shown)}))
    return effects, tests


def _corrected(
    experiment: Experiment, effects: list[Effect], tests: list[SegmentTest]
) -> tuple[list[Effect], list[SegmentTest]]:
    members = [
        index
        for index, row in enumerate(effects)
        if row.p_value is not None and not row.is_relative
    ]
    correction = "bh" if len(experiment.segments) == 1 else "by"
    planned = sum(not row.is_relative for row in effects)
    planned += sum(test.n_other_levels for test in tests)
    effects = corrected(
        effects, members, planned=planned, alpha=experiment.plan.alpha, correction=correction
    )
    return effects, tests


def _level_of_units(
    experiment: Experiment, labelled: MetricRows, arm: str, level: str, *, inside: bool
) -> Contrast:
    """The deciding contrast in one level (column `_level`), or among all other units."""
    is_level = pl.col("_level") == level
    return compare_arm(experiment, labelled.where(is_level if inside else ~is_level), arm).deciding


def _level_of_sums(
    experiment: Experiment, sums: Sums, arm: str, segment: str, level: str, *, inside: bool
) -> Contrast:
    """The same by sums."""
    part = Part(segment, level, inside)
    return compare_sums(experiment, sums, experiment.primary, arm, part).deciding


def _by_level(
    experiment: Experiment,
    compare: Callable[..., Contrast],
    arm: str,
    segment: str,
    levels: list[str],
) -> tuple[list[Effect], SegmentTest]:
    """The effect in each level of a segment, and how far it is from that in the rest."""
    shared: dict[str, Any] = {
        "metric": experiment.primary.name,
        "role": "primary",
        "arm": arm,
        "control": experiment.control,
        "is_adjusted": experiment.adjusts,
        "segment": segment,
    }
    effects: list[Effect] = []
    compared = []
    for level in levels:
        try:
            inside = compare(level, inside=True)
        except EstimationError as error:
            effects.append(
                Effect(
                    **shared,
                    level=level,
                    estimand="difference",
                    method=experiment.plan.estimator.kind,
                    status="not_estimable",
                    reason=error.code,
                )
            )
            compared.append(SegmentEffect(segment=level, inside=None, rest=None))
            continue
        n = min(inside.difference.n_control, inside.difference.n_treatment)
        if n < MIN_UNITS:
            effects.append(_too_small(experiment, shared, level))
            compared.append(SegmentEffect(segment=level, inside=inside.difference, rest=None))
            continue
        effects += contrast_rows(inside, **shared, level=level)
        rest = None
        with contextlib.suppress(EstimationError):
            rest = compare(level, inside=False)
        compared.append(
            SegmentEffect(
                segment=level,
                inside=inside.difference,
                rest=None if rest is None else rest.difference,
            )
        )
    outcome = segment_heterogeneity(compared)
    omnibus = outcome.omnibus
    return effects, SegmentTest(
        segment=segment,
        metric=experiment.primary.name,
        arm=arm,
        q=None if omnibus is None else omnibus.statistic,
        degrees_of_freedom=None if omnibus is None else omnibus.degrees_of_freedom,
        p_value=None if omnibus is None else omnibus.p_value,
        levels=tuple(
            SegmentLevel(
                level=test.segment,
                difference=test.difference,
                std_error=test.std_error,
                p_value=test.p_value,
                p_adjusted=test.adjusted_p_value,
                reason=test.reason,
            )
            for test in outcome.tests
        ),
    )


def _too_small(experiment: Experiment, shared: dict[str, Any], level: str) -> Effect:
    """A level with too few units is listed, not tested (METHODS 10.5)."""
    return Effect(
        **shared,
        level=level,
        estimand="difference",
        method=experiment.plan.estimator.kind,
        status="not_estimable",
        reason="N_TOO_SMALL",
    )


def sensitivity_rows(experiment: Experiment, inputs: Inputs, *, cap: float | None) -> list[Effect]:
    """The primary metric by the plan's other methods, where it is a mean per unit."""
    metric = experiment.primary
    if isinstance(inputs, Summaries) or not experiment.plan.sensitivity:
        return []
    if metric.is_ratio or metric.of_events:
        return []
    try:
        rows = metric_rows(metric, inputs, cap=cap)
    except EstimationError:
        return []
    effects = []
    for method in experiment.plan.sensitivity:
        for arm in experiment.treatments:
            shared: dict[str, Any] = {
                "metric": metric.name,
                "role": "primary",
                "arm": arm,
                "control": experiment.control,
                "is_adjusted": False,
            }
            try:
                pair = rows.pair(experiment.control, arm)
                estimate = _SENSITIVITY[method](
                    pair, treated(pair.frame, arm), experiment.plan.alpha
                )
                effects.append(estimate_row(estimate, **shared))
            except EstimationError as error:
                effects.append(
                    Effect(
                        **shared,
                        estimand="difference",
                        method=method,
                        status="not_estimable",
                        reason=error.code,
                    )
                )
    return effects


def _log(pair: MetricRows, is_treated: Mask, alpha: float) -> Estimate:
    outcome = pair.outcomes()[0]
    return compare_log_means(outcome, is_treated, alpha=alpha).contrast.difference


def _trimmed(pair: MetricRows, is_treated: Mask, alpha: float) -> Estimate:
    return compare_trimmed(pair.outcomes()[0], is_treated, alpha=alpha)


def _ranks(pair: MetricRows, is_treated: Mask, alpha: float) -> Estimate:
    return compare_ranks(pair.outcomes()[0], is_treated, alpha=alpha)


def _bootstrap(pair: MetricRows, is_treated: Mask, alpha: float) -> Estimate:
    return compare_by_bootstrap(
        pair.outcomes()[0], is_treated, alpha=alpha, seed=SEED, scheme="buckets"
    ).difference


def _permutation(pair: MetricRows, is_treated: Mask, alpha: float) -> Estimate:
    """The randomisation p-value beside Welch's interval, which is another test's."""
    outcome = pair.outcomes()[0]
    result = permutation_test(outcome, is_treated, replicates=PERMUTATIONS, seed=SEED)
    arms = (ArmMoments.from_arrays(y=outcome[rows]) for rows in (~is_treated, is_treated))
    return replace(
        compare_means(*arms, alpha=alpha).difference,
        inference="randomization",
        method="permutation",
        p_value=result.p_value,
        interval="welch",
    )


_SENSITIVITY: dict[str, Callable[[MetricRows, Mask, float], Estimate]] = {
    "log1p": _log,
    "trimmed": _trimmed,
    "mann_whitney": _ranks,
    "bootstrap": _bootstrap,
    "permutation": _permutation,
}


def novelty_rows(experiment: Experiment, inputs: Inputs) -> list[Novelty]:
    """The trend of the primary effect over days since exposure, where the frames have days."""
    if not isinstance(inputs, Frames) or inputs.days is None:
        return []
    rows = []
    for arm in experiment.treatments:
        pair = inputs.days.filter(pl.col("arm").is_in([experiment.control, arm]))
        names = [name for name in pair.columns if name.startswith("day_")]
        try:
            daily = daily_effects(pair.select(names).to_numpy(), treated(pair, arm))
            trend = novelty_test(daily.effects, daily.covariance)
        except EstimationError:
            continue
        rows.append(
            Novelty(
                metric=experiment.primary.name,
                arm=arm,
                days=tuple(range(experiment.primary.start_day, experiment.primary.end_day)),
                effects=tuple(map(float, daily.effects)),
                std_errors=tuple(map(float, np.sqrt(np.diag(daily.covariance)))),
                slope=trend.slope,
                slope_std_error=trend.std_error,
                slope_p_value=trend.p_value,
                early=trend.early,
                late=trend.late,
                contrast_p_value=trend.contrast_p_value,
                is_flagged=trend.is_flagged,
            )
        )
    return rows
