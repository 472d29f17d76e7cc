"""Outcomes of refutations: passed, weakening the claim (WARN) or blocking it (ERROR).

A refutation that cannot be judged raises EstimationError, as its estimate does: what was never
tried has refuted nothing. Where a refutation is a test, its level is that of the claim, and at
least 5 %: a claim made at 0.1 % must not be easier to defend than one made at 5 %.
"""

from __future__ import annotations

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome, Severity

LEAST_LEVEL = 0.05


def refutation_level(confidence_level: float) -> float:
    """Level at which a claim of this confidence is tried: its own, at least 5 %.

    Examples:
        >>> refutation_level(0.999), refutation_level(0.9)
        (0.05, 0.1)
    """
    return max(LEAST_LEVEL, round(1 - confidence_level, 12))


def known_p_value(name: str, p_value: float | None) -> float:
    """The p-value that a refutation is judged by.

    Raises:
        EstimationError: NOT_IDENTIFIED without one.
    """
    if p_value is None:
        raise EstimationError("NOT_IDENTIFIED", name, "no p-value to judge it by")
    return p_value


def judged(
    name: str,
    *,
    passed: bool,
    severity: Severity,
    value: float | None,
    threshold: float | None,
    shown: str,
    against: str,
) -> CheckOutcome:
    """Return the outcome whose message is what was found and, if failed, what speaks against it.

    Args:
        name: Of the check.
        passed: Whether the claim stands it.
        severity: What a failure does.
        value: The number that was judged, if there is one.
        threshold: What it was compared with.
        shown: What was found, in either case.
        against: What follows where it failed.

    Examples:
        >>> judged("fit", passed=False, severity="WARN", value=2.0, threshold=1.0,
        ...        shown="error 2", against="too large").message
        'error 2: too large'
    """
    return CheckOutcome(
        name=name,
        passed=passed,
        severity=severity,
        value=value,
        threshold=threshold,
        message=shown if passed else f"{shown}: {against}",
    )
