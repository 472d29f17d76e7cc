"""user_frame and ratio_frame of one experiment as of a cut-off: build, validate, promote.

Two more frames are made where the plan needs them: event_frame (single events in closed windows,
for quantiles) and day_frame (outcome by day since exposure, for novelty).

A frame file is named by cut-off, horizon and plan; it never changes. `current.json` beside it
says which one is published, and is replaced only after the contract held.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment, canonical_hash
from experiments_dagster.contracts.frames import validate_ratio_frame, validate_user_frame
from experiments_dagster.frames.definitions import first_exposures
from experiments_dagster.frames.outcomes import (
    Tables,
    extra_frames,
    open_partials,
    outcome_rows,
    rows_as_of,
)
from experiments_dagster.frames.row_plan import cap_basis_of
from experiments_dagster.frames.unit_rows import kept_rows
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Batch, LandedTable, Manifest

IDENTITY = ("unit", "arm", "exposed_at", "is_pre_missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInfo:
    """A published pair of frames and what it was made from.

    `horizon` is the instant up to which the slowest source is complete; windows of its metrics
    that end later are open.
    `n_exposed` counts units of one arm by arm; `n_multi_arm` the excluded units by first arm;
    `n_rows` raw exposures by arm.
    """

    experiment: str
    cutoff: int
    as_of: str
    horizon: str
    plan_hash: str
    user_frame: str | None = None
    ratio_frame: str | None = None
    event_frame: str | None = None
    day_frame: str | None = None
    summary_frame: str | None = None
    sha256: dict[str, str]
    rows: int
    n_exposed: dict[str, int]
    n_multi_arm: dict[str, int]
    n_rows: dict[str, int]
    n_immature: dict[str, int]
    inputs: dict[str, str]


class FramesContractError(ContractError):
    """One or both unit frames break their contract; nothing was promoted."""

    def __init__(self, slug: str, by_frame: dict[str, dict[str, int]]) -> None:
        self.by_frame = by_frame
        cases = {
            f"{kind} {rule}": n for kind, found in by_frame.items() for rule, n in found.items()
        }
        super().__init__(f"frames of {slug}", cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The frames in memory; `ratio` has the ratio metrics' columns, `user` all others.

    `events` has columns metric, unit, arm, value; `days` unit, arm and one column per day.
    """

    info: FrameInfo
    user: pl.DataFrame
    ratio: pl.DataFrame
    events: pl.DataFrame | None = None
    days: pl.DataFrame | None = None

    def of(self, metric: Metric) -> pl.DataFrame:
        """The frame that holds a metric."""
        return self.ratio if metric.is_ratio else self.user


def data_horizons(
    experiment: Experiment, manifest: Manifest, *, cutoff: int, as_of: dt.datetime
) -> dict[str, dt.datetime]:
    """Up to when each event source speaks; sources without landed events are left out.

    That is `as_of`, but no later than the end of the local day of the source's newest event: a
    source that fell behind closes no windows.
    """
    sources = {part.source for metric in experiment.metrics for part in metric.parts}
    horizons = {}
    for source in sorted(sources):
        last = manifest.last_event_at({source}, up_to=cutoff)
        if last is not None:
            horizons[source] = min(as_of, _end_of_day(last, experiment.timezone))
    return {source: horizon.astimezone(dt.UTC) for source, horizon in horizons.items()}


def _end_of_day(instant: dt.datetime, timezone: str) -> dt.datetime:
    local = instant.astimezone(ZoneInfo(timezone))
    next_day = local.date() + dt.timedelta(days=1)
    return dt.datetime.combine(next_day, dt.time(), local.tzinfo)


