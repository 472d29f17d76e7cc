"""Small factories of series with a known counterfactual."""

import numpy as np
import pytest

NOISES = {"independent": (0.0, 0.0), "ar": (0.7, 0.0), "local_level": (0.0, 0.1)}


def make_noise(kind, n, rng):
    """Unit innovations: independent, AR(.7), or white noise on a level of variance 0.1 a step."""
    phi, level_var = NOISES[kind]
    shocks = rng.standard_normal(n)
    noise = shocks.copy()
    noise[0] /= np.sqrt(1 - phi**2)
    for t in range(1, n):
        noise[t] += phi * noise[t - 1]
    level = np.cumsum(np.sqrt(level_var) * rng.standard_normal(n))
    return noise + level


def make_series(*, n_pre=100, n_post=30, p=2, noise="independent", effect=0.0, seed=1):
    """Outcome 50 + 0.7 Σx + noise + effect after n_pre, and its covariates."""
    rng = np.random.default_rng(seed)
    n = n_pre + n_post
    covariates = np.column_stack([make_noise("ar", n, rng) for _ in range(p)] or [np.empty((n, 0))])
    observed = 50 + 0.7 * covariates.sum(axis=1) + make_noise(noise, n, rng)
    observed[n_pre:] += effect
    return observed, covariates


@pytest.fixture
def series():
    return make_series
