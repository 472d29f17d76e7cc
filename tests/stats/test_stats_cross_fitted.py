import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.units.cross_fitted import (
    PENALTIES,
    fit_ridge,
    fold_numbers,
    out_of_fold_predictions,
)
from experiments_dagster.stats.methods.units.lin import compare_adjusted


def make_units(seed=0, n=600, p=4, noise=1.0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, p)) * 10.0 ** np.arange(p) + 5
    y = features @ (1 / 10.0 ** np.arange(p)) + noise * rng.normal(size=n)
    return y, features, np.array([f"unit-{index}" for index in range(n)])


def dense_ridge(features, target, penalty):
    """Normal equations in standardised features, written out."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    z = (features - centre) / scale
    n, p = z.shape
    weights = np.linalg.solve(z.T @ z + n * penalty * np.eye(p), z.T @ (target - target.mean()))
    hat = z @ np.linalg.solve(z.T @ z + n * penalty * np.eye(p), z.T) + np.ones((n, n)) / n
    residuals = target - hat @ target
    gcv = np.mean(residuals**2) / (1 - np.trace(hat) / n) ** 2
    return lambda rows: target.mean() + (rows - centre) / scale @ weights, gcv


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 0.5, 20.0])
def test_ridge_is_that_of_the_normal_equations(penalty):
    y, features, _ = make_units(n=80)
    expected = dense_ridge(features, y, penalty)[0]
    # Squared condition of four nearly independent columns: 1e-9 is ample.
    np.testing.assert_allclose(
        fit_ridge(features, y, penalty=penalty)(features[:5]), expected(features[:5]), rtol=1e-9
    )


@pytest.mark.parametrize(("n", "noise"), [(60, 0.1), (60, 50.0), (20, 2.0), (15, 2.0)])
def test_penalty_is_the_minimiser_of_generalised_cross_validation(n, noise):
    y, features, _ = make_units(n=n, noise=noise)
    best = min(PENALTIES, key=lambda penalty: dense_ridge(features, y, penalty)[1])
    np.testing.assert_allclose(
        fit_ridge(features, y)(features), dense_ridge(features, y, best)[0](features), rtol=1e-8
    )


def test_least_squares_is_that_of_numpy():
    y, features, _ = make_units(n=50)
    design = np.column_stack([np.ones(50), features])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(fit_ridge(features, y, penalty=0.0)(features), expected, rtol=1e-9)


def test_each_unit_is_predicted_by_the_other_folds():
    y, features, keys = make_units()
    predictions = out_of_fold_predictions(y, features, keys, folds=4, penalty=0.1)
    folds = fold_numbers(keys, folds=4)
    for fold in range(4):
        inside = folds == fold
        expected = dense_ridge(features[~inside], y[~inside], 0.1)[0](features[inside])
        np.testing.assert_allclose(predictions[inside], expected, rtol=1e-9)


def test_a_units_own_target_never_reaches_its_prediction():
    y, features, keys = make_units()
    folds = fold_numbers(keys, folds=5)
    moved = np.where(folds == 2, y + 1e6, y)
    base = out_of_fold_predictions(y, features, keys)
    after = out_of_fold_predictions(moved, features, keys)
    np.testing.assert_array_equal(base[folds == 2], after[folds == 2])
    assert np.all(base[folds != 2] != after[folds != 2])
    # The wrong twin, trained on everyone, follows the outlier.
    assert fit_ridge(features, moved)(features)[folds == 2].mean() > 1e4


def test_row_order_changes_nothing_but_rounding():
    y, features, keys = make_units()
    order = np.random.default_rng(4).permutation(len(y))
    base = out_of_fold_predictions(y, features, keys)
    shuffled = out_of_fold_predictions(y[order], features[order], keys[order])
    np.testing.assert_allclose(shuffled, base[order], rtol=1e-9)


def test_folds_depend_on_the_key_alone_and_are_even():
    keys = np.array([f"user-{index}" for index in range(50_000)])
    folds = fold_numbers(keys, folds=5)
    counts = np.bincount(folds)
    # Chi-square with 4 degrees of freedom, 99.9 % point 18.5.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 18.5
    np.testing.assert_array_equal(fold_numbers(keys[:10], folds=5), folds[:10])
    wide = np.array([*keys[:10], "a-much-longer-key-than-all-the-others"])
    np.testing.assert_array_equal(fold_numbers(wide, folds=5)[:10], folds[:10])
    np.testing.assert_array_equal(fold_numbers(keys.astype(object), folds=5), folds)
    integers = np.arange(100)
    np.testing.assert_array_equal(
        fold_numbers(integers, folds=5), fold_numbers(integers.astype(str), folds=5)
    )
    reseeded = fold_numbers(keys, folds=5, seed=1)
    assert abs(np.mean(folds == reseeded) - 0.2) < 0.01


def plain_hash(key):
    """FNV-1a over code points and the SplitMix64 finaliser in unlimited integers."""
    value = 0xCBF29CE484222325
    for letter in key:
        value = (value ^ ord(letter)) * 0x100000001B3 % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value


def test_folds_are_the_same_on_every_machine():
    keys = ["a", "b", "user-17", "ä", "日本", "0"]
    expected = [plain_hash(key) % 1000 for key in keys]
    assert fold_numbers(keys, folds=1000).tolist() == expected


def test_rows_of_one_unit_share_a_fold():
    keys = np.repeat(np.arange(100), 3)
    assert np.all(np.ptp(fold_numbers(keys, folds=5).reshape(100, 3), axis=1) == 0)


def test_any_model_can_be_plugged_in():
    y, features, keys = make_units()
    seen = []

    def fit(rows, target):
        seen.append(len(target))
        level = np.median(target)
        return lambda later: np.full(len(later), level)

    predictions = out_of_fold_predictions(y, features, keys, fit=fit)
    folds = fold_numbers(keys, folds=5)
    assert seen == [int((folds != fold).sum()) for fold in range(5)]
    for fold in range(5):
        assert set(predictions[folds == fold]) == {np.median(y[folds != fold])}


def test_predicting_at_later_features():
    y, features, keys = make_units(noise=0.0)
    later = features + 1.0
    shift = out_of_fold_predictions(y, features, keys, penalty=0.0, predict_at=later) - y
    np.testing.assert_allclose(shift, (1 / 10.0 ** np.arange(4)).sum(), rtol=1e-8)


def test_constant_and_repeated_features_and_constant_target():
    y, features, keys = make_units()
    wide = np.column_stack([features, np.full(len(y), 1e9 + 0.1), features[:, 0]])
    base = out_of_fold_predictions(y, features, keys, penalty=1e-9)
    np.testing.assert_allclose(
        out_of_fold_predictions(y, wide, keys, penalty=1e-9), base, rtol=1e-6
    )
    assert np.all(out_of_fold_predictions(np.full(len(y), 2.0), features, keys) == 2.0)
    nothing = out_of_fold_predictions(y, np.empty((len(y), 0)), keys)
    assert len(set(nothing)) == 5


def test_more_features_than_units():
    y, features, keys = make_units(n=60, p=3)
    wide = np.hstack([features, np.random.default_rng(1).normal(size=(60, 200))])
    predictions = out_of_fold_predictions(y, wide, keys)
    assert np.isfinite(predictions).all()


def test_prediction_beats_one_covariate_and_leaves_the_effect_alone():
    rng = np.random.default_rng(8)
    n = 4000
    early = rng.normal(size=(n, 6))
    trait = early @ rng.normal(size=6)
    later = trait + rng.normal(size=n)
    is_treated = rng.random(n) < 0.5
    y = trait + 0.2 * is_treated + rng.normal(size=n)
    prediction = out_of_fold_predictions(later, early, np.arange(n))
    cupac = compare_adjusted(y, is_treated, prediction[:, None], names=["prediction"])
    single = compare_adjusted(y, is_treated, early[:, :1], names=["x"])
    assert cupac.variance_reduction > single.variance_reduction + 0.1
    difference = cupac.adjusted.difference
    assert abs(difference.estimate - 0.2) < 4 * difference.std_error


def test_refusals():
    y, features, keys = make_units(n=40)
    with pytest.raises(ValueError, match="folds is 1"):
        out_of_fold_predictions(y, features, keys, folds=1)
    with pytest.raises(ValueError, match="seed -1"):
        out_of_fold_predictions(y, features, keys, seed=-1)
    with pytest.raises(ValueError, match="penalty is -1"):
        out_of_fold_predictions(y, features, keys, penalty=-1.0)
    with pytest.raises(ValueError, match="only without fit"):
        out_of_fold_predictions(y, features, keys, penalty=1.0, fit=fit_ridge)
    with pytest.raises(ValueError, match="features have shape"):
        out_of_fold_predictions(y, features[:, 0], keys)
    with pytest.raises(ValueError, match="equal shapes"):
        out_of_fold_predictions(y, features, keys, predict_at=features[:, :2])
    with pytest.raises(ValueError, match="unit_keys have shape"):
        out_of_fold_predictions(y, features, keys[:-1])
    with pytest.raises(ValueError, match="need text or integers"):
        out_of_fold_predictions(y, features, np.arange(40.0))
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        out_of_fold_predictions(y[:8], features[:8], keys[:8])
    with pytest.raises(EstimationError, match=r"features.*NON_FINITE_INPUT"):
        out_of_fold_predictions(y, np.where(features > 5, np.nan, features), keys)
    with pytest.raises(EstimationError, match=r"prediction.*NON_FINITE_INPUT"):
        out_of_fold_predictions(
            y, features, keys, fit=lambda *_: lambda rows: np.full(len(rows), np.nan)
        )
