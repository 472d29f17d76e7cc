"""user_frame and ratio_frame of one experiment as of a cut-off: build, validate, promote.

Two more frames are made where the plan needs them: event_frame (single events in closed windows,
for quantiles) and day_frame (outcome by day since exposure, for novelty).

A frame file is named by cut-off, horizon and plan; it never changes. `current.json` beside it
says which one is published, and is replaced only after the contract held.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment, canonical_hash
from experiments_dagster.contracts.frames import (
    validate_ratio_frame,
    validate_unit_frames,
    validate_user_frame,
)
from experiments_dagster.frames.definitions import Frame, first_exposures
from experiments_dagster.frames.outcomes import (
    Tables,
    extra_frames,
    open_partials,
    outcome_rows,
    rows_as_of,
)
from experiments_dagster.frames.row_plan import cap_basis_of, row_total, totals_of
from experiments_dagster.frames.unit_rows import Shard, kept_rows
from experiments_dagster.storage.atomic import canonical_json, sha256_file, staged, write_bytes
from experiments_dagster.storage.duck import Duck, connect, quote_name, quote_text
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Batch, LandedTable, Manifest

IDENTITY = ("unit", "arm", "exposed_at", "is_pre_missing")
CHUNK_UNITS = 122_880  # a row group of the files of unit rows
EVERYTHING_CLOSED = dt.datetime(9000, 1, 1)  # noqa: DTZ001 - naive UTC, as the rows are


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInfo:
    """A published pair of frames and what it was made from.

    The frames are files, or views over the files of kept unit rows (`views`: SQL over a table
    `unit_rows`). `horizons` is up to when each source speaks, `horizon` that of the slowest:
    windows of its metrics that end later are open.
    `n_exposed` counts units of one arm by arm; `n_multi_arm` the excluded units by first arm;
    `n_rows` raw exposures by arm.
    """

    experiment: str
    cutoff: int
    as_of: str
    horizon: str
    horizons: dict[str, str] | None = None
    plan_hash: str
    user_frame: str | None = None
    ratio_frame: str | None = None
    unit_rows: tuple[str, ...] | None = None
    views: dict[str, str] | None = None
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


class Frames:
    """The unit frames of an experiment as of a look; what is asked for is loaded.

    `user` has one row per unit, `ratio` the same units with the ratio metrics' columns instead;
    `events` has columns metric, unit, arm, value; `days` unit, arm and one column per day. `memo`
    keeps what was computed of them.
    """

    def __init__(
        self,
        *,
        info: FrameInfo,
        user: pl.DataFrame | None = None,
        ratio: pl.DataFrame | None = None,
        kept: KeptFrames | None = None,
        events: pl.DataFrame | None = None,
        days: pl.DataFrame | None = None,
    ) -> None:
        self.info = info
        self.kept = kept
        self.events = events
        self.days = days
        self.memo: dict[Any, Any] = {}
        self.only_needed = False
        self._loaded = {"user_frame": user, "ratio_frame": ratio}

    @property
    def user(self) -> pl.DataFrame:
        """One row per unit of exactly one arm, without the columns of ratio metrics."""
        return self._load("user_frame")

    @property
    def ratio(self) -> pl.DataFrame:
        """The same units with the parts of ratio metrics."""
        return self._load("ratio_frame")

    def of(self, metric: Metric) -> pl.DataFrame:
        """The frame that holds a metric."""
        return self.ratio if metric.is_ratio else self.user

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of both frames, `CHUNK_UNITS` rows at a time.

        Units come by day of first exposure and by unit, so sums over chunks add up in the same
        order however the frames were made.
        """
        if self.kept is not None and self._loaded["user_frame"] is None:
            yield from _cut(self.kept.parts(columns))
            return
        own = [name for name in columns if name in self.user.columns]
        parts = [name for name in columns if name not in own and name in self.ratio.columns]
        both = self.user.select(own).hstack(self.ratio.select(parts))
        yield from both.iter_slices(CHUNK_UNITS)

    def _load(self, kind: str) -> pl.DataFrame:
        frame = self._loaded[kind]
        if frame is None:
            assert self.kept is not None
            frame = self.kept.load(kind)
            self._loaded[kind] = frame
        return frame


