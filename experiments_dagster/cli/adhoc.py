"""Commands on a file or on numbers alone: compare, boundaries, assign."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments_dagster.cli.output import (
    NOT_ESTIMABLE,
    AsJson,
    OutJson,
    OutMd,
    Sheet,
    deliver,
    exit_codes,
    out,
    print_json,
    warn,
    write_files,
)
from experiments_dagster.cli.user_level.options import Shares

DESIGNS = (
    "lan_demets_obrien_fleming, lan_demets_pocock, obrien_fleming, pocock, hwang_shih_decani, "
    "kim_demets, wang_tsiatis or haybittle_peto."
)
METHODS_HELP = (
    "mean: welch, lin, pooled_theta, within_theta, post_stratified, clustered, mann_whitney, "
    "log1p, trimmed, bootstrap, permutation. proportion: also pooled_z and fisher, without ranks, "
    "logs and trimming. ratio: delta, lin, clustered, bootstrap. quantile: outer, kernel, "
    "augmented. Left out: the first that fits the other flags."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(boundaries)
    app.command()(compare)
    app.command()(assign)


def boundaries(
    design: Annotated[str, typer.Option(help=DESIGNS)],
    information: Annotated[str, typer.Option(help="Increasing fractions, such as 0.25,0.5,1.")],
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.05,
    sides: Annotated[int, typer.Option(min=1, max=2)] = 2,
    parameter: Annotated[
        float | None, typer.Option(help="gamma, rho, delta or the early bound.")
    ] = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Critical values of a group-sequential design."""
    with exit_codes():
        from experiments_dagster.stats.sequential.boundaries import design_boundaries

        result = design_boundaries(
            design,  # type: ignore[arg-type]
            _numbers(information, "--information"),
            alpha=alpha,
            sides=sides,  # type: ignore[arg-type]
            parameter=parameter,
        )
        document = {
            "design": design,
            "information": list(result.fractions),
            "critical_values": list(result.critical_values),
            "nominal_levels": list(result.nominal_levels),
            "cumulative_alpha": list(result.cumulative_alpha),
        }
        rows = zip(
            result.fractions,
            result.critical_values,
            result.nominal_levels,
            result.cumulative_alpha,
            strict=True,
        )
        sheet = Sheet(
            title=f"{design}, alpha {alpha:g}, {sides}-sided",
            columns=("information", "critical value", "nominal level (one-sided)", "alpha spent"),
            rows=[
                (
                    f"{fraction:.4g}",
                    "none" if critical is None else f"{critical:.4f}",
                    "-" if nominal is None else f"{nominal:.6f}",
                    f"{spent:.6f}",
                )
                for fraction, critical, nominal, spent in rows
            ],
        )
        deliver(document, [sheet], as_json=as_json, out_json=out_json, out_md=out_md)


