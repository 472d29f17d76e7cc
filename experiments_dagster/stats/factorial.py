"""Factorial experiments of k factors with two levels each: every factor from all units.

Effect-coded columns x_f = ±½ per factor (high +½), products of them for interactions up to an
order, OLS on (1, x_1, …, x_k, x_1x_2, …). The coefficients are then

    main effect        mean over the other factors' levels of (high − low)
    interaction f·g    effect of f at high g minus effect of f at low g, and so on for more factors

Units of one cell share their row, so everything follows from cell sizes n_j, means and sums of
squares M_j. With the row weights a_j of a coefficient and leverages h_j, residual sums of squares
R_j = M_j + n_j(ȳ_j − ŷ_j)²:

    HC2   V = Σ a_j² R_j/(1 − h_j)
    df    (Σλ)²/Σλ², λ the eigenvalues of diag(a²/(1 − h))(I − H)      (Bell & McCaffrey)

In a balanced design of full order this is the classical analysis of variance, t² = F, whose table
is added. Without the higher orders the model assumes that there are none; an effect that the
cells with units do not determine under the model is NOT_IDENTIFIED. p-values are corrected by Holm
within each order. METHODS 10.1.

References:
    Yates 1937; MacKinnon & White 1985; Bell & McCaffrey 2002; Imbens & Kolesár 2016.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtrc

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, two_sided_p_value
from experiments_dagster.stats.methods.units.interacted import unit_column, without_level
from experiments_dagster.stats.multiplicity import adjusted_p_values

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Term = tuple[int, ...]

MAX_FACTORS = 6
DEFAULT_ORDER = 2
DETERMINED = 1e-9  # distance of a unit vector from the row space that is rounding
FULL_LEVERAGE = 1 - 1e-9  # the unit is fitted exactly: it has no residual to learn from


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorialEffect:
    """A main effect or an interaction; numbers are None where `reason` says why.

    Args:
        factors: Names; one for a main effect.
        estimate: Coefficient, in units of the outcome.
        std_error: HC2.
        degrees_of_freedom: Bell-McCaffrey.
        ci_low: Lower limit, not corrected for the number of effects.
        ci_high: Upper limit.
        p_value: Two-sided.
        p_adjusted: By Holm among all effects of the same order, those not estimable included.
        reason: Code of `stats.errors.REASONS`.
    """

    factors: tuple[str, ...]
    estimate: float | None = None
    std_error: float | None = None
    degrees_of_freedom: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """Factors joined by a colon."""
        return ":".join(self.factors)

    @property
    def order(self) -> int:
        """How many factors take part."""
        return len(self.factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceRow:
    """One line of the classical table: an effect with one degree of freedom."""

    name: str
    sum_of_squares: float
    f: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceTable:
    """The classical analysis of variance of a balanced design."""

    rows: tuple[VarianceRow, ...]
    residual_sum_of_squares: float
    residual_df: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Factorial:
    """All effects of a factorial experiment up to an order, lowest order first.

    Args:
        grand_mean: The mean over cells, weighted equally; its `factors` are empty.
        effects: In the order of the factors.
        variance_table: Where the design is balanced.
        order: Highest order in the model; nothing above it is assumed to exist.
        n_units: Units in all cells.
        smallest_cell: Units in the smallest cell, 0 where one is empty.
        n_empty_cells: Combinations of levels without units.
        confidence_level: Of each interval by itself.
        variance_formula: Of the standard errors.
        correction: Of `p_adjusted`.
    """

    grand_mean: FactorialEffect
    effects: tuple[FactorialEffect, ...]
    variance_table: VarianceTable | None
    order: int
    n_units: int
    smallest_cell: int
    n_empty_cells: int
    confidence_level: float
    variance_formula: str = "hc2"
    correction: str = "holm within order"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Sizes, means and centred sums of squares of the cells that have units."""

    codes: NDArray[np.int64]  # ±1 per factor, shape (cells, k)
    n: Vector
    means: Vector
    squares: Vector


