"""The verbs `impact` and `causal-impact`; everything heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments_dagster.cli.output import AsJson, OutJson, OutMd, exit_codes
from experiments_dagster.cli.user_level.options import Alpha, Files, Out, Seed, WithAudit

if TYPE_CHECKING:
    from experiments_dagster.cli.user_level.bundle import Outcome

# Parameters whose flags have another name.
ARGUMENT_NAMES = {
    "input_file": "input",
    "out_dir": "out",
    "as_json": "json",
    "with_audit": "audit",
}

SeriesInput = Annotated[Path, typer.Option("--input", help="CSV or Parquet, a row per date.")]
DateCol = Annotated[str, typer.Option(help="Column with the date.")]
OutcomeCol = Annotated[str, typer.Option("--y", help="Column of the outcome.")]
Covariates = Annotated[
    str | None,
    typer.Option("--x", help="Columns that the intervention does not touch, with commas between."),
]
Intervention = Annotated[str, typer.Option(help="First date after it, such as 2025-06-30.")]
Floor = Annotated[
    int | None,
    typer.Option(help="Fewest periods before the intervention. Default: 30 days or 20 weeks."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(impact)
    app.command()(causal_impact)


def impact(
    ctx: typer.Context,
    input_file: SeriesInput,
    y: OutcomeCol,
    intervention: Intervention,
    x: Covariates = None,
    date_col: DateCol = "date",
    method: Annotated[
        str, typer.Option(help="causal_impact_like, synthetic_control or did.")
    ] = "causal_impact_like",
    freq: Annotated[str, typer.Option(help="Periods: D or W, weeks from the intervention.")] = "D",
    missing_policy: Annotated[
        str, typer.Option(help="Dates without a value: raise, ffill, bfill or zero.")
    ] = "raise",
    aggregation: Annotated[
        str, typer.Option(help="Several rows of a period: mean or sum.")
    ] = "mean",
    ridge_alpha: Annotated[float, typer.Option(help="Accepted, not used.")] = 1.0,
    bootstrap: Annotated[int, typer.Option(help="Paths to draw, at least 2000 of them.")] = 200,
    block_size: Annotated[int, typer.Option(help="Accepted, not used.")] = 7,
    run_placebo: Annotated[
        bool, typer.Option("--run-placebo", help="Placebo interventions before the real one.")
    ] = False,
    n_placebos: Annotated[int, typer.Option(help="How many, with --run-placebo.")] = 20,
    margin_rate: Annotated[
        float | None, typer.Option(help="Share of revenue that is profit; --y is then revenue.")
    ] = None,
    spend_col: Annotated[str | None, typer.Option(help="Column of money spent.")] = None,
    spend_basis: Annotated[
        str, typer.Option(help="incremental: beyond the average before; total: all of it.")
    ] = "incremental",
    incremental_cost: Annotated[
        float | None, typer.Option(help="Further cost of the intervention.")
    ] = None,
    run_sensitivity: Annotated[
        bool, typer.Option("--run-sensitivity", help="Leave out each column, and last periods.")
    ] = False,
    pre_period_min_points: Floor = None,
    alpha: Alpha = 0.05,
    seed: Seed = 42,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Effect of an intervention on one series, with placebos, money and sensitivity."""
    with exit_codes():
        from experiments_dagster.cli.impact.analyse import analyse_impact
        from experiments_dagster.cli.impact.request import (
            ImpactRequest,
            check_unused,
            column_names,
            parse_date,
        )

        check_unused(ridge_alpha=ridge_alpha, block_size=block_size)
        if run_placebo and n_placebos < 1:
            msg = f"--n-placebos {n_placebos}: must be at least 1 with --run-placebo"
            raise ValueError(msg)
        request = ImpactRequest(
            path=input_file,
            y=y,
            x=column_names(x),
            intervention=parse_date("--intervention", intervention),
            date_col=date_col,
            method=method,
            freq=freq,
            missing_policy=missing_policy,
            aggregation=aggregation,
            bootstrap=bootstrap,
            n_placebos=n_placebos if run_placebo else 0,
            margin_rate=margin_rate,
            spend_col=spend_col,
            spend_basis=spend_basis,
            incremental_cost=incremental_cost,
            run_sensitivity=run_sensitivity,
            alpha=alpha,
            seed=seed,
            min_pre_points=pre_period_min_points,
        )
        _deliver(ctx, analyse_impact(request), Files(out_dir, out_json, out_md, as_json))


def causal_impact(
    ctx: typer.Context,
    input_file: SeriesInput,
    y: OutcomeCol,
    intervention: Intervention,
    x: Covariates = None,
    date_col: DateCol = "date",
    alpha: Alpha = 0.05,
    bootstrap_iters: Annotated[
        int, typer.Option(help="Paths to draw, at least 2000 of them.")
    ] = 200,
    n_placebos: Annotated[int, typer.Option(help="Placebo interventions before it.")] = 0,
    seed: Seed = 42,
    pre_period_min_points: Annotated[
        int, typer.Option(help="Fewest days before the intervention.")
    ] = 30,
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Effect of an intervention on one daily series, by a structural time series."""
    with exit_codes():
        from experiments_dagster.cli.impact.analyse import analyse_causal_impact
        from experiments_dagster.cli.impact.request import (
            ImpactRequest,
            column_names,
            parse_date,
        )

        request = ImpactRequest(
            path=input_file,
            y=y,
            x=column_names(x),
            intervention=parse_date("--intervention", intervention),
            date_col=date_col,
            bootstrap=bootstrap_iters,
            n_placebos=n_placebos,
            alpha=alpha,
            seed=seed,
            min_pre_points=pre_period_min_points,
        )
        outcome = analyse_causal_impact(request, has_audit=with_audit)
        _deliver(ctx, outcome, Files(out_dir, out_json, out_md, as_json))


def _deliver(ctx: typer.Context, outcome: Outcome, files: Files) -> None:
    """Write and print."""
    from experiments_dagster.cli.user_level.bundle import Target, deliver

    arguments: dict[str, Any] = {
        ARGUMENT_NAMES.get(name, name): str(value) if isinstance(value, Path) else value
        for name, value in ctx.params.items()
    }
    deliver(outcome, Target(**files._asdict()), arguments)
