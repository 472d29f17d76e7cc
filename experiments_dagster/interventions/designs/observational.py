"""Observational: treated against untreated units that are alike in what was known before.

    decides    AIPW with linear outcome models and logistic propensity, cross-fitted by unit hash
    beside     the same models fitted to all units, Hajek weights, matched pairs (plain, and with
               regression on what matching left), and the plain difference of means

Without overlap there is no study: the refused propensities are shown with what trimming would
leave. What each estimator assumes and computes stands in `causal.units`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from experiments_dagster.causal.outcomes import judged, refutation_level
from experiments_dagster.causal.series.series_checks import check_leave_one_covariate_out
from experiments_dagster.causal.series.series_sensitivity import Refit, SeriesSensitivity
from experiments_dagster.causal.units.effects import UnitEffect
from experiments_dagster.causal.units.matching import (
    MatchedEffect,
)
from experiments_dagster.causal.units.propensity import (
    TRIM_BOUNDS,
    Propensity,
    fit_propensity,
    inside_bounds,
    measure_overlap,
)
from experiments_dagster.causal.units.sensitivity import (
    EValue,
    RosenbaumBounds,
    e_value_of_difference,
    rosenbaum_mcnemar,
    rosenbaum_signed_rank,
)
from experiments_dagster.causal.units.unit_checks import (
    check_balance,
    check_e_value,
    check_hidden_bias,
    check_overlap,
    check_placebo_outcomes,
    check_weights,
)
from experiments_dagster.config.intervention import ObservationalDesign
from experiments_dagster.interventions.designs.observational_estimates import (
    Found,
    Sample,
    covariate_of,
    estimate_all,
    sample_of,
)
from experiments_dagster.interventions.designs.observational_tables import (
    balance_rows,
    groups_before,
    left_out_rows,
    numbers_of,
    overlap_picture,
    pictures_of,
    propensity_rows,
    sensitivity_rows,
    weight_rows,
)
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
    StudyEstimate,
    StudyTable,
    Value,
    table_of,
)
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.reporting.numbers import count, number, plural, share
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import critical_value
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import CheckOutcome

METHOD = "doubly robust comparison (AIPW) of units that were not randomised"
ESTIMANDS = {
    "treated": "average effect on {} among the treated units (ATT)",
    "all": "average effect on {} among all units (ATE)",
}
NO_PLACEBO = (
    "no outcome was named that the treatment cannot have changed, such as the same outcome before"
)


def observational_study(units: Units, design: ObservationalDesign) -> Study:
    """Compare treated with untreated units, and try to refute the comparison.

    Args:
        units: With `treated` and covariates that were fixed before the treatment.
        design: Whose effect it is, and the settings.

    Raises:
        ValueError: Nobody's treatment is recorded.

    References:
        Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018; Rosenbaum 2002; VanderWeele &
        Ding 2017; METHODS 11.8, 11.9, 11.12.
    """
    sample, n_units = sample_of(units, design), len(units.outcome)
    refutations = Refutations()
    propensity: Propensity | None = None
    try:
        if not sample.names:
            detail = "no covariate varies, so there is nothing to adjust for"
            raise EstimationError("NOT_IDENTIFIED", "observational study", detail)  # noqa: TRY301
        propensity = fit_propensity(sample.x, sample.is_treated)
        if design.trim:
            units = units.keep(inside_bounds(propensity))
            sample = sample_of(units, design)
            propensity = fit_propensity(sample.x, sample.is_treated)
        refutations.ran.append(check_overlap(measure_overlap(propensity)))
        found = estimate_all(sample, propensity)
    except EstimationError as error:
        return _refused(units, sample, refutations, propensity, error)
    e_value = _e_value(sample, found)
    bounds = None if found.pairs is None else _hidden_bias(sample, found, found.pairs[1])
    left_out = _leave_one_out(sample, found)
    placebos = _refute(units, sample, found, refutations, (e_value, bounds, left_out))
    return Study(
        design=design.kind,
        method=METHOD,
        estimand=_estimand(units, design),
        facts=(*_facts(sample), *_trimming(n_units, sample), *_found_facts(sample, found)),
        assumptions=_assumptions(sample),
        estimates=_estimates(sample, found),
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=(
            balance_rows(sample, found),
            propensity_rows(sample, found.propensity),
            weight_rows(sample, found),
            *placebos,
            left_out_rows(left_out),
            *sensitivity_rows(e_value, bounds),
        ),
        pictures=pictures_of(sample, found),
        warnings=(*_dropped(sample), *_matching_warnings(found)),
    )


def _refute(
    units: Units,
    sample: Sample,
    found: Found,
    refutations: Refutations,
    sensitivity: tuple[EValue, RosenbaumBounds | None, SeriesSensitivity],
) -> tuple[StudyTable, ...]:
    """Run what follows the estimates; returns the table of placebo outcomes, if any."""
    e_value, bounds, left_out = sensitivity
    refutations.run("balance", lambda: check_balance(found.balance))
    refutations.run("weights", lambda: check_weights(found.weighted))
    refutations.run("estimators_agree", lambda: _check_agreement(sample, found))
    effects = _placebo_effects(units, sample, refutations)
    refutations.run("leave_one_covariate_out", lambda: _check_left_out(left_out))
    refutations.run("e_value", lambda: check_e_value(e_value))
    if bounds is None:
        refutations.skip("hidden_bias", f"no matched pairs: {found.no_pairs or 'all are tied'}")
    else:
        refutations.run("hidden_bias", lambda: check_hidden_bias(bounds))
    if not effects:
        return ()
    rows: list[dict[str, Value]] = [
        {"outcome": name, **numbers_of(effect)} for name, effect in effects.items()
    ]
    return (
        table_of(
            "placebo_outcomes",
            "Placebo outcomes: the same comparison where nothing can respond",
            rows,
        ),
    )


def _placebo_effects(
    units: Units, sample: Sample, refutations: Refutations
) -> dict[str, UnitEffect]:
    effects = {}
    if not units.placebo_outcomes:
        refutations.skip("placebo_outcome", NO_PLACEBO)
    for name, values in units.placebo_outcomes.items():
        try:
            effects[name] = sample.doubly_robust(values, sample.x).effect
        except EstimationError as error:
            refutations.skip(f"placebo_outcome_{name}", str(error))
    refutations.ran += check_placebo_outcomes(effects)
    return effects


def _check_agreement(sample: Sample, found: Found) -> CheckOutcome:
    """Warn where estimators of one estimand exclude each other; matching has the ATT's only.

    Intervals of more than 95 % would hide what the estimators say of each other.
    """
    effects = {"AIPW": found.robust.effect, "weighting": found.weighted.effect}
    if sample.target == "att" and found.pairs is not None:
        effects["matching"] = found.pairs[1].effect
    z = critical_value(refutation_level(1 - sample.design.alpha))
    low = {name: effect.estimate - z * effect.std_error for name, effect in effects.items()}
    high = {name: effect.estimate + z * effect.std_error for name, effect in effects.items()}
    apart = [
        f"{a} and {b}" for a, b in combinations(effects, 2) if high[a] < low[b] or high[b] < low[a]
    ]
    shown = ", ".join(
        f"{name} {effect.estimate:.4g} [{low[name]:.4g}, {high[name]:.4g}]"
        for name, effect in effects.items()
    )
    return judged(
        "estimators_agree",
        passed=not apart,
        severity="WARN",
        value=float(len(apart)),
        threshold=0.0,
        shown=shown,
        against=f"{'; '.join(apart)} exclude each other, the result hangs on the model",
    )


def _check_left_out(found: SeriesSensitivity) -> CheckOutcome:
    """Warn where one covariate carries the adjustment, as the one true confounder must."""
    outcome = check_leave_one_covariate_out(found)
    if outcome.passed:
        return outcome
    effects = {refit.left_out: refit.effect for refit in found.refits if refit.effect is not None}
    carrier = max(effects, key=lambda name: abs(effects[name] - found.full_effect))
    words = (
        f"{carrier} carries the adjustment, which alone is no fault if {carrier} is measured well"
    )
    return replace(outcome, message=f"{outcome.message}; {words}")


def _leave_one_out(sample: Sample, found: Found) -> SeriesSensitivity:
    refits = []
    for covariate in dict.fromkeys(covariate_of(name) for name in sample.names):
        try:
            effect = sample.doubly_robust(sample.y, sample.without(covariate)).effect.estimate
        except EstimationError as error:
            refits.append(Refit(left_out=covariate, effect=None, reason=error.code))
        else:
            refits.append(Refit(left_out=covariate, effect=effect, reason=None))
    return SeriesSensitivity(
        kind="covariate", full_effect=found.robust.effect.estimate, refits=tuple(refits)
    )


def _e_value(sample: Sample, found: Found) -> EValue:
    effect, mask = found.robust.effect, sample.is_treated
    pooled = np.sqrt((sample.y[mask].var(ddof=1) + sample.y[~mask].var(ddof=1)) / 2)
    return e_value_of_difference(effect.estimate, effect.std_error, float(pooled))


def _hidden_bias(sample: Sample, found: Found, matched: MatchedEffect) -> RosenbaumBounds | None:
    """Bounds in the direction of the first estimate; None where all pairs are tied."""
    differences = np.sign(found.robust.effect.estimate) * matched.differences
    is_binary = bool(np.isin(sample.y, (0.0, 1.0)).all())
    try:
        if is_binary:
            n_positive = int((differences > 0).sum())
            return rosenbaum_mcnemar(
                int((differences != 0).sum()), n_positive, alpha=sample.design.alpha
            )
        return rosenbaum_signed_rank(differences, alpha=sample.design.alpha)
    except EstimationError:
        return None


def _estimates(sample: Sample, found: Found) -> tuple[StudyEstimate, ...]:
    rows = [
        _effect("AIPW, cross-fitted", found.robust.effect),
        _effect("AIPW, models of all units", found.uncrossed.effect),
        _effect("weighting (Hajek)", found.weighted.effect),
    ]
    if found.pairs is not None:
        matching, matched = found.pairs
        name = "matched pairs" + (", treated with a partner" if matching.n_unmatched else "")
        rows.append(_effect(name, matched.effect))
        if matched.adjusted is not None:
            rows.append(_effect(f"{name}, regression adjusted", matched.adjusted))
    if found.unstable is not None:
        name = "weighting (Horvitz-Thompson), unstable"
        rows.append(_effect(name, found.unstable.effect))
    mask = sample.is_treated
    control, treatment = (ArmMoments.from_arrays(y=sample.y[arm]) for arm in (~mask, mask))
    naive = compare_means(control, treatment, alpha=sample.design.alpha).difference
    rows.append(StudyEstimate.of("plain difference, unadjusted", naive))
    return tuple(rows)


def _effect(name: str, found: UnitEffect) -> StudyEstimate:
    return StudyEstimate(
        name=name,
        method=f"{found.method}, {found.variance_formula}",
        estimate=found.estimate,
        std_error=found.std_error,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        confidence_level=found.confidence_level,
        p_value=found.p_value,
    )


def _estimand(units: Units, design: ObservationalDesign) -> str:
    words = ESTIMANDS[design.estimand].format(units.outcome_name)
    low, high = TRIM_BOUNDS
    among = f", trimmed: of units whose probability of treatment lies between {low:g} and {high:g}"
    return words + (among if design.trim else "")


def _trimming(n_units: int, sample: Sample) -> list[tuple[str, str]]:
    if not sample.design.trim:
        return []
    return [("left out by trimming", f"{count(n_units - len(sample.y))} of {count(n_units)} units")]


def _facts(sample: Sample) -> list[tuple[str, str]]:
    n_treated = int(sample.is_treated.sum())
    return [
        ("units", count(len(sample.y))),
        ("treated", count(n_treated)),
        ("not treated", count(len(sample.y) - n_treated)),
        ("adjusted for", ", ".join(sample.names) or "nothing"),
    ]


def _found_facts(sample: Sample, found: Found) -> list[tuple[str, str]]:
    e = found.propensity.values
    facts = [
        ("propensity", f"logistic regression, {number(e.min())} to {number(e.max())}"),
        (
            "cross-fitting",
            f"{sample.design.folds} folds by the hash of the unit, seed {sample.design.seed}",
        ),
        (
            "effective units after weighting",
            f"{found.weighted.ess_treatment:,.0f} treated, {found.weighted.ess_control:,.0f} not",
        ),
        ("largest share of one unit in its arm's weight", share(found.weighted.max_weight_share)),
    ]
    if found.pairs is not None:
        matching = found.pairs[0]
        without = f"{count(matching.n_unmatched)} treated found no partner"
        caliper = f"caliper {sample.design.caliper:g} sd of the logit propensity"
        facts.append(("matched pairs", f"{count(len(matching.treated))}; {without}; {caliper}"))
    return facts


def _assumptions(sample: Sample) -> tuple[str, ...]:
    names = dict.fromkeys(covariate_of(name) for name in sample.names)
    listed = ", ".join(names) or "the covariates"
    return (
        f"among units equal in {listed} nothing unmeasured drives both treatment and outcome",
        "every unit could have been treated and could have been left untreated",
        "the covariates were fixed before the treatment and it did not change them",
        "the treatment of one unit does not touch the outcome of another",
        "the linear model of the outcome or the logistic model of the propensity is right",
    )


def _dropped(sample: Sample) -> Sequence[str]:
    return [f"{name} is the same for all units and is left out" for name in sample.constant]


def _matching_warnings(found: Found) -> Sequence[str]:
    if found.no_pairs is not None:
        return [f"no matched pairs: {found.no_pairs}"]
    table = found.matched_balance
    if table is None or table.status == "SUPPORTED":
        return []
    size = f"{abs(table.worst_smd):.2f} sd"
    return [f"matched pairs still differ in {table.worst} by {size}: read them regression adjusted"]


def _refused(
    units: Units,
    sample: Sample,
    refutations: Refutations,
    propensity: Propensity | None,
    error: EstimationError,
) -> Study:
    """A study without an estimate: what stands against it, and what is left to see."""
    if error.code == "NO_OVERLAP" and all(check.passed for check in refutations.ran):
        # Separation, or a fold without overlap, shows in a fit and not in the share of units.
        refutations.ran = [_separated(error)]
    tables, pictures, warnings = [], [], list(_dropped(sample))
    if propensity is not None:
        tables.append(propensity_rows(sample, propensity))
        pictures.append(overlap_picture(sample, propensity))
    if propensity is not None and error.code == "NO_OVERLAP":
        kept = inside_bounds(propensity)
        warnings.append(
            f"{count(int(kept.sum()))} of {plural(len(kept), 'unit')} "
            f"({count(int((kept & sample.is_treated).sum()))} treated) have a propensity inside "
            f"{list(TRIM_BOUNDS)}: what is found among these alone is another, trimmed estimand"
        )
    return Study(
        design=sample.design.kind,
        method=METHOD,
        estimand=_estimand(units, sample.design),
        facts=tuple(_facts(sample)),
        assumptions=_assumptions(sample),
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=(*groups_before(sample), *tables),
        pictures=tuple(pictures),
        warnings=tuple(warnings),
        reason=error.code,
        reason_detail=str(error),
    )


def _separated(error: EstimationError) -> CheckOutcome:
    return judged(
        "overlap",
        passed=False,
        severity="ERROR",
        value=None,
        threshold=None,
        shown=f"{error.subject}: {error.detail}",
        against="the groups cannot be compared",
    )
