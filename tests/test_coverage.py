"""docs/coverage.md: every promise has its row, an honest state, and tests that exist."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "coverage.md"
CHECKLIST = REPOSITORY.parent / "shared" / "SYSTEMS.md"
STATE = re.compile(r"yes|not yet|partly: \S.*")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")

BOXES = {
    "Interface": (
        "all ten tecore verbs and flags",
        "run_impact flags",
        "`--out`, `--out-json`, `--out-md` all write",
        "exit codes 0/2",
        "YAML `run` files, snake and kebab",
        "power command of flit",
        "HTTP endpoints of the incrementality service with token",
        "scheduler task names",
    ),
    "Files": (
        "results.json strict JSON, fixed keys",
        "run_meta.json",
        "report.md, tables, plots",
        "audit.json/.md with four tables",
        "look_table columns",
        "effect_series, placebo, economics, sensitivity files",
        "primary/secondary result tables",
        "CSV and PDF/HTML export",
    ),
    "Schemas": (
        "three tecore schemas with real rules",
        "flit YAML, every field used or refused",
        "incrementality tables with uniqueness",
        "dashboard event columns",
    ),
    "Assignment": (
        "three hash vectors",
        "compat and default mode",
        "stratified/block",
        "layers",
        "ramp monotone",
        "stored counts returned",
    ),
    "Numbers right where theirs were wrong": (
        "ratio difference and interval",
        "OBF constant, planned information, rerun-as-data-arrive size in band",
        "adjusted p, CI, estimate after stopping",
        "scale-free confidence sequence",
        "impact coverage in band",
        "placebo p ≥ 1/(1+n), bias alarm",
        "synthetic control ≠ regression, DiD scaled control",
        "cumulative interval consistent",
        "total sample size for unequal splits",
        "two-sample power, MDE without ceiling",
        "MDE for baselines > .5",
        "95 % means 1.96",
        "incremental = rebuild, not doubled",
        "late rows counted",
        "no pre-assignment outcome",
        "values summed, not last-row",
        "calendar across year end",
        "harm before underpowered",
        "one latency rule, tested",
        "SRM test everywhere, no 10-point rule",
    ),
    "Decisions": (
        "all labels of section 6, incl. INCOMPLETE",
        "confidence and risk levels",
        "readiness, health, launch states",
        "exhaustive function, deciding clause",
        "next steps",
    ),
    "Alerts": (
        "info, success, warning, error delivered (outbox, retry, no duplicates)",
        "02:00 nightly",
        "guardrail daily",
        "digest",
    ),
    "Promised by them, built by us": (
        "segment-aware planning, LTV/retention/churn defaults",
        "chi-square, correction, PSM, IPW, AIPW, S/T learners, importances",
        (
            "stratified randomisation, alpha spending, futility, guardrail stop, "
            "non-inferiority, MAB, factorial, DiD, RDD, CUPED, HTE, Bayesian sizing, ROI "
            "model, portfolio, sensitivity"
        ),
        (
            "notifications, dashboard of all experiments, sequential, meta-analysis, "
            "Bayesian, observational, synthetic control"
        ),
        "INCOMPLETE, missing metrics computed",
        "tutorials executed in tests",
    ),
    "Honesty": (
        "naive numbers labelled",
        "variance formula named",
        "Qini definition named",
        "report sentences generated from results",
        "heterogeneity proven out of sample before segments",
    ),
}


class Row(NamedTuple):
    heading: str
    promise: str
    state: str
    tests: tuple[str, ...]


def rows_of(text):
    """Every row of every table below a heading."""
    rows = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, *lines = part.splitlines()
        for line in lines:
            if not line.startswith("| ") or line.startswith("| promise "):
                continue
            promise, state, shown_by = (cell.strip() for cell in line.strip("|").split("|"))
            tests = shown_by.replace("`", "").split("<br>") if shown_by else []
            rows.append(Row(heading, promise, state, tuple(tests)))
    return rows


def faults_of(text):
    """What is wrong with a page, in words."""
    faults = []
    for heading, promise, state, tests in rows_of(text):
        subject = f"{heading}, {promise}"
        if not STATE.fullmatch(state):
            faults.append(f"{subject}: state {state!r}")
        if bool(tests) == (state == "not yet"):
            faults.append(f"{subject}: {state!r} with {len(tests)} tests")
        if len(set(tests)) < len(tests):
            faults.append(f"{subject}: a test is named twice")
        faults += [f"{subject}: {test!r} is no test" for test in tests if not TEST.fullmatch(test)]
    named = sorted(set(TEST.findall(text)))
    return faults + [
        f"no test {file}::{name}" for file, name in named if name not in found_in(file)
    ]


@functools.cache
def found_in(file):
    """Names of the test functions of a file, by its syntax tree alone."""
    path = REPOSITORY / file
    body = ast.parse(path.read_text()).body if path.exists() else []
    functions = (node.name for node in body if isinstance(node, ast.FunctionDef))
    return {name for name in functions if name.startswith("test_")}


def test_every_promise_has_its_row_in_its_order():
    found = {heading: [] for heading in BOXES}
    for row in rows_of(PAGE.read_text()):
        found[row.heading].append(row.promise)
    assert {heading: tuple(promises) for heading, promises in found.items()} == BOXES


def test_states_are_one_of_three_and_every_test_that_is_named_exists():
    assert faults_of(PAGE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("| yes |", "| done |", "state 'done'"),
        ("| yes |", "| partly |", "state 'partly'"),
        ("| yes |", "| not yet |", "'not yet' with"),
        ("| not yet |", "| yes |", "'yes' with 0 tests"),
        ("::test_", "::test_that_is_not_there_", "no test tests/"),
        ("<br>`tests/", "<br>`tests/nowhere/", "no test tests/nowhere/"),
        ("<br>`tests/", "<br>`test/", "is no test"),
    ],
)
def test_a_page_that_claims_too_much_is_noticed(old, new, fault):
    text = PAGE.read_text()
    assert old in text
    (found,) = faults_of(text.replace(old, new, 1))
    assert fault in found


def test_the_list_above_is_the_whole_checklist():
    if not CHECKLIST.exists():
        pytest.skip(f"no checklist at {CHECKLIST}")
    section = CHECKLIST.read_text().split("\n## 8. ", 1)[1]
    wanted = {}
    for line in section.splitlines():
        if match := re.match(r"\*\*(.+?)\*\* \[ \] (.+)", line):
            wanted[match[1]] = tuple(box.strip() for box in match[2].split("[ ]"))
    assert wanted == BOXES
