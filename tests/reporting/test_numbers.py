"""Formats: three significant digits, signs, and reasons instead of numbers."""

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.reporting import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (9.996, "10.0"), (12.34, "12.3"), (999.6, "1,000"),
        (1234567.0, "1,234,567"), (-0.0456, "−0.0456"), (1.5e-7, "1.50e-7"), (2e20, "2.00e+20"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert numbers.number(value) == text


@given(st.floats(1e-9, 1e18))
def test_number_keeps_three_digits(value):
    text = numbers.number(value).replace(",", "")
    # Half a unit in the third digit, plus the rounding of the float itself.
    assert float(text) == pytest.approx(value, rel=5.01e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="pass None with a reason"):
        numbers.number(bad)


def test_percentages_have_their_sign():
    assert numbers.lift(0.123456) == "+12.3%"
    assert numbers.lift(-0.00123) == "−0.123%"
    assert numbers.share(0.5) == "50%"
    assert numbers.share(0.3333) == "33.3%"
    assert numbers.points(0.0123) == "+1.23 pp"
    assert numbers.declared(0.05) == "+5%"
    assert numbers.declared(-0.125) == "−12.5%"


def test_small_values_do_not_become_zero():
    assert numbers.p_value(1e-12) == "< 0.001"
    assert numbers.p_value(0.0496) == "0.0496"
    assert numbers.alpha(1e-9) == "< 0.0001"
    assert numbers.alpha(0.05) == "0.05"
    assert numbers.alpha(0.0) == "0"
    assert numbers.probability(0.9999) == "> 99.9%"
    assert numbers.e_value(math.log(123.0)) == "123"
    assert numbers.e_value(500.0) == "10^217.1"


def test_absent_numbers_show_why():
    assert numbers.optional(None, numbers.lift, "IMMATURE") == (
        "– (no unit has its whole window observed)"
    )
    assert numbers.optional(0.0, numbers.lift, "IMMATURE") == "0%"
    assert numbers.missing(None) == "–"
    assert numbers.interval(0.1, None, numbers.lift) is None


def test_dates_and_counts():
    assert numbers.day(dt.date(2017, 9, 2)) == "2 Sep 2017"
    assert numbers.moment("2017-09-12T04:00:00+00:00", "America/New_York") == "12 Sep 2017, 00:00"
    assert numbers.count(1234567) == "1,234,567"
    assert numbers.plural(1, "unit") == "1 unit"


def test_sentence_ends_once():
    assert numbers.sentence("it is so") == "It is so."
    assert numbers.sentence("sample_ratio: why?") == "sample_ratio: why?"
