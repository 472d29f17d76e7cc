"""What panel designs share: start, groups, leads, sensitivity, covariates, tables, the picture."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.series.event_study import EventStudy
from experiments_dagster.causal.series.panel_checks import (
    check_pre_trend,
    check_relative_magnitude,
)
from experiments_dagster.causal.series.panel_inference import (
    DRAWS_BY_ALPHA,
    AverageEffect,
    complete_rows,
)
from experiments_dagster.causal.series.staggered import group_time_effects
from experiments_dagster.config.intervention import DidDesign, EventStudyDesign
from experiments_dagster.interventions.study import (
    Refutations,
    StudyEstimate,
)
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, Panel
from experiments_dagster.reporting.numbers import count, plural, share
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

DRAWS = 1999
FRAGILE_CHANGE = 0.5  # of the effect
FEWEST_LEADS = 2  # periods before the start: with one there is no change to look at
ONE_BEFORE = "there is one period before the start, so no change before it can be seen"


def draws_for(alpha: float, draws: int = DRAWS) -> int:
    """Draws for a quantile at this level."""
    return max(draws, math.ceil(DRAWS_BY_ALPHA / alpha))


def is_treated(panel: Panel) -> BoolArray:
    """Whether each unit is treated within the periods, shape (N,)."""
    return np.asarray(panel.first_treated < len(panel.labels), dtype=np.bool_)


def common_start(panel: Panel) -> int:
    """Index of the one period in which all treated units start.

    Raises:
        EstimationError: EMPTY_ARM without treated or untreated units; NOT_IDENTIFIED where they
            start in several periods; N_TOO_SMALL without a period before.
    """
    check_rows(panel)
    treated = is_treated(panel)
    if not treated.any():
        raise EstimationError("EMPTY_ARM", "treated units", "none starts within the periods")
    starts = np.unique(panel.first_treated[treated]).astype(int)
    if len(starts) > 1:
        shown = ", ".join(panel.labels[start] for start in starts[:4])
        more = ", ..." if len(starts) > 4 else ""  # noqa: PLR2004
        detail = f"units start in {len(starts)} periods: {shown}{more}; use the design staggered"
        raise EstimationError("NOT_IDENTIFIED", "one common start", detail)
    if treated.all():
        raise EstimationError("EMPTY_ARM", "untreated units", "all units are treated")
    if starts[0] == 0:
        detail = f"0, treatment starts in the first one, {panel.labels[0]}"
        raise EstimationError("N_TOO_SMALL", "periods before the start", detail)
    return int(starts[0])


def check_rows(panel: Panel) -> None:
    """Refuse a unit with two rows in one period.

    Raises:
        ValueError: How many there are.
    """
    cells = panel.unit * len(panel.labels) + panel.period
    n_twice = len(cells) - len(np.unique(cells))
    if n_twice:
        msg = f"{plural(n_twice, 'row')} of a unit and period that is there already; need one each"
        raise ValueError(msg)


def start_label(panel: Panel) -> str:
    """The first period in which anybody is treated, as people know it."""
    first = panel.first_treated.min(initial=np.inf)
    return panel.labels[int(first)] if first < len(panel.labels) else "the start"


def panel_facts(panel: Panel) -> tuple[tuple[str, str], ...]:
    """What was read: outcome, groups, periods, gaps."""
    treated = is_treated(panel)
    n_treated, n_all, n_periods = int(treated.sum()), len(treated), len(panel.labels)
    starts = np.unique(panel.first_treated[treated]).astype(int)
    facts = [
        ("outcome", panel.outcome_name),
        (
            "units" if panel.has_units else "rows, each a unit of its own",
            f"{count(n_treated)} treated, {count(n_all - n_treated)} untreated",
        ),
        ("periods", f"{n_periods}, from {panel.labels[0]} to {panel.labels[-1]}"),
    ]
    if len(starts) == 1:
        before = plural(int(starts[0]), "period")
        facts.append(("start", f"{panel.labels[starts[0]]}, {before} before it"))
    elif len(starts):
        first, last = panel.labels[starts[0]], panel.labels[starts[-1]]
        facts.append(("starts", f"{len(starts)} from {first} to {last}"))
    if panel.has_units:
        n_gaps = n_all * n_periods - len(panel.outcome)
        facts.append(
            (
                "unit-periods without a value",
                f"{count(n_gaps)} ({share(n_gaps / (n_all * n_periods))})" if n_gaps else "0",
            )
        )
    return tuple(facts)


def panel_assumptions(panel: Panel) -> tuple[str, ...]:
    """What no data can show."""
    start = start_label(panel)
    own = (
        "the units are independent; where whole regions or stores were treated together, the "
        "error is right only with these as units"
        if panel.has_units
        else "rows are drawn independently from groups whose make-up does not change"
    )
    return (
        "parallel trends: without treatment the treated would have changed as the untreated did",
        f"no anticipation: what happens from {start} on changes no outcome before it",
        "no spill-over: treatment leaves the outcomes of untreated units alone",
        "no other shock hit one group alone from the start on; no standard error contains such",
        own,
    )


def missing_warnings(panel: Panel, outcomes: FloatArray) -> tuple[str, ...]:
    """Who is left out for a missing period; outcomes have shape (N, T)."""
    is_left_out = ~complete_rows(outcomes)[1]
    if not is_left_out.any():
        return ()
    treated = is_treated(panel)
    sides = (("treated", treated), ("untreated", ~treated))
    shown = " and ".join(
        f"{count(int((is_left_out & side).sum()))} of {count(int(side.sum()))} {name}"
        for name, side in sides
    )
    return (f"left out for a missing period: {shown} units; the estimate is of the others",)


def refute_leads(ran: Refutations, found: EventStudy | EstimationError, start: int) -> None:
    """Pre-trend and sensitivity; without leads both stay open, which is no proof of anything."""
    for name, check in (
        ("pre_trend", check_pre_trend),
        ("relative_magnitude", check_relative_magnitude),
    ):
        if start < FEWEST_LEADS:
            ran.skip(name, ONE_BEFORE)
        elif isinstance(found, EstimationError):
            ran.skip(name, str(found))
        else:
            ran.run(name, partial(check, found))


def average_estimate(
    name: str, found: AverageEffect, confidence_level: float, *, method: str = "event study, CR2"
) -> StudyEstimate:
    """An average of effects under a name for people."""
    return StudyEstimate(
        name=name,
        method=method,
        estimate=found.estimate,
        std_error=found.std_error,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        confidence_level=confidence_level,
        p_value=found.p_value,
    )


def unit_covariates(panel: Panel, before: int) -> tuple[FloatArray, BoolArray]:
    """Mean of each covariate over periods before an index, and the units with all of them.

    Returns:
        Shapes (N, p) and (N,); nothing from the start on is read.
    """
    n = len(panel.units)
    columns = []
    for values in panel.covariates.values():
        is_read = (panel.period < before) & np.isfinite(values)
        counts = np.bincount(panel.unit[is_read], minlength=n)
        sums = np.bincount(panel.unit[is_read], values[is_read], minlength=n)
        columns.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    matrix = np.column_stack(columns) if columns else np.empty((n, 0))
    return matrix, np.asarray(np.isfinite(matrix).all(axis=1), dtype=np.bool_)


def covariate_warnings(panel: Panel, is_known: BoolArray) -> tuple[str, ...]:
    """How many units lack a covariate."""
    n = int((~is_known).sum())
    if not n:
        return ()
    lacking = f"{plural(n, 'unit')} without a value of {', '.join(panel.covariates)}"
    return (f"left out where covariates are used: {lacking} before the start",)


def adjust(
    ran: Refutations,
    panel: Panel,
    outcomes: FloatArray,
    *,
    start: int,
    column: int | None = None,
    effect: float,
    design: EventStudyDesign | DidDesign,
) -> tuple[list[StudyEstimate], tuple[str, ...]]:
    """The same effect among units alike in covariates, doubly robust, and whether it differs.

    Args:
        ran: Takes the check `estimators_agree_covariates`.
        panel: Covariates are averaged over the periods before `start`.
        outcomes: Shape (N, k); a unit with a missing column is left out.
        start: Index of the first treated period.
        column: First treated column of `outcomes`, if they are not the periods themselves.
        effect: The unadjusted effect.
        design: Level and seed.
    """
    covariates, is_known = unit_covariates(panel, start)
    first = np.where(is_treated(panel), start if column is None else column, np.inf)
    adjusted: list[StudyEstimate] = []
    name = "estimators_agree_covariates"

    def check() -> CheckOutcome:
        found = group_time_effects(
            outcomes[is_known],
            first[is_known],
            covariates=covariates[is_known],
            base="universal",
            seed=design.seed,
            draws=draws_for(design.alpha),
            alpha=design.alpha,
        )
        adjusted.append(
            average_estimate(
                "with covariates",
                found.simple,
                found.confidence_level,
                method=f"doubly robust, {', '.join(panel.covariates)}",
            )
        )
        return check_against(name, effect, found.simple.estimate, "covariates")

    ran.run(name, check)
    return adjusted, covariate_warnings(panel, is_known)


def check_against(name: str, effect: float, other: float, what: str) -> CheckOutcome:
    """Warn where the effect changes sign or by more than half of itself."""
    change = abs(other - effect) / abs(effect) if effect else None
    return judged(
        name,
        passed=change is not None and change <= FRAGILE_CHANGE,
        severity="WARN",
        value=change,
        threshold=FRAGILE_CHANGE,
        shown=f"effect {effect:.4g}, {other:.4g} with {what}",
        against="it hangs on them",
    )
