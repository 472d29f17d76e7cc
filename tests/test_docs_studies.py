"""docs/studies.md holds: its files, commands, printed lines, specifications and refutations."""

import ast
import functools
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from experiments_dagster.checks.refutations import OTHERS, SERIES
from experiments_dagster.cli import app
from experiments_dagster.config.intervention import FAMILIES, TimeSeriesSpec
from experiments_dagster.config.project import read_project
from experiments_dagster.frames.series import build_daily_series
from experiments_dagster.frames.study_frames import build_study_frame
from experiments_dagster.interventions.estimate import estimate_intervention
from experiments_dagster.interventions.publish import run_study
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "experiments_dagster"
PAGE = (REPOSITORY / "docs" / "studies.md").read_text()
COMMAND = re.compile(r"```console\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
CONFIG = re.compile(r"```yaml\n# (configs/interventions/(\w+)\.yaml)\n(.*?)```", re.DOTALL)
VERBS = {kind: kind.replace("_", "-") for kind in FAMILIES} | {
    "time_series": "impact",
    "difference_in_differences": "did",
}
# Digits shown; the rest may differ between processors.
SHOWN = 1e-3
FAILURES = {
    frozenset({"ERROR"}): "blocks",
    frozenset({"WARN"}): "weakens",
    frozenset({"ERROR", "WARN"}): "weakens or blocks",
}
# The polynomials take the names of their refits from one dictionary.
MOVED = {"polynomial_order", "window", "donut"}


def commands():
    """Verb to its arguments and the lines that the page shows of what it prints."""
    found = {}
    for block, shown in COMMAND.findall(PAGE):
        lines = block.replace("\\\n", " ").splitlines()
        for line in lines:
            verb, *arguments = shlex.split(line.removeprefix("$ experiments "))
            found[verb] = (arguments, shown.splitlines() if line == lines[-1] else [])
    return found


COMMANDS = commands()
CONFIGS = {name: text for _, name, text in CONFIG.findall(PAGE)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The examples, the files that the page makes, and its interventions as a project."""
    folder = tmp_path_factory.mktemp("studies")
    made = shutil.ignore_patterns(".studies")
    shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=made)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    configs = folder / "configs"
    (configs / "interventions").mkdir(parents=True)
    for name in ("platform.yaml", "metrics.yaml"):
        shutil.copy(folder / "examples" / "studies" / "configs" / name, configs / name)
    for name, text in CONFIGS.items():
        (configs / "interventions" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def printed(workplace):
    """What a command of the page prints, and the document it writes; each runs once."""

    @functools.cache
    def run(verb):
        arguments, _ = COMMANDS[verb]
        if verb == "uplift":
            run("simulate")
        out = [] if verb in ("e-value", "simulate", "impact") else ["--out", f"out/{verb}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(workplace)
            result = CliRunner().invoke(app, [verb, *arguments, *out])
        assert result.exit_code == 0, result.output
        file = workplace / "out" / verb / "results.json"
        return result.stdout, json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_prints_the_lines_that_are_shown(printed, verb):
    found = [line.split() for line in printed(verb)[0].splitlines()]
    _, shown = COMMANDS[verb]
    assert shown or verb == "simulate"
    for line in shown:
        assert any(is_same(line.split(), other) for other in found), line


def is_same(shown, other):
    """Whether words and numbers agree, up to `...`."""
    if shown[-1] == "...":
        shown, other = shown[:-1], other[: len(shown) - 1]
    return len(shown) == len(other) and all(map(is_same_word, shown, other))


def is_same_word(shown, other):
    try:
        numbers = [float(word.strip("[](),:")) for word in (shown, other)]
    except ValueError:
        return shown == other
    return math.isclose(*numbers, rel_tol=SHOWN)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("average 1.234 [1, 2] ...", "average 1.2341 [1, 2] 0.3 welch", True),
        ("average 1.234", "average 1.334", False),
        ("average 1.234", "average 1.234 0.3", False),
        ("average ...", "total 1", False),
    ],
)
def test_lines_that_differ_are_noticed(shown, printed, same):
    assert is_same(shown.split(), printed.split()) == same


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configured_study_says_what_its_command_says(workplace, printed, name):
    verb = VERBS[yaml.safe_load(CONFIGS[name])["design"]["kind"]]
    document = printed(verb)[1]
    project, issues = read_project(workplace)
    assert issues == []
    intervention = project.interventions[name]
    manifest = Manifest(Layout(project.storage)).refresh()
    if isinstance(intervention.spec, TimeSeriesSpec):
        series = build_daily_series(project, manifest, intervention, cutoff=0)
        study = estimate_intervention(intervention, series).study
        estimate, claim = document["cum_effect"], document["claim"]["status"]
    else:
        frame = build_study_frame(project, manifest, intervention, cutoff=0)
        study = run_study(intervention, frame).study
        told = document["estimates"]
        estimate, claim = told["estimates"][0]["estimate"], told["claim"]["status"]
    assert study.estimates[0].estimate == pytest.approx(estimate, rel=1e-9)
    assert study.claim.status == claim


def test_every_design_has_a_file_a_command_and_a_row():
    kinds = {yaml.safe_load(text)["design"]["kind"] for text in CONFIGS.values()}
    assert kinds == set(FAMILIES)
    assert set(COMMANDS) == {*VERBS.values(), "simulate", "e-value"}
    section = PAGE.split("## Which design", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"\| `(\w+)` \|", section)) == set(FAMILIES)


def rows_of_refutations():
    """Name, what holds where it passes, and what a failure does."""
    section = PAGE.split("## Refutations", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            name, holds, _, failure = (cell.strip() for cell in line.strip("|").split("|"))
            yield name.strip("`"), holds, failure


def test_refutations_are_those_of_the_asset_checks():
    told = {name: holds for name, holds, _ in rows_of_refutations()}
    assert told == {
        name: " ".join(dict.fromkeys(words[name] for words in (SERIES, OTHERS) if name in words))
        for name in SERIES | OTHERS
    }


def test_a_failure_does_what_the_code_says():
    told = {name: failure for name, _, failure in rows_of_refutations()}
    found = severities()
    assert told == {name: FAILURES[frozenset(found[name])] for name in SERIES | OTHERS}


def severities():
    """ERROR and WARN by refutation, from the syntax trees of what judges."""
    found = defaultdict(set)
    files = [
        *PACKAGE.glob("causal/*/*checks.py"),
        *PACKAGE.glob("interventions/designs/*.py"),
        PACKAGE / "stats" / "design" / "sample_ratio.py",
    ]
    for path in files:
        tree = ast.parse(path.read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in calls_of(function, "judged", "CheckOutcome"):
                callers = calls_of(tree, function.name)
                levels = words_in(keyword(call, "severity"))
                levels = levels or {
                    word for caller in callers for word in words_in(keyword(caller, "severity"))
                }
                for name in names_of(call, callers):
                    found[name] |= levels
    for name in MOVED:
        found[name] |= found["_check_moved"]
    return found


def names_of(call, callers):
    """The refutation that a call judges; a variable stands for what its callers give."""
    name = keyword(call, "name") or call.args[0]
    if isinstance(name, ast.Constant):
        return {name.value}
    if isinstance(name, ast.JoinedStr):
        prefix = name.values[0].value.rstrip("_")
        kinds = {known for known in SERIES | OTHERS if known.startswith(f"{prefix}_")}
        return {prefix} if prefix in OTHERS else kinds
    given = {word for caller in callers if caller.args for word in words_in(caller.args[0])}
    return given or {"_check_moved"}


def calls_of(tree, *names):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def keyword(call, name):
    return next((item.value for item in call.keywords if item.arg == name), None)


def words_in(node):
    """String constants of an expression."""
    if node is None:
        return set()
    found = (item.value for item in ast.walk(node) if isinstance(item, ast.Constant))
    return {word for word in found if isinstance(word, str)}
