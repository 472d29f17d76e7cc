"""Moments per metric and arm as of a cut-off, from rows that a warehouse aggregated.

Each landed row holds moments that are cumulative up to its time. Of one metric and arm the row
with the newest time counts, and of several for that time the one landed last. Nothing is added
up: rows of two times share units, and only sets without a common unit may be merged.

A mean has the column y, a ratio numerator and denominator; centred products are
variance * (n - 1) and covariance * (n - 1).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment, canonical_hash
from experiments_dagster.contracts.summaries import validate_summary_frame
from experiments_dagster.frames.unit_frames import FrameInfo, FramesContractError
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

KIND = "summary_frame"
NUMBERS = ("n", "mean", "variance", "denominator_mean", "denominator_variance", "covariance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summaries:
    """The moments behind a look, by (metric name, arm); an arm without a row has `n` 0."""

    info: FrameInfo
    moments: dict[tuple[str, str], ArmMoments]


def build_summaries(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
    publish: bool = True,
) -> Summaries:
    """Pick the moments that batches 1..cutoff know at `as_of` and publish them as a small frame.

    Rows before the experiment's start belong to an earlier phase and are left out.

    Args:
        project: Names the source.
        manifest: The landed batches.
        experiment: Arms and metrics, all of kind summary.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        publish: Whether `current.json` shall point to the result; a reproduction does not.

    Raises:
        ContractError: Nothing has landed, rows name an unknown arm, or the frame breaks its
            contract.
        DataDamagedError: A landed file that is needed is damaged.
    """
    del project  # the plan names the source; the parameter keeps both builders alike
    layout, source = manifest.layout, experiment.exposure_source
    tables = manifest.tables(source, up_to=cutoff)
    if not tables:
        raise ContractError(f"raw/{source}", {"no summaries have landed": 0})
    landed = pl.scan_parquet([manifest.verified(table) for _, table in tables])
    frame = _newest_rows(landed, experiment, as_of)
    _refuse_unknown_arms(frame, experiment)
    try:
        validate_summary_frame(frame, experiment)
    except ContractError as error:
        raise FramesContractError(experiment.slug, {KIND: error.cases}) from None
    moments = _moments(frame, experiment)
    horizon = frame["taken_at"].max()
    assert horizon is None or isinstance(horizon, dt.datetime)
    horizon = horizon or experiment.starts_at
    made_of = canonical_hash([str(as_of), experiment.plan_hash])
    name = f"{cutoff:06d}-{horizon:%Y%m%dT%H%M%S}-{made_of}.parquet"
    target = layout.frame(KIND, experiment.slug) / name
    with staged(target, layout.staging) as temporary:
        frame.write_parquet(temporary, compression="zstd")
        digest = sha256_file(temporary)
    counts = _arm_sizes(moments, experiment)
    info = FrameInfo(
        experiment=experiment.slug,
        cutoff=cutoff,
        as_of=as_of.astimezone(dt.UTC).isoformat(),
        horizon=horizon.isoformat(),
        plan_hash=experiment.plan_hash,
        summary_frame=str(target.relative_to(layout.root)),
        sha256={KIND: digest},
        rows=frame.height,
        inputs={table.path: table.sha256 for _, table in tables},
        n_exposed=counts,
        n_multi_arm=dict.fromkeys(experiment.variants, 0),
        n_rows=counts,
        n_immature={metric.name: 0 for metric in experiment.metrics},
    )
    if publish:
        pointer = layout.frame(KIND, experiment.slug) / "current.json"
        write_bytes(pointer, canonical_json(asdict(info)))
    return Summaries(info=info, moments=moments)


def read_current_summaries(layout: Layout, experiment: Experiment) -> Summaries:
    """The published moments of an experiment.

    Raises:
        FileNotFoundError: None have been published yet.
    """
    pointer = layout.frame(KIND, experiment.slug) / "current.json"
    info = FrameInfo(**json.loads(pointer.read_bytes()))
    assert info.summary_frame is not None
    frame = pl.read_parquet(layout.root / info.summary_frame)
    return Summaries(info=info, moments=_moments(frame, experiment))


def _newest_rows(landed: pl.LazyFrame, experiment: Experiment, as_of: dt.datetime) -> pl.DataFrame:
    """One row per metric and arm; metrics by their own names, in the order of the plan."""
    plan = pl.DataFrame(
        {
            "called": [metric.summary_name for metric in experiment.metrics],
            "metric": [metric.name for metric in experiment.metrics],
            "place": range(len(experiment.metrics)),
        }
    )
    first, last = (
        instant.astimezone(dt.UTC).replace(tzinfo=None) for instant in (experiment.starts_at, as_of)
    )
    return (
        landed.filter(
            pl.col("experiment") == experiment.exposure_name,
            pl.col("metric").is_in(plan["called"].to_list()),
            pl.col("occurred_at").is_between(first, last),
        )
        .select("variant", "occurred_at", pl.col("metric").alias("called"), *NUMBERS)
        # Files come in the order of their batches, rows in the order of their landing.
        .sort("occurred_at", maintain_order=True)
        .unique(["called", "variant"], keep="last")
        .join(plan.lazy(), on="called")
        .sort("place", "variant")
        .select(
            "metric",
            pl.col("variant").alias("arm"),
            pl.col("occurred_at").dt.replace_time_zone("UTC").alias("taken_at"),
            *NUMBERS,
        )
        .collect()
    )


def _refuse_unknown_arms(frame: pl.DataFrame, experiment: Experiment) -> None:
    found = dict(frame.group_by("arm").len().iter_rows())
    unknown = {arm: n for arm, n in sorted(found.items()) if arm not in experiment.variants}
    if unknown:
        rules = {f"variant {arm!r} is not configured": n for arm, n in unknown.items()}
        raise ContractError(f"summaries of {experiment.slug}", rules)


def _moments(frame: pl.DataFrame, experiment: Experiment) -> dict[tuple[str, str], ArmMoments]:
    rows = {(row["metric"], row["arm"]): row for row in frame.iter_rows(named=True)}
    return {
        (metric.name, arm): _arm_moments(metric, rows.get((metric.name, arm)))
        for metric in experiment.metrics
        for arm in experiment.variants
    }


def _arm_moments(metric: Metric, row: Mapping[str, Any] | None) -> ArmMoments:
    columns = ("numerator", "denominator") if metric.summary_ratio else ("y",)
    if row is None or row["n"] == 0:
        return ArmMoments.empty(columns)
    means = [row["mean"]]
    covariance = [[row["variance"]]]
    if metric.summary_ratio:
        means.append(row["denominator_mean"])
        covariance[0].append(row["covariance"])
        covariance.append([row["covariance"], row["denominator_variance"]])
    cross = np.zeros((len(means), len(means)))
    if row["n"] > 1:
        cross = np.array(covariance, dtype=np.float64) * (row["n"] - 1)
    return ArmMoments(n=row["n"], columns=columns, means=np.array(means), cross=cross)


def _arm_sizes(
    moments: Mapping[tuple[str, str], ArmMoments], experiment: Experiment
) -> dict[str, int]:
    """Units per arm of the metric that counts the most units; the primary's among equals.

    Metrics of complete cohorts count later the longer their windows are. All arms are counted on
    one metric: two metrics of different times would look like a sample-ratio mismatch.
    """
    by_metric = [
        {arm: moments[metric.name, arm].n for arm in experiment.variants}
        for metric in experiment.metrics
    ]
    return max(by_metric, key=lambda sizes: sum(sizes.values()))
