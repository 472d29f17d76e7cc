"""Love plot and overlap: the right dots in the right colour, counts that add up."""

import math

import numpy as np
import pytest
from svg_reading import HOSTILE, LONG, described, overlapping, read, shapes, words

from experiments_dagster.reporting import svg
from experiments_dagster.reporting.balance_charts import (
    MOST_SHOWN,
    CovariateBalance,
    OverlapBin,
    love_plot,
    overlap_bins,
    overlap_chart,
)

WIDTHS = [780, 400]
ROWS = [
    CovariateBalance(name="age", before=-0.31, after=0.05),
    CovariateBalance(name="black", before=1.76, after=-0.4),
    CovariateBalance(name="married", before=-0.83, after=-0.16),
]


@pytest.mark.parametrize("width", WIDTHS)
def test_love_plot_has_hollow_before_and_filled_after(width):
    root = read(love_plot(ROWS, title="balance", width=width))
    assert len(shapes(root, "circle", fill=svg.PAPER)) == 3 + 1  # the key of the legend
    for colour in (svg.AMBER, svg.RED):
        assert len(shapes(root, "circle", fill=colour)) == 1
    assert len(shapes(root, "circle", fill=svg.BLUE)) == 1 + 1
    assert [name for name in words(root) if name in {"age", "black", "married"}] == [
        "black",
        "married",
        "age",
    ]
    assert not overlapping(root)


def test_love_plot_measures_absolute_differences():
    root = read(love_plot(ROWS, title="balance"))
    weak, refused = (
        float(shapes(root, "line", stroke=colour)[-1].get("x1")) for colour in (svg.AMBER, svg.RED)
    )
    zero = weak - (refused - weak) / 0.15 * 0.1
    (after,) = shapes(root, "circle", fill=svg.RED)
    place = (float(after.get("cx")) - zero) / (refused - weak) * 0.15
    assert place == pytest.approx(0.4, abs=1e-3)  # two decimals of a pixel


def test_balanced_covariates_still_show_both_limits():
    rows = [CovariateBalance(name="age", before=0.01, after=0.0)]
    root = read(love_plot(rows, title="balance"))
    for colour in (svg.AMBER, svg.RED):
        assert len(shapes(root, "line", stroke=colour)) == 2  # one in the legend


def test_a_difference_off_the_scale_is_an_arrow():
    rows = [*ROWS, CovariateBalance(name="spend", before=40.0, after=0.02)]
    root = read(love_plot(rows, title="balance"))
    assert len(shapes(root, "polygon", fill=svg.MUTED)) == 1
    assert len(shapes(root, "circle", fill=svg.PAPER)) == 3 + 1


def test_one_huge_difference_does_not_flatten_the_others():
    rows = [CovariateBalance(name=f"x{k}", before=0.2 + k / 100, after=0.05) for k in range(15)]
    calm = read(love_plot(rows, title="balance"))
    wild = read(
        love_plot([*rows, CovariateBalance(name="spend", before=2.9, after=0)], title="balance")
    )
    assert any(word.startswith("An arrow stands for a difference above") for word in words(wild))
    assert not any("arrow" in word for word in words(calm))
    limits = [shapes(root, "line", stroke=svg.RED)[-1] for root in (calm, wild)]
    # From the zero line at the left: more than a third of the width it had.
    assert float(limits[1].get("x1")) > float(limits[0].get("x1")) / 3


@pytest.mark.parametrize("width", WIDTHS)
def test_names_too_long_for_their_column_stand_above_the_dots(width):
    rows = [CovariateBalance(name=f"{LONG[:40]} {k}", before=0.3, after=0.1) for k in range(3)]
    root = read(love_plot(rows, title="balance", width=width))
    names = [word for word in words(root) if word.startswith("a very long")]
    assert names == [row.name for row in rows]  # none is cut
    assert not overlapping(root)


