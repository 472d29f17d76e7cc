from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import welch_df
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.cluster_robust import cr1, cr2
from experiments_dagster.stats.methods.units.clustered import compare_clustered
from experiments_dagster.stats.moments import ArmMoments

# Two numerically different routes to the same linear algebra.
ALGEBRA = 1e-9


def make_rows(n_clusters, seed=0, effect=0.3, rows=6):
    rng = np.random.default_rng(seed)
    sizes = 2 + rng.poisson(rows, n_clusters)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    treated = rng.permutation(n_clusters) < n_clusters // 2
    y = 5 + rng.normal(size=n_clusters)[clusters] + rng.exponential(size=len(clusters))
    return y + effect * treated[clusters], treated[clusters], clusters


def make_regression(seed=0, n_clusters=9, p=3):
    rng = np.random.default_rng(seed)
    sizes = 1 + rng.poisson(4, n_clusters)
    clusters = rng.permutation(np.repeat(np.arange(n_clusters), sizes))
    n = len(clusters)
    level = rng.normal(size=(n_clusters, p - 1))[clusters]
    design = np.column_stack([np.ones(n), level + 0.5 * rng.normal(size=(n, p - 1))])
    y = design @ rng.normal(size=p) + rng.normal(size=n_clusters)[clusters] + rng.normal(size=n)
    return y, design, clusters


def dense_bell_mccaffrey(y, design, clusters, contrast):
    """Equations of Bell & McCaffrey 2002 and Imbens & Kolesár 2016 with n × n matrices."""
    n = len(y)
    bread = np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    residuals = y - hat @ y
    variance, columns = 0.0, []
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        values, vectors = np.linalg.eigh(np.eye(len(rows)) - hat[np.ix_(rows, rows)])
        inverse_root = np.where(values > 1e-10, np.abs(values), np.inf) ** -0.5
        adjust = vectors @ np.diag(inverse_root) @ vectors.T
        weights = adjust @ design[rows] @ bread @ contrast
        variance += float(weights @ residuals[rows]) ** 2
        columns.append((np.eye(n) - hat)[:, rows] @ weights)
    g = np.column_stack(columns)
    eigenvalues = np.linalg.eigvalsh(g.T @ g)
    return np.sqrt(variance), eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_clusters", "p"), [(9, 2), (9, 4), (30, 3)])
def test_cr2_is_that_of_the_dense_equations(seed, n_clusters, p):
    y, design, clusters = make_regression(seed, n_clusters, p)
    contrast = np.zeros(p)
    contrast[1] = 1.0
    for combination in (contrast, np.arange(1.0, p + 1)):
        result = cr2(y, design, clusters, combination)
        std_error, df = dense_bell_mccaffrey(y, design, clusters, combination)
        beta = np.linalg.lstsq(design, y, rcond=None)[0]
        assert result.estimate == pytest.approx(combination @ beta, rel=ALGEBRA)
        assert result.std_error == pytest.approx(std_error, rel=ALGEBRA)
        assert result.degrees_of_freedom == pytest.approx(df, rel=ALGEBRA)
        assert np.square(result.scores).sum() == pytest.approx(std_error**2, rel=ALGEBRA)


def stata_rows():
    """Data of the unit tests of the R package dfadjust 1.1.0 (Kolesár, MIT)."""
    x = np.concatenate([np.sin(np.arange(1, 11)), np.sin(np.arange(2, 12))])
    y = np.concatenate([np.cos(np.arange(10)), np.tan(np.arange(1, 11))])
    clusters = np.tile([2, 1, 3, 2, 2, 3, 3, 1, 1, 2], 2)
    return y, np.column_stack([np.ones(20), x]), clusters


