"""Why a number could not be estimated.

    EstimationError(code)      one quantity cannot be computed from these data
      codes: see `REASONS`     each is stable and stands in results as `reason`

The asset layer catches `EstimationError` only, per metric, and writes `not_estimable`.
Anything else is a bug and fails the run.
"""

from __future__ import annotations

REASONS = {
    "EMPTY_ARM": "an arm has no units",
    "N_TOO_SMALL": "too few units",
    "ZERO_VARIANCE": "the variance is zero",
    "ZERO_DENOMINATOR": "a denominator sums to zero",
    "NON_FINITE_INPUT": "a value is NaN or infinite",
    "NO_OVERLAP": "the groups do not overlap",
    "SINGULAR_DESIGN": "the design matrix is singular",
    "NOT_IDENTIFIED": "the data do not identify the quantity",
    "OUTSIDE_PLAN": "the plan does not allow this look",
    "IMMATURE": "no unit has its whole window observed",
}


class EstimationError(ValueError):
    """A quantity that these data cannot give.

    Args:
        code: One of `REASONS`; stable, stored with the result.
        subject: What was to be estimated, such as a metric or an arm. Never a unit id.
        detail: The values that broke the rule, and a hint.

    Examples:
        >>> str(EstimationError("N_TOO_SMALL", "arm treatment", "1 unit, need 2"))
        'arm treatment: too few units (1 unit, need 2) [N_TOO_SMALL]'
    """

    def __init__(self, code: str, subject: str, detail: str = "") -> None:
        if code not in REASONS:
            msg = f"unknown reason {code!r}; known: {', '.join(REASONS)}"
            raise KeyError(msg)
        self.code = code
        self.subject = subject
        self.detail = detail
        middle = f" ({detail})" if detail else ""
        super().__init__(f"{subject}: {REASONS[code]}{middle} [{code}]")
