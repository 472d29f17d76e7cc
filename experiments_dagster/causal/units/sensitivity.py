"""How strong unmeasured confounding would have to be to explain an effect (METHODS 11.9).

    E-value      RR + √(RR(RR − 1)) for RR ≥ 1, of 1/RR below 1; for an interval its limit nearer
                 1, and 1 where the interval holds 1
    conversions  odds ratio, common outcome: RR ≈ √OR;   rare outcome: RR ≈ OR
                 hazard ratio, common outcome: RR ≈ (1 − 0.5^√HR)/(1 − 0.5^√(1/HR))
                 standardised difference d: RR ≈ exp(0.91 d), limits exp(0.91 d ± 1.78 SE_d)

    Rosenbaum    matched differences d ≠ 0, r their ranks of |d|, T = Σ r over d > 0, q = Γ/(1 + Γ)
                 E = qΣr, V = q(1 − q)Σr²;  upper p = Φ̄((T − E)/√V), lower p with 1 − q
    McNemar      D discordant pairs, x positive: upper p = P(Bin(D, q) ≥ x)

Γ is the largest ratio of odds of treatment that a hidden covariate may cause within a pair. No
continuity correction; both are one-sided against a positive effect.

References:
    VanderWeele & Ding 2017; VanderWeele 2017 (conversions); Rosenbaum 2002, chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import bdtrc, ndtr

from experiments_dagster.causal.series.records import FloatArray
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import check_alpha
from experiments_dagster.stats.methods.units.interacted import unit_column

GAMMAS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
LARGEST_GAMMA = 1e6
LOG_RISK_PER_SD, LOG_RISK_PER_SE = 0.91, 1.78

Conversion = Literal["risk_ratio", "odds_ratio_rare", "odds_ratio_common", "hazard_ratio_common"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EValue:
    """The smallest confounding, as a risk ratio, that explains the estimate, and its interval."""

    risk_ratio: float
    conversion: str
    e_value: float
    e_value_interval: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RosenbaumBound:
    """Smallest and largest one-sided p-value that a hidden bias of at most `gamma` allows."""

    gamma: float
    p_low: float
    p_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RosenbaumBounds:
    """Bounds at each Γ, and the largest Γ at which the effect stays significant.

    `largest_gamma` is None where p is not below alpha even without hidden bias.
    """

    test: Literal["signed_rank", "mcnemar"]
    n_pairs: int
    alpha: float
    bounds: tuple[RosenbaumBound, ...]
    largest_gamma: float | None


def e_value(
    ratio: float,
    ci: tuple[float, float] | None = None,
    *,
    scale: Conversion = "risk_ratio",
) -> EValue:
    """Return the E-value of a ratio and of its interval.

    Args:
        ratio: Above 0, on the scale named.
        ci: Lower and upper limit of the ratio.
        scale: What the ratio is of; other than risk ratios are converted first.

    Raises:
        ValueError: A ratio is not positive and finite, or the interval misses it.

    References:
        VanderWeele & Ding 2017, equation 1 and table 2.

    Examples:
        >>> result = e_value(3.9, (1.8, 8.7))
        >>> round(result.e_value, 3), result.e_value_interval
        (7.263, 3.0)
    """
    limits = () if ci is None else ci
    if not all(math.isfinite(value) and value > 0 for value in (ratio, *limits)):
        msg = f"{scale} {ratio} with limits {ci}; need positive finite ratios"
        raise ValueError(msg)
    if ci is not None and not ci[0] <= ratio <= ci[1]:
        msg = f"{scale} {ratio} is outside its interval {ci}"
        raise ValueError(msg)
    risk_ratio = _as_risk_ratio(ratio, scale)
    converted = None if ci is None else (_as_risk_ratio(ci[0], scale), _as_risk_ratio(ci[1], scale))
    return _e_values(risk_ratio, converted, scale)


def e_value_of_difference(difference: float, std_error: float, outcome_sd: float) -> EValue:
    """Return the E-value of a difference of means, by its standardised size.

    Args:
        difference: Treated minus control, in units of the outcome.
        std_error: Of the difference, in the same units.
        outcome_sd: Standard deviation of the outcome, above zero.

    Raises:
        ValueError: A number is not finite, the error is negative or the sd not above zero.

    References:
        VanderWeele & Ding 2017, table 2; Chinn 2000.

    Examples:
        >>> result = e_value_of_difference(0.5, 0.1, 1.0)
        >>> round(result.risk_ratio, 4), round(result.e_value, 4)
        (1.5762, 2.5291)
    """
    if not (math.isfinite(difference) and 0 <= std_error < math.inf and 0 < outcome_sd < math.inf):
        msg = (
            f"difference {difference}, std_error {std_error}, sd {outcome_sd}; need finite, sd > 0"
        )
        raise ValueError(msg)
    d, half = difference / outcome_sd, LOG_RISK_PER_SE * std_error / outcome_sd
    centre = LOG_RISK_PER_SD * d
    limits = math.exp(centre - half), math.exp(centre + half)
    return _e_values(math.exp(centre), limits, "standardised_difference")


def rosenbaum_signed_rank(
    differences: ArrayLike, *, gammas: Sequence[float] = GAMMAS, alpha: float = 0.05
) -> RosenbaumBounds:
    """Bound the signed-rank p-value of matched pairs under hidden bias.

    Args:
        differences: Treated minus control of each pair, shape (n,); zeros are left out.
        gammas: Each at least 1.
        alpha: One-sided level of `largest_gamma`.

    Raises:
        EstimationError: N_TOO_SMALL where no difference is left; NON_FINITE_INPUT.
        ValueError: A Γ below 1.

    References:
        Rosenbaum 2002, section 4.3; METHODS 11.9.

    Examples:
        >>> result = rosenbaum_signed_rank([1, 2, 3, 4, 5, 6, 7, -0.5], gammas=[1, 2])
        >>> [round(bound.p_high, 4) for bound in result.bounds]
        [0.0086, 0.0512]
    """
    given = unit_column(differences, "differences")
    kept = given[given != 0]
    if not len(kept):
        raise EstimationError("N_TOO_SMALL", "matched pairs", "no pair with a difference")
    ranks = _mid_ranks(np.abs(kept))
    statistic, total, squares = ranks[kept > 0].sum(), ranks.sum(), ranks @ ranks

    def upper_tail(q: float) -> float:
        return float(ndtr((q * total - statistic) / math.sqrt(q * (1 - q) * squares)))

    return _bounds("signed_rank", len(kept), upper_tail, gammas, alpha)


def rosenbaum_mcnemar(
    n_discordant: int, n_positive: int, *, gammas: Sequence[float] = GAMMAS, alpha: float = 0.05
) -> RosenbaumBounds:
    """Bound McNemar's p-value of matched pairs with a 0/1 outcome under hidden bias.

    Args:
        n_discordant: Pairs with different outcomes.
        n_positive: Those among them in which the treated unit has the outcome.
        gammas: Each at least 1.
        alpha: One-sided level of `largest_gamma`.

    Raises:
        EstimationError: N_TOO_SMALL without a discordant pair.
        ValueError: The counts are impossible, or a Γ is below 1.

    References:
        Rosenbaum 2002, section 4.3.2.

    Examples:
        >>> result = rosenbaum_mcnemar(122, 110, gammas=[1, 6])
        >>> round(result.bounds[1].p_high, 3)
        0.097
    """
    if not 0 <= n_positive <= n_discordant:
        msg = f"{n_positive} of {n_discordant} discordant pairs; need 0 <= positive <= discordant"
        raise ValueError(msg)
    if n_discordant == 0:
        raise EstimationError("N_TOO_SMALL", "matched pairs", "no discordant pair")

    def upper_tail(q: float) -> float:
        return 1.0 if n_positive == 0 else float(bdtrc(n_positive - 1, n_discordant, q))

    return _bounds("mcnemar", n_discordant, upper_tail, gammas, alpha)


def _e_values(risk_ratio: float, ci: tuple[float, float] | None, conversion: str) -> EValue:
    nearest = None
    if ci is not None:
        low, high = ci
        nearest = 1.0 if low <= 1 <= high else (low if low > 1 else high)
    return EValue(
        risk_ratio=risk_ratio,
        conversion=conversion,
        e_value=_formula(risk_ratio),
        e_value_interval=None if nearest is None else _formula(nearest),
    )


def _formula(risk_ratio: float) -> float:
    above = max(risk_ratio, 1 / risk_ratio)
    return above + math.sqrt(above * (above - 1))


def _as_risk_ratio(ratio: float, scale: Conversion) -> float:
    if scale == "odds_ratio_common":
        return math.sqrt(ratio)
    if scale == "hazard_ratio_common":
        return (1 - math.pow(0.5, math.sqrt(ratio))) / (1 - math.pow(0.5, math.sqrt(1 / ratio)))
    return ratio


def _mid_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, the mean rank for ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def _bounds(
    test: Literal["signed_rank", "mcnemar"],
    n_pairs: int,
    upper_tail: Callable[[float], float],
    gammas: Sequence[float],
    alpha: float,
) -> RosenbaumBounds:
    check_alpha(alpha)
    if not all(1 <= gamma < math.inf for gamma in gammas):
        msg = f"gammas are {list(gammas)}, need each >= 1"
        raise ValueError(msg)
    bounds = []
    for gamma in gammas:
        q = gamma / (1 + gamma)
        bounds.append(RosenbaumBound(gamma=gamma, p_low=upper_tail(1 - q), p_high=upper_tail(q)))
    return RosenbaumBounds(
        test=test,
        n_pairs=n_pairs,
        alpha=alpha,
        bounds=tuple(bounds),
        largest_gamma=_largest_gamma(upper_tail, alpha),
    )


def _largest_gamma(upper_tail: Callable[[float], float], alpha: float) -> float | None:
    """Γ at which the upper p reaches alpha; None where it does without bias."""
    if upper_tail(0.5) >= alpha:
        return None

    def above(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        return upper_tail(gamma / (1 + gamma)) - alpha

    end = math.log(LARGEST_GAMMA)
    root = end if above(end) < 0 else float(brentq(above, 0.0, end, xtol=1e-12))
    return math.exp(root)
