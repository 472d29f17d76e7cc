"""All charts, from one place: SVG text from records."""

from __future__ import annotations

from experiments_dagster.reporting.balance_charts import (
    CovariateBalance,
    OverlapBin,
    love_plot,
    overlap_bins,
    overlap_chart,
)
from experiments_dagster.reporting.boundary_charts import boundary_chart
from experiments_dagster.reporting.discontinuity_charts import (
    BinnedMean,
    CountBin,
    binned_means,
    count_bins,
    density_chart,
    discontinuity_chart,
)
from experiments_dagster.reporting.donor_charts import (
    DonorWeight,
    PathPoint,
    PlaceboGap,
    PlaceboRatio,
    donor_weight_chart,
    placebo_fan_chart,
    placebo_ratio_chart,
    synthetic_path_chart,
)
from experiments_dagster.reporting.event_study_charts import PeriodEstimate, event_study_chart
from experiments_dagster.reporting.forest_charts import ForestGroup, ForestRow, forest_plot
from experiments_dagster.reporting.impact_charts import ImpactPoint, impact_chart
from experiments_dagster.reporting.look_charts import look_trajectory
from experiments_dagster.reporting.novelty_charts import novelty_chart
from experiments_dagster.reporting.svg import data_uri
from experiments_dagster.reporting.uplift_charts import (
    CurvePoint,
    EffectBin,
    Importance,
    effect_bin_chart,
    importance_chart,
    qini_chart,
)

__all__ = [
    "BinnedMean",
    "CountBin",
    "CovariateBalance",
    "CurvePoint",
    "DonorWeight",
    "EffectBin",
    "ForestGroup",
    "ForestRow",
    "ImpactPoint",
    "Importance",
    "OverlapBin",
    "PathPoint",
    "PeriodEstimate",
    "PlaceboGap",
    "PlaceboRatio",
    "binned_means",
    "boundary_chart",
    "count_bins",
    "data_uri",
    "density_chart",
    "discontinuity_chart",
    "donor_weight_chart",
    "effect_bin_chart",
    "event_study_chart",
    "forest_plot",
    "impact_chart",
    "importance_chart",
    "look_trajectory",
    "love_plot",
    "novelty_chart",
    "overlap_bins",
    "overlap_chart",
    "placebo_fan_chart",
    "placebo_ratio_chart",
    "qini_chart",
    "synthetic_path_chart",
]
