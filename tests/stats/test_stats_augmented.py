from dataclasses import replace

import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.intervals import ArmSummary, difference_estimate
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.augmented import augment
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.ratio_adjusted import compare_ratios_adjusted
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import Contrast, ScoredContrast

FIELDS = ("estimate", "std_error", "ci_low", "ci_high", "p_value")


def make_units(seed=0, n=1000):
    rng = np.random.default_rng(seed)
    x = rng.gamma(3.0, 1.0, size=(n, 2))
    is_treated = rng.random(n) < 0.4
    y = 2 + x @ [1.5, 0.5] + 0.3 * is_treated * x[:, 0] + rng.exponential(size=n)
    views = rng.poisson(2 + x[:, 1]).astype(float)
    return y, views, is_treated, x


def scores_of(values, is_treated):
    """±(L − its mean)/√(n(n − 1)) by arm."""
    scores = np.empty(len(values))
    for sign, rows in ((-1, ~is_treated), (1, is_treated)):
        n = rows.sum()
        scores[rows] = sign * (values[rows] - values[rows].mean()) / np.sqrt(n * (n - 1))
    return scores


def scored_mean(y, is_treated):
    contrast = compare_means(
        ArmMoments.from_arrays(y=y[~is_treated]), ArmMoments.from_arrays(y=y[is_treated])
    )
    return ScoredContrast(contrast=contrast, scores=scores_of(y, is_treated))


def scored_ratio(y, views, is_treated):
    arms = [
        ArmMoments.from_arrays(numerator=y[rows], denominator=views[rows])
        for rows in (~is_treated, is_treated)
    ]
    linearised = np.empty(len(y))
    for rows in (~is_treated, is_treated):
        ratio = y[rows].sum() / views[rows].sum()
        linearised[rows] = (y[rows] - ratio * views[rows]) / views[rows].mean()
    return ScoredContrast(contrast=compare_ratios(*arms), scores=scores_of(linearised, is_treated))


def scored_quantile(y, is_treated, q=0.9):
    """Unit-level quantile difference, density known to the test (METHODS 2.6)."""
    scores, quantiles = np.empty(len(y)), {}
    for sign, rows in ((-1, ~is_treated), (1, is_treated)):
        quantiles[sign] = float(np.quantile(y[rows], q))
        width = 0.6 * y[rows].std() * rows.sum() ** -0.2
        near = np.exp(-0.5 * ((y[rows] - quantiles[sign]) / width) ** 2)
        density = near.mean() / (width * np.sqrt(2 * np.pi))
        scores[rows] = sign * (q - (y[rows] <= quantiles[sign])) / (density * rows.sum())
    difference = difference_estimate(
        quantiles[1] - quantiles[-1],
        float(np.sqrt(np.square(scores).sum())),
        arms=ArmSummary(
            control_mean=quantiles[-1],
            treatment_mean=quantiles[1],
            n_control=int((~is_treated).sum()),
            n_treatment=int(is_treated.sum()),
        ),
        alpha=0.05,
        method="quantile",
        variance_formula="kernel",
    )
    return ScoredContrast(
        contrast=Contrast(
            difference=difference,
            relative=None,
            relative_reason="NOT_IDENTIFIED",
            variance_control=float(np.square(scores[~is_treated]).sum()),
            variance_treatment=float(np.square(scores[is_treated]).sum()),
        ),
        scores=scores,
    )


def assert_same(actual, expected):
    for part in ("difference", "relative"):
        for field in FIELDS:
            assert getattr(getattr(actual.adjusted, part), field) == pytest.approx(
                getattr(getattr(expected.adjusted, part), field), rel=1e-9
            )
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("n", [40, 1000])
def test_of_means_it_is_lin(n):
    y, _, is_treated, x = make_units(n=n)
    result = augment(scored_mean(y, is_treated), is_treated, x, names=["a", "b"])
    assert_same(result, compare_adjusted(y, is_treated, x, names=["a", "b"]))
    assert result.adjusted.difference.method == "welch_adjusted"
    assert result.adjusted.difference.variance_formula == "welch_hc2"


def test_of_ratios_it_is_the_adjusted_ratio():
    y, views, is_treated, x = make_units()
    result = augment(scored_ratio(y, views, is_treated), is_treated, x, names=["a", "b"])
    expected = compare_ratios_adjusted(y, views, is_treated, x, names=["a", "b"])
    assert_same(result, expected)
    assert result.adjusted.difference.method == expected.adjusted.difference.method
    assert result.correlation == pytest.approx(expected.correlation, rel=1e-9)


def test_theta_is_the_regression_of_the_effect_on_the_imbalance():
    y, views, is_treated, x = make_units()
    scored = scored_ratio(y, views, is_treated)
    psi_x = np.column_stack([scores_of(column, is_treated) for column in x.T])
    imbalance = x[is_treated].mean(axis=0) - x[~is_treated].mean(axis=0)
    theta = np.linalg.solve(psi_x.T @ psi_x, psi_x.T @ scored.scores)
    by_theta = scored.contrast.difference.estimate - theta @ imbalance
    result = augment(scored, is_treated, x, names=["a", "b"]).adjusted.difference
    # One θ from pooled covariances against one slope per arm: equal to first order, O(1/n).
    assert result.estimate == pytest.approx(by_theta, abs=0.05 * result.std_error)
    residual = scored.scores - psi_x @ theta
    assert result.std_error == pytest.approx(np.sqrt(np.square(residual).sum()), rel=0.01)


