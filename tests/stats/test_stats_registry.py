"""The table of methods is true: functions and cases exist, and the README shows it."""

import json
from pathlib import Path

import pytest

from experiments_dagster.stats.registry import METHODS, markdown_table

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_function_exists_and_names_its_source(method):
    function = method.resolve()
    assert callable(function)
    assert function.__doc__


def test_names_are_unique():
    names = [method.name for method in METHODS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS if "/" in m.verified_by.split()[0]],
    ids=lambda method: method.verified_by,
)
def test_the_verifying_case_exists_and_a_test_names_it(method):
    area, _, rest = method.verified_by.partition("/")
    case = rest.partition(":")[0]
    path = SHARED / area / "expected.json"
    if not path.exists():
        pytest.skip(f"no reference data at {path}")
    raw = {entry["case"]: entry for entry in json.loads(path.read_text())}
    assert case in raw
    if (ROOT / "tests" / "reference" / f"test_reference_{area}.py").exists():
        return  # it runs every case of the area, and fails where one has no check
    tests = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    assert any(case in text for text in tests)


def test_the_readme_shows_the_table_that_the_code_makes():
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- methods -->")[1].split("<!-- /methods -->")[0].strip()
    assert shown == markdown_table()