def _cut(parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in pieces of `CHUNK_UNITS`."""
    waiting: pl.DataFrame | None = None
    for part in parts:
        waiting = part if waiting is None else pl.concat([waiting, part])
        del part
        while waiting.height >= CHUNK_UNITS:
            yield waiting.head(CHUNK_UNITS)
            waiting = waiting.slice(CHUNK_UNITS)
    if waiting is not None and waiting.height:
        yield waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFrames:
    """Unit frames over kept rows: which files, and up to when each source speaks (naive UTC)."""

    experiment: Experiment
    files: tuple[Path, ...]
    horizons: dict[str, dt.datetime]

    def rows(self, *, start: int = 0, length: int | None = None) -> pl.LazyFrame:
        """All exposed units, those of two arms included, as the look sees them."""
        scan = pl.scan_parquet(list(self.files), glob=False).slice(start, length)
        own = scan.filter(pl.col("experiment") == self.experiment.slug)
        return rows_as_of(self.experiment, own, self.horizons)

    def parts(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of the units of one arm, some rows at a time."""
        for scan in self.scans():
            yield scan.filter(pl.col("n_arms") == 1).select(columns).collect()

    def slices(self) -> Iterator[pl.DataFrame]:
        """All columns of all exposed units, some rows at a time."""
        for scan in self.scans():
            yield scan.collect()

    def scans(self) -> Iterator[pl.LazyFrame]:
        """All exposed units, some rows at a time."""
        if not self.files:
            return
        scan = pl.scan_parquet(list(self.files), glob=False)
        height = scan.select(pl.len()).collect().item()
        for start in range(0, height, CHUNK_UNITS):
            yield self.rows(start=start, length=CHUNK_UNITS)

    def load(self, kind: str) -> pl.DataFrame:
        """One of both frames as a whole."""
        if not self.files:
            return pl.DataFrame()
        single = self.rows().filter(pl.col("n_arms") == 1)
        return single.select(frame_columns(self.experiment)[kind]).collect()


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
    shard: Shard | None = None,
) -> Frames:
    """Build both frames from batches 1..cutoff and publish them when their contracts hold.

    Frames that are published come from kept unit rows where these serve, others (a reproduction's)
    are made anew from the partials.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        experiment: Which units, windows and metrics.
        cutoff: The last batch that counts.
        as_of: Aware instant of the look.
        publish: Whether `current.json` shall point to the result; a reproduction does not.
        shard: Unit rows that are at the cut-off already, for looks at many experiments.

    Raises:
        ContractError: A frame breaks its contract, or exposures name an unknown arm.
        DataDamagedError: A landed file that is needed is damaged.
    """
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of)
    if not horizons:
        names = ", ".join(sorted({m.parts[0].source for m in experiment.metrics}))
        raise ContractError(f"raw/events of {names}", {"no events have landed": 0})
    exposures = manifest.tables(experiment.exposure_source, up_to=cutoff)
    if not exposures:
        raise ContractError("raw/exposures", {"no exposures have landed": 0})
    build = _Build(project, manifest, experiment, cutoff, as_of, horizons)
    if publish and rows_serve(experiment, manifest, cutoff=cutoff, as_of=as_of):
        if shard is None or shard.state.cutoff != cutoff:
            shard = kept_rows(project, manifest, experiment, cutoff=cutoff, as_of=as_of)
        if shard is not None:
            return build.from_rows(shard)
    return build.anew(exposures, publish=publish)


