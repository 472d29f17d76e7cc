"""What every measured program does: run one analysis, time it, print one line of JSON.

Only the standard library is imported here, since the peers' environments load it too. The clock
starts after the imports and stops when the estimates are there; the whole process is timed from
outside by `measure.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
METRICS = ("revenue", "conversion", "clicks", "views", "revenue_per_cart")
MEANS = METRICS[:4]
TREATMENTS = ("bold", "plain")
EVENTS = ("view", "click", "cart", "purchase")
WINDOW_DAYS = 14
EXPERIMENT_START = "2026-01-19 00:00:00"
DATA_END = "2026-02-16 00:00:00"

Estimates = dict[str, dict[str, float]]
"""`arm/metric` -> `difference` (in the metric's unit) and `std_error` of it."""


def run(analyse: Callable[[Path, str], Estimates], *scenarios: str) -> None:
    """Read `DATA_FOLDER SCENARIO` from the command line, analyse, print the measurement.

    Args:
        analyse: Takes the folder of the data and the scenario.
        scenarios: Those that the program can do.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", choices=scenarios)
    arguments = parser.parse_args()
    report(lambda: analyse(arguments.folder, arguments.scenario))


def report(analyse: Callable[[], Estimates], **extra: Any) -> None:
    """Time one call and print `seconds`, `cpu_seconds`, `peak_mb` and its estimates as JSON."""
    wall, cpu = time.perf_counter(), time.process_time()
    estimates = analyse()
    measurement = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak_mb(),
        "estimates": estimates,
        **extra,
    }
    sys.stdout.write(json.dumps(measurement) + "\n")


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB (1e6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would count the memory of the parent that a forked child starts with.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