@pytest.mark.parametrize(
    ("formula", "by_cluster", "expected"),
    [
        (cr1, True, (0.4827602183, 0.1814501834)),
        (cr2, False, (0.4227339762, 0.4421048122)),
    ],
)
def test_published_numbers_of_stata(formula, by_cluster, expected):
    # Ten digits printed by `reg y x, cluster(clusters)` and `reg y x, vce(hc2)`.
    y, design, clusters = stata_rows()
    labels = clusters if by_cluster else np.arange(20)
    for position, (estimate, std_error) in enumerate(
        zip((-0.4456202905, 0.3241183110), expected, strict=True)
    ):
        result = formula(y, design, labels, np.eye(2)[position])
        assert result.estimate == pytest.approx(estimate, abs=6e-11)
        assert result.std_error == pytest.approx(std_error, abs=6e-11)


@pytest.mark.parametrize("seed", range(3))
def test_cr1_is_that_of_statsmodels(seed):
    import statsmodels.api as sm

    y, design, clusters = make_regression(seed)
    live = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    for position in range(3):
        result = cr1(y, design, clusters, np.eye(3)[position])
        assert result.estimate == pytest.approx(live.params[position], rel=ALGEBRA)
        assert result.std_error == pytest.approx(live.bse[position], rel=ALGEBRA)
    assert result.degrees_of_freedom == 8


def test_one_unit_per_cluster_is_hc2():
    import statsmodels.api as sm

    y, design, _ = make_regression(4)
    live = sm.OLS(y, design).fit(cov_type="HC2")
    result = cr2(y, design, np.arange(len(y)), [0, 1, 0])
    assert result.std_error == pytest.approx(live.bse[1], rel=ALGEBRA)


@pytest.mark.parametrize(("n_control", "n_treatment"), [(27, 3), (10, 10), (5, 40)])
def test_degrees_of_freedom_of_two_groups_are_welchs_under_equal_variances(n_control, n_treatment):
    # Imbens & Kolesár 2016, section 3: the Behrens-Fisher problem.
    n = n_control + n_treatment
    treated = np.arange(n) >= n_control
    y = np.random.default_rng(0).normal(size=n)
    result = cr2(y, np.column_stack([np.ones(n), treated]), np.arange(n), [0, 1])
    expected = welch_df(1 / n_control, 1 / n_treatment, n_control, n_treatment)
    assert result.degrees_of_freedom == pytest.approx(expected, rel=ALGEBRA)


def test_a_cluster_that_fits_its_own_direction():
    # A dummy of one cluster: I − H is singular there, the inverse is Moore and Penrose's.
    y, design, clusters = make_regression(2)
    wide = np.column_stack([design, clusters == 3])
    result = cr2(y, wide, clusters, [0, 1, 0, 0])
    std_error, df = dense_bell_mccaffrey(y, wide, clusters, np.array([0, 1.0, 0, 0]))
    assert result.std_error == pytest.approx(std_error, rel=1e-7)
    assert result.degrees_of_freedom == pytest.approx(df, rel=1e-7)
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        cr2(y, np.column_stack([clusters == 3, clusters != 3]), clusters, [1, 0])


def test_cr2_order_scale_and_offset():
    y, design, clusters = make_regression(1)
    base = cr2(y, design, clusters, [0, 1, 0])
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = cr2(y[order], design[order], clusters[order], [0, 1, 0])
    np.testing.assert_allclose(shuffled.scores, base.scores, rtol=1e-9)
    scaled = cr2(1e3 * y + 1e9, design * [1, 1e-6, 1e6], clusters, [0, 1, 0])
    assert scaled.estimate == pytest.approx(1e9 * base.estimate, rel=1e-6)
    assert scaled.std_error == pytest.approx(1e9 * base.std_error, rel=1e-6)
    assert scaled.degrees_of_freedom == pytest.approx(base.degrees_of_freedom, rel=1e-9)


