import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.bootstrap import (
    bootstrap_sums,
    bucket_sums,
    compare_by_bootstrap,
)
from experiments_dagster.stats.methods.units.hashing import (
    hash_counters,
    poisson_counts,
    unit_keys,
)
from experiments_dagster.stats.moments import ArmMoments


def make_units(seed=0, n=600, effect=0.3):
    rng = np.random.default_rng(seed)
    is_treated = rng.random(n) < 0.5
    return rng.exponential(size=n) + effect * is_treated, is_treated


def delta_method(y, is_treated, denominator=None):
    if denominator is None:
        arms = [ArmMoments.from_arrays(y=y[arm]) for arm in (~is_treated, is_treated)]
        return compare_means(*arms)
    return compare_ratios(
        *(
            ArmMoments.from_arrays(numerator=y[arm], denominator=denominator[arm])
            for arm in (~is_treated, is_treated)
        )
    )


@pytest.mark.parametrize("case", ["hillstrom_half_mens", "hillstrom_half_womens"])
@pytest.mark.parametrize("column", ["visit", "conversion"])
@pytest.mark.parametrize("scheme", ["units", "buckets"])
def test_reference_standard_errors_of_the_delta_method(reference, two_arms, case, column, scheme):
    expected = reference("fixed", case).expected
    control, treatment = two_arms(case)
    y = np.concatenate([control[column], treatment[column]])
    is_treated = np.arange(len(y)) >= len(control)
    result = compare_by_bootstrap(y, is_treated, replicates=2000, seed=1, scheme=scheme)
    welch, lift = expected[f"welch_{column}"], expected[f"rel_lift_{column}"]
    # METHODS 2.7: 5 %, three times the 1.6 % that 2,000 replicates leave. Bucketing adds its own
    # 1.6 % (two arms of 1,000 buckets).
    tolerance = 0.05 if scheme == "units" else 0.07
    assert result.difference.std_error == pytest.approx(welch["se"], rel=tolerance)
    assert result.difference.estimate == pytest.approx(welch["diff"], rel=1e-9)
    if column == "visit":
        # The delta method is no reference for the lift of conversions: 60 in control.
        assert result.relative.std_error == pytest.approx(lift["se_delta"], rel=tolerance)
    # Limits are order statistics near 2.5 %: their Monte-Carlo error is about 0.06 of the SE.
    for limit in ("ci_low", "ci_high"):
        assert getattr(result.difference, limit) == pytest.approx(
            welch[limit], abs=0.2 * welch["se"]
        )


@pytest.mark.parametrize("interval", ["percentile", "t"])
@pytest.mark.parametrize("scheme", ["units", "buckets"])
def test_ratio_agrees_with_the_delta_method(interval, scheme):
    rng = np.random.default_rng(1)
    sessions = rng.poisson(3, size=4000).astype(float)
    spend = sessions * rng.exponential(size=4000)
    is_treated = np.arange(4000) % 2 == 0
    live = delta_method(spend, is_treated, sessions)
    result = compare_by_bootstrap(
        spend,
        is_treated,
        statistic="ratio",
        denominator=sessions,
        seed=2,
        interval=interval,
        scheme=scheme,
    )
    for ours, theirs in ((result.difference, live.difference), (result.relative, live.relative)):
        assert ours.estimate == pytest.approx(theirs.estimate, rel=1e-9)
        assert ours.std_error == pytest.approx(theirs.std_error, rel=0.06)
        assert ours.ci_low == pytest.approx(theirs.ci_low, abs=0.2 * theirs.std_error)
        assert ours.ci_high == pytest.approx(theirs.ci_high, abs=0.2 * theirs.std_error)
        assert ours.interval == f"bootstrap_{interval}"


