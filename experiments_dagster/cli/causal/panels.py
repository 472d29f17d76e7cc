"""Verbs for units by periods: `did`, `event-study` and `staggered`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from experiments_dagster.cli.causal.options import (
    Alpha,
    Covariates,
    InputFile,
    OutcomeColumn,
    OutDir,
    Seed,
    StudyOutputs,
    listed,
    moment,
)
from experiments_dagster.cli.output import AsJson, OutJson, OutMd, exit_codes

OptionalUnitCol = Annotated[
    str | None,
    typer.Option("--unit-col", help="Column of the unit; without it every row is its own unit."),
]
UnitCol = Annotated[str, typer.Option("--unit-col", help="Column of the unit.")]
TimeCol = Annotated[str, typer.Option(help="Column of the period: a year or a date.")]
GroupCol = Annotated[
    str | None, typer.Option(help="Column: 1 for the treated group, also before; with --starts.")
]
TreatedUnits = Annotated[
    str | None, typer.Option(help="Treated units with commas between; with --starts.")
]
Starts = Annotated[
    str | None, typer.Option(help="First treated period, such as 1989 or 2026-01-31.")
]
IsTreatedCol = Annotated[
    str | None, typer.Option(help="Column: 1 from a unit's first treated period on.")
]
FirstTreatedCol = Annotated[
    str | None, typer.Option(help="Column of a unit's first treated period; empty or 0: never.")
]
ExcludeUnits = Annotated[str | None, typer.Option(help="Units to leave out, with commas between.")]
First = Annotated[str | None, typer.Option(help="First period to read.")]
Last = Annotated[str | None, typer.Option(help="Last period to read.")]
Controls = Annotated[
    str, typer.Option("--control", help="Whom to compare with: never_treated or not_yet_treated.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(did)
    app.command()(event_study)
    app.command()(staggered)


def did(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    time_col: TimeCol,
    unit_col: OptionalUnitCol = None,
    group_col: GroupCol = None,
    treated_units: TreatedUnits = None,
    starts: Starts = None,
    is_treated_col: IsTreatedCol = None,
    first_treated_col: FirstTreatedCol = None,
    covariates: Covariates = None,
    exclude_units: ExcludeUnits = None,
    first: First = None,
    last: Last = None,
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """The change of the treated less the change of the others, before and after one start."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, panel_file_study

        panel = _panel(
            {
                "unit": unit_col,
                "time": time_col,
                "outcome": y,
                "covariates": listed(covariates),
                "exclude_units": listed(exclude_units),
                "first": moment("--first", first),
                "last": moment("--last", last),
            },
            {
                "--group-col": group_col,
                "--treated-units": treated_units,
                "--is-treated-col": is_treated_col,
                "--first-treated-col": first_treated_col,
            },
            starts,
        )
        design = {"kind": "difference_in_differences", "alpha": alpha, "seed": seed}
        study = panel_file_study(input_file, panel, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def event_study(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    time_col: TimeCol,
    unit_col: UnitCol,
    group_col: GroupCol = None,
    treated_units: TreatedUnits = None,
    starts: Starts = None,
    is_treated_col: IsTreatedCol = None,
    first_treated_col: FirstTreatedCol = None,
    covariates: Covariates = None,
    exclude_units: ExcludeUnits = None,
    first: First = None,
    last: Last = None,
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Differences by period around one start, with tests of the periods before it."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, panel_file_study

        panel = _panel(
            {
                "unit": unit_col,
                "time": time_col,
                "outcome": y,
                "covariates": listed(covariates),
                "exclude_units": listed(exclude_units),
                "first": moment("--first", first),
                "last": moment("--last", last),
            },
            {
                "--group-col": group_col,
                "--treated-units": treated_units,
                "--is-treated-col": is_treated_col,
                "--first-treated-col": first_treated_col,
            },
            starts,
        )
        design = {"kind": "event_study", "alpha": alpha, "seed": seed}
        study = panel_file_study(input_file, panel, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def staggered(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    time_col: TimeCol,
    unit_col: UnitCol,
    group_col: GroupCol = None,
    treated_units: TreatedUnits = None,
    starts: Starts = None,
    is_treated_col: IsTreatedCol = None,
    first_treated_col: FirstTreatedCol = None,
    covariates: Covariates = None,
    exclude_units: ExcludeUnits = None,
    first: First = None,
    last: Last = None,
    control: Controls = "never_treated",
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Units treated from different periods on, each cohort against units not treated."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, panel_file_study

        panel = _panel(
            {
                "unit": unit_col,
                "time": time_col,
                "outcome": y,
                "covariates": listed(covariates),
                "exclude_units": listed(exclude_units),
                "first": moment("--first", first),
                "last": moment("--last", last),
            },
            {
                "--group-col": group_col,
                "--treated-units": treated_units,
                "--is-treated-col": is_treated_col,
                "--first-treated-col": first_treated_col,
            },
            starts,
        )
        design = {"kind": "staggered", "control": control, "alpha": alpha, "seed": seed}
        study = panel_file_study(input_file, panel, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def _panel(
    columns: Mapping[str, Any], ways: Mapping[str, str | None], starts: str | None
) -> dict[str, Any]:
    """Fields of the panel; exactly one flag says who is treated.

    Raises:
        ValueError: Naming the flags.
    """
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) != 1:
        shown = ", ".join(given) or "none"
        msg = f"exactly one of {', '.join(ways)} says who is treated; got {shown}"
        raise ValueError(msg)
    needs_start = given[0] in {"--group-col", "--treated-units"}
    if needs_start != (starts is not None):
        rule = "needs --starts" if needs_start else "has each unit's start, leave out --starts"
        msg = f"{given[0]} {rule}"
        raise ValueError(msg)
    if columns["unit"] is None and given[0] != "--group-col":
        msg = f"{given[0]} needs --unit-col"
        raise ValueError(msg)
    if columns["unit"] is None and columns["exclude_units"]:
        msg = "--exclude-units needs --unit-col"
        raise ValueError(msg)
    return {
        **columns,
        "group": ways["--group-col"],
        "treated_units": listed(ways["--treated-units"]),
        "is_treated": ways["--is-treated-col"],
        "first_treated": ways["--first-treated-col"],
        "starts": moment("--starts", starts),
    }