@dataclass(frozen=True, slots=True)
class _Build:
    """One building of frames, from either side."""

    project: Project
    manifest: Manifest
    experiment: Experiment
    cutoff: int
    as_of: dt.datetime
    horizons: dict[str, dt.datetime]

    def anew(self, exposures: list[tuple[Batch, LandedTable]], *, publish: bool) -> Frames:
        """From the partials of all batches."""
        experiment, layout = self.experiment, self.manifest.layout
        partials = open_partials(self.project, self.manifest, experiment, cutoff=self.cutoff)
        tables = Tables(partials=partials, horizons=self.horizons)
        with connect(self.project.platform, layout) as duck:
            who = self._exposures(duck)
            extra = extra_frames(duck, experiment, who, tables, self.as_of)
            rows = outcome_rows(duck, experiment, who, tables)
        counts = _counts(experiment, [rows.lazy()], self.horizons)
        frames = validate_frames(experiment, rows.filter(pl.col("n_arms") == 1))
        paths, digests = self._write(frames | extra)
        inputs = {table.path: table.sha256 for _, table in exposures}
        for part in partials.values():
            inputs |= part.inputs
        info = self._info(counts, inputs, digests, paths)
        if publish:
            self._publish(info)
        return Frames(
            info=info,
            user=frames["user_frame"],
            ratio=frames["ratio_frame"],
            events=extra.get("event_frame"),
            days=extra.get("day_frame"),
        )

    def from_rows(self, shard: Shard) -> Frames:
        """From unit rows at the cut-off; what is new in them since the last look is validated."""
        experiment, layout = self.experiment, self.manifest.layout
        naive = {source: at.replace(tzinfo=None) for source, at in self.horizons.items()}
        files = tuple(shard.files())
        kept = KeptFrames(experiment=experiment, files=files, horizons=naive)
        in_memory = shard.loaded(experiment.slug)
        rows = kept.rows() if in_memory is None else rows_as_of(experiment, in_memory.lazy(), naive)
        if in_memory is not None:
            rows = rows.collect().lazy()
        listed = tuple(str(path.relative_to(layout.root)) for path in files)
        parts = kept.scans() if in_memory is None else [rows]
        counts = _counts(experiment, parts, self.horizons)
        self._validate_new(listed, in_memory)
        extra: dict[str, pl.DataFrame] = {}
        if experiment.needs_extra(self.as_of):
            partials = open_partials(self.project, self.manifest, experiment, cutoff=self.cutoff)
            tables = Tables(partials=partials, horizons=self.horizons)
            with connect(self.project.platform, layout) as duck:
                extra = extra_frames(duck, experiment, self._exposures(duck), tables, self.as_of)
        paths, digests = self._write(extra)
        digests["unit_rows"] = canonical_hash([listed, [c.rows for c in shard.cohorts()]])
        info = self._info(counts, shard.state.inputs, digests, paths)
        info = replace(info, unit_rows=listed, views=frame_views(experiment, naive))
        self._publish(info)
        eager: dict[str, pl.DataFrame] = {}
        if in_memory is not None:
            single = rows.filter(pl.col("n_arms") == 1).collect()
            names = frame_columns(experiment)
            eager = {kind: single.select(columns) for kind, columns in names.items()}
        return Frames(
            info=info,
            user=eager.get("user_frame"),
            ratio=eager.get("ratio_frame"),
            kept=kept,
            events=extra.get("event_frame"),
            days=extra.get("day_frame"),
        )

    def _exposures(self, duck: Duck) -> Frame:
        experiment = self.experiment
        tables = self.manifest.tables(experiment.exposure_source, up_to=self.cutoff)
        newest = max(self.horizons.values()).replace(tzinfo=None)
        return first_exposures(
            nw.from_native(duck.parquet([self.manifest.verified(table) for _, table in tables])),
            experiment=experiment.exposure_name,
            starts_at=experiment.starts_at.replace(tzinfo=None),
            ends_at=min(experiment.ends_at.replace(tzinfo=None), newest),
            segments=experiment.exposure_properties,
        )

    def _validate_new(self, listed: tuple[str, ...], in_memory: pl.DataFrame | None) -> None:
        """Check the contracts on the units of files that the published frames do not name.

        Every total is checked, those of open windows too: what is known of them stays.
        """
        pointer = self.manifest.layout.frame("user_frame", self.experiment.slug) / "current.json"
        before: set[str] = set()
        if pointer.exists():
            published = json.loads(pointer.read_bytes())
            if published["plan_hash"] == self.experiment.plan_hash:
                before = set(published.get("unit_rows") or ())
        new = [name for name in listed if name not in before]
        if not new:
            return
        closed = dict.fromkeys(self.horizons, EVERYTHING_CLOSED)
        files = tuple(self.manifest.layout.root / name for name in new)
        if in_memory is None:
            kept = KeptFrames(experiment=self.experiment, files=files, horizons=closed)
            parts = kept.slices()
        else:
            days = [dt.date.fromisoformat(file.name[:10]) for file in files]
            changed = in_memory.lazy().filter(pl.col("exposed_at").dt.date().is_in(days))
            parts = iter([rows_as_of(self.experiment, changed, closed).collect()])
        for part in parts:
            validate_frames(self.experiment, part.filter(pl.col("n_arms") == 1))

    def _write(self, frames: dict[str, pl.DataFrame]) -> tuple[dict[str, str], dict[str, str]]:
        """Write frames to files of their own; paths below the storage root, and hashes."""
        layout, experiment = self.manifest.layout, self.experiment
        horizon = min(self.horizons.values())
        moments = [str(self.as_of), *map(str, self.horizons.items()), experiment.plan_hash]
        name = f"{self.cutoff:06d}-{horizon:%Y%m%dT%H%M%S}-{canonical_hash(moments)}"
        paths, digests = {}, {}
        for kind, frame in frames.items():
            target = layout.frame(kind, experiment.slug) / f"{name}.parquet"
            with staged(target, layout.staging) as temporary:
                frame.write_parquet(temporary, compression="zstd")
                digests[kind] = sha256_file(temporary)
            paths[kind] = str(target.relative_to(layout.root))
        return paths, digests

    def _info(
        self,
        counts: dict[str, dict[str, int]],
        inputs: dict[str, str],
        digests: dict[str, str],
        paths: dict[str, str],
    ) -> FrameInfo:
        return FrameInfo(
            experiment=self.experiment.slug,
            cutoff=self.cutoff,
            as_of=self.as_of.astimezone(dt.UTC).isoformat(),
            horizon=min(self.horizons.values()).isoformat(),
            horizons={source: at.isoformat() for source, at in self.horizons.items()},
            plan_hash=self.experiment.plan_hash,
            user_frame=paths.get("user_frame"),
            ratio_frame=paths.get("ratio_frame"),
            event_frame=paths.get("event_frame"),
            day_frame=paths.get("day_frame"),
            sha256=digests,
            rows=sum(counts["n_exposed"].values()),
            inputs=inputs,
            n_exposed=counts["n_exposed"],
            n_multi_arm=counts["n_multi_arm"],
            n_rows=counts["n_rows"],
            n_immature=counts["n_immature"],
        )

    def _publish(self, info: FrameInfo) -> None:
        pointer = self.manifest.layout.frame("user_frame", self.experiment.slug) / "current.json"
        write_bytes(pointer, canonical_json(asdict(info)))


