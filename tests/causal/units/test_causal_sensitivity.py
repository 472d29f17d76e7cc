"""E-values and Rosenbaum bounds against exact enumeration and published tables."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, norm, rankdata, wilcoxon

from experiments_dagster.causal.units.sensitivity import (
    e_value,
    e_value_of_difference,
    rosenbaum_mcnemar,
    rosenbaum_signed_rank,
)
from experiments_dagster.stats.errors import EstimationError


def test_the_e_value_is_where_the_bias_factor_reaches_the_ratio():
    """Two equal associations of that size explain it: E²/(2E − 1) = RR."""
    for ratio in (1.2, 2.0, 3.9, 40.0):
        found = e_value(ratio).e_value
        assert found**2 / (2 * found - 1) == pytest.approx(ratio, rel=1e-12)
        assert e_value(1 / ratio).e_value == pytest.approx(found, rel=1e-12)
    assert e_value(1.0).e_value == 1


def test_the_interval_counts_by_its_limit_nearer_to_one():
    assert e_value(0.5, (0.4, 0.8)).e_value_interval == pytest.approx(e_value(0.8).e_value)
    assert e_value(1.5, (0.9, 2.4)).e_value_interval == 1
    assert e_value(1.5).e_value_interval is None


def test_conversions():
    """Formulas of table 2 of VanderWeele and Ding; rare odds ratios are risk ratios."""
    assert e_value(4.0, scale="odds_ratio_common").risk_ratio == pytest.approx(2)
    assert e_value(4.0, scale="odds_ratio_rare").risk_ratio == 4
    hazard = e_value(2.0, scale="hazard_ratio_common").risk_ratio
    assert hazard == pytest.approx((1 - 0.5**2**0.5) / (1 - 0.5**0.5**0.5), rel=1e-12)
    assert e_value(1.0, scale="hazard_ratio_common").risk_ratio == pytest.approx(1)
    result = e_value_of_difference(-1.0, 0.2, 2.0)
    assert result.risk_ratio == pytest.approx(np.exp(-0.455))
    assert result.e_value_interval == pytest.approx(e_value(np.exp(-0.455 + 0.178)).e_value)
    assert result.conversion == "standardised_difference"


def test_without_hidden_bias_the_bounds_are_the_signed_rank_test():
    d = np.random.default_rng(2).standard_normal(60) + 0.3
    bound = rosenbaum_signed_rank(d, gammas=[1.0]).bounds[0]
    theirs = wilcoxon(d, alternative="greater", correction=False, method="asymptotic").pvalue
    assert bound.p_low == bound.p_high == pytest.approx(theirs, rel=1e-10)


def test_bounds_are_close_to_exact_enumeration():
    d = np.array([3.1, 2.2, 4.0, -0.4, 1.7, 5.2, 2.9, -1.1, 3.6, 0.9, 2.5, 4.4])
    ranks = rankdata(np.abs(d))
    statistic = ranks[d > 0].sum()
    q = 2 / 3
    exact = sum(
        q ** sum(signs) * (1 - q) ** (12 - sum(signs))
        for signs in itertools.product((0, 1), repeat=12)
        if np.dot(signs, ranks) >= statistic
    )
    # The normal approximation without continuity correction, at twelve pairs.
    assert rosenbaum_signed_rank(d, gammas=[2]).bounds[0].p_high == pytest.approx(exact, abs=0.02)


def test_zeros_leave_and_scale_does_not_matter():
    d = np.array([1.0, 2, 3, -1, 4, 2, 2, 5])
    base = rosenbaum_signed_rank(d)
    assert rosenbaum_signed_rank(np.r_[d * 7, 0, 0]).bounds == base.bounds
    assert base.n_pairs == 8


def test_bounds_widen_with_gamma_and_the_largest_gamma_is_on_the_line():
    d = np.random.default_rng(7).standard_normal(100) + 0.6
    result = rosenbaum_signed_rank(d)
    highs, lows = ([getattr(b, k) for b in result.bounds] for k in ("p_high", "p_low"))
    assert highs == sorted(highs)
    assert lows == sorted(lows, reverse=True)
    at_limit = rosenbaum_signed_rank(d, gammas=[result.largest_gamma])
    assert at_limit.bounds[0].p_high == pytest.approx(0.05, abs=1e-9)


def test_an_effect_that_is_none_has_no_largest_gamma():
    d = np.random.default_rng(7).standard_normal(100)
    assert rosenbaum_signed_rank(d - 0.5).largest_gamma is None
    assert rosenbaum_mcnemar(20, 10).largest_gamma is None


def test_mcnemar_gives_the_published_table():
    """Rosenbaum 2002, table 4.1: smoking and lung cancer, 110 of 122 discordant pairs."""
    result = rosenbaum_mcnemar(122, 110, gammas=[4, 5, 6])
    highs = [bound.p_high for bound in result.bounds]
    # The table approximates by a normal with continuity correction; the binomial is exact.
    for gamma, high, published in zip((4, 5, 6), highs, (0.0036, 0.03, 0.1), strict=True):
        q = gamma / (1 + gamma)
        z = (109.5 - 122 * q) / np.sqrt(122 * q * (1 - q))
        assert norm.sf(z) == pytest.approx(published, rel=0.05)
        assert high == pytest.approx(published, abs=1e-2)
    assert highs == pytest.approx([binom.sf(109, 122, g / (1 + g)) for g in (4, 5, 6)], rel=1e-9)
    assert 5 < result.largest_gamma < 6


@pytest.mark.parametrize(
    "call",
    [
        lambda: e_value(0.0),
        lambda: e_value(2.0, (2.5, 3.0)),
        lambda: e_value_of_difference(1.0, 0.1, 0.0),
        lambda: rosenbaum_signed_rank([1.0, 2.0], gammas=[0.5]),
        lambda: rosenbaum_mcnemar(5, 6),
    ],
)
def test_senseless_numbers_raise(call):
    with pytest.raises(ValueError, match=r"need|outside"):
        call()


@pytest.mark.parametrize(
    "call", [lambda: rosenbaum_signed_rank([0.0, 0.0]), lambda: rosenbaum_mcnemar(0, 0)]
)
def test_no_pair_to_compare_is_refused(call):
    with pytest.raises(EstimationError) as caught:
        call()
    assert caught.value.code == "N_TOO_SMALL"
