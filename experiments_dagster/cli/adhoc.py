"""Commands on a file or on numbers alone: compare, boundaries, assign."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments_dagster.cli.output import exit_codes, out, print_json

AsJson = Annotated[bool, typer.Option("--json", help="Print strict JSON.")]

DESIGNS = (
    "lan_demets_obrien_fleming, lan_demets_pocock, obrien_fleming, pocock, hwang_shih_decani, "
    "kim_demets, wang_tsiatis or haybittle_peto."
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
        if as_json:
            print_json(document)
            return
        from rich.table import Table

        table = Table(
            title=f"{design}, alpha {alpha:g}, {sides}-sided", title_justify="left", box=None
        )
        for name in ("information", "critical value", "nominal level (one-sided)", "alpha spent"):
            table.add_column(name, justify="right")
        rows = zip(
            result.fractions,
            result.critical_values,
            result.nominal_levels,
            result.cumulative_alpha,
            strict=True,
        )
        for fraction, critical, nominal, spent in rows:
            table.add_row(
                f"{fraction:.4g}",
                "none" if critical is None else f"{critical:.4f}",
                "-" if nominal is None else f"{nominal:.6f}",
                f"{spent:.6f}",
            )
        out.print(table)


def compare(
    input_file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, a row per unit.")],
    group_col: Annotated[str, typer.Option(help="Column with the arm.")],
    control: Annotated[str, typer.Option(help="The control's value in that column.")],
    kind: Annotated[str, typer.Option(help="mean, proportion or ratio.")] = "mean",
    value: Annotated[str | None, typer.Option(help="Column of the value.")] = None,
    numerator: Annotated[str | None, typer.Option(help="Column, for ratios.")] = None,
    denominator: Annotated[str | None, typer.Option(help="Column, for ratios.")] = None,
    covariates: Annotated[str, typer.Option(help="Pre-period columns, such as a,b.")] = "",
    treatment: Annotated[
        list[str] | None, typer.Option(help="Arms; all others when left out.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="welch, pooled_z, lin or pooled_theta.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Compare arms in a file of one row per unit."""
    with exit_codes():
        from experiments_dagster.cli.compare import compare_file

        estimates = compare_file(
            input_file,
            group=group_col,
            control=control,
            kind=kind,
            columns=[name for name in (value, numerator, denominator) if name],
            covariates=[name.strip() for name in covariates.split(",") if name.strip()],
            treatments=treatment,
            method=method,
            alpha=alpha,
        )
        if as_json:
            print_json({"estimates": estimates})
            return
        from rich.table import Table

        table = Table(box=None, padding=(0, 2))
        for name in ("treatment", "estimand", "method"):
            table.add_column(name)
        for name in ("estimate", "std. error", "interval", "p"):
            table.add_column(name, justify="right")
        for row in estimates:
            if row["status"] != "ok":
                table.add_row(row["treatment"], row["estimand"], row["method"], row["reason"])
                continue
            low, high = row["ci_low"], row["ci_high"]
            table.add_row(
                row["treatment"],
                row["estimand"],
                f"{row['method']} ({row['variance_formula']})",
                f"{row['estimate']:.6g}",
                f"{row['std_error']:.6g}",
                "unbounded" if low is None or high is None else f"[{low:.6g}, {high:.6g}]",
                "-" if row["p_value"] is None else f"{row['p_value']:.4g}",
            )
        out.print(table)


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
        if as_json:
            print_json({"assignments": rows})
            return
        for row in rows:
            out.print(f"{row['unit']}\t{row['variant']}\t{row['bucket']:.12f}", markup=False)


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
    from experiments_dagster.cli.compare import read_table

    assert path is not None
    table: Any = read_table(path, [column])
    return [str(value) for value in table[column].to_list()]
