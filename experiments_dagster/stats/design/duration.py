"""How long an experiment must run: from the accrual of distinct units to whole weeks (METHODS 6.5).

U(d) is the number of distinct units seen by the end of day d. After D days the units that entered
by day D − w have their whole window of w days, so the duration is

    the smallest D in {7, 14, 21, ...}, D ≥ min_runtime, with U(D − w) ≥ buffer·n

Between min_runtime and max_runtime only whole weeks count, so that every weekday weighs the same.

Beyond the history U goes on at the mean daily increment of its last week. Where U is concave, as
when later days bring more and more units that were there before, that is too fast: days found there
are marked `is_extrapolated` and are a lower bound. A bare daily rate assumes that nobody returns.

References:
    Kohavi, Tang & Xu 2020, ch. 17; Richardson et al. 2022 (AISTATS) on the activity of users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.design.power_solver import DEFAULT_BUFFER, check_field
from experiments_dagster.stats.errors import EstimationError

WEEK = 7
MIN_RUNTIME, MAX_RUNTIME = 14, 56  # days
ROUNDING = 1e-9  # relative error of the accrual that must not cost a week

Vector = NDArray[np.float64]
Accrual = Callable[[Vector], Vector]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Days that an experiment needs, or what it can reach instead.

    Args:
        status: `NOT_FEASIBLE` where the longest runtime is too short.
        days: Whole weeks; None where not feasible.
        n_target: Units needed, buffer included.
        n_at_end: Units with complete windows after `days`, or at the ceiling where not feasible.
        ceiling_days: Longest runtime, in whole weeks.
        mde_at_ceiling: Effect that the ceiling can detect; only where not feasible, and None where
            the caller gave no function or no effect is detectable.
        is_extrapolated: The numbers go beyond the history: days are a lower bound.
    """

    status: Literal["ok", "NOT_FEASIBLE"]
    days: int | None
    n_target: float
    n_at_end: float
    ceiling_days: int
    mde_at_ceiling: float | None
    is_extrapolated: bool


def duration_days(
    accrual: Sequence[float] | float,
    n_needed: float,
    window_days: int,
    *,
    buffer: float = DEFAULT_BUFFER,
    min_runtime: int = MIN_RUNTIME,
    max_runtime: int = MAX_RUNTIME,
    mde_of: Callable[[float], float] | None = None,
) -> Duration:
    """Return the smallest number of whole weeks after which enough units are mature.

    Args:
        accrual: Cumulative distinct units by the end of day 1, 2, ...; or one daily rate of new
            units where there is no history.
        n_needed: Units in all groups together, without buffer.
        window_days: Days after entry until the metric of a unit is complete; 0 for none.
        buffer: Multiplier of `n_needed`.
        min_runtime: Shortest runtime in days, taken up to whole weeks.
        max_runtime: Longest runtime in days, taken down to whole weeks.
        mde_of: Detectable effect from a total number of units, for the ceiling; it gets the units
            divided by the buffer.

    Raises:
        EstimationError: N_TOO_SMALL where the history has no days.
        ValueError: A field is outside its range, or the accrual decreases.

    References:
        METHODS 6.5.

    Examples:
        >>> duration_days([1000, 1800, 2500, 3100, 3600, 4000, 4300], 5000, 7).days
        21
        >>> duration_days(100.0, 10_000, 0).status
        'NOT_FEASIBLE'
    """
    check_field("n_needed", float(n_needed), n_needed > 0, "> 0")
    check_field("window_days", window_days, window_days >= 0, ">= 0")
    check_field("buffer", float(buffer), buffer >= 1, ">= 1")
    weeks = _weeks(min_runtime, max_runtime)
    units_by, history = _accrual(accrual)
    target = buffer * n_needed
    mature_days = weeks - window_days
    mature = units_by(mature_days)
    reached = np.flatnonzero(mature >= target * (1 - ROUNDING))
    at = int(reached[0]) if reached.size else -1
    n_at_end, is_feasible = float(mature[at]), bool(reached.size)
    return Duration(
        status="ok" if is_feasible else "NOT_FEASIBLE",
        days=int(weeks[at]) if is_feasible else None,
        n_target=target,
        n_at_end=n_at_end,
        ceiling_days=int(weeks[-1]),
        mde_at_ceiling=None if is_feasible else _detectable(mde_of, n_at_end / buffer),
        is_extrapolated=bool(mature_days[at] > history),
    )


