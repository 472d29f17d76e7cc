"""Event study of units by periods with one common start.

Differences by period are taken against the last period before the start. Different starts belong to
`staggered`.
"""

from __future__ import annotations

from functools import partial

from experiments_dagster.causal.series.event_study import EventStudy, estimate_event_study
from experiments_dagster.causal.series.panel_checks import (
    check_cluster_count,
    check_placebo_period,
)
from experiments_dagster.causal.series.panel_inference import complete_rows
from experiments_dagster.config.intervention import EventStudyDesign
from experiments_dagster.interventions.designs.panel_parts import (
    FEWEST_LEADS,
    ONE_BEFORE,
    adjust,
    average_estimate,
    common_start,
    draws_for,
    is_treated,
    missing_warnings,
    panel_assumptions,
    panel_facts,
    refute_leads,
    start_label,
)
from experiments_dagster.interventions.designs.panel_views import (
    event_picture,
    lead_tables,
    means_table,
)
from experiments_dagster.interventions.study import Refutations, Study
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, Panel
from experiments_dagster.stats.errors import EstimationError


def event_study(panel: Panel, design: EventStudyDesign) -> Study:
    """Effects by period since one common start, with the leads that speak for or against them.

    Args:
        panel: Units seen in all periods; units with a missing period are left out and counted.
        design: Level and seed.
    """
    outcomes = panel.wide().T
    study = partial(
        Study,
        design=design.kind,
        method="event study: differences by period, CR2 errors by unit",
        estimand=_estimand(panel),
        facts=panel_facts(panel),
        assumptions=panel_assumptions(panel),
    )
    warnings = missing_warnings(panel, outcomes)
    treated = is_treated(panel)
    try:
        start = common_start(panel)
        found = _estimate(outcomes, treated, start, design)
    except EstimationError as error:
        return study(reason=error.code, reason_detail=str(error), warnings=warnings)
    ran = Refutations()
    refute_leads(ran, found, start)
    moved = start // 2
    if start < FEWEST_LEADS:
        ran.skip("placebo_period", ONE_BEFORE)
    else:
        ran.run(
            "placebo_period",
            lambda: check_placebo_period(
                _estimate(outcomes[:, :start], treated, moved, design).average,
                start=panel.labels[moved],
                alpha=design.alpha,
            ),
        )
    ran.run("cluster_count", lambda: check_cluster_count(found.n_control, found.n_treated))
    estimates = [average_estimate("average effect", found.average, found.confidence_level)]
    if panel.covariates:
        adjusted, told = adjust(
            ran, panel, outcomes, start=start, effect=found.average.estimate, design=design
        )
        estimates += adjusted
        warnings += told
    return study(
        estimates=tuple(estimates),
        refutations=tuple(ran.ran),
        skipped=tuple(ran.skipped),
        tables=(
            *lead_tables(found, panel, start),
            means_table(panel, complete_rows(outcomes)[1]),
        ),
        pictures=(
            event_picture(
                found.effects,
                title=f"{panel.outcome_name}: difference by period since the start",
                unit=panel.outcome_name,
                confidence_level=found.confidence_level,
            ),
        ),
        warnings=warnings,
    )


def _estimand(panel: Panel) -> str:
    start = start_label(panel)
    return (
        f"mean effect on the treated units per period from {start} on, in units of "
        f"{panel.outcome_name}: their change since the last period before it, less that of the "
        "untreated"
    )


def _estimate(
    outcomes: FloatArray, treated: BoolArray, start: int, design: EventStudyDesign
) -> EventStudy:
    return estimate_event_study(
        outcomes,
        treated,
        start,
        seed=design.seed,
        draws=draws_for(design.alpha),
        alpha=design.alpha,
    )
