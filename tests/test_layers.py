"""Imports run one way: the syntax trees say so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "experiments_dagster"
OURS = "experiments_dagster"
TOP = {
    f"{OURS}.{name}"
    for name in (
        "looks",
        "portfolio",
        "bandits",
        "assets",
        "resources",
        "checks",
        "automation",
        "service",
        "cli",
    )
}
ENGINES = {"duckdb", "dagster", "polars", "pandera"}
PACKAGES = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
# Reports show looks: their records and their calendar, not how they are taken.
TAKING = {f"{OURS}.looks.{path.stem}" for path in (ROOT / "looks").glob("*.py")}
TAKING -= {f"{OURS}.looks.{name}" for name in ("records", "calendar", "__init__")}
RULES = {
    "stats": ENGINES | {f"{OURS}.{name}" for name in PACKAGES - {"stats"}},
    "causal": ENGINES | {f"{OURS}.{name}" for name in PACKAGES - {"stats", "causal"}},
    "looks": {"dagster", "dagster_webserver", f"{OURS}.portfolio"},
    "portfolio": {"dagster", "dagster_webserver", f"{OURS}.cli", f"{OURS}.assets"},
    "bandits": {"dagster", "dagster_webserver", f"{OURS}.cli", f"{OURS}.assets"},
    "exploration": {"dagster", "dagster_webserver"},
    **dict.fromkeys(("frames", "storage"), TOP | {"dagster", "scipy", "statsmodels"}),
    **dict.fromkeys(("config", "contracts", "decisions", "alerts", "simulate"), TOP | {"dagster"}),
    "reporting": TOP - {f"{OURS}.looks"} | TAKING | {"dagster"},
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(RULES))
def test_a_package_imports_only_what_lies_below_it(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in imports(file)
        if any(name == banned or name.startswith(f"{banned}.") for banned in RULES[package])
    ]
    assert wrong == []
