"""What effects without randomisation cost.

python -m benchmarks.causal impact|synthetic_control|placebos
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import scipy.optimize  # the estimators import it at first use
import scipy.special  # noqa: F401 - the same

from benchmarks.causal_data import (
    LAGGED_YEARS,
    PRE_DAYS,
    PRE_YEARS,
    SEASON_DAYS,
    STATES,
    make_panel,
    make_series,
)
from benchmarks.clock import Estimates, report
from experiments_dagster.causal.series.donor_panel import DonorPanel, Predictor, build_panel
from experiments_dagster.causal.series.donor_placebo import placebo_in_space
from experiments_dagster.causal.series.impact import estimate_impact
from experiments_dagster.causal.series.synthetic_control import (
    estimate_synthetic_control,
    synthetic_control_effect,
)

Task = Callable[[], Estimates]


def impact() -> Task:
    """The average effect on the series, with its full predictive interval."""
    series = make_series()

    def run() -> Estimates:
        result = estimate_impact(
            series.observed,
            series.covariates,
            PRE_DAYS,
            season=SEASON_DAYS,
            min_pre_points=30,
            seed=1,
        )
        average = result.average
        return {"average": {"difference": average.estimate, "std_error": average.std_error}}

    return run


def synthetic_control() -> Task:
    """The average effect on the treated state; the outcome of every year is matched."""
    panel, _ = panel_and_predictors()

    def run() -> Estimates:
        result = estimate_synthetic_control(panel, seed=1)
        return {"average": {"difference": result.average_effect, "std_error": result.pre_rmspe}}

    return run


def placebos() -> Task:
    """By 7 predictors of equal weight, and the same with each donor in the treated one's place."""
    panel, predictors = panel_and_predictors()
    weights = np.ones(len(predictors))

    def effect_of(units: DonorPanel) -> np.ndarray:
        return synthetic_control_effect(units, predictors, predictor_weights=weights, seed=1)

    def run() -> Estimates:
        result = placebo_in_space(panel, effect_of)
        spread = float(result.average_effects.std(ddof=1))
        return {"average": {"difference": result.average_effect, "std_error": spread}}

    return run


def panel_and_predictors() -> tuple[DonorPanel, list[Predictor]]:
    """The panel, its characteristics before the intervention, and four of its years."""
    panel = make_panel()
    treated_at = np.full(STATES, np.inf)
    treated_at[0] = PRE_YEARS
    means = [Predictor(values=one, first=0, stop=PRE_YEARS) for one in panel.characteristics]
    years = [Predictor(values=panel.outcomes, first=year, stop=year + 1) for year in LAGGED_YEARS]
    units = build_panel(panel.outcomes, treated=[0], n_pre=PRE_YEARS, treated_at=treated_at)
    return units, means + years


TASKS = {"impact": impact, "synthetic_control": synthetic_control, "placebos": placebos}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    report(TASKS[parser.parse_args().task]())


if __name__ == "__main__":
    main()
