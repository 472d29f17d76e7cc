"""The command that analyses factors with two levels each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
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

if TYPE_CHECKING:
    from experiments_dagster.cli.columns import Mask
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
    shares: Annotated[
        str | None,
        typer.Option(
            help="Configured shares of the combinations, levels in the order of --factors, such as "
            "off/off=0.7,off/on=0.1,on/off=0.1,on/on=0.1; equal when left out."
        ),
    ] = None,
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
        from experiments_dagster.cli.sample_ratio import check_sample_ratio, sample_ratio_line
        from experiments_dagster.cli.user_level.rows import parse_shares
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
        is_high = np.column_stack([column for column, _ in found])
        configured = parse_shares(shares)
        counts = _cell_counts(is_high, [pair for _, pair in found])
        if configured is not None:
            # What was not configured is no arm, unless it has units.
            counts = {cell: n for cell, n in counts.items() if n or cell in configured}
        ratio, warnings = check_sample_ratio(counts, configured)
        result = factorial_effects(
            outcome,
            is_high,
            factors=names,
            order=order,
            alpha=alpha,
        )
        levels = {name: pair for name, (_, pair) in zip(names, found, strict=True)}
        document = _document(input_file, value, levels, result) | {
            "sample_ratio": ratio,
            "warnings": warnings,
        }
        for warning in warnings:
            warn(warning)
        sheets = _sheets(value, levels, result, sample_ratio_line(ratio))
        deliver(document, sheets, as_json=as_json, out_json=out_json, out_md=out_md)
        if all(effect.estimate is None for effect in result.effects):
            raise typer.Exit(NOT_ESTIMABLE)


def _cell_counts(is_high: Mask, levels: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Units of each combination of levels, also of those without units."""
    import numpy as np

    cells = list(itertools.product((0, 1), repeat=len(levels)))
    names = ["/".join(pair[k] for pair, k in zip(levels, cell, strict=True)) for cell in cells]
    if len(set(names)) < len(names):
        msg = "--factors: levels that hold a '/' make combinations of the same name; rename them"
        raise ValueError(msg)
    weights = 2 ** np.arange(len(levels))[::-1]  # the last factor varies fastest, as in `cells`
    counts = np.bincount(is_high @ weights, minlength=len(cells))
    return dict(zip(names, counts.tolist(), strict=True))


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


def _sheets(
    value: str, levels: dict[str, tuple[str, str]], result: Factorial, sample_ratio: str
) -> list[Sheet]:
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
    notes.append(sample_ratio)
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
