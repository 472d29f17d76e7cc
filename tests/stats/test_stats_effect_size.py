import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.proportion import proportion_effectsize

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.effect_size import (
    cohen_d,
    cohen_h,
    glass_delta,
    hedges_g,
)


@pytest.mark.parametrize(("n_control", "n_treatment"), [(5, 9), (40, 13), (800, 900)])
def test_hedges_g_agrees_with_statsmodels(arm, n_control, n_treatment):
    rng = np.random.default_rng(n_control)
    control, treatment = rng.normal(1, 1, n_control), rng.normal(2, 3, n_treatment)
    g, _ = effectsize_smd(
        treatment.mean(), treatment.std(ddof=1), n_treatment,
        control.mean(), control.std(ddof=1), n_control,
    )  # fmt: skip
    assert hedges_g(arm(control), arm(treatment)) == pytest.approx(g, rel=1e-10)


def test_hedges_correction_is_that_of_the_gamma_functions(arm):
    """Exact: g = d·Γ(m/2)/[√(m/2) Γ((m−1)/2)], m = n_C + n_T − 2; the short form is within 1e-3."""
    control, treatment = arm([1.0, 2.0, 4.0, 5.0]), arm([3.0, 3.5, 6.0])
    m = 5
    exact = math.gamma(m / 2) / (math.sqrt(m / 2) * math.gamma((m - 1) / 2))
    ratio = hedges_g(control, treatment) / cohen_d(control, treatment)
    assert ratio == pytest.approx(exact, rel=3e-3)


def test_cohen_d_and_glass_delta_by_hand(arm):
    control, treatment = arm([0.0, 2.0]), arm([1.0, 3.0, 8.0])
    # Variances 2 and 13, pooled (2 + 2·13)/3.
    assert cohen_d(control, treatment) == pytest.approx(3 / math.sqrt(28 / 3))
    assert glass_delta(control, treatment) == pytest.approx(3 / math.sqrt(2))


@given(st.floats(0, 1), st.floats(0, 1))
def test_cohen_h_agrees_with_statsmodels(p_control, p_treatment):
    assert cohen_h(p_control, p_treatment) == pytest.approx(
        proportion_effectsize(p_treatment, p_control), abs=1e-12
    )


@given(st.integers(0, 1000), st.floats(1e-5, 1e5), st.integers(-100, 100))
def test_swap_scale_and_shift(arm, seed, scale, shift):
    control, treatment = np.random.default_rng(seed).normal(0, 1, (2, 12))
    for size in (cohen_d, hedges_g):
        base = size(arm(control), arm(treatment))
        assert size(arm(treatment), arm(control)) == pytest.approx(-base, rel=1e-12)
    for size in (cohen_d, hedges_g, glass_delta):
        base = size(arm(control), arm(treatment))
        moved = size(arm(scale * (control + shift)), arm(scale * (treatment + shift)))
        assert moved == pytest.approx(base, rel=1e-9, abs=1e-11)
    assert cohen_h(0.2, 0.7) == -cohen_h(0.7, 0.2)


@pytest.mark.parametrize("size", [cohen_d, hedges_g, glass_delta])
@pytest.mark.parametrize(
    ("control", "treatment", "code"),
    [
        ([], [1.0, 2.0], "EMPTY_ARM"),
        ([1.0, 2.0], [1.0], "N_TOO_SMALL"),
        ([0.1] * 7, [0.3] * 7, "ZERO_VARIANCE"),
    ],
)
def test_not_estimable(arm, size, control, treatment, code):
    with pytest.raises(EstimationError) as error:
        size(arm(control), arm(treatment))
    assert error.value.code == code


def test_glass_delta_needs_spread_in_control_only(arm):
    assert glass_delta(arm([1.0, 2.0]), arm([3.0, 3.0])) > 0
    with pytest.raises(EstimationError):
        glass_delta(arm([3.0, 3.0]), arm([1.0, 2.0]))
    assert cohen_d(arm([3.0, 3.0]), arm([1.0, 2.0])) < 0


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_proportion_outside_its_range(p):
    with pytest.raises(ValueError, match="treatment"):
        cohen_h(0.5, p)
