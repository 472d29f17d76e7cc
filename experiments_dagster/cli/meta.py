"""The command that pools studies in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments_dagster.cli.output import AsJson, OutJson, OutMd, Sheet, deliver, exit_codes

if TYPE_CHECKING:
    from experiments_dagster.stats.meta_analysis import Interval, Model, PooledEffect

# Name on the command line to model and construction of the interval.
METHODS: dict[str, tuple[Model, Interval]] = {
    "hk": ("reml", "hartung_knapp"),
    "reml": ("reml", "normal"),
    "dl": ("dl", "normal"),
    "ml": ("ml", "normal"),
    "pm": ("pm", "normal"),
    "dl_hk": ("dl", "hartung_knapp"),
    "pm_hk": ("pm", "hartung_knapp"),
    "fixed": ("fixed", "normal"),
}
MODELS = {
    "study": "one study",
    "fixed": "fixed effect",
    "dl": "random effects, DerSimonian-Laird",
    "pm": "random effects, Paule-Mandel",
    "ml": "random effects, maximum likelihood",
    "reml": "random effects, REML",
}
MIN_ALPHA = 1e-12  # below it the level 1 - alpha is hardly told from 1, and limits overflow
INTERVALS = {"normal": "normal interval", "hartung_knapp": "Hartung-Knapp interval"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(meta)


def meta(
    input_file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, a row per study.")],
    effect: Annotated[str, typer.Option(help="Column of the effect.")],
    variance: Annotated[str, typer.Option(help="Column of its squared standard error.")],
    method: Annotated[
        str, typer.Option(help="hk (REML with Hartung-Knapp), reml, dl, ml, pm, dl_hk or fixed.")
    ] = "hk",
    alpha: Annotated[float, typer.Option(help="1 - confidence level.")] = 0.05,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Pool independent studies of one effect: the mean, how far they differ, what comes next."""
    with exit_codes():
        from experiments_dagster.cli.columns import number_columns
        from experiments_dagster.stats.meta_analysis import FLAGS, pool_studies

        if method not in METHODS:
            msg = f"--method {method!r}: must be one of {', '.join(METHODS)}"
            raise ValueError(msg)
        if not MIN_ALPHA <= alpha < 1:
            msg = f"--alpha {alpha:g}: must be at least {MIN_ALPHA:g} and below 1"
            raise ValueError(msg)
        columns = number_columns(input_file, {"--effect": effect, "--variance": variance})
        y, v = columns["--effect"], columns["--variance"]
        if (v <= 0).any():
            row = int((v <= 0).argmax())
            msg = f"--variance {variance}: row {row + 1} is {v[row]:g}, must be above 0"
            raise ValueError(msg)
        model, interval = METHODS[method]
        pooled = pool_studies(y, v, method=model, interval=interval, alpha=alpha)
        document: dict[str, Any] = {
            "inputs": {
                "path": str(input_file),
                "effect": effect,
                "variance": variance,
                "method": method,
                "alpha": alpha,
            },
            **dataclasses.asdict(pooled),
            "note": None if pooled.flag is None else FLAGS[pooled.flag],
        }
        deliver(
            document, [_sheet(pooled, effect)], as_json=as_json, out_json=out_json, out_md=out_md
        )


def _sheet(pooled: PooledEffect, effect: str) -> Sheet:
    from experiments_dagster.stats.meta_analysis import FLAGS

    level = f"{pooled.confidence_level:.4g}"
    rows = [
        ("mean", f"{pooled.estimate:.6g}"),
        ("standard error", f"{pooled.std_error:.6g}"),
        (f"{level} interval", f"[{pooled.ci_low:.6g}, {pooled.ci_high:.6g}]"),
        ("p", f"{pooled.p_value:.4g}"),
        ("tau2", _or_dash(pooled.tau2)),
        ("Q", _or_dash(pooled.q)),
        ("p of Q", _or_dash(pooled.q_p_value)),
        ("I2 (%)", "-" if pooled.i2 is None else f"{pooled.i2:.2f}"),
    ]
    if pooled.prediction_low is not None:
        limits = f"[{pooled.prediction_low:.6g}, {pooled.prediction_high:.6g}]"
        rows.append((f"{level} prediction", limits))
    return Sheet(
        title=f"{effect}, {pooled.n_studies} studies: {MODELS[pooled.method]}, "
        f"{INTERVALS[pooled.interval]}",
        columns=("", "value"),
        rows=rows,
        align="lr",
        notes=() if pooled.flag is None else (FLAGS[pooled.flag],),
    )


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
