"""reports/portfolio: all decided experiments of the project in one HTML file."""

import dagster as dg

from experiments_dagster.checks.specs import VERDICT
from experiments_dagster.resources.project import ExperimentsProject


@dg.asset(
    key=["reports", "portfolio"],
    deps=[VERDICT],
    group_name="reports",
    kinds={"html"},
)
def portfolio(experiments: ExperimentsProject) -> dg.MaterializeResult:
    """Raw and shrunk effects, means by metric, overlaps, and what the shipped ones add up to."""
    # scipy's sparse matrices would slow down the loading of the definitions.
    from experiments_dagster.portfolio.report import publish_portfolio
    from experiments_dagster.portfolio.summary import read_portfolio

    project = experiments.load()
    manifest = experiments.manifest(project)
    found = read_portfolio(project, manifest)
    path = publish_portfolio(manifest.layout, found)
    pairs = found.overlaps.pairs
    shipped = {
        f"shipped_{metric.metric}": round(metric.shipped.estimate, 4)
        for metric in found.metrics
        if metric.shipped is not None
    }
    return dg.MaterializeResult(
        metadata={
            "decided_arms": len(found.arms),
            "shipped_arms": len(found.shipped),
            "report": dg.MetadataValue.path(str(path)),
            **shipped,
            "left_out": len(found.left_out),
            "overlapping_pairs": len(pairs),
            "dependent_pairs": sum(
                pair.dependence is not None and pair.dependence.is_dependent for pair in pairs
            ),
            "cutoff": found.cutoff,
        }
    )
