"""Real tables of one arm, and the table of sizes at the end of the run.

`CALIBRATION_REPLICATES` sets the number of permutations R (default 2,000); the bands follow.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments_dagster.stats.calibration import calibrate, permuted_p_values

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZE = "calibration"
NUMBER = (pl.Int64, pl.Float64, pl.Boolean)


def control_arm(path, arm, value):
    """Columns of the control arm in the order of the file, numbers as floats."""
    if not (SHARED / path).exists():
        pytest.skip(f"no data at {SHARED / path}")
    read = pl.read_parquet if path.endswith("parquet") else pl.read_csv
    frame = read(SHARED / path).filter(pl.col(arm) == value)
    return {
        column.name: (column.cast(pl.Float64) if column.dtype in NUMBER else column).to_numpy()
        for column in frame
    }


@pytest.fixture(scope="session")
def cookie():
    """44,700 players: rounds, also in logs and under a cap, and whether they came back."""
    table = control_arm("fixed/cookie_cats.parquet", "version", "gate_30")
    rounds = table["sum_gamerounds"]
    table["log_rounds"] = np.log1p(rounds)
    table["capped_rounds"] = np.minimum(rounds, np.quantile(rounds, 0.99))  # pooled and frozen
    table["active_days"] = 1 + table["retention_1"] + table["retention_7"]
    table["left_after_day_1"] = table["retention_1"] - table["retention_7"]
    return table


@pytest.fixture(scope="session")
def hillstrom():
    """10,554 customers: past spend, what describes them, and what they did."""
    table = control_arm("uplift/hillstrom_half.parquet", "segment", "No E-Mail")
    keys = ("history_segment", "zip_code", "channel", "recency")
    labels = np.array(["|".join(map(str, row)) for row in zip(*map(table.get, keys), strict=True)])
    table["cell"] = np.unique(labels, return_inverse=True)[1]
    return table


@pytest.fixture(scope="session")
def nsw():
    """260 people: earnings in 1978, 1975 and 1974."""
    return control_arm("observational/nsw_mixtape.csv", "treat", 0)


@pytest.fixture(scope="session")
def replicates():
    return int(os.environ.get("CALIBRATION_REPLICATES", "2000"))


@pytest.fixture
def show(record_property):
    """Put one size into the table at the end."""

    def add(size, *, units, verdict=None):
        kind = "at most" if size.is_conservative else "within"
        verdict = verdict or ("ok" if size.is_calibrated else "OUTSIDE")
        record_property(
            SIZE,
            f"{size.method:52} {units!s:>7} {size.replicates:6d} {size.refused:5d} "
            f"{size.rate:.4f}  {kind:7} [{size.low:.4f}, {size.high:.4f}]  {verdict}",
        )

    return add


@pytest.fixture
def sizes(replicates, show):
    """Run tests on permuted labels, show their sizes and hold them to their bands.

    Returns the p-values by name. Names in `shown` are not held to a band: their outcome is too
    skewed for its arms (METHODS 14.5), or the test says why.
    """

    def run(tests, *, n_units, arms, seed, runs=None, shown=(), conservative=(), alpha=0.05):
        p_values = permuted_p_values(
            tests, n_units=n_units, arm_sizes=arms, replicates=runs or replicates, seed=seed
        )
        wrong = []
        for name, p in p_values.items():
            size = calibrate(name, p, alpha=alpha, is_conservative=name in conservative)
            if name in shown:
                verdict = "ok, not judged" if size.is_calibrated else "outside, not judged"
                show(size, units=min(arms), verdict=verdict)
                continue
            show(size, units=min(arms))
            if not size.is_calibrated:
                wrong.append(f"{name}: {size.rate:.4f}")
        assert wrong == []
        return p_values

    return run


def pytest_terminal_summary(terminalreporter):
    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)
    ]
    rows = [value for report in reports for name, value in report.user_properties if name == SIZE]
    if rows:
        terminalreporter.section("sizes")
        terminalreporter.write_line(
            f"{'test':52} {'per arm':>7} {'R':>6} {'none':>5} {'rate':6}  {'band':25}"
        )
        for row in sorted(rows):
            terminalreporter.write_line(row)
