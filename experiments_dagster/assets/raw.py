"""raw/events and raw/exposures: whatever is new in the sources, landed under an arrival day."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from experiments_dagster.automation.partitions import ARRIVAL_DAYS
from experiments_dagster.checks.specs import RAW_EVENTS, check_spec
from experiments_dagster.frames.partials import build_partials
from experiments_dagster.resources.project import ExperimentsProject
from experiments_dagster.storage.landing import LandingReport, land

QUARANTINE_BLOCKS = 0.01
LANDING_HEALTH = "landing_health"
KINDS = {"events": RAW_EVENTS, "exposures": ["raw", "exposures"]}


@dg.multi_asset(
    name="land_day",
    specs=[
        dg.AssetSpec(
            key,
            partitions_def=ARRIVAL_DAYS,
            group_name="raw",
            kinds={"parquet", "duckdb"},
            description=f"Landed {kind}: immutable numbered batches, labelled by arrival day.",
        )
        for kind, key in KINDS.items()
    ],
    check_specs=[
        check_spec(
            LANDING_HEALTH,
            RAW_EVENTS,
            ARRIVAL_DAYS,
            "Every incoming file was read, and few rows were set aside.",
            blocking=False,
        )
    ],
)
def land_day(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> Iterator[dg.MaterializeResult]:
    """Land everything new, once; files that cannot be read are named and stop nothing else."""
    project = experiments.load()
    day = dt.date.fromisoformat(context.partition_key)
    report = land(project, arrival_day=day, now=dt.datetime.now(dt.UTC))
    for kind, key in KINDS.items():
        names = project.platform.sources_of(kind)
        if key == RAW_EVENTS:  # moments take the place of events
            names += project.platform.sources_of("summaries")
        metadata = landed_metadata(report, names)
        checks = [landing_health(report)] if key == RAW_EVENTS else []
        yield dg.MaterializeResult(
            asset_key=dg.AssetKey(key), metadata=metadata, check_results=checks
        )
    context.log.info(f"batch={report.batch.sequence if report.batch else None}")


def landed_metadata(report: LandingReport, names: list[str]) -> dict[str, int]:
    """Rows in and their fate, over some sources."""
    batch = report.batch
    files = [
        file
        for name in names
        if batch is not None and name in batch.sources
        for file in batch.sources[name].files
    ]
    return {
        "batch": batch.sequence if batch else 0,
        "files": len(files),
        "rows_in": sum(file.rows_in for file in files),
        "kept": sum(file.kept for file in files),
        "deduplicated": sum(file.deduplicated for file in files),
        "quarantined": sum(file.quarantined for file in files),
    }


def landing_health(report: LandingReport) -> dg.AssetCheckResult:
    """Fails when a file was set aside, or when rows were; ERROR above 1 % of the rows."""
    parts = report.batch.sources.values() if report.batch else []
    files = [file for part in parts for file in part.files]
    rows, bad = sum(file.rows_in for file in files), sum(file.quarantined for file in files)
    messages = list(report.problems)
    if bad:
        reasons = sorted({reason for file in files for reason in file.reasons})
        messages.append(f"{bad} of {rows} rows quarantined ({', '.join(reasons)})")
    is_error = bool(report.problems) or bad > QUARANTINE_BLOCKS * max(rows, 1)
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(RAW_EVENTS),
        check_name=LANDING_HEALTH,
        passed=not messages,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description="; ".join(messages) or None,
    )


@dg.asset(
    key=["frames", "unit_days"],
    partitions_def=ARRIVAL_DAYS,
    deps=[RAW_EVENTS],
    group_name="frames",
    kinds={"duckdb", "parquet"},
)
def unit_days(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject
) -> dg.MaterializeResult:
    """Measures per unit and local day of each landed batch: one pass for all metrics."""
    project = experiments.load()
    manifest = experiments.manifest(project)
    built = {
        source: len(build_partials(project, manifest, source, up_to=manifest.head).days)
        for source in project.platform.sources_of("events")
        if project.measures(source)
    }
    context.log.info(f"batches={manifest.head}")
    return dg.MaterializeResult(metadata={"head": manifest.head, **built})
