import numpy as np
import pytest
import scipy.stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.covariates import design_columns
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.post_stratified import compare_post_stratified


def make_units(seed=0, n=400, effect=0.3):
    rng = np.random.default_rng(seed)
    strata = rng.choice(["a", "b", "c", "d"], n, p=[0.4, 0.3, 0.2, 0.1])
    is_treated = rng.random(n) < 0.4
    level = np.select([strata == "a", strata == "b", strata == "c"], [0.0, 2.0, 5.0], 9.0)
    y = level + effect * is_treated * (1 + level) + rng.exponential(size=n)
    return y, is_treated, strata


def by_definition(y, is_treated, strata):
    """METHODS 3.5 stratum by stratum."""
    n, estimate, within, squares = len(y), 0.0, 0.0, 0.0
    for level in np.unique(strata):
        inside = strata == level
        treated, control = y[inside & is_treated], y[inside & ~is_treated]
        effect, weight = treated.mean() - control.mean(), inside.sum() / n
        estimate += weight * effect
        squares += weight * effect**2
        within += weight**2 * (
            treated.var(ddof=1) / len(treated) + control.var(ddof=1) / len(control)
        )
    return estimate, within, within + (squares - estimate**2) / n


def test_estimate_and_variance_by_definition():
    y, is_treated, strata = make_units()
    result = compare_post_stratified(y, is_treated, strata)
    estimate, _, variance = by_definition(y, is_treated, strata)
    assert result.contrast.difference.estimate == pytest.approx(estimate, rel=1e-12)
    assert result.contrast.difference.std_error**2 == pytest.approx(variance, rel=1e-12)
    assert result.strata == (("a",), ("b",), ("c",), ("d",))
    assert result.n_strata == 4


def test_scores_square_to_the_variance_and_sum_to_zero():
    result = compare_post_stratified(*make_units())
    difference = result.contrast.difference
    assert np.square(result.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-12)
    assert result.scores.sum() == pytest.approx(0.0, abs=1e-12)
    assert result.contrast.variance_control + result.contrast.variance_treatment == pytest.approx(
        difference.std_error**2, rel=1e-12
    )


def test_one_stratum_is_welch():
    y, is_treated, _ = make_units()
    difference = compare_post_stratified(y, is_treated, np.zeros(len(y), int)).contrast.difference
    live = scipy.stats.ttest_ind(y[is_treated], y[~is_treated], equal_var=False)
    interval = live.confidence_interval()
    assert difference.p_value == pytest.approx(live.pvalue, rel=1e-9)
    assert difference.degrees_of_freedom == pytest.approx(live.df, rel=1e-9)
    assert difference.ci_low == pytest.approx(interval.low, rel=1e-9)


def test_with_saturated_dummies_lin_gives_the_same_estimate():
    y, is_treated, strata = make_units()
    matrix, names = design_columns({}, {"s": strata})
    lin = compare_adjusted(y, is_treated, matrix, names=names)
    result = compare_post_stratified(y, is_treated, strata)
    _, within, _ = by_definition(y, is_treated, strata)
    assert result.contrast.difference.estimate == pytest.approx(
        lin.adjusted.difference.estimate, rel=1e-9
    )
    # HC2 in a cell of n units divides by 1 − 1/n: it is the within-stratum part exactly.
    assert lin.adjusted.difference.std_error**2 == pytest.approx(within, rel=1e-9)
    superpop = compare_adjusted(
        y, is_treated, matrix, names=names, variance_formula="lin_superpop"
    ).adjusted.difference
    assert result.contrast.difference.std_error == pytest.approx(superpop.std_error, rel=1e-9)
    np.testing.assert_allclose(
        result.contrast.relative.std_error,
        compare_adjusted(
            y, is_treated, matrix, names=names, variance_formula="lin_superpop"
        ).adjusted.relative.std_error,
        rtol=1e-9,
    )


def test_degrees_of_freedom_are_satterthwaites_over_the_cells():
    y, is_treated, strata = make_units(n=200)
    parts, sizes = [], []
    for level in np.unique(strata):
        for arm in (True, False):
            cell = y[(strata == level) & (is_treated == arm)]
            parts.append(np.mean(strata == level) ** 2 * cell.var(ddof=1) / len(cell))
            sizes.append(len(cell))
    expected = sum(parts) ** 2 / sum(v**2 / (m - 1) for v, m in zip(parts, sizes, strict=True))
    difference = compare_post_stratified(y, is_treated, strata).contrast.difference
    assert difference.degrees_of_freedom == pytest.approx(expected, rel=1e-9)


