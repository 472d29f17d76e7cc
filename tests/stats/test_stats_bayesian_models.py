"""Posteriors of rates, counts, means and effects from data and priors."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments_dagster.stats.bayesian.best_arm import compare_arms
from experiments_dagster.stats.bayesian.beta_binomial import (
    UNIFORM,
    BetaPrior,
    closed_probability,
    learn_rate_prior,
    rate_posterior,
)
from experiments_dagster.stats.bayesian.gamma_poisson import (
    GammaPosterior,
    count_posterior,
    probability_higher,
)
from experiments_dagster.stats.bayesian.normal import (
    MeanPrior,
    effect_posterior,
    flat_effect_posterior,
    mean_posterior,
)
from experiments_dagster.stats.bayesian.posteriors import BetaPosterior
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.shrinkage import EffectPrior, learn_prior


def code_of(call, *arguments, **named):
    with pytest.raises(EstimationError) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_rates_add_counts_to_the_prior():
    assert rate_posterior(3, 10) == BetaPosterior(a=4, b=8)
    prior = BetaPrior(name="declared", a=2.0, b=50.0)
    assert rate_posterior(0, 0, prior=prior) == BetaPosterior(a=2, b=50)
    assert UNIFORM.name == "uniform"


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3)])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="successes"):
        rate_posterior(*counts)


def test_the_closed_sum_agrees_with_the_quadrature():
    for a, b in (((3, 7), (5, 5)), ((300, 700), (320, 680))):
        one, other = BetaPosterior(a=a[0], b=a[1]), BetaPosterior(a=b[0], b=b[1])
        # Logarithms of factorials lose 1e-12 here.
        assert closed_probability(one, other) == pytest.approx(
            compare_arms(one, other).probability, rel=1e-10
        )
    with pytest.raises(ValueError, match="integer"):
        closed_probability(one, BetaPosterior(a=1.5, b=2))


def test_a_learned_prior_finds_the_spread_of_past_baselines():
    rng = np.random.default_rng(3)
    a, b, k = 40.0, 360.0, 4000
    n = rng.integers(200, 20_000, k)
    x = rng.binomial(n, rng.beta(a, b, k))
    prior = learn_rate_prior(x, n)
    assert (prior.name, prior.n_baselines) == ("learned", k)
    # Moments of 4,000 baselines weighted by unequal sizes: about 4 % of a and of b.
    assert prior.a == pytest.approx(a, rel=0.12)
    assert prior.b == pytest.approx(b, rel=0.12)
    assert prior.a / (prior.a + prior.b) == pytest.approx(0.1, rel=0.01)


def test_a_prior_is_not_learned_from_chance_alone():
    assert code_of(learn_rate_prior, [100, 100, 100], [1000] * 3) == "ZERO_VARIANCE"
    assert code_of(learn_rate_prior, [0, 0], [1000] * 2) == "ZERO_VARIANCE"
    assert code_of(learn_rate_prior, [10], [100]) == "N_TOO_SMALL"
    assert code_of(learn_rate_prior, [100, 0], [100, 100]) == "NOT_IDENTIFIED"
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        learn_rate_prior([5, 7], [4, 9])


def test_counts_add_events_and_exposure():
    prior = GammaPosterior(shape=2.0, rate=1.0)
    posterior = count_posterior(30, 10.0, prior=prior)
    assert posterior == GammaPosterior(shape=32.0, rate=11.0)
    assert posterior.mean == pytest.approx(32 / 11)
    low, high = posterior.interval(0.05)
    law = stats.gamma(32, scale=1 / 11)
    assert (law.cdf(low), law.sf(high)) == pytest.approx((0.025, 0.025))
    for events, exposure in ((-1, 1.0), (1, 0.0), (1, math.inf)):
        with pytest.raises(ValueError, match="events"):
            count_posterior(events, exposure, prior=prior)
    with pytest.raises(ValueError, match="above 0"):
        GammaPosterior(shape=0.0, rate=1.0)


@pytest.mark.parametrize(("rate1", "rate2"), [(1.0, 1.0), (3.0, 0.5), (0.2, 9.0)])
def test_one_rate_of_counts_is_higher(rate1, rate2):
    one, other = GammaPosterior(shape=12, rate=rate1), GammaPosterior(shape=7.5, rate=rate2)
    forward, backward = probability_higher(one, other), probability_higher(other, one)
    assert forward + backward == pytest.approx(1, rel=1e-12)
    laws = [stats.gamma(g.shape, scale=1 / g.rate) for g in (one, other)]
    by_hand = laws[1].expect(laws[0].cdf)
    assert forward == pytest.approx(by_hand, rel=1e-7)  # quad's own precision


def test_a_small_probability_of_counts_has_digits():
    found = probability_higher(
        GammaPosterior(shape=4000, rate=1), GammaPosterior(shape=500, rate=1)
    )
    # I_½(4000, 500) is a binomial tail.
    assert found == pytest.approx(stats.binom.sf(3999, 4499, 0.5), rel=1e-9)
    assert 0 < found < 1e-300 or found < 1e-100


PRIOR = EffectPrior(name="declared", mean=0.01, tau2=0.03**2, n_effects=0)


def test_an_effect_agrees_with_bayes_theorem_on_a_grid():
    estimate, std_error = 0.05, 0.02
    found = effect_posterior(estimate, std_error, PRIOR)
    theta = np.linspace(-0.3, 0.3, 600_001)
    weight = stats.norm.pdf(estimate, theta, std_error) * stats.norm.pdf(theta, 0.01, 0.03)
    weight /= weight.sum()
    # A grid of 1e-6 over a density of width 1e-2.
    assert found.mean == pytest.approx(weight @ theta, abs=1e-9)
    assert found.sd == pytest.approx(math.sqrt(weight @ (theta - found.mean) ** 2), rel=1e-7)
    assert found.probability_positive == pytest.approx(weight[theta > 0].sum(), abs=1e-6)
    assert found.loss_shipping == pytest.approx(weight @ np.maximum(-theta, 0), rel=1e-5)
    assert found.loss_not_shipping == pytest.approx(weight @ np.maximum(theta, 0), rel=1e-5)
    assert found.prior == "declared"
    assert found.ci_low < found.mean < found.ci_high


def test_the_prior_is_the_one_that_past_effects_support():
    rng = np.random.default_rng(1)
    prior = learn_prior(rng.normal(0, 0.05, 12), [0.01] * 12)
    found = effect_posterior(0.1, 0.03, prior)
    assert found.prior == "reml_zero_mean"
    assert 0 < found.mean < 0.1
    assert found.weight == pytest.approx(prior.tau2 / (prior.tau2 + 0.03**2))


def test_a_flat_prior_has_to_be_asked_for_and_says_so():
    flat = flat_effect_posterior(0.05, 0.02)
    assert (flat.prior, flat.mean, flat.sd, flat.weight) == ("flat", 0.05, 0.02, 1.0)
    wide = EffectPrior(name="declared", mean=0.0, tau2=1e6, n_effects=0)
    near = effect_posterior(0.05, 0.02, wide)
    assert flat.probability_positive == pytest.approx(near.probability_positive, rel=1e-8)
    assert near.prior == "declared"


def test_a_loss_far_out_keeps_its_digits():
    found = flat_effect_posterior(0.6, 0.02)  # z = 30
    assert 0 < found.loss_shipping < 1e-199
    assert found.loss_not_shipping == pytest.approx(0.6, rel=1e-12)
    mirrored = flat_effect_posterior(-0.6, 0.02)
    assert mirrored.loss_not_shipping == pytest.approx(found.loss_shipping, rel=1e-12)


def test_effects_that_cannot_be_judged():
    none = EffectPrior(name="declared", mean=0.0, tau2=0.0, n_effects=0)
    assert code_of(effect_posterior, 0.1, 0.1, none) == "ZERO_VARIANCE"
    assert code_of(effect_posterior, math.nan, 0.1, PRIOR) == "NON_FINITE_INPUT"
    assert code_of(effect_posterior, 0.1, 0.0, PRIOR) == "ZERO_VARIANCE"
    assert code_of(flat_effect_posterior, 0.1, 0.0) == "ZERO_VARIANCE"
    assert code_of(flat_effect_posterior, math.inf, 1.0) == "NON_FINITE_INPUT"


def test_a_mean_is_that_of_the_normal_inverse_gamma_model():
    """Against draws of (σ², μ) from the prior, weighted by the likelihood of the data."""
    rng = np.random.default_rng(8)
    y = np.array([3.1, 4.0, 5.2, 3.9])
    prior = MeanPrior(mean=3.0, sd=1.0, units=6.0)
    found = mean_posterior(4, y.mean(), float(((y - y.mean()) ** 2).sum()), prior=prior)
    size = 400_000
    variance = 1 / rng.gamma(prior.units / 2, 2 / (prior.units * prior.sd**2), size)
    mu = rng.normal(prior.mean, np.sqrt(variance / prior.units))
    log_likelihood = stats.norm.logpdf(y[:, None], mu, np.sqrt(variance)).sum(axis=0)
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    assert found.mean == pytest.approx(weight @ mu, abs=0.005)
    law = stats.t(found.df, found.mean, found.scale)
    for quantile in (0.05, 0.5, 0.95):
        at = law.ppf(quantile)
        assert weight[mu <= at].sum() == pytest.approx(quantile, abs=0.006)  # 4 Monte-Carlo errors


def test_two_halves_of_the_data_are_the_whole():
    rng = np.random.default_rng(2)
    y = rng.normal(1e8, 1.0, 1000)
    prior = MeanPrior(mean=1e8, sd=2.0, units=10.0)
    whole = mean_posterior(1000, y.mean(), float(((y - y.mean()) ** 2).sum()), prior=prior)
    first, second = y[:400], y[400:]
    half = mean_posterior(
        400, first.mean(), float(((first - first.mean()) ** 2).sum()), prior=prior
    )
    # The first posterior as the prior of the second: mean, κ = df, β = scale² κ²/2.
    between = MeanPrior(mean=half.mean, sd=half.scale * math.sqrt(half.df), units=half.df)
    chained = mean_posterior(
        600, second.mean(), float(((second - second.mean()) ** 2).sum()), prior=between
    )
    assert chained.mean == pytest.approx(whole.mean, rel=1e-15)
    assert chained.scale == pytest.approx(whole.scale, rel=1e-6)  # 1e8 against a spread of 1
    assert chained.df == whole.df == 1010


def test_means_that_cannot_be():
    prior = MeanPrior(mean=0.0, sd=1.0, units=2.0)
    assert code_of(mean_posterior, 3, math.nan, 1.0, prior=prior) == "NON_FINITE_INPUT"
    with pytest.raises(ValueError, match="sum of squares"):
        mean_posterior(3, 0.0, -1.0, prior=prior)
    with pytest.raises(ValueError, match="sd above 0"):
        MeanPrior(mean=0.0, sd=0.0, units=5.0)
    with pytest.raises(ValueError, match="2 or more"):
        MeanPrior(mean=0.0, sd=1.0, units=1.0)
