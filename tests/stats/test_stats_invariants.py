"""The invariants of METHODS section 0, for every estimator of `stats_estimators`.

Duplicated rows of a unit are an error where frames are made, by the contract of the unit frame
(`contracts.frames`, `test_frames_contracts.test_a_unit_that_stands_twice`), and for stored scores
in `score_products`: an estimator sees arrays without keys.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from stats_estimators import (
    ESTIMATORS,
    PROPERTIES,
    names_with,
    numbers_in,
    units_of,
)

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.sequential.boundaries import (
    design_boundaries,
    first_crossings,
    next_boundary,
)
from experiments_dagster.stats.sequential.longitudinal import longitudinal_boundary

# Sums in another order, or of other powers of two: only the last digits differ.
ROUNDING = 1e-9
# Of the standard error: data and shifts are multiples of 1/1024, so that only the means round, by
# 1e-16 of a shift of up to 1e6 beside standard errors of about 0.1.
SHIFTED = 1e-8
# Of p-values of shifted data: an error of 1e-8 in z, times z where tails are far.
SHIFTED_P = 1e-6
EXAMPLES = settings(max_examples=12)

OUTCOMES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.exponential(size=n),
    "heavy": lambda rng, n: np.exp(2 * rng.normal(size=n)),
    "whole": lambda rng, n: rng.poisson(3.0, n).astype(np.float64),
    "money": lambda rng, n: rng.exponential(20, n) * (rng.random(n) < 0.3),
}


@st.composite
def units(draw):
    """Two arms of 60 to 90 units, outcomes on the grid of 1/1024 so that shifts are exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_control, n_treatment = draw(st.integers(60, 90)), draw(st.integers(60, 90))
    n = n_control + n_treatment
    is_treated = rng.permutation(np.arange(n) < n_treatment)
    y = OUTCOMES[draw(st.sampled_from(sorted(OUTCOMES)))](rng, n)
    y = y + draw(st.sampled_from([0.0, 0.3, 1.0])) * is_treated
    return units_of(np.round(y * 1024) / 1024, is_treated, seed=draw(st.integers(0, 99)))


def read(name, of_units, alpha=0.05):
    """Reading of an estimator; examples that it refuses are no examples."""
    try:
        return ESTIMATORS[name].run(of_units, alpha)
    except EstimationError:
        assume(False)


def assert_close(actual, expected, *, scale, tolerance=ROUNDING):
    """Equal numbers or equally absent ones; differences are measured in `scale`."""
    assert (actual is None) == (expected is None)
    if actual is not None:
        assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance * scale)


def size_of(reading):
    """Size in which limits and effects are compared: they may cancel to zero."""
    if reading.std_error is not None:
        return max(reading.std_error, abs(reading.effect))
    return max([abs(limit) for limit in reading.limits if limit is not None], default=1.0)


def assert_scores(actual, expected):
    assert (actual is None) == (expected is None)
    if actual is not None:
        actual, expected = np.sort(actual), np.sort(expected)
        np.testing.assert_allclose(
            actual, expected, rtol=1e-6, atol=1e-7 * np.linalg.norm(expected)
        )


def assert_multiplied(actual, base, k, *, tolerance=ROUNDING):
    """Same test; effect, error, limits and scores k times those of `base`."""
    size = size_of(base) * k
    assert_close(actual.p_value, base.p_value, scale=1e-12, tolerance=max(tolerance, 1e-9))
    for name in ("effect", "std_error"):
        value = getattr(base, name)
        target = None if value is None else value * k
        assert_close(getattr(actual, name), target, scale=size, tolerance=tolerance)
    for limit, other in zip(actual.limits, base.limits, strict=True):
        target = None if other is None else other * k
        assert_close(limit, target, scale=size, tolerance=tolerance)
    assert_scores(actual.scores, None if base.scores is None else base.scores * k)


