"""The event-study picture: one mark per period, the reference apart, nothing off the page."""

import math

import pytest
from svg_reading import HOSTILE, LONG, described, overlapping, read, shapes, words

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.event_study_charts import PeriodEstimate, event_study_chart
from experiments_dagster.reporting.numbers import lift

WIDTHS = [780, 400]


def make_row(period, estimate=1.0, half=0.5, band=0.8):
    return PeriodEstimate(
        period=period,
        estimate=estimate,
        ci_low=estimate - half,
        ci_high=estimate + half,
        band_low=None if band is None else estimate - band,
        band_high=None if band is None else estimate + band,
    )


def make_rows(first=-6, last=5, **settings):
    return [
        make_row(k, estimate=math.sin(k), **settings) for k in range(first, last + 1) if k != -1
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_period_has_its_dot_interval_and_band(width):
    root = read(event_study_chart(make_rows(), title="study", unit="USD", width=width))
    assert len(shapes(root, "circle")) == 11 + 1  # the key of the legend
    assert len(shapes(root, "rect", fill=svg.BAR)) == 11 + 1
    assert len(shapes(root, "line", stroke=svg.INK)) == 11 + 1
    assert len(shapes(root, "polygon", fill=svg.PAPER)) == 2  # reference and its key
    said = words(root)
    assert "reference period −1" in said
    assert "95% band for all periods jointly" in said
    assert "estimate (USD)" in said
    assert not overlapping(root)


def test_the_start_lies_between_the_last_lead_and_the_first_lag():
    root = read(event_study_chart(make_rows(), title="study"))
    (start,) = shapes(root, "line", stroke=svg.RED)
    dots = sorted(float(dot.get("cx")) for dot in shapes(root, "circle")[1:])
    (diamond,) = shapes(root, "polygon", fill=svg.PAPER)[1:]
    reference = float(diamond.get("points").split()[1].split(",")[0])
    assert dots[4] < reference < float(start.get("x1")) < dots[5]


def test_the_reference_stands_at_zero():
    root = read(event_study_chart(make_rows(), title="study"))
    (zero,) = shapes(root, "line", stroke=svg.MUTED)
    diamond = shapes(root, "polygon", fill=svg.PAPER)[1]
    left = float(diamond.get("points").split()[0].split(",")[1])
    assert left == pytest.approx(float(zero.get("y1")), abs=0.02)


def test_without_reference_or_band_neither_is_named():
    rows = [make_row(k, band=None) for k in range(-3, 3)]
    root = read(event_study_chart(rows, title="study", reference=None))
    assert not shapes(root, "rect", fill=svg.BAR)
    assert not shapes(root, "polygon")
    said = " ".join(words(root))
    assert "reference" not in said
    assert "band" not in said


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("span", [(0, 0), (-1000, 1000), (-60, 60)])
def test_one_and_very_many_periods(width, span):
    root = read(event_study_chart(make_rows(*span), title="study", width=width))
    assert not overlapping(root)


@pytest.mark.parametrize("reference", [-1, None])
def test_one_period(reference):
    drawing = event_study_chart([make_row(0)], title="study", reference=reference, shown=lift)
    assert "+100%" in words(read(drawing))


def test_a_huge_interval_is_cut_and_carries_arrows():
    calm = read(event_study_chart(make_rows(), title="study"))
    wild = read(event_study_chart([*make_rows(), make_row(6, half=80, band=90)], title="study"))
    # Two arrows of the interval and two of the band.
    assert len(shapes(wild, "polygon")) == len(shapes(calm, "polygon")) + 4


def test_all_negative_estimates_keep_the_zero_line():
    root = read(event_study_chart([make_row(k, estimate=-50.0) for k in (-2, 0, 1)], title="study"))
    assert shapes(root, "line", stroke=svg.MUTED)
    assert "0" in words(root)


@pytest.mark.parametrize("name", [HOSTILE, LONG])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_stay_text_on_the_page(name, width):
    drawing = event_study_chart(
        make_rows(), title=name, unit=name, period_name=name, note=name, width=width
    )
    assert not overlapping(read(drawing))


def test_the_description_says_leads_lags_and_the_last_estimate():
    rows = [make_row(k, estimate=k / 10) for k in (3, -2, 0)]
    assert described(read(event_study_chart(rows, title="study"))) == (
        "1 period before the start and 2 from it on, reference period −1; "
        "period 3: +0.300, −0.200 to +0.800."
    )


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        event_study_chart([], title="study")
    with pytest.raises(ValueError, match="a value to draw is -inf"):
        event_study_chart([make_row(0, band=math.inf)], title="study")
    with pytest.raises(ValueError, match="period 2 is there twice"):
        event_study_chart([make_row(2), make_row(2)], title="study")
    with pytest.raises(ValueError, match="period -1 is there twice"):
        event_study_chart([make_row(-1)], title="study")


def test_the_picture_never_calls_an_estimate_an_effect():
    assert "effect" not in event_study_chart(make_rows(), title="study").lower()
