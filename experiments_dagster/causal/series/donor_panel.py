"""One treated unit (or a few) beside untouched donors: outcomes, predictors and what is refused.

Columns are units, rows are equally spaced steps. A donor that is itself treated while the study
runs would lend its own effect to the counterfactual, and a predictor that reads a step after the
intervention would leak the effect into the fit: both are refused here, before any estimator.
Estimation does not belong here.

References:
    Abadie, Diamond & Hainmueller 2010, section 2; Abadie 2021, section 5 (contextual conditions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.stats.errors import EstimationError

IntArray = NDArray[np.int64]
FEWEST_DONORS = 2
FEWEST_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorPanel:
    """Outcomes of all units, shape (T, N); `treated` and `donors` are columns.

    The intervention begins at step `n_pre`. Fits read the first `n_fit` steps only: all `n_pre`,
    or fewer where the last ones are held out. Build it by `build_panel`.
    """

    outcomes: FloatArray
    treated: tuple[int, ...]
    donors: IntArray
    n_pre: int
    n_fit: int

    def __post_init__(self) -> None:
        units = [*self.treated, *self.donors.tolist()]
        if len(set(units)) < len(units):
            msg = f"treated {self.treated} and donors {self.donors.tolist()} share a column"
            raise ValueError(msg)
        if len(self.donors) < FEWEST_DONORS:
            detail = f"{len(self.donors)} donors, need {FEWEST_DONORS}"
            raise EstimationError("N_TOO_SMALL", "donors", detail)
        if not FEWEST_STEPS <= self.n_fit <= self.n_pre < len(self.outcomes):
            detail = (
                f"{len(self.outcomes)} steps, fit on {self.n_fit}, intervention at {self.n_pre}; "
                f"need {FEWEST_STEPS} before and 1 after"
            )
            raise EstimationError("N_TOO_SMALL", "steps before and after the intervention", detail)

    @property
    def treated_path(self) -> FloatArray:
        """Mean outcome of the treated units, shape (T,)."""
        path: FloatArray = self.outcomes[:, self.treated].mean(axis=1)
        return path

    @property
    def donor_paths(self) -> FloatArray:
        """Outcomes of the donors, shape (T, J)."""
        return self.outcomes[:, self.donors]

    @property
    def n_post(self) -> int:
        """Number of steps from the intervention on."""
        return len(self.outcomes) - self.n_pre

    def without_donor(self, donor: int) -> DonorPanel:
        """Return the panel without one donor column."""
        return replace(self, donors=self.donors[self.donors != donor])

    def as_if_treated(self, donor: int) -> DonorPanel:
        """Return the panel of the other donors with `donor` in the place of the treated."""
        return replace(self, treated=(donor,), donors=self.donors[self.donors != donor])

    def holding_out(self, n_steps: int) -> DonorPanel:
        """Return the panel whose fits do not read the last `n_steps` before the intervention."""
        return replace(self, n_fit=self.n_fit - n_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A characteristic to match on: the mean of `values`, shape (T, N), over [first, stop).

    NaN steps are left out of the mean. Pass an outcome of one year as a window of one step.
    """

    values: FloatArray
    first: int
    stop: int


def build_panel(
    outcomes: FloatArray,
    *,
    treated: Sequence[int],
    n_pre: int,
    treated_at: FloatArray,
    donors: Sequence[int] | None = None,
) -> DonorPanel:
    """Check the design and return the panel.

    Args:
        outcomes: Shape (T, N), one column per unit; units that are not used may hold NaN.
        treated: Columns of the units whose effect is wanted.
        n_pre: Number of steps before the intervention.
        treated_at: Step at which each unit is first treated, shape (N,); infinite for never.
        donors: Columns to draw the counterfactual from; all other columns by default.

    Raises:
        EstimationError: NOT_IDENTIFIED (a donor is treated within the data, or a treated unit
            before `n_pre`), NON_FINITE_INPUT (missing outcome), N_TOO_SMALL.
        ValueError: Shapes or columns make no sense.
    """
    outcomes = np.array(outcomes, dtype=np.float64)
    treated_at = np.asarray(treated_at, dtype=np.float64)
    if (outcomes.ndim, treated_at.ndim) != (2, 1) or len(treated_at) != outcomes.shape[1]:
        msg = f"outcomes {outcomes.shape}, treated_at {treated_at.shape}; need (T, N) and (N,)"
        raise ValueError(msg)
    n_units = outcomes.shape[1]
    if donors is None:
        donors = [column for column in range(n_units) if column not in treated]
    units = [*treated, *donors]
    if not treated or not all(0 <= column < n_units for column in units):
        msg = f"treated {list(treated)} and donors {list(donors)}; need columns 0..{n_units - 1}"
        raise ValueError(msg)
    _refuse_treated_donors(treated_at, donors, len(outcomes))
    _refuse_early_treatment(treated_at, treated, n_pre)
    is_bad = ~np.isfinite(outcomes[:, units])
    if is_bad.any():
        step, position = np.argwhere(is_bad)[0]
        detail = f"column {units[position]} at step {step}; hint: leave the donor out"
        raise EstimationError("NON_FINITE_INPUT", "outcomes", detail)
    outcomes.flags.writeable = False
    return DonorPanel(
        outcomes=outcomes,
        treated=tuple(int(column) for column in treated),
        donors=np.array(donors, dtype=np.int64),
        n_pre=n_pre,
        n_fit=n_pre,
    )