def factorial_effects(
    y: ArrayLike,
    levels: ArrayLike,
    *,
    factors: Sequence[str],
    order: int | None = None,
    alpha: float = 0.05,
) -> Factorial:
    """Estimate main effects and interactions of a 2^k experiment.

    Args:
        y: Outcome per randomised unit, shape (n,).
        levels: Per unit and factor 0 for the low and 1 for the high level, shape (n, k).
        factors: Their k names, at most 6.
        order: Highest order of interactions; by default 2, or 1 for one factor.
        alpha: Two-sided level of the intervals.

    Raises:
        EstimationError: NON_FINITE_INPUT, N_TOO_SMALL without units.
        ValueError: Names, shapes, levels or order that do not fit.

    References:
        Yates 1937; Bell & McCaffrey 2002; METHODS 10.1.

    Examples:
        >>> levels = [[0, 0], [0, 1], [1, 0], [1, 1]] * 2
        >>> y = [1, 2, 3, 8, 1.2, 2.2, 3.2, 8.2]
        >>> result = factorial_effects(y, levels, factors=["a", "b"])
        >>> [(effect.name, round(effect.estimate, 6)) for effect in result.effects]
        [('a', 4.0), ('b', 3.0), ('a:b', 4.0)]
    """
    check_alpha(alpha)
    names = _checked_names(factors)
    outcome = unit_column(y, "y")
    high = _checked_levels(levels, len(outcome), len(names))
    if not len(outcome):
        raise EstimationError("N_TOO_SMALL", "factorial", "0 units")
    chosen = _checked_order(order, len(names))
    cells, level = _cells(outcome, high)
    terms = [
        term
        for size in range(chosen + 1)
        for term in itertools.combinations(range(len(names)), size)
    ]
    found = _fit(cells, terms, names, level, alpha)
    n_empty = 2 ** len(names) - len(cells.n)
    return Factorial(
        grand_mean=found[0],
        effects=_with_holm(found[1:]),
        variance_table=_variance_table(cells, terms, names) if n_empty == 0 else None,
        order=chosen,
        n_units=len(outcome),
        smallest_cell=0 if n_empty else int(cells.n.min()),
        n_empty_cells=n_empty,
        confidence_level=1 - alpha,
    )


def _checked_names(factors: Sequence[str]) -> tuple[str, ...]:
    names = tuple(factors)
    if not 1 <= len(names) <= MAX_FACTORS:
        msg = f"factors are {len(names)}, need 1 to {MAX_FACTORS}"
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"factors {', '.join(names)} hold one twice, need distinct names"
        raise ValueError(msg)
    return names


def _checked_levels(levels: ArrayLike, n: int, k: int) -> NDArray[np.int64]:
    given = np.asarray(levels)
    if given.shape != (n, k):
        msg = f"levels have shape {given.shape}, need ({n}, {k})"
        raise ValueError(msg)
    high = given.astype(np.int64)
    if not (np.array_equal(high, given) and np.isin(high, (0, 1)).all()):
        msg = "levels hold other values, need 0 for low and 1 for high"
        raise ValueError(msg)
    return high


def _checked_order(order: int | None, k: int) -> int:
    if order is None:
        return min(DEFAULT_ORDER, k)
    if not 1 <= order <= k:
        msg = f"order is {order}, need 1 to {k}"
        raise ValueError(msg)
    return order


def _cells(outcome: Vector, high: NDArray[np.int64]) -> tuple[_Cells, float]:
    """The cells with units, by the factors' levels, and the level taken off their means."""
    centred, level = without_level(outcome)
    k = high.shape[1]
    number = high @ (1 << np.arange(k))
    present, cell = np.unique(number, return_inverse=True)
    n = np.bincount(cell).astype(np.float64)
    means = np.bincount(cell, weights=centred) / n
    squares = np.asarray(
        np.bincount(cell, weights=np.square(centred - means[cell])), dtype=np.float64
    )
    codes = 2 * (present[:, None] >> np.arange(k) & 1) - 1
    return _Cells(codes=codes, n=n, means=means, squares=squares), level


def _design(cells: _Cells, terms: Sequence[Term]) -> Matrix:
    """One row per cell: products of ±½, shape (cells, terms)."""
    halves = cells.codes / 2
    return np.column_stack([halves[:, list(term)].prod(axis=1) for term in terms])


