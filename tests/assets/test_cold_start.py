"""Small commands answer at once: imports cost more than the analysis, each has only its own."""

import statistics
import subprocess
import sys
import time

import polars as pl
import pytest

BOUND = 2.5
COMMANDS = {
    "power": ("--kind", "mean", "--sd", "1", "--effect", "0.1"),
    "boundaries": ("--design", "lan_demets_obrien_fleming", "--information", "0.25,0.5,0.75,1"),
    "srm": ("--counts", "500,560"),
    "multiplicity": ("--p", "0.01,0.02,0.03", "--method", "holm"),
    "compare": ("--value", "y", "--covariates", "x,device", "--group-col", "arm", "--control", "a"),
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
    script = "from experiments_dagster.cli import main; main()"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < BOUND
