"""Two groups before and after: closed forms, independent fits, sizes, and what is refused."""

from itertools import combinations

import numpy as np
import pytest

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.causal.series.few_clusters import SIGNS, CellSums, wild_bootstrap
from experiments_dagster.stats.calibration import rejection_band, rejection_ceiling
from experiments_dagster.stats.errors import EstimationError

ALGEBRA = 1e-9  # two routes to the same linear algebra


def make_panel(
    n_treated, n_control, *, n_periods=4, effect=0.0, is_unequal=False, shock=0.5, seed=0
):
    """Rows of clusters with a level, a random walk of shocks, and noise; y, T, P, clusters."""
    rng = np.random.default_rng(seed)
    n = n_treated + n_control
    sizes = rng.integers(2, 10, n) if is_unequal else np.full(n, 4)
    clusters = np.repeat(np.arange(n), sizes * n_periods)
    period = np.concatenate([np.repeat(np.arange(n_periods), size) for size in sizes])
    shocks = shock * rng.normal(size=(n, n_periods)).cumsum(axis=1)
    y = rng.normal(size=n)[clusters] + shocks[clusters, period] + rng.normal(size=len(clusters))
    treated, post = clusters < n_treated, period >= n_periods // 2
    return y + effect * (treated & post), treated, post, clusters


def estimate(y, treated, post, clusters=None, **changes):
    settings = {"seed": 1, "replicates": 1000} | changes
    return difference_in_differences(y, treated, post, clusters=clusters, **settings)


def excludes_zero(found):
    low, high = found.ci_low, found.ci_high
    return (low is not None and low > 0) or (high is not None and high < 0)


@pytest.mark.parametrize("sizes", [(12, 15), (11, 30)])
def test_estimate_and_errors_are_those_of_least_squares(sizes):
    import statsmodels.api as sm

    y, treated, post, clusters = make_panel(*sizes, is_unequal=True, effect=0.7)
    design = np.column_stack([np.ones(len(y)), treated, post, treated & post]).astype(float)
    fit = sm.OLS(y, design)
    rows = estimate(y, treated, post)
    assert rows.difference.estimate == pytest.approx(fit.fit().params[3], rel=ALGEBRA)
    assert rows.std_error_ols == pytest.approx(fit.fit().bse[3], rel=ALGEBRA)
    robust = fit.fit(cov_type="HC1")
    assert rows.difference.std_error == pytest.approx(robust.bse[3], rel=ALGEBRA)
    counterfactual = robust.t_test([1.0, 1.0, 1.0, 0.0])
    assert rows.difference.control_mean == pytest.approx(counterfactual.effect[0], rel=ALGEBRA)
    clustered = estimate(y, treated, post, clusters).difference
    assert clustered.variance_formula == "cr2"
    assert clustered.estimate == pytest.approx(rows.difference.estimate, rel=ALGEBRA)
    # CR2 lifts CR1's error by the leverage of a cluster: a few per cent with these sizes.
    cr1 = fit.fit(cov_type="cluster", cov_kwds={"groups": clusters}).bse[3]
    assert clustered.std_error == pytest.approx(cr1, rel=0.06)


def test_a_balanced_panel_of_two_periods_is_welch_on_changes():
    y, treated, post, clusters = make_panel(14, 20, n_periods=2)
    units = np.arange(34)
    before, after = (
        np.array([y[(clusters == i) & (post == p)].mean() for i in units]) for p in (False, True)
    )
    change, is_treated = after - before, units < 14
    found = estimate(y, treated, post, clusters).difference
    variance = change[is_treated].var(ddof=1) / 14 + change[~is_treated].var(ddof=1) / 20
    assert found.estimate == pytest.approx(
        change[is_treated].mean() - change[~is_treated].mean(), rel=ALGEBRA
    )
    assert found.std_error == pytest.approx(np.sqrt(variance), rel=ALGEBRA)
    assert (found.n_control, found.n_treatment) == (20, 14)


