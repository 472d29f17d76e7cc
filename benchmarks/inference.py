"""What statistics cost once the moments are there.

python -m benchmarks.inference cells|looks|boundaries|bootstrap
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from benchmarks.clock import Estimates, report
from experiments_dagster.stats.cells import MeanCells, compare_mean_cells
from experiments_dagster.stats.methods.units.bootstrap import compare_by_bootstrap
from experiments_dagster.stats.sequential.boundaries import solve_boundaries

UNITS, LOOKS = 1_000_000, 50


def cells(rng: np.random.Generator, shape: tuple[int, ...]) -> MeanCells:
    """Moments of so many cells."""
    n = rng.integers(100, 10_000, shape)
    return MeanCells(n=n, mean=rng.normal(size=shape), variance=rng.uniform(0.5, 2.0, shape))


def compared(shape: tuple[int, ...]) -> Callable[[], object]:
    """A comparison of two arms in every cell."""
    rng = np.random.default_rng(7)
    control, treatment = cells(rng, shape), cells(rng, shape)
    return lambda: compare_mean_cells(control, treatment, distribution="normal")


def bootstrapped() -> Callable[[], object]:
    """A Poisson bootstrap over buckets of units."""
    rng = np.random.default_rng(0)
    y, is_treated = rng.exponential(size=UNITS), rng.random(UNITS) < 0.5
    keys = rng.permutation(UNITS)
    return lambda: compare_by_bootstrap(y, is_treated, unit_keys=keys, scheme="buckets", seed=1)


def bounded() -> Callable[[], object]:
    """Lan-DeMets boundaries of as many looks as anybody takes."""
    information = [(k + 1) / LOOKS for k in range(LOOKS)]
    return lambda: solve_boundaries(information, alpha=0.05)


TASKS = {
    "cells": lambda: compared((1_000,)),
    "looks": lambda: compared((10_000, 28)),
    "boundaries": bounded,
    "bootstrap": bootstrapped,
}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task = TASKS[parser.parse_args().task]()
    task()  # what is imported or compiled at first use

    def once() -> Estimates:
        task()
        return {}

    report(once)


if __name__ == "__main__":
    main()
