"""All commands and their flags; what they do lies in the modules they import."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments_dagster import __version__
from experiments_dagster.cli import (
    adhoc,
    bandit,
    cace,
    design,
    explore,
    factorial,
    meta,
    multiplicity,
    portfolio,
    simulate,
    sql,
)
from experiments_dagster.cli.causal import donors, panels, units, uplift
from experiments_dagster.cli.impact import commands as impact
from experiments_dagster.cli.output import (
    DAMAGED,
    OK,
    USAGE,
    OutJson,
    OutMd,
    err,
    exit_codes,
    fail,
    out,
    print_json,
    progress,
    show_error,
    warn,
)
from experiments_dagster.cli.user_level import commands as user_level
from experiments_dagster.cli.user_level import options

if TYPE_CHECKING:
    from experiments_dagster.config.project import Project
    from experiments_dagster.storage.layout import Layout

app = typer.Typer(
    name="experiments",
    help="Reproducible looks at online experiments, from event tables to verdicts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    adhoc,
    bandit,
    design,
    multiplicity,
    sql,
    cace,
    factorial,
    meta,
    portfolio,
    simulate,
    explore,
    user_level,
    impact,
    donors,
    panels,
    units,
    uplift,
):
    commands.register(app)

ConfigDir = Annotated[
    Path,
    typer.Option("--config-dir", help="The project folder, or its configs/ folder.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print strict JSON.")]
Slug = Annotated[str, typer.Argument(help="Experiment, the name of its file in configs/.")]
HERE = Path()
DEFINITIONS = "experiments_dagster.definitions"


def _folder(config_dir: Path) -> Path:
    if (config_dir / "platform.yaml").exists() and not (config_dir / "configs").exists():
        return config_dir.resolve().parent
    return config_dir.resolve()


def _load(config_dir: Path) -> Project:
    return _load_all(config_dir)[0]


def _load_all(config_dir: Path) -> tuple[Project, bool]:
    """The usable part of a project, and whether anything was left out of it.

    Mistakes are shown and stop only what they concern.
    """
    from experiments_dagster.config.errors import ConfigError
    from experiments_dagster.config.project import read_project

    project, issues = read_project(_folder(config_dir))
    if project is None:
        raise ConfigError(issues)
    for issue in issues:
        warn(f"left out: {issue}")
    return project, bool(issues)


def _known(project: Project, slugs: list[str], *, interventions: bool = False) -> None:
    """Refuse slugs that are no experiments, nor interventions where those are allowed."""
    what = "experiment or intervention" if interventions else "experiment"
    names = [*project.experiments, *(project.interventions if interventions else ())]
    for slug in slugs:
        if slug not in names:
            fail(f"unknown {what} {slug!r}; known: {', '.join(names) or 'none'}", USAGE)


def _version(value: bool) -> None:  # noqa: FBT001  typer's callback
    if value:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def validate(
    ctx: typer.Context,
    config_dir: ConfigDir = HERE,
    as_json: AsJson = False,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="Check this data file instead.")
    ] = None,
    schema: options.SchemaName = options.DEFAULT_SCHEMA,
    groups: options.Groups = options.DEFAULT_GROUPS,
    with_audit: options.WithAudit = False,
    out_dir: options.Out = None,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """Check every file in configs/ and name each mistake; with --input a data file."""
    if input_file is not None:
        target = options.Files(out=out_dir, out_json=out_json, out_md=out_md, as_json=as_json)
        user_level.validate_input(ctx, input_file, schema, groups, target, with_audit=with_audit)
    if with_audit:
        fail("--audit: is missing its file, must go with --input", USAGE)
    from experiments_dagster.config.project import read_project

    project, issues = read_project(_folder(config_dir))
    if as_json:
        print_json(
            {
                "ok": not issues,
                "issues": [
                    {"file": str(i.file), "line": i.line, "path": i.path, "rule": i.rule}
                    for i in issues
                ],
            }
        )
    elif issues:
        for issue in issues:
            err.print(f"[red]x[/] {issue}", soft_wrap=True)
    elif project is not None:
        out.print(
            f"fine: {len(project.platform.sources)} sources, {len(project.metrics)} metrics, "
            f"{len(project.experiments)} experiments, {len(project.interventions)} interventions, "
            f"{len(project.bandits)} bandits"
        )
    raise typer.Exit(USAGE if issues else OK)


@app.command()
def plan(
    slug: Annotated[str, typer.Argument(help="Experiment.")],
    config_dir: ConfigDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Power, detectable effect, duration and calendar of an experiment, from landed history."""
    with exit_codes():
        from experiments_dagster.cli.plan import make_plan, plan_document, plan_text
        from experiments_dagster.storage.layout import Layout
        from experiments_dagster.storage.manifest import Manifest

        project, _ = _load_all(config_dir)
        _known(project, [slug])
        manifest = Manifest(Layout(project.storage)).refresh()
        experiment = project.experiments[slug]
        report = make_plan(project, manifest, experiment)
        if as_json:
            print_json(plan_document(report))
        else:
            out.print(plan_text(experiment, report))


