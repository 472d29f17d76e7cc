"""Differences in differences: the change of the treated less the change of the others.

A panel is compared by its units' means before and after, clustered by unit, which is the
interaction of least squares over all their rows. Units that miss a period are left out: means over
different periods would take a difference between periods for one between groups. Rows that are no
units (repeated cross-sections) are compared as they are, with HC1 errors. Leads, where there are
periods for them, are those of the event study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from experiments_dagster.causal.series.difference_in_differences import (
    REPLICATES_BY_ALPHA,
    DifferenceInDifferences,
    difference_in_differences,
)
from experiments_dagster.causal.series.event_study import EventStudy, estimate_event_study
from experiments_dagster.causal.series.panel_checks import (
    check_cluster_count,
    check_placebo_period,
)
from experiments_dagster.causal.series.panel_inference import complete_rows
from experiments_dagster.config.intervention import DidDesign
from experiments_dagster.interventions.designs.did_views import did_pictures, did_tables
from experiments_dagster.interventions.designs.panel_parts import (
    FEWEST_LEADS,
    ONE_BEFORE,
    adjust,
    check_against,
    common_start,
    draws_for,
    is_treated,
    missing_warnings,
    panel_assumptions,
    panel_facts,
    refute_leads,
    start_label,
)
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
    StudyEstimate,
)
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, IntArray, Panel
from experiments_dagster.reporting.numbers import reason_words
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome, Estimate

REPLICATES = 4999
NAME = "average effect"
ERRORS = {
    "hc1": "HC1 errors of independent rows",
    "cr2": "CR2 errors by unit",
    "cr1": "wild cluster bootstrap by unit",
    "randomization": "randomisation over units",
}


def did_study(panel: Panel, design: DidDesign) -> Study:
    """The effect on the treated after one common start, from means before and after.

    Args:
        panel: Units seen in all periods, others are left out and counted; or independent rows.
        design: Level and seed.
    """
    study = partial(
        Study,
        design=design.kind,
        method="difference in differences",
        estimand=_estimand(panel),
        facts=panel_facts(panel),
        assumptions=panel_assumptions(panel),
    )
    kept = np.ones(len(panel.units), dtype=np.bool_)
    warnings: tuple[str, ...] = ()
    if panel.has_units:
        outcomes = panel.wide().T
        kept = complete_rows(outcomes)[1]
        warnings = missing_warnings(panel, outcomes)
    try:
        start = common_start(panel)
        sides = _sides(panel, kept, start)
        found = _estimate(sides, design)
    except EstimationError as error:
        return study(reason=error.code, reason_detail=str(error), warnings=warnings)
    ran = Refutations()
    leads = _leads(panel, start, design)
    if panel.has_units:
        refute_leads(ran, leads, start)
    else:
        _skip_leads(ran, start)
    _refute_by_placebo(ran, panel, kept, start, design)
    estimates = _estimates(found)
    if panel.has_units:
        main = found.difference
        ran.run(
            "cluster_count",
            lambda: check_cluster_count(main.n_control, main.n_treatment, interval=main.interval),
        )
        estimates += _with_incomplete(ran, panel, kept, start, design, effect=main.estimate)
    if panel.covariates:
        adjusted, told = _adjusted(ran, panel, sides, design, start=start, found=found)
        estimates += adjusted
        warnings += told
    if found.relative is None:
        warnings += (f"no relative effect: {reason_words(found.relative_reason)}",)
    return study(
        estimates=tuple(estimates),
        refutations=tuple(ran.ran),
        skipped=tuple(ran.skipped),
        tables=tuple(did_tables(found, leads, panel, kept, start)),
        pictures=tuple(did_pictures(leads, panel, kept, start)),
        warnings=warnings,
    )


def _estimand(panel: Panel) -> str:
    start = start_label(panel)
    return (
        f"mean effect on the treated per period from {start} on, in units of "
        f"{panel.outcome_name}: the change of their mean from before to after, less that of the "
        "untreated"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """Rows before and after; of a panel one mean per unit and side.

    `table` holds those means, shape (N, 2), NaN for units that are not used.
    """

    outcome: FloatArray
    is_treated: BoolArray
    is_post: BoolArray
    clusters: IntArray | None
    table: FloatArray | None


def _sides(panel: Panel, kept: BoolArray, start: int, end: int | None = None) -> _Sides:
    """Periods before `start` against those from it on, up to `end`, of the units kept."""
    is_read = kept[panel.unit] & (panel.period < (len(panel.labels) if end is None else end))
    outcome, unit = panel.outcome[is_read], panel.unit[is_read]
    is_post = panel.period[is_read] >= start
    treated = is_treated(panel)
    if not panel.has_units:
        return _Sides(
            outcome=outcome,
            is_treated=treated[unit],
            is_post=is_post,
            clusters=None,
            table=None,
        )
    columns = []
    for side in (~is_post, is_post):
        counts = np.bincount(unit[side], minlength=len(treated))
        sums = np.bincount(unit[side], outcome[side], minlength=len(treated))
        columns.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    table = np.column_stack(columns)
    used = np.flatnonzero(~np.isnan(table).any(axis=1))
    return _Sides(
        outcome=table[used].ravel(),
        is_treated=np.repeat(treated[used], 2),
        is_post=np.tile(np.array([False, True]), len(used)),
        clusters=np.repeat(used, 2),
        table=table,
    )


def _estimate(sides: _Sides, design: DidDesign) -> DifferenceInDifferences:
    if not len(sides.outcome):
        raise EstimationError("EMPTY_ARM", "units", "none is seen in all periods")
    return difference_in_differences(
        sides.outcome,
        sides.is_treated,
        sides.is_post,
        clusters=sides.clusters,
        seed=design.seed,
        replicates=max(REPLICATES, math.ceil(REPLICATES_BY_ALPHA / design.alpha)),
        alpha=design.alpha,
    )


def _leads(panel: Panel, start: int, design: DidDesign) -> EventStudy | EstimationError:
    """Differences by period of the same units."""
    if start < FEWEST_LEADS or not panel.has_units:
        return EstimationError("N_TOO_SMALL", "leads", ONE_BEFORE)
    try:
        return estimate_event_study(
            panel.wide().T,
            is_treated(panel),
            start,
            seed=design.seed,
            draws=draws_for(design.alpha),
            alpha=design.alpha,
        )
    except EstimationError as error:
        return error


def _skip_leads(ran: Refutations, start: int) -> None:
    reason = ONE_BEFORE
    if start >= FEWEST_LEADS:
        reason = "no unit is seen twice; the placebo period is what the periods before can tell"
    for name in ("pre_trend", "relative_magnitude"):
        ran.skip(name, reason)


def _refute_by_placebo(
    ran: Refutations, panel: Panel, kept: BoolArray, start: int, design: DidDesign
) -> None:
    if start < FEWEST_LEADS:
        ran.skip("placebo_period", ONE_BEFORE)
        return
    moved = start // 2

    def check() -> CheckOutcome:
        placebo = _estimate(_sides(panel, kept, moved, start), design)
        return check_placebo_period(
            placebo.difference, start=panel.labels[moved], alpha=design.alpha
        )

    ran.run("placebo_period", check)


def _estimates(found: DifferenceInDifferences) -> list[StudyEstimate]:
    estimates = [_named(NAME, found.difference)]
    if found.relative is not None:
        method = "difference in differences over the mean without treatment"
        relative = StudyEstimate.of("relative effect", found.relative, method=method)
        estimates.append(replace(relative, unit="relative"))
    return estimates


def _named(name: str, found: Estimate) -> StudyEstimate:
    words = ERRORS[found.variance_formula]
    named = StudyEstimate.of(name, found, method=f"difference in differences, {words}")
    if found.ci_low is None or found.ci_high is None:
        return replace(named, reason="no value on the open side is rejected at this level")
    return named


def _with_incomplete(
    ran: Refutations,
    panel: Panel,
    kept: BoolArray,
    start: int,
    design: DidDesign,
    *,
    effect: float,
) -> list[StudyEstimate]:
    """The same with units that miss periods on either side; does it say something else?"""
    sides = _sides(panel, np.ones_like(kept), start)
    if sides.clusters is None or np.isin(sides.clusters, np.flatnonzero(kept)).all():
        return []
    found: list[StudyEstimate] = []
    name = "estimators_agree_incomplete_units"

    def check() -> CheckOutcome:
        other = _estimate(sides, design).difference
        found.append(_named("with units that miss periods", other))
        return check_against(name, effect, other.estimate, "units that miss periods")

    ran.run(name, check)
    return found


def _adjusted(
    ran: Refutations,
    panel: Panel,
    sides: _Sides,
    design: DidDesign,
    *,
    start: int,
    found: DifferenceInDifferences,
) -> tuple[list[StudyEstimate], tuple[str, ...]]:
    if sides.table is None:
        ran.skip(
            "estimators_agree_covariates", "no unit is seen twice, so no change can be adjusted"
        )
        return [], ()
    return adjust(
        ran,
        panel,
        sides.table,
        start=start,
        column=1,
        effect=found.difference.estimate,
        design=design,
    )
