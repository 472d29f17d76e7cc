"""Group-time effects: closed forms, a published engine, known truth, and what is refused."""

import numpy as np
import pytest

from experiments_dagster.causal.series.difference_in_differences import difference_in_differences
from experiments_dagster.causal.series.doubly_robust_change import effect_on_change
from experiments_dagster.causal.series.staggered import group_time_effects, two_way_contrast
from experiments_dagster.stats.calibration import rejection_band
from experiments_dagster.stats.errors import EstimationError

ALGEBRA = 1e-9
# Printed with 12 decimals.
PRINTED = 1e-11


def wave_panel():
    """300 units without random numbers: cohorts 2, 3, 4 and never, an effect that grows."""
    i, t = np.arange(300), np.arange(6)
    first = np.array([2.0, 3.0, 4.0, np.inf])[i % 4]
    start = np.where(np.isinf(first), 0, first)[:, None]
    x = np.sin(0.7 * i) + 0.3 * np.cos(0.1 * i * i)
    y = np.sin(1.3 * i)[:, None] + 0.4 * t + np.sin(1.7 * (7.1 * i[:, None] + 3.3 * t))
    y = y + 0.2 * x[:, None] * t + 0.1 * start * x[:, None]
    return y + (t >= first[:, None]) * (1 + 0.5 * (t - start)), first, x


# csdid 0.4.3 (est_method dr, no bootstrap) on `wave_panel`: estimate and standard error.
CSDID = {
    "never": {
        (2, 1): (-0.015225572216, 0.079279009538),
        (2, 5): (2.498968760988, 0.248138990085),
        (3, 2): (-0.004868276584, 0.078875475928),
        (4, 4): (1.007445781616, 0.080914480577),
        "simple": (1.555914439483, 0.11796210055),
        "group_average": (1.502229226363, 0.111224038939),
        "calendar_average": (1.435933363348, 0.10607520224),
        "dynamic_average": (1.750041541772, 0.140194799565),
        "balanced": (1.250933191081, 0.085237121004),
    },
    "not_yet": {
        (2, 1): (-0.01248909328, 0.064458344219),
        (2, 3): (1.484635390051, 0.131239099829),
        (3, 1): (-0.00555930084, 0.064796362886),
        (4, 2): (0.007013457311, 0.068046851145),
        "simple": (1.554918045267, 0.10890001263),
        "group_average": (1.501387844484, 0.103629465506),
        "calendar_average": (1.434824459753, 0.093529593484),
        "dynamic_average": (1.74929424611, 0.133625151562),
        "balanced": (1.249438599757, 0.071086084777),
    },
    "universal": {
        (2, 0): (0.015225572216, 0.079279009538),
        (3, 0): (0.014896504469, 0.150187830605),
        (4, 1): (-0.011353526644, 0.151043987777),
        (4, 5): (1.51374680099, 0.153839687105),
        "dynamic_average": (1.750041541772, 0.140194799565),
    },
    "covariate": {
        (2, 2): (0.997485408397, 0.076248600583),
        (3, 5): (2.020372466726, 0.196320405764),
        (4, 1): (-0.001273279945, 0.07589722374),
        "simple": (1.565312972606, 0.109438266369),
        "group_average": (1.50933971603, 0.103417298028),
        "calendar_average": (1.444724314953, 0.098546041252),
        "dynamic_average": (1.762798239028, 0.129090844047),
        "balanced": (1.254965224524, 0.079698259711),
    },
}


def effects(y, first, **changes):
    return group_time_effects(y, first, **({"seed": 1, "draws": 1000} | changes))


def engine_settings(name, x):
    return {
        "never": {},
        "not_yet": {"control": "not_yet"},
        "universal": {"base": "universal"},
        "covariate": {"covariates": x[:, None]},
    }[name]


