"""`--method did`: the change of the outcome minus the change of one control, scaled to it.

The control is the mean of the columns, each standardised before the intervention. With a, b by
least squares of y on the control before the intervention,

    expected_t = a + b c_t
    effect     = (mean y after - mean y before) - b (mean c after - mean c before)

so b = 1 and a raw column is the difference-in-differences of one treated and one control series.
A scale, not a constant 1, because series in other units do not move one for one.

The error of the prediction, u_t - â(u) - b̂(u) c_t, is drawn with u an AR(1) whose coefficient
and scale come from their posterior given the pre period: serial correlation, the short pre
period and the estimation of a and b are all in the interval. Valid when y - b c is stationary
before and would have stayed so; a gap that wanders shows as |ACF| > 0.6.

References:
    Bertrand, Duflo & Mullainathan 2004 (serial correlation in differences-in-differences);
    Harvey 1989, section 3.4 (likelihood of AR(1) regression errors).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments_dagster.causal.series.diagnostics import autocorrelations
from experiments_dagster.causal.series.series_effect import PreFit, SeriesEffect, effect_of_errors
from experiments_dagster.causal.series.state_space import (
    NoiseGrid,
    filter_columns,
    simulate_noise,
)
from experiments_dagster.stats.errors import EstimationError

Vector = NDArray[np.float64]
FEWEST_POINTS = 10
ROUNDING = 1e-12
INTERVAL = "AR(1) errors, coefficient and scale from their posterior"


def estimate_scaled_control(
    observed: Vector,
    controls: Vector,
    n_pre: int,
    *,
    min_pre_points: int,
    n_draws: int,
    seed: int,
    alpha: float,
) -> SeriesEffect:
    """Estimate the effect against a scaled control.

    Args:
        observed: Outcome, shape (n,); NaN is missing, allowed before the intervention only.
        controls: Shape (n, p), none missing; constant columns are left out.
        n_pre: Periods before the intervention.
        min_pre_points: Fewest observed periods before it.
        n_draws: Drawn errors.
        seed: Of the draws.
        alpha: 1 - confidence level.

    Raises:
        EstimationError: N_TOO_SMALL, or ZERO_VARIANCE of the outcome or of every control.
    """
    design, kept = control_design(controls, n_pre)
    seen = np.isfinite(observed[:n_pre])
    coefficients = fit_line(observed[:n_pre], design[:n_pre], min_pre_points)
    expected = design @ coefficients
    residual = (observed[:n_pre] - expected[:n_pre])[seen]
    phi, errors = draw_errors(observed[:n_pre], design, n_draws, np.random.default_rng(seed))
    return effect_of_errors(
        observed,
        expected,
        errors,
        n_pre,
        method="did",
        interval=INTERVAL,
        fit=pre_fit(observed[:n_pre][seen], residual, n_coefficients=2),
        alpha=alpha,
        extra={
            "control_scale": float(coefficients[1]),
            "n_controls": int(kept.sum()),
            "ar1_coefficient": phi,
        },
        warnings=tuple(
            f"control {k} does not vary before the intervention: left out"
            for k in np.flatnonzero(~kept)
        ),
    )


def scaled_control_average(
    observed: Vector, controls: Vector, n_pre: int, n_post: int, min_pre_points: int
) -> float:
    """The average effect alone over `n_post` periods: what placebos repeat."""
    stop = n_pre + n_post
    design, _ = control_design(controls[:stop], n_pre)
    coefficients = fit_line(observed[:n_pre], design[:n_pre], min_pre_points)
    return float((observed[n_pre:stop] - design[n_pre:] @ coefficients).mean())


def control_design(controls: Vector, n_pre: int) -> tuple[Vector, NDArray[np.bool_]]:
    """The columns 1 and control, shape (n, 2), and which controls vary before."""
    before = controls[:n_pre]
    kept = np.ptp(before, axis=0) > ROUNDING * np.abs(before).max(axis=0)
    if not kept.any():
        raise EstimationError("ZERO_VARIANCE", "controls", "none varies before the intervention")
    centre, spreads = before[:, kept].mean(axis=0), before[:, kept].std(axis=0, ddof=1)
    control = np.mean((controls[:, kept] - centre) / spreads, axis=1)
    spread = float(control[:n_pre].std(ddof=1))
    if spread <= ROUNDING:
        detail = "they cancel each other; hint: name one of them"
        raise EstimationError("ZERO_VARIANCE", "mean of the standardised controls", detail)
    return np.column_stack([np.ones(len(control)), control / spread]), kept


def fit_line(observed: Vector, design: Vector, min_pre_points: int) -> Vector:
    """Least squares on the observed periods."""
    seen = np.isfinite(observed)
    needed = max(min_pre_points, FEWEST_POINTS)
    if seen.sum() < needed:
        detail = f"{int(seen.sum())} observed points, need {needed}; hint: a longer history"
        raise EstimationError("N_TOO_SMALL", "pre period", detail)
    if np.ptp(observed[seen]) <= ROUNDING * np.abs(observed[seen]).max():
        raise EstimationError("ZERO_VARIANCE", "outcome", "constant before the intervention")
    fitted = np.linalg.lstsq(design[seen], observed[seen], rcond=None)[0]
    return np.asarray(fitted, dtype=np.float64)


def pre_fit(observed: Vector, residual: Vector, *, n_coefficients: int) -> PreFit:
    """R², root mean square error and autocorrelations of a fit to the pre period."""
    total = float(((observed - observed.mean()) ** 2).sum())
    squares = float((residual**2).sum())
    return PreFit(
        r2=1 - squares / total,
        rmse=float(np.sqrt(squares / max(len(residual) - n_coefficients, 1))),
        acf=tuple(float(value) for value in autocorrelations(residual)),
    )


def draw_errors(
    observed: Vector, design: Vector, n_draws: int, rng: np.random.Generator
) -> tuple[float, Vector]:
    """Posterior mean of the AR(1) coefficient, and drawn errors of a least-squares forecast.

    Args:
        observed: Outcome before the intervention, shape (n_pre,); NaN is missing.
        design: Regressors of all periods, shape (n, k), k >= 0.
        n_draws: Number of draws.
        rng: Source of randomness.

    Returns:
        The coefficient, and errors of shape (draws, n - n_pre).
    """
    n_pre, seen = len(observed), np.isfinite(observed)
    phi, noise = _draw_noise(observed, design[:n_pre], len(design), n_draws, rng)
    errors = noise[:, n_pre:]
    if not design.shape[1]:
        return phi, errors
    # Least squares of pure noise: what estimating the coefficients adds to the error.
    refit = noise[:, :n_pre][:, seen] @ np.linalg.pinv(design[:n_pre][seen]).T
    return phi, errors - refit @ design[n_pre:].T


def _draw_noise(
    observed: Vector, design: Vector, n_steps: int, n_draws: int, rng: np.random.Generator
) -> tuple[float, Vector]:
    """Posterior mean of the AR(1) coefficient, and noise paths of shape (draws, n_steps).

    Given φ, generalised least squares leaves rss, and s² | φ ~ rss / χ²(n - k). The weight of φ
    is its likelihood with coefficients and scale integrated out (flat, 1/s²) times its prior.
    """
    grid = _ar1_grid()
    seen = np.isfinite(observed)
    spread = float(observed[seen].std(ddof=1))
    columns = np.column_stack([np.where(seen, observed, 0.0) / spread, design])
    filtered = filter_columns(columns, seen, grid)
    variance = filtered.variance[seen]
    whitened = (columns[seen, None] - filtered.predicted[seen]) / np.sqrt(variance)[..., None]
    whitened = whitened.transpose(1, 2, 0)
    products = whitened @ whitened.swapaxes(1, 2)
    rss, log_weight = products[:, 0, 0], grid.log_prior - 0.5 * np.log(variance).sum(axis=0)
    dof = int(seen.sum()) - design.shape[1]
    if design.shape[1]:
        gram, cross = products[:, 1:, 1:], products[:, 1:, 0]
        fitted = np.linalg.solve(gram, cross[..., None])[..., 0]
        rss = rss - (cross * fitted).sum(axis=1)
        log_weight = log_weight - 0.5 * np.linalg.slogdet(gram)[1]
    # A control that equals the outcome leaves rounding error, perhaps below zero.
    rss = np.maximum(rss, ROUNDING)
    log_weight = log_weight - 0.5 * dof * np.log(rss)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    cell = rng.choice(len(weight), size=n_draws, p=weight)
    scale = np.sqrt(rss[cell] / rng.chisquare(dof, n_draws)) * spread
    drawn = NoiseGrid(
        carry=grid.carry[cell],
        level_var=grid.level_var[cell],
        noise_var=grid.noise_var[cell],
        start_var=grid.start_var[cell],
        is_local_level=grid.is_local_level[cell],
        log_prior=grid.log_prior[cell],
    )
    start = scale * np.sqrt(drawn.start_var) * rng.standard_normal(n_draws)
    return float(weight @ grid.carry), simulate_noise(n_steps, start, scale, drawn, rng)


def _ar1_grid() -> NoiseGrid:
    """Coefficients from -0.6 to 0.98 with the prior of the impact model's AR(1)."""
    phi = np.linspace(-0.6, 0.98, 80)
    return NoiseGrid(
        carry=phi,
        level_var=np.ones_like(phi),
        noise_var=np.zeros_like(phi),
        start_var=1 / (1 - phi**2),
        is_local_level=np.zeros(len(phi), dtype=bool),
        log_prior=0.3 * np.log(1 - phi),
    )
