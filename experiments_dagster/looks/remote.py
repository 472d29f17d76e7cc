"""The sums of a look from an engine that reads the landed files itself, here or on a cluster.

A request says everything that the sums depend on, an answer holds them. Both are strict JSON: a job
elsewhere needs the files, this package and one document, and no unit leaves it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments_dagster.config.experiment import CapValue
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames import spark
from experiments_dagster.frames.definitions import Frame, first_exposures
from experiments_dagster.frames.one_pass import experiment_units
from experiments_dagster.frames.unit_frames import FrameInfo, Frames, data_horizons
from experiments_dagster.looks.portable_sums import PortableEngine, Store
from experiments_dagster.looks.sums import Sums, collect_sums
from experiments_dagster.looks.sums_document import read_sums, sums_document
from experiments_dagster.storage.atomic import canonical_json, write_bytes
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

Scan = Callable[[Sequence[str]], Frame]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to add up.

    Args:
        experiment: An additive plan.
        exposures: Landed files of its exposures.
        events: Landed files by event source.
        horizons: Up to when each source speaks, aware UTC.
        cap: Largest value of the primary metric that counts; None for no cap.
    """

    experiment: Experiment
    exposures: tuple[str, ...]
    events: dict[str, tuple[str, ...]]
    horizons: dict[str, dt.datetime]
    cap: float | None

    def document(self) -> dict[str, Any]:
        """Plain data; keys keep their order, which is that of the arms.

        The salt stays here: who is in which arm is known from the exposures.
        """
        experiment = self.experiment.model_dump(mode="json", by_alias=True)
        experiment["salt"] = experiment["spec"]["salt"] = "not-sent"
        return {
            "experiment": experiment,
            "exposures": list(self.exposures),
            "events": {source: list(files) for source, files in self.events.items()},
            "horizons": {source: at.isoformat() for source, at in self.horizons.items()},
            "cap": self.cap,
        }


