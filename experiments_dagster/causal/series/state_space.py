"""One scalar Kalman filter for all noise settings at once.

    y_t = z_t'β + α_t + s √r ε_t,   α_{t+1} = φ α_t + s √q η_t,   α_1 ~ N(0, s² p1)

    local level  φ = 1, q = K², r = 1 - K, p1 = 0  (z holds an intercept, the first level);
                 K is the steady gain and s² the steady one-step prediction variance
    AR(1)        q = 1, r = 0, p1 = 1 / (1 - φ²); s² is the innovation variance

Given (φ, q, r) the filter is linear in the data, so y and every column of z pass through it
together, and β and s² need no iteration. The loop runs over time, numpy over settings and
columns. Priors and posteriors do not belong here.

References:
    Harvey 1989, section 3.4; Durbin & Koopman 2012, sections 2.2 and 6.2 (regression).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.records import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGrid:
    """Settings of the noise process, one entry each; variances in units of s²."""

    carry: FloatArray
    level_var: FloatArray
    noise_var: FloatArray
    start_var: FloatArray
    is_local_level: NDArray[np.bool_]
    log_prior: FloatArray

    def __len__(self) -> int:
        return len(self.carry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """One-step predictions of all columns, and the state after the last step.

    Args:
        predicted: Prediction of each column from its past, shape (steps, settings, columns).
        variance: Prediction variance in units of s², shape (steps, settings).
        state: Predicted state of each column for the next step, shape (settings, columns).
        state_var: Its variance in units of s², shape (settings,).
    """

    predicted: FloatArray
    variance: FloatArray
    state: FloatArray
    state_var: FloatArray


def filter_columns(
    columns: FloatArray, is_observed: NDArray[np.bool_], grid: NoiseGrid
) -> Filtered:
    """Run the filter over (steps, columns); unobserved steps only predict."""
    n_steps, n_columns = columns.shape
    carry, carry_column = grid.carry, grid.carry[:, None]
    state = np.zeros((len(grid), n_columns))
    state_var = grid.start_var
    predicted = np.empty((n_steps, len(grid), n_columns))
    variance = np.empty((n_steps, len(grid)))
    for t in range(n_steps):
        predicted[t] = state
        variance[t] = state_var + grid.noise_var
        if is_observed[t]:
            gain = state_var / variance[t]
            state = state + gain[:, None] * (columns[t] - state)
            state_var = state_var * (1 - gain)
        state = carry_column * state
        state_var = carry**2 * state_var + grid.level_var
    return Filtered(predicted=predicted, variance=variance, state=state, state_var=state_var)


def simulate_noise(
    n_steps: int, start: FloatArray, scale: FloatArray, grid: NoiseGrid, rng: np.random.Generator
) -> FloatArray:
    """Draw noise paths α_t + s √r ε_t forward, shape (paths, n_steps).

    Args:
        n_steps: Length of each path.
        start: Drawn state at the first step, one for each path.
        scale: Drawn s, one for each path.
        grid: Settings of the noise, one entry for each path.
        rng: Source of randomness.
    """
    shocks = rng.standard_normal((n_steps, len(start))) * (scale * np.sqrt(grid.level_var))
    paths = rng.standard_normal((n_steps, len(start))) * (scale * np.sqrt(grid.noise_var))
    state = start
    for t in range(n_steps):
        paths[t] += state
        state = grid.carry * state + shocks[t]
    return paths.T
