import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.units.permutation import permutation_test
from experiments_dagster.stats.moments import ArmMoments


def make_units(seed, n=14, n_treatment=6, effect=0.5):
    rng = np.random.default_rng(seed)
    is_treated = rng.permutation(n) < n_treatment
    return np.round(rng.exponential(size=n), 2) + effect * is_treated, is_treated


def welch_t(treatment, control, axis=-1):
    variance = treatment.var(axis=axis, ddof=1) / treatment.shape[axis]
    variance = variance + control.var(axis=axis, ddof=1) / control.shape[axis]
    return (treatment.mean(axis=axis) - control.mean(axis=axis)) / np.sqrt(variance)


@pytest.mark.parametrize(("right", "extreme"), [(4, 2), (3, 34), (2, 70)])
def test_lady_tasting_tea(right, extreme):
    # Fisher 1935: 8 cups, 4 with milk first; 1, 16, 36, 16, 1 of the 70 ways have 4, 3, ... right.
    said = np.array([1] * right + [0] * (4 - right) + [1] * (4 - right) + [0] * right)
    result = permutation_test(said, [1] * 4 + [0] * 4, seed=0, statistic="difference")
    assert result.is_exact
    assert result.p_value * 70 == pytest.approx(extreme)
    studentised = permutation_test(said, [1] * 4 + [0] * 4, seed=0)
    assert studentised.p_value == result.p_value


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("statistic", ["studentised", "difference"])
def test_enumeration_is_that_of_scipy(seed, statistic):
    y, is_treated = make_units(seed)

    def absolute(treatment, control, axis):
        if statistic == "studentised":
            return np.abs(welch_t(treatment, control, axis))
        return np.abs(treatment.mean(axis=axis) - control.mean(axis=axis))

    live = stats.permutation_test(
        (y[is_treated], y[~is_treated]),
        absolute,
        vectorized=True,
        n_resamples=np.inf,
        alternative="greater",
    )
    result = permutation_test(y, is_treated, seed=0, statistic=statistic)
    assert result.is_exact
    assert result.replicates == 3003
    assert result.p_value == pytest.approx(live.pvalue, rel=1e-12)


def test_statistic_is_welchs():
    y, is_treated = make_units(3, n=50, n_treatment=20)
    result = permutation_test(y, is_treated, seed=0, replicates=9)
    welch = compare_means(
        ArmMoments.from_arrays(y=y[~is_treated]), ArmMoments.from_arrays(y=y[is_treated])
    ).difference
    assert result.estimate == pytest.approx(welch.estimate, rel=1e-12)
    assert result.std_error == pytest.approx(welch.std_error, rel=1e-12)
    assert result.statistic == pytest.approx(welch.estimate / welch.std_error, rel=1e-12)
    assert result.control_mean == pytest.approx(welch.control_mean)
    assert (result.n_control, result.n_treatment) == (30, 20)


def test_draws_agree_with_enumeration():
    y, is_treated = make_units(5, n=22, n_treatment=9, effect=0.6)
    drawn = permutation_test(y, is_treated, seed=1, replicates=40_000)
    assert not drawn.is_exact
    combos = np.array(list(itertools.combinations(range(22), 9)))
    masks = np.zeros((len(combos), 22), dtype=bool)
    masks[np.arange(len(combos))[:, None], combos] = True
    sums, squares = masks @ y, masks @ y**2
    rest, rest_squares = y.sum() - sums, (y**2).sum() - squares
    variance = (squares / 9 - (sums / 9) ** 2) / 8 + (rest_squares / 13 - (rest / 13) ** 2) / 12
    t = np.abs(sums / 9 - rest / 13) / np.sqrt(variance)
    exact = np.mean(t >= abs(drawn.statistic) * (1 - 1e-9))
    assert drawn.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))


def test_pairs_are_the_sign_flip_test():
    rng = np.random.default_rng(2)
    first = rng.exponential(size=10)
    second = first + rng.normal(0.5, 1, size=10)
    y, blocks = np.r_[first, second], np.r_[np.arange(10), np.arange(10)]
    is_treated = np.arange(20) >= 10
    gaps = second - first
    flips = np.array(list(itertools.product([-1, 1], repeat=10))) * gaps
    # |mean| orders sign flips as the paired t does.
    means = np.abs(flips.mean(axis=1))
    expected = np.mean(means >= abs(gaps.mean()) * (1 - 1e-9))
    for statistic in ("studentised", "difference"):
        result = permutation_test(
            y, is_treated, blocks=blocks.astype(str), seed=0, statistic=statistic
        )
        assert result.replicates == 1024
        assert result.p_value == pytest.approx(expected, rel=1e-12)
        assert result.estimate == pytest.approx(gaps.mean(), rel=1e-12)
    ignored = permutation_test(y, is_treated, seed=0, replicates=999)
    assert ignored.std_error > result.std_error


