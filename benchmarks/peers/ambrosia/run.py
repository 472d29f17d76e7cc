"""Ambrosia's tester on a frame of one row per user that pandas made.

    python -m benchmarks.peers.ambrosia.run DATA_FOLDER filtered

It compares means. For a ratio of totals it offers a linearised value on another scale, which is
left out; so it estimates four metrics of the five. It reports no standard error and rounds its
intervals: the standard error here is the one that its p-value implies.
"""

from __future__ import annotations

from pathlib import Path

from ambrosia.tester import Tester
from scipy.stats import t

from benchmarks.clock import MEANS, TREATMENTS, Estimates, run
from benchmarks.peers.units import users_frame


def analyse(folder: Path, scenario: str) -> Estimates:  # noqa: ARG001 - there is one scenario
    """Differences of both treatments from control by its t-test for independent samples."""
    users = users_frame(folder, filtered=True)
    tester = Tester(dataframe=users, column_groups="variant", metrics=list(MEANS))
    estimates = {}
    for arm in TREATMENTS:
        tester.set_dataframe(users, column_groups="variant", group_labels=["control", arm])
        size = int(users["variant"].isin(["control", arm]).sum())
        results = tester.run("absolute", correction_method=None, as_table=False)
        for result in results:
            statistic = t.isf(result["pvalue"] / 2, size - 2)
            estimates[f"{arm}/{result['metric name']}"] = {
                "difference": float(result["effect"]),
                "std_error": float(abs(result["effect"]) / statistic),
            }
    return estimates


if __name__ == "__main__":
    run(analyse, "filtered")
