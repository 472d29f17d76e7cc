"""Who responds: effects per unit, judged on units that no model saw (METHODS 11.10, 11.11).

The claim is that effects differ between units as predicted: the slope of the observed on the
predicted effect, each fold predicted by the folds before it, is above 0. It is refused where the
test of heterogeneity does not show that, on the declared split or on the median of others. Then no
segment, no profile and no targeting table exists.

What does not belong here: the claim's numbers (`uplift_evidence`), the others (`uplift_findings`)
and how they are shown (`uplift_tables`, `uplift_pictures`).

References:
    Chernozhukov, Demirer, Duflo & Fernández-Val 2018; Wager 2024; Kennedy 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments_dagster.causal.series.records import EffectInterval
from experiments_dagster.causal.units.balance import BalanceTable
from experiments_dagster.causal.units.boosted import HELD_OUT, LEAVES, MOST_TREES
from experiments_dagster.causal.units.learners import UpliftFit
from experiments_dagster.config.intervention import UpliftDesign
from experiments_dagster.interventions.designs import uplift_tables as tables_of
from experiments_dagster.interventions.designs.uplift_checks import (
    assignment_stands,
    check_claim,
    check_comparability,
    check_sample,
)
from experiments_dagster.interventions.designs.uplift_evidence import (
    SequentialEstimate,
    evidence_words,
    fit_unseen,
    gather_evidence,
    treatment_of,
    varying_covariates,
)
from experiments_dagster.interventions.designs.uplift_findings import (
    REPLICATES,
    RankingCurve,
    UpliftFindings,
    find,
)
from experiments_dagster.interventions.designs.uplift_pictures import pictures_of
from experiments_dagster.interventions.study import (
    Picture,
    Refutations,
    Study,
    StudyEstimate,
    StudyTable,
)
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.reporting import numbers
from experiments_dagster.stats.errors import EstimationError

LEARNERS = {"s": "S", "t": "T", "x": "X", "r": "R", "dr": "DR"}
BASES = {"linear": "linear", "ridge": "ridge", "boosted": "boosted trees"}
BASE_FACTS = {
    "linear": "least squares for outcomes and effect",
    "ridge": "ridge regression for outcomes and effect, penalty by generalised cross-validation",
    "boosted": (
        f"gradient boosted trees of at most {LEAVES} leaves for outcomes and effect, log loss for "
        f"outcomes of 0 and 1, at most {MOST_TREES} trees, their number by the loss on one row in "
        f"{HELD_OUT} held out"
    ),
}
SLOPE = "slope of observed on predicted effect"
ESTIMAND = (
    "slope of the treatment's effect on {outcome} on the predicted effect, among units of one "
    "fold, predicted by a model of the folds before it: 1 where predicted differences are right, "
    "0 where they are chance"
)


def uplift_study(units: Units, design: UpliftDesign) -> Study:
    """Who responds, and whether that is more than chance.

    Args:
        units: With treatment and covariates known before it.
        design: Learner, known probability of treatment if it was randomised, share to treat.

    Raises:
        ModuleNotFoundError: Boosted trees without their extra.
        ValueError: The units do not say who was treated.
    """
    refutations = Refutations()
    tables: list[StudyTable] = []
    try:
        sample = varying_covariates(units)
        check_sample(sample, design, refutations)
        fit = fit_unseen(sample, design)
        balance = check_comparability(sample, design, fit, refutations)
        tables += _sample_tables(sample, design, fit, balance)
        evidence = gather_evidence(sample, design, fit)
        found = find(sample, design, fit, evidence, balance)
    except EstimationError as error:
        return _study(units, design, refutations, tables=tables, error=error)
    check_claim(evidence, refutations)
    return _study(
        units,
        design,
        refutations,
        estimates=_estimates(found, design),
        tables=[*_result_tables(sample, found), *tables],
        pictures=pictures_of(sample, found),
        warnings=_warnings(design, found),
    )


def _study(
    units: Units,
    design: UpliftDesign,
    refutations: Refutations,
    *,
    tables: Sequence[StudyTable],
    estimates: Sequence[StudyEstimate] = (),
    pictures: Sequence[Picture] = (),
    warnings: Sequence[str] = (),
    error: EstimationError | None = None,
) -> Study:
    return Study(
        design=design.kind,
        method=f"{_learner(design, '-learner')}, cross-fitted in {design.folds} folds",
        estimand=ESTIMAND.format(outcome=units.outcome_name),
        facts=_facts(units, design),
        assumptions=_assumptions(design),
        is_randomised=design.treated_share is not None and assignment_stands(refutations),
        estimates=tuple(estimates),
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=tuple(tables),
        pictures=tuple(pictures),
        warnings=(*_constant(units), *warnings),
        reason=None if error is None else error.code,
        reason_detail=None if error is None else str(error),
    )


def _learner(design: UpliftDesign, suffix: str = "") -> str:
    return f"{LEARNERS[design.learner]}{suffix}, {BASES[design.base]}"


def _estimates(found: UpliftFindings, design: UpliftDesign) -> list[StudyEstimate]:
    """The claim first, then the average, the curves and what treating the top share gains."""
    level, average = found.fit.confidence_level, found.fit.average
    estimates = [
        _sequential(
            SLOPE,
            "best linear predictor in folds predicted by earlier ones, HC3, weights 1/SE",
            found.slope,
            level,
            unit="per unit of predicted effect",
        ),
        StudyEstimate(
            name="average effect",
            method="AIPW, cross-fitted, influence function",
            estimate=average.estimate,
            std_error=average.std_error,
            ci_low=average.ci_low,
            ci_high=average.ci_high,
            confidence_level=level,
            p_value=average.p_value,
        ),
    ]
    for item in found.curves:
        estimates += _curve_estimates(item, level)
    if found.gain_area is not None:
        method = "area between gains by share and a random order, doubly robust scores"
        estimates.append(_estimate("gain area above random", method, found.gain_area, level))
    if found.top is None:
        return estimates
    top = f"top {numbers.share(design.top_share)} of every fold, doubly robust scores"
    policy = found.policies[0]
    return [
        *estimates,
        _sequential(
            "effect of the top share above the average",
            f"{top}, ranked by earlier folds",
            found.top,
            level,
        ),
        _estimate("effect among the top share", top, policy.effect_targeted, level),
        _estimate("gain over treating nobody", top, policy.gain, level),
        _estimate("gain over the same share at random", top, policy.gain_over_random, level),
        _estimate("gain over treating everybody", top, policy.gain_over_everybody, level),
    ]


def _curve_estimates(item: RankingCurve, level: float) -> list[StudyEstimate]:
    """Area and normalised area of one curve."""
    curve, limits = item.curve, item.interval
    name = {"qini": "Qini", "uplift": "AUUC"}[curve.kind]
    how = f"{REPLICATES} resamples of units"
    estimates = [
        StudyEstimate(
            name=f"{name} area above random",
            method=f"{curve.definition}, area over n²; {how}",
            estimate=curve.area_minus_random_per_n2,
            ci_low=None if limits is None else limits.area_low,
            ci_high=None if limits is None else limits.area_high,
            confidence_level=level,
            reason=item.reason,
        )
    ]
    if curve.normalised_area is not None:
        estimates.append(
            StudyEstimate(
                name=f"{name} normalised",
                method=f"{curve.definition}, {curve.normalisation}; {how}",
                estimate=curve.normalised_area,
                ci_low=None if limits is None else limits.normalised_low,
                ci_high=None if limits is None else limits.normalised_high,
                confidence_level=level,
                unit="share of the perfect ranking",
                reason=item.reason,
            )
        )
    return estimates


def _sequential(
    name: str, method: str, found: SequentialEstimate, level: float, *, unit: str | None = None
) -> StudyEstimate:
    return replace(_estimate(name, method, found.interval, level), p_value=found.p_value, unit=unit)


def _estimate(name: str, method: str, found: EffectInterval, level: float) -> StudyEstimate:
    return StudyEstimate(
        name=name,
        method=method,
        estimate=found.estimate,
        std_error=found.std_error,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        confidence_level=level,
    )


def _result_tables(units: Units, found: UpliftFindings) -> list[StudyTable]:
    evidence = found.evidence
    tables = [tables_of.proof_table(evidence), tables_of.group_table(evidence.proof)]
    if found.benchmark is not None:
        tables.append(tables_of.benchmark_table(evidence.proof, found.benchmark))
    if evidence.is_shown:
        tables += tables_of.shown_tables(units, found)
    if found.curves:
        tables.append(tables_of.curve_table(found.curves))
    if found.gains:
        tables.append(tables_of.gain_table(found.gains))
    importance = tables_of.importance_table(found.importance)
    return [*tables, importance, tables_of.individual_table(found.fit)]


def _sample_tables(
    units: Units, design: UpliftDesign, fit: UpliftFit, balance: BalanceTable | None
) -> list[StudyTable]:
    is_randomised = design.treated_share is not None
    tables = [tables_of.average_table(units, fit, is_randomised=is_randomised)]
    if balance is not None:
        tables.append(tables_of.balance_rows(balance))
    return [*tables, tables_of.arm_table(units, fit)]


def _facts(units: Units, design: UpliftDesign) -> tuple[tuple[str, str], ...]:
    mask = treatment_of(units)
    share = design.treated_share
    return (
        ("outcome", units.outcome_name),
        ("units", f"{len(mask):,}"),
        ("treated", f"{int(mask.sum()):,}"),
        ("not treated", f"{int((~mask).sum()):,}"),
        ("covariates", ", ".join(units.covariate_names)),
        ("learner", _learner(design)),
        ("base", BASE_FACTS[design.base]),
        ("folds", f"{design.folds}, by the hash of the unit, seed {design.seed}"),
        (
            "probability of treatment",
            "estimated by logistic regression" if share is None else f"known, {share:g}",
        ),
        ("share to treat", numbers.share(design.top_share)),
    )


def _assumptions(design: UpliftDesign) -> tuple[str, ...]:
    share = design.treated_share
    assignment = (
        "given the covariates treatment is as good as random: nothing unmeasured changes both who "
        "is treated and the outcome"
        if share is None
        else f"treatment was assigned at random, with probability {share:g} for every unit"
    )
    return (
        assignment,
        "the covariates were known before the treatment and are not changed by it",
        "a unit's outcome does not depend on who else is treated",
        "units that are treated later respond as these did",
    )


def _constant(units: Units) -> list[str]:
    """A warning where covariates are the same for all units."""
    is_same = np.ptp(units.covariates, axis=0) == 0
    names = [name for name, same in zip(units.covariate_names, is_same, strict=True) if same]
    return [f"left out, the same for all units: {', '.join(names)}"] if names else []


def _warnings(design: UpliftDesign, found: UpliftFindings) -> list[str]:
    evidence = found.evidence
    warnings = []
    if design.base != "boosted":
        warnings.append(
            "the model is linear: effects that do not change linearly with the covariates are "
            "missed"
        )
    if design.treated_share is None:
        warnings.append(
            "Qini and uplift curves compare raw outcomes and need a randomised treatment with a "
            "known probability; the gains by share use doubly robust scores instead"
        )
    if not evidence.is_shown:
        warnings.append(
            f"{evidence.finding} ({evidence_words(evidence)}): no segment is named and nobody is "
            "singled out for treatment"
        )
    elif found.slope.interval.ci_low <= 0:
        warnings.append(
            f"differences are shown at {evidence.proof.max_p:.0%} one-sided only, the interval of "
            "the slope includes 0: segments are for a further test, not for targeting"
        )
    if found.top is not None and found.top.interval.ci_low <= 0:
        warnings.append(
            f"predicted effects differ, but the top {numbers.share(design.top_share)} are not "
            "shown to respond more than the average"
        )
    return warnings
