"""Commands of the design on numbers alone: power, srm."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from experiments_dagster.cli.output import AsJson, OutJson, OutMd, Sheet, deliver, exit_codes

if TYPE_CHECKING:
    from experiments_dagster.stats.design.power_solver import PowerAnalysis, PowerDesign

KINDS = ("mean", "proportion", "ratio")
DEFAULT_POWER = 0.8
FIELDS = (
    *("kind", "baseline", "sd", "effect", "relative_effect", "alpha", "power", "sides"),
    *("shares", "formula", "n_total", "counts"),
)
FLAGS = {name: f"--{name.replace('_', '-')}" for name in FIELDS}


class Quantities(TypedDict):
    """What can be left out to be solved for."""

    effect: float | None
    relative_effect: float | None
    power: float | None
    n_total: float | None


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(power)
    app.command()(srm)


def power(
    kind: Annotated[str, typer.Option(help="mean, proportion or ratio.")],
    baseline: Annotated[
        float | None, typer.Option(help="Control's mean, proportion or ratio.")
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(help="Of mean: between units. Of ratio: of the linearised value of a unit."),
    ] = None,
    effect: Annotated[float | None, typer.Option(help="Absolute effect.")] = None,
    relative_effect: Annotated[
        float | None, typer.Option(help="Effect as a share of --baseline, such as 0.02.")
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="0.8 when only the effect or only --n-total is given.")
    ] = None,
    n_total: Annotated[float | None, typer.Option(help="Units in all groups together.")] = None,
    alpha: Annotated[float, typer.Option(help="Level.")] = 0.05,
    sides: Annotated[int, typer.Option(help="1 or 2.")] = 2,
    shares: Annotated[str, typer.Option(help="Control first, such as 0.5,0.5.")] = "0.5,0.5",
    formula: Annotated[
        str | None,
        typer.Option(
            help="proportion: pooled_alt, baseline, unpooled, arcsine or exact. Others: z or t."
        ),
    ] = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Sample size, power or detectable effect: leave out the one to solve for."""
    with exit_codes(), _flags_in_messages(relative_effect):
        from experiments_dagster.stats.design.power_solver import PowerDesign

        design = PowerDesign(
            alpha=alpha,
            sides=sides,  # type: ignore[arg-type]
            shares=tuple(_numbers(shares, "--shares")),
        )
        if power is None and (effect, relative_effect, n_total).count(None) == 2:  # noqa: PLR2004
            power = DEFAULT_POWER
        quantities = Quantities(
            effect=effect, relative_effect=relative_effect, power=power, n_total=n_total
        )
        _check_quantities(quantities)
        analysis = _analyse(kind, design, quantities, baseline=baseline, sd=sd, formula=formula)
        document = _power_document(kind, analysis)
        if kind == "proportion" and analysis.solved_for == "effect":
            document["effect_decrease"] = _decrease(analysis, design, baseline, n_total)
        deliver(
            document, [_power_sheet(document)], as_json=as_json, out_json=out_json, out_md=out_md
        )


