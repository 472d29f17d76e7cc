"""Power and expected duration of the rule that decides: its looks, guardrails and arms.

A plan (METHODS 8.5) with boundaries c_k stops at look k with the probabilities of the recursion.
Under drift η, the expectation of the last score at t = 1, that is effect/SE at the planned end:

    power = Σ P_η(cross the upper boundary first at k)      E[fraction] = Σ t_k P_η(stop at k)

Futility is ignored: boundaries that do not bind cannot be counted on. A rejection in the wrong
direction stops a two-sided plan, without being power.

The rule (METHODS 6.6, 13) ships an arm at the first look where its success metric has crossed its
boundary and each of G guardrails has crossed its own one-sided boundary of non-inferiority. By the
union bound this has power ≥ 1 − Σβ_m, so each of the 1 + G tests is designed at 1 − β/(G + 1). The
joint power itself comes from simulated Brownian walks with the correlations of the metrics; arms
share their control, hence ρ_ij = √(n_i/(n_i + n_C))·√(n_j/(n_j + n_C)).

Mid-run (METHODS 6.7): conditional power runs the recursion on from the present score z√t over the
looks that are left. Power at the observed effect of a finished experiment does not belong here.

References:
    Jennison & Turnbull 2000; Lan & Wittes 1988; Schultzberg, Ankargren & Frånberg 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments_dagster.stats.design.power_solver import check_field
from experiments_dagster.stats.intervals import upper_quantile
from experiments_dagster.stats.sequential.boundaries import Boundaries
from experiments_dagster.stats.sequential.recursion import (
    Walk,
    check_fractions,
    continuation,
    crossing_probabilities,
)
from experiments_dagster.stats.sequential.spending import Sides

SIMULATIONS = 100_000  # Monte Carlo error of a power below 0.0016
HALF = 0.5

Matrix = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingLaw:
    """What a sequential plan does under one drift.

    Args:
        drift: η, the effect over the standard error at the planned end.
        power: Probability of crossing the upper boundary.
        stop_probabilities: Of ending at each look, the last one holding all that is left; sum 1.
        expected_fraction: Expected information fraction at the end.
    """

    drift: float
    power: float
    stop_probabilities: tuple[float, ...]
    expected_fraction: float

    def expected_days(self, look_days: Sequence[float]) -> float:
        """Return the expected runtime, given the day of each look."""
        return math.fsum(day * p for day, p in zip(look_days, self.stop_probabilities, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RulePower:
    """Power of the whole decision rule, simulated; arms are the treatments in order.

    Args:
        metric_power: Exact power of each test, shape (arms, 1 + G), the success metric first.
        union_bound: Lower bound of the power to ship each arm, from `metric_power`.
        ship: Probability to ship each arm.
        ship_errors: Monte Carlo standard errors of `ship`.
        ship_any: Probability to ship at least one arm.
        ship_all: Probability to ship every arm.
        ship_by_look: Probability to ship each arm by each look, shape (arms, looks).
        stop_probabilities: Of deciding the last arm at each look; sum 1.
        expected_fraction: Expected fraction at which the last arm is decided.
        simulations: Number of simulated experiments.
    """

    metric_power: tuple[tuple[float, ...], ...]
    union_bound: tuple[float, ...]
    ship: tuple[float, ...]
    ship_errors: tuple[float, ...]
    ship_any: float
    ship_all: float
    ship_by_look: tuple[tuple[float, ...], ...]
    stop_probabilities: tuple[float, ...]
    expected_fraction: float
    simulations: int

    def expected_days(self, look_days: Sequence[float]) -> float:
        """Return the expected runtime, given the day of each look."""
        return _expectation(look_days, self.stop_probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionalPower:
    """Probability to cross the boundary at a look that is left, in the planned direction.

    Args:
        current_trend: If the effect is the one estimated so far.
        planned_effect: If the effect is the planned one.
    """

    current_trend: float
    planned_effect: float


def stopping_law(plan: Boundaries, *, drift: float) -> StoppingLaw:
    """Return power, stopping probabilities and expected fraction of a plan under one drift.

    Args:
        plan: Boundaries of the looks.
        drift: η: the effect over its standard error at t = 1, positive in the desired direction.

    References:
        METHODS 8.5.

    Examples:
        >>> from experiments_dagster.stats.sequential.boundaries import solve_boundaries
        >>> law = stopping_law(solve_boundaries([0.5, 1.0], alpha=0.05), drift=3.24)
        >>> round(law.power, 4), round(law.expected_fraction, 4)
        (0.8988, 0.8745)
    """
    check_field("drift", float(drift), math.isfinite(drift), "a finite value")
    crossing = crossing_probabilities(
        plan.fractions, plan.critical_values, drift=drift, sides=plan.sides
    )
    early = [up + down for up, down in zip(crossing.upper[:-1], crossing.lower[:-1], strict=True)]
    stops = (*early, max(1 - math.fsum(early), 0.0))
    return StoppingLaw(
        drift=drift,
        power=math.fsum(crossing.upper),
        stop_probabilities=stops,
        expected_fraction=_expectation(plan.fractions, stops),
    )


def stopping_profile(plan: Boundaries, *, drift: float) -> tuple[StoppingLaw, ...]:
    """Return the law of a plan under no effect, half the effect and the effect itself.

    Args:
        plan: Boundaries of the looks.
        drift: η of the planned effect.

    Examples:
        >>> from experiments_dagster.stats.sequential.boundaries import solve_boundaries
        >>> plan = solve_boundaries([0.5, 1.0], alpha=0.05)
        >>> [round(law.power, 3) for law in stopping_profile(plan, drift=3.24)]
        [0.025, 0.365, 0.899]
    """
    return tuple(stopping_law(plan, drift=share * drift) for share in (0.0, HALF, 1.0))


def power_per_test(power: float, *, guardrails: int) -> float:
    """Return the power to design each test at so that the rule has at least this power.

    Args:
        power: 1 − β of the rule.
        guardrails: G, the guardrails that must all pass.

    References:
        METHODS 6.6, union bound on the type II error.

    Examples:
        >>> power_per_test(0.8, guardrails=3)
        0.95
    """
    check_field("power", power, 0 < power < 1, "0 < power < 1")
    check_field("guardrails", guardrails, guardrails >= 0, ">= 0")
    return 1 - (1 - power) / (guardrails + 1)


def rule_power(
    success: Boundaries,
    guardrails: Sequence[Boundaries] = (),
    *,
    drifts: ArrayLike,
    correlations: ArrayLike | None = None,
    shares: Sequence[float] = (0.5, 0.5),
    simulations: int = SIMULATIONS,
    seed: int = 0,
) -> RulePower:
    """Return the power of one success metric and G guardrails that must all pass, for k arms.

    All plans look at the same fractions. A correction for several arms is part of the boundaries.

    Args:
        success: Plan of the success metric.
        guardrails: One-sided plans of the guardrails, the upper boundary for non-inferiority.
        drifts: η of each test, shape (arms, 1 + G) or (1 + G,) for one arm, success first; for a
            guardrail (margin + effect in the good direction)/SE at the planned end.
        correlations: Of the metrics between units, shape (1 + G, 1 + G), signed so that larger is
            better; None for independent metrics.
        shares: Allocation, control first.
        simulations: Number of simulated experiments.
        seed: Of the random numbers.

    Raises:
        ValueError: Shapes, fractions or sides do not fit, or the correlations are not a
            correlation matrix.

    References:
        METHODS 6.6, 13; Schultzberg, Ankargren & Frånberg 2024.

    Examples:
        >>> from experiments_dagster.stats.sequential.boundaries import solve_boundaries
        >>> plan = solve_boundaries([1.0], alpha=0.025, sides=1)
        >>> rule = rule_power(plan, [plan], drifts=[2.8, 2.8], simulations=20_000)
        >>> round(rule.union_bound[0], 3), abs(rule.ship[0] - 0.8**2) < 4 * rule.ship_errors[0]
        (0.599, True)
    """
    plans = (success, *guardrails)
    _check_plans(plans)
    check_field("simulations", simulations, simulations > 0, "> 0")
    arm_factor = _factor(_arm_correlations(shares), "shares")
    eta = np.atleast_2d(np.asarray(drifts, dtype=np.float64))
    arms = len(shares) - 1
    if eta.shape != (arms, len(plans)) or not np.isfinite(eta).all():
        msg = f"drifts has shape {eta.shape}, need finite values of shape {(arms, len(plans))}"
        raise ValueError(msg)
    matrix = np.eye(len(plans)) if correlations is None else np.asarray(correlations, float)
    if matrix.shape != (len(plans), len(plans)):
        msg = f"correlations has shape {matrix.shape}, need {(len(plans), len(plans))}"
        raise ValueError(msg)
    shipped, ends = _simulate(
        plans, eta, arm_factor, _factor(matrix, "correlations"), simulations, seed
    )
    metric_power = [
        tuple(stopping_law(plan, drift=drift).power for plan, drift in zip(plans, row, strict=True))
        for row in eta.tolist()
    ]
    final = shipped[-1]
    stops = np.bincount(ends.max(axis=1), minlength=len(success.fractions)) / simulations
    return RulePower(
        metric_power=tuple(metric_power),
        union_bound=tuple(max(1 - math.fsum(1 - p for p in row), 0.0) for row in metric_power),
        ship=_means(final),
        ship_errors=tuple(_monte_carlo_error(hits, simulations) for hits in final.sum(axis=0)),
        ship_any=float(final.any(axis=1).mean()),
        ship_all=float(final.all(axis=1).mean()),
        ship_by_look=tuple(zip(*(_means(by_look) for by_look in shipped), strict=True)),
        stop_probabilities=tuple(stops.tolist()),
        expected_fraction=_expectation(success.fractions, stops.tolist()),
        simulations=simulations,
    )


def conditional_power(
    *,
    t: float,
    z: float,
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    planned_drift: float,
    sides: Sides = 2,
) -> ConditionalPower:
    """Return the probability of rejecting later, given the score of an experiment that goes on.

    Args:
        t: Information fraction now, above 0.
        z: Score now.
        fractions: Fractions of the looks that are left, increasing from above `t`.
        critical_values: Their boundaries; None where a look cannot stop.
        planned_drift: Planned effect over its standard error at t = 1, not 0; where it is negative,
            power is that of the lower boundary.
        sides: 1 or 2.

    Raises:
        ValueError: No looks are left, fractions do not increase, or a field is outside its range.

    References:
        METHODS 6.7; with one look left this is Φ((z√t + η(1 − t) − c)/√(1 − t)), Lan & Wittes 1988.

    Examples:
        >>> now = conditional_power(
        ...     t=0.5, z=1.0, fractions=[1.0], critical_values=[1.96], planned_drift=2.8
        ... )
        >>> round(now.current_trend, 4), round(now.planned_effect, 4)
        (0.2201, 0.5824)
    """
    check_field("z", float(z), math.isfinite(z), "a finite value")
    is_drift = math.isfinite(planned_drift) and planned_drift != 0
    check_field("planned_drift", float(planned_drift), is_drift, "a finite value other than 0")
    if not fractions or len(fractions) != len(critical_values):
        msg = f"{len(fractions)} fractions left and {len(critical_values)} critical values"
        raise ValueError(msg)
    check_fractions([t, *fractions])
    if planned_drift < 0 and sides == 1:
        msg = f"planned_drift is {planned_drift}, need > 0 for a one-sided plan"
        raise ValueError(msg)
    sign = math.copysign(1.0, planned_drift)

    def cross(drift: float) -> float:
        return _power_from(t, sign * z, fractions, critical_values, sides, sign * drift)

    return ConditionalPower(
        current_trend=cross(z / math.sqrt(t)), planned_effect=cross(planned_drift)
    )


def detectable_now(std_error: float, *, critical_value: float, power: float) -> float:
    """Return the effect that a look with this standard error detects with this power.

    Args:
        std_error: Of the effect, at the present number of units.
        critical_value: Boundary of the look; 1.96 for a fixed two-sided test at 0.05.
        power: 1 − β.

    References:
        METHODS 6.7, MDE at the current n: (c + z_b)·SE.

    Examples:
        >>> round(detectable_now(0.1, critical_value=1.959964, power=0.8), 4)
        0.2802
    """
    check_field("std_error", float(std_error), std_error > 0, "> 0")
    check_field("critical_value", float(critical_value), critical_value > 0, "> 0")
    check_field("power", power, 0 < power < 1, "0 < power < 1")
    return (critical_value + upper_quantile(1 - power)) * std_error


def _power_from(
    t: float,
    z: float,
    fractions: Sequence[float],
    critical_values: Sequence[float | None],
    sides: Sides,
    drift: float,
) -> float:
    """Probability of the upper boundary for the walk that starts afresh at z√t."""
    here, walk, crossed = z * math.sqrt(t), Walk.start(drift), []
    for index, (look, critical) in enumerate(zip(fractions, critical_values, strict=True)):
        left = look - t
        lower, upper = (
            (bound * math.sqrt(look) - here) / math.sqrt(left)
            for bound in continuation(critical, sides)
        )
        crossed.append(walk.upper_tail(left, upper))
        if index + 1 < len(fractions):
            walk = walk.advance(left, lower, upper, next_step=fractions[index + 1] - look)
    return math.fsum(crossed)


def _simulate(
    plans: Sequence[Boundaries],
    drifts: Matrix,
    arm_factor: Matrix,
    metric_factor: Matrix,
    simulations: int,
    seed: int,
) -> tuple[Flags, NDArray[np.int64]]:
    """Shipped so far, shape (looks, simulations, arms), and the look that decides each arm."""
    rng = np.random.default_rng(seed)
    shape = (simulations, *drifts.shape)
    score = np.zeros(shape)
    passed, harmed = np.zeros(shape, dtype=bool), np.zeros(shape[:2], dtype=bool)
    fractions = plans[0].fractions
    ends = np.full(shape[:2], len(fractions) - 1)
    shipped = np.zeros((len(fractions), *shape[:2]), dtype=bool)
    for look, (t, before) in enumerate(zip(fractions, (0.0, *fractions), strict=False)):
        step = t - before
        noise = arm_factor @ rng.standard_normal(shape) @ metric_factor.T
        score += drifts * step + math.sqrt(step) * noise
        upper = [continuation(plan.critical_values[look], plan.sides)[1] for plan in plans]
        lower, _ = continuation(plans[0].critical_values[look], plans[0].sides)
        z = score / math.sqrt(t)
        harmed |= ~passed[:, :, 0] & (z[:, :, 0] <= lower)
        passed |= z >= upper
        now = passed.all(axis=2) & ~harmed
        ends[(now | harmed) & (ends > look)] = look
        shipped[look] = now
    return shipped, ends


def _arm_correlations(shares: Sequence[float]) -> Matrix:
    """Correlations of the treatment effects that a shared control makes."""
    split = np.asarray(shares, dtype=np.float64)
    if len(split) < 2 or not (split > 0).all():  # noqa: PLR2004
        msg = f"shares is {list(shares)}, need two or more above 0"
        raise ValueError(msg)
    roots = np.sqrt(split[1:] / (split[1:] + split[0]))
    matrix: Matrix = np.outer(roots, roots)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _factor(matrix: Matrix, name: str) -> Matrix:
    """A square root of a correlation matrix, which may be singular."""
    is_correlation = (
        np.isfinite(matrix).all()
        and np.allclose(matrix, matrix.T)
        and np.allclose(np.diag(matrix), 1)
    )
    values, vectors = np.linalg.eigh(matrix) if is_correlation else (np.array([-1.0]), matrix)
    if values.min() < -1e-9:  # noqa: PLR2004
        msg = f"{name} is {matrix.tolist()}, need a symmetric positive matrix with diagonal 1"
        raise ValueError(msg)
    root: Matrix = vectors * np.sqrt(np.maximum(values, 0))
    return root


def _check_plans(plans: Sequence[Boundaries]) -> None:
    for index, plan in enumerate(plans):
        if plan.fractions != plans[0].fractions:
            msg = f"guardrail {index} looks at {plan.fractions}, need {plans[0].fractions}"
            raise ValueError(msg)
        if index and plan.sides != 1:
            msg = f"guardrail {index} has {plan.sides} sides, need 1"
            raise ValueError(msg)


def _expectation(values: Sequence[float], probabilities: Sequence[float]) -> float:
    return math.fsum(value * p for value, p in zip(values, probabilities, strict=True))


def _means(flags: Flags) -> tuple[float, ...]:
    return tuple(float(mean) for mean in flags.mean(axis=0))


def _monte_carlo_error(hits: float, simulations: int) -> float:
    # One hit and one miss more: no hits at all is not certainty.
    p = (float(hits) + 1) / (simulations + 2)
    return math.sqrt(p * (1 - p) / simulations)
