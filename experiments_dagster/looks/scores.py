"""Influence scores of open-ended metrics, kept from look to look.

A unit's value may change between looks, so the joint law of the looks is not that of independent
increments: it is estimated from the scores of all looks (METHODS 8.12). Each recorded look keeps
its scores in a Parquet file, by its hash in the look's record; without them no boundary can follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.looks.contrasts import MetricResult
from experiments_dagster.looks.records import Look
from experiments_dagster.storage.atomic import staged
from experiments_dagster.storage.errors import DataDamagedError
from experiments_dagster.storage.layout import Layout

Vector = NDArray[np.float64]
Scores = tuple[NDArray[np.str_], Vector]
HINT = "restore the file from your backup; the boundaries of open-ended metrics need it"


class ScoreBook:
    """The scores of earlier looks, read when a boundary asks for them."""

    def __init__(self, layout: Layout | None = None) -> None:
        self._layout = layout
        self._read: dict[str, pl.DataFrame] = {}

    def of(self, look: Look, metric: str, arm: str, *, control_weight: float) -> Scores | None:
        """Units and scores of one hypothesis at an earlier look; None where it stored none.

        Args:
            look: The earlier look.
            metric: Name of the metric.
            arm: The treatment arm.
            control_weight: Factor of the control units' scores: 1, or 1 - margin.

        Raises:
            DataDamagedError: The file is missing or not the recorded one.
        """
        if look.scores is None or self._layout is None:
            return None
        table = self._read.get(look.look_id)
        if table is None:
            path = scores_file(self._layout, look)
            content = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(content).hexdigest() != look.scores:
                raise DataDamagedError(path, f"is not what {look.look_id} recorded", HINT)
            table = self._read[look.look_id] = pl.read_parquet(content)
        rows = table.filter(pl.col("metric") == metric, pl.col("arm") == arm)
        if rows.is_empty():
            return None
        scores = rows["score"].to_numpy()
        is_treated = rows["is_treated"].to_numpy()
        return (
            rows["unit"].to_numpy().astype(np.str_),
            np.where(is_treated, scores, control_weight * scores),
        )


def present_scores(result: MetricResult, *, control_weight: float) -> Scores:
    """Units and scores of one hypothesis at this look."""
    assert result.scores is not None
    assert result.units is not None
    assert result.is_treated is not None
    weighted = np.where(result.is_treated, result.scores, control_weight * result.scores)
    return result.units, weighted


def write_scores(layout: Layout, look: Look, results: Iterable[MetricResult]) -> str | None:
    """Keep the scores of a look's open-ended metrics; the file's SHA-256, or None without any."""
    parts = [
        pl.DataFrame(
            {
                "unit": result.units,
                "is_treated": result.is_treated,
                "score": result.scores,
            }
        ).select(
            pl.lit(result.metric.name).alias("metric"), pl.lit(result.arm).alias("arm"), pl.all()
        )
        for result in results
        if result.metric.is_open_ended and result.units is not None
    ]
    if not parts:
        return None
    path = scores_file(layout, look)
    with staged(path, layout.staging) as temporary:
        pl.concat(parts).write_parquet(temporary, compression="zstd")
        return hashlib.sha256(temporary.read_bytes()).hexdigest()


def scores_file(layout: Layout, look: Look) -> Path:
    """Where the scores of one look lie."""
    folder = layout.results("scores", look.experiment)
    return folder / f"phase-{look.phase}-look-{look.look or 0:06d}.parquet"


def looks_with(looks: Sequence[Look], metric: str, arm: str, kind: str) -> list[Look]:
    """Earlier looks that hold a boundary of a hypothesis."""
    return [
        look
        for look in looks
        if any((b.metric, b.arm, b.kind) == (metric, arm, kind) for b in look.boundaries)
    ]
