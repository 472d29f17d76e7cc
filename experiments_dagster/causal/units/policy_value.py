"""What treating the top share by predicted effect is worth (METHODS 11.10, 12).

    π_i   1 for the share of each fold with the highest τ̂, a fraction for units tied at its edge
    gain             V̂ = (1/n)Σ π_i ψ_i                      over treating nobody, per unit
    over random      (1/n)Σ (π_i − share)ψ_i                 over treating the same share at random
    over everybody   (1/n)Σ (π_i − 1)ψ_i                     over treating everybody
    effect among the targeted   Σ πψ/Σ π
    net = value·gain − cost·share,   ROI = net/(cost·share),  null where the cost is zero

ψ and τ̂ come from units unseen by the models. Errors are sd/√n of the summands, with the
threshold as given. Linear functions of the gain share its interval.

References:
    Athey & Wager 2021; Chernozhukov et al. 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from experiments_dagster.causal.series.records import (
    EffectInterval,
    FloatArray,
    refuse_non_finite,
)
from experiments_dagster.causal.units.effects import BoolArray, IntArray
from experiments_dagster.causal.units.heterogeneity_proof import HeterogeneityProof, require_proof
from experiments_dagster.causal.units.learners import UpliftFit, require_out_of_sample
from experiments_dagster.stats.intervals import critical_value


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """Value of treating the `share` of units with the highest predicted effect.

    All but `effect_targeted` and `total_*` are per unit of the population, in units of the
    outcome or, for `net`, of money. `total_*` are n times as large. `roi` is None at zero cost.
    """

    share: float
    n: int
    n_targeted: float
    gain: EffectInterval
    gain_over_random: EffectInterval
    gain_over_everybody: EffectInterval
    effect_targeted: EffectInterval
    net: EffectInterval
    total_gain: EffectInterval
    total_net: EffectInterval
    roi: EffectInterval | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def policy_value(
    fit: UpliftFit,
    *,
    share: float,
    value_per_effect: float = 1.0,
    cost_per_unit: float = 0.0,
    alpha: float = 0.05,
) -> PolicyValue:
    """Estimate what treating the top share gains, on units the models did not see.

    Args:
        fit: Cross-fitted effects with their pseudo-outcomes.
        share: Of the units that are treated, 0 < share <= 1.
        value_per_effect: Money per unit of the outcome.
        cost_per_unit: Money per treated unit, not negative.
        alpha: Two-sided level.

    Raises:
        EstimationError: NOT_IDENTIFIED for effects fitted in sample.
        ValueError: A share outside (0, 1], or a value or cost that is not finite.

    References:
        Athey & Wager 2021; METHODS 11.10, 12.

    Examples:
        >>> from experiments_dagster.causal.units.learners import fit_uplift
        >>> rng = np.random.default_rng(2)
        >>> x, t = rng.standard_normal((4000, 1)), rng.random(4000) < 0.5
        >>> y = (1 + x[:, 0]) * t + rng.standard_normal(4000)
        >>> fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(4000))
        >>> value = policy_value(fit, share=0.2)
        >>> value.gain_over_random.ci_low > 0, round(value.n_targeted)
        (True, 800)
    """
    fold_of = require_out_of_sample(fit)
    _check(share, value_per_effect, cost_per_unit)
    psi, n = fit.pseudo_outcomes, len(fit.effects)
    treated = top_share_within_folds(fit.effects, fold_of, share)
    gain = _mean_interval(treated * psi, alpha)
    cost = cost_per_unit * share
    effect_targeted = float(treated @ psi) / float(treated.sum())
    ratio_scores = treated * (psi - effect_targeted) / treated.mean()
    net = _linear(gain, value_per_effect, -cost)
    return PolicyValue(
        share=share,
        n=n,
        n_targeted=float(treated.sum()),
        gain=gain,
        gain_over_random=_mean_interval((treated - share) * psi, alpha),
        gain_over_everybody=_mean_interval((treated - 1) * psi, alpha),
        effect_targeted=_linear(_mean_interval(ratio_scores, alpha), 1.0, effect_targeted),
        net=net,
        total_gain=_linear(gain, n, 0.0),
        total_net=_linear(net, n, 0.0),
        roi=None if cost == 0 else _linear(net, 1 / cost, 0.0),
    )


def target_top_share(fit: UpliftFit, proof: HeterogeneityProof, *, share: float) -> BoolArray:
    """Return which units to treat, once heterogeneity is shown, shape (n,).

    A unit tied at the edge of the share is treated if at least half of its fold's tie is.

    Raises:
        EstimationError: NOT_IDENTIFIED where heterogeneity is not shown out of sample.
        ValueError: A share outside (0, 1].
    """
    require_proof(proof)
    _check(share, 1.0, 0.0)
    treated = top_share_within_folds(fit.effects, require_out_of_sample(fit), share)
    return np.asarray(treated >= 0.5)  # noqa: PLR2004


def top_share_within_folds(effects: FloatArray, fold_of: IntArray, share: float) -> FloatArray:
    """Return the probability of treatment of each unit, shape (n,): `share` of every fold.

    Examples:
        >>> top_share_within_folds(np.array([3.0, 1.0, 2.0, 2.0]), np.zeros(4, int), 0.5).tolist()
        [1.0, 0.0, 0.5, 0.5]
    """
    treated = np.empty(len(effects))
    for fold in np.unique(fold_of):
        rows = np.flatnonzero(fold_of == fold)
        _, inverse, counts = np.unique(-effects[rows], return_inverse=True, return_counts=True)
        before = np.cumsum(counts) - counts
        room = share * len(rows) - before
        treated[rows] = np.clip(room / counts, 0.0, 1.0)[inverse]
    return treated


def _check(share: float, value_per_effect: float, cost_per_unit: float) -> None:
    if not 0 < share <= 1:
        msg = f"share is {share}, need 0 < share <= 1"
        raise ValueError(msg)
    if not (math.isfinite(value_per_effect) and 0 <= cost_per_unit < math.inf):
        msg = f"value {value_per_effect}, cost {cost_per_unit}; need finite, cost >= 0"
        raise ValueError(msg)


def _mean_interval(values: FloatArray, alpha: float) -> EffectInterval:
    mean, std_error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    half = critical_value(alpha) * std_error
    return EffectInterval(
        estimate=mean, std_error=std_error, ci_low=mean - half, ci_high=mean + half
    )


def _linear(interval: EffectInterval, factor: float, shift: float) -> EffectInterval:
    """The interval of factor·x + shift."""
    ends = sorted((factor * interval.ci_low + shift, factor * interval.ci_high + shift))
    return EffectInterval(
        estimate=factor * interval.estimate + shift,
        std_error=abs(factor) * interval.std_error,
        ci_low=ends[0],
        ci_high=ends[1],
    )
