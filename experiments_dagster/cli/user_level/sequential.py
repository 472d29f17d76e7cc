"""From looks to a decision that holds over all of them.

    group_sequential      Lan-DeMets: at look k of N planned rows the share n_k/N of the plan has
                          been reached, and the spending function at it is what may be spent. The
                          law of the scores follows observed information, so the boundary is exact
                          for the arm sizes that came (METHODS 8.2, 8.3, 8.7).
    confidence_sequence   normal mixture with tuning g: 1/τ² where `cs_tau` is given, else narrowest
                          at the planned information, whatever the unit of the metric (8.8).

Both the share and the planned information rest on the plan and the first look that counts, never on
how much data a file happens to hold: a file with more rows repeats the earlier looks with their
boundaries. A look without a contrast spends nothing. Numbers that ignore the looks are `naive_*`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from experiments_dagster.cli.user_level.looks import LookStats
from experiments_dagster.stats.intervals import critical_value, two_sided_p_value, upper_quantile
from experiments_dagster.stats.sequential.adjusted import (
    SMALLEST_LEVEL,
    StoppedAnalysis,
    analyse_stopped,
    repeated_interval,
)
from experiments_dagster.stats.sequential.boundaries import (
    LARGEST_Z,
    LookBoundary,
    next_boundary,
)
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    running_intersection,
    running_p_value,
    tuning_information,
)
from experiments_dagster.stats.sequential.e_values import normal_equivalent
from experiments_dagster.stats.sequential.recursion import CLOSEST_LOOKS
from experiments_dagster.stats.sequential.spending import Sides, cumulative_alpha

Mode = Literal["group_sequential", "confidence_sequence"]
Direction = Literal["two_sided", "increase", "decrease"]
SpendingName = Literal["obrien_fleming", "pocock"]
Interval = tuple[float | None, float | None]

# A repeated p-value solves the boundaries of all looks up to its own some ten times.
MAX_REPEATED_P = 20
LOG_LARGEST = math.log(1e300)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialPlan:
    """What was fixed before the first look.

    Args:
        planned_n: Rows of the last planned look.
        mode: How looks are paid for.
        alpha: Overall level.
        direction: Of the effect that is looked for; one-sided unless `two_sided`.
        spending: Spending function of the group-sequential mode.
        cs_tau: Mixture sd in units of the metric; None tunes at the planned information.
    """

    planned_n: int
    mode: Mode = "group_sequential"
    alpha: float = 0.05
    direction: Direction = "two_sided"
    spending: SpendingName = "obrien_fleming"
    cs_tau: float | None = None

    @property
    def sides(self) -> Sides:
        """Sides of the test."""
        return 2 if self.direction == "two_sided" else 1

    @property
    def sign(self) -> int:
        """-1 where a decrease is looked for."""
        return -1 if self.direction == "decrease" else 1

    def share(self, look: LookStats) -> float:
        """The share of the plan that a look has reached."""
        return min(look.look_n / self.planned_n, 1.0)

    def spendable(self, look: LookStats, alpha: float) -> float:
        """The level that may be spent up to a look, at an overall level; all at the last."""
        share = self.share(look)
        if share >= 1:
            return alpha
        return cumulative_alpha(self.spending, share, alpha=alpha, sides=self.sides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look says.

    Args:
        look: Its numbers.
        t: Share of the plan.
        score: z with the tail of its t, in the direction that is looked for; None without contrast.
        boundary_z: Critical value of the score; None where the look cannot stop.
        alpha_spent: Level spent up to this look; None in a confidence sequence, which spends none.
        crossed: Whether the boundary is reached.
        p_value: Repeated p-value, or the anytime p-value; None where it is not computed.
        naive_p_value: As if this were the only look.
        limits: Repeated interval of the difference, or that of the confidence sequence.
        log_m_value: ln of the mixture likelihood ratio; None in the other mode.
        running: Intersection of the intervals so far; None in the other mode or where it is empty.
        reason: Why the look cannot stop.
    """

    look: LookStats
    t: float
    score: float | None = None
    boundary_z: float | None = None
    alpha_spent: float | None = None
    crossed: bool = False
    p_value: float | None = None
    naive_p_value: float | None = None
    limits: Interval = (None, None)
    log_m_value: float | None = None
    running: Interval = (None, None)
    reason: str | None = None

    @property
    def m_value(self) -> float | None:
        """The mixture likelihood ratio; None where it is too large for a number."""
        if self.log_m_value is None or self.log_m_value > LOG_LARGEST:
            return None
        return math.exp(self.log_m_value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialResult:
    """The decision of a stream so far.

    `final` is the look that decided: the first that crossed, else the last that counts; None where
    no look counts. `is_finished` says that a boundary was crossed or the last planned look taken.
    """

    verdicts: tuple[Verdict, ...]
    final: Verdict | None
    stopped: bool
    is_finished: bool
    planned_information: float | None
    tuning: float | None
    stagewise: StoppedAnalysis | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """What later looks need of an earlier one."""

    information: float
    critical_value: float | None


@dataclass(slots=True)
class _Spent:
    """The looks that counted and what they used."""

    stored: list[_Stored] = field(default_factory=list)
    alpha: float = 0.0


def analyse_looks(
    looks: Sequence[LookStats], plan: SequentialPlan, *, decides_only: bool = False
) -> SequentialResult:
    """Judge the looks taken so far against the plan.

    Args:
        looks: In order; those without a contrast count for nothing.
        plan: Fixed before the first of them.
        decides_only: Leave out repeated p-values and stagewise inference, which cost the most.

    References:
        Lan & DeMets 1983; Jennison & Turnbull 2000, ch. 7 to 9; Howard et al. 2021.
    """
    counted = [look for look in looks if look.reason is None]
    if not counted:
        verdicts = tuple(_silent(look, plan) for look in looks)
        return SequentialResult(
            verdicts=verdicts,
            final=None,
            stopped=False,
            is_finished=False,
            planned_information=None,
            tuning=None,
        )
    information = _information(counted[0]) * plan.planned_n / counted[0].look_n
    if plan.mode == "confidence_sequence":
        return _run_sequence(looks, plan, information)
    return _run_group_sequential(looks, plan, information, decides_only=decides_only)


def _run_group_sequential(
    looks: Sequence[LookStats], plan: SequentialPlan, information: float, *, decides_only: bool
) -> SequentialResult:
    spent = _Spent()
    verdicts: list[Verdict] = []
    counted: list[LookStats] = []
    for look in looks:
        if look.reason is not None:
            verdicts.append(_silent(look, plan, alpha_spent=spent.alpha))
            continue
        counted.append(look)
        verdict = _group_verdict(look, plan, _take(look, plan, spent, plan.alpha))
        if not decides_only and verdict.reason is None and len(counted) <= MAX_REPEATED_P:
            verdict = replace(verdict, p_value=_repeated_p(counted, plan, _reach(verdict, plan)))
        verdicts.append(verdict)
    final = _deciding(verdicts)
    result = _summary(verdicts, final, plan, information, tuning=None)
    if final is None or decides_only:
        return result
    if final.p_value is None and final.reason is None:
        upto = counted[: counted.index(final.look) + 1]
        final = replace(final, p_value=_repeated_p(upto, plan, _reach(final, plan)))
        verdicts = [final if old.look is final.look else old for old in verdicts]
        result = replace(result, verdicts=tuple(verdicts), final=final)
    if not result.is_finished:
        return result
    return replace(result, stagewise=_stagewise(verdicts, final, plan))


def _take(look: LookStats, plan: SequentialPlan, spent: _Spent, alpha: float) -> LookBoundary:
    """Solve the boundary of the next look and store it; information that fell stores nothing."""
    now = _information(look)
    allowed = max(plan.spendable(look, alpha), spent.alpha)
    boundary = next_boundary(
        [(old.information / now, old.critical_value) for old in spent.stored],
        t=1.0,
        cumulative_alpha_now=allowed,
        alpha_spent=spent.alpha,
        sides=plan.sides,
    )
    if boundary.reason == "INFORMATION_DECREASED":
        if plan.share(look) < 1 or allowed <= spent.alpha:
            return boundary
        # The last look: what is left, by the union bound, holds whatever links the scores.
        nominal = (allowed - spent.alpha) / plan.sides
        return LookBoundary(
            critical_value=upper_quantile(nominal),
            nominal_level=nominal,
            alpha_spent=allowed,
            reason=None,
        )
    spent.stored.append(_Stored(now, boundary.critical_value))
    spent.alpha = boundary.alpha_spent
    return boundary


def _group_verdict(look: LookStats, plan: SequentialPlan, boundary: LookBoundary) -> Verdict:
    score, estimate = _score(look, plan), look.diff or 0.0
    critical = boundary.critical_value
    limits: Interval = (None, None)
    if critical is not None:
        limits = repeated_interval(estimate, _effective_error(look, score, plan), critical)
    verdict = Verdict(
        look=look,
        t=plan.share(look),
        score=score,
        boundary_z=critical,
        alpha_spent=boundary.alpha_spent,
        naive_p_value=_naive_p(look),
        limits=limits,
        reason=boundary.reason,
    )
    is_crossed = critical is not None and _reach(verdict, plan) >= critical
    return replace(verdict, crossed=is_crossed)


def _reach(verdict: Verdict, plan: SequentialPlan) -> float:
    """How far the score has gone on the sides of the plan."""
    assert verdict.score is not None
    return abs(verdict.score) if plan.sides == 2 else verdict.score  # noqa: PLR2004


def _repeated_p(counted: Sequence[LookStats], plan: SequentialPlan, reach: float) -> float:
    """The smallest overall level at which the last of the looks would have stopped."""
    from scipy.optimize import brentq

    def excess(log_level: float) -> float:
        spent = _Spent()
        critical: float | None = None
        for look in counted:
            critical = _take(look, plan, spent, math.exp(log_level)).critical_value
        return (LARGEST_Z if critical is None else critical) - reach

    low, high = math.log(SMALLEST_LEVEL), math.log1p(-SMALLEST_LEVEL)
    if excess(high) >= 0:
        return 1.0
    if excess(low) <= 0:
        return SMALLEST_LEVEL
    return math.exp(float(brentq(excess, low, high, xtol=1e-9)))


def _stagewise(
    verdicts: Sequence[Verdict], final: Verdict, plan: SequentialPlan
) -> StoppedAnalysis | None:
    """p-value, interval and estimate after the end; None where information fell at it."""
    assert final.score is not None
    now = _information(final.look)
    fractions, criticals = [1.0], [final.boundary_z]
    earlier = [v for v in verdicts[: verdicts.index(final)] if v.score is not None]
    for verdict in reversed(earlier):
        fraction = _information(verdict.look) / now
        # Looks that information hardly tells apart are one look; so are those that it fell after.
        if verdict.reason is None and fraction < fractions[0] * (1 - CLOSEST_LOOKS):
            fractions.insert(0, fraction)
            criticals.insert(0, verdict.boundary_z)
        elif verdict.reason is None and fraction >= 1:
            return None
    error = _effective_error(final.look, final.score, plan)
    result = analyse_stopped(
        fractions,
        criticals,
        estimate=plan.sign * (final.look.diff or 0.0),
        std_error=error,
        alpha=plan.alpha,
        sides=plan.sides,
    )
    if plan.sign > 0:
        return result
    return StoppedAnalysis(
        naive_estimate=-result.naive_estimate,
        median_unbiased_estimate=-result.median_unbiased_estimate,
        ci_low=-result.ci_high,
        ci_high=-result.ci_low,
        p_value=result.p_value,
        confidence_level=result.confidence_level,
    )


def _run_sequence(
    looks: Sequence[LookStats], plan: SequentialPlan, information: float
) -> SequentialResult:
    g = (
        tuning_information(information, plan.alpha, sides=plan.sides)
        if plan.cs_tau is None
        else 1 / plan.cs_tau**2
    )
    verdicts: list[Verdict] = []
    log_e: list[float] = []
    intervals: list[tuple[float, float]] = []
    warnings: list[str] = []
    for look in looks:
        if look.reason is not None:
            verdicts.append(_silent(look, plan))
            continue
        estimate, error = look.diff or 0.0, look.se or 0.0
        point = confidence_sequence(
            plan.sign * estimate, error, g=g, alpha=plan.alpha, sides=plan.sides
        )
        log_e.append(point.log_e_value)
        limits = _oriented(point.low, point.high, plan)
        intervals.append(_closed(limits))
        running = running_intersection(intervals)
        if running.flag and not warnings:
            warnings.append(
                f"{running.flag}: from the look at {look.look_n} rows on the intervals have "
                "nothing in common; the effect or the stream may be changing"
            )
        critical = point.half_width / error
        verdict = Verdict(
            look=look,
            t=plan.share(look),
            score=plan.sign * estimate / error,
            boundary_z=critical,
            p_value=running_p_value(log_e),
            naive_p_value=_naive_p(look),
            limits=limits,
            log_m_value=point.log_e_value,
            running=(_finite(running.low), _finite(running.high)),
        )
        verdicts.append(replace(verdict, crossed=_reach(verdict, plan) >= critical))
    return _summary(
        verdicts, _deciding(verdicts), plan, information, tuning=g, warnings=tuple(warnings)
    )


def _summary(
    verdicts: Sequence[Verdict],
    final: Verdict | None,
    plan: SequentialPlan,
    information: float,
    *,
    tuning: float | None,
    warnings: tuple[str, ...] = (),
) -> SequentialResult:
    is_at_end = any(v.look.look_n >= plan.planned_n and v.score is not None for v in verdicts)
    stopped = final is not None and final.crossed
    return SequentialResult(
        verdicts=tuple(verdicts),
        final=final,
        stopped=stopped,
        is_finished=stopped or is_at_end,
        planned_information=information,
        tuning=tuning,
        warnings=warnings,
    )


def _deciding(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first look that crossed, else the last that counts."""
    counted = [verdict for verdict in verdicts if verdict.score is not None]
    crossed = (verdict for verdict in counted if verdict.crossed)
    return next(crossed, counted[-1] if counted else None)


def _silent(look: LookStats, plan: SequentialPlan, alpha_spent: float | None = None) -> Verdict:
    return Verdict(look=look, t=plan.share(look), alpha_spent=alpha_spent, reason=look.reason)


def _information(look: LookStats) -> float:
    assert look.information is not None
    return look.information


def _score(look: LookStats, plan: SequentialPlan) -> float:
    """The score in the direction that is looked for; that of a t has the tail of the t."""
    assert look.z is not None
    z = plan.sign * look.z
    return z if look.df is None else normal_equivalent(z, look.df)


def _effective_error(look: LookStats, score: float, plan: SequentialPlan) -> float:
    """The error with which the difference has this score, so that interval and test agree."""
    assert look.diff is not None
    assert look.se is not None
    return plan.sign * look.diff / score if score else look.se


def _naive_p(look: LookStats) -> float | None:
    return None if look.z is None else two_sided_p_value(look.z)


def naive_interval(look: LookStats, alpha: float) -> tuple[float, float]:
    """The interval as if this were the only look."""
    assert look.diff is not None
    assert look.se is not None
    return repeated_interval(look.diff, look.se, critical_value(alpha))


def _oriented(low: float, high: float | None, plan: SequentialPlan) -> Interval:
    if plan.sign > 0:
        return low, high
    return None if high is None else -high, -low


def _closed(limits: Interval) -> tuple[float, float]:
    low, high = limits
    return -math.inf if low is None else low, math.inf if high is None else high


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
