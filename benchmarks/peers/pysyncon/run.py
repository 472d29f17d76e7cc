"""pysyncon's synthetic control and its placebo test, predictor weights given.

    python -m benchmarks.peers.pysyncon.run placebos

It spreads the placebos over all processors, in processes of their own, whose CPU and memory are
not in what this process measures of itself.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

import numpy as np
import pandas as pd
from pysyncon import Dataprep, Synth
from pysyncon.utils import PlaceboTest

from benchmarks.causal_data import (
    CHARACTERISTICS,
    LAGGED_YEARS,
    PRE_YEARS,
    STATES,
    YEARS,
    make_panel,
)
from benchmarks.clock import THREADS, Estimates, report

NAMES = [f"x{i}" for i in range(CHARACTERISTICS)]


def placebos() -> Estimates:
    """The average effect, and the spread of those of the donors."""
    before = range(PRE_YEARS)
    study = Dataprep(
        foo=long_frame(),
        predictors=NAMES,
        predictors_op="mean",
        special_predictors=[("y", [year], "mean") for year in LAGGED_YEARS],
        dependent="y",
        unit_variable="state",
        time_variable="year",
        treatment_identifier="state0",
        controls_identifier=[f"state{i}" for i in range(1, STATES)],
        time_predictors_prior=before,
        time_optimize_ssr=before,
    )
    weights = np.ones(len(NAMES) + len(LAGGED_YEARS))
    test = PlaceboTest()
    with contextlib.redirect_stdout(sys.stderr):
        test.fit(study, Synth(), {"custom_V": weights}, max_workers=THREADS, verbose=False)
    averages = test.gaps.loc[PRE_YEARS:].mean()
    return {
        "average": {
            "difference": float(test.treated_gap.loc[PRE_YEARS:].mean()),
            "std_error": float(averages.std()),
        }
    }


def long_frame() -> pd.DataFrame:
    """One row per state and year."""
    panel = make_panel()
    frame = pd.DataFrame(
        {
            "state": np.tile([f"state{i}" for i in range(STATES)], YEARS),
            "year": np.repeat(np.arange(YEARS), STATES),
            "y": panel.outcomes.ravel(),
        }
    )
    values = zip(NAMES, panel.characteristics, strict=True)
    return frame.assign(**{name: one.ravel() for name, one in values})


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["placebos"])
    parser.parse_args()
    report(placebos)


if __name__ == "__main__":
    main()
