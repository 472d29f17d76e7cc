"""Two experiments on the same units: are their arms independent, and do their effects add up?

    assignment   χ² on the arm × arm counts of the common units; p < 1e-4 is a fault, not chance
    effect       Y ~ A + B + A·B by OLS: the coefficient of A·B is the effect of A in the treatment
                 arm of B minus its effect in the control arm of B, and its HC2 variance the sum of
                 the two effects' own, with Satterthwaite degrees of freedom of the four cells

Arms that depend on each other come from hashing with a shared salt, or from an experiment whose
exposure depends on the other's arm. Either way the common units are no fair comparison, and effects
are not to be read from them. Several pairs are corrected together by BY: pairs overlap in units.
Cells below 100 units are not tested. METHODS 10.3.

What does not belong here: which experiments overlap (`portfolio`).

References:
    Pearson 1900; MacKinnon & White 1985; Benjamini & Yekutieli 2001; Kohavi, Tang & Xu 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, two_sided_p_value
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.proportion import contingency_chi_square
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Estimate

DEPENDENCE_ALPHA = 1e-4  # METHODS 10.3: below, the assignment is at fault
MIN_EXPECTED = 5.0  # units per cell that the χ² approximation needs
MIN_UNITS = 100  # per cell of an effect interaction


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentDependence:
    """Whether the arms of two experiments are independent among the units they share.

    `is_dependent` where p is below 1e-4: then no effect of the common units is to be read.
    """

    n_units: int
    statistic: float
    degrees_of_freedom: int
    p_value: float
    is_dependent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectInteraction:
    """How much the effect of one experiment changes with the arm of the other.

    Args:
        estimate: Effect in the other's treatment arm minus effect in its control arm.
        std_error: HC2, the four cells' variances added.
        ci_low: Lower limit.
        ci_high: Upper limit.
        confidence_level: 1 − α.
        p_value: Two-sided, not corrected for the number of pairs.
        degrees_of_freedom: Satterthwaite; None for normal quantiles.
        in_control: The effect among units in the other's control arm.
        in_treatment: The effect among units in the other's treatment arm.
    """

    estimate: float
    std_error: float
    ci_low: float
    ci_high: float
    confidence_level: float
    p_value: float
    degrees_of_freedom: float | None
    in_control: Estimate
    in_treatment: Estimate


def assignment_dependence(counts: ArrayLike) -> AssignmentDependence:
    """Test the arms of two experiments for independence.

    Args:
        counts: Units in both experiments by arm of the one and arm of the other, shape (a, b).

    Raises:
        EstimationError: N_TOO_SMALL where a cell expects fewer than 5 units, ZERO_VARIANCE where
            an arm has none.
        ValueError: No table of counts.

    References:
        Pearson 1900; METHODS 10.3.

    Examples:
        >>> assignment_dependence([[260, 240], [245, 255]]).is_dependent
        False
        >>> assignment_dependence([[500, 0], [0, 500]]).is_dependent
        True
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2:  # noqa: PLR2004
        msg = f"counts have shape {table.shape}, need (arms, arms) with two arms or more each"
        raise ValueError(msg)
    if not (np.isfinite(table).all() and (table >= 0).all()):
        msg = "counts hold a number that is negative or not finite, need counts of units"
        raise ValueError(msg)
    if table.sum() == 0:
        raise EstimationError("N_TOO_SMALL", "common units", "0")
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    expected = float(rows.min() * columns.min() / table.sum())
    if 0 < expected < MIN_EXPECTED:
        detail = f"a cell expects {expected:.3g} units, need {MIN_EXPECTED:g}"
        raise EstimationError("N_TOO_SMALL", "common units", detail)
    test = contingency_chi_square(table)
    return AssignmentDependence(
        n_units=int(table.sum()),
        statistic=test.statistic,
        degrees_of_freedom=test.degrees_of_freedom,
        p_value=test.p_value,
        is_dependent=test.p_value < DEPENDENCE_ALPHA,
    )


def effect_interaction(
    in_control: Estimate, in_treatment: Estimate, *, alpha: float = 0.05, min_units: int = MIN_UNITS
) -> EffectInteraction:
    """Compare the effect of an experiment between two arms of another one.

    Estimand: the difference of the two conditional effects. The arms of both must be independent
    (`assignment_dependence`); no unit is in both cells.

    Args:
        in_control: Effect among the units in the other's control arm.
        in_treatment: Effect of the same kind among the units in its treatment arm.
        alpha: Two-sided level.
        min_units: Per cell, below which nothing is tested.

    Raises:
        EstimationError: N_TOO_SMALL, ZERO_VARIANCE.
        ValueError: Effects of different estimands.

    References:
        MacKinnon & White 1985; Satterthwaite 1946; METHODS 10.3.
    """
    check_alpha(alpha)
    if in_control.estimand != in_treatment.estimand:
        msg = f"effects are {in_control.estimand} and {in_treatment.estimand}, need one estimand"
        raise ValueError(msg)
    pair = (in_control, in_treatment)
    smallest = min(min(effect.n_control, effect.n_treatment) for effect in pair)
    if smallest < min_units:
        raise EstimationError(
            "N_TOO_SMALL", "interaction", f"{smallest} in a cell, need {min_units}"
        )
    std_error = math.hypot(in_control.std_error, in_treatment.std_error)
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "interaction")
    estimate = in_treatment.estimate - in_control.estimate
    df = _satterthwaite(pair, std_error)
    half_width = critical_value(alpha, df) * std_error
    return EffectInteraction(
        estimate=estimate,
        std_error=std_error,
        ci_low=estimate - half_width,
        ci_high=estimate + half_width,
        confidence_level=1 - alpha,
        p_value=two_sided_p_value(estimate / std_error, df),
        degrees_of_freedom=df,
        in_control=in_control,
        in_treatment=in_treatment,
    )


def interaction_of_means(
    y: ArrayLike,
    is_treated: ArrayLike,
    is_other_treated: ArrayLike,
    *,
    alpha: float = 0.05,
    min_units: int = MIN_UNITS,
) -> EffectInteraction:
    """Test the product of a regression of Y on two experiments' arms and their product.

    Args:
        y: Outcome per unit in both experiments, shape (n,).
        is_treated: Arm in the experiment whose effect it is, shape (n,).
        is_other_treated: Arm in the other one, shape (n,).
        alpha: Two-sided level.
        min_units: Per cell.

    Raises:
        EstimationError: As `effect_interaction`, NON_FINITE_INPUT, EMPTY_ARM.
        ValueError: Shapes or indicators that do not fit.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> a, b = rng.integers(0, 2, size=(2, 2000))
        >>> found = interaction_of_means(a + b + 2 * a * b + rng.normal(size=2000), a, b)
        >>> round(found.estimate), found.p_value < 1e-6
        (2, True)
    """
    outcome = unit_column(y, "y")
    own, other = (arm_mask(column, len(outcome)) for column in (is_treated, is_other_treated))
    control, treatment = (
        compare_means(
            ArmMoments.from_arrays(y=outcome[side & ~own]),
            ArmMoments.from_arrays(y=outcome[side & own]),
            alpha=alpha,
        ).difference
        for side in (~other, other)
    )
    return effect_interaction(control, treatment, alpha=alpha, min_units=min_units)


def _satterthwaite(pair: tuple[Estimate, Estimate], std_error: float) -> float | None:
    """Degrees of freedom of a sum of independent variances; None where one is normal."""
    inverse = 0.0
    for effect in pair:
        if effect.degrees_of_freedom is None:
            return None
        inverse += (effect.std_error / std_error) ** 4 / effect.degrees_of_freedom
    return 1 / inverse
