"""What one Dagster event costs on an instance: runs that log many events, timed inside.

    python deploy/measure_events.py HOME... [--hold] [--events 200] [--repeats 5]

Each HOME is a folder with a dagster.yaml, or `sqlite` for Dagster's default storage in a temporary
folder. The instances take turns, so that their times can be compared on a busy machine too. With
`--hold` each is measured a second time with connections that are held instead of made anew.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import dagster as dg

TIMEOUT_MS = 60_000
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def log_events(context: dg.OpExecutionContext) -> dg.Output:
    """Log as many pairs of events as the tag says: what a night logs for each experiment."""
    pairs = int(context.run_tags["events"]) // 2
    begun = time.perf_counter()
    for number in range(pairs):
        context.log_event(
            dg.AssetMaterialization(["decisions", "verdict"], partition=f"experiment_{number}")
        )
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(["decisions", "verdict"]),
                check_name="look_health",
                passed=True,
                partition=f"experiment_{number}",
            )
        )
    return dg.Output((time.perf_counter() - begun) / (2 * pairs) * 1000)


@dg.job(executor_def=dg.in_process_executor)
def measure() -> None:
    """One op that logs events."""
    dg.op(log_events)()


def ms_per_event(instance: dg.DagsterInstance, events: int) -> float:
    """Milliseconds per event of one run."""
    result = measure.execute_in_process(
        instance=instance, run_config=QUIET, tags={"events": str(events)}
    )
    return float(result.output_for_node("log_events"))


def main() -> None:
    """Print the median and the range of each instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("homes", nargs="+", metavar="HOME")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        instances = {}
        for home in arguments.homes:
            instances[Path(home).name] = stack.enter_context(open_home(home, stack))
            if arguments.hold:
                held = stack.enter_context(open_home(home, stack))
                held.optimize_for_webserver(TIMEOUT_MS, pool_recycle=3600, max_overflow=5)
                instances[f"{Path(home).name}, connections held"] = held
        for instance in instances.values():  # tables are made, modules loaded
            ms_per_event(instance, 2)
        times: dict[str, list[float]] = {name: [] for name in instances}
        for _ in range(arguments.repeats):
            for name, instance in instances.items():
                times[name].append(ms_per_event(instance, arguments.events))
    for name, values in times.items():
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"{name}: {median:.1f} ms per event ({low:.1f} to {high:.1f})")  # noqa: T201


def open_home(home: str, stack: contextlib.ExitStack) -> dg.DagsterInstance:
    """The instance of a folder, or a new one on Dagster's default storage."""
    if home == "sqlite":
        return dg.DagsterInstance.local_temp(stack.enter_context(tempfile.TemporaryDirectory()))
    return dg.DagsterInstance.from_config(home)


if __name__ == "__main__":
    main()
