"""What every calculator of sample size shares: the design, the adjustments, and the solving.

Any one of effect, power and n_total is solved from the other two, in closed form where the
calculator has one, else by bracketing and Brent's method without grid or ceiling. Power counts
rejections in the direction of the effect; `strict` adds those in the wrong one. Numbers of units
stay fractional until the end. With several treatments the least powerful comparison decides.

Adjustments multiply the variance (METHODS 6.4): CUPED 1 − R², clusters 1 + (m̄(1 + cv²) − 1)·ICC, a
sequential plan its inflation factor; `buffer` multiplies the numbers of units.

References:
    Kohavi, Tang & Xu 2020, ch. 17; Donner & Klar 2000 for the design effect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from scipy.special import ndtr, ndtri

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha, upper_quantile
from experiments_dagster.stats.sequential.spending import Sides, check_sides

Quantity = Literal["effect", "power", "n_total"]

DEFAULT_BUFFER = 1.1
MIN_PER_GROUP = 2  # one unit has no variance
ROUNDING = 1e-12  # relative error of a number of units that must not cost one more
SHARE_ERROR = 1e-6
ATTAINED_ERROR = 1e-9
MOST_UNITS = 1e18


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
    """What moves the sample size away from that of a plain comparison (METHODS 6.4).

    Args:
        r_squared: Share of variance that the covariates explain, from history, in [0, 1).
        cluster_size: Mean number of units per randomised cluster, at least 1.
        cluster_size_cv: Coefficient of variation of the cluster sizes.
        icc: Intra-cluster correlation, in [0, 1].
        inflation: Inflation factor of the sequential plan, at least 1.
        trigger_rate: Share of assigned units that trigger. Effect and n are those of triggered
            units; the record also gives the population effect and the number assigned.
        buffer: Multiplier of the numbers of units; `DEFAULT_BUFFER` is customary.

    Examples:
        >>> round(Adjustments(r_squared=0.3, cluster_size=20, icc=0.05).variance_factor, 6)
        1.365
    """

    r_squared: float = 0.0
    cluster_size: float = 1.0
    cluster_size_cv: float = 0.0
    icc: float = 0.0
    inflation: float = 1.0
    trigger_rate: float = 1.0
    buffer: float = 1.0

    def __post_init__(self) -> None:
        check_field("r_squared", self.r_squared, 0 <= self.r_squared < 1, "0 <= r_squared < 1")
        check_field("cluster_size", self.cluster_size, self.cluster_size >= 1, ">= 1")
        check_field("cluster_size_cv", self.cluster_size_cv, self.cluster_size_cv >= 0, ">= 0")
        check_field("icc", self.icc, 0 <= self.icc <= 1, "0 <= icc <= 1")
        check_field("inflation", self.inflation, self.inflation >= 1, ">= 1")
        rate = self.trigger_rate
        check_field("trigger_rate", rate, 0 < rate <= 1, "0 < trigger_rate <= 1")
        check_field("buffer", self.buffer, self.buffer >= 1, ">= 1")

    @property
    def design_effect(self) -> float:
        """1 + (m̄(1 + cv²) − 1)·ICC."""
        return 1 + (self.cluster_size * (1 + self.cluster_size_cv**2) - 1) * self.icc

    @property
    def variance_factor(self) -> float:
        """What the variance of the plain comparison is multiplied by."""
        return (1 - self.r_squared) * self.design_effect * self.inflation

    @property
    def applied(self) -> tuple[tuple[str, float], ...]:
        """Names and values of the factors that differ from 1."""
        factors = (
            ("cuped", 1 - self.r_squared),
            ("design_effect", self.design_effect),
            ("sequential_inflation", self.inflation),
            ("trigger_rate", self.trigger_rate),
            ("buffer", self.buffer),
        )
        return tuple((name, factor) for name, factor in factors if factor != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerDesign:
    """The test and the split that a calculation is for.

    Args:
        alpha: Overall level.
        sides: 1 tests in the direction of the effect only.
        shares: Share of control first, then of each treatment; they sum to 1.
        split_alpha: Each of k treatments is tested at alpha/k (Bonferroni).
        strict: Count rejections in the wrong direction as power; two-sided only.
        adjustments: Factors of METHODS 6.4.
    """

    alpha: float = 0.05
    sides: Sides = 2
    shares: tuple[float, ...] = (0.5, 0.5)
    split_alpha: bool = False
    strict: bool = False
    adjustments: Adjustments = field(default_factory=Adjustments)

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_sides(self.sides)
        is_split = len(self.shares) > 1 and all(share > 0 for share in self.shares)
        if not is_split or abs(math.fsum(self.shares) - 1) > SHARE_ERROR:
            msg = f"shares is {list(self.shares)}, need two or more above 0 that sum to 1"
            raise ValueError(msg)

    @property
    def comparison_alpha(self) -> float:
        """Level of one treatment against control."""
        return self.alpha / (len(self.shares) - 1) if self.split_alpha else self.alpha

    @property
    def level(self) -> float:
        """Level of one tail of one comparison."""
        return self.comparison_alpha / self.sides

    @property
    def has_wrong_tail(self) -> bool:
        """Rejections in the wrong direction count."""
        return self.strict and self.sides == 2  # noqa: PLR2004

    def name(self, formula: str) -> str:
        """Name of the formula with its tails."""
        return f"{formula}_strict" if self.has_wrong_tail else formula


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerAnalysis:
    """Sample size, power and effect that belong together.

    Args:
        solved_for: The quantity that was computed from the other two.
        n_per_group: Units per group, control first; rounded up where n was solved for.
        n_exact: The same before rounding; whole where the formula takes whole groups only.
        n_total: Sum of `n_per_group`.
        n_total_assigned: Units to assign so that `n_total` of them trigger.
        power: Of the least powerful comparison at `n_exact`.
        effect: Absolute effect among triggered units, or Cohen's f.
        population_effect: The effect over all assigned units.
        relative_effect: `effect` over the baseline; None without a baseline.
        formula: Name of the formula, ending in `_strict` where both tails count.
        alpha: Overall level.
        comparison_alpha: Level of each comparison.
        sides: 1 or 2.
        shares: Allocation, control first.
        adjustments: Names and factors that were applied.
    """

    solved_for: Quantity
    n_per_group: tuple[int, ...]
    n_exact: tuple[float, ...]
    n_total: int
    n_total_assigned: int
    power: float
    effect: float
    population_effect: float
    relative_effect: float | None
    formula: str
    alpha: float
    comparison_alpha: float
    sides: Sides
    shares: tuple[float, ...]
    adjustments: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"power analysis: {one.name} is {value}; a result is finite or absent"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """How one comparison of a treatment with control gains power.

    Args:
        formula: Name of the formula.
        power: From effect, n_control, n_treatment.
        guess: A start for the search of the effect, with its sign, from power and the two sizes.
        total: Closed form of n_total from effect, power and the two shares; None without one.
        effect: Closed form of the effect from power and the two sizes; None without one.
        limit: What the effect stays below in absolute value, with its sign.
        is_whole: Power is that of whole groups, and raises ValueError where they are too large.
    """

    formula: str
    power: Callable[[float, float, float], float]
    guess: Callable[[float, float, float], float]
    total: Callable[[float, float, float, float], float] | None = None
    effect: Callable[[float, float, float], float] | None = None
    limit: float = math.inf
    is_whole: bool = False


def solve(
    law: PowerLaw,
    design: PowerDesign,
    *,
    effect: float | None,
    power: float | None,
    n_total: float | None,
    baseline: float | None = None,
) -> PowerAnalysis:
    """Return the quantity that is None from the other two.

    Args:
        law: How a comparison gains power.
        design: Level, shares and adjustments.
        effect: Absolute effect, not 0.
        power: Above the level of the test and below 1.
        n_total: Units in all groups, `MIN_PER_GROUP` or more in each.
        baseline: What `relative_effect` is relative to.

    Raises:
        ValueError: Not exactly one is None, or one is outside its range.
        EstimationError: NOT_IDENTIFIED where nothing reaches the power.
    """
    solved_for = _check_quantities(design, effect, power, n_total)
    buffer = design.adjustments.buffer
    if n_total is None:
        assert effect is not None
        assert power is not None
        exact = _split(buffer * _solve_total(law, design, effect, power), design)
        groups = _round_up(exact)
    else:
        exact = _split(n_total, design)
        groups = _apportion(exact)
    used = tuple(float(n) for n in groups) if law.is_whole else exact
    usable = tuple(n / buffer for n in used)
    if effect is None:
        assert power is not None
        effect = _solve_effect(law, power, usable)
    else:
        attained = _weakest(law, effect, usable)
        # Where whole or smallest groups give more than was asked for, say what they give.
        if power is None or law.is_whole or attained > power * (1 + ATTAINED_ERROR):
            power = attained
    rate = design.adjustments.trigger_rate
    return PowerAnalysis(
        solved_for=solved_for,
        n_per_group=groups,
        n_exact=used,
        n_total=sum(groups),
        n_total_assigned=_ceil(sum(groups) / rate),
        power=min(power, 1.0),
        effect=effect,
        population_effect=effect * rate,
        relative_effect=effect / baseline if baseline else None,
        formula=law.formula,
        alpha=design.alpha,
        comparison_alpha=design.comparison_alpha,
        sides=design.sides,
        shares=design.shares,
        adjustments=design.adjustments.applied,
    )


def normal_power(distance: float, null_sd: float, alternative_sd: float, d: PowerDesign) -> float:
    """Return P(Z·alternative_sd + distance > z_a·null_sd), and the wrong tail where it counts."""
    threshold = upper_quantile(d.level) * null_sd
    power = float(ndtr((distance - threshold) / alternative_sd))
    if d.has_wrong_tail:
        power += float(ndtr((-distance - threshold) / alternative_sd))
    return power


def quantile_sum(design: PowerDesign, power: float) -> float:
    """Return z_a + z_b."""
    return upper_quantile(design.level) + float(ndtri(power))


def absolute_effect(
    effect: float | None, relative_effect: float | None, baseline: float | None
) -> float | None:
    """Return the absolute effect of a calculation, None where it is to be solved for.

    Raises:
        ValueError: Both effects are given, or a relative one without a baseline other than 0.
    """
    if relative_effect is None:
        return effect
    if effect is not None:
        msg = f"effect is {effect} and relative_effect {relative_effect}, need one of them"
        raise ValueError(msg)
    if not baseline:
        msg = f"baseline is {baseline}, need a value other than 0 for a relative_effect"
        raise ValueError(msg)
    return relative_effect * baseline


def check_field(name: str, value: object, valid: bool, rule: str) -> None:  # noqa: FBT001
    """Refuse a field that breaks its rule or is not finite."""
    if not valid or (isinstance(value, float) and not math.isfinite(value)):
        shown = f"{value:g}" if isinstance(value, float) else value
        msg = f"{name} is {shown}, need {rule}"
        raise ValueError(msg)


def _check_quantities(
    design: PowerDesign, effect: float | None, power: float | None, n_total: float | None
) -> Quantity:
    given: dict[Quantity, float | None] = {"effect": effect, "power": power, "n_total": n_total}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        named = ", ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)
        msg = f"given {named or 'nothing'}; leave out exactly one of effect, power and n_total"
        raise ValueError(msg)
    if effect is not None:
        check_field("effect", float(effect), effect != 0, "a finite value other than 0")
    if power is not None:
        least = design.level * (2 if design.has_wrong_tail else 1)
        check_field("power", power, least < power < 1, f"more than {least:g} and less than 1")
    if n_total is not None:
        least = MIN_PER_GROUP * design.adjustments.buffer / min(design.shares)
        is_enough = n_total >= least * (1 - ROUNDING)
        rule = f"at least {least:g} so that every group has {MIN_PER_GROUP} units"
        check_field("n_total", float(n_total), is_enough, rule)
    return missing[0]


def _weakest(law: PowerLaw, effect: float, groups: Sequence[float]) -> float:
    """Power of the least powerful comparison."""
    return min(law.power(effect, groups[0], n) for n in set(groups[1:]))


def _solve_total(law: PowerLaw, design: PowerDesign, effect: float, power: float) -> float:
    """Units in all groups; whole laws are tried size by size, because their power is a sawtooth."""
    if law.total is not None:
        control, treatments = design.shares[0], set(design.shares[1:])
        total = max(law.total(effect, power, control, share) for share in treatments)
        if not total < MOST_UNITS:
            raise _too_many(effect)
        return total

    def shortfall(n: float) -> float:
        groups = _split(n, design)
        return _weakest(law, effect, _round_up(groups) if law.is_whole else groups) - power

    smallest = min(design.shares)
    if law.is_whole:
        sizes = (size / smallest for size in itertools.count(MIN_PER_GROUP))
        return next(n for n in sizes if shortfall(n) >= 0)
    low = MIN_PER_GROUP / smallest
    if shortfall(low) >= 0:
        return low
    high = 2 * low
    while shortfall(high) < 0:
        low, high = high, 2 * high
        if high > MOST_UNITS:
            raise _too_many(effect)
    return _root(shortfall, low, high)


def _solve_effect(law: PowerLaw, power: float, groups: Sequence[float]) -> float:
    control, treatments = groups[0], set(groups[1:])
    if law.effect is not None:
        return max((law.effect(power, control, n) for n in treatments), key=abs)

    def shortfall(effect: float) -> float:
        return _weakest(law, effect, groups) - power

    low, high = 0.0, max((law.guess(power, control, n) for n in treatments), key=abs)
    while shortfall(high) < 0:
        if abs(high) >= abs(law.limit):
            detail = f"no effect up to {law.limit:g} has power {power:g} with {sum(groups):g} units"
            raise EstimationError("NOT_IDENTIFIED", "detectable effect", detail)
        doubled = 2 * high
        low, high = high, doubled if abs(doubled) < abs(law.limit) else law.limit
    return _root(shortfall, low, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=ROUNDING * abs(high), rtol=ROUNDING))


def _too_many(effect: float) -> EstimationError:
    detail = f"effect {effect:g} needs more than {MOST_UNITS:g} units"
    return EstimationError("NOT_IDENTIFIED", "sample size", detail)


def _split(n: float, design: PowerDesign) -> tuple[float, ...]:
    return tuple(n * share for share in design.shares)


def _ceil(n: float) -> int:
    return math.ceil(n * (1 - ROUNDING))


def _round_up(exact: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(_ceil(n), MIN_PER_GROUP) for n in exact)


def _apportion(exact: Sequence[float]) -> tuple[int, ...]:
    """Whole groups of a given total: the largest remainders get the units that are left."""
    floors = [math.floor(n * (1 + ROUNDING)) for n in exact]
    left = round(math.fsum(exact)) - sum(floors)
    order = sorted(range(len(exact)), key=lambda i: floors[i] - exact[i])
    for index in order[: max(left, 0)]:
        floors[index] += 1
    return tuple(floors)
