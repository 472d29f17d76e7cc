"""`experiments sql`: the query by which a warehouse makes the moments of an experiment itself.

One statement over the tables of events and exposures that platform.yaml maps. It follows the
frames: first exposure, units of two arms left out from the look that sees the second, events once
by their id, complete cohorts (whole days of 24 h after first exposure), totals per unit first and
moments over units after. Moments are avg, var_samp and covar_samp: sums of squares lose their
digits.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments_dagster.cli.output import exit_codes, warn

if TYPE_CHECKING:
    from experiments_dagster.cli.summary_query import Output, Tables
    from experiments_dagster.config.metrics import Metric
    from experiments_dagster.config.platform import EventSource, ExposureSource
    from experiments_dagster.config.project import Project
    from experiments_dagster.config.resolve import Experiment


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(sql)


def sql(
    slug: Annotated[str, typer.Argument(help="Experiment, the name of its file in configs/.")],
    as_of: Annotated[
        dt.datetime | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d"],
            help="Only looks up to this day, to which the tables are known to be complete.",
        ),
    ] = None,
    config_dir: Annotated[
        Path,
        typer.Option(
            "--config-dir", help="The project folder, or its configs/ folder.", metavar="DIR"
        ),
    ] = Path(),
) -> None:
    """Print the SQL that makes a warehouse's own moments: the rows of a source of summaries."""
    with exit_codes():
        from experiments_dagster.config.errors import ConfigError
        from experiments_dagster.config.project import read_project

        is_configs = (config_dir / "platform.yaml").exists()
        project, issues = read_project(config_dir.resolve().parent if is_configs else config_dir)
        if project is None:
            raise ConfigError(issues)
        for issue in issues:
            warn(f"left out: {issue}")
        if slug not in project.experiments:
            known = ", ".join(project.experiments) or "none"
            raise ValueError(f"unknown experiment {slug!r}; known: {known}")
        day = as_of.date() if as_of else None
        typer.echo(summary_query(project, project.experiments[slug], as_of=day))


def summary_query(project: Project, experiment: Experiment, *, as_of: dt.date | None) -> str:
    """Return one SELECT that makes the rows of a source of summaries.

    Args:
        project: Tables, column mappings and metrics.
        experiment: Over events, or over summaries whose metrics say `made_from`.
        as_of: Only looks up to this local day, taken to be complete. Without it the query itself
            leaves out looks that its tables' events have not passed yet.

    Raises:
        ValueError: The configuration does not say what the moments are made from.
    """
    from experiments_dagster.cli.summary_query import statement
    from experiments_dagster.looks.calendar import start_of_day

    outputs, left_out = _outputs(project, experiment)
    name, exposures = _exposures_of(project, experiment)
    events = {output.source: _events_of(project, output.source) for output in outputs}
    days = _look_days(experiment, outputs, as_of)
    header = _header(experiment, {name: exposures, **events}, left_out, as_of)
    query = statement(
        experiment,
        outputs,
        [start_of_day(experiment, day) for day in days],
        (name, exposures),
        events,
        waits=as_of is None,
    )
    return f"{header}\n{query}"


def _outputs(project: Project, experiment: Experiment) -> tuple[list[Output], list[str]]:
    """What the query gives, and the names of metrics that moments cannot give."""
    from experiments_dagster.cli.summary_query import Output
    from experiments_dagster.config.experiment import CapValue

    if experiment.plan.cluster is not None:
        raise ValueError(
            f"{experiment.slug}: plan.cluster: moments over units are wrong where whole "
            f"{experiment.plan.cluster} were randomised; need `unit: {experiment.plan.cluster}`"
        )
    cap = experiment.plan.cap
    if cap is not None and not isinstance(cap, CapValue):
        raise ValueError(
            f"{experiment.slug}: plan.cap: a quantile of the pre-period is not known to the "
            "warehouse; give `cap: {value: ...}`"
        )
    outputs, left_out = [], []
    for metric in experiment.metrics:
        made_from = _made_from(project, metric) if metric.is_summary else metric
        if made_from.kind == "quantile":
            left_out.append(metric.name)
            continue
        name = metric.summary_name or metric.name
        limit = cap.value if cap is not None and metric == experiment.primary else None
        outputs.append(Output(name=name, metric=made_from, cap=limit))
    if not outputs:
        raise ValueError(f"{experiment.slug}: all metrics are quantiles; moments cannot give them")
    return outputs, left_out