@pytest.mark.parametrize("width", WIDTHS)
def test_many_covariates_keep_the_worst_and_sum_up_the_rest(width):
    rows = [CovariateBalance(name=f"x{k}", before=k / 100, after=0.001 * k) for k in range(60)]
    rows.append(CovariateBalance(name="hidden", before=0.0, after=0.9))
    root = read(love_plot(rows, title="balance", adjustment="matching", width=width))
    assert "hidden" in words(root)
    assert len(shapes(root, "circle", fill=svg.PAPER)) == MOST_SHOWN + 1
    said = " ".join(words(root))
    assert "and 21 more, at most 0.200 before and 0.0200 after matching." in said
    assert described(root).startswith("61 covariates after matching: 1 above 0.1; 1 above 0.25;")


def test_overlap_bins_count_everybody_once():
    rng = np.random.default_rng(1)
    treated, control = rng.beta(5, 2, size=300).tolist(), rng.beta(1, 5, size=2000).tolist()
    bins = overlap_bins(treated, control, n_bins=25)
    assert sum(one.n_treated for one in bins) == 300
    assert sum(one.n_control for one in bins) == 2000
    assert 15 <= len(bins) <= 50
    for one in bins:
        # Edges are rounded at 1e-9 of a bin.
        inside = [value for value in treated if one.low - 1e-9 <= value < one.high - 1e-9]
        assert one.n_treated == len(inside)


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.3, 1.0])
def test_overlap_of_one_value(value):
    bins = overlap_bins([value], [value])
    assert sum(one.n_treated for one in bins) == sum(one.n_control for one in bins) == 1
    read(overlap_chart(bins, title="overlap"))


@pytest.mark.parametrize("n_bins", [1, 2, 7, 40])
def test_the_ends_of_the_range_belong_to_a_bin(n_bins):
    bins = overlap_bins([0.0, 1.0], [0.5], n_bins=n_bins)
    assert sum(one.n_treated for one in bins) == 2
    assert bins[0].low == pytest.approx(0.0, abs=1e-12)
    assert bins[-1].high == pytest.approx(1.0)


@pytest.mark.parametrize("width", WIDTHS)
def test_overlap_bars_are_shares_of_their_own_group(width):
    bins = [
        OverlapBin(low=0.0, high=0.5, n_treated=1, n_control=900),
        OverlapBin(low=0.5, high=1.0, n_treated=9, n_control=100),
    ]
    root = read(overlap_chart(bins, title="overlap", extreme_share=0.031, width=width))
    up = [float(bar.get("height")) for bar in shapes(root, "rect", fill=svg.BLUE)[1:]]
    down = [float(bar.get("height")) for bar in shapes(root, "rect", fill=svg.BAR)[1:]]
    assert up == pytest.approx(down[::-1], abs=0.03)  # two decimals of a pixel
    assert {"treated (10)", "control (1,000)"} <= set(words(root))
    assert "3.10% of all units outside 0.01 to 0.99." in words(root)
    assert len(shapes(root, "line", stroke=svg.RED)) == 2 + 1
    assert not any("−" in word for word in words(root))
    assert not overlapping(root)


@pytest.mark.parametrize("name", [HOSTILE, LONG])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_stay_text_on_the_page(name, width):
    rows = [CovariateBalance(name=name, before=0.3, after=0.1)]
    bins = overlap_bins([0.2, 0.4], [0.1])
    for drawing in (
        love_plot(rows, title=name, adjustment=name, note=name, width=width),
        overlap_chart(bins, title=name, treated=name, control=name, note=name, width=width),
    ):
        assert not overlapping(read(drawing))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        love_plot([], title="balance")
    with pytest.raises(ValueError, match="a value to draw is nan"):
        love_plot([CovariateBalance(name="age", before=math.nan, after=0.0)], title="balance")
    with pytest.raises(ValueError, match="control: nothing to draw"):
        overlap_bins([0.5], [])
    with pytest.raises(ValueError, match=r"treated: -0\.1 to 0\.5, need 0 to 1"):
        overlap_bins([0.5, -0.1], [0.5])
    bins = [OverlapBin(low=0.0, high=1.0, n_treated=0, n_control=4)]
    with pytest.raises(ValueError, match="0 treated and 4 control units"):
        overlap_chart(bins, title="overlap")


def test_no_picture_speaks_of_effects():
    drawings = [love_plot(ROWS, title="x"), overlap_chart(overlap_bins([0.2], [0.3]), title="x")]
    assert not any("effect" in drawing.lower() for drawing in drawings)
