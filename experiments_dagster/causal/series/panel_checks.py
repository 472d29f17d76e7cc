"""Refutations of panel designs as health checks: what fails blocks the claim or weakens it.

ERROR blocks, WARN weakens. Not rejecting parallel trends before the start proves nothing after
it, so a panel claim stands in full only where it survives trends that differ as much after the
start as they did before it (M̄ = 1). For the same reason a rejected pre-trend weakens a claim that
survives M̄ = 1, which allows for it, and blocks any other. METHODS 11.5, 11.6.

References:
    Roth 2022; Rambachan & Roth 2023; Cameron & Miller 2015; de Chaisemartin & D'Haultfoeuille 2020.
"""

from __future__ import annotations

from experiments_dagster.causal.outcomes import judged, known_p_value, refutation_level
from experiments_dagster.causal.series.difference_in_differences import (
    ENOUGH_CLUSTERS,
    FEW_CLUSTERS,
)
from experiments_dagster.causal.series.event_study import EventStudy, MagnitudeBound
from experiments_dagster.causal.series.panel_inference import AverageEffect
from experiments_dagster.causal.series.staggered import GroupTimeEffects
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome, Estimate

MAGNITUDE = 1.0


def check_pre_trend(found: EventStudy | GroupTimeEffects) -> CheckOutcome:
    """Block where the groups parted before the start, unless the claim allows for as much after.

    The test is the F form of the joint χ² (`panel_inference`), which holds with few clusters.

    Raises:
        EstimationError: N_TOO_SMALL and others where there is no test of the leads.
    """
    if found.pre_trend is None:
        code = found.pre_trend_reason or "N_TOO_SMALL"
        raise EstimationError(code, "pre_trend", "the periods before the start allow no joint test")
    if isinstance(found, GroupTimeEffects):
        test, power, bound = found.pre_trend, "", None
    else:
        test, bound = found.pre_trend.test, _bound(found)
        share = found.pre_trend.power_at_effect
        power = f", power {share:.0%} against the straight trend that would make the effect"
    survives = bound is not None and bound.excludes_zero
    alpha = refutation_level(found.confidence_level)
    return judged(
        "pre_trend",
        passed=test.p_value >= alpha,
        severity="WARN" if survives else "ERROR",
        value=test.p_value,
        threshold=alpha,
        shown=f"joint test of {test.n_effects} leads p = {test.p_value:.3g}{power}",
        against="the groups parted before the start"
        + (", though the effect survives as much after it" if survives else ""),
    )


def check_relative_magnitude(study: EventStudy | GroupTimeEffects) -> CheckOutcome:
    """Warn unless the effect survives trends that differ after the start as much as before it.

    Raises:
        EstimationError: N_TOO_SMALL without leads.
    """
    bound = _bound(study)
    if bound is None:
        detail = "no change before the start to compare with"
        raise EstimationError("N_TOO_SMALL", "relative_magnitude", detail)
    breakdown = study.breakdown_magnitude
    reach = "none" if breakdown is None else f"{breakdown:.2f}"
    return judged(
        "relative_magnitude",
        passed=bound.excludes_zero,
        severity="WARN",
        value=breakdown,
        threshold=MAGNITUDE,
        shown=(
            f"interval [{bound.ci_low:.4g}, {bound.ci_high:.4g}] where trends differ up to "
            f"{MAGNITUDE:g} times as much as before the start; the sign stands up to {reach}"
        ),
        against="parallel trends were not rejected, which does not show them",
    )


def check_placebo_period(
    effect: Estimate | AverageEffect, *, start: str, alpha: float
) -> CheckOutcome:
    """Block a design that finds an effect before the start.

    Args:
        effect: Of the same design on periods before the start alone, with a start moved into them.
        start: The moved start, as people know it.
        alpha: Level of the claim; smaller ones than 5 % are tried at 5 %.

    Raises:
        EstimationError: NOT_IDENTIFIED without a p-value.
    """
    level = refutation_level(1 - alpha)
    p_value = known_p_value("placebo_period", effect.p_value)
    low = float("-inf") if effect.ci_low is None else effect.ci_low
    high = float("inf") if effect.ci_high is None else effect.ci_high
    return judged(
        f"placebo_period_{start}",
        passed=p_value >= level,
        severity="ERROR",
        value=p_value,
        threshold=level,
        shown=(
            f"difference at a start moved to {start} {effect.estimate:.4g} "
            f"[{low:.4g}, {high:.4g}], p = {p_value:.3g}, tried at {level:g}"
        ),
        against="the groups part without the treatment",
    )


def check_cluster_count(
    n_control: int, n_treatment: int, *, interval: str | None = None
) -> CheckOutcome:
    """Warn where errors rest on few clusters.

    Args:
        n_control: Independent clusters without treatment.
        n_treatment: Independent clusters with it.
        interval: `Estimate.interval`, which names a test made for few clusters. With fewer than 4
            treated or untreated ones it rests on their being exchangeable, so it warns as well.
    """
    fewest = min(n_control, n_treatment)
    needed = ENOUGH_CLUSTERS if interval is None else FEW_CLUSTERS
    by = "" if interval is None else f", {interval.replace('_', ' ')}"
    return judged(
        "cluster_count",
        passed=fewest >= needed,
        severity="WARN",
        value=float(fewest),
        threshold=float(needed),
        shown=f"{n_treatment} treated and {n_control} control clusters{by}",
        against="errors from so few clusters are a guess",
    )


def _bound(study: EventStudy | GroupTimeEffects) -> MagnitudeBound | None:
    return next((bound for bound in study.bounds if bound.magnitude == MAGNITUDE), None)
