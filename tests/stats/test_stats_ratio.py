import numpy as np
import pytest

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.ratio import compare_ratios, linearised_t
from experiments_dagster.stats.moments import ArmMoments


def pair(numerator, denominator):
    return ArmMoments.from_arrays(numerator=numerator, denominator=denominator)


@pytest.mark.parametrize(
    ("case", "numerator", "denominator"),
    [
        ("cookie_cats", "sum_gamerounds", "retention_1"),
        ("hillstrom_half_mens", "spend", "visit"),
        ("hillstrom_half_mens", "conversion", "visit"),
        ("hillstrom_half_womens", "spend", "visit"),
        ("hillstrom_half_womens", "conversion", "visit"),
    ],
)
def test_reference_ratio(reference, two_arms, case, numerator, denominator):
    expected = reference("fixed", case)
    numbers = expected.expected[f"ratio_{numerator}_per_{denominator}"]
    control, treatment = (pair(frame[numerator], frame[denominator]) for frame in two_arms(case))
    result = compare_ratios(control, treatment).difference
    linearised = linearised_t(control, treatment)
    for name, value in {
        "ratio_control": result.control_mean,
        "ratio_treat": result.treatment_mean,
        "diff": result.estimate,
        "se_delta": result.std_error,
        "z": result.estimate / result.std_error,
        "p": result.p_value,
        "linearized_t": linearised.estimate / linearised.std_error,
        "linearized_p": linearised.p_value,
    }.items():
        expected.check(value, numbers[name])


def test_variance_is_that_of_the_linearised_units():
    rng = np.random.default_rng(5)
    denominator = rng.poisson(3, 400) + 0.0
    numerator = denominator * rng.normal(2, 1, 400)
    arm = pair(numerator, denominator)
    ratio = numerator.sum() / denominator.sum()
    units = (numerator - ratio * denominator) / denominator.mean()
    result = compare_ratios(arm, arm)
    assert result.variance_control == pytest.approx(units.var(ddof=1) / 400, rel=1e-10)


def test_denominator_of_ones_is_a_mean():
    rng = np.random.default_rng(5)
    y, x = rng.normal(3, 1, (2, 200))
    ratios = compare_ratios(pair(y, np.ones(200)), pair(x, np.ones(200)))
    means = compare_means(
        ArmMoments.from_arrays(y=y), ArmMoments.from_arrays(y=x), distribution="normal"
    )
    for name in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
        for part in ("difference", "relative"):
            actual, expected = getattr(ratios, part), getattr(means, part)
            assert getattr(actual, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_one_unit_without_denominator_changes_nothing_else():
    with_zero = compare_ratios(pair([1, 2, 0, 3], [2, 2, 0, 4]), pair([2, 2, 1], [2, 3, 1]))
    assert with_zero.difference.control_mean == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    ("numerator", "denominator", "code"),
    [
        ([1.0, 2.0], [0.0, 0.0], "ZERO_DENOMINATOR"),
        ([1.0, 2.0], [-1.0, -2.0], "NOT_IDENTIFIED"),
        ([2.0, 4.0, 0.6], [1.0, 2.0, 0.3], "ZERO_VARIANCE"),
        ([], [], "EMPTY_ARM"),
        ([1.0], [1.0], "N_TOO_SMALL"),
    ],
)
def test_not_estimable(numerator, denominator, code):
    bad = pair(numerator, denominator)
    with pytest.raises(EstimationError) as error:
        compare_ratios(bad, bad)
    assert error.value.code == code


def test_zero_denominator_names_the_arm():
    with pytest.raises(EstimationError, match="arm treatment"):
        compare_ratios(pair([1, 2], [1, 2]), pair([1, 2], [0, 0]))
