"""Where and since when the sample ratio is off: by level of a dimension, and by day.

Each level of a dimension (a platform, a country, a day) is tested against the configured shares:

    planned end   χ² per level, Holm over levels
    any look      E per level, anytime p = L/max E for L levels (Bonferroni holds at every look)

The onset of a mismatch is the day t that maximises the log-likelihood ratio of a change point, the
configured shares θ before t and free shares θ̂_t from t on:

    Λ(t) = Σ_i S_i(t) ln(θ̂_i(t)/θ_i),   S_i(t) units of arm i on day t or later

METHODS 5.2. The verdict over all units is `sample_ratio`; this module says where to look.

References:
    Lindon & Malek 2022; Fabijan et al. 2019; Hinkley 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from experiments_dagster.stats.design.sample_ratio import (
    BLOCK_ANYTIME_P,
    BLOCK_P,
    MIN_DEVIATION,
    WARN_ANYTIME_P,
    WARN_P,
    anytime_p_value,
    chi_square,
    sequential_log_e_value,
)
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.multiplicity import adjusted_p_values
from experiments_dagster.stats.records import CheckOutcome, Severity

MAX_LEVELS = 1000
MIN_EXPECTED = 5  # units per arm below which a level is listed and not tested
SHARE_SUM = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRatio:
    """The sample ratio of one level; both p-values are adjusted for all levels.

    `deviation` is the largest absolute difference of an arm's share from the configured one.
    `log_e_value` is the level's own largest ln E so far, not adjusted.
    """

    level: str
    n: int
    deviation: float
    fixed_p_value: float
    log_e_value: float
    anytime_p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRatios:
    """Tested levels of a dimension, in input order, and the names of those with too few units."""

    tested: tuple[LevelRatio, ...]
    untested: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Onset:
    """First day, from 0, of the most likely change of the sample ratio.

    `shares` are the observed ones from that day on, in the order of the arms.
    """

    day: int
    log_likelihood_ratio: float
    shares: tuple[float, ...]


def sample_ratio_by_level(
    counts: Mapping[str, Mapping[str, int]],
    shares: Mapping[str, float],
    *,
    largest_earlier_log_e: Mapping[str, float] | None = None,
    n_levels: int | None = None,
) -> LevelRatios:
    """Test the sample ratio in each level of a dimension.

    A level with fewer than 5 expected units in an arm is not tested; it counts all the same.

    Args:
        counts: Distinct units by level and arm.
        shares: Configured share per arm, above 0, summing to 1.
        largest_earlier_log_e: Largest ln E of each level at the earlier looks.
        n_levels: Levels the dimension can have; default all in `counts`. State it where levels
            appear as the experiment goes on.

    Raises:
        EstimationError: NOT_IDENTIFIED above 1,000 levels.
        ValueError: Units in an arm without a share, shares that are not above 0 or do not sum to 1,
            or `n_levels` below the levels given.

    References:
        Holm 1979; Lindon & Malek 2022.

    Examples:
        >>> counts = {"web": {"a": 500, "b": 500}, "ios": {"a": 700, "b": 300}}
        >>> ratios = sample_ratio_by_level(counts, {"a": 0.5, "b": 0.5})
        >>> [(ratio.level, ratio.fixed_p_value < 1e-9) for ratio in ratios.tested]
        [('web', False), ('ios', True)]
    """
    total = len(counts) if n_levels is None else n_levels
    _check_levels(counts, shares, total)
    earlier = largest_earlier_log_e or {}
    theta = list(shares.values())
    observed = {
        level: [float(by_arm.get(arm, 0)) for arm in shares] for level, by_arm in counts.items()
    }
    tested = {
        level: row for level, row in observed.items() if sum(row) * min(theta) >= MIN_EXPECTED
    }
    raw = [chi_square(row, theta).p_value for row in tested.values()]
    fixed = adjusted_p_values(raw, "holm", planned=total)
    ratios = []
    for (level, row), fixed_p_value in zip(tested.items(), fixed, strict=True):
        log_e = max(sequential_log_e_value(row, theta), earlier.get(level, 0.0))
        ratios.append(
            LevelRatio(
                level=level,
                n=int(sum(row)),
                deviation=float(np.abs(np.array(row) / sum(row) - theta).max()),
                fixed_p_value=fixed_p_value,
                log_e_value=log_e,
                anytime_p_value=min(1.0, total * anytime_p_value(log_e)),
            )
        )
    return LevelRatios(
        tested=tuple(ratios), untested=tuple(level for level in observed if level not in tested)
    )


def sample_ratio_levels_outcome(
    dimension: str, ratios: LevelRatios, *, at_planned_end: bool
) -> CheckOutcome:
    """Judge the levels of a dimension by the rules of `sample_ratio_outcome`.

    Blocks (ERROR) where a level with a deviation of at least 0.1 percentage point has an adjusted
    anytime p ≤ 0.01 or, at the planned end, an adjusted χ² p ≤ 0.001; warns at 0.05 and 0.01.

    Args:
        dimension: Name of the dimension in the message.
        ratios: From `sample_ratio_by_level`.
        at_planned_end: True at the planned end only, where the fixed test counts.

    Raises:
        EstimationError: N_TOO_SMALL where no level was tested.

    Examples:
        >>> counts = {"web": {"a": 500, "b": 500}, "ios": {"a": 700, "b": 300}}
        >>> ratios = sample_ratio_by_level(counts, {"a": 0.5, "b": 0.5})
        >>> outcome = sample_ratio_levels_outcome("platform", ratios, at_planned_end=False)
        >>> outcome.passed, outcome.severity, outcome.message.split(",")[0]
        (False, 'ERROR', 'platform ios: 1000 units')
    """
    if not ratios.tested:
        detail = f"no level expects {MIN_EXPECTED} units in each arm"
        raise EstimationError("N_TOO_SMALL", f"sample ratio by {dimension}", detail)
    tests = [(_anytime, BLOCK_ANYTIME_P, WARN_ANYTIME_P)]
    if at_planned_end:
        tests.insert(0, (_fixed, BLOCK_P, WARN_P))
    large = [ratio for ratio in ratios.tested if ratio.deviation >= MIN_DEVIATION]
    for p_of, block, _ in tests:
        worst = min(large, key=p_of, default=None)
        if worst is not None and p_of(worst) <= block:
            return _outcome(dimension, ratios, worst, p_of(worst), block, severity="ERROR")
    for p_of, _, warn in tests:
        worst = min(ratios.tested, key=p_of)
        if p_of(worst) <= warn:
            return _outcome(dimension, ratios, worst, p_of(worst), warn)
    p_of, _, warn = tests[0]
    worst = min(ratios.tested, key=p_of)
    return _outcome(dimension, ratios, worst, p_of(worst), warn, passed=True)


def mismatch_onset(daily_counts: ArrayLike, shares: ArrayLike) -> Onset:
    """Return the day from which the sample ratio most likely departs from the configured one.

    It dates a mismatch that a test has found; it is not a test. A day without units is never the
    onset.

    Args:
        daily_counts: Units first exposed by day and arm, shape (days, arms).
        shares: Configured share per arm, above 0, summing to 1, shape (arms,).

    Raises:
        EstimationError: EMPTY_ARM where there are no units at all.
        ValueError: Shapes that do not fit, counts that are negative or not finite, or shares that
            are not above 0 or do not sum to 1.

    References:
        Hinkley 1970, Biometrika 57.

    Examples:
        >>> mismatch_onset([[100, 100], [101, 99], [60, 140], [55, 145]], [0.5, 0.5]).day
        2
    """
    counts = np.asarray(daily_counts, dtype=np.float64)
    theta = np.asarray(shares, dtype=np.float64)
    if counts.ndim != 2 or theta.shape != counts.shape[1:]:  # noqa: PLR2004
        msg = f"counts {counts.shape}, shares {theta.shape}: need (days, arms) and (arms,)"
        raise ValueError(msg)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        msg = "daily counts must be finite and not negative"
        raise ValueError(msg)
    _check_shares(theta.tolist())
    if counts.sum() == 0:
        raise EstimationError("EMPTY_ARM", "onset of a mismatch", "no units in any arm")
    later = np.cumsum(counts[::-1], axis=0)[::-1]
    n = np.maximum(later.sum(axis=1, keepdims=True), 1.0)
    ratio = xlogy(later, later / n / theta).sum(axis=1)
    ratio[counts.sum(axis=1) == 0] = -np.inf
    day = int(np.argmax(ratio))
    return Onset(
        day=day,
        log_likelihood_ratio=max(0.0, float(ratio[day])),
        shares=tuple((later[day] / later[day].sum()).tolist()),
    )


def _anytime(ratio: LevelRatio) -> float:
    return ratio.anytime_p_value


def _fixed(ratio: LevelRatio) -> float:
    return ratio.fixed_p_value


def _outcome(
    dimension: str,
    ratios: LevelRatios,
    worst: LevelRatio,
    p: float,
    threshold: float,
    *,
    severity: Severity = "WARN",
    passed: bool = False,
) -> CheckOutcome:
    message = (
        f"{dimension} {worst.level}: {worst.n} units, {100 * worst.deviation:.2f} percentage "
        f"points off, adjusted p = {p:.3g}; {len(ratios.tested)} levels tested"
    )
    if ratios.untested:
        message += f", {len(ratios.untested)} too small"
    return CheckOutcome(
        name="sample_ratio_by_level",
        passed=passed,
        severity=severity,
        value=p,
        threshold=threshold,
        message=message,
    )


def _check_levels(
    counts: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], total: int
) -> None:
    _check_shares(list(shares.values()))
    if total < len(counts):
        msg = f"n_levels is {total}, need at least the {len(counts)} levels given"
        raise ValueError(msg)
    if total > MAX_LEVELS:
        detail = f"{total} levels, at most {MAX_LEVELS}. Hint: group the rare ones"
        raise EstimationError("NOT_IDENTIFIED", "sample ratio by level", detail)
    unknown = {arm for by_arm in counts.values() for arm, n in by_arm.items() if n} - set(shares)
    if unknown:
        msg = f"units in arms without a share: {', '.join(sorted(unknown))}"
        raise ValueError(msg)


def _check_shares(shares: Sequence[float]) -> None:
    if len(shares) < 2 or not min(shares) > 0 or not abs(sum(shares) - 1) <= SHARE_SUM:  # noqa: PLR2004
        msg = f"shares {shares} must be two or more above 0 and sum to 1"
        raise ValueError(msg)
