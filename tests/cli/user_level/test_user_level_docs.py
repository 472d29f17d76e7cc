"""Every command of docs/toolkit.md and every example file, as they stand."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from user_level_runs import load, run

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "toolkit.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ experiments ")
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]
# As the README of tecore has them, with `experiments` for `tecore`.
COMMANDS_OF_OLD = (
    "validate --input examples/example_user_level.csv --schema b2c_user_level",
    (
        "cuped --input examples/example_user_level.csv --y revenue --x revenue_pre "
        "--out-md out/report_mean.md --out-json out/result_mean.json"
    ),
    "validate --input examples/example_ratio.csv --schema b2c_ratio",
    (
        "cuped-ratio --input examples/example_ratio.csv --num revenue --den sessions "
        "--num-pre revenue_pre --den-pre sessions_pre "
        "--out-md out/report_ratio.md --out-json out/result_ratio.json"
    ),
    (
        "sequential-mean --input examples/example_user_level.csv "
        "--group-col group --control control --test test --y revenue --mode group_sequential "
        "--spending obrien_fleming --looks 4,8,10 --min-n-per-group 2 "
        "--out out/sequential_mean_demo"
    ),
    (
        "sequential-ratio --input examples/example_ratio.csv "
        "--group-col group --control control --test test --num revenue --den sessions "
        "--baseline-mode first_look --mode confidence_sequence --n-looks 5 --max-n 10 "
        "--min-n-per-group 1 --out out/sequential_ratio_demo"
    ),
    (
        "sequential-simulate --out out/sequential_simulate_demo --n 20000 --effect 0.1 "
        "--noise-sd 1.0 --mode confidence_sequence --n-looks 10 --max-n 20000"
    ),
)
CONFIGS = sorted((REPOSITORY / "examples" / "configs").glob("*.yaml"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command", [*COMMANDS, *COMMANDS_OF_OLD], ids=lambda command: command.split(" --out")[0][:60]
)
def test_a_command_of_the_page_runs(workplace, command):
    arguments = shlex.split(command)
    run(*arguments)
    for flag in ("--out", "--out-json", "--out-md"):
        if flag in arguments:
            assert Path(arguments[arguments.index(flag) + 1]).exists()
    for file in [*Path().glob("out/**/results.json"), *Path().glob("out/*.json")]:
        load(file.read_text())


def test_the_page_shows_every_command_and_every_configuration():
    shown = {command.split()[0] for command in COMMANDS}
    assert shown == {
        *("validate", "audit", "cuped", "cuped-ratio", "run"),
        *("sequential-mean", "sequential-ratio", "sequential-simulate"),
    }
    named = set(re.findall(r"examples/configs/(\w+)\.yaml", PAGE))
    assert named == {path.stem for path in CONFIGS}
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    lines = re.sub(r" +#.*", "", block)
    assert lines == (REPOSITORY / "examples" / "configs" / "sequential_mean.yaml").read_text()


def test_the_effects_in_the_examples_are_found(workplace):
    run("run", "--config", "examples/configs/cuped_ratio.yaml")
    ratio = load(Path("out/config_cuped_ratio/results.json").read_text())["estimates"]
    for name in ("base", "cuped"):
        assert ratio[name]["ci_low"] < 0.2 < ratio[name]["ci_high"]
    run(*shlex.split(next(c for c in COMMANDS if c.startswith("cuped --"))))
    means = load(Path("out/cuped/results.json").read_text())["estimates"]
    for name in ("base", "lin", "cuped"):
        assert means[name]["ci_low"] < 1.5 * 0.85 < means[name]["ci_high"]
    run("run", "--config", "examples/configs/sequential_mean.yaml")
    stream = load(Path("out/config_sequential_mean/results.json").read_text())["estimates"]
    assert stream["decision"] == "reject"
    assert stream["final_ci"][0] < 0.15 < stream["final_ci"][1]


def test_the_example_files_are_those_of_their_script(workplace):
    names = ("example_user_level.csv", "example_ratio.csv", "sequential.csv", "timeseries.csv")
    before = {name: Path("examples", name).read_bytes() for name in names}
    assert sum(map(len, before.values())) < 300_000
    for name in names:
        Path("examples", name).unlink()
    subprocess.run([sys.executable, "examples/make_examples.py"], check=True)
    assert {name: Path("examples", name).read_bytes() for name in names} == before