def test_quantiles_keep_their_estimand_and_gain():
    y, _, is_treated, x = make_units(n=4000)
    scored = scored_quantile(y, is_treated)
    result = augment(scored, is_treated, x, names=["a", "b"])
    difference = result.adjusted.difference
    assert 0.1 < result.variance_reduction < 0.9
    assert result.unadjusted == scored.contrast
    assert difference.method == "quantile_adjusted"
    assert difference.estimand == scored.contrast.difference.estimand
    assert np.square(result.scores).sum() == pytest.approx(difference.std_error**2, rel=1e-12)
    assert result.adjusted.relative is None
    assert result.adjusted.relative_reason == "NOT_IDENTIFIED"


def test_quantile_scores_that_do_not_sum_to_zero_are_no_adjustment():
    y, _, is_treated, x = make_units(n=203)
    scored = scored_quantile(y, is_treated, q=0.83)
    assert abs(scored.scores[is_treated].sum()) > 1e-3
    expected = scored.contrast.difference.estimate
    for sign, rows in ((-1, ~is_treated), (1, is_treated)):
        n = rows.sum()
        linearised = sign * np.sqrt(n * (n - 1)) * scored.scores[rows]
        design = np.column_stack([np.ones(n), x[rows]])
        slopes = np.linalg.lstsq(design, linearised, rcond=None)[0][1:]
        expected -= sign * slopes @ (x[rows].mean(axis=0) - x.mean(axis=0))
    result = augment(scored, is_treated, x, names=["a", "b"]).adjusted.difference
    assert result.estimate == pytest.approx(expected, rel=1e-9)


def test_estimands_are_handed_on():
    y, _, is_treated, x = make_units()
    scored = scored_mean(y, is_treated)
    named = replace(
        scored.contrast,
        difference=replace(scored.contrast.difference, estimand="quantile_difference"),
        relative=replace(scored.contrast.relative, estimand="relative_quantile_difference"),
    )
    result = augment(replace(scored, contrast=named), is_treated, x, names=["a", "b"]).adjusted
    assert result.difference.estimand == "quantile_difference"
    assert result.relative.estimand == "relative_quantile_difference"


@pytest.mark.parametrize("kind", ["mean", "ratio", "quantile"])
def test_noise_moves_little_and_swap_changes_signs_only(kind):
    y, views, is_treated, x = make_units(n=2000)
    make = {
        "mean": scored_mean,
        "ratio": lambda y, mask: scored_ratio(y, views, mask),
        "quantile": scored_quantile,
    }[kind]
    rng, scored = np.random.default_rng(3), make(y, is_treated)
    raw, reductions, moves = scored.contrast.difference, [], []
    for _ in range(40):
        noise = rng.normal(size=(len(y), 1))
        idle = augment(scored, is_treated, noise, names=["noise"])
        moves.append(idle.adjusted.difference.estimate - raw.estimate)
        reductions.append(idle.variance_reduction)
    assert np.sqrt(np.mean(np.square(moves))) < 0.1 * raw.std_error
    # A useless covariate costs about one unit of n; a single draw scatters by a few more.
    assert abs(np.mean(reductions)) < 5 / len(y)
    base = augment(scored, is_treated, x, names=["a", "b"])
    swapped = augment(make(y, ~is_treated), ~is_treated, x, names=["a", "b"])
    assert swapped.adjusted.difference.estimate == pytest.approx(
        -base.adjusted.difference.estimate, rel=1e-9
    )
    np.testing.assert_allclose(swapped.scores, -base.scores, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(alpha):
    for seed in range(40):
        y, _, is_treated, x = make_units(seed, n=60)
        scored = scored_mean(y, is_treated)
        result = augment(scored, is_treated, x, names=["a", "b"], alpha=alpha).adjusted.difference
        assert (result.p_value < alpha) == (result.ci_low > 0 or result.ci_high < 0)


def test_without_a_usable_covariate_the_contrast_stands():
    y, _, is_treated, _ = make_units()
    scored = scored_mean(y, is_treated)
    result = augment(scored, is_treated, np.ones((len(y), 1)), names=["x"])
    assert result.dropped_covariates == ("x",)
    assert result.adjusted == result.unadjusted == scored.contrast
    np.testing.assert_array_equal(result.scores, scored.scores)
    assert scored.scores.flags.writeable


def test_refusals():
    y, _, is_treated, x = make_units(n=50)
    scored = scored_mean(y, is_treated)
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        augment(scored, np.zeros(50), x, names=["a", "b"])
    bad = x.copy()
    bad[0, 1] = np.nan
    with pytest.raises(EstimationError, match=r"b.*NON_FINITE_INPUT"):
        augment(scored, is_treated, bad, names=["a", "b"])
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        augment(scored_mean(x[:, 0], is_treated), is_treated, x, names=["a", "b"])
    without_test = replace(
        scored.contrast,
        difference=replace(scored.contrast.difference, p_value=None, interval="outer"),
    )
    with pytest.raises(EstimationError, match="NOT_IDENTIFIED"):
        augment(replace(scored, contrast=without_test), is_treated, x, names=["a", "b"])
    with pytest.raises(ValueError, match="is_treated needs 50"):
        augment(scored, is_treated[:-1], x[:-1], names=["a", "b"])


@pytest.mark.slow
def test_quantile_coverage_with_adjustment(monte_carlo_band):
    runs, covered, moved = 400, 0, []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(2000, 1))
        y = x[:, 0] + 0.7 * rng.normal(size=2000)
        is_treated = rng.random(2000) < 0.5
        result = augment(scored_quantile(y, is_treated, 0.75), is_treated, x, names=["x"])
        difference = result.adjusted.difference
        covered += difference.ci_low <= 0 <= difference.ci_high
        moved.append(result.variance_reduction)
    low, high = monte_carlo_band(0.95, runs)
    assert low <= covered / runs <= high
    assert np.mean(moved) > 0.2