@pytest.mark.parametrize("name", names_with("swap"))
@EXAMPLES
@given(data=units())
def test_swapping_the_arms_changes_only_signs(name, data):
    base, swapped = read(name, data), read(name, data.swapped())
    size = size_of(base)
    assert_close(swapped.p_value, base.p_value, scale=1e-12)
    assert_close(swapped.effect, None if base.effect is None else -base.effect, scale=size)
    assert_close(swapped.std_error, base.std_error, scale=0.0)
    for limit, mirrored in zip(swapped.limits, reversed(base.limits), strict=True):
        assert_close(limit, None if mirrored is None else -mirrored, scale=size)
    if base.means is not None:
        assert swapped.means == pytest.approx(base.means[::-1], rel=ROUNDING, abs=ROUNDING * size)
    assert_scores(swapped.scores, None if base.scores is None else -base.scores)


@pytest.mark.parametrize("direction", ["non_inferiority", "non_inferiority_of_a_cost"])
@EXAMPLES
@given(data=units())
def test_swapped_arms_and_direction_are_the_same_one_sided_test(direction, data):
    other = {"non_inferiority", "non_inferiority_of_a_cost"} - {direction}
    base, mirrored = read(direction, data), read(other.pop(), data.swapped())
    assert mirrored.p_value == pytest.approx(base.p_value, rel=ROUNDING)
    assert mirrored.limits[0] == pytest.approx(-base.limits[0], rel=ROUNDING, abs=ROUNDING)


@EXAMPLES
@given(data=units())
def test_an_omnibus_test_has_no_sign(data):
    base, swapped = read("welch_anova", data), read("welch_anova", data.swapped())
    assert swapped.effect == pytest.approx(base.effect, rel=ROUNDING)
    welch = compare_means(*data.arms("y")).difference
    assert base.effect == pytest.approx((welch.estimate / welch.std_error) ** 2, rel=1e-7)
    assert base.p_value == pytest.approx(welch.p_value, rel=1e-7)


@pytest.mark.parametrize("name", names_with("shift"))
@EXAMPLES
@given(data=units(), share=st.sampled_from([-1.0, -0.001, 0.01, 0.77, 1.0]))
def test_adding_a_constant_moves_the_means_and_not_the_difference(name, data, share):
    constant = round(share * ESTIMATORS[name].largest_shift)
    base, shifted = read(name, data), read(name, data.shifted(float(constant)))
    assert_multiplied(shifted, base, 1.0, tolerance=SHIFTED_P)
    if base.effect is not None and base.std_error is not None:
        assert shifted.effect == pytest.approx(base.effect, abs=SHIFTED * base.std_error)
    if base.means is not None and name != "linearised_t":
        moved = [mean + constant for mean in base.means]
        assert shifted.means == pytest.approx(moved, rel=1e-12, abs=SHIFTED)


@pytest.mark.parametrize("name", names_with("scale"))
@EXAMPLES
@given(data=units(), k=st.sampled_from([0.01, 3.0, 100.0, 1e6, 2.0**-40, 1e-30, 1e60]))
def test_a_change_of_unit_multiplies_the_effect_and_keeps_the_test(name, data, k):
    base, scaled = read(name, data), read(name, data.scaled(k))
    assert_multiplied(scaled, base, k ** ESTIMATORS[name].power)
    if base.lift is not None:
        assert scaled.lift is not None
        for field in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
            expected = getattr(base.lift, field)
            # Limits of a lift cancel to zero: in units of its error.
            slack = 1e-8 * base.lift.std_error if field != "p_value" else 1e-12
            assert getattr(scaled.lift, field) == pytest.approx(expected, rel=1e-8, abs=slack)
        assert scaled.lift.variance_formula == base.lift.variance_formula


@pytest.mark.parametrize("name", names_with("order"))
@EXAMPLES
@given(data=units(), seed=st.integers(0, 99))
def test_the_order_of_rows_is_irrelevant(name, data, seed):
    order = np.random.default_rng(seed).permutation(len(data.y))
    base, reordered = read(name, data), read(name, data.taken(order))
    assert_multiplied(reordered, base, 1.0)
    if base.means is not None:
        assert reordered.means == pytest.approx(base.means, rel=ROUNDING, abs=1e-12)


