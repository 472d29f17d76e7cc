"""Regret of bandit policies on Bernoulli rewards, simulated, and its asymptotic constant.

    regret(T) = Σ_{t≤T} (μ* − μ_{a_t}),   lim E[regret]/ln T ≥ Σ_a (μ* − μ_a)/KL(μ_a, μ*)

The bound is Lai and Robbins'; Thompson sampling with a Beta(1, 1) prior attains it.

    thompson   largest of one draw from each arm's beta posterior
    ucb1       largest of x̄_a + √(2 ln t / n_a), each arm drawn once first
    uniform    any arm, each as likely

References:
    Lai & Robbins 1985; Auer, Cesa-Bianchi & Fischer 2002 (UCB1); Kaufmann, Korda & Munos 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

Policy = Literal["thompson", "ucb1", "uniform"]
Vector = NDArray[np.float64]

MIN_ARMS = 2
MIN_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """Mean regret over independent runs, with its Monte-Carlo standard error."""

    policy: Policy
    mean: float
    std_error: float
    horizon: int
    runs: int
    seed: int


def lai_robbins_constant(means: Sequence[float]) -> float:
    """Return Σ gap/KL over the arms that are not best, for Bernoulli rewards.

    Args:
        means: Success probabilities within (0, 1); not all equal.

    Raises:
        ValueError: A probability outside (0, 1), or all equal: then there is no regret.

    Examples:
        >>> round(lai_robbins_constant([0.1, 0.2]), 6)
        2.725537
    """
    p = _checked(means)
    if ((p <= 0) | (p >= 1)).any():
        msg = f"means {list(means)}: need numbers inside (0, 1)"
        raise ValueError(msg)
    best = p.max()
    worse = p[p < best]
    if not len(worse):
        msg = f"means {list(means)}: all arms are best, there is no regret"
        raise ValueError(msg)
    divergence = rel_entr(worse, best) + rel_entr(1 - worse, 1 - best)
    return float(np.sum((best - worse) / divergence))


def simulate_regret(
    means: Sequence[float], *, policy: Policy, horizon: int, runs: int = 200, seed: int
) -> Regret:
    """Simulate a policy and return its mean regret.

    Regret is counted in true means, not in rewards, which has the same expectation and less noise.

    Args:
        means: Success probability of each arm, shape (K,).
        policy: `thompson`, `ucb1` or `uniform`.
        horizon: Decisions per run.
        runs: Independent runs, at once.
        seed: Of the generator.

    Raises:
        ValueError: Fewer than two arms or runs, no decisions, a probability outside [0, 1], or an
            unknown policy.

    Examples:
        >>> found = simulate_regret([0.1, 0.2], policy="uniform", horizon=1000, seed=1)
        >>> abs(found.mean - 50) < 4 * found.std_error
        True
    """
    p = _checked(means)
    if horizon < 1 or runs < MIN_RUNS:
        msg = f"horizon {horizon}, runs {runs}: need 1 or more decisions and {MIN_RUNS} runs"
        raise ValueError(msg)
    if policy not in CHOOSERS:
        msg = f"unknown policy {policy!r}; known: {', '.join(CHOOSERS)}"
        raise ValueError(msg)
    choose = CHOOSERS[policy]
    rng = np.random.default_rng(seed)
    gaps = p.max() - p
    successes, draws = np.zeros((runs, len(p))), np.zeros((runs, len(p)))
    row = np.arange(runs)
    for decision in range(horizon):
        arm = choose(successes, draws, decision, rng)
        successes[row, arm] += rng.random(runs) < p[arm]
        draws[row, arm] += 1
    regret = draws @ gaps
    return Regret(
        policy=policy,
        mean=float(regret.mean()),
        std_error=float(regret.std(ddof=1)) / math.sqrt(runs),
        horizon=horizon,
        runs=runs,
        seed=seed,
    )


def _checked(means: Sequence[float]) -> Vector:
    p = np.asarray(means, dtype=np.float64)
    if p.ndim != 1 or len(p) < MIN_ARMS or not ((p >= 0) & (p <= 1)).all():
        msg = f"means {list(means)}: need 2 or more probabilities"
        raise ValueError(msg)
    return p


def _thompson(
    successes: Vector, draws: Vector, _decision: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    return np.asarray(np.argmax(rng.beta(1 + successes, 1 + draws - successes), axis=1))


def _ucb1(
    successes: Vector, draws: Vector, decision: int, _rng: np.random.Generator
) -> NDArray[np.intp]:
    runs, k = draws.shape
    if decision < k:
        return np.full(runs, decision)
    bound = successes / draws + np.sqrt(2 * math.log(decision) / draws)
    return np.asarray(np.argmax(bound, axis=1))


def _uniform(
    _successes: Vector, draws: Vector, _decision: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    return rng.integers(draws.shape[1], size=len(draws))


Chooser = Callable[[Vector, Vector, int, np.random.Generator], NDArray[np.intp]]
CHOOSERS: dict[str, Chooser] = {"thompson": _thompson, "ucb1": _ucb1, "uniform": _uniform}