def test_bucketing_has_no_bias():
    y, is_treated = make_units(n=20_000)
    expected = delta_method(y, is_treated).difference.std_error
    errors = [
        compare_by_bootstrap(y, is_treated, seed=seed, scheme="buckets").difference.std_error
        for seed in range(30)
    ]
    # One bucketing is off by 2 %, the mean of 30 by 0.4 %.
    assert np.mean(errors) == pytest.approx(expected, rel=0.015)
    assert np.std(errors) < 0.04 * expected


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_partitions_add_up_to_the_whole(kind):
    rng = np.random.default_rng(0)
    # Whole numbers add without rounding, so that equality is exact.
    values = rng.integers(0, 50, size=(1500, 2))
    keys = np.arange(1500) * 7
    if kind == "strings":
        keys = np.array([f"user-{key}" for key in keys])
    parts = np.array_split(rng.permutation(1500), 7)
    sums = [bootstrap_sums(values[p], keys[p], replicates=300, seed=3) for p in parts]
    np.testing.assert_array_equal(sum(sums), bootstrap_sums(values, keys, replicates=300, seed=3))
    buckets = [bucket_sums(values[p], keys[p], seed=3) for p in parts]
    np.testing.assert_array_equal(sum(buckets), bucket_sums(values, keys, seed=3))


def test_more_replicates_extend_the_same_draws():
    values = np.arange(700.0)[:, None]
    few = bootstrap_sums(values, np.arange(700), replicates=100, seed=5)
    many = bootstrap_sums(values, np.arange(700), replicates=600, seed=5)
    np.testing.assert_array_equal(few, many[:100])
    assert not np.array_equal(few, bootstrap_sums(values, np.arange(700), replicates=100, seed=6))


def test_weights_are_poisson_and_independent():
    keys = unit_keys(np.arange(4000))
    weights = poisson_counts(hash_counters(keys, np.arange(250), seed=11)).astype(float)
    counts = np.bincount(weights.astype(int).ravel(), minlength=8)
    expected = weights.size * np.r_[stats.poisson(1).pmf(range(7)), stats.poisson(1).sf(6)]
    observed = np.r_[counts[:7], counts[7:].sum()]
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    by_unit, by_replicate = weights.mean(axis=1), weights.mean(axis=0)
    assert by_unit.var() * 250 == pytest.approx(1, abs=4 * np.sqrt(2 / 4000))
    assert by_replicate.var() * 4000 == pytest.approx(1, abs=4 * np.sqrt(2 / 250))
    for left, right in ((weights[1:], weights[:-1]), (weights[:, 1:], weights[:, :-1])):
        assert abs(np.mean((left - 1) * (right - 1))) < 4e-3


def test_poisson_steps_are_the_distribution_function():
    words = (stats.poisson(1).cdf(np.arange(12)) * 2.0**64).astype(np.uint64)
    gap = np.uint64(2**14)  # floats near 2**64 are 2**11 apart
    np.testing.assert_array_equal(poisson_counts(words - gap), np.arange(12))
    np.testing.assert_array_equal(poisson_counts(words + gap), np.arange(1, 13))


def test_hash_is_that_of_splitmix64():
    # The published stream from state 1234567, whose states are counters of one key.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    from experiments_dagster.stats.methods.units.hashing import GAMMA, mix

    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * GAMMA
    assert mix(states).tolist() == published


def test_keys_of_strings_do_not_depend_on_the_longest():
    short = unit_keys(["ab", "é", "日本"])
    long = unit_keys(["ab", "é", "日本", "x" * 40])
    np.testing.assert_array_equal(short, long[:3])
    many = unit_keys([f"{a}{b}" for a in "abcdefgh" for b in range(1000)])
    assert len(np.unique(many)) == 8000
    np.testing.assert_array_equal(unit_keys(np.array(["ab"], dtype=object)), short[:1])
    with pytest.raises(ValueError, match="unit ids"):
        unit_keys([0.5, 1.5])


@given(
    st.integers(0, 1000),
    st.floats(-0.4, 0.4),
    st.sampled_from(["percentile", "t"]),
    st.sampled_from([(1000, 0.05), (1999, 0.05), (1999, 0.1), (777, 0.3)]),
)
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(
    seed, effect, interval, replicates_alpha
):
    replicates, alpha = replicates_alpha
    y, is_treated = make_units(seed, n=100, effect=effect)
    contrast = compare_by_bootstrap(
        y, is_treated, seed=seed, replicates=replicates, alpha=alpha, interval=interval
    )
    for result in (contrast.difference, contrast.relative):
        assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)
        assert result.ci_low < result.ci_high