@pytest.mark.parametrize("statistic", ["studentised", "difference"])
def test_blocks_by_hand_enumeration_against_a_regression(statistic):
    import statsmodels.api as sm

    rng = np.random.default_rng(8)
    sizes, treated = [4, 5, 3], [2, 1, 2]
    blocks = np.repeat([7, 1, 4], sizes)
    y = rng.exponential(size=12) + 3 * (blocks == 1)

    def effect(mask):
        design = np.column_stack([mask, *(blocks == b for b in (7, 1, 4))]).astype(float)
        fit = sm.OLS(y, design).fit()
        share = design[:, 1:] @ [2 / 4, 1 / 5, 2 / 3]
        weights = mask - share
        correction = np.where(mask, 5 / 4, 7 / 6)
        variance = np.sum(correction * (weights * fit.resid) ** 2) / np.sum(weights**2) ** 2
        return fit.params[0], np.sqrt(variance) if statistic == "studentised" else 1.0

    choices = [
        itertools.combinations(np.flatnonzero(blocks == b), k)
        for b, k in zip((7, 1, 4), treated, strict=True)
    ]
    masks = [np.isin(np.arange(12), sum(parts, ())) for parts in itertools.product(*choices)]
    everything = np.array([effect(mask) for mask in masks])
    t = np.abs(everything[:, 0] / everything[:, 1])
    result = permutation_test(y, masks[17], blocks=blocks, seed=0, statistic=statistic)
    assert result.replicates == len(masks) == 90
    assert result.estimate == pytest.approx(everything[17, 0], rel=1e-10)
    assert abs(result.statistic) == pytest.approx(t[17], rel=1e-10)
    assert result.p_value == pytest.approx(np.mean(t >= t[17] * (1 - 1e-9)), rel=1e-12)


def test_draws_within_blocks_agree_with_enumeration():
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(5), 4)
    is_treated = np.tile([True, True, False, False], 5)
    y = rng.normal(size=20) + blocks + 0.8 * is_treated
    exact = permutation_test(y, is_treated, blocks=blocks, seed=0)
    assert exact.replicates == 6**5
    # A sixth block pushes the count past the limit; equal outcomes there add nothing to Δ.
    more = permutation_test(
        np.r_[y, np.zeros(4)],
        np.r_[is_treated, [True, True, False, False]],
        blocks=np.r_[blocks, np.full(4, 9)],
        seed=1,
        replicates=40_000,
        statistic="difference",
    )
    expected = permutation_test(y, is_treated, blocks=blocks, seed=0, statistic="difference")
    assert not more.is_exact
    assert more.p_value == pytest.approx(
        expected.p_value, abs=4 * np.sqrt(expected.p_value / 40_000)
    )


def test_blocks_with_one_arm_are_left_out():
    y, is_treated = make_units(1)
    alone = permutation_test(
        np.r_[y, 50.0, 60.0], np.r_[is_treated, True, True], blocks=[0] * 14 + [1, 1], seed=0
    )
    assert alone == permutation_test(y, is_treated, seed=0)
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        permutation_test(y, is_treated, blocks=is_treated.astype(int), seed=0)


def test_whole_clusters_are_drawn():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(8), [3, 1, 4, 2, 2, 5, 3, 2])
    y = rng.normal(size=len(clusters)) + clusters
    is_treated = clusters % 2 == 1
    means = np.array([y[clusters == c].mean() for c in range(8)])
    expected = permutation_test(means, np.arange(8) % 2 == 1, seed=0)
    names = np.array(list("hgfedcba"))[clusters]
    result = permutation_test(y, is_treated, clusters=names, seed=0)
    assert result.replicates == 70
    assert (result.n_control, result.n_treatment) == (4, 4)
    assert result.p_value == expected.p_value
    assert result.estimate == pytest.approx(expected.estimate, rel=1e-12)


def test_bernoulli_draws_vary_the_counts():
    y, is_treated = make_units(4, n=200, n_treatment=80, effect=0.0)
    base = permutation_test(y, is_treated, seed=0, replicates=20_000)
    bernoulli = permutation_test(y, is_treated, seed=0, replicates=20_000, treatment_share=0.4)
    assert bernoulli.p_value != base.p_value
    # Studentised, the two mechanisms agree in large samples; 0.02 is 4 Monte-Carlo errors.
    assert bernoulli.p_value == pytest.approx(base.p_value, abs=0.02)
    tiny = permutation_test([1, 2, 3, 4], [1, 1, 0, 0], seed=0, treatment_share=0.5)
    assert not tiny.is_exact
    # Of the 6 splits in halves, which are all that remain, 2 are as extreme.
    assert tiny.p_value == pytest.approx(1 / 3, abs=0.02)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.integers(-1000, 1000))