def test_relative_effect_is_over_the_counterfactual():
    y, treated, post, clusters = make_panel(15, 15, effect=2.0)
    found = estimate(y + 20, treated, post, clusters)
    relative, difference = found.relative, found.difference
    assert relative.estimate == pytest.approx(difference.estimate / difference.control_mean)
    assert difference.treatment_mean == pytest.approx(found.means[3])
    assert relative.ci_low < relative.estimate < relative.ci_high
    shifted = estimate(y - (y[treated & post].mean() - 2.0), treated, post, clusters)
    assert shifted.relative is None or shifted.relative.ci_high > relative.ci_high


@pytest.mark.parametrize("sizes", [(12, 12), (5, 8), (2, 9)])
def test_invariants(sizes):
    y, treated, post, clusters = make_panel(*sizes, is_unequal=True, effect=0.4, seed=3)
    base = estimate(y, treated, post, clusters).difference
    swapped = estimate(y, ~treated, post, clusters).difference
    assert swapped.estimate == pytest.approx(-base.estimate, rel=ALGEBRA)
    assert swapped.p_value == pytest.approx(base.p_value, abs=1e-12)
    scaled = estimate(100 * y - 40, treated, post, clusters).difference
    assert scaled.estimate == pytest.approx(100 * base.estimate, rel=ALGEBRA)
    assert scaled.std_error == pytest.approx(100 * base.std_error, rel=1e-8)
    assert scaled.p_value == pytest.approx(base.p_value, abs=1e-10)
    order = np.random.default_rng(0).permutation(len(y))
    mixed = estimate(y[order], treated[order], post[order], clusters[order]).difference
    assert mixed.estimate == pytest.approx(base.estimate, rel=ALGEBRA)
    assert mixed.p_value == pytest.approx(base.p_value, abs=1e-12)
    by_period = y + 3.0 * post + 7.0 * treated
    assert estimate(by_period, treated, post, clusters).difference.estimate == pytest.approx(
        base.estimate, rel=1e-8
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sizes", [(5, 7), (3, 9)])
def test_p_is_below_alpha_exactly_when_the_interval_excludes_zero(sizes, seed):
    y, treated, post, clusters = make_panel(*sizes, is_unequal=True, effect=0.8, seed=seed)
    found = estimate(y, treated, post, clusters).difference
    assert (found.p_value < 0.05) == excludes_zero(found)
    # The limits themselves are not rejected, a little beyond them is.
    for limit, side in ((found.ci_low, -1), (found.ci_high, 1)):
        if limit is None:
            continue
        step = 1e-6 * found.std_error
        at, beyond = (
            estimate(y - tau * (treated & post), treated, post, clusters).difference.p_value
            for tau in (limit - side * step, limit + side * step)
        )
        assert at >= 0.05 > beyond


def test_wild_bootstrap_is_that_of_refitted_rows():
    """The same draws, the regression run anew on every bootstrap sample of rows."""
    y, treated, post, clusters = make_panel(4, 5, is_unequal=True, effect=0.5, n_periods=2)
    design = np.column_stack([np.ones(len(y)), treated, post, treated & post]).astype(float)
    replicates, seed = 200, 5

    def t_statistic(outcome):
        beta, *_ = np.linalg.lstsq(design, outcome, rcond=None)
        row = np.linalg.inv(design.T @ design)[3] @ design.T
        scores = np.bincount(clusters, row * (outcome - design @ beta))
        return beta[3] / np.sqrt(scores @ scores)

    restricted, *_ = np.linalg.lstsq(design[:, :3], y, rcond=None)
    fitted = design[:, :3] @ restricted
    points = np.concatenate([-np.sqrt([1.5, 1.0, 0.5]), np.sqrt([1.5, 1.0, 0.5])])
    draws = points[np.random.default_rng(seed).integers(0, 6, size=(replicates, 9))]
    extreme = sum(
        abs(t_statistic(fitted + v[clusters] * (y - fitted))) >= abs(t_statistic(y)) - 1e-9
        for v in draws
    )
    cell = 2 * treated + post
    counts = np.array([np.bincount(cell[clusters == g], minlength=4) for g in range(9)])
    sums = np.array([np.bincount(cell[clusters == g], y[clusters == g], 4) for g in range(9)])
    found = wild_bootstrap(
        CellSums(counts=counts.astype(float), sums=sums), alpha=0.05, replicates=200, seed=seed
    )
    assert found.p_value == pytest.approx((1 + extreme) / (1 + replicates), abs=1e-12)


def test_randomisation_is_the_enumeration_of_assignments():
    y, treated, post, clusters = make_panel(2, 7, is_unequal=True, effect=0.9)

    def effect_of(chosen):
        given = np.isin(clusters, chosen)
        means = [y[(given == g) & (post == p)].mean() for g in (0, 1) for p in (0, 1)]
        return float(SIGNS @ means)

    effects = [effect_of(chosen) for chosen in combinations(range(9), 2)]
    observed = effect_of((0, 1))
    found = estimate(y, treated, post, clusters)
    assert found.difference.inference == "randomization"
    assert found.n_draws == 36
    share = np.mean(np.abs(effects) >= abs(observed) - 1e-12)
    assert found.difference.p_value == pytest.approx(share, abs=1e-12)


def rejection_rate(sizes, replicates, *, clustered=True, **panel):
    rejected = 0
    for seed in range(replicates):
        y, treated, post, clusters = make_panel(*sizes, seed=[seed, 7], **panel)
        labels = clusters if clustered else None
        rejected += estimate(y, treated, post, labels, seed=seed).difference.p_value < 0.05
    return rejected / replicates


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(10, 10), (15, 25), (5, 5), (6, 12)])
def test_size_with_serial_correlation(sizes):
    low, high = rejection_band(0.05, 1000)
    assert low <= rejection_rate(sizes, 1000) <= high


