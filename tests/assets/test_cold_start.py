"""Small commands answer at once: imports cost more than the analysis, each has only its own."""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

BOUND = 2.5
REPOSITORY = Path(__file__).parents[2]
COMMANDS = {
    "power": ("--kind", "mean", "--sd", "1", "--effect", "0.1"),
    "boundaries": ("--design", "lan_demets_obrien_fleming", "--information", "0.25,0.5,0.75,1"),
    "srm": ("--counts", "500,560"),
    "multiplicity": ("--p", "0.01,0.02,0.03", "--method", "holm"),
    "compare": ("--value", "y", "--covariates", "x,device", "--group-col", "arm", "--control", "a"),
}


USERS, RATIOS = "examples/example_user_level.csv", "examples/example_ratio.csv"
VERBS = {
    "validate": ("--input", USERS, "--schema", "b2c_user_level"),
    "audit": ("--input", RATIOS, "--schema", "b2c_ratio"),
    "cuped": ("--input", USERS, "--y", "revenue", "--x", "revenue_pre"),
    "cuped-ratio": (
        *("--input", RATIOS, "--num", "revenue", "--den", "sessions"),
        *("--num-pre", "revenue_pre", "--den-pre", "sessions_pre"),
    ),
    "sequential-mean": ("--input", USERS, "--y", "revenue", "--max-n", "1200"),
    "sequential-ratio": ("--input", RATIOS, "--num", "revenue", "--den", "sessions"),
    "sequential-simulate": ("--n", "5000", "--max-n", "5000"),
    "run": ("--config", "examples/configs/cuped.yaml"),
}


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    path = tmp_path_factory.mktemp("cold") / "units.parquet"
    n = 20_000
    pl.DataFrame(
        {
            "arm": ["a", "b"] * (n // 2),
            "y": [float(i * 7919 % 101) for i in range(n)],
            "x": [float(i * 104729 % 97) for i in range(n)],
            "device": [("phone", "desktop", "tablet")[i * 31 % 3] for i in range(n)],
        }
    ).write_parquet(path)
    return path


@pytest.mark.alone
@pytest.mark.parametrize("command", COMMANDS)
def test_a_small_command_takes_less_than_two_and_a_half_seconds(command, arms):
    arguments = [command, *COMMANDS[command]]
    if command == "compare":
        arguments += ["--input", str(arms)]
    assert median_seconds(arguments) < BOUND


@pytest.mark.alone
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_a_file_writes_its_folder_in_less_than_that(verb, tmp_path):
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    folder = () if verb == "run" else ("--out", "out/timed")
    assert median_seconds([verb, *VERBS[verb], *folder], cwd=tmp_path) < BOUND
    (written,) = tmp_path.glob("out/*/results.json")
    assert written.stat().st_size


def median_seconds(arguments, cwd=None):
    script = "from experiments_dagster.cli import main; main()"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-c", script, *arguments]
        subprocess.run(command, capture_output=True, check=True, cwd=cwd)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