def test_cr2_refusals():
    y, design, clusters = make_regression(1)
    with pytest.raises(EstimationError, match="SINGULAR_DESIGN"):
        cr2(y, np.column_stack([design, design[:, 1]]), clusters, [0, 1, 0, 0])
    with pytest.raises(EstimationError, match="SINGULAR_DESIGN"):
        cr2(y, design * [1, 0, 1], clusters, [0, 1, 0])
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        cr2(y, design, np.zeros(len(y)), [0, 1, 0])
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        cr2(y[:3], design[:3], np.arange(3), [0, 1, 0])
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        cr2(np.full(len(y), 0.1), design, clusters, [0, 1, 0])
    with pytest.raises(EstimationError, match=r"design.*NON_FINITE_INPUT"):
        cr2(y, np.where(design > 1, np.nan, design), clusters, [0, 1, 0])
    with pytest.raises(ValueError, match="need"):
        cr2(y, design, clusters[:-1], [0, 1, 0])


def test_many_clusters_are_a_ratio_of_totals():
    y, is_treated, clusters = make_rows(420)
    totals, sizes = np.bincount(clusters, y), np.bincount(clusters).astype(float)
    treated = np.bincount(clusters, is_treated) > 0
    arms = [
        ArmMoments.from_arrays(numerator=totals[rows], denominator=sizes[rows])
        for rows in (~treated, treated)
    ]
    expected = compare_ratios(*arms)
    result = compare_clustered(y, is_treated, clusters)
    for part in ("difference", "relative"):
        for field in ("estimate", "std_error", "ci_low", "p_value", "control_mean", "n_control"):
            assert getattr(getattr(result.contrast, part), field) == pytest.approx(
                getattr(getattr(expected, part), field), rel=1e-8
            )
    assert result.contrast.difference.method == "cluster_ratio"
    assert result.cluster_robust is None
    assert result.scores.shape == (420,)


@pytest.mark.parametrize("n_clusters", [15, 30, 49])
def test_fewer_clusters_are_least_squares_of_the_rows_with_cr2(n_clusters):
    y, is_treated, clusters = make_rows(n_clusters)
    design = np.column_stack([np.ones(len(y)), is_treated])
    expected = cr2(y, design, clusters, [0, 1])
    std_error, df = dense_bell_mccaffrey(y, design, clusters, np.array([0.0, 1.0]))
    result = compare_clustered(y, is_treated, clusters)
    difference = result.contrast.difference
    assert (difference.method, difference.variance_formula) == ("cluster_ols", "cr2")
    assert difference.estimate == pytest.approx(y[is_treated].mean() - y[~is_treated].mean())
    assert difference.std_error == pytest.approx(std_error, rel=ALGEBRA)
    assert difference.degrees_of_freedom == pytest.approx(df, rel=ALGEBRA)
    half = scipy.stats.t.ppf(0.975, df) * std_error
    assert difference.ci_high - difference.estimate == pytest.approx(half, rel=1e-7)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-6, atol=1e-12)
    assert difference.n_control + difference.n_treatment == n_clusters


def test_a_denominator_counts_sub_rows():
    # y and a denominator of whole numbers: as if each row were that many rows of its mean.
    y, is_treated, clusters = make_rows(20)
    views = 1 + np.random.default_rng(5).poisson(2, len(y))
    result = compare_clustered(y, is_treated, clusters, denominator=views).contrast.difference
    repeated = compare_clustered(
        np.repeat(y / views, views), np.repeat(is_treated, views), np.repeat(clusters, views)
    ).contrast.difference
    for field in ("estimate", "std_error", "degrees_of_freedom", "p_value", "control_mean"):
        assert getattr(result, field) == pytest.approx(getattr(repeated, field), rel=ALGEBRA)


def permutation_p(means, treated, effect=0.0):
    """Every assignment, one at a time."""
    shifted = means - effect * treated
    n, k = len(means), int(treated.sum())
    observed = shifted[treated].mean() - shifted[~treated].mean()
    extreme = total = 0
    for chosen in combinations(range(n), k):
        rows = np.isin(np.arange(n), chosen)
        difference = shifted[rows].mean() - shifted[~rows].mean()
        extreme += abs(difference) >= abs(observed) - 1e-9
        total += 1
    return extreme / total


