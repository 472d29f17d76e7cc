"""Refutations of a donor design as health checks: what fails blocks the claim or weakens it.

ERROR blocks: the effect is not called one. WARN weakens: it is shown with the reason. Treated
donors and post-period values in predictors never get into an estimate (`donor_panel` refuses them);
`check_treated_donors` says so before. The p-value of a donor design is the rank in space; placebos
in time (`donor_time_placebo`) only have to be smaller, as short histories allow few of them.

References:
    Abadie 2021, sections 3.5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.series.donor_placebo import SpacePlacebo
from experiments_dagster.causal.series.donor_sensitivity import FRAGILE_CHANGE, Sensitivity
from experiments_dagster.causal.series.records import FloatArray, PlaceboResult
from experiments_dagster.causal.series.synthetic_control import POOR_FIT_SD, SyntheticControlResult
from experiments_dagster.stats.records import CheckOutcome

# Placebo effects share donors, so the sign test rejects too often: it must be far out to count.
SIGN_P = 0.01


def check_treated_donors(
    treated_at: FloatArray,
    donors: Sequence[int],
    n_steps: int,
    *,
    names: Sequence[str] | None = None,
) -> CheckOutcome:
    """Block donors that are treated while the study runs: they lend their own effect.

    Args:
        treated_at: Step at which each unit is first treated, shape (N,); infinite for never, NaN
            for unknown, which counts as treated.
        donors: Columns.
        n_steps: Length of the study.
        names: Of all units, for the message.
    """
    at = np.asarray(treated_at, dtype=np.float64)[list(donors)]
    is_treated = ~(at >= n_steps)
    n_treated = int(is_treated.sum())
    chosen = [donor for donor, treated in zip(donors, is_treated, strict=True) if treated]
    named = f" ({', '.join(names[donor] for donor in chosen)})" if names and chosen else ""
    return judged(
        "treated_donors",
        passed=n_treated == 0,
        severity="ERROR",
        value=float(n_treated),
        threshold=0.0,
        shown=f"{n_treated} of {len(at)} donors are treated within the {n_steps} steps{named}",
        against="leave them out",
    )


def check_pre_fit(result: SyntheticControlResult) -> CheckOutcome:
    """Warn where the treated unit lies outside its donors' hull."""
    share = result.pre_rmspe / result.pre_sd if result.pre_sd else None
    shown = "no variation before the intervention" if share is None else f"{share:.2f} sd"
    message = f"pre-period error {result.pre_rmspe:.4g}, {shown} of the treated outcome"
    hint = ": no mix of donors matches it; use the augmented control"
    return CheckOutcome(
        name="pre_fit",
        passed=not result.is_poor_fit,
        severity="WARN",
        value=share,
        threshold=POOR_FIT_SD,
        message=message + hint if result.is_poor_fit else message,
    )


def check_placebo_rank(placebo: SpacePlacebo) -> CheckOutcome:
    """Block an effect no larger than what donors show without any treatment.

    The largest of too few units to reach the level weakens the claim only.
    """
    alpha, n = round(1 - placebo.confidence_level, 12), len(placebo.ratios)
    passed, is_first = placebo.p_value < alpha, not (placebo.ratios >= placebo.ratio).any()
    few = f"it ranks first, but {n} donors allow no p below {1 / (1 + n):.3g}"
    return judged(
        "placebo_in_space",
        passed=passed,
        severity="WARN" if is_first and not passed else "ERROR",
        value=placebo.p_value,
        threshold=alpha,
        shown=f"post/pre error ratio {placebo.ratio:.3g}, {n} placebos, p = {placebo.p_value:.3g}",
        against=few if is_first else "untreated donors show as much",
    )


def check_placebo_lean(placebo: SpacePlacebo) -> CheckOutcome:
    """Block where all placebo effects lean one way, warn where most do."""
    n_positive = int((placebo.average_effects > 0).sum())
    passed = not placebo.is_one_sided and placebo.sign_p_value >= SIGN_P
    return CheckOutcome(
        name="placebo_lean",
        passed=passed,
        severity="ERROR" if placebo.is_one_sided else "WARN",
        value=placebo.sign_p_value,
        threshold=SIGN_P,
        message=(
            f"{n_positive} of {len(placebo.average_effects)} placebo effects are positive"
            + ("" if passed else ": the method is biased on these series")
        ),
    )


def check_placebo_in_time(placebo: PlaceboResult, *, alpha: float = 0.05) -> CheckOutcome:
    """Block or warn where starts that never happened show effects as large.

    Args:
        placebo: From `donor_placebo_in_time`.
        alpha: Level of the rank. Where too few placebos allow no p below it, the effect passes as
            the largest, and one that is not only weakens the claim.
    """
    n = len(placebo.effects)
    n_as_large = int((np.abs(placebo.effects) >= abs(placebo.effect)).sum())
    is_attainable = 1 / (1 + n) < alpha
    few = "" if is_attainable else f" ({n} placebos allow no p below {alpha:g})"
    return judged(
        "placebo_in_time",
        passed=placebo.p_value < alpha or n_as_large == 0,
        severity="ERROR" if is_attainable else "WARN",
        value=placebo.p_value,
        threshold=alpha if is_attainable else 1 / (1 + n),
        shown=(
            f"effect {placebo.effect:.4g}, {n_as_large} of {n} moved starts show as much, "
            f"p = {placebo.p_value:.3g}{few}"
        ),
        against="the method finds it where nothing happened",
    )


def check_sensitivity(result: Sensitivity) -> CheckOutcome:
    """Warn where one refit changes the sign or half the effect, or the effect was there before."""
    low, high = float(result.effects.min()), float(result.effects.max())
    what = result.kind.replace("_", " ")
    message = f"effect {result.full_effect:.4g}, without {what} {low:.4g} to {high:.4g}"
    return CheckOutcome(
        name=f"leave_out_{result.kind}",
        passed=not (result.is_fragile or result.is_early),
        severity="WARN",
        value=result.largest_change,
        threshold=FRAGILE_CHANGE,
        message=message
        + (": it hangs on it" if result.is_fragile else "")
        + (": it began before the intervention" if result.is_early else ""),
    )
