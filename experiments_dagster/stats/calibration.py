"""Rejection rates of tests under permuted labels, and the bands they must fall into.

    exact tests          α ± z√(α(1 − α)/R),  z = 3.29: 99.9 %
    discrete or          at most α + 1.645√(α(1 − α)/R)
    conservative tests

A table of one arm, its labels drawn again R times, is an experiment without an effect (METHODS 14).
Each replicate draws its units without replacement and then their arms; the units keep their order.
A replicate that the test refuses (`EstimationError`) does not reject, and is counted. A rate
outside its band is reported, never mended by a wider band.

The rule of thumb for skewed means, n ≥ 355·skewness² units per arm, tells for which sizes a normal
approximation of one mean is promised at all.

References:
    Kohavi, Deng, Longbotham & Xu 2014 for the rule; METHODS section 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, upper_quantile

BAND_ALPHA = 0.001  # two-sided: one band in a thousand is missed by chance
CEILING_ALPHA = 0.05  # one-sided
UNITS_PER_SQUARED_SKEWNESS = 355

Rows = NDArray[np.int64]
PValue = Callable[[Rows, Rows], float | None]  # (rows, arms) of a replicate; None where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How often one test rejects without an effect, and how often it may.

    `refused` counts replicates without a p-value; they are among the `replicates` and not among the
    `rejections`. `low` is 0 for discrete and conservative tests.
    """

    method: str
    alpha: float
    replicates: int
    rejections: int
    refused: int
    low: float
    high: float
    is_conservative: bool

    @property
    def rate(self) -> float:
        """Share of replicates that reject."""
        return self.rejections / self.replicates

    @property
    def is_calibrated(self) -> bool:
        """Whether the rate lies within its band."""
        return self.low <= self.rate <= self.high


def rejection_band(
    rate: float, replicates: int, *, band_alpha: float = BAND_ALPHA
) -> tuple[float, float]:
    """Return the range of an observed share whose true value is `rate`.

    Args:
        rate: True share, in (0, 1): α, a planned power, or a coverage.
        replicates: R.
        band_alpha: Chance of a share outside; divide it by the number of bands looked at together.

    Examples:
        >>> [round(limit, 4) for limit in rejection_band(0.05, 10_000)]
        [0.0428, 0.0572]
        >>> [round(limit, 4) for limit in rejection_band(0.8, 2000, band_alpha=0.05)]
        [0.7825, 0.8175]
    """
    half_width = critical_value(band_alpha) * _share_error(rate, replicates)
    return rate - half_width, rate + half_width


def rejection_ceiling(rate: float, replicates: int) -> float:
    """Return the largest share expected of a test whose true rate is `rate` or below.

    Examples:
        >>> round(rejection_ceiling(0.05, 2000), 4)
        0.058
    """
    return rate + upper_quantile(CEILING_ALPHA) * _share_error(rate, replicates)


def calibrate(
    method: str, p_values: ArrayLike, *, alpha: float = 0.05, is_conservative: bool = False
) -> Calibration:
    """Hold the p-values of replicates without an effect against the level of the test.

    Args:
        method: What was tested, for the table.
        p_values: One per replicate, NaN where the test refused, shape (R,).
        alpha: Level of the test.
        is_conservative: The test is discrete or promises no more than α.

    Raises:
        ValueError: No replicates, or an alpha outside (0, 1).

    Examples:
        >>> result = calibrate("uniform", (np.arange(1000) + 0.5) / 1000)
        >>> result.rate, result.is_calibrated
        (0.05, True)
    """
    p = np.asarray(p_values, dtype=np.float64)
    low, high = rejection_band(alpha, len(p))
    return Calibration(
        method=method,
        alpha=alpha,
        replicates=len(p),
        rejections=int(np.count_nonzero(p < alpha)),
        refused=int(np.count_nonzero(np.isnan(p))),
        low=0.0 if is_conservative else low,
        high=rejection_ceiling(alpha, len(p)) if is_conservative else high,
        is_conservative=is_conservative,
    )


def permuted_p_values(
    tests: Mapping[str, PValue],
    *,
    n_units: int,
    arm_sizes: Sequence[int],
    replicates: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Run tests on permuted labels, all of them on the same ones.

    Args:
        tests: By name, from the rows of a replicate, ascending, and their arms, 0 for control, to
            a p-value.
        n_units: Units in the table.
        arm_sizes: Units drawn for each arm, control first; together at most `n_units`.
        replicates: R.
        seed: Of the draws.

    Returns:
        p-values by name, shape (R,), NaN where a test refused or has none.

    Raises:
        ValueError: More units asked for than there are.

    Examples:
        >>> outcome = np.arange(40.0)
        >>> def same_mean(rows, arms):
        ...     return float(outcome[rows[arms == 1]].mean() > outcome[rows[arms == 0]].mean())
        >>> p = permuted_p_values(
        ...     {"mean": same_mean}, n_units=40, arm_sizes=(10, 10), replicates=50, seed=1)
        >>> p["mean"].shape, bool(0 < p["mean"].mean() < 1)
        ((50,), True)
    """
    if sum(arm_sizes) > n_units:
        msg = f"arms of {list(arm_sizes)} units need more than the {n_units} there are"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(arm_sizes)), arm_sizes)
    p_values = {name: np.full(replicates, np.nan) for name in tests}
    for replicate in range(replicates):
        rows = np.arange(n_units)
        if len(labels) < n_units:
            rows = np.sort(rng.choice(n_units, size=len(labels), replace=False, shuffle=False))
        arms = rng.permutation(labels)
        for name, test in tests.items():
            p_values[name][replicate] = _p_value(test, rows, arms)
    return p_values


def units_for_skewness(values: ArrayLike) -> float:
    """Return 355·skewness²: units per arm from which a mean is nearly normal in its tails.

    Args:
        values: Outcome, or the linearised outcome of a ratio, shape (n,), not constant.

    References:
        Kohavi, Deng, Longbotham & Xu 2014, KDD, section 3.5.

    Examples:
        >>> round(units_for_skewness([0, 0, 0, 1]), 1)
        473.3
    """
    deviations = np.asarray(values, dtype=np.float64)
    deviations = deviations - deviations.mean()
    skewness = float(np.mean(deviations**3)) / float(np.mean(deviations**2)) ** 1.5
    return float(UNITS_PER_SQUARED_SKEWNESS * skewness**2)


def _p_value(test: PValue, rows: Rows, arms: Rows) -> float:
    try:
        p_value = test(rows, arms)
    except EstimationError:
        return math.nan
    return math.nan if p_value is None else p_value


def _share_error(rate: float, replicates: int) -> float:
    check_alpha(rate)
    if replicates < 1:
        msg = f"replicates is {replicates}, need 1 or more"
        raise ValueError(msg)
    return math.sqrt(rate * (1 - rate) / replicates)