@app.command()
def demo(
    config_dir: ConfigDir = HERE,
    asos: Annotated[
        bool, typer.Option("--asos", help="Replay 50 real experiments from their moments instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the main job on real data: land day by day, take the weekly looks, print verdicts."""
    with exit_codes():
        if asos:
            from experiments_dagster.cli.demo_asos import run_asos_demo

            run_asos_demo(_folder(config_dir) / ".demo" / "asos", as_json=as_json)
            return
        from experiments_dagster.cli.demo import run_demo

        run_demo(_load(config_dir), as_json=as_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.")],
    events: Annotated[
        list[Path] | None, typer.Option("--events", help="Parquet or CSV file of events.")
    ] = None,
    exposures: Annotated[
        list[Path] | None, typer.Option("--exposures", help="Parquet or CSV file of exposures.")
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="What timestamps without a zone mean, and where days begin.")
    ] = "UTC",
) -> None:
    """Make a project of your own from your files: guess columns, write starter YAML, check it."""
    with exit_codes():
        from experiments_dagster.cli.init import make_project

        written = make_project(folder, events or [], exposures or [], timezone)
        for path, note in written:
            out.print(f"wrote {path}" + (f"  {note}" if note else ""))
        out.print(f"next: review the files, then `cd {folder} && experiments run`")


@app.command()
def run(
    ctx: typer.Context,
    slugs: Annotated[
        list[str] | None,
        typer.Argument(help="Experiments and interventions; all that are due when left out."),
    ] = None,
    as_of: Annotated[
        dt.datetime | None,
        typer.Option("--as-of", formats=["%Y-%m-%d"], help="Look as of this day, 00:00 local."),
    ] = None,
    config_dir: ConfigDir = HERE,
    config: options.ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Land new files, take due looks, estimate interventions, share out bandits, alert."""
    if config is not None:
        user_level.run_config(ctx, config)
    with exit_codes():
        if as_of is not None and as_of.date() > dt.datetime.now(dt.UTC).date():
            fail(f"--as-of {as_of.date()}: is in the future, must be today or before", USAGE)
        project, has_issues = _load_all(config_dir)
        _known(project, slugs or [], interventions=True)
        with progress("starting"):
            from experiments_dagster.cli.runs import Runner

            runner = Runner(project)
            asked = [slug for slug in slugs or [] if slug in project.interventions]
            looks = [slug for slug in slugs or [] if slug in project.experiments]
            troubles = []
            if looks or not slugs:
                day = as_of.date() if as_of else None
                troubles += runner.take_looks(looks or None, as_of=day, land=True)
            for intervention in asked if slugs else runner.due_interventions():
                troubles += runner.estimate(intervention)
            if not slugs:
                troubles += bandit.allocate_due(runner, as_of.date() if as_of else None)
            runner.deliver_alerts()
        _show_status(project, slugs, as_json=as_json)
        for trouble in troubles:
            tell = show_error if trouble.code else warn
            tell(f"{trouble.subject}: {trouble.message}")
        codes = [trouble.code for trouble in troubles if trouble.code]
        raise typer.Exit(max(codes, default=USAGE if has_issues else OK))


def _show_status(project: Project, slugs: list[str] | None, *, as_json: bool) -> None:
    from experiments_dagster.cli.status import reason_lines, status_document, verdict_table
    from experiments_dagster.looks.publish import report_path
    from experiments_dagster.storage.layout import Layout
    from experiments_dagster.storage.manifest import Manifest

    layout = Layout(project.storage)
    manifest = Manifest(layout).refresh()
    document = status_document(project, manifest, slugs)
    if as_json:
        print_json(document)
        return
    if document["experiments"]:
        shown = [row["slug"] for row in document["experiments"]]
        out.print(verdict_table(project, manifest, shown))
        out.print()
    for line in reason_lines(document):
        out.print(line, markup=False, soft_wrap=True)
    reports = [
        report_path(layout, slug)
        for slug in (slugs or [*project.experiments, *project.interventions])
    ]
    for path in reports:
        if path.exists():
            out.print(f"report: {path}", markup=False, soft_wrap=True)


@app.command()
def status(
    slug: Annotated[
        str | None, typer.Argument(help="One experiment or intervention; all when left out.")
    ] = None,
    config_dir: ConfigDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Where every experiment and intervention stands; reads only."""
    with exit_codes():
        project = _load(config_dir)
        _known(project, [slug] if slug else [], interventions=True)
        _show_status(project, [slug] if slug else None, as_json=as_json)


@app.command()
def report(
    slug: Slug,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also write it as PDF beside; needs the extra [pdf].")
    ] = False,
    config_dir: ConfigDir = HERE,
) -> None:
    """Write the HTML report of an experiment's looks, or of an intervention; print its path."""
    with exit_codes():
        from experiments_dagster.looks.publish import publish_report
        from experiments_dagster.looks.take import open_ledger
        from experiments_dagster.storage.atomic import write_bytes
        from experiments_dagster.storage.layout import Layout
        from experiments_dagster.storage.manifest import Manifest

        if pdf:
            from experiments_dagster.reporting.pdf import report_pdf, require_weasyprint

            require_weasyprint()
        project = _load(config_dir)
        _known(project, [slug], interventions=True)
        manifest = Manifest(Layout(project.storage)).refresh()
        if slug in project.interventions:
            from experiments_dagster.interventions.publish import report_again

            path = report_again(manifest.layout, project.interventions[slug])
        else:
            experiment = project.experiments[slug]
            path = publish_report(manifest.layout, experiment, open_ledger(manifest, experiment))
        if path is None:
            missing = "estimate" if slug in project.interventions else "look"
            fail(f"{slug}: no {missing} has been taken yet; run `experiments run {slug}`", USAGE)
            return
        out.print(str(path), markup=False, soft_wrap=True)
        if pdf:
            printed = path.with_suffix(".pdf")
            write_bytes(printed, report_pdf(path.read_text(encoding="utf-8")))
            out.print(str(printed), markup=False, soft_wrap=True)


@app.command()
def ledger(slug: Slug, config_dir: ConfigDir = HERE, as_json: AsJson = False) -> None:
    """Which look spent how much alpha, and what is left."""
    with exit_codes():
        from experiments_dagster.cli.ledger import ledger_document, ledger_table
        from experiments_dagster.storage.layout import Layout
        from experiments_dagster.storage.manifest import Manifest

        project = _load(config_dir)
        _known(project, [slug])
        manifest = Manifest(Layout(project.storage)).refresh()
        document = ledger_document(manifest, project.experiments[slug])
        if as_json:
            print_json(document)
        else:
            out.print(ledger_table(document))


@app.command()
def reproduce(
    look: Annotated[str, typer.Argument(help="A look id such as aa_grocery.1.12.")],
    config_dir: ConfigDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Recompute a past look from the landed batches and compare every number with what was seen."""
    with exit_codes():
        with progress(f"recomputing {look}"):
            from experiments_dagster.cli.reproduce import reproduction_document, reproduction_table
            from experiments_dagster.looks.reproduce import reproduce as recompute
            from experiments_dagster.storage.layout import Layout
            from experiments_dagster.storage.manifest import Manifest

            project = _load(config_dir)
            manifest = Manifest(Layout(project.storage)).refresh()
            result = recompute(project, manifest, look)
        document = reproduction_document(result, head=manifest.head)
        if as_json:
            print_json(document)
        else:
            out.print(reproduction_table(result))
            out.print(document["summary"], markup=False, soft_wrap=True)
        raise typer.Exit(DAMAGED if result.differences else OK)


@app.command()
def export(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE | SLUG...]",
            help="The .duckdb file to write; with --csv experiments or interventions instead.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write one CSV per table into this folder, or one per table and SLUG.",
        ),
    ] = None,
    config_dir: ConfigDir = HERE,
) -> None:
    """Write all published frames and results: one self-contained DuckDB file, or CSV files."""
    with exit_codes():
        from experiments_dagster.storage.layout import Layout

        project = _load(config_dir)
        layout = Layout(project.storage)
        if csv is not None:
            _export_csv(project, layout, csv, names or [])
            return
        from experiments_dagster.storage.catalog import catalog_tables
        from experiments_dagster.storage.catalog import export as write_export

        target, *others = names or ["experiments-export.duckdb"]
        if others:
            fail(f"{' '.join(others)}: one FILE only, or --csv DIR before experiments", USAGE)
        with progress("exporting"):
            tables = catalog_tables(layout)
            path = write_export(layout, Path(target).resolve())
    out.print(f"{path}: {len(tables)} tables", markup=False, soft_wrap=True)


def _export_csv(project: Project, layout: Layout, folder: Path, slugs: list[str]) -> None:
    from experiments_dagster.storage.csv_export import export_csv

    known = (*project.experiments, *project.interventions)
    for slug in slugs:
        if slug not in known:
            fail(f"unknown experiment {slug!r}; known: {', '.join(known) or 'none'}", USAGE)
    with progress("exporting"):
        written = export_csv(layout, folder.resolve(), slugs)
    for path in written:
        out.print(str(path), markup=False, soft_wrap=True)


@app.command()
def doctor(config_dir: ConfigDir = HERE, as_json: AsJson = False) -> None:
    """Check all that is stored, byte by byte, and rebuild the catalog."""
    with exit_codes():
        with progress("hashing landed data"):
            from experiments_dagster.cli.doctor import examine

            findings = examine(_load(config_dir))
        problems = [finding for finding in findings if not finding["ok"]]
        if as_json:
            print_json({"ok": not problems, "findings": findings})
        else:
            for finding in findings:
                mark = "[green]ok[/]" if finding["ok"] else "[red]damaged[/]"
                out.print(f"{mark}  {finding['subject']}: {finding['message']}", soft_wrap=True)
        raise typer.Exit(DAMAGED if problems else OK)


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000,
    config_dir: ConfigDir = HERE,
) -> None:
    """Open the Dagster UI of this project on loopback, with its daemon."""
    with exit_codes():
        from experiments_dagster.cli.runs import dagster_home, prepare_instance
        from experiments_dagster.service.dev import serve_project
        from experiments_dagster.storage.layout import Layout

        project = _load(config_dir)
        prepare_instance(Layout(project.storage))
        err.print(f"Dagster UI: http://127.0.0.1:{port}   (stop with Ctrl-C)")
        workspace = project.folder / "workspace.yaml"
        code = ["-w", str(workspace)] if workspace.exists() else ["-m", DEFINITIONS]
        home = dagster_home(project.folder, project.storage)
        raise typer.Exit(serve_project(project.folder, code, port, home))
