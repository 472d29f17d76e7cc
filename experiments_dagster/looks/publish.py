"""After a look: tables, verdicts, report. What a look saw stands in the ledger already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.tables import (
    Nights,
    Recorded,
    has_own_files,
    is_written,
    write_night,
    write_results,
    write_verdicts,
)
from experiments_dagster.reporting.experiment_report import render_experiment_report
from experiments_dagster.storage.atomic import canonical_json, exclusive, write_bytes
from experiments_dagster.storage.errors import ContractError, StorageError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.ledger import Ledger

# Where both are, all tables are: the effects are written last, the verdicts apart from them.
MARKS = ("effect_estimates", "verdicts")


@dataclass(slots=True)
class NightPublication:
    """Publishes the looks of many experiments together: one file per table for all of them.

    `add` every ledger after its look, then `write` once, or now and then: what a crash leaves
    out, the next night finds missing and writes.
    """

    layout: Layout
    _nights: Nights | None = None
    _waiting: list[Recorded] = field(default_factory=list)

    def add(self, ledger: Ledger, look: Look) -> None:
        """Note the recorded looks that are not published yet, and keep a peek.

        Raises:
            DataDamagedError: Tables of an earlier night cannot be read.
        """
        _keep_peek(self.layout, look)
        ledger.write_twin()
        if self._nights is None:
            self._nights = Nights(self.layout).refresh()
        for item in _recorded(ledger):
            is_there = item.look.look_id in self._nights.looks or all(
                is_written(self.layout, table, item.look) for table in MARKS
            )
            if not is_there:
                self._waiting.append(item)

    def write(self) -> dict[str, StorageError]:
        """Write what is noted.

        Returns:
            By experiment what is wrong with looks that could not be published.

        Raises:
            DataDamagedError: Tables of an earlier night cannot be read.
        """
        troubles: dict[str, StorageError] = {}
        with _publishing(self.layout):
            nights = (self._nights or Nights(self.layout)).refresh()
            missing = [item for item in self._waiting if item.look.look_id not in nights.looks]
            together = [item for item in missing if not has_own_files(self.layout, item.look)]
            for item in missing:
                if has_own_files(self.layout, item.look):
                    troubles |= _finish_own(self.layout, item)
            if together:
                troubles |= write_night(self.layout, together)
        self._waiting = []
        return troubles


def _finish_own(layout: Layout, item: Recorded) -> dict[str, StorageError]:
    """Write what is missing of a look that has files of its own."""
    try:
        write_results(layout, *item)
    except ContractError as error:
        return {item.look.experiment: error}
    write_verdicts(layout, *item)
    return {}


def publish_results(ledger: Ledger, look: Look) -> None:
    """Write the result tables of all recorded looks, and keep a peek beside them.

    Earlier looks are written only where a run that died after recording left them out.

    Raises:
        ContractError: Effects break their contract.
    """
    _keep_peek(ledger.layout, look)
    ledger.write_twin()
    with _unpublished(ledger, "effect_estimates") as missing:
        for item in missing:
            write_results(ledger.layout, *item)


def publish_verdict(ledger: Ledger) -> None:
    """Publish the verdicts of all recorded looks unless a failed check forbids it."""
    with _unpublished(ledger, "verdicts") as missing:
        for item in missing:
            write_verdicts(ledger.layout, *item)


@contextlib.contextmanager
def _unpublished(ledger: Ledger, table: str) -> Iterator[list[Recorded]]:
    """The looks that have no file of a table and stand in no night, while nobody else writes."""
    layout = ledger.layout
    missing = [item for item in _recorded(ledger) if not is_written(layout, table, item.look)]
    if not missing:
        yield []
        return
    with _publishing(layout):
        together = Nights(layout).refresh().looks
        yield [item for item in missing if item.look.look_id not in together]


def _publishing(layout: Layout) -> contextlib.AbstractContextManager[None]:
    """Only one process decides at a time where a look is published, so that none is twice."""
    lock = layout.root / "results" / ".lock"
    return exclusive(lock, lambda owner: f"{owner} is publishing", wait=True)


def _recorded(ledger: Ledger) -> list[Recorded]:
    return list(map(Recorded, recorded_looks(ledger), ledger.heads))


def _keep_peek(layout: Layout, look: Look) -> None:
    if look.look is None:
        path = layout.results("peeks", look.experiment) / "current.json"
        write_bytes(path, canonical_json(look.model_dump(mode="json")))


def publish_report(layout: Layout, experiment: Experiment, ledger: Ledger) -> Path | None:
    """Write the HTML report of all recorded looks; None before the first."""
    looks = recorded_looks(ledger)
    if not looks:
        return None
    path = report_path(layout, experiment.slug)
    write_bytes(path, render_experiment_report(experiment, looks).encode())
    return path


def report_path(layout: Layout, slug: str) -> Path:
    """Where the newest report of an experiment or intervention lies."""
    return layout.reports(slug) / "report.html"


def last_peek(layout: Layout, experiment: Experiment) -> Look | None:
    """The newest unplanned peek of the present phase, if there was one."""
    path = layout.results("peeks", experiment.slug) / "current.json"
    peek = Look.model_validate_json(path.read_bytes()) if path.exists() else None
    return peek if peek is not None and peek.phase == experiment.phase else None
