"""All charts, from one place: SVG text from records."""

from __future__ import annotations

from experiments_dagster.reporting.boundary_charts import boundary_chart
from experiments_dagster.reporting.forest_charts import ForestGroup, ForestRow, forest_plot
from experiments_dagster.reporting.impact_charts import ImpactPoint, impact_chart
from experiments_dagster.reporting.look_charts import look_trajectory
from experiments_dagster.reporting.novelty_charts import novelty_chart
from experiments_dagster.reporting.svg import data_uri

__all__ = [
    "ForestGroup",
    "ForestRow",
    "ImpactPoint",
    "boundary_chart",
    "data_uri",
    "forest_plot",
    "impact_chart",
    "look_trajectory",
    "novelty_chart",
]
