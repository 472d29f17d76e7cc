"""What tries to refute an uplift study: its arms, its comparability, its claim."""

from __future__ import annotations

from functools import partial

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.units.balance import BalanceTable, balance_table
from experiments_dagster.causal.units.doubly_robust import checked_folds, doubly_robust_effect
from experiments_dagster.causal.units.effects import UnitEffect
from experiments_dagster.causal.units.learners import UpliftFit
from experiments_dagster.causal.units.propensity import cross_fitted_propensity, measure_overlap
from experiments_dagster.causal.units.unit_checks import (
    check_arm_sizes,
    check_balance,
    check_calibration,
    check_heterogeneity,
    check_overlap,
    check_placebo_outcomes,
    check_weights,
)
from experiments_dagster.causal.units.weighting import inverse_weights
from experiments_dagster.config.intervention import UpliftDesign
from experiments_dagster.interventions.designs.uplift_evidence import Evidence, treatment_of
from experiments_dagster.interventions.study import Refutations
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.stats.design.sample_ratio import sample_ratio_outcome
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome


def check_sample(units: Units, design: UpliftDesign, refutations: Refutations) -> None:
    """What can be refused before anything is fitted."""
    mask, keys = treatment_of(units), np.asarray(units.names)
    arms = np.where(mask, "treatment", "control")
    fold_of = checked_folds(keys, len(mask), folds=design.folds, seed=design.seed)
    refutations.run("arm_sizes", lambda: check_arm_sizes(arms, fold_of))
    share = design.treated_share
    if share is None:
        refutations.run("overlap", partial(_overlap, units, design))
        return
    counts = {"control": int((~mask).sum()), "treatment": int(mask.sum())}
    refutations.ran.append(
        sample_ratio_outcome(
            counts, {"control": 1 - share, "treatment": share}, at_planned_end=True
        )
    )


def check_comparability(
    units: Units, design: UpliftDesign, fit: UpliftFit, refutations: Refutations
) -> BalanceTable | None:
    """Balance after weighting, and outcomes that the treatment cannot have changed."""
    mask, balance = treatment_of(units), None
    try:
        balance = balance_table(
            units.covariates,
            mask,
            inverse_weights(fit.propensity, mask),
            names=units.covariate_names,
            target="ate",
        )
    except EstimationError as error:
        refutations.skip("balance", str(error))
    else:
        refutations.ran += [check_balance(balance), check_weights(balance)]
    effects = {}
    for name in units.placebo_outcomes:
        try:
            effects[name] = _placebo(units, design, name)
        except EstimationError as error:
            refutations.skip(f"placebo_outcome_{name}", str(error))
    refutations.ran += check_placebo_outcomes(effects)
    if design.treated_share is None and not units.placebo_outcomes:
        reason = "no outcome is named that the treatment cannot have changed"
        refutations.skip("placebo_outcome", reason)
    return balance


def _overlap(units: Units, design: UpliftDesign) -> CheckOutcome:
    keys, mask = np.asarray(units.names), treatment_of(units)
    propensity = cross_fitted_propensity(
        units.covariates, mask, keys, folds=design.folds, seed=design.seed
    )
    return check_overlap(measure_overlap(propensity))


def assignment_stands(refutations: Refutations) -> bool:
    """Whether nothing that was tried speaks against assignment at random."""
    return all(
        check.passed
        for check in refutations.ran
        if check.name in {"sample_ratio", "balance"} or check.name.startswith("placebo_outcome")
    )


def _placebo(units: Units, design: UpliftDesign, name: str) -> UnitEffect:
    return doubly_robust_effect(
        units.placebo_outcomes[name],
        treatment_of(units),
        units.covariates,
        unit_keys=np.asarray(units.names),
        folds=design.folds,
        seed=design.seed,
        alpha=design.alpha,
    ).effect


def check_claim(evidence: Evidence, refutations: Refutations) -> None:
    """Whether differences of the effect are shown, on other splits too, and of the right size."""
    proof = evidence.proof
    refutations.ran.append(check_heterogeneity(proof))
    if len(evidence.p_values) > 1:
        refutations.ran.append(
            judged(
                "other_splits",
                passed=evidence.is_shown,
                severity="ERROR",
                value=evidence.median_p,
                threshold=proof.max_p,
                shown=(
                    f"median p = {evidence.median_p:.3g} over {len(evidence.p_values)} splits into "
                    f"folds, {min(evidence.p_values):.3g} to {max(evidence.p_values):.3g}"
                ),
                against="the finding depends on the split, no segment is named",
            )
        )
    else:
        reason = (
            "other splits leave too few units in a fold"
            if proof.is_proven
            else "nothing is shown on the declared split"
        )
        refutations.skip("other_splits", reason)
    refutations.ran.append(check_calibration(proof))
