"""What `experiments compare` prints as JSON: rows of effects, margin tests and effect sizes.

A quantity that cannot be computed is a row with status, reason and detail, and no numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scipy.special import ndtr

from experiments_dagster.cli.compare_methods import METHODS, Comparison, Pair
from experiments_dagster.cli.compare_request import Request
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import Contrast, Estimate

Row = dict[str, Any]
Found = Mapping[str, Comparison | EstimationError]

FIELDS = tuple(field.name for field in dataclasses.fields(Estimate))
LIFTS = {
    "difference": "relative_difference",
    "quantile_difference": "relative_quantile_difference",
}
OK: Row = {"status": "ok", "reason": None, "detail": None}


def effect_rows(arm: str, name: str, comparison: Comparison | EstimationError) -> list[Row]:
    """The effects of one treatment: the difference first, then the lift and what stands beside."""
    if isinstance(comparison, EstimationError):
        numbers = dict.fromkeys(FIELDS) | {"estimand": METHODS[name].estimand, "method": name}
        return [{"treatment": arm} | _refused(comparison) | numbers]
    rows = [
        {"treatment": arm} | OK | dataclasses.asdict(estimate) | dict(comparison.details)
        for estimate in comparison.estimates
    ]
    if comparison.lift_reason is not None:
        first = comparison.estimates[0]
        error = EstimationError(comparison.lift_reason, "lift")
        numbers = dict.fromkeys(FIELDS) | {
            "estimand": LIFTS[first.estimand],
            "method": first.method,
        }
        rows.insert(1, {"treatment": arm} | _refused(error) | numbers)
    return rows


def _refused(error: EstimationError) -> Row:
    return {"status": "not_estimable", "reason": error.code, "detail": str(error)}


def add_simultaneous(
    rows: list[Row], found: Found, pairs: Mapping[str, Pair], alpha: float
) -> None:
    """Put p-values and limits that hold for all treatments together into the differences.

    The degrees of freedom are the smallest of any treatment, so that no adjusted p-value is below
    the plain one.
    """
    from experiments_dagster.stats.dunnett import compare_with_control

    names = ("p_adjusted", "simultaneous_ci_low", "simultaneous_ci_high")
    for row in rows:
        row.update(dict.fromkeys(names))
    family = _family(found)
    if not family:
        return
    degrees = [
        contrast.difference.degrees_of_freedom
        for contrast in family.values()
        if contrast.difference.degrees_of_freedom is not None
    ]
    result = compare_with_control(
        [contrast.difference.estimate for contrast in family.values()],
        variance_control=[contrast.variance_control for contrast in family.values()],
        variance_treatments=[contrast.variance_treatment for contrast in family.values()],
        alpha=alpha,
        df=min(degrees, default=None),
    )
    for arm, adjusted in zip(family, result.contrasts, strict=True):
        limits = adjusted.ci_low, adjusted.ci_high
        if family[arm].difference.method == "pooled_z":
            limits = _score_limits(pairs[arm], result.critical_value)
        difference = next(row for row in rows if row["treatment"] == arm)
        difference.update(zip(names, (adjusted.p_value, *limits), strict=True))


def _family(found: Found) -> dict[str, Contrast]:
    return {
        arm: comparison.contrast
        for arm, comparison in found.items()
        if isinstance(comparison, Comparison) and comparison.contrast is not None
    }


def _score_limits(pair: Pair, critical: float) -> tuple[float, float]:
    """The interval that inverts the pooled z test at a critical value."""
    from experiments_dagster.stats.methods.moments.score_interval import score_interval

    return score_interval(*pair.successes(), alpha=2 * float(ndtr(-critical)))


def margin_rows(request: Request, found: Found) -> list[Row]:
    """Equivalence within the margin, or with a direction non-inferiority, of each treatment."""
    rows = []
    for arm, comparison in found.items():
        row: Row = {"treatment": arm}
        try:
            if isinstance(comparison, EstimationError):
                raise comparison
            row |= OK | _margin_test(request, comparison)
        except EstimationError as error:
            row |= _refused(error) | {"test": _margin_name(request)}
        rows.append(row)
    return rows


def _margin_name(request: Request) -> str:
    return "equivalence" if request.direction is None else "non_inferiority"


def _margin_test(request: Request, comparison: Comparison) -> Row:
    from experiments_dagster.stats.methods.moments.equivalence import Equivalence, equivalence
    from experiments_dagster.stats.methods.moments.non_inferiority import (
        NonInferiority,
        non_inferiority,
    )

    contrast = comparison.margin_contrast
    if contrast is None or request.margin is None:
        raise EstimationError("NOT_IDENTIFIED", "margin", "this effect has no normal score")
    is_relative = request.margin_scale == "relative"
    test: Equivalence | NonInferiority
    if request.direction is None:
        test = equivalence(
            contrast, margin=request.margin, relative=is_relative, alpha=request.alpha
        )
        conclusion = {"is_equivalent": test.is_equivalent}
    else:
        test = non_inferiority(
            contrast,
            margin=request.margin,
            higher_is_better=request.direction == "increase",
            relative=is_relative,
            alpha=request.alpha,
        )
        conclusion = {"is_non_inferior": test.is_non_inferior, "is_inferior": test.is_inferior}
    difference = contrast.difference
    return {
        "test": _margin_name(request),
        "method": difference.method,
        # A relative margin is tested with a control mean above zero only.
        "estimate": difference.estimate / (difference.control_mean if is_relative else 1.0),
        **dataclasses.asdict(test),
        **conclusion,
    }


def effect_size_rows(request: Request, pairs: Mapping[str, Pair]) -> list[Row]:
    """Standardised differences, for readers who know those."""
    from experiments_dagster.stats.methods.moments import effect_size

    rows = []
    for arm, pair in pairs.items():
        row: Row = {"treatment": arm}
        try:
            control, treatment = pair.moments()
            row |= OK | {
                name: getattr(effect_size, name)(control, treatment)
                for name in ("cohen_d", "hedges_g", "glass_delta")
            }
            if request.kind == "proportion":
                row["cohen_h"] = effect_size.cohen_h(control.mean("y"), treatment.mean("y"))
        except EstimationError as error:
            row |= _refused(error)
        rows.append(row)
    return rows
