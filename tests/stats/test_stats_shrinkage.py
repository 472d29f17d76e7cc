import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.shrinkage import (
    EffectPrior,
    between_variance,
    conditional_estimate,
    learn_prior,
    portfolio_effect,
    shrunk_estimate,
)

DEFAULT = EffectPrior(name="declared", mean=0.0, tau2=1e-4, n_effects=0)

pairs = st.lists(st.tuples(st.floats(-3, 3), st.floats(0.05, 2)), min_size=2, max_size=25)


def test_reference_reml_of_a_free_mean(reference, dataset):
    case = reference("meta", "bcg")
    frame = dataset("meta/bcg.csv")
    mu, tau2 = between_variance(
        frame["yi"].to_numpy(), np.sqrt(frame["vi"].to_numpy()), mean="free"
    )
    case.check(tau2, case.expected["REML"]["tau2"])
    case.check(mu, case.expected["REML"]["b"])


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=20), st.floats(0.05, 2))
def test_closed_forms_of_equal_errors(estimates, std_error):
    y = np.array(estimates)
    _, tau2 = between_variance(y, [std_error] * len(y))
    assert tau2 == pytest.approx(max(0.0, np.mean(y**2) - std_error**2), rel=1e-9, abs=1e-12)
    mu, tau2 = between_variance(y, [std_error] * len(y), mean="free")
    assert tau2 == pytest.approx(max(0.0, y.var(ddof=1) - std_error**2), rel=1e-9, abs=1e-12)
    assert mu == pytest.approx(y.mean(), abs=1e-9)


@given(pairs, st.sampled_from(["zero", "free"]))
def test_no_other_value_is_likelier(pairs, mean):
    """By scipy's normal density; with a free mean that of the contrasts with the first effect."""
    y, s = map(np.array, zip(*pairs, strict=True))

    def log_likelihood(tau2):
        covariance = np.diag(s**2 + tau2)
        if mean == "zero":
            return stats.multivariate_normal.logpdf(y, np.zeros(len(y)), covariance)
        contrasts = np.column_stack([-np.ones(len(y) - 1), np.eye(len(y) - 1)])
        return stats.multivariate_normal.logpdf(
            contrasts @ y, np.zeros(len(y) - 1), contrasts @ covariance @ contrasts.T
        )

    _, tau2 = between_variance(y, s, mean=mean)
    best = log_likelihood(tau2)
    for other in (0.0, 1e-4, 0.01, 0.1, 0.5, 1.0, 3.0, 0.9 * tau2, 1.1 * tau2):
        assert log_likelihood(other) <= best + 1e-9


@given(pairs, st.sampled_from(["zero", "free"]), st.sampled_from([1e-8, 0.01, 1e7]))
def test_scale_sign_and_order(pairs, mean, scale):
    y, s = map(np.array, zip(*pairs, strict=True))
    mu, tau2 = between_variance(y, s, mean=mean)
    scaled = between_variance(scale * y, scale * s, mean=mean)
    assert scaled[1] == pytest.approx(scale**2 * tau2, rel=1e-7, abs=1e-9 * scale**2)
    swapped = between_variance(-y, s, mean=mean)
    assert swapped[1] == pytest.approx(tau2, rel=1e-9, abs=1e-12)
    assert swapped[0] == pytest.approx(-mu, rel=1e-7, abs=1e-9)
    moved = between_variance(y[::-1], s[::-1], mean=mean)
    assert moved[1] == pytest.approx(tau2, rel=1e-7, abs=1e-9)


def test_a_free_mean_does_not_notice_a_shift_and_a_zero_mean_does():
    y, s = np.array([0.1, 0.3, 0.2, 0.5, 0.0]), np.full(5, 0.05)
    assert between_variance(y + 7, s, mean="free")[1] == pytest.approx(
        between_variance(y, s, mean="free")[1], rel=1e-9
    )
    assert between_variance(y + 7, s)[1] > 40


def test_prior_by_number_of_effects():
    rng = np.random.default_rng(1)
    y = rng.normal(0.5, 1, 30)
    s = np.full(30, 0.3)
    assert learn_prior(y[:4], s[:4], default=DEFAULT) is DEFAULT
    few, many = learn_prior(y[:19], s[:19]), learn_prior(y[:20], s[:20])
    assert (few.name, few.mean, few.n_effects) == ("reml_zero_mean", 0.0, 19)
    assert (many.name, many.n_effects) == ("reml_free_mean", 20)
    assert many.mean == pytest.approx(y[:20].mean())
    assert learn_prior(y, s, mean="zero").mean == 0.0
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        learn_prior(y[:4], s[:4])


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0, 5), st.floats(-1, 1))
def test_shrunk_is_the_normal_posterior(estimate, std_error, tau2, mean):
    result = shrunk_estimate(estimate, std_error, tau2, mean=mean)
    precision = 1 / std_error**2 + (1 / tau2 if tau2 > 1e-12 else math.inf)
    assert result.posterior_sd == pytest.approx(precision**-0.5, rel=1e-9, abs=1e-5)
    posterior = (estimate / std_error**2 + mean / tau2) / precision if tau2 > 1e-12 else mean
    assert result.estimate == pytest.approx(posterior, rel=1e-7, abs=1e-6)
    assert result.raw_estimate == estimate
    slack = 1e-12
    assert min(estimate, mean) - slack <= result.estimate <= max(estimate, mean) + slack