def predictor_means(panel: DonorPanel, predictors: Sequence[Predictor]) -> FloatArray:
    """Return the window means, shape (k, N), of windows cut at the last step a fit may read.

    Raises:
        EstimationError: NOT_IDENTIFIED (a window reaches the intervention, or lies wholly in the
            steps held out), NON_FINITE_INPUT (a unit without any value in a window).
        ValueError: Shapes or windows make no sense.
    """
    rows = np.full((len(predictors), panel.outcomes.shape[1]), np.nan)
    units = [*panel.treated, *panel.donors.tolist()]
    for row, (index, predictor) in zip(rows, enumerate(predictors), strict=True):
        window = _window(panel, predictor, f"predictor {index}")[:, units]
        is_seen = np.isfinite(window)
        counts = is_seen.sum(axis=0)
        if not counts.all():
            empty = units[int(np.argmin(counts))]
            detail = f"column {empty} has no value in its window"
            raise EstimationError("NON_FINITE_INPUT", f"predictor {index}", detail)
        row[units] = np.where(is_seen, window, 0.0).sum(axis=0) / counts
    return rows


def _window(panel: DonorPanel, predictor: Predictor, subject: str) -> FloatArray:
    values = np.asarray(predictor.values, dtype=np.float64)
    if values.shape != panel.outcomes.shape:
        msg = f"{subject}: values {values.shape}; need {panel.outcomes.shape} as the outcomes"
        raise ValueError(msg)
    if not 0 <= predictor.first < predictor.stop:
        msg = f"{subject}: window [{predictor.first}, {predictor.stop}); need 0 <= first < stop"
        raise ValueError(msg)
    if predictor.stop > panel.n_pre:
        detail = (
            f"window ends at step {predictor.stop}, the intervention is at {panel.n_pre}; "
            "hint: a predictor may not read what the intervention can change"
        )
        raise EstimationError("NOT_IDENTIFIED", subject, detail)
    if predictor.first >= panel.n_fit:
        detail = f"window begins at step {predictor.first}, the fit ends at {panel.n_fit}"
        raise EstimationError("NOT_IDENTIFIED", subject, detail)
    return values[predictor.first : min(predictor.stop, panel.n_fit)]


def _refuse_treated_donors(treated_at: FloatArray, donors: Sequence[int], n_steps: int) -> None:
    at = treated_at[list(donors)]
    # Written so that NaN, an unknown date, is refused too.
    is_clean = at >= n_steps
    if not is_clean.all():
        first = int(np.argmin(is_clean))
        detail = (
            f"column {donors[first]} is treated at step {at[first]:g}, {int((~is_clean).sum())} in "
            f"all; hint: donors are never treated within the {n_steps} steps"
        )
        raise EstimationError("NOT_IDENTIFIED", "treated donors", detail)


def _refuse_early_treatment(treated_at: FloatArray, treated: Sequence[int], n_pre: int) -> None:
    for column in treated:
        if not treated_at[column] >= n_pre:
            detail = f"column {column} is treated at step {treated_at[column]:g}, before {n_pre}"
            raise EstimationError("NOT_IDENTIFIED", "pre period", detail)


def refuse_several_treated(panel: DonorPanel, method: str) -> None:
    """Raise ValueError where a method for one treated unit gets several."""
    if len(panel.treated) != 1:
        msg = f"{method}: {len(panel.treated)} treated units; need 1, or average them first"
        raise ValueError(msg)


def rmspe(gap: FloatArray) -> float:
    """Root mean squared gap."""
    return float(np.sqrt(np.mean(gap**2)))
