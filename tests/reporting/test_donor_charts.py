"""Pictures of a synthetic control: what is counted, what is cut, nothing off the page."""

import math

import pytest
from svg_reading import HOSTILE, LONG, described, overlapping, read, shapes, words

from experiments_dagster.reporting import axes, svg
from experiments_dagster.reporting.donor_charts import (
    MOST_SHOWN,
    DonorWeight,
    PathPoint,
    PlaceboGap,
    PlaceboRatio,
    donor_weight_chart,
    placebo_fan_chart,
    placebo_ratio_chart,
    synthetic_path_chart,
)

WIDTHS = [780, 400]
YEARS = [str(year) for year in range(1970, 2001)]


def make_weights(*weights):
    return [DonorWeight(name=f"donor {k}", weight=w) for k, w in enumerate(weights)]


def make_path(n=31, scale=1.0):
    return [
        PathPoint(label=YEARS[k], observed=scale * (120 - 2 * k), synthetic=scale * (120 - k))
        for k in range(n)
    ]


def make_gaps(name, size, n=31):
    return PlaceboGap(name=name, gaps=tuple(size * math.sin(k / 3) for k in range(n)))


@pytest.mark.parametrize("width", WIDTHS)
def test_weights_stand_from_the_largest_down_and_the_small_are_counted(width):
    root = read(
        donor_weight_chart(
            make_weights(0.004, 0.2, 0.334, 0.45, 0.009, 0.003), title="mix", width=width
        )
    )
    bars = shapes(root, "rect", fill=svg.BLUE)
    sizes = [float(bar.get("width")) for bar in bars]
    assert len(bars) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[2] == pytest.approx(0.45 / 0.2, rel=1e-3)  # two decimals of a pixel
    assert "and 3 more below 1%, together 1.60%." in words(root)
    assert not overlapping(root)


def test_negative_weights_go_to_the_other_side_of_zero():
    root = read(donor_weight_chart(make_weights(0.9, 0.25, -0.15), title="mix"))
    (minus,) = shapes(root, "rect", fill=svg.AMBER)
    plus = shapes(root, "rect", fill=svg.BLUE)
    right = float(minus.get("x")) + float(minus.get("width"))
    assert right == pytest.approx(min(float(bar.get("x")) for bar in plus), abs=0.02)
    assert "−15%" in words(root)


@pytest.mark.parametrize("width", WIDTHS)
def test_sixty_equal_donors_are_cut_and_said(width):
    root = read(donor_weight_chart(make_weights(*[1 / 60] * 60), title="mix", width=width))
    assert len(shapes(root, "rect", fill=svg.BLUE)) == MOST_SHOWN
    assert "and 40 more of 1.67% or less, together 66.7%." in words(root)


def test_donors_that_are_all_below_one_percent_still_have_bars():
    root = read(donor_weight_chart(make_weights(*[1 / 200] * 200), title="mix"))
    assert len(shapes(root, "rect", fill=svg.BLUE)) == MOST_SHOWN
    assert "and 180 more below 1%, together 90%." in words(root)


@pytest.mark.parametrize("weights", [[1.0], [0.0], [-0.4]])
def test_one_donor(weights):
    assert not overlapping(read(donor_weight_chart(make_weights(*weights), title="mix")))


@pytest.mark.parametrize("name", [HOSTILE, LONG])
@pytest.mark.parametrize("width", WIDTHS)
def test_names_stay_text_on_the_page(name, width):
    drawings = [
        donor_weight_chart([DonorWeight(name=name, weight=1)], title=name, note=name, width=width),
        synthetic_path_chart(
            make_path(), 19, title=name, treated=name, synthetic=name, unit=name, width=width
        ),
        placebo_fan_chart(
            make_gaps(name, 20), [make_gaps(name, 5)], YEARS, 19, title=name, unit=name,
            n_left_out=1, max_fit_ratio=5, width=width,
        ),
        placebo_ratio_chart(
            PlaceboRatio(name=name, ratio=9), [PlaceboRatio(name=name, ratio=2)], title=name,
            width=width,
        ),
    ]  # fmt: skip
    for drawing in drawings:
        assert not overlapping(read(drawing))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-8, 1e7])
def test_path_has_two_lines_and_the_start_between_the_steps(width, scale):
    drawing = synthetic_path_chart(
        make_path(scale=scale), 19, title="sales", treated="California", width=width
    )
    root = read(drawing)
    assert not overlapping(root)
    lines = shapes(root, "polyline")
    assert [len(line.get("points").split()) for line in lines] == [31, 31]
    (start,) = shapes(root, "line", stroke=svg.RED)
    at = float(start.get("x1"))
    steps = [float(pair.split(",")[0]) for pair in lines[0].get("points").split()]
    assert steps[18] < at < steps[19]
    assert "from 1989" in words(root)
    assert {"1970", "1980", "1990", "2000"} <= set(words(root))


def test_path_of_equal_values_has_an_axis():
    points = [PathPoint(label=label, observed=5.0, synthetic=5.0) for label in ("a", "b")]
    read(synthetic_path_chart(points, 1, title="flat", treated="one"))


