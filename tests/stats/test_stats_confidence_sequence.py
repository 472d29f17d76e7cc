import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    mixture_sprt,
    one_sided_half_width,
    running_intersection,
    running_p_value,
    sample_radius,
    tuning_information,
    tuning_rho2,
)


def test_reference_asymptotic_sequence(reference):
    expected = reference("anytime", "acs")
    for row in expected.expected:
        rho2 = tuning_rho2(row["tuning_n"], row["alpha"])
        radius = sample_radius(row["n"], row["var"], rho2=rho2, alpha=row["alpha"])
        expected.check(rho2, row["rho2"])
        expected.check(radius, row["radius"])


def test_reference_msprt(reference):
    expected = reference("anytime", "msprt")
    for row in expected.expected:
        point = mixture_sprt(
            row["diff"],
            n_per_arm=row["n_per_arm"],
            variance=row["sigma2"],
            tau2=row["tau2"],
            alpha=0.05,
        )
        expected.check(math.exp(point.log_e_value), row["Lambda"])
        expected.check(point.p_value, row["p_always_valid_single_look"])
        expected.check(point.half_width, row["cs_halfwidth_95"])


def test_reference_normal_mixtures(reference):
    expected = reference("anytime", "confseq_boundaries")
    numbers, alpha, v = expected.expected, expected.spec["alpha"], expected.spec["v_opt"]
    rho = tuning_information(v, alpha)
    expected.check(rho, numbers["best_rho_2s_v100"])
    # Sum scale: S = half-width times v, with SE = 1/√v.
    two_sided = confidence_sequence(0.0, v**-0.5, g=rho, alpha=alpha).half_width
    expected.check(v * two_sided, numbers["normal_mixture_bound_2s_v100"])
    rho_one_sided = tuning_information(v, alpha, sides=1)
    assert rho_one_sided == pytest.approx(15.8006, abs=1e-4)
    one_sided = confidence_sequence(0.0, v**-0.5, g=rho_one_sided, alpha=alpha, sides=1)
    expected.check(v * one_sided.half_width, numbers["normal_mixture_bound_1s_v100"])
    assert one_sided.high is None


def test_reference_growthbook(reference, summary_arm):
    expected = reference("anytime", "growthbook_sequential_mean")

    def arm(numbers):
        n, mean = numbers["n"], numbers["sum"] / numbers["n"]
        variance = (numbers["sum_squares"] - n * mean * mean) / (n - 1)
        return summary_arm(n, mean, variance)

    control, treatment = arm(expected.spec["control"]), arm(expected.spec["treat"])
    n = control.n + treatment.n
    lift = compare_means(control, treatment).relative
    alpha = expected.spec["alpha"]
    radius = sample_radius(
        n, lift.std_error**2 * n, rho2=tuning_rho2(expected.spec["tuning_n"], alpha), alpha=alpha
    )
    numbers = expected.expected
    expected.check(lift.estimate, numbers["lift"])
    expected.check(lift.std_error, numbers["se"])
    expected.check([lift.estimate - radius, lift.estimate + radius], numbers["ci"])


@given(
    st.floats(-10, 10),
    st.floats(1e-3, 10),
    st.floats(1e-3, 1e3),
    st.sampled_from([0.001, 0.05, 0.2]),
    st.sampled_from([1, 2]),
)
def test_p_value_below_alpha_exactly_when_the_interval_excludes_zero(estimate, se, g, alpha, sides):
    point = confidence_sequence(estimate, se, g=g, alpha=alpha, sides=sides)
    assume(abs(math.log(point.p_value / alpha)) > 1e-6 if point.p_value > 0 else True)
    excludes = point.low > 0 or (point.high is not None and point.high < 0)
    assert (point.p_value < alpha) == excludes


@given(st.floats(-10, 10), st.floats(1e-3, 10), st.floats(1e-6, 1e6))
def test_units_of_the_metric_do_not_matter(estimate, se, scale):
    target = 50.0
    base = confidence_sequence(estimate, se, g=tuning_information(target, 0.05), alpha=0.05)
    other = confidence_sequence(
        scale * estimate, scale * se, g=tuning_information(target / scale**2, 0.05), alpha=0.05
    )
    assert other.half_width == pytest.approx(scale * base.half_width, rel=1e-9)
    assert other.log_e_value == pytest.approx(base.log_e_value, rel=1e-9, abs=1e-9)


def test_tuning_is_close_to_the_narrowest():
    def width(g):
        return confidence_sequence(0.0, 0.1, g=g, alpha=0.05).half_width

    tuned = width(tuning_information(100.0, 0.05))
    assert tuned / 0.1 == pytest.approx(3.035, abs=1e-3)
    assert tuned < min(width(1.0), width(100.0))
    assert tuned == pytest.approx(min(width(g) for g in np.linspace(5, 30, 200)), rel=1e-3)


@given(st.floats(1e-3, 10), st.floats(1e-2, 1e3), st.sampled_from([0.001, 0.01, 0.05]))
def test_closed_one_sided_form_is_slightly_wider_than_the_exact_one(se, g, alpha):
    exact = confidence_sequence(0.0, se, g=g, alpha=alpha, sides=1).half_width
    closed = one_sided_half_width(se, g=g, alpha=alpha)
    assert exact <= closed * (1 + 1e-12)
    assert closed < 1.1 * exact


def test_far_evidence_does_not_overflow():
    point = confidence_sequence(100.0, 0.1, g=1.0, alpha=0.05)
    assert point.log_e_value > 1e4
    assert point.p_value == 0.0


def test_running_p_value_never_rises():
    log_e = [-1.0, 2.0, 0.5]
    assert running_p_value(log_e[:1]) == 1.0
    assert running_p_value(log_e[:2]) == running_p_value(log_e) == pytest.approx(math.exp(-2))


def test_running_intersection():
    assert running_intersection([(0.0, 4.0), (1.0, 5.0)]).low == 1.0
    empty = running_intersection([(0.0, 1.0), (2.0, 3.0), (0.0, 5.0)])
    assert (empty.low, empty.high, empty.flag) == (None, None, "MODEL_SUSPECT")


def test_refusals():
    with pytest.raises(EstimationError, match="ZERO_VARIANCE"):
        confidence_sequence(1.0, 0.0, g=1.0, alpha=0.05)
    with pytest.raises(ValueError, match="g is"):
        confidence_sequence(1.0, 1.0, g=0.0, alpha=0.05)
    with pytest.raises(ValueError, match="sides"):
        tuning_information(1.0, 0.05, sides=0)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [1, 2])
def test_a_null_stream_peeked_at_every_unit_rarely_crosses(sides):
    rng = np.random.default_rng(8)
    runs, n, crossed, naive = 1000, 2000, 0, 0
    g = tuning_information(n, 0.05, sides=sides)
    information = np.arange(100, n + 1)
    call = {"g": g, "alpha": 0.05, "sides": sides}
    bound = np.array([confidence_sequence(0, i**-0.5, **call).half_width for i in information])
    for _ in range(runs):
        means = np.cumsum(rng.normal(size=n))[99:] / information
        far = np.abs(means) if sides == 2 else means
        crossed += bool((far > bound).any())
        naive += bool((np.abs(means) > 1.959964 / np.sqrt(information)).any())
    assert crossed / runs <= 0.05
    assert naive / runs > 0.2
