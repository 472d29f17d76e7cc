"""Sums as strict JSON and back, every double to its last bit."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from experiments_dagster.looks.sums import Counts, Part, Sums, Task
from experiments_dagster.stats.methods.moments.regression import (
    ArmLine,
    ContrastLines,
    ResidualSums,
)
from experiments_dagster.stats.moments import ArmMoments

Document = dict[str, Any]


def sums_document(sums: Sums) -> Document:
    """Sums as plain data that `json.dumps(..., allow_nan=False)` takes."""
    counts = sums.counts
    return {
        "counts": {
            "by_day": {day.isoformat(): arms for day, arms in counts.by_day.items()},
            "by_level": counts.by_level,
            "missing": counts.missing,
            "history": _by_arm(counts.history),
        },
        "moments": [
            {"metric": metric, "part": asdict(part), "arms": _by_arm(arms)}
            for (metric, part), arms in sums.moments.items()
        ],
        "contrasts": [
            {
                "task": asdict(task),
                "lines": {
                    "control": _plain(lines.control),
                    "treatment": _plain(lines.treatment),
                    "dropped": list(lines.dropped),
                },
                "residuals": [asdict(side) for side in sums.residuals[task]],
            }
            for task, lines in sums.lines.items()
        ],
    }


def read_sums(document: Document) -> Sums:
    """The sums of a document."""
    counts = document["counts"]
    contrasts = [(_task(entry["task"]), entry) for entry in document["contrasts"]]
    return Sums(
        counts=Counts(
            by_day={dt.date.fromisoformat(day): arms for day, arms in counts["by_day"].items()},
            by_level=counts["by_level"],
            missing=counts["missing"],
            history=_moments(counts["history"]),
        ),
        moments={
            (entry["metric"], Part(**entry["part"])): _moments(entry["arms"])
            for entry in document["moments"]
        },
        lines={task: _lines(entry["lines"]) for task, entry in contrasts},
        residuals={
            task: (ResidualSums(**entry["residuals"][0]), ResidualSums(**entry["residuals"][1]))
            for task, entry in contrasts
        },
    )


def _by_arm(arms: dict[str, ArmMoments]) -> Document:
    return {arm: _plain(moments) for arm, moments in arms.items()}


def _plain(record: ArmMoments | ArmLine) -> Document:
    """A record of numbers, names and arrays as plain data."""
    found = {}
    for part in fields(record):
        value = getattr(record, part.name)
        found[part.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return found


def _moments(arms: Document) -> dict[str, ArmMoments]:
    return {
        arm: ArmMoments(
            n=entry["n"],
            columns=tuple(entry["columns"]),
            means=np.array(entry["means"], dtype=np.float64),
            cross=_square(entry["cross"], len(entry["columns"])),
            mean_rest=np.array(entry["mean_rest"], dtype=np.float64),
        )
        for arm, entry in arms.items()
    }


def _lines(entry: Document) -> ContrastLines:
    control, treatment = (_line(entry[side]) for side in ("control", "treatment"))
    return ContrastLines(control=control, treatment=treatment, dropped=tuple(entry["dropped"]))


def _line(entry: Document) -> ArmLine:
    covariates = tuple(entry["covariates"])
    arrays = {
        name: np.array(entry[name], dtype=np.float64) for name in ("means", "slopes", "target")
    }
    return ArmLine(
        n=entry["n"],
        outcome=tuple((name, weight) for name, weight in entry["outcome"]),
        level=entry["level"],
        covariates=covariates,
        whiten=_square(entry["whiten"], len(covariates)),
        variance=entry["variance"],
        **arrays,
    )


def _square(rows: list[list[float]], k: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A k by k matrix, also where there is no row to tell the number of columns from."""
    return np.array(rows, dtype=np.float64).reshape(k, k)


def _task(entry: Document) -> Task:
    return Task(entry["metric"], entry["arm"], Part(**entry["part"]))