@pytest.mark.parametrize("n_clusters", [8, 9, 11])
@pytest.mark.parametrize("effect", [0.0, 1.5])
def test_few_clusters_are_a_randomisation_test(n_clusters, effect):
    y, is_treated, clusters = make_rows(n_clusters, seed=n_clusters, effect=effect)
    means = np.bincount(clusters, y) / np.bincount(clusters)
    treated = np.bincount(clusters, is_treated) > 0
    result = compare_clustered(y, is_treated, clusters, alpha=0.1)
    difference = result.contrast.difference
    assert difference.inference == "randomization"
    assert difference.method == "cluster_means"
    assert difference.p_value == pytest.approx(permutation_p(means, treated), abs=1e-12)
    # The interval holds exactly the effects that the test does not reject.
    width = difference.ci_high - difference.ci_low
    for limit, outward in ((difference.ci_low, -1), (difference.ci_high, 1)):
        assert permutation_p(means, treated, limit - outward * 1e-6 * width) >= 0.1
        assert permutation_p(means, treated, limit + outward * 1e-6 * width) < 0.1


def test_randomisation_p_value_is_that_of_scipy():
    y, is_treated, clusters = make_rows(14, seed=3, effect=1.0)
    means = np.bincount(clusters, y) / np.bincount(clusters)
    treated = np.bincount(clusters, is_treated) > 0
    live = scipy.stats.permutation_test(
        (means[treated], means[~treated]),
        lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)),
        n_resamples=np.inf,
        vectorized=True,
        alternative="greater",
    )
    result = compare_clustered(y, is_treated, clusters)
    assert result.contrast.difference.p_value == pytest.approx(live.pvalue, abs=1e-12)
    welch = scipy.stats.ttest_ind(means[treated], means[~treated], equal_var=False)
    assert result.contrast.difference.estimate / result.contrast.difference.std_error == (
        pytest.approx(welch.statistic, rel=1e-9)
    )


def test_cr2_stands_beside_the_randomisation_test_and_no_lift():
    y, is_treated, clusters = make_rows(12)
    result = compare_clustered(y, is_treated, clusters)
    beside = result.cluster_robust
    design = np.column_stack([np.ones(len(y)), is_treated])
    assert beside.std_error == pytest.approx(cr2(y, design, clusters, [0, 1]).std_error, rel=1e-9)
    assert (beside.method, beside.inference) == ("cluster_ols", "fixed_horizon")
    assert result.contrast.relative is None
    assert result.contrast.relative_reason == "N_TOO_SMALL"


def test_too_few_assignments_leave_the_interval_open():
    # 70 assignments of 4 and 4: the smallest two-sided p-value is 2/70.
    y, is_treated, clusters = make_rows(8, effect=50.0)
    difference = compare_clustered(y, is_treated, clusters, alpha=0.01).contrast.difference
    assert difference.p_value == pytest.approx(2 / 70)
    assert difference.ci_low is None
    assert difference.ci_high is None
    closed = compare_clustered(y, is_treated, clusters, alpha=0.03).contrast.difference
    assert closed.ci_low > 0


@pytest.mark.parametrize("n_clusters", [8, 10, 13, 20, 60])
@pytest.mark.parametrize("alpha", [0.03, 0.05, 0.1, 0.3])
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(n_clusters, alpha):
    for seed in range(15):
        rows = make_rows(n_clusters, seed, effect=0.8)
        result = compare_clustered(*rows, alpha=alpha).contrast.difference
        low = -np.inf if result.ci_low is None else result.ci_low
        high = np.inf if result.ci_high is None else result.ci_high
        assert (result.p_value < alpha) == (low > 0 or high < 0)


@pytest.mark.parametrize("seed", range(6))
def test_tied_assignments_count_as_extreme(seed):
    # Tenths: many assignments tie with the observed one, and rounding must not decide.
    tenths = np.random.default_rng(seed).integers(1, 11, 8)
    treated = np.arange(8) >= 4
    result = compare_clustered(
        np.repeat(tenths / 10, 3), np.repeat(treated, 3), np.repeat(np.arange(8), 3)
    )
    assert result.contrast.difference.p_value == permutation_p(tenths, treated)


