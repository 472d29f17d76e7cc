"""frames/user_frame and frames/ratio_frame: staged, validated, then promoted.

An experiment whose moments arrive aggregated has no units: both assets then stand for its summary
frame and say so.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from experiments_dagster.assets.clock import LookConfig, as_of_instant
from experiments_dagster.automation.partitions import EXPERIMENTS, all_days
from experiments_dagster.checks.specs import (
    RATIO_FRAME,
    USER_FRAME,
    check_spec,
    contract_result,
)
from experiments_dagster.frames.unit_frames import FrameInfo, FramesContractError
from experiments_dagster.looks.take import build_frames
from experiments_dagster.resources.project import ExperimentsProject

CONTRACTS = {"user_frame_contract": USER_FRAME, "ratio_frame_contract": RATIO_FRAME}
DESCRIPTIONS = {
    "user_frame": "One row per exposed unit: arm, first exposure, outcomes, pre-period covariates.",
    "ratio_frame": "One row per exposed unit: numerators and denominators of ratio metrics.",
}
SUMMARY_FRAME = "summary_frame"


@dg.multi_asset(
    name="unit_frames",
    specs=[
        dg.AssetSpec(
            key,
            partitions_def=EXPERIMENTS,
            deps=all_days(["frames", "unit_days"], ["raw", "exposures"]),
            group_name="frames",
            kinds={"duckdb", "parquet"},
            description=DESCRIPTIONS[key[-1]],
            skippable=True,
        )
        for key in (USER_FRAME, RATIO_FRAME)
    ],
    check_specs=[
        check_spec(
            name,
            key,
            EXPERIMENTS,
            "Unique units, known arms, finite values; checked before the frame is promoted.",
            blocking=True,
        )
        for name, key in CONTRACTS.items()
    ],
)
def unit_frames(
    context: dg.AssetExecutionContext, experiments: ExperimentsProject, config: LookConfig
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Build both frames as of the cut-off; a broken contract promotes neither."""
    project = experiments.load()
    experiment = project.experiments[context.partition_key]
    manifest = experiments.manifest(project)
    try:
        frames = build_frames(
            project, manifest, experiment, as_of=as_of_instant(experiment, config)
        )
    except FramesContractError as error:
        # No materialization: the frames published before stay, and what is downstream stops.
        for name, key in CONTRACTS.items():
            cases = error.by_frame.get(SUMMARY_FRAME, error.by_frame.get(key[-1]))
            yield contract_result(name, key, cases)
        return
    for name, key in CONTRACTS.items():
        yield dg.MaterializeResult(
            asset_key=dg.AssetKey(key),
            metadata=_metadata(frames.info, key[-1]),
            check_results=[contract_result(name, key, None)],
        )


def _metadata(info: FrameInfo, kind: str) -> dict[str, Any]:
    """What was published, counts first."""
    arms = {f"exposed_{arm}": n for arm, n in info.n_exposed.items()}
    made_of = {
        "as_of": info.as_of,
        "horizon": info.horizon,
        "cutoff": info.cutoff,
        "plan_hash": info.plan_hash,
    }
    if info.summary_frame is not None:
        note = "moments arrive aggregated: a row per metric and arm, no units"
        return {"moments": info.rows, "input": note, **made_of, **arms, "file": info.summary_frame}
    return {
        "units": info.rows,
        **made_of,
        "units_in_two_arms": sum(info.n_multi_arm.values()),
        **arms,
        **{f"immature_{metric}": n for metric, n in info.n_immature.items()},
        "file": _place(info, kind),
    }


def _place(info: FrameInfo, kind: str) -> str:
    """The frame's own file, or the kept rows that it is a view over."""
    own = info.user_frame if kind == "user_frame" else info.ratio_frame
    if own is not None:
        return own
    return f"view {kind}_{info.experiment.replace('-', '_')} over {len(info.unit_rows or ())} files"
