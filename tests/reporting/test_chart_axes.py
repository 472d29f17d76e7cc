"""Axes, labels, legends and notes: what every chart relies on."""

import itertools

import pytest
from svg_reading import LONG, overlapping, read

from experiments_dagster.reporting import axes
from experiments_dagster.reporting.axes import Key
from experiments_dagster.reporting.svg import Drawing, Scale, text_width

RANGES = [(0, 1), (-1, 1), (5, 5), (0, 0), (-3e-9, 2e-9), (1e9, 1e9 + 40), (-4e6, 9e6), (99, 101)]


@pytest.mark.parametrize(("low", "high"), [*RANGES, (1e15, 1e15), (-7e12, 1e13), (0.1, 0.10001)])
def test_ticks_are_distinct_inside_and_at_least_two(low, high):
    axis = axes.make_axis(low, high)
    assert axis.low <= low <= high <= axis.high
    assert len(axis.ticks) >= 2
    assert all(axis.low - 1e-9 * abs(axis.low) <= value <= axis.high for value in axis.ticks)
    assert len(set(axis.words)) == len(axis.words)
    assert max(map(len, axis.words)) <= 16


def test_words_of_one_axis_have_the_same_decimals():
    assert axes.round_words([-0.5, 0.0, 0.5, 1.0]) == ["−0.5", "0", "0.5", "1.0"]
    assert axes.round_words([990.0, 1000.0, 1010.0]) == ["990", "1,000", "1,010"]
    assert axes.round_words([0.0, 0.1, 0.2, 0.30000000000000004])[-1] == "0.3"
    assert axes.round_words([-1.5e9, 0.0, 1.5e9]) == ["−1.5bn", "0", "1.5bn"]
    assert axes.round_words([-2e-7, 0.0, 2e-7]) == ["−2e-7", "0", "2e-7"]


@pytest.mark.parametrize("n", [1, 2, 31, 400, 100_000])
@pytest.mark.parametrize("spacing", [0.002, 1.0, 8.0, 80.0])
def test_labels_keep_their_distance(n, spacing):
    labels = [f"week {k}" for k in range(n)]
    first, stride = axes.choose_labels(labels, spacing)
    shown = range(first, n, stride)
    assert len(shown) >= 1
    if len(shown) > 1:
        assert stride * spacing >= text_width(labels[-1], axes.SMALL)


@pytest.mark.parametrize("pixels", [120, 240, 700])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2e6, 3e6), (1e9, 1e9 + 40), (0, 3e-4)])
def test_words_below_a_panel_do_not_touch(pixels, low, high):
    axis = axes.side_axis(low, high, pixels=pixels)
    x = axis.scale(0, pixels)
    places = [x(value) for value in axis.ticks]
    assert all(b - a > axis.room for a, b in itertools.pairwise(places))


def test_years_fall_on_round_ones():
    years = [str(year) for year in range(1983, 2021)]
    first, stride = axes.choose_labels(years, 10.0)
    assert all(int(year) % stride == 0 for year in years[first::stride])


def test_dates_are_as_dense_as_their_words_allow():
    labels = [f"{1 + k % 28} Jan 2026" for k in range(400)]
    _, stride = axes.choose_labels(labels, 0.8)
    assert stride * 0.8 < 1.1 * (text_width(labels[10], axes.SMALL) + 18)


def test_wrapped_words_fit_and_none_is_lost():
    lines = axes.wrap(LONG, 11, 200)
    assert all(text_width(line, 11) <= 200 for line in lines)
    assert " ".join(lines).split() == LONG.split()
    assert axes.wrap("", 11, 200) == []


@pytest.mark.parametrize("width", [780, 400])
def test_a_legend_wraps_and_says_where_it_ends(width):
    keys = [Key(mark="dot", words=f"entry number {k}") for k in range(12)]
    drawing = Drawing(width, 0)
    bottom = axes.legend(drawing, keys)
    axes.finish(drawing, bottom, ["note", None])
    root = read(drawing.render(title="legend", description="legend"))
    assert not overlapping(root)
    assert float(root.get("height")) > bottom


def test_a_line_beyond_the_scale_is_cut_where_it_crosses():
    drawing, y = Drawing(100, 100), Scale(0, 10, 100, 0)
    values = [5, 15, 15, 5, -5, 5]
    axes.bounded_line(drawing, list(zip(range(6), values, strict=True)), y, stroke="#000", width=1)
    runs = [part.split('points="')[1].split('"')[0].split() for part in drawing.parts]
    assert runs == [["0,50", "0.5,0"], ["2.5,0", "3,50", "3.5,100"], ["4.5,100", "5,50"]]


def test_a_line_within_the_scale_is_drawn_whole():
    drawing, y = Drawing(100, 100), Scale(0, 10, 100, 0)
    places = [(float(k), value) for k, value in enumerate((0, 10, 10, 3))]
    axes.bounded_line(drawing, places, y, stroke="#000", width=1)
    assert len(drawing.parts) == 1
    assert 'points="0,100 1,0 2,0 3,70"' in drawing.parts[0]


@pytest.mark.parametrize("limits", [(2, 8), (-5, 8), (2, 20), (-5, 20)])
def test_a_whisker_is_cut_at_the_scale(limits):
    drawing = Drawing(100, 100)
    axes.whisker(drawing, 50, limits, Scale(0, 10, 100, 0))
    assert len(drawing.parts) == 1 + (limits[0] < 0) + (limits[1] > 10)
