"""The verb `uplift`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
)
from experiments_dagster.cli.output import AsJson, OutJson, OutMd, exit_codes, warn

SUFFIXES = (".parquet", ".csv")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(uplift)


def uplift(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    treated_col: Annotated[
        str, typer.Option(help="Column: 1 for treated units, 0 for others; or the arm.")
    ],
    covariates: Annotated[
        str, typer.Option(help="Columns known before the treatment, with commas between.")
    ],
    treatment: Annotated[
        str | None, typer.Option(help="The treated arm's value in --treated-col.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The other arm's value in --treated-col.")
    ] = None,
    learner: Annotated[str, typer.Option(help="s, t, x, r or dr.")] = "dr",
    base: Annotated[
        str,
        typer.Option(
            help="Model of outcomes and effect: linear, ridge or boosted (trees; extra [uplift])."
        ),
    ] = "linear",
    treated_share: Annotated[
        float | None,
        typer.Option(
            help="Probability of treatment, where it was randomised; left out: estimated."
        ),
    ] = None,
    top_share: Annotated[
        float, typer.Option(help="Share of units to treat, highest predicted effect first.")
    ] = 0.2,
    folds: Annotated[int, typer.Option(help="Of the cross-fitting.")] = 5,
    placebo_outcomes: Annotated[
        str | None,
        typer.Option(help="Outcomes that the treatment cannot have changed, with commas between."),
    ] = None,
    unit_col: Annotated[
        str | None, typer.Option(help="Column of the unit; without it the row number, for folds.")
    ] = None,
    scores_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predicted effect of each unit as Parquet or CSV, only where differences are "
            "shown out of sample.",
        ),
    ] = None,
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Who responds to a treatment, proven on units that no model saw before anybody is named."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, units_file_study

        if scores_out is not None and scores_out.suffix not in SUFFIXES:
            msg = f"--scores-out {scores_out}: must end in {' or '.join(SUFFIXES)}"
            raise ValueError(msg)
        units = {
            "unit": unit_col,
            "outcome": y,
            "treated": treated_col,
            "treatment": treatment,
            "control": control,
            "covariates": listed(covariates),
            "placebo_outcomes": listed(placebo_outcomes),
        }
        design = {
            "kind": "uplift",
            "learner": learner,
            "base": base,
            "treated_share": treated_share,
            "top_share": top_share,
            "folds": folds,
            "alpha": alpha,
            "seed": seed,
        }
        study = units_file_study(input_file, units, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))
        if scores_out is not None:
            _write_scores(input_file, units, design, scores_out)


def _write_scores(
    path: Path, units: Mapping[str, Any], design: Mapping[str, Any], target: Path
) -> None:
    """Fit again, which is quick beside the study, and write a row per unit.

    Raises:
        EstimationError: NOT_IDENTIFIED where differences are not shown.
        ValueError: The file cannot be written.
    """
    import polars as pl

    from experiments_dagster.config.intervention import UpliftDesign
    from experiments_dagster.config.study_data import UnitsFile
    from experiments_dagster.frames.study_tables import read_units_file
    from experiments_dagster.interventions.designs.uplift_findings import uplift_scores
    from experiments_dagster.interventions.study_data import units_of
    from experiments_dagster.storage.atomic import staged

    data = UnitsFile.model_validate({"file": str(path), **units})
    rows, _ = read_units_file(path, data)
    scores = uplift_scores(
        units_of(rows, outcome_name=data.outcome), UpliftDesign.model_validate(design)
    )
    table = pl.DataFrame(
        {
            "unit": scores.names,
            "predicted_effect": scores.effects,
            "ci_low": scores.ci_low,
            "ci_high": scores.ci_high,
            "fold": scores.fold_of,
        },
        schema_overrides={"ci_low": pl.Float64, "ci_high": pl.Float64},
    )
    if scores.no_interval is not None:
        warn(f"--scores-out {target}: no interval of a predicted effect: {scores.no_interval}")
    try:
        with staged(target, target.parent) as temporary:
            if target.suffix == ".csv":
                table.write_csv(temporary)
            else:
                table.write_parquet(temporary)
    except OSError as error:
        msg = f"--scores-out {target}: cannot be written ({error.strerror})"
        raise ValueError(msg) from None
