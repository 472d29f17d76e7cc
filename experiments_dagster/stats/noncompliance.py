"""Units that did not take what they were assigned: effect of the offer, effect on compliers.

With Z the assignment, D what was received (0 or 1), Y the outcome, Δ_Y and Δ_D the differences
between the assigned arms, V_Y, V_D their variances and C their covariance (arms added):

    intent to treat   Δ_Y: the effect of being assigned, always reported
    compliers         λ = Δ_Y/Δ_D, the mean effect among units that receive it if and only if
                      assigned (CACE, LATE), under
                        exclusion     assignment acts on Y through D alone
                        monotonicity  assignment makes nobody receive less
    delta             V(λ) = (V_Y − 2λC + λ²V_D)/Δ_D²
    Anderson-Rubin    {λ: (Δ_Y − λΔ_D)² ≤ z²(V_Y − 2λC + λ²V_D)}, as Fieller's; covers whatever
                      the first stage, and is unbounded where Δ_D cannot be told from 0
    first stage       F = Δ_D²/V_D

Delta where F ≥ 10, Anderson-Rubin below; the set is recorded in either case. Comparing those who
received with those who did not ("per protocol") compares self-selected groups and is refused.
METHODS 10.6.

References:
    Anderson & Rubin 1949; Imbens & Angrist 1994; Angrist, Imbens & Rubin 1996;
    Staiger & Stock 1997.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, critical_value, two_sided_p_value
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.interacted import arm_mask, unit_column
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Estimate

Shape = Literal["bounded", "outside", "everything"]

WEAK_FIRST_STAGE = 10.0  # F below which the delta method is not to be trusted
ASSUMPTIONS = (
    "randomised: the assignment is independent of everything else",
    "exclusion: the assignment acts on the outcome only through what was received",
    "monotonicity: the assignment makes nobody receive less",
)


class PerProtocolError(EstimationError):
    """Comparing units by what they received: those who take it up differ from those who do not."""

    def __init__(self) -> None:
        super().__init__(
            "NOT_IDENTIFIED",
            "per protocol",
            "units chose what they received, so the groups are not comparable. Hint: the intent "
            "to treat, or the complier effect with its assumptions",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSet:
    """The values that a test does not reject.

    `bounded`: low to high; `outside`: everything below low and above high; `everything` has no
    limits.
    """

    shape: Shape
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplierEffect:
    """Intent to treat, first stage and the effect on compliers.

    Args:
        itt: Effect of the assignment on the outcome.
        first_stage: Effect of the assignment on the share that received: the share of compliers.
        first_stage_f: Its squared t; None where everybody took what was assigned.
        estimate: Effect on compliers.
        std_error: Delta method.
        ci_low: Lower limit; None where the set is not an interval.
        ci_high: Upper limit likewise.
        interval: Construction of limits and p-value.
        p_value: Of no effect on compliers, by inverting the interval.
        confidence_level: 1 − α.
        anderson_rubin: The set that needs no strong first stage.
        received_control: Share of the assigned control arm that received: always-takers.
        received_treatment: Share of the assigned treatment arm that did.
        assumptions: What the complier effect rests on besides the data.
    """

    itt: Estimate
    first_stage: Estimate
    first_stage_f: float | None
    estimate: float
    std_error: float
    ci_low: float | None
    ci_high: float | None
    interval: Literal["delta", "anderson_rubin"]
    p_value: float
    confidence_level: float
    anderson_rubin: ConfidenceSet
    received_control: float
    received_treatment: float
    assumptions: tuple[str, ...] = ASSUMPTIONS


def complier_effect(
    y: ArrayLike, is_assigned: ArrayLike, is_received: ArrayLike, *, alpha: float = 0.05
) -> ComplierEffect:
    """Estimate the effect among units that receive the treatment because they were assigned it.

    Args:
        y: Outcome per randomised unit, shape (n,); of all units, whatever they received.
        is_assigned: True where assigned to treatment, shape (n,).
        is_received: True where the treatment was received, shape (n,).
        alpha: Two-sided level; large samples, normal quantiles.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, NON_FINITE_INPUT, ZERO_VARIANCE, ZERO_DENOMINATOR
            where both arms received alike, NOT_IDENTIFIED where the treatment arm received less.
        ValueError: Shapes or indicators that do not fit.

    References:
        Imbens & Angrist 1994; Anderson & Rubin 1949; METHODS 10.6.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> z, complies = rng.integers(0, 2, size=4000), rng.random(4000) < 0.5
        >>> d = z * complies
        >>> found = complier_effect(3 * d + complies + rng.normal(size=4000), z, d)
        >>> round(found.estimate), found.interval, round(found.first_stage.estimate, 1)
        (3, 'delta', 0.5)
    """
    check_alpha(alpha)
    outcome = unit_column(y, "y")
    assigned = arm_mask(is_assigned, len(outcome))
    received = _indicator(is_received, len(outcome))
    control, treatment = (
        ArmMoments.from_arrays(y=outcome[rows], d=received[rows].astype(np.float64))
        for rows in (~assigned, assigned)
    )
    first_stage = _first_stage(control, treatment, alpha)
    itt = compare_means(control, treatment, alpha=alpha).difference
    pair = _Pair(
        y=itt.estimate,
        d=first_stage.estimate,
        v_y=itt.std_error**2,
        v_d=first_stage.std_error**2,
        covariance=sum(arm.covariance("y", "d") / arm.n for arm in (control, treatment)),
    )
    return _complier_effect(pair, itt, first_stage, alpha)


def intent_to_treat(y: ArrayLike, is_assigned: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """The effect of being assigned, whatever was received: there even without a first stage.

    Args:
        y: Outcome per randomised unit, shape (n,).
        is_assigned: True where assigned to treatment, shape (n,).
        alpha: Two-sided level.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL, NON_FINITE_INPUT or ZERO_VARIANCE.
        ValueError: Shapes or indicators that do not fit.
    """
    check_alpha(alpha)
    outcome = unit_column(y, "y")
    assigned = arm_mask(is_assigned, len(outcome))
    control, treatment = (ArmMoments.from_arrays(y=outcome[rows]) for rows in (~assigned, assigned))
    return compare_means(control, treatment, alpha=alpha).difference


def per_protocol() -> NoReturn:
    """Refuse to compare units by what they received, whatever the data.

    Raises:
        PerProtocolError: Always.
    """
    raise PerProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Δ_Y and Δ_D with their variances and covariance."""

    y: float
    d: float
    v_y: float
    v_d: float
    covariance: float

    def variance_at(self, effect: float) -> float:
        """Variance of Δ_Y − λΔ_D."""
        total = self.v_y - 2 * effect * self.covariance + effect * effect * self.v_d
        return max(total, 0.0)


