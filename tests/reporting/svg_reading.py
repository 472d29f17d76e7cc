"""Reading a drawing back: what is in it, and whether it stays on the canvas."""

import re
import xml.etree.ElementTree as ET

from experiments_dagster.reporting.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"svg", "title", "desc", "rect", "line", "polyline", "polygon", "circle", "text"}
HOSTILE = "</text><script>alert(1)</script>\x00\x0b & \"'"
LONG = "a very long name of a region " * 8


def read(drawing):
    """The root of a well-formed, finite drawing of known shapes, all on the canvas."""
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", drawing)
    root = ET.fromstring(drawing)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= SHAPES
    width, height = float(root.get("width")), float(root.get("height"))
    for x, y in places(root):
        assert -0.01 <= x <= width + 0.01, f"x = {x} beyond {width}"
        assert -0.01 <= y <= height + 0.01, f"y = {y} beyond {height}"
    return root


def places(root):
    """Corners of every shape and the ends of every text, as far as its width is known."""
    for element in root.iter():
        at, tag = element.get, element.tag.removeprefix(SVG)
        if tag == "line":
            yield float(at("x1")), float(at("y1"))
            yield float(at("x2")), float(at("y2"))
        elif tag in {"polyline", "polygon"}:
            yield from (tuple(map(float, pair.split(","))) for pair in at("points").split())
        elif tag == "rect":
            x, y, w, h = (float(at(name)) for name in ("x", "y", "width", "height"))
            assert w >= 0
            assert h >= 0
            yield from ((x, y), (x + w, y + h))
        elif tag == "circle":
            x, y, r = (float(at(name)) for name in ("cx", "cy", "r"))
            yield from ((x - r, y - r), (x + r, y + r))
        elif tag == "text":
            x, y = float(at("x")), float(at("y"))
            wide = text_width(element.text or "", float(at("font-size")))
            left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[at("text-anchor")]
            yield from ((left, y), (left + wide, y))


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def described(root):
    return root.find(f"{SVG}desc").text


def shapes(root, tag, **attributes):
    """Elements of one tag whose attributes have the given values; `_` stands for `-`."""
    wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
    return [
        element
        for element in root.iter(f"{SVG}{tag}")
        if all(element.get(name) == value for name, value in wanted.items())
    ]


def overlapping(root):
    """Pairs of texts that stand on each other."""
    boxes = []
    for element in root.iter(f"{SVG}text"):
        size, x, y = (float(element.get(name)) for name in ("font-size", "x", "y"))
        wide = text_width(element.text or "", size) * 0.92
        left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
        boxes.append((left, left + wide, y - 0.7 * size, y, element.text))
    return [
        (a[4], b[4])
        for k, a in enumerate(boxes)
        for b in boxes[k + 1 :]
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
    ]
