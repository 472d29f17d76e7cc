"""Verbs for a row per unit: `observational` and `discontinuity`; and `e-value` for a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
)
from experiments_dagster.cli.output import AsJson, OutJson, OutMd, Sheet, deliver, exit_codes

if TYPE_CHECKING:
    from experiments_dagster.causal.units.sensitivity import EValue

UnitCol = Annotated[
    str | None, typer.Option(help="Column of the unit; without it the row number, for folds.")
]
PlaceboOutcomes = Annotated[
    str | None,
    typer.Option(help="Outcomes that the treatment cannot have changed, with commas between."),
]
KINDS = ("rr", "or", "hr", "mean-difference")
NOTE = (
    "the risk ratio that an unmeasured covariate would need with both treatment and outcome, "
    "beyond what is adjusted for, to explain it away"
)
LEVEL = 0.05  # of an interval that is given instead of a standard error


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(observational)
    app.command()(discontinuity)
    app.command()(e_value)


def observational(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    treated_col: Annotated[
        str, typer.Option(help="Column: 1 for treated units, 0 for others; or the arm.")
    ],
    covariates: Annotated[
        str, typer.Option(help="Columns fixed before the treatment, with commas between.")
    ],
    treatment: Annotated[
        str | None, typer.Option(help="The treated arm's value in --treated-col.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The other arm's value in --treated-col.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Covariates to take as log(1 + value), with commas between.")
    ] = None,
    placebo_outcomes: PlaceboOutcomes = None,
    estimand: Annotated[str, typer.Option(help="Effect on the treated, or on all.")] = "treated",
    trim: Annotated[
        bool, typer.Option("--trim", help="Only units with a propensity inside [0.1, 0.9].")
    ] = False,
    caliper: Annotated[
        float, typer.Option(help="Widest distance of a pair, in sd of the logit propensity.")
    ] = 0.2,
    folds: Annotated[int, typer.Option(help="Of the cross-fitting.")] = 5,
    unit_col: UnitCol = None,
    alpha: Alpha = 0.05,
    seed: Seed = 1,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Treated against untreated units alike in what was known before: AIPW, weights, pairs."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, units_file_study

        units: dict[str, Any] = {
            "unit": unit_col,
            "outcome": y,
            "treated": treated_col,
            "treatment": treatment,
            "control": control,
            "covariates": listed(covariates),
            "log": listed(log),
            "placebo_outcomes": listed(placebo_outcomes),
        }
        design: dict[str, Any] = {
            "kind": "observational",
            "estimand": estimand,
            "trim": trim,
            "caliper": caliper,
            "folds": folds,
            "alpha": alpha,
            "seed": seed,
        }
        study = units_file_study(input_file, units, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def discontinuity(
    ctx: typer.Context,
    input_file: InputFile,
    y: OutcomeColumn,
    running: Annotated[str, typer.Option(help="Column of the variable that the rule reads.")],
    cutoff: Annotated[float, typer.Option(help="Where the rule starts to apply.")],
    treated_side: Annotated[
        str, typer.Option(help="above: from the cutoff on; below: under it.")
    ] = "above",
    polynomial: Annotated[
        int | None,
        typer.Option(help="1 or 2: a global polynomial instead of local lines, for cells."),
    ] = None,
    treated_col: Annotated[
        str | None,
        typer.Option(help="Column: 1 where the treatment was taken; the rule only offers it."),
    ] = None,
    covariates: Covariates = None,
    placebo_outcomes: PlaceboOutcomes = None,
    minimum: Annotated[
        float | None, typer.Option(help="Leave out rows below, of --running.")
    ] = None,
    maximum: Annotated[
        float | None, typer.Option(help="Leave out rows above, of --running.")
    ] = None,
    alpha: Alpha = 0.05,
    out_dir: OutDir = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """The jump of an outcome at a cutoff, with its density, placebo and bandwidth checks."""
    with exit_codes():
        from experiments_dagster.cli.causal.run import deliver_study, units_file_study

        units: dict[str, Any] = {
            "outcome": y,
            "running": running,
            "treated": treated_col,
            "covariates": listed(covariates),
            "placebo_outcomes": listed(placebo_outcomes),
            "minimum": minimum,
            "maximum": maximum,
        }
        design: dict[str, Any] = {
            "kind": "discontinuity",
            "cutoff": cutoff,
            "treated_side": treated_side,
            "polynomial": polynomial,
            "is_fuzzy": treated_col is not None,
            "alpha": alpha,
        }
        study = units_file_study(input_file, units, design)
        deliver_study(ctx, study, StudyOutputs(out_dir, out_json, out_md, as_json))


def e_value(
    estimate: Annotated[float, typer.Option(help="The estimate, on the scale of --kind.")],
    kind: Annotated[str, typer.Option(help="rr, or, hr or mean-difference.")],
    ci_low: Annotated[float | None, typer.Option(help="Lower 95 % limit.")] = None,
    ci_high: Annotated[float | None, typer.Option(help="Upper 95 % limit.")] = None,
    common: Annotated[
        bool,
        typer.Option("--common", help="With or, hr: the outcome occurs in more than 15 %."),
    ] = False,
    sd: Annotated[
        float | None, typer.Option(help="With mean-difference: sd of the outcome.")
    ] = None,
    std_error: Annotated[
        float | None, typer.Option(help="With mean-difference, instead of both limits.")
    ] = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """How strong unmeasured confounding would have to be to explain an estimate."""
    with exit_codes():
        limits = _limits(ci_low, ci_high)
        _check_flags(kind, common=common, sd=sd, std_error=std_error)
        if kind == "mean-difference":
            found = _of_difference(estimate, limits, sd, std_error)
        else:
            found = _of_ratio(estimate, limits, kind, is_common=common)
        document: dict[str, Any] = {
            "inputs": {
                "estimate": estimate,
                "ci_low": ci_low,
                "ci_high": ci_high,
                "kind": kind,
                "common": common,
                "sd": sd,
                "std_error": std_error,
            },
            "risk_ratio": found.risk_ratio,
            "conversion": found.conversion,
            "e_value": found.e_value,
            "e_value_interval": found.e_value_interval,
        }
        deliver(document, [_sheet(found)], as_json=as_json, out_json=out_json, out_md=out_md)


def _limits(low: float | None, high: float | None) -> tuple[float, float] | None:
    if low is None and high is None:
        return None
    if low is None or high is None:
        missing = "--ci-low" if low is None else "--ci-high"
        msg = f"{missing} is missing: both limits or none"
        raise ValueError(msg)
    return low, high


def _check_flags(kind: str, *, common: bool, sd: float | None, std_error: float | None) -> None:
    """Refuse flags that the kind does not read: they would be ignored in silence."""
    if kind not in KINDS:
        msg = f"--kind {kind}: must be one of {', '.join(KINDS)}"
        raise ValueError(msg)
    if common and kind not in ("or", "hr"):
        msg = f"--common: only for or and hr, not for {kind}"
        raise ValueError(msg)
    for flag, value in (("--sd", sd), ("--std-error", std_error)):
        if value is not None and kind != "mean-difference":
            msg = f"{flag}: only for mean-difference, not for {kind}"
            raise ValueError(msg)


def _of_ratio(
    ratio: float, limits: tuple[float, float] | None, kind: str, *, is_common: bool
) -> EValue:
    from experiments_dagster.causal.units.sensitivity import e_value as of_ratio

    if kind == "or":
        return of_ratio(
            ratio, limits, scale="odds_ratio_common" if is_common else "odds_ratio_rare"
        )
    # The hazard ratio of a rare outcome is about the risk ratio.
    return of_ratio(
        ratio, limits, scale="hazard_ratio_common" if kind == "hr" and is_common else "risk_ratio"
    )


def _of_difference(
    difference: float,
    limits: tuple[float, float] | None,
    sd: float | None,
    std_error: float | None,
) -> EValue:
    from experiments_dagster.causal.units.sensitivity import e_value_of_difference
    from experiments_dagster.stats.intervals import critical_value

    if sd is None:
        msg = "--sd is missing: a mean difference is judged in sd of the outcome"
        raise ValueError(msg)
    if (std_error is None) == (limits is None):
        msg = "mean-difference needs either --std-error or both --ci-low and --ci-high"
        raise ValueError(msg)
    if limits is not None:
        low, high = limits
        if not low <= difference <= high:
            msg = f"--estimate {difference:g}: is outside [{low:g}, {high:g}]"
            raise ValueError(msg)
        std_error = (high - low) / (2 * critical_value(LEVEL))
    assert std_error is not None
    return e_value_of_difference(difference, std_error, sd)


def _sheet(found: EValue) -> Sheet:
    rows = [("estimate", f"{found.e_value:.4g}")]
    if found.e_value_interval is not None:
        rows.append(("interval", f"{found.e_value_interval:.4g}"))
    return Sheet(
        title=f"E-value of a risk ratio of {found.risk_ratio:.4g} ({found.conversion})",
        columns=("of the", "E-value"),
        rows=rows,
        align="lr",
        notes=[NOTE],
    )
