"""Runs programs beside each other and sums up what they print.

Every program runs in a process of its own, in turns (A B C A B C ...), so that a machine that is
busy for a while is busy for all of them. A ratio is the median over the rounds of the ratios
within a round.
"""

from __future__ import annotations

import json
import os
import signal
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


class UnfinishedError(RunError):
    """A program took longer than it was given."""

    def __init__(self, seconds: float) -> None:
        """Say how long that was."""
        super().__init__(f"did not finish in {seconds:g} s")
        self.seconds = seconds


@dataclass
class Measured:
    """The rounds of one program, or why there are none.

    A program that did not finish within the limit of its case has both `failure` and
    `unfinished_after`, that limit in seconds: this is a result, not a mistake.
    """

    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    failure: str | None = None
    unfinished_after: float | None = None

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
    commands: Mapping[str, Sequence[str]],
    rounds: Mapping[str, int],
    folder: Path,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Measured]:
    """Run every command once per round, in the order given; one that fails is not tried again.

    Args:
        commands: Name -> command line.
        rounds: Name -> how often it runs.
        folder: Where the commands run.
        limits: Name -> seconds after which it is stopped and counts as unfinished.
    """
    limits = limits or {}
    measured = {name: Measured() for name in commands}
    for number in range(max(rounds.values(), default=0)):
        for name, command in commands.items():
            if number >= rounds[name] or measured[name].failure:
                continue
            try:
                seconds = limits.get(name, ONE_RUN_SECONDS)
                measured[name].rounds[number] = run_once(command, folder, seconds)
            except UnfinishedError as error:
                measured[name] = Measured(failure=str(error), unfinished_after=limits.get(name))
            except RunError as error:
                measured[name] = Measured(failure=str(error))
    return measured


def run_once(
    command: Sequence[str], folder: Path, seconds: float = ONE_RUN_SECONDS
) -> dict[str, Any]:
    """Run one program for so many seconds at most; its last line of output is the measurement.

    Returns:
        What it printed, with `process_seconds`: its life as seen from outside, imports included.

    Raises:
        RunError: It failed, took too long or printed no measurement.
    """
    start = time.perf_counter()
    code, printed, complained = communicate(command, folder, seconds)
    lived = time.perf_counter() - start
    if code:
        said = (complained or printed).replace(f"{folder}/", "").strip().splitlines()
        raise RunError(f"exit {code}: {said[-1] if said else 'it said nothing'}")
    try:
        return {**json.loads(printed.splitlines()[-1]), "process_seconds": lived}
    except (IndexError, ValueError) as error:
        raise RunError(f"printed no measurement: {printed[-200:]!r}") from error


def communicate(command: Sequence[str], folder: Path, seconds: float) -> tuple[int, str, str]:
    """Return exit code, output and errors of a program.

    It is stopped together with what it has started: samplers that outlive a program would slow
    down the next one.
    """
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | dict.fromkeys(LIMITED, str(THREADS)),
            process_group=0,
        )
    except OSError as error:
        raise RunError(str(error)) from error
    with process:
        try:
            printed, complained = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise UnfinishedError(seconds) from error
            raise
    return process.returncode, printed, complained


def use_two_cores() -> None:
    """Keep this process and what it starts on two cores, whatever a library decides to use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
