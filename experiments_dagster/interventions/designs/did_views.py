"""What a difference in differences shows: the four means, errors, leads, the paths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments_dagster.causal.series.difference_in_differences import DifferenceInDifferences
from experiments_dagster.causal.series.event_study import EventStudy
from experiments_dagster.interventions.designs.panel_parts import is_treated
from experiments_dagster.interventions.designs.panel_views import (
    event_picture,
    lead_tables,
    means_table,
    period_means,
)
from experiments_dagster.interventions.study import Picture, StudyTable, Value, table_of
from experiments_dagster.interventions.study_data import BoolArray, Panel
from experiments_dagster.reporting.donor_charts import PathPoint, synthetic_path_chart
from experiments_dagster.stats.errors import EstimationError


def did_tables(
    found: DifferenceInDifferences,
    leads: EventStudy | EstimationError,
    panel: Panel,
    kept: BoolArray,
    start: int,
) -> list[StudyTable]:
    """The four means, errors for comparison, leads where there are any, means by period."""
    tables = [_cell_table(found, panel, kept, start), _error_table(found, is_panel=panel.has_units)]
    if isinstance(leads, EventStudy):
        tables += lead_tables(leads, panel, start)
    if len(panel.labels) > 2:  # noqa: PLR2004
        tables.append(means_table(panel, kept))
    return tables


def _cell_table(
    found: DifferenceInDifferences, panel: Panel, kept: BoolArray, start: int
) -> StudyTable:
    treated = is_treated(panel)
    is_post = panel.period >= start
    control_before, control_after, treated_before, treated_after = found.means
    rows: list[Mapping[str, Value]] = []
    for name, group, before, after in (
        ("treated", treated, treated_before, treated_after),
        ("untreated", ~treated, control_before, control_after),
    ):
        own = (kept & group)[panel.unit]
        rows.append(
            {
                "group": name,
                "before": before,
                "after": after,
                "change": after - before,
                "units": int((kept & group).sum()) if panel.has_units else None,
                "rows_before": int((own & ~is_post).sum()),
                "rows_after": int((own & is_post).sum()),
            }
        )
    rows.append(
        {
            "group": "difference",
            "before": treated_before - control_before,
            "after": treated_after - control_after,
            "change": found.difference.estimate,
            "units": None,
            "rows_before": None,
            "rows_after": None,
        }
    )
    return table_of("cells", f"Mean {panel.outcome_name} before and after", rows)


def _error_table(found: DifferenceInDifferences, *, is_panel: bool) -> StudyTable:
    used = found.difference
    rows: list[Mapping[str, Value]] = [
        {"formula": used.variance_formula, "std_error": used.std_error, "is_used": True}
    ]
    beside = found.cluster_robust
    if beside is not None:
        rows.append({"formula": "cr2", "std_error": beside.std_error, "is_used": False})
    if used.variance_formula != "hc1":
        rows.append({"formula": "hc1", "std_error": found.std_error_hc1, "is_used": False})
    rows.append({"formula": "ols", "std_error": found.std_error_ols, "is_used": False})
    note = "hc1 takes rows as independent, ols also as equally variable."
    if is_panel:
        note = "hc1 and ols take a unit's means before and after as independent: they are not."
    if beside is not None:
        note += " cr2 is too small with so few units."
    return table_of("standard_errors", "Standard errors, for comparison", rows, note=note)


def did_pictures(
    leads: EventStudy | EstimationError, panel: Panel, kept: BoolArray, start: int
) -> list[Picture]:
    """Both paths, and the differences by period where there are leads."""
    pictures = []
    points, n_pre = _path(panel, kept, start)
    title = f"{panel.outcome_name}: treated, and where the change of the untreated would have led"
    if 0 < n_pre < len(points):

        def draw(width: int) -> str:
            return synthetic_path_chart(
                points,
                n_pre,
                title=title,
                treated="treated",
                synthetic="level of the treated before, change of the untreated",
                unit=panel.outcome_name,
                width=width,
            )

        pictures.append(Picture(name="paths", caption=title, draw=draw))
    if isinstance(leads, EventStudy):
        pictures.append(
            event_picture(
                leads.effects,
                title=f"{panel.outcome_name}: difference by period since the start",
                unit=panel.outcome_name,
                confidence_level=leads.confidence_level,
            )
        )
    return pictures


def _path(panel: Panel, kept: BoolArray, start: int) -> tuple[list[PathPoint], int]:
    """Means by period in which both groups have rows, and how many lie before the start."""
    treated, control, sizes = period_means(panel, kept)
    is_there = np.asarray((sizes > 0).all(axis=0), dtype=np.bool_)
    before = np.flatnonzero(is_there[:start])
    if not len(before):
        return [], 0
    shift = float((treated[before] - control[before]).mean())
    points = [
        PathPoint(
            label=panel.labels[period],
            observed=float(treated[period]),
            synthetic=float(control[period]) + shift,
        )
        for period in np.flatnonzero(is_there)
    ]
    return points, len(before)
