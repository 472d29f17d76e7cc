import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.stats.design.duration import days_left, duration_days
from experiments_dagster.stats.design.power import mean_power
from experiments_dagster.stats.errors import EstimationError

# Half of 2,000 users come on a given day, always the same kind: 1000, 1500, 1750, ...
RETURNING = [2000 * (1 - 0.5**day) for day in range(1, 22)]


def by_hand(accrual, target, window, min_runtime=14, max_runtime=56):
    """Day by day, the slow way, inside the history."""
    for day in range(7, max_runtime + 1, 7):
        mature = accrual[day - window - 1] if day > window else 0
        if day >= min_runtime and mature >= target:
            return day
    return None


@given(
    st.lists(st.integers(0, 500), min_size=60, max_size=60),
    st.integers(1, 12_000),
    st.integers(0, 20),
    st.integers(1, 30),
)
def test_agrees_with_counting_day_by_day(new_units, n, window, min_runtime):
    accrual = np.cumsum(new_units).tolist()
    found = duration_days(accrual, n, window, min_runtime=min_runtime)
    assert found.days == by_hand(accrual, 1.1 * n * (1 - 1e-9), window, min_runtime)
    assert not found.is_extrapolated
    assert (found.status == "ok") == (found.days is not None)
    if found.days is not None:
        assert found.days % 7 == 0
        assert found.days >= min_runtime
        assert found.n_at_end >= found.n_target * (1 - 1e-9)


def test_a_daily_rate_by_the_published_formula():
    # ceil(buffer·n/r) = ceil(1.1·10000/400) = 28 days, which are four weeks.
    found = duration_days(400, 10_000, 0)
    assert found.days == 28
    # 27.5 days of accrual and a window of seven: day 35 has 28 complete days.
    assert duration_days(400, 10_000, 7).days == 35
    assert duration_days(400, 10_000, 8).days == 42
    assert duration_days(400, 10_000, 0, buffer=1.0).days == 28
    assert duration_days(400, 9_800, 0, buffer=1.0).days == 28
    assert found.is_extrapolated


def test_returning_units_take_longer_than_their_first_day_suggests():
    at_first_day_rate = duration_days(1000, 1900, 0, buffer=1.0, min_runtime=1)
    assert at_first_day_rate.days == 7
    # The same audience at a window: 1,990 of the 2,000 need eight days of accrual.
    assert duration_days(RETURNING, 1990, 0, buffer=1.0, min_runtime=1).days == 14
    never = duration_days(RETURNING, 2100, 0, buffer=1.0)
    assert never.status == "NOT_FEASIBLE"
    # 0.017 users a day in the last week of history go on for five weeks.
    assert never.n_at_end == pytest.approx(2000.6, abs=0.01)


def test_beyond_the_history_the_last_week_goes_on():
    accrual = [500.0 * day for day in range(1, 8)] + [3500 + 100.0 * day for day in range(1, 8)]
    found = duration_days(accrual, 6000, 0, buffer=1.0)
    # 4,200 by day 14 and 100 a day since: 1,800 more need 18 days, day 32.
    assert found.days == 35
    assert found.n_at_end == 4200 + 21 * 100
    assert found.is_extrapolated
    assert not duration_days(accrual, 4000, 0, buffer=1.0).is_extrapolated
    # The wrong twin, the mean rate of the whole history, would promise an earlier week.
    assert duration_days(accrual[-1] / 14, 6000, 0, buffer=1.0).days == 21


def test_limits_are_whole_weeks():
    assert duration_days(1e9, 10, 0).days == 14
    assert duration_days(1e9, 10, 0, min_runtime=15).days == 21
    assert duration_days(1e9, 10, 0, min_runtime=1).days == 7
    assert duration_days(1, 1e9, 0, max_runtime=60).ceiling_days == 56


def test_not_feasible_says_what_the_ceiling_detects():
    def mde(n):
        return mean_power(sd=10, n_total=n, power=0.8).effect

    found = duration_days(100, 50_000, 6, mde_of=mde)
    assert (found.status, found.days, found.ceiling_days) == ("NOT_FEASIBLE", None, 56)
    assert found.n_at_end == 100 * 50
    # The buffer is not part of what can be counted on.
    assert found.mde_at_ceiling == pytest.approx(mde(5000 / 1.1))
    assert duration_days(100, 50_000, 6).mde_at_ceiling is None
    nobody = duration_days(0.0, 50_000, 6, mde_of=mde)
    assert (nobody.n_at_end, nobody.mde_at_ceiling) == (0.0, None)
    assert duration_days(400, 1000, 0, mde_of=mde).mde_at_ceiling is None


def test_a_window_longer_than_the_runtime():
    found = duration_days(1000, 10, 60)
    assert (found.status, found.n_at_end) == ("NOT_FEASIBLE", 0.0)


@given(st.integers(1, 5000), st.integers(0, 10), st.integers(1, 40))
def test_days_left_are_the_first_on_which_all_are_mature(n, window, days):
    accrual = [25.0 * day for day in range(1, days + 1)]
    left = days_left(accrual, n, window)
    entered = math.ceil(n / 25)
    assert left == max(entered + window - days, 0)


def test_days_left_without_new_units():
    assert days_left([100.0] * 10, 500, 0) is None
    assert days_left([100.0] * 10, 100, 12) == 3
    assert days_left(100, 500, 7) == 12


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n_needed": 0}, "n_needed is 0"),
        ({"n_needed": math.nan}, "n_needed is nan"),
        ({"window_days": -1}, "window_days is -1"),
        ({"buffer": 0.9}, "buffer is 0.9"),
        ({"min_runtime": 0}, "min_runtime is 0"),
        ({"max_runtime": 10}, "max_runtime is 10"),
        ({"accrual": -1.0}, "accrual is -1"),
        ({"accrual": math.nan}, "accrual is nan"),
        ({"accrual": [5, 7, 6]}, "accrual decreases on day 3"),
        ({"accrual": [-5, 7, 8]}, "accrual decreases on day 1"),
    ],
)
def test_refuses_with_the_field(arguments, text):
    with pytest.raises(ValueError, match=text):
        duration_days(**{"accrual": [5, 6], "n_needed": 10, "window_days": 7, **arguments})


@pytest.mark.parametrize(
    ("accrual", "code"), [([], "N_TOO_SMALL"), ([1.0, math.nan], "NON_FINITE_INPUT")]
)
def test_not_estimable(accrual, code):
    for call in (duration_days, days_left):
        with pytest.raises(EstimationError) as error:
            call(accrual, 10, 7)
        assert error.value.code == code