def _fit(
    cells: _Cells, terms: Sequence[Term], names: tuple[str, ...], level: float, alpha: float
) -> list[FactorialEffect]:
    design = _design(cells, terms)
    root_n = np.sqrt(cells.n)
    weighted = design * root_n[:, None]
    inverse = np.linalg.pinv(weighted, rcond=1e-12)
    hat = weighted @ inverse
    leverage = np.diag(hat) / cells.n
    fitted = design @ (inverse @ (root_n * cells.means))
    residual = cells.squares + cells.n * np.square(cells.means - fitted)
    is_determined = np.abs(inverse @ weighted - np.eye(len(terms))).max(axis=1) <= DETERMINED
    effects = []
    for position, term in enumerate(terms):
        factors = tuple(names[index] for index in term)
        weights = inverse[position] / root_n
        used = np.abs(weights) > DETERMINED * np.abs(weights).max()
        if not is_determined[position]:
            effects.append(FactorialEffect(factors=factors, reason="NOT_IDENTIFIED"))
        elif (leverage[used] > FULL_LEVERAGE).any():
            effects.append(FactorialEffect(factors=factors, reason="N_TOO_SMALL"))
        else:
            # A unit that is fitted exactly has weight 0 here and residual 0.
            shares = np.where(used, np.square(weights) / np.maximum(1 - leverage, 1e-9), 0.0)
            effect = _effect(
                factors,
                float(inverse[position] @ (root_n * cells.means)),
                alpha,
                variance=float(shares @ residual),
                df=_df(shares, cells.n, hat),
            )
            effects.append(effect)
    if effects[0].estimate is not None:
        effects[0] = _shifted(effects[0], level)
    return effects


def _df(shares: Vector, n: Vector, hat: Matrix) -> float:
    """Degrees of freedom of Σ share_j R_j under equal variances (Bell & McCaffrey 2002)."""
    between = shares[:, None] * (np.eye(len(n)) - hat)
    trace = float(shares @ (n - 1)) + float(np.trace(between))
    squared = float(np.square(shares) @ (n - 1)) + float((between * between.T).sum())
    return trace * trace / squared


def _effect(
    factors: tuple[str, ...], estimate: float, alpha: float, *, variance: float, df: float
) -> FactorialEffect:
    if variance == 0:
        return FactorialEffect(factors=factors, reason="ZERO_VARIANCE")
    std_error = math.sqrt(variance)
    half_width = critical_value(alpha, df) * std_error
    return FactorialEffect(
        factors=factors,
        estimate=estimate,
        std_error=std_error,
        degrees_of_freedom=df,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        p_value=two_sided_p_value(estimate / std_error, df),
    )


def _shifted(mean: FactorialEffect, level: float) -> FactorialEffect:
    """The grand mean with the common level put back; that it is 0 is no hypothesis."""
    assert mean.estimate is not None
    assert mean.ci_low is not None
    assert mean.ci_high is not None
    return replace(
        mean,
        estimate=mean.estimate + level,
        ci_low=mean.ci_low + level,
        ci_high=mean.ci_high + level,
        p_value=None,
    )


def _with_holm(effects: Sequence[FactorialEffect]) -> tuple[FactorialEffect, ...]:
    """Correct within each order; an effect that is not estimable counts as p = 1."""
    corrected: list[FactorialEffect] = []
    for _, group in itertools.groupby(effects, key=lambda effect: effect.order):
        same = list(group)
        p_values = [effect.p_value for effect in same if effect.p_value is not None]
        adjusted = iter(adjusted_p_values(p_values, "holm", planned=len(same)))
        corrected += [
            effect if effect.p_value is None else replace(effect, p_adjusted=next(adjusted))
            for effect in same
        ]
    return tuple(corrected)


def _variance_table(
    cells: _Cells, terms: Sequence[Term], names: tuple[str, ...]
) -> VarianceTable | None:
    """The classical table; None unless every cell has the same number of units, two or more."""
    n = float(cells.n[0])
    if (cells.n != n).any() or n < 2:  # noqa: PLR2004
        return None
    design = _design(cells, terms)
    # Balanced columns are orthogonal, so each sum of squares stands for itself.
    coefficients = (design.T @ cells.means) / np.square(design).sum(axis=0)
    residual = float((cells.squares + n * np.square(cells.means - design @ coefficients)).sum())
    df = int(n) * len(cells.n) - len(terms)
    if residual == 0:
        return None
    rows = []
    for position, term in enumerate(terms[1:], start=1):
        squares = n * float(np.square(coefficients[position] * design[:, position]).sum())
        f = squares / (residual / df)
        rows.append(
            VarianceRow(
                name=":".join(names[index] for index in term),
                sum_of_squares=squares,
                f=f,
                p_value=float(fdtrc(1, df, f)),
            )
        )
    return VarianceTable(rows=tuple(rows), residual_sum_of_squares=residual, residual_df=df)
