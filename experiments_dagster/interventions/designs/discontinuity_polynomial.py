"""Discontinuity in a table of few aggregated cells: one polynomial on each side.

    decides    own coefficients on each side, HC1 error, t quantiles
    beside     the error under equal variances, common slopes, and the other order

The curvature is assumed, so the other order is a refutation of its own. Cells say nothing of how
many units chose a side, and too few lie within any bandwidth for a local fit (METHODS 11.7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from experiments_dagster.causal.outcomes import judged
from experiments_dagster.causal.units.discontinuity import (
    Variance,
    parametric_discontinuity,
)
from experiments_dagster.causal.units.discontinuity_checks import JumpCheck
from experiments_dagster.causal.units.unit_checks import (
    FRAGILE_CHANGE,
    check_covariate_jumps,
    check_placebo_cutoffs,
)
from experiments_dagster.interventions.designs.discontinuity_parts import (
    Cut,
    density_picture,
    facts_of,
    jump_picture,
    jump_table,
    not_estimable,
    refute_density,
    refute_outcomes,
)
from experiments_dagster.interventions.study import Refutations, Study, StudyEstimate
from experiments_dagster.interventions.study_data import BoolArray, FloatArray
from experiments_dagster.reporting.discontinuity_charts import FitPoint
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.stats.records import CheckOutcome, Estimate

ORDERS = {1: "line", 2: "parabola"}
SHARES = (0.5, 0.75)  # of the reach of the nearer side, kept around the cutoff


def polynomial_study(cut: Cut, order: int) -> Study:
    """Estimate the jump between two polynomials, and try to refute it.

    Args:
        cut: The cells, or rows.
        order: 1 or 2.

    References:
        Angrist & Pischke 2015, chapter 4; METHODS 11.7.
    """
    refutations = Refutations()
    method = f"regression discontinuity, a {ORDERS[order]} on each side of the cutoff"
    name, cutoff = cut.units.outcome_name, f"{cut.cutoff:.10g}"
    estimand = f"average effect of the rule on {name} at the cutoff {cutoff}"
    assumptions = (
        f"without the rule the outcome follows a {ORDERS[order]} on each side, over all rows",
        "no unit chose its side of the cutoff precisely",
        "nothing else starts at the cutoff",
    )
    try:
        if cut.design.is_fuzzy:
            detail = "polynomials estimate sharp rules; hint: leave the polynomial out"
            raise EstimationError("NOT_IDENTIFIED", "fuzzy discontinuity", detail)  # noqa: TRY301
        found = _jump(cut, cut.y, cut.x, cut.cutoff, order=order)
        estimates = _estimates(cut, found, order)
    except EstimationError as error:
        return not_estimable(
            cut,
            method=method,
            estimand=estimand,
            assumptions=assumptions,
            refutations=refutations,
            error=error,
            pictures=(jump_picture(cut, ((), ())),),
        )
    test = refute_density(cut, refutations)
    cutoffs, covariates = _families(cut, order, refutations)
    moved = _refits(cut, order)
    for name, (_, _, checks, against) in moved.items():
        refutations.run(name, partial(_check_moved, name, found, checks, against))
    outcomes = refute_outcomes(
        cut, lambda values, x: _jump(cut, values, x, cut.cutoff, order=order), refutations
    )
    return Study(
        design=cut.design.kind,
        method=method,
        estimand=estimand,
        facts=tuple(facts_of(cut)),
        assumptions=assumptions,
        estimates=estimates,
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=(
            *jump_table("placebo_cutoffs", "Jumps where no rule starts", "cutoff", cutoffs),
            *jump_table(
                "covariate_jumps", "Jumps of what was fixed before", "covariate", covariates
            ),
            *outcomes,
            *(
                table
                for name, (title, setting, checks, _) in moved.items()
                for table in jump_table(name, title, setting, checks)
            ),
        ),
        pictures=(
            jump_picture(
                cut, _curves(cut, order), note=f"Fit: a {ORDERS[order]} on each side, to all rows."
            ),
            *([] if test is None else [density_picture(cut, test)]),
        ),
    )


def _jump(
    cut: Cut,
    y: FloatArray,
    x: FloatArray,
    cutoff: float,
    *,
    order: int,
    is_interacted: bool = True,
    variance: Variance = "hc1",
) -> Estimate:
    """Treated side less the other, of any rows."""
    return parametric_discontinuity(
        cut.sign * y,
        x,
        cutoff,
        order=order,
        is_interacted=is_interacted,
        variance=variance,
        alpha=cut.design.alpha,
    )


def _estimates(cut: Cut, found: Estimate, order: int) -> tuple[StudyEstimate, ...]:
    fit = partial(_jump, cut, cut.y, cut.x, cut.cutoff)
    rows = [
        StudyEstimate.of(f"jump between two {ORDERS[order]}s", found),
        StudyEstimate.of(
            f"jump between two {ORDERS[order]}s, equal variances", fit(order=order, variance="ols")
        ),
        StudyEstimate.of(
            f"jump between {ORDERS[order]}s of one shape, equal variances",
            fit(order=order, is_interacted=False, variance="ols"),
        ),
    ]
    other = 3 - order
    # Where it fails, the refutation of the order says why.
    with contextlib.suppress(EstimationError):
        rows.append(StudyEstimate.of(f"jump between two {ORDERS[other]}s", fit(order=other)))
    return tuple(rows)


def _families(
    cut: Cut, order: int, refutations: Refutations
) -> tuple[Sequence[JumpCheck], Sequence[JumpCheck]]:
    """Placebo cutoffs in the middle of each side, and jumps of covariates."""
    is_above = cut.x >= cut.cutoff

    def jump_at(place: float) -> Estimate:
        side = is_above if place >= cut.cutoff else ~is_above
        return _jump(cut, cut.y[side], cut.x[side], place, order=order)

    places = [float(np.median(cut.x[side])) for side in (~is_above, is_above)]
    cutoffs = _adjusted(
        [_moved("placebo_cutoff", place, partial(jump_at, place)) for place in places], "holm"
    )
    refutations.run("placebo_cutoffs", lambda: check_placebo_cutoffs(cutoffs))
    names = cut.units.covariate_names
    covariates = _adjusted(
        [
            _moved(
                name,
                None,
                partial(_jump, cut, values[seen], cut.x[seen], cut.cutoff, order=order),
            )
            for name, values in zip(names, cut.units.covariates.T, strict=True)
            for seen in [~np.isnan(values)]
        ],
        "bh",
    )
    if names:
        refutations.run("covariate_jumps", lambda: check_covariate_jumps(covariates))
    return cutoffs, covariates


def _refits(cut: Cut, order: int) -> dict[str, tuple[str, str, Sequence[JumpCheck], str]]:
    """Title, setting, jumps and what a change says, by the name of the refutation."""
    away = np.abs(cut.x - cut.cutoff)
    other = [
        _moved("order", 3.0 - order, partial(_jump, cut, cut.y, cut.x, cut.cutoff, order=3 - order))
    ]
    windows = [
        _moved("window", reach, partial(_kept, cut, order, away <= reach))
        for reach in _reaches(cut)
    ]
    donut = [
        _moved("donut", radius, partial(_kept, cut, order, away > radius)) for radius in _radii(cut)
    ]
    return {
        "polynomial_order": (
            "The jump with another curvature",
            "order",
            other,
            "the jump hangs on the curvature that is assumed",
        ),
        "window": (
            "The jump from the rows nearer the cutoff",
            "reach",
            windows,
            "the jump hangs on the rows far from the cutoff",
        ),
        "donut": (
            "The jump without the nearest rows",
            "radius",
            donut,
            "the jump hangs on the rows nearest the cutoff",
        ),
    }


def _reaches(cut: Cut) -> list[float]:
    """Distances from the cutoff that hold parts of the nearer side."""
    is_above = cut.x >= cut.cutoff
    nearer = min(float(np.abs(cut.x[side] - cut.cutoff).max()) for side in (is_above, ~is_above))
    return [share * nearer for share in SHARES]


def _radii(cut: Cut) -> list[float]:
    """Distance that holds the nearest value of each side."""
    away = np.abs(cut.x - cut.cutoff)
    is_above = cut.x >= cut.cutoff
    return [max(float(away[is_above].min()), float(away[~is_above].min()))]


def _kept(cut: Cut, order: int, rows: BoolArray) -> Estimate:
    return _jump(cut, cut.y[rows], cut.x[rows], cut.cutoff, order=order)


def _moved(name: str, value: float | None, jump: Callable[[], Estimate]) -> JumpCheck:
    try:
        return JumpCheck(name=name, value=value, estimate=jump(), reason=None)
    except EstimationError as error:
        return JumpCheck(name=name, value=value, estimate=None, reason=error.code)


def _adjusted(checks: Sequence[JumpCheck], method: Literal["holm", "bh"]) -> Sequence[JumpCheck]:
    p_values = [
        check.estimate.p_value
        for check in checks
        if check.estimate is not None and check.estimate.p_value is not None
    ]
    adjusted = iter(adjusted_p_values(p_values, method) if p_values else ())
    return [
        check if check.estimate is None else replace(check, p_adjusted=next(adjusted))
        for check in checks
    ]


def _check_moved(
    name: str, found: Estimate, checks: Sequence[JumpCheck], against: str
) -> CheckOutcome:
    """Warn where another setting changes the sign or half the jump."""
    jumps = [check.estimate.estimate for check in checks if check.estimate is not None]
    if not jumps:
        detail = f"{len(checks)} settings, none with an estimate"
        raise EstimationError(str(checks[0].reason), name, detail)
    full = found.estimate
    change = max(abs(jump - full) for jump in jumps) / abs(full) if full else None
    return judged(
        name,
        passed=change is not None and change <= FRAGILE_CHANGE,
        severity="WARN",
        value=change,
        threshold=FRAGILE_CHANGE,
        shown=f"jump {full:.4g}, elsewhere {min(jumps):.4g} to {max(jumps):.4g}",
        against=against,
    )


def _curves(cut: Cut, order: int) -> tuple[Sequence[FitPoint], Sequence[FitPoint]]:
    """The polynomial of each side from its end to the cutoff."""
    is_above = cut.x >= cut.cutoff
    curves = []
    for side, ends in (
        (~is_above, (float(cut.x.min()), cut.cutoff)),
        (is_above, (cut.cutoff, float(cut.x.max()))),
    ):
        fit = np.polynomial.Polynomial.fit(cut.x[side], cut.y[side], order)
        places = np.linspace(*ends, 40)
        curves.append(list(zip(places.tolist(), fit(places).tolist(), strict=True)))
    return curves[0], curves[1]
