"""Designs without randomisation: one function each, from arrays to a study."""

from __future__ import annotations

from experiments_dagster.config.intervention import (
    DidDesign,
    DiscontinuityDesign,
    EventStudyDesign,
    ObservationalDesign,
    PanelDesign,
    SyntheticControlDesign,
    UnitDesign,
)
from experiments_dagster.interventions.study import Study
from experiments_dagster.interventions.study_data import Panel, Units


def study_of_panel(panel: Panel, design: PanelDesign) -> Study:
    """The study of units by periods, by the kind of its design."""
    if isinstance(design, SyntheticControlDesign):
        from experiments_dagster.interventions.designs.synthetic_control import donor_study

        return donor_study(panel, design)
    if isinstance(design, DidDesign):
        from experiments_dagster.interventions.designs.difference_in_differences import did_study

        return did_study(panel, design)
    if isinstance(design, EventStudyDesign):
        from experiments_dagster.interventions.designs.event_study import event_study

        return event_study(panel, design)
    from experiments_dagster.interventions.designs.staggered import staggered_study

    return staggered_study(panel, design)


def study_of_units(units: Units, design: UnitDesign) -> Study:
    """The study of a row per unit, by the kind of its design."""
    if isinstance(design, DiscontinuityDesign):
        from experiments_dagster.interventions.designs.discontinuity import discontinuity_study

        return discontinuity_study(units, design)
    if isinstance(design, ObservationalDesign):
        from experiments_dagster.interventions.designs.observational import observational_study

        return observational_study(units, design)
    from experiments_dagster.interventions.designs.uplift import uplift_study

    return uplift_study(units, design)
