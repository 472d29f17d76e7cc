"""The command that analyses factors with two levels each."""

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
)

if TYPE_CHECKING:
    from experiments_dagster.stats.factorial import Factorial, FactorialEffect


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(factorial)


def factorial(
    input_file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, a row per unit.")],
    value: Annotated[str, typer.Option(help="Column of the outcome.")],
    factors: Annotated[str, typer.Option(help="Columns a,b[,c], up to 6, two levels each.")],
    order: Annotated[
        int | None, typer.Option(help="Highest order of interactions (2); none above is assumed.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="1 - confidence level.")] = 0.05,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Main effects and interactions of a 2^k experiment."""
    with exit_codes():
        import numpy as np

        from experiments_dagster.cli.columns import (
            checked_alpha,
            names_of,
            numbers,
            table_of,
            two_levels,
        )
        from experiments_dagster.stats.factorial import MAX_FACTORS, factorial_effects

        checked_alpha(alpha)
        names = names_of("--factors", factors)
        if len(names) > MAX_FACTORS:
            msg = f"--factors {factors}: {len(names)} given, must be {MAX_FACTORS} or fewer"
            raise ValueError(msg)
        if order is not None and not 1 <= order <= len(names):
            msg = f"--order {order}: must be 1 to {len(names)}, the number of factors"
            raise ValueError(msg)
        roles = {"--value": value} | {f"--factors ({k})": name for k, name in enumerate(names, 1)}
        table = table_of(input_file, roles)
        outcome = numbers(input_file, table, "--value", value)
        found = [two_levels(table, "--factors", name) for name in names]
        result = factorial_effects(
            outcome,
            np.column_stack([is_high for is_high, _ in found]),
            factors=names,
            order=order,
            alpha=alpha,
        )
        levels = {name: pair for name, (_, pair) in zip(names, found, strict=True)}
        document = _document(input_file, value, levels, result)
        sheets = _sheets(value, levels, result)
        deliver(document, sheets, as_json=as_json, out_json=out_json, out_md=out_md)
        if all(effect.estimate is None for effect in result.effects):
            raise typer.Exit(NOT_ESTIMABLE)


def _document(
    path: Path, value: str, levels: dict[str, tuple[str, str]], result: Factorial
) -> dict[str, Any]:
    whole = dataclasses.asdict(result)
    return {
        "inputs": {
            "path": str(path),
            "value": value,
            "levels": {name: {"low": low, "high": high} for name, (low, high) in levels.items()},
            "order": result.order,
            "alpha": round(1 - result.confidence_level, 12),
        },
        **whole,
        "effects": [_row(effect) for effect in result.effects],
        "grand_mean": _row(result.grand_mean),
    }


def _row(effect: FactorialEffect) -> dict[str, Any]:
    status = "ok" if effect.reason is None else "not_estimable"
    return {"name": effect.name, "order": effect.order, "status": status} | dataclasses.asdict(
        effect
    )


def _sheets(value: str, levels: dict[str, tuple[str, str]], result: Factorial) -> list[Sheet]:
    rows = [_cells(effect) for effect in (result.grand_mean, *result.effects)]
    notes = [
        "; ".join(f"{name}: high is {high}, low is {low}" for name, (low, high) in levels.items()),
        "HC2 standard errors, t by Bell and McCaffrey; Holm p within each order",
        f"intervals are at {result.confidence_level:.4g} each, not corrected",
    ]
    if result.order < len(levels):
        notes.append(f"interactions of more than {result.order} factors are assumed to be none")
    if result.n_empty_cells:
        notes.append(f"{result.n_empty_cells} combinations of levels have no units")
    effects = Sheet(
        title=f"{value}: 2^{len(levels)} factorial, {result.n_units} units",
        columns=("effect", "estimate", "std. error", "df", "interval", "p", "Holm p"),
        rows=rows,
        align="lrrrrrr",
        notes=notes,
    )
    table = result.variance_table
    if table is None:
        return [effects]
    lines = [
        (row.name, f"{row.sum_of_squares:.6g}", "1", f"{row.f:.6g}", f"{row.p_value:.4g}")
        for row in table.rows
    ]
    residual = ("residual", f"{table.residual_sum_of_squares:.6g}", str(table.residual_df), "", "")
    return [
        effects,
        Sheet(
            title="analysis of variance (balanced design)",
            columns=("effect", "sum of squares", "df", "F", "p"),
            rows=[*lines, residual],
            align="lrrrr",
        ),
    ]


def _cells(effect: FactorialEffect) -> tuple[str, ...]:
    name = effect.name or "grand mean"
    if effect.estimate is None:
        return (name, effect.reason or "-", "-", "-", "-", "-", "-")
    return (
        name,
        f"{effect.estimate:.6g}",
        f"{effect.std_error:.6g}",
        f"{effect.degrees_of_freedom:.4g}",
        f"[{effect.ci_low:.6g}, {effect.ci_high:.6g}]",
        "-" if effect.p_value is None else f"{effect.p_value:.4g}",
        "-" if effect.p_adjusted is None else f"{effect.p_adjusted:.4g}",
    )
