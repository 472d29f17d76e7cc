"""The sample-ratio test beside a comparison of units in a file: numbers, a line, a warning.

A file does not say which shares were configured, so equal ones are assumed unless `--shares` says
otherwise, and that is said. A wrong split warns and stops nothing: here people explore.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments_dagster.cli.user_level.rows import sample_ratio

MANY_ARMS = 8  # a line with more counts is not read
VERDICTS = {"ok": "", "warn": "; the split is off", "block": "; the split is wrong"}


def check_sample_ratio(
    counts: Mapping[str, int], shares: Mapping[str, float] | None
) -> tuple[dict[str, Any], list[str]]:
    """Test the units per arm against the configured shares, by METHODS 5.1 at a planned end.

    Args:
        counts: Distinct randomised units per arm.
        shares: Configured share per arm, adding up to 1; equal ones where there are none.

    Returns:
        `counts, shares, shares_given, chi2, df, p_value, verdict` (ok, warn, block, or
        not_estimable with a `reason`), and a sentence where the split is off.

    Raises:
        ValueError: The shares are those of other arms.
    """
    if not any(counts.values()):
        result: dict[str, Any] = {
            "counts": dict(counts),
            "shares": None if shares is None else dict(shares),
            "shares_given": shares is not None,
            **dict.fromkeys(("chi2", "df", "p_value")),
            "verdict": "not_estimable",
            "reason": "EMPTY_ARM",
        }
        return result, []
    result, warning = sample_ratio(counts, shares)
    if warning is not None and len(counts) > MANY_ARMS:
        warning = sample_ratio_line(result)
    return result, [warning] if warning else []


def sample_ratio_line(result: Mapping[str, Any]) -> str:
    """The result of `check_sample_ratio` on one line."""
    if result["p_value"] is None:
        return f"sample ratio: not estimable ({result['reason']})"
    counts: Mapping[str, int] = result["counts"]
    listed = ", ".join(f"{arm} {n:,}" for arm, n in counts.items())
    if len(counts) > MANY_ARMS:
        listed = f"{sum(counts.values()):,} units in {len(counts)} arms"
    against = "the given" if result["shares_given"] else "equal"
    return (
        f"sample ratio against {against} shares: {listed}; chi-square p = "
        f"{result['p_value']:.3g}{VERDICTS[result['verdict']]}"
    )
