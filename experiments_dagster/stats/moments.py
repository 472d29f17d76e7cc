"""Sufficient statistics of one arm that can be added.

    n, means μ_a, centred cross-products M_ab = Σ (a − ā)(b − b̄)

Merge of two disjoint sets of units (Chan, Golub & LeVeque 1983, METHODS 1.1), δ = μ_B − μ_A:

    n = n_A + n_B,   μ = μ_A + δ n_B/n,   M = M_A + M_B + δδᵀ n_A n_B/n

Raw sums of squares are never formed: they lose every digit once |mean|/sd reaches 1e8. Only sets
without a common unit may be merged, and in a fixed order where reruns must be bit-equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError

CONSTANT_SD = (
    16 * np.finfo(np.float64).eps
)  # sd/|mean| of a column that is constant but for rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmMoments:
    """Count, means and centred cross-products of the columns of one arm.

    Args:
        n: Number of units.
        columns: Names, in the order of `means` and `cross`.
        means: Shape (k,).
        cross: Σ (a − ā)(b − b̄), shape (k, k); the covariance is `cross / (n - 1)`.
        mean_rest: What rounding left of `means`, shape (k,); None where unknown. At an offset of
            1e9 sd a merge needs these digits.

    Raises:
        EstimationError: NON_FINITE_INPUT where a mean or a product is NaN or infinite.

    Examples:
        >>> first = ArmMoments.from_arrays(y=[1.0, 2.0])
        >>> both = first + ArmMoments.from_arrays(y=[3.0, 6.0])
        >>> both.n, both.mean("y"), round(both.variance("y"), 6)
        (4, 3.0, 4.666667)
    """

    n: int
    columns: tuple[str, ...]
    means: NDArray[np.float64]
    cross: NDArray[np.float64]
    mean_rest: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        k = len(self.columns)
        means = np.array(self.means, dtype=np.float64)
        cross = np.array(self.cross, dtype=np.float64)
        rest = np.zeros(k) if self.mean_rest is None else np.array(self.mean_rest, dtype=np.float64)
        if self.n < 0 or means.shape != (k,) or cross.shape != (k, k):
            msg = (
                f"n={self.n}, means {means.shape}, cross {cross.shape}: need n >= 0 and {k} columns"
            )
            raise ValueError(msg)
        for index, column in enumerate(self.columns):
            if not (np.isfinite(means[index]) and np.isfinite(cross[index]).all()):
                raise EstimationError("NON_FINITE_INPUT", column)
        # The sum of a constant column is rounded, which leaves a spread in the last digits.
        # Compared as roots: the square of a mean above 1e154 is no number any more.
        spread = np.sqrt(np.maximum(np.diag(cross), 0.0))
        is_constant = spread <= np.sqrt(self.n) * CONSTANT_SD * np.abs(means)
        cross[is_constant, :] = cross[:, is_constant] = 0.0
        for name, array in (("means", means), ("cross", cross), ("mean_rest", rest)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, columns: Sequence[str]) -> ArmMoments:
        """Return the moments of no units: the identity of `+`."""
        k = len(columns)
        return cls(n=0, columns=tuple(columns), means=np.zeros(k), cross=np.zeros((k, k)))

    @classmethod
    def from_arrays(cls, **columns: ArrayLike) -> ArmMoments:
        """Compute the moments of columns of equal length, one value per unit, in two passes.

        Args:
            **columns: Arrays of shape (n,) by column name.

        Raises:
            EstimationError: NON_FINITE_INPUT where a value is NaN, infinite or missing.
            ValueError: Lengths differ.
        """
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            msg = f"columns need one common shape (n,), got {sorted(shapes)}"
            raise ValueError(msg)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise EstimationError("NON_FINITE_INPUT", name)
        (n,) = shapes.pop()
        if n == 0:
            return cls.empty(tuple(arrays))
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.stack(list(arrays.values()))
            first = values.mean(axis=1)
            values -= first[:, None]
            # The rounding of the first mean, taken off too: an offset of 1e9 would cost digits.
            second = values.mean(axis=1)
            values -= second[:, None]
            means, rest = _two_sum(first, second)
            return cls(
                n=n,
                columns=tuple(arrays),
                means=means,
                cross=_products(values),
                mean_rest=rest,
            )

    def __add__(self, other: ArmMoments) -> ArmMoments:
        """Merge with the moments of other units."""
        if self.columns != other.columns:
            msg = f"cannot merge columns {self.columns} with {other.columns}"
            raise ValueError(msg)
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        with np.errstate(over="ignore", invalid="ignore"):
            delta = (other.means - self.means) + (_rest(other) - _rest(self))
            means, rest = _two_sum(self.means, _rest(self) + delta * (other.n / n))
            between = np.outer(delta, delta) * (self.n * (other.n / n))
            return ArmMoments(
                n=n,
                columns=self.columns,
                means=means,
                cross=self.cross + other.cross + between,
                mean_rest=rest,
            )

    def mean(self, column: str) -> float:
        """Return the mean of a column; EMPTY_ARM without units."""
        if self.n == 0:
            raise EstimationError("EMPTY_ARM", column)
        return float(self.means[self._index(column)])

    def variance(self, column: str) -> float:
        """Return the sample variance of a column (ddof 1); N_TOO_SMALL below two units."""
        return self.covariance(column, column)

    def covariance(self, first: str, second: str) -> float:
        """Return the sample covariance of two columns (ddof 1); N_TOO_SMALL below two units."""
        if self.n < 2:  # noqa: PLR2004
            raise EstimationError("N_TOO_SMALL", first, f"{self.n} units, need 2")
        return float(self.cross[self._index(first), self._index(second)] / (self.n - 1))

    def combine(self, weights: Mapping[str, float], *, name: str) -> ArmMoments:
        """Return the moments of one new column, the weighted sum of existing ones.

        A variance that is only the rounding error of its parts is set to zero.

        Raises:
            EstimationError: NON_FINITE_INPUT where a product overflows.

        Examples:
            >>> arm = ArmMoments.from_arrays(a=[1.0, 2.0], b=[2.0, 4.0])
            >>> arm.combine({"a": 2.0, "b": -1.0}, name="c").variance("c")
            0.0
        """
        w = np.zeros(len(self.columns))
        for column, weight in weights.items():
            w[self._index(column)] = weight
        with np.errstate(over="ignore", invalid="ignore"):
            cross = float(w @ self.cross @ w)
            parts = float(w**2 @ np.diag(self.cross))
            mean = w @ self.means
        if cross <= 8 * np.finfo(np.float64).eps * parts < math.inf:
            cross = 0.0
        return ArmMoments(
            n=self.n,
            columns=(name,),
            means=np.array([mean]),
            cross=np.array([[cross if parts < math.inf else parts]]),
        )

    def select(self, columns: Mapping[str, str]) -> ArmMoments:
        """Return the moments of some columns under new names: new name to present one.

        Examples:
            >>> arm = ArmMoments.from_arrays(a=[1.0, 2.0], b=[2.0, 4.0])
            >>> arm.select({"y": "b"}).mean("y")
            3.0
        """
        at = [self._index(name) for name in columns.values()]
        return ArmMoments(
            n=self.n,
            columns=tuple(columns),
            means=self.means[at],
            cross=self.cross[np.ix_(at, at)],
            mean_rest=None if self.mean_rest is None else self.mean_rest[at],
        )

    def _index(self, column: str) -> int:
        if column not in self.columns:
            msg = f"no column {column!r}; known: {', '.join(self.columns)}"
            raise KeyError(msg)
        return self.columns.index(column)


def _products(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of products of every two rows, shape (k, k).

    Added up pairwise: more exact than a matrix product, and as fast for few rows. Threads of the
    linear algebra would fight over short ones.
    """
    k = len(values)
    cross = np.empty((k, k))
    for a in range(k):
        for b in range(a + 1):
            cross[a, b] = cross[b, a] = (values[a] * values[b]).sum()
    return cross


