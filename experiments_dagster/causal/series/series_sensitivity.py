"""What a time-series effect hangs on: refits on less, and covariates that move by themselves.

    left out       the effect without each covariate, and with the last steps before the
                   intervention hidden from the fit; a changed sign or more than half is fragile
    own breaks     each covariate as an outcome of its own (`impact` without covariates): a change
                   at the intervention says that it may be touched. p-values adjusted by Holm

A refit that the data do not allow keeps its reason; it is no passed check. METHODS 11.1, 11.12.

References:
    Brodersen et al. 2015, section 2 (covariates must be untouched); Abadie, Diamond & Hainmueller
    2015 (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.records import (
    EffectInterval,
    FloatArray,
    refuse_non_finite,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.multiplicity import adjusted_p_values

# From outcome (n,) and covariates (n, p) to the effect by the whole method.
EffectOf = Callable[[FloatArray, FloatArray], float]
LeftOut = Literal["covariate", "last_pre_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The effect without one thing, or why there is none."""

    left_out: str
    effect: float | None
    reason: str | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSensitivity:
    """Effects of refits beside the full one."""

    kind: LeftOut
    full_effect: float
    refits: tuple[Refit, ...]

    def __post_init__(self) -> None:
        refuse_non_finite(self)

    @property
    def largest_change(self) -> float | None:
        """|refit/full − 1| at its largest; None without a refit, or where the full effect is 0."""
        effects = [refit.effect for refit in self.refits if refit.effect is not None]
        if not effects or self.full_effect == 0:
            return None
        return max(abs(effect / self.full_effect - 1) for effect in effects)


@dataclass(frozen=True, slots=True, kw_only=True)
class CovariateBreak:
    """The change of one covariate at the intervention, average over the post period."""

    name: str
    change: EffectInterval | None
    p_value: float | None
    p_adjusted: float | None
    reason: str | None


def leave_one_covariate_out(
    effect_of: EffectOf, observed: FloatArray, covariates: FloatArray, *, names: Sequence[str]
) -> SeriesSensitivity:
    """Refit without each covariate.

    Args:
        effect_of: The whole method.
        observed: Outcome, shape (n,).
        covariates: Shape (n, p).
        names: One per covariate.

    Raises:
        EstimationError: As `effect_of` on all data.
        ValueError: Names that do not match the covariates.
    """
    _check_names(covariates, names)
    full = effect_of(observed, covariates)
    refits = tuple(
        _refit(name, partial(effect_of, observed, np.delete(covariates, column, axis=1)))
        for column, name in enumerate(names)
    )
    return SeriesSensitivity(kind="covariate", full_effect=full, refits=refits)


def drop_last_pre(
    effect_of: EffectOf,
    observed: FloatArray,
    covariates: FloatArray,
    n_pre: int,
    *,
    n_dropped: Sequence[int] = (7, 14, 21),
) -> SeriesSensitivity:
    """Refit with the last outcomes before the intervention missing.

    Args:
        effect_of: The whole method, which takes NaN for a missing outcome.
        observed: Outcome, shape (n,).
        covariates: Shape (n, p).
        n_pre: Number of steps before the intervention.
        n_dropped: Numbers of steps to hide, each below `n_pre`; 1, 2, 3 for weeks.

    Raises:
        EstimationError: As `effect_of` on all data.
        ValueError: Numbers that make no sense.
    """
    if not n_dropped or not all(0 < n < n_pre for n in n_dropped):
        msg = f"n_dropped {list(n_dropped)}; need numbers of steps from 1 to {n_pre - 1}"
        raise ValueError(msg)

    def without_last(n_hidden: int) -> float:
        hidden = np.array(observed, dtype=np.float64)
        hidden[n_pre - n_hidden : n_pre] = np.nan
        return effect_of(hidden, covariates)

    full = effect_of(observed, covariates)
    refits = tuple(_refit(f"last {n} steps", partial(without_last, n)) for n in n_dropped)
    return SeriesSensitivity(kind="last_pre_steps", full_effect=full, refits=refits)


def covariate_breaks(
    covariates: FloatArray,
    n_pre: int,
    *,
    names: Sequence[str],
    season: int | None = None,
    min_pre_points: int,
    seed: int,
    alpha: float = 0.05,
) -> tuple[CovariateBreak, ...]:
    """Test each covariate for a change of its own at the intervention.

    Args:
        covariates: Shape (n, p).
        n_pre: Number of steps before the intervention.
        names: One per covariate.
        season: As in `estimate_impact`.
        min_pre_points: As in `estimate_impact`.
        seed: Of the paths.
        alpha: 1 - confidence level of each change.

    Raises:
        ValueError: Names that do not match the covariates.
    """
    _check_names(covariates, names)
    nothing = np.empty((len(covariates), 0))
    found = []
    for name, column in zip(names, covariates.T, strict=True):
        try:
            result = estimate_impact(
                column,
                nothing,
                n_pre,
                season=season,
                min_pre_points=min_pre_points,
                seed=seed,
                alpha=alpha,
            )
        except EstimationError as error:
            found.append(_break(name, reason=error.code))
        else:
            found.append(_break(name, change=result.average, p_value=result.p_value))
    p_values = [row.p_value for row in found if row.p_value is not None]
    adjusted = iter(adjusted_p_values(p_values, "holm") if p_values else ())
    return tuple(
        row if row.p_value is None else replace(row, p_adjusted=next(adjusted)) for row in found
    )


def _break(
    name: str,
    *,
    change: EffectInterval | None = None,
    p_value: float | None = None,
    reason: str | None = None,
) -> CovariateBreak:
    return CovariateBreak(name=name, change=change, p_value=p_value, p_adjusted=None, reason=reason)


def _refit(left_out: str, effect: Callable[[], float]) -> Refit:
    try:
        return Refit(left_out=left_out, effect=effect(), reason=None)
    except EstimationError as error:
        return Refit(left_out=left_out, effect=None, reason=error.code)


def _check_names(covariates: FloatArray, names: Sequence[str]) -> None:
    if covariates.ndim != 2 or covariates.shape[1] != len(names) or len(set(names)) != len(names):  # noqa: PLR2004
        msg = f"covariates {covariates.shape}, names {list(names)}; need a name of its own for each"
        raise ValueError(msg)