@pytest.mark.parametrize("name", CSDID)
def test_a_published_engine(name):
    y, first, x = wave_panel()
    settings = engine_settings(name, x)
    found = effects(y, first, **settings)
    balanced = effects(y, first, balanced_to=1, **settings)
    cells = {(cell.cohort, cell.period): cell for cell in found.cells}
    # Ours are corrected for the degrees of freedom of each arm: 75 units, 1 or 2 columns.
    largest = np.sqrt(75 / (73 if name == "covariate" else 74))
    for key, (estimate, std_error) in CSDID[name].items():
        if key == "balanced":
            actual = balanced.dynamic_average
        else:
            actual = getattr(found, key) if isinstance(key, str) else cells[key]
        assert actual.estimate == pytest.approx(estimate, abs=PRINTED), key
        assert 1 < actual.std_error / std_error < largest * (1 + PRINTED * 100), key


def test_errors_of_cells_are_the_engines_but_for_the_correction():
    y, first, x = wave_panel()
    cells = {(cell.cohort, cell.period): cell for cell in effects(y, first).cells}
    for key, (_, std_error) in CSDID["never"].items():
        if isinstance(key, tuple):
            exact = std_error * np.sqrt(75 / 74)
            assert cells[key].std_error == pytest.approx(exact, rel=1e-10), key
    used = (first == 2) | np.isinf(first)
    treated = first[used] == 2
    _, scores = effect_on_change(
        y[used, 2] - y[used, 1], treated, x[used][:, None], subject="period 2"
    )
    plain = scores * np.sqrt(np.where(treated, 74, 73) / 75)
    assert np.sqrt(plain @ plain) == pytest.approx(CSDID["covariate"][2, 2][1], rel=1e-10)


def test_one_cohort_and_two_periods_is_the_two_by_two():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(50, 2))
    first = np.where(np.arange(50) < 20, 1.0, np.inf)
    found = effects(y, first)
    rows = difference_in_differences(
        y.ravel(),
        np.repeat(first == 1, 2),
        np.tile([0, 1], 50),
        clusters=np.repeat(np.arange(50), 2),
        seed=1,
    ).difference
    for effect in (found.cells[0], found.simple, found.group_average, found.dynamic_average):
        assert effect.estimate == pytest.approx(rows.estimate, rel=ALGEBRA)
        assert effect.std_error == pytest.approx(rows.std_error, rel=ALGEBRA)


def make_panel(n=200, *, effect=1.0, seed=0, n_periods=6):
    """Cohorts 2, 4 and never of random sizes; the effect is effect · cohort / 2 · (1 + lag / 2)."""
    rng = np.random.default_rng(seed)
    first = rng.choice([2.0, 4.0, np.inf], size=n, p=[0.3, 0.3, 0.4])
    y = rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, n_periods)).cumsum(axis=1)
    y += rng.normal(size=(n, n_periods)) + np.sin(np.arange(n_periods))
    lag = np.where(np.isinf(first), -1, np.arange(n_periods)[:, None] - first).T
    size = np.where(np.isinf(first), 0, first)[:, None] / 2
    return y + np.where(lag >= 0, effect * size * (1 + lag / 2), 0.0), first


def true_cell(cohort, period):
    return cohort / 2 * (1 + (period - cohort) / 2)


@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_known_effects_are_found_in_large_panels(control):
    y, first = make_panel(20_000)
    found = effects(y, first, control=control)
    for cell in found.cells:
        truth = true_cell(cell.cohort, cell.period) if cell.is_post else 0.0
        assert abs(cell.estimate - truth) < 4 * cell.std_error
    assert found.pre_trend.p_value > 0.001
    shares = {g: (first == g).mean() for g in (2.0, 4.0)}
    cells = [(g, t) for g in (2.0, 4.0) for t in range(int(g), 6)]
    simple = np.average([true_cell(*cell) for cell in cells], weights=[shares[g] for g, _ in cells])
    assert abs(found.simple.estimate - simple) < 4 * found.simple.std_error