def anderson_rubin_set(
    numerator: float,
    denominator: float,
    *,
    variances: tuple[float, float],
    covariance: float,
    alpha: float = 0.05,
) -> ConfidenceSet:
    """Return {λ: (Δ_Y − λΔ_D)² ≤ z²(V_Y − 2λC + λ²V_D)}.

    Args:
        numerator: Δ_Y.
        denominator: Δ_D.
        variances: V_Y and V_D.
        covariance: C.
        alpha: Two-sided level.

    References:
        Anderson & Rubin 1949; Fieller 1954.

    Examples:
        >>> anderson_rubin_set(1.0, 0.1, variances=(0.01, 0.01), covariance=0.0).shape
        'outside'
    """
    z2 = critical_value(alpha) ** 2
    # a λ² − 2 b λ + c ≤ 0
    a = denominator**2 - z2 * variances[1]
    b = numerator * denominator - z2 * covariance
    c = numerator**2 - z2 * variances[0]
    inside = b * b - a * c
    # The estimate itself is never rejected, so a > 0 has roots; a half-line (a = 0) is widened.
    if a == 0 or (a < 0 and inside < 0):
        return ConfidenceSet(shape="everything", low=None, high=None)
    # The root of the larger size first: the other by division loses no digits.
    far = b + math.copysign(math.sqrt(max(inside, 0.0)), b)
    roots = sorted((far / a, c / far)) if far else [0.0, 0.0]
    return ConfidenceSet(shape="bounded" if a > 0 else "outside", low=roots[0], high=roots[1])


def _indicator(values: ArrayLike, n: int) -> NDArray[np.bool_]:
    given = np.asarray(values)
    mask = given.astype(np.bool_)
    if mask.shape != (n,) or not np.array_equal(mask, given):
        msg = f"is_received needs {n} values of 0 or 1, got shape {given.shape}"
        raise ValueError(msg)
    return mask


def _first_stage(control: ArmMoments, treatment: ArmMoments, alpha: float) -> Estimate:
    """The difference of the shares that received; exact where compliance is perfect."""
    difference = treatment.mean("d") - control.mean("d")
    if difference == 0:
        raise EstimationError("ZERO_DENOMINATOR", "first stage", "both arms received alike")
    if difference < 0:
        detail = (
            f"{treatment.mean('d'):.1%} of the treatment arm received and "
            f"{control.mean('d'):.1%} of the control: against monotonicity"
        )
        raise EstimationError("NOT_IDENTIFIED", "first stage", detail)
    try:
        return compare_means(control, treatment, column="d", alpha=alpha).difference
    except EstimationError as error:
        if error.code != "ZERO_VARIANCE":
            raise
    return Estimate(
        estimand="difference",
        inference="fixed_horizon",
        method="perfect_compliance",
        variance_formula="none",
        estimate=difference,
        std_error=0.0,
        ci_low=difference,
        ci_high=difference,
        confidence_level=1 - alpha,
        p_value=None,
        degrees_of_freedom=None,
        control_mean=control.mean("d"),
        treatment_mean=treatment.mean("d"),
        n_control=control.n,
        n_treatment=treatment.n,
    )


def _complier_effect(
    pair: _Pair, itt: Estimate, first_stage: Estimate, alpha: float
) -> ComplierEffect:
    effect = pair.y / pair.d
    std_error = math.sqrt(pair.variance_at(effect)) / pair.d
    if std_error == 0:
        raise EstimationError("ZERO_VARIANCE", "complier effect", "Y follows what was received")
    f = pair.d**2 / pair.v_d if pair.v_d else None
    accepted = anderson_rubin_set(
        pair.y,
        pair.d,
        variances=(pair.v_y, pair.v_d),
        covariance=pair.covariance,
        alpha=alpha,
    )
    if f is None or f >= WEAK_FIRST_STAGE:
        half_width = critical_value(alpha) * std_error
        low: float | None = effect - half_width
        high: float | None = effect + half_width
        interval: Literal["delta", "anderson_rubin"] = "delta"
        p_value = two_sided_p_value(effect / std_error)
    else:
        is_interval = accepted.shape == "bounded"
        low, high = (accepted.low, accepted.high) if is_interval else (None, None)
        interval = "anderson_rubin"
        p_value = two_sided_p_value(pair.y / math.sqrt(pair.v_y))
    return ComplierEffect(
        itt=itt,
        first_stage=first_stage,
        first_stage_f=f,
        estimate=effect,
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        interval=interval,
        p_value=p_value,
        confidence_level=1 - alpha,
        anderson_rubin=accepted,
        received_control=first_stage.control_mean,
        received_treatment=first_stage.treatment_mean,
    )
