"""Discontinuity: the jump of the outcome where a rule starts, sharp or fuzzy.

    decides    local lines, robust bias-corrected (Calonico, Cattaneo & Titiunik 2014)
    beside     the same with the conventional error, and without bias correction; where the rule
               only offers treatment, also the set that needs no strong take-up and the jump of
               the outcome itself

Cells of an aggregated table go to `discontinuity_polynomial`. A unit at the cutoff belongs to the
side above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.units.density import DensityTest
from experiments_dagster.causal.units.discontinuity import (
    FEWEST_ROWS,
    Discontinuity,
    cut_sides,
    estimate_discontinuity,
)
from experiments_dagster.causal.units.discontinuity_checks import (
    JumpCheck,
    bandwidth_sensitivity,
    covariate_jumps,
    donut_sensitivity,
    placebo_cutoffs,
)
from experiments_dagster.causal.units.fuzzy_discontinuity import (
    FuzzyDiscontinuity,
    estimate_fuzzy_discontinuity,
)
from experiments_dagster.causal.units.local_polynomial import ORDER, Side, linear_weights
from experiments_dagster.causal.units.unit_checks import (
    check_bandwidths,
    check_covariate_jumps,
    check_donut,
    check_effective_rows,
    check_first_stage,
    check_mass_points,
    check_placebo_cutoffs,
)
from experiments_dagster.config.intervention import DiscontinuityDesign
from experiments_dagster.interventions.designs.discontinuity_parts import (
    Cut,
    cut_of,
    density_picture,
    facts_of,
    jump_picture,
    jump_table,
    not_estimable,
    refute_density,
    refute_outcomes,
)
from experiments_dagster.interventions.designs.discontinuity_polynomial import polynomial_study
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
    StudyEstimate,
    StudyTable,
    table_of,
)
from experiments_dagster.interventions.study_data import Units
from experiments_dagster.reporting.discontinuity_charts import FitPoint
from experiments_dagster.reporting.numbers import count, number
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

SHARP = "regression discontinuity, local lines with robust bias-corrected inference"
FUZZY = "fuzzy regression discontinuity, local lines with robust bias-corrected inference"
# Of the bandwidth, left out around the cutoff. Without a fifth of it the line is extrapolated so
# far that noise alone moves a jump of 3.5 standard errors by half in four of ten samples.
DONUT_SHARES = (0.05, 0.1)
RATIO = "jump of the outcome per jump of the take-up"
ROWS = {
    "robust": "robust bias-corrected",
    "bias_corrected": "bias-corrected, interval too short",
    "conventional": "conventional, bias ignored",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refits:
    """Jumps at moved settings, kept for checks and tables."""

    density: DensityTest | None
    cutoffs: Sequence[JumpCheck]
    covariates: Sequence[JumpCheck]
    bandwidths: Sequence[JumpCheck]
    donut: Sequence[JumpCheck]


def discontinuity_study(units: Units, design: DiscontinuityDesign) -> Study:
    """Estimate the jump at the cutoff, and try to refute that the rule made it.

    Args:
        units: With `running`; with `treated` (who took it) where the design is fuzzy.
        design: The cutoff and its treated side.

    Raises:
        ValueError: A column that the design needs is missing.

    References:
        Calonico, Cattaneo & Titiunik 2014; Cattaneo, Idrobo & Titiunik 2020; METHODS 11.7.
    """
    cut = cut_of(units, design)
    if design.polynomial is not None:
        return polynomial_study(cut, design.polynomial)
    refutations = Refutations()
    fuzzy: FuzzyDiscontinuity | None = None
    try:
        if design.is_fuzzy:
            fuzzy = estimate_fuzzy_discontinuity(
                cut.y, _taken(cut), cut.x, cut.cutoff, alpha=design.alpha
            )
        found = fuzzy.outcome if fuzzy is not None else _sharp(cut)
    except EstimationError as error:
        return _refused(cut, refutations, error)
    refits = _refute(cut, found, refutations)
    if fuzzy is not None:
        refutations.run("first_stage", partial(check_first_stage, fuzzy))
    outcomes = refute_outcomes(
        cut,
        lambda values, x: (
            estimate_discontinuity(cut.sign * values, x, cut.cutoff, alpha=design.alpha).robust
        ),
        refutations,
    )
    return Study(
        design=design.kind,
        method=FUZZY if design.is_fuzzy else SHARP,
        estimand=_estimand(cut),
        facts=(*facts_of(cut), *_fit_facts(found)),
        assumptions=_assumptions(cut),
        estimates=_estimates(found) if fuzzy is None else _fuzzy_estimates(fuzzy),
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=(
            _bandwidth_table(found),
            *_take_up_table(fuzzy),
            *_density_table(refits.density),
            *jump_table("placebo_cutoffs", "Jumps where no rule starts", "cutoff", refits.cutoffs),
            *jump_table(
                "covariate_jumps", "Jumps of what was fixed before", "covariate", refits.covariates
            ),
            *outcomes,
            *jump_table(
                "bandwidths", "The jump at other bandwidths", "bandwidth", refits.bandwidths
            ),
            *jump_table(
                "donut", "The jump without the rows nearest the cutoff", "radius", refits.donut
            ),
        ),
        pictures=(
            jump_picture(cut, _lines(cut, found.bandwidth), bandwidth=found.bandwidth),
            density_picture(cut, refits.density),
        ),
        warnings=(*found.warnings, *_direction(cut, fuzzy)),
    )


def _sharp(cut: Cut) -> Discontinuity:
    return estimate_discontinuity(cut.sign * cut.y, cut.x, cut.cutoff, alpha=cut.design.alpha)


def _taken(cut: Cut) -> Sequence[float]:
    assert cut.units.treated is not None
    return [float(is_taken) for is_taken in cut.units.treated]


def _refute(cut: Cut, found: Discontinuity, refutations: Refutations) -> _Refits:
    """Everything that can be moved: side, place, bandwidth, rows nearest the cutoff."""
    y, x, cutoff, alpha = cut.sign * cut.y, cut.x, cut.cutoff, cut.design.alpha
    density = refute_density(cut, refutations)
    refutations.run("effective_rows", lambda: check_effective_rows(found))
    refutations.run("mass_points", lambda: check_mass_points(found))
    cutoffs = placebo_cutoffs(y, x, cutoff, alpha=alpha)
    refutations.run("placebo_cutoffs", lambda: check_placebo_cutoffs(cutoffs))
    covariates: Sequence[JumpCheck] = ()
    if cut.units.covariate_names:
        covariates = covariate_jumps(
            cut.sign * cut.units.covariates,
            x,
            cutoff,
            names=cut.units.covariate_names,
            alpha=alpha,
        )
        refutations.run("covariate_jumps", lambda: check_covariate_jumps(covariates))
    bandwidths = bandwidth_sensitivity(y, x, cutoff, alpha=alpha)
    refutations.run("bandwidths", lambda: check_bandwidths(found, bandwidths))
    radii = [share * found.bandwidth for share in DONUT_SHARES]
    donut = donut_sensitivity(y, x, cutoff, radii=radii, alpha=alpha)
    refutations.run("donut", lambda: check_donut(found, donut))
    return _Refits(
        density=density,
        cutoffs=cutoffs,
        covariates=covariates,
        bandwidths=bandwidths,
        donut=donut,
    )


def _estimates(found: Discontinuity) -> tuple[StudyEstimate, ...]:
    return tuple(
        StudyEstimate.of(f"jump, {words}", getattr(found, row)) for row, words in ROWS.items()
    )


def _fuzzy_estimates(found: FuzzyDiscontinuity) -> tuple[StudyEstimate, ...]:
    rows = [
        StudyEstimate.of(f"{RATIO}, {words}", getattr(found, row)) for row, words in ROWS.items()
    ]
    region = found.anderson_rubin
    is_bounded = region.shape == "bounded"
    rows.append(
        StudyEstimate(
            name=f"{RATIO}, Anderson-Rubin set",
            method="fuzzy_local_linear_robust, anderson_rubin",
            estimate=found.robust.estimate,
            ci_low=region.low if is_bounded else None,
            ci_high=region.high if is_bounded else None,
            confidence_level=found.robust.confidence_level,
            reason=None if is_bounded else "the take-up jumps too little to bound the ratio",
        )
    )
    jump = "jump of the outcome, below to above"
    return (*rows, StudyEstimate.of(jump, found.outcome.robust))


def _estimand(cut: Cut) -> str:
    name, cutoff = cut.units.outcome_name, f"{cut.cutoff:.10g}"
    if cut.design.is_fuzzy:
        return (
            f"average effect of the treatment on {name} for units at the cutoff {cutoff} that take "
            "it because the rule offers it"
        )
    return f"average effect of the rule on {name} for units at the cutoff {cutoff}"


def _assumptions(cut: Cut) -> tuple[str, ...]:
    common = (
        "no unit chose its side of the cutoff precisely",
        "nothing else starts at the cutoff",
        "without the rule the expected outcome would run on without a jump",
        "the estimate speaks of units at the cutoff, not of those far from it",
    )
    if not cut.design.is_fuzzy:
        return common
    return (
        *common,
        "the rule acts on the outcome only through the treatment",
        "the rule keeps nobody from a treatment that they would take without it",
    )


def _fit_facts(found: Discontinuity) -> list[tuple[str, str]]:
    rows = f"{count(found.robust.n_control)} below, {count(found.robust.n_treatment)} above"
    return [
        ("bandwidth", f"{number(found.bandwidth)} (bias {number(found.bias_bandwidth)})"),
        ("rows within the bandwidth", rows),
    ]


def _bandwidth_table(found: Discontinuity) -> StudyTable:
    row = found.robust
    return table_of(
        "local_fit",
        "Rows behind the local fit",
        [
            {
                "side": side,
                "n": n,
                "n_within_bandwidth": n_within,
                "n_distinct_within": n_distinct,
                "bandwidth": found.bandwidth,
                "bias_bandwidth": found.bias_bandwidth,
            }
            for side, n, n_within, n_distinct in (
                ("below", found.n_left, row.n_control, found.n_distinct_left),
                ("above", found.n_right, row.n_treatment, found.n_distinct_right),
            )
        ],
    )


def _take_up_table(found: FuzzyDiscontinuity | None) -> tuple[StudyTable, ...]:
    if found is None:
        return ()
    row = {
        "below": found.take_up.below,
        "above": found.take_up.above,
        "jump": found.take_up.jump,
        "std_error": found.take_up.std_error,
        "first_stage_f": found.first_stage_f,
    }
    return (table_of("take_up", "Share treated at the cutoff", [row]),)


def _density_table(test: DensityTest | None) -> tuple[StudyTable, ...]:
    if test is None:
        return ()
    row = {
        "density_below": test.density_left,
        "density_above": test.density_right,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "bandwidth_below": test.bandwidth_left,
        "bandwidth_above": test.bandwidth_right,
        "n_below": test.n_left,
        "n_above": test.n_right,
    }
    title = "Density of the running variable at the cutoff"
    return (table_of("density", title, [row]),)


def _direction(cut: Cut, found: FuzzyDiscontinuity | None) -> Sequence[str]:
    if found is None:
        return ()
    wanted = 1 if cut.design.treated_side == "above" else -1
    if wanted * found.take_up.jump > 0:
        return ()
    return (f"fewer take the treatment {cut.design.treated_side} the cutoff, where it is offered",)


def _lines(cut: Cut, h: float) -> tuple[Sequence[FitPoint], Sequence[FitPoint]]:
    """Both local lines over the rows that they are fitted to."""
    left, right = (
        _line(side.within(h), h, cut.cutoff) for side in cut_sides(cut.y, cut.x, cut.cutoff)
    )
    return left[::-1], right


def _line(near: Side, h: float, cutoff: float) -> list[FitPoint]:
    """From the cutoff outwards."""
    level, slope = (float(value) for value in linear_weights(near, h, ORDER) @ near.y)
    end = near.x[0] if near.name == "left" else near.x[-1]
    return [(cutoff, level), (cutoff + float(end), level + slope * float(end))]


def _refused(cut: Cut, refutations: Refutations, error: EstimationError) -> Study:
    """What can be seen and tried without a fit."""
    test = refute_density(cut, refutations)
    if error.code == "N_TOO_SMALL":
        refutations.ran.append(_too_few(error))
    return not_estimable(
        cut,
        method=FUZZY if cut.design.is_fuzzy else SHARP,
        estimand=_estimand(cut),
        assumptions=_assumptions(cut),
        refutations=refutations,
        error=error,
        tables=_density_table(test),
        pictures=(jump_picture(cut, ((), ())), density_picture(cut, test)),
    )


def _too_few(error: EstimationError) -> CheckOutcome:
    return judged(
        "effective_rows",
        passed=False,
        severity="ERROR",
        value=None,
        threshold=float(FEWEST_ROWS),
        shown=f"{error.subject}: {error.detail}",
        against="too few for a local fit",
    )
