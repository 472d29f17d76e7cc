"""The flags that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

Input = Annotated[Path, typer.Option("--input", help="CSV or Parquet, a row per user.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for results, report, tables and plots. Default: results/COMMAND/TIME, or none "
        "when --out-json or --out-md is given.",
    ),
]
GroupCol = Annotated[str, typer.Option(help="Column with the arm.")]
Control = Annotated[str, typer.Option(help="The control's value in that column.")]
Test = Annotated[str, typer.Option(help="The treatment's value in that column.")]
UnitCol = Annotated[
    str | None, typer.Option(help="Column with the unit id; a unit with two rows is an error.")
]
Alpha = Annotated[float, typer.Option(help="Level of the test.")]
Shares = Annotated[
    str | None,
    typer.Option(help="Configured shares for the sample-ratio test, such as control=0.9,test=0.1."),
]
WithAudit = Annotated[bool, typer.Option("--audit", help="Also write audit.json and audit.md.")]
Compat = Annotated[
    str, typer.Option(help="ours, or legacy: also the numbers of old, labelled legacy_.")
]
Mode = Annotated[str, typer.Option(help="group_sequential or confidence_sequence.")]
Spending = Annotated[str, typer.Option(help="obrien_fleming or pocock.")]
EffectDirection = Annotated[str, typer.Option(help="two_sided, increase or decrease.")]
MinN = Annotated[int, typer.Option(help="A look with fewer rows in an arm has no result.")]
VarFloor = Annotated[
    float,
    typer.Option(help="A look whose variances are at or below it has no result."),
]
CsTau = Annotated[
    float | None,
    typer.Option(help="Mixture sd in units of the metric; left out: tuned to the planned rows."),
]
Seed = Annotated[int, typer.Option(help="Of what is random.")]
Looks = Annotated[
    str | None, typer.Option(help="Planned looks as cumulative rows, such as 2000,4000,8000.")
]
NLooks = Annotated[int, typer.Option(help="Without --looks: equally spaced looks.")]
MaxN = Annotated[int, typer.Option(help="Without --looks: rows of the last planned look.")]
TimestampCol = Annotated[
    str | None, typer.Option(help="Column that orders the rows; else the file's order.")
]

SchemaName = Annotated[
    str, typer.Option(help="b2c_user_level, b2c_ratio or timeseries_causal_impact; for --input.")
]
Groups = Annotated[str, typer.Option(help="Arms that --input may hold.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Run the command of a YAML file instead."),
]

DEFAULT_SCHEMA = "b2c_user_level"
DEFAULT_GROUPS = "control,test"


class Files(NamedTuple):
    """Where a command writes to."""

    out: Path | None
    out_json: Path | None
    out_md: Path | None
    as_json: bool
