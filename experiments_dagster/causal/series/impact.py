"""Impact of an intervention on one series, by a structural time series fitted before it.

    y_t = intercept + season_t + x_t'β + u_t,     u_t local level or AR(1), averaged (`posterior`)

The model is fitted on t < n_pre only and draws outcome paths ỹ without intervention, each with
its own noise setting, variance, coefficients, level, state shocks and observation noise:

    effect_t = y_t - ỹ_t                 cumulative_T = Σ_{t≤T} effect_t, summed on each path
    relative = Σ y_t / Σ ỹ_t - 1         p = 2 (1 + #{paths on the other side of 0}) / (1 + draws)

Limits are order statistics of the paths, those for which p < α exactly when the interval of the
total excludes 0. Point estimates use the exact posterior mean of ỹ, free of Monte-Carlo error.

Valid when the intervention does not move the covariates, and what ties outcome to covariates
stays as it was. Seasons are fixed over time; trends without a covariate are carried by the level
only. Placebos, money and verdicts do not belong here.

References:
    Brodersen et al. 2015, equations 2.1-2.3 and section 2.4; Harvey 1989; Durbin & Koopman 2012.
"""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.diagnostics import diagnose
from experiments_dagster.causal.series.posterior import Posterior, fit_posterior
from experiments_dagster.causal.series.prepare import (
    FEWEST_POINTS,
    PreparedSeries,
    prepare_series,
)
from experiments_dagster.causal.series.records import (
    Backtest,
    EffectInterval,
    FloatArray,
    ImpactResult,
    Prior,
)
from experiments_dagster.stats.errors import EstimationError

BACKTEST_SHARE = 5


