"""Refutations of designs on units as health checks: what fails blocks the claim or weakens it.

ERROR blocks: the association is not called an effect. WARN weakens: it is shown with the reason.
Thresholds are those of METHODS 11.7 to 11.10; the others are chosen here:

    effective units     50 in each arm: what a normal interval needs at the least
    one unit's weight   10 % of its arm's: the estimate is then mostly that unit's
    hidden bias         Γ = 1.25: odds of treatment that differ by a quarter within a pair
    E-value             1.5: risk ratios of this size are common among unmeasured covariates
    families of jumps   adjusted p < .01 blocks, < .05 weakens
    placebo outcomes    p < .05, or the level of the claim if that is larger; of several, adjusted
                        by Holm, or two would refuse one sound study in ten
    placebo cutoffs     at least half must be estimable to count as tried

What does not belong here: the numbers judged, which the estimators' records hold.

References:
    Imbens & Rubin 2015, chapters 14 and 21; Rosenbaum 2002; VanderWeele & Ding 2017; Cattaneo,
    Idrobo & Titiunik 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.outcomes import LEAST_LEVEL, judged, known_p_value, refutation_level
from experiments_dagster.causal.units.balance import REFUSED_ABOVE, WEAK_ABOVE, BalanceTable
from experiments_dagster.causal.units.density import DensityTest
from experiments_dagster.causal.units.discontinuity import FEW_DISTINCT, FEWEST_ROWS, Discontinuity
from experiments_dagster.causal.units.discontinuity_checks import JumpCheck
from experiments_dagster.causal.units.effects import IntArray, UnitEffect
from experiments_dagster.causal.units.fuzzy_discontinuity import FuzzyDiscontinuity
from experiments_dagster.causal.units.heterogeneity_proof import HeterogeneityProof
from experiments_dagster.causal.units.learners import MIN_UNITS
from experiments_dagster.causal.units.propensity import Overlap
from experiments_dagster.causal.units.sensitivity import EValue, RosenbaumBounds
from experiments_dagster.causal.units.weighting import WeightedEffect
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import two_sided_p_value
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.stats.noncompliance import WEAK_FIRST_STAGE
from experiments_dagster.stats.records import CheckOutcome, Estimate

FEWEST_EFFECTIVE = 50.0
LARGEST_WEIGHT_SHARE = 0.1
FRAGILE_GAMMA = 1.25
FRAGILE_E_VALUE = 1.5
DENSITY_P = 0.01
FAMILY_BLOCKS, FAMILY_WEAKENS = 0.01, 0.05
FRAGILE_CHANGE = 0.5


def check_overlap(overlap: Overlap) -> CheckOutcome:
    """Block where too many units have no counterpart in the other group."""
    return judged(
        "overlap",
        passed=overlap.has_overlap,
        severity="ERROR",
        value=overlap.extreme_share,
        threshold=overlap.most_extreme_share,
        shown=(
            f"{overlap.extreme_share:.1%} of {overlap.n} units have a propensity outside "
            f"{list(overlap.bounds)}, range {overlap.lowest:.3g} to {overlap.highest:.3g}"
        ),
        against="they have nobody to be compared with; trim and name the trimmed estimand",
    )


def check_balance(table: BalanceTable) -> CheckOutcome:
    """Block covariates that differ after adjustment, warn of smaller differences."""
    size = abs(table.worst_smd)
    is_refused = table.status == "REFUSED"
    before = next(row.smd_before for row in table.rows if row.name == table.worst)
    return judged(
        "balance",
        passed=table.status == "SUPPORTED",
        severity="ERROR" if is_refused else "WARN",
        value=size,
        threshold=REFUSED_ABOVE if is_refused else WEAK_ABOVE,
        shown=(
            f"largest standardised difference after adjustment {size:.3f} ({table.worst}, "
            f"{abs(before):.3f} before) of {len(table.rows)} covariates"
        ),
        against="the groups are not alike, adjust for it in another way",
    )


def check_weights(found: BalanceTable | WeightedEffect) -> CheckOutcome:
    """Warn where a few units carry an arm."""
    fewest = min(found.ess_control, found.ess_treatment)
    is_thin = fewest < FEWEST_EFFECTIVE
    share = found.max_weight_share
    # The number that fails is the one shown; the effective size where both do.
    is_by_share = share > LARGEST_WEIGHT_SHARE and not is_thin
    return judged(
        "weights",
        passed=not (is_thin or is_by_share),
        severity="WARN",
        value=share if is_by_share else fewest,
        threshold=LARGEST_WEIGHT_SHARE if is_by_share else FEWEST_EFFECTIVE,
        shown=(
            f"effective units {found.ess_control:.0f} control, {found.ess_treatment:.0f} treated; "
            f"one unit carries at most {share:.1%} of its arm's weight"
        ),
        against="a few units decide the estimate",
    )


def check_arm_sizes(arms: ArrayLike, fold_of: IntArray | None = None) -> CheckOutcome:
    """Block arms too small to learn an effect from.

    Args:
        arms: Label of each unit's arm, shape (n,).
        fold_of: Fold of each unit, shape (n,); None for one fold.

    Raises:
        ValueError: No unit, or shapes that differ.
    """
    labels, position = np.unique(np.asarray(arms), return_inverse=True)
    fold = np.zeros(len(position), dtype=np.int64) if fold_of is None else np.asarray(fold_of)
    if not len(labels) or fold.shape != position.shape:
        msg = f"arms {position.shape}, fold_of {fold.shape}; need the same shape (n,), n >= 1"
        raise ValueError(msg)
    n_folds = int(fold.max()) + 1
    counts = np.bincount(position * n_folds + fold, minlength=len(labels) * n_folds)
    smallest, fewest = divmod(int(counts.argmin()), n_folds)[0], int(counts.min())
    return judged(
        "arm_sizes",
        passed=len(labels) > 1 and fewest >= MIN_UNITS,
        severity="ERROR",
        value=float(fewest),
        threshold=float(MIN_UNITS),
        shown=f"{len(labels)} arms, at least {fewest} units in a fold (arm {labels[smallest]})",
        against=f"need 2 arms with {MIN_UNITS} units of each in every fold",
    )


def check_placebo_outcome(effect: UnitEffect | Estimate, *, outcome: str) -> CheckOutcome:
    """Block a design that finds an effect where there can be none.

    Args:
        effect: Of the same design on an outcome that the treatment cannot touch.
        outcome: Its name.

    Raises:
        EstimationError: NOT_IDENTIFIED without a p-value.
    """
    return check_placebo_outcomes({outcome: effect})[0]


def check_placebo_outcomes(
    effects: Mapping[str, UnitEffect | Estimate],
) -> tuple[CheckOutcome, ...]:
    """Block a design that finds an effect where there can be none, on a family of outcomes.

    Args:
        effects: Of the same design on outcomes that the treatment cannot touch, by name.

    Raises:
        EstimationError: NOT_IDENTIFIED without a p-value.

    References:
        Holm 1979.
    """
    own = [known_p_value(f"placebo_outcome_{name}", effects[name].p_value) for name in effects]
    adjusted = adjusted_p_values(own, "holm") if own else ()
    return tuple(
        _placebo_outcome(name, effect, p, len(effects))
        for (name, effect), p in zip(effects.items(), adjusted, strict=True)
    )


def _placebo_outcome(
    name: str, effect: UnitEffect | Estimate, p_adjusted: float, n: int
) -> CheckOutcome:
    low = -np.inf if effect.ci_low is None else effect.ci_low
    high = np.inf if effect.ci_high is None else effect.ci_high
    level = refutation_level(effect.confidence_level)
    family = f", {p_adjusted:.3g} adjusted by Holm for {n} placebo outcomes" if n > 1 else ""
    return judged(
        f"placebo_outcome_{name}",
        passed=p_adjusted >= level,
        severity="ERROR",
        value=p_adjusted,
        threshold=level,
        shown=(
            f"difference in {name} {effect.estimate:.4g} [{low:.4g}, {high:.4g}], "
            f"p = {effect.p_value:.3g}{family}, tried at {level:g}"
        ),
        against="the treatment cannot have caused it, so the groups differ otherwise",
    )


def check_hidden_bias(bounds: RosenbaumBounds) -> CheckOutcome:
    """Warn where a weak hidden covariate could explain the effect on matched pairs.

    The bounds are one-sided against a positive effect: negate the differences of a negative one.
    """
    gamma = bounds.largest_gamma
    shown = (
        f"p is not below {bounds.alpha:g} even without hidden bias"
        if gamma is None
        else f"significant up to hidden bias of Γ = {gamma:.2f}"
    )
    return judged(
        "hidden_bias",
        passed=gamma is not None and gamma >= FRAGILE_GAMMA,
        severity="WARN",
        value=gamma,
        threshold=FRAGILE_GAMMA,
        shown=f"{shown}, {bounds.n_pairs} pairs ({bounds.test})",
        against="a weak unmeasured covariate explains it",
    )


def check_e_value(value: EValue) -> CheckOutcome:
    """Warn where an unmeasured covariate of ordinary strength could explain the effect."""
    found = value.e_value if value.e_value_interval is None else value.e_value_interval
    what = "estimate" if value.e_value_interval is None else "interval"
    return judged(
        "e_value",
        passed=found >= FRAGILE_E_VALUE,
        severity="WARN",
        value=found,
        threshold=FRAGILE_E_VALUE,
        shown=f"E-value of the {what} {found:.2f} (estimate {value.e_value:.2f})",
        against="a covariate of this strength with treatment and outcome explains it",
    )


def check_density(test: DensityTest) -> CheckOutcome:
    """Block where units seem to choose their side of the cutoff."""
    return judged(
        "density",
        passed=test.p_value >= DENSITY_P,
        severity="ERROR",
        value=test.p_value,
        threshold=DENSITY_P,
        shown=(
            f"density {test.density_left:.4g} below and {test.density_right:.4g} above the "
            f"cutoff, p = {test.p_value:.3g}"
        ),
        against="units choose their side",
    )


def check_covariate_jumps(checks: Sequence[JumpCheck]) -> CheckOutcome:
    """Block or warn where something fixed before treatment jumps at the cutoff."""
    return _family("covariate_jumps", checks, "units differ at the cutoff before treatment")


def check_placebo_cutoffs(checks: Sequence[JumpCheck]) -> CheckOutcome:
    """Block or warn where the outcome jumps at cutoffs without a rule.

    Raises:
        EstimationError: Fewer than half of them have an estimate.
    """
    n_estimable = sum(check.p_adjusted is not None for check in checks)
    if 0 < 2 * n_estimable < len(checks):
        detail = f"{n_estimable} of {len(checks)} cutoffs have an estimate, need half of them"
        raise EstimationError(_first_reason(checks), "placebo_cutoffs", detail)
    return _family("placebo_cutoffs", checks, "jumps are found where nothing starts")


def check_bandwidths(found: Discontinuity, checks: Sequence[JumpCheck]) -> CheckOutcome:
    """Warn where another bandwidth changes the sign or half the jump."""
    return _refits("bandwidths", found, checks, "the jump hangs on the bandwidth")


def check_donut(found: Discontinuity, checks: Sequence[JumpCheck]) -> CheckOutcome:
    """Warn where the jump comes from the rows nearest the cutoff."""
    return _refits("donut", found, checks, "the jump hangs on the rows nearest the cutoff")


def check_mass_points(found: Discontinuity) -> CheckOutcome:
    """Warn where the running variable is too coarse for a local fit."""
    share = min(
        found.n_distinct_left / found.robust.n_control,
        found.n_distinct_right / found.robust.n_treatment,
    )
    return judged(
        "mass_points",
        passed=share >= FEW_DISTINCT,
        severity="WARN",
        value=share,
        threshold=FEW_DISTINCT,
        shown=f"distinct values within the bandwidth are {share:.1%} of the rows",
        against="the running variable is too coarse for a local fit",
    )


def check_effective_rows(found: Discontinuity) -> CheckOutcome:
    """Block a local fit on too few rows."""
    fewest = min(found.robust.n_control, found.robust.n_treatment)
    return judged(
        "effective_rows",
        passed=fewest >= FEWEST_ROWS,
        severity="ERROR",
        value=float(fewest),
        threshold=float(FEWEST_ROWS),
        shown=(
            f"{found.robust.n_control} rows below and {found.robust.n_treatment} above the cutoff "
            "within the bandwidth"
        ),
        against="too few for a local fit",
    )


def check_first_stage(found: FuzzyDiscontinuity) -> CheckOutcome:
    """Warn where the take-up hardly jumps: the interval of the ratio is then too short."""
    f = found.first_stage_f
    below, above = found.take_up.below, found.take_up.above
    strength = "everybody follows the rule" if f is None else f"F = {f:.3g}"
    return judged(
        "first_stage",
        passed=f is None or f >= WEAK_FIRST_STAGE,
        severity="WARN",
        value=f,
        threshold=WEAK_FIRST_STAGE,
        shown=f"take-up jumps from {below:.1%} to {above:.1%}, {strength}",
        against="read the Anderson-Rubin set, not the interval",
    )


def check_heterogeneity(proof: HeterogeneityProof) -> CheckOutcome:
    """Block the naming of segments where differences of the effect are not shown."""
    return judged(
        "heterogeneity",
        passed=proof.is_proven,
        severity="ERROR",
        value=proof.p_value,
        threshold=proof.max_p,
        shown=f"{proof.finding}, p = {proof.p_value:.3g} out of sample",
        against="no segment is named",
    )


def check_calibration(proof: HeterogeneityProof) -> CheckOutcome:
    """Warn where predicted effects are too far apart, or too close."""
    slope = proof.calibration_slope
    p_value = two_sided_p_value((slope.estimate - 1) / slope.std_error)
    return judged(
        "calibration",
        # The interval has the level of the claim.
        passed=slope.ci_low <= 1 <= slope.ci_high and p_value >= LEAST_LEVEL,
        severity="WARN",
        value=slope.estimate,
        threshold=1.0,
        shown=(
            f"observed on predicted effects has slope {slope.estimate:.2f} "
            f"[{slope.ci_low:.2f}, {slope.ci_high:.2f}], p = {p_value:.3g} against 1"
        ),
        against=f"predicted effects are too {'far apart' if slope.estimate < 1 else 'close'}",
    )


def _family(name: str, checks: Sequence[JumpCheck], against: str) -> CheckOutcome:
    """Judge the smallest adjusted p-value."""
    estimable = [(check.p_adjusted, check) for check in checks if check.p_adjusted is not None]
    if not estimable:
        raise _none_estimable(name, checks)
    p, worst = min(estimable, key=lambda pair: pair[0])
    is_blocked = p < FAMILY_BLOCKS
    where = worst.name if worst.value is None else f"{worst.value:.4g}"
    return judged(
        name,
        passed=p >= FAMILY_WEAKENS,
        severity="ERROR" if is_blocked else "WARN",
        value=p,
        threshold=FAMILY_BLOCKS if is_blocked else FAMILY_WEAKENS,
        shown=f"smallest adjusted p {p:.3g} at {where}, {_of(len(estimable), len(checks))}",
        against=against,
    )


def _refits(
    name: str, found: Discontinuity, checks: Sequence[JumpCheck], against: str
) -> CheckOutcome:
    """Compare the jump at moved settings with the one claimed."""
    full = found.robust.estimate
    jumps = [check.estimate.estimate for check in checks if check.estimate is not None]
    if not jumps:
        raise _none_estimable(name, checks)
    change = max(abs(jump - full) for jump in jumps) / abs(full) if full else None
    return judged(
        name,
        # A change of sign is one of more than the whole effect.
        passed=change is not None and change <= FRAGILE_CHANGE,
        severity="WARN",
        value=change,
        threshold=FRAGILE_CHANGE,
        shown=(
            f"jump {full:.4g}, elsewhere {min(jumps):.4g} to {max(jumps):.4g}, "
            f"{_of(len(jumps), len(checks))}"
        ),
        against=against,
    )


def _of(n_estimable: int, n: int) -> str:
    return f"{n} settings" if n_estimable == n else f"{n_estimable} of {n} settings estimable"


def _none_estimable(name: str, checks: Sequence[JumpCheck]) -> EstimationError:
    detail = f"{len(checks)} settings, none with an estimate"
    return EstimationError(_first_reason(checks), name, detail)


def _first_reason(checks: Sequence[JumpCheck]) -> str:
    return next((check.reason for check in checks if check.reason is not None), "N_TOO_SMALL")
