"""The filter and the grid posterior against dense linear algebra on the full covariance."""

from dataclasses import replace

import numpy as np
import pytest

from experiments_dagster.causal.series.posterior import EVIDENCE_POWER, fit_posterior
from experiments_dagster.causal.series.priors import ridge_precision, weak_grid

N_PRE, N_POST = 40, 12
# Setting 20 is a local level, setting 100 an AR(1); ridge 2 is a middling one.
CELLS = [(20, 2), (0, 0), (38, 4), (100, 2), (39, 1), (118, 3)]


def dense_covariance(setting, n_steps):
    """Covariance of the noise in units of s², from its definition rather than by recursion."""
    grid, t = weak_grid(), np.arange(n_steps)
    if grid.is_local_level[setting]:
        shared = np.minimum(t[:, None], t) * grid.level_var[setting]
        return shared + grid.noise_var[setting] * np.eye(n_steps)
    phi = grid.carry[setting]
    return phi ** np.abs(t[:, None] - t) / (1 - phi**2)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(4)
    design = np.column_stack([np.ones(N_PRE + N_POST), rng.standard_normal((N_PRE + N_POST, 2))])
    outcome = design @ [0.1, 0.5, -0.3] + rng.standard_normal(N_PRE + N_POST).cumsum() / 3
    is_observed = np.ones(N_PRE, dtype=bool)
    is_observed[[0, 7, 8, 9, 39]] = False
    columns = np.column_stack([np.where(is_observed, outcome[:N_PRE], 1e9), design[:N_PRE]])
    posterior = fit_posterior(columns, is_observed, 0, "weak")
    return posterior, outcome[:N_PRE][is_observed], design, is_observed


def dense_cell(problem, setting, ridge):
    """Coefficients, rss, evidence, forecast mean and covariance (unit s²) of one cell."""
    _, outcome, design, is_observed = problem
    seen = np.flatnonzero(is_observed)
    full = dense_covariance(setting, N_PRE + N_POST)
    cov, cross = full[np.ix_(seen, seen)], full[N_PRE:, seen]
    inverse = np.linalg.inv(cov)
    Z, Z_post = design[seen], design[N_PRE:]
    precision = ridge_precision(3, 0, "weak")[ridge]
    system = Z.T @ inverse @ Z + np.diag(precision)
    beta = np.linalg.solve(system, Z.T @ inverse @ outcome)
    rss = outcome @ inverse @ outcome - beta @ Z.T @ inverse @ outcome
    log_evidence = 0.5 * (
        np.log(precision[1:]).sum()
        - np.linalg.slogdet(cov)[1]
        - np.linalg.slogdet(system)[1]
        - (len(seen) - 1) * np.log(rss)
    )
    mean = Z_post @ beta + cross @ inverse @ (outcome - Z @ beta)
    open_part = Z_post - cross @ inverse @ Z
    spread = full[N_PRE:, N_PRE:] - cross @ inverse @ cross.T
    spread = spread + open_part @ np.linalg.solve(system, open_part.T)
    return beta, rss, log_evidence, mean, spread


def only(posterior, setting, ridge):
    weights = np.zeros_like(posterior.weights)
    weights[setting, ridge] = 1.0
    return replace(posterior, weights=weights)


@pytest.mark.parametrize(("setting", "ridge"), CELLS)
def test_cells_equal_generalised_least_squares_with_gaps(problem, setting, ridge):
    posterior, _, design, _ = problem
    beta, rss, _, mean, _ = dense_cell(problem, setting, ridge)
    assert posterior.coefficients[setting, ridge] == pytest.approx(beta, rel=1e-7)
    assert posterior.rss[setting, ridge] == pytest.approx(rss, rel=1e-7)
    forecast = only(posterior, setting, ridge).forecast_mean(design[N_PRE:])
    assert forecast == pytest.approx(mean, rel=1e-7)


def test_weights_are_prior_times_evidence_within_a_model_and_sharpened_between(problem):
    posterior = problem[0]
    prior = weak_grid().log_prior
    (a, i), (b, j) = CELLS[0], CELLS[2]
    evidence = [prior[s] + dense_cell(problem, s, r)[2] for s, r in [(a, i), (b, j)]]
    ratio = np.log(posterior.weights[a, i] / posterior.weights[b, j])
    assert ratio == pytest.approx(evidence[0] - evidence[1], rel=1e-6)
    log_marginal = np.array([[dense_cell(problem, s, r)[2] for r in range(5)] for s in range(119)])
    joint = np.exp(log_marginal + prior[:, None] - log_marginal.max())
    is_level = weak_grid().is_local_level
    level, ar = joint[is_level].sum() ** EVIDENCE_POWER, joint[~is_level].sum() ** EVIDENCE_POWER
    assert posterior.local_level_weight == pytest.approx(level / (level + ar), rel=1e-6)


@pytest.mark.parametrize(("setting", "ridge"), CELLS)
def test_drawn_paths_have_the_exact_predictive_covariance(problem, setting, ridge):
    posterior, _, design, _ = problem
    _, rss, _, mean, spread = dense_cell(problem, setting, ridge)
    cov = spread * rss / (posterior.dof - 2)
    n_draws = 40_000
    paths = only(posterior, setting, ridge).forecast_draws(
        design[N_PRE:], n_draws, np.random.default_rng(0)
    )
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    # 5 Monte-Carlo standard errors of a mean and of a t-distributed correlation.
    assert np.abs((paths.mean(axis=0) - mean) / np.sqrt(np.diag(cov))).max() < 5 / np.sqrt(n_draws)
    assert np.abs((np.cov(paths.T) - cov) / scale).max() < 10 / np.sqrt(n_draws)


def test_one_step_predictions_equal_conditional_means(problem):
    posterior, outcome, design, is_observed = problem
    setting, ridge = CELLS[0]
    beta, rss, *_ = dense_cell(problem, setting, ridge)
    columns = np.column_stack([np.zeros(N_PRE), design[:N_PRE]])
    mean, sd = only(posterior, setting, ridge).one_step(columns)
    cov, seen = dense_covariance(setting, N_PRE), np.flatnonzero(is_observed)
    for t in (1, 8, 25, 39):
        past = seen[seen < t]
        weight = np.linalg.solve(cov[np.ix_(past, past)], cov[past, t])
        residual = outcome[: len(past)] - design[past] @ beta
        assert mean[t] == pytest.approx(design[t] @ beta + weight @ residual, rel=1e-6)
        variance = (cov[t, t] - weight @ cov[past, t]) * rss / (posterior.dof - 2)
        assert sd[t] == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_the_published_scale_posterior_is_a_distribution(problem):
    _, outcome, design, is_observed = problem
    y = np.zeros(N_PRE)
    y[is_observed] = outcome
    for columns in (design, design[:, :1]):
        data = np.column_stack([y, columns[:N_PRE]])
        posterior = fit_posterior(data, is_observed, 0, "published")
        assert posterior.weights.sum() == pytest.approx(1.0)
        assert posterior.scale_cdf[..., -1] == pytest.approx(1.0)
        assert (np.diff(posterior.scale_cdf) >= 0).all()
        assert posterior.local_level_weight == 1.0
