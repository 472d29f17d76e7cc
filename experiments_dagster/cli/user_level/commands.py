"""The commands on a file with a row per user, and the switches of `validate` and `run`.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from experiments_dagster import __version__
from experiments_dagster.cli.output import AsJson, OutJson, OutMd, exit_codes, out
from experiments_dagster.cli.user_level.options import (
    Alpha,
    Compat,
    Control,
    CsTau,
    EffectDirection,
    Files,
    GroupCol,
    Input,
    Looks,
    MaxN,
    MinN,
    Mode,
    NLooks,
    Out,
    Seed,
    Shares,
    Spending,
    Test,
    TimestampCol,
    UnitCol,
    VarFloor,
    WithAudit,
)

if TYPE_CHECKING:
    from experiments_dagster.cli.user_level.bundle import Outcome

# Parameters whose flags have another name.
ARGUMENT_NAMES = {
    "input_file": "input",
    "out_dir": "out",
    "as_json": "json",
    "with_audit": "audit",
    "adjustment": "cuped",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (
        *(version, audit, cuped, cuped_ratio),
        *(sequential_mean, sequential_ratio, sequential_simulate),
    ):
        app.command()(command)


def version() -> None:
    """Print the version."""
    out.print(__version__)


def audit(
    ctx: typer.Context,
    input_file: Input,
    schema: Annotated[
        str,
        typer.Option(help="b2c_user_level, b2c_ratio, timeseries_causal_impact, sequential_mean."),
    ] = "b2c_user_level",
    group_col: Annotated[
        str | None, typer.Option(help="Column with the arm; else guessed.")
    ] = None,
    unit_col: Annotated[
        str | None, typer.Option(help="Column with the unit id; else guessed.")
    ] = None,
    shares: Shares = None,
    control: Control = "control",
    test: Test = "test",
    looks: Looks = None,
    n_looks: NLooks = 5,
    max_n: Annotated[
        int | None, typer.Option(help="Rows of the last planned look: checks a schedule.")
    ] = None,
    min_n_per_group: MinN = 50,
    timestamp_col: TimestampCol = None,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """What is in a file: columns, ids, balance, sample ratio, planned looks."""
    with exit_codes():
        from experiments_dagster.cli.user_level.audit import Schedule, audit_file
        from experiments_dagster.cli.user_level.looks import planned_looks
        from experiments_dagster.cli.user_level.rows import ArmColumns, parse_shares

        schedule = None
        if looks is not None or max_n is not None:
            schedule = Schedule(
                looks=planned_looks(looks, n_looks, max_n or 0),
                arms=ArmColumns(group=group_col or "group", control=control, test=test),
                min_n_per_group=min_n_per_group,
                timestamp=timestamp_col,
            )
        outcome = audit_file(
            input_file,
            schema,
            shares=parse_shares(shares),
            group=group_col,
            unit=unit_col,
            schedule=schedule,
        )
        _deliver(ctx, outcome, Files(out_dir, out_json, out_md, as_json))


def cuped(
    ctx: typer.Context,
    input_file: Input,
    y: Annotated[str, typer.Option(help="Column of the outcome.")],
    x: Annotated[str, typer.Option(help="Column of the same before exposure.")],
    group_col: GroupCol = "group",
    control: Control = "control",
    test: Test = "test",
    alpha: Alpha = 0.05,
    transform: Annotated[str, typer.Option(help="raw, winsor or log1p, of y and x.")] = "raw",
    winsor_q: Annotated[float, typer.Option(help="Quantile at which winsor caps.")] = 0.99,
    adjustment: Annotated[
        str, typer.Option("--cuped", help="lin, or crossfit: also theta from the other folds.")
    ] = "lin",
    unit_col: UnitCol = None,
    seed: Seed = 42,
    shares: Shares = None,
    compat: Compat = "ours",
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Compare two means with and without the pre-period."""
    with exit_codes():
        from experiments_dagster.cli.user_level.checks import is_legacy
        from experiments_dagster.cli.user_level.cuped import CupedRequest, analyse_cuped
        from experiments_dagster.cli.user_level.rows import ArmColumns, parse_shares

        request = CupedRequest(
            path=input_file,
            arms=ArmColumns(group=group_col, control=control, test=test, unit=unit_col),
            y=y,
            x=x,
            alpha=alpha,
            transform=transform,
            winsor_q=winsor_q,
            adjustment=adjustment,
            seed=seed,
            shares=parse_shares(shares),
            is_legacy=is_legacy(compat),
            has_audit=with_audit,
        )
        _deliver(ctx, analyse_cuped(request), Files(out_dir, out_json, out_md, as_json))


