"""Many contrasts at once from moments, one per cell of experiment × metric × segment × look.

The formulas are those of `compare_means` (METHODS 2.1), `compare_ratios` (2.5) and the lift (2.3),
written for arrays; a cell equals the scalar function to rounding. Where that function would raise,
the cell has its code in `reason` and NaN in every number: a cell never stops its neighbours.

For one covariate x per cell there is Lin's estimate from moments (3.1), S the centred products:

    β_a = S_xy/S_xx,   Δ̂ = (m_T − m_C) − (x̄_T − x̄_C)(β_T n_C + β_C n_T)/n
    V_a = s²_e [1/n_a + (x̄_a − X̄)²/S_xx],   s²_e = (S_yy − β_a S_xy)/(n_a − 2)

`lin_moments` is this variance of one regression per arm. It is not HC2, which needs the units: they
differ by a share of order 1/n, or 1/√n where the spread of the residuals moves with x. HC2 is the
one to decide by.

Cells of any shape; all arrays of one call have that shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from experiments_dagster.stats.intervals import critical_value
from experiments_dagster.stats.moments import CONSTANT_SD
from experiments_dagster.stats.relative import NOISY_CONTROL_MEAN

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rule = tuple[Mask, str | NDArray[np.str_]]  # cells, and the code of what is wrong with them
AnyArray = TypeVar("AnyArray", Array, Mask, NDArray[np.str_])

ROUNDING = 8 * np.finfo(np.float64).eps  # of a weighted sum of products, as `ArmMoments.combine`
SMALLEST_REGRESSION = 3  # units of an arm that leave a degree of freedom beside two coefficients


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanCells:
    """Moments of one column in one arm, one entry per cell.

    Args:
        n: Units, whole numbers of 0 or more.
        mean: Ignored where n is 0.
        variance: Sample variance (ddof 1), ignored where n is below 2.

    Raises:
        ValueError: Shapes differ, or n is not a whole number of 0 or more.
    """

    n: Array
    mean: Array
    variance: Array

    def __post_init__(self) -> None:
        for field in fields(self):
            column = np.array(getattr(self, field.name), dtype=np.float64)
            object.__setattr__(self, field.name, _read_only(column))
            _check_shapes(self.n, column, field.name)
        if not (np.isfinite(self.n) & (self.n >= 0) & (self.n == np.floor(self.n))).all():
            msg = "n needs whole numbers of 0 or more"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairCells(MeanCells):
    """Moments of two columns in one arm: numerator and denominator, or outcome and covariate.

    Args:
        n: Units, whole numbers of 0 or more.
        mean: Of the numerator or outcome.
        variance: Of the numerator or outcome (ddof 1).
        mean_second: Of the denominator or covariate.
        variance_second: Of the denominator or covariate.
        covariance: Of the two.

    Raises:
        ValueError: Shapes differ, or n is not a whole number of 0 or more.
    """

    mean_second: Array
    variance_second: Array
    covariance: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellEstimates:
    """One effect per cell; every number is NaN exactly where `reason` is not empty."""

    estimate: Array
    std_error: Array
    ci_low: Array
    ci_high: Array
    p_value: Array
    reason: NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellContrasts:
    """Treatment minus control per cell, and the lift: arrays of what `Contrast` holds once.

    `degrees_of_freedom` is NaN for normal inference. `is_fieller` tells which lifts have Fieller's
    interval instead of the delta method's. Arm means and variance parts are NaN where the
    difference has a reason.
    """

    difference: CellEstimates
    relative: CellEstimates
    control_mean: Array
    treatment_mean: Array
    variance_control: Array
    variance_treatment: Array
    degrees_of_freedom: Array
    is_fieller: Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdjustedCells:
    """Adjusted contrasts beside the unadjusted ones.

    Where `is_adjusted` is False the covariate was of no use and both are the same.
    `variance_reduction` is NaN where the adjusted difference has a reason.
    """

    adjusted: CellContrasts
    unadjusted: CellContrasts
    variance_reduction: Array
    is_adjusted: Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """What the difference and the lift are made of."""

    difference: Array
    control_mean: Array
    treatment_mean: Array
    variance_control: Array
    variance_treatment: Array
    variance_control_mean: Array
    covariance: Array


def compare_mean_cells(
    control: MeanCells,
    treatment: MeanCells,
    *,
    alpha: float = 0.05,
    distribution: Literal["t", "normal"] = "t",
) -> CellContrasts:
    """Compare the means of every cell: `compare_means` for arrays.

    Args:
        control: Moments of the control arm, shape (cells,) or any other.
        treatment: Moments of the treatment arm, same shape.
        alpha: Two-sided level.
        distribution: Quantiles of the difference; the lift always takes normal ones.

    Returns:
        The contrasts; reasons NON_FINITE_INPUT, EMPTY_ARM, N_TOO_SMALL and ZERO_VARIANCE.

    Raises:
        ValueError: Shapes of the arms differ.

    References:
        Welch 1947; METHODS 2.1 to 2.3.

    Examples:
        >>> control = MeanCells(n=[100, 100, 0], mean=[10, 10, 0], variance=[4, 0, 0])
        >>> treatment = MeanCells(n=[100, 100, 9], mean=[11, 11, 1], variance=[4, 0, 1])
        >>> result = compare_mean_cells(control, treatment)
        >>> result.difference.p_value.round(6).tolist()
        [0.000507, nan, nan]
        >>> result.difference.reason.tolist()
        ['', 'ZERO_VARIANCE', 'EMPTY_ARM']
    """
    _check_shapes(control.n, treatment.n)
    with np.errstate(all="ignore"):
        return _compare_means(control, treatment, alpha=alpha, distribution=distribution)


def compare_ratio_cells(
    control: PairCells, treatment: PairCells, *, alpha: float = 0.05
) -> CellContrasts:
    """Compare the ratio of totals of every cell: `compare_ratios` for arrays.

    Args:
        control: Moments of numerator and denominator in the control arm.
        treatment: The same in the treatment arm, same shape.
        alpha: Two-sided level, normal quantiles.

    Returns:
        The contrasts, arm means being the ratios; reasons as for means, with ZERO_DENOMINATOR, and
        NOT_IDENTIFIED for a negative total denominator.

    Raises:
        ValueError: Shapes of the arms differ.

    References:
        Deng, Knoblich & Lu 2018; METHODS 2.5.

    Examples:
        >>> arm = dict(n=[50], mean_second=[2.0], variance=[4.0], variance_second=[1.0],
        ...            covariance=[1.0])
        >>> result = compare_ratio_cells(PairCells(mean=[6.0], **arm), PairCells(mean=[7.0], **arm))
        >>> result.difference.estimate.tolist(), result.difference.std_error.round(4).tolist()
        ([0.5], [0.285])
    """
    _check_shapes(control.n, treatment.n)
    with np.errstate(all="ignore"):
        ratio_control, variance_control = _ratio(control)
        ratio_treatment, variance_treatment = _ratio(treatment)
        parts = _Parts(
            difference=ratio_treatment - ratio_control,
            control_mean=ratio_control,
            treatment_mean=ratio_treatment,
            variance_control=variance_control,
            variance_treatment=variance_treatment,
            variance_control_mean=variance_control,
            covariance=-variance_control,
        )
        rules = [*_input_rules(control, treatment)]
        for arm, variance in ((control, variance_control), (treatment, variance_treatment)):
            rules += [
                (arm.mean_second == 0, "ZERO_DENOMINATOR"),
                (arm.mean_second < 0, "NOT_IDENTIFIED"),
                (~np.isfinite(variance), "NON_FINITE_INPUT"),
            ]
        return _contrasts(parts, rules, alpha=alpha, df=math.inf)


def compare_adjusted_cells(
    control: PairCells, treatment: PairCells, *, alpha: float = 0.05
) -> AdjustedCells:
    """Compare means adjusted by one pre-exposure covariate per cell, from moments.

    The estimate is that of `compare_adjusted` with one covariate; the variance is `lin_moments`,
    not HC2. An arm of two units or a covariate constant in an arm leaves Welch's t.

    Args:
        control: Moments of outcome and covariate in the control arm.
        treatment: The same in the treatment arm, same shape.
        alpha: Two-sided level; normal quantiles where adjusted.

    Returns:
        Adjusted and unadjusted contrasts; reason ZERO_VARIANCE where the covariate explains the
        outcome fully.

    Raises:
        ValueError: Shapes of the arms differ.

    References:
        Lin 2013; METHODS 3.1.

    Examples:
        >>> arm = dict(n=[50], mean_second=[2.0], variance=[4.0], variance_second=[1.0],
        ...            covariance=[1.0])
        >>> result = compare_adjusted_cells(
        ...     PairCells(mean=[6.0], **arm), PairCells(mean=[7.0], **arm))
        >>> result.adjusted.difference.std_error.round(4), result.variance_reduction.round(3)
        (array([0.35]), array([0.234]))
    """
    _check_shapes(control.n, treatment.n)
    with np.errstate(all="ignore"):
        unadjusted = _compare_means(control, treatment, alpha=alpha, distribution="t")
        is_adjusted = _has_covariate(control) & _has_covariate(treatment)
        df = np.where(is_adjusted, np.inf, unadjusted.degrees_of_freedom)
        adjusted = _contrasts(
            _adjusted_parts(control, treatment, is_adjusted),
            _input_rules(control, treatment),
            alpha=alpha,
            df=df,
        )
        ratio = adjusted.difference.std_error / unadjusted.difference.std_error
        return AdjustedCells(
            adjusted=adjusted,
            unadjusted=unadjusted,
            variance_reduction=_read_only(1 - ratio**2),
            is_adjusted=_read_only(is_adjusted),
        )


def _compare_means(
    control: MeanCells,
    treatment: MeanCells,
    *,
    alpha: float,
    distribution: Literal["t", "normal"],
) -> CellContrasts:
    parts = _mean_parts(control, treatment)
    df: Array | float = math.inf
    if distribution == "t":
        share = parts.variance_control / (parts.variance_control + parts.variance_treatment)
        df = 1 / (share**2 / (control.n - 1) + (1 - share) ** 2 / (treatment.n - 1))
    return _contrasts(parts, _input_rules(control, treatment), alpha=alpha, df=df)


def _mean_parts(control: MeanCells, treatment: MeanCells) -> _Parts:
    variance_control, variance_treatment = (
        _spread(arm.n, arm.mean, arm.variance) / (arm.n - 1) / arm.n for arm in (control, treatment)
    )
    return _Parts(
        difference=treatment.mean - control.mean,
        control_mean=control.mean,
        treatment_mean=treatment.mean,
        variance_control=variance_control,
        variance_treatment=variance_treatment,
        variance_control_mean=variance_control,
        covariance=-variance_control,
    )


def _ratio(arm: PairCells) -> tuple[Array, Array]:
    """Ratio of totals and its delta-method variance."""
    ratio = arm.mean / arm.mean_second
    spread = _residual_spread(arm, ratio)
    return ratio, spread / (arm.n - 1) / arm.n / arm.mean_second / arm.mean_second


def _has_covariate(arm: PairCells) -> Mask:
    return (arm.n >= SMALLEST_REGRESSION) & (_spreads(arm)[1] > 0)


def _adjusted_parts(control: PairCells, treatment: PairCells, is_adjusted: Mask) -> _Parts:
    """Lin's estimate where `is_adjusted`, else the raw difference."""
    raw = _mean_parts(control, treatment)
    gap = treatment.mean_second - control.mean_second
    adjustment = np.zeros(control.n.shape)
    variances, residuals = [], []
    for arm, other in ((control, treatment), (treatment, control)):
        _, spread_x, product = _spreads(arm)
        slope = product / spread_x
        weight = other.n / (arm.n + other.n)
        adjustment += slope * weight
        residual = _residual_spread(arm, slope) / (arm.n - 2)
        variances.append(residual * (1 / arm.n + (weight * gap) ** 2 / spread_x))
        residuals.append(residual / arm.n)
    return replace(
        raw,
        difference=np.where(is_adjusted, raw.difference - gap * adjustment, raw.difference),
        variance_control=np.where(is_adjusted, variances[0], raw.variance_control),
        variance_treatment=np.where(is_adjusted, variances[1], raw.variance_treatment),
        covariance=np.where(is_adjusted, -residuals[0], raw.covariance),
    )


