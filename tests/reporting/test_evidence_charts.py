"""Forest plot, effect by day and futility bound: finite, inside the picture, and readable."""

import xml.etree.ElementTree as ET

import pytest
from report_factories import make_experiment, make_look, make_novelty
from test_charts import parse, texts

from experiments_dagster.reporting.charts import (
    ForestGroup,
    ForestRow,
    boundary_chart,
    forest_plot,
    look_trajectory,
    novelty_chart,
)
from experiments_dagster.reporting.numbers import lift, points, signed, tick
from experiments_dagster.reporting.svg import fit

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = [780, 400]
OVERALL = ForestRow(name="all units", n_units=4000, estimate=0.1, low=0.05, high=0.15)


def make_row(name, estimate, half, *, n_units=500, p=0.04):
    return ForestRow(
        name=name, n_units=n_units, estimate=estimate, low=estimate - half, high=estimate + half,
        p_adjusted=p,
    )  # fmt: skip


def forest(rows, *, width=780, shown=lift, overall=OVERALL):
    groups = [ForestGroup(heading="device", rows=tuple(rows), p_value=0.0432)]
    return forest_plot(
        overall, groups, quantity="lift", shown=shown, title="spend by device", width=width
    )


def assert_inside(root):
    """No shape leaves the picture, and no text begins or ends outside of it."""
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= width, ET.tostring(element)
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= height, ET.tostring(element)


@pytest.mark.parametrize("width", WIDTHS)
def test_forest_plot_names_every_level_with_units_effect_and_p(width):
    svg = forest([make_row("desktop", 0.05, 0.06), make_row("phone", 0.2, 0.05)], width=width)
    root = parse(svg)
    assert_inside(root)
    words = texts(root)
    wanted = {"all units", "desktop", "phone", "4,000", "500", "+10.0%", "+5.00%", "+20.0%"}
    assert wanted <= set(words)
    assert words.count("0.0400") == 2
    assert "difference between levels: p 0.0432" in words


@pytest.mark.parametrize("width", WIDTHS)
def test_a_very_long_interval_is_cut_at_both_ends_and_marked(width):
    calm = [make_row("a", 0.1, 0.05), make_row("b", 0.12, 0.05)]
    before = len(list(parse(forest(calm, width=width)).iter(f"{SVG}polygon")))
    root = parse(forest([*calm, make_row("c", 0.1, 40.0)], width=width))
    assert_inside(root)
    assert len(list(root.iter(f"{SVG}polygon"))) == before + 2


@pytest.mark.parametrize("width", WIDTHS)
def test_long_and_hostile_level_names_are_cut_and_escaped(width):
    name = "<script>alert(1)</script> & a level whose name does not end"
    root = parse(forest([make_row(name, 0.1, 0.05)], width=width))
    assert_inside(root)
    shown = next(word for word in texts(root) if word and word.startswith("<scr"))
    assert shown.endswith("…")
    assert {element.tag.split("}")[1] for element in root.iter()} <= {
        "svg", "title", "desc", "rect", "line", "polyline", "polygon", "circle", "text",
    }  # fmt: skip


def test_forest_plot_of_one_level_without_p_and_of_equal_effects():
    alone = ForestRow(name="only", n_units=7, estimate=0.0, low=0.0, high=0.0)
    root = parse(forest([alone], overall=alone, shown=signed))
    assert_inside(root)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("days", [7, 28, 90])
def test_novelty_chart_has_every_day_and_room_for_its_labels(width, days):
    root = parse(novelty_chart(make_novelty(days=days), shown=signed, width=width))
    assert_inside(root)
    dots = list(root.iter(f"{SVG}circle"))
    assert len(dots) == days + 1  # and one in the legend
    labels = [word for word in texts(root) if word and word.isdigit()]
    assert labels[0] == "0"
    assert len(labels) * 26 <= width
    assert "late +1.50" in texts(root)


def test_novelty_chart_draws_early_and_late_level():
    root = parse(novelty_chart(make_novelty(), shown=signed))
    thick = [line for line in root.iter(f"{SVG}line") if line.get("stroke-width") == "3"]
    assert len(thick) == 3  # legend, early, late
    assert float(thick[1].get("y1")) < float(thick[2].get("y1"))  # early is higher up


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bounds", [(-3.2, -0.5, 0.9), (None, 0.1, 2.29), (-9.0, None, None)])
def test_the_futility_bound_is_a_dashed_line_and_in_the_legend(width, bounds):
    experiment = make_experiment()
    looks = []
    for number, bound in zip((2, 3, 4), bounds, strict=True):
        look = make_look(number, experiment=experiment)
        rows = tuple(row.model_copy(update={"futility_bound": bound}) for row in look.boundaries)
        looks.append(look.model_copy(update={"boundaries": rows}))
    root = parse(boundary_chart(looks, experiment, "bold", width=width))
    assert_inside(root)
    assert "futility bound (not binding)" in texts(root)
    known = sum(bound is not None for bound in bounds)
    dashed = [line for line in root.iter(f"{SVG}polyline") if line.get("stroke-dasharray")]
    assert len(dashed) == (known > 1)
    plain = boundary_chart([make_look(3)], experiment, "bold", width=width)
    assert "futility" not in plain


def test_the_legend_tells_a_crossing_for_better_from_one_for_worse(experiment, looks):
    assert "crossed: better" in texts(parse(look_trajectory(looks, experiment, "bold")))
    rows = tuple(row.model_copy(update={"crossed": "undesired"}) for row in looks[-1].boundaries)
    worse = [*looks[:2], looks[-1].model_copy(update={"boundaries": rows})]
    words = texts(parse(look_trajectory(worse, experiment, "bold")))
    assert "crossed: worse" in words
    assert "crossed: better" not in words


@pytest.mark.parametrize(
    ("value", "shown", "text"),
    [(0.1, lift, "+10%"), (0.025, points, "+2.5 pp"), (-200.0, signed, "−200"), (0.0, lift, "0%"),
     (1e-7, signed, "+1.00e-7")],
)  # fmt: skip
def test_ticks_have_no_needless_zeros(value, shown, text):
    assert tick(value, shown) == text


def test_fit_keeps_what_fits():
    assert fit("phone", 12, 100) == "phone"
    assert len(fit("x" * 100, 12, 100)) == 14  # 100 pixels of 6.72 each
    assert fit("ab", 12, 0) == "ab"
