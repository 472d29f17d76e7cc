"""Priors of the impact model: settings of the noise, ridge, scale.

Two priors:

    weak       both noise models. K ~ Beta(1.7, 2.3); φ on (-0.6, 1) falls slowly towards 1, where
               the local level takes over; τ from 0.1 to 1000, equally likely.
    published  as the tool of Brodersen et al. 2015: local level only,
               level variance ~ inverse gamma of 32 df around (0.01 sd y)², noise variance ~ inverse
               gamma of 50 df around (1 - 0.8) var y (without covariates 0.01 df around var y),
               τ = 100 for the spike and slab. It nearly fixes the level, so its
               interval is far too short when the noise does drift or is autocorrelated.

The posterior weights do not belong here.

References:
    Brodersen et al. 2015, section 2.2; R package CausalImpact, constants of
    `impact_model.R`.
"""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.records import FloatArray, Prior
from experiments_dagster.causal.series.state_space import NoiseGrid

RIDGE_VARIANCES: dict[Prior, tuple[float, ...]] = {
    "weak": (0.1, 1.0, 10.0, 100.0, 1000.0),
    "published": (100.0,),
}
SEASON_VARIANCE = 100.0
PUBLISHED_LEVEL_SD, PUBLISHED_LEVEL_DF = 0.01, 32
PUBLISHED_NOISE_VAR, PUBLISHED_NOISE_DF = 0.2, 50
PUBLISHED_ALONE_VAR, PUBLISHED_ALONE_DF = 1.0, 0.01


def weak_grid() -> NoiseGrid:
    """Return 39 gains of a local level and 80 coefficients of AR(1), each model of prior 1/2."""
    gain = np.linspace(0.0, 1.0, 41)[1:-1] ** 2
    phi = np.linspace(-0.6, 0.98, 80)
    # The gains are dense near 0: √K is the Jacobian of the square.
    log_gain = 0.7 * np.log(gain) + 1.3 * np.log1p(-gain) + 0.5 * np.log(gain)
    log_phi = 0.3 * np.log(1 - phi)
    return NoiseGrid(
        carry=np.r_[np.ones_like(gain), phi],
        level_var=np.r_[gain**2, np.ones_like(phi)],
        noise_var=np.r_[1 - gain, np.zeros_like(phi)],
        start_var=np.r_[np.zeros_like(gain), 1 / (1 - phi**2)],
        is_local_level=np.r_[np.ones(len(gain), dtype=bool), np.zeros(len(phi), dtype=bool)],
        log_prior=np.r_[_normalise(log_gain), _normalise(log_phi)],
    )


def published_grid() -> NoiseGrid:
    """Return 80 gains of a local level, equally spaced in log K; log K is the prior's scale."""
    gain = np.geomspace(0.003, 0.95, 80)
    return NoiseGrid(
        carry=np.ones_like(gain),
        level_var=gain**2,
        noise_var=1 - gain,
        start_var=np.zeros_like(gain),
        is_local_level=np.ones(len(gain), dtype=bool),
        log_prior=np.zeros_like(gain),
    )


def weigh_published_scale(
    log_evidence: FloatArray,
    rss: FloatArray,
    dof: int,
    grid: NoiseGrid,
    *,
    has_covariates: bool,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weigh s on a grid, because the two inverse gammas are not conjugate jointly with K."""
    log_square = np.linspace(np.log(1e-4), np.log(2.0), 300)
    square = np.exp(log_square)
    gain = np.sqrt(grid.level_var)[:, None]
    noise, level = square * (1 - gain), square * gain**2
    noise_prior = (
        (PUBLISHED_NOISE_DF, PUBLISHED_NOISE_VAR)
        if has_covariates
        else (PUBLISHED_ALONE_DF, PUBLISHED_ALONE_VAR)
    )
    log_prior = (
        _log_inverse_gamma(noise, *noise_prior)
        + _log_inverse_gamma(level, PUBLISHED_LEVEL_DF, PUBLISHED_LEVEL_SD**2)
        + np.log(2 + gain / (1 - gain))  # Jacobian from (log noise, log level) to (log K, log s²)
    )
    log_joint = (
        log_evidence[..., None]
        - 0.5 * dof * log_square
        - 0.5 * rss[..., None] / square
        + log_prior[:, None]
    )
    joint = np.exp(log_joint - log_joint.max(axis=-1, keepdims=True))
    cdf = joint.cumsum(axis=-1)
    marginal = log_joint.max(axis=-1) + np.log(cdf[..., -1])
    return marginal, np.sqrt(square), cdf / cdf[..., -1:]


def _log_inverse_gamma(variance: FloatArray, dof: float, centre: float) -> FloatArray:
    return -0.5 * dof * (np.log(variance) + centre / variance)


def ridge_precision(n_design: int, n_season: int, prior: Prior) -> FloatArray:
    """Precision of each coefficient, shape (variances, n_design); the intercept has none."""
    variances = RIDGE_VARIANCES[prior]
    if n_design == 1 + n_season:
        variances = variances[:1]
    precision = np.empty((len(variances), n_design))
    precision[:] = 1 / np.array(variances)[:, None]
    precision[:, 1 : 1 + n_season] = 1 / SEASON_VARIANCE
    precision[:, 0] = 0.0
    return precision


def _normalise(log_density: FloatArray) -> FloatArray:
    return log_density - float(np.log(np.exp(log_density).sum()))
