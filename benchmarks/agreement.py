"""Whether the programs estimate the same: a fast wrong answer is worth nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.clock import Estimates


@dataclass(frozen=True)
class Tolerance:
    """How far estimates may be apart: in the larger standard error, and these by a share."""

    shift: float
    scale: float


# Sums of a million terms in another order, and moments about zero instead of about the mean,
# differ by far less than this; another window or another population by far more.
SAME_FORMULA = Tolerance(1e-6, 1e-6)
TOLERANCES = {
    # Three models of one series, which state different uncertainties: the effect can be compared.
    "impact": Tolerance(0.5, math.inf),
    # The best weights against the mean of a posterior of weights, in errors of the pre-period fit.
    "synthetic control": Tolerance(0.5, math.inf),
    # A state amid the others has several best mixes, and pysyncon stops at 1e-6 of its loss: both
    # move effect and spread of the 38 placebo effects by less than a hundredth of that spread.
    "placebos": Tolerance(0.02, 0.02),
}


def tolerance_of(scenario: str) -> Tolerance:
    """That of programs which compute the same formula, unless the scenario has its own."""
    return TOLERANCES.get(scenario, SAME_FORMULA)


def disagreements(
    found: Mapping[str, Estimates], users: int, tolerance: Tolerance = SAME_FORMULA
) -> dict[str, str]:
    """Compare all with the one that most others agree with.

    Args:
        found: Case -> its estimates, of one scenario and one data set; empty ones are left out.
        users: Of the data set, in all three arms.
        tolerance: Of the scenario.

    Returns:
        Case -> the first thing in which it differs.
    """
    named = {case: estimates for case, estimates in found.items() if estimates}
    compared = [differing(named, case, users, tolerance) for case in named]
    return min(compared, key=len, default={})


def differing(
    found: Mapping[str, Estimates], reference: str, users: int, tolerance: Tolerance
) -> dict[str, str]:
    """The cases that differ from one of them, and in what."""
    texts = {
        case: difference(estimates, found[reference], users, tolerance)
        for case, estimates in found.items()
    }
    return {case: f"{text} of {reference}" for case, text in texts.items() if text}


def difference(
    estimates: Estimates, reference: Estimates, users: int, tolerance: Tolerance
) -> str | None:
    """The first estimate that differs, in words.

    Differences are compared in standard errors, since they may be close to zero. Some peers take
    p (1 - p) without n / (n - 1) as the variance of a proportion: that is 1 / (2 n) of a standard
    error, with n a third of the users or somewhat less.
    """
    shared = estimates.keys() & reference.keys()
    if not shared:
        return "has no estimate in common with that"
    for key in sorted(shared):
        one, other = estimates[key], reference[key]
        if not (one["std_error"] > 0 and other["std_error"] > 0):
            return f"{key} has no standard error here or in that"
        proportion = 2.0 / users if key.endswith("/conversion") else 0.0
        larger = max(one["std_error"], other["std_error"])
        shift = abs(one["difference"] - other["difference"]) / larger
        scale = abs(one["std_error"] / other["std_error"] - 1)
        is_near = shift <= tolerance.shift + proportion
        if not (is_near and scale <= tolerance.scale + proportion):
            return f"{key} differs by {shift:.1e} standard errors, they by {scale:.1e}, from that"
    return None
