"""Mondays clear of avoided periods, across year ends and leap days."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.design.start_dates import (
    LOOK_AHEAD_WEEKS,
    YearlyPeriod,
    periods_met,
    propose_starts,
)

DAY = dt.timedelta(days=1)
YEAR_END = YearlyPeriod(first=(12, 10), last=(1, 10), reason="year end")
SALES = YearlyPeriod(first=(11, 20), last=(12, 5), reason="November sales")
LEAP = YearlyPeriod(first=(2, 29), last=(2, 29), reason="leap day")

month_days = st.dates(dt.date(2000, 1, 1), dt.date(2000, 12, 31)).map(lambda d: (d.month, d.day))
periods = st.builds(YearlyPeriod, first=month_days, last=month_days, reason=st.just("p"))


def is_avoided(day, period):
    """Day by day, without intervals."""
    at = (day.month, day.day)
    if period.first <= period.last:
        return period.first <= at <= period.last
    return at >= period.first or at <= period.last


@given(
    earliest=st.dates(dt.date(2024, 1, 1), dt.date(2030, 12, 31)),
    days=st.integers(1, 60),
    avoided=st.lists(periods, max_size=3),
)
def test_no_day_of_a_proposal_is_avoided_and_no_monday_before_it_was_free(earliest, days, avoided):
    # 29 February is the 28th in other years, which the day-by-day reading does not know.
    avoided = [p for p in avoided if (2, 29) not in (p.first, p.last)]
    found = propose_starts(earliest, days, avoided)

    def is_free(start):
        run = [start + k * DAY for k in range(days)]
        return not any(is_avoided(day, period) for day in run for period in avoided)

    first = earliest + (-earliest.weekday() % 7) * DAY
    mondays = [first + 7 * k * DAY for k in range(LOOK_AHEAD_WEEKS)]
    assert [p.start for p in found] == [monday for monday in mondays if is_free(monday)][:3]
    assert all(proposal.end - proposal.start == days * DAY for proposal in found)


def test_a_run_into_january_meets_the_period_that_began_in_december():
    start = dt.date(2027, 1, 4)
    assert periods_met(start, start + 14 * DAY, [YEAR_END, SALES]) == (YEAR_END,)
    assert propose_starts(start, 14, [YEAR_END, SALES])[0].start == dt.date(2027, 1, 11)


def test_a_run_from_december_over_the_year_end_is_not_proposed():
    (first, *_) = propose_starts(dt.date(2026, 11, 16), 14, [YEAR_END, SALES])
    assert first.start == dt.date(2027, 1, 11)
    assert first.reason == "first Monday clear of November sales, year end"


def test_the_earliest_monday_is_the_day_itself():
    first, second, third = propose_starts(dt.date(2026, 3, 2), 7, [])
    assert [p.start for p in (first, second, third)] == [
        dt.date(2026, 3, 2),
        dt.date(2026, 3, 9),
        dt.date(2026, 3, 16),
    ]
    assert (first.reason, second.reason) == ("earliest Monday", "one Monday later")


def test_a_leap_day_is_the_28th_in_other_years():
    assert LEAP.meets(dt.date(2027, 2, 28), dt.date(2027, 3, 1))
    assert not LEAP.meets(dt.date(2028, 2, 28), dt.date(2028, 2, 29))
    assert LEAP.meets(dt.date(2028, 2, 29), dt.date(2028, 3, 1))


def test_where_everything_is_avoided_nothing_is_proposed():
    always = YearlyPeriod(first=(1, 1), last=(12, 31), reason="all year")
    assert propose_starts(dt.date(2026, 3, 2), 7, [always]) == ()


def test_a_run_has_a_day():
    with pytest.raises(ValueError, match="days must be at least 1, got 0"):
        propose_starts(dt.date(2026, 3, 2), 0, [])