def days_left(accrual: Sequence[float] | float, n_needed: float, window_days: int) -> int | None:
    """Return the days from the end of the accrual until enough units are mature, mid-run.

    Args:
        accrual: Cumulative distinct units of the running experiment by the end of each day so far;
            or one daily rate, from its start.
        n_needed: Units in all groups together that the plan asks for.
        window_days: Days after entry until the metric of a unit is complete.

    Returns:
        Days, not rounded to weeks; 0 where the plan is reached, None where no new units come.

    Raises:
        EstimationError: N_TOO_SMALL where the history has no days.
        ValueError: A field is outside its range, or the accrual decreases.

    References:
        METHODS 6.7.

    Examples:
        >>> days_left([100, 190, 270], 500, 7)
        10
    """
    check_field("n_needed", float(n_needed), n_needed > 0, "> 0")
    check_field("window_days", window_days, window_days >= 0, ">= 0")
    units_by, history = _accrual(accrual)
    today = float(units_by(np.array([float(history)]))[0])
    if today >= n_needed:
        days = np.arange(history + 1.0)
        entered = int(np.flatnonzero(units_by(days) >= n_needed * (1 - ROUNDING))[0])
        return max(entered + window_days - history, 0)
    rate = float(units_by(np.array([history + 1.0]))[0]) - today
    if rate <= 0:
        return None
    return math.ceil((n_needed - today) / rate * (1 - ROUNDING)) + window_days


def _weeks(min_runtime: int, max_runtime: int) -> Vector:
    """Runtimes in whole weeks between the two limits."""
    check_field("min_runtime", min_runtime, min_runtime >= 1, ">= 1")
    first, last = math.ceil(min_runtime / WEEK), max_runtime // WEEK
    if last < first:
        msg = f"max_runtime is {max_runtime}, need a whole week at or after day {min_runtime}"
        raise ValueError(msg)
    return WEEK * np.arange(float(first), last + 1)


def _accrual(accrual: Sequence[float] | float) -> tuple[Accrual, int]:
    """U as a function of days, and the days of history behind it."""
    if isinstance(accrual, int | float):
        rate = float(accrual)
        check_field("accrual", rate, rate >= 0, "a daily rate >= 0")
        return (lambda days: rate * np.maximum(days, 0)), 0
    units = _check_history(accrual)
    history = len(units)
    days_known, known = np.arange(history + 1.0), np.concatenate(([0.0], units))
    last = min(WEEK, history)
    increment = (known[-1] - known[-1 - last]) / last

    def units_by(days: Vector) -> Vector:
        inside: Vector = np.interp(days, days_known, known)
        inside += increment * np.maximum(days - history, 0)
        return inside

    return units_by, history


def _check_history(accrual: ArrayLike) -> Vector:
    units = np.asarray(accrual, dtype=np.float64)
    if units.ndim != 1 or not units.size:
        raise EstimationError("N_TOO_SMALL", "accrual", "no days of history")
    if not np.isfinite(units).all():
        raise EstimationError("NON_FINITE_INPUT", "accrual")
    if units[0] < 0 or (np.diff(units) < 0).any():
        day = 1 + int(np.argmin(np.diff(units, prepend=0.0)))
        msg = f"accrual decreases on day {day}, need cumulative counts of distinct units"
        raise ValueError(msg)
    return units


def _detectable(mde_of: Callable[[float], float] | None, n: float) -> float | None:
    """The detectable effect of so many units, or None: too few units are a ValueError there."""
    if mde_of is None:
        return None
    try:
        return float(mde_of(n))
    except ValueError:
        return None
