"""Small factories of units with a known effect and a known reason for being treated."""

import numpy as np
from scipy.special import expit


def make_observational(*, n=500, p=2, effect=1.0, confounding=0.5, slope=1.0, level=-0.3, seed=1):
    """y = effect·t + slope·Σx + noise, with P(t) = logistic(confounding·Σx + level)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p))
    t = rng.random(n) < expit(confounding * x.sum(axis=1) + level)
    y = effect * t + slope * x.sum(axis=1) + rng.standard_normal(n)
    return y, t, x


def make_experiment(*, n=4000, p=3, share=0.5, heterogeneity=0.0, seed=1):
    """A randomised sample whose effect is 0.5 + heterogeneity·x₀; other columns are noise for τ."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p))
    t = rng.random(n) < share
    tau = 0.5 + heterogeneity * x[:, 0]
    y = tau * t + x.sum(axis=1) + rng.standard_normal(n)
    return y, t, x, tau


def band(rate, runs):
    """The 99.9 % Monte-Carlo band of a rate."""
    half = 3.29 * np.sqrt(rate * (1 - rate) / runs)
    return rate - half, rate + half
