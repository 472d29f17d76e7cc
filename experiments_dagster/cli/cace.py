"""The command for experiments whose units did not all take what they were assigned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments_dagster.cli.output import (
    NOT_ESTIMABLE,
    AsJson,
    OutJson,
    OutMd,
    Sheet,
    deliver,
    exit_codes,
    warn,
)
from experiments_dagster.cli.user_level.options import Shares

if TYPE_CHECKING:
    import polars as pl

    from experiments_dagster.stats.noncompliance import ComplierEffect, ConfidenceSet
    from experiments_dagster.stats.records import Estimate


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(cace)


def cace(
    input_file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, a row per unit.")],
    value: Annotated[str, typer.Option(help="Column of the outcome, of all units.")],
    received: Annotated[str, typer.Option(help="Column: 1 where the treatment was received.")],
    group_col: Annotated[str, typer.Option(help="Column with the assigned arm.")],
    control: Annotated[str, typer.Option(help="The control's value in that column.")],
    treatment: Annotated[
        str | None, typer.Option(help="The other arm; needed where there are several.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="1 - confidence level.")] = 0.05,
    shares: Shares = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Intent to treat, and the effect on units that received it because they were assigned it."""
    with exit_codes():
        import numpy as np

        from experiments_dagster.cli.columns import checked_alpha, numbers, table_of
        from experiments_dagster.cli.sample_ratio import check_sample_ratio, sample_ratio_line
        from experiments_dagster.cli.user_level.rows import parse_shares
        from experiments_dagster.stats.errors import EstimationError
        from experiments_dagster.stats.noncompliance import (
            ComplierEffect,
            complier_effect,
            intent_to_treat,
        )

        checked_alpha(alpha)
        roles = {"--value": value, "--received": received, "--group-col": group_col}
        table = table_of(input_file, roles)
        arm = _treatment(table, group_col, control, treatment)
        arms = table[group_col].cast(str)
        table = table.filter(arms.is_in([control, arm]))
        outcome = numbers(input_file, table, "--value", value)
        taken = numbers(input_file, table, "--received", received)
        if not np.isin(taken, (0.0, 1.0)).all():
            msg = f"--received {received}: must be zeros and ones"
            raise ValueError(msg)
        is_assigned = (table[group_col].cast(str) == arm).to_numpy()
        n_assigned = int(is_assigned.sum())
        ratio, warnings = check_sample_ratio(
            {control: len(is_assigned) - n_assigned, arm: n_assigned}, parse_shares(shares)
        )
        found: dict[str, Any]
        try:
            result = complier_effect(outcome, is_assigned, taken, alpha=alpha)
        except EstimationError as error:
            # The effect of the assignment stands whatever became of the treatment.
            itt = intent_to_treat(outcome, is_assigned, alpha=alpha)
            found = dict.fromkeys(field.name for field in dataclasses.fields(ComplierEffect))
            found |= {"itt": dataclasses.asdict(itt), "assumptions": []}
            found |= {"status": "not_estimable", "reason": error.code}
            warnings = [*warnings, f"no effect on compliers: {error}"]
            sheet = _itt_sheet(value, control, arm, itt, sample_ratio_line(ratio))
        else:
            found = {**dataclasses.asdict(result), "assumptions": list(result.assumptions)}
            found |= {"status": "ok", "reason": None}
            sheet = _sheet(value, control, arm, result, sample_ratio_line(ratio))
        document: dict[str, Any] = {
            "inputs": {
                "path": str(input_file),
                "value": value,
                "received": received,
                "group": group_col,
                "control": control,
                "treatment": arm,
                "alpha": alpha,
            },
            **found,
            "sample_ratio": ratio,
            "warnings": warnings,
        }
        for warning in warnings:
            warn(warning)
        deliver(document, [sheet], as_json=as_json, out_json=out_json, out_md=out_md)
        if found["status"] != "ok":
            raise typer.Exit(NOT_ESTIMABLE)


def _treatment(table: pl.DataFrame, column: str, control: str, asked: str | None) -> str:
    arms = sorted(table[column].cast(str).unique().to_list())
    others = [arm for arm in arms if arm != control]
    for flag, arm in (("--control", control), ("--treatment", asked)):
        if arm is not None and arm not in arms:
            msg = f"{flag} {arm}: must be one of {', '.join(arms)}, the values of {column!r}"
            raise ValueError(msg)
    if asked == control:
        msg = f"--treatment {asked}: is the control, must be another arm"
        raise ValueError(msg)
    if asked is None and len(others) != 1:
        known = ", ".join(others) or "none"
        msg = f"--treatment is missing: must name one of the other arms of {column!r} ({known})"
        raise ValueError(msg)
    return asked or others[0]


def _sheet(value: str, control: str, arm: str, result: ComplierEffect, sample_ratio: str) -> Sheet:
    limits = "-"
    if result.ci_low is not None and result.ci_high is not None:
        limits = f"[{result.ci_low:.6g}, {result.ci_high:.6g}]"
    f = result.first_stage_f
    name = {"delta": "the delta method", "anderson_rubin": "Anderson-Rubin"}[result.interval]
    shares = (
        f"{result.received_control:.1%} of {control}",
        f"{result.received_treatment:.1%} of {arm}",
    )
    notes = [
        f"received by {' and '.join(shares)}",
        f"first-stage F {'-' if f is None else f'{f:.4g}'}; interval by {name}",
        f"Anderson-Rubin set: {_set_words(result.anderson_rubin)}",
        *(f"the complier effect assumes {text}" for text in result.assumptions),
        "units are never compared by what they received: they chose it themselves",
        sample_ratio,
    ]
    return Sheet(
        title=f"{value}, {arm} against {control}",
        columns=("effect", "estimate", "std. error", "interval", "p"),
        rows=[
            _row("intent to treat", result.itt),
            _row("first stage", result.first_stage),
            (
                "compliers",
                f"{result.estimate:.6g}",
                f"{result.std_error:.6g}",
                limits,
                f"{result.p_value:.4g}",
            ),
        ],
        align="lrrrr",
        notes=notes,
    )


def _itt_sheet(value: str, control: str, arm: str, itt: Estimate, sample_ratio: str) -> Sheet:
    return Sheet(
        title=f"{value}, {arm} against {control}",
        columns=("effect", "estimate", "std. error", "interval", "p"),
        rows=[_row("intent to treat", itt), ("compliers", "not estimable", "-", "-", "-")],
        align="lrrrr",
        notes=["units are never compared by what they received", sample_ratio],
    )


def _row(name: str, effect: Estimate) -> tuple[str, ...]:
    return (
        name,
        f"{effect.estimate:.6g}",
        f"{effect.std_error:.6g}",
        f"[{effect.ci_low:.6g}, {effect.ci_high:.6g}]",
        "-" if effect.p_value is None else f"{effect.p_value:.4g}",
    )


def _set_words(found: ConfidenceSet) -> str:
    if found.low is None or found.high is None:
        return "every value"
    if found.shape == "bounded":
        return f"{found.low:.6g} to {found.high:.6g}"
    return f"everything up to {found.low:.6g} and from {found.high:.6g} on"
