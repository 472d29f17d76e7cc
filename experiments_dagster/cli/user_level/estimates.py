"""Effects as tecore's users read them: one block of named numbers per estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments_dagster.cli.output import Sheet
from experiments_dagster.cli.user_level.bundle import Document
from experiments_dagster.reporting.numbers import interval, lift, optional, p_value, signed
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import Contrast

# The columns of old, then what is new.
NUMBERS = ("diff", "p_value", "t_stat", "df", "ci_low", "ci_high")
NEW_NUMBERS = ("std_error", "rel_lift", "rel_ci_low", "rel_ci_high")
SUMMARY_COLUMNS = (
    *("method", "n_control", "n_test", "mean_control", "mean_test", "diff", "p_value"),
    *("ci_low", "ci_high", "rel_lift", "rel_ci_low", "rel_ci_high", "status", "reason"),
)


def block_of(contrast: Contrast, *, has_lift: bool = True) -> Document:
    """The numbers of one estimator; means are raw, `df` is None for a normal interval."""
    difference, relative = contrast.difference, contrast.relative if has_lift else None
    reason = None
    if relative is None:
        reason = contrast.relative_reason or "NOT_IDENTIFIED"
    return {
        "n_control": difference.n_control,
        "n_test": difference.n_treatment,
        "mean_control": difference.control_mean,
        "mean_test": difference.treatment_mean,
        "diff": difference.estimate,
        "p_value": difference.p_value,
        "t_stat": difference.estimate / difference.std_error,
        "df": difference.degrees_of_freedom,
        "ci_low": difference.ci_low,
        "ci_high": difference.ci_high,
        "std_error": difference.std_error,
        "rel_lift": relative.estimate if relative else None,
        "rel_ci_low": relative.ci_low if relative else None,
        "rel_ci_high": relative.ci_high if relative else None,
        "rel_reason": reason,
        "method": difference.method,
        "variance_formula": difference.variance_formula,
        "confidence_level": difference.confidence_level,
        "status": "ok",
        "reason": None,
    }


def refused_block(
    error: EstimationError, counts: tuple[int, int], means: tuple[float | None, float | None]
) -> Document:
    """The same without numbers, and why."""
    block: Document = {"n_control": counts[0], "n_test": counts[1]}
    block |= {"mean_control": means[0], "mean_test": means[1]}
    block |= dict.fromkeys((*NUMBERS, *NEW_NUMBERS))
    return block | {
        "rel_reason": error.code,
        "method": None,
        "variance_formula": None,
        "confidence_level": None,
        "status": "not_estimable",
        "reason": error.code,
    }


def summary_row(name: str, block: Mapping[str, Any]) -> Document:
    """A row of the table `summary`."""
    return {"method": name} | {column: block[column] for column in SUMMARY_COLUMNS[1:]}


def estimate_sheet(title: str, blocks: Mapping[str, Document], alpha: float) -> Sheet:
    """The blocks side by side."""
    rows = [
        (
            name,
            optional(block["diff"], signed, block["reason"]),
            interval(block["ci_low"], block["ci_high"], signed) or "–",
            optional(block["p_value"], p_value),
            optional(block["rel_lift"], lift, None if block["reason"] else block["rel_reason"]),
            interval(block["rel_ci_low"], block["rel_ci_high"], lift) or "–",
        )
        for name, block in blocks.items()
    ]
    level = f"{100 * (1 - alpha):g} %"
    return Sheet(
        title=title,
        columns=("method", "difference", level, "p", "lift", f"{level} of the lift"),
        rows=rows,
        align="lrrrrr",
    )
