"""`experiments explore`: what is in the frames of an experiment, or in a file; never a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments_dagster.cli.output import (
    AsJson,
    OutJson,
    OutMd,
    Sheet,
    deliver,
    exit_codes,
    warn,
)

if TYPE_CHECKING:
    from experiments_dagster.exploration.record import Exploration

ConfigDir = Annotated[
    Path,
    typer.Option("--config-dir", help="The project folder, or its configs/ folder.", metavar="DIR"),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explore)


def explore(
    slug: Annotated[str | None, typer.Argument(help="Experiment; or give --input.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A Parquet or CSV file instead.")
    ] = None,
    unit_col: Annotated[
        str | None, typer.Option(help="--input: column of the unit's id, for duplicates.")
    ] = None,
    group_col: Annotated[
        str | None, typer.Option(help="--input: column of the arm, for balance before exposure.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="--input: the control's value in it.")] = None,
    pre: Annotated[
        str, typer.Option(help="--input: columns from before exposure, beside pre_x and x_pre.")
    ] = "",
    ratio: Annotated[
        list[str] | None, typer.Option(help="--input: NAME=NUMERATOR/DENOMINATOR; repeatable.")
    ] = None,
    out_html: Annotated[
        Path | None, typer.Option(help="Also write the page to a file.", metavar="FILE")
    ] = None,
    out_parquet: Annotated[
        Path | None, typer.Option(help="Also write the facts to a file.", metavar="FILE")
    ] = None,
    config_dir: ConfigDir = Path(),
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Describe data over all arms together: quality, distributions, balance before exposure."""
    with exit_codes():
        if (slug is None) == (input_file is None):
            msg = "give either an experiment or --input"
            raise ValueError(msg)
        options = {"--unit-col": unit_col, "--group-col": group_col, "--control": control}
        given = [name for name, value in options.items() if value] + ["--pre"] * bool(pre)
        if slug is not None and (given or ratio):
            msg = f"{(given or ['--ratio'])[0]}: goes with --input, not with an experiment"
            raise ValueError(msg)
        if input_file is not None:
            from experiments_dagster.exploration.files import FileRequest, explore_file

            found = explore_file(
                FileRequest(
                    path=input_file,
                    unit=unit_col,
                    group=group_col,
                    control=control,
                    pre=tuple(name.strip() for name in pre.split(",") if name.strip()),
                    ratios=_ratios(ratio or ()),
                )
            )
        else:
            found = _explore_experiment(str(slug), config_dir)
        _write_files(found, out_html, out_parquet)
        document = _document(found)
        deliver(document, _sheets(found), as_json=as_json, out_json=out_json, out_md=out_md)


def _explore_experiment(slug: str, config_dir: Path) -> Exploration:
    """Explore the published frames and publish what was found beside the report."""
    from experiments_dagster.config.errors import ConfigError
    from experiments_dagster.config.project import read_project
    from experiments_dagster.exploration.publish import explore_current, publish_exploration
    from experiments_dagster.storage.layout import Layout

    folder = config_dir.resolve()
    if (folder / "platform.yaml").exists() and not (folder / "configs").exists():
        folder = folder.parent
    project, issues = read_project(folder)
    if project is None:
        raise ConfigError(issues)
    for issue in issues:
        warn(f"left out: {issue}")
    if slug not in project.experiments:
        known = ", ".join(project.experiments) or "none"
        msg = f"unknown experiment {slug!r}; known: {known}"
        raise ValueError(msg)
    layout = Layout(project.storage)
    found = explore_current(layout, project.experiments[slug])
    publish_exploration(layout, found)
    return found


def _ratios(texts: Sequence[str]) -> dict[str, tuple[str, str]]:
    ratios = {}
    for text in texts:
        name, _, parts = text.partition("=")
        top, _, bottom = parts.partition("/")
        if not (name and top and bottom):
            msg = f"--ratio {text}: must be NAME=NUMERATOR/DENOMINATOR"
            raise ValueError(msg)
        ratios[name] = (top, bottom)
    return ratios


def _write_files(found: Exploration, out_html: Path | None, out_parquet: Path | None) -> None:
    if out_html is None and out_parquet is None:
        return
    from experiments_dagster.exploration.record import parquet_bytes
    from experiments_dagster.exploration.report import render_exploration

    for flag, path in (("--out-html", out_html), ("--out-parquet", out_parquet)):
        if path is None:
            continue
        is_page = flag == "--out-html"
        content = render_exploration(found).encode() if is_page else parquet_bytes(found)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            msg = f"{flag} {path}: cannot be written ({error.strerror})"
            raise ValueError(msg) from None


def _document(found: Exploration) -> dict[str, Any]:
    """Facts by section, as plain data."""
    from experiments_dagster.exploration.report import NO_LOOK, unbalanced

    sections: dict[str, list[dict[str, Any]]] = {}
    for fact in found.facts:
        row = asdict(fact)
        sections.setdefault(row.pop("section"), []).append(row)
    return {
        "subject": found.subject,
        "unit": found.unit,
        "origin": found.origin,
        "arms": list(found.arms),
        "is_look": False,
        "note": NO_LOOK,
        "notes": list(found.notes),
        "unbalanced": unbalanced(found),
        "sections": sections,
    }


def _sheets(found: Exploration) -> list[Sheet]:
    from experiments_dagster.exploration.report import (
        BRIEF,
        NO_LOOK,
        balance_sheet,
        metrics_sheet,
        strongest,
    )

    header, rows = metrics_sheet(found, BRIEF)
    sheets = [
        Sheet(
            title=f"{found.subject}: over all arms together",
            columns=header,
            rows=rows,
            align="l" + "r" * (len(header) - 1),
            notes=[NO_LOOK, *found.notes],
        )
    ]
    quality = [fact for fact in found.section("quality") if not fact.level]
    cells = [(fact.subject, fact.statistic, f"{fact.value:,.0f}") for fact in quality]
    if cells:
        sheets.append(
            Sheet(title="data quality", columns=("table", "what", "n"), rows=cells, align="llr")
        )
    header, rows = balance_sheet(found)
    if rows:
        title = "balance before exposure"
        sheets.append(Sheet(title=title, columns=header, rows=rows, align="llrrrr"))
    pairs = [(fact.subject, fact.level, f"{fact.value:+.3f}") for fact in strongest(found)[:10]]
    if pairs:
        title = "strongest correlations"
        sheets.append(Sheet(title=title, columns=("column", "with", "r"), rows=pairs, align="llr"))
    return sheets