def read_request(document: Mapping[str, Any]) -> Request:
    """The request of a document."""
    horizons = document["horizons"].items()
    return Request(
        experiment=Experiment.model_validate(document["experiment"]),
        exposures=tuple(document["exposures"]),
        events={source: tuple(files) for source, files in document["events"].items()},
        horizons={source: dt.datetime.fromisoformat(at) for source, at in horizons},
        cap=document["cap"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request; the counts are those of `unit_frames.FrameInfo`.

    Args:
        n_exposed: Units of one arm, by arm.
        n_multi_arm: Units that met several arms, by their first one.
        n_rows: Exposures of units of one arm, by arm.
        n_immature: Units of one arm whose window is open, by metric.
        sums: Of the units of one arm.
    """

    n_exposed: dict[str, int]
    n_multi_arm: dict[str, int]
    n_rows: dict[str, int]
    n_immature: dict[str, int]
    sums: Sums

    def document(self) -> dict[str, Any]:
        """Plain data."""
        counts = ("n_exposed", "n_multi_arm", "n_rows", "n_immature")
        found: dict[str, Any] = {name: getattr(self, name) for name in counts}
        return found | {"sums": sums_document(self.sums)}


def read_answer(document: Mapping[str, Any]) -> Answer:
    """The answer of a document."""
    return Answer(**{**document, "sums": read_sums(document["sums"])})


def request_sums(
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
    cap: float | None,
) -> Request:
    """The request of a look at batches 1..cutoff; every file is compared with the manifest.

    Args:
        manifest: The landed batches.
        experiment: An additive plan.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        cap: Largest value of the primary metric that counts; None for no cap.

    Raises:
        ContractError: No events of the primary metric or no exposures have landed.
        DataDamagedError: A landed file is damaged.
    """
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of)
    primary = experiment.primary.parts[0].source
    if primary not in horizons:
        raise ContractError(f"raw/{primary}", {"no events have landed": 0})
    exposures = _files(manifest, experiment.exposure_source, cutoff)
    if not exposures:
        raise ContractError("raw/exposures", {"no exposures have landed": 0})
    return Request(
        experiment=experiment,
        exposures=exposures,
        events={source: _files(manifest, source, cutoff) for source in horizons},
        horizons=horizons,
        cap=cap,
    )


def answer(request: Request, scan: Scan, store: Store) -> Answer:
    """Read the files and add up.

    Args:
        request: What to add up.
        scan: Files to a lazy frame of an engine.
        store: The same engine's adapter.

    Raises:
        ContractError: An exposure names an arm that the experiment does not have.
    """
    experiment = request.experiment
    horizons = {source: at.replace(tzinfo=None) for source, at in request.horizons.items()}
    # Kept, since every source joins them twice.
    exposures = store.keep(
        first_exposures(
            scan(request.exposures),
            experiment=experiment.exposure_name,
            starts_at=experiment.starts_at.replace(tzinfo=None),
            ends_at=min(experiment.ends_at.replace(tzinfo=None), max(horizons.values())),
            segments=experiment.exposure_properties,
        )
    )
    events = {source: scan(files) for source, files in request.events.items()}
    units = experiment_units(experiment, exposures, events, horizons)
    engine = PortableEngine(experiment, units, store, cap=request.cap)
    counts = _exposed(experiment, engine)
    return Answer(**counts, sums=collect_sums(experiment, engine))


def spark_sums(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
    cap: float | None,
) -> Answer:
    """The sums of a look from a Spark session in this process.

    Args:
        project: Its platform says where Spark runs.
        manifest: The landed batches.
        experiment: An additive plan.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        cap: Largest value of the primary metric that counts; None for no cap.

    Raises:
        StorageError: Spark is not installed.
        ContractError: As `request_sums` and `answer`.
    """
    request = request_sums(manifest, experiment, cutoff=cutoff, as_of=as_of, cap=cap)
    with spark.session(**spark.settings_of(project.platform)) as session:
        return answer(request, session.scan, session)


def frames_of_sums(
    manifest: Manifest,
    experiment: Experiment,
    answers: Mapping[float | None, Answer],
    *,
    cutoff: int,
    as_of: dt.datetime,
) -> Frames:
    """What a look reads where the units stayed in their engine: counts and sums, no rows.

    Args:
        manifest: The landed batches.
        experiment: An additive plan.
        answers: By cap. A look asks for the sums without a cap before its plan is frozen, and for
            those with the plan's cap from then on.
        cutoff: The last batch that counted.
        as_of: Aware instant of the look.
    """
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of)
    first = next(iter(answers.values()))
    tables = [
        table
        for source in (experiment.exposure_source, *horizons)
        for _, table in manifest.tables(source, up_to=cutoff)
    ]
    info = FrameInfo(
        experiment=experiment.slug,
        cutoff=cutoff,
        as_of=as_of.astimezone(dt.UTC).isoformat(),
        horizon=min(horizons.values()).isoformat(),
        horizons={source: at.isoformat() for source, at in horizons.items()},
        plan_hash=experiment.plan_hash,
        sha256={},
        rows=sum(first.n_exposed.values()),
        n_exposed=first.n_exposed,
        n_multi_arm=first.n_multi_arm,
        n_rows=first.n_rows,
        n_immature=first.n_immature,
        inputs={table.path: table.sha256 for table in tables},
    )
    frames = Frames(info=info)
    frames.memo |= {("sums", experiment.plan_hash, cap): a.sums for cap, a in answers.items()}
    return frames


def caps_of(experiment: Experiment) -> tuple[float | None, ...]:
    """The caps whose sums a look may ask for."""
    cap = experiment.plan.cap
    return (None, cap.value) if isinstance(cap, CapValue) else (None,)


def write_answers(
    layout: Layout,
    experiment: Experiment,
    answers: Mapping[float | None, Answer],
    *,
    cutoff: int,
    as_of: dt.datetime,
) -> None:
    """Publish the answers of a look for the assets that read them."""
    document = {
        "cutoff": cutoff,
        "as_of": as_of.isoformat(),
        "plan_hash": experiment.plan_hash,
        "answers": [{"cap": cap, **found.document()} for cap, found in answers.items()],
    }
    write_bytes(_current(layout, experiment), canonical_json(document))


def has_answers(layout: Layout, experiment: Experiment) -> bool:
    """Whether answers of the present plan stand."""
    path = _current(layout, experiment)
    if not path.exists():
        return False
    return bool(json.loads(path.read_bytes())["plan_hash"] == experiment.plan_hash)


def forget_answers(layout: Layout, experiment: Experiment) -> None:
    """Take back what an engine elsewhere answered, where units are read here again."""
    _current(layout, experiment).unlink(missing_ok=True)


def read_answers(manifest: Manifest, experiment: Experiment) -> Frames:
    """The published answers as frames."""
    document = json.loads(_current(manifest.layout, experiment).read_bytes())
    answers = {found.pop("cap"): read_answer(found) for found in document["answers"]}
    return frames_of_sums(
        manifest,
        experiment,
        answers,
        cutoff=document["cutoff"],
        as_of=dt.datetime.fromisoformat(document["as_of"]),
    )


def _current(layout: Layout, experiment: Experiment) -> Path:
    return layout.frame("sums", experiment.slug) / "current.json"


def _files(manifest: Manifest, source: str, cutoff: int) -> tuple[str, ...]:
    tables = manifest.tables(source, up_to=cutoff)
    return tuple(str(manifest.verified(table)) for _, table in tables)


def _exposed(experiment: Experiment, engine: PortableEngine) -> dict[str, dict[str, int]]:
    """The counts of an answer.

    Raises:
        ContractError: An arm is not one of the experiment's.
    """
    by_arm = {name: dict.fromkeys(experiment.variants, 0) for name in ("units", "multi", "rows")}
    immature = dict.fromkeys(engine.metrics, 0)
    unknown: dict[str, int] = {}
    for row in engine.exposed():
        arm, units = row["arm"], int(row["units"])
        if arm not in experiment.variants:
            rule = f"variant {arm!r} is not configured"
            unknown[rule] = unknown.get(rule, 0) + units
        elif row["is_single"]:
            by_arm["units"][arm], by_arm["rows"][arm] = units, int(row["exposures"])
            for name in immature:
                immature[name] += int(row[f"immature:{name}"])
        else:
            by_arm["multi"][arm] = units
    if unknown:
        raise ContractError(f"exposures of {experiment.slug}", unknown)
    return {
        "n_exposed": by_arm["units"],
        "n_multi_arm": by_arm["multi"],
        "n_rows": by_arm["rows"],
        "n_immature": immature,
    }
