"""See a past look again: rebuild its frames from the landed batches and compare every number."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import Any

from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.plan import frozen_experiment as as_frozen
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.records import Look
from experiments_dagster.looks.take import build_inputs, recompute
from experiments_dagster.storage.errors import StorageError
from experiments_dagster.storage.ledger import Ledger
from experiments_dagster.storage.manifest import Manifest

# Float sums in another order differ in the last digits; anything larger is another result.
RELATIVE_TOLERANCE = 1e-12
LOOK_ID = re.compile(r"^(?P<slug>[a-z0-9][a-z0-9_-]*)\.(?P<phase>\d+)\.(?P<look>\d+)$")
# What tells how, not what: a new program version must give the same numbers.
NOT_COMPARED = ("code_version", "frames", "scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A look as it was seen and as it comes out now; `differences` is empty when equal."""

    seen: Look
    again: Look
    differences: tuple[str, ...]
    n_compared: int


def reproduce(project: Project, manifest: Manifest, look_id: str) -> Reproduction:
    """Recompute a recorded look with its frozen plan, at its own cut-off and time.

    Args:
        project: Where data and configuration lie.
        manifest: All landed batches; only those up to the look's cut-off are read.
        look_id: Such as `aa_grocery.1.12`.

    Raises:
        ValueError: There is no such look.
        DataDamagedError: Inputs of the look are damaged.
    """
    match = LOOK_ID.match(look_id)
    if match is None:
        raise ValueError(f"{look_id!r} is not a look id; write experiment.phase.look")
    ledger = Ledger(manifest.layout, match["slug"], int(match["phase"])).refresh()
    looks, number = recorded_looks(ledger), int(match["look"])
    if not 1 <= number <= len(looks):
        raise ValueError(f"{look_id}: no such look; {match['slug']} has {len(looks)}")
    seen = looks[number - 1]
    experiment = frozen_experiment(project, ledger)
    frames = build_inputs(
        project,
        manifest,
        experiment,
        cutoff=seen.cutoff,
        as_of=dt.datetime.fromisoformat(seen.as_of),
        publish=False,
    )
    again = recompute(manifest.layout, experiment, frames, looks[: number - 1], seen)
    again = again.model_copy(update={"plan_hash": seen.plan_hash})
    found: list[str] = []
    # As it was recorded: what a look did not hold then cannot have changed since.
    recorded = ledger.looks[number - 1]
    compared = _compare(recorded, again.model_dump(mode="json"), "", found)
    return Reproduction(seen=seen, again=again, differences=tuple(found), n_compared=compared)


def frozen_experiment(project: Project, ledger: Ledger) -> Experiment:
    """The experiment as its plan was frozen; words for people come from the present file.

    Raises:
        StorageError: No plan was frozen, or the experiment's file is gone.
    """
    if ledger.plan is None:
        raise StorageError(f"{ledger.slug}: no look has been taken yet")
    present = project.experiments.get(ledger.slug)
    if present is None:
        raise StorageError(f"{ledger.slug}: configs/experiments/{ledger.slug}.yaml is gone")
    return as_frozen(ledger.plan["document"], present)


def _compare(seen: Any, again: Any, place: str, found: list[str]) -> int:
    """Compare leaf by leaf; add a line per difference and return the number of numbers."""
    if isinstance(seen, dict) and isinstance(again, dict):
        return sum(
            _compare(seen.get(key), again.get(key), f"{place}.{key}".lstrip("."), found)
            for key in sorted(seen)
            if place or key not in NOT_COMPARED
        )
    if isinstance(seen, list) and isinstance(again, list):
        again = _same_checks(seen, again)
    if isinstance(seen, list) and isinstance(again, list) and len(seen) == len(again):
        pairs = zip(seen, again, strict=True)
        return sum(_compare(a, b, f"{place}.{k}", found) for k, (a, b) in enumerate(pairs))
    is_number = isinstance(seen, int | float) and not isinstance(seen, bool)
    if is_number and isinstance(again, int | float):
        if not math.isclose(seen, again, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300):
            found.append(f"{place}: seen {seen!r}, now {again!r}")
        return 1
    if seen != again:
        found.append(f"{place}: seen {seen!r}, now {again!r}")
    return int(is_number)


def _same_checks(seen: list[Any], again: list[Any]) -> list[Any]:
    """Leave out health checks that the program did not have when the look was taken."""
    if len(seen) == len(again) or not all(isinstance(row, dict) and "name" in row for row in seen):
        return again
    known = {row["name"] for row in seen}
    return [row for row in again if row["name"] in known]
