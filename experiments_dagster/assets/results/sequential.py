"""results/sequential: the planned look that is due, or a peek; recorded in the ledger."""

import dagster as dg

from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.checks.specs import LOOK_HEALTH, SEQUENTIAL, check_spec, look_health
from experiments_dagster.looks.publish import publish_results
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.take import look_at, open_ledger, read_current_inputs
from experiments_dagster.reporting.charts import data_uri, look_trajectory
from experiments_dagster.reporting.tables import ledger_table
from experiments_dagster.resources.project import ExperimentsProject


@dg.asset(
    key=SEQUENTIAL,
    partitions_def=EXPERIMENTS,
    deps=[["results", "cuped"]],
    group_name="results",
    kinds={"numpy"},
    check_specs=[
        check_spec(
            LOOK_HEALTH,
            SEQUENTIAL,
            EXPERIMENTS,
            "Sample ratio, units in two arms, pre-period balance: is this a fair comparison?",
            blocking=True,
        )
    ],
)
def sequential(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Boundaries and spending of the planned look that is due; else a peek that spends nothing."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    inputs = read_current_inputs(manifest.layout, experiment)
    attempt = look_at(manifest, experiment, inputs)
    ledger = open_ledger(manifest, experiment)
    publish_results(ledger, attempt.look)
    looks = recorded_looks(ledger)
    metadata: dict[str, object] = {"look": attempt.look.look_id, "is_new": attempt.is_new}
    if looks:
        metadata["alpha_ledger"] = dg.MetadataValue.md(ledger_table(looks))
        for arm in experiment.treatments:
            image = data_uri(look_trajectory(looks, experiment, arm))
            metadata[f"trajectory_{arm}"] = dg.MetadataValue.md(f"![looks of {arm}]({image})")
    health = look_health(attempt.look)
    return dg.MaterializeResult(
        metadata=metadata,  # type: ignore[arg-type]
        check_results=[dg.AssetCheckResult(asset_key=dg.AssetKey(SEQUENTIAL), **health)],
    )