def _residual_spread(arm: PairCells, slope: Array) -> Array:
    """Σ of squares of first − slope·second, centred; 0 where only rounding is left."""
    first, second, product = _spreads(arm)
    spread = (first - slope * product) - slope * (product - slope * second)
    rounding = ROUNDING * (first + slope**2 * second)
    return np.where(spread <= rounding, np.where(np.isfinite(rounding), 0.0, np.nan), spread)


def _spreads(arm: PairCells) -> tuple[Array, Array, Array]:
    """Centred products of first, second, and first with second; 0 for a constant column."""
    first = _spread(arm.n, arm.mean, arm.variance)
    second = _spread(arm.n, arm.mean_second, arm.variance_second)
    product = np.where((first == 0) | (second == 0), 0.0, arm.covariance * (arm.n - 1))
    return first, second, product


def _spread(n: Array, mean: Array, variance: Array) -> Array:
    """Σ(y − ȳ)², 0 for a column that is constant but for rounding."""
    spread = variance * (n - 1)
    is_constant = np.sqrt(np.maximum(spread, 0.0)) <= np.sqrt(n) * CONSTANT_SD * np.abs(mean)
    return np.where(is_constant, 0.0, spread)


def _input_rules(control: MeanCells, treatment: MeanCells) -> list[Rule]:
    """What is wrong with the input, in the order in which the scalar functions look."""
    rules: list[Rule] = [(_is_bad(control) | _is_bad(treatment), "NON_FINITE_INPUT")]
    for arm in (control, treatment):
        rules += [(arm.n == 0, "EMPTY_ARM"), (arm.n == 1, "N_TOO_SMALL")]
    return rules


