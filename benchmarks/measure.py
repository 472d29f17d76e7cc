"""Runs programs beside each other and sums up what they print.

Every program runs in a process of its own, in turns (A B C A B C ...), so that a machine that is
busy for a while is busy for all of them. A ratio is the median over the rounds of the ratios
within a round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clock import THREADS

ONE_RUN_SECONDS = 1_800
LIMITED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


class RunError(RuntimeError):
    """A program failed or printed no measurement; the message has the last line of what it said."""


@dataclass
class Measured:
    """The rounds of one program, or why there are none."""

    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    failure: str | None = None

    def median(self, key: str) -> float:
        """Median over the rounds of `seconds`, `cpu_seconds`, `peak_mb` or `process_seconds`."""
        return statistics.median(self.values(key).values())

    def values(self, key: str) -> dict[int, float]:
        """Round -> value."""
        if not self.rounds:
            raise RunError(self.failure or "not run")
        return {number: float(found[key]) for number, found in self.rounds.items()}

    @property
    def estimates(self) -> dict[str, dict[str, float]]:
        """What the first round estimated."""
        return next(iter(self.rounds.values()), {}).get("estimates", {})


def ratio(one: Measured, other: Measured, key: str) -> float:
    """Median of the ratios within rounds that both ran in.

    Raises:
        RunError: One of them has no rounds.
    """
    ours, theirs = one.values(key), other.values(key)
    shared = ours.keys() & theirs.keys()
    if not shared:
        raise RunError("no round in common")
    return statistics.median(ours[number] / theirs[number] for number in shared)


def interleave(
    commands: Mapping[str, Sequence[str]], rounds: Mapping[str, int], folder: Path
) -> dict[str, Measured]:
    """Run every command once per round, in the order given; one that fails is not tried again.

    Args:
        commands: Name -> command line.
        rounds: Name -> how often it runs.
        folder: Where the commands run.
    """
    measured = {name: Measured() for name in commands}
    for number in range(max(rounds.values(), default=0)):
        for name, command in commands.items():
            if number >= rounds[name] or measured[name].failure:
                continue
            try:
                measured[name].rounds[number] = run_once(command, folder)
            except RunError as error:
                measured[name] = Measured(failure=str(error))
    return measured


def run_once(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one program; its last line of output is the measurement.

    Returns:
        What it printed, with `process_seconds`: its life as seen from outside, imports included.

    Raises:
        RunError: It failed, took too long or printed no measurement.
    """
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
            timeout=ONE_RUN_SECONDS,
            env=os.environ | dict.fromkeys(LIMITED, str(THREADS)),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(str(error)) from error
    lived = time.perf_counter() - start
    if done.returncode:
        said = (done.stderr or done.stdout).replace(f"{folder}/", "").strip().splitlines()
        raise RunError(f"exit {done.returncode}: {said[-1] if said else 'it said nothing'}")
    try:
        return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": lived}
    except (IndexError, ValueError) as error:
        raise RunError(f"printed no measurement: {done.stdout[-200:]!r}") from error


def use_two_cores() -> None:
    """Keep this process and what it starts on two cores, whatever a library decides to use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
