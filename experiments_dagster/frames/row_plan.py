"""What unit rows hold, and the state of a shard of them: see `unit_rows`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from experiments_dagster.config.experiment import CapQuantile
from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import WindowTotal, metric_totals
from experiments_dagster.storage.atomic import canonical_json, write_bytes

FORMAT = 1
IDENTITY = ("experiment", "unit", "arm", "exposed_at", "n_exposures", "n_arms")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """What the rows of a shard hold.

    Args:
        exposure_source: Where exposures come from.
        totals: Window totals by event source, named by what they are.
        properties: Properties of the first exposure.
    """

    exposure_source: str
    totals: dict[str, tuple[WindowTotal, ...]]
    properties: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the plan: the same windows over the same measures, whatever metrics call them."""
        document = json.dumps(
            [self.exposure_source, {s: [t.name for t in ts] for s, ts in self.totals.items()}],
            sort_keys=True,
        )
        return hashlib.sha256(document.encode()).hexdigest()[:12]

    @property
    def columns(self) -> list[str]:
        """All columns of a row."""
        names = [total.name for totals in self.totals.values() for total in totals]
        return [*IDENTITY, *(f"segment_{name}" for name in self.properties), *names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The file of the units first exposed on one UTC day."""

    file: str
    size: int
    modified_ns: int
    rows: int


@dataclass(slots=True, kw_only=True)
class State:
    """What a shard holds and up to where.

    `inputs` are the landed files behind it, `types` the columns and their DuckDB types, and
    `members` each experiment's identity, a change of which makes its rows anew.
    """

    cutoff: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    cohorts: dict[str, Cohort] = field(default_factory=dict)


def row_total(total: WindowTotal) -> WindowTotal:
    """The same total under the name that says what it is."""
    days = "_".join(f"m{-d}" if d < 0 else str(d) for d in (total.start_day, total.end_day))
    return WindowTotal(
        name=f"{total.measure}_{days}",
        measure=total.measure,
        start_day=total.start_day,
        end_day=total.end_day,
    )


def member_identity(experiment: Experiment) -> str:
    """What a member's rows depend on besides the plan of its shard."""
    parts = [experiment.exposure_name, str(experiment.starts_at), str(experiment.ends_at)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def row_plan(experiments: Sequence[Experiment]) -> RowPlan:
    """What the rows of experiments with one `plan_key` hold."""
    first = experiments[0]
    names = (name for e in experiments for name in e.exposure_properties)
    return RowPlan(
        exposure_source=first.exposure_source,
        totals=_totals_by_source(first),
        properties=tuple(sorted(set(names))),
    )


def totals_of(experiment: Experiment, source: str) -> list[WindowTotal]:
    """The window totals that an experiment needs of one source, by its metrics' names."""
    metrics = [metric for metric in experiment.metrics if metric.parts[0].source == source]
    return metric_totals(
        metrics,
        experiment.plan.estimator.covariate_days,
        cap_basis=cap_basis_of(experiment) if experiment.primary in metrics else None,
        with_lags=experiment.predicts,
    )


def cap_basis_of(experiment: Experiment) -> Metric | None:
    """The metric whose cap is a quantile of the pre-period, if any."""
    return experiment.primary if isinstance(experiment.plan.cap, CapQuantile) else None


def _totals_by_source(experiment: Experiment) -> dict[str, tuple[WindowTotal, ...]]:
    sources = sorted({part.source for metric in experiment.metrics for part in metric.parts})
    found = {}
    for source in sources:
        totals = {t.name: t for t in map(row_total, totals_of(experiment, source))}
        found[source] = tuple(total for _, total in sorted(totals.items()))
    return found


def read_state(folder: Path) -> State:
    """The state that stands, or an empty one where a file is missing or has changed."""
    try:
        document = json.loads((folder / "state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return State()
    if document.pop("format", None) != FORMAT:
        return State()
    if set(document) != {field.name for field in fields(State)}:
        return State()  # written by another version of this program
    cohorts = {day: Cohort(**cohort) for day, cohort in document.pop("cohorts").items()}
    for cohort in cohorts.values():
        try:
            stat = (folder / cohort.file).stat()
        except FileNotFoundError:
            return State()
        if (stat.st_size, stat.st_mtime_ns) != (cohort.size, cohort.modified_ns):
            return State()
    return State(**document, cohorts=cohorts)


def write_state(folder: Path, state: State, *, before: State, published: set[str]) -> None:
    """Let a state stand, then remove files that nobody names any more.

    Args:
        folder: The shard.
        state: What shall stand.
        before: What stood; readers of the catalog may still hold its files.
        published: Names of files that published frames are views over.
    """
    write_bytes(folder / "state.json", canonical_json(asdict(state) | {"format": FORMAT}))
    named = {cohort.file for known in (state, before) for cohort in known.cohorts.values()}
    named |= published
    for path in folder.glob("*.parquet"):
        if path.name not in named:
            path.unlink()
