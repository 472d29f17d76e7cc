"""Posterior of the noise settings, coefficients and scale on a grid; forecasts from it.

Given a noise setting g and a ridge variance τ, with whitened data w = v/√F from the filter,

    β | s, g, τ ~ N(β̂, s² M⁻¹),   M = Z̃'Z̃ + diag(0, 1/τ),   β̂ = M⁻¹ Z̃'ỹ
    s² | g, τ   ~ rss / χ²(ν),    rss = ỹ'ỹ - β̂'Z̃'ỹ,   ν = n - 1        (prior 1/s²)
    log p(y | g, τ) = -½ ΣlogF - ½ log|M| + ½ Σ log(1/τ) - ½ ν log rss    (+ constant)

The last line is the one-step predictive likelihood with β and s² integrated out, so its
exponential weighs settings, and summed over a model's settings, models. Nothing is iterated
and no parameter is plugged in.

The two noise models are averaged by their evidence to the power 3, between Bayes and choosing the
likelier model. Measured on 1,500 series each, 100 + 30 points, unit noise; width in units of the
true model's interval, coverage with a level that drifts by .1 or .3 noise sd a step:

    power              1      2      3      choice
    width, white       1.45   1.25   1.19   1.14
    width, AR(.7)      1.38   1.26   1.23   1.21
    coverage, .3       .949   .945   .945   .939
    coverage, .1       .918   .890   .874   .840

So slow a drift is hardly told from none in 100 points: where the interval is to stay short without
a drift, it covers less with one. A pure random walk, taken for an AR(1) near 1, covers .87. The
priors stand in `priors`.

References:
    Brodersen et al. 2015, section 2; Durbin & Koopman 2012, section 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.priors import (
    published_grid,
    ridge_precision,
    weak_grid,
    weigh_published_scale,
)
from experiments_dagster.causal.series.records import FloatArray, Prior
from experiments_dagster.causal.series.state_space import (
    Filtered,
    NoiseGrid,
    filter_columns,
    simulate_noise,
)

EVIDENCE_POWER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Cells (noise setting, ridge variance) with weights, and each cell's conjugate posterior.

    `scale_nodes` and `scale_cdf` replace the χ² posterior of s² where the prior is not conjugate.
    """

    grid: NoiseGrid
    filtered: Filtered
    weights: FloatArray
    coefficients: FloatArray
    cholesky: FloatArray
    rss: FloatArray
    dof: int
    scale_nodes: FloatArray | None = None
    scale_cdf: FloatArray | None = None

    @property
    def local_level_weight(self) -> float:
        """Posterior weight of the local level against AR(1)."""
        return float(self.weights[self.grid.is_local_level].sum())

    @property
    def _mean_scale_squared(self) -> FloatArray:
        if self.scale_nodes is None or self.scale_cdf is None:
            return self.rss / (self.dof - 2)
        mean: FloatArray = np.diff(self.scale_cdf, prepend=0.0, axis=-1) @ self.scale_nodes**2
        return mean

    def one_step(self, outcome_columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """One-step prediction of the fitted period and its sd, averaged over the settings."""
        predicted = self.filtered.predicted
        weight = self.weights.sum(axis=1)
        beta = (self.weights[..., None] * self.coefficients).sum(axis=1)
        rest = outcome_columns[:, None, 1:] - predicted[..., 1:]
        mean = predicted[..., 0] @ weight + np.einsum("tgi,gi->t", rest, beta)
        scale = (self.weights * self._mean_scale_squared).sum(axis=1)
        return mean, np.sqrt(self.filtered.variance @ scale)

    def forecast_mean(self, design: FloatArray) -> FloatArray:
        """Exact posterior mean of the outcome for the next steps, one row of z each."""
        state = self.filtered.state[:, None, 0] - np.einsum(
            "gi,gti->gt", self.filtered.state[:, 1:], self.coefficients
        )
        decay = self.grid.carry[:, None] ** np.arange(len(design))
        beta = np.einsum("gt,gti->i", self.weights, self.coefficients)
        mean: FloatArray = design @ beta + (self.weights * state).sum(axis=1) @ decay
        return mean

    def forecast_draws(
        self, design: FloatArray, n_draws: int, rng: np.random.Generator
    ) -> FloatArray:
        """Draw outcome paths for the next steps, shape (n_draws, steps).

        Each path has its own noise setting, scale, coefficients, state, and future shocks.
        """
        # Systematic sampling: one uniform, equally spaced positions in the cumulated weights.
        where = (np.arange(n_draws) + rng.random()) / n_draws * self.weights.sum()
        cell = np.minimum(np.searchsorted(self.weights.cumsum(), where), self.weights.size - 1)
        setting, ridge = np.divmod(cell, self.weights.shape[1])
        scale = self._draw_scale(setting, ridge, rng)
        spread = rng.standard_normal((n_draws, design.shape[1]))
        for drawn_cell in np.unique(cell):  # one factorisation for all paths of a cell
            root = self.cholesky[np.divmod(drawn_cell, self.weights.shape[1])]
            is_here = cell == drawn_cell
            spread[is_here] = np.linalg.solve(root.T, spread[is_here].T).T
        beta = self.coefficients[setting, ridge] + scale[:, None] * spread
        state = self.filtered.state[setting]
        start = state[:, 0] - (state[:, 1:] * beta).sum(axis=1)
        start += scale * np.sqrt(self.filtered.state_var[setting]) * rng.standard_normal(n_draws)
        drawn = _take(self.grid, setting)
        return beta @ design.T + simulate_noise(len(design), start, scale, drawn, rng)

    def _draw_scale(
        self, setting: NDArray[np.intp], ridge: NDArray[np.intp], rng: np.random.Generator
    ) -> FloatArray:
        if self.scale_nodes is None or self.scale_cdf is None:
            chi_squared = rng.chisquare(self.dof, len(setting))
            return np.sqrt(self.rss[setting, ridge] / chi_squared)
        position = rng.random(len(setting))[:, None]
        node = (self.scale_cdf[setting, ridge] < position).sum(axis=1)
        drawn: FloatArray = self.scale_nodes[np.minimum(node, len(self.scale_nodes) - 1)]
        return drawn


def fit_posterior(
    outcome_columns: FloatArray, is_observed: NDArray[np.bool_], n_season: int, prior: Prior
) -> Posterior:
    """Weigh all noise settings on the pre period.

    Args:
        outcome_columns: Columns y, 1, seasonal terms, covariates, standardised; shape
            (n_pre, 2 + n_season + p). The outcome may be anything where it is not observed.
        is_observed: Where the outcome is observed.
        n_season: Number of seasonal columns; they carry a fixed weak ridge.
        prior: `weak` or `published`, see the module.
    """
    grid = weak_grid() if prior == "weak" else published_grid()
    filtered = filter_columns(outcome_columns, is_observed, grid)
    variance = filtered.variance[is_observed]
    innovations = outcome_columns[is_observed, None] - filtered.predicted[is_observed]
    whitened = (innovations / np.sqrt(variance)[..., None]).transpose(1, 2, 0)
    products = whitened @ whitened.swapaxes(1, 2)
    total, cross, gram = products[:, 0, 0], products[:, 1:, 0], products[:, 1:, 1:]

    precision = ridge_precision(gram.shape[-1], n_season, prior)
    system = gram[:, None] + precision[:, :, None] * np.eye(gram.shape[-1])
    right = np.broadcast_to(cross[:, None, :, None], (*system.shape[:-1], 1))
    coefficients = np.asarray(np.linalg.solve(system, right)[..., 0], dtype=np.float64)
    cholesky = np.asarray(np.linalg.cholesky(system), dtype=np.float64)
    fitted = (cross[:, None] * coefficients).sum(axis=-1)
    # A covariate that equals the outcome leaves rounding error, perhaps below zero.
    rss = np.maximum(total[:, None] - fitted, 1e-12 * total[:, None])
    dof = int(is_observed.sum()) - 1
    log_evidence = (
        grid.log_prior[:, None]
        - 0.5 * np.log(variance).sum(axis=0)[:, None]
        - np.log(np.diagonal(cholesky, axis1=-2, axis2=-1)).sum(axis=-1)
        + 0.5 * np.log(precision[:, 1:]).sum(axis=-1)
    )
    marginal = log_evidence - 0.5 * dof * np.log(rss)
    nodes = cdf = None
    if prior == "published":
        marginal, nodes, cdf = weigh_published_scale(
            log_evidence, rss, dof, grid, has_covariates=gram.shape[-1] > 1 + n_season
        )
    return Posterior(
        grid=grid,
        filtered=filtered,
        weights=_sharpen(marginal, grid.is_local_level),
        coefficients=coefficients,
        cholesky=cholesky,
        rss=rss,
        dof=dof,
        scale_nodes=nodes,
        scale_cdf=cdf,
    )


def _sharpen(log_marginal: FloatArray, is_local_level: NDArray[np.bool_]) -> FloatArray:
    """Weigh cells by evidence within a model and the models by evidence to a power."""
    weights = np.exp(log_marginal - log_marginal.max())
    weights /= weights.sum()
    for model in (is_local_level, ~is_local_level):
        weights[model] *= weights[model].sum() ** (EVIDENCE_POWER - 1)
    normalised: FloatArray = weights / weights.sum()
    return normalised


def _take(grid: NoiseGrid, index: NDArray[np.intp]) -> NoiseGrid:
    return NoiseGrid(
        carry=grid.carry[index],
        level_var=grid.level_var[index],
        noise_var=grid.noise_var[index],
        start_var=grid.start_var[index],
        is_local_level=grid.is_local_level[index],
        log_prior=grid.log_prior[index],
    )