def test_averages_are_the_weighted_means_of_cells():
    y, first = make_panel(300)
    found = effects(y, first)
    share = {g: (first == g).mean() for g in (2.0, 4.0)}
    post = [cell for cell in found.cells if cell.is_post]

    def mean(cells):
        return np.average(
            [cell.estimate for cell in cells], weights=[share[cell.cohort] for cell in cells]
        )

    assert found.simple.estimate == pytest.approx(mean(post), rel=ALGEBRA)
    for effect in found.dynamic:
        cells = [cell for cell in found.cells if cell.period - cell.cohort == effect.event_time]
        assert effect.estimate == pytest.approx(mean(cells), rel=ALGEBRA)
    for effect in found.calendar:
        cells = [cell for cell in post if cell.period == effect.label]
        assert effect.effect.estimate == pytest.approx(mean(cells), rel=ALGEBRA)
    by_group = [
        np.mean([cell.estimate for cell in post if cell.cohort == group.label])
        for group in found.groups
    ]
    assert [group.effect.estimate for group in found.groups] == pytest.approx(by_group)
    assert found.group_average.estimate == pytest.approx(
        np.average(by_group, weights=[share[group.label] for group in found.groups])
    )


def test_covariates_undo_selection_on_trends():
    """Treated units have larger x, and x drives the change: without x the effect is biased."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=4000)
    first = np.where(rng.random(4000) < 1 / (1 + np.exp(-x)), 1.0, np.inf)
    y = rng.normal(size=(4000, 2)) * 0.5
    y[:, 1] += x + 1.0 * (first == 1)
    plain, adjusted = (effects(y, first, covariates=c).simple for c in (None, x[:, None]))
    assert abs(adjusted.estimate - 1.0) < 4 * adjusted.std_error
    assert plain.estimate - 1.0 > 10 * plain.std_error


def test_double_robustness():
    """Either model may be wrong: the outcome in x², or the share of treated in x²."""
    rng = np.random.default_rng(6)
    n = 40_000
    x = rng.uniform(-1, 1, n)
    for share_power, change_power in ((1, 2), (2, 1)):
        share = 1 / (1 + np.exp(-2 * x**share_power + 0.5))
        treated = rng.random(n) < share
        change = 3 * x**change_power + 2.0 * treated + rng.normal(size=n)
        estimate, scores = effect_on_change(change, treated, x[:, None], subject="x")
        assert abs(estimate - 2.0) < 4 * np.sqrt(scores @ scores)


def test_two_way_fixed_effects_have_negative_weights_and_are_only_a_contrast():
    import statsmodels.api as sm

    y, first = make_panel(60)
    first = np.where(np.isinf(first), 5.0, first)  # everyone is treated in the end
    contrast = two_way_contrast(y, first)
    unit, time = np.repeat(np.arange(60), 6), np.tile(np.arange(6), 60)
    design = np.column_stack(
        [
            time >= np.repeat(first, 6),
            *(unit == i for i in range(60)),
            *(time == t for t in range(1, 6)),
        ]
    ).astype(float)
    assert contrast.coefficient == pytest.approx(
        sm.OLS(y.ravel(), design).fit().params[0], abs=1e-8
    )
    assert contrast.n_cells == 4 + 2 + 1
    assert contrast.n_negative > 0
    assert 0 < contrast.negative_weight_share < 0.5
    one_start = two_way_contrast(y, np.where(first == 2, 3.0, np.inf))
    assert (one_start.n_negative, one_start.negative_weight_share) == (0, 0.0)


def test_growing_effects_turn_two_way_fixed_effects_around():
    """Everyone gains, more each period; the regression shows far less than any cell average."""
    first = np.repeat([1.0, 6.0], 50)
    t = np.arange(8)
    y = np.where(t >= first[:, None], (t - first[:, None] + 1.0) ** 2, 0.0)
    y = y + np.random.default_rng(0).normal(size=y.shape) * 0.1
    assert two_way_contrast(y, first).coefficient < 0
    assert effects(y, first, control="not_yet").simple.estimate > 5


@pytest.mark.slow
@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_coverage_and_size(control):
    replicates = 500
    counts = dict.fromkeys(("simple", "dynamic_average", "band", "pre_trend"), 0)
    for seed in range(replicates):
        y, first = make_panel(150, effect=0.0, seed=[seed, 3])
        found = effects(y, first, control=control, seed=seed)
        counts["simple"] += found.simple.p_value < 0.05
        counts["dynamic_average"] += found.dynamic_average.p_value < 0.05
        counts["band"] += any(not e.band_low <= 0 <= e.band_high for e in found.dynamic)
        counts["pre_trend"] += found.pre_trend.p_value < 0.05
    low, high = rejection_band(0.05, replicates)
    for name, count in counts.items():
        assert low <= count / replicates <= high, name


@pytest.mark.slow
def test_shares_of_cohorts_are_estimated_too():
    """Effects differ by cohort: errors that take the shares as known are too small."""
    estimates, errors = [], []
    for seed in range(400):
        y, first = make_panel(120, effect=4.0, seed=[seed, 8])
        found = effects(y, first, seed=seed)
        estimates.append(found.simple.estimate)
        errors.append(found.simple.std_error)
    # The sd of 400 estimates is known to 1/√800.
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.12)


def test_clusters_and_units_with_gaps():
    y, first = make_panel(100)
    base = effects(y, first)
    twice = effects(np.vstack([y, y]), np.tile(first, 2), clusters=np.tile(np.arange(100), 2))
    assert twice.n_clusters == 100
    # G/(G − 1) beside n_a/(n_a − 1) of twice the units: within 1 per cent here.
    assert twice.simple.std_error == pytest.approx(base.simple.std_error, rel=0.01)
    rows = effects(np.vstack([y, y]), np.tile(first, 2))
    assert rows.simple.std_error == pytest.approx(base.simple.std_error / np.sqrt(2), rel=0.02)
    holed = np.vstack([y, np.full(6, np.nan), np.ones(6)])
    found = effects(holed, np.concatenate([first, [2.0, 0.0]]))
    assert (found.n_dropped, found.n_always, found.n_units) == (1, 1, 100)
    assert found.simple.estimate == pytest.approx(base.simple.estimate, rel=ALGEBRA)


def test_labels_of_periods_and_starts_after_the_last():
    y, first = make_panel(100)
    years = effects(y, first + 2010, periods=np.arange(2010, 2016))
    assert {cell.cohort for cell in years.cells} == {2012.0, 2014.0}
    assert years.simple == effects(y, first).simple
    assert effects(y, np.where(np.isinf(first), 99.0, first)).simple == effects(y, first).simple
    with pytest.raises(ValueError, match="none of them"):
        effects(y, np.where(first == 2, 2.5, first))


def refused(code, *arguments, **changes):
    with pytest.raises(EstimationError) as caught:
        effects(*arguments, **changes)
    assert caught.value.code == code


def test_refusals():
    y, first = make_panel(60)
    refused("EMPTY_ARM", y, np.full(60, np.inf))
    refused("EMPTY_ARM", y, np.zeros(60))
    refused("NON_FINITE_INPUT", y, np.where(first == 2, np.nan, first))
    refused("NON_FINITE_INPUT", np.where(y > 2, np.inf, y), first)
    everyone = np.where(np.isinf(first), 2.0, first)
    refused("NOT_IDENTIFIED", y, everyone)
    late = effects(y, everyone, control="not_yet")
    assert {code for _, _, code in late.missing_cells} == {"EMPTY_ARM"}
    assert any("no estimate" in warning for warning in late.warnings)
    separated = np.where(np.isinf(first), -5.0, 5.0) + 0.01 * np.arange(60)
    refused("NOT_IDENTIFIED", y, first, covariates=separated[:, None])
    refused("NOT_IDENTIFIED", y, first, balanced_to=9)
    for wrong in ({"draws": 10}, {"balanced_to": -1}, {"periods": [0, 1, 1, 2, 3, 4]}):
        with pytest.raises(ValueError, match="need"):
            effects(y, first, **wrong)
    few = effects(*make_panel(12, seed=2))
    assert any("too short" in warning for warning in few.warnings)
    refused("NOT_IDENTIFIED", np.ones_like(y)[:, :1].repeat(2, axis=1), np.zeros(60) + 1.0)
