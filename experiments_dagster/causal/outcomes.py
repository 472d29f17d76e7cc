"""Outcomes of refutations: passed, weakening the claim (WARN) or blocking it (ERROR).

A refutation that cannot be judged raises EstimationError, as its estimate does: what was never
tried has refuted nothing.
"""

from __future__ import annotations

from experiments_dagster.stats.records import CheckOutcome, Severity


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