def test_invariances():
    y, is_treated, strata = make_units()
    base = compare_post_stratified(y, is_treated, strata)
    difference = base.contrast.difference
    swapped = compare_post_stratified(y, ~is_treated, strata)
    assert swapped.contrast.difference.estimate == pytest.approx(-difference.estimate, rel=1e-12)
    np.testing.assert_allclose(swapped.scores, -base.scores, rtol=1e-9, atol=1e-16)
    moved = compare_post_stratified(1000 * y + 1e9, is_treated, strata).contrast.difference
    assert moved.estimate == pytest.approx(1000 * difference.estimate, rel=1e-6)
    assert moved.std_error == pytest.approx(1000 * difference.std_error, rel=1e-6)
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = compare_post_stratified(y[order], is_treated[order], strata[order])
    np.testing.assert_allclose(shuffled.scores, base.scores[order], rtol=1e-9, atol=1e-16)
    codes = np.unique(strata, return_inverse=True)[1]
    assert compare_post_stratified(y, is_treated, codes).contrast.difference == difference


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(alpha):
    for seed in range(40):
        units = make_units(seed, n=120, effect=0.1)
        result = compare_post_stratified(*units, alpha=alpha).contrast.difference
        assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def cells(*counts):
    """Strata 0, 1, ... with the given numbers of control and treated units."""
    strata = np.concatenate([[k] * (c + t) for k, (c, t) in enumerate(counts)]).astype(int)
    is_treated = np.concatenate([[0] * c + [1] * t for c, t in counts]).astype(bool)
    y = np.random.default_rng(0).normal(size=len(strata)) + strata
    return y, is_treated, strata


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([(5, 5), (5, 1), (5, 5)], (("0", "1"), ("2",))),
        ([(0, 3), (5, 5), (5, 5)], (("0", "1"), ("2",))),
        ([(5, 5), (5, 5), (1, 0)], (("0",), ("1", "2"))),
        ([(2, 0), (0, 2), (5, 5)], (("0", "1"), ("2",))),
        ([(1, 0), (1, 0), (0, 2), (5, 5)], (("0", "1", "2"), ("3",))),
        ([(2, 0), (0, 1), (0, 1)], (("0", "1", "2"),)),
        ([(2, 2), (2, 2)], (("0",), ("1",))),
    ],
)
def test_cells_without_two_units_are_merged_with_a_neighbour(counts, expected):
    y, is_treated, strata = cells(*counts)
    result = compare_post_stratified(y, is_treated, strata)
    assert result.strata == expected
    names = {level: group for group, levels in enumerate(expected) for level in levels}
    merged = np.array([names[str(level)] for level in strata])
    assert result.contrast == compare_post_stratified(y, is_treated, merged).contrast


def test_the_declared_order_says_who_is_near():
    y, is_treated, strata = make_units()
    age = np.select([strata == "a", strata == "b", strata == "c"], ["young", "old", "middle"], "x")
    keep = (age != "x") & ~((age == "middle") & is_treated)
    y, is_treated, age = y[keep], is_treated[keep], age[keep]
    sorted_order = compare_post_stratified(y, is_treated, age)
    declared = compare_post_stratified(y, is_treated, age, order=["young", "middle", "old"])
    assert sorted_order.strata == (("middle", "old"), ("young",))
    assert declared.strata == (("young", "middle"), ("old",))
    assert sorted_order.contrast.difference.estimate != declared.contrast.difference.estimate
    with_empty = compare_post_stratified(
        y, is_treated, age, order=["young", "a level without units", "middle", "old"]
    )
    assert with_empty.contrast.difference.estimate == pytest.approx(
        declared.contrast.difference.estimate, rel=1e-12
    )


def test_a_missing_stratum_is_a_level():
    y, is_treated, strata = make_units()
    labels = np.where(strata == "d", None, strata)
    result = compare_post_stratified(y, is_treated, labels)
    assert result.strata == (("a",), ("b",), ("c",), ("missing",))


def test_refusals():
    y, is_treated, strata = make_units(n=60)
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        compare_post_stratified(y, np.zeros(60), strata)
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        compare_post_stratified(y, np.arange(60) == 0, strata)
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        compare_post_stratified(np.where(is_treated, np.inf, y), is_treated, strata)
    # Constant cells though not one constant, with a mean that rounds.
    constant = np.where(is_treated, 0.1, 0.3) + np.where(strata == "a", 1e6 / 3, 0.0)
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        compare_post_stratified(constant, is_treated, strata)
    with pytest.raises(ValueError, match="strata have shape"):
        compare_post_stratified(y, is_treated, strata[:-1])
    for order in (["a", "b", "c"], ["a", "b", "c", "d", "d"], []):
        with pytest.raises(ValueError, match="needs each of the levels"):
            compare_post_stratified(y, is_treated, strata, order=order)


@pytest.mark.slow
def test_coverage_with_random_strata_sizes(monte_carlo_band):
    # The effect differs between strata: without the term of the weights coverage falls short.
    runs, covered, short = 2000, 0, 0
    truth = 4 * 0.5
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        strata = rng.random(200) < 0.5
        is_treated = rng.random(200) < 0.5
        y = 4.0 * strata * is_treated + 0.5 * rng.normal(size=200)
        difference = compare_post_stratified(y, is_treated, strata).contrast.difference
        covered += difference.ci_low <= truth <= difference.ci_high
        narrow = np.sqrt(by_definition(y, is_treated, strata)[1])
        short += abs(difference.estimate - truth) <= 1.96 * narrow
    low, high = monte_carlo_band(0.95, runs)
    assert low <= covered / runs <= high
    assert short / runs < 0.9