def _is_bad(arm: MeanCells) -> Mask:
    """Whether a moment that the number of units defines is NaN or infinite."""
    is_bad = np.zeros(arm.n.shape, dtype=np.bool_)
    for field in fields(arm):
        if field.name == "n":
            continue
        values = getattr(arm, field.name)
        if field.name.startswith("mean"):
            is_bad |= (arm.n > 0) & ~np.isfinite(values)
        else:
            is_bad |= (arm.n > 1) & ~np.isfinite(values * (arm.n - 1))
    return is_bad


def _contrasts(
    parts: _Parts, rules: list[Rule], *, alpha: float, df: Array | float
) -> CellContrasts:
    variance = parts.variance_control + parts.variance_treatment
    std_error = np.sqrt(variance)
    half_width = -stdtrit(df, alpha / 2) * std_error
    difference = _estimates(
        parts.difference,
        std_error,
        limits=(parts.difference - half_width, parts.difference + half_width),
        p_value=_two_sided(parts.difference / std_error, df),
        rules=[*rules, (std_error == 0, "ZERO_VARIANCE")],
        otherwise="NON_FINITE_INPUT",
    )
    relative, is_fieller = _lifts(parts, variance, difference.reason, alpha=alpha)
    is_ok = difference.reason == ""
    return CellContrasts(
        difference=difference,
        relative=relative,
        control_mean=_where_ok(is_ok, parts.control_mean),
        treatment_mean=_where_ok(is_ok, parts.treatment_mean),
        variance_control=_where_ok(is_ok, parts.variance_control),
        variance_treatment=_where_ok(is_ok, parts.variance_treatment),
        degrees_of_freedom=_where_ok(is_ok & np.isfinite(df), df),
        is_fieller=is_fieller,
    )


