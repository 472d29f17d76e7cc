"""When to start: Mondays whose whole run stays clear of the periods that a business avoids.

A run meets a period when one day is in both, in whichever year the period lies: those that cross
the year end are looked at from the year before on.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

LOOK_AHEAD_WEEKS = 104
MONTH_DAY = "%m-%d"


@dataclass(frozen=True, slots=True, kw_only=True)
class YearlyPeriod:
    """Days of every year from `first` to `last`, both (month, day) and both avoided.

    A period whose last day comes before its first crosses the year end.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    reason: str

    def meets(self, start: dt.date, end: dt.date) -> bool:
        """Whether a run from `start` to the day before `end` has a day in it."""
        for year in range(start.year - 1, end.year + 1):
            first = _day(year, self.first)
            last = _day(year + (self.last < self.first), self.last)
            if first < end and start <= last:
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProposal:
    """A Monday to start on; the run ends before `end`."""

    start: dt.date
    end: dt.date
    reason: str


def periods_met(
    start: dt.date, end: dt.date, avoided: Sequence[YearlyPeriod]
) -> tuple[YearlyPeriod, ...]:
    """The avoided periods that a run from `start` to the day before `end` meets."""
    return tuple(period for period in avoided if period.meets(start, end))


def propose_starts(
    earliest: dt.date, days: int, avoided: Sequence[YearlyPeriod], *, proposals: int = 3
) -> tuple[StartProposal, ...]:
    """The first Mondays on which a run of so many days meets no avoided period.

    Args:
        earliest: No proposal is before it.
        days: Length of the run, at least 1.
        avoided: Periods of every year.
        proposals: How many to make; fewer where two years have no more.

    Raises:
        ValueError: The run has no day.
    """
    if days < 1:
        msg = f"days must be at least 1, got {days}"
        raise ValueError(msg)
    found: list[StartProposal] = []
    monday = earliest + dt.timedelta(days=-earliest.weekday() % 7)
    missed: list[str] = []
    for week in range(LOOK_AHEAD_WEEKS):
        start = monday + dt.timedelta(weeks=week)
        end = start + dt.timedelta(days=days)
        met = periods_met(start, end, avoided)
        if met:
            missed += [period.reason for period in met if period.reason not in missed]
            continue
        found.append(StartProposal(start=start, end=end, reason=_reason(week, missed)))
        missed = []
        if len(found) == proposals:
            break
    return tuple(found)


def _reason(week: int, missed: Sequence[str]) -> str:
    if week == 0:
        return "earliest Monday"
    return f"first Monday clear of {', '.join(missed)}" if missed else "one Monday later"


def _day(year: int, month_day: tuple[int, int]) -> dt.date:
    """The day in a year; 29 February is the 28th where there is none."""
    month, day = month_day
    return dt.date(year, month, min(day, calendar.monthrange(year, month)[1]))
