"""Whether the programs estimate the same: a fast wrong answer is worth nothing."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.clock import Estimates

# Sums of a million terms in another order, and moments about zero instead of about the mean,
# differ by far less than this; another window or another population by far more.
TOLERANCE = 1e-6


def disagreements(found: Mapping[str, Estimates], users: int) -> dict[str, str]:
    """Compare all with the one that most others agree with.

    Args:
        found: Case -> its estimates, of one scenario and one data set; empty ones are left out.
        users: Of the data set, in all three arms.

    Returns:
        Case -> the first thing in which it differs.
    """
    named = {case: estimates for case, estimates in found.items() if estimates}
    compared = [differing(named, case, users) for case in named]
    return min(compared, key=len, default={})


def differing(found: Mapping[str, Estimates], reference: str, users: int) -> dict[str, str]:
    """The cases that differ from one of them, and in what."""
    texts = {
        case: difference(estimates, found[reference], users) for case, estimates in found.items()
    }
    return {case: f"{text} of {reference}" for case, text in texts.items() if text}


def difference(estimates: Estimates, reference: Estimates, users: int) -> str | None:
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
        shift = abs(one["difference"] - other["difference"]) / other["std_error"]
        scale = abs(one["std_error"] / other["std_error"] - 1)
        if not max(shift, scale) <= TOLERANCE + proportion:
            return f"{key} differs by {shift:.1e} standard errors, they by {scale:.1e}, from that"
    return None