def build_unit_frames(
    project: Project,
    manifest: Manifest,
    experiment: Experiment,
    *,
    cutoff: int,
    as_of: dt.datetime,
    publish: bool = True,
) -> Frames:
    """Build both frames from batches 1..cutoff and publish them when their contracts hold.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        experiment: Which units, windows and metrics.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        publish: Whether `current.json` shall point to the result; a reproduction does not.

    Raises:
        ContractError: A frame breaks its contract, or exposures name an unknown arm.
        DataDamagedError: A landed file that is needed is damaged.
    """
    layout = manifest.layout
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of)
    if not horizons:
        names = ", ".join(sorted({m.parts[0].source for m in experiment.metrics}))
        raise ContractError(f"raw/events of {names}", {"no events have landed": 0})
    partials = open_partials(project, manifest, experiment, cutoff=cutoff)
    exposure_tables = manifest.tables(experiment.exposure_source, up_to=cutoff)
    exposure_files = [manifest.verified(table) for _, table in exposure_tables]
    if not exposure_files:
        raise ContractError("raw/exposures", {"no exposures have landed": 0})
    tables = Tables(partials=partials, horizons=horizons)
    newest = max(horizons.values()).replace(tzinfo=None)
    rows = None
    if publish and _can_be_kept(experiment, exposure_tables, newest):
        rows = kept_rows(project, manifest, experiment, cutoff=cutoff, as_of=as_of)
    with connect(project.platform, layout) as duck:
        exposures = first_exposures(
            nw.from_native(duck.parquet(exposure_files)),
            experiment=experiment.exposure_name,
            starts_at=experiment.starts_at.replace(tzinfo=None),
            ends_at=min(experiment.ends_at.replace(tzinfo=None), newest),
            segments=experiment.exposure_properties,
        )
        extra = extra_frames(duck, experiment, exposures, tables, as_of)
        if rows is None:
            all_rows = outcome_rows(duck, experiment, exposures, tables)
        else:
            speaking = {source: tables.horizon(source) for source in horizons}
            all_rows = rows_as_of(experiment, rows, speaking)
    horizon = min(horizons.values())
    inputs = {table.path: table.sha256 for _, table in exposure_tables}
    inputs |= {path: digest for part in partials.values() for path, digest in part.inputs.items()}
    made_of = canonical_hash([str(as_of), *map(str, horizons.items()), experiment.plan_hash])
    name = f"{cutoff:06d}-{horizon:%Y%m%dT%H%M%S}-{made_of}"
    counts = _counts(experiment, all_rows)
    frames = _split(experiment, all_rows)
    _validate(experiment, frames)
    frames |= extra
    paths, digests = {}, {}
    for kind, frame in frames.items():
        target = layout.frame(kind, experiment.slug) / f"{name}.parquet"
        with staged(target, layout.staging) as temporary:
            frame.write_parquet(temporary, compression="zstd")
            digests[kind] = sha256_file(temporary)
        paths[kind] = str(target.relative_to(layout.root))
    info = FrameInfo(
        experiment=experiment.slug,
        cutoff=cutoff,
        as_of=as_of.astimezone(dt.UTC).isoformat(),
        horizon=horizon.isoformat(),
        plan_hash=experiment.plan_hash,
        user_frame=paths["user_frame"],
        ratio_frame=paths["ratio_frame"],
        event_frame=paths.get("event_frame"),
        day_frame=paths.get("day_frame"),
        sha256=digests,
        rows=frames["user_frame"].height,
        inputs=inputs,
        n_exposed=counts["n_exposed"],
        n_multi_arm=counts["n_multi_arm"],
        n_rows=counts["n_rows"],
        n_immature=counts["n_immature"],
    )
    if publish:
        pointer = layout.frame("user_frame", experiment.slug) / "current.json"
        write_bytes(pointer, canonical_json(asdict(info)))
    return Frames(
        info=info,
        user=frames["user_frame"],
        ratio=frames["ratio_frame"],
        events=frames.get("event_frame"),
        days=frames.get("day_frame"),
    )


def _can_be_kept(
    experiment: Experiment, exposures: list[tuple[Batch, LandedTable]], newest: dt.datetime
) -> bool:
    """Whether kept rows serve: no window ends with the look, and no exposure comes after it."""
    if any(metric.is_open_ended for metric in experiment.metrics):
        return False
    last = max((table.last_at for _, table in exposures if table.last_at), default=None)
    return last is None or last.replace(tzinfo=None) < newest


def read_current_frames(layout: Layout, slug: str) -> Frames:
    """The published frames of an experiment.

    Raises:
        FileNotFoundError: None has been published yet.
    """
    pointer = layout.frame("user_frame", slug) / "current.json"
    info = FrameInfo(**json.loads(pointer.read_bytes()))
    assert info.user_frame is not None
    assert info.ratio_frame is not None
    return Frames(
        info=info,
        user=pl.read_parquet(layout.root / info.user_frame),
        ratio=pl.read_parquet(layout.root / info.ratio_frame),
        events=pl.read_parquet(layout.root / info.event_frame) if info.event_frame else None,
        days=pl.read_parquet(layout.root / info.day_frame) if info.day_frame else None,
    )


def _validate(experiment: Experiment, frames: dict[str, pl.DataFrame]) -> None:
    """Check both contracts, so that each frame's own check can say how it went."""
    broken: dict[str, dict[str, int]] = {}
    for kind, check in (
        ("user_frame", validate_user_frame),
        ("ratio_frame", validate_ratio_frame),
    ):
        try:
            check(frames[kind], experiment)
        except ContractError as error:
            broken[kind] = error.cases
    if broken:
        raise FramesContractError(experiment.slug, broken)


def _split(experiment: Experiment, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Units of exactly one arm, in the two published shapes."""
    single = rows.filter(pl.col("n_arms") == 1)
    segments = [f"segment_{name}" for name in experiment.exposure_properties]
    prefixes = ("", "pre_", "lag_") if experiment.predicts else ("", "pre_")
    columns: dict[str, list[str]] = {"user_frame": [], "ratio_frame": []}
    for metric in experiment.metrics:
        for name, _ in metric.columns:
            kind = "ratio_frame" if metric.is_ratio else "user_frame"
            columns[kind] += [f"{prefix}{name}" for prefix in prefixes]
    if cap_basis_of(experiment) is not None:
        columns["user_frame"].append(f"cap_basis_{experiment.primary.name}")
    return {kind: single.select(*IDENTITY, *segments, *names) for kind, names in columns.items()}


def _counts(experiment: Experiment, rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    single = rows.filter(pl.col("n_arms") == 1)
    return {
        "n_exposed": _by_arm(experiment, single),
        "n_multi_arm": _by_arm(experiment, rows.filter(pl.col("n_arms") > 1)),
        "n_rows": _by_arm(experiment, single, "n_exposures"),
        "n_immature": {
            metric.name: int(single[metric.columns[0][0]].null_count())
            for metric in experiment.metrics
        },
    }


def _by_arm(
    experiment: Experiment, rows: pl.DataFrame, column: str | None = None
) -> dict[str, int]:
    count = pl.len() if column is None else pl.col(column).sum()
    found = dict(rows.group_by("arm").agg(count.alias("n")).iter_rows())
    unknown = {arm: n for arm, n in found.items() if arm not in experiment.variants}
    if unknown:
        rules = {f"variant {arm!r} is not configured": int(n) for arm, n in unknown.items()}
        raise ContractError(f"exposures of {experiment.slug}", rules)
    return {arm: int(found.get(arm, 0)) for arm in experiment.variants}
