"""`experiments demo --asos`: real experiments whose moments a warehouse aggregated.

All rows land at once as history; then every planned look of every experiment is taken in the
order of its date, by the same path as any other look. The table at the end counts how many of the
200 series (experiment and metric) each rule calls. Running it again finds everything landed and
every look taken, and changes nothing.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from experiments_dagster.cli.output import err, out, print_json, progress, warn
from experiments_dagster.config.project import Project, load_project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.calendar import due_look, is_complete, start_of_day
from experiments_dagster.looks.publish import publish_report, publish_results, publish_verdict
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.take import open_ledger, take_look
from experiments_dagster.simulate.asos import ALPHA, MDE, METRICS, SOURCE, Asos, write_project
from experiments_dagster.simulate.incoming import write_incoming
from experiments_dagster.stats.design.sample_ratio import BLOCK_P, MIN_DEVIATION, chi_square
from experiments_dagster.stats.intervals import upper_quantile
from experiments_dagster.stats.sequential.boundaries import next_boundary
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    tuning_information,
)
from experiments_dagster.stats.sequential.power import planned_information
from experiments_dagster.stats.sequential.spending import cumulative_alpha
from experiments_dagster.storage.catalog import publish_catalog
from experiments_dagster.storage.landing import land
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

NAIVE_Z = 1.96  # as people read the file: 5 % at one look
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table: a rule, its level per series, its looks, and what it calls."""

    rule: str
    alpha: float
    looks: str
    called: int


def run_asos_demo(folder: Path, *, as_json: bool = False) -> None:
    """Make the project in a folder, replay its looks and print what each rule calls."""
    started = time.monotonic()
    asos = Asos()
    write_project(folder, asos)
    project = load_project(folder)
    with progress("landing") as status:
        write_incoming(folder / "incoming", "asos", {SOURCE: asos.rows})
        now = dt.datetime.now(dt.UTC)
        for problem in land(project, arrival_day=now.date(), now=now, kind="history").problems:
            warn(problem)
        looks, n_new = take_looks(project, status.update)
        if n_new:
            publish(project, status.update)
        status.update("testing every series on its own")
        document = asos_document(asos, looks)
    if as_json:
        print_json(document)
    else:
        _show(document)
    seconds = time.monotonic() - started
    err.print(
        f"{n_new} looks taken in this run, {seconds:.0f} s. `experiments status --config-dir "
        f"{folder}` lists the experiments.",
        soft_wrap=True,
    )


def take_looks(project: Project, tell: Callable[[str], None]) -> tuple[dict[str, list[Look]], int]:
    """Take every planned look that is still to be taken, in the order of dates.

    Returns:
        All recorded looks by experiment, and how many of them are new.
    """
    manifest = Manifest(Layout(project.storage)).refresh()
    looks = {
        slug: recorded_looks(open_ledger(manifest, experiment))
        for slug, experiment in project.experiments.items()
    }
    n_new = 0
    for day, experiment in _calendar(project):
        recorded = looks[experiment.slug]
        if is_complete(experiment, recorded) or due_look(experiment, recorded, day) is None:
            continue
        tell(f"looks of {day}")
        as_of = start_of_day(experiment, day)
        attempt = take_look(project, manifest, experiment, as_of=as_of)
        if attempt.is_new:
            recorded.append(attempt.look)
            n_new += 1
    return looks, n_new


def _calendar(project: Project) -> list[tuple[dt.date, Experiment]]:
    planned = [(day, slug) for slug, e in project.experiments.items() for day in e.planned_looks()]
    return [(day, project.experiments[slug]) for day, slug in sorted(planned)]


def publish(project: Project, tell: Callable[[str], None]) -> None:
    """Write result tables, verdicts and the report of every experiment, then the catalog."""
    manifest = Manifest(Layout(project.storage)).refresh()
    for slug, experiment in project.experiments.items():
        tell(f"results of {slug}")
        ledger = open_ledger(manifest, experiment)
        looks = recorded_looks(ledger)
        if looks:
            publish_results(ledger, looks[-1])
            publish_verdict(ledger)
            publish_report(manifest.layout, experiment, ledger)
    publish_catalog(manifest.layout)


