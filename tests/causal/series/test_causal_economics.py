"""Money from a cumulative effect: by hand, draw by draw, and what has no value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.causal.series.economics import campaign_spend, estimate_economics
from experiments_dagster.causal.series.impact import path_limits

DRAWS = np.random.default_rng(1).normal(1000.0, 200.0, 2000)


def test_a_campaign_by_hand():
    spend = np.r_[np.full(10, 20.0), np.full(5, 60.0)]
    assert campaign_spend(spend, 10, "total") == 300
    assert campaign_spend(spend, 10, "incremental") == 200
    money = estimate_economics(
        1000.0, DRAWS, alpha=0.05, margin_rate=0.4, campaign_spend=200.0, incremental_cost=50.0
    )
    assert money.total_costs == 250
    assert money.profit_gross.estimate == pytest.approx(400)
    assert money.profit_net.estimate == pytest.approx(150)
    assert money.roi_net.estimate == pytest.approx(0.6)
    low, high = path_limits(DRAWS, 0.05)
    assert (money.revenue.ci_low, money.revenue.ci_high) == (low, high)


@given(
    margin=st.floats(0, 1),
    spend=st.floats(-500, 5000),
    cost=st.floats(0, 5000),
    alpha=st.floats(0.01, 0.5),
)
def test_every_amount_is_the_effect_carried_through(margin, spend, cost, alpha):
    money = estimate_economics(
        *(900.0, DRAWS),
        alpha=alpha,
        margin_rate=margin,
        campaign_spend=spend,
        incremental_cost=cost,
    )
    low, high = path_limits(DRAWS, alpha)
    # Limits of draws scaled and shifted, or limits scaled and shifted: one order of operations.
    for amount, shift in ((money.profit_gross, 0.0), (money.profit_net, spend + cost)):
        assert amount.ci_low == pytest.approx(margin * low - shift, rel=1e-9, abs=1e-6)
        assert amount.ci_high == pytest.approx(margin * high - shift, rel=1e-9, abs=1e-6)
    if spend + cost > 0:
        assert money.roi_net.ci_low * (spend + cost) == pytest.approx(
            money.profit_net.ci_low, rel=1e-9, abs=1e-6
        )
    else:
        assert money.roi_net is None


def test_the_sum_of_pointwise_limits_is_another_interval():
    # What an economics file must not be built from.
    paths = np.random.default_rng(2).normal(10.0, 5.0, (2000, 30))
    total = paths.sum(axis=1)
    money = estimate_economics(300.0, total, alpha=0.05, margin_rate=1.0)
    low, high = path_limits(paths, 0.05)
    assert (high - low).sum() > 3 * (money.revenue.ci_high - money.revenue.ci_low)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"margin_rate": 0.5}, "ZERO_DENOMINATOR"),
        ({"margin_rate": 0.5, "campaign_spend": -10.0}, "NOT_IDENTIFIED"),
        ({"margin_rate": None, "campaign_spend": 10.0}, "NOT_IDENTIFIED"),
    ],
)
def test_what_has_no_value_has_a_reason(given_, reason):
    money = estimate_economics(1000.0, DRAWS, alpha=0.05, **given_)
    assert money.roi_net is None
    assert money.roi_reason == reason
    assert (money.profit_net is None) == (given_["margin_rate"] is None)


@pytest.mark.parametrize(
    "given_",
    [
        {"margin_rate": 1.5},
        {"margin_rate": -0.1},
        {"margin_rate": 0.5, "campaign_spend": np.nan},
        {"margin_rate": 0.5, "incremental_cost": np.inf},
    ],
)
def test_values_that_make_no_sense_are_refused(given_):
    with pytest.raises(ValueError, match="need"):
        estimate_economics(1000.0, DRAWS, alpha=0.05, **given_)


@pytest.mark.parametrize(
    ("spend", "n_pre", "basis"),
    [([1.0, 2.0], 0, "total"), ([1.0, 2.0], 2, "total"), ([1.0, np.nan], 1, "total")],
)
def test_spend_needs_both_sides_and_every_period(spend, n_pre, basis):
    with pytest.raises(ValueError, match="periods of spend"):
        campaign_spend(np.array(spend), n_pre, basis)
    with pytest.raises(ValueError, match="basis"):
        campaign_spend(np.array([1.0, 2.0]), 1, "some")
