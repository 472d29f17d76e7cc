"""`experiments demo`: the main job on real data, replayed day by day.

History is landed at once, then each day's files are written and landed as they would arrive. On
a look date all due looks are taken in one Dagster run; pictures and reports are drawn for the
last. Running it again finds everything landed and every look taken, and changes nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from experiments_dagster.automation.schedules import due_experiments
from experiments_dagster.cli.output import err, out, print_json, progress, warn
from experiments_dagster.cli.runs import Runner, dagster_home
from experiments_dagster.cli.status import reason_lines, status_document, verdict_table
from experiments_dagster.config.project import Project
from experiments_dagster.looks.publish import report_path
from experiments_dagster.simulate.grocery import Grocery, package_data
from experiments_dagster.simulate.incoming import write_incoming
from experiments_dagster.simulate.shop import Shop
from experiments_dagster.storage.landing import Lander, open_lander
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

AA, CANARY, SIMULATED = "aa_grocery", "canary_grocery", "simulated_three_arms"
SHOP_USERS, SHOP_SEED = 9000, 2017
LAST_DAY = dt.date(2017, 12, 31)


def run_demo(project: Project, *, as_json: bool = False) -> None:
    """Replay the demo in the project folder and print the verdicts.

    Raises:
        ModuleNotFoundError: The demo's data package is not installed.
        ValueError: The project is not the demo's.
    """
    package_data()
    missing = [slug for slug in (AA, CANARY, SIMULATED) if slug not in project.experiments]
    if missing:
        msg = f"{project.folder} is not the demo: configs/experiments lacks {', '.join(missing)}"
        raise ValueError(msg)
    started = time.monotonic()
    with progress("reading 1.47M grocery transactions") as status:
        replay = Replay(project)
        replay.run(status.update)
    layout = Layout(project.storage)
    manifest = Manifest(layout).refresh()
    document = status_document(project, manifest)
    if as_json:
        print_json(document)
        return
    out.print(verdict_table(project, manifest))
    out.print()
    for line in reason_lines(document):
        out.print(line, markup=False, soft_wrap=True)
    out.print()
    for slug in [*project.experiments, *project.interventions]:
        path = report_path(layout, slug)
        if path.exists():
            out.print(f"report: {_shown(path)}", markup=False, soft_wrap=True)
    home = dagster_home(project.folder, project.storage)["DAGSTER_HOME"]
    err.print(
        f"{manifest.head} batches, {replay.looks_taken} looks taken in this run, "
        f"{time.monotonic() - started:.0f} s. `make dev` opens the Dagster UI on "
        f"{_shown(Path(home))}.",
        soft_wrap=True,
    )


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class Replay:
    """Writes each day's incoming files, lands them, and takes looks on their dates."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.layout = Layout(project.storage)
        grocery_experiment = project.experiments[AA]
        self.first_day = grocery_experiment.spec.window.start
        grocery = Grocery(
            assigned=(grocery_experiment, project.experiments[CANARY]),
            canary=CANARY,
            first_wave=self.first_day,
        )
        simulated = project.experiments[SIMULATED]
        shop = Shop(
            experiment=simulated,
            effects=simulated.spec.truth or {},
            n_users=SHOP_USERS,
            orders_per_day=0.12,
            history_days=simulated.plan.estimator.covariate_days,
            follow_up_days=simulated.primary.end_day,
            seed=SHOP_SEED,
        )
        exposures = pl.concat([grocery.exposures, shop.exposures.select(grocery.exposures.columns)])
        self.tables = {
            "grocery_events": grocery.events,
            "simulated_events": shop.events,
            "exposures": exposures,
        }
        self.incoming = project.folder / ".demo" / "incoming"
        self.looks_taken = 0
        self._runner: Runner | None = None

    @property
    def runner(self) -> Runner:
        """Dagster is started only when there is something to run."""
        if self._runner is None:
            self._runner = Runner(self.project)
        return self._runner

    def run(self, tell: Callable[[str], None]) -> None:
        """Land history, replay the days, take the looks and estimate the interventions."""
        manifest = Manifest(self.layout).refresh()
        landed = {batch.arrival_day for batch in manifest.batches}
        look_dates = {day for e in self.project.experiments.values() for day in e.planned_looks()}
        before = self.first_day - dt.timedelta(days=1)
        new_days = [day for day in _days(before, LAST_DAY) if day not in landed]
        # Read-only questions first: a replay that has nothing to do starts nothing.
        dates = sorted(look_dates & set(_days(self.first_day, LAST_DAY)))
        if not new_days and not self._due(manifest, dates[-1]):
            self._estimate(tell)
            return
        by_day = {
            name: table.partition_by("day", as_dict=True, include_key=False)
            for name, table in self.tables.items()
        }
        unreported: list[int] = []
        with open_lander(self.project, remember_ids=True) as lander:
            for day in _days(before, LAST_DAY):
                if day in look_dates:
                    tell(f"looks of {day}")
                    self._look(lander.manifest, day, unreported, is_last=day == dates[-1])
                    unreported = []
                if day in landed:
                    continue
                tell(f"arrival day {day}")
                if day == before:
                    history = {
                        name: table.filter(pl.col("day") < self.first_day).drop("day")
                        for name, table in self.tables.items()
                    }
                    write_incoming(self.incoming, "history", history)
                else:
                    tables = {name: days[(day,)] for name, days in by_day.items() if (day,) in days}
                    write_incoming(self.incoming, str(day), tables)
                unreported += self._land(lander, day, is_history=day == before)
        self._estimate(tell)
        self.runner.deliver_alerts()

    def _land(self, lander: Lander, day: dt.date, *, is_history: bool) -> list[int]:
        """Land what arrived under a day's label; the batch it made, if any."""
        report = lander.land(
            arrival_day=day,
            now=dt.datetime.now(dt.UTC),
            kind="history" if is_history else "data",
        )
        for problem in report.problems:
            warn(problem)
        return [report.batch.sequence] if report.batch else []

    def _due(self, manifest: Manifest, day: dt.date) -> list[str]:
        """Experiments with a look due on a day, by the same rule as the schedule."""
        return due_experiments(self.project, manifest, _midday(day))

    def _look(self, manifest: Manifest, day: dt.date, batches: list[int], *, is_last: bool) -> None:
        due = self._due(manifest, day)
        if not due:
            return
        troubles = self.runner.take_looks(due, as_of=day, batches=batches, draw=is_last)
        self.looks_taken += len(due) - len(troubles)
        for trouble in troubles:
            warn(f"{trouble.subject}: {trouble.message}")

    def _estimate(self, tell: Callable[[str], None]) -> None:
        """Estimate each intervention whose data have grown since it was estimated."""
        for slug in self.runner.due_interventions():
            tell(f"intervention {slug}")
            for trouble in self.runner.estimate(slug):
                warn(f"{trouble.subject}: {trouble.message}")


def _days(first: dt.date, last: dt.date) -> list[dt.date]:
    return [first + dt.timedelta(days=k) for k in range((last - first).days + 1)]


def _midday(day: dt.date) -> dt.datetime:
    """An instant that lies on a day in every time zone of the demo."""
    return dt.datetime.combine(day, dt.time(17), dt.UTC)
