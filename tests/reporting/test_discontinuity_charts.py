"""The discontinuity in pictures: bins that respect the cutoff, fits that end at it."""

import math

import numpy as np
import pytest
from svg_reading import HOSTILE, LONG, described, overlapping, read, shapes, words

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.discontinuity_charts import (
    BinnedMean,
    CountBin,
    binned_means,
    count_bins,
    density_chart,
    discontinuity_chart,
)

WIDTHS = [780, 400]
RNG = np.random.default_rng(5)
X = RNG.normal(3.0, 10.0, size=3000)
Y = 50 + 0.4 * X + 7 * (X >= 2.5) + RNG.normal(0, 9, size=3000)


def draw(bins=None, cutoff=2.5, width=780, **settings):
    given = {"title": "jump", "running": "margin", "outcome": "vote share"} | settings
    return discontinuity_chart(
        binned_means(X, Y, 2.5) if bins is None else bins,
        cutoff,
        left=[(-10.0, 46.0), (cutoff, 51.0)],
        right=[(cutoff, 58.0), (15.0, 63.0)],
        width=width,
        **given,
    )


def test_binned_means_hold_everybody_once_and_respect_the_cutoff():
    bins = binned_means(X, Y, 2.5, n_bins=20)
    assert sum(one.n for one in bins) == len(X)
    assert sum(one.n for one in bins if one.x >= 2.5) == (X >= 2.5).sum()
    weighted = sum(one.n * one.mean for one in bins)
    # Sums of 3,000 doubles in another order.
    assert weighted == pytest.approx(Y.sum(), rel=1e-12)
    assert [one.x for one in bins] == sorted(one.x for one in bins)


def test_the_farthest_bin_holds_its_own_mean():
    bins = binned_means(X, Y, 2.5, n_bins=10)
    edge = X.max() - (X.max() - 2.5) / 10
    last = edge <= X
    assert bins[-1].n == last.sum()
    assert bins[-1].mean == pytest.approx(Y[last].mean(), rel=1e-12)


def test_a_bin_across_the_cutoff_would_mix_both_sides():
    """Both sides in one bin give a mean that neither side has."""
    x, y = [-0.01, 0.0], [0.0, 10.0]
    assert [one.mean for one in binned_means(x, y, 0.0, n_bins=1)] == [0.0, 10.0]
    assert len(binned_means(x, y, -1.0, n_bins=1)) == 1


def test_count_bins_have_one_width_and_an_edge_at_the_cutoff():
    bins = count_bins(X, 2.5, n_bins=25)
    assert sum(one.n for one in bins) == len(X)
    sizes = [one.high - one.low for one in bins]
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-9)
    right = [one for one in bins if one.low >= 2.5 - 1e-9]
    assert right[0].low == pytest.approx(2.5)
    assert sum(one.n for one in right) == (X >= 2.5).sum()
    for one in bins[1:-1]:
        # Bins are closed towards the cutoff; no value of a normal sample lies on an edge.
        assert one.n == ((one.low <= X) & (one.high > X)).sum()


@pytest.mark.parametrize("values", [[1.0], [-1.0], [0.0], [-1.0, -2.0], [0.0, 3.0]])
def test_counts_of_few_units_and_one_side(values):
    bins = count_bins(values, 0.0)
    assert sum(one.n for one in bins) == len(values)
    read(density_chart(bins, 0.0, title="density", running="margin"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_jump_has_dots_two_fits_and_the_cutoff(width):
    bins = binned_means(X, Y, 2.5)
    root = read(draw(bins, width=width, bandwidth=9.5))
    assert len(shapes(root, "circle")) == len(bins) + 1
    left, right = shapes(root, "polyline", stroke=svg.BLUE)
    (line,) = shapes(root, "line", stroke=svg.RED)
    ends = left.get("points").split()[-1], right.get("points").split()[0]
    places = [tuple(map(float, end.split(","))) for end in ends]
    assert places[0][0] == places[1][0] == float(line.get("x1"))
    assert places[0][1] > places[1][1]  # the right fit is higher on the page
    assert "cutoff 2.5" in words(root)
    assert "within the bandwidth of 9.50" in words(root)
    assert len(shapes(root, "rect", fill=svg.SHADE)) == 2
    assert not overlapping(root)


def test_larger_bins_have_larger_dots():
    bins = [BinnedMean(x=-1.0, mean=1.0, n=1), BinnedMean(x=4.0, mean=2.0, n=100)]
    dots = shapes(read(draw(bins)), "circle")[1:]
    assert float(dots[0].get("r")) < float(dots[1].get("r"))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_jump_with_one_bin_and_no_fits(width):
    root = read(
        discontinuity_chart(
            [BinnedMean(x=-1.0, mean=-3.0, n=4)], 0.0, left=[], right=[], title="jump",
            running="margin", outcome="share", width=width,
        )
    )  # fmt: skip
    assert "local fit" not in words(root)
    assert not overlapping(root)


def test_a_bandwidth_beyond_the_data_stays_on_the_page():
    read(draw(bandwidth=1e6))


@pytest.mark.parametrize("width", WIDTHS)
def test_density_marks_stand_at_the_height_of_their_bars(width):
    bins = [CountBin(low=-2.0 + k, high=-1.0 + k, n=n) for k, n in enumerate((10, 30, 50, 10))]
    root = read(
        density_chart(
            bins, 0.0, title="density", running="margin", densities=(0.3, 0.5), width=width
        )
    )
    bars = shapes(root, "rect", fill=svg.BAR)[1:]
    tops = [float(bar.get("y")) for bar in bars]
    marks = [float(m.get("y1")) for m in shapes(root, "line", stroke=svg.BLUE)[1:]]
    assert marks == pytest.approx(tops[1:3], abs=0.02)
    assert not overlapping(root)


def test_a_bin_across_the_cutoff_is_refused():
    bins = [CountBin(low=-1.0, high=1.0, n=5)]
    with pytest.raises(ValueError, match="the bin -1 to 1 crosses 0"):
        density_chart(bins, 0.0, title="density", running="margin")


@pytest.mark.parametrize("name", [HOSTILE, LONG])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_stay_text_on_the_page(name, width):
    drawings = [
        draw(title=name, running=name, outcome=name, note=name, width=width),
        density_chart(count_bins(X, 2.5), 2.5, title=name, running=name, note=name, width=width),
    ]
    for drawing in drawings:
        assert not overlapping(read(drawing))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="jump: nothing to draw"):
        discontinuity_chart(
            [], 0.0, left=[], right=[], title="jump", running="margin", outcome="share"
        )
    with pytest.raises(ValueError, match="jump: a value to draw is nan"):
        draw([BinnedMean(x=0.0, mean=math.nan, n=1)])
    with pytest.raises(ValueError, match="running variable: nothing to draw"):
        binned_means([], [], 0.0)
    with pytest.raises(ValueError, match="zip"):
        binned_means([1.0], [1.0, 2.0], 0.0)


def test_the_description_holds_the_ends_of_the_fits():
    bins = [BinnedMean(x=-1.0, mean=1.0, n=3), BinnedMean(x=3.0, mean=2.0, n=4)]
    assert described(read(draw(bins))) == (
        "vote share by margin: 3 units below the cutoff 2.5 and 4 from it on; "
        "fits at the cutoff 51.0 below and 58.0 above."
    )


def test_no_picture_calls_the_jump_an_effect():
    drawings = [draw(), density_chart(count_bins(X, 2.5), 2.5, title="x", running="margin")]
    assert not any("effect" in drawing.lower() for drawing in drawings)
