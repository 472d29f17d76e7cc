"""Randomisation test of the sharp null: the assignment is drawn again as it was drawn.

    studentised     T = Δ̂/√(s_T²/n_T + s_C²/n_C)
    in blocks       Δ̂ = Σ a e,  a_i = (T_i − t_b)/Σ_b n_b t_b(1 − t_b),  e = Y − Ȳ_b
                    T = Δ̂/√(Σ_a n_a/(n_a − 1)·Σ_{i∈a} a_i² ê_i²),  ê_i = e_i − Δ̂(T_i − t_b)
    Monte Carlo     p = (1 + #{|T*| ≥ |T|})/(1 + B)
    enumeration     p = #{|T*| ≥ |T|}/#assignments, at most 20,000 of them

t_b is the treated share of block b: Δ̂ is the coefficient of T beside block effects, which is the
difference of means without blocks and the mean difference of pairs in pairs. Clusters are drawn
whole and enter by their means, each with the weight one. The test is exact for the sharp null and,
being studentised, valid in large samples for equal means under unequal variances.

T* counts as large as T where V*Δ̂² ≤ VΔ*² up to rounding, which needs no division: assignments that
tie on paper stay ties in floating point, and a perfect separation (V = 0) has its place.

References:
    Fisher 1935; Chung & Romano 2013; Imbens & Rubin 2015, ch. 5; METHODS 2.8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column, without_level
from experiments_dagster.stats.moments import check_sizes

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.intp]
Number = TypeVar("Number", np.bool_, np.intp)
Statistic = Literal["studentised", "difference"]

MOST_ASSIGNMENTS = 20_000  # enumerated up to here
CELLS_PER_BATCH = 2**21  # units × assignments held at a time
TIE = 1e-9  # relative
ROUNDING = 1e-13  # of a mean or sum of squares, over the size of what went into it
CONSTANT = 4 * np.finfo(np.float64).eps  # spread of equal values after rounding, over their size
SMALLEST_ARM = 2
MOST_SMALL_ARMS = 0.9  # probability of draws to be drawn again


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationResult:
    """A randomisation test.

    Args:
        p_value: Two-sided.
        replicates: Assignments compared: B draws, or all where `is_exact`.
        is_exact: All assignments were enumerated.
        statistic: T observed; None for a studentised T of arms without variance.
        estimate: Δ̂, treatment minus control.
        std_error: Denominator of the studentised T.
        control_mean: Raw mean of the control arm, of clusters where they were drawn.
        treatment_mean: Raw mean of the treatment arm.
        n_control: Drawn units, or clusters, in control.
        n_treatment: Drawn units, or clusters, in treatment.
    """

    p_value: float
    replicates: int
    is_exact: bool
    statistic: float | None
    estimate: float
    std_error: float
    control_mean: float
    treatment_mean: float
    n_control: int
    n_treatment: int


def permutation_test(
    y: ArrayLike,
    is_treated: ArrayLike,
    *,
    blocks: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    treatment_share: float | None = None,
    replicates: int = 9999,
    seed: int,
    statistic: Statistic = "studentised",
) -> PermutationResult:
    """Test that no unit would have another outcome in the other arm.

    The default mechanism keeps the number of treated units, in each block where there are blocks.

    Args:
        y: Outcome, shape (n,).
        is_treated: True for treatment, shape (n,), constant within a cluster.
        blocks: Block of each row, integers or strings, shape (n,), constant within a cluster.
        clusters: Unit of randomisation of each row, where coarser, shape (n,).
        treatment_share: Each unit was treated with this probability, independently of the others;
            draws with fewer than two units in an arm are drawn again. Not with blocks.
        replicates: B, at least 1; unused where all assignments are enumerated.
        seed: Of the draws.
        statistic: `studentised`, or the plain `difference`.

    Raises:
        EstimationError: NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL, ZERO_VARIANCE where all outcomes
            of each block are equal, NOT_IDENTIFIED where no block has both arms
            (blocks with one arm are left out).
        ValueError: Arm or block changes within a cluster, blocks with `treatment_share`, a share
            outside (0, 1), or fewer than one replicate.

    References:
        Fisher 1935, ch. 2; Chung & Romano 2013; METHODS 2.8.

    Examples:
        >>> tea = permutation_test(
        ...     [1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], seed=0, statistic="difference"
        ... )
        >>> tea.is_exact, tea.replicates, round(tea.p_value * 70)
        (True, 70, 34)
    """
    _check_request(blocks, treatment_share, replicates)
    design = _design(y, is_treated, blocks, clusters)
    is_exact = treatment_share is None and design.n_assignments <= MOST_ASSIGNMENTS
    rng = np.random.default_rng(seed)
    if is_exact:
        draws = _enumerate(design)
    elif treatment_share is not None:
        draws = _draw_bernoulli(design, treatment_share, rng, replicates)
    else:
        draws = _draw_fixed_counts(design, rng, replicates)
    delta, variance = (float(part[0]) for part in _effects(design, design.is_treated[None, :]))
    as_large = sum(_count_as_large(design, batch, delta, variance, statistic) for batch in draws)
    extra = 0 if is_exact else 1
    total = design.n_assignments if is_exact else replicates
    estimate, std_error = delta * design.scale, math.sqrt(variance) * design.scale
    studentised = estimate / std_error if std_error > 0 else None
    return PermutationResult(
        p_value=(extra + as_large) / (extra + total),
        replicates=total,
        is_exact=is_exact,
        statistic=estimate if statistic == "difference" else studentised,
        estimate=estimate,
        std_error=std_error,
        control_mean=design.level + float(design.outcome[~design.is_treated].mean()),
        treatment_mean=design.level + float(design.outcome[design.is_treated].mean()),
        n_control=int(np.count_nonzero(~design.is_treated)),
        n_treatment=int(np.count_nonzero(design.is_treated)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """Units sorted by block, their outcomes, and how many are treated in each block.

    `outcome` is less `level`; `residuals` are it less the mean of its block, in units of `scale`.
    """

    outcome: Vector
    level: float
    residuals: Vector
    scale: float
    is_treated: Mask
    sizes: Codes
    treated: Codes

    @property
    def n_assignments(self) -> int:
        """Number of assignments with these counts; past the limit, some number above it."""
        total = 1
        for size, treated in zip(self.sizes.tolist(), self.treated.tolist(), strict=True):
            # With both arms there are at least as many assignments as units.
            total *= size if size > MOST_ASSIGNMENTS else math.comb(size, treated)
            if total > MOST_ASSIGNMENTS:
                break
        return total


def _check_request(
    blocks: ArrayLike | None, treatment_share: float | None, replicates: int
) -> None:
    if replicates < 1:
        msg = f"replicates is {replicates}, need 1"
        raise ValueError(msg)
    if treatment_share is None:
        return
    if blocks is not None:
        msg = "treatment_share: within blocks the treated counts are fixed, give one or the other"
        raise ValueError(msg)
    if not 0 < treatment_share < 1:
        msg = f"treatment_share is {treatment_share}, need 0 < share < 1"
        raise ValueError(msg)


def _design(
    y: ArrayLike, is_treated: ArrayLike, blocks: ArrayLike | None, clusters: ArrayLike | None
) -> _Design:
    """Reduce clusters to their means, sort by block, leave out blocks with one arm."""
    outcome, level = without_level(unit_column(y, "y"))
    mask = arm_mask(is_treated, len(outcome))
    block = np.zeros(len(outcome), dtype=np.intp)
    if blocks is not None:
        block = _encode(blocks, len(outcome), "blocks")
    if clusters is not None:
        cluster = _encode(clusters, len(outcome), "clusters")
        mask, block = _per_cluster(mask, cluster, "arm"), _per_cluster(block, cluster, "block")
        outcome = np.bincount(cluster, outcome) / np.bincount(cluster)
    sizes, treated = np.bincount(block), np.bincount(block, mask).astype(np.intp)
    has_both = (treated > 0) & (treated < sizes)
    if not has_both.any() and blocks is not None:
        raise EstimationError("NOT_IDENTIFIED", "permutation", "no block has both arms")
    order = np.argsort(block, kind="stable")
    order = order[has_both[block[order]]] if blocks is not None else order
    outcome, mask = outcome[order], mask[order]
    n_treatment = int(np.count_nonzero(mask))
    check_sizes(len(mask) - n_treatment, n_treatment)
    sizes, treated = sizes[has_both], treated[has_both]
    residuals, scale = _centre(outcome, sizes, level)
    return _Design(
        outcome=outcome,
        level=level,
        residuals=residuals,
        scale=scale,
        is_treated=mask,
        sizes=sizes,
        treated=treated,
    )


def _encode(column: ArrayLike, n: int, name: str) -> Codes:
    values = np.asarray(column)
    if values.shape != (n,) or values.dtype.kind not in "iuUSO":
        msg = f"{name} of type {values.dtype}, shape {values.shape}: need {n} integers or strings"
        raise ValueError(msg)
    return np.unique(values, return_inverse=True)[1]


def _per_cluster(column: NDArray[Number], cluster: Codes, name: str) -> NDArray[Number]:
    """Value of each cluster, which all of its rows share."""
    value = column[np.unique(cluster, return_index=True)[1]]
    if (value[cluster] != column).any():
        msg = f"the {name} changes within a cluster, need one per cluster"
        raise ValueError(msg)
    return value


def _centre(outcome: Vector, sizes: Codes, level: float) -> tuple[Vector, float]:
    """Outcomes less the mean of their block, over their mean size."""
    starts = np.cumsum(sizes) - sizes
    spread = np.maximum.reduceat(outcome, starts) - np.minimum.reduceat(outcome, starts)
    if float(spread.max()) <= CONSTANT * (abs(level) + float(np.abs(outcome).max())):
        raise EstimationError("ZERO_VARIANCE", "permutation", "all outcomes of a block are equal")
    # Around the first value of the block the mean keeps its digits beside any offset.
    shifted = outcome - np.repeat(outcome[starts], sizes)
    residuals = shifted - np.repeat(np.add.reduceat(shifted, starts) / sizes, sizes)
    scale = float(np.abs(residuals).mean())
    return residuals / scale, scale


def _count_as_large(
    design: _Design, assignments: Mask, delta: float, variance: float, statistic: Statistic
) -> int:
    """Count assignments whose statistic is as large as the observed one, or ties with it."""
    deltas, variances = _effects(design, assignments)
    if statistic == "difference":
        variance, variances = 1.0, np.ones_like(variances)
    reach = np.abs(deltas) * (1 + TIE) + ROUNDING
    allowance = variance * (1 + TIE) + ROUNDING * (variance + delta**2)
    return int(np.count_nonzero(variances * delta**2 <= allowance * reach**2))


def _effects(design: _Design, assignments: Mask) -> tuple[Vector, Vector]:
    """Return Δ and the variance of T in each assignment, rows of (draws, n)."""
    return (_welch if len(design.sizes) == 1 else _block_effects)(design, assignments)


def _welch(design: _Design, assignments: Mask) -> tuple[Vector, Vector]:
    """Difference of means and its Welch variance."""
    e = design.residuals
    columns = np.column_stack([np.ones(len(e)), e, e**2])
    treated = assignments.astype(np.float64) @ columns
    parts = []
    for n, total, squares in (treated.T, (columns.sum(axis=0) - treated).T):
        deviations = _without_rounding(squares - total**2 / n, squares)
        parts.append((total / n, deviations / (n * (n - 1))))
    (mean_treated, variance_treated), (mean_control, variance_control) = parts
    return mean_treated - mean_control, variance_treated + variance_control


def _block_effects(design: _Design, assignments: Mask) -> tuple[Vector, Vector]:
    """Coefficient of T beside block effects and its variance; the counts are fixed."""
    share = design.treated / design.sizes
    t = np.repeat(share, design.sizes)
    e, u = design.residuals, 1 - t
    columns = np.column_stack([e, (u * e) ** 2, u**3 * e, (t * e) ** 2, t**3 * e])
    sums = assignments.astype(np.float64) @ columns
    information = float(design.sizes @ (share * (1 - share)))
    deltas = sums[:, 0] / information
    rest = columns.sum(axis=0) - sums
    n_treated = float(design.treated.sum())
    n_control = float(design.sizes.sum()) - n_treated
    fourth_treated = float(design.treated @ (1 - share) ** 4)
    fourth_control = float((design.sizes - design.treated) @ share**4)
    of_treated = sums[:, 1] - 2 * deltas * sums[:, 2] + deltas**2 * fourth_treated
    of_control = rest[:, 3] + 2 * deltas * rest[:, 4] + deltas**2 * fourth_control
    variances = _without_rounding(of_treated, sums[:, 1]) * n_treated / (n_treated - 1)
    variances += _without_rounding(of_control, rest[:, 3]) * n_control / (n_control - 1)
    return deltas, variances / information**2


def _without_rounding(squares: Vector, raw: Vector) -> Vector:
    """Set a sum of squares to zero that is only the rounding error of the raw one."""
    return np.where(squares <= ROUNDING * raw, 0.0, squares)


def _batches(total: int, n: int) -> Iterator[tuple[int, int]]:
    """Bounds of batches of assignments that keep the memory bounded."""
    step = max(1, CELLS_PER_BATCH // n)
    for start in range(0, total, step):
        yield start, min(start + step, total)


def _enumerate(design: _Design) -> Iterator[Mask]:
    """All assignments with the counts of each block: numbers written in mixed radix."""
    starts = np.cumsum(design.sizes) - design.sizes
    is_mostly_treated = 2 * design.treated > design.sizes
    usual = np.repeat(is_mostly_treated, design.sizes)
    # Positions of the rarer arm of each block.
    tables = [
        np.array(list(itertools.combinations(range(start, start + size), min(k, size - k))))
        for start, size, k in zip(starts, design.sizes, design.treated, strict=True)
    ]
    for first, stop in _batches(design.n_assignments, len(usual)):
        numbers = np.arange(first, stop)
        rows = np.arange(len(numbers))[:, None]
        assignments = np.tile(usual, (len(numbers), 1))
        for table in tables:
            numbers, digits = np.divmod(numbers, len(table))
            rarer = table[digits]
            assignments[rows, rarer] = ~usual[rarer]
        yield assignments


def _draw_fixed_counts(
    design: _Design, rng: np.random.Generator, replicates: int
) -> Iterator[Mask]:
    """Draws of complete randomisation, within blocks where there are several."""
    n = len(design.is_treated)
    block = np.repeat(np.arange(len(design.sizes), dtype=np.float64), design.sizes)
    for first, stop in _batches(replicates, n):
        if len(design.sizes) == 1:
            yield rng.permuted(np.tile(design.is_treated, (stop - first, 1)), axis=1)
        else:
            # Sorting by block and then at random shuffles every block at once.
            order = np.argsort(rng.random((stop - first, n)) + block, axis=1)
            yield design.is_treated[order]


def _draw_bernoulli(
    design: _Design, share: float, rng: np.random.Generator, replicates: int
) -> Iterator[Mask]:
    """Independent draws of each unit, those without a variance in both arms drawn again."""
    n = len(design.is_treated)
    small_arms = sum(
        n**k * (rare**k * (1 - rare) ** (n - k)) for rare in (share, 1 - share) for k in (0, 1)
    )
    if small_arms > MOST_SMALL_ARMS:
        detail = f"share {share:g} of {n} units leaves an arm with fewer than 2 almost always"
        raise EstimationError("NOT_IDENTIFIED", "permutation", detail)
    for first, stop in _batches(replicates, n):
        assignments = rng.random((stop - first, n)) < share
        while (too_small := _has_small_arm(assignments)).any():
            assignments[too_small] = rng.random((int(too_small.sum()), n)) < share
        yield assignments


def _has_small_arm(assignments: Mask) -> Mask:
    n_treated = np.count_nonzero(assignments, axis=1)
    smaller = np.minimum(n_treated, assignments.shape[1] - n_treated)
    is_small: Mask = smaller < SMALLEST_ARM
    return is_small