@pytest.mark.parametrize("name", names_with("duality"))
@EXAMPLES
@given(data=units(), alpha=st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.3]), at_the_edge=st.booleans())
def test_p_is_below_alpha_exactly_when_the_interval_excludes_the_null(
    name, data, alpha, at_the_edge
):
    reading = read(name, data, alpha)
    if at_the_edge and reading.limits[0] is not None and "shift" not in ESTIMATORS[name].exempt:
        # Move the treated so that the limit lies close to the null, on either side of it.
        nudge = 0.01 * (reading.std_error or 1.0) * (1 if alpha > 0.05 else -1)
        moved = data.y - (reading.limits[0] + nudge) * data.is_treated
        numerator = data.numerator + (moved - data.y) * data.denominator
        reading = read(name, replace(data, y=moved, numerator=numerator), alpha)
    estimates = [(reading.p_value, reading.excludes)]
    if reading.lift is not None:
        estimates.append(
            (reading.lift.p_value, reading.lift.ci_low > 0 or reading.lift.ci_high < 0)
        )
    for p_value, excludes in estimates:
        if p_value is None or excludes is None:
            continue
        assume(abs(p_value - alpha) > 1e-9)
        assert (p_value < alpha) == excludes


@pytest.mark.parametrize("name", names_with("scores"))
@EXAMPLES
@given(data=units())
def test_scores_sum_to_about_zero_and_their_squares_to_the_variance(name, data):
    reading = read(name, data)
    assert np.square(reading.scores).sum() == pytest.approx(reading.std_error**2, rel=ROUNDING)
    leverage = ESTIMATORS[name].leverage
    allowed = (math.sqrt(leverage) + ROUNDING * len(reading.scores)) * reading.std_error
    assert abs(reading.scores.sum()) <= allowed


def test_the_bound_on_the_sum_of_scores_can_fail():
    """The wrong twin: scores of the difference with the sign of control left out."""
    rng = np.random.default_rng(1)
    data = units_of(rng.normal(size=400), np.arange(400) < 200)
    row = ESTIMATORS["lin_hc2"]
    reading = row.run(data, 0.05)
    lazy = np.where(data.is_treated, 1, -1) * (data.y + 5) / 200
    assert abs(reading.scores.sum()) < 0.05 * reading.std_error
    assert abs(lazy[data.is_treated].sum()) > math.sqrt(row.leverage) * np.linalg.norm(lazy)


WILD = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log_normal": lambda rng, n: np.exp(5 * rng.normal(size=n)),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "mass_point": lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.1),
    "two_values": lambda rng, n: (rng.random(n) < 0.3).astype(np.float64),
    "constant": lambda _, n: np.full(n, 0.1),
    "negative": lambda rng, n: -rng.exponential(size=n),
    "one_far_away": lambda rng, n: rng.normal(size=n) + 1e12 * (np.arange(n) == 7),
}


