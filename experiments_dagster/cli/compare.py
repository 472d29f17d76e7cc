"""`experiments compare`: arms in a file, from flags to a document of results.

The file has one row per unit; with `cluster` several, and the clusters are the units. What each
method computes is in `compare_methods`, what people see in `compare_sheet`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.cli.compare_methods import (
    DEFAULT_REPLICATES,
    METHODS,
    Codes,
    Comparison,
    Mask,
    Method,
    Pair,
    Settings,
    Units,
    Vector,
)
from experiments_dagster.cli.compare_request import Request, checked_method
from experiments_dagster.cli.compare_rows import (
    add_simultaneous,
    effect_rows,
    effect_size_rows,
    margin_rows,
)
from experiments_dagster.cli.sample_ratio import check_sample_ratio
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.storage.table_file import read_table

MISSING_ALPHA = 0.001  # METHODS 3.3: shares of missing covariates that differ so block adjustment
# Names of the library's arguments as they stand in its messages, and ours.
FLAGS = {"replicates": "--replicates", "alpha": "--alpha", "q": "--quantile", "margin": "--margin"}


def compare_file(request: Request) -> dict[str, Any]:
    """Compare each treatment with the control.

    Returns:
        `inputs`, `estimates` with one dictionary per effect (treatment, status, reason, detail and
        the fields of `Estimate`), `sample_ratio`, `warnings`, and on request `margin_tests` and
        `effect_sizes`.

    Raises:
        ValueError: A flag, column or arm does not fit; a value is missing.
    """
    with _flags_in_messages():
        name = checked_method(request)
        table, treatments = _read_arms(request)
        ratio, warnings = check_sample_ratio(_sizes(request, table, treatments), request.shares)
        units, is_missing = _units(request, table)
        settings = _settings(request, name)
        pairs, found = {}, {}
        arms = table[request.group]
        for arm in treatments:
            is_treated = (arms == arm).to_numpy()
            chosen = is_treated | (arms == request.control).to_numpy()
            pairs[arm] = Pair(units=units.rows(chosen), is_treated=is_treated[chosen])
            found[arm] = _compare(pairs[arm], METHODS[name], settings, is_missing, chosen)
        rows = [row for arm in treatments for row in effect_rows(arm, name, found[arm])]
        document: dict[str, Any] = {
            "inputs": _inputs(request, name, settings),
            "estimates": rows,
            "sample_ratio": ratio,
            "warnings": warnings,
        }
        if request.dunnett:
            add_simultaneous(rows, found, pairs, request.alpha)
        if request.margin is not None:
            document["margin_tests"] = margin_rows(request, found)
        if request.effect_sizes:
            document["effect_sizes"] = effect_size_rows(request, pairs)
        return document


def _read_arms(request: Request) -> tuple[pl.DataFrame, list[str]]:
    """The rows of the control and the treatments, arms as text, and the treatments."""
    needed = [*request.columns.values(), *([request.cluster] if request.cluster else [])]
    optional = [*request.covariates, *([request.strata] if request.strata else [])]
    table = read_table(request.path, [request.group, *needed, *optional])
    _check_present(request.path, table, [request.group])
    table = table.with_columns(pl.col(request.group).cast(pl.String))
    arms = sorted(table[request.group].unique().to_list())
    asked = [("--control", request.control), *(("--treatment", arm) for arm in request.treatments)]
    for flag, arm in asked:
        if arm not in arms:
            msg = (
                f"{flag} {arm}: {request.path} has no unit in arm {arm!r}; "
                f"column {request.group!r} has {', '.join(arms)}"
            )
            raise ValueError(msg)
    others = [arm for arm in arms if arm != request.control]
    treatments = list(dict.fromkeys(request.treatments)) or others
    if request.control in treatments or not treatments:
        msg = f"--control {request.control}: needs another arm beside it as --treatment"
        raise ValueError(msg)
    table = table.filter(pl.col(request.group).is_in([request.control, *treatments]))
    _check_present(request.path, table, needed)
    return table, treatments


def _sizes(request: Request, table: pl.DataFrame, treatments: Sequence[str]) -> dict[str, int]:
    """Units per arm; with `cluster` clusters that lie in one arm, for they were randomised."""
    arms = table.select(request.group)
    if request.cluster is not None:
        pairs = table.select(request.group, request.cluster).unique()
        arms = pairs.filter(~pairs[request.cluster].is_duplicated()).select(request.group)
    found = dict(arms.group_by(request.group).len().iter_rows())
    return {arm: found.get(arm, 0) for arm in (request.control, *treatments)}


def _check_present(path: Path, table: pl.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        missing = table[column].null_count()
        if missing:
            msg = f"{path}: column {column!r} has {missing} missing values"
            raise ValueError(msg)


def _units(request: Request, table: pl.DataFrame) -> tuple[Units, Mask]:
    """The columns as arrays, and where which covariate is missing, shape (n, covariates)."""
    values = []
    for flag, column in request.columns.items():
        series = table[column]
        if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
            msg = f"{flag} {column}: must be numbers, the column has type {series.dtype}"
            raise ValueError(msg)
        values.append(series.cast(pl.Float64).to_numpy())
    if request.kind == "proportion" and not np.isin(values[0], (0.0, 1.0)).all():
        msg = f"--value {request.value}: must be zeros and ones for --kind proportion"
        raise ValueError(msg)
    units = Units(
        y=values[0],
        denominator=values[1] if len(values) > 1 else None,
        clusters=_codes(table, request.cluster),
        strata=_codes(table, request.strata),
    )
    if not request.covariates:
        return units, np.empty((table.height, 0), dtype=np.bool_)
    matrix, names = _covariates(table, request.covariates)
    is_missing = [_is_missing(table[column]) for column in request.covariates]
    has_more_arms = table[request.group].n_unique() > 2  # noqa: PLR2004
    centre = matrix.mean(axis=0) if has_more_arms else None
    return (
        dataclasses.replace(units, covariates=matrix, names=names, centre=centre),
        np.column_stack(is_missing),
    )


def _codes(table: pl.DataFrame, column: str | None) -> Codes | None:
    """Ranks of the values of a column; what is missing comes last, as one value."""
    if column is None:
        return None
    ranks = table[column].rank("dense").cast(pl.Int64)
    return ranks.fill_null(table.height + 1).to_numpy()


def _covariates(table: pl.DataFrame, columns: Sequence[str]) -> tuple[Vector, tuple[str, ...]]:
    from experiments_dagster.stats.methods.units.covariates import design_columns

    numeric: dict[str, Vector] = {}
    categories: dict[str, NDArray[np.object_]] = {}
    for column in columns:
        series = table[column]
        if series.dtype.is_numeric() or series.dtype == pl.Boolean:
            numeric[column] = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        elif series.dtype in (pl.String, pl.Categorical, pl.Enum):
            categories[column] = np.array(series.cast(pl.String).to_list(), dtype=object)
        else:
            msg = f"--covariates {column}: must be numbers or text, the column has {series.dtype}"
            raise ValueError(msg)
    return design_columns(numeric, categories)


def _is_missing(series: pl.Series) -> Mask:
    return (series.fill_nan(None) if series.dtype.is_float() else series).is_null().to_numpy()


def _settings(request: Request, name: str) -> Settings:
    replicates = request.replicates
    return Settings(
        kind=request.kind,
        alpha=request.alpha,
        quantile=0.5 if request.quantile is None else request.quantile,
        replicates=DEFAULT_REPLICATES.get(name, 0) if replicates is None else replicates,
        seed=request.seed or 0,
    )


def _compare(
    pair: Pair, method: Method, settings: Settings, is_missing: Mask, chosen: Mask
) -> Comparison | EstimationError:
    try:
        _check_clusters(pair)
        _check_missing(is_missing[chosen], pair.is_treated)
        return method.run(pair, settings)
    except EstimationError as error:
        return error


def _check_clusters(pair: Pair) -> None:
    """Refuse clusters that have rows in both arms: they were not what was randomised."""
    if pair.units.clusters is None:
        return
    control, treated = (
        np.unique(pair.units.clusters[rows]) for rows in (~pair.is_treated, pair.is_treated)
    )
    n_mixed = len(np.intersect1d(control, treated, assume_unique=True))
    if n_mixed:
        detail = f"{n_mixed} of {len(control) + len(treated) - n_mixed} have rows in both arms"
        raise EstimationError("NOT_IDENTIFIED", "clusters", detail)


def _check_missing(is_missing: Mask, is_treated: Mask) -> None:
    """Refuse covariates that are missing more often in one arm: they are no pre-period ones."""
    from experiments_dagster.stats.methods.units.covariates import missing_differs_by_arm

    for column in is_missing.T:
        if missing_differs_by_arm(column, is_treated) < MISSING_ALPHA:
            shares = (f"{column[rows].mean():.2%}" for rows in (~is_treated, is_treated))
            detail = f"missing in {' and '.join(shares)} of the arms; leave the covariate out"
            raise EstimationError("NOT_IDENTIFIED", "covariates", detail)


def _inputs(request: Request, name: str, settings: Settings) -> dict[str, Any]:
    """The flags with their defaults filled in."""
    inputs = dataclasses.asdict(request) | {"path": str(request.path), "method": name}
    if name in DEFAULT_REPLICATES:
        inputs |= {"replicates": settings.replicates, "seed": settings.seed}
    return inputs


@contextlib.contextmanager
def _flags_in_messages() -> Iterator[None]:
    """Name the flag where the library names its argument."""
    try:
        yield
    except EstimationError:
        raise
    except ValueError as error:
        found = re.search(r"(?:^|: )(\w+) is (.*)", str(error))
        if found is None or found[1] not in FLAGS:
            raise
        msg = f"{FLAGS[found[1]]} {found[2]}"
        raise ValueError(msg) from None