@pytest.mark.parametrize("n_clusters", [10, 24, 60])
def test_invariances(n_clusters):
    y, is_treated, clusters = make_rows(n_clusters)
    base = compare_clustered(y, is_treated, clusters)
    difference = base.contrast.difference
    assert np.square(base.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-9)
    assert base.scores.sum() == pytest.approx(0.0, abs=0.05 * difference.std_error)
    swapped = compare_clustered(y, ~is_treated, clusters).contrast.difference
    assert swapped.estimate == pytest.approx(-difference.estimate, rel=1e-9)
    assert swapped.p_value == pytest.approx(difference.p_value, rel=1e-9)
    assert swapped.ci_low == pytest.approx(-difference.ci_high, rel=1e-9)
    moved = compare_clustered(1e3 * y + 1e9, is_treated, clusters).contrast.difference
    assert moved.estimate == pytest.approx(1e3 * difference.estimate, rel=1e-6)
    assert moved.std_error == pytest.approx(1e3 * difference.std_error, rel=1e-6)
    assert moved.p_value == pytest.approx(difference.p_value, rel=1e-5)
    order = np.random.default_rng(0).permutation(len(y))
    labels = np.array([f"c{cluster:03d}" for cluster in clusters])
    shuffled = compare_clustered(y[order], is_treated[order], labels[order])
    np.testing.assert_allclose(shuffled.scores, base.scores, rtol=1e-9, atol=1e-12)
    assert shuffled.clusters.tolist() == sorted(set(labels))


def test_refusals():
    y, is_treated, clusters = make_rows(20)
    with pytest.raises(EstimationError, match=r"arm treatment.*3 clusters, need 4.*N_TOO_SMALL"):
        compare_clustered(y, clusters < 3, clusters)
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        compare_clustered(y, np.zeros(len(y)), clusters)
    mixed = is_treated.copy()
    mixed[0] = ~mixed[0]
    with pytest.raises(EstimationError, match=r"1 of 20 clusters have rows in both.*NOT_IDENT"):
        compare_clustered(y, mixed, clusters)
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        compare_clustered(y, is_treated, clusters, denominator=-np.ones(len(y)))
    with pytest.raises(EstimationError, match=r"1 of 20 clusters.*ZERO_DENOMINATOR"):
        compare_clustered(y, is_treated, clusters, denominator=clusters != 4)
    with pytest.raises(EstimationError, match=r"arm treatment.*ZERO_DENOMINATOR"):
        compare_clustered(y, is_treated, clusters, denominator=~is_treated)
    with pytest.raises(EstimationError, match="NON_FINITE_INPUT"):
        compare_clustered(np.where(is_treated, np.nan, y), is_treated, clusters)
    with pytest.raises(ValueError, match="need shape"):
        compare_clustered(y, is_treated, clusters[:-1])
    with pytest.raises(ValueError, match="alpha is 2"):
        compare_clustered(y, is_treated, clusters, alpha=2)
    for n_clusters in (10, 20, 60):
        _, treated, labels = make_rows(n_clusters)
        with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
            compare_clustered(np.full(len(labels), 0.1), treated, labels)


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [12, 18, 60])
def test_size_with_unequal_clusters(monte_carlo_band, n_clusters):
    runs, rejected, naive = 800, 0, 0
    for seed in range(runs):
        y, is_treated, clusters = make_rows(n_clusters, seed, effect=0.0, rows=10)
        rejected += compare_clustered(y, is_treated, clusters).contrast.difference.p_value < 0.05
        naive += scipy.stats.ttest_ind(y[is_treated], y[~is_treated]).pvalue < 0.05
    _, high = monte_carlo_band(0.05, runs)
    # The wrong twin ignores the clusters and finds effects where there are none.
    assert naive / runs > 0.2
    assert 0.02 < rejected / runs <= high