def compare(
    input_file: Annotated[
        Path, typer.Option("--input", help="Parquet or CSV, a row per unit (or event: --cluster).")
    ],
    group_col: Annotated[str, typer.Option(help="Column with the arm.")],
    control: Annotated[str, typer.Option(help="The control's value in that column.")],
    kind: Annotated[str, typer.Option(help="mean, proportion, ratio or quantile.")] = "mean",
    value: Annotated[str | None, typer.Option(help="Column of the value.")] = None,
    numerator: Annotated[str | None, typer.Option(help="Column, for ratios.")] = None,
    denominator: Annotated[str | None, typer.Option(help="Column, for ratios.")] = None,
    quantile: Annotated[float | None, typer.Option(help="Such as 0.9, for quantiles.")] = None,
    covariates: Annotated[
        str, typer.Option(help="Pre-period columns, such as a,b: numbers or text.")
    ] = "",
    strata: Annotated[
        str | None, typer.Option(help="Column of strata, or of the blocks of a permutation.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Column of what was randomised, where a row is less than that."),
    ] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help="An arm, may be repeated; all others when left out.")
    ] = None,
    method: Annotated[str | None, typer.Option(help=METHODS_HELP)] = None,
    alpha: Annotated[float, typer.Option(help="1 - confidence level.")] = 0.05,
    replicates: Annotated[
        int | None, typer.Option(help="Of bootstrap (2000) or permutation (1999).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of bootstrap or permutation (0).")] = None,
    dunnett: Annotated[
        bool, typer.Option("--dunnett", help="Also p and intervals for all treatments together.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(help="Test equivalence, or with --direction non-inferiority, within this."),
    ] = None,
    margin_scale: Annotated[
        str, typer.Option(help="relative (share of the control) or absolute.")
    ] = "relative",
    direction: Annotated[
        str | None, typer.Option(help="Of improvement: increase or decrease.")
    ] = None,
    effect_sizes: Annotated[
        bool, typer.Option("--effect-sizes", help="Also Cohen's d and its relatives.")
    ] = False,
    shares: Shares = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Compare arms in a file."""
    with exit_codes():
        from experiments_dagster.cli.compare import compare_file
        from experiments_dagster.cli.compare_request import Request
        from experiments_dagster.cli.compare_sheet import sheets_of
        from experiments_dagster.cli.user_level.rows import parse_shares

        request = Request(
            path=input_file,
            group=group_col,
            control=control,
            kind=kind,
            value=value,
            numerator=numerator,
            denominator=denominator,
            quantile=quantile,
            covariates=tuple(name.strip() for name in covariates.split(",") if name.strip()),
            strata=strata,
            cluster=cluster,
            treatments=tuple(treatment or ()),
            method=method,
            alpha=alpha,
            replicates=replicates,
            seed=seed,
            dunnett=dunnett,
            margin=margin,
            margin_scale=margin_scale,
            direction=direction,
            effect_sizes=effect_sizes,
            shares=parse_shares(shares),
        )
        document = compare_file(request)
        for warning in document["warnings"]:
            warn(warning)
        sheets = sheets_of(request, document)
        deliver(document, sheets, as_json=as_json, out_json=out_json, out_md=out_md)
        if all(row["status"] != "ok" for row in document["estimates"]):
            raise typer.Exit(NOT_ESTIMABLE)


def assign(
    experiment: Annotated[str, typer.Option(help="Slug of the experiment.")],
    salt: Annotated[str, typer.Option(help="The experiment's salt.")] = "",
    shares: Annotated[str, typer.Option(help="Such as control=0.5,treatment=0.5.")] = (
        "control=0.5,treatment=0.5"
    ),
    units: Annotated[str | None, typer.Option(help="Unit ids, such as u1,u2.")] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="Parquet or CSV.")] = None,
    unit: Annotated[str, typer.Option(help="Column of --input with the unit id.")] = "unit",
    scheme: Annotated[str, typer.Option(help="default or incrementality.")] = "default",
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Which arm each unit belongs to: a pure function of unit, experiment and salt."""
    with exit_codes():
        from experiments_dagster.stats.design.allocation import assign as assign_unit

        if (units is None) == (input_file is None):
            msg = "give either --units or --input"
            raise ValueError(msg)
        if scheme not in ("default", "incrementality"):
            msg = f"--scheme {scheme!r}: must be default or incrementality"
            raise ValueError(msg)
        ids = units.split(",") if units is not None else _column(input_file, unit)
        parsed = _shares(shares)
        rows = [
            dataclasses.asdict(
                assign_unit(
                    one,
                    experiment=experiment,
                    salt=salt,
                    shares=parsed,
                    scheme=scheme,  # type: ignore[arg-type]
                )
            )
            for one in ids
        ]
        document = {"assignments": rows}
        cells = [(row["unit"], row["variant"], f"{row['bucket']:.12f}") for row in rows]
        title = f"assignment of {experiment}"
        sheet = Sheet(title=title, columns=("unit", "variant", "bucket"), rows=cells, align="llr")
        write_files(document, [sheet], out_json=out_json, out_md=out_md)
        if as_json:
            print_json(document)
            return
        for line in cells:
            out.print("\t".join(line), markup=False, soft_wrap=True)


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        msg = f"{flag} {text!r}: must be numbers separated by commas"
        raise ValueError(msg) from None


def _shares(text: str) -> dict[str, float]:
    parts = [part.partition("=") for part in text.split(",")]
    try:
        return {arm.strip(): float(share) for arm, _, share in parts}
    except ValueError:
        msg = f"--shares {text!r}: must be arm=share separated by commas"
        raise ValueError(msg) from None


def _column(path: Path | None, column: str) -> list[str]:
    from experiments_dagster.storage.table_file import read_table

    assert path is not None
    table: Any = read_table(path, [column])
    return [str(value) for value in table[column].to_list()]
