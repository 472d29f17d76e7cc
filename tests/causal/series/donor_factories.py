"""Panels of units on common factors, with a known effect on the first unit."""

import numpy as np

from experiments_dagster.causal.series.donor_panel import build_panel


def make_outcomes(*, n_pre=40, n_post=8, n_donors=12, phi=0.0, noise=0.5, load=None, seed=1):
    """Outcomes (T, 1 + J): 10 + two random-walk factors + AR noise; unit 0 loads like the rest."""
    rng = np.random.default_rng(seed)
    n_steps, n_units, burn = n_pre + n_post, 1 + n_donors, 50
    factors = 0.5 * rng.normal(size=(n_steps, 2)).cumsum(axis=0)
    loads = rng.uniform(0, 1, size=(2, n_units))
    if load is not None:
        loads[:, 0] = load
    shocks = rng.normal(size=(burn + n_steps, n_units))
    for t in range(1, len(shocks)):
        shocks[t] += phi * shocks[t - 1]
    return 10 + factors @ loads + noise * shocks[burn:]


def as_panel(outcomes, n_pre, *, treated=(0,), **changes):
    at = np.full(outcomes.shape[1], np.inf)
    at[list(treated)] = n_pre
    return build_panel(
        outcomes, **({"treated": treated, "n_pre": n_pre, "treated_at": at} | changes)
    )


def make_panel(*, effect=0.0, n_pre=40, **changes):
    outcomes = make_outcomes(n_pre=n_pre, **changes)
    outcomes[n_pre:, 0] += effect
    return as_panel(outcomes, n_pre)