def _made_from(project: Project, metric: Metric) -> Metric:
    if metric.made_from is None:
        raise ValueError(
            f"configs/metrics.yaml: metrics.{metric.name}.made_from is missing; name the metric "
            "over events that it is made from"
        )
    return project.metrics[metric.made_from]  # `read_project` left out what is no such metric


def _exposures_of(project: Project, experiment: Experiment) -> tuple[str, ExposureSource]:
    from experiments_dagster.config.platform import ExposureSource

    names = project.platform.sources_of("exposures")
    name = experiment.spec.exposure.source or (names[0] if len(names) == 1 else None)
    source = project.platform.sources.get(name or "")
    if name is None or not isinstance(source, ExposureSource):
        listed = ", ".join(names) or "none is declared in configs/platform.yaml"
        raise ValueError(
            f"{experiment.slug}: exposure.source must name a source of kind exposures: {listed}"
        )
    if source.experiment_name not in (None, experiment.exposure_name):
        raise ValueError(
            f"{experiment.slug}: exposure.experiment is {experiment.exposure_name!r}, but all rows "
            f"of source {name!r} are of {source.experiment_name!r}"
        )
    return name, source


def _events_of(project: Project, name: str) -> EventSource:
    from experiments_dagster.config.platform import EventSource

    source = project.platform.sources[name]
    assert isinstance(source, EventSource)  # `load_project` checked every measure
    return source


def _look_days(
    experiment: Experiment, outputs: list[Output], as_of: dt.date | None
) -> list[dt.date]:
    """Planned looks, or every day or week where their number is open, and when all windows end."""
    from experiments_dagster.config.resolve import STEP_DAYS
    from experiments_dagster.looks.calendar import local_day, start_of_day

    longest = max(output.metric.end_day for output in outputs)
    closed = experiment.ends_at + dt.timedelta(days=longest)
    end = local_day(experiment, closed)
    if start_of_day(experiment, end) < closed:
        end += dt.timedelta(days=1)
    planned, first = experiment.planned_looks(), experiment.first_look()
    if not planned:
        step = STEP_DAYS.get(experiment.plan.looks.schedule, 1)
        planned = tuple(
            first + dt.timedelta(days=days) for days in range(0, (end - first).days, step)
        )
    days = sorted({*planned, end})
    kept = [day for day in days if as_of is None or day <= as_of]
    if not kept:
        raise ValueError(f"--as-of {as_of}: no look is planned until then, the first is {days[0]}")
    return kept


def _header(
    experiment: Experiment,
    tables: Tables,
    left_out: list[str],
    as_of: dt.date | None,
) -> str:
    from experiments_dagster.cli.summary_query import table_name

    lines = [
        f"Moments of {experiment.slug} for a source of kind summaries: a row per arm, metric and",
        "look, cumulative over units whose window is closed. Standard SQL that runs on DuckDB;",
        "elsewhere check AT TIME ZONE and INTERVAL.",
    ]
    for name, source in tables.items():
        place = source.path or f"{source.table} of {source.database}"
        lines.append(f"table {table_name(name, source)}: {place}")
    lines += [f"left out: {name}, a quantile has no moments" for name in left_out]
    lines.append(
        f"looks up to {as_of}, to which the tables are taken to be complete"
        if as_of
        else "a look has rows as soon as the table of events has an event after it"
    )
    # A line break in a file name would end the comment.
    return "\n".join("-- " + " ".join(line.split()) for line in lines)
