"""The PDF of a report: labels stay readable, what is folded stays hidden, nothing is fetched."""

import re
import sys
import types

import pytest

from experiments_dagster.reporting.pdf import halos_below, report_pdf
from experiments_dagster.reporting.svg import Drawing


def weasyprint():
    return pytest.importorskip("weasyprint", reason="the extra [pdf] is not installed")


def drawing(*, halo):
    canvas = Drawing(width=100, height=40)
    canvas.text((10, 20), "label", halo=halo)
    return canvas.render(title="a chart", description="with a label")


def test_a_label_with_a_halo_is_drawn_last_without_it():
    """PDF libraries that ignore `paint-order` paint the halo over its own label."""
    found = halos_below(drawing(halo=True))
    below, label = re.findall(r"<text[^>]*>label</text>", found)
    assert "stroke=" in below
    assert "stroke" not in label
    assert "paint-order" not in found
    assert label == re.findall(r"<text[^>]*>label</text>", drawing(halo=False))[0]


def test_a_drawing_without_halos_stays_as_it_is():
    plain = drawing(halo=False)
    assert halos_below(plain) == plain


def test_missing_system_libraries_are_named(monkeypatch):
    def fail(_):
        raise OSError("cannot load library 'libpango'")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"\[pdf\].*system libraries.*libpango"):
        report_pdf("<p>x</p>")


def test_what_the_library_is_given(monkeypatch):
    """The page with its halos below, our style, and a fetcher that refuses."""
    seen = {}

    def page(*, string, url_fetcher):
        seen.update(html=string, fetch=url_fetcher)
        return types.SimpleNamespace(write_pdf=lambda stylesheets: repr(stylesheets).encode())

    fake = types.SimpleNamespace(HTML=page, CSS=lambda *, string: string)
    monkeypatch.setitem(sys.modules, "weasyprint", fake)
    style = report_pdf(drawing(halo=True)).decode()
    assert "paint-order" not in seen["html"]
    assert "counter(page)" in style
    with pytest.raises(ValueError, match=r"asks for https://example\.com/x\.png"):
        seen["fetch"]("https://example.com/x.png")


def test_effects_that_are_folded_away_are_not_printed():
    weasyprint()
    long = "<p>an effect nobody should read</p>" * 400
    folded = "<h1>t</h1><details><summary>hidden because</summary>{}</details>"
    assert report_pdf(folded.format(long)) == report_pdf(folded.format(""))
    assert len(report_pdf("<h1>t</h1>" + long)) > 2 * len(report_pdf(folded.format(long)))


def test_the_same_report_makes_the_same_bytes():
    weasyprint()
    assert report_pdf(drawing(halo=True)) == report_pdf(drawing(halo=True))