def _lifts(
    parts: _Parts, variance: Array, reason: NDArray[np.str_], *, alpha: float
) -> tuple[CellEstimates, Mask]:
    """`relative_estimate` for arrays, with the cells whose interval is Fieller's."""
    z = critical_value(alpha)
    scale = np.abs(parts.control_mean)
    lift = parts.difference / scale
    v = variance / scale / scale
    v_control = parts.variance_control_mean / scale / scale
    covariance = np.copysign(1.0, parts.control_mean) * parts.covariance / scale / scale
    delta_variance = np.maximum(v - 2 * lift * covariance + lift * lift * v_control, 0.0)
    std_error = np.sqrt(delta_variance)
    g = z * z * v_control
    determinant = np.maximum(v * v_control - covariance**2, 0.0)
    centre = (lift - z * z * covariance) / (1 - g)
    half_width = z * np.sqrt(np.maximum(delta_variance - z * z * determinant, 0.0)) / (1 - g)
    is_fieller = v_control > NOISY_CONTROL_MEAN
    relative = _estimates(
        lift,
        std_error,
        limits=(
            np.where(is_fieller, np.minimum(centre - half_width, lift), lift - z * std_error),
            np.where(is_fieller, np.maximum(centre + half_width, lift), lift + z * std_error),
        ),
        p_value=_two_sided(lift / np.where(is_fieller, np.sqrt(v), std_error), math.inf),
        rules=[
            (reason != "", reason),
            (parts.control_mean == 0, "ZERO_DENOMINATOR"),
            ((g >= 1) | ~np.isfinite(std_error), "NOT_IDENTIFIED"),
            (std_error == 0, "ZERO_VARIANCE"),
        ],
        otherwise="NOT_IDENTIFIED",
    )
    return relative, _read_only(is_fieller & (relative.reason == ""))


