"""tfcausalimpact: a local level, a weekly season and a regression, fitted by TensorFlow.

    python -m benchmarks.peers.tfcausalimpact.run impact

The fit is variational inference, its default; its posterior is drawn anew in every run.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from causalimpact import CausalImpact

from benchmarks.causal_data import PRE_DAYS, SEASON_DAYS, make_series
from benchmarks.clock import Estimates, report


def impact() -> Estimates:
    """The average effect, its error from the width of the interval."""
    series = make_series()
    frame = pd.DataFrame(np.column_stack([series.observed, series.covariates]))
    result = CausalImpact(
        frame,
        [0, PRE_DAYS - 1],
        [PRE_DAYS, len(frame) - 1],
        model_args={"nseasons": SEASON_DAYS},
    )
    summary = result.summary_data["average"]
    low, high = summary["abs_effect_lower"], summary["abs_effect_upper"]
    return {
        "average": {
            "difference": float(summary["abs_effect"]),
            "std_error": float(high - low) / (2 * 1.96),
        }
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["impact"])
    parser.parse_args()
    report(impact)


if __name__ == "__main__":
    main()
