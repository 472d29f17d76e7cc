"""reports/exploration: what is in the frames, over all arms together; no look, no alpha."""

import dagster as dg

from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.checks.specs import RATIO_FRAME, USER_FRAME
from experiments_dagster.exploration.publish import explore_current, publish_exploration
from experiments_dagster.exploration.report import markdown_summary, unbalanced
from experiments_dagster.resources.project import ExperimentsProject


@dg.asset(
    key=["reports", "exploration"],
    partitions_def=EXPERIMENTS,
    deps=[USER_FRAME, RATIO_FRAME],
    group_name="reports",
    kinds={"polars", "html"},
)
def exploration(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Distributions, data quality and pre-period balance of the published frames."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    found = explore_current(manifest.layout, experiment)
    table, page = publish_exploration(manifest.layout, found)
    return dg.MaterializeResult(
        metadata={
            "metrics": dg.MetadataValue.md(markdown_summary(found)),
            "unbalanced_before_exposure": ", ".join(unbalanced(found)) or "none",
            "report": dg.MetadataValue.path(str(page)),
            "table": dg.MetadataValue.path(str(table)),
            "facts": len(found.facts),
            "cutoff": found.origin["cutoff"],
            "plan_hash": found.origin["plan_hash"],
        }
    )
