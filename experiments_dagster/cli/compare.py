"""`experiments compare`: arms in a file with one row per unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.proportion import compare_proportions
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.lin import compare_adjusted, with_missing_indicator
from experiments_dagster.stats.methods.units.pooled_theta import cuped_pooled_theta
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Contrast, Estimate

Vector = NDArray[np.float64]
DEFAULT_METHOD = {"mean": "welch", "proportion": "pooled_z", "ratio": "delta"}
METHODS = {
    "mean": ("welch", "lin", "pooled_theta"),
    "proportion": ("pooled_z", "welch", "lin", "pooled_theta"),
    "ratio": ("delta", "lin"),
}


def read_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a Parquet or CSV file.

    Raises:
        ValueError: Unknown file type, or a column is missing.
    """
    if path.suffix not in (".parquet", ".pq", ".csv"):
        msg = f"{path}: unknown file type {path.suffix!r}; use .parquet or .csv"
        raise ValueError(msg)
    table = pl.scan_csv(path) if path.suffix == ".csv" else pl.scan_parquet(path)
    present = table.collect_schema().names()
    for column in columns:
        if column not in present:
            msg = f"{path}: column {column!r} is missing; it has {', '.join(present)}"
            raise ValueError(msg)
    return table.select(list(dict.fromkeys(columns))).collect()


def compare_file(
    path: Path,
    *,
    group: str,
    control: str,
    kind: str,
    columns: Sequence[str],
    covariates: Sequence[str],
    treatments: Sequence[str] | None,
    method: str | None,
    alpha: float,
) -> list[dict[str, Any]]:
    """Absolute and relative effect of each treatment against the control.

    Args:
        path: One row per unit.
        group: Column with the arm.
        control: The control's value.
        kind: `mean`, `proportion` or `ratio`.
        columns: The value column, or numerator and denominator.
        covariates: Pre-period columns; missing values get an indicator.
        treatments: Arms to compare; all but the control when None.
        method: See `METHODS`; with covariates `lin` when None.
        alpha: 1 - confidence level.

    Returns:
        One dictionary per effect: treatment, status, reason and the fields of `Estimate`.

    Raises:
        ValueError: A flag, column or arm does not fit; a value is missing.
    """
    method = _checked_method(kind, method, columns, covariates)
    table = read_table(path, [group, *columns, *covariates]).with_columns(
        pl.col(group).cast(pl.String)
    )
    arms = sorted(table[group].drop_nulls().unique().to_list())
    for arm in (control, *(treatments or [])):
        if arm not in arms:
            msg = f"{path}: no unit in arm {arm!r}; column {group!r} has {', '.join(arms)}"
            raise ValueError(msg)
    for column in (group, *columns):
        missing = table[column].null_count()
        if missing:
            msg = f"{path}: column {column!r} has {missing} missing values"
            raise ValueError(msg)
    rows: list[dict[str, Any]] = []
    for arm in treatments or [arm for arm in arms if arm != control]:
        pair = table.filter(pl.col(group).is_in([control, arm]))
        is_treated = (pair[group] == arm).to_numpy()
        try:
            contrast = _contrast(pair, is_treated, columns, covariates, method, kind, alpha)
        except EstimationError as error:
            rows.append(_refused(arm, "difference", method, error.code))
            continue
        rows.append(_row(arm, contrast.difference))
        if contrast.relative is not None:
            rows.append(_row(arm, contrast.relative))
        else:
            reason = contrast.relative_reason or "NOT_IDENTIFIED"
            rows.append(_refused(arm, "relative_difference", method, reason))
    return rows


def _checked_method(
    kind: str, method: str | None, columns: Sequence[str], covariates: Sequence[str]
) -> str:
    """The method to use, after flags that do not fit together are refused."""
    if kind not in METHODS:
        msg = f"--kind {kind!r}: must be one of {', '.join(METHODS)}"
        raise ValueError(msg)
    method = method or ("lin" if covariates else DEFAULT_METHOD[kind])
    if method not in METHODS[kind]:
        msg = f"--method {method!r} does not fit --kind {kind}; use {', '.join(METHODS[kind])}"
        raise ValueError(msg)
    needed = 2 if kind == "ratio" else 1
    if len(columns) != needed:
        wanted = "--numerator and --denominator" if needed > 1 else "--value"
        msg = f"--kind {kind} needs {wanted}"
        raise ValueError(msg)
    if (method in ("lin", "pooled_theta")) != bool(covariates):
        msg = f"--method {method} " + ("takes no" if covariates else "needs") + " --covariates"
        raise ValueError(msg)
    return method


def _contrast(
    pair: pl.DataFrame,
    is_treated: NDArray[np.bool_],
    columns: Sequence[str],
    covariates: Sequence[str],
    method: str,
    kind: str,
    alpha: float,
) -> Contrast:
    values = [pair[column].to_numpy().astype(np.float64) for column in columns]
    if method in ("lin", "pooled_theta"):
        matrix, names = _covariates(pair, covariates)
        if method == "pooled_theta":
            if matrix.shape[1] != 1:
                msg = "--method pooled_theta takes one covariate without missing values"
                raise ValueError(msg)
            return cuped_pooled_theta(
                values[0], is_treated, matrix[:, 0], name=names[0], alpha=alpha
            ).adjusted
        if kind == "ratio":
            return compare_ratios_adjusted(
                values[0], values[1], is_treated, matrix, names=names, alpha=alpha
            ).adjusted
        return compare_adjusted(values[0], is_treated, matrix, names=names, alpha=alpha).adjusted
    if kind == "ratio":
        control, treated = _moments(is_treated, numerator=values[0], denominator=values[1])
        return compare_ratios(control, treated, alpha=alpha)
    control, treated = _moments(is_treated, y=values[0])
    if method == "pooled_z":
        return compare_proportions(control, treated, alpha=alpha)
    return compare_means(control, treated, alpha=alpha)


def _moments(is_treated: NDArray[np.bool_], **values: Vector) -> tuple[ArmMoments, ArmMoments]:
    control, treated = (
        ArmMoments.from_arrays(**{name: value[of_arm] for name, value in values.items()})
        for of_arm in (~is_treated, is_treated)
    )
    return control, treated


def _covariates(pair: pl.DataFrame, covariates: Sequence[str]) -> tuple[Vector, list[str]]:
    parts, names = [], []
    for column in covariates:
        values = pair[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        matrix, found = with_missing_indicator(values, name=column)
        parts.append(matrix)
        names += list(found)
    return np.column_stack(parts), names


def _row(arm: str, estimate: Estimate) -> dict[str, Any]:
    return {"treatment": arm, "status": "ok", "reason": None, **dataclasses.asdict(estimate)}


def _refused(arm: str, estimand: str, method: str, reason: str) -> dict[str, Any]:
    return {
        "treatment": arm,
        "status": "not_estimable",
        "reason": reason,
        "estimand": estimand,
        "method": method,
    }
