"""The verb `synthetic-control`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from experiments_dagster.cli.causal.options import (
    Alpha,
    InputFile,
    OutcomeColumn,
    OutDir,
    Seed,
    StudyOutputs,
    listed,
    moment,
)
from experiments_dagster.cli.output import AsJson, OutJson, OutMd, exit_codes

PREDICTOR = re.compile(
    r"^(?P<columns>.+?)(?:/(?P<share>.+))?@(?P<first>[\d-]+)(?::(?P<last>[\d-]+))?$"
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(synthetic_control)


def synthetic_control(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    unit_col: Annotated[str, typer.Option(help="Column of the unit.")],
    time_col: Annotated[str, typer.Option(help="Column of the period: a year or a date.")],
    treated_units: Annotated[
        str, typer.Option(help="The treated unit; several with commas, for synthetic_did.")
    ],
    starts: Annotated[str, typer.Option(help="First treated period, such as 1989.")],
    method: Annotated[str, typer.Option(help="classic, synthetic_did or augmented.")] = "classic",
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN@FIRST:LAST",
            help="What to match on, once per predictor: cigsale@1975 or beer@1984:1988; "
            "A+B/A+B+C@1964:1969 is a share.",
        ),
    ] = None,
    donors: Annotated[
        str | None, typer.Option(help="Donors with commas between; default all never treated.")
    ] = None,
    exclude_units: Annotated[
        str | None, typer.Option(help="Units that are neither treated nor donors.")
    ] = None,
    first: Annotated[str | None, typer.Option(help="First period to read.")] = None,
    last: Annotated[str | None, typer.Option(help="Last period to read.")] = None,
    max_fit_ratio: Annotated[
        float | None, typer.Option(help="Leave out placebos that fit this many times worse.")
    ] = None,
    random_starts: Annotated[int, typer.Option(help="Further starts of the search.")] = 10,
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """One treated unit against a mix of donors, with placebos in space and time."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, panel_file_study

        panel = {
            "unit": unit_col,
            "time": time_col,
            "outcome": y,
            "treated_units": listed(treated_units),
            "starts": moment("--starts", starts),
            "exclude_units": listed(exclude_units),
            "first": moment("--first", first),
            "last": moment("--last", last),
        }
        design = {
            "kind": "synthetic_control",
            "method": method,
            "donors": listed(donors),
            "predictors": [_predictor(text) for text in predictor or ()],
            "max_fit_ratio": max_fit_ratio,
            "random_starts": random_starts,
            "alpha": alpha,
            "seed": seed,
        }
        study = panel_file_study(input_file, panel, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def _predictor(text: str) -> dict[str, Any]:
    found = PREDICTOR.match(text)
    if found is None:
        msg = f"--predictor {text!r}: must be COLUMN@FIRST or COLUMN@FIRST:LAST"
        raise ValueError(msg)
    first = moment("--predictor", found["first"])
    return {
        "columns": tuple(found["columns"].split("+")),
        "share_of": tuple((found["share"] or "").split("+")) if found["share"] else (),
        "first": first,
        "last": first if found["last"] is None else moment("--predictor", found["last"]),
    }
