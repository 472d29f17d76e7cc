"""From flags to a study of a file, and from a study to screen and files.

The flags become the same specification that a file in configs/interventions holds, so that a verb
and a configured intervention cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import ValidationError

from experiments_dagster import __version__
from experiments_dagster.cli.causal.options import StudyOutputs
from experiments_dagster.cli.output import NOT_ESTIMABLE, Sheet
from experiments_dagster.cli.user_level.bundle import Outcome, Table, Target, deliver
from experiments_dagster.config.intervention import PanelSpec, UnitSpec
from experiments_dagster.frames.study_tables import (
    describe_left_out,
    read_panel_file,
    read_units_file,
)
from experiments_dagster.interventions.designs import study_of_panel, study_of_units
from experiments_dagster.interventions.study import (
    Claim,
    Study,
    StudyEstimate,
    StudyTable,
    study_document,
)
from experiments_dagster.interventions.study_data import panel_of, units_of
from experiments_dagster.reporting.numbers import reason_words
from experiments_dagster.reporting.study_report import (
    StudyRecord,
    render_study_report,
    study_markdown,
)
from experiments_dagster.reporting.study_sections import called
from experiments_dagster.storage.atomic import sha256_file

Spec = TypeVar("Spec", PanelSpec, UnitSpec)
NAMES = {"input_file": "input", "out_dir": "out", "as_json": "json"}
SHOWN_ROWS = 12
WIDE = 780
# Names of fields in specifications whose flag is called otherwise.
FLAGS = {
    "unit": "--unit-col",
    "time": "--time-col",
    "outcome": "--y",
    "group": "--group-col",
    "is_treated": "--is-treated-col",
    "first_treated": "--first-treated-col",
    "treated": "--treated-col",
}


def panel_file_study(path: Path, panel: Mapping[str, Any], design: Mapping[str, Any]) -> Study:
    """The study of a panel in a file.

    Args:
        path: CSV or Parquet.
        panel: Fields of `PanelFile` but the file; None where a flag was left out.
        design: Fields of a panel design with its kind.

    Raises:
        ValueError: A flag, a column or a value is wrong.
    """
    spec = _spec(PanelSpec, "panel", path, panel, design)
    data: Any = spec.panel
    rows, left_out = read_panel_file(path, data, spec.predictor_columns)
    read = panel_of(rows, has_units=data.unit is not None, outcome_name=data.outcome)
    study = study_of_panel(read, spec.design)
    return replace(study, warnings=(*study.warnings, *describe_left_out(left_out)))


def units_file_study(path: Path, units: Mapping[str, Any], design: Mapping[str, Any]) -> Study:
    """The study of units in a file; as `panel_file_study`."""
    spec = _spec(UnitSpec, "units", path, units, design)
    data: Any = spec.units
    rows, left_out = read_units_file(path, data)
    read = units_of(rows, outcome_name=data.outcome, n_left_out=left_out)
    study = study_of_units(read, spec.design)
    return replace(study, warnings=(*study.warnings, *describe_left_out(left_out)))


def deliver_study(ctx: typer.Context, study: Study, outputs: StudyOutputs) -> None:
    """Print the study, and write what was asked for.

    Raises:
        ValueError: A file cannot be written.
        typer.Exit: With 5 where nothing could be estimated.
    """
    arguments = {
        NAMES.get(name, name): str(value) if isinstance(value, Path) else value
        for name, value in ctx.params.items()
    }
    command = str(ctx.info_name)
    source = Path(arguments["input"])
    record = StudyRecord(
        slug=source.name,
        description=f"{command} of {source.name}",
        owner="",
        study=study,
        cutoff=None,
        as_of=None,
        code_version=__version__,
        config_hash=None,
        inputs={source.name: sha256_file(source)},
        reproduce=_command_line(command, arguments),
        display_unit=None,
    )
    outcome = Outcome(
        command=command,
        inputs={name: value for name, value in arguments.items() if not name.startswith("out")},
        estimates=study_document(study),
        diagnostics={"claim": study.claim.status},
        warnings=[called(words, study.claim) for words in study.warnings],
        tables={table.name: _rows(table) for table in study.tables},
        plots={picture.name: _drawn(picture.draw) for picture in study.pictures},
        texts={"report.html": render_study_report(record), "study.md": study_markdown(record)},
        sheets=sheets_of(study),
        exit_code=NOT_ESTIMABLE if study.reason else 0,
    )
    target = Target(
        out=outputs.out,
        out_json=outputs.out_json,
        out_md=outputs.out_md,
        as_json=outputs.as_json,
        has_default=False,
    )
    deliver(outcome, target, arguments)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def sheets_of(study: Study) -> list[Sheet]:
    """Claim, estimates, refutations and short tables for the terminal."""
    claim = study.claim
    said = f"{study.method}: {claim.status}"
    estimates = Sheet(
        title=f"{said} (estimand: {study.estimand})",
        columns=(claim.term, "estimate", "std. error", "interval", "p", "method"),
        rows=[_estimate_row(item, claim) for item in study.estimates],
        align="lrrrrl",
        notes=[called(words, claim) for words in claim.clauses],
    )
    ran = [
        (check.name, "passed" if check.passed else "FAILED", called(check.message, claim))
        for check in study.refutations
    ]
    skipped = [(item.name, "not run", item.reason) for item in study.skipped]
    refutations = Sheet(
        title="refutations",
        columns=("refutation", "result", "what was found"),
        rows=[*ran, *skipped],
        align="lll",
        notes=[f"assumes: {text}" for text in study.assumptions],
    )
    return [estimates, refutations, *(_table_sheet(table, claim) for table in study.tables)]


def _spec(
    model: type[Spec], place: str, path: Path, data: Mapping[str, Any], design: Mapping[str, Any]
) -> Spec:
    document = {
        "schema_version": 1,
        "owner": "command line",
        "description": str(path),
        place: {"file": str(path)} | {k: v for k, v in data.items() if v is not None},
        "design": {k: v for k, v in design.items() if v is not None},
    }
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(item) for item in error.errors())) from None


def _problem(item: Any) -> str:
    field = next((part for part in reversed(item["loc"]) if isinstance(part, str)), "")
    message = str(item["msg"]).removeprefix("Value error, ")
    if field in {"file", "panel", "units", "design", ""} or item["type"] == "value_error":
        return message
    flag = FLAGS.get(field, f"--{field.replace('_', '-')}")
    return f"{flag} {item['input']!r}: {message[0].lower()}{message[1:]}"


def _estimate_row(item: StudyEstimate, claim: Claim) -> tuple[str, ...]:
    low, high = (
        ("-inf" if item.ci_low is None else f"{item.ci_low:.6g}"),
        ("inf" if item.ci_high is None else f"{item.ci_high:.6g}"),
    )
    has_interval = item.ci_low is not None or item.ci_high is not None
    absent = called(reason_words(item.reason), claim) or "-"
    return (
        called(item.name, claim),
        f"{item.estimate:.6g}",
        "-" if item.std_error is None else f"{item.std_error:.6g}",
        f"[{low}, {high}]" if has_interval else absent,
        "-" if item.p_value is None else f"{item.p_value:.4g}",
        item.method,
    )


def _table_sheet(table: StudyTable, claim: Claim) -> Sheet:
    shown = table.rows[:SHOWN_ROWS]
    notes = [called(table.note, claim)] if table.note else []
    if len(table.rows) > SHOWN_ROWS:
        notes.append(f"{len(table.rows) - SHOWN_ROWS} more rows in --json and --out")
    is_number = [
        all(isinstance(row[k], int | float) or row[k] is None for row in table.rows)
        for k in range(len(table.columns))
    ]
    return Sheet(
        title=called(table.title, claim),
        columns=tuple(_column(name, claim) for name in table.columns),
        rows=[[_cell(value) for value in row] for row in shown],
        align="".join("r" if number else "l" for number in is_number),
        notes=notes,
    )


def _column(name: str, claim: Claim) -> str:
    """The name of a column, such as `average_effect`, in the word that the claim allows."""
    words = called(name.replace("_", " "), claim)
    return words.replace(" ", "_") if "_" in name else words


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _rows(table: StudyTable) -> Table:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return Table(columns=table.columns, rows=rows)


def _drawn(draw: Callable[[int], str]) -> Callable[[], str]:
    return partial(draw, WIDE)


def _command_line(command: str, arguments: Mapping[str, Any]) -> str:
    words = ["experiments", command]
    for name, value in arguments.items():
        if value is None or value is False or name in ("json", "out", "out_json", "out_md"):
            continue
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        # An option that may stand several times stands once per item.
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [flag] if item is True else [flag, _quoted(str(item))]
    return " ".join(words)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
