"""The sums of a look from unit rows that stay in their engine: DuckDB, Polars or Spark.

Both passes are narwhals lazy expressions, so that only aggregates leave the engine:

    first pass    means by arm and level, joined back; sums of products of what is left of them
    second pass   the lines of all contrasts as a small table, joined by arm and level; sums of
                  the scores that `regression.ArmLine` defines, by contrast and side

Products are centred before they are added up. Around the engine's own mean m the deviations leave
δ = Σ(x − m)/n of rounding, so the mean is m + δ and the products are Σdd' − nδδ'.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import narwhals as nw
import numpy as np
import polars as pl

from experiments_dagster.config.metrics import Metric
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.definitions import Frame
from experiments_dagster.looks.sums import (
    EVERYBODY,
    MISSING,
    Counts,
    Part,
    Task,
    covariate_cap,
    covariate_names,
    outcome_names,
)
from experiments_dagster.looks.unit_sums import NO_LEVEL
from experiments_dagster.stats.methods.moments.regression import (
    ArmLine,
    ContrastLines,
    ResidualSums,
)
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.storage.duck import Duck

HISTORY = "_history"
# Since 2000 every zone's offset is whole quarters of an hour, so one of them lies in one day.
QUARTER = 15


class Store(Protocol):
    """What narwhals has no portable verb for."""

    def keep(self, frame: Frame) -> Frame:
        """The same rows, computed once and kept in the engine."""

    def table(self, rows: pl.DataFrame) -> Frame:
        """A few rows of our own, as a lazy frame of the engine."""


class PolarsStore:
    """Rows in this process."""

    def keep(self, frame: Frame) -> Frame:
        """The same rows, computed once."""
        return frame.collect("polars").lazy()

    def table(self, rows: pl.DataFrame) -> Frame:
        """A few rows of our own."""
        return nw.from_native(rows.lazy())


class DuckStore:
    """Tables of one DuckDB connection; they go when it is closed."""

    def __init__(self, duck: Duck) -> None:
        self.duck = duck
        self._numbers = itertools.count(1)

    def keep(self, frame: Frame) -> Frame:
        """The same rows as a table."""
        name = f"kept_{next(self._numbers)}"
        frame.to_native().create(name)
        return nw.from_native(self.duck.connection.table(name))

    def table(self, rows: pl.DataFrame) -> Frame:
        """A few rows of our own."""
        return nw.from_native(self.duck.connection.from_arrow(rows.to_arrow()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Columns whose moments are taken together.

    Args:
        name: A metric, or `HISTORY`.
        columns: Columns of the kept units.
        names: What moments call them.
        mature: The column that is null where the unit does not count yet; None to count all.
    """

    name: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    mature: str | None

    def mean(self, i: int) -> str:
        """The column of the i-th mean."""
        return f"{self.name}:mean:{i}"

    def deviation(self, i: int) -> str:
        """The column of deviations from it."""
        return f"{self.name}:deviation:{i}"

    def product(self, i: int, j: int) -> str:
        """The column of a sum of products."""
        return f"{self.name}:product:{i}:{j}"

    def counted(self, i: int) -> nw.Expr:
        """The i-th column where the unit counts, else null."""
        column = nw.col(self.columns[i])
        if self.mature is None:
            return column
        return nw.when(~nw.col(self.mature).is_null()).then(column)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Both indices of every product that is added up."""
        return itertools.combinations_with_replacement(range(len(self.columns)), 2)

    def sums(self) -> list[nw.Expr]:
        """Aggregates over deviations."""
        found = [nw.col(self.deviation(0)).count().alias(f"{self.name}:n")]
        for i in range(len(self.columns)):
            found.append(nw.col(self.mean(i)).max())
            found.append(nw.col(self.deviation(i)).sum())
        for i, j in self.pairs():
            product = nw.col(self.deviation(i)) * nw.col(self.deviation(j))
            found.append(product.sum().alias(self.product(i, j)))
        return found

    def moments(self, row: Mapping[str, Any]) -> ArmMoments:
        """The moments of one row of aggregates."""
        n, k = int(row[f"{self.name}:n"]), len(self.columns)
        if n == 0:
            return ArmMoments.empty(self.names)
        first = np.array([row[self.mean(i)] for i in range(k)], dtype=np.float64)
        rest = np.array([row[self.deviation(i)] for i in range(k)], dtype=np.float64) / n
        cross = np.zeros((k, k))
        for i, j in self.pairs():
            cross[i, j] = cross[j, i] = row[self.product(i, j)]
        means = first + rest
        return ArmMoments(
            n=n,
            columns=self.names,
            means=means,
            cross=cross - n * np.outer(rest, rest),
            mean_rest=(first - means) + rest,
        )


class PortableEngine:
    """Adds up over unit rows where they are.

    Args:
        experiment: An additive plan.
        units: All exposed units as of the look: arm, exposed_at (naive UTC), n_exposures, n_arms,
            is_pre_missing, segment_*, outcomes and pre_*. They are computed and kept here.
        store: The engine's adapter.
        cap: Largest value of the primary metric that counts; None for no cap.
    """

    def __init__(
        self, experiment: Experiment, units: Frame, store: Store, *, cap: float | None
    ) -> None:
        self.experiment = experiment
        self.store = store
        self.cap = cap
        self.metrics = {metric.name: metric for metric in experiment.metrics}
        self.kept = store.keep(units.select(*self._columns()))
        self.units = self.kept.filter(nw.col("n_arms") == 1)

    def first_pass(self) -> tuple[Counts, dict[tuple[str, Part], dict[str, ArmMoments]]]:
        """Counts, and the moments of everybody and of every level."""
        history = Block(name=HISTORY, columns=(HISTORY,), names=(self._history,), mature=None)
        blocks = [*map(self._block, self.metrics.values()), history]
        by_arm = {row["arm"]: row for row in _collected(self._moments(self.units, ["arm"], blocks))}
        arms = self.experiment.variants
        moments = {
            (block.name, EVERYBODY): {arm: _moments_of(block, by_arm.get(arm)) for arm in arms}
            for block in blocks
        }
        counts = Counts(
            by_day=self._by_day(),
            missing={arm: int(by_arm[arm]["n_missing"]) if arm in by_arm else 0 for arm in arms},
            history=moments.pop((HISTORY, EVERYBODY)),
        )
        return counts, moments | self._levels(counts)

    def second_pass(
        self, wanted: Mapping[Task, ContrastLines]
    ) -> dict[Task, tuple[ResidualSums, ResidualSums]]:
        """Residual sums of control and treatment of every contrast."""
        sides = [
            (task, arm, line)
            for task, lines in wanted.items()
            for arm, line in (
                (self.experiment.control, lines.control),
                (task.arm, lines.treatment),
            )
        ]
        groups: dict[tuple[str, str | None, bool], list[int]] = {}
        for number, (task, _, _) in enumerate(sides):
            key = (task.metric, task.part.segment, task.part.inside)
            groups.setdefault(key, []).append(number)
        queries = [
            self._residuals(self.metrics[name], segment, {n: sides[n] for n in numbers}, inside)
            for (name, segment, inside), numbers in groups.items()
        ]
        found = [ResidualSums()] * len(sides)
        for row in _collected(nw.concat(queries)) if queries else []:
            side = row.pop("side")
            found[side] = ResidualSums(**row)
        return dict(zip(wanted, zip(found[::2], found[1::2], strict=True), strict=True))

    def exposed(self) -> list[dict[str, Any]]:
        """Units by arm and whether they met one arm only, mature or not.

        Returns:
            Rows of arm, is_single, units, exposures, and `immature:<metric>` per metric.
        """
        immature = [
            (nw.len() - nw.col(metric.columns[0][0]).count()).alias(f"immature:{name}")
            for name, metric in self.metrics.items()
        ]
        rows = self.kept.with_columns((nw.col("n_arms") == 1).alias("is_single"))
        return _collected(
            rows.group_by("arm", "is_single").agg(
                nw.len().alias("units"), nw.col("n_exposures").sum().alias("exposures"), *immature
            )
        )

    @property
    def _history(self) -> str:
        return f"pre_{self.experiment.primary.columns[0][0]}"

    def _columns(self) -> list[nw.Expr]:
        """What the passes read: capped outcomes and covariates, levels without gaps."""
        columns = [nw.col(name) for name in ("arm", "exposed_at", "n_exposures", "n_arms")]
        # Not every engine turns a boolean into a number.
        columns.append(nw.when(nw.col(MISSING)).then(1.0).otherwise(0.0).alias(MISSING))
        columns.append(nw.col(self._history).alias(HISTORY))
        levels = (f"segment_{segment}" for segment in self.experiment.segments)
        columns += [nw.col(level).fill_null(NO_LEVEL) for level in levels]
        for metric in self.metrics.values():
            cap = self.cap if metric.name == self.experiment.primary.name else None
            of_history = covariate_cap(self.experiment, metric, cap)
            for name, _ in metric.columns:
                columns += [_capped(name, cap), _capped(f"pre_{name}", of_history)]
        return columns

    def _block(self, metric: Metric) -> Block:
        covariates = covariate_names(self.experiment, metric)
        outcomes = tuple(name for name, _ in metric.columns)
        return Block(
            name=metric.name,
            columns=(*outcomes, *covariates),
            names=(*outcome_names(metric), *covariates),
            mature=outcomes[0],
        )

    def _moments(self, units: Frame, keys: Sequence[str], blocks: Sequence[Block]) -> Frame:
        """One row of aggregates per key."""
        columns = [(block, i) for block in blocks for i in range(len(block.columns))]
        counted = units.with_columns(
            *(block.counted(i).alias(block.deviation(i)) for block, i in columns)
        )
        means = counted.group_by(*keys).agg(
            *(nw.col(block.deviation(i)).mean().alias(block.mean(i)) for block, i in columns)
        )
        deviations = counted.join(means, on=list(keys), how="inner").with_columns(
            *(nw.col(block.deviation(i)) - nw.col(block.mean(i)) for block, i in columns)
        )
        return deviations.group_by(*keys).agg(
            nw.len().alias("units"),
            nw.col(MISSING).sum().alias("n_missing"),
            *(expression for block in blocks for expression in block.sums()),
        )

    def _levels(self, counts: Counts) -> dict[tuple[str, Part], dict[str, ArmMoments]]:
        """Moments of the primary metric by level of every segment; adds to the counts."""
        block = self._block(self.experiment.primary)
        keys = ["segment", "level", "arm"]
        queries = [
            self._moments(_with_level(self.units, segment), keys, [block])
            for segment in self.experiment.segments
        ]
        moments: dict[tuple[str, Part], dict[str, ArmMoments]] = {}
        counts.by_level.update({segment: {} for segment in self.experiment.segments})
        rows = _collected(nw.concat(queries)) if queries else []
        for row in sorted(rows, key=lambda row: tuple(row[key] for key in keys)):
            segment, level, arm = (row[key] for key in keys)
            counts.by_level[segment].setdefault(level, {})[arm] = int(row["units"])
            nobody = {arm: ArmMoments.empty(block.names) for arm in self.experiment.variants}
            arms = moments.setdefault((block.name, Part(segment, level)), nobody)
            arms[arm] = block.moments(row)
        return moments

    def _by_day(self) -> dict[dt.date, dict[str, int]]:
        """Exposed units by local day: counted by quarters of an hour, added up here."""
        zone = ZoneInfo(self.experiment.timezone)
        at = nw.col("exposed_at").dt
        quarters = self.units.select(
            "arm", at.truncate("1h").alias("hour"), (at.minute() // QUARTER).alias("quarter")
        )
        found: dict[dt.date, dict[str, int]] = {}
        for row in _collected(
            quarters.group_by("hour", "quarter", "arm").agg(nw.len().alias("units"))
        ):
            instant = row["hour"] + dt.timedelta(minutes=QUARTER * int(row["quarter"]))
            day = instant.replace(tzinfo=dt.UTC).astimezone(zone).date()
            arms = found.setdefault(day, {})
            arms[row["arm"]] = arms.get(row["arm"], 0) + int(row["units"])
        return found

    def _residuals(
        self,
        metric: Metric,
        segment: str | None,
        sides: Mapping[int, tuple[Task, str, ArmLine]],
        inside: bool,  # noqa: FBT001  the third part of a group's key
    ) -> Frame:
        """Sums over scores by side, of one metric and kind of part."""
        block = self._block(metric)
        outcomes = block.columns[: len(metric.columns)]
        covariates = block.columns[len(metric.columns) :]
        lines = self.store.table(
            pl.DataFrame(
                [
                    {"side": number, "arm": arm, "line_level": task.part.level or NO_LEVEL}
                    | _constants(line, outcomes, covariates)
                    for number, (task, arm, line) in sides.items()
                ],
                infer_schema_length=None,
            )
        )
        mature = self.units.filter(~nw.col(outcomes[0]).is_null())
        if segment is None:
            rows = mature.join(lines, on="arm", how="inner")
        elif inside:
            rows = mature.with_columns(nw.col(f"segment_{segment}").alias("line_level")).join(
                lines, on=["arm", "line_level"], how="inner"
            )
        else:
            rows = mature.join(lines, on="arm", how="inner").filter(
                nw.col(f"segment_{segment}") != nw.col("line_level")
            )
        scored = rows.select("side", *_deviation_and_leverage(outcomes, covariates))
        # A unit that has a parameter to itself has no score; its leverage says so.
        left = nw.when(nw.col("leverage") < 1.0).then(1.0 - nw.col("leverage"))
        scored = scored.with_columns(
            (nw.col("weight") * nw.col("residual") / left.sqrt()).alias("score")
        )
        score = nw.col("score")
        return scored.group_by("side").agg(
            (score * score).sum().alias("squares"),
            (score * score * score).sum().alias("cubes"),
            (score * nw.col("deviation")).sum().alias("with_outcome"),
            nw.col("leverage").max().alias("max_leverage"),
        )


def _moments_of(block: Block, row: Mapping[str, Any] | None) -> ArmMoments:
    return ArmMoments.empty(block.names) if row is None else block.moments(row)


def _collected(frame: Frame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.collect("polars").to_native().to_dicts()
    return rows


def _capped(name: str, cap: float | None) -> nw.Expr:
    column = nw.col(name).cast(nw.Float64)
    if cap is None:
        return column
    return nw.when(column > cap).then(nw.lit(cap)).otherwise(column).alias(name)


def _with_level(units: Frame, segment: str) -> Frame:
    return units.with_columns(
        nw.lit(segment).alias("segment"), nw.col(f"segment_{segment}").alias("level")
    )


def _constants(
    line: ArmLine, outcomes: Sequence[str], covariates: Sequence[str]
) -> dict[str, float]:
    """A line as columns; a covariate that it leaves out has only zeros."""
    at = {name: index for index, name in enumerate(line.covariates)}
    found = {"line_share": 1 / line.n, "line_mean": line.level}
    for k in range(len(outcomes)):
        found[f"line_outcome_{k}"] = line.outcome[k][1]
    for i, name in enumerate(covariates):
        used = at.get(name)
        found[f"line_mean_{i}"] = 0.0 if used is None else float(line.means[used])
        found[f"line_slope_{i}"] = 0.0 if used is None else float(line.slopes[used])
        found[f"line_target_{i}"] = 0.0 if used is None else float(line.target[used])
        for j, other in enumerate(covariates[: i + 1]):
            column = at.get(other)
            is_used = used is not None and column is not None
            found[f"line_whiten_{i}_{j}"] = float(line.whiten[used, column]) if is_used else 0.0
    return found


def _deviation_and_leverage(outcomes: Sequence[str], covariates: Sequence[str]) -> list[nw.Expr]:
    """u, e, a and h of every unit, in the names of `regression`."""
    deviation = -nw.col("line_mean")
    for k, name in enumerate(outcomes):
        deviation = deviation + nw.col(f"line_outcome_{k}") * nw.col(name)
    residual, weight, leverage = deviation, nw.col("line_share"), nw.col("line_share")
    centred = [nw.col(name) - nw.col(f"line_mean_{i}") for i, name in enumerate(covariates)]
    for i in range(len(covariates)):
        whitened = nw.col(f"line_whiten_{i}_0") * centred[0]
        for j in range(1, i + 1):
            whitened = whitened + nw.col(f"line_whiten_{i}_{j}") * centred[j]
        residual = residual - nw.col(f"line_slope_{i}") * whitened
        weight = weight - nw.col(f"line_target_{i}") * whitened
        leverage = leverage + whitened * whitened
    return [
        deviation.alias("deviation"),
        residual.alias("residual"),
        weight.alias("weight"),
        leverage.alias("leverage"),
    ]