@pytest.mark.slow
def test_randomisation_keeps_its_level_with_one_treated_cluster():
    assert rejection_rate((1, 24), 1000) <= rejection_ceiling(0.05, 1000)


@pytest.mark.slow
def test_row_errors_fall_outside_the_band():
    """The broken twin: rows of a cluster taken for independent."""
    assert rejection_rate((10, 10), 300, clustered=False, shock=1.5) > rejection_band(0.05, 300)[1]


@pytest.mark.slow
def test_power_and_coverage():
    covered = []
    for seed in range(500):
        y, treated, post, clusters = make_panel(6, 8, effect=1.0, seed=[seed, 9])
        found = estimate(y, treated, post, clusters, seed=seed).difference
        low = -np.inf if found.ci_low is None else found.ci_low
        high = np.inf if found.ci_high is None else found.ci_high
        covered.append(low <= 1.0 <= high)
    low, high = rejection_band(0.95, 500)
    assert low <= np.mean(covered) <= high


def refused(code, *arguments, **changes):
    with pytest.raises(EstimationError) as caught:
        estimate(*arguments, **changes)
    assert caught.value.code == code


def test_refusals():
    y, treated, post, clusters = make_panel(12, 12)
    refused("EMPTY_ARM", y[post], treated[post], post[post])
    refused("EMPTY_ARM", y, np.ones(len(y)), post)
    refused("NON_FINITE_INPUT", np.where(clusters == 3, np.nan, y), treated, post, clusters)
    refused("ZERO_VARIANCE", 1.0 * (treated & post), treated, post)
    refused("N_TOO_SMALL", [1.0, 2, 3, 4], [0, 0, 1, 1], [0, 1, 0, 1])
    # One cluster in each arm: two assignments, no test at 5 %.
    refused("N_TOO_SMALL", y, treated, post, treated)
    y, treated, post, clusters = make_panel(2, 12)
    assert estimate(y, treated, post, clusters).difference.inference == "randomization"
    only_after = np.where(clusters == 5, True, post)
    refused("NOT_IDENTIFIED", y, treated, only_after, clusters)
    for wrong in ({"alpha": 1.0}, {"replicates": 500}):
        with pytest.raises(ValueError, match="need"):
            estimate(y, treated, post, clusters, **wrong)
    with pytest.raises(ValueError, match="0 or 1"):
        estimate(y, 2 * treated, post)
    with pytest.raises(ValueError, match="need shape"):
        estimate(y, treated, post, clusters[:-1])
