"""`experiments simulate`: data with exactly known effects, and a file that says them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments_dagster.cli.output import AsJson, Sheet, exit_codes, out, print_json, print_sheet

DRIFT = 0.5
KINDS_HELP = (
    "none, activity, monetization or mixed: users with a pre-period. ab-ml: an event log of three "
    "types. saas: users and days in three arms, randomised or confounded."
)
EFFECT_HELP = (
    "Size of the effect, or NAME=SIZE; may be repeated. Users: sessions, revenue_per_session "
    "(relative), conversion (absolute). ab-ml: clicked (absolute), latency_ms (relative). "
    "saas: factor of an arm's effect function, 0 for none."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    kind: Annotated[str, typer.Argument(help=KINDS_HELP)],
    target: Annotated[
        Path, typer.Option("--out", help="A .parquet or .csv file, or a folder.", metavar="PATH")
    ],
    users: Annotated[int | None, typer.Option(help="Users; of ab-ml in each batch.")] = None,
    days: Annotated[int | None, typer.Option(help="Days; of ab-ml in each batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random (42).")] = None,
    effect: Annotated[list[str] | None, typer.Option(help=EFFECT_HELP)] = None,
    heavy_tail: Annotated[
        bool, typer.Option("--heavy-tail", help="Revenue without a third moment, of equal mean.")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="Activity rises by half of its mean over arrival.")
    ] = False,
    batches: Annotated[int | None, typer.Option(help="ab-ml: deliveries.")] = None,
    confounding: Annotated[
        float | None, typer.Option(help="saas: strength of self-selection; 0 is randomised.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON with any parameters; flags come before it.")
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Of tables in a folder: parquet or csv.")
    ] = "parquet",
    as_json: AsJson = False,
) -> None:
    """Simulate an experiment whose effects are known exactly, and write data and truth."""
    with exit_codes():
        from experiments_dagster.simulate.event_log import one_file
        from experiments_dagster.simulate.kinds import make_spec
        from experiments_dagster.simulate.kinds import simulate as draw
        from experiments_dagster.simulate.scenario import is_one_file, write_scenario

        flags: dict[str, Any] = {
            "users": users,
            "days": days,
            "seed": seed,
            "heavy_tail": heavy_tail or None,
            "drift": DRIFT if drift else None,
            "batches": batches,
            "confounding": confounding,
        }
        given = _read_config(config) | {k: v for k, v in flags.items() if v is not None}
        spec = make_spec(kind, given, effect or ())
        scenario = draw(kind, spec)
        if kind == "ab-ml" and is_one_file(target):
            scenario = one_file(scenario)
        try:
            document = write_scenario(scenario, target, suffix=f".{file_format}")
        except FileExistsError:
            raise
        except OSError as error:
            msg = f"--out {target}: cannot be written ({error.strerror})"
            raise ValueError(msg) from None
        if as_json:
            print_json(document)
            return
        folder = Path(document["folder"])
        for item in document["files"].values():
            path = folder / item["file"]
            out.print(f"wrote {path}  {item['rows']:,} rows", markup=False, soft_wrap=True)
        out.print(f"wrote {folder / document['truth']}  the truth", markup=False, soft_wrap=True)
        out.print()
        print_sheet(_sheet(document))


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = json.loads(path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"--config {path}: cannot be read as JSON ({reason})"
        raise ValueError(msg) from None
    if not isinstance(document, dict):
        msg = f"--config {path}: must be an object of parameters"
        raise ValueError(msg)  # noqa: TRY004  a mistake in a file, not in code
    return document


def _refuse(name: str) -> None:
    msg = f"{name} is not a number in JSON"
    raise ValueError(msg)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            msg = f"{name!r} stands there twice"
            raise ValueError(msg)
        found[name] = value
    return found


def _sheet(document: dict[str, Any]) -> Sheet:
    """The effects over all units; those by attribute stand in the file."""
    rows = [
        (
            row["metric"],
            row["arm"],
            row["estimand"],
            f"{row['value']:+.6g}",
            row["derivation"],
        )
        for row in document["effects"]
        if row["attribute"] is None
    ]
    units = ", ".join(f"{n:,} {arm}" for arm, n in document["units"].items())
    return Sheet(
        title=f"truth of {document['kind']}, seed {document['seed']}: {units}",
        columns=("metric", "arm", "estimand", "value", "known by"),
        rows=rows,
        align="lllrl",
        notes=[f"{name}: {meaning}" for name, meaning in document["derivations"].items()],
    )
