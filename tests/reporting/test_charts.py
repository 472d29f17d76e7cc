"""SVG charts: well-formed, finite, escaped, the same every time."""

import base64
import datetime as dt
import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from report_factories import make_experiment, make_look

from experiments_dagster.reporting.charts import (
    ImpactPoint,
    boundary_chart,
    data_uri,
    impact_chart,
    look_trajectory,
)
from experiments_dagster.reporting.svg import Drawing, nice_ticks, spread

HOSTILE = "</title><script>alert(1)</script>\x00\x0b & \"'"


def parse(svg):
    """The root element; every number in it must be finite."""
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", svg)
    return ET.fromstring(svg)


def texts(root):
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("draw", [look_trajectory, boundary_chart])
@pytest.mark.parametrize("width", [780, 400])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_look_charts_are_well_formed_at_every_look(experiment, draw, width, count):
    looks = [make_look(number, experiment=experiment) for number in range(1, count + 1)]
    root = parse(draw(looks, experiment, "bold", width=width))
    assert root.get("viewBox").split()[2] == str(width)
    assert draw(looks, experiment, "bold") == draw(looks, experiment, "bold")


@pytest.mark.parametrize("draw", [look_trajectory, boundary_chart])
def test_look_charts_stand_missing_estimates(experiment, draw):
    looks = [make_look(1, missing="IMMATURE", anytime=()), make_look(2)]
    parse(draw(looks, experiment, "bold"))
    root = parse(draw(looks[:1], experiment, "bold"))
    joined = " ".join(filter(None, texts(root)))
    assert "no unit has its whole window observed" in joined or "No boundary yet" in joined


def test_trajectory_labels_references_and_last_estimate(experiment, looks):
    words = texts(parse(look_trajectory(looks, experiment, "bold")))
    assert {"no effect", "min. +5%", "truth +12%", "+12.3%"} <= set(words)
    assert "repeated 95% (decides)" in words


def test_minimum_effect_of_a_falling_metric_lies_below_zero(looks):
    experiment = make_experiment()
    primary = experiment.primary.model_copy(update={"direction": "decrease"})
    experiment = experiment.model_copy(update={"primary": primary})
    assert "min. −5%" in texts(parse(look_trajectory(looks, experiment, "bold")))


def test_peek_has_a_place_of_its_own(experiment, looks):
    words = texts(parse(look_trajectory([*looks, make_look(None)], experiment, "bold")))
    assert "peek" in words


def test_huge_early_interval_is_cut_and_marked(experiment, looks):
    rows = tuple(
        row.model_copy(update={"limit_low": -40.0, "limit_high": 40.0})
        for row in looks[1].boundaries
    )
    wild = looks[1].model_copy(update={"boundaries": rows})
    cut = parse(look_trajectory([looks[0], wild, looks[2]], experiment, "bold"))
    polygons = list(cut.iter("{http://www.w3.org/2000/svg}polygon"))
    calm = parse(look_trajectory(looks, experiment, "bold"))
    assert len(polygons) == len(list(calm.iter("{http://www.w3.org/2000/svg}polygon"))) + 2
    height = float(cut.get("height"))
    for element in cut.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(element.get("y")) >= 0
        assert float(element.get("y")) + float(element.get("height")) <= height


@pytest.mark.parametrize("draw", [look_trajectory, boundary_chart])
def test_hostile_names_stay_text(draw):
    experiment = make_experiment(hostile=HOSTILE)
    looks = [make_look(number, experiment=experiment) for number in (1, 2, 3)]
    root = parse(draw(looks, experiment, HOSTILE))
    assert {element.tag.split("}")[1] for element in root.iter()} <= {
        "svg", "title", "desc", "rect", "line", "polyline", "polygon", "circle", "text",
    }  # fmt: skip


def make_points(n=30, start=20):
    points = []
    for k in range(n):
        after = k >= start
        points.append(
            ImpactPoint(
                date=dt.date(2026, 1, 1) + dt.timedelta(days=k),
                observed=None if k == 5 else 100.0 + k,
                counterfactual=100.0 + 0.9 * k,
                ci_low=95.0 + 0.9 * k,
                ci_high=105.0 + 0.9 * k,
                effect=None if k == 5 else 0.1 * k,
                effect_low=None if k == 5 else 0.1 * k - 5,
                effect_high=None if k == 5 else 0.1 * k + 5,
                cumulative=float(k) if after else None,
                cumulative_low=k - 9.0 if after else None,
                cumulative_high=k + 9.0 if after else None,
            )
        )
    return points


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("width", [780, 400])
def test_impact_chart_is_well_formed(n, width):
    svg = impact_chart(
        make_points(n), dt.date(2026, 1, 21), title="spend & more", unit="USD", width=width
    )
    words = texts(parse(svg))
    assert "21 Jan 2026" in words
    assert "cumulative difference (USD)" in words


def test_impact_chart_refuses_nothing_to_draw():
    with pytest.raises(ValueError, match="no points"):
        impact_chart([], dt.date(2026, 1, 1), title="spend")


def test_data_uri_round_trips(experiment, looks):
    svg = look_trajectory(looks, experiment, "bold")
    head, body = data_uri(svg).split(",", 1)
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body).decode() == svg


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_drawing_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        Drawing(10, 10).line((0, bad), (1, 1))


def test_ticks_are_round_and_inside():
    assert nice_ticks(-0.13, 0.42, 6) == pytest.approx([-0.1, 0, 0.1, 0.2, 0.3, 0.4])
    assert 0.0 in nice_ticks(-3, 3, 5)


def test_spread_keeps_order_gap_and_range():
    placed = spread([10, 11, 12, 95], gap=15, low=0, high=100)
    assert sorted(placed) == placed
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(placed))
    assert placed[-1] <= 100
