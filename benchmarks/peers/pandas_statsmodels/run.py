"""pandas for one row per user, statsmodels for the comparison of means.

    python -m benchmarks.peers.pandas_statsmodels.run DATA_FOLDER plain|filtered

`plain` reads and joins all events; `filtered` leaves out what no metric needs while it reads. The
ratio of totals is compared by the delta method: as the mean of its linearisation.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from benchmarks.clock import MEANS, TREATMENTS, Estimates, run
from benchmarks.peers.units import users_frame


def analyse(folder: Path, scenario: str) -> Estimates:
    """Differences of both treatments from control with unequal variances."""
    users = users_frame(folder, filtered=scenario == "filtered")
    arms = {
        name: arm.assign(revenue_per_cart=linearised(arm)) for name, arm in users.groupby("variant")
    }
    return {
        f"{arm}/{metric}": compared(arms[arm][metric], arms["control"][metric])
        for arm in TREATMENTS
        for metric in (*MEANS, "revenue_per_cart")
    }


def linearised(arm: pd.DataFrame) -> pd.Series:
    """Values whose mean is the ratio of totals and whose variance is that of the delta method."""
    ratio = arm["revenue"].sum() / arm["carts"].sum()
    return ratio + (arm["revenue"] - ratio * arm["carts"]) / arm["carts"].mean()


def compared(treatment: pd.Series, control: pd.Series) -> dict[str, float]:
    """Difference of means and its standard error."""
    means = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    return {
        "difference": float(means.d1.mean - means.d2.mean),
        "std_error": float(means.std_meandiff_separatevar),
    }


if __name__ == "__main__":
    run(analyse, "plain", "filtered")