def test_no_spread_shrinks_all_and_tiny_numbers_survive():
    assert shrunk_estimate(0.3, 0.1, 0.0).estimate == 0.0
    tiny = shrunk_estimate(3e-170, 1e-170, 1e-320)
    assert 0 <= tiny.weight <= 1


@pytest.mark.slow
def test_shrunk_effects_of_winners_are_unbiased_and_raw_ones_are_not():
    rng = np.random.default_rng(6)
    k, tau, s = 40_000, 0.02, 0.02
    truth = tau * rng.normal(size=k)
    raw = truth + s * rng.normal(size=k)
    prior = learn_prior(raw, np.full(k, s), mean="zero")
    assert prior.tau2 == pytest.approx(tau**2, rel=0.05)
    winners = np.flatnonzero(raw > 1.96 * s)
    shrunk = [shrunk_estimate(raw[i], s, prior.tau2) for i in winners]
    total = portfolio_effect(shrunk)
    error = truth[winners].sum() - total.estimate
    # Besides the posterior sd there is the error of tau2: allow for 2 % of the sum.
    assert abs(error) < 3.3 * total.std_error + 0.02 * total.estimate
    assert raw[winners].sum() - truth[winners].sum() > 20 * total.std_error


@pytest.mark.parametrize("z", [1.9601, 2.2, 3.0, 4.5, 30.0])
def test_conditional_estimate_maximises_the_truncated_likelihood(z):
    c = stats.norm.isf(0.025)

    def negative(theta):
        selected = np.logaddexp(stats.norm.logsf(c - theta), stats.norm.logcdf(-c - theta))
        return selected - stats.norm.logpdf(z - theta)

    found = conditional_estimate(2.0 * z, 2.0) / 2.0
    live = optimize.minimize_scalar(negative, bounds=(-1, z + 1), method="bounded").x
    # A minimum is found to half the digits of a root.
    assert found == pytest.approx(live, abs=2e-4)
    assert negative(found) <= negative(live) + 1e-12
    assert 0 < found <= z
    assert conditional_estimate(-2.0 * z, 2.0) == -2.0 * found


def test_conditional_estimate_of_a_stricter_selection_is_smaller():
    assert conditional_estimate(3.5, 1.0, alpha=0.001) < conditional_estimate(3.5, 1.0)


def test_portfolio_adds_estimates_and_variances():
    effects = [shrunk_estimate(0.1, 0.1, 0.01), shrunk_estimate(0.3, 0.2, 0.01)]
    total = portfolio_effect(effects)
    assert total.n_effects == 2
    assert total.estimate == pytest.approx(sum(e.estimate for e in effects))
    assert total.std_error**2 == pytest.approx(sum(e.posterior_sd**2 for e in effects))


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: between_variance([], []), "N_TOO_SMALL"),
        (lambda: between_variance([1.0], [1.0], mean="free"), "N_TOO_SMALL"),
        (lambda: between_variance([1.0, math.nan], [1.0, 1.0]), "NON_FINITE_INPUT"),
        (lambda: between_variance([1.0, 2.0], [1.0, 0.0]), "ZERO_VARIANCE"),
        (lambda: shrunk_estimate(math.inf, 1.0, 1.0), "NON_FINITE_INPUT"),
        (lambda: shrunk_estimate(1.0, 0.0, 1.0), "ZERO_VARIANCE"),
        (lambda: conditional_estimate(math.nan, 1.0), "NON_FINITE_INPUT"),
        (lambda: conditional_estimate(1.0, 0.0), "ZERO_VARIANCE"),
        (lambda: portfolio_effect([]), "N_TOO_SMALL"),
    ],
)
def test_not_estimable(call, code):
    with pytest.raises(EstimationError) as error:
        call()
    assert error.value.code == code


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: between_variance([1.0], [1.0, 2.0]), "need"),
        (lambda: between_variance([1.0], [1.0], mean="median"), "mean is 'median'"),
        (lambda: shrunk_estimate(1.0, 1.0, -1.0), "tau2 -1"),
        (lambda: conditional_estimate(1.0, 1.0), "not selected"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
