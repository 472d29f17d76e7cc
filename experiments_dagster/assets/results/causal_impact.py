"""frames/daily_series and results/causal_impact: interventions without randomisation."""

from collections.abc import Iterator

import dagster as dg

from experiments_dagster.assets.results.study_metadata import study_metadata
from experiments_dagster.automation.partitions import INTERVENTIONS, all_days
from experiments_dagster.checks.refutations import SERIES, refutation_results, refutation_specs
from experiments_dagster.checks.specs import DAILY_SERIES, check_spec, contract_result
from experiments_dagster.config.intervention import TimeSeriesSpec
from experiments_dagster.frames.series import build_daily_series, read_daily_series
from experiments_dagster.interventions.estimate import estimate_intervention, write_impact
from experiments_dagster.interventions.report import publish_intervention_report
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.errors import ContractError

CONTRACT = "daily_series_contract"
CAUSAL_IMPACT = ["results", "causal_impact"]


# Outputs that a design does not have stay away, which only assets that may be run in part can do.
@dg.multi_asset(
    name="daily_series",
    can_subset=True,
    specs=[
        dg.AssetSpec(
            DAILY_SERIES,
            partitions_def=INTERVENTIONS,
            deps=all_days(["frames", "unit_days"], ["raw", "exposures"]),
            group_name="frames",
            kinds={"duckdb", "parquet"},
            description="Totals per day of the treated and of all others, or a table's series.",
        )
    ],
    check_specs=[
        check_spec(
            CONTRACT,
            DAILY_SERIES,
            INTERVENTIONS,
            "One finite total per day without gaps; checked before the series is promoted.",
            # Without a promoted frame nothing follows; the check need not stop it.
            blocking=False,
        )
    ],
)
def daily_series(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Totals per day of the treated units and of all others, or the series of a table."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    intervention = project.interventions[context.partition_key]
    if not isinstance(intervention.spec, TimeSeriesSpec):
        context.log.info("no time series: see frames/study_frame")
        return
    try:
        series = build_daily_series(project, manifest, intervention, cutoff=manifest.head)
    except ContractError as error:
        yield contract_result(CONTRACT, DAILY_SERIES, error.cases)
        return
    yield dg.MaterializeResult(
        asset_key=dg.AssetKey(DAILY_SERIES),
        metadata={
            "days": series.info.rows,
            "treated_units": series.info.n_treated or "none: a table",
            "cutoff": series.info.cutoff,
        },
        check_results=[contract_result(CONTRACT, DAILY_SERIES, None)],
    )


@dg.multi_asset(
    name="causal_impact",
    can_subset=True,
    specs=[
        dg.AssetSpec(
            CAUSAL_IMPACT,
            partitions_def=INTERVENTIONS,
            deps=[DAILY_SERIES],
            group_name="results",
            kinds={"numpy"},
            description="Observed against a structural time series, with its refutations.",
        )
    ],
    check_specs=refutation_specs(CAUSAL_IMPACT, SERIES),
)
def causal_impact(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Observed against a structural time series with full predictive uncertainty."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    intervention = project.interventions[context.partition_key]
    series = read_daily_series(manifest.layout, intervention.slug)
    result = estimate_intervention(intervention, series)
    document = write_impact(manifest.layout, result)
    report = publish_intervention_report(manifest.layout, result)
    publish_catalog(manifest.layout)
    yield dg.MaterializeResult(
        asset_key=dg.AssetKey(CAUSAL_IMPACT),
        metadata={
            **study_metadata(result.study, document["warnings"]),
            "placebo_p_value": document["placebo_p_value"],
            "report": dg.MetadataValue.path(str(report)),
            "version": document["version"],
        },
        check_results=list(refutation_results(CAUSAL_IMPACT, SERIES, result.study)),
    )