def test_limits_are_order_statistics_of_the_replicates():
    y, is_treated = make_units(n=200)
    result = compare_by_bootstrap(y, is_treated, seed=4, replicates=1999)
    keys = np.arange(200)
    means = []
    for arm in (~is_treated, is_treated):
        count, total = bootstrap_sums(y[arm][:, None], keys[arm], replicates=1999, seed=4).T
        means.append(total / count)
    draws, lifts = means[1] - means[0], means[1] / means[0] - 1
    # p < 0.05 where 48 or fewer of 1,999 draws lie beyond zero: the 49th is the limit.
    assert result.difference.ci_low == pytest.approx(np.sort(draws)[48], rel=1e-9)
    assert result.difference.ci_high == pytest.approx(np.sort(draws)[-49], rel=1e-9)
    assert result.relative.ci_low == pytest.approx(np.sort(lifts)[48], rel=1e-9)
    assert result.relative.std_error == pytest.approx(np.std(lifts, ddof=1), rel=1e-9)
    parts = [np.var(mean, ddof=1) for mean in means]
    assert (result.variance_control, result.variance_treatment) == pytest.approx(parts)
    # The limits of the lift are not those of the difference over the control mean.
    naive = result.difference.ci_high / result.difference.control_mean
    assert abs(naive / result.relative.ci_high - 1) > 0.01


def test_bootstrap_t_follows_the_skewness():
    rng = np.random.default_rng(3)
    y = np.r_[rng.lognormal(0, 1.5, size=100), rng.normal(0, 0.01, size=2000)]
    is_treated = np.arange(2100) < 100
    t = compare_by_bootstrap(y, is_treated, seed=0, interval="t").difference
    percentile = compare_by_bootstrap(y, is_treated, seed=0).difference
    # A right-skewed arm: the truth may lie far above, so the t interval reaches up.
    assert t.ci_high - t.estimate > 1.3 * (percentile.ci_high - percentile.estimate)
    assert t.std_error == percentile.std_error


def test_swap_scale_and_shift():
    y, is_treated = make_units()
    base = compare_by_bootstrap(y, is_treated, seed=1)
    swapped = compare_by_bootstrap(y, ~is_treated, seed=1).difference
    assert swapped.estimate == -base.difference.estimate
    assert (swapped.ci_low, swapped.p_value) == (-base.difference.ci_high, base.difference.p_value)
    scaled = compare_by_bootstrap(3 * y, is_treated, seed=1)
    assert scaled.difference.ci_low == pytest.approx(3 * base.difference.ci_low, rel=1e-9)
    assert scaled.relative.ci_low == pytest.approx(base.relative.ci_low, rel=1e-9)
    # 1e9 keeps seven decimals of the outcome.
    far = compare_by_bootstrap(y + 1e9, is_treated, seed=1).difference
    assert far.std_error == pytest.approx(base.difference.std_error, rel=1e-6)
    assert far.ci_low == pytest.approx(base.difference.ci_low, abs=1e-6)
    whole = np.round(8 * y)
    near = compare_by_bootstrap(whole, is_treated, seed=1).difference
    very_far = compare_by_bootstrap(whole + 1e15, is_treated, seed=1).difference
    assert very_far.std_error == pytest.approx(near.std_error, rel=1e-6)


def test_with_keys_row_order_does_not_matter():
    y, is_treated = make_units()
    keys = np.array([f"u{index}" for index in range(len(y))])
    base = compare_by_bootstrap(y, is_treated, unit_keys=keys, seed=1)
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = compare_by_bootstrap(y[order], is_treated[order], unit_keys=keys[order], seed=1)
    assert shuffled.difference.ci_low == pytest.approx(base.difference.ci_low, rel=1e-9)
    assert shuffled.difference.p_value == base.difference.p_value


def test_rows_of_one_key_are_one_unit():
    y, is_treated = make_units(n=400)
    base = compare_by_bootstrap(y, is_treated, unit_keys=np.arange(400), seed=1)
    doubled = compare_by_bootstrap(
        np.r_[y, y], np.r_[is_treated, is_treated], unit_keys=np.tile(np.arange(400), 2), seed=1
    )
    assert doubled.difference.n_control == base.difference.n_control
    assert doubled.difference.std_error == pytest.approx(base.difference.std_error, rel=1e-9)
    # The wrong twin takes rows for units: its error shrinks by the root of two.
    rows = compare_by_bootstrap(np.r_[y, y], np.r_[is_treated, is_treated], seed=1)
    assert rows.difference.std_error < 0.8 * base.difference.std_error


