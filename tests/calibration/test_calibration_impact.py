"""Impact of an intervention on series without an effect, and its placebos (METHODS 14.10).

Three kinds of noise with unit innovations around a constant: independent, AR(.7), and white noise
on a level whose variance grows by 0.1 a step. 100 points before, 30 after. A total's p is below
.05 exactly when its interval excludes 0, so the band of the size is the band of the coverage.

The true model knows its variances and its autocorrelation; only the mean is estimated. Each wrong
analysis of the same series must leave the band or be too wide. `make calibrate` holds placebos to
the band of 500 series, a shorter run to that of 150.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from experiments_dagster.causal.series import posterior as posterior_module
from experiments_dagster.causal.series.impact import (
    estimate_impact,
    fit_prepared,
    path_limits,
    two_sided_p,
)
from experiments_dagster.causal.series.placebo import placebo_in_time
from experiments_dagster.causal.series.prepare import prepare_series
from experiments_dagster.stats.calibration import calibrate, rejection_band, rejection_ceiling

pytestmark = pytest.mark.slow

N_SERIES = 1000
N_WRONG = 300  # what is wrong shows sooner
N_PRE, N_POST = 100, 30
WIDEST = 1.3
NOISES = {"independent": (0.0, 0.0), "AR(.7)": (0.7, 0.0), "local level": (0.0, 0.1)}
AUTOCORRELATED = ["AR(.7)", "local level"]
# 20 placebos of 10 steps that share no step.
PLACEBO = {"n_pre": 250, "min_pre_points": 40}
PLACEBO_POST = 10


def make_noise(kind, n_steps, rng):
    phi, level_var = NOISES[kind]
    noise = rng.standard_normal(n_steps)
    noise[0] /= np.sqrt(1 - phi**2)
    for t in range(1, n_steps):
        noise[t] += phi * noise[t - 1]
    return noise + np.cumsum(np.sqrt(level_var) * rng.standard_normal(n_steps))


def null_series(kind, seed, n_steps=N_PRE + N_POST):
    return 50 + make_noise(kind, n_steps, np.random.default_rng([seed, 11]))


def alone(observed):
    return np.empty((len(observed), 0))


@cache
def true_model(kind):
    """Weights of the pre points in the predicted post total, and the width of its 95 % interval."""
    phi, level_var = NOISES[kind]
    t = np.arange(N_PRE + N_POST)
    cov = phi ** np.abs(t[:, None] - t) / (1 - phi**2) + level_var * np.minimum(t[:, None], t)
    inverse, cross = np.linalg.inv(cov[:N_PRE, :N_PRE]), cov[N_PRE:, :N_PRE].sum(axis=0)
    of_known_mean, of_mean = inverse @ cross, inverse.sum(axis=1) / inverse.sum()
    share_of_mean = N_POST - of_known_mean.sum()
    variance = cov[N_PRE:, N_PRE:].sum() - cross @ of_known_mean
    variance += share_of_mean**2 / inverse.sum()
    return of_known_mean + share_of_mean * of_mean, 2 * 1.96 * np.sqrt(variance)


@dataclass(frozen=True)
class Run:
    p_value: float
    width: float
    summed_limits: tuple[float, float]


@cache
def runs(kind):
    """What production says about each series; the wrong analyses read the same ones."""
    found = []
    for seed in range(N_SERIES):
        observed = null_series(kind, seed)
        result = estimate_impact(
            observed, alone(observed), N_PRE, min_pre_points=30, n_draws=1000, seed=seed
        )
        assert (result.p_value >= 0.05) == (result.total.ci_low <= 0 <= result.total.ci_high)
        summed = float(result.effect_low.sum()), float(result.effect_high.sum())
        width = result.total.ci_high - result.total.ci_low
        found.append(Run(p_value=result.p_value, width=width, summed_limits=summed))
    return found


@pytest.fixture
def judge(show):
    """Show a size with its width, and say whether the band and the width are kept."""

    def run(name, kind, p_values, widths, *, is_wrong=False):
        ratio = float(np.mean(widths)) / true_model(kind)[1]
        size = calibrate(f"{name}, {kind}, width {ratio:.2f}", p_values)
        is_kept = size.is_calibrated and ratio <= WIDEST
        if is_wrong:
            show(size, units="100+30", verdict="MISSED" if is_kept else "outside, as it must be")
        else:
            show(size, units="100+30")
        return size, ratio

    return run


@pytest.mark.parametrize("kind", NOISES)
def test_the_interval_of_the_total_covers_and_is_hardly_wider_than_the_true_model_s(judge, kind):
    p_values, widths = zip(*((run.p_value, run.width) for run in runs(kind)), strict=True)
    size, ratio = judge("impact", kind, p_values, widths)
    assert size.is_calibrated, size
    assert ratio <= WIDEST, ratio


@pytest.mark.parametrize("kind", NOISES)
def test_the_true_model_keeps_its_own_band(judge, kind):
    """The width the others are held against is that of an interval that covers."""
    weights, width = true_model(kind)
    p_values = []
    for seed in range(N_SERIES):
        observed = null_series(kind, seed)
        error = observed[N_PRE:].sum() - weights @ observed[:N_PRE]
        p_values.append(float(abs(error) <= width / 2))
    size, _ = judge("true model", kind, p_values, [width])
    assert size.is_calibrated, size


def forecast_totals(kind, seed, *, models=("local level", "AR(1)"), prior="weak"):
    """Observed total minus drawn totals, from the fitted posterior with some models left out."""
    observed = null_series(kind, seed)
    prepared = prepare_series(
        observed, alone(observed), N_PRE, n_post=None, season=None, min_pre_points=30
    )
    posterior = fit_prepared(prepared, prior)
    is_level = posterior.grid.is_local_level
    is_kept = is_level & ("local level" in models) | ~is_level & ("AR(1)" in models)
    posterior = replace(posterior, weights=posterior.weights * is_kept[:, None])
    rng = np.random.default_rng(seed)
    paths = prepared.restore(posterior.forecast_draws(prepared.design_post, 1000, rng))
    return observed[N_PRE:].sum() - paths.sum(axis=1)


def p_and_widths(draws_of_series):
    p_values, widths = [], []
    for draws in draws_of_series:
        low, high = path_limits(draws, 0.05)
        p_values.append(two_sided_p(draws))
        widths.append(float(high - low))
    return p_values, widths


def test_a_local_level_alone_is_far_too_wide_under_autocorrelation(judge):
    kind = "AR(.7)"
    draws = (forecast_totals(kind, seed, models=("local level",)) for seed in range(N_WRONG))
    size, ratio = judge("local level alone", kind, *p_and_widths(draws), is_wrong=True)
    assert size.rate < size.low
    assert ratio > 3


def test_autocorrelation_alone_is_too_short_under_a_drifting_level(judge):
    kind = "local level"
    draws = (forecast_totals(kind, seed, models=("AR(1)",)) for seed in range(N_WRONG))
    size, _ = judge("AR(1) alone", kind, *p_and_widths(draws), is_wrong=True)
    assert size.rate > 0.3


@pytest.mark.parametrize("kind", ["independent", "AR(.7)"])
def test_models_weighed_by_plain_evidence_are_too_wide(judge, monkeypatch, kind):
    monkeypatch.setattr(posterior_module, "EVIDENCE_POWER", 1.0)
    draws = (forecast_totals(kind, seed) for seed in range(N_WRONG))
    _, ratio = judge("plain evidence", kind, *p_and_widths(draws), is_wrong=True)
    assert ratio > WIDEST


@pytest.mark.parametrize("kind", AUTOCORRELATED)
def test_the_published_prior_covers_too_little(judge, kind):
    """Why it is not the default."""
    draws = (forecast_totals(kind, seed, prior="published") for seed in range(N_WRONG))
    size, _ = judge("published prior", kind, *p_and_widths(draws), is_wrong=True)
    assert size.rate > size.high


@pytest.mark.parametrize("kind", AUTOCORRELATED)
def test_a_bootstrap_of_residuals_within_the_sample_covers_too_little(judge, kind):
    def totals(seed):
        observed, rng = null_series(kind, seed), np.random.default_rng(seed)
        pre = observed[:N_PRE]
        residual = pre - pre.mean()
        drawn = residual[rng.integers(N_PRE, size=(1000, N_POST))].sum(axis=1)
        return (observed[N_PRE:] - pre.mean()).sum() - drawn

    size, _ = judge(
        "residual bootstrap", kind, *p_and_widths(map(totals, range(N_WRONG))), is_wrong=True
    )
    assert size.rate > size.high


def test_parameters_plugged_in_cover_too_little(judge):
    """Mean, autocorrelation and variance as if they were known, under the right model."""
    kind = "AR(.7)"
    lags = np.arange(1, N_POST + 1)

    def p_and_width(seed):
        observed = null_series(kind, seed)
        centred = observed[:N_PRE] - observed[:N_PRE].mean()
        phi = centred[1:] @ centred[:-1] / (centred[:-1] @ centred[:-1])
        sd = (centred[1:] - phi * centred[:-1]).std(ddof=2)
        total_sd = sd * np.sqrt(np.sum(((1 - phi**lags) / (1 - phi)) ** 2))
        error = (observed[N_PRE:] - observed[:N_PRE].mean()).sum()
        error -= centred[-1] * np.sum(phi**lags)
        return float(abs(error) <= 1.96 * total_sd), 2 * 1.96 * total_sd

    found = [p_and_width(seed) for seed in range(N_WRONG)]
    size, _ = judge("plug-in AR(1)", kind, *zip(*found, strict=True), is_wrong=True)
    assert size.rate > size.high


@pytest.mark.parametrize("kind", NOISES)
def test_pointwise_limits_added_up_are_too_wide(judge, kind):
    limits = [run.summed_limits for run in runs(kind)]
    p_values = [float(low <= 0 <= high) for low, high in limits]
    size, ratio = judge(
        "summed limits", kind, p_values, [high - low for low, high in limits], is_wrong=True
    )
    assert size.rate < size.low
    assert ratio > WIDEST


def test_p_of_a_series_with_covariates_is_never_liberal():
    p_values = []
    for seed in range(400):
        rng = np.random.default_rng([seed, 17])
        covariates = np.column_stack([make_noise("AR(.7)", N_PRE + N_POST, rng) for _ in range(2)])
        observed = covariates.sum(axis=1) + make_noise("independent", N_PRE + N_POST, rng)
        result = estimate_impact(
            observed, covariates, N_PRE, min_pre_points=30, n_draws=500, seed=seed
        )
        p_values.append(result.p_value)
    p = np.array(p_values)
    for level in (0.05, 0.1, 0.5):
        # Averaging over noise models is mildly conservative under white noise.
        assert np.mean(p <= level) <= rejection_band(level, len(p))[1]
    assert np.mean(p <= 0.5) > 0.35


# Placebos.


@pytest.fixture
def n_placebo_series(replicates):
    return 500 if replicates >= 10_000 else 150


@pytest.mark.parametrize("kind", NOISES)
def test_placebos_reject_at_their_level(show, n_placebo_series, kind):
    results = [
        placebo_in_time(observed, alone(observed), **PLACEBO)
        for observed in placebo_series(kind, n_placebo_series)
    ]
    assert {result.n_disjoint for result in results} == {20}
    p = np.array([result.p_value for result in results])
    size = calibrate(f"placebo in time, {kind}", p)
    show(size, units="250+10")
    assert size.is_calibrated, size
    for rank in (2, 10):  # of 21
        low, high = rejection_band(rank / 21, len(p))
        assert low <= np.mean(p <= rank / 21) <= high
    # Both alarms of a biased model; 2^-19 and at most .05.
    assert not any(result.is_one_sided for result in results)
    alarms = np.mean([result.sign_p_value < 0.05 for result in results])
    assert alarms <= rejection_ceiling(0.05, len(results))


@pytest.mark.parametrize("kind", AUTOCORRELATED)
def test_placebos_within_the_sample_reject_too_often(show, n_placebo_series, kind):
    """One fit to the whole pre period, whose predictions have seen what came before each step."""
    p_values = []
    for observed in placebo_series(kind, n_placebo_series):
        prepared = prepare_series(
            observed,
            alone(observed),
            PLACEBO["n_pre"],
            n_post=None,
            season=None,
            min_pre_points=PLACEBO["min_pre_points"],
        )
        posterior = fit_prepared(prepared, "weak")
        fitted = prepared.restore(posterior.one_step(prepared.columns)[0])
        windows = (prepared.pre - fitted)[-20 * PLACEBO_POST :].reshape(20, PLACEBO_POST)
        expected = prepared.restore(posterior.forecast_mean(prepared.design_post))
        effect = np.abs(np.mean(prepared.post - expected))
        p_values.append((1 + np.sum(np.abs(windows.mean(axis=1)) >= effect)) / 21)
    size = calibrate(f"placebo within the sample, {kind}", p_values)
    is_missed = size.is_calibrated
    show(size, units="250+10", verdict="MISSED" if is_missed else "outside, as it must be")
    assert size.rate > size.high


def placebo_series(kind, n_series):
    for seed in range(n_series):
        yield null_series(kind, seed, PLACEBO["n_pre"] + PLACEBO_POST)