def _estimates(
    estimate: Array,
    std_error: Array,
    *,
    limits: tuple[Array, Array],
    p_value: Array,
    rules: list[Rule],
    otherwise: str,
) -> CellEstimates:
    """Numbers where no rule applies; `otherwise` is the reason of numbers that overflowed."""
    numbers = (estimate, std_error, *limits, p_value)
    is_finite = np.logical_and.reduce([np.isfinite(number) for number in numbers])
    rules = [*rules, (~is_finite, otherwise)]
    reason = np.select([mask for mask, _ in rules], [code for _, code in rules], default="")
    is_ok = reason == ""
    return CellEstimates(
        estimate=_where_ok(is_ok, estimate),
        std_error=_where_ok(is_ok, std_error),
        ci_low=_where_ok(is_ok, limits[0]),
        ci_high=_where_ok(is_ok, limits[1]),
        p_value=_where_ok(is_ok, p_value),
        reason=_read_only(reason),
    )


def _two_sided(statistic: Array, df: Array | float) -> Array:
    return np.minimum(1.0, 2 * stdtr(df, -np.abs(statistic)))


def _where_ok(is_ok: Mask, values: Array | float) -> Array:
    return _read_only(np.where(is_ok, values, np.nan))


def _read_only(array: AnyArray) -> AnyArray:
    array.setflags(write=False)
    return array


def _check_shapes(first: Array, second: Array, name: str = "treatment") -> None:
    if first.shape != second.shape:
        msg = f"{name} has shape {second.shape}, need {first.shape} as the other columns"
        raise ValueError(msg)
