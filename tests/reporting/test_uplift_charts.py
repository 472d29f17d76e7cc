"""Qini curve, predicted against observed, importance: true to their numbers, on the page."""

import math

import pytest
from svg_reading import HOSTILE, LONG, described, overlapping, read, shapes, words

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.numbers import points
from experiments_dagster.reporting.uplift_charts import (
    MOST_SHOWN,
    CurvePoint,
    EffectBin,
    Importance,
    effect_bin_chart,
    importance_chart,
    qini_chart,
)

WIDTHS = [780, 400]
DEFINITION = "Y_T - Y_C*N_T/N_C (Radcliffe 2007)"
BINS = [
    EffectBin(name=name, n=2100, predicted=0.01 * k, estimate=0.013 * k, low=-0.01, high=0.03 * k)
    for k, name in enumerate(("very low", "low", "medium", "high", "very high"), start=1)
]


def make_curve(n=200, sign=1.0, band=None):
    rows = []
    for k in range(n + 1):
        value = sign * 40 * math.sqrt(k / n)
        low, high = (None, None) if band is None else (value - band, value + band)
        rows.append(CurvePoint(n_targeted=100.0 * k, value=value, low=low, high=high))
    return rows


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_qini_has_its_curve_the_random_line_and_the_definition(width, sign):
    root = read(qini_chart(make_curve(sign=sign), title="qini", definition=DEFINITION, width=width))
    (curve,) = shapes(root, "polyline", stroke=svg.BLUE)
    ends = [tuple(map(float, p.split(","))) for p in curve.get("points").split()]
    (straight,) = shapes(root, "line", stroke_dasharray="5 4")
    assert float(straight.get("x1")) == pytest.approx(ends[0][0], abs=0.02)
    assert float(straight.get("y1")) == pytest.approx(ends[0][1], abs=0.02)
    assert float(straight.get("x2")) == pytest.approx(ends[-1][0], abs=0.02)
    assert float(straight.get("y2")) == pytest.approx(ends[-1][1], abs=0.02)
    assert DEFINITION in " ".join(words(root))
    assert {"0%", "100%"} <= set(words(root))
    assert not overlapping(root)


def test_a_curve_of_many_points_is_thinned_to_pixels_and_keeps_its_peak():
    curve = make_curve(n=50_000)
    peak = CurvePoint(n_targeted=100.0 * 25_000, value=90.0)
    curve[25_000] = peak
    drawing = qini_chart(curve, title="qini", definition=DEFINITION)
    assert len(drawing) < 60_000
    (line,) = shapes(read(drawing), "polyline", stroke=svg.BLUE)
    heights = [float(pair.split(",")[1]) for pair in line.get("points").split()]
    assert heights.index(min(heights)) not in {0, len(heights) - 1}


def test_the_band_is_drawn_only_where_there_is_one():
    with_band = read(qini_chart(make_curve(band=8.0), title="qini", definition=DEFINITION))
    without = read(qini_chart(make_curve(), title="qini", definition=DEFINITION))
    assert "95% pointwise" in words(with_band)
    assert "95% pointwise" not in words(without)


def test_two_points_make_a_curve():
    read(qini_chart(make_curve(n=1), title="qini", definition=DEFINITION))


@pytest.mark.parametrize("width", WIDTHS)
def test_bins_have_a_prediction_and_an_observed_interval_each(width):
    root = read(effect_bin_chart(BINS, title="bins", average=0.03, shown=points, width=width))
    assert len(shapes(root, "circle")) == 5 + 1
    assert len(shapes(root, "polygon", fill=svg.PAPER)) == 5 + 1
    assert "n 2,100" in words(root)
    assert not overlapping(root)


@pytest.mark.parametrize("n", [1, 60])
@pytest.mark.parametrize("width", WIDTHS)
def test_one_bin_and_sixty(n, width):
    bins = [
        EffectBin(name=f"bin {k}", n=10_000, predicted=-0.1, estimate=-0.2, low=-0.4, high=0.0)
        for k in range(n)
    ]
    assert not overlapping(read(effect_bin_chart(bins, title="bins", width=width)))


def test_bins_whose_names_do_not_fit_are_numbered():
    bins = [
        EffectBin(name=f"decile {k}", n=10**9, predicted=0.1, estimate=0.2, low=0.0, high=0.4)
        for k in range(1, 11)
    ]
    root = read(effect_bin_chart(bins, title="bins", width=400))
    said = words(root)
    assert not any(word.startswith("n ") or "…" in word for word in said)
    assert {"2", "10"} <= set(said)
    assert not overlapping(root)


@pytest.mark.parametrize("width", WIDTHS)
def test_importance_bars_have_both_signs_and_intervals(width):
    rows = [
        Importance(name="recency", value=0.004, low=0.001, high=0.007),
        Importance(name="noise", value=-0.001, low=-0.003, high=0.001),
    ]
    root = read(importance_chart(rows, title="who", quantity="rise of the loss", width=width))
    bars = shapes(root, "rect", fill=svg.BAR)[1:]
    sizes = [float(bar.get("width")) for bar in bars]
    assert sizes[0] == pytest.approx(4 * sizes[1], rel=0.01)  # two decimals of a pixel
    assert float(bars[1].get("x")) < float(bars[0].get("x"))
    assert not overlapping(root)


def test_sixty_covariates_are_cut_and_said():
    rows = [Importance(name=f"x{k}", value=1 / (k + 1)) for k in range(60)]
    root = read(importance_chart(rows, title="who", quantity="gain"))
    assert len(shapes(root, "rect", fill=svg.BAR)) == MOST_SHOWN + 1
    assert "and 40 more, at most 0.0476." in words(root)
    assert "interval" not in " ".join(words(root))


@pytest.mark.parametrize("name", [HOSTILE, LONG])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_stay_text_on_the_page(name, width):
    one = EffectBin(name=name, n=10, predicted=0.1, estimate=0.2, low=0.0, high=0.3)
    drawings = [
        qini_chart(make_curve(), title=name, definition=name, quantity=name, width=width),
        effect_bin_chart([one, one], title=name, unit=name, note=name, width=width),
        importance_chart(
            [Importance(name=name, value=1.0)], title=name, quantity=name, width=width
        ),
    ]
    for drawing in drawings:
        assert not overlapping(read(drawing))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        qini_chart([], title="qini", definition=DEFINITION)
    with pytest.raises(ValueError, match="need them rising"):
        qini_chart(make_curve()[::-1], title="qini", definition=DEFINITION)
    with pytest.raises(ValueError, match="need them rising"):
        qini_chart([CurvePoint(n_targeted=0, value=0)], title="qini", definition=DEFINITION)
    with pytest.raises(ValueError, match="nothing to draw"):
        effect_bin_chart([], title="bins")
    with pytest.raises(ValueError, match="is nan"):
        importance_chart([Importance(name="x", value=math.nan)], title="who", quantity="gain")


def test_no_picture_calls_a_difference_an_effect():
    drawings = [
        qini_chart(make_curve(), title="qini", definition=DEFINITION),
        effect_bin_chart(BINS, title="bins", average=0.03),
        importance_chart([Importance(name="x", value=1.0)], title="who", quantity="gain"),
    ]
    assert not any("effect" in drawing.lower() for drawing in drawings)


def test_the_description_holds_the_numbers():
    drawing = effect_bin_chart(BINS[:1], title="bins")
    assert described(read(drawing)) == (
        "very low: predicted +0.0100, observed +0.0130, −0.0100 to +0.0300."
    )
