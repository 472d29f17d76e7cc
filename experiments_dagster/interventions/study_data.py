"""The numbers of a study frame as arrays: what designs read, wherever the rows come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# In frames: columns of covariates and of placebo outcomes begin with these.
COVARIATE, PLACEBO = "x.", "placebo."


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Units by periods, long: a row per unit and period with a known outcome.

    Args:
        outcome: Shape (n,), finite.
        unit: Index into `units`, shape (n,).
        period: Index into `labels`, shape (n,).
        units: Names, in order.
        labels: Names of the periods, in order.
        first_treated: Index of each unit's first treated period, shape (N,); infinite where never.
        covariates: Values by column, shape (n,) each; NaN where missing.
        has_units: False where every row is a unit of its own (repeated cross-sections).
        outcome_name: For people.
    """

    outcome: FloatArray
    unit: IntArray
    period: IntArray
    units: tuple[str, ...]
    labels: tuple[str, ...]
    first_treated: FloatArray
    covariates: Mapping[str, FloatArray] = field(default_factory=dict)
    has_units: bool = True
    outcome_name: str = "outcome"

    @property
    def n_pre(self) -> int:
        """Periods before anybody is treated."""
        return int(self.first_treated.min())

    @property
    def is_treated_unit(self) -> BoolArray:
        """Whether each unit is ever treated, shape (N,)."""
        return np.isfinite(self.first_treated)

    def wide(self, values: FloatArray | None = None) -> FloatArray:
        """Outcome (or another column) as a table, shape (T, N); NaN where there is no row."""
        table = np.full((len(self.labels), len(self.units)), np.nan)
        table[self.period, self.unit] = self.outcome if values is None else values
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """A row per unit.

    Args:
        names: Of the units, shape (n,).
        outcome: Shape (n,), finite.
        treated: Shape (n,), or None where nobody's treatment is recorded (a sharp cutoff).
        running: The variable that the cutoff is about, shape (n,), or None.
        covariates: Shape (n, p); `covariate_names` has p names. Finite, but for a cutoff, where
            NaN is missing.
        placebo_outcomes: Values by name, shape (n,) each; as the covariates.
        outcome_name: For people.
        n_left_out: Rows of the source that are not here, by reason.
    """

    names: tuple[str, ...]
    outcome: FloatArray
    treated: BoolArray | None
    running: FloatArray | None
    covariates: FloatArray
    covariate_names: tuple[str, ...]
    placebo_outcomes: Mapping[str, FloatArray] = field(default_factory=dict)
    outcome_name: str = "outcome"
    n_left_out: Mapping[str, int] = field(default_factory=dict)

    def keep(self, mask: BoolArray) -> Units:
        """The same with fewer units; `mask` has shape (n,)."""
        return replace(
            self,
            names=tuple(name for name, kept in zip(self.names, mask, strict=True) if kept),
            outcome=self.outcome[mask],
            treated=None if self.treated is None else self.treated[mask],
            running=None if self.running is None else self.running[mask],
            covariates=self.covariates[mask],
            placebo_outcomes={name: v[mask] for name, v in self.placebo_outcomes.items()},
        )


def panel_of(rows: pl.DataFrame, *, has_units: bool, outcome_name: str) -> Panel:
    """Read a panel frame: unit, period, label, outcome, first_treated, covariates."""
    units = rows.select("unit", "first_treated").unique("unit").sort("unit")
    periods = rows.select("period", "label").unique("period").sort("period")
    index = units.select("unit").with_row_index("index")
    unit = rows.select("unit").join(index, on="unit", how="left", maintain_order="left")["index"]
    names = [name for name in rows.columns if name.startswith(COVARIATE)]
    first = units["first_treated"].cast(pl.Float64).fill_null(np.inf)
    return Panel(
        outcome=rows["outcome"].to_numpy(),
        unit=unit.cast(pl.Int64).to_numpy(),
        period=rows["period"].to_numpy(),
        units=tuple(units["unit"].to_list()),
        labels=tuple(periods["label"].to_list()),
        first_treated=first.to_numpy(),
        covariates={
            name.removeprefix(COVARIATE): rows[name].fill_null(np.nan).to_numpy() for name in names
        },
        has_units=has_units,
        outcome_name=outcome_name,
    )


def units_of(
    rows: pl.DataFrame, *, outcome_name: str, n_left_out: Mapping[str, int] | None = None
) -> Units:
    """Read a units frame: unit, outcome, treated, running, covariates, placebo outcomes."""
    names = [name for name in rows.columns if name.startswith(COVARIATE)]
    placebos = [name for name in rows.columns if name.startswith(PLACEBO)]
    has = set(rows.columns)
    return Units(
        names=tuple(rows["unit"].to_list()),
        outcome=rows["outcome"].to_numpy(),
        treated=rows["treated"].to_numpy() if "treated" in has else None,
        running=rows["running"].to_numpy() if "running" in has else None,
        covariates=rows.select(pl.col(names).fill_null(np.nan)).to_numpy()
        if names
        else np.empty((rows.height, 0)),
        covariate_names=tuple(name.removeprefix(COVARIATE) for name in names),
        placebo_outcomes={name.removeprefix(PLACEBO): rows[name].to_numpy() for name in placebos},
        outcome_name=outcome_name,
        n_left_out=dict(n_left_out or {}),
    )
