"""The published cases as configured interventions of one project, run end to end through Dagster.

Cases whose data may be copied are the project in examples/studies. The others stand beside this
file as YAML only; their data are read from the reference data beside the checkout.
"""

import json
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from pathlib import Path

import polars as pl

from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.automation.on_check_failure import read_run_facts
from experiments_dagster.checks.refutations import OTHERS, SERIES
from experiments_dagster.cli.runs import Runner
from experiments_dagster.config.intervention import TimeSeriesSpec
from experiments_dagster.config.project import load_project

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "studies"
REAL_CASES = Path(__file__).parent / "real_cases"
SHARED = ROOT.parent / "shared" / "data"
SHARED_FILES = (
    "timeseries/card_krueger_njmin3.csv",
    "timeseries/rdrobust_senate.csv",
    "timeseries/mlda_drinking.csv",
    "observational/lalonde_matchit.csv",
    "uplift/hillstrom_half.parquet",
)


def slugs_in(folder):
    """Names of the interventions that a folder configures."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


EXAMPLE_SLUGS = slugs_in(EXAMPLES / "configs" / "interventions")
OTHER_SLUGS = slugs_in(REAL_CASES)


def copy_examples(folder, *, only=None):
    """examples/studies as a new user has it; `only` keeps these interventions."""
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".studies"))
    for path in (folder / "configs" / "interventions").glob("*.yaml"):
        if only is not None and path.stem not in only:
            path.unlink()
    return folder


def add_real_cases(folder):
    """The cases whose data are only read."""
    for path in REAL_CASES.glob("*.yaml"):
        shutil.copy(path, folder / "configs" / "interventions")
    for name in SHARED_FILES:
        shutil.copy(SHARED / name, folder / "data")
    return folder


def reference(area, name):
    """A case of the reference data."""
    cases = json.loads((SHARED / area / "expected.json").read_text())
    return next(case for case in cases if case["case"] == name)


def run_due(folder):
    """Estimate what is due, in order; returns the slugs and what could not be done."""
    runner = Runner(load_project(folder))
    due = runner.due_interventions()
    troubles = [trouble for slug in due for trouble in runner.estimate(slug)]
    runner.deliver_alerts()
    return Ran(runner=runner, due=due, troubles=troubles)


def due_in(folder):
    return Runner(load_project(folder)).due_interventions()


def words_of(page):
    """The text of a report without its markup, scripts and pictures."""
    for element in ("script", "style", "svg"):
        page = re.sub(rf"<{element}\b.*?</{element}>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


@dataclass(frozen=True)
class Ran:
    """A project after a run, read back from what the run left behind."""

    runner: Runner
    due: list
    troubles: list

    @property
    def layout(self):
        return self.runner.layout

    def is_series(self, slug):
        return isinstance(self.runner.project.interventions[slug].spec, TimeSeriesSpec)

    def document(self, slug):
        name = "impact" if self.is_series(slug) else "causal_effect"
        return json.loads((self.layout.results(name, slug) / "current.json").read_text())

    def has_document(self, slug):
        name = "impact" if self.is_series(slug) else "causal_effect"
        return (self.layout.results(name, slug) / "current.json").exists()

    def table(self, name, slug):
        (path,) = self.layout.results(name, slug).glob("*.parquet")
        return pl.read_parquet(path)

    def rows(self, slug, name):
        """Rows of a table of the document by their first text column."""
        return self.document(slug)["tables"][name]

    def estimate(self, slug, name):
        """The first estimate whose name begins so."""
        found = self.document(slug)["estimates"]
        return next(row for row in found if row["name"].startswith(name))

    def page(self, slug):
        return (self.layout.reports(slug) / "report.html").read_text()

    @cached_property
    def checks(self):
        """The newest evaluation in the Dagster instance by (asset, check, partition)."""
        found = {}
        records = self.runner.instance.get_run_records(ascending=True)
        for record in records:
            for fact in read_run_facts(self.runner.instance, record).checks:
                found[fact.key.asset, fact.key.check, fact.key.partition] = fact
        return found

    def checks_of(self, slug):
        """Evaluated refutations of one intervention by the name of the check."""
        asset = "results/causal_impact" if self.is_series(slug) else "results/causal_effect"
        return {
            check: fact
            for (key, check, partition), fact in self.checks.items()
            if (key, partition) == (asset, slug)
        }

    def expected_checks(self, slug):
        """(passed, severity) by check, from the refutations in the document."""
        names = SERIES if self.is_series(slug) else OTHERS
        by_kind = {}
        for row in self.document(slug)["refutations"]:
            if row["passed"] is not None:
                by_kind.setdefault(kind_of(row["name"], names), []).append(row)
        expected = {}
        for kind, rows in by_kind.items():
            failed = [row for row in rows if not row["passed"]]
            severities = {row["severity"] for row in failed or rows}
            expected[kind] = (not failed, "ERROR" if "ERROR" in severities else "WARN")
        return expected

    def alerts(self):
        """Alerts in the outbox by intervention and check."""
        stored = Outbox(self.layout.outbox).alerts()
        return {(alert.experiment, alert.check.rpartition(":")[2]): alert for alert in stored}


def kind_of(name, names):
    """The asset check of a refutation: its own, or the one its name begins with."""
    return name if name in names else next(kind for kind in names if name.startswith(f"{kind}_"))