def _rest(arm: ArmMoments) -> NDArray[np.float64]:
    return np.zeros(len(arm.columns)) if arm.mean_rest is None else arm.mean_rest


def _two_sum(
    large: NDArray[np.float64], small: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rounded sum and what the rounding lost (Knuth 1969)."""
    total = large + small
    shift = total - large
    return total, (large - (total - shift)) + (small - shift)


def mean_difference(control: ArmMoments, treatment: ArmMoments, column: str) -> float:
    """Return the difference of two means with the digits that their rounding left out.

    Examples:
        >>> control = ArmMoments.from_arrays(y=[1e15, 1e15 + 0.5])
        >>> treatment = ArmMoments.from_arrays(y=[1e15 + 0.125, 1e15 + 0.5])
        >>> mean_difference(control, treatment, "y")
        0.0625
    """
    difference = treatment.mean(column) - control.mean(column)
    index = control.columns.index(column)
    rest = _rest(treatment)[treatment.columns.index(column)] - _rest(control)[index]
    return difference + float(rest)


def check_arms(control: ArmMoments, treatment: ArmMoments) -> None:
    """Refuse arms that are empty or have a single unit.

    Raises:
        EstimationError: EMPTY_ARM or N_TOO_SMALL, naming the arm.
    """
    check_sizes(control.n, treatment.n)


def check_sizes(n_control: int, n_treatment: int) -> None:
    """Refuse arm sizes without a variance: EMPTY_ARM at 0, N_TOO_SMALL at 1."""
    for arm, n in (("control", n_control), ("treatment", n_treatment)):
        if n == 0:
            raise EstimationError("EMPTY_ARM", f"arm {arm}", "0 units")
        if n == 1:
            raise EstimationError("N_TOO_SMALL", f"arm {arm}", "1 unit, need 2")
