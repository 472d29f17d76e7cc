"""What a cumulative effect is worth: revenue, profit and return, each with its interval.

    revenue = Σ effect            gross = margin · revenue
    costs   = campaign spend + incremental cost
    net     = gross - costs       roi   = net / costs,  none where costs are not above 0

Intervals are those of the total effect carried through draw by draw, so that money and effect
never disagree. Margin and costs are taken as known. The spend that a campaign caused is

    incremental   Σ_{post} spend_t - n_post · mean_{pre} spend
    total         Σ_{post} spend_t, also what would have been spent anyway

Converting an effect into revenue (prices, populations) does not belong here.

References:
    Brodersen et al. 2015, section 2.4 (functions of the cumulative effect, per draw).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments_dagster.causal.series.impact import path_limits
from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite

SpendBasis = Literal["incremental", "total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """An amount of money, or a ratio of two, with its interval."""

    estimate: float
    ci_low: float
    ci_high: float

    def __post_init__(self) -> None:
        refuse_non_finite(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """Amounts of one intervention, in the unit of the outcome.

    `profit_gross`, `profit_net` and `roi_net` are None with a code in `profit_reason` or
    `roi_reason`: NOT_IDENTIFIED (no margin; costs below 0), ZERO_DENOMINATOR (costs of 0).
    """

    revenue: Amount
    margin_rate: float | None
    profit_gross: Amount | None
    campaign_spend: float
    incremental_cost: float
    total_costs: float
    profit_net: Amount | None
    profit_reason: str | None
    roi_net: Amount | None
    roi_reason: str | None

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def estimate_economics(
    total: float,
    total_draws: FloatArray,
    *,
    alpha: float,
    margin_rate: float | None,
    campaign_spend: float = 0.0,
    incremental_cost: float = 0.0,
) -> Economics:
    """Turn a cumulative effect on revenue into profit and return.

    Args:
        total: Point estimate of the cumulative effect, in money.
        total_draws: Its draws, shape (draws,), more than 2 / alpha.
        alpha: 1 - confidence level.
        margin_rate: Share of revenue that is profit, from 0 to 1; None where it is not known.
        campaign_spend: What the campaign cost, of either basis; below 0 where it saved money.
        incremental_cost: Further declared cost.

    Raises:
        ValueError: Margin outside 0 to 1, or an amount that is not finite.

    Examples:
        >>> draws = np.random.default_rng(1).normal(1000, 100, 2000)
        >>> money = estimate_economics(
        ...     1000, draws, alpha=0.05, margin_rate=0.5, campaign_spend=200
        ... )
        >>> money.profit_net.estimate, money.roi_net.estimate
        (300.0, 1.5)
    """
    if margin_rate is not None and not 0 <= margin_rate <= 1:
        msg = f"margin_rate {margin_rate}; need 0 to 1"
        raise ValueError(msg)
    if not np.isfinite([total, campaign_spend, incremental_cost]).all():
        msg = f"total {total}, spend {campaign_spend}, cost {incremental_cost}; need finite amounts"
        raise ValueError(msg)
    costs = campaign_spend + incremental_cost

    def amount(slope: float, shift: float, over: float = 1.0) -> Amount:
        low, high = path_limits((slope * total_draws + shift) / over, alpha)
        return Amount(
            estimate=(slope * total + shift) / over, ci_low=float(low), ci_high=float(high)
        )

    gross = net = roi = None
    roi_reason: str | None = "NOT_IDENTIFIED"
    if margin_rate is not None:
        gross, net = amount(margin_rate, 0.0), amount(margin_rate, -costs)
        roi, roi_reason = (amount(margin_rate, -costs, costs), None) if costs > 0 else (None, None)
        if roi is None:
            roi_reason = "NOT_IDENTIFIED" if costs < 0 else "ZERO_DENOMINATOR"
    return Economics(
        revenue=amount(1.0, 0.0),
        margin_rate=margin_rate,
        profit_gross=gross,
        campaign_spend=campaign_spend,
        incremental_cost=incremental_cost,
        total_costs=costs,
        profit_net=net,
        profit_reason="NOT_IDENTIFIED" if margin_rate is None else None,
        roi_net=roi,
        roi_reason=roi_reason,
    )


def campaign_spend(spend: FloatArray, n_pre: int, basis: SpendBasis) -> float:
    """Return the money spent on the campaign after step `n_pre`.

    Args:
        spend: Money spent in each period, shape (n,), none missing.
        n_pre: Periods before the intervention, at least 1.
        basis: `incremental` takes off what an average period before cost.

    Raises:
        ValueError: A missing value, an empty period, or an unknown basis.
    """
    if not 0 < n_pre < len(spend) or not np.isfinite(spend).all():
        msg = f"{len(spend)} periods of spend, {n_pre} before; need finite ones on both sides"
        raise ValueError(msg)
    if basis not in ("incremental", "total"):
        msg = f"basis {basis!r}; need incremental or total"
        raise ValueError(msg)
    after = spend[n_pre:]
    baseline = float(spend[:n_pre].mean()) if basis == "incremental" else 0.0
    return float(after.sum()) - len(after) * baseline
