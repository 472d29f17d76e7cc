"""Picture and report of one intervention."""

from __future__ import annotations

from experiments_dagster.interventions.estimate import InterventionResult
from experiments_dagster.reporting.charts import ImpactPoint, impact_chart


def impact_points(result: InterventionResult) -> list[ImpactPoint]:
    """One point per period; effects stand where the post period was observed."""
    impact = result.impact
    place = {int(step): index for index, step in enumerate(impact.effect_steps)}
    points = []
    for step, date in enumerate(result.starts):
        index = place.get(step)
        points.append(
            ImpactPoint(
                date=date,
                observed=result.observed[step],
                counterfactual=float(impact.counterfactual[step]),
                ci_low=float(impact.counterfactual_low[step]),
                ci_high=float(impact.counterfactual_high[step]),
                effect=None if index is None else float(impact.effect[index]),
                effect_low=None if index is None else float(impact.effect_low[index]),
                effect_high=None if index is None else float(impact.effect_high[index]),
                cumulative=None if index is None else float(impact.cumulative[index]),
                cumulative_low=None if index is None else float(impact.cumulative_low[index]),
                cumulative_high=None if index is None else float(impact.cumulative_high[index]),
            )
        )
    return points


def impact_svg(result: InterventionResult) -> str:
    """Observed against counterfactual, pointwise and cumulative difference."""
    spec = result.intervention.spec
    return impact_chart(
        impact_points(result),
        spec.post.start,
        title=spec.description,
        unit=result.intervention.metric.display_unit,
        confidence_level=result.impact.confidence_level,
    )

