"""results/cuped: plain and covariate-adjusted effects of every metric and arm."""

import dagster as dg

from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.checks.specs import RATIO_FRAME, USER_FRAME
from experiments_dagster.looks.take import preview_look, read_current_inputs
from experiments_dagster.reporting.tables import effects_table
from experiments_dagster.resources.project import ExperimentsProject


@dg.asset(
    key=["results", "cuped"],
    partitions_def=EXPERIMENTS,
    deps=[USER_FRAME, RATIO_FRAME],
    group_name="results",
    kinds={"numpy"},
)
def cuped(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Differences and lifts with intervals, unadjusted and by Lin regression (HC2)."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    inputs = read_current_inputs(manifest.layout, experiment)
    look = preview_look(manifest, experiment, inputs)
    adjustments = {
        f"variance_reduction_{row.metric}_{row.arm}": round(row.variance_reduction, 4)
        for row in look.adjustments
    }
    return dg.MaterializeResult(
        metadata={
            "effects": dg.MetadataValue.md(effects_table(look)),
            **adjustments,
            "not_estimable": sum(effect.status != "ok" for effect in look.effects),
            "cutoff": look.cutoff,
            "plan_hash": look.plan_hash,
        }
    )
