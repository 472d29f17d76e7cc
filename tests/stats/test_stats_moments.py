import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.moments import ArmMoments, check_arms

# Two passes against a merge: only the last digits may differ.
MERGE = 1e-9

parts = st.integers(0, 12).flatmap(
    lambda n: arrays(np.float64, (2, n), elements=st.floats(-1e6, 1e6, width=32))
)


def moments(values):
    return ArmMoments.from_arrays(a=values[0], b=values[1])


def assert_same(left, right):
    assert left.n == right.n
    np.testing.assert_allclose(left.means, right.means, rtol=MERGE, atol=1e-6)
    scale = max(1.0, np.abs(left.cross).max(initial=0.0))
    np.testing.assert_allclose(left.cross / scale, right.cross / scale, rtol=MERGE, atol=1e-9)


@given(parts, parts, parts)
def test_merge_is_associative_commutative_and_equals_one_pass(first, second, third):
    a, b, c = moments(first), moments(second), moments(third)
    assert_same((a + b) + c, a + (b + c))
    assert_same(a + b, b + a)
    assert_same(a + b + c, moments(np.concatenate([first, second, third], axis=1)))


@given(parts)
def test_empty_is_the_identity(values):
    a, empty = moments(values), ArmMoments.empty(["a", "b"])
    assert_same(a + empty, a)
    assert_same(empty + a, a)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_variance_keeps_its_digits_under_an_offset(offset):
    # Multiples of 1/1024 stay exact at 1e9, so the shifted data are the same data.
    values = np.random.default_rng(3).integers(-2000, 2000, 10_000) / 1024
    shifted = values + offset
    merged = ArmMoments.empty(["y"])
    for part in np.array_split(shifted, 37):
        merged += ArmMoments.from_arrays(y=part)
    truth = values.var(ddof=1)
    assert ArmMoments.from_arrays(y=shifted).variance("y") == pytest.approx(truth, rel=1e-12)
    assert merged.variance("y") == pytest.approx(truth, rel=1e-9)
    assert merged.mean("y") - offset == pytest.approx(values.mean(), abs=1e-6)


def test_covariance_is_that_of_numpy():
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    arm = ArmMoments.from_arrays(x=x, y=y)
    assert arm.covariance("x", "y") == pytest.approx(np.cov(x, y)[0, 1], rel=1e-12)


def test_combine_is_the_moments_of_the_combined_column():
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    combined = ArmMoments.from_arrays(x=x, y=y).combine({"x": 2.0, "y": -3.0}, name="z")
    direct = ArmMoments.from_arrays(z=2 * x - 3 * y)
    assert combined.mean("z") == pytest.approx(direct.mean("z"), abs=1e-12)
    assert combined.variance("z") == pytest.approx(direct.variance("z"), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_non_finite_input_is_refused_by_name(bad):
    with pytest.raises(EstimationError, match="revenue") as error:
        ArmMoments.from_arrays(revenue=[1.0, bad])
    assert error.value.code == "NON_FINITE_INPUT"


def test_overflow_is_refused_not_returned():
    with pytest.raises(EstimationError) as error:
        ArmMoments.from_arrays(y=[1e200, -1e200])
    assert error.value.code == "NON_FINITE_INPUT"


def test_a_rounded_constant_has_no_variance():
    assert ArmMoments.from_arrays(y=[0.1] * 7).variance("y") == 0
    merged = ArmMoments.from_arrays(y=[0.1] * 7) + ArmMoments.from_arrays(y=[0.1] * 5)
    assert merged.variance("y") == 0


@pytest.mark.parametrize(("n", "code"), [(0, "EMPTY_ARM"), (1, "N_TOO_SMALL")])
def test_too_small_arms_are_named(n, code):
    small, fine = ArmMoments.from_arrays(y=[1.0] * n), ArmMoments.from_arrays(y=[1.0, 2.0])
    with pytest.raises(EstimationError, match="arm treatment") as error:
        check_arms(fine, small)
    assert error.value.code == code


def test_mean_and_variance_of_too_few_units():
    with pytest.raises(EstimationError, match="EMPTY_ARM"):
        ArmMoments.empty(["y"]).mean("y")
    with pytest.raises(EstimationError, match="N_TOO_SMALL"):
        ArmMoments.from_arrays(y=[1.0]).variance("y")


def test_misuse_is_a_bug_not_a_result():
    with pytest.raises(ValueError, match="shape"):
        ArmMoments.from_arrays(a=[1.0], b=[1.0, 2.0])
    with pytest.raises(ValueError, match="cannot merge"):
        ArmMoments.empty(["a"]) + ArmMoments.empty(["b"])
    with pytest.raises(ValueError, match="need n >= 0"):
        ArmMoments(n=-1, columns=("y",), means=np.zeros(1), cross=np.zeros((1, 1)))
    with pytest.raises(KeyError, match="no column 'z'"):
        ArmMoments.from_arrays(y=[1.0, 2.0]).mean("z")


def test_arrays_cannot_be_changed():
    arm = ArmMoments.from_arrays(y=[1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        arm.means[0] = 3.0
