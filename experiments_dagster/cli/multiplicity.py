"""The command that adjusts p-values for their number."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from experiments_dagster.cli.output import AsJson, OutJson, OutMd, Sheet, deliver, exit_codes


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(multiplicity)


def multiplicity(
    p: Annotated[str, typer.Option("--p", help="P-values, such as 0.01,0.02.")],
    method: Annotated[str, typer.Option(help="bonferroni, holm, hochberg, bh or by.")],
    planned: Annotated[
        int | None, typer.Option(help="Hypotheses planned; the missing ones count as p = 1.")
    ] = None,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Adjust p-values for the number of hypotheses."""
    with exit_codes():
        from experiments_dagster.stats.multiplicity import METHODS, adjusted_p_values

        if method not in METHODS:
            msg = f"--method {method!r}: must be one of {', '.join(METHODS)}"
            raise ValueError(msg)
        p_values = _p_values(p)
        if planned is not None and planned < len(p_values):
            msg = f"--planned {planned}: must be at least {len(p_values)}, the p-values given"
            raise ValueError(msg)
        adjusted = adjusted_p_values(p_values, method, planned=planned)
        total = len(p_values) if planned is None else planned
        sheet = Sheet(
            title=f"{method}, {total} hypotheses",
            columns=("#", "p", "adjusted p"),
            rows=[
                (str(position), f"{raw:.6g}", f"{after:.6g}")
                for position, (raw, after) in enumerate(
                    zip(p_values, adjusted, strict=True), start=1
                )
            ],
        )
        document = {
            "method": method,
            "planned": total,
            "p_values": p_values,
            "adjusted": list(adjusted),
        }
        deliver(document, [sheet], as_json=as_json, out_json=out_json, out_md=out_md)


def _p_values(text: str) -> list[float]:
    """Read numbers in 0..1, separated by commas."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(0 <= value <= 1 for value in values):
        msg = f"--p {text!r}: must be numbers from 0 to 1 separated by commas"
        raise ValueError(msg)
    return values