def asos_document(asos: Asos, looks: dict[str, list[Look]]) -> dict[str, Any]:
    """What each rule calls, the verdicts and the sample ratios, as plain data."""
    taken = [look for recorded in looks.values() for look in recorded]
    p_values = asos.wide.group_by("slug").agg(
        pl.col("count_c", "count_t").sort_by("taken_at").last()
    )
    mismatches = [
        chi_square([n_control, n_treatment], [0.5, 0.5]).p_value < BLOCK_P
        for _, n_control, n_treatment in p_values.iter_rows()
    ]
    return {
        "experiments": len(looks),
        "series": asos.usable.select("slug", "metric").unique().height,
        "rows": asos.wide.height,
        "rows_dropped": asos.n_dropped,
        "looks": len(taken),
        "mde": MDE,
        "alpha_per_experiment": ALPHA,
        "rules": [asdict(rule) for rule in rules(asos, taken)],
        "verdicts": dict(
            sorted(Counter(recorded[-1].verdict for recorded in looks.values() if recorded).items())
        ),
        "sample_ratio_p_below_0.001": sum(mismatches),
    }


def rules(asos: Asos, taken: list[Look]) -> list[Rule]:
    """Every rule with the number of series that it calls."""
    split = ALPHA / len(METRICS)
    by_plan = {
        (look.experiment, row.metric)
        for look in taken
        for row in look.boundaries
        if row.kind == "success" and row.crossed != "none"
    }
    by_sequence = {
        (look.experiment, row.metric)
        for look in taken
        for row in look.anytime
        if row.low > 0 or row.high < 0
    }
    alone = [call_alone(series) for series in asos.daily.partition_by("slug", "metric")]
    plan, sequence = "planned sequential rule", "confidence sequence"
    every_day, until = "every day", "every day until the plan ends"
    return [
        Rule(rule="naive, at the end", alpha=ALPHA, looks="1", called=_naive_at_end(asos.usable)),
        Rule(
            rule="naive, at some look",
            alpha=ALPHA,
            looks="every half day",
            called=_naive_at_some(asos.usable),
        ),
        Rule(
            rule="naive, at some look",
            alpha=ALPHA,
            looks=every_day,
            called=_naive_at_some(asos.daily),
        ),
        Rule(rule=f"{plan}, as recorded", alpha=split, looks=until, called=len(by_plan)),
        Rule(rule=f"{sequence}, as recorded", alpha=split, looks=until, called=len(by_sequence)),
        Rule(
            rule=f"{plan}, each series alone",
            alpha=ALPHA,
            looks=until,
            called=sum(call.by_plan for call in alone),
        ),
        Rule(
            rule=f"{sequence}, each series alone",
            alpha=ALPHA,
            looks=every_day,
            called=sum(call.by_sequence for call in alone),
        ),
    ]


def _naive_at_end(rows: pl.DataFrame) -> int:
    last = rows.group_by("slug", "metric").agg(pl.col("z").sort_by("taken_at").last())
    return last.filter(pl.col("z").abs() > NAIVE_Z).height


