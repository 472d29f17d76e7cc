"""Refutations of a regression discontinuity: settings moved to where the jump should not change.

    placebo cutoffs   no jump where no rule starts, each with the rows of one side only
    covariates        no jump of what was fixed before treatment
    bandwidth         about the same jump at half to twice the bandwidth
    donut             about the same jump without the rows nearest the cutoff

p-values of placebos are adjusted by Holm, those of covariates by Benjamini and Hochberg. A setting
without an estimate keeps its reason; it is no passed check. METHODS 11.7.

References:
    Cattaneo, Idrobo & Titiunik 2020, section 5; Imbens & Lemieux 2008.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.causal.units.discontinuity import cut_sides, estimate_discontinuity
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import unit_column
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.stats.records import Estimate

MULTIPLES = (0.5, 0.75, 1.25, 1.5, 2.0)
PLACEBO_QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpCheck:
    """One refutation: the robust jump where a setting is moved, or why there is none.

    `value` is the setting: a cutoff, a bandwidth or a radius; `p_adjusted` is set for families.
    """

    name: str
    value: float | None
    estimate: Estimate | None
    reason: str | None
    p_adjusted: float | None = None


def placebo_cutoffs(
    y: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    cutoffs: Sequence[float] | None = None,
    alpha: float = 0.05,
) -> tuple[JumpCheck, ...]:
    """Estimate jumps where nothing happens, each with the rows of one side of the cutoff only.

    Args:
        y: Outcome, shape (n,).
        x: Running variable, shape (n,).
        cutoff: The real one.
        cutoffs: Pretended ones, none equal to it; default the quartiles of each side.
        alpha: Two-sided level of each.

    Returns:
        One check per placebo with p-values adjusted by Holm over those estimable.

    Raises:
        EstimationError: NON_FINITE_INPUT, N_TOO_SMALL.
        ValueError: A placebo at the cutoff.
    """
    left, right = cut_sides(y, x, cutoff)
    if cutoffs is None:
        places = [
            float(place) + cutoff
            for side in (left, right)
            for place in np.quantile(side.x, PLACEBO_QUANTILES)
        ]
    else:
        places = [float(place) for place in cutoffs]
    if any(place == cutoff for place in places):
        msg = f"placebo cutoff {cutoff} is the cutoff itself"
        raise ValueError(msg)

    def jump_at(place: float) -> Estimate:
        side = left if place < cutoff else right
        return estimate_discontinuity(side.y, side.x, place - cutoff, alpha=alpha).robust

    checks = [_check("placebo_cutoff", place, partial(jump_at, place)) for place in places]
    return _adjusted(checks, "holm")


def bandwidth_sensitivity(
    y: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    multiples: Sequence[float] = MULTIPLES,
    alpha: float = 0.05,
) -> tuple[JumpCheck, ...]:
    """Estimate the jump with h and b at multiples of their optimal values.

    `value` of each check is its bandwidth h. Arguments and errors otherwise as
    `estimate_discontinuity`.
    """
    optimal = estimate_discontinuity(y, x, cutoff, alpha=alpha)
    ratio = optimal.bias_bandwidth / optimal.bandwidth

    def jump_with(h: float) -> Estimate:
        return estimate_discontinuity(
            y, x, cutoff, bandwidth=h, bias_bandwidth=h * ratio, alpha=alpha
        ).robust

    widths = [multiple * optimal.bandwidth for multiple in multiples]
    return tuple(_check("bandwidth", h, partial(jump_with, h)) for h in widths)


def donut_sensitivity(
    y: ArrayLike, x: ArrayLike, cutoff: float, *, radii: Sequence[float], alpha: float = 0.05
) -> tuple[JumpCheck, ...]:
    """Estimate the jump without the rows nearest the cutoff, where choosing a side is easiest.

    Args:
        y: Outcome, shape (n,).
        x: Running variable, shape (n,).
        cutoff: Where treatment starts.
        radii: Rows within each radius of the cutoff are left out, in units of x.
        alpha: Two-sided level.

    Raises:
        EstimationError: NON_FINITE_INPUT.
    """
    outcome, running = unit_column(y, "y"), unit_column(x, "running variable")

    def jump_outside(radius: float) -> Estimate:
        kept = np.abs(running - cutoff) > radius
        return estimate_discontinuity(outcome[kept], running[kept], cutoff, alpha=alpha).robust

    return tuple(_check("donut", radius, partial(jump_outside, radius)) for radius in radii)


def covariate_jumps(
    covariates: ArrayLike,
    x: ArrayLike,
    cutoff: float,
    *,
    names: Sequence[str],
    alpha: float = 0.05,
) -> tuple[JumpCheck, ...]:
    """Estimate the jump of what was fixed before treatment; all should be zero.

    Args:
        covariates: Shape (n, p); NaN is missing, and that row is left out for that covariate.
        x: Running variable, shape (n,).
        cutoff: Where treatment starts.
        names: One per column.
        alpha: Two-sided level of each.

    Returns:
        One check per covariate, p-values adjusted by Benjamini and Hochberg over those estimable.

    Raises:
        ValueError: Shapes that do not match.
    """
    matrix = np.asarray(covariates, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(names):  # noqa: PLR2004
        msg = f"covariates have shape {matrix.shape}, need (n, {len(names)})"
        raise ValueError(msg)
    columns = dict(zip(names, matrix.T, strict=True))
    if len(columns) != len(names):
        msg = f"names of covariates repeat: {', '.join(names)}"
        raise ValueError(msg)

    running = np.asarray(x, dtype=np.float64)

    def jump_of(name: str) -> Estimate:
        seen = ~np.isnan(columns[name])
        return estimate_discontinuity(
            columns[name][seen], running[seen], cutoff, alpha=alpha
        ).robust

    checks = [_check(name, None, partial(jump_of, name)) for name in names]
    return _adjusted(checks, "bh")


def _check(name: str, value: float | None, jump: Callable[[], Estimate]) -> JumpCheck:
    try:
        return JumpCheck(name=name, value=value, estimate=jump(), reason=None)
    except EstimationError as error:
        return JumpCheck(name=name, value=value, estimate=None, reason=error.code)


def _adjusted(checks: Sequence[JumpCheck], method: Literal["holm", "bh"]) -> tuple[JumpCheck, ...]:
    p_values = [
        check.estimate.p_value
        for check in checks
        if check.estimate is not None and check.estimate.p_value is not None
    ]
    adjusted = iter(adjusted_p_values(p_values, method) if p_values else ())
    return tuple(
        check if check.estimate is None else replace(check, p_adjusted=next(adjusted))
        for check in checks
    )
