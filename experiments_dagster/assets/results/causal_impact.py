"""frames/daily_series and results/causal_impact: interventions without randomisation."""

from collections.abc import Iterator

import dagster as dg

from experiments_dagster.automation.partitions import INTERVENTIONS, all_days
from experiments_dagster.checks.specs import DAILY_SERIES, check_spec, contract_result
from experiments_dagster.frames.series import build_daily_series, read_daily_series
from experiments_dagster.interventions.estimate import estimate_intervention, write_impact
from experiments_dagster.interventions.report import impact_svg, publish_intervention_report
from experiments_dagster.reporting.charts import data_uri
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.errors import ContractError

CONTRACT = "daily_series_contract"


@dg.asset(
    key=DAILY_SERIES,
    partitions_def=INTERVENTIONS,
    deps=all_days(["frames", "unit_days"], ["raw", "exposures"]),
    group_name="frames",
    kinds={"duckdb", "parquet"},
    output_required=False,
    check_specs=[
        check_spec(
            CONTRACT,
            DAILY_SERIES,
            INTERVENTIONS,
            "One finite total per day without gaps; checked before the series is promoted.",
            blocking=True,
        )
    ],
)
def daily_series(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Totals per day of the treated units and of all others."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    intervention = project.interventions[context.partition_key]
    try:
        series = build_daily_series(project, manifest, intervention, cutoff=manifest.head)
    except ContractError as error:
        yield contract_result(CONTRACT, DAILY_SERIES, error.cases)
        return
    yield dg.MaterializeResult(
        metadata={
            "days": series.info.rows,
            "treated_units": series.info.n_treated,
            "cutoff": series.info.cutoff,
        },
        check_results=[contract_result(CONTRACT, DAILY_SERIES, None)],
    )


@dg.asset(
    key=["results", "causal_impact"],
    partitions_def=INTERVENTIONS,
    deps=[DAILY_SERIES],
    group_name="results",
    kinds={"numpy"},
)
def causal_impact(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Observed against a structural time series with full predictive uncertainty."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    intervention = project.interventions[context.partition_key]
    series = read_daily_series(manifest.layout, intervention.slug)
    result = estimate_intervention(intervention, series)
    document = write_impact(manifest.layout, result)
    report = publish_intervention_report(manifest.layout, result)
    path = dg.MetadataValue.path(str(report))
    picture = impact_svg(result)
    if picture is None:
        return dg.MaterializeResult(
            metadata={"status": "not estimable", "reason": result.placebo_reason, "report": path}
        )
    total, average = document["total"], document["average"]
    return dg.MaterializeResult(
        metadata={
            "total": round(total["estimate"], 2),
            "total_interval": f"[{total['ci_low']:.2f}, {total['ci_high']:.2f}]",
            "average_per_period": round(average["estimate"], 2),
            "p_value": round(document["p_value"], 4),
            "placebo_p_value": document["placebo_p_value"],
            "impact": dg.MetadataValue.md(f"![impact]({data_uri(picture)})"),
            "report": path,
            "warnings": "; ".join(document["warnings"]) or "none",
            "cutoff": document["cutoff"],
        }
    )