@st.composite
def wild_units(draw):
    """Outcomes and covariates that no one would wish for, at any scale and offset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.sampled_from([30, 131]))
    share = draw(st.sampled_from([0.5, 0.15]))
    is_treated = rng.permutation(np.arange(n) < max(4, share * n))
    kinds, scales = st.sampled_from(sorted(WILD)), st.integers(-150, 150)
    offset = draw(st.sampled_from([0.0, 1.0, 1e9, 1e15]))
    unit = 10.0 ** draw(scales)
    y = (WILD[draw(kinds)](rng, n) + offset) * unit
    if draw(st.booleans()):
        y = np.where(is_treated, y, y[0])
    x = WILD[draw(kinds)](rng, n) * 10.0 ** draw(st.integers(-150, 150))
    bottom = rng.exponential(size=n) * (rng.random(n) < draw(st.sampled_from([0.1, 0.9])))
    denominator = bottom * 10.0 ** draw(st.integers(-100, 100))
    made = units_of(y, is_treated, seed=1, x=x, denominator=denominator)
    return replace(made, unit=unit)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=40)
@given(data=wild_units(), alpha=st.sampled_from([0.05, 0.2]))
def test_wild_inputs_give_finite_numbers_or_a_reason(name, data, alpha):
    try:
        reading = ESTIMATORS[name].run(data, alpha)
    except EstimationError:
        return  # with a code of REASONS: the error knows no other
    for record in reading.records:
        bad = [field for field, number in numbers_in(record) if not math.isfinite(number)]
        assert bad == []
    assert reading.p_value is None or 0 <= reading.p_value <= 1
    assert reading.std_error is None or reading.std_error >= 0


LOOKS = (0.25, 0.5, 0.75, 1.0)


def decisions_of(data, k=1.0, constant=0.0, *, design="lan_demets_obrien_fleming"):
    """Fractions, boundaries and first crossing of four looks at the growing data."""
    frozen = compare_means(*data.arms("y")).difference.std_error ** -2
    moved = data.shifted(constant).scaled(k)
    looks = []
    for share in LOOKS:
        seen = moved.taken(np.arange(int(share * len(moved.y))))
        looks.append(compare_means(*seen.arms("y"), distribution="normal").difference)
    information = np.minimum.accumulate(
        [min(1.0, look.std_error**-2 * k**2 / frozen) for look in looks][::-1]
    )[::-1]
    assume((np.diff(information) > 1e-3).all())
    plan = design_boundaries(design, information.tolist())
    z = np.array([look.estimate / look.std_error for look in looks])
    return information, plan.critical_values, z, first_crossings(z[None, :], plan.critical_values)


@EXAMPLES
@given(
    data=units(),
    k=st.sampled_from([0.01, 3.0, 1e6, 1e-60]),
    constant=st.integers(-1000, 1000),
    design=st.sampled_from(["lan_demets_obrien_fleming", "pocock"]),
)
def test_boundaries_and_decisions_know_no_unit_no_offset_and_no_sign(data, k, constant, design):
    fractions, bounds, z, crossing = decisions_of(data, design=design)
    for other in (
        decisions_of(data, k=k, design=design),
        decisions_of(data, constant=float(constant), design=design),
        decisions_of(data.swapped(), design=design),
    ):
        assert other[0] == pytest.approx(fractions, rel=1e-7)
        assert other[1] == pytest.approx(bounds, rel=1e-6)
        assert np.abs(other[2]) == pytest.approx(np.abs(z), rel=1e-6, abs=1e-7)
        assert other[3] == crossing


@EXAMPLES
@given(data=units(), k=st.sampled_from([1e-3, 7.0, 1e5]))
def test_the_boundary_of_open_ended_metrics_knows_no_unit(data, k):
    early = np.where(np.arange(len(data.y)) < 60, read("lin_hc2", data).scores, 0.0)
    psi = np.column_stack([early, read("lin_hc2", data).scores])
    spent = {"cumulative_alpha_now": 0.05, "alpha_spent": 0.003051}
    base, scaled = (
        longitudinal_boundary(factor**2 * psi.T @ psi, [2.962588], points=1024, **spent)
        for factor in (1.0, k)
    )
    # Same points of the integration: only the rounding of the correlation differs.
    assert scaled.critical_value == pytest.approx(base.critical_value, rel=1e-7)


@given(alpha=st.sampled_from([0.01, 0.05, 0.1]), t=st.floats(0.35, 1.0))
@example(alpha=0.05, t=1.0)
@settings(max_examples=10)
def test_two_sided_boundaries_cross_at_either_sign(alpha, t):
    first = design_boundaries("lan_demets_obrien_fleming", [0.3, t], alpha=alpha)
    look = next_boundary(
        [(0.3, first.critical_values[0])],
        t=t,
        cumulative_alpha_now=first.cumulative_alpha[1],
        alpha_spent=first.cumulative_alpha[0],
    )
    assert look.critical_value == pytest.approx(first.critical_values[1], rel=1e-9)
    scores = np.array(
        [[0.0, sign * (look.critical_value + gap)] for sign in (-1, 1) for gap in (1e-9, -1e-9)]
    )
    crossings = first_crossings(scores, first.critical_values)
    assert crossings.tolist() == [1, -1, 1, -1]


def test_every_exemption_names_a_property_and_its_reason():
    for row in ESTIMATORS.values():
        assert set(row.exempt) <= set(PROPERTIES)
        assert all(row.exempt.values())
