"""Whether the effect differs between segments: exploratory, never an input of the decision.

    segment against the rest   z = (Δ̂_s − Δ̂_rest)/√(V_s + V_rest)
    omnibus, disjoint          Q = Σ(Δ̂_s − Δ̄)²/V_s ~ χ²_{S−1},   Δ̄ weighted by 1/V_s

p-values are adjusted by BH over disjoint segments, by BY over overlapping ones, and count every
segment declared. Segments below 100 units in an arm, or whose rest is, are listed and not tested.
Segments are values known at or before exposure: a segment that the treatment can change is not one.
METHODS 10.5.

References:
    Cochran 1954; Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import chdtrc

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import two_sided_p_value
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.stats.records import ChiSquare, Estimate

MIN_UNITS = 100  # per arm, in the segment and in the rest

Arms = tuple[ArmMoments, ArmMoments]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEffect:
    """The effect inside a segment and among all other units; None where not estimable."""

    segment: str
    inside: Estimate | None
    rest: Estimate | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTest:
    """How far the effect in a segment is from that in the rest.

    `difference` is segment minus rest. Untested segments have a `reason` (`N_TOO_SMALL`,
    `ZERO_VARIANCE`) and no numbers.
    """

    segment: str
    difference: float | None
    std_error: float | None
    statistic: float | None
    p_value: float | None
    adjusted_p_value: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heterogeneity:
    """All segments of one dimension, in input order.

    `omnibus` is None for overlapping segments and below two tested ones.
    """

    tests: tuple[SegmentTest, ...]
    correction: Literal["bh", "by"]
    omnibus: ChiSquare | None


def segment_effects_of_means(
    arms: Mapping[str, Arms], *, column: str = "y"
) -> tuple[SegmentEffect, ...]:
    """Compare means inside each of several disjoint segments, and among the other segments.

    Args:
        arms: Moments of control and treatment by segment.
        column: Column to compare.

    Raises:
        EstimationError: N_TOO_SMALL below two segments.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> arms = {
        ...     s: (ArmMoments.from_arrays(y=rng.normal(size=200)),
        ...         ArmMoments.from_arrays(y=rng.normal(lift, 1, size=200)))
        ...     for s, lift in (("web", 0.0), ("app", 1.0))
        ... }
        >>> tests = segment_heterogeneity(segment_effects_of_means(arms)).tests
        >>> [(test.segment, test.adjusted_p_value < 1e-6) for test in tests]
        [('web', True), ('app', True)]
    """
    names = list(arms)
    if len(names) < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", "segments", f"{len(names)}, need 2")
    controls, treatments = (_merged_others([arms[name][i] for name in names]) for i in (0, 1))
    return tuple(
        _segment_effect(name, arms[name], rest, column)
        for name, rest in zip(names, zip(controls, treatments, strict=True), strict=True)
    )


def segment_heterogeneity(
    effects: Sequence[SegmentEffect], *, is_overlapping: bool = False, min_units: int = MIN_UNITS
) -> Heterogeneity:
    """Test each segment against the rest and, where segments are disjoint, all of them together.

    Args:
        effects: One per declared segment, on one scale; inside and rest share no unit.
        is_overlapping: True where a unit can be in several segments; corrects by BY.
        min_units: Units per arm below which a segment is listed and not tested.

    References:
        Cochran 1954, Biometrics 10; METHODS 10.5.

    Raises:
        ValueError: A segment given twice.
    """
    names = [effect.segment for effect in effects]
    if len(set(names)) < len(names):
        msg = f"segments {names} hold one twice, need distinct names"
        raise ValueError(msg)
    tests = [_test(effect, min_units) for effect in effects]
    p_values = [test.p_value for test in tests if test.p_value is not None]
    correction: Literal["bh", "by"] = "by" if is_overlapping else "bh"
    adjusted = iter(adjusted_p_values(p_values, correction, planned=len(tests)))
    tested = [
        effect.inside
        for effect, test in zip(effects, tests, strict=True)
        if test.reason is None and effect.inside is not None
    ]
    return Heterogeneity(
        tests=tuple(
            test if test.p_value is None else replace(test, adjusted_p_value=next(adjusted))
            for test in tests
        ),
        correction=correction,
        omnibus=None if is_overlapping or len(tested) < 2 else omnibus_test(tested),  # noqa: PLR2004
    )


def omnibus_test(effects: Sequence[Estimate]) -> ChiSquare:
    """Test whether the effects of disjoint segments are all the same (Cochran's Q).

    Args:
        effects: Two or more, each with a standard error above 0.

    Raises:
        EstimationError: N_TOO_SMALL below two effects, ZERO_VARIANCE.

    References:
        Cochran 1954, Biometrics 10.
    """
    if len(effects) < 2:  # noqa: PLR2004
        raise EstimationError("N_TOO_SMALL", "segments", f"{len(effects)}, need 2")
    estimates = np.array([effect.estimate for effect in effects])
    errors = np.array([effect.std_error for effect in effects])
    if (errors == 0).any():
        raise EstimationError("ZERO_VARIANCE", "segments")
    # Weights in units of the largest: 1/V itself can overflow.
    weights = np.square(errors.min() / errors)
    mean = float(weights @ estimates / weights.sum())
    statistic = float(np.square((estimates - mean) / errors).sum())
    df = len(effects) - 1
    return ChiSquare(
        statistic=statistic, degrees_of_freedom=df, p_value=float(chdtrc(df, statistic))
    )


def _merged_others(moments: Sequence[ArmMoments]) -> list[ArmMoments]:
    """Merge, for each position, all the others: from both sides, without subtraction."""
    empty = ArmMoments.empty(moments[0].columns)
    before, after = [empty], [empty]
    for arm in moments[:-1]:
        before.append(before[-1] + arm)
    for arm in reversed(moments[1:]):
        after.append(arm + after[-1])
    return [left + right for left, right in zip(before, reversed(after), strict=True)]


def _segment_effect(segment: str, arms: Arms, rest: Arms, column: str) -> SegmentEffect:
    try:
        inside, others = (
            compare_means(*pair, column=column, distribution="normal").difference
            for pair in (arms, rest)
        )
    except EstimationError as error:
        # An empty arm is only the smallest of those that are too small.
        reason = "N_TOO_SMALL" if error.code == "EMPTY_ARM" else error.code
        return SegmentEffect(segment=segment, inside=None, rest=None, reason=reason)
    return SegmentEffect(segment=segment, inside=inside, rest=others)


def _test(effect: SegmentEffect, min_units: int) -> SegmentTest:
    """Compare one segment with the rest, or say why not; p is not yet adjusted."""
    inside, rest = effect.inside, effect.rest
    reason = effect.reason
    difference = std_error = statistic = p_value = None
    if inside is None or rest is None:
        reason = reason or "N_TOO_SMALL"
    elif min(_smallest_arm(inside), _smallest_arm(rest)) < min_units:
        reason = "N_TOO_SMALL"
    elif inside.std_error == 0 or rest.std_error == 0:
        reason = "ZERO_VARIANCE"
    else:
        difference = inside.estimate - rest.estimate
        std_error = math.hypot(inside.std_error, rest.std_error)
        statistic = difference / std_error
        p_value = two_sided_p_value(statistic)
    return SegmentTest(
        segment=effect.segment,
        difference=difference,
        std_error=std_error,
        statistic=statistic,
        p_value=p_value,
        adjusted_p_value=None,
        reason=reason,
    )


def _smallest_arm(estimate: Estimate) -> int:
    return min(estimate.n_control, estimate.n_treatment)