def test_swap_scale_shift_and_order(seed, scale, shift):
    y, is_treated = make_units(seed, n=9, n_treatment=4)
    base = permutation_test(y, is_treated, seed=0)
    swapped = permutation_test(y, ~is_treated, seed=0)
    assert swapped.p_value == base.p_value
    assert swapped.estimate == pytest.approx(-base.estimate, rel=1e-9, abs=1e-12)
    moved = permutation_test(scale * (y + shift), is_treated, seed=0)
    assert moved.p_value == base.p_value
    order = np.random.default_rng(seed).permutation(9)
    assert permutation_test(y[order], is_treated[order], seed=0).p_value == base.p_value


@pytest.mark.parametrize("offset", [1e9, 1e15])
def test_offsets_do_not_matter(offset):
    y, is_treated = make_units(2)
    y = np.round(8 * y)
    far = permutation_test(y + offset, is_treated, seed=0)
    assert far.p_value == permutation_test(y, is_treated, seed=0).p_value


def test_perfect_separation_has_a_p_value_and_no_statistic():
    result = permutation_test([0.1] * 5 + [0.3] * 5, [0] * 5 + [1] * 5, seed=0)
    assert result.statistic is None
    assert result.std_error == 0
    assert result.p_value == pytest.approx(2 / 252)
    nearly = permutation_test(
        np.r_[np.arange(5) * 1e-7, 1 + np.arange(5) * 1e-7], [0] * 5 + [1] * 5, seed=0
    )
    assert nearly.p_value == pytest.approx(2 / 252)


def test_same_seed_same_result_and_never_zero():
    y, is_treated = make_units(0, n=400, n_treatment=100, effect=5.0)
    first = permutation_test(y, is_treated, seed=9, replicates=199)
    assert first == permutation_test(y, is_treated, seed=9, replicates=199)
    assert first.p_value == 1 / 200


def test_not_estimable():
    y, is_treated = make_units(0)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        permutation_test(np.full(14, 0.1), is_treated, seed=0)
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        permutation_test(y, np.zeros(14), seed=0)
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        permutation_test(y, np.arange(14) == 0, seed=0)
    with pytest.raises(EstimationError, match=r"N_TOO_SMALL"):
        permutation_test(y, is_treated, clusters=is_treated.astype(int), seed=0)
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        permutation_test(np.r_[y[:13], np.nan], is_treated, seed=0)
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        permutation_test(y, is_treated, seed=0, treatment_share=1e-6)


def test_misuse_is_a_bug_not_a_result():
    y, is_treated = make_units(0)
    with pytest.raises(ValueError, match="arm changes within a cluster"):
        permutation_test(y, is_treated, clusters=np.arange(14) // 7, seed=0)
    with pytest.raises(ValueError, match="block changes within a cluster"):
        permutation_test(
            y, np.arange(14) >= 6, clusters=np.arange(14) // 2, blocks=np.arange(14) % 2, seed=0
        )
    with pytest.raises(ValueError, match="blocks of type"):
        permutation_test(y, is_treated, blocks=np.arange(13), seed=0)
    with pytest.raises(ValueError, match="one or the other"):
        permutation_test(y, is_treated, blocks=np.zeros(14, int), treatment_share=0.5, seed=0)
    with pytest.raises(ValueError, match="share"):
        permutation_test(y, is_treated, treatment_share=1.0, seed=0)
    with pytest.raises(ValueError, match="replicates"):
        permutation_test(y, is_treated, replicates=0, seed=0)


def rejection_rate(statistic, runs):
    """Equal means, unequal variances and sizes: the sharp null is false, the weak one true."""
    rng = np.random.default_rng(1)
    is_treated = np.arange(400) < 80
    count = 0
    for run in range(runs):
        y = rng.normal(size=400) * np.where(is_treated, 4.0, 1.0)
        result = permutation_test(y, is_treated, seed=run, replicates=199, statistic=statistic)
        count += result.p_value <= 0.05
    return count / runs


@pytest.mark.slow
def test_studentised_keeps_its_size_where_the_plain_difference_does_not(monte_carlo_band):
    low, high = monte_carlo_band(0.05, 2000)
    assert low <= rejection_rate("studentised", 2000) <= high
    assert rejection_rate("difference", 300) > 0.15


def test_size_under_the_sharp_null(monte_carlo_band):
    rng = np.random.default_rng(6)
    is_treated = np.arange(10) < 4
    p_values = [
        permutation_test(rng.lognormal(size=10), is_treated, seed=0).p_value for _ in range(4000)
    ]
    # Exact: of 210 assignments the 10 most extreme make 0.0476.
    low, high = monte_carlo_band(10 / 210, 4000)
    assert low <= np.mean(np.array(p_values) <= 0.05) <= high