def _naive_at_some(rows: pl.DataFrame) -> int:
    return rows.filter(pl.col("z").abs() > NAIVE_Z).select("slug", "metric").unique().height


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What two rules say of one series, tested alone at the whole of alpha."""

    by_plan: bool
    by_sequence: bool


def call_alone(series: pl.DataFrame) -> Calls:
    """Test one series as if its metric were an experiment's only one.

    Args:
        series: The row of every daily look in order: z, information, counts, means and day.
    """
    first, last = series.row(0, named=True), series.row(-1, named=True)
    total = first["count_c"] + first["count_t"]
    baseline = (first["count_c"] * first["mean_c"] + first["count_t"] * first["mean_t"]) / total
    n_looks = (last["day"] - first["day"]).days + 1
    planned = _drift(n_looks) ** 2 / (MDE * baseline) ** 2
    looks = list(series.select("z", "information").iter_rows())
    g = tuning_information(planned, ALPHA)
    points = (
        confidence_sequence(z / math.sqrt(info), 1 / math.sqrt(info), g=g, alpha=ALPHA)
        for z, info in looks
    )
    return Calls(
        by_plan=_is_called_by_plan(looks, planned),
        by_sequence=any(point.log_e_value >= -math.log(ALPHA) for point in points),
    )


@cache
def _drift(n_looks: int) -> float:
    """The drift that a plan of this many daily looks needs."""
    fractions = [(k + 1) / n_looks for k in range(n_looks)]
    return math.sqrt(planned_information(1.0, alpha=ALPHA, power=POWER, fractions=fractions))


def _is_called_by_plan(looks: list[tuple[float, float]], planned: float) -> bool:
    """Walk the looks by O'Brien-Fleming spending until a boundary is crossed or alpha is spent.

    No boundary lies below the critical value of a single test at the whole of alpha, so that the
    walk may end at the last look that reaches it.
    """
    single = upper_quantile(ALPHA / 2)
    n_walked = max((k for k, (z, _) in enumerate(looks, start=1) if abs(z) >= single), default=0)
    stored: list[tuple[float, float]] = []
    newest, spent = 0.0, 0.0
    for number, (z, information) in enumerate(looks[:n_walked], start=1):
        if information <= newest:
            continue  # nothing new is known, and nothing is spent
        fraction, newest = information / planned, information
        is_last = fraction >= 1 or number == len(looks)
        allowed = ALPHA if is_last else cumulative_alpha("obrien_fleming", fraction, alpha=ALPHA)
        boundary = next_boundary(
            [(earlier / information, critical) for earlier, critical in stored],
            t=1.0,
            cumulative_alpha_now=max(allowed, spent),
            alpha_spent=spent,
        )
        spent = boundary.alpha_spent
        # A look that cannot stop leaves the walk as it was.
        if boundary.critical_value is not None:
            if abs(z) >= boundary.critical_value:
                return True
            stored.append((information, boundary.critical_value))
        if fraction >= 1:
            return False
    return False


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"Which of {document['series']} series does a rule call?",
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    for name in ("rule", "looks"):
        table.add_column(name)
    for name in ("alpha per series", "called"):
        table.add_column(name, justify="right")
    for row in document["rules"]:
        table.add_row(row["rule"], row["looks"], f"{row['alpha']:.4g}", str(row["called"]))
    out.print(table)
    out.print()
    for line in _remarks(document):
        out.print(line, markup=False, soft_wrap=True)


def _remarks(document: dict[str, Any]) -> list[str]:
    verdicts = ", ".join(f"{name} {n}" for name, n in document["verdicts"].items())
    mismatches, dropped = document["sample_ratio_p_below_0.001"], document["rows_dropped"]
    alpha, mde = document["alpha_per_experiment"], document["mde"]
    return [
        f"verdicts of {document['experiments']} experiments: {verdicts}",
        (
            f"sample ratio: chi-square p < {BLOCK_P:g} in {mismatches} experiments; those off by "
            f"more than {MIN_DEVIATION:.1%} of the units are INVALID"
        ),
        (
            f"{document['rows']} rows, {dropped} of them dropped for want of a variance; "
            f"{document['looks']} looks recorded"
        ),
        (
            f"As recorded, an experiment shares alpha {alpha:g} among its {len(METRICS)} metrics. "
            f"It is planned for an effect of {mde:.0%} and ends when it knows enough for that. "
            f"Alone, a series has the whole of {alpha:g}, as in the naive rules."
        ),
        (
            "The metrics are open-ended: the sequential rule rests on the declared assumption that "
            "increments are independent."
        ),
    ]