def rows_serve(
    experiment: Experiment, manifest: Manifest, *, cutoff: int, as_of: dt.datetime
) -> bool:
    """Whether kept rows serve a look: no window ends with it, and no exposure comes after it."""
    if cutoff != manifest.head or any(metric.is_open_ended for metric in experiment.metrics):
        return False
    horizons = data_horizons(experiment, manifest, cutoff=cutoff, as_of=as_of)
    last = manifest.last_event_at({experiment.exposure_source}, up_to=cutoff)
    return bool(horizons) and last is not None and last < max(horizons.values())


def frame_views(experiment: Experiment, horizons: dict[str, dt.datetime]) -> dict[str, str]:
    """`outcomes.rows_as_of` as SQL over a table `unit_rows`, for readers of the catalog.

    Args:
        experiment: Whose frames.
        horizons: Up to when each source speaks, naive UTC.
    """
    columns = {name: quote_name(name) for name in frame_columns(experiment)["user_frame"]}
    columns["exposed_at"] = "exposed_at AT TIME ZONE 'UTC'"
    is_missing = []
    for source in {metric.parts[0].source for metric in experiment.metrics}:
        for total in totals_of(experiment, source):
            columns[total.name] = f"{quote_name(row_total(total).name)}::DOUBLE"
    for metric in experiment.metrics:
        source = metric.parts[0].source
        for name, _ in metric.columns:
            value = columns[name]
            if metric.is_indicator:
                value = f"({value} > 0)::BIGINT::DOUBLE"
            if source in horizons:
                days = f"exposed_at + INTERVAL ({metric.maturity_days}) DAY"
                is_closed = f"{days} <= TIMESTAMP '{horizons[source]:%Y-%m-%d %H:%M:%S.%f}'"
                columns[name] = f"CASE WHEN {is_closed} THEN {value} END"
                is_missing.append(f"{columns[f'pre_{name}']} = 0")
            else:
                columns[name] = "NULL::DOUBLE"
    columns["is_pre_missing"] = " AND ".join(is_missing)
    where = f"experiment = {quote_text(experiment.slug)} AND n_arms = 1"
    return {
        kind: f"SELECT {', '.join(f'{columns[name]} AS {quote_name(name)}' for name in names)} "
        f"FROM unit_rows WHERE {where}"
        for kind, names in frame_columns(experiment).items()
    }


def read_current_frames(layout: Layout, experiment: Experiment) -> Frames:
    """The published frames of an experiment.

    Raises:
        FileNotFoundError: None has been published yet.
    """
    pointer = layout.frame("user_frame", experiment.slug) / "current.json"
    info = FrameInfo(**json.loads(pointer.read_bytes()))
    kept = None
    if info.unit_rows is not None:
        assert info.horizons is not None
        names = tuple(info.unit_rows)
        info = replace(info, unit_rows=names)
        kept = KeptFrames(
            experiment=experiment,
            files=tuple(layout.root / name for name in names),
            horizons={
                source: dt.datetime.fromisoformat(at).replace(tzinfo=None)
                for source, at in (info.horizons or {}).items()
            },
        )

    def read(path: str | None) -> pl.DataFrame | None:
        return None if path is None else pl.read_parquet(layout.root / path)

    return Frames(
        info=info,
        user=read(info.user_frame),
        ratio=read(info.ratio_frame),
        kept=kept,
        events=read(info.event_frame),
        days=read(info.day_frame),
    )


