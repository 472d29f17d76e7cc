"""Reference cases and data of the folder `shared` beside the checkout; skipped where absent."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import settings

from experiments_dagster.stats.moments import ArmMoments

SHARED = Path(__file__).parents[3] / "shared" / "data"

settings.register_profile("stats", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("stats")


class Case:
    """One reference case: its numbers and the tolerance to hold them to."""

    def __init__(self, raw):
        self.spec = raw["spec"]
        self.expected = raw["expected"]
        self.tolerance = raw["tolerance"]

    def check(self, actual, expected, *, digits=None):
        """Compare at the tolerance of the case; `digits` where the case prints fewer."""
        relative = max(self.tolerance.get("rel", 0.0), digits or 0.0)
        assert actual == pytest.approx(expected, rel=relative, abs=self.tolerance.get("abs", 0.0))


@pytest.fixture(scope="session")
def reference():
    def load(area, name):
        path = SHARED / area / "expected.json"
        if not path.exists():
            pytest.skip(f"no reference data at {path}")
        cases = {raw["case"]: raw for raw in json.loads(path.read_text())}
        return Case(cases[name])

    return load


@pytest.fixture(scope="session")
def dataset():
    def load(relative_path):
        path = SHARED / relative_path
        if not path.exists():
            pytest.skip(f"no reference data at {path}")
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)

    return load


@pytest.fixture(scope="session")
def two_arms(dataset):
    """Control and treatment frames of the four fixed-horizon cases."""
    sources = {
        "cookie_cats": ("fixed/cookie_cats.parquet", "version", "gate_30", "gate_40"),
        "nsw_experimental": ("observational/nsw_mixtape.csv", "treat", 0, 1),
        "hillstrom_half_mens": (
            "uplift/hillstrom_half.parquet",
            "segment",
            "No E-Mail",
            "Mens E-Mail",
        ),
        "hillstrom_half_womens": (
            "uplift/hillstrom_half.parquet",
            "segment",
            "No E-Mail",
            "Womens E-Mail",
        ),
    }

    def load(case):
        path, group, control, treatment = sources[case]
        frame = dataset(path)
        return frame.filter(pl.col(group) == control), frame.filter(pl.col(group) == treatment)

    return load


@pytest.fixture(scope="session")
def arm():
    """Moments of one column of a frame, or of a list of values, as column y."""

    def make(values, column=None):
        return ArmMoments.from_arrays(y=values if column is None else values[column].to_numpy())

    return make


@pytest.fixture(scope="session")
def summary_arm():
    """Moments from n, mean and variance."""

    def make(n, mean, variance):
        return ArmMoments(
            n=n, columns=("y",), means=np.array([mean]), cross=np.array([[variance * (n - 1)]])
        )

    return make


@pytest.fixture(scope="session")
def monte_carlo_band():
    """The 99.9 % band of a rejection rate over a number of runs."""

    def band(rate, runs):
        half_width = 3.290527 * math.sqrt(rate * (1 - rate) / runs)
        return rate - half_width, rate + half_width

    return band
