"""The Dagster UI of one project on loopback: the guarded webserver with its daemon.

`dagster dev` would start Dagster's own webserver, which executes what any web page sends to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import dagster as dg

WEBSERVER = "experiments_dagster.service.webserver"
DAEMON = "dagster._daemon"
POLL_S = 0.2
STOP_S = 30.0


def serve_project(
    folder: Path, code: Sequence[str], port: int, variables: Mapping[str, str]
) -> int:
    """Run webserver and daemon until one of them ends or this process is asked to stop.

    Args:
        folder: The project folder, where both run.
        code: What names the code location: `-w FILE` or `-m MODULE`.
        port: Port on 127.0.0.1.
        variables: DAGSTER_HOME and whatever else the code location reads.

    Returns:
        0 when asked to stop, else the exit code of the process that ended by itself.
    """
    environment = os.environ | variables
    make_storage(Path(environment["DAGSTER_HOME"]))
    # A service manager stops by SIGTERM, a terminal by SIGINT: both end the children too.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    commands = (
        [sys.executable, "-m", DAEMON, "run", *code],
        [sys.executable, "-m", WEBSERVER, "--port", str(port), *code],
    )
    try:
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(_running(command, folder, environment)) for command in commands
            ]
            while all(child.poll() is None for child in children):
                time.sleep(POLL_S)
            # One without the other is of no use: a port that is taken, a home that is broken.
            return next(child.returncode for child in children if child.returncode is not None)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def make_storage(home: Path) -> None:
    """Make the instance's tables.

    Two processes that make them at once leave SQLite with two versions of its schema, and no
    process can open it any more.
    """
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()
        instance.all_instigator_state()
        instance.get_asset_keys()


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is stopped, and killed if it does not stop, when the block ends."""
    child = subprocess.Popen(command, cwd=folder, env=environment)  # noqa: S603  our own modules
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
