"""Jobs over the asset graph; their names are verbs."""

from __future__ import annotations

import dagster as dg

from experiments_dagster.checks.specs import (
    DAILY_SERIES,
    RATIO_FRAME,
    SEQUENTIAL,
    STUDY_FRAME,
    USER_FRAME,
    VERDICT,
)

ingest_day = dg.define_asset_job(
    "ingest_day",
    dg.AssetSelection.assets(["raw", "events"], ["raw", "exposures"], ["frames", "unit_days"]),
    description="Land what is new under an arrival day and aggregate it per unit and day.",
)

run_look = dg.define_asset_job(
    "run_look",
    dg.AssetSelection.assets(
        USER_FRAME,
        RATIO_FRAME,
        ["results", "cuped"],
        SEQUENTIAL,
        VERDICT,
        ["reports", "experiment_report"],
    ),
    description="One experiment from frames to report; spends alpha only when a look is due.",
)

estimate_intervention = dg.define_asset_job(
    "estimate_intervention",
    dg.AssetSelection.assets(
        DAILY_SERIES, ["results", "causal_impact"], STUDY_FRAME, ["results", "causal_effect"]
    ),
    description="One intervention from its frame to estimate, refutations and report.",
)

allocate_bandit = dg.define_asset_job(
    "allocate_bandit",
    dg.AssetSelection.assets(["results", "bandit"]),
    description="One bandit's shares of the next period.",
)
