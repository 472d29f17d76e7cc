"""What each planned look sees: cumulative rows of the stream, their moments, and the contrast.

A look at n rows reads the first n rows in the order of the timestamps, so a longer file repeats
every earlier look number for number. A look with too few rows in an arm has no contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from experiments_dagster.cli.user_level.rows import Mask, Vector
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Contrast

SMALLEST_ARM = 2  # rows; fewer have no variance
# A confidence sequence starts where the difference is nearly normal, as the project's own looks.
SEQUENCE_ARM = 100
MAX_SKEWNESS = 355**-0.5
NOT_NEARLY_NORMAL = "NOT_NEARLY_NORMAL"
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookStats:
    """One look: rows so far and the contrast of the arms, without any verdict.

    Of a ratio, means are the two ratios and variances those of the linearised value of a unit.

    Args:
        look_n: Planned rows of the stream.
        n_control: Rows of the control among them.
        n_test: Rows of the test.
        mean_control: None without rows.
        mean_test: None without rows.
        var_control: Sample variance; None where there is none.
        var_test: The same of the test.
        diff: Test minus control; None with `reason` set.
        se: Its standard error.
        df: Degrees of freedom of its t; None for a normal score.
        rel_lift: Lift; None where it is not identified.
        rel_se: Its standard error.
        reason: Why there is no contrast.
    """

    look_n: int
    n_control: int
    n_test: int
    mean_control: float | None = None
    mean_test: float | None = None
    var_control: float | None = None
    var_test: float | None = None
    diff: float | None = None
    se: float | None = None
    df: float | None = None
    rel_lift: float | None = None
    rel_se: float | None = None
    reason: str | None = None

    @property
    def information(self) -> float | None:
        """1/se²."""
        return None if self.se is None else 1 / self.se**2

    @property
    def z(self) -> float | None:
        """diff/se."""
        return None if self.diff is None or self.se is None else self.diff / self.se


def planned_looks(looks: str | None, n_looks: int, max_n: int) -> list[int]:
    """The planned looks as cumulative rows, increasing.

    Raises:
        ValueError: No whole numbers above 0.

    Examples:
        >>> planned_looks(None, 5, 10_000), planned_looks("8, 4,10", 5, 10_000)
        ([2000, 4000, 6000, 8000, 10000], [4, 8, 10])
    """
    if looks is not None:
        try:
            planned = sorted({int(part) for part in looks.split(",") if part.strip()})
        except ValueError:
            planned = []
        if not planned or planned[0] < 1:
            msg = f"--looks {looks!r}: must be whole numbers above 0 separated by commas"
            raise ValueError(msg)
        return planned
    if n_looks < 1 or max_n < n_looks:
        msg = f"--n-looks {n_looks}, --max-n {max_n}: need at least one look and a row for each"
        raise ValueError(msg)
    return sorted({round((k + 1) * max_n / n_looks) for k in range(n_looks)})


def stream_order(table: pl.DataFrame, column: str | None) -> NDArray[np.int64]:
    """The positions of the rows in the order of their timestamps; ties keep the file's order.

    Raises:
        ValueError: A timestamp is missing or is no time.
    """
    if column is None:
        return np.arange(table.height)
    series = table[column]
    times = series
    if series.dtype == pl.String:
        times = _parsed_times(series)
    elif not (series.dtype.is_numeric() or series.dtype.is_temporal()):
        times = pl.Series([None] * table.height, dtype=pl.Int64)
    elif series.dtype.is_float():
        times = series.fill_nan(None)
    n_bad = times.null_count()
    if n_bad:
        n_missing = series.null_count()
        msg = (
            f"--timestamp-col {column}: {n_missing} of {table.height} rows have no value and "
            f"{n_bad - n_missing} are no time such as 2026-01-31 or 2026-01-31 12:00:00"
        )
        raise ValueError(msg)
    return np.argsort(times.to_physical().to_numpy(), kind="stable")


def _parsed_times(series: pl.Series) -> pl.Series:
    """Times in UTC; without a zone they are taken as they stand."""
    plain = series.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    times = pl.Series([None] * len(series), dtype=pl.Datetime("us"))
    for pattern in TIME_FORMATS:
        parsed = plain.str.to_datetime(pattern, strict=False, time_unit="us")
        times = times.fill_null(parsed.dt.replace_time_zone(None))
    return times


def mean_looks(
    y: Vector, is_test: Mask, ends: Mapping[int, int], *, min_n: int, var_floor: float
) -> list[LookStats]:
    """The looks of a mean.

    Args:
        y: Outcomes of both arms in stream order, shape (n,).
        is_test: Shape (n,).
        ends: For each planned look, how many of these rows it sees.
        min_n: Rows that each arm needs.
        var_floor: A look whose variances are both at or below it has no contrast.
    """

    def stats(look: LookStats, control: ArmMoments, test: ArmMoments) -> LookStats:
        variances = control.variance("y"), test.variance("y")
        if max(variances) <= var_floor:
            return replace(look, reason="ZERO_VARIANCE")
        return _with_contrast(look, compare_means(control, test), variances)

    def mean(arm: ArmMoments) -> float | None:
        return arm.mean("y") if arm.n else None

    return _looks({"y": y}, is_test, ends, min_n=min_n, stats=stats, mean=mean)


def ratio_looks(
    num: Vector,
    den: Vector,
    is_test: Mask,
    ends: Mapping[int, int],
    *,
    min_n: int,
    var_floor: float,
) -> list[LookStats]:
    """The looks of a ratio of totals; each has the ratios of its own rows.

    Args:
        num: Numerators of both arms in stream order, shape (n,).
        den: Denominators, none negative.
        is_test: Shape (n,).
        ends: For each planned look, how many of these rows it sees.
        min_n: Rows that each arm needs.
        var_floor: A look whose variances are both at or below it has no contrast.
    """

    def stats(look: LookStats, control: ArmMoments, test: ArmMoments) -> LookStats:
        contrast = compare_ratios(control, test)
        variances = contrast.variance_control * control.n, contrast.variance_treatment * test.n
        if max(variances) <= var_floor:
            return replace(look, reason="ZERO_VARIANCE")
        return _with_contrast(look, contrast, variances)

    def mean(arm: ArmMoments) -> float | None:
        total = arm.mean("denominator") if arm.n else 0.0
        return arm.mean("numerator") / total if total else None

    columns = {"numerator": num, "denominator": den}
    return _looks(columns, is_test, ends, min_n=min_n, stats=stats, mean=mean)


def _looks(
    columns: Mapping[str, Vector],
    is_test: Mask,
    ends: Mapping[int, int],
    *,
    min_n: int,
    stats: Callable[[LookStats, ArmMoments, ArmMoments], LookStats],
    mean: Callable[[ArmMoments], float | None],
) -> list[LookStats]:
    """Merge the rows between looks into both arms, look by look."""
    names = tuple(columns)
    arms = [ArmMoments.empty(names), ArmMoments.empty(names)]
    looks = []
    for (_, start), (planned, end) in pairwise([(0, 0), *ends.items()]):
        part = is_test[start:end]
        for index, mask in enumerate((~part, part)):
            new = {name: values[start:end][mask] for name, values in columns.items()}
            arms[index] += ArmMoments.from_arrays(**new)
        control, test = arms
        look = LookStats(
            look_n=planned,
            n_control=control.n,
            n_test=test.n,
            mean_control=mean(control),
            mean_test=mean(test),
        )
        smallest = min(control.n, test.n)
        if smallest < max(min_n, SMALLEST_ARM):
            look = replace(look, reason="N_TOO_SMALL" if smallest else "EMPTY_ARM")
        else:
            try:
                look = stats(look, control, test)
            except EstimationError as error:
                look = replace(look, reason=error.code)
        looks.append(look)
    return looks


def _with_contrast(
    look: LookStats, contrast: Contrast, variances: tuple[float, float]
) -> LookStats:
    difference, relative = contrast.difference, contrast.relative
    return replace(
        look,
        var_control=variances[0],
        var_test=variances[1],
        diff=difference.estimate,
        se=difference.std_error,
        df=difference.degrees_of_freedom,
        rel_lift=relative.estimate if relative else None,
        rel_se=relative.std_error if relative else None,
    )


def nearly_normal_looks(
    looks: Sequence[LookStats], ends: Mapping[int, int], scores: Callable[[int], Vector]
) -> list[LookStats]:
    """Take the contrast from looks that are too early for a confidence sequence.

    n ≥ 355 skewness² for one mean says that the mean's own skewness is at most 1/√355. Here that
    is asked of the difference, by the rows so far: two equal arms cancel most of it.

    Args:
        looks: In order.
        ends: For each planned look, how many of the rows it sees.
        scores: From a number of rows to the influence scores of their contrast.

    References:
        METHODS 8.8; Kohavi et al. 2014.
    """
    judged = []
    for look in looks:
        reason = None
        if look.reason is None and min(look.n_control, look.n_test) < SEQUENCE_ARM:
            reason = "N_TOO_SMALL"
        elif look.reason is None:
            found = scores(ends[look.look_n])
            skewness = float((found**3).sum()) / float((found**2).sum()) ** 1.5
            reason = NOT_NEARLY_NORMAL if abs(skewness) > MAX_SKEWNESS else None
        if reason is not None:
            look = replace(  # noqa: PLW2901
                look, diff=None, se=None, df=None, rel_lift=None, rel_se=None, reason=reason
            )
        judged.append(look)
    return judged


def seen_rows(rows: NDArray[np.int64], looks: Sequence[int], n_stream: int) -> dict[int, int]:
    """How many of the kept rows each look sees; looks beyond the stream are left out.

    Args:
        rows: Positions of the kept rows in the stream, increasing.
        looks: Planned looks.
        n_stream: Rows of the stream.

    Examples:
        >>> seen_rows(np.array([0, 2, 3]), [2, 4, 9], 5)
        {2: 1, 4: 3}
    """
    return {n: int(np.searchsorted(rows, n)) for n in looks if n <= n_stream}