def test_lift_is_absent_where_the_control_value_may_be_zero():
    y, is_treated = make_units(n=300)
    centred = compare_by_bootstrap(y - y[~is_treated].mean() + 0.01, is_treated, seed=1)
    assert centred.relative is None
    assert centred.relative_reason == "NOT_IDENTIFIED"
    zero = compare_by_bootstrap(np.where(is_treated, y, 0.0), is_treated, seed=1)
    assert zero.relative is None
    assert zero.relative_reason == "ZERO_DENOMINATOR"
    negative = compare_by_bootstrap(-y, is_treated, seed=1)
    assert negative.relative.estimate == pytest.approx(
        negative.difference.estimate / -negative.difference.control_mean
    )


def test_not_estimable():
    y, is_treated = make_units(n=100)
    for values, mask, code in (
        (np.where(np.arange(100) == 1, np.nan, y), is_treated, "NON_FINITE_INPUT"),
        (y, np.zeros(100), "EMPTY_ARM"),
        (y, np.arange(100) == 0, "N_TOO_SMALL"),
        # Two units are drawn zero times in 14 % of the replicates.
        (y, np.arange(100) < 2, "N_TOO_SMALL"),
        (np.full(100, 0.1), is_treated, "ZERO_VARIANCE"),
        (np.where(is_treated, 0.3, 0.1), is_treated, "ZERO_VARIANCE"),
    ):
        with pytest.raises(EstimationError) as error:
            compare_by_bootstrap(values, mask, seed=1)
        assert error.value.code == code
    options = {"seed": 1, "statistic": "ratio"}
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        compare_by_bootstrap(y, is_treated, denominator=-np.ones(100), **options)
    with pytest.raises(EstimationError, match=r"treatment.*ZERO_DENOMINATOR"):
        compare_by_bootstrap(y, is_treated, denominator=1.0 - is_treated, **options)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        compare_by_bootstrap(np.arange(100) == 7, np.arange(100) % 2, seed=1, interval="t")


def test_misuse_is_a_bug_not_a_result():
    y, is_treated = make_units(n=100)
    with pytest.raises(ValueError, match="replicates is 999, need 1000"):
        compare_by_bootstrap(y, is_treated, seed=1, replicates=999)
    with pytest.raises(ValueError, match=r"need 5000 at alpha 0\.01"):
        compare_by_bootstrap(y, is_treated, seed=1, alpha=0.01)
    with pytest.raises(ValueError, match="denominator"):
        compare_by_bootstrap(y, is_treated, seed=1, statistic="ratio")
    with pytest.raises(ValueError, match="denominator"):
        compare_by_bootstrap(y, is_treated, seed=1, denominator=y)
    with pytest.raises(ValueError, match="denominator has 99"):
        compare_by_bootstrap(y, is_treated, seed=1, statistic="ratio", denominator=y[:99])
    with pytest.raises(ValueError, match="both arms"):
        compare_by_bootstrap(y, np.arange(100) % 2, unit_keys=np.arange(100) // 2, seed=1)
    with pytest.raises(ValueError, match="unit_keys have 99"):
        compare_by_bootstrap(y, is_treated, unit_keys=np.arange(99), seed=1)


@pytest.mark.alone
@pytest.mark.parametrize("statistic", ["mean", "ratio"])
def test_a_million_units_by_buckets_take_less_than_a_second(statistic):
    rng = np.random.default_rng(0)
    y, is_treated = rng.exponential(size=1_000_000), rng.random(1_000_000) < 0.5
    denominator = rng.poisson(3, size=1_000_000) * 1.0 if statistic == "ratio" else None
    keys = rng.permutation(1_000_000)
    started = time.perf_counter()
    compare_by_bootstrap(
        y,
        is_treated,
        unit_keys=keys,
        statistic=statistic,
        denominator=denominator,
        scheme="buckets",
        seed=1,
    )
    # 0.17 s on the build machine.
    assert time.perf_counter() - started < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["percentile", "t"])
def test_size_is_nominal_in_aa_tests(monte_carlo_band, interval):
    rng = np.random.default_rng(12)
    runs, rejected = 1000, 0
    for run in range(runs):
        y = rng.exponential(size=400)
        result = compare_by_bootstrap(
            y, np.arange(400) % 2 == 0, seed=run, replicates=1000, interval=interval
        )
        rejected += result.difference.p_value < 0.05
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejected / runs <= high