def cuped_ratio(
    ctx: typer.Context,
    input_file: Input,
    num: Annotated[str, typer.Option(help="Column of the numerator.")],
    den: Annotated[str, typer.Option(help="Column of the denominator.")],
    num_pre: Annotated[str, typer.Option(help="Numerator before exposure.")],
    den_pre: Annotated[str, typer.Option(help="Denominator before exposure.")],
    group_col: GroupCol = "group",
    control: Control = "control",
    test: Test = "test",
    alpha: Alpha = 0.05,
    unit_col: UnitCol = None,
    shares: Shares = None,
    compat: Compat = "ours",
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Compare two ratios of totals with and without the pre-period."""
    with exit_codes():
        from experiments_dagster.cli.user_level.checks import is_legacy
        from experiments_dagster.cli.user_level.cuped_ratio import (
            RatioRequest,
            analyse_cuped_ratio,
        )
        from experiments_dagster.cli.user_level.rows import ArmColumns, parse_shares

        request = RatioRequest(
            path=input_file,
            arms=ArmColumns(group=group_col, control=control, test=test, unit=unit_col),
            num=num,
            den=den,
            num_pre=num_pre,
            den_pre=den_pre,
            alpha=alpha,
            shares=parse_shares(shares),
            is_legacy=is_legacy(compat),
            has_audit=with_audit,
        )
        _deliver(ctx, analyse_cuped_ratio(request), Files(out_dir, out_json, out_md, as_json))


def sequential_mean(
    ctx: typer.Context,
    input_file: Input,
    y: Annotated[str, typer.Option(help="Column of the outcome.")],
    group_col: GroupCol = "group",
    control: Control = "control",
    test: Test = "test",
    timestamp_col: TimestampCol = None,
    unit_col: UnitCol = None,
    mode: Mode = "group_sequential",
    alpha: Alpha = 0.05,
    spending: Spending = "obrien_fleming",
    effect_direction: EffectDirection = "two_sided",
    min_n_per_group: MinN = 50,
    var_floor: VarFloor = 1e-12,
    cs_tau: CsTau = None,
    seed: Seed = 42,  # noqa: ARG001  stands in run_meta.json
    looks: Looks = None,
    n_looks: NLooks = 5,
    max_n: MaxN = 10_000,
    shares: Shares = None,
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Watch a mean at planned looks, safely."""
    with exit_codes():
        from experiments_dagster.cli.user_level.rows import ArmColumns, parse_shares
        from experiments_dagster.cli.user_level.sequential_file import analyse_file
        from experiments_dagster.cli.user_level.sequential_request import (
            SequentialRequest,
            StreamColumns,
        )

        columns = StreamColumns(
            arms=ArmColumns(group=group_col, control=control, test=test, unit=unit_col),
            timestamp=timestamp_col,
            y=y,
        )
        request = SequentialRequest(
            mode=mode,
            alpha=alpha,
            spending=spending,
            effect_direction=effect_direction,
            min_n_per_group=min_n_per_group,
            var_floor=var_floor,
            cs_tau=cs_tau,
            looks=looks,
            n_looks=n_looks,
            max_n=max_n,
            shares=parse_shares(shares),
        )
        outcome = analyse_file(
            "sequential-mean", input_file, columns, request, has_audit=with_audit
        )
        _deliver(ctx, outcome, Files(out_dir, out_json, out_md, as_json))


def sequential_ratio(
    ctx: typer.Context,
    input_file: Input,
    num: Annotated[str, typer.Option(help="Column of the numerator.")],
    den: Annotated[str, typer.Option(help="Column of the denominator.")],
    group_col: GroupCol = "group",
    control: Control = "control",
    test: Test = "test",
    timestamp_col: TimestampCol = None,
    unit_col: UnitCol = None,
    baseline_mode: Annotated[
        str, typer.Option(help="first_look or pre: which ratio_baseline_r0 is printed.")
    ] = "first_look",
    num_pre: Annotated[str | None, typer.Option(help="For --baseline-mode pre.")] = None,
    den_pre: Annotated[str | None, typer.Option(help="For --baseline-mode pre.")] = None,
    mode: Mode = "group_sequential",
    alpha: Alpha = 0.05,
    spending: Spending = "obrien_fleming",
    effect_direction: EffectDirection = "two_sided",
    min_n_per_group: MinN = 50,
    var_floor: VarFloor = 1e-12,
    cs_tau: CsTau = None,
    seed: Seed = 42,  # noqa: ARG001  stands in run_meta.json
    looks: Looks = None,
    n_looks: NLooks = 5,
    max_n: MaxN = 10_000,
    shares: Shares = None,
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Watch a ratio of totals at planned looks, safely."""
    with exit_codes():
        from experiments_dagster.cli.user_level.rows import ArmColumns, parse_shares
        from experiments_dagster.cli.user_level.sequential_file import analyse_file
        from experiments_dagster.cli.user_level.sequential_request import (
            SequentialRequest,
            StreamColumns,
        )

        columns = StreamColumns(
            arms=ArmColumns(group=group_col, control=control, test=test, unit=unit_col),
            timestamp=timestamp_col,
            num=num,
            den=den,
            num_pre=num_pre,
            den_pre=den_pre,
            baseline_mode=baseline_mode,
        )
        request = SequentialRequest(
            mode=mode,
            alpha=alpha,
            spending=spending,
            effect_direction=effect_direction,
            min_n_per_group=min_n_per_group,
            var_floor=var_floor,
            cs_tau=cs_tau,
            looks=looks,
            n_looks=n_looks,
            max_n=max_n,
            shares=parse_shares(shares),
        )
        outcome = analyse_file(
            "sequential-ratio", input_file, columns, request, has_audit=with_audit
        )
        _deliver(ctx, outcome, Files(out_dir, out_json, out_md, as_json))


def sequential_simulate(
    ctx: typer.Context,
    n: Annotated[int, typer.Option(help="Rows of the stream.")] = 20_000,
    effect: Annotated[float, typer.Option(help="True effect of the test.")] = 0.0,
    noise_sd: Annotated[float, typer.Option(help="Standard deviation of the noise.")] = 1.0,
    heavy_tail: Annotated[
        bool, typer.Option("--heavy-tail", help="Noise with 3 degrees of freedom.")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="The level rises by half a noise sd.")
    ] = False,
    ratio: Annotated[bool, typer.Option("--ratio", help="A numerator and a denominator.")] = False,
    mode: Mode = "group_sequential",
    alpha: Alpha = 0.05,
    spending: Spending = "obrien_fleming",
    effect_direction: EffectDirection = "two_sided",
    min_n_per_group: MinN = 50,
    var_floor: VarFloor = 1e-12,
    cs_tau: CsTau = None,
    seed: Seed = 42,
    looks: Looks = None,
    n_looks: NLooks = 5,
    max_n: MaxN = 10_000,
    shares: Shares = None,
    with_audit: WithAudit = False,
    out_dir: Out = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Draw a stream with a known effect and analyse it."""
    with exit_codes():
        from experiments_dagster.cli.user_level.rows import parse_shares
        from experiments_dagster.cli.user_level.sequential_request import SequentialRequest
        from experiments_dagster.cli.user_level.stream import StreamTruth, analyse_stream

        truth = StreamTruth(
            n=n,
            effect=effect,
            noise_sd=noise_sd,
            heavy_tail=heavy_tail,
            drift=drift,
            ratio=ratio,
            seed=seed,
        )
        request = SequentialRequest(
            mode=mode,
            alpha=alpha,
            spending=spending,
            effect_direction=effect_direction,
            min_n_per_group=min_n_per_group,
            var_floor=var_floor,
            cs_tau=cs_tau,
            looks=looks,
            n_looks=n_looks,
            max_n=max_n,
            shares=parse_shares(shares),
        )
        outcome = analyse_stream(truth, request, has_audit=with_audit)
        _deliver(ctx, outcome, Files(out_dir, out_json, out_md, as_json))


def validate_input(
    ctx: typer.Context,
    input_file: Path,
    schema: str,
    groups: str,
    files: Files,
    *,
    with_audit: bool = False,
) -> NoReturn:
    """Check a file against a schema and leave: what `validate --input` does."""
    with exit_codes():
        from experiments_dagster.cli.user_level.schemas import validate_file

        allowed = tuple(name.strip() for name in groups.split(",") if name.strip())
        outcome = validate_file(input_file, schema, allowed)
        if with_audit:
            from experiments_dagster.cli.user_level.audit import make_audit
            from experiments_dagster.cli.user_level.rows import read_file

            audit = make_audit(read_file(input_file), schema, outcome.command)
            outcome = dataclasses.replace(outcome, audit=audit)
        _deliver(ctx, outcome, files)
    raise typer.Exit


def run_config(ctx: typer.Context, file: Path) -> NoReturn:
    """Run the command that a YAML file describes and leave: what `run --config` does."""
    with exit_codes():
        from experiments_dagster.cli.user_level.run_file import command_line

        for flag, name in (("SLUG", "slugs"), ("--as-of", "as_of")):
            if ctx.params.get(name):
                msg = f"--config {file}: cannot go with {flag}, which is for the project's looks"
                raise ValueError(msg)
        arguments = command_line(file)
        if ctx.params.get("as_json"):
            arguments.append("--json")
    program = ctx.find_root().command
    # The program as if the flags had been typed: it prints, and leaves with the exit code.
    program.main(args=arguments, prog_name=ctx.find_root().info_name)
    raise typer.Exit


def _deliver(ctx: typer.Context, outcome: Outcome, files: Files) -> None:
    """Write and print, then leave with the outcome's exit code."""
    from experiments_dagster.cli.user_level.bundle import Target, deliver

    arguments = {
        ARGUMENT_NAMES.get(name, name): str(value) if isinstance(value, Path) else value
        for name, value in ctx.params.items()
    }
    deliver(outcome, Target(**files._asdict()), arguments)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
