"""What a command leaves behind: a folder of files, single files, or the screen.

    results.json    command, inputs, estimates, diagnostics, warnings, artifacts: these keys, always
    report.md       the same for people
    run_meta.json   when, where, with what arguments; code, plan, data and seed
    tables/*.csv    plots/*.png    and what the audit adds: audit.json, audit.md

JSON is strict: a number that cannot be computed is null, and a reason stands beside it.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import importlib
import io
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments_dagster import __version__
from experiments_dagster.cli.output import Sheet, err, markdown, out, print_json, print_sheet, warn

Row = Mapping[str, Any]
Document = dict[str, Any]

PLAN_HASH_DIGITS = 12
PNG_SCALE = 2.0
NOT_OF_THE_PLAN = ("input", "out", "out_json", "out_md", "json", "audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with their columns, which stand in the file also where there is no row."""

    columns: Sequence[str]
    rows: Sequence[Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """A table of at least one row."""
        return cls(columns=list(rows[0]), rows=rows)

    def csv(self) -> str:
        """The table as CSV; what is absent is empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(["" if row[name] is None else row[name] for name in self.columns])
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a command, before anything is written.

    Args:
        command: Its name.
        inputs: What it was asked.
        estimates: Its numbers.
        diagnostics: What helps to judge them.
        warnings: Sentences.
        tables: By name.
        plots: Functions that draw an SVG, by plot name; called for a folder only.
        texts: Further files by name, such as data.csv.
        sheets: The tables of the report and the screen.
        audit: The audit, where it was asked for.
        exit_code: Of the process.
    """

    command: str
    inputs: Document
    estimates: Document
    diagnostics: Document
    warnings: Sequence[str]
    tables: Mapping[str, Table] = field(default_factory=dict)
    plots: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    sheets: Sequence[Sheet] = ()
    audit: Audit | None = None
    exit_code: int = 0

    def document(self, artifacts: Document) -> Document:
        """The content of results.json."""
        return {
            "command": self.command,
            "inputs": self.inputs,
            "estimates": self.estimates,
            "diagnostics": self.diagnostics,
            "warnings": list(self.warnings),
            "artifacts": artifacts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The audit of a file: audit.json without its artefacts, audit.md, and its tables."""

    document: Document
    text: str
    tables: Mapping[str, Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the result goes.

    Without a folder and without single files it goes to `results/COMMAND/TIME`, unless
    `has_default` is false: then only to the screen.
    """

    out: Path | None = None
    out_json: Path | None = None
    out_md: Path | None = None
    as_json: bool = False
    has_default: bool = True

    def folder(self, command: str) -> Path | None:
        """The folder to write, made; None where only single files are asked for."""
        if self.out is not None:
            return _made(self.out, "--out")
        if self.out_json is not None or self.out_md is not None or not self.has_default:
            return None
        base = Path("results") / command / dt.datetime.now().astimezone().strftime("%Y%m%d_%H%M%S")
        path, count = base, 1
        while path.exists():
            count += 1
            path = base.with_name(f"{base.name}_{count}")
        return _made(path, "--out")


def deliver(outcome: Outcome, target: Target, arguments: Document) -> None:
    """Write every file that is asked for, then print.

    Args:
        outcome: The result.
        target: Where it goes.
        arguments: Every argument of the command with its default filled in.

    Raises:
        ValueError: A file cannot be written.
    """
    folder = target.folder(outcome.command)
    artifacts: Document = {"report_md": None, "plots": [], "tables": []}
    if folder is not None:
        artifacts, extra = _write_parts(outcome, folder)
        outcome = replace(outcome, warnings=[*outcome.warnings, *extra])
    document = outcome.document(artifacts)
    report = report_of(outcome)
    if folder is not None:
        _write(folder / "run_meta.json", as_json(run_meta(outcome.command, arguments)))
        _write(folder / "report.md", report)
        # Last, so that a folder with results is a whole one.
        _write(folder / "results.json", as_json(document))
    if target.out_json is not None:
        _write(target.out_json, as_json(document), flag="--out-json ")
    if target.out_md is not None:
        _write(target.out_md, report, flag="--out-md ")
    _show(outcome, document, target, folder)


def run_meta(command: str, arguments: Document) -> Document:
    """When, where and with what a command ran.

    `plan_hash` is that of the arguments that decide the numbers, not of file names;
    `data_versions` is the SHA-256 of each input file.
    """
    plan = {name: value for name, value in arguments.items() if name not in NOT_OF_THE_PLAN}
    canonical = json.dumps({"command": command} | plan, sort_keys=True, allow_nan=False)
    source = arguments.get("input")
    versions = (
        {str(source): hashlib.sha256(Path(source).read_bytes()).hexdigest()} if source else {}
    )
    return {
        "timestamp_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "tecore_version": f"experiments_dagster {__version__}",
        "python_version": sys.version.replace("\n", " "),
        "platform": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "python_implementation": platform.python_implementation(),
        },
        "cwd": str(Path.cwd()),
        "args": {"command": command} | arguments,
        "extra": {"command": command},
        "code_version": __version__,
        "plan_hash": hashlib.sha256(canonical.encode()).hexdigest()[:PLAN_HASH_DIGITS],
        "data_versions": versions,
        "seed": arguments.get("seed"),
    }


def report_of(outcome: Outcome) -> str:
    """The report as Markdown: inputs, results, diagnostics, notes, warnings."""
    parts = [f"# experiments {outcome.command}", _listing("Inputs", outcome.inputs)]
    # Headings of tables stand one level below the report's own.
    parts += ["#" + markdown(sheet) for sheet in outcome.sheets]
    parts.append(_listing("Diagnostics", outcome.diagnostics))
    notes = outcome.estimates.get("compat_note") or {}
    if notes:
        parts.append(_listing("What differs from tecore", notes))
    bullets = [f"- {' '.join(text.split())}" for text in outcome.warnings] or ["(none)"]
    parts.append("\n".join(["## Warnings", "", *bullets, ""]))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def as_json(document: Document) -> str:
    """Strict JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_parts(outcome: Outcome, folder: Path) -> tuple[Document, list[str]]:
    """Tables, plots, data and audit; what was written, and warnings about it."""
    tables, plots, warnings = [], [], []
    for name, table in outcome.tables.items():
        tables.append(f"tables/{name}.csv")
        _write(folder / tables[-1], table.csv())
    for name, draw in outcome.plots.items():
        file, content, warning = _image(name, draw())
        plots.append(file)
        _write(folder / file, content)
        warnings += [warning] if warning and warning not in warnings else []
    artifacts: Document = {"report_md": "report.md", "plots": plots, "tables": tables}
    for name, text in outcome.texts.items():
        _write(folder / name, text)
        artifacts[Path(name).stem] = name
    if outcome.audit is not None:
        files = _write_audit(outcome.audit, folder)
        artifacts["audit"] = {"audit_json": "audit.json", "audit_md": "audit.md"}
        if outcome.command == "audit":
            artifacts["tables"] = files
    return artifacts, warnings


def _write_audit(audit: Audit, folder: Path) -> list[str]:
    files = []
    for name, table in audit.tables.items():
        files.append(f"tables/{name}.csv")
        _write(folder / files[-1], table.csv())
    document = audit.document | {"artifacts": {"tables": files, "plots": []}}
    _write(folder / "audit.json", as_json(document))
    _write(folder / "audit.md", audit.text)
    return files


def _image(name: str, drawing: str) -> tuple[str, str | bytes, str | None]:
    """File, content and warning of a plot: PNG, or the SVG itself where nothing converts it."""
    try:
        converter = importlib.import_module("vl_convert")
    except ModuleNotFoundError:
        warning = "plots are written as SVG: PNG needs the package vl-convert-python"
        return f"plots/{name}.svg", drawing, warning
    return f"plots/{name}.png", converter.svg_to_png(drawing, scale=PNG_SCALE), None


def _show(outcome: Outcome, document: Document, target: Target, folder: Path | None) -> None:
    for text in outcome.warnings:
        warn(text)
    if target.as_json:
        print_json(document)
    else:
        for position, sheet in enumerate(outcome.sheets):
            if position:
                out.print()
            print_sheet(sheet)
    if folder is not None:
        # On stderr, so that the numbers alone are piped on.
        err.print(f"written: {folder}", markup=False, soft_wrap=True)


def _listing(title: str, values: Mapping[str, Any]) -> str:
    lines = [
        f"- {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in values.items()
    ]
    return "\n".join([f"## {title}", "", *lines, ""])


def _made(path: Path, flag: str) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{flag} {path}: cannot be made ({error.strerror})"
        raise ValueError(msg) from None
    return path


def _write(path: Path, content: str | bytes, *, flag: str = "") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        msg = f"{flag}{path}: cannot be written ({error.strerror})"
        raise ValueError(msg) from None
