"""Lin's adjusted contrast from sums, for data that stay where they are.

The estimator of `units.lin` and `units.ratio_adjusted` in two passes over the units of each arm:

    1  moments of outcome and covariates     -> `ArmLine`: slopes, the point X̄, how to whiten
    2  sums over residuals of that line      -> `ResidualSums`: variance, skewness, leverage

With d_i = X_i − X̄_a, S_a = Σdd' = s(LL')s and q_i = L⁻¹d_i/s (whitened covariates):

    γ = L⁻¹S_xu/s        e_i = u_i − γ'q_i        h_i = 1/n_a + q_i'q_i
    τ = L⁻¹(X̄_a − X̄)/s   a_i = 1/n_a − τ'q_i      ψ_i = a_i e_i/√(1 − h_i)

u is the outcome less its mean, or (N − R̂_a D)/D̄_a for a ratio of totals. Sums of disjoint sets of
units add up, so the second pass may run in any engine and in any number of parts.

Without covariates the same sums give the plain contrast's skewness. A covariate is dropped where in
either arm it is constant, a combination of the ones before it, or isolates one unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.ratio import check_denominator
from experiments_dagster.stats.moments import ArmMoments, mean_difference
from experiments_dagster.stats.records import Contrast
from experiments_dagster.stats.relative import contrast_of

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

# Products of moments know the share of a column that the ones before it leave to 1e-16 at best.
COLLINEAR = 1e-12
MAX_LEVERAGE = 1 - 1e-8  # as `units.interacted`
NO_VARIANCE = 1e-12  # as `units.lin`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmLine:
    """One arm's regression, as the second pass needs it.

    Args:
        n: Number of units.
        outcome: Columns and weights that make up the outcome: y, or numerator and denominator.
        level: What is taken off the weighted sum: the arm's mean outcome, 0 for a ratio.
        covariates: Names of the p columns in use.
        means: X̄_a, shape (p,).
        whiten: L⁻¹/s, shape (p, p), lower triangular.
        slopes: γ in whitened coordinates, shape (p,).
        target: τ in whitened coordinates, shape (p,).
        variance: Σu²/(n − 1).
    """

    n: int
    outcome: tuple[tuple[str, float], ...]
    level: float
    covariates: tuple[str, ...]
    means: Vector
    whiten: Matrix
    slopes: Vector
    target: Vector
    variance: float

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for lines that are the same, number for number."""
        arrays = (self.means, self.whiten, self.slopes, self.target)
        return (self.n, self.outcome, self.level, self.covariates, *(a.tobytes() for a in arrays))

    def sums(self, outcome: Sequence[Vector], covariates: Sequence[Vector]) -> ResidualSums:
        """Add up over some units of the arm.

        Args:
            outcome: One array of shape (m,) per column of `outcome`.
            covariates: One array of shape (m,) per covariate.
        """
        deviations = np.multiply(outcome[0], self.outcome[0][1])
        for (_, weight), column in zip(self.outcome[1:], outcome[1:], strict=True):
            deviations += weight * column
        deviations -= self.level
        residuals, weights = deviations, np.full(len(deviations), 1 / self.n)
        leverage = np.full(len(deviations), 1 / self.n)
        if self.covariates:
            residuals = deviations.copy()
        centred = [column - mean for column, mean in zip(covariates, self.means, strict=True)]
        for row, slope, target in zip(self.whiten, self.slopes, self.target, strict=True):
            whitened = row[0] * centred[0]
            for factor, column in zip(row[1:], centred[1:], strict=True):
                if factor:
                    whitened += factor * column
            residuals -= slope * whitened
            weights -= target * whitened
            leverage += whitened * whitened
        largest = float(leverage.max(initial=0.0))
        # A unit that the line goes through has no residual to weigh; `max_leverage` tells of it.
        scores = weights * residuals / np.sqrt(np.maximum(1 - leverage, 1 - MAX_LEVERAGE))
        squares = scores * scores
        return ResidualSums(
            squares=float(squares.sum()),
            # Not as dot products: threads of the linear algebra would fight over small arrays.
            cubes=float((squares * scores).sum()),
            with_outcome=float((scores * deviations).sum()),
            max_leverage=largest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualSums:
    """Sums over the scores ψ of one arm; those of disjoint sets of units add up.

    Args:
        squares: Σψ².
        cubes: Σψ³.
        with_outcome: Σψu.
        max_leverage: The largest h.
    """

    squares: float = 0.0
    cubes: float = 0.0
    with_outcome: float = 0.0
    max_leverage: float = 0.0

    def __add__(self, other: ResidualSums) -> ResidualSums:
        """Merge with the sums of other units of the arm."""
        return ResidualSums(
            squares=self.squares + other.squares,
            cubes=self.cubes + other.cubes,
            with_outcome=self.with_outcome + other.with_outcome,
            max_leverage=max(self.max_leverage, other.max_leverage),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastLines:
    """The lines of both arms of one contrast, and the covariates that were left out."""

    control: ArmLine
    treatment: ArmLine
    dropped: tuple[str, ...]


def contrast_lines(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    outcome: Sequence[str],
    covariates: Sequence[str] = (),
    centre: ArmMoments | None = None,
) -> ContrastLines:
    """The first half of an adjusted contrast: what the second pass over the units needs.

    Args:
        control: Moments of outcome and covariates in the control arm.
        treatment: The same columns of the treatment arm.
        outcome: One column, or numerator and denominator of a ratio of totals.
        covariates: Names of columns known before exposure.
        centre: Moments of the units at whose mean the arms are compared; default these two arms.

    Raises:
        EstimationError: EMPTY_ARM or N_TOO_SMALL; ZERO_DENOMINATOR or NOT_IDENTIFIED for a ratio.
    """
    arms = (control, treatment)
    both = control + treatment if centre is None else centre
    used = [name for name in covariates if all(_varies(arm, name) for arm in arms)]
    while used and (bad := _first_collinear(arms, used)) is not None:
        used.remove(bad)
    smallest = min(arm.n for arm in arms)
    used = used[: max(smallest - 2, 0)]
    lines = [_line(arm, both, tuple(outcome), tuple(used)) for arm in arms]
    return ContrastLines(
        control=lines[0],
        treatment=lines[1],
        dropped=tuple(name for name in covariates if name not in used),
    )


def adjusted_from_sums(
    lines: ContrastLines,
    sums: tuple[ResidualSums, ResidualSums],
    unadjusted: Contrast,
    arms: tuple[ArmMoments, ArmMoments],
    *,
    alpha: float,
) -> Contrast:
    """The second half: the contrast that `compare_adjusted` would give on the units themselves.

    Args:
        lines: From `contrast_lines`.
        sums: Of the control and of the treatment arm, over all their units.
        unadjusted: The plain contrast of the same arms.
        arms: Moments of control and treatment.
        alpha: Two-sided level, normal quantiles.

    Raises:
        EstimationError: ZERO_VARIANCE where the covariates explain the outcome fully.
    """
    control, treatment = lines.control, lines.treatment
    if not control.covariates:
        return unadjusted
    raw = unadjusted.difference
    is_ratio = len(control.outcome) > 1
    adjustment = float(control.slopes @ control.target - treatment.slopes @ treatment.target)
    difference = raw.estimate
    if not is_ratio:
        difference = mean_difference(*arms, control.outcome[0][0])
    std_error = math.sqrt(sums[0].squares + sums[1].squares)
    if std_error <= NO_VARIANCE * raw.std_error:
        raise EstimationError("ZERO_VARIANCE", "lin", "covariates explain the outcome fully")
    n = control.n
    return contrast_of(
        difference_estimate(
            difference + adjustment,
            std_error,
            arms=ArmSummary(
                control_mean=raw.control_mean,
                treatment_mean=raw.treatment_mean,
                n_control=raw.n_control,
                n_treatment=raw.n_treatment,
            ),
            alpha=alpha,
            method="ratio_adjusted" if is_ratio else "lin",
            variance_formula="delta_hc2" if is_ratio else "lin_hc2",
        ),
        variance_control=sums[0].squares,
        variance_treatment=sums[1].squares,
        alpha=alpha,
        variance_control_mean=control.variance / n,
        covariance=-sums[0].with_outcome / n * math.sqrt(n / (n - 1)),
    )


def plain_lines(
    control: ArmMoments, treatment: ArmMoments, *, outcome: Sequence[str]
) -> ContrastLines:
    """Lines without covariates, whose second pass gives the skewness of the plain contrast."""
    return contrast_lines(control, treatment, outcome=outcome)


def skewness(sums: tuple[ResidualSums, ResidualSums]) -> float:
    """Skewness of the difference: Σψ³ of treatment less control, over the standard error cubed."""
    total = sums[0].squares + sums[1].squares
    return (sums[1].cubes - sums[0].cubes) / total**1.5 if total > 0 else 0.0


def first_covariate_correlation(
    lines: ContrastLines, arms: tuple[ArmMoments, ArmMoments], covariate: str
) -> float | None:
    """Correlation of the outcome and a covariate over both arms; None where undefined.

    The outcome of a ratio is linearised within each arm.
    """
    pair = None
    for line, arm in zip((lines.control, lines.treatment), arms, strict=True):
        weights = dict(line.outcome)
        own = _two_columns(arm, weights, line.level if len(weights) > 1 else 0.0, covariate)
        pair = own if pair is None else pair + own
    assert pair is not None
    spread_y, spread_x = math.sqrt(pair.variance("y")), math.sqrt(pair.variance("x"))
    if spread_y == 0 or spread_x == 0:
        return None
    return min(1.0, max(-1.0, pair.covariance("y", "x") / spread_y / spread_x))


def _two_columns(
    arm: ArmMoments, weights: dict[str, float], level: float, covariate: str
) -> ArmMoments:
    """Moments of the outcome (y) and one covariate (x) of an arm."""
    mix = np.zeros((2, len(arm.columns)))
    for name, weight in weights.items():
        mix[0, arm.columns.index(name)] = weight
    mix[1, arm.columns.index(covariate)] = 1.0
    means = mix @ arm.means - np.array([level, 0.0])
    return ArmMoments(n=arm.n, columns=("y", "x"), means=means, cross=mix @ arm.cross @ mix.T)


def _varies(arm: ArmMoments, name: str) -> bool:
    index = arm.columns.index(name)
    return bool(arm.cross[index, index] > 0)


def _first_collinear(arms: Sequence[ArmMoments], names: Sequence[str]) -> str | None:
    for arm in arms:
        triangle = _triangle(_correlations(arm, names)[0])
        for name, left in zip(names, np.diag(triangle), strict=True):
            if left**2 <= COLLINEAR:
                return name
    return None


def _correlations(arm: ArmMoments, names: Sequence[str]) -> tuple[Matrix, Vector]:
    """Correlation matrix of some columns and the roots of their centred squares."""
    at = [arm.columns.index(name) for name in names]
    cross = arm.cross[np.ix_(at, at)]
    scale = np.sqrt(np.diag(cross))
    return cross / np.outer(scale, scale), scale


def _triangle(correlations: Matrix) -> Matrix:
    """Cholesky factor that leaves a zero where nothing is left of a column, instead of failing."""
    p = len(correlations)
    lower = np.zeros((p, p))
    for j in range(p):
        left = correlations[j, j] - lower[j, :j] @ lower[j, :j]
        lower[j, j] = math.sqrt(max(left, 0.0))
        if lower[j, j] > 0:
            lower[j + 1 :, j] = (
                correlations[j + 1 :, j] - lower[j + 1 :, :j] @ lower[j, :j]
            ) / lower[j, j]
    return lower


def _line(
    arm: ArmMoments, centre: ArmMoments, outcome: tuple[str, ...], names: tuple[str, ...]
) -> ArmLine:
    weights = [1.0]
    level = arm.mean(outcome[0])
    if len(outcome) > 1:
        bottom = arm.mean(outcome[1])
        check_denominator(bottom, "of a ratio")
        weights = [1 / bottom, -arm.mean(outcome[0]) / bottom / bottom]
        level = 0.0
    mix = np.zeros(len(arm.columns))
    for name, weight in zip(outcome, weights, strict=True):
        mix[arm.columns.index(name)] = weight
    at = [arm.columns.index(name) for name in names]
    correlations, scale = _correlations(arm, names)
    whiten = np.linalg.inv(_triangle(correlations)) / scale if names else np.zeros((0, 0))
    return ArmLine(
        n=arm.n,
        outcome=tuple(zip(outcome, weights, strict=True)),
        level=level,
        covariates=names,
        means=arm.means[at],
        whiten=whiten,
        slopes=whiten @ (arm.cross[at] @ mix),
        target=whiten @ (arm.means[at] - [centre.mean(name) for name in names]),
        variance=float(mix @ arm.cross @ mix) / max(arm.n - 1, 1),
    )