def validate_frames(
    experiment: Experiment, units: pl.DataFrame, *, has_units: bool = True
) -> dict[str, pl.DataFrame]:
    """Cut units of one arm into both frames, and check both contracts.

    Args:
        experiment: The plan.
        units: All columns of `frame_columns`.
        has_units: Whether there is a column unit; without it the caller knows that no unit is
            missing or there twice.

    Raises:
        FramesContractError: Saying for each frame how it went.
    """
    frames = {
        kind: units.select(name for name in names if has_units or name != "unit")
        for kind, names in frame_columns(experiment).items()
    }
    every = dict.fromkeys(name for frame in frames.values() for name in frame.columns)
    try:
        validate_unit_frames(units.select(list(every)), experiment, has_units=has_units)
    except ContractError as error:
        broken = _by_frame(experiment, frames, has_units=has_units)
        raise FramesContractError(experiment.slug, broken or {"user_frame": error.cases}) from None
    return frames


def _by_frame(
    experiment: Experiment, frames: dict[str, pl.DataFrame], *, has_units: bool
) -> dict[str, dict[str, int]]:
    """The same failure, told for each frame."""
    broken: dict[str, dict[str, int]] = {}
    checks = {"user_frame": validate_user_frame, "ratio_frame": validate_ratio_frame}
    for kind, check in checks.items():
        try:
            check(frames[kind], experiment, has_units=has_units)
        except ContractError as error:
            broken[kind] = error.cases
    return broken


def frame_columns(experiment: Experiment) -> dict[str, list[str]]:
    """The columns of both frames."""
    segments = [f"segment_{name}" for name in experiment.exposure_properties]
    prefixes = ("", "pre_", "lag_") if experiment.predicts else ("", "pre_")
    columns: dict[str, list[str]] = {
        kind: [*IDENTITY, *segments] for kind in ("user_frame", "ratio_frame")
    }
    for metric in experiment.metrics:
        for name, _ in metric.columns:
            kind = "ratio_frame" if metric.is_ratio else "user_frame"
            columns[kind] += [f"{prefix}{name}" for prefix in prefixes]
    if cap_basis_of(experiment) is not None:
        columns["user_frame"].append(f"cap_basis_{experiment.primary.name}")
    return columns


def _counts(
    experiment: Experiment, parts: Iterable[pl.LazyFrame], horizons: dict[str, dt.datetime]
) -> dict[str, dict[str, int]]:
    """Units by arm, and those whose window is open by metric: told by exposures alone.

    Args:
        experiment: Arms and metrics.
        parts: The rows of all exposed units, some at a time.
        horizons: Up to when each source speaks, naive UTC.

    Raises:
        ContractError: Exposures name an arm that is not configured.
    """
    is_single = pl.col("n_arms") == 1
    is_open = {
        metric.name: _ends_after(metric, horizons.get(metric.parts[0].source))
        for metric in experiment.metrics
    }
    sums = [
        is_single.sum().alias("n_exposed"),
        (~is_single).sum().alias("n_multi_arm"),
        pl.col("n_exposures").filter(is_single).sum().alias("n_rows"),
        *(
            (ends_after & is_single).sum().alias(f"open_{name}")
            for name, ends_after in is_open.items()
        ),
    ]
    tables = [part.group_by("arm").agg(sums).collect() for part in parts]
    found = pl.concat(tables).group_by("arm").sum() if tables else pl.DataFrame({"arm": []})
    by_arm = {row["arm"]: row for row in found.iter_rows(named=True)}
    unknown = {arm: row for arm, row in by_arm.items() if arm not in experiment.variants}
    if unknown:
        rules = {
            f"variant {arm!r} is not configured": int(row["n_exposed"] + row["n_multi_arm"])
            for arm, row in unknown.items()
        }
        raise ContractError(f"exposures of {experiment.slug}", rules)
    counts = {
        name: {arm: int(by_arm.get(arm, {}).get(name, 0)) for arm in experiment.variants}
        for name in ("n_exposed", "n_multi_arm", "n_rows")
    }
    counts["n_immature"] = {
        name: sum(int(row[f"open_{name}"]) for row in by_arm.values()) for name in is_open
    }
    return counts


def _ends_after(metric: Metric, horizon: dt.datetime | None) -> pl.Expr:
    if horizon is None:
        return pl.lit(value=True)
    return pl.col("exposed_at").dt.offset_by(f"{metric.maturity_days}d") > horizon
