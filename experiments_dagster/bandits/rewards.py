"""Rewards of a bandit as of a cut-off: moments per arm and recorded period.

A unit belongs to the arm and the period of its first exposure, whatever it meets later: that
decision was drawn with a known probability. It counts once its reward window has closed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import narwhals as nw
import numpy as np
import polars as pl

from experiments_dagster.config.bandit import Bandit
from experiments_dagster.config.project import Project
from experiments_dagster.frames.definitions import (
    WindowTotal,
    first_exposures,
    window_totals,
)
from experiments_dagster.frames.partials import build_partials
from experiments_dagster.stats.bandits.adaptive import COLUMN
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.duck import connect
from experiments_dagster.storage.errors import ContractError
from experiments_dagster.storage.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """What is known at a cut-off, by recorded period and arm.

    `periods` holds the moments of closed rewards (column `reward`), `decisions` all units, those
    with an open window included; one entry per start given, every arm in each.
    """

    periods: tuple[dict[str, ArmMoments], ...]
    decisions: tuple[dict[str, int], ...]
    n_open: int = 0
    n_crossed: int = 0
    inputs: dict[str, str] = field(default_factory=dict)

    def pooled(self, arm: str) -> ArmMoments:
        """The moments of an arm over all periods."""
        total = ArmMoments.empty((COLUMN,))
        for period in self.periods:
            total = total + period[arm]
        return total


def read_rewards(
    project: Project,
    manifest: Manifest,
    bandit: Bandit,
    *,
    cutoff: int,
    as_of: dt.datetime,
    starts: Sequence[dt.datetime],
) -> Rewards:
    """Add up the rewards of batches 1..cutoff.

    Args:
        project: Measures and engine.
        manifest: The landed batches.
        bandit: Arms, exposures and reward.
        cutoff: The last batch that counts.
        as_of: Aware instant; what happened later is not looked at.
        starts: Aware instants at which the recorded periods begin, increasing. Units exposed
            before the first have no known probability and do not count.

    Raises:
        ContractError: Exposures name an arm that is not configured.
        DataDamagedError: A landed file that is needed is damaged.
    """
    nothing = Rewards(
        periods=tuple(dict.fromkeys(bandit.arms, ArmMoments.empty((COLUMN,))) for _ in starts),
        decisions=tuple(dict.fromkeys(bandit.arms, 0) for _ in starts),
    )
    measure = bandit.metric.parts[0]
    last = manifest.last_event_at({measure.source}, up_to=cutoff)
    tables = manifest.tables(bandit.exposure_source, up_to=cutoff)
    if not starts or not tables or last is None:
        return nothing
    # A source that fell behind closes no windows: it speaks up to the end of its newest day.
    next_day = bandit.start_of_day(bandit.local_day(last) + dt.timedelta(days=1))
    horizon = min(as_of, next_day).astimezone(dt.UTC).replace(tzinfo=None)
    naive = [start.astimezone(dt.UTC).replace(tzinfo=None) for start in starts]
    partials = build_partials(project, manifest, measure.source, up_to=cutoff, needed=[measure])
    exposures = [manifest.verified(table) for _, table in tables]
    metric = bandit.metric
    with connect(project.platform, manifest.layout) as duck:
        who = first_exposures(
            nw.from_native(duck.parquet(exposures)),
            experiment=bandit.exposure_name,
            starts_at=naive[0],
            ends_at=horizon,
            segments=(),
        )
        total = WindowTotal(
            name=COLUMN, measure=measure.key, start_day=metric.start_day, end_day=metric.end_day
        )
        rows = window_totals(
            who,
            nw.from_native(duck.parquet(partials.days)),
            nw.from_native(duck.parquet(partials.events)),
            [total],
        )
        closed = nw.col("exposed_at").dt.offset_by(f"{metric.end_day}d") <= horizon
        columns = ("unit", "arm", "exposed_at", "n_arms", COLUMN, closed.alias("is_closed"))
        units: pl.DataFrame = rows.select(*columns).sort("unit").to_native().pl()
    inputs = {table.path: table.sha256 for _, table in tables} | partials.inputs
    return _by_period(bandit, units, naive, inputs)


def count_exposures(
    project: Project, manifest: Manifest, bandit: Bandit, starts_at: dt.datetime
) -> int:
    """How many exposures from an instant on have landed.

    A batch that landed before it can hold none, but rows of a clock that runs ahead, which would
    otherwise count as soon as they are written.

    Args:
        project: Engine.
        manifest: The landed batches.
        bandit: Its exposures.
        starts_at: Aware instant.

    Raises:
        DataDamagedError: A landed file that is needed is damaged.
    """
    tables = manifest.tables(bandit.exposure_source, up_to=manifest.head)
    later = [(batch, table) for batch, table in tables if batch.landed_at > starts_at]
    if not later:
        return 0
    start, total = starts_at.astimezone(dt.UTC).replace(tzinfo=None), 0
    with connect(project.platform, manifest.layout) as duck:
        for batch, table in later:
            landed = batch.landed_at.astimezone(dt.UTC).replace(tzinfo=None)
            rows = nw.from_native(duck.parquet([manifest.verified(table)])).filter(
                nw.col("experiment") == bandit.exposure_name,
                nw.col("occurred_at") >= start,
                nw.col("occurred_at") <= landed,
            )
            total += len(rows.select("unit").to_native())
    return total


def _by_period(
    bandit: Bandit, units: pl.DataFrame, starts: Sequence[dt.datetime], inputs: dict[str, str]
) -> Rewards:
    """Moments in one fixed order, so that they are the same bits every time."""
    unknown = units.filter(~pl.col("arm").is_in(list(bandit.arms))).height
    if unknown:
        rule = f"first arm is none of {', '.join(bandit.arms)}"
        raise ContractError(f"exposures of {bandit.slug}", {rule: unknown})
    arm = units["arm"].to_numpy()
    is_closed = units["is_closed"].to_numpy()
    reward = units[COLUMN].to_numpy()
    if bandit.metric.is_indicator:
        reward = (reward > 0).astype(np.float64)
    edges = np.array(starts, dtype="datetime64[us]")
    period = np.searchsorted(edges, units["exposed_at"].to_numpy(), side="right") - 1
    moments, decisions = [], []
    for index in range(len(starts)):
        here = {name: (period == index) & (arm == name) for name in bandit.arms}
        decisions.append({name: int(mask.sum()) for name, mask in here.items()})
        moments.append(
            {
                name: ArmMoments.from_arrays(**{COLUMN: reward[mask & is_closed]})
                for name, mask in here.items()
            }
        )
    return Rewards(
        periods=tuple(moments),
        decisions=tuple(decisions),
        n_open=int((~is_closed).sum()),
        n_crossed=int((units["n_arms"] > 1).sum()),
        inputs=inputs,
    )