@pytest.mark.parametrize("n_pre", [0, 31])
def test_a_start_outside_the_steps_is_refused(n_pre):
    with pytest.raises(ValueError, match="before the start"):
        synthetic_path_chart(make_path(), n_pre, title="sales", treated="one")
    with pytest.raises(ValueError, match="before the start"):
        placebo_fan_chart(make_gaps("one", 1), [], YEARS, n_pre, title="gaps")


@pytest.mark.parametrize("width", WIDTHS)
def test_fan_has_a_line_per_donor_and_the_treated_above_them_in_bold(width):
    donors = [make_gaps(f"donor {k}", 3 + k / 10) for k in range(60)]
    root = read(
        placebo_fan_chart(
            make_gaps("California", 20), donors, YEARS, 19, title="gaps", n_left_out=4,
            max_fit_ratio=5, width=width,
        )
    )  # fmt: skip
    lines = shapes(root, "polyline")
    assert len(shapes(root, "polyline", stroke=axes.GREY)) == 60
    assert lines[-1].get("stroke") == svg.INK
    assert float(lines[-1].get("stroke-width")) > 2 * float(lines[0].get("stroke-width"))
    said = " ".join(words(root))
    assert "60 donors in its place" in said
    assert (
        "4 donors left out for poor fit before the start: error above 5 times that of California."
        in said
    )
    assert "beyond the scale" not in said
    assert not overlapping(root)


def test_a_huge_donor_is_cut_at_the_edge_and_said():
    donors = [make_gaps(f"donor {k}", 4) for k in range(9)]
    calm = placebo_fan_chart(make_gaps("one", 5), donors, YEARS, 19, title="gaps")
    huge = [*donors, make_gaps("huge", 4000)]
    cut = placebo_fan_chart(make_gaps("one", 5), huge, YEARS, 19, title="gaps")
    assert "1 donor beyond the scale, cut at its edge." in words(read(cut))
    assert "beyond the scale" not in calm
    (own,) = shapes(read(cut), "polyline", stroke_width="2.8")
    heights = [float(pair.split(",")[1]) for pair in own.get("points").split()]
    # A fifth of the panel at least: without the cut it would be a flat line.
    assert max(heights) - min(heights) > 40


def test_fan_of_nothing_but_zeros():
    read(placebo_fan_chart(make_gaps("one", 0.0), [make_gaps("two", 0.0)], YEARS, 19, title="gaps"))


def test_fan_refuses_gaps_of_another_length():
    with pytest.raises(ValueError, match="two: 5 gaps, 31 labels"):
        placebo_fan_chart(make_gaps("one", 1), [make_gaps("two", 1, n=5)], YEARS, 19, title="gaps")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 60, 1000])
def test_ratios_have_a_dot_per_unit_and_a_rank(width, n):
    donors = [PlaceboRatio(name=f"donor {k}", ratio=1 + (k % 7) / 3) for k in range(n)]
    root = read(
        placebo_ratio_chart(
            PlaceboRatio(name="California", ratio=13.0), donors, title="ratios", p_value=0.0256,
            width=width,
        )
    )  # fmt: skip
    keys = 2 if n else 1
    assert len(shapes(root, "circle")) == n + 1 + keys
    assert len(shapes(root, "circle", fill=svg.BLUE)) == 2
    assert f"California: 13.0, rank 1 of {n + 1}, p 0.0256." in words(root)


def test_a_dot_by_itself_is_exact_and_none_is_off_by_more_than_half_a_dot():
    ratios = [0.2, 0.35, 2.0, 2.05, 2.2, 7.0, 20.0]
    donors = [PlaceboRatio(name=f"donor {k}", ratio=r) for k, r in enumerate(ratios)]
    root = read(placebo_ratio_chart(PlaceboRatio(name="one", ratio=12.4), donors, title="ratios"))
    found = sorted(float(dot.get("cx")) for dot in shapes(root, "circle")[2:])
    exact = [28 + ratio / 20 * (780 - 56) for ratio in sorted([*ratios, 12.4])]
    # Two decimals of a pixel.
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) <= 5.01
    assert found[-3:] == pytest.approx(exact[-3:], abs=0.01)


def test_ties_count_against_the_treated_unit():
    donors = [PlaceboRatio(name="tied", ratio=2.0), PlaceboRatio(name="low", ratio=1.0)]
    drawing = placebo_ratio_chart(PlaceboRatio(name="one", ratio=2.0), donors, title="ratios")
    assert described(read(drawing)) == "one: 2.00, rank 2 of 3."


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="mix: nothing to draw"):
        donor_weight_chart([], title="mix")
    with pytest.raises(ValueError, match="mix: a value to draw is nan"):
        donor_weight_chart(make_weights(math.nan), title="mix")
    with pytest.raises(ValueError, match="a ratio of errors is -1"):
        placebo_ratio_chart(PlaceboRatio(name="one", ratio=-1.0), [], title="ratios")


def test_no_picture_calls_a_difference_an_effect():
    gaps = [make_gaps("donor", 3)]
    drawings = [
        donor_weight_chart(make_weights(0.5, 0.5), title="mix"),
        synthetic_path_chart(make_path(), 19, title="sales", treated="California"),
        placebo_fan_chart(make_gaps("California", 20), gaps, YEARS, 19, title="gaps"),
        placebo_ratio_chart(PlaceboRatio(name="California", ratio=2.0), [], title="ratios"),
    ]
    assert not any("effect" in drawing.lower() for drawing in drawings)
