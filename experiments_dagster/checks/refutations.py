"""Refutations of a study as asset checks: one check per refutation, by its name.

A study runs the refutations of its design; the others stay without a result. Several of a kind,
such as the placebo outcomes, are one check that passes where all of them do.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from experiments_dagster.automation.partitions import INTERVENTIONS
from experiments_dagster.checks.specs import check_spec
from experiments_dagster.interventions.study import Study
from experiments_dagster.reporting.study_sections import called
from experiments_dagster.stats.records import CheckOutcome

SERIES = {
    "placebo_in_time": "No difference of this size at dates where nothing happened.",
    "bias_alarm": "Placebo effects do not all lean one way.",
    "pre_fit": "The counterfactual follows the outcome before.",
    "leave_one_covariate_out": "The difference does not hang on one covariate.",
    "drop_last_pre": "The difference does not hang on the last periods before.",
    "covariate_breaks": "No covariate changes at the intervention itself.",
    "calibrated_prior": "The difference does not hang on the published prior.",
    "post_length": "The forecast is shorter than the history behind it.",
    "post_period_leak": "What came after does not change the counterfactual.",
}
OTHERS = {
    "placebo_in_time": SERIES["placebo_in_time"],
    "bias_alarm": SERIES["bias_alarm"],
    "pre_fit": SERIES["pre_fit"],
    "treated_donors": "No donor is treated itself.",
    "post_period_leak": "No predictor reads what the intervention can change.",
    "placebo_in_space": "Untreated units in its place show less.",
    "placebo_lean": "Placebo effects of untreated units centre on 0.",
    "leave_out_donor": "The difference does not hang on one donor.",
    "leave_out_predictor": "The difference does not hang on one predictor.",
    "leave_out_last_pre_steps": "The difference does not hang on the last periods before.",
    "leave_one_covariate_out": SERIES["leave_one_covariate_out"],
    "pre_trend": "Treated and others moved alike before.",
    "relative_magnitude": "The difference survives a trend as bad as the worst one before.",
    "placebo_period": "No difference at a start that never was.",
    "cluster_count": "There are enough clusters for the interval to hold.",
    "overlap": "Treated and untreated units are comparable.",
    "balance": "After adjustment both groups agree in what was known before.",
    "weights": "The estimate does not rest on a few units.",
    "arm_sizes": "Every fit sees enough units of both groups.",
    "placebo_outcome": "What the treatment cannot have changed does not differ.",
    "hidden_bias": "A small hidden bias does not explain the difference away.",
    "e_value": "A weak unseen cause does not explain the difference away.",
    "estimators_agree": "Estimators that rest on different models agree.",
    "density": "Units did not choose their side of the cutoff.",
    "covariate_jumps": "What was fixed before does not jump at the cutoff.",
    "placebo_cutoffs": "No jump where no rule starts.",
    "bandwidths": "The jump does not hang on the bandwidth.",
    "donut": "The jump does not hang on the units nearest the cutoff.",
    "mass_points": "The running variable takes enough values.",
    "polynomial_order": "The jump does not hang on the order of the polynomial.",
    "window": "The jump does not hang on how far from the cutoff cells are read.",
    "effective_rows": "Enough units on both sides of the cutoff.",
    "first_stage": "The rule moves who is treated.",
    "sample_ratio": "The arms are as large as the known probability of treatment says.",
    "heterogeneity": "Units respond differently, shown on units no fit has seen.",
    "other_splits": "Other splits into folds show the same heterogeneity.",
    "calibration": "Predicted and observed effects agree.",
}


def refutation_specs(asset: list[str], names: dict[str, str]) -> list[dg.AssetCheckSpec]:
    """Check specifications; none stops what is downstream, a failed one blocks the claim."""
    return [
        check_spec(name, asset, INTERVENTIONS, description, blocking=False)
        for name, description in names.items()
    ]


def refutation_results(
    asset: list[str], names: dict[str, str], study: Study
) -> Iterator[dg.AssetCheckResult]:
    """One result per kind of refutation that ran; one that could not run weakens the claim.

    Raises:
        KeyError: A refutation has no check: the list above lacks it.
    """
    by_kind: dict[str, list[CheckOutcome]] = {}
    for outcome in study.refutations:
        by_kind.setdefault(_kind(outcome.name, names), []).append(outcome)
    for kind, outcomes in by_kind.items():
        failed = [outcome for outcome in outcomes if not outcome.passed]
        blocks = any(outcome.severity == "ERROR" for outcome in failed or outcomes)
        yield dg.AssetCheckResult(
            asset_key=dg.AssetKey(asset),
            check_name=kind,
            passed=not failed,
            severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
            description=called(
                "; ".join(outcome.message for outcome in failed or outcomes), study.claim
            ),
            metadata={
                f"{outcome.name} {what}": float(number)
                for outcome in outcomes
                for what, number in (("value", outcome.value), ("threshold", outcome.threshold))
                if number is not None
            },
        )


def _kind(name: str, names: dict[str, str]) -> str:
    """The check that a refutation belongs to: its own, or the one its name begins with."""
    if name in names:
        return name
    for kind in names:
        if name.startswith(f"{kind}_"):
            return kind
    msg = f"refutation {name!r} has no asset check"
    raise KeyError(msg)
