"""Asset checks that know their partition: a preview feature of Dagster 1.13, used only here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from experiments_dagster.looks.records import Look

LOOK_HEALTH = "look_health"
USER_FRAME = ["frames", "user_frame"]
RATIO_FRAME = ["frames", "ratio_frame"]
DAILY_SERIES = ["frames", "daily_series"]
STUDY_FRAME = ["frames", "study_frame"]
SEQUENTIAL = ["results", "sequential"]
VERDICT = ["decisions", "verdict"]
RAW_EVENTS = ["raw", "events"]


def check_spec(
    name: str,
    asset: list[str],
    partitions: dg.PartitionsDefinition[str],
    description: str,
    *,
    blocking: bool,
) -> dg.AssetCheckSpec:
    """One check of one partitioned asset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name,
            asset=asset,
            blocking=blocking,
            description=description,
            partitions_def=partitions,
        )


def contract_result(
    name: str, asset: list[str], cases: Mapping[str, int] | None
) -> dg.AssetCheckResult:
    """A contract check: passed without cases, else counts per rule and never rows."""
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(asset),
        check_name=name,
        passed=not cases,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(f"{rule}: {n} rows" for rule, n in (cases or {}).items()) or None,
        metadata={rule: int(n) for rule, n in (cases or {}).items()},
    )


def look_health(look: Look) -> dict[str, Any]:
    """The arguments of a `look_health` result: failed parts named, all parts in the metadata."""
    failed = [check for check in look.checks if not check.passed]
    severity = (
        dg.AssetCheckSeverity.ERROR
        if any(check.blocks for check in failed) or not failed
        else dg.AssetCheckSeverity.WARN
    )
    return {
        "check_name": LOOK_HEALTH,
        "passed": not failed,
        "severity": severity,
        "description": "; ".join(f"{check.name}: {check.message}" for check in failed) or None,
        "metadata": {
            check.name: f"{'passed' if check.passed else 'FAILED'}: {check.message}"
            for check in look.checks
        },
    }