def srm(
    counts: Annotated[str, typer.Option(help="Distinct units per arm, such as 500,560.")],
    shares: Annotated[str, typer.Option(help="Configured shares, such as 0.5,0.5.")] = "0.5,0.5",
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Sample-ratio mismatch: do the arms hold their configured shares?"""
    with exit_codes(), _flags_in_messages():
        from experiments_dagster.stats.design.sample_ratio import (
            anytime_p_value,
            chi_square,
            sequential_log_e_value,
        )

        observed, configured = _numbers(counts, "--counts"), _numbers(shares, "--shares")
        if len(observed) != len(configured) or len(observed) < 2:  # noqa: PLR2004
            msg = f"--counts {counts}: must be two or more numbers, as many as --shares {shares}"
            raise ValueError(msg)
        fixed = chi_square(observed, configured)
        document = {
            "chi2": fixed.statistic,
            "df": fixed.degrees_of_freedom,
            "p_value": fixed.p_value,
            "sequential_p_value": anytime_p_value(sequential_log_e_value(observed, configured)),
        }
        sheet = _srm_sheet(observed, configured, document)
        deliver(document, [sheet], as_json=as_json, out_json=out_json, out_md=out_md)


def _analyse(
    kind: str,
    design: PowerDesign,
    quantities: Quantities,
    *,
    baseline: float | None,
    sd: float | None,
    formula: str | None,
) -> PowerAnalysis:
    if kind not in KINDS:
        msg = f"--kind {kind!r}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}"
        raise ValueError(msg)
    if kind == "proportion":
        from experiments_dagster.stats.design.proportion_power import proportion_power

        if sd is not None:
            msg = f"--sd {sd:g}: must be left out for a proportion, whose --baseline gives it"
            raise ValueError(msg)
        return proportion_power(
            baseline=_required(baseline, "--baseline", kind),
            formula=formula or "pooled_alt",  # type: ignore[arg-type]
            design=design,
            **quantities,
        )
    from experiments_dagster.stats.design.power import mean_power

    return mean_power(
        sd=_required(sd, "--sd", kind),
        baseline=baseline,
        formula=formula or "z",  # type: ignore[arg-type]
        design=design,
        **quantities,
    )


def _decrease(
    analysis: PowerAnalysis, design: PowerDesign, baseline: float | None, n_total: float | None
) -> float | None:
    """The detectable decrease, which differs from the increase."""
    from experiments_dagster.stats.design.proportion_power import detectable_effects

    assert baseline is not None
    assert n_total is not None
    found = detectable_effects(
        baseline=baseline,
        power=analysis.power,
        n_total=n_total,
        formula=analysis.formula,  # type: ignore[arg-type]
        design=design,
    )
    return found["decrease"]


def _check_quantities(quantities: Quantities) -> None:
    """Exactly one of effect, power and n_total is left out; an effect is given in one way."""
    given = {FLAGS[name]: value for name, value in quantities.items() if isinstance(value, float)}
    effects = [flag for flag in ("--effect", "--relative-effect") if flag in given]
    listed = " ".join(f"{flag} {value:g}" for flag, value in given.items())
    if len(effects) > 1:
        msg = f"{listed}: give one of {' and '.join(effects)}"
        raise ValueError(msg)
    if len(given) != 2:  # noqa: PLR2004
        msg = (
            f"{listed or 'no quantity given'}: leave out exactly one of --effect (or "
            "--relative-effect), --power and --n-total, to solve for it"
        )
        raise ValueError(msg)


def _power_document(kind: str, analysis: PowerAnalysis) -> dict[str, Any]:
    fields = dataclasses.asdict(analysis)
    names = (
        *("n_per_group", "n_total", "power", "effect", "formula", "n_exact"),
        *("relative_effect", "alpha", "sides", "shares", "solved_for"),
    )
    return {"kind": kind, **{name: fields[name] for name in names}}


def _power_sheet(document: dict[str, Any]) -> Sheet:
    relative = document["relative_effect"]
    rows = {
        "units per group": " / ".join(f"{n:,}" for n in document["n_per_group"]),
        "units in total": f"{document['n_total']:,}",
        "power": f"{document['power']:.4f}",
        "effect": f"{document['effect']:.6g}"
        + ("" if relative is None else f" ({relative:+.2%} of the baseline)"),
    }
    if "effect_decrease" in document:
        decrease = document["effect_decrease"]
        rows["effect, decrease"] = "none is detectable" if decrease is None else f"{decrease:.6g}"
    return Sheet(
        title=(
            f"{document['kind']}, formula {document['formula']}, alpha {document['alpha']:g}, "
            f"{document['sides']}-sided; solved for {document['solved_for']}"
        ),
        columns=("", ""),
        rows=list(rows.items()),
        align="ll",
    )


def _srm_sheet(counts: list[float], shares: list[float], document: dict[str, Any]) -> Sheet:
    tests = (
        f"chi-square {document['chi2']:.4f}, {document['df']} df, p {document['p_value']:.4g}; "
        f"sequential p {document['sequential_p_value']:.4g}"
    )
    return Sheet(
        title="sample-ratio mismatch",
        columns=("arm", "units", "share", "configured"),
        rows=[
            (str(index), f"{count:,.0f}", f"{count / sum(counts):.4f}", f"{share:.4f}")
            for index, (count, share) in enumerate(zip(counts, shares, strict=True), start=1)
        ],
        notes=[tests],
    )


@contextlib.contextmanager
def _flags_in_messages(relative_effect: float | None = None) -> Iterator[None]:
    """Name the flag where the library names a field: `sd is -1, ...` becomes `--sd -1, ...`."""
    from experiments_dagster.stats.errors import EstimationError

    try:
        yield
    except EstimationError:
        raise
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        if field not in FLAGS:
            raise
        flag = FLAGS[field]
        if field == "effect" and relative_effect is not None:
            flag = f"--relative-effect {relative_effect:g}: effect"
        msg = f"{flag} {rest.removeprefix('is ')}"
        raise ValueError(msg) from None


def _required(value: float | None, flag: str, kind: str) -> float:
    if value is None:
        msg = f"{flag} is missing: must be given for --kind {kind}"
        raise ValueError(msg)
    return value


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        msg = f"{flag} {text!r}: must be numbers separated by commas"
        raise ValueError(msg) from None
