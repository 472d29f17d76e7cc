"""The status table: numbers as people read them, and a metric only where there are several."""

import re

import pytest
from factories import manifest_of
from report_factories import make_look
from rich.console import Console
from rich_factory import FUTILE_EXPERIMENT, rich_project

from experiments_dagster.cli.numbers import percent
from experiments_dagster.cli.status import _experiment_row, status_document, verdict_table

EVIDENCE = ("deterioration", "trust", "novelty", "segments", "segment_tests", "sensitivity")


def lines_of(project):
    console = Console(width=130, highlight=False)
    with console.capture() as capture:
        console.print(verdict_table(project, manifest_of(project)))
    return capture.get().splitlines()


def test_each_success_metric_has_its_lines(rich):
    project, looks = rich
    header, spend, naive, orders, naive_orders = lines_of(project)
    assert header.split()[:6] == ["experiment", "/", "arm", "verdict", "looks", "metric"]
    assert "variance removed" in header
    assert spend.startswith("trial ")
    assert "  one_step" in naive
    assert " spend " in spend
    assert " orders " in orders
    assert not naive_orders.split()[0].startswith("one_step")
    effect = looks[-1].effect("orders", "one_step", "relative_difference", adjusted=True)
    assert percent(effect.estimate) in orders
    boundary = looks[-1].boundary("orders", "one_step")
    assert f"[{percent(boundary.limit_low)}, {percent(boundary.limit_high)}]" in orders


def test_a_standard_error_has_the_digits_of_its_lift(rich):
    project, looks = rich
    effect = looks[-1].effect("spend", "one_step", "relative_difference", adjusted=True)
    wanted = rf" {re.escape(percent(effect.estimate))} +{effect.std_error:.1%} "
    assert re.search(wanted, "\n".join(lines_of(project)))


def test_one_success_metric_needs_no_column_and_no_look_no_numbers(tmp_path):
    project = rich_project(tmp_path, text=FUTILE_EXPERIMENT, n_users=50)
    header, row = lines_of(project)
    assert "metric" not in header
    assert row.split() == ["trial", "-", "0", "no", "look", "yet"]


def test_the_document_has_the_evidence_of_the_last_look(rich):
    project, looks = rich
    row = status_document(project, manifest_of(project))["experiments"][0]
    for name in EVIDENCE:
        assert row[name], name
        assert len(row[name]) == len(getattr(looks[-1], name))


def test_the_document_of_an_invalid_look_has_no_evidence(rich):
    project, looks = rich
    checks = make_look(3, invalid=True).checks
    invalid = looks[-1].model_copy(update={"checks": checks, "verdict": "INVALID"})
    row = _experiment_row(project.experiments["trial"], [invalid], invalid)
    assert not any(row[name] for name in (*EVIDENCE, "metrics", "boundaries", "anytime"))


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [(0.02845, 1, False, "2.8%"), (-0.025, 1, True, "-2.5%"), (None, 1, True, "-"),
     (0.12, 0, True, "+12%")],
)  # fmt: skip
def test_percent(value, digits, signed, text):
    assert percent(value, digits, signed=signed) == text