def estimate_impact(
    observed: FloatArray,
    covariates: FloatArray,
    n_pre: int,
    *,
    n_post: int | None = None,
    season: int | None = None,
    min_pre_points: int,
    n_draws: int = 2000,
    seed: int,
    alpha: float = 0.05,
    prior: Prior = "weak",
) -> ImpactResult:
    """Estimate Σ and mean over the post period of outcome minus outcome without intervention.

    Args:
        observed: Outcome, shape (n,), equally spaced in time; NaN is a missing value.
        covariates: Series the intervention does not touch, shape (n, p), p >= 0, none missing.
        n_pre: Number of steps before the intervention.
        n_post: Number of steps after it that count; all by default.
        season: Seasonal period in steps, such as 7 for days; used from 3 pre cycles on.
        min_pre_points: Fewest observed pre points, such as 30 for days and 20 for weeks.
        n_draws: Posterior paths; more than 2 / alpha.
        seed: Seed of the paths; equal inputs give equal results.
        alpha: 1 - confidence level of all intervals.
        prior: `weak` is the calibrated default. `published` repeats the assumptions of the
            published tool (a nearly fixed level), for comparison with its results.

    Raises:
        EstimationError: N_TOO_SMALL (pre or post period), NON_FINITE_INPUT (infinite outcome,
            missing covariate), ZERO_VARIANCE (constant outcome before the intervention).
        ValueError: Shapes, season, alpha or n_draws make no sense.

    Examples:
        >>> rng = np.random.default_rng(1)
        >>> x = rng.normal(size=(130, 1))
        >>> y = 50 + 2 * x[:, 0] + rng.normal(size=130)
        >>> y[100:] += 3
        >>> result = estimate_impact(y, x, 100, min_pre_points=30, seed=1)
        >>> round(result.average.estimate, 1), result.p_value < 0.05
        (2.9, True)
    """
    if not (0 < alpha < 1 and n_draws > 2 / alpha):
        msg = f"alpha {alpha} and n_draws {n_draws}; need 0 < alpha < 1 and n_draws > 2 / alpha"
        raise ValueError(msg)
    observed = np.asarray(observed, dtype=np.float64)
    covariates = np.asarray(covariates, dtype=np.float64)
    prepared = prepare_series(
        observed,
        covariates,
        n_pre,
        n_post=n_post,
        season=season,
        min_pre_points=min_pre_points,
    )
    posterior = fit_prepared(prepared, prior)
    rng = np.random.default_rng(seed)
    mean = prepared.restore(posterior.forecast_mean(prepared.design_post))
    paths = prepared.restore(posterior.forecast_draws(prepared.design_post, n_draws, rng))
    backtest = _backtest(
        observed[:n_pre],
        covariates[:n_pre],
        n_held=max(1, min(len(mean), n_pre // BACKTEST_SHARE)),
        season=season,
        n_draws=n_draws,
        rng=rng,
        alpha=alpha,
        prior=prior,
    )

    seen = np.isfinite(prepared.post)
    effect = (prepared.post - mean)[seen]
    effect_paths = prepared.post[seen] - paths[:, seen]
    cumulative_paths = effect_paths.cumsum(axis=1)
    total_draws = cumulative_paths[:, -1].copy()
    effect_low, effect_high = path_limits(effect_paths, alpha)
    cumulative_low, cumulative_high = path_limits(cumulative_paths, alpha)
    post_low, post_high = path_limits(paths, alpha)
    pre_mean, pre_low, pre_high = _fitted_pre(prepared, posterior, alpha)
    actual, expected = float(prepared.post[seen].sum()), float(mean[seen].sum())
    expected_draws = paths[:, seen].sum(axis=1)
    is_positive = expected > 0 and bool((expected_draws > 0).all())
    p_value = two_sided_p(total_draws)
    weight = posterior.local_level_weight
    return ImpactResult(
        counterfactual=np.r_[pre_mean, mean],
        counterfactual_low=np.r_[pre_low, post_low],
        counterfactual_high=np.r_[pre_high, post_high],
        effect_steps=n_pre + np.flatnonzero(seen),
        effect=effect,
        effect_low=effect_low,
        effect_high=effect_high,
        cumulative=effect.cumsum(),
        cumulative_low=cumulative_low,
        cumulative_high=cumulative_high,
        total=_interval(float(effect.sum()), total_draws, alpha),
        average=_interval(float(effect.mean()), total_draws / seen.sum(), alpha),
        relative=(
            _interval(actual / expected - 1, actual / expected_draws - 1, alpha)
            if is_positive
            else None
        ),
        relative_reason=None if is_positive else "NOT_IDENTIFIED",
        total_draws=total_draws,
        p_value=p_value,
        posterior_prob=1 - _other_side(total_draws) / (1 + n_draws),
        confidence_level=1 - alpha,
        noise_model="local_level" if weight > 1 - weight else "ar1",
        local_level_weight=weight,
        prior=prior,
        is_seasonal=prepared.n_season > 0,
        n_pre=n_pre,
        n_post=len(mean),
        n_draws=n_draws,
        dropped_covariates=prepared.dropped_covariates,
        diagnostics=diagnose(prepared, posterior, backtest),
        warnings=prepared.warnings,
    )


def fit_prepared(prepared: PreparedSeries, prior: Prior) -> Posterior:
    """Fit the model to the pre period of a prepared series."""
    return fit_posterior(prepared.columns, prepared.is_observed, prepared.n_season, prior)


def two_sided_p(total_draws: FloatArray) -> float:
    """Double the smaller tail of the draws around 0, counting the data as one more draw."""
    return min(1.0, 2 * _other_side(total_draws) / (1 + len(total_draws)))


def path_limits(draws: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Return the order statistics along axis 0 whose interval excludes 0 when p < alpha."""
    n_draws = len(draws)
    rank = int(alpha * (1 + n_draws) / 2) + 1
    # The comparison of `two_sided_p`, in the same floating-point expression.
    while 2 * rank / (1 + n_draws) >= alpha:
        rank -= 1
    ordered = np.partition(draws, (rank - 1, n_draws - rank), axis=0)
    return ordered[rank - 1], ordered[n_draws - rank]


def _other_side(total_draws: FloatArray) -> int:
    return 1 + min(int((total_draws <= 0).sum()), int((total_draws >= 0).sum()))


def _interval(estimate: float, draws: FloatArray, alpha: float) -> EffectInterval:
    low, high = path_limits(draws, alpha)
    return EffectInterval(
        estimate=estimate,
        std_error=float(draws.std(ddof=1)),
        ci_low=float(low),
        ci_high=float(high),
    )


def _fitted_pre(
    prepared: PreparedSeries, posterior: Posterior, alpha: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """One-step predictions of the pre period with normal limits, coefficients as fitted."""
    from scipy.special import ndtri

    mean, sd = posterior.one_step(prepared.columns)
    half = float(-ndtri(alpha / 2)) * sd
    return prepared.restore(mean), prepared.restore(mean - half), prepared.restore(mean + half)


def _backtest(
    observed: FloatArray,
    covariates: FloatArray,
    *,
    n_held: int,
    season: int | None,
    n_draws: int,
    rng: np.random.Generator,
    alpha: float,
    prior: Prior,
) -> Backtest | None:
    """Forecast the last pre points from those before; None where these do not allow a fit."""
    try:
        prepared = prepare_series(
            observed,
            covariates,
            len(observed) - n_held,
            n_post=None,
            season=season,
            min_pre_points=FEWEST_POINTS,
        )
    except EstimationError:
        return None
    posterior = fit_prepared(prepared, prior)
    paths = prepared.restore(posterior.forecast_draws(prepared.design_post, n_draws, rng))
    seen = np.isfinite(prepared.post)
    low, high = path_limits(paths[:, seen], alpha)
    total_low, total_high = path_limits(paths[:, seen].sum(axis=1), alpha)
    held = prepared.post[seen]
    return Backtest(
        n_points=len(held),
        coverage=float(np.mean((low <= held) & (held <= high))),
        covers_total=bool(total_low <= held.sum() <= total_high),
    )
