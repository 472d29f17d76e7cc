"""frames/study_frame and results/causal_effect: panels and units without randomisation."""

from collections.abc import Iterator

import dagster as dg

from experiments_dagster.assets.results.study_metadata import study_metadata
from experiments_dagster.automation.partitions import INTERVENTIONS, all_days
from experiments_dagster.checks.refutations import OTHERS, refutation_results, refutation_specs
from experiments_dagster.checks.specs import STUDY_FRAME, check_spec, contract_result
from experiments_dagster.config.intervention import TimeSeriesSpec
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.errors import ContractError

CONTRACT = "study_frame_contract"
CAUSAL_EFFECT = ["results", "causal_effect"]


# A design has its own frame and its own refutations: the outputs of the others stay away, which
# only assets that may be run in part can do.
@dg.multi_asset(
    name="study_frame",
    can_subset=True,
    specs=[
        dg.AssetSpec(
            STUDY_FRAME,
            partitions_def=INTERVENTIONS,
            deps=all_days(["frames", "unit_days"], ["raw", "exposures"]),
            group_name="frames",
            kinds={"duckdb", "parquet"},
            description="Units, or units by periods, of designs other than a time series.",
        )
    ],
    check_specs=[
        check_spec(
            CONTRACT,
            STUDY_FRAME,
            INTERVENTIONS,
            "Unique units (and periods), finite values; checked before the frame is promoted.",
            # Without a promoted frame nothing follows; the check need not stop it.
            blocking=False,
        )
    ],
)
def study_frame(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Units, or units by periods, of designs other than a time series."""
    from experiments_dagster.frames.study_frames import build_study_frame, not_ready

    project = experiments.load()
    manifest = experiments.manifest(project)
    intervention = project.interventions[context.partition_key]
    if isinstance(intervention.spec, TimeSeriesSpec):
        context.log.info("a time series: see frames/daily_series")
        return
    waits = not_ready(project, manifest, intervention)
    if waits is not None:
        context.log.info(f"not yet: {waits}")
        return
    try:
        frame = build_study_frame(project, manifest, intervention, cutoff=manifest.head)
    except ContractError as error:
        yield contract_result(CONTRACT, STUDY_FRAME, error.cases)
        return
    yield dg.MaterializeResult(
        asset_key=dg.AssetKey(STUDY_FRAME),
        metadata={
            "rows": frame.info.rows,
            "outcome": frame.info.outcome,
            "cutoff": frame.info.cutoff,
            "file": frame.info.study_frame,
            **{f"left out: {reason}": n for reason, n in frame.info.left_out.items()},
        },
        check_results=[contract_result(CONTRACT, STUDY_FRAME, None)],
    )


@dg.multi_asset(
    name="causal_effect",
    can_subset=True,
    specs=[
        dg.AssetSpec(
            CAUSAL_EFFECT,
            partitions_def=INTERVENTIONS,
            deps=[STUDY_FRAME],
            group_name="results",
            kinds={"numpy"},
            description="What a design without randomisation finds, and what tried to refute it.",
        )
    ],
    check_specs=refutation_specs(CAUSAL_EFFECT, OTHERS),
)
def causal_effect(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """What a design without randomisation finds, and everything that tried to refute it."""
    from experiments_dagster.frames.study_frames import read_study_frame
    from experiments_dagster.interventions.publish import (
        publish_study_report,
        run_study,
        write_study,
    )
    from experiments_dagster.storage.catalog import publish_catalog

    project = experiments.load()
    layout = experiments.manifest(project).layout
    intervention = project.interventions[context.partition_key]
    result = run_study(intervention, read_study_frame(layout, intervention.slug))
    document = write_study(layout, result)
    report = publish_study_report(layout, result)
    publish_catalog(layout)
    study = result.study
    yield dg.MaterializeResult(
        asset_key=dg.AssetKey(CAUSAL_EFFECT),
        metadata={
            **study_metadata(study, document["warnings"]),
            "report": dg.MetadataValue.path(str(report)),
            "version": document["version"],
        },
        check_results=list(refutation_results(CAUSAL_EFFECT, OTHERS, study)),
    )
