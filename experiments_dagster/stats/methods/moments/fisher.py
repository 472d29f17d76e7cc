"""Exact and simulated tests of sparse tables of counts (METHODS 2.9).

Given both margins, the successes K of treatment follow the hypergeometric law

    P(K = k) ∝ C(n_T, k)·C(n_C, m − k),   m = x_C + x_T

and Fisher's two-sided p is the sum of P(k) over all k with P(k) ≤ P(x_T)·(1 + 1e-7), in logs. For
larger tables with expected counts below 5, tables are drawn with the margins held fixed and
p = (1 + #{χ²* ≥ χ²})/(1 + B).

The chi-square approximation itself does not belong here (`proportion.contingency_chi_square`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, logsumexp

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.proportion import contingency_chi_square

TIE = 1e-7  # relative difference within which two probabilities or statistics are equal
FISHER_LIMIT = 1_000_000  # units; beyond, logs of factorials lose the digits that find the ties
SPARSE_COUNT = 5  # expected count below which chi-square is a poor approximation
SPARSE_SHARE = 0.2  # of the cells that may be so sparse
LARGEST_BATCH = 4_000_000  # simulated counts held in memory at once

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherTest:
    """Fisher's exact test of two proportions.

    `odds_ratio` is the sample odds ratio of treatment over control, not the conditional estimate
    of R; None where it is not finite. The test has no interval.
    """

    p_value: float
    odds_ratio: float | None
    n_control: int
    n_treatment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonteCarloChiSquare:
    """A chi-square statistic judged against tables drawn with the same margins."""

    statistic: float
    p_value: float
    replicates: int
    seed: int

    @property
    def p_value_std_error(self) -> float:
        """Monte-Carlo standard error of the p-value."""
        return math.sqrt(self.p_value * (1 - self.p_value) / self.replicates)


def fisher_exact(x_control: int, n_control: int, x_treatment: int, n_treatment: int) -> FisherTest:
    """Test two proportions for equality, exactly and two-sided.

    Args:
        x_control: Successes in control.
        n_control: Units in control.
        x_treatment: Successes in treatment.
        n_treatment: Units in treatment.

    Raises:
        EstimationError: EMPTY_ARM.
        ValueError: Counts outside 0..n, or more than 1,000,000 units.

    References:
        Fisher 1935; METHODS 2.9.

    Examples:
        >>> test = fisher_exact(1, 4, 3, 4)  # the lady tasting tea
        >>> round(test.p_value, 4), test.odds_ratio
        (0.4857, 9.0)
    """
    _check_counts(x_control, n_control, "control")
    _check_counts(x_treatment, n_treatment, "treatment")
    if n_control + n_treatment > FISHER_LIMIT:
        msg = (
            f"fisher_exact: {n_control + n_treatment} units, need {FISHER_LIMIT} or fewer; "
            "use contingency_chi_square"
        )
        raise ValueError(msg)
    successes = x_control + x_treatment
    k = np.arange(max(0, successes - n_control), min(n_treatment, successes) + 1, dtype=np.float64)
    log_weights = _log_choose(n_treatment, k) + _log_choose(n_control, successes - k)
    observed = log_weights[x_treatment - int(k[0])]
    as_extreme = log_weights[log_weights <= observed + math.log1p(TIE)]
    cross = x_control * (n_treatment - x_treatment)
    return FisherTest(
        p_value=min(1.0, math.exp(float(logsumexp(as_extreme) - logsumexp(log_weights)))),
        odds_ratio=x_treatment * (n_control - x_control) / cross if cross else None,
        n_control=n_control,
        n_treatment=n_treatment,
    )


def has_sparse_cells(table: ArrayLike) -> bool:
    """Tell whether more than a fifth of the cells expect fewer than 5 units.

    Then the chi-square approximation is poor: use `fisher_exact` for two by two tables, else
    `contingency_monte_carlo`.

    Raises:
        EstimationError: ZERO_VARIANCE where the table has no units.

    Examples:
        >>> has_sparse_cells([[1, 99], [3, 97]]), has_sparse_cells([[10, 90], [20, 80]])
        (True, False)
    """
    counts = _count_table(table)
    if counts.sum() == 0:
        raise EstimationError("ZERO_VARIANCE", "table", "no units")
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return bool(np.mean(expected < SPARSE_COUNT) > SPARSE_SHARE)


def contingency_monte_carlo(
    table: ArrayLike, *, replicates: int = 10_000, seed: int
) -> MonteCarloChiSquare:
    """Test rows and columns of a sparse table for independence by simulation.

    Tables are drawn with both margins fixed, as independence implies.

    Args:
        table: Counts, shape (rows, columns), such as arms by outcome.
        replicates: Number B of tables; the smallest p is 1/(1 + B).
        seed: Seed of the draws; the same seed gives the same p.

    Raises:
        EstimationError: ZERO_VARIANCE where a row or column is empty.
        ValueError: No replicates, or a table that is not made of counts.

    References:
        Patefield 1981; Davison & Hinkley 1997, section 4.2; METHODS 2.9.

    Examples:
        >>> test = contingency_monte_carlo([[3, 1], [1, 3], [0, 4]], replicates=999, seed=1)
        >>> round(test.statistic, 6), 0.1 < test.p_value < 0.3
        (5.25, True)
    """
    if replicates < 1:
        msg = f"replicates is {replicates}, need 1 or more"
        raise ValueError(msg)
    counts = _count_table(table)
    statistic = contingency_chi_square(counts).statistic
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    rng = np.random.default_rng(seed)
    batch = max(1, LARGEST_BATCH // counts.size)
    as_extreme = 0
    for start in range(0, replicates, batch):
        drawn = _draw_tables(counts, min(batch, replicates - start), rng)
        simulated = np.sum((drawn - expected) ** 2 / expected, axis=(1, 2))
        as_extreme += int(np.count_nonzero(simulated >= statistic * (1 - TIE)))
    return MonteCarloChiSquare(
        statistic=statistic,
        p_value=(1 + as_extreme) / (1 + replicates),
        replicates=replicates,
        seed=seed,
    )


def _draw_tables(counts: Counts, replicates: int, rng: np.random.Generator) -> Counts:
    """Tables with the margins of `counts`, shape (replicates, rows, columns).

    Column by column: the units of a column are a random draw from those the rows have left.
    """
    n_rows, n_columns = counts.shape
    drawn = np.empty((replicates, n_rows, n_columns), dtype=np.int64)
    left = np.tile(counts.sum(axis=1), (replicates, 1))
    for column in range(n_columns - 1):
        open_units = np.full(replicates, counts[:, column].sum())
        for row in range(n_rows - 1):
            others = left[:, row + 1 :].sum(axis=1)
            drawn[:, row, column] = rng.hypergeometric(left[:, row], others, open_units)
            open_units -= drawn[:, row, column]
        drawn[:, -1, column] = open_units
        left -= drawn[:, :, column]
    drawn[:, :, -1] = left
    return drawn


def _count_table(table: ArrayLike) -> Counts:
    given = np.asarray(table)
    if given.ndim != 2 or min(given.shape) < 2:  # noqa: PLR2004
        msg = f"table has shape {given.shape}, need two rows and two columns or more"
        raise ValueError(msg)
    if not (np.isfinite(given).all() and (given >= 0).all() and (given == np.round(given)).all()):
        msg = "table needs whole counts of 0 or more"
        raise ValueError(msg)
    return given.astype(np.int64)


def _check_counts(x: int, n: int, arm: str) -> None:
    if n == 0:
        raise EstimationError("EMPTY_ARM", f"arm {arm}", "0 units")
    if not (0 <= x <= n and x == int(x) and n == int(n)):
        msg = f"arm {arm}: {x} successes of {n} units, need whole numbers 0..n"
        raise ValueError(msg)


def _log_choose(n: int, k: NDArray[np.float64]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return logs
