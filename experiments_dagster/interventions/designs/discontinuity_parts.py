"""What both studies of a cutoff share: words, tables of moved jumps, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.units.density import DensityTest, density_jump
from experiments_dagster.causal.units.discontinuity import FEWEST_ROWS
from experiments_dagster.causal.units.discontinuity_checks import JumpCheck
from experiments_dagster.causal.units.unit_checks import check_density, check_placebo_outcomes
from experiments_dagster.config.intervention import DiscontinuityDesign
from experiments_dagster.interventions.study import (
    Picture,
    Refutations,
    Study,
    StudyTable,
    Value,
    table_of,
)
from experiments_dagster.interventions.study_data import FloatArray, Units
from experiments_dagster.reporting.discontinuity_charts import (
    FitPoint,
    binned_means,
    count_bins,
    density_chart,
    discontinuity_chart,
)
from experiments_dagster.reporting.numbers import count
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import Estimate

RUNNING = "running variable"
NO_DENSITY = "so few rows, or cells, do not tell whether units chose a side"
NOTHING_FIXED = "no covariate or outcome was named that was fixed before the rule applied"

# The jump of any outcome at the cutoff, treated side less the other.
JumpOf = Callable[[FloatArray, FloatArray], Estimate]
"""Values and running variable of the same rows to the jump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The rows of a study of a cutoff.

    A unit at the cutoff belongs to the side above. `sign` is −1 where the treated side is below:
    jumps are taken from below to above, and effects are those of the treated side.
    """

    units: Units
    design: DiscontinuityDesign
    y: FloatArray
    x: FloatArray
    sign: int

    @property
    def cutoff(self) -> float:
        """Where treatment starts or ends."""
        return self.design.cutoff


def cut_of(units: Units, design: DiscontinuityDesign) -> Cut:
    """The rows with the side that is treated.

    Raises:
        ValueError: There is no running variable, or a fuzzy rule without a record of take-up.
    """
    if units.running is None or (design.is_fuzzy and units.treated is None):
        msg = "a discontinuity needs the running variable, a fuzzy one also who was treated"
        raise ValueError(msg)
    is_mirrored = design.treated_side == "below" and not design.is_fuzzy
    return Cut(
        units=units,
        design=design,
        y=units.outcome,
        x=units.running,
        sign=-1 if is_mirrored else 1,
    )


def facts_of(cut: Cut) -> list[tuple[str, str]]:
    """What was read."""
    is_above = cut.x >= cut.cutoff
    side = "from the cutoff on" if cut.design.treated_side == "above" else "below the cutoff"
    n_at = int((cut.x == cut.cutoff).sum())
    return [
        ("rows", count(len(cut.x))),
        ("cutoff", f"{cut.cutoff:.10g}"),
        ("offered treatment" if cut.design.is_fuzzy else "treated", side),
        ("rows below the cutoff", count(int((~is_above).sum()))),
        ("rows from the cutoff on", f"{count(int(is_above.sum()))}, {count(n_at)} of them at it"),
        (RUNNING, f"{cut.x.min():.6g} to {cut.x.max():.6g}"),
    ]


def refute_density(cut: Cut, refutations: Refutations) -> DensityTest | None:
    """Try whether units chose a side; cells of an aggregated table do not tell."""
    is_above = cut.x >= cut.cutoff
    if min(int(is_above.sum()), int((~is_above).sum())) < FEWEST_ROWS:
        refutations.skip("density", NO_DENSITY)
        return None
    try:
        test = density_jump(cut.x, cut.cutoff)
    except EstimationError as error:
        refutations.skip("density", str(error))
        return None
    refutations.ran.append(check_density(test))
    return test


def refute_outcomes(cut: Cut, jump_of: JumpOf, refutations: Refutations) -> tuple[StudyTable, ...]:
    """Try outcomes that the treatment cannot have changed; rows without a value are left out."""
    effects: dict[str, Estimate] = {}
    if not cut.units.placebo_outcomes and not cut.units.covariate_names:
        refutations.skip("placebo_outcome", NOTHING_FIXED)
    for name, values in cut.units.placebo_outcomes.items():
        try:
            seen = ~np.isnan(values)
            effects[name] = jump_of(values[seen], cut.x[seen])
        except EstimationError as error:
            refutations.skip(f"placebo_outcome_{name}", str(error))
    refutations.ran += check_placebo_outcomes(effects)
    rows: list[dict[str, Value]] = [
        {"outcome": name, **numbers_of(effect)} for name, effect in effects.items()
    ]
    title = "Jumps of outcomes that can have none"
    return (table_of("placebo_outcomes", title, rows),) if rows else ()


def numbers_of(found: Estimate) -> dict[str, Value]:
    """Estimate, error, interval and p-value."""
    names = ("estimate", "std_error", "ci_low", "ci_high", "p_value")
    return {name: getattr(found, name) for name in names}


def jump_table(
    name: str, title: str, setting: str, checks: Sequence[JumpCheck]
) -> tuple[StudyTable, ...]:
    """A row per moved setting; none without settings."""
    empty = dict.fromkeys(("estimate", "std_error", "ci_low", "ci_high", "p_value"))
    rows: list[dict[str, Value]] = [
        {
            setting: check.name if check.value is None else check.value,
            **(empty if check.estimate is None else numbers_of(check.estimate)),
            "p_adjusted": check.p_adjusted,
            "reason": check.reason,
        }
        for check in checks
    ]
    return (table_of(name, title, rows),) if rows else ()


def jump_picture(
    cut: Cut,
    fits: tuple[Sequence[FitPoint], Sequence[FitPoint]],
    *,
    bandwidth: float | None = None,
    note: str | None = None,
) -> Picture:
    """Binned means of the outcome with the fit of each side."""
    caption = f"{cut.units.outcome_name} around the cutoff"
    bins = binned_means(cut.x.tolist(), cut.y.tolist(), cut.cutoff)
    left, right = fits
    return Picture(
        name="discontinuity",
        caption=caption,
        draw=lambda width: discontinuity_chart(
            bins,
            cut.cutoff,
            left=left,
            right=right,
            title=caption,
            running=RUNNING,
            outcome=cut.units.outcome_name,
            bandwidth=bandwidth,
            note=note,
            width=width,
        ),
    )


def density_picture(cut: Cut, test: DensityTest | None) -> Picture:
    """Units by running variable."""
    caption = "Units around the cutoff"
    bins = count_bins(cut.x.tolist(), cut.cutoff)
    densities = None
    # A local polynomial may dip below zero where there is hardly anybody.
    if test is not None and min(test.density_left, test.density_right) >= 0:
        densities = (test.density_left, test.density_right)
    return Picture(
        name="density",
        caption=caption,
        draw=lambda width: density_chart(
            bins, cut.cutoff, title=caption, running=RUNNING, densities=densities, width=width
        ),
    )


def not_estimable(
    cut: Cut,
    *,
    method: str,
    estimand: str,
    assumptions: tuple[str, ...],
    refutations: Refutations,
    error: EstimationError,
    tables: tuple[StudyTable, ...] = (),
    pictures: tuple[Picture, ...] = (),
) -> Study:
    """A study without an estimate, with what could be seen and tried nevertheless."""
    return Study(
        design=cut.design.kind,
        method=method,
        estimand=estimand,
        facts=tuple(facts_of(cut)),
        assumptions=assumptions,
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=tables,
        pictures=pictures,
        reason=error.code,
        reason_detail=str(error),
    )
