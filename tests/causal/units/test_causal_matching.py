"""One-to-one matching against a plain search, its errors, and its refusals."""

import numpy as np
import pytest
from unit_samples import band, make_observational

from experiments_dagster.causal.units.matching import match_nearest, matched_effect
from experiments_dagster.causal.units.propensity import fit_propensity, known_propensity
from experiments_dagster.stats.errors import EstimationError

RUNS = 300


def plain_greedy(logit, t, caliper):
    """The definition, unit by unit: descending treated, nearest control that is left."""
    free, pairs = set(np.flatnonzero(~t)), []
    for unit in sorted(np.flatnonzero(t), key=lambda i: -logit[i]):
        if not free:
            break
        best = min(free, key=lambda j: abs(logit[j] - logit[unit]))
        if abs(logit[best] - logit[unit]) <= caliper:
            free.remove(best)
            pairs.append((unit, best))
    return pairs


@pytest.mark.parametrize("caliper_sd", [None, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_the_definition(caliper_sd, seed):
    _, t, x = make_observational(n=300, confounding=0.8, seed=seed)
    e = fit_propensity(x, t)
    matching = match_nearest(e, t, caliper_sd=caliper_sd)
    limit = np.inf if matching.caliper is None else matching.caliper
    assert list(zip(matching.treated, matching.control, strict=True)) == plain_greedy(
        e.logit, t, limit
    )
    assert len(set(matching.control)) == len(matching.control)
    assert len(matching.treated) + matching.n_unmatched == t.sum()
    assert matching.distances.max() <= limit
    assert matching.weights.sum() == 2 * len(matching.treated)


def test_the_caliper_is_in_pooled_sds_of_the_logit():
    _, t, x = make_observational()
    e = fit_propensity(x, t)
    pooled = np.sqrt((e.logit[t].var(ddof=1) + e.logit[~t].var(ddof=1)) / 2)
    assert match_nearest(e, t).caliper == pytest.approx(0.2 * pooled)


def test_with_replacement_each_treated_unit_has_its_nearest_control():
    _, t, x = make_observational(n=300, confounding=1.0)
    e = fit_propensity(x, t)
    matching = match_nearest(e, t, caliper_sd=None, with_replacement=True)
    controls = np.flatnonzero(~t)
    for unit, partner, neighbour in zip(
        matching.treated, matching.control, matching.neighbours, strict=True
    ):
        gaps = np.abs(e.logit[controls] - e.logit[unit])
        assert abs(e.logit[partner] - e.logit[unit]) == pytest.approx(gaps.min(), abs=1e-9)
        others = np.abs(e.logit[controls] - e.logit[partner])
        others[controls == partner] = np.inf
        assert abs(e.logit[neighbour] - e.logit[partner]) == pytest.approx(others.min(), abs=1e-9)


def test_standard_errors_by_hand():
    """Theorem 7 of Abadie and Imbens on five units: control 2 serves both treated."""
    y = np.array([5.0, 9.0, 3.0, 4.0, 0.0])
    e = known_propensity([0.5, 0.52, 0.51, 0.4, 0.1], 5)
    t = [1, 1, 0, 0, 0]
    reused = match_nearest(e, t, caliper_sd=None, with_replacement=True)
    assert reused.control.tolist() == [2, 2]
    effect = matched_effect(y, reused).effect
    assert effect.estimate == pytest.approx(4)
    # Deviations -2 and 2; K(K − 1) = 2, σ̂² = (3 − 4)²/2.
    assert effect.std_error == pytest.approx(np.sqrt((4 + 4 + 2 * 0.5) / 4))
    paired = matched_effect(y, match_nearest(e, t, caliper_sd=None)).effect
    assert (paired.estimate, paired.std_error) == (pytest.approx(3.5), pytest.approx(2.5))
    assert paired.variance_formula == "paired"


def test_regression_after_matching_is_least_squares_over_the_pairs():
    y, t, x = make_observational(confounding=0.8)
    matching = match_nearest(fit_propensity(x, t), t)
    adjusted = matched_effect(y, matching, covariates=x).adjusted
    rows = np.r_[matching.treated, matching.control]
    design = np.column_stack([t[rows], np.ones(len(rows)), x[rows]])
    beta, *_ = np.linalg.lstsq(design, y[rows], rcond=None)
    assert adjusted.estimate == pytest.approx(beta[0], rel=1e-9)
    import statsmodels.api as sm

    pairs = np.tile(np.arange(len(matching.treated)), 2)
    theirs = sm.OLS(y[rows], design).fit(cov_type="cluster", cov_kwds={"groups": pairs})
    # statsmodels multiplies by (n − 1)/(n − k) besides G/(G − 1).
    correction = np.sqrt((len(rows) - 1) / (len(rows) - design.shape[1]))
    assert adjusted.std_error * correction == pytest.approx(theirs.bse[0], rel=1e-8)


def test_ties_go_by_key_and_not_by_row():
    rng = np.random.default_rng(6)
    level = rng.integers(0, 4, 400).astype(float)
    t = rng.random(400) < 0.2 + 0.15 * level
    y, keys = rng.standard_normal(400), np.arange(400) + 1000
    e = fit_propensity(level[:, None], t)
    base = matched_effect(y, match_nearest(e, t, unit_keys=keys)).effect
    for seed in range(5):
        o = np.random.default_rng(seed).permutation(400)
        moved = match_nearest(fit_propensity(level[o, None], t[o]), t[o], unit_keys=keys[o])
        assert matched_effect(y[o], moved).effect.estimate == pytest.approx(base.estimate, rel=1e-9)
    rows = matched_effect(y, match_nearest(e, t)).effect
    assert rows.estimate != pytest.approx(base.estimate, rel=1e-3)


@pytest.mark.parametrize("with_replacement", [False, True])
def test_intervals_cover(with_replacement):
    """With five controls for each treated unit; the propensity as known makes it conservative."""
    covers = []
    for seed in range(RUNS):
        y, t, x = make_observational(n=900, p=1, slope=0.7, level=-1.6, seed=seed)
        matching = match_nearest(fit_propensity(x, t), t, with_replacement=with_replacement)
        effect = matched_effect(y, matching).effect
        covers.append(effect.ci_low <= 1 <= effect.ci_high)
    assert np.mean(covers) >= band(0.95, RUNS)[0]


def test_errors_without_the_reuse_of_controls_are_too_small():
    """The broken twin of theorem 7: pairs that share a control are not independent."""
    estimates, honest, paired = [], [], []
    for seed in range(RUNS):
        y, t, x = make_observational(n=300, p=1, confounding=1.5, slope=0.0, seed=seed)
        e = fit_propensity(x, t)
        matching = match_nearest(e, t, caliper_sd=None, with_replacement=True)
        result = matched_effect(y, matching)
        estimates.append(result.effect.estimate)
        honest.append(result.effect.std_error)
        paired.append(result.differences.std(ddof=1) / np.sqrt(len(result.differences)))
    spread = np.std(estimates)
    assert np.mean(honest) == pytest.approx(spread, rel=0.15)
    assert np.mean(paired) < 0.75 * spread


def test_a_caliper_renames_the_estimand():
    y, t, x = make_observational(confounding=1.5)
    e = fit_propensity(x, t)
    strict = match_nearest(e, t, caliper_sd=0.05)
    assert strict.n_unmatched > 0
    assert matched_effect(y, strict).effect.estimand == "att_matched"
    mild = match_nearest(e, t, caliper_sd=None, with_replacement=True)
    assert matched_effect(y, mild).effect.estimand == "att"


def test_groups_apart_are_refused():
    e = known_propensity(np.r_[np.full(10, 0.98), np.linspace(0.97, 0.99, 10) / 50], 20)
    with pytest.raises(EstimationError) as caught:
        match_nearest(e, np.arange(20) < 10)
    assert caught.value.code == "NO_OVERLAP"


def test_treatment_that_the_covariates_determine_is_not_adjusted():
    y, t, x = make_observational()
    matching = match_nearest(fit_propensity(x, t), t)
    with pytest.raises(EstimationError) as caught:
        matched_effect(y, matching, covariates=np.column_stack([x, t]))
    assert caught.value.code == "NO_OVERLAP"
    with pytest.raises(ValueError, match="caliper_sd"):
        match_nearest(fit_propensity(x, t), t, caliper_sd=0)
    with pytest.raises(ValueError, match="shape"):
        matched_effect(y[:-1], matching)
