"""Units treated from different periods on: every cohort against units without treatment.

Two-way fixed effects use units treated early as controls for later ones. Their coefficient is shown
as a contrast with the share of its negative weights, never as an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments_dagster.causal.series.panel_checks import (
    check_cluster_count,
    check_placebo_period,
    check_pre_trend,
    check_relative_magnitude,
)
from experiments_dagster.causal.series.panel_inference import AverageEffect
from experiments_dagster.causal.series.staggered import (
    CellEffect,
    GroupTimeEffects,
    LabelledEffect,
    TwoWayContrast,
    group_time_effects,
    two_way_contrast,
)
from experiments_dagster.config.intervention import StaggeredDesign
from experiments_dagster.interventions.designs.panel_parts import (
    FEWEST_LEADS,
    average_estimate,
    check_rows,
    covariate_warnings,
    draws_for,
    is_treated,
    missing_warnings,
    panel_assumptions,
    panel_facts,
    start_label,
    unit_covariates,
)
from experiments_dagster.interventions.designs.panel_views import (
    effect_table,
    event_picture,
    sensitivity_table,
)
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
    StudyEstimate,
    StudyTable,
    Value,
    table_of,
)
from experiments_dagster.interventions.study_data import BoolArray, FloatArray, Panel
from experiments_dagster.reporting.numbers import plural
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

METHOD = "group-time effects (Callaway and Sant'Anna)"
CONTROLS = {"never_treated": "units never treated", "not_yet_treated": "units not treated yet"}


def staggered_study(panel: Panel, design: StaggeredDesign) -> Study:
    """Effects by cohort and period, and their averages.

    Args:
        panel: Units seen in all periods; units with a missing period are left out and counted, and
            so are those treated from the first period on.
        design: Controls, level and seed.
    """
    outcomes = panel.wide().T
    study = partial(
        Study,
        design=design.kind,
        method=f"{METHOD} against {CONTROLS[design.control]}",
        estimand=_estimand(panel),
        facts=panel_facts(panel),
        assumptions=panel_assumptions(panel),
    )
    covariates, is_known = _covariates(panel)
    warnings = (
        *missing_warnings(panel, outcomes),
        *_always_warnings(panel),
        *covariate_warnings(panel, is_known),
    )
    try:
        check_rows(panel)
        _check_controls(panel, design)
        data = _Data(
            outcomes=outcomes[is_known],
            first=_first(panel)[is_known],
            covariates=covariates[is_known],
        )
        found = data.effects(design)
    except EstimationError as error:
        return study(reason=error.code, reason_detail=str(error), warnings=warnings)
    ran = Refutations()
    ran.run("pre_trend", lambda: check_pre_trend(found))
    ran.run("relative_magnitude", lambda: check_relative_magnitude(found))
    _refute_by_placebo(ran, panel, data, design)
    ran.run("cluster_count", lambda: _check_clusters(found))
    contrast = _contrast(outcomes, _first(panel))
    return study(
        estimates=tuple(_estimates(found)),
        refutations=tuple(ran.ran),
        skipped=tuple(ran.skipped),
        tables=tuple(_tables(found, contrast, panel)),
        pictures=(
            event_picture(
                found.dynamic,
                title=f"{panel.outcome_name}: difference by period since the start",
                unit=panel.outcome_name,
                confidence_level=found.confidence_level,
                reference=None,
            ),
        ),
        warnings=(*warnings, *found.warnings),
    )


def _estimand(panel: Panel) -> str:
    return (
        f"mean effect on the treated units per period from their own start on ({start_label(panel)}"
        f" or later), in units of {panel.outcome_name}, over all treated unit-periods with an "
        "estimate"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """Units with known covariates: outcomes (n, T), first treated (n,), covariates (n, p)."""

    outcomes: FloatArray
    first: FloatArray
    covariates: FloatArray

    @property
    def n_pre(self) -> int:
        """Periods before anybody starts, of those not treated from the first one on."""
        return int(self.first[self.first > 0].min(initial=self.outcomes.shape[1]))

    def effects(self, design: StaggeredDesign) -> GroupTimeEffects:
        return group_time_effects(
            self.outcomes,
            self.first,
            covariates=self.covariates,
            control="never" if design.control == "never_treated" else "not_yet",
            seed=design.seed,
            draws=draws_for(design.alpha),
            alpha=design.alpha,
        )

    def moved(self, start: int) -> _Data:
        """Periods before anybody starts, with one start moved into them."""
        kept = self.first > 0
        return _Data(
            outcomes=self.outcomes[kept, : self.n_pre],
            first=np.where(np.isfinite(self.first[kept]), start, np.inf),
            covariates=self.covariates[kept],
        )


def _first(panel: Panel) -> FloatArray:
    return np.where(is_treated(panel), panel.first_treated, np.inf)


def _covariates(panel: Panel) -> tuple[FloatArray, BoolArray]:
    """Covariates before anybody starts, units treated from the first period on aside."""
    starts = panel.first_treated[panel.first_treated > 0]
    first = starts.min(initial=len(panel.labels))
    return unit_covariates(panel, int(first))


def _always_warnings(panel: Panel) -> tuple[str, ...]:
    n = int((panel.first_treated == 0).sum())
    if not n:
        return ()
    whom = f"{plural(n, 'unit')} treated from the first period, {panel.labels[0]}, on"
    return (f"left out: {whom}; nothing is known of them without treatment",)


def _check_controls(panel: Panel, design: StaggeredDesign) -> None:
    if design.control == "never_treated" and is_treated(panel).all():
        detail = "every unit is treated at some time; units not yet treated may be the controls"
        raise EstimationError("EMPTY_ARM", "units never treated", detail)


def _refute_by_placebo(
    ran: Refutations, panel: Panel, data: _Data, design: StaggeredDesign
) -> None:
    name, n_pre = "placebo_period", data.n_pre
    if n_pre < FEWEST_LEADS:
        reason = f"{plural(n_pre, 'period')} before the first start, need {FEWEST_LEADS}"
        ran.skip(name, reason, needed=False)
        return
    moved = n_pre // 2

    def check() -> CheckOutcome:
        placebo = data.moved(moved).effects(design).simple
        return check_placebo_period(placebo, start=panel.labels[moved], alpha=design.alpha)

    # Of several starts the leads cover the same periods.
    ran.run(name, check, needed=False)


def _check_clusters(found: GroupTimeEffects) -> CheckOutcome:
    """The smallest group that some effect after a start rests on."""
    n_control = found.n_never
    if found.control == "not_yet":
        n_control = min(cell.n_control for cell in found.cells if cell.is_post)
    return check_cluster_count(n_control, found.n_units - found.n_never)


def _estimates(found: GroupTimeEffects) -> list[StudyEstimate]:
    averages = (
        ("average effect", found.simple, "weighed by treated unit-periods"),
        ("average effect by cohort", found.group_average, "each cohort's own average, by its size"),
        ("average effect by time since the start", found.dynamic_average, "each time alike"),
        ("average effect by calendar period", found.calendar_average, "each period alike"),
    )
    return [
        average_estimate(name, effect, found.confidence_level, method=f"{METHOD}, {words}")
        for name, effect, words in averages
    ]


def _contrast(outcomes: FloatArray, first: FloatArray) -> TwoWayContrast | EstimationError:
    try:
        return two_way_contrast(outcomes, first)
    except EstimationError as error:
        return error


def _tables(
    found: GroupTimeEffects, contrast: TwoWayContrast | EstimationError, panel: Panel
) -> list[StudyTable]:
    tables = [
        effect_table(
            "dynamic_effects",
            "Effects by periods since the start",
            found.dynamic,
            note="Each lead compares a period with the one before it. Cohorts seen differ between "
            "event times. The band holds for all of them jointly, the interval for one.",
        ),
        _label_table("cohort_effects", "Average effect by cohort", "cohort", found.groups, panel),
        _label_table(
            "calendar_effects", "Average effect by period", "period", found.calendar, panel
        ),
        _cell_table(found, panel),
        _contrast_table(contrast),
    ]
    if found.pre_trend is not None:
        test = found.pre_trend
        tables.insert(
            1,
            table_of(
                "pre_trend",
                "Joint test of the leads",
                [
                    {
                        "chi_square": test.statistic,
                        "leads": test.n_effects,
                        "p_value": test.p_value,
                        "p_value_chi_square": test.chi_square_p_value,
                    }
                ],
                note="A test that does not reject shows nothing.",
            ),
        )
    if found.bounds:
        of = "the average by time since the start"
        tables.append(sensitivity_table(found.bounds, found.breakdown_magnitude, of=of))
    if found.missing_cells:
        tables.append(_missing_table(found, panel))
    return tables


def _label_table(
    name: str, title: str, label: str, effects: Sequence[LabelledEffect], panel: Panel
) -> StudyTable:
    starts = _first(panel)
    rows = []
    for item in effects:
        position = int(item.label)
        row: dict[str, Value] = {label: panel.labels[position]}
        if label == "cohort":
            row["n_units"] = int((starts == position).sum())
        rows.append(row | _numbers(item.effect))
    return table_of(name, title, rows)


def _cell_table(found: GroupTimeEffects, panel: Panel) -> StudyTable:
    rows = [
        {
            "cohort": panel.labels[int(cell.cohort)],
            "period": panel.labels[int(cell.period)],
            "is_post": cell.is_post,
            **_numbers(cell),
            "n_treated": cell.n_treated,
            "n_control": cell.n_control,
        }
        for cell in found.cells
    ]
    return table_of("cells", "Effects by cohort and period", rows)


def _numbers(found: AverageEffect | CellEffect) -> dict[str, Value]:
    return {
        "estimate": found.estimate,
        "std_error": found.std_error,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "p_value": found.p_value,
    }


def _contrast_table(contrast: TwoWayContrast | EstimationError) -> StudyTable:
    columns = ("coefficient", "negative_weight_share", "negative_cells", "treated_cells")
    title = "Two-way fixed effects: a contrast, no estimate"
    if isinstance(contrast, EstimationError):
        return table_of("two_way_contrast", title, [], columns=columns, note=str(contrast))
    row = dict(
        zip(
            columns,
            (
                contrast.coefficient,
                contrast.negative_weight_share,
                contrast.n_negative,
                contrast.n_cells,
            ),
            strict=True,
        )
    )
    return table_of(
        "two_way_contrast",
        title,
        [row],
        note="What a two-way fixed-effects regression would print. It weighs some cohorts and "
        "periods negatively, as the share says, where units treated before serve as controls.",
    )


def _missing_table(found: GroupTimeEffects, panel: Panel) -> StudyTable:
    rows = [
        {"cohort": panel.labels[int(g)], "period": panel.labels[int(t)], "reason": code}
        for g, t, code in found.missing_cells
    ]
    return table_of("missing_cells", "Cohorts and periods without an estimate", rows)
