"""Generate what is missing, run every case, print the tables, fail when a target is missed.

    python -m benchmarks [--sizes S,M] [--large] [--rounds N] [--readme README.md]

`--large` runs what runs on L, on L and on M. Everything made lies in `.bench/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import agreement, envs, measure, tables
from benchmarks.cases import CASES, SCAN, TARGETS, Case, Target
from benchmarks.measure import Measured, RunError
from benchmarks.tables import Row

ROOT = Path(__file__).parents[1]
BENCH = ROOT / ".bench"
SIZES = ("S", "M", "L")
MOST_ROUNDS = {"S": 1}  # no target looks at it: mostly imports

Results = dict[str, dict[str, Measured]]
"""Size -> case -> its rounds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and judge.

    Returns:
        0 if all is measured, all programs agree and all targets are met, else 1.
    """
    options = parse(arguments)
    measure.use_two_cores()
    cases = [case for case in CASES if not options.large or "L" in case.sizes]
    results = {size: run_size(size, cases, options.rounds) for size in options.sizes}
    save(results, [], [])  # what took minutes is not lost to a mistake in judging it
    looked_at = {"L"} if options.large else set(options.sizes)
    rows = [judge(target, results) for target in TARGETS if target.size in looked_at]
    troubles = find_troubles(results)
    text = page(rows, results, troubles)
    sys.stdout.write(text)
    save(results, rows, troubles)
    if options.readme:
        tables.write_block(options.readme, text)
    return 0 if all(row.met for row in rows) and not troubles else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line: sizes (a list), rounds, readme."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--sizes", default="S,M", help="comma-separated, of S, M and L")
    parser.add_argument("--large", action="store_true", help="what runs on L, on M and L")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readme", type=Path, help="a file to write the tables into")
    options = parser.parse_args(arguments)
    options.sizes = ["M", "L"] if options.large else options.sizes.split(",")
    if unknown := set(options.sizes) - set(SIZES):
        parser.error(f"unknown size {sorted(unknown)}")
    return options


def run_size(size: str, cases: Sequence[Case], rounds: int) -> dict[str, Measured]:
    """Run the cases of one size, in turns."""
    cases = [case for case in cases if size in case.sizes]
    missing = {name: envs.install(name) for name in {case.peer for case in cases} if name}
    able = [case for case in cases if not (case.peer and missing[case.peer])]
    for words in dict.fromkeys(case.prepare for case in able if case.prepare):
        subprocess.run(command_of(words, str(data(size, repeated=False))), cwd=ROOT, check=True)
    commands = {case.name: command(case, size) for case in able}
    rounds = min(rounds, MOST_ROUNDS.get(size, rounds))
    often = {case.name: min(rounds, case.most_rounds) for case in able}
    limits = {case.name: case.limit_seconds for case in able if case.limit_seconds}
    measured = measure.interleave(commands, often, ROOT, limits)
    left_out = {
        case.name: Measured(failure=missing[case.peer]) for case in cases if case not in able
    }
    return {case.name: (measured | left_out)[case.name] for case in cases}


def command(case: Case, size: str) -> list[str]:
    """The words of a case, with the folder of its data."""
    return command_of(case.command, str(data(size, repeated=case.repeated)))


def command_of(words: Sequence[str], folder: str) -> list[str]:
    """Words with the folder of the data in its place."""
    return [word.replace("{data}", folder) for word in words]


def data(size: str, *, repeated: bool) -> Path:
    """The folder of a data set, made now if it is missing."""
    folder = BENCH / "data" / size
    make("generate", size, str(folder))
    if not repeated:
        return folder
    twice = folder.with_name(f"{size}-repeated")
    make("repeat", str(folder), str(twice))
    return twice


def make(module: str, *words: str) -> None:
    """Run a module that writes a folder; in its own process, since it needs memory."""
    if not (Path(words[-1]) / "done.json").exists():
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *words], cwd=ROOT, check=True)


def judge(target: Target, results: Results) -> Row:
    """Compare one target with what was measured; what was not measured is not met."""
    try:
        value = number(target, results) / target.per
    except RunError as error:
        return Row(target.what, None, target.at_most, target.unit, met=False, reason=str(error))
    return Row(target.what, value, target.at_most, target.unit, met=value <= target.at_most)


def number(target: Target, results: Results) -> float:
    """The number of a target."""
    measured = results[target.size][target.case]
    if target.base is None:
        return measured.median(target.key)
    if target.is_difference:
        base = results[target.size][target.base]
        return measured.median(target.key) - base.median(target.key)
    if target.base_size in {None, target.size}:
        return measure.ratio(measured, results[target.size][target.base], target.key)
    base = results[target.base_size][target.base]
    return measured.median(target.key) / base.median(target.key)


def find_troubles(results: Results) -> list[str]:
    """Programs that failed, and programs that estimate something else than the others."""
    troubles = []
    scenario = {case.name: case.scenario for case in CASES}
    for size, cases in results.items():
        troubles += [
            f"{size}, {name}: {found.failure}"
            for name, found in cases.items()
            if found.failure and not found.unfinished_after
        ]
        users = json.loads((data(size, repeated=False) / "done.json").read_text())["users"]
        for kind in dict.fromkeys(scenario[name] for name in cases):
            alike = {name: cases[name].estimates for name in cases if scenario[name] == kind}
            different = agreement.disagreements(alike, users, agreement.tolerance_of(kind))
            troubles += [f"{size}, {name}: {text}" for name, text in different.items()]
    return troubles


def page(rows: Sequence[Row], results: Results, troubles: Sequence[str]) -> str:
    """All tables, as Markdown."""
    versions = f"Python {platform.python_version()}, DuckDB {version('duckdb')}"
    parts = [f"{versions}, two cores and threads for every program; medians of interleaved rounds."]
    if rows:
        parts.append(tables.targets_table(rows))
    parts += [table for size, cases in results.items() for table in size_tables(size, cases)]
    parts += ["\n".join(f"- {trouble}" for trouble in troubles)] if troubles else []
    return "\n\n".join(parts) + "\n"


def size_tables(size: str, cases: dict[str, Measured]) -> list[str]:
    """Every program on one size of data; those that read none in a table of their own."""
    base = {case.name: case.base for case in CASES}
    on_data, others = [], []
    for name, found in cases.items():
        if found.rounds or found.unfinished_after:
            lines = on_data if base[name] == SCAN else others
            lines.append(line(name, found, cases[base[name]]))
    rest = ("CPU", "with imports", "peak memory", "rounds")
    parts = {
        (f"on {size}", "time", f"of the {SCAN}", *rest): on_data,
        ("on data of their own", "time", "of ours", *rest): others,
    }
    return [tables.markdown(head, lines) for head, lines in parts.items() if lines]


def line(name: str, found: Measured, base: Measured) -> tuple[str, ...]:
    """One program."""
    if found.unfinished_after:
        least = None if base.failure else found.unfinished_after / base.median("seconds")
        ratio = "-" if least is None else f"over {tables.quantity(least, 'x')}"
        return name, str(found.failure), ratio, "-", "-", "-", "0"
    keys = {"seconds": "s", "cpu_seconds": "s", "process_seconds": "s", "peak_mb": "MB"}
    seconds, cpu, lived, peak = (
        tables.quantity(found.median(key), unit) for key, unit in keys.items()
    )
    ratio = "-" if base.failure else tables.quantity(measure.ratio(found, base, "seconds"), "x")
    return name, seconds, ratio, cpu, lived, peak, str(len(found.rounds))


def save(results: Results, rows: Sequence[Row], troubles: Sequence[str]) -> None:
    """Write everything that was measured to `.bench/results.json`."""
    record = {
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "python": platform.python_version(),
        "targets": [dataclasses.asdict(row) for row in rows],
        "troubles": list(troubles),
        "rounds": {
            size: {name: dataclasses.asdict(found) for name, found in cases.items()}
            for size, cases in results.items()
        },
    }
    BENCH.mkdir(exist_ok=True)
    (BENCH / "results.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
