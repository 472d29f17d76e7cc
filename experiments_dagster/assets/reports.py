"""reports/experiment_report: one self-contained HTML file."""

import dagster as dg

from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.checks.specs import VERDICT
from experiments_dagster.looks.publish import publish_report
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.catalog import publish_catalog


@dg.asset(
    key=["reports", "experiment_report"],
    partitions_def=EXPERIMENTS,
    deps=[VERDICT],
    group_name="reports",
    kinds={"html"},
)
def experiment_report(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """The report of all looks so far, and the catalog of published tables."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    path = publish_report(manifest.layout, experiment, open_ledger(manifest, experiment))
    publish_catalog(manifest.layout)
    if path is None:
        return dg.MaterializeResult(metadata={"report": "no planned look has been taken yet"})
    return dg.MaterializeResult(metadata={"report": dg.MetadataValue.path(str(path))})
