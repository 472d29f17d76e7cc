"""The portfolio of a project as a whole, and as plain data for scripts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments_dagster import __version__
from experiments_dagster.config.project import Project
from experiments_dagster.portfolio.decided import LeftOut, read_decided
from experiments_dagster.portfolio.overlap import InteractionTest, Overlap, Overlaps, read_overlaps
from experiments_dagster.portfolio.pooling import MetricPortfolio, ShrunkArm, pool_by_metric
from experiments_dagster.stats.meta_analysis import FLAGS
from experiments_dagster.stats.records import Estimate
from experiments_dagster.storage.manifest import Manifest

LEVELS = ("control_mean", "treatment_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """Everything that the command, the asset and the report show."""

    metrics: tuple[MetricPortfolio, ...]
    left_out: tuple[LeftOut, ...]
    overlaps: Overlaps
    cutoff: int
    code_version: str

    @property
    def arms(self) -> list[ShrunkArm]:
        """All decided arms, metric by metric."""
        return [arm for metric in self.metrics for arm in metric.arms]

    @property
    def shipped(self) -> list[ShrunkArm]:
        """The arms that were shipped."""
        return [arm for arm in self.arms if arm.arm.is_shipped]


def read_portfolio(project: Project, manifest: Manifest) -> Portfolio:
    """Read ledgers and published frames and put all decided experiments together.

    Raises:
        DataDamagedError: The manifest is damaged; a damaged ledger leaves out only its experiment.
    """
    decided, left_out, looks = read_decided(project, manifest)
    return Portfolio(
        metrics=tuple(pool_by_metric(decided)),
        left_out=tuple(left_out),
        overlaps=read_overlaps(manifest.layout, project.experiments, looks),
        cutoff=manifest.head,
        code_version=__version__,
    )


def portfolio_document(portfolio: Portfolio) -> dict[str, Any]:
    """Experiments, metrics, overlaps, interactions and what is left out, as strict JSON."""
    overlaps = portfolio.overlaps
    return {
        "cutoff": portfolio.cutoff,
        "code_version": portfolio.code_version,
        "experiments": [_arm_row(arm) for arm in portfolio.arms],
        "metrics": [_metric_row(metric) for metric in portfolio.metrics],
        "overlaps": [_overlap_row(pair) for pair in overlaps.pairs],
        "interactions": [_interaction_row(test) for test in overlaps.tests],
        "correction": "by",
        "n_overlaps_not_tested": overlaps.n_pairs_not_tested,
        "left_out": [dataclasses.asdict(row) for row in portfolio.left_out],
    }


def _arm_row(one: ShrunkArm) -> dict[str, Any]:
    arm, shrunk = one.arm, one.shrunk
    return {
        "experiment": arm.experiment,
        "arm": arm.arm,
        "metric": arm.metric,
        "direction": arm.direction,
        "verdict": arm.verdict,
        "is_shipped": arm.is_shipped,
        "is_study": arm.is_study,
        "look": arm.look_id,
        "as_of": arm.as_of,
        "n_units": arm.n_units,
        "raw": {"estimate": arm.estimate, "std_error": arm.std_error},
        "shrunk": {
            "estimate": shrunk.estimate,
            "posterior_sd": shrunk.posterior_sd,
            "weight": shrunk.weight,
        },
        "prior": dataclasses.asdict(one.prior),
    }


def _metric_row(metric: MetricPortfolio) -> dict[str, Any]:
    pooled = metric.pooled
    return {
        "metric": metric.metric,
        "direction": metric.direction,
        "n_experiments": metric.n_experiments,
        "n_arms": len(metric.arms),
        "prior": None if metric.prior is None else dataclasses.asdict(metric.prior),
        "pooled": None
        if pooled is None
        else dataclasses.asdict(pooled)
        | {"note": None if pooled.flag is None else FLAGS[pooled.flag]},
        "pooled_reason": metric.pooled_reason,
        "shipped": None if metric.shipped is None else dataclasses.asdict(metric.shipped),
    }


def _overlap_row(pair: Overlap) -> dict[str, Any]:
    return {
        "experiments": [pair.first, pair.second],
        "n_units": pair.n_units,
        "arms": [list(arms) for arms in pair.arms],
        "counts": [list(row) for row in pair.counts],
        "dependence": None if pair.dependence is None else dataclasses.asdict(pair.dependence),
        "reason": pair.reason,
    }


def _interaction_row(test: InteractionTest) -> dict[str, Any]:
    found = test.found
    row: dict[str, Any] = {
        "experiment": test.experiment,
        "metric": test.metric,
        "arm": test.arm,
        "other": test.other,
        "other_arm": test.other_arm,
        "method": test.method,
        "status": "ok" if found is not None else "not_tested",
        "reason": test.reason,
        "p_adjusted": test.p_adjusted,
    }
    numbers = ("estimate", "std_error", "ci_low", "ci_high", "p_value", "degrees_of_freedom")
    row |= {name: None if found is None else getattr(found, name) for name in numbers}
    for name in ("in_control", "in_treatment"):
        effect = None if found is None else getattr(found, name)
        row[f"effect_{name}"] = None if effect is None else _without_levels(effect)
    return row


def _without_levels(effect: Estimate) -> dict[str, Any]:
    """The effect, without the means of its arms.

    Set beside those within another arm of the other experiment, which may be open, they would
    compare that one's arms.
    """
    row = dataclasses.asdict(effect)
    return {name: value for name, value in row.items() if name not in LEVELS}
