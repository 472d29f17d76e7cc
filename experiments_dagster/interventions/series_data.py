"""One series with its covariates as arrays: what the time-series design reads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesData:
    """One outcome over equal periods, before and after an intervention.

    Args:
        name: Of the outcome, for people.
        dates: First day of each period, in order.
        observed: Outcome, shape (n,); NaN where missing.
        covariates: What the intervention does not touch, shape (n, p).
        covariate_names: p names.
        n_pre: Periods before the intervention.
        treated: Who or what was treated, in words.
        controls: What the counterfactual is built from, in words.
        display_unit: Unit of the outcome.
    """

    name: str
    dates: tuple[dt.date, ...]
    observed: FloatArray
    covariates: FloatArray
    covariate_names: tuple[str, ...]
    n_pre: int
    treated: str
    controls: str
    display_unit: str | None = None

    def __post_init__(self) -> None:
        n, shape = len(self.dates), (len(self.dates), len(self.covariate_names))
        if self.observed.shape != (n,) or self.covariates.shape != shape:
            msg = (
                f"{self.name}: {n} dates, {len(self.covariate_names)} names, outcome "
                f"{self.observed.shape}, covariates {self.covariates.shape}; need (n,) and (n, p)"
            )
            raise ValueError(msg)
