"""decisions/verdict: published unless a failed check forbids it."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from experiments_dagster.automation.partitions import EXPERIMENTS
from experiments_dagster.checks.specs import SEQUENTIAL, VERDICT
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.publish import last_peek, publish_verdict
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.reporting.charts import data_uri, look_trajectory
from experiments_dagster.reporting.tables import effects_table
from experiments_dagster.resources.project import ExperimentsProject


@dg.asset(
    key=VERDICT,
    partitions_def=EXPERIMENTS,
    deps=[SEQUENTIAL],
    group_name="decisions",
    kinds={"python"},
)
def verdict(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """SHIP, DO_NOT_SHIP, PENDING or INCONCLUSIVE, with the clause that decided."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    ledger = open_ledger(manifest, experiment)
    looks = recorded_looks(ledger)
    if looks:
        publish_verdict(ledger)
        return dg.MaterializeResult(metadata=verdict_metadata(experiment, looks, draw=True))
    peek = last_peek(manifest.layout, experiment)
    metadata = verdict_metadata(experiment, [peek], draw=False) if peek else {}
    return dg.MaterializeResult(metadata=metadata)


def verdict_metadata(
    experiment: Experiment, looks: Sequence[Look], *, draw: bool
) -> dict[str, Any]:
    """Decision first, then effects and picture, then lineage; floats rounded for people."""
    look = looks[-1]
    metadata: dict[str, Any] = {"verdict": look.verdict, "reason": look.reason}
    for decision in look.decisions:
        metadata[f"verdict_{decision.arm}"] = f"{decision.verdict} ({decision.clause})"
    metadata["effects"] = dg.MetadataValue.md(effects_table(look))
    if draw:
        for arm in experiment.treatments:
            image = data_uri(look_trajectory(looks, experiment, arm))
            metadata[f"trajectory_{arm}"] = dg.MetadataValue.md(f"![looks of {arm}]({image})")
    return metadata | {
        "look": look.look_id,
        "as_of": look.as_of,
        "cutoff": look.cutoff,
        "plan_hash": look.plan_hash,
        "code_version": look.code_version,
    }
