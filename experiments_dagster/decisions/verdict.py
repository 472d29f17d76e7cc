"""From the evidence of a look and its plan to one verdict per treatment arm.

A pure function; the clauses are tried in order and the first that holds decides. Numbers and
names follow METHODS section 13.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "SHIP", "DO_NOT_SHIP", "PENDING", "INVALID", "INCOMPLETE", "INCONCLUSIVE", "EXPLORATORY"
]
GuardrailState = Literal["non_inferior", "worse", "open", "not_estimable"]
Success = Literal["desired", "undesired", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailEvidence:
    """What the looks so far say about one guardrail."""

    metric: str
    state: GuardrailState


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything the decision reads about one treatment arm.

    Args:
        missing: What could not be estimated, with the reason; empty when complete.
        failed_checks: Blocking quality checks that failed, with their message.
        is_amended: Whether the plan was amended after results were seen.
        success: Whether a success metric was rejected at this or an earlier look, and which way.
        success_look: The look that crossed first.
        success_metric: The metric that did, where it is not the primary one.
        deteriorated: Metrics whose harm is shown by their safety monitor.
        is_futile: Whether success has become unlikely by the plan's futility bound.
        guardrails: One entry per guardrail.
        is_planned_end: Whether this is the last look of the plan.
        information_fraction: How much of the planned information is there; None if unknown.
        low: Lower limit of the deciding interval, relative, positive = desired direction.
        high: Upper limit likewise.
        minimum_effect: Relative effect that would matter.
        next_look: When the next look is due, for people.
        not_estimable: Why the primary effect could not be estimated at this look; None if it was.
    """

    missing: tuple[str, ...] = ()
    failed_checks: tuple[str, ...] = ()
    is_amended: bool = False
    success: Success = "none"
    success_look: int | None = None
    success_metric: str | None = None
    deteriorated: tuple[str, ...] = ()
    is_futile: bool = False
    guardrails: tuple[GuardrailEvidence, ...] = ()
    is_planned_end: bool = False
    information_fraction: float | None = None
    low: float | None = None
    high: float | None = None
    minimum_effect: float | None = None
    next_look: str | None = None
    not_estimable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One arm's verdict.

    `clause` names the deciding rule, `reason` says it in words, `missing` lists what a PENDING
    verdict waits for, and `is_harmful` is set whenever the metric moved the wrong way, whatever
    clause decided.
    """

    verdict: Verdict
    clause: str
    reason: str
    missing: tuple[str, ...] = ()
    is_harmful: bool = False


def decide(evidence: Evidence) -> Decision:
    """The verdict of one arm: the first clause that holds.

    Examples:
        >>> decide(Evidence(success="desired", success_look=4)).verdict
        'SHIP'
        >>> decide(Evidence(failed_checks=("sample_ratio: 600 to 400",))).clause
        '2 quality'
    """
    for clause in _CLAUSES:
        decision = clause(evidence)
        if decision is not None:
            return Decision(
                verdict=decision.verdict,
                clause=decision.clause,
                reason=decision.reason,
                missing=decision.missing,
                is_harmful=evidence.success == "undesired" or bool(evidence.deteriorated),
            )
    msg = "no clause decided; the last one always does"
    raise AssertionError(msg)


def overall(decisions: Iterable[tuple[str, Decision, float | None]]) -> tuple[str, Decision]:
    """The arm that stands for the experiment, and its decision.

    A SHIP wins, the one with the largest lower limit first; then whatever needs attention most.

    Args:
        decisions: Arm, its decision, and the lower limit of its effect.
    """
    order = ("SHIP", "INVALID", "INCOMPLETE", "EXPLORATORY", "PENDING", "INCONCLUSIVE")
    rank = {verdict: index for index, verdict in enumerate((*order, "DO_NOT_SHIP"))}
    arm, decision, _ = min(
        decisions,
        key=lambda item: (
            rank[item[1].verdict],
            -(item[2] if item[2] is not None else -math.inf),
            item[0],
        ),
    )
    return arm, decision


def _incomplete(evidence: Evidence) -> Decision | None:
    if not evidence.missing:
        return None
    return Decision(
        verdict="INCOMPLETE",
        clause="1 incomplete",
        reason="not estimable: " + "; ".join(evidence.missing),
        missing=evidence.missing,
    )


def _quality(evidence: Evidence) -> Decision | None:
    if not evidence.failed_checks:
        return None
    reason = "; ".join(evidence.failed_checks)
    return Decision(verdict="INVALID", clause="2 quality", reason=reason)


def _amended(evidence: Evidence) -> Decision | None:
    if not evidence.is_amended:
        return None
    reason = "the plan was amended after results were seen"
    return Decision(verdict="EXPLORATORY", clause="3 amended", reason=reason)


def _harm(evidence: Evidence) -> Decision | None:
    if evidence.success == "undesired":
        reason = f"{_metric(evidence)} got worse (crossed at {_when(evidence)})"
    elif evidence.deteriorated:
        reason = f"{', '.join(evidence.deteriorated)} got worse (safety monitor)"
    else:
        return None
    return Decision(verdict="DO_NOT_SHIP", clause="4 harm", reason=reason)


def _success(evidence: Evidence) -> Decision | None:
    if evidence.success != "desired" or _guardrails(evidence, "open", "worse", "not_estimable"):
        return None
    reason = f"{_metric(evidence)} improved (crossed at {_when(evidence)})"
    if evidence.guardrails:
        reason += " and every guardrail is shown to be within its margin"
    return Decision(verdict="SHIP", clause="5 success", reason=reason)


def _guardrail_open(evidence: Evidence) -> Decision | None:
    waiting = _guardrails(evidence, "open", "not_estimable")
    if evidence.success != "desired" or not waiting or _guardrails(evidence, "worse"):
        return None
    names = ", ".join(waiting)
    if evidence.is_planned_end:
        reason = f"{_metric(evidence)} improved, but {names} was not shown to be within its margin"
        return Decision(verdict="DO_NOT_SHIP", clause="6 guardrail open", reason=reason)
    missing = tuple(f"guardrail {name}" for name in waiting)
    reason = f"{_metric(evidence)} improved; waiting for guardrail {names}"
    return Decision(verdict="PENDING", clause="6 guardrail open", reason=reason, missing=missing)


def _regression(evidence: Evidence) -> Decision | None:
    worse = _guardrails(evidence, "worse")
    if not worse:
        return None
    reason = f"guardrail {', '.join(worse)} is worse than its margin"
    return Decision(verdict="DO_NOT_SHIP", clause="7 regression", reason=reason)


def _futile(evidence: Evidence) -> Decision | None:
    if not evidence.is_futile:
        return None
    reason = "success has become unlikely: the futility bound of the plan is crossed"
    return Decision(verdict="DO_NOT_SHIP", clause="8 futility", reason=reason)


def _before_end(evidence: Evidence) -> Decision | None:
    if evidence.is_planned_end:
        return None
    missing = []
    if evidence.information_fraction is not None:
        missing.append(f"{evidence.information_fraction:.0%} of the planned information is there")
    else:
        too_few = "too few units have their whole window observed to fix the plan"
        missing.append(evidence.not_estimable or too_few)
    if evidence.next_look:
        missing.append(f"next look {evidence.next_look}")
    reason = "no boundary crossed before the planned end: " + "; ".join(missing)
    return Decision(
        verdict="PENDING", clause="9 before the end", reason=reason, missing=tuple(missing)
    )


def _planned_end(evidence: Evidence) -> Decision | None:
    effect = evidence.minimum_effect
    if effect is not None and evidence.high is not None and evidence.high < effect:
        reason = f"no effect of {effect:.1%} or more: the interval ends at {evidence.high:.1%}"
        return Decision(verdict="DO_NOT_SHIP", clause="10 no material effect", reason=reason)
    reason = "the planned end is reached and neither an effect nor its absence is shown"
    return Decision(verdict="INCONCLUSIVE", clause="10 inconclusive", reason=reason)


def _metric(evidence: Evidence) -> str:
    return evidence.success_metric or "the primary metric"


def _when(evidence: Evidence) -> str:
    return f"look {evidence.success_look}" if evidence.success_look else "this unplanned look"


def _guardrails(evidence: Evidence, *states: GuardrailState) -> list[str]:
    return [guardrail.metric for guardrail in evidence.guardrails if guardrail.state in states]


_CLAUSES = (
    _incomplete,
    _quality,
    _amended,
    _harm,
    _success,
    _guardrail_open,
    _regression,
    _futile,
    _before_end,
    _planned_end,
)
