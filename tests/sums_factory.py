"""Plans that sums serve, the engines that read their landed files, and when sums are equal."""

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from rich_factory import RICH_EXPERIMENT

# Three arms, segments of very unequal size, means, proportions and a ratio, plain pre-periods.
ADDITIVE = (
    RICH_EXPERIMENT.replace(
        "{control: 0.5, one_step: 0.5}", "{control: 0.4, one_step: 0.4, two_step: 0.2}"
    )
    .replace("sensitivity: [log1p, trimmed, mann_whitney, bootstrap, permutation]", "alpha: 0.05")
    .replace("      prior: {lift_sd: 0.03}\n", "")
)
PLAIN = ADDITIVE.replace("{kind: cuped, covariate_days: 14}", "{kind: unadjusted}")
TWO_ARMS = ADDITIVE.replace(
    "{control: 0.4, one_step: 0.4, two_step: 0.2}", "{control: 0.5, one_step: 0.5}"
)
# Sums in another order: the last digits of a few thousand doubles.
CLOSE = 1e-9


def by_polars(files):
    """Landed files as a lazy Polars frame."""
    return nw.from_native(pl.scan_parquet(list(files)))


def assert_equal_sums(found, expected):
    """The same counts exactly, the same moments and residual sums but for rounding."""
    assert found.counts.by_day == expected.counts.by_day
    assert found.counts.by_level == expected.counts.by_level
    assert found.counts.missing == expected.counts.missing
    assert_equal_moments(found.counts.history, expected.counts.history)
    assert found.moments.keys() == expected.moments.keys()
    for key, arms in expected.moments.items():
        assert_equal_moments(found.moments[key], arms)
    assert found.lines.keys() == expected.lines.keys()
    assert found.residuals.keys() == expected.residuals.keys()
    for task, sides in expected.residuals.items():
        assert found.lines[task].dropped == expected.lines[task].dropped
        for one, other in zip(found.residuals[task], sides, strict=True):
            # Cubes and products with outcomes cancel: they are small against these.
            scale = other.squares**1.5
            assert one.squares == pytest.approx(other.squares, rel=CLOSE)
            assert one.cubes == pytest.approx(other.cubes, rel=CLOSE, abs=CLOSE * scale)
            assert one.with_outcome == pytest.approx(other.with_outcome, rel=CLOSE, abs=CLOSE)
            assert one.max_leverage == pytest.approx(other.max_leverage, rel=CLOSE)


def assert_equal_moments(found, expected):
    """Moments of every arm; products are compared with the spread of their columns."""
    assert found.keys() == expected.keys()
    for arm, other in expected.items():
        one = found[arm]
        assert (one.n, one.columns) == (other.n, other.columns)
        assert one.means == pytest.approx(other.means, rel=CLOSE)
        spread = np.sqrt(np.diag(other.cross))
        assert np.all(np.abs(one.cross - other.cross) <= CLOSE * np.outer(spread, spread))
