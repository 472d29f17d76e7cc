"""CausalPy with its PyMC models, as its documentation shows them.

    python -m benchmarks.peers.causalpy.run impact|synthetic_control

`impact` is an interrupted time series: a regression on weekdays and covariates. The synthetic
control weighs the donors by a Dirichlet prior. Its chains run in processes of their own, whose
CPU and memory are not in what this process measures of itself.
"""

from __future__ import annotations

import argparse

import causalpy as cp
import numpy as np
import pandas as pd

from benchmarks.causal_data import (
    COVARIATES,
    PRE_DAYS,
    PRE_YEARS,
    SEASON_DAYS,
    STATES,
    make_panel,
    make_series,
)
from benchmarks.clock import Estimates, report

SAMPLING = {"random_seed": 1, "progressbar": False}


def impact() -> Estimates:
    """The average effect and its posterior standard deviation, noise of single days left out."""
    series = make_series()
    names = [f"x{i}" for i in range(COVARIATES)]
    frame = pd.DataFrame(series.covariates, columns=names)
    frame = frame.assign(y=series.observed, weekday=np.arange(len(frame)) % SEASON_DAYS)
    result = cp.InterruptedTimeSeries(
        frame,
        PRE_DAYS,
        formula=f"y ~ 1 + C(weekday) + {' + '.join(names)}",
        model=cp.pymc_models.LinearRegression(sample_kwargs=SAMPLING),
    )
    averages = result.post_impact.mean("obs_ind")
    return {"average": {"difference": float(averages.mean()), "std_error": float(averages.std())}}


def synthetic_control() -> Estimates:
    """The average effect; as its error, that of the pre-period fit by the posterior mean."""
    states = [f"state{i}" for i in range(STATES)]
    frame = pd.DataFrame(make_panel().outcomes, columns=states)
    result = cp.SyntheticControl(
        frame,
        PRE_YEARS,
        control_units=states[1:],
        treated_units=states[:1],
        model=cp.pymc_models.WeightedSumFitter(sample_kwargs=SAMPLING | {"target_accept": 0.95}),
    )
    before = result.pre_impact.mean(["chain", "draw"])
    return {
        "average": {
            "difference": float(result.post_impact.mean()),
            "std_error": float(np.sqrt((before**2).mean())),
        }
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["impact", "synthetic_control"])
    report({"impact": impact, "synthetic_control": synthetic_control}[parser.parse_args().task])


if __name__ == "__main__":
    main()
